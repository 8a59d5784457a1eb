"""TLS connections of loops under test: peers, what they are told, and servers for them.

The fixtures `told`, `run` and `version` are for test files to take by their names.
"""

import asyncio
import contextlib
import gc
import logging
import ssl
import sys
from pathlib import Path

import pytest
from iocpx._engines import stats_of
from payload import Keeps, pattern
from waiting import WAIT_S

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
    client = ssl.create_default_context(cadata=CERTIFICATE.read_text())
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

    def runner(main, *args, limit_s=WAIT_S):
        loop = iocpx.new_event_loop()
        loop.set_exception_handler(told.complaint)
        try:
            result = loop.run_until_complete(asyncio.wait_for(main(*args), limit_s))
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


class Peer(Keeps, asyncio.Protocol):
    """Keeps what it is told; `until` waits for it."""

    def __init__(self):
        super().__init__()
        self.told = []
        self.exc = None
        self.changed = asyncio.Event()

    def tell(self, what):
        self.told.append(what)
        self.changed.set()

    def connection_made(self, transport):
        self.transport = transport
        self.tell("made")

    def data_received(self, data):
        self.keep(data)
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


class Silent(Peer):
    """Says nothing."""


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


async def all_gone(server):
    """Close the server, and wait until nobody whom it has accepted is left: before Python 3.12
    wait_closed() waits for nobody."""
    server.close()
    await server.wait_closed()
    while getattr(server, "_active_count", 0):
        await asyncio.sleep(0)


async def connect(factory, address, context=None, **options):
    """The protocol of a new client."""
    if context is not None:
        options = {"ssl": context, "server_hostname": "localhost", **options}
    loop = asyncio.get_running_loop()
    _, protocol = await loop.create_connection(factory, *address, **options)
    return protocol


async def echoes_to_the_end(client):
    """A new client of a server that echoes is served, and closes."""
    client.transport.write(b"hello")
    await client.until(lambda: client.received == b"hello")
    client.transport.close()
    await client.lost()


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
        client = await connecting
        yield client, hand
        hand.transport.abort()
        await hand.lost()
        await client.lost()
