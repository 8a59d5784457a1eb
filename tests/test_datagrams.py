"""DatagramServer: UDP on the engine's workers."""

import asyncio
import contextlib
import queue
import socket
import threading

import pytest
from sockets import has_ipv6
from waiting import WAIT_S, run_together, take, wait_for_event, wait_until

import iocpx

HOST = "127.0.0.1"


class Datagrams:
    """Keeps what it is told, and checks that its callbacks come one at a time, the end last."""

    def __init__(self):
        self.told = queue.Queue()
        self.events = []
        self.alone = threading.Lock()

    def note(self, name, value):
        assert self.alone.acquire(blocking=False), "two callbacks at once"
        self.events.append(name)
        self.alone.release()
        self.told.put((name, value))

    def connection_made(self, transport):
        self.transport = transport
        self.note("made", transport)

    def datagram_received(self, data, addr):
        self.note("datagram", (data, addr))

    def error_received(self, exc):
        self.note("error", exc)

    def connection_lost(self, exc):
        self.note("lost", exc)

    def take(self, name):
        """The next that it was told, which is of that name."""
        told, value = take(self.told, name)
        assert told == name, value
        return value


class InLists(Datagrams):
    def datagrams_received(self, datagrams):
        self.note("datagrams", datagrams)


class EchoesBytes(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)


class Echo(Datagrams):
    def datagram_received(self, data, addr):
        self.transport.sendto(data, addr)


@contextlib.contextmanager
def peer(family=socket.AF_INET, host=HOST):
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(WAIT_S)
        sock.bind((host, 0))
        yield sock


@pytest.fixture
def serve():
    """`serve(factory, …)` returns a started server and the protocols that it has made; at the end
    its books are balanced."""
    made = []

    def make(factory, host=HOST, **parameters):
        protocols = []
        errors = queue.Queue()

        def factory_of():
            protocols.append(factory())
            return protocols[-1]

        parameters.setdefault("exception_handler", errors.put)
        server = iocpx.DatagramServer(factory_of, host, **parameters)
        server.start()
        made.append((server, protocols, errors))
        return server, protocols

    yield make
    for server, protocols, errors in made:
        server.close()
        assert server.wait_closed(2 * WAIT_S), server.stats()
        stats = {**server.engine.stats(), **server.stats()}
        assert stats["ops_posted"] == stats["ops_completed"], stats
        assert stats["sockets_opened"] == stats["sockets_closed"], stats
        assert stats["endpoints_made"] == stats["endpoints_retired"], stats
        assert stats["endpoints_now"] == stats["buffers_out"] == 0, stats
        assert server.transports == [] and not server.is_serving()
        for protocol in protocols:
            assert protocol.events.count("lost") == 1 and protocol.events[-1] == "lost"
        assert errors.empty(), errors.get()


def opened(serve, factory, **parameters):
    server, protocols = serve(factory, **parameters)
    wait_until(lambda: protocols, "the protocol of the endpoint")
    protocols[0].take("made")
    return server, protocols[0]


@pytest.mark.parametrize("size", [0, 1, 1472, 20_000, 60_000])
def test_datagrams_come_and_go_whole(serve, size):
    server, _ = opened(serve, Echo)
    data = bytes(range(251)) * (size // 251 + 1)
    with peer() as sock:
        sock.sendto(data[:size], server.address)
        assert sock.recvfrom(70_000) == (data[:size], server.address)
    # It comes before its completion does.
    wait_until(
        lambda: (server.stats()["datagrams_sent"], server.stats()["bytes_sent"]) == (1, size),
        "the completion of the send",
    )
    stats = server.stats()
    assert (stats["datagrams_received"], stats["bytes_received"]) == (1, size)


def test_each_has_the_address_of_who_has_sent_it(serve):
    server, protocol = opened(serve, Datagrams)
    with peer() as one, peer() as other:
        for number, sock in enumerate((one, other, one, other)):
            sock.sendto(b"%d" % number, server.address)
            assert protocol.take("datagram") == (b"%d" % number, sock.getsockname())
        protocol.transport.sendto(b"to one", one.getsockname())
        protocol.transport.sendto(b"to other", list(other.getsockname()))
        assert one.recv(100) == b"to one" and other.recv(100) == b"to other"


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_ipv6(serve):
    server, protocol = opened(serve, Echo, host="::1")
    with peer(socket.AF_INET6, "::1") as sock:
        sock.sendto(b"six", server.address)
        assert sock.recvfrom(100) == (b"six", server.address)
        protocol.transport.sendto(b"two parts", sock.getsockname()[:2])
        assert sock.recv(100) == b"two parts"
        with pytest.raises(ValueError, match="IPv6"):
            protocol.transport.sendto(b"", (HOST, 1))


def test_what_has_come_while_a_callback_ran_comes_in_one_list(serve):
    held = threading.Event()
    entered = threading.Event()

    class Held(InLists):
        def datagrams_received(self, datagrams):
            super().datagrams_received(datagrams)
            entered.set()
            wait_for_event(held, "the end of the test's wait")

    server, protocol = opened(serve, Held, receives=8)

    def posted():
        stats = server.engine.stats()
        return stats["ops_posted"] - stats["ops_completed"] == 8

    # What comes earlier is told before the others are posted.
    wait_until(posted, "the posts of all receives")
    with peer() as sock:
        sock.sendto(b"first", server.address)
        wait_for_event(entered, "the first call")
        for number in range(5):
            sock.sendto(b"%d" % number, server.address)
        wait_until(lambda: server.stats()["datagrams_received"] == 6, "the arrival of six")
        before = server.engine.stats()["gil_acquisitions"]
        held.set()
        got = protocol.take("datagrams")
        assert got == [(b"first", sock.getsockname())]
        assert protocol.take("datagrams") == [
            (b"%d" % number, sock.getsockname()) for number in range(5)
        ]
        assert server.engine.stats()["gil_acquisitions"] <= before + 1


def test_after_one_that_came_to_nobody_the_others_come(serve):
    """Windows tells of it when it receives next (WSAECONNRESET); elsewhere nobody tells."""
    server, protocol = opened(serve, Datagrams)
    with peer() as gone:
        nobody = gone.getsockname()
    with peer() as sock:
        for number in range(3):
            protocol.transport.sendto(b"is anybody there", nobody)
            sock.sendto(b"%d" % number, server.address)
            told, value = take(protocol.told, "the datagram, or an error before it")
            if told == "error":
                assert isinstance(value, ConnectionResetError), value
                told, value = take(protocol.told, "the datagram")
            assert (told, value) == ("datagram", (b"%d" % number, sock.getsockname()))


def test_one_that_is_too_long_is_told_and_the_next_ones_come(serve):
    server, protocol = opened(serve, Datagrams, max_datagram_bytes=100)
    with peer() as sock:
        for data in (b"a" * 100, b"b" * 101, b"c" * 60_000, b"d"):
            sock.sendto(data, server.address)
        assert protocol.take("datagram")[0] == b"a" * 100
        for _ in range(2):
            error = protocol.take("error")
            assert isinstance(error, OSError) and error.winerror == 10040
        assert protocol.take("datagram")[0] == b"d"
    assert server.stats()["datagrams_truncated"] == 2


def test_one_that_cannot_be_sent_is_told_and_the_others_are_sent(serve):
    server, protocol = opened(serve, Datagrams)
    with peer() as sock:
        for data in (b"a", b"too long" * 10_000, b"b"):
            protocol.transport.sendto(data, sock.getsockname())
        assert [sock.recv(100) for _ in range(2)] == [b"a", b"b"]
        assert protocol.take("error").winerror == 10040
    assert server.stats()["send_errors"] == 1


def test_close_sends_what_is_queued_and_the_server_ends_with_its_last_endpoint(serve):
    class Closes(Datagrams):
        def datagram_received(self, data, addr):
            for number in range(100):
                self.transport.sendto(b"%d" % number, addr)
            assert self.transport.get_write_buffer_size() > 0
            self.transport.close()
            assert self.transport.is_closing()
            self.transport.sendto(b"too late", addr)

    server, protocol = opened(serve, Closes)
    address = server.address
    with peer() as sock:
        sock.sendto(b"", address)
        assert [int(sock.recv(100)) for _ in range(100)] == list(range(100))
        assert protocol.take("lost") is None
        assert server.wait_closed(WAIT_S)
        # Its port is free.
        with socket.socket(type=socket.SOCK_DGRAM) as other:
            other.bind(address)
            sock.settimeout(0)
            with pytest.raises(BlockingIOError):
                sock.recv(100)


def test_abort_drops_what_is_queued(serve):
    class Aborts(Datagrams):
        def datagram_received(self, data, addr):
            self.transport.sendto(b"never", addr)
            self.transport.abort()

    server, protocol = opened(serve, Aborts)
    with peer() as sock:
        sock.sendto(b"", server.address)
        assert protocol.take("lost") is None
        sock.settimeout(0)
        with pytest.raises(BlockingIOError):
            sock.recv(100)
    assert server.stats()["aborts_by_reason"]["application"] == 1


def test_threads_send_and_no_datagram_is_lost_or_cut(serve):
    _, protocol = opened(serve, Datagrams)
    with peer() as sock:
        address = sock.getsockname()

        def some(first):
            for number in range(first, first + 50):
                protocol.transport.sendto(b"%d" % number, address)

        run_together(*(lambda first=first: some(first) for first in (0, 50, 100)))
        got = [int(sock.recv(100)) for _ in range(150)]
        assert sorted(got) == list(range(150))
        for first in (0, 50, 100):
            assert [n for n in got if first <= n < first + 50] == list(range(first, first + 50))


def test_what_does_not_fit_into_the_queue_is_told_once(serve):
    class Floods(Datagrams):
        def datagram_received(self, data, addr):
            for _ in range(5):
                self.transport.sendto(bytes(1000), addr)

    server, protocol = opened(serve, Floods, max_write_buffer=2500)
    protocol.transport.set_write_buffer_limits(high=10**6)
    with peer() as sock:
        sock.sendto(b"", server.address)
        assert [len(sock.recv(2000)) for _ in range(2)] == [1000] * 2
        assert protocol.take("error").winerror == 10055
    # It is counted when WSASendTo has returned.
    wait_until(lambda: server.stats()["datagrams_sent"] == 2, "the count")
    assert server.stats()["datagrams_dropped"] == 3


def test_one_that_sends_from_error_received_keeps_nobody_waiting(serve):
    """What does not fit into the queue is told, and answered with what does not fit either."""

    class Insists(Datagrams):
        errors = 0

        def datagram_received(self, data, addr):
            self.addr = addr
            for _ in range(5):
                self.transport.sendto(bytes(1000), addr)

        def error_received(self, exc):
            self.errors += 1
            if self.errors < 1000:
                self.transport.sendto(bytes(1000), self.addr)

    engine = iocpx.Engine(workers=1)
    server, protocol = opened(serve, Insists, max_write_buffer=2500, engine=engine)
    protocol.transport.set_write_buffer_limits(high=10**6)
    with peer() as sock:
        sock.sendto(b"", server.address)
        # Two have room, the third does not; what is sent after it was told finds them gone.
        assert [len(sock.recv(2000)) for _ in range(3)] == [1000] * 3
    assert protocol.errors == 1


def test_one_that_sends_what_cannot_be_sent_keeps_nobody_waiting(serve):
    """The engine's one worker comes to the other server in between."""
    insists = threading.Event()
    insists.set()

    class Insists(Datagrams):
        def datagram_received(self, data, addr):
            self.transport.sendto(bytes(70_000), addr)

        def error_received(self, exc):
            if insists.is_set():
                self.transport.sendto(bytes(70_000), (HOST, 9))

    engine = iocpx.Engine(workers=1)
    with iocpx.Server(EchoesBytes, HOST, engine=engine) as tcp, peer() as sock:
        server, _ = opened(serve, Insists, engine=engine)
        sock.sendto(b"", server.address)
        wait_until(lambda: server.stats()["send_errors"] > 10, "the errors")
        with socket.create_connection(tcp.address, WAIT_S) as client:
            for _ in range(10):
                client.sendall(b"served")
                assert client.recv(100) == b"served"
        insists.clear()
        server.close()
        assert server.wait_closed(WAIT_S)


def test_sends_that_fail_leave_no_memory(serve):
    """As long as what is received at most, so that their buffers could serve for that."""
    server, protocol = opened(serve, Datagrams, receives=4, max_datagram_bytes=1000)
    broadcast = ("255.255.255.255", 9)      # refused, with 10013: nobody has asked for SO_BROADCAST
    with peer() as sock:
        for _ in range(50):
            for _ in range(20):
                protocol.transport.sendto(bytes(1000), broadcast)
                assert protocol.take("error").winerror == 10013
            sock.sendto(b"and one comes", server.address)
            assert protocol.take("datagram")[0] == b"and one comes"
    wait_until(lambda: server.engine.stats()["buffers_out"] <= 4, "the buffers of the receives")


def test_datagrams_come_and_go_while_the_application_has_a_copy(serve):
    server, protocol = opened(serve, Echo)
    with peer() as sock, protocol.transport.get_extra_info("socket").dup() as copy:
        copy.setblocking(True)
        for number in range(100):
            sock.sendto(b"%d" % number, server.address)
        got = [int(sock.recv(100)) for _ in range(100)]
        assert got == list(range(100))
        # One that cannot be sent holds up no other.
        for data in (b"a", bytes(65_530), b"b"):
            protocol.transport.sendto(data, sock.getsockname())
        assert [sock.recv(100) for _ in range(2)] == [b"a", b"b"]
        assert protocol.take("error").winerror == 10040


def test_timers_and_pauses(serve):
    server, protocol = opened(serve, Datagrams)
    fired = queue.Queue()
    cancelled = protocol.transport.call_later(3600, fired.put, "never")
    protocol.transport.call_soon(fired.put, "soon")
    protocol.transport.call_later(0.01, fired.put, "later")
    assert take(fired, "a timer") == "soon" and take(fired, "a timer") == "later"
    protocol.transport.pause_reading()
    with peer() as sock:
        sock.sendto(b"waits", server.address)
        wait_until(lambda: server.stats()["datagrams_received"] == 1, "the arrival")
        assert protocol.told.empty()
        protocol.transport.resume_reading()
        assert protocol.take("datagram")[0] == b"waits"
    server.close()
    assert server.wait_closed(WAIT_S) and cancelled.cancelled()


def test_a_callback_that_raises_costs_its_datagram_only(serve):
    reported = queue.Queue()

    class Raises(Datagrams):
        def datagram_received(self, data, addr):
            if data == b"bad":
                raise ZeroDivisionError
            super().datagram_received(data, addr)

    server, protocol = opened(serve, Raises, exception_handler=reported.put)
    with peer() as sock:
        sock.sendto(b"bad", server.address)
        sock.sendto(b"good", server.address)
        assert protocol.take("datagram")[0] == b"good"
    context = take(reported, "a report")
    assert isinstance(context["exception"], ZeroDivisionError)
    assert context["transport"] is protocol.transport and context["protocol"] is protocol


def test_a_callback_that_is_a_coroutine_is_told(serve):
    reported = queue.Queue()

    class Coroutine(Datagrams):
        async def datagram_received(self, data, addr):
            raise AssertionError("nobody awaits this")

    server, _ = opened(serve, Coroutine, exception_handler=reported.put)
    with peer() as sock:
        sock.sendto(b"", server.address)
        assert isinstance(take(reported, "a report")["exception"], TypeError)


def test_a_close_while_reading_is_paused_tells_what_could_not_be_sent(serve):
    server, protocol = opened(serve, Datagrams)
    protocol.transport.pause_reading()
    with peer() as sock:
        for data in (bytes(65_530), bytes(70_000)):
            protocol.transport.sendto(data, sock.getsockname())
    wait_until(lambda: server.stats()["send_errors"] == 2, "the errors")
    assert protocol.told.empty()
    protocol.transport.close()
    assert [protocol.take("error").winerror for _ in range(2)] == [10040, 10040]
    assert protocol.take("lost") is None


def test_what_the_factory_raises_ends_the_server():
    reported = queue.Queue()

    def factory():
        raise ZeroDivisionError

    server = iocpx.DatagramServer(factory, HOST, exception_handler=reported.put)
    server.start()
    assert isinstance(take(reported, "a report")["exception"], ZeroDivisionError)
    assert server.wait_closed(WAIT_S)
    assert server.stats()["aborts_by_reason"]["callback"] == 1


def test_a_protocol_of_the_wrong_kind_is_told_nothing():
    class Wrong(asyncio.Protocol):
        def connection_lost(self, exc):
            raise AssertionError("it never had a connection")

    reported = queue.Queue()
    server = iocpx.DatagramServer(Wrong, HOST, exception_handler=reported.put)
    server.start()
    context = take(reported, "a report")
    assert isinstance(context["exception"], TypeError)
    assert "datagrams_received(), got <" in str(context["exception"])
    assert server.wait_closed(WAIT_S)
    assert reported.empty(), reported.get()
    assert server.stats()["endpoints_made"] == server.stats()["endpoints_retired"] == 1


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_each_address_is_an_endpoint(serve):
    server, protocols = serve(Echo, host=[HOST, "::1"])
    assert [address[0] for address in server.addresses] == [HOST, "::1"]
    assert len({address[1] for address in server.addresses}) == 1
    families = socket.AF_INET, socket.AF_INET6
    for family, address in zip(families, server.addresses, strict=True):
        with peer(family, address[0]) as sock:
            sock.sendto(b"to", address)
            assert sock.recvfrom(10) == (b"to", address)
    assert len(server.transports) == len(protocols) == 2
    # One may close, and the other goes on.
    server.transports[0].close()
    wait_until(lambda: len(server.transports) == 1, "the end of one endpoint")
    assert server.is_serving()


def test_a_socket_may_be_given(serve):
    with peer() as sock:
        given = socket.socket(type=socket.SOCK_DGRAM)
        given.bind((HOST, 0))
        given.connect(sock.getsockname())
        address = given.getsockname()
        _, protocols = serve(Datagrams, host=None, sock=given)
        assert given.fileno() == -1
        wait_until(lambda: protocols, "the protocol")
        transport = protocols[0].take("made")
        assert transport.get_extra_info("peername") == sock.getsockname()
        assert transport.get_extra_info("sockname") == address
        transport.sendto(b"connected")
        assert sock.recvfrom(100) == (b"connected", address)
        with pytest.raises(ValueError, match="Invalid address"):
            transport.sendto(b"", (HOST, 1))
        option = transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_TYPE)
        assert option == socket.SOCK_DGRAM


def test_a_given_socket_is_closed_where_the_start_fails():
    overlapped = pytest.importorskip("_overlapped")
    port = overlapped.CreateIoCompletionPort(overlapped.INVALID_HANDLE_VALUE, 0, 0, 0)
    given = [socket.socket(type=socket.SOCK_DGRAM) for _ in range(2)]
    for sock in given:
        sock.bind((HOST, 0))
    # The second is somebody else's.
    overlapped.CreateIoCompletionPort(given[1].fileno(), port, 0, 0)
    server = iocpx.DatagramServer(Datagrams, sock=given)
    with pytest.raises(OSError, match="completion port") as raised:
        server.start()
    assert raised.value.winerror == 87
    assert [sock.fileno() for sock in given] == [-1, -1]
    assert server.wait_closed(WAIT_S) and not server.is_serving()
    pytest.importorskip("_winapi").CloseHandle(port)


def test_servers_of_both_kinds_share_an_engine(serve):
    engine = iocpx.Engine(workers=2)
    with iocpx.Server(asyncio.Protocol, HOST, engine=engine) as tcp:
        server, _ = opened(serve, Echo, engine=engine)
        with peer() as sock, socket.create_connection(tcp.address):
            sock.sendto(b"both", server.address)
            assert sock.recv(100) == b"both"
        server.close()
        assert server.wait_closed(WAIT_S) and tcp.is_serving()


@pytest.mark.once("arguments are looked at in the same way everywhere")
def test_wrong_arguments(serve):
    for parameters in (
        {"protocol_factory": 1},
        {"engine": 1},
        {"receives": "1"},
        {"exception_handler": 1},
        {"sock": 1},
    ):
        with pytest.raises(TypeError, match=next(iter(parameters))):
            iocpx.DatagramServer(**{"protocol_factory": Datagrams, **parameters})
    with socket.socket() as tcp:
        for parameters in (
            {"receives": 0},
            {"receives": 65},
            {"max_datagram_bytes": 65536},
            {"max_write_buffer": 0},
            {"port": 65536},
            {"sock": tcp},
        ):
            with pytest.raises(ValueError, match=next(iter(parameters))):
                iocpx.DatagramServer(Datagrams, **parameters)
    with pytest.raises(TypeError, match="DatagramServer only"):
        iocpx.DatagramTransport()
    _, protocol = opened(serve, Datagrams)
    transport = protocol.transport
    for addr in ("127.0.0.1", (HOST,), (HOST, "1"), (1, 1), (HOST, 1, 0)):
        with pytest.raises(TypeError, match="addr must be"):
            transport.sendto(b"", addr)
    for addr in ((HOST, 65536), (HOST, -1), ("localhost", 1), ("::1", 1), None):
        with pytest.raises(ValueError, match="addr must"):
            transport.sendto(b"", addr)
    if has_ipv6():
        _, other = opened(serve, Datagrams, host="::1")
        with pytest.raises(ValueError, match="addr must"):
            other.transport.sendto(b"", ("fe80::1%99999999999", 1))
    with pytest.raises(TypeError, match="bytes-like"):
        transport.sendto("text", (HOST, 1))
    assert protocol.told.empty()
