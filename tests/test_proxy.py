"""examples/tcp_proxy.py between real clients and real servers, inside of this process.

As a program it is tested in frameworks/test_tcp_proxy.py.
"""

import contextlib
import importlib.util
import queue
import socket
import threading
import zlib

import pytest
from clients import Client, limit_waits
from dialling import refusing_address
from payload import MORE_THAN_THE_KERNEL_TAKES, assert_same_bytes, pattern
from programs import EXAMPLES
from protocols import Plain
from served import assert_balanced
from waiting import WAIT_S, run_together, wait_until

import iocpx

pytestmark = pytest.mark.engine("what a proxy needs is the engine's")

MB = 1 << 20
# Above the high mark: the largest receive, and what comes before a pause is heeded.  That is in a
# turn of the other connection: on another worker it may come late, so there is only one where this
# is looked at.  Without a pause it would be all that the kernel does not take, 48 MB.
MOST_QUEUED = 2 * MB


def load():
    spec = importlib.util.spec_from_file_location("tcp_proxy", EXAMPLES / "tcp_proxy.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def proxy():
    """`proxy((host, port))` returns the server of a proxy for that one."""
    servers = []

    def make(address, workers=None):
        module = load()
        proxy = module.Proxy(0, *address[:2])
        if workers:
            engine = iocpx.Engine(workers=workers)
            proxy.server = iocpx.Server(lambda: module.Front(proxy), "127.0.0.1", engine=engine)
        server = proxy.server
        server.start()
        servers.append(server)
        return server

    yield make
    for server in servers:
        server.close()
        assert server.wait_closed(WAIT_S) is True
        assert_balanced(server)


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        limit_waits(sock)
        yield sock


@pytest.fixture
def both(request, proxy, listener):
    """A client, the end of its way, and the proxy between them; of so many workers, if a test
    says it."""
    server = proxy(listener.getsockname(), getattr(request, "param", None))
    with Client(server.address) as client:
        peer = listener.accept()[0]
        with peer:
            limit_waits(peer)
            yield client.sock, peer, server


def read(sock, size):
    got = bytearray()
    while len(got) < size:
        data = sock.recv(min(MB, size - len(got)))
        assert data, f"the stream ended after {len(got)} of {size} bytes"
        got += data
    return bytes(got)


def test_clients_get_their_echo(proxy, serve):
    server = proxy(serve(Plain).server.address)

    def one():
        with Client(server.address) as client:
            for size in (1, 1000, 300_000):
                data = pattern(size, seed=size)
                assert_same_bytes(client.exchange([data]), data)

    run_together(*[one] * 8)


@pytest.mark.parametrize("way", ["there", "back"])
@pytest.mark.parametrize("both", [1], indirect=True, ids=["one worker"])
def test_a_slow_reader_costs_bounded_memory_and_no_byte(both, way):
    client, peer, server = both
    writer, reader = (client, peer) if way == "there" else (peer, client)
    data = pattern(4 * MORE_THAN_THE_KERNEL_TAKES)
    queued = queue.Queue()
    sent = threading.Event()

    def write():
        writer.sendall(data)
        writer.shutdown(socket.SHUT_WR)
        sent.set()

    def look():
        sizes = [connection.get_write_buffer_size() for connection in server.connections]
        return max(sizes, default=0)

    def slowly():
        # Nothing at all, until the proxy has stopped to read as well.
        wait_until(lambda: server.stats()["read_pauses"] > 1, "the pause of the other side")
        assert not sent.is_set()
        for start in range(0, len(data), MB):
            assert_same_bytes(read(reader, MB), data[start : start + MB])
            queued.put(look())
        assert reader.recv(1) == b""

    run_together(write, slowly)
    sizes = [queued.get() for _ in range(len(data) // MB)]
    assert max(sizes) <= MOST_QUEUED
    assert server.stats()["write_pauses"] > 0


# The proxy in a process of its own. It says when it first stops to read a side; told that it is
# over, what it has needed at most.
PROXY = """
import ctypes, sys
sys.path.insert(0, sys.argv[1])
import iocpx, tcp_proxy

told = []

class Counters(ctypes.Structure):
    _fields_ = [("size", ctypes.c_uint32), ("faults", ctypes.c_uint32),
                ("peak_working_set", ctypes.c_size_t), ("rest", ctypes.c_size_t * 7)]

def working_set():
    counters = Counters(size=ctypes.sizeof(Counters))
    kernel32 = ctypes.WinDLL("kernel32")
    kernel32.GetCurrentProcess.restype = ctypes.c_void_p
    query = kernel32.K32GetProcessMemoryInfo
    query.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint32]
    assert query(kernel32.GetCurrentProcess(), ctypes.byref(counters), counters.size)
    return counters.peak_working_set

class Front(tcp_proxy.Front):
    def pause_writing(self):
        super().pause_writing()
        tell()

class Back(tcp_proxy.Back):
    def pause_writing(self):
        super().pause_writing()
        tell()

def tell():
    if not told:
        told.append(None)
        print("paused", flush=True)

tcp_proxy.Front, tcp_proxy.Back = Front, Back
proxy = tcp_proxy.Proxy(0, "127.0.0.1", int(sys.argv[2]))
# One worker, so that the side that is full is told of it before the other one has read much more.
proxy.server = iocpx.Server(
    lambda: tcp_proxy.Front(proxy), "127.0.0.1", engine=iocpx.Engine(workers=1))
with proxy.server as server:
    print(*server.address, flush=True)
    sys.stdin.readline()
stats = {**server.engine.stats(), **server.stats()}
assert stats["buffers_out"] == 0 and stats["ops_posted"] == stats["ops_completed"], stats
print(stats["bytes_received"], stats["bytes_sent"], working_set())
"""


@pytest.mark.slow("sends a gigabyte")
@pytest.mark.timeout(300)
@pytest.mark.once("it is about the amount")
@pytest.mark.parametrize("way", ["there", "back"])
def test_a_gigabyte_to_a_slow_reader(start_script, listener, way):
    size = 1 << 30
    script = start_script(PROXY, str(EXAMPLES), str(listener.getsockname()[1]))
    with Client(script.read_address()) as client, listener.accept()[0] as peer:
        writer, reader = (client.sock, peer) if way == "there" else (peer, client.sock)
        limit_waits(peer)
        sums = {}

        def write():
            # No two parts are the same, so none can take the place of another.
            block, checksum = memoryview(pattern(2 * MB)), 0
            for index in range(size // MB):
                start = index * 1021 % MB
                part = block[start : start + MB]
                checksum = zlib.crc32(part, checksum)
                writer.sendall(part)
            writer.shutdown(socket.SHUT_WR)
            sums[writer] = checksum

        def slowly():
            # Nothing at all, until the proxy has stopped to read as well.
            assert script.read_line() == "paused"
            assert writer not in sums
            buffer, checksum, count = memoryview(bytearray(MB)), 0, 0
            while got := reader.recv_into(buffer):
                checksum = zlib.crc32(buffer[:got], checksum)
                count += got
            assert count == size
            sums[reader] = checksum

        run_together(write, slowly)
        assert sums[reader] == sums[writer]
        # The other direction goes on.
        reader.sendall(b"thanks")
        reader.shutdown(socket.SHUT_WR)
        assert read(writer, 6) == b"thanks"
        assert writer.recv(1) == b""
    script.tell()
    received, sent, most_bytes = map(int, script.read_line().split())
    assert received == sent == size + 6
    # Python itself has some 20 MB of it.
    assert most_bytes < 100 * MB


@pytest.fixture(params=["there", "back"])
def ends(request, both):
    """Who does something, who is at the other end, and the proxy."""
    client, peer, server = both
    return (client, peer, server) if request.param == "there" else (peer, client, server)


def test_the_end_of_a_direction_is_passed_on(ends):
    one, other, server = ends
    one.sendall(b"question")
    one.shutdown(socket.SHUT_WR)
    assert read(other, 8) == b"question"
    assert other.recv(1) == b""
    # The other direction goes on.
    answer = pattern(3 * MB)
    run_together(
        lambda: other.sendall(answer),
        lambda: assert_same_bytes(read(one, 3 * MB), answer),
    )
    other.shutdown(socket.SHUT_WR)
    assert one.recv(1) == b""
    wait_until(lambda: server.connections == [], "the end of both connections")
    assert not any(server.stats()["aborts_by_reason"].values())


def test_a_reset_ends_both(ends):
    """That it is a reset at the other end is seen in host/test_native_clients.py: under Wine it
    looks like an end."""
    one, other, server = ends
    one.sendall(b"question")
    assert read(other, 8) == b"question"
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0")
    one.close()
    with contextlib.suppress(ConnectionError):
        assert other.recv(1) == b""
    with contextlib.suppress(OSError):
        other.shutdown(socket.SHUT_WR)  # it may know of the reset by now
    wait_until(lambda: server.connections == [], "the end of both connections")


def test_a_host_that_refuses_costs_the_client_its_connection(proxy, capfd):
    with refusing_address() as nobody:
        server = proxy(nobody)
        with Client(server.address) as client:
            assert client.read_until_gone() == b""
    wait_until(lambda: server.connections == [], "the end of the connection")
    assert f"127.0.0.1:{nobody[1]}" in capfd.readouterr().err


def test_a_client_that_goes_at_once_leaves_nothing(proxy, serve):
    peer = serve(Plain)
    server = proxy(peer.server.address)
    for _ in range(50):
        with contextlib.suppress(ConnectionError):
            Client(server.address).close()
    wait_until(lambda: server.stats()["accepts"] == 50, "every client")
    wait_until(lambda: server.connection_count == 0, "their end")
    wait_until(lambda: peer.server.connection_count == 0, "their end on the other side")
