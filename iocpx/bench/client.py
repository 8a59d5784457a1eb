"""The load: echo clients that check every byte, in a process of their own.

    python client.py --port N [--host H] [--connections N] [--size BYTES] [--depth N] [--seconds S]

This file is a script and uses the standard library only: it never runs in the
process of a server, and on Linux it runs natively while the server runs on a
Windows Python.

Every connection keeps `depth` messages of `size` bytes under way and sends the
next one when a reply is complete. What it sends is a stream of its own, which no
other connection sends and which repeats only after an odd number of messages, so
a reply that went to the wrong connection, came twice, was left over from an
earlier buffer or lost a byte differs from what is expected at that place.

Dialogue, one JSON object per line: after an untimed warm-up it prints
{"ready": true} and waits for a line on stdin; then it runs the timed phase,
prints the result, and waits for another line; then it sees that the connections
end as they should, prints {"finished": true} and ends with status 0. Instead of
any of these it prints {"wrong": sentence} (a reply was not what was sent) or
{"failed": sentence} (anything else) and ends with status 1.
"""

import argparse
import json
import random
import select
import signal
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

CONNECT_TIMEOUT_S = 10.0
# A server that says nothing for so long is taken for stuck.
STALL_S = 10.0
# select() on Windows takes 512 sockets, as CPython is compiled.
SELECT_LIMIT = 500
# Bytes after which a connection's stream repeats: enough to tell messages apart,
# little enough to stay in the processor's cache.
PERIOD_BYTES = 16384


class Wrong(Exception):
    """A reply was not what was sent."""


class Failed(Exception):
    """The run could not be carried out."""


class Epoll:
    """Which sockets are ready, by epoll. wait() gives (file number, events)."""

    READ = getattr(select, "EPOLLIN", 1)
    BOTH = READ | getattr(select, "EPOLLOUT", 4)

    def __init__(self):
        self._epoll = select.epoll()
        self.wait = self._epoll.poll

    def add(self, fd):
        self._epoll.register(fd, self.READ)

    def want_write(self, fd, wanted):
        self._epoll.modify(fd, self.BOTH if wanted else self.READ)


class Select:
    """The same by select(), for Windows."""

    READ = 1
    BOTH = 5

    def __init__(self):
        self._readers = []
        self._writers = []

    def add(self, fd):
        self._readers.append(fd)

    def want_write(self, fd, wanted):
        if wanted:
            self._writers.append(fd)
        else:
            self._writers.remove(fd)

    def wait(self, timeout_s):
        readable, writable, _ = select.select(self._readers, self._writers, [], timeout_s)
        if not writable:
            return [(fd, 1) for fd in readable]
        events = dict.fromkeys(readable, 1)
        for fd in writable:
            events[fd] = events.get(fd, 0) | 4
        return list(events.items())


class Connection(NamedTuple):
    """One connection, by its functions: see Load._add."""

    sock: socket.socket
    start: Callable
    outstanding: Callable
    answered: Callable


class Load:
    """All connections of one run, in one thread.

    seconds are wall clock; latencies are nanoseconds from just before the send
    of a message to just after the receive that completed its reply.
    """

    def __init__(self, host, port, connections, size, depth):
        self.size = size
        self.depth = depth
        self.sending = False
        self.latencies = []
        self.connections = []
        self.handlers = {}
        self.poller = Epoll() if hasattr(select, "epoll") else Select()
        if isinstance(self.poller, Select) and connections > SELECT_LIMIT:
            raise Failed(
                f"{connections} connections are too many: select() here takes {SELECT_LIMIT}"
            )
        for index in range(connections):
            try:
                sock = socket.create_connection((host, port), CONNECT_TIMEOUT_S)
            except OSError as error:
                raise Failed(
                    f"connection {index} of {connections} to {host} port {port}: {error}"
                ) from None
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setblocking(False)
            self._add(index, sock)

    def _add(self, index, sock):
        """Make the connection's functions: start (fill the pipe), on_event, and counts.

        They are closures because this is the client's inner loop: local and
        closure variables cost half of what attributes do.
        """
        size, depth = self.size, self.depth
        # The period is an odd number of messages. Buffers are mostly powers of
        # two, and a stale buffer must not line up with the stream by chance.
        messages = max(depth + 1, PERIOD_BYTES // size) | 1
        period = messages * size
        chunk = min(262144, max(4096, depth * size))
        once = random.Random(index).randbytes(period)
        # Longer than the period by what one call can take, so that a slice never wraps.
        extra = max(chunk, depth * size)
        stream = (once * (extra // period + 2))[: period + extra]
        send_at = 0  # place in the stream of the next byte to send
        check_at = 0  # place in the stream of the next byte to receive
        partial = 0  # bytes received of the reply under way
        unsent = None  # what the last send did not take
        replies = 0  # in this phase
        sent = deque()  # when each unanswered message was sent
        send, recv, fd = sock.send, sock.recv, sock.fileno()
        sent_add, sent_extend, sent_take = sent.append, sent.extend, sent.popleft
        clock = time.perf_counter_ns
        latency_add = self.latencies.append
        load, poller = self, self.poller

        def put(data):
            nonlocal unsent
            try:
                taken = send(data)
            except BlockingIOError:
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

        def send_messages(count, now):
            nonlocal send_at, unsent
            if count == 1:
                sent_add(now)
            else:
                sent_extend([now] * count)
            end = send_at + count * size
            data = stream[send_at:end]
            send_at = end if end < period else end % period
            if unsent is None:
                put(data)
            else:
                unsent = memoryview(bytes(unsent) + data)

        def on_event(events):
            nonlocal check_at, partial, replies
            if events != 1:
                if events & 4 and unsent is not None:
                    put(unsent)
                if not events & ~4:
                    return
            try:
                data = recv(chunk)
            except BlockingIOError:
                return
            except OSError as error:
                raise Failed(f"connection {index}: receive: {error}") from None
            count = len(data)
            end = check_at + count
            if data != stream[check_at:end] or not data:
                refuse(data)
            check_at = end if end < period else end % period
            partial += count
            if partial < size:
                return
            now = clock()
            if partial == size:
                done = 1
                partial = 0
            else:
                done, partial = divmod(partial, size)
            if done > len(sent):
                raise Wrong(f"connection {index}: more replies than messages")
            replies += done
            for _ in range(done):
                latency_add(now - sent_take())
            if load.sending:
                send_messages(done, now)

        def refuse(data):
            if not data:
                raise Failed(
                    f"connection {index}: the server closed it with {len(sent)} messages unanswered"
                )
            expected = stream[check_at : check_at + len(data)]
            at = next(i for i, (a, b) in enumerate(zip(data, expected)) if a != b)
            raise Wrong(
                f"connection {index}: byte {(partial + at) % size} of a reply of {size} bytes is "
                f"0x{data[at]:02x} where 0x{expected[at]:02x} was sent"
            )

        def start():
            nonlocal replies
            replies = 0
            send_messages(depth, clock())

        def outstanding():
            return len(sent)

        def answered():
            return replies

        self.handlers[fd] = on_event
        self.connections.append(Connection(sock, start, outstanding, answered))
        self.poller.add(fd)

    def phase(self, seconds):
        """Run for so many seconds, then take the replies still under way.

        Returns (replies within the time on each connection, the time they took
        in seconds). All replies of the phase, late ones too, stand in self.latencies.
        """
        self.latencies.clear()
        handlers, wait, clock = self.handlers, self.poller.wait, time.perf_counter
        self.sending = True
        begin = clock()
        deadline = begin + seconds
        for connection in self.connections:
            connection.start()
        now = clock()
        while now < deadline:
            # A stuck server is noticed after the phase, or here when the phase is long.
            timeout_s = min(deadline - now, STALL_S)
            ready = wait(timeout_s)
            if not ready and timeout_s == STALL_S:
                self._stalled()
            for fd, events in ready:
                handlers[fd](events)
            now = clock()
        in_time = [connection.answered() for connection in self.connections]
        elapsed_s = now - begin
        self.sending = False
        while any(connection.outstanding() for connection in self.connections):
            ready = wait(STALL_S)
            if not ready:
                self._stalled()
            for fd, events in ready:
                handlers[fd](events)
        return in_time, elapsed_s

    def _stalled(self):
        counts = [connection.outstanding() for connection in self.connections]
        waiting = sum(1 for count in counts if count)
        raise Failed(
            f"no reply for {STALL_S:g} s: {sum(counts)} messages unanswered "
            f"on {waiting} of {len(counts)} connections"
        )

    def finish(self):
        """Half-close every connection: nothing but its end may come now."""
        for index, connection in enumerate(self.connections):
            sock = connection.sock
            sock.settimeout(STALL_S)
            try:
                sock.shutdown(socket.SHUT_WR)
                surplus = sock.recv(65536)
            except TimeoutError:
                raise Failed(
                    f"connection {index}: the server did not close it within {STALL_S:g} s "
                    "of its end of stream"
                ) from None
            except OSError as error:
                raise Failed(f"connection {index}: after its end of stream: {error}") from None
            if surplus:
                raise Wrong(
                    f"connection {index}: {len(surplus)} bytes came that nobody had asked for"
                )
            sock.close()

    def abort(self):
        """Drop the connections at once, with a reset: the run is lost."""
        for connection in self.connections:
            connection.sock.setsockopt(
                socket.SOL_SOCKET,
                socket.SO_LINGER,
                struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0),
            )
            connection.sock.close()


def percentile(ordered, part):
    """The value below which `part` (0 to 1) of the sorted, non-empty list lies."""
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def tell(**fields):
    print(json.dumps(fields), flush=True)


def run(args):
    load = None
    try:
        load = Load(args.host, args.port, args.connections, args.size, args.depth)
        load.phase(args.warmup)
        tell(ready=True)
        if not sys.stdin.readline():
            raise Failed("nobody said go")
        cpu_before_s = time.process_time()
        in_time, elapsed_s = load.phase(args.seconds)
        cpu_s = time.process_time() - cpu_before_s
        ordered = sorted(load.latencies)
        tell(
            messages=len(ordered),
            messages_per_s=sum(in_time) / elapsed_s,
            p50_us=percentile(ordered, 0.50) / 1e3,
            p99_us=percentile(ordered, 0.99) / 1e3,
            p999_us=percentile(ordered, 0.999) / 1e3,
            fairness=min(in_time) * len(in_time) / max(1, sum(in_time)),
            client_busy=cpu_s / elapsed_s,
        )
        # What the server does from here on is not of the timed phase.
        sys.stdin.readline()
        load.finish()
        tell(finished=True)
    except (Wrong, Failed) as error:
        tell(**{type(error).__name__.lower(): str(error)})
        if load is not None:
            load.abort()
        return 1
    return 0


def main():
    parser = argparse.ArgumentParser(
        description="Load an echo server and check every byte of its replies."
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--connections", type=int, default=50)
    parser.add_argument("--size", type=int, default=64, help="bytes per message")
    parser.add_argument("--depth", type=int, default=1, help="messages under way per connection")
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--warmup", type=float, default=0.3, help="untimed seconds before")
    # Ctrl+C reaches the whole terminal; the process that started this one decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return run(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
