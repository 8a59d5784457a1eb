"""TCP on the asyncio loop: when callbacks are told, and what they raise."""

import asyncio
import gc
import socket
import warnings

import loop_peers
import pytest
from iocpx._engines import stats_of
from loop_peers import Echo, Peer, pair

import iocpx

BIG = bytes(range(256)) * 8192  # 2 MiB: more than a socket takes at once

run = loop_peers.run


class Raises(Peer):
    def data_received(self, data):
        raise ZeroDivisionError


def test_a_callback_that_raises_costs_its_connection_and_no_other(run):
    async def main():
        loop = asyncio.get_running_loop()
        server, client, other = await pair(Raises)
        client.transport.write(b"x")
        assert isinstance(await other.lost, ZeroDivisionError)
        await client.lost
        server.close()
        server, client, other = await pair(Echo)
        client.transport.write(b"x")
        await client.until(lambda peer: peer.received == b"x")
        client.transport.close()
        await other.lost
        server.close()
        assert loop.is_running()

    _, told = run(main, told=True)
    assert [type(context["exception"]) for context in told] == [ZeroDivisionError]
    assert "data_received" in told[0]["message"]
    assert told[0]["transport"] is not None


@pytest.mark.parametrize("error", [ZeroDivisionError, OSError])
def test_a_factory_that_raises_does_not_end_the_listener_cpython_156365_156366(run, error):
    """Accepting stopped; by an OSError the listener was closed."""

    async def main():
        loop = asyncio.get_running_loop()
        made = []

        def make():
            made.append(Echo())
            if len(made) == 1:
                raise error
            return made[-1]

        server = await loop.create_server(make, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        _, first = await loop.create_connection(Peer, *address)
        await first.lost
        _, second = await loop.create_connection(Peer, *address)
        second.transport.write(b"x")
        await second.until(lambda peer: peer.received == b"x")
        second.transport.close()
        await second.lost
        await made[-1].lost
        server.close()
        await server.wait_closed()

    _, told = run(main, told=True)
    assert [type(context["exception"]) for context in told] == [error]


def test_nothing_is_queued_after_abort(run):
    async def main():
        server, client, other = await pair(Peer)
        other.transport.pause_reading()
        client.transport.write(BIG * 40)
        assert client.transport.get_write_buffer_size() > 0
        client.transport.abort()
        assert client.transport.get_write_buffer_size() == 0
        await client.lost
        other.transport.abort()
        await other.lost
        server.close()
        await server.wait_closed()

    run(main)


def test_who_has_heard_of_the_end_is_told_before_the_loop_stops(run):
    """As with asyncio, where connection_lost is called by call_soon()."""

    async def main():
        server, client, other = await pair(Peer)
        server.close()
        other.transport.close()
        await client.until(lambda peer: "eof" in peer.told)
        return client, other

    assert [peer.told[-1] for peer in run(main)] == ["lost", "lost"]


class Deep(Peer):
    """Answers by a task that a task has begun."""

    def data_received(self, data):
        self.posted = self.ops_posted()
        self.task = asyncio.ensure_future(self.begin(data))

    async def begin(self, data):
        self.task = asyncio.ensure_future(self.answer(data))

    async def answer(self, data):
        self.spared = self.ops_posted() == self.posted
        self.transport.write(data)

    def ops_posted(self):
        return stats_of(self.transport._loop._engine)["ops_posted"]


def test_nothing_is_received_until_a_task_of_a_task_has_answered(run):
    """A receive before the answer would wait for the next request, and take a packet."""

    async def main():
        loop = asyncio.get_running_loop()
        # The only connection of the engine, which has no listener: all that it posts are receives.
        near, far = socket.socketpair()
        near.setblocking(False)
        with near:
            _, deep = await loop.connect_accepted_socket(Deep, far)
            for _ in range(5):
                await loop.sock_sendall(near, b"x")
                assert await loop.sock_recv(near, 10) == b"x"
                assert deep.spared
        await deep.lost

    run(main)


class Exits(Peer):
    def data_received(self, data):
        raise SystemExit(7)


def test_system_exit_of_a_callback_leaves_the_loop():
    loop = iocpx.new_event_loop()

    servers = []

    async def main():
        server, client, exits = await pair(Exits)
        servers.extend((server, exits, client))
        client.transport.write(b"x")
        await loop.create_future()

    with pytest.raises(SystemExit) as raised:
        loop.run_until_complete(main())
    assert raised.value.code == 7
    # The connection is none the worse for it: who cleans up may go on with it.
    assert servers[1].told == ["made"]
    assert not servers[1].transport.is_closing()
    for task in asyncio.all_tasks(loop):
        task.cancel()
    servers[0].close()
    servers[2].transport.abort()
    loop.run_until_complete(servers[1].lost)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        loop.close()
        gc.collect()


def test_what_pause_writing_exits_with_leaves_the_run_in_which_it_was():
    class ExitsAtPause(Peer):
        def pause_writing(self):
            raise SystemExit(7)

    async def main():
        server, client, other = await pair(Peer, ExitsAtPause)
        client.transport.set_write_buffer_limits(0)
        other.transport.pause_reading()
        return server, client, other

    async def end():
        client.transport.abort()
        other.transport.abort()
        await client.lost
        await other.lost
        server.close()
        await server.wait_closed()

    def last():
        client.transport.write(BIG * 40)
        loop.stop()

    loop = iocpx.new_event_loop()
    server, client, other = loop.run_until_complete(main())
    loop.call_soon(last)
    with pytest.raises(SystemExit):
        loop.run_forever()
    loop.run_until_complete(end())
    loop.close()


def test_an_empty_write_after_the_end_is_no_lost_write(run, caplog):
    async def main():
        server, client, echo = await pair(Echo)
        client.transport.abort()
        await client.lost
        await echo.lost
        for _ in range(10):
            client.transport.write(b"")
        assert caplog.records == []
        server.close()
        await server.wait_closed()

    run(main)
