"""Accepting: the pool, the listeners, sockets made elsewhere, the first data, and the limits."""

import socket

import pytest
from clients import Client, connect_until_refused
from payload import assert_same_bytes, pattern
from protocols import Echoing, Held, Recording
from served import assert_balanced
from sockets import bound_socket, has_ipv6, listening_socket, own_host
from waiting import (
    WAIT_S,
    clock,
    take,
    wait_for_event,
    wait_for_figure,
    wait_until,
    wait_until_gone,
)

import iocpx

pytestmark = pytest.mark.engine("the accept pool is the engine's")

ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")

# -- the pool


@pytest.mark.parametrize("accepts", [1, 10, 37])
def test_the_pool_has_its_initial_size_soon_after_the_start(serve, accepts):
    served = serve(Echoing, initial_accepts=accepts)
    wait_for_figure(served.server, "accepts_pending", accepts)


def test_every_listener_has_a_pool(serve):
    served = serve(Echoing, ["127.0.0.1", "127.0.0.2"], initial_accepts=7)
    wait_for_figure(served.server, "accepts_pending", 14)


def test_every_accepted_client_is_replaced_in_the_pool(serve):
    served = serve(Echoing, initial_accepts=3, max_accepts=3)
    for _ in range(20):
        served.assert_serving()
    wait_for_figure(served.server, "accepts_pending", 3)
    # It is counted when it can be served already, and may have been.
    wait_for_figure(served.server, "accepts", 20)
    stats = served.stats()
    assert stats["accepts_grown"] == stats["accepts_shrunk"] == stats["accept_errors"] == 0


class HeldLater(Held):
    """By a timer, which the keeper fires: so it has filled the pool before, and the FD_ACCEPT of
    whoever comes from then on counts."""

    def __call__(self):
        held = self

        def hold():
            held.entered.set()
            wait_for_event(held.leave, "the release of the held worker")

        class HeldSoon(Echoing):
            def on_made(self):
                if not held.entered.is_set():
                    self.transport.call_later(0.001, hold)

        return HeldSoon()


def burst(served, held, count):
    """`count` clients that connect while the only worker cannot look at the port."""
    clients = [served.connect()]
    wait_for_event(held.entered, "the hold of the worker")
    clients += [served.connect() for _ in range(count - 1)]
    return clients


@pytest.mark.once("the pool is the engine's, and shrinks after seconds")
@pytest.mark.slow("a pool shrinks after some seconds without need")
def test_the_pool_grows_in_a_burst_to_its_limit_and_shrinks_again(serve):
    held = HeldLater()
    served = serve(held, workers=1, initial_accepts=2, max_accepts=40)
    clients = burst(served, held, 60)
    # The keeper sees FD_ACCEPT, however busy the worker is.
    wait_for_figure(served.server, "accepts_grown", 38)
    held.leave.set()
    for number, client in enumerate(clients):
        message = pattern(100, number)
        assert client.exchange([message]) == message
    wait_for_figure(served.server, "accepts", 60)
    assert served.stats()["accepts_pending"] <= 40
    # Some seconds without FD_ACCEPT, which may have been once amidst the burst already.
    def as_before():
        stats = served.stats()
        return stats["accepts_pending"] == 2 and stats["accepts_shrunk"] == stats["accepts_grown"]

    wait_until(as_before, "the end of all that were added")
    assert served.stats()["accept_errors"] == 0
    served.assert_serving()


def test_the_pool_grows_by_fifty(serve):
    held = HeldLater()
    served = serve(held, workers=1, initial_accepts=1, max_accepts=1000)
    burst(served, held, 3)
    wait_for_figure(served.server, "accepts_grown", 50)
    held.leave.set()


def test_a_pool_that_may_not_grow_serves_all_clients_one_after_the_other(serve):
    held = Held()
    served = serve(held, workers=1, initial_accepts=1, max_accepts=1)
    clients = burst(served, held, 50)
    held.leave.set()
    for client in clients:
        assert client.exchange([b"hello"]) == b"hello"
    assert served.stats()["accepts_grown"] == 0
    wait_for_figure(served.server, "accepts", 50)


def test_stopping_in_the_midst_of_a_burst_leaves_nothing(serve):
    held = Held()
    served = serve(held, workers=1, initial_accepts=1, max_accepts=100, close_timeout_s=1)
    clients = burst(served, held, 80)
    served.server.close()
    held.leave.set()
    for client in clients:
        client.read_until_gone()
        client.close()
    assert served.server.wait_closed(WAIT_S) is True
    assert served.stats()["accepts_pending"] == 0


# -- several addresses


@ipv6
def test_one_listener_can_have_both_families(serve):
    if not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no sockets of both families")
    sock = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    served = serve(Echoing, None, sock=sock)
    port = sock.getsockname()[1]
    for host, peer in (("127.0.0.1", "::ffff:127.0.0.1"), ("::1", "::1")):
        client, protocol = served.open((host, port))
        assert client.exchange([b"hello"]) == b"hello"
        assert protocol.transport.get_extra_info("peername")[:2] == (peer, client.address[1])


def test_clients_of_all_listeners_count_together(serve):
    served = serve(Echoing, ["127.0.0.1", "127.0.0.2"], max_connections=2)
    for sock in served.server.sockets:
        served.open(sock.getsockname())
    assert served.server.connection_count == 2
    for sock in served.server.sockets:
        assert served.connect_in_vain(address=sock.getsockname()) == b""
    wait_for_figure(served.server, "refused", 2)


# -- sockets of the caller's


@pytest.mark.parametrize("make", [bound_socket, listening_socket])
def test_a_socket_of_the_callers_is_served_and_closed(serve, make):
    sock = make(own_host())
    address = sock.getsockname()
    served = serve(Echoing, None, sock=sock)
    assert [item.fileno() for item in served.server.sockets] == [sock.fileno()]
    assert served.server.address == address
    served.assert_serving()
    served.finish()
    assert sock.fileno() == -1
    connect_until_refused(address)


@ipv6
def test_several_sockets_of_the_callers_are_served(serve):
    socks = [bound_socket("127.0.0.1"), listening_socket("::1")]
    served = serve(Echoing, None, sock=socks)
    assert [item.fileno() for item in served.server.sockets] == [item.fileno() for item in socks]
    for sock in socks:
        client, _ = served.open(sock.getsockname())
        assert client.exchange([b"hello"]) == b"hello"


def test_a_socket_can_be_given_by_its_handle(serve):
    sock = listening_socket()
    address = sock.getsockname()
    served = serve(Echoing, None, sock=socket.socket(fileno=sock.detach()))
    assert served.server.address == address
    served.assert_serving()


def test_a_socket_is_the_callers_until_the_start():
    with bound_socket() as sock:
        server = iocpx.Server(Echoing, sock=sock)
        server.close()
        assert server.wait_closed(WAIT_S) is True
        assert sock.fileno() != -1


def test_clients_that_waited_in_the_backlog_are_served(serve):
    sock = listening_socket()
    with Client(sock.getsockname()) as early:
        early.send(b"early")
        serve(Echoing, None, sock=sock)
        assert early.read_exactly(5) == b"early"


@pytest.mark.parametrize(
    "make, kind, text",
    [
        (lambda: 3, TypeError, "^sock must be a socket.*got 3$"),
        (lambda: "127.0.0.1", TypeError, "^sock must be a socket.*got '127.0.0.1'$"),
        (list, TypeError, r"^sock must be a socket.*got \[\]$"),
        (lambda: [3], TypeError, r"^sock must be a socket.*got \[3\]$"),
        (lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM), ValueError, "^sock must be a"),
        (socket.socket, ValueError, "^sock must be a bound socket, got <socket"),
    ],
    ids=["int", "str", "none", "list-of-int", "datagram", "unbound"],
)
def test_something_else_than_a_bound_tcp_socket_is_refused(make, kind, text):
    sock = make()
    with pytest.raises(kind, match=text):
        iocpx.Server(Echoing, sock=sock)
    if isinstance(sock, socket.socket):
        assert sock.fileno() != -1
        sock.close()


def test_a_closed_socket_is_refused():
    sock = bound_socket()
    sock.close()
    with pytest.raises((ValueError, OSError), match="sock"):
        iocpx.Server(Echoing, sock=sock)


@pytest.mark.parametrize("more", [{"host": "127.0.0.1"}, {"port": 5000}])
def test_a_socket_and_an_address_do_not_go_together(more):
    with (
        bound_socket() as sock,
        pytest.raises(ValueError, match="host and port must be left out with sock"),
    ):
        iocpx.Server(Echoing, sock=sock, **more)


def test_a_failed_start_leaves_the_socket_to_the_caller(serve):
    """Also where it is another server's, which goes on."""
    served = serve(Echoing)
    with (
        served.server.sockets[0].dup() as sock,
        socket.create_connection(served.server.address) as bad,
    ):
        with pytest.raises(OSError, match="listen"):
            iocpx.Server(Echoing, sock=[sock, bad]).start()
        assert sock.fileno() != -1
        assert served.server.is_serving() is True
        served.assert_serving()
    assert served.stats()["accept_errors"] == 0


def test_the_listening_sockets_cannot_be_closed_behind_the_servers_back(serve):
    served = serve(Echoing)
    assert not hasattr(served.server.sockets[0], "close")
    assert not hasattr(served.server.sockets[0], "detach")


def test_a_socket_that_cannot_listen_is_refused_with_its_address():
    with listening_socket() as listener, socket.create_connection(listener.getsockname()) as sock:
        server = iocpx.Server(Echoing, sock=sock)
        with pytest.raises(OSError, match=r"^\[WinError 100\d\d\] listen: .*127\.0\.0\.1:\d+"):
            server.start()
        assert_balanced(server)
        assert sock.fileno() != -1


# -- the listener of another process

# Serves a listener that comes as one line of hex digits; ends at the next line.
HEIR = """
import asyncio, os, socket, sys
import iocpx

class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
    def data_received(self, data):
        self.transport.write(data)

# Of a virtual environment Popen has another: that of the program which has started this one.
print(os.getpid(), flush=True)
sock = socket.fromshare(bytes.fromhex(sys.stdin.readline()))
server = iocpx.Server(Echo, sock=sock)
server.start()
print(*server.address, flush=True)
sys.stdin.readline()
server.close()
print(server.wait_closed(30), server.stats()["connections_made"], flush=True)
"""


def start_heir(start_script, sock):
    """A process that serves what `sock` listens at."""
    script = start_script(HEIR)
    script.tell(sock.share(int(script.read_line())).hex())
    return script


def test_a_listener_can_be_handed_to_another_process(start_script):
    with listening_socket(own_host()) as sock:
        address = sock.getsockname()
        script = start_heir(start_script, sock)
        assert script.read_address() == address
    # The child's is the only one now.
    for _ in range(3):
        with Client(address) as client:
            assert client.exchange([b"hello"]) == b"hello"
    script.tell()
    assert script.finish() == (0, ["True 3"], "")
    connect_until_refused(address)


def test_a_listener_handed_over_after_the_start_is_served_by_both(serve, start_script):
    """Windows ties it to one completion port; test_shared_listener.py has more of that."""
    served = serve(Echoing)
    with served.server.sockets[0].dup() as sock:
        script = start_heir(start_script, sock)
    address = script.read_address()
    assert address == served.server.address
    served.server.close()
    assert served.server.wait_closed(WAIT_S)
    for _ in range(3):
        with Client(address) as client:
            assert client.exchange([b"hello"]) == b"hello"
    script.tell()
    assert script.finish() == (0, ["True 3"], "")


# -- max_connections


@pytest.mark.parametrize("handler", [Echoing, iocpx.native.Echo], ids=["protocol", "native"])
def test_a_client_too_many_is_refused_at_once_and_the_others_stay(serve, handler):
    served = serve(handler, max_connections=3)
    clients = [served.connect() for _ in range(3)]
    for client in clients:
        assert client.exchange([b"hello"]) == b"hello"
    for turn in range(1, 6):
        assert served.connect_in_vain(b"hello?") == b""
        assert served.stats()["refused"] == turn
    for client in clients:
        assert client.exchange([b"still here"]) == b"still here"
    wait_for_figure(served.server, "accepts", 3)
    stats = served.stats()
    assert stats["connections_made"] == stats["connections_peak"] == 3
    assert stats["accept_errors"] == 0
    clients[0].close()
    wait_until_gone(served, 2)
    served.assert_serving()


def test_no_protocol_is_made_for_a_refused_client(serve):
    served = serve(Echoing, max_connections=1)
    served.open()
    assert served.connect_in_vain() == b""
    assert len(served.protocols) == 1


def test_without_a_limit_nobody_is_refused(serve):
    served = serve(Echoing, max_connections=None)
    opened = [served.open() for _ in range(150)]
    assert served.server.connection_count == len(opened)
    assert served.stats()["refused"] == 0


# -- accept_receive


def test_with_accept_receive_a_connection_begins_with_its_first_data(serve):
    served = serve(Echoing, accept_receive=True)
    silent = [served.connect() for _ in range(5)]
    # The next protocol is this client's, since the silent ones have none.
    client = served.connect()
    client.send(b"first")
    protocol = take(served._made, "the protocol of the client that speaks")
    assert client.read_exactly(5) == b"first"
    assert protocol.events == ["connection_made", "data_received"]
    assert protocol.transport.get_extra_info("peername") == client.address
    assert served.stats()["connections_made"] == 1
    for other in silent:
        assert other.exchange([b"now me"]) == b"now me"
    assert served.stats()["connections_made"] == 6


@pytest.mark.parametrize("buffer_size", [16, 4096, 65536])
def test_with_accept_receive_everything_comes_in_order(serve, buffer_size):
    served = serve(Recording, accept_receive=True, buffer_size=buffer_size)
    data = pattern(30_000)
    client = served.connect()
    client.send(data)
    client.half_close()
    protocol = take(served._made, "the protocol")
    protocol.wait_for("connection_lost")
    assert_same_bytes(protocol.received, data)
    assert served.stats()["bytes_received"] == len(data)
    assert protocol.events[-2:] == ["eof_received", "connection_lost"]


def test_with_accept_receive_the_native_echo_sends_the_first_data_back(serve):
    served = serve(iocpx.native.Echo, accept_receive=True)
    data = pattern(1 << 20)
    assert_same_bytes(served.connect().exchange([data]), data)


@pytest.mark.parametrize("leave", ["close", "reset"])
def test_with_accept_receive_a_client_that_leaves_in_silence_costs_its_slot_only(serve, leave):
    served = serve(Echoing, accept_receive=True, initial_accepts=2, max_accepts=2)
    for _ in range(10):
        getattr(served.connect(), leave)()
    for _ in range(10):
        served.assert_serving()
    # All of them came to an end: with one word or without.
    wait_until_gone(served)
    wait_for_figure(served.server, "accepts_pending", 2)


def test_clients_that_vanish_are_no_lack_of_resources(serve, caplog):
    served = serve(Echoing, accept_receive=True, initial_accepts=1, max_accepts=1)
    for _ in range(20):
        served.connect().reset()
    served.assert_serving()

    def outcomes():
        return served.stats()["accept_errors"] + served.stats()["accepts"]

    # Each took the only slot: as a failed accept, or as a connection that ended at once.
    wait_until(lambda: outcomes() == 21, "the count of all")
    assert [line for line in caplog.messages if "cannot serve" in line] == []


@pytest.mark.slow("the shortest timeout is seconds")
@pytest.mark.once("the pool is the engine's, and shrinks after seconds")
def test_a_silent_client_is_dropped_after_the_accept_timeout_and_not_before(serve):
    served = serve(Echoing, accept_receive=True, accept_timeout_s=1)
    talking, late = served.speaking()
    start = clock()
    assert served.connect_in_vain() == b""
    assert clock() - start >= 1
    stats = served.stats()
    assert stats["silent_clients_dropped"] == late + 1
    assert stats["connections_made"] == 1
    assert stats["accept_errors"] == 0
    # A client that has once spoken may be silent as long as it likes.
    assert talking.exchange([b"still here"]) == b"still here"
    wait_for_figure(served.server, "accepts_pending", 10)


def test_stopping_with_silent_clients_in_the_pool(serve):
    served = serve(Echoing, accept_receive=True)
    silent = [served.connect() for _ in range(5)]
    served.server.close()
    assert served.server.wait_closed(WAIT_S) is True
    for client in silent:
        assert client.read_until_gone() == b""
