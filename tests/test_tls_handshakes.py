"""Handshakes of the threaded server: many at once, and all that can be wrong with one. What one
client does costs that client only.
"""

import contextlib
import math
import re
import ssl

import pytest
from clients import Client
from protocols import Echoing, Recording
from tls_peers import (
    CERTIFICATE,
    EXPIRED,
    GARBAGE,
    OTHER,
    TlsClient,
    client_context,
    server_context,
    shake_all,
)
from waiting import clock, run_together, wait_for_figure, wait_until, wait_until_gone

import iocpx

# Also for those who are not silent: longer than a busy machine stands still.
HANDSHAKE_S = 1.0


@pytest.fixture(params=["1.2", "1.3"])
def version(request):
    return request.param


def served_in_time(served):
    """A client that has its echo.  A busy machine may let a handshake's time pass before it is
    done: then another one is made."""
    for _ in range(20):
        begun_at = clock()
        try:
            client = served.connect()
            assert client.exchange([b"before"]) == b"before"
            return client
        except ConnectionError:
            if clock() - begun_at < HANDSHAKE_S:
                raise
    raise AssertionError("this machine is too slow for so short a time")


@pytest.fixture
def beside(serve_tls):
    """`beside(factory, **parameters)`: a server with a client that must be served to the end."""
    made = []

    def make(factory=Echoing, **parameters):
        served = serve_tls(factory, **parameters)
        made.append((served, served_in_time(served)))
        return served

    yield make
    for served, client in made:
        assert client.exchange([b"afterwards"]) == b"afterwards"
        served_in_time(served).close()


def only_failure(served):
    """The reason of the one handshake that has failed."""
    wait_until(lambda: served.stats()["handshake_failures"], "a failed handshake")
    wait_for_figure(served.server, "active_handshakes", 0)
    ((reason, count),) = served.stats()["handshake_failures"].items()
    assert count == 1
    assert served.stats()["handshake_timeouts"] == 0
    assert len(served.protocols) == 1, "a protocol was made for a client without a handshake"
    return reason


def second(served):
    """The protocol of the second client; his handshake may be done before the server's is."""
    wait_until(lambda: len(served.protocols) == 2, "the second protocol")
    return served.protocols[1]


# -- what is no TLS


def test_plain_http_to_the_tls_port(beside):
    served = beside()
    client = Client(served.server.address)
    client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    client.read_until_gone()
    assert only_failure(served) == "HTTP_REQUEST"
    client.close()


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE)
def test_garbage_to_the_tls_port(beside, data):
    served = beside()
    client = Client(served.server.address)
    client.send_until_refused(data)
    client.read_until_gone()
    assert only_failure(served)
    client.close()


def test_tls_to_a_plain_port(serve):
    served = serve(Echoing)
    other, _ = served.open()
    with pytest.raises(ssl.SSLError):
        # It gets its own ClientHello back.
        TlsClient(served.server.address)
    assert other.exchange([b"hello"]) == b"hello"
    served.assert_serving()


# -- a handshake that stops


@pytest.mark.parametrize("sent", [0, 1, 100, math.inf], ids=["nothing", "a byte", "a part", "all"])
def test_a_silent_client_is_given_up_after_its_time_and_never_before(beside, version, sent):
    seconds = HANDSHAKE_S
    served = beside(ssl_handshake_timeout_s=seconds)
    given_up = served.stats()["handshake_timeouts"]
    begun_at = clock()
    client = TlsClient(served.server.address, client_context(version), shake=False)
    hello = client.hello()
    # Held up for the time, it finds itself given up here.
    with contextlib.suppress(ConnectionError):
        client.send_raw(hello[: int(min(sent, len(hello)))])
    client.wait_for_the_end()
    assert clock() - begun_at >= seconds
    wait_for_figure(served.server, "handshake_timeouts", given_up + 1)
    figures = served.stats()
    assert figures["active_handshakes"] == 0
    assert figures["handshake_failures"] == {}
    assert len(served.protocols) == 1
    client.close()


def test_no_time_is_given_up_after_the_handshake(serve_tls):
    served = serve_tls(Echoing, ssl_handshake_timeout_s=HANDSHAKE_S)
    client = served_in_time(served)
    protocol = served.protocols[-1]
    given_up = served.stats()["handshake_timeouts"]
    # A client whose time begins later is given up, this one is not.
    with TlsClient(served.server.address, shake=False) as silent:
        silent.wait_for_the_end()
    wait_for_figure(served.server, "handshake_timeouts", given_up + 1)
    assert client.exchange([b"hello"]) == b"hello"
    assert "connection_lost" not in protocol.events


@pytest.mark.parametrize("how", ["end", "reset"])
@pytest.mark.parametrize(
    "flight, size", [(1, 0), (1, 1), (1, 5), (1, 200), (1, math.inf), (2, 1), (2, 30)]
)
def test_a_client_that_vanishes_in_its_handshake(beside, version, flight, size, how):
    served = beside()
    client = TlsClient(served.server.address, client_context(version), shake=False)
    wait_until(lambda: served.stats()["connections_made"] == 2, "the second connection")
    data = client.hello()
    if flight == 2:
        client.send_raw(data)
        client.receive()
        while not client.step() and not client.outgoing.pending:
            client.receive()
        data = client.outgoing.read()
    client.send_raw(data[: int(min(size, len(data)))])
    wait_for_figure(served.server, "active_handshakes", 1)
    if how == "end":
        client.half_close()
        client.wait_for_the_end()
        client.close()
    else:
        client.reset()
    assert only_failure(served) == "ConnectionResetError"


def test_a_handshake_that_ends_with_close_notify(beside):
    served = beside()
    client = Client(served.server.address)
    client.send(b"\x15\x03\x01\x00\x02\x01\x00")
    client.half_close()
    client.read_until_gone()
    assert only_failure(served)
    client.close()


# -- a handshake that both sides cannot agree in


def refused(served, context, name="localhost"):
    """The SSLError of a client whose handshake the server refuses."""
    client = TlsClient(served.server.address, context, name, shake=False)
    try:
        client.handshake()
        # In TLS 1.3 the client is done before the server has looked at its certificate.
        client.read_exactly(1)
    except ssl.SSLError as exc:
        return exc.reason
    finally:
        client.close()
    raise AssertionError("the server took the client")


def test_no_common_version(beside):
    context = server_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    served = beside(context=context)
    assert "PROTOCOL_VERSION" in refused(served, client_context("1.2"))
    assert only_failure(served) == "UNSUPPORTED_PROTOCOL"


def test_no_common_cipher(beside):
    context = server_context("1.2")
    context.set_ciphers("ECDHE-RSA-AES128-GCM-SHA256")
    trusting = client_context("1.2")
    trusting.set_ciphers("ECDHE-RSA-AES256-GCM-SHA384")
    served = beside(context=context)
    assert "HANDSHAKE_FAILURE" in refused(served, trusting)
    assert only_failure(served) == "NO_SHARED_CIPHER"


def test_a_client_that_does_not_trust_the_server(beside, version):
    served = beside()
    with pytest.raises(ssl.SSLCertVerificationError):
        TlsClient(served.server.address, client_context(version, OTHER))
    assert "UNKNOWN_CA" in only_failure(served)


def test_a_client_without_the_certificate_that_is_required(beside, version):
    served = beside(context=server_context(clients=OTHER), client=client_context(certificate=OTHER))
    reason = refused(served, client_context(version))
    assert "HANDSHAKE_FAILURE" in reason or "CERTIFICATE_REQUIRED" in reason
    assert only_failure(served) == "PEER_DID_NOT_RETURN_A_CERTIFICATE"


@pytest.mark.parametrize("certificate", [EXPIRED, CERTIFICATE], ids=["expired", "unknown"])
def test_a_client_with_a_certificate_that_is_not_taken(beside, version, certificate):
    context = server_context(clients=OTHER)
    context.load_verify_locations(EXPIRED)
    served = beside(context=context, client=client_context(certificate=OTHER))
    reason = refused(served, client_context(version, certificate=certificate))
    assert ("EXPIRED" if certificate is EXPIRED else "UNKNOWN_CA") in reason
    assert only_failure(served) == "CERTIFICATE_VERIFY_FAILED"


# -- after the handshake


@pytest.mark.parametrize("place", [5, 20, -1])
def test_a_record_that_was_tampered_with(beside, version, place):
    served = beside()
    client = TlsClient(served.server.address, client_context(version))
    assert client.exchange([b"hello"]) == b"hello"
    cipher = bytearray(client.encrypt(b"a" * 1000))
    cipher[place] ^= 1
    client.send_raw(bytes(cipher))
    with pytest.raises(ssl.SSLError) as told:
        client.read_exactly(1)
    assert "BAD_RECORD_MAC" in told.value.reason
    protocol = served.protocols[1]
    protocol.wait_for("connection_lost")
    assert type(protocol.lost_with) is ssl.SSLError
    assert protocol.received == b"hello"
    # It is no failed handshake.
    assert served.stats()["handshake_failures"] == {}
    client.close()


def test_what_came_before_a_bad_record_is_delivered(beside, version):
    served = beside()
    client = TlsClient(served.server.address, client_context(version))
    good = client.encrypt(b"good")
    bad = bytearray(client.encrypt(b"bad"))
    bad[-1] ^= 1
    client.send_raw(good + bytes(bad))
    protocol = second(served)
    protocol.wait_for("connection_lost")
    assert protocol.received == b"good"
    assert isinstance(protocol.lost_with, ssl.SSLError)
    assert "eof_received" not in protocol.events
    client.close()


@pytest.mark.parametrize(
    "data",
    [b"\x17\x03\x03\xff\xff" + bytes(70_000), b"GET / HTTP/1.1\r\n\r\n", bytes(100)],
    ids=["an oversized record", "HTTP", "zeros"],
)
def test_what_is_no_record_ends_the_connection(beside, version, data):
    served = beside()
    client = TlsClient(served.server.address, client_context(version))
    assert client.exchange([b"hello"]) == b"hello"
    with contextlib.suppress(ConnectionError):  # it may be refused before its end
        client.send_raw(data)
    protocol = served.protocols[1]
    protocol.wait_for("connection_lost")
    assert isinstance(protocol.lost_with, ssl.SSLError)
    client.close()


def test_the_end_within_a_record_is_an_end(beside, version):
    served = beside()
    client = TlsClient(served.server.address, client_context(version))
    client.send_raw(client.encrypt(b"a" * 1000)[:-1])
    client.half_close()
    protocol = second(served)
    protocol.wait_for("connection_lost")
    assert protocol.events == ["connection_made", "eof_received", "connection_lost"]
    assert protocol.lost_with is None
    client.close()


# -- arguments


def test_a_context_of_the_other_side_is_refused():
    with pytest.raises(ValueError, match=r"^ssl must be a context for servers"):
        iocpx.Server(Recording, ssl=ssl.create_default_context())


def test_a_native_handler_has_no_tls():
    with pytest.raises(ValueError, match=r"^ssl must be None with a native handler"):
        iocpx.Server(iocpx.native.Echo, ssl=server_context())


@pytest.mark.parametrize("value", [True, "ssl", 3, ssl.SSLContext, CERTIFICATE])
def test_what_is_no_context_is_refused(value):
    wanted = f"ssl must be an ssl.SSLContext or None, got {value!r}"
    with pytest.raises(TypeError, match=f"^{re.escape(wanted)}$"):
        iocpx.Server(Recording, ssl=value)


def test_a_context_of_either_side_is_taken(serve_tls):
    with pytest.deprecated_call():
        context = ssl.SSLContext(ssl.PROTOCOL_TLS)
    context.load_cert_chain(CERTIFICATE)
    client, _ = serve_tls(Echoing, context=context).open()
    assert client.exchange([b"hello"]) == b"hello"


def test_a_context_without_a_certificate_costs_the_clients(serve_tls):
    served = serve_tls(Echoing, context=ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    with pytest.raises(ssl.SSLError):
        served.connect()
    wait_until(lambda: served.stats()["handshake_failures"], "a failed handshake")
    assert served.protocols == []


def test_figures_without_tls(serve):
    served = serve(Echoing)
    served.assert_serving()
    figures = served.stats()
    assert figures["handshakes"] == figures["active_handshakes"] == 0
    assert figures["handshakes_waiting"] == figures["handshake_timeouts"] == 0
    assert figures["handshake_failures"] == {}


# -- many handshakes


def test_the_next_handshake_begins_when_one_has_ended(serve_tls):
    served = serve_tls(Echoing, max_handshakes=2)
    clients = []
    for number in range(4):
        clients.append(TlsClient(served.server.address, shake=False))
        wait_for_figure(served.server, "connections_now", number + 1)
        wait_until(lambda count=number + 1: begun(served) == count, f"{number + 1} handshakes")
    figures = served.stats()
    assert (figures["active_handshakes"], figures["handshakes_waiting"]) == (2, 2)
    for client in clients[2:]:
        client.send_raw(client.hello())
    # Neither is answered before one of the silent two has gone; then the first that waited is.
    clients[0].close()
    wait_for_figure(served.server, "handshakes_waiting", 1)
    clients[2].receive()
    assert served.stats()["handshakes_waiting"] == 1
    clients[2].handshake()
    clients[3].receive()
    clients[3].handshake()
    assert served.stats()["handshakes_waiting"] == 0
    for client in clients[2:]:
        assert client.exchange([b"hello"]) == b"hello"
    figures = served.stats()
    assert (figures["active_handshakes"], figures["handshakes"]) == (1, 2)
    assert figures["handshake_failures"] == {"ConnectionResetError": 1}
    for client in clients[1:]:
        client.close()


@pytest.mark.parametrize("how", ["the server closes", "close_clients", "abort_clients", "idle"])
def test_a_handshake_that_is_ended_here_is_not_the_clients_fault(serve_tls, how):
    options = {"idle_timeout_s": 2} if how == "idle" else {"close_timeout_s": 0.1}
    served = serve_tls(Recording, max_handshakes=1, **options)
    clients = [TlsClient(served.server.address, shake=False) for _ in range(2)]
    wait_until(lambda: begun(served) + ended(served) == 2, "both")
    if how == "the server closes":
        served.server.close()
    elif how != "idle":
        getattr(served.server, how)()
    # Its handle is closed before that is told.
    wait_for_figure(served.server, "handshake_failures", {"ConnectionAbortedError": 2})
    wait_for_figure(served.server, "connections_now", 0)
    for client in clients:
        client.close()


def begun(served):
    figures = served.stats()
    return figures["active_handshakes"] + figures["handshakes_waiting"]


def ended(served):
    figures = served.stats()
    return figures["handshake_timeouts"] + sum(figures["handshake_failures"].values())


def test_one_that_waits_and_goes_takes_no_turn(serve_tls):
    served = serve_tls(Echoing, max_handshakes=1)
    silent, goes, stays = [], [], []
    for number, group in enumerate((silent, goes, stays)):
        group.append(TlsClient(served.server.address, shake=False))
        wait_until(lambda count=number + 1: begun(served) == count, f"{number + 1} handshakes")
    goes[0].reset()
    stays[0].send_raw(stays[0].hello())
    silent[0].close()
    stays[0].receive()
    stays[0].handshake()
    assert stays[0].exchange([b"hello"]) == b"hello"
    stays[0].close()
    wait_for_figure(served.server, "active_handshakes", 0)
    assert served.stats()["handshakes_waiting"] == 0


def test_clients_that_wait_for_their_handshakes_and_all_reset(serve_tls):
    """One's end lets the next begin, whose own end is just told."""
    served = serve_tls(Echoing, max_handshakes=2)
    for _ in range(3):
        clients = [TlsClient(served.server.address, shake=False) for _ in range(100)]
        wait_until(lambda: begun(served) == 100, "100 handshakes")
        run_together(*[lambda few=clients[n::4]: [c.reset() for c in few] for n in range(4)])
        wait_until_gone(served)
        wait_until(lambda: begun(served) == 0, "the end of all")
    with TlsClient(served.server.address, client_context()) as client:
        assert client.exchange([b"hello"]) == b"hello"


@pytest.mark.engine("their number is the engine's affair")
@pytest.mark.slow("500 handshakes")
@pytest.mark.parametrize(
    "limit", [8, pytest.param(256, marks=pytest.mark.once("another limit"))]
)
def test_five_hundred_handshakes_of_which_half_vanish(serve_tls, limit):
    # Each one's time runs from its connect, before the first has said a word.
    served = serve_tls(Echoing, max_handshakes=limit, ssl_handshake_timeout_s=600)
    context = client_context()
    clients = [TlsClient(served.server.address, context, shake=False) for _ in range(500)]
    for number, client in enumerate(clients[1::2]):
        # Before the first byte, in the middle of the first flight, and after it.
        client.send_raw(client.hello()[: number % 3 * 300])
    ends = [(client.close, client.reset)[number % 2] for number, client in enumerate(clients[1::2])]
    run_together(lambda: shake_all(clients[::2]), lambda: [end() for end in ends])
    for client in clients[::2]:
        client.send(b"hello")
    for client in clients[::2]:
        assert client.read_exactly(5) == b"hello"
    wait_for_figure(served.server, "active_handshakes", 0)
    figures = served.stats()
    assert figures["handshakes_waiting"] == 0
    assert figures["handshakes"] == 250
    # A reset may come before the server has the connection.
    assert sum(figures["handshake_failures"].values()) <= 250
    assert figures["handshake_timeouts"] == 0
    assert len(served.protocols) == 250
    for client in clients[::2]:
        client.close()


@pytest.mark.slow("the shortest timeout is seconds")
def test_the_time_of_a_handshake_begins_with_its_turn(serve_tls):
    seconds = HANDSHAKE_S
    served = serve_tls(Echoing, max_handshakes=1, ssl_handshake_timeout_s=seconds)
    begun_at = clock()
    silent = TlsClient(served.server.address, shake=False)
    wait_until(lambda: begun(served) + ended(served) == 1, "the first one's turn")
    second = TlsClient(served.server.address, shake=False)
    # Held up, we come when the first one's time is over, or the second one's as well.
    wait_until(lambda: begun(served) + ended(served) == 2, "the second one")
    for number, client in enumerate((silent, second)):
        client.wait_for_the_end()
        client.close()
        assert clock() - begun_at >= (number + 1) * seconds
    wait_for_figure(served.server, "handshake_timeouts", 2)
    assert served.stats()["handshakes_waiting"] == 0
