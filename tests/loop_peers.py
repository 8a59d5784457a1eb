"""Two ends of a connection on one asyncio loop, and a loop whose books are looked at."""

import asyncio

import pytest
from iocpx._engines import stats_of
from payload import Keeps

import iocpx


@pytest.fixture
def run():
    """`run(main)` runs the coroutine function on a new loop, to its end, and closes the loop."""

    def runner(main, **options):
        loop = iocpx.new_event_loop()
        told = []
        loop.set_exception_handler(lambda loop, context: told.append(context))
        try:
            result = loop.run_until_complete(asyncio.wait_for(main(), 60))
        finally:
            engine = loop._engine
            loop.close()
        if engine is not None:
            stats = stats_of(engine)
            assert stats["ops_posted"] == stats["ops_completed"]
            assert stats["buffers_out"] == 0
            assert not any(thread.is_alive() for thread in engine.threads)
        if not options.get("told", False):
            assert told == []
            return result
        return result, told

    return runner


class Peer(Keeps, asyncio.Protocol):
    """Keeps what it is told; what a test waits for comes by futures."""

    def __init__(self):
        super().__init__()
        loop = asyncio.get_running_loop()
        self.told = []
        self.made = loop.create_future()
        self.lost = loop.create_future()
        self.changed = asyncio.Event()

    def connection_made(self, transport):
        self.transport = transport
        self.told.append("made")
        self.made.set_result(transport)

    def data_received(self, data):
        self.told.append("data")
        self.keep(data)
        self.changed.set()

    def eof_received(self):
        self.told.append("eof")
        self.changed.set()
        return False

    def pause_writing(self):
        self.told.append("pause")
        self.changed.set()

    def resume_writing(self):
        self.told.append("resume")
        self.changed.set()

    def connection_lost(self, exc):
        self.told.append("lost")
        self.lost.set_result(exc)

    async def until(self, condition):
        while not condition(self):
            self.changed.clear()
            await self.changed.wait()


class Echo(Peer):
    def data_received(self, data):
        super().data_received(data)
        self.transport.write(data)


class KeepsOpen(Peer):
    def eof_received(self):
        super().eof_received()
        return True


async def listening(factory):
    """(a server, a queue of the protocols that it makes)."""
    made = asyncio.Queue()

    def make():
        protocol = factory()
        made.put_nowait(protocol)
        return protocol

    return await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0), made


async def pair(server_factory, client_factory=Peer):
    """(server, client's protocol, server's protocol) of a new connection."""
    loop = asyncio.get_running_loop()
    accepted = loop.create_future()

    def make():
        protocol = server_factory()
        accepted.set_result(protocol)
        return protocol

    server = await loop.create_server(make, "127.0.0.1", 0)
    _, client = await loop.create_connection(client_factory, *server.sockets[0].getsockname())
    protocol = await accepted
    await protocol.made
    return server, client, protocol
