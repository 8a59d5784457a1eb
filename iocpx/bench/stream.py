"""One-way streaming: as many blocks as go, to the server (In) or from it (Out), every byte checked
by the side that receives it."""

import socket
import time

from . import tls
from .pattern import BLOCK_BYTES, HEADER, PATTERN, PERIOD, VERDICT, Check, Different, start_of
from .sockets import STALL_S, WOULD_BLOCK, Failed, Wrong, connect, drop, make_poller

# Bytes do not count before, while the buffers on the way fill or empty.
RAMP_S = 0.1
CLOSED = "the server closed it in the middle of the stream"
RECEIVE_BYTES = 4 * BLOCK_BYTES


class Stream:
    """Both directions. handler(index, sock) makes a connection's functions: on_event, and the count
    of its bytes so far. context: an ssl.SSLContext, or None: no TLS."""

    def __init__(self, host, port, connections, size, depth, context=None):
        self.block_bytes = size
        self.socks = []
        self.handlers = {}
        self.counts = []
        self.poller = make_poller(connections)
        for index in range(connections):
            sock = connect(host, port, index, connections)
            if context:
                sock = tls.secure(context, sock, index)
            self.socks.append(sock)
            sock.sendall(HEADER.pack(start_of(index)))
            sock.setblocking(False)
            on_event, count = self.handler(index, sock)
            self.handlers[sock.fileno()] = on_event
            self.counts.append(count)
            self.poller.add(sock.fileno())
            if self.writes:
                self.poller.want_write(sock.fileno(), True)

    def phase(self, seconds):
        """Run for so many seconds that count; what was sent may still be under way then."""
        total_before = sum(count() for count in self.counts)
        self._pump(RAMP_S)
        before = [count() for count in self.counts]
        self.elapsed_s = self._pump(seconds)
        after = [count() for count in self.counts]
        self.in_time = [b - a for a, b in zip(before, after)]
        self.total_bytes = sum(after) - total_before

    def _pump(self, seconds):
        handlers, wait, clock = self.handlers, self.poller.wait, time.perf_counter
        begin = now = clock()
        while now < begin + seconds:
            ready = wait(STALL_S)
            if not ready:
                raise Failed(f"no byte went for {STALL_S:g} s on {len(handlers)} connections")
            for fd, events in ready:
                handlers[fd](events)
            now = clock()
        return now - begin

    def figures(self):
        """Of the last phase; a message is a block."""
        mean = sum(self.in_time) / len(self.in_time)
        return {
            "messages": self.total_bytes / self.block_bytes,
            "rate": sum(self.in_time) / 1e6 / self.elapsed_s,
            "fairness": min(self.in_time) / max(1, mean),
        }

    def abort(self):
        for sock in self.socks:
            drop(sock)


class In(Stream):
    writes = True

    def handler(self, index, sock):
        stream = memoryview(PATTERN)
        at, count, size = start_of(index), 0, self.block_bytes
        send = sock.send

        def on_event(events):
            nonlocal at, count
            if events & 1:
                self.verdict(index, sock, None)
            try:
                sent = send(stream[at : at + size])
            except BlockingIOError:
                return
            except OSError as error:
                raise Failed(f"connection {index}: send: {error}") from None
            at = (at + sent) % PERIOD
            count += sent

        return on_event, lambda: count

    def verdict(self, index, sock, count):
        """What the server says: unasked, that a byte was wrong; at the end how many came."""
        said = sock.recv(VERDICT.size)
        if len(said) < VERDICT.size:
            raise Failed(f"connection {index}: {CLOSED}")
        (number,) = VERDICT.unpack(said)
        if number < 0:
            place = -1 - number
            raise Wrong(f"connection {index}: the server got byte {place} of its stream wrong")
        if number != count:
            raise Wrong(f"connection {index}: {count} bytes were sent, the server got {number}")

    def finish(self):
        """Half-close every connection and hear what the server made of its stream."""
        for index, (sock, count) in enumerate(zip(self.socks, self.counts)):
            sock.settimeout(STALL_S)
            try:
                sock.shutdown(socket.SHUT_WR)
                self.verdict(index, sock, count())
                if sock.recv(1):
                    raise Wrong(f"connection {index}: bytes came that nobody had asked for")
            except OSError as error:
                raise Failed(f"connection {index}: after its end of stream: {error}") from None
            sock.close()


class Out(Stream):
    writes = False

    def handler(self, index, sock):
        check = Check(start_of(index))
        buffer = memoryview(bytearray(RECEIVE_BYTES))
        receive = sock.recv_into

        def on_event(events):
            try:
                count = receive(buffer)
            except WOULD_BLOCK:
                return
            except OSError as error:
                raise Failed(f"connection {index}: receive: {error}") from None
            if not count:
                raise Failed(f"connection {index}: {CLOSED}")
            try:
                check.take(buffer[:count])
            except Different as different:
                raise Wrong(
                    f"connection {index}: byte {different} of its stream is wrong"
                ) from None

        return on_event, lambda: check.count

    def finish(self):
        """The servers send until they cannot."""
        self.abort()
