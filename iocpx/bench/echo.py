"""Echo: every connection keeps some messages under way and sends the next one when a reply is
complete.

What a connection sends is a stream of its own, which no other connection sends and which repeats
only after an odd number of messages, so a reply that went to the wrong connection, came twice, was
left over from an earlier buffer or lost a byte differs from what is expected at that place.
"""

import random
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from . import tls
from .sockets import (
    STALL_S,
    WOULD_BLOCK,
    Failed,
    Wrong,
    connect,
    drop,
    latency_figures,
    make_poller,
)

# Bytes after which a connection's stream repeats: enough to tell messages apart,
# little enough to stay in the processor's cache.
PERIOD_BYTES = 16384
# With fewer messages per connection, fairness would be a matter of when the time was over.
FAIRNESS_MESSAGES = 10


class Connection(NamedTuple):
    """One connection, by its functions: see Echo._add."""

    sock: socket.socket
    start: Callable
    outstanding: Callable
    answered: Callable


class Echo:
    """All connections of one run, in one thread.

    seconds are wall clock; latencies are nanoseconds from just before the send
    of a message to just after the receive that completed its reply.
    context: an ssl.SSLContext, or None: no TLS.
    """

    def __init__(self, host, port, connections, size, depth, context=None):
        self.least_chunk = tls.RECORD_BYTES if context else 4096
        self.context = context
        self.size = size
        self.depth = depth
        self.sending = False
        self.latencies = []
        self.connections = []
        self.handlers = {}
        self.poller = make_poller(connections)
        for index in range(connections):
            sock = connect(host, port, index, connections)
            if context:
                sock = tls.secure(context, sock, index)
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
        chunk = min(262144, max(self.least_chunk, depth * size))
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
            except WOULD_BLOCK:
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

        All replies of the phase, late ones too, stand in self.latencies.
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
        self.in_time = [connection.answered() for connection in self.connections]
        self.elapsed_s = now - begin
        self.sending = False
        while any(connection.outstanding() for connection in self.connections):
            ready = wait(STALL_S)
            if not ready:
                self._stalled()
            for fd, events in ready:
                handlers[fd](events)

    def figures(self):
        """Of the last phase."""
        return {
            "messages": len(self.latencies),
            "rate": sum(self.in_time) / self.elapsed_s,
            "fairness": self.fairness(),
            **latency_figures(self.latencies),
        }

    def fairness(self):
        mean = sum(self.in_time) / len(self.in_time)
        return min(self.in_time) / mean if mean >= FAIRNESS_MESSAGES else None

    def _stalled(self):
        counts = [connection.outstanding() for connection in self.connections]
        waiting = sum(1 for count in counts if count)
        raise Failed(
            f"no reply for {STALL_S:g} s: {sum(counts)} messages unanswered "
            f"on {waiting} of {len(counts)} connections"
        )

    def finish(self):
        """Half-close every connection, or end its TLS: nothing but its end may come now."""
        for index, connection in enumerate(self.connections):
            sock = connection.sock
            sock.settimeout(STALL_S)
            try:
                if self.context:
                    sock = tls.end(sock)
                else:
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
            drop(connection.sock)
