"""Context variables: each connection has a context of its own, a copy of the one start() ran in.

All with one worker, so that connections share a thread, where they could see each other's.
"""

import asyncio
import contextlib
import contextvars
import ctypes
import decimal
import queue
import threading
import weakref

import pytest
from payload import MORE_THAN_THE_KERNEL_TAKES, pattern
from process import collect
from protocols import CountingSent, Echoing, Recording, RecordingBuffered, in_turn
from waiting import WAIT_S, take, wait_until

import iocpx

user = contextvars.ContextVar("user", default="nobody")
mood = contextvars.ContextVar("mood", default="none")


@contextlib.contextmanager
def set_to(variable, value):
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


class SaysWho(Recording):
    """Answers with what `user` was, and sets it to what came."""

    def on_data(self, data):
        before = user.get()
        user.set(data.decode())
        self.transport.write(f"{before};".encode())


def test_what_one_connection_sets_another_one_does_not_see(serve):
    served = serve(SaysWho, workers=1)
    first, second = served.connect(), served.connect()
    assert first.exchange([b"alice"], size=7) == b"nobody;"
    assert second.exchange([b"bob"], size=7) == b"nobody;"
    assert first.exchange([b"carol"], size=6) == b"alice;"
    assert second.exchange([b"dave"], size=4) == b"bob;"
    assert user.get() == "nobody"


class Everywhere(CountingSent):
    """Notes in every callback what the one before it has set, and sets it anew."""

    def __init__(self):
        super().__init__()
        self.seen = [("factory", mood.get())]
        mood.set("factory")

    @contextlib.contextmanager
    def _callback(self, name):
        with super()._callback(name):
            self.seen.append((name, mood.get()))
            mood.set(name)
            yield

    def on_data(self, data):
        self.transport.write(pattern(MORE_THAN_THE_KERNEL_TAKES))

    def on_eof(self):
        return True

    def on_resume(self):
        self.transport.write(b"end")
        self.transport.close()


class EverywhereBuffered(Everywhere, RecordingBuffered):
    pass


@pytest.mark.parametrize("protocol_class", [Everywhere, EverywhereBuffered])
def test_all_callbacks_of_a_connection_share_its_context(serve, protocol_class):
    served = serve(protocol_class, workers=1, close_timeout_s=WAIT_S)
    opened = [served.open() for _ in range(2)]
    for client, _ in opened:
        client.send(b"go")
    for _, protocol in opened:
        protocol.wait_for("pause_writing")
    for client, protocol in opened:
        client.half_close()
        client.read_to_end()
        protocol.wait_for("connection_lost")
        names = [name for name, _ in protocol.seen]
        assert {"connection_made", "pause_writing", "resume_writing", "data_sent"} <= set(names)
        assert [before for _, before in protocol.seen] == ["none", *names[:-1]]
    assert mood.get() == "none"


def test_what_the_program_had_set_at_the_start_is_seen(serve):
    with set_to(user, "at construction"):
        served = serve(SaysWho, started=False, workers=1)
    with set_to(user, "at start"):
        served.server.start()
    with set_to(user, "later"):
        assert served.connect().exchange([b"me"], size=9) == b"at start;"
        assert served.connect().exchange([b"me"], size=9) == b"at start;"


def test_each_start_has_its_own_context(serve):
    served = serve(SaysWho, started=False, workers=1)
    for turn in ("first;", "second;"):
        with set_to(user, turn[:-1]):
            served.server.start()
        with served.connect() as client:
            assert client.exchange([b"me"], size=len(turn)) == turn.encode()
        served.server.close()
        served.server.wait_closed()


class Divides(Recording):
    """Answers with 1/3 to as many digits as were set, and sets them to what came."""

    def on_data(self, data):
        self.transport.write(f"{decimal.Decimal(1) / 3};".encode())
        decimal.setcontext(decimal.Context(prec=int(data)))


def test_the_precision_of_decimals_belongs_to_a_connection(serve):
    with decimal.localcontext(decimal.Context(prec=4)):
        served = serve(Divides, workers=1)
    first, second = served.connect(), served.connect()
    assert first.exchange([b"6"], size=7) == b"0.3333;"
    assert second.exchange([b"2"], size=7) == b"0.3333;"
    assert first.exchange([b"9"], size=9) == b"0.333333;"
    assert second.exchange([b"9"], size=5) == b"0.33;"


class ChangesPrecision(Recording):
    """The same, by changing the connection's decimal context in place."""

    def on_data(self, data):
        self.transport.write(f"{decimal.Decimal(1) / 3};".encode())
        decimal.getcontext().prec = int(data)


def test_a_precision_changed_in_place_belongs_to_a_connection_too(serve):
    # Started by a thread that has not used decimals: what that had, all copies would share.
    served = serve(ChangesPrecision, started=False, workers=1)
    contextvars.Context().run(served.server.start)
    first, second = served.connect(), served.connect()
    default = f"0.{'3' * decimal.DefaultContext.prec};".encode()
    assert first.exchange([b"6"], size=len(default)) == default
    assert second.exchange([b"2"], size=len(default)) == default
    assert first.exchange([b"9"], size=9) == b"0.333333;"
    assert second.exchange([b"9"], size=5) == b"0.33;"


def test_a_callback_may_use_contexts_of_its_own(serve):
    class Nests(Recording):
        def on_data(self, data):
            other = contextvars.copy_context()
            seen = other.run(self.inside)
            self.transport.write(f"{seen} {other[user]} {user.get()};".encode())

        def inside(self):
            seen = user.get()
            user.set("inside")
            return seen

        def on_made(self):
            user.set("made")

    client, _ = serve(Nests, workers=1).open()
    assert client.exchange([b"1"], size=17) == b"made inside made;"
    assert client.exchange([b"2"], size=17) == b"made inside made;"


# Where threads inherit a context (3.14t) the worker's own run ends with the same error, in the end.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_context_that_c_code_leaves_entered_is_told_of_and_loses_nothing(serve):
    enter = ctypes.pythonapi.PyContext_Enter
    enter.argtypes = [ctypes.py_object]
    others = []

    class Stays(Echoing):
        def on_data(self, data):
            if not others:
                others.append(contextvars.copy_context())
                enter(others[0])
            self.transport.write(data)

    served = serve(in_turn(Stays, SaysWho), workers=1)
    client, protocol = served.open()
    assert client.exchange([b"one"]) == b"one"
    assert "returned in another context" in served.take_error()["message"]
    assert client.exchange([b"two"]) == b"two"
    assert "outside of its context" in served.take_error()["message"]
    other = served.connect()
    assert other.exchange([b"alice"], size=7) == b"nobody;"
    assert other.exchange([b"bob"], size=6) == b"alice;"
    client.close()
    protocol.wait_for("connection_lost")
    other.close()
    served.server.close()
    served.server.wait_closed()
    wait_until(
        lambda: not any(thread.name.startswith("iocpx-") for thread in threading.enumerate()),
        "the end of the worker's run",
    )
    while not served.errors.empty():
        assert "outside of its context" in served.take_error()["message"]


def test_the_exception_handler_runs_in_the_context_of_what_failed(serve):
    class Raises(Recording):
        def on_data(self, data):
            user.set(data.decode())
            raise LookupError

    heard = queue.Queue()
    served = serve(Raises, workers=1, exception_handler=lambda context: heard.put(user.get()))
    for name in ("alice", "bob"):
        client = served.connect()
        client.send(name.encode())
        client.read_until_gone()
        assert take(heard, "a call of the exception handler") == name


def test_the_exception_handler_hears_of_a_factory_in_its_context(serve):
    def factory():
        user.set("the factory's")
        raise LookupError

    heard = queue.Queue()
    served = serve(
        in_turn(factory, Echoing),
        workers=1,
        exception_handler=lambda context: heard.put(user.get()),
    )
    served.connect_in_vain()
    assert take(heard, "a call of the exception handler") == "the factory's"
    served.assert_serving()


def test_the_trace_runs_in_the_context_of_the_start_or_of_the_connection(serve):
    lines = []

    class Named(Echoing):
        def on_made(self):
            user.set("connection")

    with set_to(user, "program"):
        served = serve(Named, workers=1, trace=lambda line: lines.append((user.get(), line)))
    client, protocol = served.open()
    client.exchange([b"data"])
    client.close()
    protocol.wait_for("connection_lost")
    served.finish()
    names = [name for name, _ in lines]
    assert names[0] == "program", "the connection has set nothing yet"
    assert "connection" in names
    assert set(names) == {"program", "connection"}, lines


def test_a_finished_connection_keeps_nothing_of_its_context(serve):
    class Value:
        pass

    alive = []

    class Sets(Echoing):
        def on_made(self):
            value = Value()
            alive.append(weakref.ref(value))
            mood.set(value)

    served = serve(Sets, workers=1)
    client, protocol = served.open()
    client.close()
    protocol.wait_for("connection_lost")
    served.finish()
    collect()
    assert isinstance(protocol.transport, iocpx.Connection)
    assert alive[0]() is None


def test_asyncio_gives_its_callbacks_the_same(serve):
    """What is promised here is what a loop does: the same protocol sees the same under asyncio."""

    async def main():
        loop = asyncio.get_running_loop()
        with set_to(user, "at start"):
            server = await loop.create_server(SaysWhoUnchecked, "127.0.0.1", 0)
        async with server:
            for _ in range(2):
                reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
                writer.write(b"me")
                assert await reader.readexactly(9) == b"at start;"
                # It comes when the server's end has been told.
                writer.write_eof()
                assert await reader.read() == b""
                writer.close()
                await writer.wait_closed()

    asyncio.run(main())
    served = None
    with set_to(user, "at start"):
        served = serve(SaysWhoUnchecked, workers=1)
    for _ in range(2):
        with served.connect() as client:
            assert client.exchange([b"me"], size=9) == b"at start;"


class SaysWhoUnchecked(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(f"{user.get()};".encode())
        user.set(data.decode())
