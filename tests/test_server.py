"""The server as an object: with, serve_forever(), its finaliser; its clients; its figures."""

import asyncio
import contextlib
import threading
import warnings

import pytest
from clients import Client, connect_until_refused
from payload import MORE_THAN_THE_KERNEL_TAKES, assert_same_bytes, pattern
from process import collect
from protocols import Echoing, Recording
from served import assert_balanced
from sockets import free_port, own_host
from waiting import WAIT_S, run_together, wait_until

import iocpx

# -- its use: with, serve_forever(), left to the garbage collector


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
    port = free_port()
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

    server = iocpx.Server(factory, own_host())
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
    owner.server = iocpx.Server(iocpx.native.Echo, own_host())
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
    "files_opened",
    "files_closed",
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
    wait_until(lambda: served.stats()["accepts"] >= 1, "the count of the client")
    stats = served.stats()
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
    served.stats()["connections_made"] = 77
    assert served.stats()["connections_made"] == 0


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
