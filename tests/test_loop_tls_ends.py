"""TLS on the asyncio loop: how connections end, and loops with them.

Each test runs a loop of its own, and ends on its engine's books.
"""

import asyncio
import contextlib
import gc
import socket
import ssl
import warnings
import weakref

import pytest
import tls_loops
from payload import assert_same_bytes, pattern
from tls_loops import (
    BIG,
    BufferedPeer,
    ByHand,
    Echo,
    Peer,
    Served,
    Silent,
    all_gone,
    client_and_hand,
    connect,
    contexts,
    echoes_to_the_end,
    pair,
    serving,
)
from waiting import WAIT_S, clock

import iocpx

run = tls_loops.run
told = tls_loops.told
version = tls_loops.version


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
            assert peer.kept_bytes == written

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


@pytest.mark.parametrize(
    "data",
    [b"this is no record of TLS", bytes(100), b"\x17\x03\x03\xff\xff" + bytes(70_000)],
    ids=["text", "zeros", "an oversized record"],
)
def test_garbage_after_the_handshake_ends_a_connection(run, data):
    async def main():
        async with client_and_hand() as (client, hand):
            hand.transport.write(data)
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


def test_who_has_heard_of_the_end_is_told_before_the_loop_stops(told):
    """As with asyncio, where connection_lost is called by call_soon()."""

    async def main():
        server_context, client_context = contexts()
        async with serving(lambda: ByHand(server_context, server_side=True)) as served:
            connecting = asyncio.ensure_future(connect(Peer, served.address, client_context))
            hand = await served.protocol()
            await hand.until_told("made")
            await hand.handshake()
            client = await connecting
            hand.transport.close()
            await client.until(lambda: client.told != ["made"])
            return client

    loop = iocpx.new_event_loop()
    client = loop.run_until_complete(main())
    assert client.told[-1] == "lost"
    loop.close()


class Interrupted(ssl.SSLObject):
    """A signal handler raises when OpenSSL's call has done its work."""

    due = None


def interrupted(name):
    method = getattr(ssl.SSLObject, name)

    def call(self, *args):
        result = method(self, *args)
        if Interrupted.due == name:
            Interrupted.due = None
            raise KeyboardInterrupt
        return result

    return call


for name in ("do_handshake", "read", "write"):
    setattr(Interrupted, name, interrupted(name))


def run_twice(told, main, error):
    """The first run ends with `error`, the second one with main()."""
    loop = iocpx.new_event_loop()
    loop.set_exception_handler(told.complaint)
    task = loop.create_task(main())
    with pytest.raises(error):
        loop.run_until_complete(task)
    loop.run_until_complete(asyncio.wait_for(task, WAIT_S))
    loop.close()


@pytest.mark.parametrize("factory", [Peer, BufferedPeer])
@pytest.mark.parametrize("name", ["do_handshake", "read", "write"])
def test_an_interrupt_within_openssl_ends_the_run_and_the_connection(told, name, factory):
    async def main():
        server_context, client_context = contexts()
        server_context.sslobject_class = Interrupted
        async with serving(factory, ssl=server_context) as served:
            Interrupted.due = name if name == "do_handshake" else None
            client = await connect(Peer, served.address, client_context)
            peer = await served.protocol()
            if name != "do_handshake":
                await peer.until_told("made")
                Interrupted.due = name
                if name == "read":
                    client.transport.write(b"lost")
                else:
                    peer.transport.write(BIG)
                assert type(await peer.lost()) is KeyboardInterrupt
            await client.lost()
            served.server.close()
            await served.server.wait_closed()
            assert peer.told == ([] if name == "do_handshake" else ["made", *peer.told[1:]])

    run_twice(told, main, KeyboardInterrupt)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
def test_a_protocol_that_exits_instead_of_lending_memory_is_not_asked_again(told, tls):
    class Exits(BufferedPeer):
        def get_buffer(self, sizehint):
            raise SystemExit(7)

    async def main():
        server_context, client_context = contexts() if tls else (None, None)
        async with serving(Exits, ssl=server_context) as served:
            client = await connect(Peer, served.address, client_context)
            client.transport.write(b"for nobody")
            peer = await served.protocol()
            assert type(await peer.lost()) is SystemExit
            await client.lost()

    run_twice(told, main, SystemExit)


def test_who_closes_at_the_data_before_it_is_not_told_of_the_end(run, version):
    class Closes(Peer):
        def data_received(self, data):
            super().data_received(data)
            self.transport.close()

    async def main():
        server_context, client_context = contexts(version)
        async with serving(Closes, ssl=server_context) as served:
            hand = await connect(
                lambda: ByHand(client_context, server_hostname="localhost"), served.address
            )
            await hand.handshake()
            hand.tls.write(b"hello")
            with contextlib.suppress(ssl.SSLWantReadError):
                hand.tls.unwrap()
            hand.flush()
            peer = await served.protocol()
            assert await peer.lost() is None
            assert peer.received == b"hello" and peer.told == ["made", "lost"]
            hand.transport.close()
            await hand.lost()

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
            # That one's end is told before another's.
            client = await connect(Peer, served.address, contexts()[1])
            await echoes_to_the_end(client)
            await served.protocols[-1].lost()
            await all_gone(served.server)
        return weak

    weak = run(main)
    # asyncio's own frames are in the exception's traceback, and one of them has the exception.
    gc.collect()
    assert weak() is None
