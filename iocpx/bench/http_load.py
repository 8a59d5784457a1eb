"""HTTP: every connection has one request under way, and checks every byte of the answer's body."""

import time

from .echo import Connection, Echo
from .pattern import body
from .sockets import WOULD_BLOCK, Failed, Wrong

HEAD_END = b"\r\n\r\n"
MAX_HEAD_BYTES = 65536
# So many different heads are remembered as right: they differ by their date alone.
HEADS = 100


class Http(Echo):
    """An echo's load, but what is sent is a request and the reply is an answer."""

    def __init__(self, host, port, connections, size, depth, context=None):
        self.request, self.body = self.exchange(size)
        self.heads = set()
        super().__init__(host, port, connections, size, depth, context)

    def _add(self, index, sock):
        """Make the connection's functions, as Echo has them: closures, since they are the inner
        loop."""
        request, expected, heads = self.request, self.body, self.heads
        size, chunk = len(expected), min(262144, max(self.least_chunk, len(expected)))
        head = b""  # of an answer whose head is not complete
        at = None  # bytes of the answer's body so far; None: its head is not complete
        unsent = None  # what the last send did not take
        sent_at = None  # when the request was sent; None: there is none under way
        replies = 0  # in this phase
        send, recv, fd = sock.send, sock.recv, sock.fileno()
        starts_with, clock, latency_add = (
            expected.startswith,
            time.perf_counter_ns,
            self.latencies.append,
        )
        load, poller = self, self.poller

        def put(data):
            nonlocal unsent
            try:
                taken = send(data)
            except WOULD_BLOCK:
                taken = 0
            except OSError as error:
                raise Failed(f"connection {index}: send: {error}") from None
            if taken != len(data):
                if unsent is None:
                    poller.want_write(fd, True)
                unsent = memoryview(data)[taken:]
            elif unsent is not None:
                poller.want_write(fd, False)
                unsent = None

        def start():
            nonlocal replies
            replies = 0
            ask(clock())

        def ask(now):
            nonlocal sent_at
            sent_at = now
            put(request)

        def on_event(events):
            nonlocal head, at, sent_at, replies
            if events != 1:
                if events & 4 and unsent is not None:
                    put(unsent)
                if not events & ~4:
                    return
            try:
                data = recv(chunk)
            except WOULD_BLOCK:
                return
            except OSError as error:
                raise Failed(f"connection {index}: receive: {error}") from None
            if not data:
                raise Failed(f"connection {index}: the server closed it, its request unanswered")
            if sent_at is None:
                raise Wrong(f"connection {index}: {len(data)} bytes came that nobody had asked for")
            if at is None:
                head += data
                end = head.find(HEAD_END)
                if end < 0:
                    if len(head) > MAX_HEAD_BYTES:
                        raise Wrong(f"connection {index}: its answer's head has no end")
                    return
                if head[:end] not in heads:
                    load.check_head(index, head[:end])
                data, head, at = head[end + len(HEAD_END) :], b"", 0
            if not starts_with(data, at):
                raise Wrong(
                    f"connection {index}: {at} bytes of its answer's body were right, what came "
                    f"then is not: {data[:80]!r}"
                )
            at += len(data)
            if at < size:
                return
            if unsent is not None:
                raise Wrong(f"connection {index}: an answer came before the request had gone out")
            now = clock()
            latency_add(now - sent_at)
            replies += 1
            at = sent_at = None
            if load.sending:
                ask(now)

        def outstanding():
            return sent_at is not None

        def answered():
            return replies

        self.handlers[fd] = on_event
        self.connections.append(Connection(sock, start, outstanding, answered))
        self.poller.add(fd)

    def check_head(self, index, head):
        status, *lines = head.split(b"\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in lines if b": " in line)
        length = b"%d" % len(self.body)
        if not status.startswith(b"HTTP/1.1 200 ") or fields.get(b"content-length") != length:
            raise Wrong(
                f"connection {index}: its answer, of which {len(self.body)} bytes were expected, "
                f"begins with {head!r}"
            )
        if len(self.heads) >= HEADS:
            self.heads.clear()
        self.heads.add(head)


class Get(Http):
    @staticmethod
    def exchange(size):
        """The request, and the body of its answer."""
        return b"GET /%d HTTP/1.1\r\nHost: benchmark\r\n\r\n" % size, body(size)


class Hello(Http):
    """What examples/cython_handler answers, and benchmarks/ceiling.c with --http."""

    @staticmethod
    def exchange(size):
        answer = b"Hello, world!"
        if size != len(answer):
            raise ValueError(f"size must be {len(answer)}, got {size}")
        return b"GET / HTTP/1.1\r\nHost: benchmark\r\n\r\n", answer


class Post(Http):
    @staticmethod
    def exchange(size):
        head = (
            b"POST / HTTP/1.1\r\nHost: benchmark\r\nContent-Type: application/octet-stream\r\n"
            b"Content-Length: %d\r\n\r\n" % size
        )
        return head + body(size), b"%d" % size
