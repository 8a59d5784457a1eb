"""Callbacks that fail, and the rules all of them run by.

Each failure is reported and costs its own connection only.
"""

import contextlib
import logging
import queue
import threading

import pytest
from clients import Client
from payload import MORE_THAN_THE_KERNEL_TAKES, assert_same_bytes, pattern
from protocols import CountingSent, Echoing, Recording, RecordingBuffered, in_turn
from waiting import WAIT_S, run_together, take, wait_for_event

import iocpx


class Broken(Exception):
    pass


class Failing:
    """Raises in the one callback named `fails_in`; writes `reply` when data comes."""

    fails_in = ""
    reply = b"reply"

    def fail_in(self, name):
        if name == self.fails_in:
            raise self.error

    def __init__(self):
        super().__init__()
        self.error = Broken(f"by test, in {self.fails_in}")

    def on_made(self):
        self.fail_in("connection_made")

    def on_data(self, data):
        self.fail_in("data_received")
        self.fail_in("buffer_updated")
        self.transport.write(self.reply)

    def on_eof(self):
        self.fail_in("eof_received")

    def on_pause(self):
        self.fail_in("pause_writing")

    def on_resume(self):
        self.fail_in("resume_writing")

    def on_sent(self, nbytes):
        self.fail_in("data_sent")

    def on_lost(self, exc):
        self.fail_in("connection_lost")


class FailingProtocol(Failing, CountingSent):
    pass


class FailingBuffered(Failing, RecordingBuffered):
    def lend(self):
        self.fail_in("get_buffer")
        return super().lend()


def live_through_everything(served, reply_size):
    """Have every callback of a connection called, as far as the server lets its client live."""
    try:
        client = served.connect()
    except (ConnectionResetError, ConnectionAbortedError):
        return  # dropped already
    client.send_until_refused(b"question")
    if len(client.read_until_gone(at_most=reply_size)) == reply_size:
        with contextlib.suppress(OSError):
            client.half_close()
        client.read_until_gone()
    client.close()


@pytest.mark.parametrize(
    "name, base",
    [
        ("connection_made", FailingProtocol),
        ("data_received", FailingProtocol),
        ("eof_received", FailingProtocol),
        ("data_sent", FailingProtocol),
        ("connection_lost", FailingProtocol),
        ("get_buffer", FailingBuffered),
        ("buffer_updated", FailingBuffered),
    ],
)
def test_a_raising_callback_costs_its_connection_only(serve, name, base):
    class Raises(base):
        fails_in = name

    served = serve(in_turn(Raises, Echoing), close_timeout_s=30)
    live_through_everything(served, len(Raises.reply))
    context = served.take_error()
    protocol = served.protocols[0]
    protocol.wait_for("connection_lost")

    assert context["exception"] is protocol.error
    assert context["protocol"] is protocol
    assert context["transport"] is protocol.transport
    assert isinstance(context["message"], str) and name in context["message"]
    assert protocol.events.count(name) == 1, f"{name} was called again after it had raised"
    if name == "connection_lost":
        assert protocol.lost_with is None
    else:
        assert protocol.lost_with is protocol.error, (
            "connection_lost is told what the callback raised"
        )
        assert protocol.events[-1] == "connection_lost"
    if name == "connection_made":
        assert protocol.events == ["connection_made", "connection_lost"]
    served.assert_serving()
    assert served.errors.empty(), "one failure is reported once"
    if name not in ("connection_lost", "eof_received"):
        assert "is reset" in context["message"]
        assert served.stats()["aborts_by_reason"]["callback"] == 1


@pytest.mark.parametrize("name", ["pause_writing", "resume_writing"])
@pytest.mark.parametrize("in_callback", [True, False])
def test_flow_control_that_raises_is_told_of_and_costs_nothing(serve, name, in_callback):
    class Raises(FailingProtocol):
        fails_in = name

        def on_data(self, data):
            if in_callback:
                self.transport.write(self.reply)

    reply = Raises.reply = pattern(MORE_THAN_THE_KERNEL_TAKES)
    served = serve(Raises)
    client, protocol = served.open()
    client.send(b"question")
    protocol.wait_for("data_received")
    for turn in (1, 2):
        if not in_callback or turn == 2:
            protocol.transport.write(reply)
        protocol.wait_for("pause_writing", turn)
        assert_same_bytes(client.read_exactly(len(reply)), reply)
        protocol.wait_for("resume_writing", turn)
        context = served.take_error()
        assert context["exception"] is protocol.error
        assert context["protocol"] is protocol
        assert context["transport"] is protocol.transport
        assert f"{name}() raised" in context["message"]
        assert "reset" not in context["message"]
    client.half_close()
    assert client.read_to_end() == b""
    protocol.wait_for("connection_lost")
    assert protocol.lost_with is None
    assert served.stats()["aborts_by_reason"]["callback"] == 0


def test_a_callback_that_raises_after_close_is_not_said_to_reset(serve):
    """All is sent and the end is told: there is nothing left to reset, and none is counted."""

    has_all = threading.Event()

    class SentAndRaises(FailingProtocol):
        fails_in = "data_sent"

        def on_made(self):
            self.transport.write(b"all")
            self.transport.close()

        def data_sent(self, nbytes):
            # What the raise does to the socket must not come before the client has read.
            wait_for_event(has_all, "the client's reading")
            super().data_sent(nbytes)

    served = serve(SentAndRaises)
    client, protocol = served.open()
    assert client.read_exactly(3) == b"all"
    has_all.set()
    protocol.wait_for("connection_lost")
    context = served.take_error()
    assert context["exception"] is protocol.error
    assert protocol.lost_with is protocol.error
    assert "data_sent() raised" in context["message"]
    assert "reset" not in context["message"] and "closing already" in context["message"]
    client.read_until_gone()
    assert served.stats()["aborts_by_reason"]["callback"] == 0


def test_a_raising_callback_leaves_other_connections_alone(serve):
    class RaisesOnRequest(Echoing):
        def on_data(self, data):
            if data == b"raise":
                raise Broken("on request")
            self.transport.write(data)

    served = serve(RaisesOnRequest)
    others = [served.connect() for _ in range(5)]
    for other in others:
        other.exchange([b"before"])
    client = served.connect()
    client.send(b"raise")
    assert client.read_until_gone() == b""
    assert isinstance(served.take_error()["exception"], Broken)
    for other in others:
        assert other.exchange([b"after"]) == b"after"


def test_what_was_written_before_a_callback_raised_is_not_waited_for(serve):
    class WritesAndRaises(Recording):
        def on_data(self, data):
            self.transport.write(pattern(MORE_THAN_THE_KERNEL_TAKES))
            raise Broken("after a big write")

    served = serve(WritesAndRaises, close_timeout_s=300)
    client, protocol = served.open()
    client.send(b"go")
    protocol.wait_for("connection_lost")
    assert isinstance(served.take_error()["exception"], Broken)
    assert len(client.read_until_gone()) < MORE_THAN_THE_KERNEL_TAKES


def test_a_raising_factory_costs_its_connection_only(serve):
    made = []

    def factory():
        made.append(None)
        if len(made) % 2:
            raise Broken(f"factory, call {len(made)}")
        return Echoing()

    served = serve(factory)
    for _turn in range(5):
        assert served.connect_in_vain() == b""
        context = served.take_error()
        assert isinstance(context["exception"], Broken)
        assert context["message"] == "protocol_factory raised, the connection is reset"
        assert context.get("protocol") is None
        served.assert_serving()
    assert len(made) == 10
    assert len(served.protocols) == 5


def test_a_raising_exception_handler_costs_nothing_more(serve, caplog):
    def handler(context):
        raise Broken("handler") from context["exception"]

    class Raises(Recording):
        def on_data(self, data):
            if data == b"raise":
                raise Broken("callback")
            self.transport.write(data)

    served = serve(Raises, exception_handler=handler)
    client, protocol = served.open()
    with caplog.at_level(logging.ERROR):
        client.send(b"raise")
        assert client.read_until_gone() == b""
        protocol.wait_for("connection_lost")
        assert str(protocol.lost_with) == "callback"
        served.assert_serving()


def test_without_a_handler_errors_are_logged():
    class LogQueue(logging.Handler):
        def emit(self, record):
            records.put(record)

    class Raises(Recording):
        def on_data(self, data):
            raise Broken("for the log")

    records = queue.Queue()
    handler = LogQueue()
    logger = logging.getLogger("iocpx")
    logger.addHandler(handler)
    try:
        with iocpx.Server(Raises, "127.0.0.1") as server:
            with Client(server.address) as client:
                client.send(b"data")
                client.read_until_gone()
            record = take(records, "a log record")
    finally:
        logger.removeHandler(handler)
    assert record.levelno == logging.ERROR
    assert record.name == "iocpx"
    assert "data_received" in record.getMessage()
    kind, error, _ = record.exc_info
    assert kind is Broken and str(error) == "for the log"


def test_a_reset_is_no_error_to_be_reported(serve):
    # It goes to connection_lost; finish() asserts that the exception handler heard nothing.
    served = serve(Echoing)
    for _ in range(10):
        client, protocol = served.open()
        client.exchange([b"hello"])
        client.reset()
        protocol.wait_for("connection_lost")


def test_callbacks_of_one_connection_never_overlap(serve):
    """Many small messages and many workers: Recorder.check() would find an overlap."""
    served = serve(Echoing, workers=8)
    client, protocol = served.open()
    client.exchange([b"%04d" % number for number in range(1000)])
    assert protocol.received == b"".join(b"%04d" % number for number in range(1000))


@pytest.mark.parametrize("workers", [2, 8])
def test_a_blocked_callback_leaves_the_other_workers_free(serve, workers):
    entered, leave = queue.Queue(), threading.Event()

    class Blocks(Echoing):
        def on_data(self, data):
            if data == b"block":
                entered.put(None)
                wait_for_event(leave, "the release of the blocked callback")
            self.transport.write(data)

    served = serve(Blocks, workers=workers)
    blocked = [served.connect() for _ in range(workers - 1)]
    free = served.connect()
    for client in blocked:
        client.send(b"block")
        take(entered, "a callback to be blocked")
    try:
        assert free.exchange([b"still free"]) == b"still free"
    finally:
        leave.set()
    for client in blocked:
        assert client.read_exactly(5) == b"block"


def test_data_that_comes_during_a_callback_is_delivered_after_it(serve):
    entered, leave = threading.Event(), threading.Event()

    class Blocks(Recording):
        def on_data(self, data):
            if not entered.is_set():
                entered.set()
                wait_for_event(leave, "the release of the blocked callback")

    served = serve(Blocks, workers=2)
    client, protocol = served.open()
    client.send(b"first")
    wait_for_event(entered, "the first data_received")
    client.send(b"second")
    client.half_close()
    assert protocol.events == ["connection_made", "data_received"]
    leave.set()
    protocol.wait_for("connection_lost")
    assert protocol.received == b"firstsecond"


@pytest.mark.parametrize("workers", [1, 8])
def test_callbacks_may_write_to_all_connections(serve, workers):
    """Everybody sends to everybody: two connections that wait for each other would be stuck."""
    everybody, size, messages = [], 8, 32

    class Broadcasts(Recording):
        def on_made(self):
            everybody.append(self)

        def on_data(self, data):
            for one in everybody:
                one.transport.write(data)

    served = serve(Broadcasts, workers=workers)
    clients = [served.open()[0] for _ in range(size)]
    heard = [None] * size

    def talk(number):
        # One byte holds the sender and its count, so no message can be cut apart on the way.
        chunks = [bytes([number * messages + turn]) for turn in range(messages)]
        heard[number] = clients[number].exchange(chunks, size=size * messages)

    run_together(*(lambda number=number: talk(number) for number in range(size)))
    for stream in heard:
        for sender in range(size):
            turns = [byte % messages for byte in stream if byte // messages == sender]
            assert turns == list(range(messages)), f"messages of {sender}"


def test_callbacks_may_close_other_connections(serve):
    everybody = []

    class ClosesAll(Recording):
        def on_made(self):
            everybody.append(self)

        def on_data(self, data):
            for one in everybody:
                one.transport.close()

    served = serve(ClosesAll, workers=8, close_timeout_s=1)
    opened = [served.open() for _ in range(8)]
    for client, _ in opened:
        client.send_until_refused(b"close")
    for client, protocol in opened:
        assert client.read_until_gone() == b""
        client.close()
        protocol.wait_for("connection_lost")


def test_a_callback_may_take_locks_that_other_threads_hold(serve):
    """A worker that waits for a Python lock must not keep others from running (or hold the GIL)."""
    lock = threading.Lock()

    class Locks(Echoing):
        def on_data(self, data):
            assert lock.acquire(timeout=WAIT_S), "the lock was never free"
            lock.release()
            self.transport.write(data)

    served = serve(Locks, workers=2)
    clients = [served.connect() for _ in range(4)]
    with lock:
        for client in clients:
            client.send(b"locked")
    for client in clients:
        assert client.read_exactly(6) == b"locked"
