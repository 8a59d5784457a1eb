"""The start: whatever is raised in it, and whoever closes meanwhile, nothing is left behind."""

import contextlib
import itertools
import logging
import signal
import socket
import sys
import threading

import pytest
from clients import Client, connect_until_refused
from process import handle_count
from protocols import Echoing
from served import assert_balanced
from sockets import bound_socket, own_host
from waiting import WAIT_S, forget_interrupts, run_together, wait_for_event, wait_until

import iocpx

logger = logging.getLogger("iocpx")


@pytest.fixture
def log(monkeypatch):
    """The server's lines from here on, kept from every handler.

    An interrupt within logging's own code may leave its lock, or that of a handler, pytest's as
    well, that is never released, and whoever logs next waiting for it.
    """
    texts = []
    monkeypatch.setattr(logger, "callHandlers", lambda record: texts.append(record.getMessage()))
    monkeypatch.setattr(logger, "filters", [])
    logger.setLevel(logging.INFO)
    assert logger.isEnabledFor(logging.INFO)  # from here on without the lock
    yield texts
    logger.setLevel(logging.NOTSET)


def assert_nothing_runs(server, before):
    """The server has stopped; its threads and those of Python's books are as they were."""
    assert server.wait_closed(WAIT_S) is True
    assert server.is_serving() is False
    assert server.sockets == ()
    wait_until(lambda: set(threading.enumerate()) <= before, "the end of every thread")


def assert_serves(server):
    with server, Client(server.address) as client:
        assert client.exchange([b"hello"]) == b"hello"
    assert_balanced(server)


class Interrupting:
    """A trace function that raises KeyboardInterrupt at one event, counted from 1, of what this
    thread runs of Python."""

    def __init__(self, number):
        self.left = number

    def __call__(self, frame, event, arg):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        return self


# The tests of several Pythons run side by side: a port that a server has left may be another's by
# then, but not here.
ONE, OTHER = own_host(), own_host()


@pytest.mark.engine("what a start has begun is the engine's to end")
@pytest.mark.slow("starts at every line")
@pytest.mark.parametrize(
    "own",
    [
        pytest.param(True, id="host"),
        pytest.param(False, id="sock", marks=pytest.mark.once("the same lines, but for the bind")),
    ],
)
def test_interrupts_at_every_line_of_the_start_leave_nothing(log, own):
    """Python's own lines: of logging, locks, threads and sockets."""
    before = set(threading.enumerate())
    given = None if own else bound_socket()
    server = (
        iocpx.Server(Echoing, ONE, engine=iocpx.Engine(workers=2))
        if own
        else iocpx.Server(Echoing, sock=given, engine=iocpx.Engine(workers=2))
    )
    number = 0
    interrupted = True
    while interrupted:
        number += 1
        trace = Interrupting(number)
        sys.settrace(trace)
        try:
            server.start()
            interrupted = False
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(None)
        if interrupted:
            assert_nothing_runs(server, before)
            assert_balanced(server)
            if given is not None:
                assert given.fileno() != -1
            elif server.address is not None:
                # It is None until a start has come as far as to bind.
                connect_until_refused(server.address)
    assert trace.left > 0
    # That many there are in the two lines which the start logs, at the least.
    assert number > 20
    with Client(server.address) as client:
        assert client.exchange([b"hello"]) == b"hello"
    server.close()
    assert_nothing_runs(server, before)
    assert_balanced(server)


def test_a_second_interrupt_at_every_line_of_the_undoing_leaves_nothing(log):
    before = set(threading.enumerate())
    server = iocpx.Server(Echoing, ONE, engine=iocpx.Engine(workers=2))
    number = 0
    trace = Interrupting(1)

    def interrupt(record):
        if record.getMessage().startswith("serving"):
            sys.settrace(trace)
            raise KeyboardInterrupt
        return True

    logger.addFilter(interrupt)
    while trace.left <= 0:
        number += 1
        trace = Interrupting(number)
        try:
            with pytest.raises(KeyboardInterrupt):
                server.start()
        finally:
            sys.settrace(None)
        assert_nothing_runs(server, before)
        assert_balanced(server)
        connect_until_refused(server.address)
    logger.removeFilter(interrupt)
    assert_serves(server)


class Signalled:
    """Within a start: at a chosen point of the calls that it makes of the system, Ctrl+C in the
    main thread.  The call goes on only when the handler has begun."""

    def __init__(self, monkeypatch, handler):
        self.handled = threading.Event()
        self.monkeypatch = monkeypatch
        self.handler = handler

    def __enter__(self):
        self.previous = signal.signal(signal.SIGINT, self.on_signal)
        return self

    def __exit__(self, *_):
        forget_interrupts()
        signal.signal(signal.SIGINT, self.previous)

    def on_signal(self, signum, frame):
        self.handled.set()
        self.handler()

    def interrupt(self):
        signal.raise_signal(signal.SIGINT)
        if threading.get_ident() != threading.main_thread().ident:
            wait_for_event(self.handled, "the call of the signal handler")

    def at(self, owner, name, number, after=False):
        """At the call of that number, or after as many that have not failed: another process may
        have the port that the first address got on the second one, and the start tries again."""
        original = getattr(owner, name)
        begun, done = itertools.count(1), itertools.count(1)

        def call(*arguments, **parameters):
            if next(begun) == number and not after:
                self.interrupt()
            result = original(*arguments, **parameters)
            if next(done) == number and after:
                self.interrupt()
            return result

        self.monkeypatch.setattr(owner, name, call)


# Two addresses and two workers: (owner, name, number, after).
POINTS = {
    "resolving": (socket, "getaddrinfo", 1, False),
    "resolved": (socket, "getaddrinfo", 2, True),
    "binding": (socket.socket, "bind", 1, False),
    "binding-another": (socket.socket, "bind", 2, True),
    "keeper": (threading.Thread, "start", 1, False),
    "keeper-started": (threading.Thread, "start", 1, True),
    "worker": (threading.Thread, "start", 2, True),
    "last-worker": (threading.Thread, "start", 3, True),
}


def two_addresses():
    return iocpx.Server(Echoing, [ONE, OTHER], engine=iocpx.Engine(workers=2))


@pytest.mark.parametrize("point", POINTS)
def test_ctrl_c_during_the_start_leaves_nothing(monkeypatch, point):
    def interrupt():
        raise KeyboardInterrupt

    before = set(threading.enumerate())
    server = two_addresses()
    with Signalled(monkeypatch, interrupt) as signalled, monkeypatch.context() as patch:
        signalled.monkeypatch = patch
        signalled.at(*POINTS[point])
        with pytest.raises(KeyboardInterrupt):
            server.start()
    assert_nothing_runs(server, before)
    assert_balanced(server)
    if server.address is not None:
        connect_until_refused(server.address)
    assert_serves(server)


@pytest.mark.parametrize("point", POINTS)
def test_a_signal_handler_that_starts_the_server_is_refused(monkeypatch, point):
    refused = []

    def start():
        try:
            refused.append(server.start())
        except RuntimeError as error:
            refused.append(str(error))

    server = two_addresses()
    with Signalled(monkeypatch, start) as signalled, monkeypatch.context() as patch:
        signalled.monkeypatch = patch
        signalled.at(*POINTS[point])
        with server, Client(server.address) as client:
            assert client.exchange([b"hello"]) == b"hello"
    assert refused == ["the server is already running"]
    assert_balanced(server)


@pytest.mark.parametrize("point", POINTS)
def test_a_signal_handler_that_closes_the_server_and_waits_ends_the_start(monkeypatch, point):
    closed = []

    def close():
        server.close()
        closed.append(server.wait_closed(WAIT_S))

    before = set(threading.enumerate())
    server = two_addresses()
    with Signalled(monkeypatch, close) as signalled, monkeypatch.context() as patch:
        signalled.monkeypatch = patch
        signalled.at(*POINTS[point])
        server.start()
    assert closed == [True]
    assert_nothing_runs(server, before)
    assert_balanced(server)
    assert_serves(server)


def test_a_log_handler_that_closes_the_server_and_waits_ends_the_start(log):
    """In the midst of start(), on its own thread."""
    closed = []

    def close(record):
        if record.getMessage().startswith("serving") and not closed:
            server.close()
            closed.append(server.wait_closed(WAIT_S))
        return True

    logger.addFilter(close)
    before = set(threading.enumerate())
    server = iocpx.Server(Echoing, "127.0.0.1")
    server.start()
    assert closed == [True]
    assert_nothing_runs(server, before)
    assert_balanced(server)
    assert_serves(server)


@pytest.mark.parametrize("own", [True, False], ids=["host", "sock"])
def test_a_log_filter_that_raises_undoes_the_start(log, own):
    def refuse(record):
        if record.getMessage().startswith("serving"):
            raise LookupError("on purpose")
        return True

    given = None if own else bound_socket()
    server = iocpx.Server(Echoing, ONE) if own else iocpx.Server(Echoing, sock=given)
    before = set(threading.enumerate())
    logger.addFilter(refuse)
    for _ in range(3):
        with pytest.raises(LookupError, match="on purpose"):
            server.start()
        assert_nothing_runs(server, before)
    logger.removeFilter(refuse)
    if own:
        connect_until_refused(server.address)
    else:
        assert given.fileno() != -1
    # What was undone says nothing of its end.
    assert log == []
    assert_serves(server)


def test_a_first_thread_that_cannot_be_started_is_told_and_undone(monkeypatch):
    def refuse(*_):
        raise RuntimeError("can't start new thread")

    before = set(threading.enumerate())
    server = iocpx.Server(Echoing, "127.0.0.1")
    with monkeypatch.context() as patch:
        patch.setattr("iocpx._runtime.start_new_thread", refuse)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            server.start()
    assert_nothing_runs(server, before)
    assert_balanced(server)
    assert_serves(server)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_thread_whose_start_raises_after_it_has_begun_is_ended_all_the_same(monkeypatch, number):
    """As for lack of memory in Thread.start()'s own wait."""
    calls = []
    start = threading.Thread.start

    def start_and_raise(thread):
        start(thread)
        if thread.name.startswith("iocpx"):
            calls.append(thread)
            if len(calls) == number:
                raise MemoryError("on purpose")

    before = set(threading.enumerate())
    server = iocpx.Server(Echoing, "127.0.0.1", engine=iocpx.Engine(workers=2))
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start_and_raise)
        with pytest.raises(MemoryError, match="on purpose"):
            server.start()
    assert_nothing_runs(server, before)
    assert_balanced(server)
    assert_serves(server)


@pytest.mark.engine("the handles are the engine's")
@pytest.mark.slow("hundreds of starts")
def test_failed_starts_leave_no_handle(log):
    def refuse(record):
        raise LookupError("on purpose")

    server = iocpx.Server(Echoing, ONE, engine=iocpx.Engine(workers=2))
    assert_serves(server)
    logger.addFilter(refuse)

    def fail(times):
        for _ in range(times):
            with contextlib.suppress(LookupError):
                server.start()

    fail(10)
    before = handle_count()
    fail(200)
    # The table may have grown once, but not by what 200 starts have used.
    assert handle_count() - before < 200
    logger.removeFilter(refuse)
    assert_serves(server)


# -- close() while start() runs


class Stuck:
    """A resolver of names that is stuck until it is let go."""

    def __init__(self, monkeypatch):
        self.entered = threading.Event()
        self.leave = threading.Event()
        self.resolve = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self)

    def __call__(self, *arguments, **parameters):
        self.entered.set()
        wait_for_event(self.leave, "the release of the resolver")
        return self.resolve(*arguments, **parameters)


@pytest.mark.parametrize("how", ["start", "serve_forever"])
def test_a_close_during_name_resolution_is_not_lost(monkeypatch, how):
    stuck = Stuck(monkeypatch)
    server = iocpx.Server(Echoing, "127.0.0.1")

    def close():
        wait_for_event(stuck.entered, "the name resolution")
        assert server.is_serving() is False
        server.close()
        stuck.leave.set()

    run_together(getattr(server, how), close)
    assert server.is_serving() is False
    assert server.sockets == ()
    assert server.wait_closed(WAIT_S) is True
    assert_balanced(server)
    assert_serves(server)


def test_a_close_during_the_start_closes_the_callers_socket_too(monkeypatch, log):
    """As it does later: the server closes it."""
    sock = bound_socket()
    server = iocpx.Server(Echoing, sock=sock)
    start = threading.Thread.start

    def start_and_close(thread):
        start(thread)
        if thread.name == "iocpx-worker-0":
            server.close()

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start_and_close)
        server.start()
    assert server.wait_closed(WAIT_S) is True
    assert sock.fileno() == -1
    assert log == []
    assert_balanced(server)


@pytest.mark.parametrize("number", [1, 2])
def test_a_close_while_the_sockets_are_looked_at_is_no_error(monkeypatch, number):
    server = iocpx.Server(Echoing, "127.0.0.1")
    look = socket.socket.getsockname
    looks = []

    def look_and_close(sock):
        looks.append(sock)
        if len(looks) == number:
            server.close()
        return look(sock)

    with monkeypatch.context() as patch:
        patch.setattr(socket.socket, "getsockname", look_and_close)
        server.start()
    assert server.is_serving() is False
    assert server.wait_closed(WAIT_S) is True
    assert looks[0].fileno() == -1
    assert_balanced(server)
    assert_serves(server)


def test_a_close_while_the_threads_are_looked_at_is_not_lost(monkeypatch):
    server = iocpx.Server(Echoing, "127.0.0.1")
    monkeypatch.setattr(iocpx._serving, "require_system_threads", server.close)
    server.start()
    assert server.is_serving() is False
    assert server.wait_closed(WAIT_S) is True
    assert_balanced(server)


def test_a_close_before_the_start_has_no_effect_on_it():
    server = iocpx.Server(Echoing, "127.0.0.1")
    server.close()
    assert server.wait_closed(WAIT_S) is True
    assert_serves(server)


def test_interrupts_while_a_name_is_resolved_leave_a_server_that_ends(monkeypatch):
    """The first asks for the end, the second does not wait for it: the resolver cannot be
    interrupted."""
    stuck = Stuck(monkeypatch)
    server = iocpx.Server(Echoing, "127.0.0.1")
    begun = [threading.Event(), threading.Event()]
    main = threading.get_ident()

    def on_signal(signum, frame):
        begun[begun[0].is_set()].set()
        raise KeyboardInterrupt

    def interrupt():
        wait_for_event(stuck.entered, "the name resolution")
        for number in range(2):
            signal.raise_signal(signal.SIGINT)
            wait_for_event(begun[number], "the call of the signal handler")
            # Not a second one within the handler: that would be one exception.
            wait_until(lambda: not in_handler(), "the end of the signal handler")

    def in_handler():
        frame = sys._current_frames()[main]
        while frame is not None and frame.f_code is not on_signal.__code__:
            frame = frame.f_back
        return frame is not None

    before = set(threading.enumerate())
    thread = threading.Thread(target=interrupt)
    previous = signal.signal(signal.SIGINT, on_signal)
    try:
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            server.start()
        forget_interrupts()
        thread.join()
    finally:
        signal.signal(signal.SIGINT, previous)
    assert server.is_serving() is False
    assert server.wait_closed(0) is False
    for again in (server.start, server.serve_forever):
        with pytest.raises(RuntimeError, match="still closing"):
            again()
    stuck.leave.set()
    assert_nothing_runs(server, before)
    assert_balanced(server)
    assert_serves(server)
