"""What the end of a connection does to its timers, and timers that end connections."""

import asyncio
import gc
import queue
import threading
import weakref

import pytest
from clients import connect_all
from payload import MORE_THAN_THE_KERNEL_TAKES
from process import collect
from protocols import Recording
from test_timers import HOUR_S, Timed
from waiting import WAIT_S, run_together, wait_for_event, wait_until, wait_until_gone

pytestmark = pytest.mark.engine("the timers are the engine's")


class Sees(Timed):
    """Looks at its timers in connection_lost."""

    def on_made(self):
        self.handles = [self.set(HOUR_S), self.set(2 * HOUR_S)]

    def on_data(self, data):
        raise ValueError(data)

    def on_lost(self, exc):
        self.handles += [self.set(0), self.soon(), self.transport.call_soon(self.ring)]
        self.cancelled = [handle.cancelled() for handle in self.handles]


ENDS = {
    "client closes": lambda served, client, protocol: client.close(),
    "client resets": lambda served, client, protocol: client.reset(),
    "close": lambda served, client, protocol: protocol.transport.close(),
    "abort": lambda served, client, protocol: protocol.transport.abort(),
    "callback raises": lambda served, client, protocol: client.send(b"raise"),
    "close_clients": lambda served, client, protocol: served.server.close_clients(),
    "stop": lambda served, client, protocol: served.server.close(),
}


@pytest.mark.parametrize("end", ENDS)
def test_the_end_of_the_connection_cancels_its_timers(serve, end):
    served = serve(Sees)
    client, protocol = served.open()
    ENDS[end](served, client, protocol)
    if end == "callback raises":
        assert isinstance(served.take_error()["exception"], ValueError)
    protocol.wait_for("connection_lost")
    assert protocol.cancelled == [True] * 5
    assert protocol.ran.empty()


def test_after_the_end_a_timer_is_cancelled_from_the_start(serve):
    served = serve(Timed)
    _, protocol = served.open()
    protocol.transport.abort()
    protocol.wait_for("connection_lost")
    for handle in (protocol.set(0), protocol.set(0.001), protocol.soon()):
        assert handle.cancelled() is True
        handle.cancel()
        assert handle.cancelled() is True
    with pytest.raises(TypeError, match="callback"):
        protocol.transport.call_soon(None)
    with pytest.raises(ValueError, match="delay_s"):
        protocol.set(-1)
    assert protocol.ran.empty()


def test_a_closing_connection_has_its_timers_until_it_is_lost(serve):
    """As a limit of one's own, below close_timeout_s."""

    class Impatient(Timed):
        def on_made(self):
            self.transport.write(bytes(MORE_THAN_THE_KERNEL_TAKES))
            self.transport.close()
            self.set(0.05)
            self.left = self.set(HOUR_S)

        def on_ring(self, what):
            # Before that the client may look at the result of its connect(), and find a reset.
            wait_for_event(connected, "the client's connect()")
            self.transport.abort()

    connected = threading.Event()
    served = serve(Impatient, close_timeout_s=2 * WAIT_S)
    _, protocol = served.open()
    connected.set()
    protocol.wait_for("connection_lost")
    assert protocol.lost_with is None
    assert protocol.left.cancelled()
    assert protocol.finished["timer"] == 1
    assert served.stats()["aborts_by_reason"]["close_timeout"] == 0


def test_threads_set_timers_while_the_connection_ends(serve):
    """Each is called before the end, or cancelled by it."""
    served = serve(Timed, workers=2)
    for i in range(30):
        client, protocol = served.open()
        handles = queue.Queue()

        def ask(protocol=protocol, handles=handles):
            for _ in range(50):
                handles.put(protocol.soon())
                handles.put(protocol.set(0.001))

        run_together(ask, ask, client.reset if i % 2 else protocol.transport.abort)
        protocol.wait_for("connection_lost")
        cancelled = [handles.get().cancelled() for _ in range(200)]
        assert protocol.finished["timer"] == cancelled.count(False)


def test_a_timer_does_not_keep_an_ended_protocol(serve):
    class Keeps(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport
            self.handle = transport.call_later(HOUR_S, self.data_received, b"")
            refs.append(weakref.ref(self))
            made.set()

        def connection_lost(self, exc):
            self.after = self.transport.call_later(HOUR_S, self.data_received, b"")

    refs, made = [], threading.Event()
    served = serve(Keeps)
    client = served.connect()
    wait_for_event(made, "the connection")
    gc.collect()
    assert refs[0]() is not None
    client.close()
    wait_until_gone(served)

    def is_freed():
        collect()
        return refs[0]() is None

    wait_until(is_freed, "the end of the protocol")


def test_400_silent_clients_are_dropped_by_handshake_timers_without_a_thread_each(serve):
    class Handshake(Recording):
        def on_made(self):
            self.transport.call_later(0.3, self.drop)
            with counted:
                threads.append(set(threading.enumerate()))

        def drop(self):
            # Nobody while connect() may still look at the result, and find a reset.
            if connected.is_set():
                self.transport.abort()
            else:
                self.transport.call_later(0.05, self.drop)

    threads, counted, connected = [], threading.Lock(), threading.Event()
    served = serve(Handshake)
    before = set(threading.enumerate())
    socks = connect_all(served.server.address, 400)
    connected.set()
    try:
        wait_until(lambda: len(threads) == 400, "the last connection")
        wait_until_gone(served)
    finally:
        for sock in socks:
            sock.close()
    assert set().union(*threads) <= before
    assert served.stats()["aborts_by_reason"]["application"] == 400
