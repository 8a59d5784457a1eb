"""Protocols that record what they are told and check the rules, and one that does not."""

import asyncio
import collections
import contextlib
import threading

from payload import Keeps
from waiting import WAIT_S, wait_for_event


def in_turn(*factories):
    """A protocol factory that calls each of the factories once, one for each connection."""
    left = iter(factories)

    def factory():
        return next(left)()

    return factory


class Recorder(Keeps):
    """Records every callback and checks the rules that hold for all connections.

    The hooks `on_made`, `on_data`, `on_eof`, `on_lost`, `on_pause`, `on_resume` and `on_sent` are
    for tests to override; they run inside the callback. The rules: callbacks run one at a time and
    never in the main thread; connection_made is the first and connection_lost the last, each once;
    no data follows the end of the stream; pause_writing and resume_writing take turns.
    """

    # False for a protocol that set_protocol() puts in the place of another one: it is told of no
    # new connection.
    told_of_connection = True

    def __init__(self):
        super().__init__()
        self.transport = None
        self.events = []
        self.sent = 0
        self.lost_with = None
        self._faults = []
        # How often each callback has run to its end, and how many bytes had come ("received") and
        # left ("sent") by then.
        self.finished = collections.Counter()
        self._changed = threading.Condition()
        self._running = threading.Lock()
        self._runner = None

    @contextlib.contextmanager
    def _callback(self, name):
        thread = threading.get_ident()
        if thread == threading.main_thread().ident:
            self._faults.append(f"{name} was called in the main thread")
        alone = self._running.acquire(blocking=False)
        if not alone and not (name == "pause_writing" and self._runner == thread):
            # asyncio calls pause_writing from within write(), so inside another callback of the
            # same thread; anything else means two callbacks at once.
            self._faults.append(f"{name} was called while another callback ran")
        if alone:
            self._runner = thread
        self.events.append(name)
        try:
            yield
        finally:
            if alone:
                self._running.release()
            with self._changed:
                self.finished[name] += 1
                self.finished["received"] = self.kept_bytes
                self.finished["sent"] = self.sent
                self._changed.notify_all()

    def connection_made(self, transport):
        with self._callback("connection_made"):
            self.transport = transport
            self.on_made()

    def eof_received(self):
        with self._callback("eof_received"):
            return self.on_eof()

    def connection_lost(self, exc):
        with self._callback("connection_lost"):
            self.lost_with = exc
            self.on_lost(exc)

    def pause_writing(self):
        with self._callback("pause_writing"):
            self.on_pause()

    def resume_writing(self):
        with self._callback("resume_writing"):
            self.on_resume()

    def on_made(self):
        pass

    def on_data(self, data):
        pass

    def on_eof(self):
        pass

    def on_lost(self, exc):
        pass

    def on_pause(self):
        pass

    def on_resume(self):
        pass

    def wait_for(self, name, count=1):
        """Wait until the callback `name` has run to its end `count` times."""
        self.wait_until(lambda: self.finished[name] >= count, f"{name} (number {count})")

    def wait_until(self, condition, what):
        """Wait until `condition()` holds, which is looked at after every callback.

        It should look at `finished`: other fields may change in the middle of a callback.
        """
        with self._changed:
            if not self._changed.wait_for(condition, WAIT_S):
                raise AssertionError(
                    f"{what} did not happen within {WAIT_S} s; the callbacks were {self.events}"
                )

    def wait_for_data(self, size):
        self.wait_until(lambda: self.finished["received"] >= size, f"the arrival of {size} bytes")

    def check(self):
        """Assert the rules. Call when the server has stopped."""
        events = self.events
        assert not self._faults, self._faults
        if self.told_of_connection:
            assert events[:1] == ["connection_made"], (
                f"connection_made was not the first of {events}"
            )
        assert events.count("connection_made") == int(self.told_of_connection), events
        assert events[-1:] == ["connection_lost"], f"connection_lost was not the last of {events}"
        assert events.count("connection_lost") == 1, events
        assert events.count("eof_received") <= 1, events
        if "eof_received" in events:
            after = events[events.index("eof_received") :]
            assert "data_received" not in after, f"data came after the end of the stream: {events}"
            assert "buffer_updated" not in after, f"data came after the end of the stream: {events}"
        turns = [event for event in events if event in ("pause_writing", "resume_writing")]
        assert turns == ["pause_writing", "resume_writing"] * (len(turns) // 2) + [
            "pause_writing"
        ] * (len(turns) % 2), turns
        assert self.lost_with is None or isinstance(self.lost_with, Exception), self.lost_with


class Recording(Recorder, asyncio.Protocol):
    """A protocol that keeps what it gets."""

    def data_received(self, data):
        with self._callback("data_received"):
            self.check_data(data)
            self.keep(data)
            self.on_data(data)

    def check_data(self, data):
        if type(data) is not bytes or not data:
            self._faults.append(f"data_received got {data!r}")


class Echoing(Recording):
    """Sends back what it gets."""

    def on_data(self, data):
        self.transport.write(data)


class PausesOften(Recording):
    """Pauses at every data and counts what comes while paused."""

    def __init__(self):
        super().__init__()
        self.unwanted = 0

    def on_data(self, data):
        self.unwanted += not self.transport.is_reading()
        self.transport.pause_reading()


class CountingSent(Recording):
    """Defines data_sent, which is called for protocols that have it."""

    def data_sent(self, nbytes):
        with self._callback("data_sent"):
            if type(nbytes) is not int or nbytes <= 0:
                self._faults.append(f"data_sent got {nbytes!r}")
            self.sent += nbytes
            self.on_sent(nbytes)

    def on_sent(self, nbytes):
        pass


class RecordingBuffered(Recorder, asyncio.BufferedProtocol):
    """Lends its own buffer of `room` bytes to the server."""

    room = 4096

    def __init__(self):
        super().__init__()
        self.hints = []
        self._buffer = bytearray(self.room)

    def get_buffer(self, sizehint):
        with self._callback("get_buffer"):
            self.hints.append(sizehint)
            return self.lend()

    def lend(self):
        return self._buffer

    def buffer_updated(self, nbytes):
        with self._callback("buffer_updated"):
            if type(nbytes) is not int or not 0 < nbytes <= self.room:
                self._faults.append(f"buffer_updated got {nbytes!r} for a buffer of {self.room}")
            data = bytes(self._buffer[:nbytes])
            self.keep(data)
            self.on_data(data)


class EchoingBuffered(RecordingBuffered):
    """Sends back what it gets."""

    def on_data(self, data):
        self.transport.write(data)


class Plain(asyncio.Protocol):
    """A protocol that echoes and that no test keeps: its life is the server's affair alone."""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)


class Held:
    """A factory of echoing protocols; the first connection_made holds its worker up."""

    def __init__(self):
        self.entered, self.leave = threading.Event(), threading.Event()

    def __call__(self):
        held = self

        class HeldAtFirst(Echoing):
            def on_made(self):
                if not held.entered.is_set():
                    held.entered.set()
                    wait_for_event(held.leave, "the release of the held worker")

        return HeldAtFirst()
