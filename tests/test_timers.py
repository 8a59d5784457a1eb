"""call_later() and call_soon(): when a callback comes, that it comes in the connection's turn, what
becomes of it at the end, and that no thread is needed for it.

Where time is measured, only that none is missing: no slowness can break that. Times that nobody
waits for are an hour.
"""

import functools
import itertools
import math
import queue
import random
import re
import threading
import time
import weakref

import pytest
from clients import echo_rounds
from process import collect
from protocols import Echoing, in_turn
from waiting import WAIT_S, run_together, take, wait_for_event

import iocpx

HOUR_S = 3600

clock = time.perf_counter


class Timed(Echoing):
    """Sets timers whose callbacks count as callbacks of the connection: one at a time, on a worker,
    between connection_made and connection_lost."""

    def __init__(self):
        super().__init__()
        self.ran = queue.Queue()

    def ring(self, what=None):
        with self._callback("timer"):
            self.on_ring(what)
        self.ran.put(what)

    def on_ring(self, what):
        pass

    def set(self, delay_s, what=None):
        return self.transport.call_later(delay_s, self.ring, what)

    def soon(self, what=None):
        return self.transport.call_soon(self.ring, what)


def settle(protocol):
    """Return when all that was due by now has been called."""
    turn = threading.Event()
    protocol.transport.call_soon(turn.set)
    wait_for_event(turn, "a turn of the connection")


# -- when ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("delay_s", [0.0002, 0.001, 0.0125, 0.05, 1e-9])
def test_a_timer_is_never_early(serve, delay_s):
    served = serve(Timed)
    _, protocol = served.open()
    elapsed = queue.Queue()
    for _ in range(10):
        begin = clock()
        protocol.transport.call_later(delay_s, lambda begin=begin: elapsed.put(clock() - begin))
        assert take(elapsed, "the timer") >= delay_s


def test_timers_come_in_the_order_of_their_times(serve):
    class Sets(Timed):
        def on_data(self, data):
            for delay_s in delays_s:
                begin = clock()
                self.set(delay_s, delay_s)
                due[delay_s] = begin + delay_s, clock() + delay_s

    delays_s = [0.03, 0.01, 0.05, 0.02, 0.04, 0, 0.015]
    due = {}  # between which times
    client, protocol = serve(Sets).open()
    client.send(b"set")
    came = [due[take(protocol.ran, "a timer")] for _ in delays_s]
    for before, after in itertools.pairwise(came):
        assert before[0] < after[1]


def test_callbacks_of_call_soon_come_in_the_order_of_the_calls(serve):
    _, protocol = serve(Timed).open()
    for i in range(100):
        protocol.soon(i)
    assert [take(protocol.ran, "a callback") for _ in range(100)] == list(range(100))


def test_call_soon_from_a_callback_comes_in_a_later_turn(serve):
    """… and after what was asked for before it."""

    class Chain(Timed):
        def on_ring(self, what):
            if what == "first":
                self.soon("third")

        def on_data(self, data):
            self.soon("first")
            self.soon("second")

    client, protocol = serve(Chain).open()
    client.send(b"begin")
    order = [take(protocol.ran, "a callback") for _ in range(3)]
    assert order == ["first", "second", "third"]


def test_arguments_are_passed_on(serve):
    _, protocol = serve(Timed).open()
    got = queue.Queue()
    protocol.transport.call_soon(lambda *args: got.put(args))
    protocol.transport.call_soon(lambda *args: got.put(args), 1, "two", None)
    protocol.transport.call_later(
        0.001, functools.partial(lambda *args, **kw: got.put((args, kw)), k=1), 3
    )
    assert take(got, "a callback") == ()
    assert take(got, "a callback") == (1, "two", None)
    assert take(got, "a callback") == ((3,), {"k": 1})


def test_a_timer_that_is_set_later_and_due_earlier_does_not_wait_for_the_first(serve):
    _, protocol = serve(Timed).open()
    protocol.set(2 * HOUR_S, "late")
    protocol.set(HOUR_S, "less late")
    protocol.set(0.01, "early")
    assert take(protocol.ran, "a timer") == "early"
    settle(protocol)
    assert protocol.ran.empty()


def test_a_timer_comes_though_the_one_before_it_was_cancelled(serve):
    _, protocol = serve(Timed).open()
    for _ in range(20):
        first = protocol.set(0.001, "cancelled")
        protocol.set(0.002, "kept")
        first.cancel()
        while take(protocol.ran, "the timer behind it") != "kept":
            assert not first.cancelled()


def test_the_timers_of_many_connections_come_in_their_time(serve):
    served = serve(Timed, workers=2)
    protocols = [served.open()[1] for _ in range(40)]
    dice = random.Random(1)
    faults = queue.Queue()
    left = threading.Semaphore(0)

    def due(begin, delay_s):
        if clock() - begin < delay_s:
            faults.put(delay_s)
        left.release()

    kept = 0
    for _ in range(20):
        for protocol in protocols:
            delay_s = dice.randrange(100) / 1000
            handle = protocol.transport.call_later(delay_s, due, clock(), delay_s)
            if dice.randrange(3) == 0:
                handle.cancel()
            kept += not handle.cancelled()
    for _ in range(kept):
        assert left.acquire(timeout=WAIT_S), "a timer did not come"
    for protocol in protocols:
        settle(protocol)
    assert not left.acquire(blocking=False), "a cancelled timer came"
    assert faults.empty(), "a timer was early"


def test_an_idle_timer_that_each_message_sets_anew_comes_once(serve):
    class Idle(Timed):
        def on_data(self, data):
            if handles:
                handles[-1].cancel()
            handles.append(self.set(0.1, clock()))
            super().on_data(data)

        def on_ring(self, begin):
            elapsed.append(clock() - begin)

    handles, elapsed = [], []
    client, protocol = serve(Idle).open()
    echo_rounds(client)
    # One, unless the machine was so slow that some were due between two messages.
    kept = [handle for handle in handles if not handle.cancelled()]
    assert kept[-1] is handles[-1]
    for _ in kept:
        take(protocol.ran, "the timer")
    settle(protocol)
    assert protocol.ran.empty()
    assert min(elapsed) >= 0.1


# -- in the connection's turn -------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 8])
def test_timers_never_run_beside_other_callbacks(serve, workers):
    """Recorder looks for two callbacks at once."""
    served = serve(Timed, workers=workers)
    pairs = [served.open() for _ in range(4)]

    def ask(protocol, dice):
        for i in range(200):
            protocol.set(dice.randrange(4) / 1000, i)
            protocol.soon(i)

    def cancel(protocol):
        for _ in range(200):
            protocol.set(0.001, "cancelled").cancel()

    run_together(
        *[functools.partial(echo_rounds, client) for client, _ in pairs],
        *[
            functools.partial(ask, protocol, random.Random(i))
            for i, (_, protocol) in enumerate(itertools.chain(pairs, pairs))
        ],
        *[functools.partial(cancel, protocol) for _, protocol in pairs],
    )
    for _, protocol in pairs:
        protocol.wait_for("timer", 800)


def test_timers_come_while_reading_is_paused(serve):
    class Pauses(Timed):
        def on_made(self):
            self.transport.pause_reading()
            self.soon("soon")
            self.set(0.01, "later")

    client, protocol = serve(Pauses).open()
    client.send(b"unread")
    assert take(protocol.ran, "a callback") == "soon"
    assert take(protocol.ran, "a timer") == "later"
    assert protocol.received == b""
    protocol.transport.resume_reading()
    protocol.wait_for_data(6)


def test_what_a_timer_writes_is_sent(serve):
    class Greets(Timed):
        def on_made(self):
            self.set(0.01, b"hello")

        def on_ring(self, what):
            self.transport.write(what)
            self.transport.close()

    client, _ = serve(Greets).open()
    assert client.read_to_end() == b"hello"


def test_a_callback_that_raises_is_told_and_the_connection_goes_on(serve):
    served = serve(Timed)
    client, protocol = served.open()
    for call in (
        protocol.transport.call_soon,
        functools.partial(protocol.transport.call_later, 0.001),
    ):
        call(lambda: 1 // 0)
        call(protocol.ring, "next")
        context = served.take_error()
        assert "timer" in context["message"]
        assert isinstance(context["exception"], ZeroDivisionError)
        assert context["protocol"] is protocol
        assert context["transport"] is protocol.transport
        assert take(protocol.ran, "the timer behind it") == "next"
    echo_rounds(client, 1)
    assert served.stats()["aborts_by_reason"]["callback"] == 0


class Endless(Timed):
    """Asks for its next turn in each turn."""

    def on_ring(self, what):
        self.begun.set()
        self.ask()

    def on_made(self):
        self.begun = threading.Event()

    def ask(self):
        self.transport.call_soon(self.ring)


class EndlessLater(Endless):
    def ask(self):
        self.transport.call_later(0, self.ring)


class EndlessBoth(Endless):
    """… and has a timer beside them."""

    timer = None

    def ask(self):
        super().ask()
        if self.timer is not None:
            self.timer.cancel()
        self.timer = self.set(HOUR_S)


class Crosswise(Endless):
    """Two connections that ask for each other's turns."""

    other = None

    def ask(self):
        (self.other or self).transport.call_soon((self.other or self).ring)


@pytest.mark.parametrize("endless", [Endless, EndlessLater, EndlessBoth])
def test_a_chain_of_callbacks_leaves_the_worker_to_the_others(serve, endless):
    served = serve(in_turn(endless, Echoing), workers=1)
    client, protocol = served.open()
    protocol.soon()
    wait_for_event(protocol.begun, "the first of the chain")
    other, _ = served.open()
    echo_rounds(other, 20)
    client.send(b"its own data")
    protocol.wait_for_data(12)
    protocol.transport.abort()
    protocol.wait_for("connection_lost")


def test_connections_that_call_each_other_leave_the_worker_to_the_others(serve):
    served = serve(in_turn(Crosswise, Crosswise, Echoing), workers=1)
    (_, one), (_, two) = served.open(), served.open()
    one.other, two.other = two, one
    one.soon()
    wait_for_event(two.begun, "the first of the other's")
    other, _ = served.open()
    echo_rounds(other, 20)
    one.transport.abort()
    two.transport.abort()


# -- cancelled ----------------------------------------------------------------------------------


def test_a_cancelled_timer_does_not_come(serve):
    _, protocol = serve(Timed).open()
    handle = protocol.set(0.001)
    held = protocol.set(HOUR_S)
    soon = threading.Event()

    def cancel_both():
        # In the connection's turn: neither can be called meanwhile.
        later = protocol.soon("soon")
        handle.cancel()
        later.cancel()
        cancelled.append((handle.cancelled() or not protocol.ran.empty(), later.cancelled()))
        soon.set()

    cancelled = []
    assert handle.cancelled() is False
    protocol.transport.call_soon(cancel_both)
    wait_for_event(soon, "the callback that cancels")
    settle(protocol)
    assert cancelled == [(True, True)]
    held.cancel()
    held.cancel()
    assert held.cancelled() is True


def test_cancel_after_the_call_changes_nothing(serve):
    class CancelsItself(Timed):
        def on_ring(self, what):
            wait_for_event(stored, "the end of the call that made the handle")
            handle.cancel()

    stored = threading.Event()
    _, protocol = serve(CancelsItself).open()
    handle = protocol.set(0.01)
    stored.set()
    take(protocol.ran, "the timer")
    handle.cancel()
    assert handle.cancelled() is False


def test_cancel_from_another_thread_while_it_is_due(serve):
    """Either it was called, or it is cancelled; never both, never neither."""
    _, protocol = serve(Timed, workers=2).open()
    for i in range(300):
        handle = protocol.set((i % 3) / 1000, i) if i % 5 else protocol.soon(i)
        if i % 2:
            run_together(handle.cancel, handle.cancel)
        else:
            handle.cancel()
        cancelled = handle.cancelled()
        settle(protocol)
        assert handle.cancelled() is cancelled
        assert protocol.ran.qsize() == (not cancelled), i
        if not cancelled:
            assert protocol.ran.get() == i


class Token:
    pass


def test_timers_that_were_called_or_cancelled_keep_nothing(serve):
    class Arms(Timed):
        def on_ring(self, what):
            # Made and let go of by one thread: freed at once, also without a GIL.
            for delay_s in (0, 0.001, HOUR_S):
                for _ in range(1000):
                    token = Token()
                    refs.append(weakref.ref(token))
                    handle = self.transport.call_later(delay_s, id, token)
                    handles.append(handle)
                    del token
                    handle.cancel()
            alive.append(sum(ref() is not None for ref in refs))

    refs, handles, alive = [], [], []
    _, protocol = serve(Arms).open()
    protocol.set(HOUR_S)
    protocol.soon()
    take(protocol.ran, "the callback")
    assert alive == [0]
    token = Token()
    ref = weakref.ref(token)
    handle = protocol.transport.call_soon(id, token)
    del token
    settle(protocol)
    collect()
    assert ref() is None
    assert handle.cancelled() is False


# -- arguments ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "delay_s, kind",
    [
        *[(delay_s, ValueError) for delay_s in (-1, -1e-9, math.nan, math.inf, 1e10, 10**400)],
        *[(delay_s, TypeError) for delay_s in (None, "1", [1], True, 1j)],
    ],
)
def test_a_wrong_delay_is_refused(serve, delay_s, kind):
    _, protocol = serve(Timed).open()
    with pytest.raises(kind, match="delay_s must be"):
        protocol.set(delay_s)


async def coroutine_function():
    pass


async def generator_function():
    yield


class Methods:
    async def method(self):
        pass


@pytest.mark.parametrize(
    "callback",
    [
        None,
        3,
        "f",
        coroutine_function,
        generator_function,
        Methods().method,
        functools.partial(functools.partial(Methods().method), 1),
    ],
)
def test_a_wrong_callback_is_refused(serve, callback):
    _, protocol = serve(Timed).open()
    for call in (protocol.transport.call_soon, functools.partial(protocol.transport.call_later, 0)):
        with pytest.raises(TypeError, match=re.escape(f"got {callback!r}")):
            call(callback)


def test_an_object_that_answers_for_everything_is_a_callback(serve):
    class Answers:
        def __getattr__(self, name):
            raise RuntimeError(name)

        def __call__(self):
            called.set()

    called = threading.Event()
    _, protocol = serve(Timed).open()
    protocol.transport.call_soon(Answers())
    wait_for_event(called, "the callback")


def test_handles_are_made_by_connections_only():
    with pytest.raises(TypeError, match="call_later"):
        iocpx.TimerHandle()
