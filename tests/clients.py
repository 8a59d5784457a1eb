"""Blocking clients, one or very many, and echoes asked for again and again."""

import contextlib
import select
import socket
import struct
import sys
import threading
import time

from payload import Keeps, assert_same_bytes, pieces
from waiting import WAIT_S, clock, run_together

# So much goes into the kernel's buffers though nobody reads meanwhile.
SMALL_BYTES = 16384
# The most that a client asks for: Wine touches all of the memory that is there for it, however
# little has come.
AT_ONCE = 1 << 16


def limit_waits(sock):
    """Calls of the connected socket that would take longer than WAIT_S raise TimeoutError.

    By the system: with a timeout of Python's, each call would be two.
    """
    sock.settimeout(None)
    limit = WAIT_S * 1000 if sys.platform == "win32" else struct.pack("ll", WAIT_S, 0)
    for name in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        sock.setsockopt(socket.SOL_SOCKET, name, limit)


class Client:
    """A blocking TCP client. Thread: one for sending and one for reading at a time."""

    def __init__(self, address):
        host, port = address[:2]
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        self.sock = socket.create_connection((host, port), timeout=WAIT_S)
        limit_waits(self.sock)
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
        got = Keeps()
        while (left := size - got.kept_bytes) > 0:
            data = self._read(min(left, AT_ONCE), got.kept_bytes)
            assert data, f"the server ended the stream after {got.kept_bytes} of {size} bytes"
            got.keep(data)
        return got.received

    def read_to_end(self):
        """Everything up to the clean end of the stream; a reset is raised as ConnectionError."""
        got = Keeps()
        while data := self._read(AT_ONCE, got.kept_bytes):
            got.keep(data)
        return got.received

    def read_until_gone(self, at_most=sys.maxsize):
        """Everything up to the end of the connection, be it the end of the stream or a reset.

        Which of the two a client sees after an abort is not the server's doing alone: Windows
        reports the reset (10054), while Wine 8 shows a client under Wine a plain end of stream.
        The tests accept both.
        """
        got = Keeps()
        with contextlib.suppress(ConnectionError):
            while got.kept_bytes < at_most and (
                data := self._read(min(at_most - got.kept_bytes, AT_ONCE), got.kept_bytes)
            ):
                got.keep(data)
        return got.received

    def exchange(self, chunks, size=None):
        """Send the chunks and read as many bytes (or `size`) meanwhile; return what was read."""
        chunks = list(chunks)
        replies = []

        def send_all():
            for chunk in chunks:
                self.send(chunk)

        sent = sum(map(len, chunks))
        total = sent if size is None else size
        if sent <= SMALL_BYTES:
            send_all()
            return self.read_exactly(total)
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


def assert_all_comes_to_a_slow_reader(begin, wanted, pause_s, most_s, send=b""):
    """`begin()` returns a client and the protocol of a connection that is closing: the client reads
    16 KiB at a time, with pauses, sending something after each, and all that it should gets there.

    An attempt that fails while the reader was held up for more than `most_s` proves nothing: the
    machine stood still. Another one is made.
    """
    pause = threading.Event()
    for _ in range(10):
        client, protocol = begin()
        got, longest, last, ended = Keeps(), 0.0, clock(), False
        with contextlib.suppress(ConnectionError):
            while data := client.sock.recv(16384):
                longest, last = max(longest, clock() - last), clock()
                got.keep(data)
                if send:
                    client.send_until_refused(send)
                pause.wait(pause_s)
            ended = True
        if (ended and got.received == wanted) or max(longest, clock() - last) < most_s:
            break
    assert_same_bytes(got.received, wanted)
    assert ended, "it was reset"
    client.close()
    protocol.wait_for("connection_lost")
    assert protocol.lost_with is None


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


def connect_all(address, count):
    """`count` connections to `address`, asked for before the first of them is waited for.

    Returns blocking sockets.
    """
    socks = []
    for _ in range(count):
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setblocking(False)
        sock.connect_ex(address)
        socks.append(sock)
    for start in range(0, count, 500):
        # Windows lets select() look at 512 sockets.
        waiting = socks[start : start + 500]
        limit = time.monotonic() + WAIT_S
        while waiting:
            left = limit - time.monotonic()
            assert left > 0, f"{len(waiting)} of {count} connects did not end within {WAIT_S} s"
            _, done, failed = select.select([], waiting, waiting, left)
            for sock in failed:
                error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                raise AssertionError(f"a connect failed with {error}")
            waiting = [sock for sock in waiting if sock not in set(done)]
    for sock in socks:
        limit_waits(sock)
    return socks


# How often one connection sends one message and waits for its echo, where a test wants to see that
# something does not happen: each round makes the workers look at the port several times.
ROUNDS = 200


def echo_rounds(client, rounds=ROUNDS, message=b"round"):
    """Send a message and wait for its echo, again and again."""
    for _ in range(rounds):
        client.send(message)
        assert_same_bytes(client.read_exactly(len(message)), message)


def echo_until(client, condition, what):
    """Echo rounds until `condition()` holds; `what` completes the sentence "... did not happen".

    For what no callback tells of. Every look at the condition is one exchange with the server, so
    nothing here depends on how long a look may take.
    """
    limit = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < limit, f"{what} did not happen within {WAIT_S} s"
        echo_rounds(client, 1)


def send_to_one_that_pauses(client, protocol, data):
    """Send the data, and the end, to a PausesOften; it is resumed after each pause."""

    def send():
        for piece in pieces(data, 40):
            client.send(piece)
        client.half_close()

    def resume():
        turn, done = 0, protocol.finished
        while not done["eof_received"]:
            turn += 1
            protocol.wait_until(
                lambda turn=turn: done["data_received"] >= turn or done["eof_received"],
                f"data number {turn} or the end of the stream",
            )
            protocol.transport.resume_reading()

    run_together(send, resume)
    protocol.wait_for("connection_lost")
    assert_same_bytes(protocol.received, data)
    assert protocol.unwanted == 0
