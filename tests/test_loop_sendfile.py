"""loop.sendfile() on connections of the asyncio loop, on sockets and files."""

import asyncio
import gzip
import io
import os
import socket
import struct

import loop_peers
import pytest
from loop_peers import Peer, pair

run = loop_peers.run

BIG = bytes(range(256)) * 8192  # 2 MiB: more than a socket takes at once


def test_a_file_is_sent(run, tmp_path):
    async def main():
        loop = asyncio.get_running_loop()
        path = tmp_path / "file"
        path.write_bytes(BIG)
        server, client, other = await pair(Peer)
        with path.open("rb") as file:
            client.transport.write(b"before")
            sending = loop.create_task(
                loop.sendfile(client.transport, file, 1000, 100_000, fallback=False)
            )
            await asyncio.sleep(0)
            client.transport.write(b"after")
            assert await sending == 100_000
            assert file.tell() == 101_000
            # What Windows cannot send is read.
            with pytest.raises(asyncio.SendfileNotAvailableError):
                await loop.sendfile(client.transport, io.BytesIO(b"read"), fallback=False)
            assert await loop.sendfile(client.transport, io.BytesIO(b"read")) == 4
            with gzip.GzipFile(fileobj=io.BytesIO(gzip.compress(b"unpacked"))) as packed:
                assert await loop.sendfile(client.transport, packed) == 8
        client.transport.close()
        with path.open("rb") as file, pytest.raises(RuntimeError, match="closing"):
            await loop.sendfile(client.transport, file)
        await other.lost
        assert other.received == b"before" + BIG[1000:101_000] + b"afterreadunpacked"
        server.close()

    run(main)


@pytest.mark.parametrize("count", [0, -1])
def test_a_count_of_nothing_is_not_all(run, tmp_path, count):
    async def main():
        loop = asyncio.get_running_loop()
        path = tmp_path / "file"
        path.write_bytes(BIG)
        server, client, other = await pair(Peer)
        with path.open("rb") as file:
            with pytest.raises(ValueError, match=r"^count must be a positive integer \(got "):
                await loop.sendfile(client.transport, file, 5, count)
            with pytest.raises(ValueError, match=r"^count must be"):
                await loop.sendfile(client.transport, io.BytesIO(BIG), 5, count)
        client.transport.write(b"end")
        client.transport.close()
        await other.lost
        assert other.received == b"end"
        server.close()

    run(main)


def test_a_range_past_the_end_is_what_there_is_of_it(run, tmp_path):
    async def main():
        loop = asyncio.get_running_loop()
        path = tmp_path / "file"
        path.write_bytes(BIG)
        server, client, other = await pair(Peer)
        with path.open("rb") as file:
            for offset, count, sent in (
                (len(BIG) - 5, 100, 5),
                (len(BIG), None, 0),
                (len(BIG) + 5, 100, 0),
            ):
                assert await loop.sendfile(client.transport, file, offset, count) == sent
        client.transport.close()
        await other.lost
        assert other.received == BIG[-5:]
        server.close()

    run(main)


def test_a_file_that_is_truncated_meanwhile_ends_there(run, tmp_path):
    async def main():
        loop = asyncio.get_running_loop()
        path = tmp_path / "file"
        size = 64 << 20
        with path.open("wb") as file:
            file.truncate(size)
        server, client, other = await pair(Peer)
        with path.open("rb") as file:
            sending = loop.create_task(loop.sendfile(client.transport, file, fallback=False))
            await under_way(other)
            os.truncate(path, 1000)
            other.transport.resume_reading()
            try:
                assert 1000 <= await sending < size
            except OSError:
                pass  # in the midst of a TransmitFile, which Windows may let fail
            else:
                client.transport.write(b"the end")
        client.transport.close()
        await other.lost
        assert other.kept_bytes < size
        assert sending.exception() or other.received.endswith(b"the end")
        server.close()

    run(main)


async def under_way(receiver):
    """Until some of what is sent to it has come; no more of it is read."""
    await receiver.until(lambda peer: peer.received)
    receiver.transport.pause_reading()


def test_a_file_that_nobody_waits_for_any_more_is_not_sent_on(run, tmp_path):
    """What waits behind it is, as asyncio has it."""

    async def main():
        loop = asyncio.get_running_loop()
        path = tmp_path / "file"
        size = 64 << 20
        with path.open("wb") as file:
            file.truncate(size)
        server, client, other = await pair(Peer)
        with path.open("rb") as file:
            # The second never has its turn.
            sending = [
                loop.create_task(loop.sendfile(client.transport, file, fallback=False))
                for _ in range(2)
            ]
            await under_way(other)
            for task in sending:
                task.cancel()
            for task in sending:
                with pytest.raises(asyncio.CancelledError):
                    await task
        client.transport.write(b"the end")
        client.transport.close()
        other.transport.resume_reading()
        assert await other.lost is None
        assert other.received.endswith(b"the end")
        assert other.kept_bytes < size
        server.close()

    run(main)


def test_a_file_ends_with_its_connection(run, tmp_path):
    async def main():
        loop = asyncio.get_running_loop()
        path = tmp_path / "file"
        with path.open("wb") as file:
            file.truncate(64 << 20)
        for ends in ("abort", "reset"):
            server, client, other = await pair(Peer)
            with path.open("rb") as file:
                sending = loop.create_task(loop.sendfile(client.transport, file, fallback=False))
                await under_way(other)
                if ends == "abort":
                    client.transport.abort()
                else:
                    sock = other.transport.get_extra_info("socket")
                    linger = struct.pack("HH", 1, 0)
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    other.transport.abort()
                with pytest.raises(ConnectionError):
                    await sending
            await client.lost
            other.transport.abort()
            await other.lost
            server.close()

    run(main)
