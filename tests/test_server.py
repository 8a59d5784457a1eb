"""The server: starting, listening, stopping, restarting, and its figures."""

import asyncio
import contextlib
import socket
import subprocess
import sys
import threading
import warnings

import pytest
from support import (
    MORE_THAN_THE_KERNEL_TAKES,
    WAIT_S,
    Client,
    Echoing,
    Recording,
    assert_balanced,
    assert_same_bytes,
    collect,
    connect_until_refused,
    has_ipv6,
    pattern,
    run_together,
    wait_for_event,
)

import iocpx

# -- starting and listening


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
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
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
    sock.bind(("127.0.0.1", 0))
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


# -- stopping


def test_close_refuses_new_clients_and_ends_old_ones(serve):
    served = serve(Echoing)
    client, protocol = served.open()
    address = served.server.address
    served.server.close()
    assert served.server.is_serving() is False
    assert client.read_to_end() == b""
    client.close()
    protocol.wait_for("connection_lost")
    assert served.server.wait_closed(WAIT_S) is True
    assert served.server.sockets == ()
    assert served.server.address == address
    connect_until_refused(address)


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_stopping_sends_everything_that_is_queued(serve, workers):
    """Connections open, megabytes queued on each, none read yet when the server is told to stop."""
    data = pattern(MORE_THAN_THE_KERNEL_TAKES // 2)

    class Gives(Recording):
        def on_data(self, request):
            self.transport.write(data)

    served = serve(Gives, workers=workers, close_timeout_s=60)
    opened = [served.open() for _ in range(3)]
    for client, protocol in opened:
        client.send(b"give")
        protocol.wait_for("pause_writing")
    idle, idle_protocol = served.open()
    served.server.close()
    got = [None] * 3

    def read(number):
        got[number] = opened[number][0].read_to_end()
        opened[number][0].close()

    run_together(*(lambda number=number: read(number) for number in range(3)))
    assert idle.read_to_end() == b""
    idle.close()
    assert served.server.wait_closed(2 * WAIT_S) is True
    for number in range(3):
        assert_same_bytes(got[number], data)
    for _, protocol in [*opened, (idle, idle_protocol)]:
        assert protocol.events[-1] == "connection_lost"
        assert protocol.lost_with is None


def test_stopping_the_native_echo_sends_everything_that_is_queued(serve):
    served = serve(iocpx.native.Echo, close_timeout_s=60)
    client = served.connect()
    data = pattern(4 << 20)
    got = []

    def send():
        client.send_until_refused(data)
        client.half_close()

    def read():
        # The first byte of the answer says that the server is at it. What it has taken in by then,
        # it must answer; what comes later it need not.
        got.append(client.read_exactly(1))
        served.server.close()
        got.append(client.read_to_end())

    run_together(send, read)
    client.close()
    assert served.server.wait_closed(WAIT_S) is True
    answer = b"".join(got)
    assert_same_bytes(answer, data[: len(answer)])
    assert served.server.stats()["bytes_sent"] == len(answer)


def test_a_client_that_never_reads_does_not_hold_up_the_stop(serve):
    served = serve(Recording, close_timeout_s=0.1)
    client, protocol = served.open()
    protocol.transport.write(pattern(MORE_THAN_THE_KERNEL_TAKES))
    protocol.wait_for("pause_writing")
    served.server.close()
    assert served.server.wait_closed(WAIT_S) is True
    assert protocol.events[-1] == "connection_lost"
    assert len(client.read_until_gone()) < MORE_THAN_THE_KERNEL_TAKES


def test_a_close_timeout_of_nothing_stops_at_once(serve):
    served = serve(Recording, close_timeout_s=0)
    for _ in range(5):
        served.open()
    served.server.close()
    assert served.server.wait_closed(WAIT_S) is True
    assert all(protocol.events[-1] == "connection_lost" for protocol in served.protocols)


def test_wait_closed_of_a_serving_server_returns_false_after_its_timeout(serve):
    served = serve(Echoing)
    assert served.server.wait_closed(0) is False
    assert served.server.wait_closed(0.01) is False
    served.assert_serving()


def test_wait_closed_without_a_limit_returns_when_another_thread_stops_the_server(serve):
    served = serve(Echoing)
    results = []
    run_together(lambda: results.append(served.server.wait_closed()), served.server.close)
    assert results == [True]


def test_closing_twice_and_waiting_twice_is_once(serve):
    served = serve(Echoing)
    served.open()
    served.hang_up()
    served.server.close()
    served.server.close()
    assert served.server.wait_closed(WAIT_S) is True
    served.server.close()
    assert served.server.wait_closed(WAIT_S) is True


def test_closing_from_many_threads_at_once(serve):
    served = serve(Echoing, close_timeout_s=1)
    opened = [served.open() for _ in range(10)]
    results = []

    def stop():
        served.server.close()
        results.append(served.server.wait_closed(WAIT_S))

    run_together(*[stop] * 8)
    assert results == [True] * 8
    assert all(protocol.events[-1] == "connection_lost" for _, protocol in opened)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("where", ["on_made", "on_data", "on_eof", "on_lost"])
def test_the_server_can_be_stopped_from_a_callback(serve, where, workers):
    class Stops(Recording):
        pass

    setattr(Stops, where, lambda self, *_: served.server.close())
    served = serve(Stops, workers=workers)
    client, protocol = served.open()
    if where == "on_data":
        client.send(b"stop")
    if where == "on_eof":
        client.half_close()
    if where == "on_lost":
        client.close()
    else:
        assert client.read_to_end() == b""
        client.close()
    assert served.server.wait_closed(WAIT_S) is True
    assert protocol.events[-1] == "connection_lost"


def test_what_a_callback_wrote_before_it_stopped_the_server_is_sent(serve):
    data = pattern(2 << 20)

    class AnswersAndStops(Recording):
        def on_data(self, request):
            self.transport.write(data)
            served.server.close()

    served = serve(AnswersAndStops, close_timeout_s=60)
    client, _ = served.open()
    client.send(b"last request")
    assert_same_bytes(client.read_to_end(), data)
    client.close()
    assert served.server.wait_closed(WAIT_S) is True


def test_wait_closed_in_a_callback_is_refused(serve):
    refused = []

    class Waits(Echoing):
        def on_data(self, data):
            for timeout in (None, 0, 1):
                try:
                    refused.append(served.server.wait_closed(timeout))
                except RuntimeError as error:
                    refused.append(error)
            super().on_data(data)

    served = serve(Waits)
    client, _ = served.open()
    assert client.exchange([b"hello"]) == b"hello"
    assert [type(error) for error in refused] == [RuntimeError] * 3, refused
    for error in refused:
        assert "wait_closed" in str(error) and "callback" in str(error), error


def test_serve_forever_in_a_callback_is_refused_and_harmless(serve):
    refused = []

    class Serves(Echoing):
        def on_data(self, data):
            try:
                refused.append(served.server.serve_forever())
            except RuntimeError as error:
                refused.append(error)
            super().on_data(data)

    served = serve(Serves)
    client, _ = served.open()
    assert client.exchange([b"hello"]) == b"hello"
    assert [type(error) for error in refused] == [RuntimeError], refused
    assert "callback" in str(refused[0])
    assert served.server.is_serving() is True
    served.assert_serving()


def test_stopping_waits_for_a_running_callback(serve):
    entered, leave = threading.Event(), threading.Event()

    class Blocks(Recording):
        def on_data(self, data):
            entered.set()
            wait_for_event(leave, "the release of the blocked callback")

    served = serve(Blocks, close_timeout_s=0.1)
    client, protocol = served.open()
    client.send(b"block")
    wait_for_event(entered, "the callback")
    served.server.close()
    # Longer than the close timeout, which must not free anything under a running callback.
    assert served.server.wait_closed(0.3) is False
    with pytest.raises(RuntimeError, match="closing"):
        served.server.start()
    assert "connection_lost" not in protocol.events
    leave.set()
    assert served.server.wait_closed(WAIT_S) is True
    assert protocol.events[-1] == "connection_lost"


def test_a_child_process_does_not_keep_connections_open(serve):
    served = serve(Echoing)
    address = served.server.address
    client, protocol = served.open()
    client.exchange([b"hello"])
    # With close_fds=False the child inherits every handle that may be inherited.
    child = subprocess.Popen(
        [sys.executable, "-c", "print('up', flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        close_fds=False,
    )
    try:
        assert child.stdout.readline() == "up\n"
        protocol.transport.abort()
        assert client.read_until_gone() == b""
        served.server.close()
        assert served.server.wait_closed(WAIT_S) is True
        connect_until_refused(address)
    finally:
        child.communicate("\n", timeout=WAIT_S)


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_clients_that_connect_while_the_server_stops_do_no_harm(serve, workers):
    served = serve(Echoing, workers=workers, close_timeout_s=1)
    address = served.server.address
    ready = threading.Barrier(4, timeout=WAIT_S)

    def connect():
        ready.wait()
        for _ in range(10):
            with contextlib.suppress(OSError), Client(address) as client:
                client.send(b"hello")
                client.read_until_gone(at_most=5)

    def stop():
        ready.wait()
        served.server.close()

    run_together(connect, connect, connect, stop)
    assert served.server.wait_closed(WAIT_S) is True


def test_a_server_closed_while_it_starts_has_started_all_the_same(serve):
    served = serve(Echoing, started=False, workers=4)
    server = served.server
    for _ in range(30):
        started = threading.Event()

        def start(started=started):
            try:
                server.start()
            finally:
                started.set()

        def close(started=started):
            while not started.is_set():
                server.close()

        run_together(start, close)
        server.close()
        assert server.wait_closed(WAIT_S) is True
        assert_balanced(server)
    server.start()
    served.assert_serving()


# -- restarting


def test_a_stopped_server_can_be_started_again(serve):
    served = serve(Echoing)
    for turn in range(5):
        served.assert_serving(size=1000 + turn)
        served.server.close()
        assert served.server.wait_closed(WAIT_S) is True
        assert_balanced(served.server)
        served.server.start()
        assert served.server.is_serving() is True
    served.assert_serving()


def test_a_server_on_a_given_port_can_be_started_again_at_once(serve):
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    served = serve(Echoing, "127.0.0.1", port)
    for turn in range(3):
        served.assert_serving(size=1000 + turn)
        served.server.close()
        assert served.server.wait_closed(WAIT_S) is True
        served.server.start()
        assert served.server.address[1] == port
    served.assert_serving()


# -- context manager, serve_forever, finaliser


def test_a_server_is_a_context_manager():
    server = iocpx.Server(Echoing, "127.0.0.1")
    with server as entered:
        assert entered is server
        assert server.is_serving()
        with Client(server.address) as client:
            assert client.exchange([b"hello"]) == b"hello"
    assert server.wait_closed(0) is True
    assert_balanced(server)


def test_an_exception_leaves_the_context_manager_with_a_stopped_server():
    server = iocpx.Server(Echoing, "127.0.0.1")
    with pytest.raises(LookupError, match="in the body"), server:
        raise LookupError("in the body")
    assert server.wait_closed(0) is True
    assert_balanced(server)


def test_a_server_stopped_inside_its_context_leaves_it_quietly():
    with iocpx.Server(Echoing, "127.0.0.1") as server:
        server.close()
    assert_balanced(server)


@pytest.mark.parametrize("started", [False, True])
def test_serve_forever_starts_if_need_be_and_returns_when_closed(serve, started):
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    served = serve(Echoing, "127.0.0.1", port, started=started)
    returned = threading.Event()

    def forever():
        served.server.serve_forever()
        returned.set()

    def ask_and_stop():
        # connect() waits for nobody: a refused client tries again until the other thread listens.
        client = connect_until_accepted(served, ("127.0.0.1", port))
        assert client.exchange([b"hello"]) == b"hello"
        assert not returned.is_set()
        client.close()
        served.server.close()

    run_together(forever, ask_and_stop)
    assert served.server.wait_closed(0) is True


def connect_until_accepted(served, address):
    for _ in range(100_000):
        with contextlib.suppress(ConnectionRefusedError):
            return served.connect(address)
    raise AssertionError(f"nobody ever listened at {address}")


def drop(objects):
    """Give up the last references to the objects in the list."""
    objects.clear()
    collect()


def test_a_dropped_server_warns_and_stops():
    protocols = []

    def factory():
        protocols.append(Echoing())
        return protocols[-1]

    server = iocpx.Server(factory, "127.0.0.1")
    server.start()
    address = server.address
    with Client(address) as client:
        assert client.exchange([b"hello"]) == b"hello"
        servers = [server]
        del server
        with pytest.warns(ResourceWarning, match="(?i)server"):
            drop(servers)
        assert client.read_until_gone() == b""
    protocols[0].wait_for("connection_lost")
    protocols[0].check()
    connect_until_refused(address)


def test_a_server_dropped_in_a_reference_cycle_warns_and_stops():
    class Owner:
        pass

    owner = Owner()
    owner.server = iocpx.Server(iocpx.native.Echo, "127.0.0.1")
    owner.itself = owner
    owner.server.start()
    address = owner.server.address
    owners = [owner]
    del owner
    with pytest.warns(ResourceWarning, match="(?i)server"):
        drop(owners)
    connect_until_refused(address)


def test_a_stopped_or_never_started_server_is_dropped_without_a_word():
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        never_started = iocpx.Server(Echoing, "127.0.0.1")
        stopped = iocpx.Server(Echoing, "127.0.0.1")
        with stopped, Client(stopped.address) as client:
            client.exchange([b"hello"])
        del never_started, stopped
        collect()


# -- its clients


def test_the_connection_count_follows_the_connections(serve):
    served = serve(Echoing)
    server = served.server
    assert server.connection_count == 0
    opened = []
    for number in range(1, 11):
        opened.append(served.open())
        assert server.connection_count == number
    for client, protocol in opened[:4]:
        client.close()
        protocol.wait_for("connection_lost")
    witness, _ = opened[-1]
    # A connection may leave the count after its connection_lost; an echo gives the workers time to
    # get there.
    for _ in range(1000):
        if server.connection_count == 6:
            break
        witness.exchange([b"?"])
    assert server.connection_count == 6
    assert server.stats()["connections_now"] == 6


def test_close_clients_flushes_each_and_goes_on_serving(serve):
    data = pattern(1 << 20)

    class Gives(Echoing):
        def on_data(self, request):
            self.transport.write(data if request == b"give" else request)

    served = serve(Gives, close_timeout_s=60)
    opened = [served.open() for _ in range(5)]
    for client, protocol in opened:
        client.send(b"give")
        protocol.wait_for("data_received")
    served.server.close_clients()
    for client, protocol in opened:
        assert_same_bytes(client.read_to_end(), data)
        client.close()
        protocol.wait_for("connection_lost")
        assert protocol.lost_with is None
    assert served.server.is_serving() is True
    served.assert_serving()


def test_abort_clients_drops_each_and_goes_on_serving(serve):
    served = serve(Echoing, close_timeout_s=300)
    opened = [served.open() for _ in range(5)]
    for client, protocol in opened:
        client.exchange([b"hello"])
        protocol.transport.write(pattern(MORE_THAN_THE_KERNEL_TAKES))
        protocol.wait_for("pause_writing")
    served.server.abort_clients()
    for client, protocol in opened:
        protocol.wait_for("connection_lost")
        assert len(client.read_until_gone()) < MORE_THAN_THE_KERNEL_TAKES
    assert served.server.is_serving() is True
    served.assert_serving()


@pytest.mark.parametrize("method", ["close_clients", "abort_clients"])
def test_native_clients_can_be_dropped_too(serve, method):
    served = serve(iocpx.native.Echo)
    clients = [served.connect() for _ in range(5)]
    for client in clients:
        client.exchange([b"hello"])
    getattr(served.server, method)()
    for client in clients:
        assert client.read_until_gone() == b""
    served.assert_serving()


@pytest.mark.parametrize("method", ["close_clients", "abort_clients"])
def test_clients_can_be_dropped_from_a_callback(serve, method):
    class Drops(Echoing):
        def on_data(self, data):
            getattr(served.server, method)()

    served = serve(Drops)
    opened = [served.open() for _ in range(3)]
    opened[0][0].send(b"drop us")
    for client, protocol in opened:
        assert client.read_until_gone() == b""
        client.close()
        protocol.wait_for("connection_lost")


def test_dropping_no_clients_is_nothing(serve):
    served = serve(Echoing)
    served.server.close_clients()
    served.server.abort_clients()
    served.assert_serving()
    served.server.close()
    assert served.server.wait_closed(WAIT_S) is True
    served.server.close_clients()
    served.server.abort_clients()


# -- its figures


FIGURES = {
    "ops_posted",
    "ops_completed",
    "sockets_opened",
    "sockets_closed",
    "connections_made",
    "connections_retired",
    "connections_now",
    "accepts",
    "accept_errors",
    "bytes_received",
    "bytes_sent",
    "receives",
    "sends",
    "inline_completions",
    "packets",
    "waits",
    "gil_acquisitions",
    "buffers_out",
}


def test_stats_are_whole_numbers_under_their_names(serve):
    served = serve(Echoing)
    served.assert_serving()
    stats = served.server.stats()
    assert set(stats) >= FIGURES
    for name, value in stats.items():
        numbers = value.values() if isinstance(value, dict) else [value]
        assert all(type(number) is int and number >= 0 for number in numbers), (name, value)
    assert stats["connections_made"] == 1
    assert stats["accepts"] >= 1
    assert stats["accept_errors"] == 0
    assert stats["bytes_received"] == 1000


def test_stats_are_a_copy(serve):
    served = serve(Echoing)
    served.server.stats()["connections_made"] = 77
    assert served.server.stats()["connections_made"] == 0


def test_callbacks_run_on_as_many_threads_as_there_are_workers(serve):
    names = set()

    class Names(Echoing):
        def on_data(self, data):
            names.add(threading.get_ident())
            super().on_data(data)

    served = serve(Names, workers=1)
    for _ in range(10):
        served.assert_serving()
    assert len(names) == 1


def test_two_servers_in_one_process_do_not_mix(serve):
    class Shouts(Recording):
        def on_data(self, data):
            self.transport.write(data.upper())

    quiet, loud = serve(Echoing), serve(Shouts)
    one, other = quiet.connect(), loud.connect()
    for _ in range(20):
        one.send(b"hello")
        other.send(b"hello")
        assert other.read_exactly(5) == b"HELLO"
        assert one.read_exactly(5) == b"hello"
    loud.server.close()
    other.close()
    assert loud.server.wait_closed(WAIT_S) is True
    assert one.exchange([b"still quiet"]) == b"still quiet"


def test_a_server_runs_beside_an_asyncio_loop(serve):
    served = serve(Echoing)
    host, port = served.server.address

    async def talk():
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(b"from asyncio")
        got = await asyncio.wait_for(reader.readexactly(12), WAIT_S)
        writer.close()
        return got

    assert asyncio.run(talk()) == b"from asyncio"
