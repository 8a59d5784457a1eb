"""Connection.start_tls(): TLS in the midst of a connection."""

import io
import ssl
from typing import ClassVar

import pytest
from payload import MORE_THAN_THE_KERNEL_TAKES, assert_same_bytes, pattern
from protocols import EchoingBuffered, Recording
from tls_peers import TlsClient, TlsPeer, client_context, server_context
from waiting import WAIT_S, clock, wait_for_a_turn

import iocpx

PROXY = b"PROXY TCP4 192.0.2.1 192.0.2.2 50000 443\r\n"


@pytest.fixture(params=["1.2", "1.3"])
def version(request):
    return request.param


class Starts(Recording):
    """Echoes lines until STARTTLS, then whatever comes, encrypted."""

    parameters: ClassVar[dict] = {}

    def __init__(self):
        super().__init__()
        self.context = server_context()
        self.future = None
        self.raised = []

    def on_data(self, data):
        if data == b"STARTTLS":
            self.transport.write(b"ready")
            self.start()
        else:
            self.transport.write(data)

    def start(self, **parameters):
        self.future = self.transport.start_tls(self.context, **self.parameters, **parameters)


def upgraded(client, context=None):
    """The TLS of a client that has asked for it."""
    client.send(b"STARTTLS")
    assert client.read_exactly(5) == b"ready"
    return TlsClient(None, context, sock=client.sock)


def test_starttls(serve, version):
    client, protocol = serve(Starts).open()
    assert client.exchange([b"plain"]) == b"plain"
    secure = upgraded(client, client_context(version))
    assert protocol.future.result(WAIT_S) is None
    data = pattern(300_000)
    assert_same_bytes(secure.exchange([data]), data)
    assert protocol.transport.get_extra_info("sslcontext") is protocol.context
    assert protocol.transport.get_extra_info("cipher") == secure.tls.cipher()
    assert protocol.transport.can_write_eof() is False
    assert protocol.events.count("connection_made") == 1
    protocol.transport.close()
    assert secure.read_to_end() == b""
    secure.unwrap()
    secure.close()
    protocol.wait_for("connection_lost")
    assert protocol.lost_with is None


@pytest.mark.parametrize("own", [(10, 1000), None], ids=["set", "not set"])
def test_the_marks_become_those_of_tls_unless_they_were_set(serve, own):
    class Limits(Starts):
        def start(self):
            if own is not None:
                self.transport.set_write_buffer_limits(high=own[1], low=own[0])
            super().start()

    client, protocol = serve(Limits).open()
    assert protocol.transport.get_write_buffer_limits() == (16 * 1024, 64 * 1024)
    upgraded(client)
    assert protocol.future.result(WAIT_S) is None
    assert protocol.transport.get_write_buffer_limits() == (own or (128 * 1024, 512 * 1024))


@pytest.mark.parametrize("fails", [False, True], ids=["done", "failed"])
@pytest.mark.parametrize("exc", [SystemExit(3), LookupError("not today")], ids=["exit", "error"])
def test_what_a_callback_of_the_future_raises(serve, fails, exc):
    """What ends a program ends the server, in order; all else the future logs."""

    def leave(future):
        raise exc

    class Leaves(Starts):
        def start(self):
            super().start()
            self.future.add_done_callback(leave)

    served = serve(Leaves, close_timeout_s=0.2)
    client, protocol = served.open()
    if fails:
        client.send(b"STARTTLS")
        client.close()
    else:
        secure = upgraded(client)
    if isinstance(exc, SystemExit):
        context = served.take_error()
        assert context["exception"] is exc
        assert context["message"] == "a callback of a future of start_tls() raised"
        assert served.server.wait_closed(WAIT_S) is True
    elif not fails:
        assert secure.exchange([b"hello"]) == b"hello"
        secure.close()
    protocol.wait_for("connection_lost")


def test_what_is_written_around_start_tls_is_on_its_side_of_it(serve, version):
    class Writes(Starts):
        def start(self):
            self.transport.write(b" steady")
            super().start()
            # It waits for the handshake.
            self.transport.write(b"first secret")

    client, protocol = serve(Writes).open()
    client.send(b"STARTTLS")
    assert client.read_exactly(12) == b"ready steady"
    secure = TlsClient(None, client_context(version), sock=client.sock)
    assert secure.read_exactly(12) == b"first secret"
    assert protocol.future.result(WAIT_S) is None


class TakesProxyHeader(Starts):
    def on_data(self, data):
        if self.future is None:
            header, end, rest = data.partition(b"\r\n")
            assert header + end == PROXY
            self.start(received=rest)
        else:
            self.transport.write(data)


@pytest.mark.parametrize("cut", [0, 1, 100, None], ids=["none", "a byte", "a part", "all"])
def test_a_proxy_header_and_a_client_hello_in_one_packet(serve, version, cut):
    client, protocol = serve(TakesProxyHeader).open()
    secure = TlsClient(None, client_context(version), sock=client.sock, shake=False)
    hello = secure.hello()
    first = hello[:cut]
    client.send(PROXY + first)
    protocol.wait_for("data_received")
    if first != hello:
        client.send(hello[len(first) :])
    secure.receive()
    secure.handshake()
    assert secure.exchange([b"hello"]) == b"hello"
    assert protocol.received == PROXY + first + b"hello"
    assert protocol.future.result(WAIT_S) is None


def test_more_than_the_high_mark_may_be_written_before_the_handshake(serve):
    data = pattern(2_000_000)

    class Writes(Starts):
        def start(self):
            super().start()
            self.transport.write(data)

    client, protocol = serve(Writes).open()
    secure = upgraded(client, client_context())
    assert_same_bytes(secure.read_exactly(len(data)), data)
    assert protocol.future.result(WAIT_S) is None
    protocol.wait_for("resume_writing")


def test_tls_from_connection_made(serve, version):
    class AtOnce(Starts):
        def on_made(self):
            self.start()

    served = serve(AtOnce)
    with TlsClient(served.server.address, client_context(version)) as client:
        assert client.exchange([b"hello"]) == b"hello"


def test_tls_from_a_timer(serve):
    client, protocol = serve(Starts).open()
    protocol.transport.call_soon(protocol.start)
    wait_for_a_turn(protocol.transport)  # what comes in a timer's turn is told first
    secure = TlsClient(None, sock=client.sock)
    assert secure.exchange([b"hello"]) == b"hello"
    assert protocol.future.result(WAIT_S) is None


@pytest.mark.parametrize("where", ["a timer", "a callback of a file's future"])
def test_tls_as_the_client_from(serve, where):
    """It speaks first: nothing that comes begins the handshake."""

    class Calls(Starts):
        parameters: ClassVar[dict] = {"server_side": False, "server_hostname": "localhost"}

        def __init__(self):
            super().__init__()
            self.context = client_context()

    client, protocol = serve(Calls).open()
    if where == "a timer":
        protocol.transport.call_soon(protocol.start)
    else:

        def send():
            # Before it can be done: a callback that comes later is called by who has added it.
            sent = protocol.transport.sendfile(io.BytesIO(b"file"))
            sent.add_done_callback(lambda _: protocol.start())

        protocol.transport.call_soon(send)
        assert client.read_exactly(4) == b"file"
    peer = TlsPeer(client.sock, server_context())
    assert peer.exchange([b"hello"]) == b"hello"
    assert protocol.future.result(WAIT_S) is None


def test_what_was_received_early_from_a_timer(serve):
    client, protocol = serve(Starts).open()
    secure = TlsClient(None, client_context(), sock=client.sock, shake=False)
    hello = secure.hello()
    protocol.transport.call_soon(lambda: protocol.start(received=hello))
    secure.receive()
    secure.handshake()
    assert secure.exchange([b"hello"]) == b"hello"
    assert protocol.future.result(WAIT_S) is None


class StartsBuffered(EchoingBuffered):
    """Takes its header in pieces of 8 bytes, so that what follows it has come already."""

    room = 8

    def __init__(self):
        super().__init__()
        self.future = None

    def on_data(self, data):
        if self.future is None:
            assert data == b"STARTTLS"
            self.future = self.transport.start_tls(server_context())
        else:
            super().on_data(data)


def test_the_rest_of_what_a_buffered_protocol_has_not_taken_is_tls(serve, version):
    client, protocol = serve(StartsBuffered).open()
    secure = TlsClient(None, client_context(version), sock=client.sock, shake=False)
    client.send(b"STARTTLS" + secure.hello())
    secure.receive()
    secure.handshake()
    data = pattern(1000)
    assert_same_bytes(secure.exchange([data]), data)
    assert protocol.future.result(WAIT_S) is None
    assert_same_bytes(bytes(protocol.received), b"STARTTLS" + data)


def test_plain_text_behind_starttls_is_no_command(serve):
    # What an attacker has put behind it would else be taken for the client's, inside of TLS.
    client, protocol = serve(StartsBuffered).open()
    client.send(b"STARTTLS" + b"an injected command")
    client.read_until_gone()
    protocol.wait_for("connection_lost")
    assert isinstance(protocol.future.exception(WAIT_S), ssl.SSLError)
    assert protocol.received == b"STARTTLS"


def test_the_connection_as_the_client(serve, version):
    class Calls(Starts):
        parameters: ClassVar[dict] = {"server_side": False, "server_hostname": "localhost"}

        def __init__(self):
            super().__init__()
            self.context = client_context()

    client, protocol = serve(Calls).open()
    client.send(b"STARTTLS")
    assert client.read_exactly(5) == b"ready"
    peer = TlsPeer(client.sock, server_context(version))
    assert peer.exchange([b"hello"]) == b"hello"
    assert protocol.future.result(WAIT_S) is None
    subject = protocol.transport.get_extra_info("peercert")["subject"]
    assert subject == ((("commonName", "localhost"),),)


def test_the_done_callback_runs_before_any_data(serve):
    order = []

    class Tells(Starts):
        def start(self):
            super().start()
            self.future.add_done_callback(lambda _: order.append("done"))

        def on_data(self, data):
            order.append(data)
            super().on_data(data)

    client, _ = serve(Tells).open()
    secure = upgraded(client)
    assert secure.exchange([b"hello"]) == b"hello"
    assert order == [b"STARTTLS", "done", b"hello"]


# -- failures


def test_garbage_in_place_of_the_handshake(serve):
    served = serve(Starts)
    client, protocol = served.open()
    client.send(b"STARTTLS")
    assert client.read_exactly(5) == b"ready"
    client.send(b"GET / HTTP/1.1\r\n\r\n")
    client.read_until_gone()
    exc = protocol.future.exception(WAIT_S)
    assert isinstance(exc, ssl.SSLError)
    assert exc.reason == "HTTP_REQUEST"
    protocol.wait_for("connection_lost")
    assert protocol.lost_with is exc
    assert protocol.received == b"STARTTLS"


def test_an_end_in_place_of_the_handshake(serve):
    client, protocol = serve(Starts).open()
    client.send(b"STARTTLS")
    assert client.read_exactly(5) == b"ready"
    client.close()
    exc = protocol.future.exception(WAIT_S)
    assert isinstance(exc, ConnectionResetError)
    protocol.wait_for("connection_lost")
    assert protocol.lost_with is exc
    assert "eof_received" not in protocol.events


def test_a_handshake_that_takes_too_long_and_never_earlier(serve):
    class HasLittleTime(Starts):
        parameters: ClassVar[dict] = {"ssl_handshake_timeout_s": 1.0}

    client, protocol = serve(HasLittleTime).open()
    begun = clock()
    client.send(b"STARTTLS")
    assert client.read_exactly(5) == b"ready"
    exc = protocol.future.exception(WAIT_S)
    assert clock() - begun >= 1.0
    assert isinstance(exc, TimeoutError)
    assert "the TLS handshake took longer than 1 s" in str(exc)
    protocol.wait_for("connection_lost")
    assert protocol.lost_with is exc
    client.read_until_gone()


@pytest.mark.parametrize("end", ["close", "abort"])
def test_the_server_ends_it_in_the_handshake(serve, end):
    client, protocol = serve(Starts).open()
    client.send(b"STARTTLS")
    assert client.read_exactly(5) == b"ready"
    getattr(protocol.transport, end)()
    client.read_until_gone()
    assert isinstance(protocol.future.exception(WAIT_S), ConnectionAbortedError)
    protocol.wait_for("connection_lost")
    assert protocol.lost_with is None


def test_a_close_amidst_the_last_step_of_the_handshake_takes_no_longer_than_its_time(serve):
    """As of another thread: it finds the handshake's time running, and not that of the end."""

    class Closes(Starts):
        parameters: ClassVar[dict] = {"ssl_shutdown_timeout_s": 0.3}

        def start(self):
            self.context._msg_callback = self.on_message
            super().start()
            self.transport.write(pattern(MORE_THAN_THE_KERNEL_TAKES))

        def on_message(self, conn, direction, version, content_type, message, data):
            if direction == "read" and message.name == "FINISHED":
                self.transport.close()

    client, protocol = serve(Closes, close_timeout_s=300).open()
    upgraded(client)
    protocol.wait_for("connection_lost")
    assert protocol.future.result(WAIT_S) is None
    assert "the end of TLS took longer than 0.3 s" in str(protocol.lost_with)


def test_a_future_that_was_cancelled_does_no_harm(serve):
    client, protocol = serve(Starts).open()
    client.send(b"STARTTLS")
    assert client.read_exactly(5) == b"ready"
    assert protocol.future.cancel() is True
    secure = TlsClient(None, sock=client.sock)
    assert secure.exchange([b"hello"]) == b"hello"


def test_it_is_refused_outside_of_a_callback(serve):
    client, protocol = serve(Starts).open()
    with pytest.raises(RuntimeError, match="callback"):
        protocol.start()
    assert protocol.future is None
    assert client.exchange([b"plain"]) == b"plain"


class Tries(Starts):
    """Calls start_tls() with what `arguments` says and keeps what it raises."""

    arguments = ()
    keywords: ClassVar[dict] = {}

    def on_data(self, data):
        try:
            self.again()
        except Exception as exc:
            self.raised.append(exc)
        self.transport.write(data)

    def again(self):
        self.transport.start_tls(*(self.arguments or [self.context]), **self.keywords)


def tried(serve, arguments=(), **keywords):
    """What start_tls() raised; the connection is unharmed by that."""
    factory = type("Tries", (Tries,), {"arguments": arguments, "keywords": keywords})
    client, protocol = serve(factory).open()
    assert client.exchange([b"plain"]) == b"plain"
    (exc,) = protocol.raised
    return exc


def test_it_is_refused_in_another_connections_callback(serve):
    served = serve(Tries)
    client, other = served.open()
    _, protocol = served.open()
    other.again = lambda: protocol.transport.start_tls(protocol.context)
    assert client.exchange([b"plain"]) == b"plain"
    assert isinstance(other.raised[0], RuntimeError)


def test_it_is_refused_where_there_is_tls(serve, serve_tls):
    client, protocol = serve_tls(Tries).open()
    assert client.exchange([b"hello"]) == b"hello"
    assert isinstance(protocol.raised[0], RuntimeError)
    assert "TLS already" in str(protocol.raised[0])


def test_it_is_refused_twice(serve):
    class Twice(Starts):
        def start(self):
            super().start()
            try:
                self.transport.start_tls(self.context)
            except Exception as exc:
                self.raised.append(exc)

    client, protocol = serve(Twice).open()
    secure = upgraded(client)
    assert secure.exchange([b"hello"]) == b"hello"
    assert isinstance(protocol.raised[0], RuntimeError)
    assert protocol.future.result(WAIT_S) is None


def test_it_is_refused_on_a_connection_that_closes(serve):
    class Closes(Tries):
        def again(self):
            self.transport.close()
            super().again()

    client, protocol = serve(Closes).open()
    client.send(b"data")
    client.read_until_gone()
    protocol.wait_for("connection_lost")
    assert isinstance(protocol.raised[0], ConnectionAbortedError)
    with pytest.raises(ConnectionAbortedError):
        protocol.start()


@pytest.mark.parametrize(
    "name, value, kind",
    [
        ("received", "text", TypeError),
        ("received", bytearray(b"data"), TypeError),
        ("ssl_handshake_timeout_s", 0, ValueError),
        ("ssl_handshake_timeout_s", "1", TypeError),
        ("ssl_shutdown_timeout_s", -1, ValueError),
        ("ssl_shutdown_timeout_s", None, TypeError),
    ],
)
def test_a_wrong_argument_is_refused(serve, name, value, kind):
    exc = tried(serve, **{name: value})
    assert type(exc) is kind
    assert str(exc).startswith(f"{name} must be ")


@pytest.mark.parametrize("context", [None, 3, "context", ssl.SSLContext])
def test_what_is_no_context_is_refused(serve, context):
    exc = tried(serve, [context])
    assert type(exc) is TypeError
    assert "context must be an ssl.SSLContext" in str(exc)


@pytest.mark.parametrize("server_side", [True, False])
def test_a_context_of_the_other_side_is_refused(serve, server_side):
    context = client_context() if server_side else server_context()
    exc = tried(serve, [context], server_side=server_side, server_hostname=None)
    assert type(exc) is ValueError
    assert "context must be for " in str(exc)


def test_a_name_that_is_not_given_cannot_be_verified(serve):
    # Without one OpenSSL would take a certificate of any name.
    exc = tried(serve, [client_context()], server_side=False)
    assert type(exc) is ValueError
    assert "check_hostname requires server_hostname" in str(exc)


class StartsAtTheEnd(Starts):
    """The peer has ended its side before."""

    def on_data(self, data):
        pass

    def eof_received(self):
        super().eof_received()
        self.begin()
        return True

    def begin(self):
        self.start()


class StartsAfterTheEnd(StartsAtTheEnd):
    def begin(self):
        self.transport.call_later(0, self.start)


class StartsInAMessage(StartsAtTheEnd):
    """… and what has come of a message is none, and no TLS either."""

    def on_made(self):
        self.transport.set_framer(iocpx.native.LineFramer(100))


@pytest.mark.parametrize("factory", [StartsAtTheEnd, StartsAfterTheEnd, StartsInAMessage])
def test_an_end_that_was_told_before(serve, factory):
    client, protocol = serve(factory).open()
    client.send(b"STARTTLS")
    client.half_close()
    client.read_until_gone()
    protocol.wait_for("connection_lost")
    assert isinstance(protocol.lost_with, ConnectionResetError)
    assert protocol.future.exception(WAIT_S) is protocol.lost_with
    assert protocol.events.count("eof_received") == 1
