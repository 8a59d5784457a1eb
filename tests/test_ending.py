"""What ends a server beside close(), and how long anybody waits for its end."""

import asyncio
import contextlib
import logging
import sys
import threading
import warnings

import pytest
from clients import Client, connect_until_refused
from payload import MORE_THAN_THE_KERNEL_TAKES, assert_same_bytes, pattern
from process import collect
from protocols import Echoing
from served import assert_balanced
from sockets import own_host
from waiting import WAIT_S, run_together, wait_for_event, wait_until

import iocpx

pytestmark = pytest.mark.engine("the end is the engine's")

logger = logging.getLogger("iocpx")

# -- a wait keeps to its limit


class Blocking(logging.Handler):
    """Blocks in the lines that begin with `start`, until it is let go."""

    def __init__(self, start):
        super().__init__()
        self.start = start
        self.entered = threading.Event()
        self.leave = threading.Event()

    def emit(self, record):
        if record.getMessage().startswith(self.start):
            self.entered.set()
            wait_for_event(self.leave, "the release of the log handler")


@contextlib.contextmanager
def handling(handler):
    """Within the block the server's lines go to this handler alone."""
    before = logger.handlers, logger.propagate, logger.level
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)
    try:
        yield handler
    finally:
        logger.handlers, logger.propagate = before[:2]
        logger.setLevel(before[2])


def keepers():
    return [thread for thread in threading.enumerate() if thread.name.startswith("iocpx")]


@pytest.mark.parametrize("timeout", [None, 0.2])
def test_a_log_handler_that_blocks_is_not_waited_for(timeout):
    with handling(Blocking("stopped")) as handler:
        server = iocpx.Server(Echoing, "127.0.0.1")
        server.start()
        with Client(server.address) as client:
            assert client.exchange([b"hello"]) == b"hello"
        server.close()
        wait_for_event(handler.entered, "the last line in the log")
        wait_until(server._runtime.over, "the end of the engine")
        # The handler is let go only afterwards.
        assert server.wait_closed(timeout) is True
        assert_balanced(server)
        handler.leave.set()
        wait_until(lambda: keepers() == [], "the end of every thread")


@pytest.mark.slow("the process is given seconds")
def test_the_lock_of_a_log_handler_is_not_waited_for():
    class Notes(logging.Handler):
        def emit(self, record):
            pass

    with handling(Notes()) as handler:
        server = iocpx.Server(Echoing, "127.0.0.1")
        handler.acquire()
        try:
            with server, Client(server.address) as client:
                assert client.exchange([b"hello"]) == b"hello"
            assert server.wait_closed() is True
        finally:
            handler.release()
        assert_balanced(server)
        wait_until(lambda: keepers() == [], "the end of every thread")


def test_what_the_system_refuses_is_told_without_holding_up_the_stop():
    """The keeper goes on: deadlines and the stop are its affair."""
    with handling(Blocking("cannot serve")) as handler:
        server = iocpx.Server(Echoing, "127.0.0.1")
        server.start()
        server._runtime.run._tell_trouble(10055)
        wait_for_event(handler.entered, "the line in the log")
        server._runtime.run._tell_trouble(10055)
        assert len([thread for thread in keepers() if thread.name == "iocpx-log"]) == 1
        server.close()
        assert server.wait_closed(WAIT_S) is True
        assert_balanced(server)
        handler.leave.set()
        wait_until(lambda: keepers() == [], "the end of every thread")


def test_a_log_handler_may_wait_for_the_end():
    """Called by the thread whose end is waited for."""
    waited = []

    class Waits(logging.Handler):
        def emit(self, record):
            if record.getMessage().startswith("stopped"):
                waited.append(server.wait_closed(WAIT_S))

    with handling(Waits()):
        server = iocpx.Server(Echoing, "127.0.0.1")
        with server:
            pass
        wait_until(lambda: waited == [True], "the end of the wait in the log handler")
        wait_until(lambda: keepers() == [], "the end of every thread")
    assert_balanced(server)


@pytest.mark.parametrize("where", ["callback", "exception handler", "log handler"])
def test_what_blocks_a_worker_makes_a_wait_answer_false(where):
    blocking = Blocking("data_received() raised")

    class Blocks(asyncio.Protocol):
        def data_received(self, data):
            if where != "callback":
                raise LookupError("on purpose")
            block()

    def block(context=None):
        blocking.entered.set()
        wait_for_event(blocking.leave, "the release of the worker")

    with handling(blocking):
        server = iocpx.Server(
            Blocks,
            "127.0.0.1",
            close_timeout_s=0,
            exception_handler=block if where == "exception handler" else None,
        )
        server.start()
        with Client(server.address) as client:
            client.send(b"block")
            wait_for_event(blocking.entered, "the callback")
            server.close()
            for timeout in (0, 0.2):
                assert server.wait_closed(timeout) is False
            blocking.leave.set()
            client.read_until_gone()
        assert server.wait_closed(WAIT_S) is True
    assert_balanced(server)


@pytest.mark.slow("the process is given seconds")
def test_a_log_handler_that_blocks_does_not_keep_the_process(start_script):
    script = start_script(
        """
import asyncio, logging, threading
import iocpx

blocked = threading.Event()

class Blocks(logging.Handler):
    def emit(self, record):
        if record.getMessage().startswith("stopped"):
            print("blocks", flush=True)
            blocked.set()
            threading.Event().wait()

# Not among those that logging itself flushes and closes at the end, for which it needs their lock.
logging._handlerList.clear()
logger = logging.getLogger("iocpx")
logger.setLevel(logging.INFO)
logger.addHandler(Blocks())
logging._handlerList.clear()
servers = [iocpx.Server(asyncio.Protocol, "127.0.0.1") for _ in range(2)]
for server in servers:
    server.start()
# The other one stops at the exit.
servers[0].close()
blocked.wait()
"""
    )
    status, lines, errors = script.finish()
    assert (status, errors) == (0, "")
    assert "blocks" in lines


# -- finalisers


def test_a_dropped_server_stops_where_warnings_are_errors(monkeypatch):
    raised = []
    monkeypatch.setattr(sys, "unraisablehook", lambda info: raised.append(type(info.exc_value)))
    server = iocpx.Server(Echoing, own_host())
    server.start()
    address = server.address
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del server
        collect()
    assert raised == [ResourceWarning]
    connect_until_refused(address)
    wait_until(lambda: keepers() == [], "the end of every thread")


# -- SystemExit and KeyboardInterrupt in a callback


class Leaves(asyncio.Protocol):
    """Raises `error` where `server.where` says."""

    def __init__(self, where, error):
        self.where, self.error = where, error

    def leave(self, name):
        if name == self.where:
            raise self.error

    def connection_made(self, transport):
        self.transport = transport
        self.leave("connection_made")

    def data_received(self, data):
        self.leave("data_received")
        self.transport.write(data)

    def eof_received(self):
        self.leave("eof_received")

    def connection_lost(self, exc):
        self.leave("connection_lost")


def leaving_server(where, error):
    """A server that `error` ends, and the contexts that its exception handler got."""
    contexts = []

    def factory():
        if where == "factory":
            raise error
        if where == "exception handler":
            return Leaves("data_received", LookupError("on purpose"))
        return Leaves(where, error)

    def handler(context):
        contexts.append(context)
        if where == "exception handler":
            raise error

    def trace(line):
        if "received" in line:
            raise error

    server = iocpx.Server(
        factory,
        "127.0.0.1",
        exception_handler=handler,
        trace=trace if where == "trace" else None,
    )
    return server, contexts


def provoke(address):
    with contextlib.suppress(OSError), Client(address) as client:
        client.send_until_refused(b"leave")
        with contextlib.suppress(OSError):
            client.half_close()
        client.read_until_gone()


PLACES = [
    "connection_made",
    "data_received",
    "eof_received",
    "connection_lost",
    "factory",
    "exception handler",
    "trace",
]


@pytest.mark.parametrize(
    "error", [SystemExit(3), KeyboardInterrupt()], ids=lambda e: type(e).__name__
)
@pytest.mark.parametrize("where", PLACES)
def test_an_exit_in_a_callback_ends_serve_forever_with_it(where, error):
    server, contexts = leaving_server(where, error)
    server.start()
    caught = []

    def forever():
        with pytest.raises(type(error)) as raised:
            server.serve_forever()
        caught.append(raised.value)

    run_together(forever, lambda: provoke(server.address))
    assert caught == [error]
    assert server.is_serving() is False
    assert server.wait_closed(0) is True
    assert_balanced(server)
    # It is reported as any other exception.
    reported = [context["exception"] for context in contexts]
    if where == "exception handler":
        assert [type(exc) for exc in reported] == [LookupError]
    else:
        assert error in reported
    with pytest.raises(type(error)):
        server.serve_forever()


def test_an_exit_in_a_callback_lets_the_others_end_in_order(serve):
    data = pattern(MORE_THAN_THE_KERNEL_TAKES)

    class Gives(Echoing):
        def on_data(self, request):
            if request == b"leave":
                sys.exit(0)
            self.transport.write(data)

    served = serve(Gives, close_timeout_s=60)
    slow, protocol = served.open()
    slow.send(b"give")
    protocol.wait_for("pause_writing")
    leaving = served.connect()
    leaving.send(b"leave")
    assert type(served.take_error()["exception"]) is SystemExit
    wait_until(lambda: not served.server.is_serving(), "the close of the server")
    assert_same_bytes(slow.read_to_end(), data)
    slow.close()
    leaving.read_until_gone()
    # Whoever did not ask for it by serve_forever() is not told by an exception.
    assert served.server.wait_closed(WAIT_S) is True
    served.protocols[1].lost_with = None  # the SystemExit, which is no Exception


def test_a_server_that_was_ended_by_an_exit_can_be_started_again():
    calls = []

    def factory():
        calls.append(None)
        if len(calls) == 1:
            raise SystemExit
        return Echoing()

    server = iocpx.Server(factory, "127.0.0.1", exception_handler=lambda context: None)
    with server:
        provoke(server.address)
        assert server.wait_closed(WAIT_S) is True
    server.start()

    def ask():
        with Client(server.address) as client:
            assert client.exchange([b"hello"]) == b"hello"
        server.close()

    run_together(server.serve_forever, ask)
    assert_balanced(server)


def test_sys_exit_in_a_callback_ends_the_program_with_its_status(start_script):
    script = start_script(
        """
import asyncio, sys
import iocpx

class Leaves(asyncio.Protocol):
    def data_received(self, data):
        sys.exit(7)

server = iocpx.Server(Leaves, "127.0.0.1", exception_handler=lambda context: None)
server.start()
print(*server.address, flush=True)
server.serve_forever()
"""
    )
    with Client(script.read_address()) as client:
        client.send(b"leave")
        client.read_until_gone()
    assert script.finish() == (7, [], "")
