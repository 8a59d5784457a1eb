"""What the tests on real sockets share: clients, recording protocols, a server's books.

Every wait in here has a limit and fails with a sentence; nothing sleeps.
"""

import asyncio
import collections
import contextlib
import gc
import queue
import random
import socket
import struct
import subprocess
import sys
import threading

# How long anything may take before a test calls it lost, in seconds. Far above what is needed: it
# measures nothing.
WAIT_S = 30

# More bytes than the kernels of both ends of a connection take in on their own: a server that wrote
# this much to a client that does not read is sure to have data left in its own queue.
MORE_THAN_THE_KERNEL_TAKES = 16 << 20


def pattern(size, seed=0):
    """`size` bytes that depend on their place, so that lost, doubled and swapped pieces show."""
    return random.Random(seed).randbytes(size)


def pieces(data, cuts, seed=0):
    """`data` in `cuts` + 1 pieces (fewer where it is too short), cut at random places."""
    cuts = min(cuts, len(data) - 1)
    places = sorted(random.Random(seed).sample(range(1, len(data)), cuts)) if cuts > 0 else []
    return [data[start:end] for start, end in zip([0, *places], [*places, len(data)])]


def assert_same_bytes(got, wanted):
    """Like ==, but says where megabytes differ instead of printing them."""
    if got == wanted:
        return
    shorter = min(len(got), len(wanted))
    place = next((i for i in range(shorter) if got[i] != wanted[i]), shorter)
    raise AssertionError(
        f"{len(got)} bytes came, {len(wanted)} were expected; first difference at {place}: "
        f"{bytes(got[place : place + 16])!r} instead of {bytes(wanted[place : place + 16])!r}"
    )


def wait_for_event(event, what):
    """Wait for a threading.Event; `what` completes the sentence "... did not happen"."""
    assert event.wait(WAIT_S), f"{what} did not happen within {WAIT_S} s"


def take(items, what):
    """The next item of a queue; `what` completes the sentence "... did not come"."""
    try:
        return items.get(timeout=WAIT_S)
    except queue.Empty:
        raise AssertionError(f"{what} did not come within {WAIT_S} s") from None


def run_together(*functions):
    """Run the functions at the same time, each in a thread; raise the first error of theirs."""
    errors = []

    def guarded(function):
        try:
            function()
        except BaseException as error:
            errors.append(error)

    threads = [
        threading.Thread(target=guarded, args=(function,), daemon=True) for function in functions
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(4 * WAIT_S)
        assert not thread.is_alive(), f"a thread of the test did not end within {4 * WAIT_S} s"
    if errors:
        raise errors[0]


def in_turn(*factories):
    """A protocol factory that calls each of the factories once, one for each connection."""
    left = iter(factories)

    def factory():
        return next(left)()

    return factory


def has_ipv6():
    """Whether this machine can listen on ::1."""
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


class Client:
    """A blocking TCP client. Thread: one for sending and one for reading at a time."""

    def __init__(self, address):
        host, port = address[:2]
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        self.sock = socket.create_connection((host, port), timeout=WAIT_S)
        self.address = self.sock.getsockname()

    def send(self, data):
        try:
            self.sock.sendall(data)
        except TimeoutError:
            raise AssertionError(f"the server took no more data for {WAIT_S} s") from None

    def send_until_refused(self, data):
        """Send `data`, or as much of it as goes before the connection breaks."""
        with contextlib.suppress(ConnectionError):
            self.send(data)

    def _read(self, most, had):
        try:
            return self.sock.recv(most)
        except TimeoutError:
            raise AssertionError(
                f"after {had} bytes nothing more came from the server for {WAIT_S} s"
            ) from None

    def read_exactly(self, size):
        """The next `size` bytes."""
        got = bytearray()
        while len(got) < size:
            data = self._read(min(size - len(got), 1 << 18), len(got))
            assert data, f"the server ended the stream after {len(got)} of {size} bytes"
            got += data
        return bytes(got)

    def read_to_end(self):
        """Everything up to the clean end of the stream; a reset is raised as ConnectionError."""
        got = bytearray()
        while data := self._read(1 << 18, len(got)):
            got += data
        return bytes(got)

    def read_until_gone(self, at_most=sys.maxsize):
        """Everything up to the end of the connection, be it the end of the stream or a reset.

        Which of the two a client sees after an abort is not the server's doing alone: Windows
        reports the reset (10054), while Wine 8 shows a client under Wine a plain end of stream.
        The tests accept both.
        """
        got = bytearray()
        with contextlib.suppress(ConnectionError):
            while len(got) < at_most and (
                data := self._read(min(at_most - len(got), 1 << 18), len(got))
            ):
                got += data
        return bytes(got)

    def exchange(self, chunks, size=None):
        """Send the chunks and read as many bytes (or `size`) meanwhile; return what was read."""
        chunks = list(chunks)
        replies = []

        def send_all():
            for chunk in chunks:
                self.send(chunk)

        total = sum(map(len, chunks)) if size is None else size
        run_together(send_all, lambda: replies.append(self.read_exactly(total)))
        return replies[0]

    def half_close(self):
        """Say that no more data will come; reading goes on."""
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self):
        """Close with a RST."""
        self.sock.setsockopt(
            socket.SOL_SOCKET,
            socket.SO_LINGER,
            struct.pack("HH" if sys.platform == "win32" else "ii", 1, 0),
        )
        self.sock.close()

    def close(self):
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Recorder:
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
        self.transport = None
        self.events = []
        self.received = bytearray()
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
                self.finished["received"] = len(self.received)
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
            self.received += data
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
            self.received += data
            self.on_data(data)


class EchoingBuffered(RecordingBuffered):
    """Sends back what it gets."""

    def on_data(self, data):
        self.transport.write(data)


class Served:
    """A started server with its clients, the protocols it made and the errors it reported."""

    def __init__(
        self,
        protocol_factory,
        host="127.0.0.1",
        port=0,
        *,
        started=True,
        exception_handler=None,
        **parameters,
    ):
        import iocpx

        self.protocols = []
        self.errors = queue.Queue()
        self._made = queue.Queue()
        self._clients = []
        native = protocol_factory is iocpx.native.Echo
        self.server = iocpx.Server(
            protocol_factory if native else self._recorded(protocol_factory),
            host,
            port,
            exception_handler=exception_handler or self.errors.put,
            **parameters,
        )
        if started:
            self.server.start()

    def _recorded(self, protocol_factory):
        # A function and no method: the server must not be kept alive by what it keeps alive itself.
        protocols, made = self.protocols, self._made

        def factory():
            protocol = protocol_factory()
            if issubclass(type(protocol), Recorder):  # a proxy may not like isinstance()
                protocols.append(protocol)
                made.put(protocol)
            return protocol

        return factory

    def connect(self, address=None):
        """A new client of this server."""
        client = Client(address or self.server.address)
        self._clients.append(client)
        return client

    def connect_in_vain(self, ask=b""):
        """Connect to a server that drops its clients, before or after `ask` was sent.

        Return what still came from it.
        """
        try:
            client = self.connect()
        except (ConnectionResetError, ConnectionAbortedError):
            # Dropped already while connect() looked at the result.
            return b""
        client.send_until_refused(ask)
        return client.read_until_gone()

    def open(self, address=None):
        """A new client and the recording protocol made for it, its connection_made done.

        Only for one client at a time: the next protocol made is taken for this client's.
        """
        client = self.connect(address)
        protocol = take(self._made, "the protocol of a new connection")
        protocol.wait_for("connection_made")
        return client, protocol

    def take_error(self):
        """The next context that the server gave to its exception handler."""
        return take(self.errors, "a call of the exception handler")

    def assert_serving(self, size=1000):
        """Ask a server that echoes for one more echo, on a new connection."""
        with self.connect() as client:
            data = pattern(size, seed=size)
            assert_same_bytes(client.exchange([data]), data)

    def hang_up(self):
        """Close all clients."""
        for client in self._clients:
            client.close()
        self._clients.clear()

    def finish(self):
        """Stop the server and assert that nothing is left behind."""
        self.hang_up()
        self.server.close()
        assert self.server.wait_closed(2 * WAIT_S) is True, (
            f"the server did not stop within {2 * WAIT_S} s: {self.server.stats()}"
        )
        assert_balanced(self.server)
        for protocol in self.protocols:
            protocol.check()
        assert self.errors.empty(), f"an error that no test asked for: {self.errors.get()}"


def assert_balanced(server):
    """The ledger of a stopped server."""
    stats = server.stats()
    assert stats["ops_posted"] == stats["ops_completed"], stats
    assert stats["sockets_opened"] == stats["sockets_closed"], stats
    assert stats["connections_made"] == stats["connections_retired"], stats
    assert stats["connections_now"] == 0, stats
    assert stats["buffers_out"] == 0, stats
    assert server.connection_count == 0
    assert server.sockets == ()
    assert server.is_serving() is False


def collect():
    """Run the garbage collector to its end: finalisers can leave new garbage behind."""
    for _ in range(3):
        gc.collect()


def connect_until_refused(address):
    """Assert that nobody listens at `address`, or soon will not any more.

    A listener that is being closed may still let a client in and drop it; each such client waits to
    be dropped.
    """
    for _ in range(100):
        try:
            with Client(address) as client:
                client.read_until_gone()
        except OSError:
            return
    raise AssertionError(f"{address} still accepts connections")


class Script:
    """A Python program in a process of its own, fed and read through pipes."""

    def __init__(self, program, *arguments):
        # Pipes for all three: an interpreter under Wine does not start with a regular file as a
        # standard stream.
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._lines = queue.Queue()
        self._errors = []
        self._readers = [
            threading.Thread(target=self._read_lines, daemon=True),
            threading.Thread(target=self._read_errors, daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def _read_lines(self):
        for line in self.process.stdout:
            self._lines.put(line.rstrip("\r\n"))
        self._lines.put(None)  # the end of the output

    def _read_errors(self):
        self._errors.append(self.process.stderr.read())

    def read_line(self):
        """The next line of the program's output."""
        with contextlib.suppress(queue.Empty):
            line = self._lines.get(timeout=WAIT_S)
            if line is not None:
                return line
        self.kill()
        self._readers[1].join(WAIT_S)
        raise AssertionError(
            f"the program ended, or printed no line for {WAIT_S} s; on stderr: {self._errors}"
        )

    def read_address(self):
        """The (host, port) that the program prints as one line."""
        host, port = self.read_line().split()
        return host, int(port)

    def tell(self, line=""):
        """Give the program one line on its standard input."""
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def finish(self):
        """Wait for the end; return the exit code, the rest of stdout as lines, and stderr."""
        try:
            self.process.wait(2 * WAIT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"the program did not end within {2 * WAIT_S} s") from None
        for reader in self._readers:
            reader.join(WAIT_S)
        self.process.stdin.close()
        rest = list(iter(self._lines.get_nowait, None))
        return self.process.returncode, rest, "".join(self._errors)

    def kill(self):
        """End the program, if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(WAIT_S)

    def discard(self):
        """End the program and close its pipes."""
        self.kill()
        for reader in self._readers:
            reader.join(WAIT_S)
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            with contextlib.suppress(OSError, ValueError):
                pipe.close()
