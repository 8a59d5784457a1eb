"""What every load is made of: connecting, waiting for many sockets, dropping them, failing."""

import select
import socket
import ssl
import struct
import sys

CONNECT_TIMEOUT_S = 10.0
# A server that says nothing for so long is taken for stuck.
STALL_S = 10.0
# select() on Windows takes 512 sockets, as CPython is compiled.
SELECT_LIMIT = 500


# What a socket that does not block raises where it would, without TLS and with.
WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


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

    def remove(self, fd):
        self._epoll.unregister(fd)

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

    def remove(self, fd):
        self._readers.remove(fd)

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


def make_poller(connections):
    if hasattr(select, "epoll"):
        return Epoll()
    if connections > SELECT_LIMIT:
        raise Failed(f"{connections} connections are too many: select() here takes {SELECT_LIMIT}")
    return Select()


def source_address(host, index):
    """Where the connection comes from: loopback has many addresses, each with all its ports, so
    that those of closed connections, which rest for a minute, are not missed."""
    return (f"127.0.{index // 250 % 250}.{index % 250 + 1}", 0) if host == "127.0.0.1" else None


def connect(host, port, index, connections):
    """A blocking socket with a timeout."""
    source = source_address(host, index)
    try:
        sock = socket.create_connection((host, port), CONNECT_TIMEOUT_S, source)
    except OSError as error:
        raise Failed(
            f"connection {index} of {connections} to {host} port {port}: {error}"
        ) from None
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def drop(sock):
    """Close with a reset, at once."""
    linger = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    sock.close()


def latency_figures(latencies_ns):
    ordered = sorted(latencies_ns)
    return {
        "p50_us": percentile(ordered, 0.50) / 1e3,
        "p99_us": percentile(ordered, 0.99) / 1e3,
        "p999_us": percentile(ordered, 0.999) / 1e3,
    }


def percentile(ordered, part):
    """The value below which `part` (0 to 1) of the sorted, non-empty list lies."""
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]
