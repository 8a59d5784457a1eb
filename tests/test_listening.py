"""Where a started server listens, and what a start says that cannot."""

import socket

import pytest
from clients import Client
from protocols import Echoing
from served import assert_balanced
from sockets import free_port, has_ipv6
from waiting import WAIT_S, run_together

import iocpx


def test_a_started_server_serves_and_says_where(serve):
    served = serve(Echoing)
    server = served.server
    assert server.is_serving() is True
    assert len(server.sockets) == 1
    assert server.sockets[0].getsockname() == server.address
    assert server.address[0] == "127.0.0.1" and server.address[1] > 0
    served.assert_serving()


def test_a_server_that_was_not_started_does_nothing():
    server = iocpx.Server(Echoing, "127.0.0.1")
    assert server.is_serving() is False
    assert server.sockets == ()
    assert server.connection_count == 0
    server.close()
    assert server.wait_closed(WAIT_S) is True
    assert_balanced(server)


def test_the_first_client_may_come_right_after_start():
    for _ in range(20):
        with (
            iocpx.Server(iocpx.native.Echo, "127.0.0.1") as server,
            Client(server.address) as client,
        ):
            assert client.exchange([b"at once"]) == b"at once"


def test_a_given_port_is_the_port(serve):
    port = free_port()
    served = serve(Echoing, "127.0.0.1", port)
    assert served.server.address == ("127.0.0.1", port)
    served.assert_serving()


def test_starting_twice_is_refused_and_harmless(serve):
    served = serve(Echoing)
    with pytest.raises(RuntimeError, match="already"):
        served.server.start()
    served.assert_serving()


def test_of_several_threads_that_start_a_server_one_does(serve):
    served = serve(Echoing, started=False)
    results = []

    def start():
        try:
            results.append(served.server.start())
        except RuntimeError as error:
            results.append(str(error))

    run_together(*[start] * 4)
    assert results.count(None) == 1, results
    assert sum("already" in str(result) for result in results) == 3, results
    served.assert_serving()


def test_several_hosts_are_several_listeners(serve):
    served = serve(Echoing, ["127.0.0.1", "127.0.0.2"])
    assert [sock.getsockname()[0] for sock in served.server.sockets] == ["127.0.0.1", "127.0.0.2"]
    for sock in served.server.sockets:
        client = served.connect(sock.getsockname())
        assert client.exchange([b"hello"]) == b"hello"


def test_without_a_host_all_interfaces_are_served(serve):
    served = serve(Echoing, None)
    families = [sock.family for sock in served.server.sockets]
    assert families
    for sock in served.server.sockets:
        loopback = "::1" if sock.family == socket.AF_INET6 else "127.0.0.1"
        client = served.connect((loopback, sock.getsockname()[1]))
        assert client.exchange([b"hello"]) == b"hello"
    ports = {
        sock.getsockname()[1] for sock in served.server.sockets if sock.family == socket.AF_INET
    }
    client = served.connect(("127.0.0.1", ports.pop() if ports else served.server.address[1]))
    assert client.exchange([b"over IPv4"]) == b"over IPv4"


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")
def test_ipv4_and_ipv6_side_by_side(serve):
    served = serve(Echoing, ("127.0.0.1", "::1"))
    assert [sock.family for sock in served.server.sockets] == [socket.AF_INET, socket.AF_INET6]
    for sock in served.server.sockets:
        client = served.connect(sock.getsockname())
        assert client.exchange([b"hello"]) == b"hello"


def occupied_port():
    sock = socket.socket()
    if hasattr(socket, "SO_EXCLUSIVEADDRUSE"):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
    # It is free again later: the system gives this port to nobody else.
    sock.bind(("127.0.0.1", free_port()))
    sock.listen()
    return sock


# WSAEADDRINUSE, or WSAEACCES, which Windows prefers where the other one has it exclusively.
IN_USE = (10048, 10013)


def in_use(port):
    """The error names the address."""
    return rf"127\.0\.0\.1.*\b{port}\b"


def test_a_port_in_use_is_an_error_that_names_the_address():
    with occupied_port() as other:
        port = other.getsockname()[1]
        server = iocpx.Server(Echoing, "127.0.0.1", port)
        with pytest.raises(OSError, match=in_use(port)) as caught:
            server.start()
    assert caught.value.winerror in IN_USE
    assert_balanced(server)


def test_two_servers_cannot_have_one_port(serve):
    served = serve(Echoing)
    second = iocpx.Server(Echoing, "127.0.0.1", served.server.address[1])
    with pytest.raises(OSError, match=in_use(served.server.address[1])) as caught:
        second.start()
    assert caught.value.winerror in IN_USE
    served.assert_serving()


def test_a_failed_start_can_be_tried_again(serve):
    with occupied_port() as other:
        port = other.getsockname()[1]
        served = serve(Echoing, "127.0.0.1", port, started=False)
        with pytest.raises(OSError, match=in_use(port)):
            served.server.start()
        assert served.server.is_serving() is False
    served.server.start()
    served.assert_serving()


def test_when_one_of_several_hosts_fails_none_is_served():
    with occupied_port() as other:
        port = other.getsockname()[1]
        server = iocpx.Server(Echoing, ["127.0.0.2", "127.0.0.1"], port)
        with pytest.raises(OSError, match=in_use(port)) as caught:
            server.start()
        assert caught.value.winerror in IN_USE
        assert_balanced(server)
        with socket.socket() as probe:
            # The first address is free again.
            probe.bind(("127.0.0.2", port))


def test_an_address_that_is_not_ours_is_an_error_that_names_it():
    server = iocpx.Server(Echoing, "203.0.113.7", 4321)
    with pytest.raises(OSError, match=r"203\.0\.113\.7.*4321") as caught:
        server.start()
    assert caught.value.winerror == 10049
    assert_balanced(server)
