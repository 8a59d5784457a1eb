"""Clients of ours: a service connects to others, and its protocols are told as of who comes."""

import contextlib
import socket

import pytest
from clients import Client
from payload import assert_same_bytes, pattern
from protocols import Plain, Recording
from served import Served, assert_balanced
from sockets import has_ipv6
from waiting import WAIT_S, run_together, take, wait_for_figure, wait_until

import iocpx


def sockaddr(family, host, port):
    """The address as the engine takes it."""
    head = family.to_bytes(2, "little") + port.to_bytes(2, "big")
    if family == socket.AF_INET6:
        return (head + bytes(4) + socket.inet_pton(family, host)).ljust(28, b"\0")
    return (head + socket.inet_pton(family, host)).ljust(28, b"\0")


def connect(served, address, family=socket.AF_INET):
    served.server._runtime.connect(family, sockaddr(family, *address[:2]))


def connected(served, address, family=socket.AF_INET):
    """The protocol of one more connection of ours, its connection_made done."""
    connect(served, address, family)
    protocol = take(served._made, "the protocol of the new connection")
    protocol.wait_for("connection_made")
    return protocol


@pytest.fixture
def ours(serve):
    return serve(Recording, initial_accepts=1, max_accepts=1)


ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")


@pytest.mark.parametrize(
    "family, host",
    [(socket.AF_INET, "127.0.0.1"), pytest.param(socket.AF_INET6, "::1", marks=ipv6)],
    ids=["4", "6"],
)
def test_what_is_sent_comes_back(serve, ours, family, host):
    peer = serve(Plain, host)
    for size in (5, 300_000):
        protocol = connected(ours, peer.server.address, family)
        data = pattern(size, seed=size)
        protocol.transport.write(data)
        protocol.wait_for_data(size)
        assert_same_bytes(bytes(protocol.received), data)
        (theirs,) = peer.server.connections
        assert protocol.transport.get_extra_info("peername") == theirs.get_extra_info("sockname")
        assert protocol.transport.get_extra_info("sockname") == theirs.get_extra_info("peername")
        protocol.transport.close()
        protocol.wait_for("connection_lost")
        assert protocol.lost_with is None
        wait_until(lambda: peer.server.connections == [], "the end on the other side")


def test_clients_and_servers_on_one_engine():
    engine = iocpx.Engine(workers=1)
    peer, ours = Served(iocpx.native.Echo, engine=engine), Served(Recording, engine=engine)
    protocols = [connected(ours, peer.server.address) for _ in range(20)]
    for number, protocol in enumerate(protocols):
        protocol.transport.write(pattern(10_000, seed=number))
    for number, protocol in enumerate(protocols):
        protocol.wait_for_data(10_000)
        assert_same_bytes(bytes(protocol.received), pattern(10_000, seed=number))
    for served in (ours, peer):
        served.server.close()
        assert served.server.wait_closed(WAIT_S) is True
    for served in (ours, peer):
        assert_balanced(served.server)


def test_the_end_of_the_peer_and_its_reset_are_told(ours):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        protocol = connected(ours, listener.getsockname())
        listener.accept()[0].close()
        protocol.wait_for("connection_lost")
        assert protocol.lost_with is None
        protocol = connected(ours, listener.getsockname())
        peer = listener.accept()[0]
        protocol.transport.write(b"hello")
        assert peer.recv(5) == b"hello"
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0")
        peer.close()
        protocol.wait_for("connection_lost")
        # Wine shows a reset as an end.
        assert protocol.lost_with is None or protocol.lost_with.winerror in (64, 10054)


def test_nobody_there_ends_the_connection_untold(serve):
    ours = serve(Recording)
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        connect(ours, sock.getsockname())
        wait_for_figure(ours.server, "connections_retired", 1)
    assert ours.server.stats()["aborts_by_reason"]["error"] == 1
    assert ours.protocols == []


def test_a_stop_gives_up_what_is_connecting(serve):
    # Who has got into the backlog is connected, and its end never comes.
    ours = serve(Recording, close_timeout_s=0.1)
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        # Nobody accepts: the first ones fill the backlog, and the others have to wait, or are
        # refused, as the system likes.
        for _ in range(10):
            connect(ours, full.getsockname())
        ours.server.close()
        assert ours.server.wait_closed(WAIT_S) is True
        assert_balanced(ours.server)


def test_who_goes_out_does_not_count_as_who_comes(serve):
    peer = serve(Plain)
    ours = serve(Recording, max_connections=1)
    protocols = [connected(ours, peer.server.address) for _ in range(3)]
    assert all(protocol.transport.is_closing() is False for protocol in protocols)
    with Client(ours.server.address):
        wait_for_figure(ours.server, "accepts", 1)
        assert ours.connect_in_vain() == b""
    assert ours.server.stats()["refused"] == 1
    assert ours.server.stats()["connections_now"] >= 3


def test_many_threads_connect(serve):
    peer, ours = serve(Plain), serve(Recording)

    def some():
        for _ in range(10):
            connect(ours, peer.server.address)

    run_together(*[some] * 4)
    for _ in range(40):
        take(ours._made, "a protocol").wait_for("connection_made")
    wait_for_figure(peer.server, "connections_made", 40)


@pytest.mark.slow("a connection is idle after seconds")
def test_a_connection_of_ours_is_idle_and_is_limited_as_others(serve):
    peer = serve(Plain)
    ours = serve(Recording, idle_timeout_s=3)
    protocol = connected(ours, peer.server.address)
    protocol.wait_for("connection_lost")
    assert protocol.lost_with.winerror == 10060


def test_a_stopped_server_connects_nowhere(serve):
    peer, ours = serve(Plain), serve(Recording)
    ours.server.close()
    assert ours.server.wait_closed(WAIT_S) is True
    with pytest.raises(ConnectionResetError, match="connect") as raised:
        connect(ours, peer.server.address)
    assert raised.value.winerror == 995
    with Client(peer.server.address) as client:
        assert client.exchange([b"still here"]) == b"still here"
