"""Churn: connect, with TLS a handshake, echo one message, close, and again, so many at a time."""

import contextlib
import random
import socket
import time

from .sockets import (
    STALL_S,
    WOULD_BLOCK,
    Failed,
    Wrong,
    drop,
    latency_figures,
    make_poller,
    source_address,
)
from .tls import NAME

# Client addresses among which the connections are spread.
ADDRESSES = 250


class Churn:
    """Latencies are of the whole cycle: from the connect to the server's end of stream, which it
    sends upon the client's.

    context: an ssl.SSLContext, or None: no TLS.
    """

    def __init__(self, host, port, connections, size, depth, context=None):
        self.context = context
        self.address = (host, port)
        self.at_a_time = connections
        self.size = size
        self.cycles = 0
        self.messages = random.Random(1).randbytes(size + 65536)
        self.open = {}  # file number: socket
        self.handlers = {}
        self.poller = make_poller(connections)
        self.latencies = []

    def _start(self):
        index = self.cycles
        self.cycles += 1
        clock = time.perf_counter_ns
        poller, size = self.poller, self.size
        begin = index * 61 % 65536
        message = self.messages[begin : begin + size]
        sock = socket.socket()
        fd = sock.fileno()
        self.open[fd] = sock
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        source = source_address(self.address[0], index % ADDRESSES)
        if source:
            sock.bind(source)
        reply = b""
        unsent = message
        # What comes before the message, and behind its reply: steps of TLS.
        shaking = self.context is not None
        ending = False
        context = self.context
        began = clock()
        with contextlib.suppress(BlockingIOError):
            sock.connect(self.address)
        poller.add(fd)
        poller.want_write(fd, True)

        def on_event(events):
            nonlocal sock, reply, unsent, shaking, ending
            try:
                if shaking:
                    if not hasattr(sock, "context"):
                        # Connected only now, which a socket with TLS has to be.
                        self.open[fd] = sock = context.wrap_socket(
                            sock, do_handshake_on_connect=False, server_hostname=NAME
                        )
                        poller.want_write(fd, False)
                    sock.do_handshake()
                    shaking = False
                    poller.want_write(fd, True)
                    return
                if ending:
                    # Their close_notify; the end of the connection comes behind it.
                    self.open[fd] = sock = sock.unwrap()
                    ending = False
                    return
                if unsent:
                    # Raises what the connect came to, if it failed.
                    unsent = unsent[sock.send(unsent) :]
                    if not unsent:
                        poller.want_write(fd, False)
                    return
                data = sock.recv(65536)
            except WOULD_BLOCK:
                return
            except OSError as error:
                raise Failed(f"connection {index}: {error}") from None
            if data:
                reply += data
                if not message.startswith(reply):
                    raise Wrong(f"connection {index}: its reply is not what was sent")
                if len(reply) == size:
                    if context is None:
                        sock.shutdown(socket.SHUT_WR)
                    else:
                        ending = True
                        on_event(1)
                return
            if len(reply) < size:
                raise Failed(f"connection {index}: the server closed it before its reply")
            self.latencies.append(clock() - began)
            poller.remove(fd)
            del self.open[fd], self.handlers[fd]
            sock.close()
            if self.starting:
                self._start()

        self.handlers[fd] = on_event

    def phase(self, seconds):
        """Run for so many seconds, then let the connections under way come to their end."""
        self.latencies.clear()
        self.starting = True
        clock = time.perf_counter
        begin = now = clock()
        for _ in range(self.at_a_time):
            self._start()
        while now < begin + seconds:
            self._step()
            now = clock()
        self.in_time, self.elapsed_s = len(self.latencies), now - begin
        self.starting = False
        while self.open:
            self._step()

    def _step(self):
        ready = self.poller.wait(STALL_S)
        if not ready:
            raise Failed(f"no connection came forward for {STALL_S:g} s, {len(self.open)} are open")
        for fd, events in ready:
            self.handlers[fd](events)

    def figures(self):
        """Of the last phase; a message is a connection."""
        return {
            "messages": len(self.latencies),
            "rate": self.in_time / self.elapsed_s,
            **latency_figures(self.latencies),
        }

    def finish(self):
        """Nothing is left open."""

    def abort(self):
        for sock in self.open.values():
            drop(sock)
