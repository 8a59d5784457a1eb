"""TLS on the asyncio loop: data, what is known of a connection, flow control.

Each test runs a loop of its own, and ends on its engine's books.
"""

import asyncio
import socket
import ssl

import pytest
import tls_loops
from payload import assert_same_bytes, pattern
from tls_loops import (
    BIG,
    KIB,
    SIZES,
    BufferedEcho,
    BufferedPeer,
    ByHand,
    Echo,
    Peer,
    client_and_hand,
    connect,
    contexts,
    pair,
    serving,
)

run = tls_loops.run
told = tls_loops.told
version = tls_loops.version


# -- data ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "server, client",
    [(Echo, Peer), (BufferedEcho, BufferedPeer), (Echo, BufferedPeer), (BufferedEcho, Peer)],
)
def test_data_is_echoed(run, version, server, client):
    async def main():
        async with pair(server, client, version) as (echo, peer):
            for size in SIZES:
                data = pattern(size, size)
                peer.transport.write(data)
                await peer.until(lambda size=size: peer.kept_bytes >= size)
                assert_same_bytes(peer.received, data)
                peer.forget()
            assert echo.kept_bytes == sum(SIZES)
            assert peer.transport.get_extra_info("ssl_object").version() == f"TLSv1.{version - 769}"

    run(main)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_writes_arrive_in_order_as_whatever_they_are_given(run, kind):
    async def main():
        parts = [pattern(size, size) for size in (1, 100, 20_000, 5, 100_000, 0, 17)]
        async with pair() as (peer, client):
            for part in parts:
                client.transport.write(kind(part))
            client.transport.writelines([kind(part) for part in parts])
            await peer.until(lambda: peer.kept_bytes >= 2 * sum(map(len, parts)))
            assert_same_bytes(peer.received, b"".join(parts) * 2)

    run(main)


def test_memory_that_is_written_may_change_at_once(run):
    async def main():
        async with pair() as (peer, client):
            memory = bytearray(BIG)
            client.transport.write(memory)
            memory[:] = bytes(len(memory))
            await peer.until(lambda: peer.kept_bytes == len(BIG))
            assert_same_bytes(peer.received, BIG)

    run(main)


class Pieces(Peer):
    """Keeps how many bytes each call had."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def data_received(self, data):
        self.sizes.append(len(data))
        super().data_received(data)


def test_records_that_came_together_are_told_in_one_call(run, version):
    async def main():
        server_context, client_context = contexts(version)
        async with serving(Pieces, ssl=server_context) as served:
            hand = await connect(
                lambda: ByHand(client_context, server_hostname="localhost"), served.address
            )
            await hand.handshake()
            peer = await served.protocol()
            await peer.until_told("made")
            for size in (1, 700, 30):
                hand.tls.write(pattern(size))
            hand.flush()
            await peer.until(lambda: peer.kept_bytes == 731)
            assert peer.sizes == [731]
            hand.transport.abort()
            await hand.lost()
            await peer.lost()

    run(main)


def test_no_call_has_more_than_a_bounded_part_of_a_burst(run, version):
    async def main():
        async with pair(Pieces, version=version) as (peer, client):
            client.transport.write(4 * BIG)
            await peer.until(lambda: peer.kept_bytes == 4 * len(BIG))
            # The record in which the bound of 256 KiB is reached is told whole.
            assert max(peer.sizes) <= (256 + 16) * KIB
            assert_same_bytes(peer.received, 4 * BIG)

    run(main)


def test_streams_of_many_clients_at_once(run, version):
    async def main():
        tasks = []

        async def echo(reader, writer):
            tasks.append(asyncio.current_task())
            while line := await reader.readline():
                writer.write(line)
                await writer.drain()
            writer.close()
            await writer.wait_closed()

        async def client(number):
            reader, writer = await asyncio.open_connection(
                *address, ssl=client_context, server_hostname="localhost"
            )
            for size in (1, 1000, 50_000):
                line = pattern(size, number).replace(b"\n", b"") + b"\n"
                writer.write(line)
                await writer.drain()
                assert_same_bytes(await reader.readline(), line)
            writer.close()
            await writer.wait_closed()

        server_context, client_context = contexts(version)
        server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=server_context)
        address = server.sockets[0].getsockname()
        await asyncio.gather(*[client(number) for number in range(20)])
        await asyncio.gather(*tasks)
        server.close()
        await server.wait_closed()

    run(main)


# -- what is known of a connection -----------------------------------------------------------------

NAMES = ["sslcontext", "ssl_object", "peercert", "cipher", "compression"]


def test_connection_made_comes_after_the_handshake(run):
    async def main():
        server_context, client_context = contexts()
        async with serving(Peer, ssl=server_context) as served:
            hand = await connect(
                lambda: ByHand(client_context, server_hostname="localhost"), served.address
            )
            peer = await served.protocol()
            with pytest.raises(ssl.SSLWantReadError):
                hand.tls.do_handshake()
            hand.flush()
            await hand.until(lambda: hand.incoming.pending)
            # The server's answer is here, ours is not there.
            assert peer.told == []
            await hand.handshake()
            await peer.until_told("made")
            assert peer.transport.get_extra_info("ssl_object").server_side
            hand.transport.abort()
            await peer.lost()
            await hand.lost()

    run(main)


def test_what_get_extra_info_knows(run):
    async def main():
        async with pair() as (peer, client):
            for end in (peer, client):
                known = {name: end.transport.get_extra_info(name) for name in NAMES}
                assert isinstance(known["sslcontext"], ssl.SSLContext)
                assert isinstance(known["ssl_object"], ssl.SSLObject)
                assert known["ssl_object"].context is known["sslcontext"]
                assert known["cipher"] == known["ssl_object"].cipher()
                assert known["compression"] is None
                assert end.transport.get_extra_info("socket").family == socket.AF_INET
                assert end.transport.get_extra_info("nothing", 5) == 5
            assert client.transport.get_extra_info("peercert")["subject"]
            assert not peer.transport.get_extra_info("peercert")
            names = [client.transport.get_extra_info(name) for name in ("sockname", "peername")]
            assert names == [peer.transport.get_extra_info(n) for n in ("peername", "sockname")]

    run(main)


@pytest.mark.parametrize("asked", [False, True])
def test_what_get_extra_info_knows_before_the_handshake(run, asked):
    """asked: it was asked for something before, and remembers what it knew."""

    async def main():
        loop = asyncio.get_running_loop()
        server_context, client_context = contexts()
        async with serving(lambda: ByHand(server_context, server_side=True)) as served:
            client = await connect(Peer, served.address)
            if asked:
                client.transport._extra["found"] = "here"
                assert client.transport.get_extra_info("sslcontext") is None
            starting = asyncio.ensure_future(
                loop.start_tls(
                    client.transport, client, client_context, server_hostname="localhost"
                )
            )
            hand = await served.protocol()
            await hand.until(lambda: hand.incoming.pending)
            known = [client.transport.get_extra_info(name, "none") for name in NAMES]
            assert known == [client_context, "none", "none", "none", "none"]
            await hand.handshake()
            transport = await starting
            assert all(transport.get_extra_info(name, "none") != "none" for name in NAMES)
            assert transport.get_extra_info("found") == ("here" if asked else None)
            transport.abort()
            await client.lost()
            hand.transport.abort()
            await hand.lost()

    run(main)


class Greets(Peer):
    def connection_made(self, transport):
        super().connection_made(transport)
        transport.write(b"welcome")


def test_who_waits_for_a_connection_may_set_its_protocol_before_data_comes(run, version):
    async def main():
        server_context, client_context = contexts(version)
        async with serving(Greets, ssl=server_context) as served:
            first = await connect(Peer, served.address, client_context)
            second = Peer()
            first.transport.set_protocol(second)
            await second.until(lambda: second.received == b"welcome")
            assert first.told == ["made"] and not first.received
            assert first.transport.get_protocol() is second
            first.transport.close()
            assert await second.lost() is None
            assert await (await served.protocol()).lost() is None

    run(main)


# -- flow control ----------------------------------------------------------------------------------


def test_writing_is_paused_inside_write_and_resumed_when_the_peer_reads(run):
    async def main():
        async with pair() as (peer, client):
            low, high = client.transport.get_write_buffer_limits()
            assert (low, high) == (128 * KIB, 512 * KIB)
            peer.transport.pause_reading()
            written = 0
            while "pause" not in client.told:
                assert client.transport.get_write_buffer_size() <= high
                client.transport.write(BIG)
                written += len(BIG)
            assert client.told[-1] == "pause"
            assert client.transport.get_write_buffer_size() > high
            peer.transport.resume_reading()
            await client.until_told("resume")
            assert client.transport.get_write_buffer_size() <= low
            await peer.until(lambda: peer.kept_bytes == written)
            assert_same_bytes(peer.received, BIG * (written // len(BIG)))

    run(main)


def test_write_buffer_limits_that_are_set(run):
    async def main():
        async with pair() as (peer, client):
            client.transport.set_write_buffer_limits()
            assert client.transport.get_write_buffer_limits() == (128 * KIB, 512 * KIB)
            client.transport.set_write_buffer_limits(high=1000, low=10)
            assert client.transport.get_write_buffer_limits() == (10, 1000)
            peer.transport.pause_reading()
            while "pause" not in client.told:
                assert client.transport.get_write_buffer_size() <= 1000
                client.transport.write(BIG)
            peer.transport.resume_reading()
            await client.until_told("resume")
            assert client.transport.get_write_buffer_size() <= 10
            with pytest.raises(ValueError, match="must be >="):
                client.transport.set_write_buffer_limits(high=1, low=2)

    run(main)


def test_a_peer_that_sends_much_before_it_reads_does_not_stall(run):
    async def main():
        async with pair(Echo) as (echo, client):
            client.transport.pause_reading()
            for _ in range(8):
                client.transport.write(BIG)
            await echo.until(lambda: echo.kept_bytes == 8 * len(BIG))
            client.transport.resume_reading()
            await client.until(lambda: client.kept_bytes == 8 * len(BIG))
            assert_same_bytes(client.received, 8 * BIG)

    run(main)


def pausing(base, every, *args):
    """A class whose instances pause reading with each `every`th piece, and go on a little later."""

    class Pausing(base):
        def __init__(self):
            super().__init__(*args)
            self.pieces = 0
            self.surprises = 0

        def data_received(self, data):
            self.surprises += not self.transport.is_reading()
            super().data_received(data)
            self.pieces += 1
            if self.pieces % every == 0:
                self.transport.pause_reading()
                asyncio.get_running_loop().call_soon(self.transport.resume_reading)

    return Pausing


@pytest.mark.parametrize(
    "factory, size",
    [
        (pausing(Peer, 1), len(BIG)),
        (pausing(BufferedPeer, 1, 7), 20_000),
        (pausing(BufferedPeer, 3, 1000), 100_000),
        (pausing(BufferedPeer, 2, 100_000), len(BIG)),
    ],
)
def test_reading_is_paused_in_the_midst_of_what_has_come(run, version, factory, size):
    data = BIG[:size]

    async def main():
        async with pair(factory, Peer, version) as (peer, client):
            client.transport.write(data)
            client.transport.close()
            assert await peer.lost() is None
            assert_same_bytes(peer.received, data)
            # Nothing was delivered meanwhile, and the end came behind all data.
            assert peer.surprises == 0
            assert peer.told == ["made", "eof", "lost"]
            assert peer.pieces > 1

    run(main)


def test_what_came_before_a_pause_waits_with_its_end(run):
    async def main():
        async with client_and_hand() as (client, hand):
            client.transport.pause_reading()
            await hand.send(b"some data")
            with pytest.raises(ssl.SSLWantReadError):
                hand.tls.unwrap()
            hand.flush()
            # A round trip the other way, by the kernel's order behind these.
            client.transport.write(b"still there")
            assert await hand.do(hand.tls.read, 100) == b"still there"
            assert client.told == ["made"] and not client.received
            client.transport.resume_reading()
            assert await client.lost() is None
            assert client.received == b"some data"
            assert client.told == ["made", "eof", "lost"]

    run(main)


def test_another_protocol_takes_over_in_the_midst_of_what_has_come(run):
    async def main():
        class Hands(BufferedPeer):
            def data_received(self, data):
                super().data_received(data)
                if self.kept_bytes >= 100:
                    self.transport.set_protocol(second)
                    second.connection_made(self.transport)

        second = Peer()
        async with pair(lambda: Hands(10)) as (first, client):
            client.transport.write(BIG)
            await second.until(lambda: first.kept_bytes + second.kept_bytes == len(BIG))
            assert_same_bytes(first.received + second.received, BIG)
            assert first.kept_bytes == 100
            first.told.append("lost")  # the second is told of it

    run(main)
