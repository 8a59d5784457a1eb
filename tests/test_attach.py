"""Engine.attach(): connected sockets of somebody else's; and hooks of the worker threads."""

import asyncio
import functools
import queue
import socket
import threading

import pytest
from clients import Client
from dialling import assert_clients_gone
from payload import assert_same_bytes, pattern
from protocols import Plain, Recording, RecordingBuffered
from script import Script
from sockets import bound_socket, listening_socket
from tls_peers import TlsClient, client_context, server_context
from waiting import WAIT_S, run_together, take, wait_for_event, wait_until

import iocpx


@pytest.fixture
def engine():
    """An engine without a server; at the end it has gone with its clients, its books balanced."""
    engine = iocpx.Engine(workers=2)
    yield engine
    assert_clients_gone(engine)


@pytest.fixture
def pair():
    """`pair()` returns a connected socket, to be attached, and a Client at its other end."""
    with listening_socket() as listener:
        made = []

        def make():
            client = Client(listener.getsockname())
            made.extend((client.sock, listener.accept()[0]))
            return made[-1], client

        yield make
        for sock in made:
            sock.close()


def assert_echo(connection, client, size=1000):
    protocol = connection.get_protocol()
    data = pattern(size, seed=size)
    before = protocol.kept_bytes
    client.send(data)
    protocol.wait_for_data(before + size)
    assert_same_bytes(bytes(protocol.received[before:]), data)
    connection.write(data)
    assert_same_bytes(client.read_exactly(size), data)


@pytest.mark.parametrize("kind", [Recording, RecordingBuffered])
@pytest.mark.parametrize("timeout", [None, 0, 5])
def test_a_socket_is_served(engine, pair, kind, timeout):
    sock, client = pair()
    sock.settimeout(timeout)
    names = sock.getsockname(), sock.getpeername()
    protocol = kind()
    connection = engine.attach(sock, protocol)
    assert type(connection) is iocpx.Connection
    assert connection.get_protocol() is protocol
    # The socket is the connection's.
    assert sock.fileno() == -1
    assert names == tuple(map(connection.get_extra_info, ("sockname", "peername")))
    protocol.wait_for("connection_made")
    assert protocol.transport is connection
    assert_echo(connection, client, 100_000)
    client.half_close()
    protocol.wait_for("connection_lost")
    protocol.check()
    assert client.read_to_end() == b""


def test_a_protocol_that_is_set_at_once_is_the_one(pair):
    engine = iocpx.Engine(workers=1)
    held, release = threading.Event(), threading.Event()

    class Holds(Recording):
        def on_made(self):
            held.set()
            release.wait(WAIT_S)

    class Counts(Recording):
        sent = 0

        def data_sent(self, nbytes):
            self.sent += nbytes

    others = engine.attach(pair()[0], Holds())
    wait_for_event(held, "the first connection's begin")
    first, second = Recording(), Counts()
    sock, client = pair()
    connection = engine.attach(sock, first)
    connection.set_protocol(second)
    release.set()
    second.wait_for("connection_made")
    assert connection.get_protocol() is second
    assert_echo(connection, client)
    wait_until(lambda: second.sent == 1000, "what data_sent() is told")
    assert first.events == []
    for one in (connection, others):
        one.abort()
    assert_clients_gone(engine)


def test_in_a_callback(serve, pair):
    """As a server does that hands over what it has accepted itself."""
    attached = queue.Queue()
    engine = iocpx.Engine(workers=1)
    sock, client = pair()

    class Attaches(Recording):
        def on_data(self, data):
            attached.put(engine.attach(sock, Recording()))

    served = serve(Attaches, engine=engine)
    served.connect().send(b"now")
    connection = take(attached, "the connection")
    assert_echo(connection, client)
    connection.close()
    connection.get_protocol().wait_for("connection_lost")
    # It waits for its peer's end, on the engine that the server has, too.
    client.close()
    wait_until(lambda: engine.client_stats()["connections_now"] == 0, "its end")


# Attaches what its parent has accepted.
ATTACHES = """
import asyncio, os, socket, sys
import iocpx

class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
    def data_received(self, data):
        self.transport.write(data)
    def connection_lost(self, exc):
        print("lost", exc, flush=True)

engine = iocpx.Engine(workers=1)
print(os.getpid(), flush=True)
sock = socket.fromshare(bytes.fromhex(sys.stdin.readline()))
engine.attach(sock, Echo())
print("attached", flush=True)
sys.stdin.readline()
"""


def test_a_socket_that_another_process_has_accepted(pair):
    """As a listening process does that hands its connections to workers."""
    sock, client = pair()
    script = Script(ATTACHES)
    try:
        script.tell(sock.share(int(script.read_line())).hex())
        assert script.read_line() == "attached"
        sock.close()
        data = pattern(100_000)
        sender = threading.Thread(target=client.send, args=[data])
        sender.start()
        assert_same_bytes(client.read_exactly(len(data)), data)
        sender.join(WAIT_S)
        client.half_close()
        assert client.read_to_end() == b""
        assert script.read_line() == "lost None"
        script.tell()
        assert script.finish() == (0, [], "")
    finally:
        script.discard()


def test_many_at_once(engine, pair):
    pairs = [pair() for _ in range(40)]
    left = queue.SimpleQueue()
    for item in pairs:
        left.put(item)

    def some():
        for _ in range(10):
            sock, client = left.get()
            connection = engine.attach(sock, Recording())
            assert_echo(connection, client)
            connection.close()
            connection.get_protocol().wait_for("connection_lost")

    run_together(*[some] * 4)
    assert engine.client_stats()["connections_made"] <= 40


def test_tls_behind_it(engine, pair):
    class Starts(Recording):
        def on_made(self):
            self.transport.start_tls(server_context())

    sock, client = pair()
    protocol = Starts()
    engine.attach(sock, protocol)
    secure = TlsClient(None, sock=client.sock)
    secure.send(b"hello")
    protocol.wait_for_data(5)
    protocol.transport.abort()
    protocol.wait_for("connection_lost")


def test_whose_peer_has_gone(engine, pair):
    sock, client = pair()
    client.close()
    protocol = Recording()
    engine.attach(sock, protocol)
    protocol.wait_for("connection_lost")
    protocol.check()


def test_what_connection_made_raises_is_told_to_connection_lost(engine, pair):
    class Fails(Recording):
        def on_made(self):
            raise LookupError("not today")

    sock, _ = pair()
    protocol = Fails()
    engine.attach(sock, protocol)
    protocol.wait_for("connection_lost")
    assert type(protocol.lost_with) is LookupError


def test_a_socket_of_another_port_stays_the_callers(engine, pair):
    overlapped = pytest.importorskip("_overlapped")
    sock, client = pair()
    port = overlapped.CreateIoCompletionPort(overlapped.INVALID_HANDLE_VALUE, 0, 0, 0)
    overlapped.CreateIoCompletionPort(sock.fileno(), port, 0, 0)
    with pytest.raises(OSError, match=r"attach: .*another completion port") as raised:
        engine.attach(sock, Recording())
    assert raised.value.winerror == 87
    client.send(b"hello")
    assert sock.recv(5) == b"hello"
    sock.close()
    pytest.importorskip("_winapi").CloseHandle(port)


def test_a_wrong_argument_is_named_and_leaves_the_socket(engine, pair):
    sock, client = pair()
    with pytest.raises(TypeError, match=r"^protocol must be "):
        engine.attach(sock, object())
    with pytest.raises(TypeError, match=r"^sock must be "):
        engine.attach(sock.fileno(), Recording())
    client.send(b"hello")
    assert sock.recv(5) == b"hello"
    with (
        socket.socket(type=socket.SOCK_DGRAM) as udp,
        pytest.raises(ValueError, match=r"^sock must be a TCP socket"),
    ):
        engine.attach(udp, Recording())
    sock.close()
    with pytest.raises(ValueError, match=r"^sock must be open"):
        engine.attach(sock, Recording())
    with bound_socket() as unconnected:
        with pytest.raises(OSError, match=r"attach: the socket is not connected") as raised:
            engine.attach(unconnected, Recording())
        assert raised.value.winerror == 10057
        unconnected.getsockname()


# -- hooks --------------------------------------------------------------------------------------


class Hooks:
    """Records which threads have begun and ended."""

    def __init__(self):
        self.begun, self.ended, self.seen = [], [], set()

    def start(self):
        self.begun.append(threading.current_thread().name)

    def stop(self):
        self.ended.append(threading.current_thread().name)


@pytest.mark.parametrize("workers", [1, 3])
def test_hooks_are_called_around_the_callbacks(workers):
    hooks = Hooks()
    engine = iocpx.Engine(
        workers=workers, on_worker_start=hooks.start, on_worker_stop=hooks.stop
    )
    names = [f"iocpx-worker-{i}" for i in range(workers)]

    class Sees(Plain):
        def connection_made(self, transport):
            super().connection_made(transport)
            assert threading.current_thread().name in hooks.begun

    def all_ended(times):
        return sorted(hooks.ended) == sorted(names * times)

    for turn in range(2):
        server = iocpx.Server(Sees, "127.0.0.1", engine=engine)
        with server:
            assert sorted(hooks.begun) == sorted(names * (turn + 1))
            assert all_ended(turn)
            with Client(server.address) as client:
                assert client.exchange([b"hello"]) == b"hello"
        wait_until(functools.partial(all_ended, turn + 1), "the hooks of the end")


def test_a_hook_that_raises_fails_the_start(caplog):
    hooks = Hooks()
    error = LookupError("no database")

    def start():
        hooks.start()
        name = threading.current_thread().name
        if name == "iocpx-worker-1" and hooks.begun.count(name) == 1:
            raise error

    engine = iocpx.Engine(workers=3, on_worker_start=start, on_worker_stop=hooks.stop)
    server = iocpx.Server(Plain, "127.0.0.1", engine=engine)
    with pytest.raises(LookupError, match="no database") as raised:
        server.start()
    assert raised.value is error
    wait_until(
        lambda: not any(t.name.startswith("iocpx-") for t in threading.enumerate()),
        "the end of every thread",
    )
    # Those whose hook was well.
    assert sorted(hooks.ended) == ["iocpx-worker-0", "iocpx-worker-2"]
    # And the next start tries again.
    with server, Client(server.address) as client:
        assert client.exchange([b"hello"]) == b"hello"
    assert caplog.records == [] or all(r.levelname != "ERROR" for r in caplog.records)


def test_every_hook_may_raise():
    def start():
        raise LookupError("no database")

    engine = iocpx.Engine(workers=2, on_worker_start=start)
    future = iocpx.connect(Plain, "127.0.0.1", 1, engine=engine)
    assert type(future.exception(WAIT_S)) is LookupError
    with pytest.raises(LookupError):
        iocpx.Server(Plain, "127.0.0.1", engine=engine).start()


def test_what_the_last_hook_raises_is_logged(caplog):
    raised = threading.Event()

    def stop():
        raised.set()
        raise LookupError("it is gone already")

    engine = iocpx.Engine(workers=1, on_worker_stop=stop)
    with iocpx.Server(Plain, "127.0.0.1", engine=engine):
        pass
    wait_for_event(raised, "the hook")
    wait_until(
        lambda: any("on_worker_stop raised" in record.message for record in caplog.records),
        "the line in the log",
    )


async def coroutine():
    pass


@pytest.mark.once("what is refused")
@pytest.mark.parametrize("name", ["on_worker_start", "on_worker_stop"])
def test_a_hook_that_is_none(name):
    for value in (5, coroutine):
        with pytest.raises(TypeError, match=f"^{name} must be callable"):
            iocpx.Engine(**{name: value})
    with pytest.raises(ValueError, match=f"^{name} must be None with completion_port"):
        iocpx.Engine(completion_port=1, **{name: asyncio.Protocol})


def test_a_socket_with_tls_of_its_own_is_refused(engine, pair):
    sock, _ = pair()
    context = client_context()
    with context.wrap_socket(
        sock, server_hostname="localhost", do_handshake_on_connect=False
    ) as wrapped:
        with pytest.raises(TypeError, match="sock must be a plain socket"):
            engine.attach(wrapped, Recording())
        assert wrapped.fileno() >= 0
