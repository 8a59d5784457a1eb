"""Which addresses a server listens on, and what it says where it cannot."""

import logging
import re
import socket
import threading

import pytest
from clients import Client
from protocols import Echoing
from served import assert_balanced
from sockets import own_host
from waiting import wait_until

import iocpx
from iocpx._listening import PORT_ATTEMPTS

pytestmark = pytest.mark.engine("the sockets are the system's")

# WSAEADDRINUSE, or WSAEACCES, which Windows prefers where the other one has it exclusively.
IN_USE = (10048, 10013)
NOT_HERE = "203.0.113.7"  # kept for documents: no machine has it
# Where the tests beside these take no port away.
ONE, OTHER = own_host(), own_host()


def resolve_to(monkeypatch, **names):
    """Let these names stand for these addresses."""
    resolve = socket.getaddrinfo

    def fake(host, *arguments, **parameters):
        return [
            found
            for address in names.get(host, [host])
            for found in resolve(address, *arguments, **parameters)
        ]

    monkeypatch.setattr(socket, "getaddrinfo", fake)


@pytest.fixture
def sockets(monkeypatch):
    """Every socket that a server makes from here on."""
    made = []
    bind = socket.socket.bind

    def recorded(sock, address):
        made.append(sock)
        bind(sock, address)

    monkeypatch.setattr(socket.socket, "bind", recorded)
    return made


def assert_serves_on(server, *hosts):
    """Serve once: on these addresses, one port, an echo from each."""
    with server:
        bound = [sock.getsockname() for sock in server.sockets]
        assert [address[0] for address in bound] == list(hosts)
        assert len({address[1] for address in bound}) == 1
        assert server.address == bound[0]
        for address in bound:
            with Client(address) as client:
                assert client.exchange([b"hello"]) == b"hello"
    assert_balanced(server)


# -- one port for several addresses


class Occupied:
    """Somebody else is faster on OTHER: whatever port the system chooses for ONE, the first `times`
    times."""

    def __init__(self, monkeypatch, times):
        self.left = times
        self.proposed = []
        self.others = []
        self.bind = socket.socket.bind
        occupied = self

        def bind(sock, address):
            occupied.bind(sock, address)
            if address == (ONE, 0):
                occupied.take(sock.getsockname()[1])

        monkeypatch.setattr(socket.socket, "bind", bind)

    def take(self, port):
        self.proposed.append(port)
        if self.left > 0:
            self.left -= 1
            other = socket.socket()
            self.others.append(other)
            other.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
            self.bind(other, (OTHER, port))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for other in self.others:
            other.close()


@pytest.mark.parametrize("times", [1, 5, PORT_ATTEMPTS - 1])
def test_a_chosen_port_that_another_address_cannot_have_is_not_kept(monkeypatch, times):
    with Occupied(monkeypatch, times) as occupied:
        assert_serves_on(iocpx.Server(Echoing, [ONE, OTHER]), ONE, OTHER)
        # None was proposed twice, however few the system chooses from.
        assert len(set(occupied.proposed)) == times + 1


def test_after_some_attempts_at_a_port_the_error_is_told(monkeypatch):
    server = iocpx.Server(Echoing, [ONE, OTHER])
    with Occupied(monkeypatch, PORT_ATTEMPTS) as occupied:
        with pytest.raises(OSError, match=rf"{re.escape(OTHER)}:\d+") as caught:
            server.start()
        assert caught.value.winerror in IN_USE
        assert len(occupied.proposed) == PORT_ATTEMPTS
        for port in occupied.proposed:
            with socket.socket() as probe:
                # All that were bound meanwhile are free again.
                occupied.bind(probe, (ONE, port))
        assert_balanced(server)


def test_a_given_port_is_tried_once(monkeypatch, sockets):
    with socket.socket() as other:
        other.bind((OTHER, 0))
        other.listen()
        port = other.getsockname()[1]
        sockets.clear()
        server = iocpx.Server(Echoing, [ONE, OTHER], port)
        with pytest.raises(OSError, match=rf"{re.escape(OTHER)}:{port}") as caught:
            server.start()
    assert caught.value.winerror in IN_USE
    assert len(sockets) == 2
    assert all(sock.fileno() == -1 for sock in sockets)


# -- addresses that this machine lacks


@pytest.mark.parametrize("order", [1, -1])
def test_an_unavailable_address_of_a_name_is_left_out_and_told(monkeypatch, caplog, order):
    resolve_to(monkeypatch, two=["127.0.0.1", NOT_HERE][::order])
    caplog.set_level(logging.INFO, logger="iocpx")
    assert_serves_on(iocpx.Server(Echoing, "two"), "127.0.0.1")
    wait_until(lambda: len(caplog.records) >= 3, "the last line")
    told = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert [level for level, _ in told] == ["WARNING", "INFO", "INFO"], told
    assert "left out" in told[0][1] and NOT_HERE in told[0][1]
    assert NOT_HERE not in told[1][1]


def test_a_family_that_the_machine_lacks_is_left_out(monkeypatch, caplog):
    """As where IPv6 is off: the socket itself cannot be made."""
    resolve_to(monkeypatch, both=["::1", "127.0.0.1"])
    make = socket.socket.__init__

    def without_ipv6(sock, family=-1, *arguments, **parameters):
        if family == socket.AF_INET6:
            raise OSError(0, "not here", None, 10047)
        make(sock, family, *arguments, **parameters)

    with monkeypatch.context() as patch:
        patch.setattr(socket.socket, "__init__", without_ipv6)
        assert_serves_on(iocpx.Server(Echoing, "both"), "127.0.0.1")
        assert "[::1]:0" in caplog.text
        with pytest.raises(OSError, match=r"\[::1\]:0") as caught:
            iocpx.Server(Echoing, "::1").start()
    assert caught.value.winerror == 10047


@pytest.mark.parametrize(
    "hosts",
    ["none", ["127.0.0.1", "none"], NOT_HERE, ["127.0.0.1", NOT_HERE], ["two", NOT_HERE]],
    ids=str,
)
def test_a_host_of_which_no_address_is_left_fails_the_start(monkeypatch, sockets, hosts):
    resolve_to(monkeypatch, none=[NOT_HERE, "203.0.113.8"], two=["127.0.0.1", NOT_HERE])
    server = iocpx.Server(Echoing, hosts)
    with pytest.raises(OSError, match=r"203\.0\.113\.\d") as caught:
        server.start()
    assert caught.value.winerror == 10049
    assert all(sock.fileno() == -1 for sock in sockets)
    assert_balanced(server)


def test_another_error_of_one_address_of_a_name_fails_the_start(monkeypatch, sockets):
    resolve_to(monkeypatch, two=[ONE, OTHER])
    with socket.socket() as other:
        other.bind((OTHER, 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(OSError, match=rf"{re.escape(OTHER)}:{port}") as caught:
            iocpx.Server(Echoing, "two", port).start()
        assert caught.value.winerror in IN_USE
        sockets.remove(other)
    assert all(sock.fileno() == -1 for sock in sockets)


def test_names_that_stand_for_one_address_are_one_listener(monkeypatch):
    resolve_to(monkeypatch, one=[ONE], same=[ONE, OTHER])
    assert_serves_on(iocpx.Server(Echoing, ["one", "same"]), ONE, OTHER)


def test_the_warning_is_told_by_the_thread_that_starts(monkeypatch, caplog):
    """It may hold the lock of the log handler, which no other thread could take then."""
    resolve_to(monkeypatch, two=["127.0.0.1", NOT_HERE])
    caplog.set_level(logging.INFO, logger="iocpx")
    server = iocpx.Server(Echoing, "two")
    caplog.handler.acquire()
    try:
        server.start()
        told_by = {record.thread for record in caplog.records}
    finally:
        caplog.handler.release()
    assert told_by == {threading.get_ident()}
    server.close()
    assert server.wait_closed() is True
    assert_balanced(server)


# -- what is said


def test_a_name_that_does_not_exist_is_named(monkeypatch):
    def unknown(*_, **__):
        raise socket.gaierror(11001, "getaddrinfo failed")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    server = iocpx.Server(Echoing, ["127.0.0.1", "nowhere.example"])
    with pytest.raises(
        socket.gaierror, match=r"getaddrinfo failed \(host '127\.0\.0\.1'"
    ) as caught:
        server.start()
    assert caught.value.errno == caught.value.winerror == 11001
    assert_balanced(server)


def test_a_host_with_no_address_of_ours_is_named(monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [])
    with pytest.raises(socket.gaierror, match=r"no IPv4 or IPv6 address \(host 'nowhere'\)"):
        iocpx.Server(Echoing, "nowhere").start()
