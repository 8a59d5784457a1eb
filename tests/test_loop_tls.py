"""TLS on the asyncio loop: connections with it, from their handshake to their end.

Each test runs a loop of its own, and ends on its engine's books.
"""

import asyncio
import contextlib
import gc
import logging
import socket
import ssl
import sys
import warnings
import weakref
from pathlib import Path

import pytest
from iocpx._engines import stats_of
from payload import assert_same_bytes, pattern
from waiting import WAIT_S, clock

import iocpx

CERTIFICATE = Path(__file__).parent / "data" / "localhost.pem"
VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
SIZES = [0, 1, 64, 16384, 16385, 100_000, 1_000_000]
KIB = 1024
BIG = pattern(1_000_000)


@pytest.fixture(params=VERSIONS)
def version(request):
    return VERSIONS[request.param]


def contexts(version=None):
    """(server's, client's)"""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(CERTIFICATE)
    client = ssl.create_default_context(cafile=CERTIFICATE)
    if version is not None:
        client.minimum_version = client.maximum_version = version
    return server, client


class Told(logging.Handler):
    """What the exception handler, finalisers and asyncio's logger tell of, as texts."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.complaints = []
        self.texts = []

    def emit(self, record):
        self.texts.append(record.getMessage())

    def unraisable(self, raised):
        self.texts.append(f"{raised.object!r}: {raised.exc_value!r}")

    def complaint(self, loop, context):
        self.complaints.append(context)


@pytest.fixture
def told(monkeypatch):
    """All that complains; a test takes what it expects, and nothing may be left."""
    told = Told()
    monkeypatch.setattr(sys, "unraisablehook", told.unraisable)
    logger = logging.getLogger("asyncio")
    logger.addHandler(told)
    yield told
    gc.collect()
    logger.removeHandler(told)
    assert told.complaints == []
    assert told.texts == []


@pytest.fixture
def run(told):
    """`run(main)` runs the coroutine function on a new loop, to its end, and closes the loop."""

    def runner(main, *args):
        loop = iocpx.new_event_loop()
        loop.set_exception_handler(told.complaint)
        try:
            result = loop.run_until_complete(asyncio.wait_for(main(*args), WAIT_S))
            loop.run_until_complete(loop.shutdown_default_executor())
        finally:
            engine = loop._engine
            loop.close()
        if engine is not None:
            stats = stats_of(engine)
            assert stats["ops_posted"] == stats["ops_completed"]
            assert stats["buffers_out"] == 0
        return result

    return runner


class Peer(asyncio.Protocol):
    """Keeps what it is told; `until` waits for it."""

    def __init__(self):
        self.told = []
        self.received = bytearray()
        self.exc = None
        self.changed = asyncio.Event()

    def tell(self, what):
        self.told.append(what)
        self.changed.set()

    def connection_made(self, transport):
        self.transport = transport
        self.tell("made")

    def data_received(self, data):
        self.received += data
        self.changed.set()

    def eof_received(self):
        self.tell("eof")

    def pause_writing(self):
        self.tell("pause")

    def resume_writing(self):
        self.tell("resume")

    def connection_lost(self, exc):
        self.exc = exc
        self.tell("lost")

    async def until(self, condition):
        while not condition():
            self.changed.clear()
            await self.changed.wait()

    async def until_told(self, what):
        await self.until(lambda: what in self.told)

    async def lost(self):
        """What connection_lost was called with."""
        await self.until_told("lost")
        return self.exc


class BufferedPeer(Peer, asyncio.BufferedProtocol):
    """The same into a buffer of `size` bytes."""

    def __init__(self, size=5000):
        super().__init__()
        self.memory = bytearray(size)

    def get_buffer(self, sizehint):
        return self.memory

    def buffer_updated(self, nbytes):
        self.data_received(bytes(self.memory[:nbytes]))


class Echo(Peer):
    def data_received(self, data):
        super().data_received(data)
        self.transport.write(data)


class BufferedEcho(BufferedPeer):
    def data_received(self, data):
        super().data_received(data)
        self.transport.write(data)


class ByHand(Peer):
    """A peer that does its TLS by hand on a plain connection, for what no transport would do."""

    def __init__(self, context, **options):
        super().__init__()
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, **options)

    def data_received(self, data):
        super().data_received(data)
        self.incoming.write(data)

    def eof_received(self):
        self.incoming.write_eof()
        super().eof_received()
        return True

    def flush(self):
        if self.outgoing.pending:
            self.transport.write(self.outgoing.read())

    async def do(self, function, *args):
        """What the function of self.tls comes to, with as much input as it takes."""
        while True:
            self.changed.clear()
            try:
                return function(*args)
            except ssl.SSLWantReadError:
                pass
            finally:
                self.flush()
            await self.changed.wait()

    async def handshake(self):
        await self.do(self.tls.do_handshake)

    async def send(self, data):
        await self.do(self.tls.write, data)

    async def receive(self, nbytes):
        data = b""
        while len(data) < nbytes:
            data += await self.do(self.tls.read, nbytes - len(data))
        return data

    async def receive_the_end(self):
        """The peer's close_notify comes next."""
        # Without one it would be an SSLEOFError; an error it is too where we have sent ours.
        with contextlib.suppress(ssl.SSLZeroReturnError):
            assert await self.do(self.tls.read, 1) == b""


class Served:
    """A server on the running loop; `protocols` has one for each client that has come."""

    def __init__(self, factory):
        self.factory = factory
        self.protocols = []
        self.come = asyncio.Event()

    def __call__(self):
        self.protocols.append(self.factory())
        self.come.set()
        return self.protocols[-1]

    async def protocol(self):
        """That of the first client."""
        await self.come.wait()
        return self.protocols[0]


@contextlib.asynccontextmanager
async def serving(factory, **options):
    served = Served(factory)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(served, "127.0.0.1", 0, **options)
    served.server = server
    served.address = server.sockets[0].getsockname()
    try:
        yield served
    finally:
        server.close()


async def connect(factory, address, context=None, **options):
    """The protocol of a new client."""
    if context is not None:
        options = {"ssl": context, "server_hostname": "localhost", **options}
    loop = asyncio.get_running_loop()
    _, protocol = await loop.create_connection(factory, *address, **options)
    return protocol


@contextlib.asynccontextmanager
async def pair(server_factory=Peer, client_factory=Peer, version=None):
    """(server's protocol, client's) of a TLS connection, which is over at the end."""
    server_context, client_context = contexts(version)
    async with serving(server_factory, ssl=server_context) as served:
        client = await connect(client_factory, served.address, client_context)
        peer = await served.protocol()
        await peer.until_told("made")
        yield peer, client
        client.transport.abort()
        peer.transport.abort()
        await client.lost()
        await peer.lost()


@contextlib.asynccontextmanager
async def client_and_hand(factory=Peer, version=None, **options):
    """(client's protocol, the one who serves it by hand) of a TLS connection."""
    server_context, client_context = contexts(version)
    async with serving(lambda: ByHand(server_context, server_side=True)) as served:
        connecting = asyncio.ensure_future(
            connect(factory, served.address, client_context, **options)
        )
        hand = await served.protocol()
        await hand.until_told("made")
        await hand.handshake()
        yield await connecting, hand
        hand.transport.abort()
        await hand.lost()


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
                await peer.until(lambda size=size: len(peer.received) >= size)
                assert_same_bytes(peer.received, data)
                peer.received.clear()
            assert len(echo.received) == sum(SIZES)
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
            await peer.until(lambda: len(peer.received) >= 2 * sum(map(len, parts)))
            assert_same_bytes(peer.received, b"".join(parts) * 2)

    run(main)


def test_memory_that_is_written_may_change_at_once(run):
    async def main():
        async with pair() as (peer, client):
            memory = bytearray(BIG)
            client.transport.write(memory)
            memory[:] = bytes(len(memory))
            await peer.until(lambda: len(peer.received) == len(BIG))
            assert_same_bytes(peer.received, BIG)

    run(main)


def test_streams_of_many_clients_at_once(run, version):
    async def main():
        async def echo(reader, writer):
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
            await peer.until(lambda: len(peer.received) == written)
            assert_same_bytes(peer.received, BIG * (written // len(BIG)))

    run(main)


def test_write_buffer_limits_that_are_set(run):
    async def main():
        async with pair() as (peer, client):
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
            await echo.until(lambda: len(echo.received) == 8 * len(BIG))
            client.transport.resume_reading()
            await client.until(lambda: len(client.received) == 8 * len(BIG))
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
                if len(self.received) >= 100:
                    self.transport.set_protocol(second)
                    second.connection_made(self.transport)

        second = Peer()
        async with pair(lambda: Hands(10)) as (first, client):
            client.transport.write(BIG)
            await second.until(lambda: len(first.received) + len(second.received) == len(BIG))
            assert_same_bytes(first.received + second.received, BIG)
            assert len(first.received) == 100
            first.told.append("lost")  # the second is told of it

    run(main)


# -- ends ------------------------------------------------------------------------------------------


def test_close_sends_all_and_then_close_notify(run, version):
    async def main():
        async with client_and_hand(version=version) as (client, hand):
            client.transport.write(BIG)
            client.transport.close()
            assert client.transport.is_closing()
            client.transport.write(b"nobody gets this")
            assert_same_bytes(await hand.receive(len(BIG)), BIG)
            await hand.receive_the_end()
            hand.transport.close()
            assert await client.lost() is None
            assert client.told[0] == "made" and "eof" not in client.told

    run(main)


def test_close_sends_what_a_paused_connection_holds(run):
    async def main():
        async with pair() as (peer, client):
            peer.transport.pause_reading()
            written = 0
            while "pause" not in client.told:
                client.transport.write(BIG)
                written += len(BIG)
            client.transport.close()
            peer.transport.resume_reading()
            assert await client.lost() is None
            assert await peer.lost() is None
            assert len(peer.received) == written

    run(main)


def test_the_peers_close_notify_ends_a_connection(run, version):
    async def main():
        async with client_and_hand(version=version) as (client, hand):
            await hand.send(b"bye")
            # Its own, then the client's; the connection below stays open.
            await hand.do(hand.tls.unwrap)
            assert await client.lost() is None
            assert client.told == ["made", "eof", "lost"]
            assert client.received == b"bye"

    run(main)


def test_an_end_without_close_notify_ends_a_connection(run, version):
    async def main():
        async with client_and_hand(version=version) as (client, hand):
            await hand.send(b"bye")
            hand.transport.write_eof()
            assert await client.lost() is None
            assert client.told == ["made", "eof", "lost"]
            assert client.received == b"bye"

    run(main)


def test_that_eof_received_returns_true_has_no_effect(run, told):
    class KeepsOpen(Peer):
        def eof_received(self):
            super().eof_received()
            return True

    async def main():
        async with pair(KeepsOpen) as (peer, client):
            client.transport.close()
            assert await peer.lost() is None
            assert peer.told == ["made", "eof", "lost"]

    run(main)
    assert told.texts == ["returning true from eof_received() has no effect when using ssl"]
    told.texts.clear()


def test_garbage_after_the_handshake_ends_a_connection(run):
    async def main():
        async with client_and_hand() as (client, hand):
            hand.transport.write(b"this is no record of TLS")
            assert isinstance(await client.lost(), ssl.SSLError)
            assert client.told == ["made", "lost"]

    run(main)


def test_abort_calls_connection_lost_by_call_soon(run):
    async def main():
        async with pair() as (peer, client):
            # Behind it nothing of the handshake is unread, which would make a reset of an end.
            peer.transport.write(b"x")
            await client.until(lambda: client.received)
            client.transport.write(b"last")
            client.transport.abort()
            assert client.told == ["made"]
            client.transport.write(b"nobody gets this")
            assert await client.lost() is None
            assert client.told == ["made", "lost"]
            await peer.lost()
            assert peer.received == b"last"

    run(main)


def test_a_direction_alone_has_no_end(run):
    async def main():
        async with pair() as (peer, client):
            assert not client.transport.can_write_eof()
            with pytest.raises(NotImplementedError):
                client.transport.write_eof()
            client.transport.write(b"goes on")
            await peer.until(lambda: peer.received == b"goes on")

    run(main)


@pytest.mark.parametrize(
    "base, name",
    [
        (Peer, "data_received"),
        (Peer, "eof_received"),
        (BufferedPeer, "get_buffer"),
        (BufferedPeer, "buffer_updated"),
        (BufferedPeer, "eof_received"),
    ],
)
def test_a_callback_that_raises_costs_its_connection(run, told, base, name):
    def fail(self, *args):
        raise ZeroDivisionError

    async def main():
        raises = type("Raises", (base,), {name: fail})
        async with pair(raises) as (peer, client):
            client.transport.write(b"x")
            client.transport.close()
            assert isinstance(await peer.lost(), ZeroDivisionError)
            await client.lost()

    run(main)
    (context,) = told.complaints
    assert type(context["exception"]) is ZeroDivisionError
    assert name in context["message"] and context["transport"] is not None
    told.complaints.clear()


def test_an_empty_buffer_is_refused(run, told):
    async def main():
        async with pair(lambda: BufferedPeer(0)) as (peer, client):
            client.transport.write(b"x")
            assert "empty buffer" in str(await peer.lost())
            await client.lost()

    run(main)
    (context,) = told.complaints
    assert "get_buffer" in context["message"]
    told.complaints.clear()


def test_what_is_written_in_eof_received_is_sent(run, version):
    class Answers(Peer):
        def eof_received(self):
            super().eof_received()
            self.transport.write(b"last words")

    async def main():
        async with client_and_hand(Answers, version) as (client, hand):
            with pytest.raises(ssl.SSLWantReadError):
                hand.tls.unwrap()
            hand.flush()
            assert await hand.receive(10) == b"last words"
            await hand.receive_the_end()
            hand.transport.close()
            assert await client.lost() is None

    run(main)


@pytest.mark.parametrize("end", ["close", "abort"])
def test_a_connection_that_has_paused_reading_ends(run, end):
    """With something that is decrypted and not delivered."""

    class Pauses(BufferedPeer):
        def data_received(self, data):
            super().data_received(data)
            self.transport.pause_reading()

    async def main():
        async with pair(lambda: Pauses(10)) as (peer, client):
            client.transport.write(pattern(1000))
            await peer.until(lambda: peer.received)
            getattr(peer.transport, end)()
            client.transport.close()
            assert await peer.lost() is None
            assert peer.received == pattern(1000)[:10]
            assert peer.told == ["made", "lost"]

    run(main)


def test_a_closed_connection_gives_up_a_peer_that_takes_nothing(run):
    async def main():
        server_context, client_context = contexts()
        async with serving(lambda: ByHand(server_context, server_side=True)) as served:
            connecting = asyncio.ensure_future(
                connect(Peer, served.address, client_context, ssl_shutdown_timeout=0.2)
            )
            hand = await served.protocol()
            await hand.until_told("made")
            await hand.handshake()
            client = await connecting
            hand.transport.pause_reading()
            while "pause" not in client.told:
                client.transport.write(BIG)
            began = clock()
            client.transport.close()
            assert isinstance(await client.lost(), asyncio.TimeoutError)
            assert clock() - began >= 0.2
            hand.transport.abort()
            await hand.lost()

    run(main)


# -- handshakes that fail --------------------------------------------------------------------------


class Silent(Peer):
    """Says nothing."""


class Talks(Peer):
    """Says something else than TLS."""

    def data_received(self, data):
        self.transport.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")


class Ends(Peer):
    def data_received(self, data):
        self.transport.close()


@pytest.mark.parametrize("factory, kind", [(Talks, ssl.SSLError), (Ends, ConnectionResetError)])
def test_a_server_without_tls(run, factory, kind):
    async def main():
        async with serving(factory) as served:
            with pytest.raises(kind) as raised:
                await connect(Peer, served.address, contexts()[1])
            assert type(raised.value) is kind
            peer = await served.protocol()
            await peer.lost()

    run(main)


def strangers():
    """The client does not know the certificate."""
    return contexts()[0], ssl.create_default_context(), "localhost"


def other_name():
    return *contexts(), "example.org"


def versions_apart():
    server, client = contexts()
    server.minimum_version = ssl.TLSVersion.TLSv1_3
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    return server, client, "localhost"


def no_client_certificate():
    server, client = contexts(ssl.TLSVersion.TLSv1_2)
    server.load_verify_locations(CERTIFICATE)
    server.verify_mode = ssl.CERT_REQUIRED
    return server, client, "localhost"


@pytest.mark.parametrize(
    "parties, kind",
    [
        (strangers, ssl.SSLCertVerificationError),
        (other_name, ssl.SSLCertVerificationError),
        (versions_apart, ssl.SSLError),
        (no_client_certificate, ssl.SSLError),
    ],
)
def test_a_handshake_that_fails_raises_and_costs_the_server_that_client_only(run, parties, kind):
    async def main():
        server_context, client_context, name = parties()
        async with serving(Echo, ssl=server_context) as served:
            other = None
            if parties is not versions_apart and parties is not no_client_certificate:
                other = await connect(Peer, served.address, contexts()[1])
            with pytest.raises(ssl.SSLError) as raised:
                await connect(Peer, served.address, client_context, server_hostname=name)
            assert type(raised.value) is kind
            assert served.protocols[-1].told == []
            if other is not None:
                other.transport.write(b"still there")
                await other.until(lambda: other.received == b"still there")
                other.transport.close()
                await other.lost()
                await served.protocols[0].lost()

    run(main)


def test_a_client_that_tls13_refuses_when_it_is_connected(run):
    """The server looks at the client's certificate when the client's handshake is done."""

    async def main():
        server_context, client_context = contexts(ssl.TLSVersion.TLSv1_3)
        server_context.load_verify_locations(CERTIFICATE)
        server_context.verify_mode = ssl.CERT_REQUIRED
        async with serving(Peer, ssl=server_context) as served:
            client = await connect(Peer, served.address, client_context)
            assert isinstance(await client.lost(), ssl.SSLError)
            assert (await served.protocol()).told == []

    run(main)


def test_a_client_without_tls_costs_itself_only(run):
    async def main():
        server_context, client_context = contexts()
        async with serving(Echo, ssl=server_context) as served:
            plain = await connect(Peer, served.address)
            plain.transport.write(b"GET / HTTP/1.1\r\n\r\n")
            await plain.lost()
            gone = await connect(Peer, served.address)
            gone.transport.close()
            await gone.lost()
            client = await connect(Peer, served.address, client_context)
            client.transport.write(b"hello")
            await client.until(lambda: client.received == b"hello")
            assert [len(peer.told) for peer in served.protocols] == [0, 0, 1]
            client.transport.close()
            await served.protocols[-1].lost()

    run(main)


def test_failed_handshakes_are_told_of_in_debug_mode(run, caplog):
    async def main():
        loop = asyncio.get_running_loop()
        loop.set_debug(True)
        loop.slow_callback_duration = WAIT_S  # no warning of a slow machine
        async with serving(Echo, ssl=contexts()[0]) as served:
            plain = await connect(Peer, served.address)
            plain.transport.write(b"GET / HTTP/1.1\r\n\r\n")
            await plain.lost()

    with caplog.at_level(logging.DEBUG, "asyncio"):
        run(main)
    messages = [record.getMessage() for record in caplog.records]
    assert len([message for message in messages if "SSL handshake failed" in message]) == 1


def test_a_server_that_says_nothing_is_given_up(run):
    async def main():
        async with serving(Silent) as served:
            began = clock()
            with pytest.raises(
                ConnectionAbortedError, match=r"handshake is taking longer than 0\.2"
            ):
                await connect(Peer, served.address, contexts()[1], ssl_handshake_timeout=0.2)
            assert clock() - began >= 0.2
            await (await served.protocol()).lost()

    run(main)


def test_a_client_that_says_nothing_is_given_up(run):
    async def main():
        began = clock()
        async with serving(Peer, ssl=contexts()[0], ssl_handshake_timeout=0.2) as served:
            client = await connect(Peer, served.address)
            await client.lost()
            assert clock() - began >= 0.2
            assert (await served.protocol()).told == []

    run(main)


def test_the_timeout_is_of_the_handshake_only(run):
    async def main():
        loop = asyncio.get_running_loop()
        server_context, client_context = contexts()
        async with serving(Echo, ssl=server_context, ssl_handshake_timeout=5) as served:
            client = await connect(Peer, served.address, client_context, ssl_handshake_timeout=5)
            peer = await served.protocol()
            await peer.until_told("made")
            # No timer of the two is left, and nothing waits for one.
            assert not [h for h in loop._scheduled if "handshake" in repr(h) and not h.cancelled()]
            client.transport.close()
            assert await client.lost() is None and await peer.lost() is None

    run(main)


def test_a_connection_that_is_cancelled_in_its_handshake(run):
    async def main():
        async with serving(Silent) as served:
            connecting = asyncio.ensure_future(connect(Peer, served.address, contexts()[1]))
            peer = await served.protocol()
            await peer.until(lambda: peer.received)  # the client's first message
            connecting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await connecting
            await peer.lost()

    run(main)


TIMEOUTS = ["ssl_handshake_timeout"]
if sys.version_info >= (3, 11):
    TIMEOUTS.append("ssl_shutdown_timeout")


# Of asyncio's sockets, which nobody closes then.
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
@pytest.mark.parametrize("name", TIMEOUTS)
@pytest.mark.parametrize("seconds", [0, -1])
def test_timeouts_that_are_refused(run, name, seconds):
    async def main():
        loop = asyncio.get_running_loop()
        server_context, client_context = contexts()
        options = {name: seconds}
        message = f"{name} should be a positive number, got {seconds}"
        with pytest.raises(ValueError, match=message):
            await loop.create_server(Peer, "127.0.0.1", 0, ssl=server_context, **options)
        async with serving(Peer) as served:
            with pytest.raises(ValueError, match=message):
                await connect(Peer, served.address, client_context, **options)
            client = await connect(Peer, served.address)
            with pytest.raises(ValueError, match=message):
                await loop.start_tls(client.transport, client, client_context, **options)
            client.transport.close()
            await client.lost()
            for peer in served.protocols:
                await peer.lost()

    run(main)


# -- start_tls -------------------------------------------------------------------------------------


async def both(server_side, client_side):
    return await asyncio.gather(server_side, client_side)


def test_start_tls_twice(run):
    """The second within the first."""

    async def main():
        loop = asyncio.get_running_loop()
        server_context, client_context = contexts()
        async with serving(Echo) as served:
            client = await connect(Peer, served.address)
            echo = await served.protocol()
            await echo.until_told("made")
            inner, outer = client.transport, echo.transport
            for _ in range(2):
                outer, inner = await both(
                    loop.start_tls(outer, echo, server_context, server_side=True),
                    loop.start_tls(inner, client, client_context, server_hostname="localhost"),
                )
                echo.transport, client.transport = outer, inner
                client.received.clear()
                inner.write(BIG)
                await client.until(lambda: len(client.received) == len(BIG))
                assert_same_bytes(client.received, BIG)
            inner.close()
            assert await client.lost() is None
            assert await echo.lost() is None
            # connection_made was called once, for the connection without TLS.
            assert client.told.count("made") == echo.told.count("made") == 1

    run(main)


def test_what_is_written_before_the_handshake_is_done_waits(run):
    async def main():
        loop = asyncio.get_running_loop()
        server_context, client_context = contexts()
        async with serving(lambda: ByHand(server_context, server_side=True)) as served:
            client = await connect(Peer, served.address)
            client.transport.write(b"plain")
            hand = await served.protocol()
            await hand.until(lambda: hand.received == b"plain")
            hand.incoming.read()
            starting = asyncio.ensure_future(
                loop.start_tls(
                    client.transport, client, client_context, server_hostname="localhost"
                )
            )
            await hand.until(lambda: hand.incoming.pending)
            client.transport.write(b"secret")
            await asyncio.sleep(0)
            await hand.handshake()
            await starting
            assert await hand.receive(6) == b"secret"
            assert b"secret" not in hand.received
            client.transport.write(b" too")
            assert await hand.receive(4) == b" too"
            hand.transport.abort()
            await client.lost()

    run(main)


def test_start_tls_with_the_clients_first_message_behind_its_last_words(run):
    async def main():
        async def serve(reader, writer):
            assert await reader.readline() == b"STARTTLS\n"
            await writer.start_tls(server_context)
            writer.write((await reader.readline()).upper())
            writer.close()
            await writer.wait_closed()
            done.set()

        server_context, client_context = contexts()
        done = asyncio.Event()
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        hand = await connect(
            lambda: ByHand(client_context, server_hostname="localhost"),
            server.sockets[0].getsockname(),
        )
        hand.transport.write(b"STARTTLS\n")
        await hand.handshake()
        await hand.send(b"hello\n")
        assert await hand.receive(6) == b"HELLO\n"
        await hand.receive_the_end()
        hand.transport.close()
        await done.wait()
        server.close()
        await server.wait_closed()

    if hasattr(asyncio.StreamWriter, "start_tls"):  # from Python 3.11 on
        run(main)


def test_start_tls_that_fails_raises_and_closes(run):
    async def main():
        loop = asyncio.get_running_loop()
        async with serving(Talks) as served:
            client = await connect(Peer, served.address)
            with pytest.raises(ssl.SSLError):
                await loop.start_tls(
                    client.transport, client, contexts()[1], server_hostname="localhost"
                )
            assert client.transport.is_closing()
            assert isinstance(await client.lost(), ssl.SSLError)
            await (await served.protocol()).lost()

    run(main)


@pytest.mark.parametrize("ended", ["closed", "write_eof"])
def test_start_tls_of_a_connection_that_ends_is_refused(run, ended):
    async def main():
        loop = asyncio.get_running_loop()
        async with serving(Peer) as served:
            client = await connect(Peer, served.address)
            if ended == "closed":
                client.transport.close()
            else:
                client.transport.write_eof()
            with pytest.raises(ConnectionAbortedError):
                await loop.start_tls(
                    client.transport, client, contexts()[1], server_hostname="localhost"
                )
            client.transport.close()
            await client.lost()
            await (await served.protocol()).lost()

    run(main)


# -- servers ---------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.version_info < (3, 13), reason="asyncio has these from Python 3.13 on")
@pytest.mark.parametrize("end", ["close_clients", "abort_clients"])
def test_a_servers_clients_are_ended_in_their_handshake_too(run, end):
    async def main():
        server_context, client_context = contexts()
        async with serving(Peer, ssl=server_context) as served:
            client = await connect(Peer, served.address, client_context)
            await (await served.protocol()).until_told("made")
            plain = await connect(Peer, served.address)
            while len(served.protocols) < 2:
                served.come.clear()
                await served.come.wait()
            served.server.close()
            getattr(served.server, end)()
            await client.lost()
            await plain.lost()
            await served.server.wait_closed()
            assert served.protocols[1].told == []

    run(main)


# -- files -----------------------------------------------------------------------------------------


def test_a_file_is_sent(run, tmp_path):
    async def main():
        loop = asyncio.get_running_loop()
        path = tmp_path / "file"
        path.write_bytes(BIG)
        async with pair() as (peer, client):
            with path.open("rb") as file:
                assert await loop.sendfile(client.transport, file, 1000, 300_000) == 300_000
                assert file.tell() == 301_000
                with pytest.raises(RuntimeError, match="fallback"):
                    await loop.sendfile(client.transport, file, fallback=False)
            await peer.until(lambda: len(peer.received) == 300_000)
            assert_same_bytes(peer.received, BIG[1000:301_000])

    run(main)


# -- loops that end --------------------------------------------------------------------------------


class Blocking:
    """A server in blocking calls, for a loop that does not run."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = self.listener.getsockname()

    def accept(self):
        """Takes one client and does the handshake; for a thread."""
        sock, _ = self.listener.accept()
        sock.settimeout(WAIT_S)
        self.client = contexts()[0].wrap_socket(sock, server_side=True)
        self.client.sendall(b"x")

    def receive(self, nbytes):
        data = b""
        while len(data) < nbytes:
            part = self.client.recv(nbytes - len(data))
            assert part, f"the end came behind {data!r}"
            data += part
        return data

    def close(self):
        self.client.close()
        self.listener.close()


@pytest.fixture
def blocking():
    blocking = Blocking()
    yield blocking
    blocking.close()


@pytest.fixture
def left(told):
    """(loop, list): what is in the list outlives the loop, whose closing is warned of alone."""
    loop = iocpx.new_event_loop()
    loop.set_exception_handler(told.complaint)
    left = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # an unclosed transport
        yield loop, left
        loop.close()
        left.clear()
        gc.collect()


def connect_blocking(loop, blocking):
    async def main():
        client, _ = await asyncio.gather(
            connect(Peer, blocking.address, contexts()[1]), asyncio.to_thread(blocking.accept)
        )
        await loop.shutdown_default_executor()
        # Behind it nothing of the handshake is unread, which would make a reset of an end.
        await client.until(lambda: client.received)
        return client

    return loop.run_until_complete(main())


@pytest.mark.parametrize("then", ["nothing", "close"])
def test_what_the_last_callback_wrote_leaves_where_the_loop_stops(left, blocking, then):
    loop, kept = left
    client = connect_blocking(loop, blocking)
    kept.append(client)

    def last():
        client.transport.write(b"the last")
        if then == "close":
            client.transport.close()
        loop.stop()

    loop.call_soon(last)
    loop.run_forever()
    assert blocking.receive(8) == b"the last"
    if then == "close":
        assert blocking.client.recv(1) == b""  # with close_notify: else an SSLEOFError
    else:
        # Between two runs, and nothing comes twice or out of order.
        client.transport.write(b" word")
        loop.call_soon(client.transport.write, b" of all")
        loop.call_soon(loop.stop)
        loop.run_forever()
        assert blocking.receive(12) == b" word of all"


def test_what_was_written_last_leaves_where_the_loop_is_closed(left, blocking):
    loop, kept = left
    client = connect_blocking(loop, blocking)
    kept.append(client)
    client.transport.write(b"last word")
    loop.close()
    assert blocking.receive(9) == b"last word"


def test_a_loop_may_be_closed_with_connections_and_handshakes(left, told):
    loop, kept = left

    async def main():
        server_context, client_context = contexts()
        server = await loop.create_server(Peer, "127.0.0.1", 0, ssl=server_context)
        silent = Served(Silent)
        other = await loop.create_server(silent, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        kept.append(server)
        kept.append(other)
        kept.append(await connect(Peer, address, client_context))
        # A handshake under way on each side: the client's, of whom a task waits, and the server's.
        task = asyncio.ensure_future(connect(Peer, other.sockets[0].getsockname(), client_context))
        kept.append(task)
        await (await silent.protocol()).until(lambda: silent.protocols[0].received)
        hand = await connect(lambda: ByHand(client_context, server_hostname="localhost"), address)
        with pytest.raises(ssl.SSLWantReadError):
            hand.tls.do_handshake()
        hand.flush()
        await hand.until(lambda: hand.incoming.pending)
        kept.append(hand)

    loop.run_until_complete(main())
    loop.close()
    kept.clear()
    gc.collect()
    # asyncio's Task tells of that it was pending.
    for told_of in (told.complaints, told.texts):
        told_of[:] = [one for one in told_of if "Task was destroyed" not in str(one)]


# -- memory ----------------------------------------------------------------------------------------


def test_nothing_keeps_a_context_alive_after_its_connection(run):
    """Not even a protocol that keeps its transport."""

    async def main():
        server_context, client_context = contexts()
        weak = weakref.ref(client_context)
        async with serving(Echo, ssl=server_context) as served:
            client = await connect(Peer, served.address, client_context)
            client.transport.write(b"hello")
            await client.until(lambda: client.received == b"hello")
            client.transport.close()
            await client.lost()
            await (await served.protocol()).lost()
        return weak

    gc.disable()
    try:
        assert run(main)() is None
    finally:
        gc.enable()


def test_nothing_keeps_a_context_alive_after_a_handshake_that_failed(run):
    async def main():
        server_context, client_context = contexts()[0], ssl.create_default_context()
        weak = weakref.ref(client_context)
        async with serving(Echo, ssl=server_context) as served:
            with contextlib.suppress(ssl.SSLError):
                await connect(Peer, served.address, client_context)
        return weak

    weak = run(main)
    # asyncio's own frames are in the exception's traceback, and one of them has the exception.
    gc.collect()
    assert weak() is None
