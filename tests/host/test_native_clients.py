"""The server on the default lane, with clients of this machine's own Python.

Under Wine they see what clients in there do not: a reset is a reset for them. And their sockets are
no handles of Wine's server, so that more of them fit.
"""

import contextlib
import json
import queue
import select
import selectors
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest

try:
    import resource
except ImportError:  # Windows, which has no such limit
    resource = None

ROOT = Path(__file__).resolve().parents[2]
WAIT_S = 60

# Echoes; b"abort", b"close" and b"wait" do as they say, b"hold" keeps its worker until b"free"
# comes on another connection. Prints its port, then a line for each connection that was lost, and
# its figures once it is told to end.
SERVER = """
import asyncio, json, sys, threading
import iocpx

free = threading.Event()

class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
    def data_received(self, data):
        if data == b"abort":
            self.transport.abort()
        elif data == b"close":
            self.transport.write(b"bye")
            self.transport.close()
        elif data == b"hold":
            free.wait(60)
            free.clear()
        elif data == b"free":
            free.set()
            self.transport.write(data)
        elif data != b"wait":
            self.transport.write(data)
    def connection_lost(self, exc):
        if exc is not None:
            print("lost", exc.winerror, flush=True)

parameters = json.loads(sys.argv[1])
engine = iocpx.Engine(workers=parameters.pop("workers", None))
with iocpx.Server(Echo, "127.0.0.1", close_timeout_s=30, engine=engine, **parameters) as server:
    print(server.address[1], flush=True)
    sys.stdin.readline()
    print(server.connection_count, flush=True)
    sys.stdin.readline()
print(json.dumps({**engine.stats(), **server.stats()}))
"""


class Lane:
    """A server in a process of the default lane."""

    def __init__(self, program=SERVER, arguments=None, **parameters):
        arguments = [json.dumps(parameters)] if arguments is None else arguments
        argv = [sys.executable, ROOT / "dev.py", "run", "-c", program, *map(str, arguments)]
        self.process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
        )
        self.lines = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self.address = ("127.0.0.1", int(self.line()))

    def _read(self):
        for line in self.process.stdout:
            self.lines.put(line.strip())

    def line(self):
        try:
            return self.lines.get(timeout=WAIT_S)
        except queue.Empty:
            raise AssertionError(f"the server printed nothing for {WAIT_S} s") from None

    def tell(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def connect(self):
        return socket.create_connection(self.address, timeout=WAIT_S)

    def finish(self):
        """Stop the server; its figures, whose books are balanced."""
        self.tell()
        self.tell()
        while not (line := self.line()).startswith("{"):
            pass
        assert self.process.wait(WAIT_S) == 0
        stats = json.loads(line)
        assert stats["ops_posted"] == stats["ops_completed"], stats
        assert stats["sockets_opened"] == stats["sockets_closed"], stats
        assert stats["connections_made"] == stats["connections_retired"], stats
        assert stats["buffers_out"] == 0, stats
        return stats

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()


@pytest.fixture
def lane():
    """Start servers: `lane(**parameters)` returns a `Lane`. None outlives the test."""
    made = []

    def start(**parameters):
        made.append(Lane(**parameters))
        return made[-1]

    yield start
    for server in made:
        server.kill()


def assert_reset(sock):
    with pytest.raises(ConnectionResetError):
        sock.recv(1)
    sock.close()


def assert_dropped(server):
    """A new client is reset: as it reads, or before connect() has looked at what came of it."""
    with pytest.raises(ConnectionResetError), server.connect() as sock:
        sock.recv(1)


def test_an_abort_is_a_reset_for_the_client(lane):
    server = lane()
    with server.connect() as other:
        sock = server.connect()
        sock.sendall(b"abort")
        assert_reset(sock)
        other.sendall(b"hello")
        assert other.recv(5, socket.MSG_WAITALL) == b"hello"
    assert server.finish()["aborts_by_reason"]["application"] == 1


def test_a_close_is_none(lane):
    server = lane()
    with server.connect() as sock:
        sock.sendall(b"close")
        assert sock.recv(100) == b"bye"
        assert sock.recv(100) == b""
    assert sum(server.finish()["aborts_by_reason"].values()) == 0


@pytest.mark.slow("fills the workers for some seconds, five times")
def test_nobody_stays_behind_a_callback_that_takes_long(lane):
    """Also while the other workers never come to an end of what they have to do."""
    server = lane(workers=2)
    clients = [server.connect() for _ in range(40)]
    replies = dict.fromkeys(clients, 0)
    selector = selectors.DefaultSelector()

    def go_on(ready):
        while not ready():
            events = selector.select(WAIT_S)
            assert events, f"no reply for {WAIT_S} s"
            for key, _ in events:
                assert key.fileobj.recv(100) == b"x"
                replies[key.fileobj] += 1
                key.fileobj.sendall(b"x")

    for client in clients:
        selector.register(client, selectors.EVENT_READ)
        client.sendall(b"x")
    with server.connect() as holder:
        for _ in range(5):
            go_on(lambda: min(replies.values()) >= 20)
            holder.sendall(b"hold")
            replies.update(dict.fromkeys(clients, 0))
            # Far more turns than the keeper's patience takes.
            go_on(lambda: max(replies.values()) >= 300)
            least = min(replies.values())
            with server.connect() as other:
                other.sendall(b"free")
                assert other.recv(100) == b"free"
            assert least > 0
    selector.close()
    for client in clients:
        client.close()
    server.finish()


def test_a_client_too_many_is_reset(lane):
    server = lane(max_connections=1)
    with server.connect() as first:
        first.sendall(b"hello")
        assert first.recv(5, socket.MSG_WAITALL) == b"hello"
        assert_dropped(server)
        first.sendall(b"still")
        assert first.recv(5, socket.MSG_WAITALL) == b"still"
    assert server.finish()["refused"] == 1


def test_an_idle_client_is_reset(lane):
    server = lane(idle_timeout_s=2)
    assert_dropped(server)
    assert server.line() == "lost 10060"
    assert server.finish()["aborts_by_reason"]["idle_timeout"] == 1


def test_a_silent_client_is_dropped_and_makes_room(lane):
    server = lane(accept_receive=True, accept_timeout_s=3, initial_accepts=1, max_accepts=1)
    silent = server.connect()
    with server.connect() as sock:
        sock.sendall(b"hello")
        assert sock.recv(5, socket.MSG_WAITALL) == b"hello"
        with contextlib.suppress(ConnectionResetError):
            assert silent.recv(1) == b""
        silent.close()
    assert server.finish()["silent_clients_dropped"] == 1


@pytest.mark.parametrize("reads", [1, 4])
def test_a_reset_of_the_client_is_an_error_with_its_code(lane, reads):
    server = lane(initial_reads=reads, workers=1)
    other = server.connect()
    for _ in range(20):
        sock = server.connect()
        # The one worker comes to `other` when it is done with `sock`, and that is when a receive
        # is pending: Wine shows a reset that meets none as a plain end of the stream.
        for client in (sock, other):
            client.sendall(b"hello")
            assert client.recv(5, socket.MSG_WAITALL) == b"hello"
        sock.setsockopt(
            socket.SOL_SOCKET,
            socket.SO_LINGER,
            struct.pack("HH" if sys.platform == "win32" else "ii", 1, 0),
        )
        sock.close()
        assert server.line() == "lost 10054"
    other.close()
    assert server.finish()["aborts_by_reason"]["error"] == 20


@pytest.mark.slow("10,000 connections")
def test_10000_connections_are_open_at_the_same_time(lane):
    count = 10_000
    if resource is not None:
        # Wine's server has one descriptor for each connection too, under the same limit.
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        needed = count + 1000
        if limit < needed:
            pytest.skip(f"a process here may have {limit} open files, and needs {needed}")
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    server = lane(backlog=4096)
    socks = []
    try:
        socks += [server.connect() for _ in range(count)]
        for number, sock in enumerate(socks):
            sock.sendall(b"%06d" % number)
        for number, sock in enumerate(socks):
            assert sock.recv(6, socket.MSG_WAITALL) == b"%06d" % number
        server.tell()
        assert server.line() == str(count)
    finally:
        for sock in socks:
            sock.close()
        if resource is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
    stats = server.finish()
    assert stats["connections_peak"] == stats["accepts"] == count


# -- the proxy, between sockets of this machine ----------------------------------------------------

PROXY = """
import functools, json, sys
sys.path.insert(0, sys.argv[1])
import tcp_proxy

# What has passed words on has posted its connection's receive before it passes others on.
engine = tcp_proxy.iocpx.Engine(workers=1)
tcp_proxy.iocpx.Server = functools.partial(tcp_proxy.iocpx.Server, engine=engine)
with tcp_proxy.Proxy(0, "127.0.0.1", int(sys.argv[2])).server as server:
    print(server.address[1], flush=True)
    sys.stdin.readline()
    print(server.connection_count, flush=True)
    sys.stdin.readline()
print(json.dumps({**server.engine.stats(), **server.stats()}))
"""


@pytest.mark.parametrize("way", ["there", "back"])
@pytest.mark.parametrize("paused", [False, True], ids=["reading", "paused"])
def test_the_proxy_passes_a_reset_on(way, paused):
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as stack:
        listener.settimeout(WAIT_S)
        server = Lane(program=PROXY, arguments=[ROOT / "examples", listener.getsockname()[1]])
        stack.callback(server.kill)
        client = stack.enter_context(server.connect())
        host = stack.enter_context(listener.accept()[0])
        host.settimeout(WAIT_S)
        one, other = (client, host) if way == "there" else (host, client)
        # Both ways: then the proxy's receives are pending, and a reset is one under Wine, too.
        for sock, peer in ((one, other), (other, one)) * 2:
            sock.sendall(b"words")
            assert peer.recv(100) == b"words"
        if paused:
            # Until the proxy takes no more of it, since nobody reads at the other end.
            while select.select([], [other], [], 0.2)[1]:
                other.send(b"x" * 65536)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        one.close()
        with pytest.raises(ConnectionResetError):
            other.recv(1)
        aborts = server.finish()["aborts_by_reason"]
        assert (aborts["error"], aborts["application"]) == (1, 1)
