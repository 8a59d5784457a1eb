"""One test, or a few, for each feature that a server on a completion port must have, F1 to F21.

Each test proves its feature as a
whole; the details are tested in the files named after their subjects.
"""

import os
import socket
import threading

import pytest
from clients import Client, connect_until_refused
from payload import MORE_THAN_THE_KERNEL_TAKES, assert_same_bytes, pattern, pieces
from process import collect
from protocols import CountingSent, Echoing, Recording
from served import assert_balanced
from sockets import has_ipv6, own_host
from test_cli import CLI, assert_totals, listening_address, set_event
from waiting import (
    WAIT_S,
    clock,
    run_together,
    take,
    wait_for_event,
    wait_for_figure,
    wait_until,
    wait_until_gone,
)

import iocpx

pytestmark = pytest.mark.engine("the features are the engine's")

# What can be waited for at once by the means that completion ports replace.
MAXIMUM_WAIT_OBJECTS = 64


def test_f01_a_few_workers_serve_many_more_sockets_than_can_be_waited_for(serve):
    names = set()

    class Names(Echoing):
        def on_data(self, data):
            names.add(threading.current_thread().name)
            super().on_data(data)

    served = serve(Names, workers=2)
    clients = [served.connect() for _ in range(5 * MAXIMUM_WAIT_OBJECTS)]
    # All of them at once: asked first, answered later.
    for number, client in enumerate(clients):
        client.send(b"%5d" % number)
    for number, client in enumerate(clients):
        assert client.read_exactly(5) == b"%5d" % number
    assert served.server.connection_count == len(clients)
    assert names <= {"iocpx-worker-0", "iocpx-worker-1"}


def test_f01_callbacks_of_two_connections_run_at_the_same_time_on_two_workers(serve):
    both = threading.Barrier(2, timeout=WAIT_S)

    class Meets(Recording):
        def on_data(self, data):
            # Passes only when two callbacks are in here at once.
            both.wait()
            self.transport.write(b"met")

    served = serve(Meets, workers=2)
    clients = [served.connect() for _ in range(2)]
    for client in clients:
        client.send(b"go")
    for client in clients:
        assert client.read_exactly(3) == b"met"


def test_f02_a_file_is_sent_by_operations_of_the_port(serve, tmp_path):
    path = tmp_path / "file"
    data = pattern(3 << 20)
    path.write_bytes(data)
    served = serve(Recording, workers=1)
    client, protocol = served.open()
    before = served.stats()
    with path.open("rb") as file:
        future = protocol.transport.sendfile(file)
    got = client.read_exactly(len(data))
    assert_same_bytes(got, data)
    assert future.result(WAIT_S) == len(data)
    after = served.stats()
    assert after["bytes_sent"] - before["bytes_sent"] == len(data)
    # Each TransmitFile is an operation, and many need none of Python's time.
    assert 3 <= after["sends"] - before["sends"] <= after["ops_posted"] - before["ops_posted"]


def test_f02_a_file_is_read_and_written_by_operations_of_the_port(tmp_path):
    """Beside connections on the same engine."""
    data = pattern(1 << 20)
    engine = iocpx.Engine(workers=2)
    with iocpx.Server(Echoing, "127.0.0.1", engine=engine) as server:
        before = engine.stats()
        with iocpx.open_file(tmp_path / "file", "w+b", engine=engine) as file:
            parts = range(0, len(data), 64 << 10)
            writes = [file.write(data[at : at + (64 << 10)], at) for at in parts]
            with Client(server.address) as client:
                assert client.exchange([b"meanwhile"]) == b"meanwhile"
            assert sum(write.result(WAIT_S) for write in writes) == len(data)
            reads = [file.read(64 << 10, at) for at in parts]
            assert_same_bytes(b"".join(read.result(WAIT_S) for read in reads), data)
        after = engine.stats()
        assert after["file_ops_done"] - before["file_ops_done"] == 2 * len(parts)
        assert after["ops_posted"] - before["ops_posted"] >= 2 * len(parts)
    assert_balanced(server)
    assert (tmp_path / "file").read_bytes() == data


@pytest.mark.parametrize("workers", [1, 8])
def test_f03_data_is_delivered_in_the_order_in_which_it_was_sent(serve, workers):
    """With as many receives and workers as can get into one another's way."""
    served = serve(Recording, initial_reads=16, buffer_size=100, workers=workers)
    opened = [served.open() for _ in range(4)]
    data = [pattern(50_000, number) for number in range(4)]

    def send(number):
        for piece in pieces(data[number], 50, number):
            opened[number][0].send(piece)
        opened[number][0].half_close()

    run_together(*(lambda number=number: send(number) for number in range(4)))
    for number, (_, protocol) in enumerate(opened):
        protocol.wait_for("connection_lost")
        assert_same_bytes(protocol.received, data[number])


def test_f04_several_receives_are_pending_per_connection(serve):
    """Each pending receive has a buffer of its own."""

    def most_buffers(reads):
        served = serve(Echoing, initial_reads=reads, workers=1)
        client, _ = served.open()
        for _ in range(3):
            client.exchange([b"hello"])
        # Some may be let go already, where it has been quiet for a second.
        wait_until(lambda: served.stats()["buffers_peak"] >= reads, "that all have been there")
        return served.stats()["buffers_peak"]

    assert most_buffers(1) <= 2
    assert 4 <= most_buffers(4) <= 5


def test_f05_the_stop_ends_every_pending_operation_and_then_the_workers(serve):
    before = own_threads()
    served = serve(Recording, initial_reads=4, initial_accepts=20, close_timeout_s=0.2)
    assert len(own_threads() - before) > 2
    opened = [served.open() for _ in range(20)]
    for client, protocol in opened[:10]:
        # Receives pending, a send pending, accepts pending.
        client.send(b"hello")
        protocol.wait_for_data(5)
        protocol.transport.write(pattern(MORE_THAN_THE_KERNEL_TAKES))
        protocol.wait_for("pause_writing")
    stats = served.stats()
    assert stats["ops_posted"] - stats["ops_completed"] >= 20 + 10
    served.server.close()
    assert served.server.wait_closed(WAIT_S) is True
    assert_balanced(served.server)
    wait_until(lambda: not own_threads() - before, "the end of every thread")
    for client, protocol in opened:
        assert protocol.events[-1] == "connection_lost"
        client.read_until_gone()


def own_threads():
    """The threads of all servers that run."""
    return {thread for thread in threading.enumerate() if thread.name.startswith("iocpx-")}


def test_f06_the_accept_pool_is_filled_up_again_and_grows_when_it_runs_dry(serve):
    entered, leave = threading.Event(), threading.Event()

    def hold():
        entered.set()
        wait_for_event(leave, "the release of the worker")

    class HoldsItsWorker(Echoing):
        def on_made(self):
            # The keeper fires it, so it has done with the pool's making: no FD_ACCEPT of those who
            # come from then on is taken for one of before.
            if not entered.is_set():
                self.transport.call_later(0.001, hold)

    served = serve(HoldsItsWorker, workers=1)
    wait_for_figure(served.server, "accepts_pending", 10)
    clients = [served.connect()]
    wait_for_event(entered, "the hold of the worker")
    # More than ten while no worker looks: FD_ACCEPT says so, and fifty are added; then up to the
    # hundred of the default.
    clients += [served.connect() for _ in range(11)]
    wait_until(lambda: served.stats()["accepts_grown"] >= 50, "the growth of the pool")
    clients += [served.connect() for _ in range(60)]
    wait_for_figure(served.server, "accepts_grown", 90)
    leave.set()
    for client in clients:
        assert client.exchange([b"hello"]) == b"hello"
    wait_for_figure(served.server, "accepts", len(clients))
    assert served.stats()["accepts_pending"] <= 100


def test_f07_silent_clients_are_found_and_dropped_so_that_others_get_in(serve):
    served = serve(
        Echoing, accept_receive=True, accept_timeout_s=1, initial_accepts=3, max_accepts=3
    )
    start = clock()
    silent = served.silent(3)
    # Every slot is taken by a client that says nothing.
    _, late = served.speaking()
    assert clock() - start >= 1
    wait_for_figure(served.server, "silent_clients_dropped", 3 + late)
    for other in silent:
        assert other.read_until_gone() == b""
    assert served.stats()["connections_made"] == 1


def test_f08_the_first_data_comes_with_the_accept(serve):
    served = serve(Echoing, accept_receive=True, workers=1)
    client = served.connect()
    client.send(b"first")
    assert client.read_exactly(5) == b"first"
    protocol = take(served._made, "the protocol")
    assert protocol.events == ["connection_made", "data_received"]
    # No receive of the connection's own brought it.
    assert served.stats()["receives"] == 1
    assert served.stats()["bytes_received"] == 5


def test_f08_by_default_a_server_may_speak_first(serve):
    class Greets(Recording):
        def on_made(self):
            self.transport.write(b"hello")

    client, _ = serve(Greets).open()
    assert client.read_exactly(5) == b"hello"


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        pytest.param("::1", marks=pytest.mark.skipif(not has_ipv6(), reason="no IPv6 loopback")),
    ],
)
def test_f09_the_extension_functions_of_each_listener_work(serve, host):
    """AcceptEx accepts, GetAcceptExSockaddrs reads both addresses: loaded per provider."""
    served = serve(Echoing, host)
    client, protocol = served.open()
    assert client.exchange([b"hello"]) == b"hello"
    assert protocol.transport.get_extra_info("peername") == client.sock.getsockname()
    assert protocol.transport.get_extra_info("sockname") == client.sock.getpeername()


def test_f10_each_connection_knows_both_of_its_addresses(serve):
    served = serve(Recording, ["127.0.0.1", "127.0.0.2"])
    seen = set()
    for sock in served.server.sockets:
        for _ in range(3):
            client, protocol = served.open(sock.getsockname())
            peer = protocol.transport.get_extra_info("peername")
            assert peer == client.sock.getsockname()
            assert protocol.transport.get_extra_info("sockname") == sock.getsockname()
            # The system may give a port once for each of the addresses.
            seen.add((peer, sock.getsockname()))
            client.close()
            protocol.wait_for("connection_lost")
            # Also afterwards, for the log.
            assert protocol.transport.get_extra_info("peername") == peer
    assert len(seen) == 6


@pytest.mark.parametrize(
    "parameters, wanted",
    [
        ({}, True),
        ({"keepalive_idle_s": 60, "keepalive_interval_s": 2}, True),
        ({"keepalive_idle_s": None}, False),
    ],
    ids=["default", "own-values", "off"],
)
def test_f11_keepalive_is_on_unless_it_is_switched_off(serve, parameters, wanted):
    _, protocol = serve(Recording, **parameters).open()
    sock = protocol.transport.get_extra_info("socket")
    assert bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)) is wanted


def test_f12_the_client_beyond_the_maximum_is_refused_and_the_next_after_it_is_not(serve):
    served = serve(Echoing, max_connections=2)
    opened = [served.open() for _ in range(2)]
    for _ in range(3):
        assert served.connect_in_vain(b"hello") == b""
    assert served.stats()["refused"] == 3
    for client, _ in opened:
        assert client.exchange([b"hello"]) == b"hello"
    opened[0][0].close()
    wait_until_gone(served, 1)
    served.assert_serving()


def test_f13_a_write_takes_the_data_and_returns_before_it_is_sent(serve):
    client, protocol = serve(Recording).open()
    data = bytearray(pattern(MORE_THAN_THE_KERNEL_TAKES))
    wanted = bytes(data)
    protocol.transport.write(data)
    # Back, with most of it unsent; what the caller does with its own is no matter.
    assert protocol.transport.get_write_buffer_size() > 0
    data[:] = bytes(len(data))
    del data
    assert_same_bytes(client.read_exactly(len(wanted)), wanted)


def test_f14_a_client_that_does_not_read_has_a_bound_on_its_pending_sends(serve):
    served = serve(Recording, max_sends=20)
    client, protocol = served.open()
    protocol.transport.write(pattern(MORE_THAN_THE_KERNEL_TAKES))
    for _ in range(19):
        protocol.transport.write(b"x")
    assert protocol.transport.is_closing() is False
    protocol.transport.write(b"x")
    # Never in silence: the connection ends, and its protocol hears why.
    protocol.wait_for("connection_lost")
    assert protocol.lost_with.winerror == 10055
    client.read_until_gone()


def test_f15_buffers_and_connections_are_used_again_and_their_free_lists_bounded(serve):
    served = serve(Echoing, max_free_buffers=2, max_free_connections=2)
    for _ in range(4):
        opened = [served.open() for _ in range(5)]
        for client, _ in opened:
            client.exchange([b"hello"])
        for client, protocol in opened:
            client.close()
            protocol.wait_for("connection_lost")
            protocol.transport = None
        made = served.stats()["connections_made"]
        wait_for_figure(served.server, "connections_retired", made)
        stats = served.stats()
        assert stats["buffers_free"] <= 2 and stats["connections_free"] <= 2
    assert stats["connection_hits"] == 3 * 2
    assert stats["connection_misses"] == 5 + 3 * 3
    assert stats["buffer_hits"] > 0
    served.finish()
    assert served.stats()["buffers_out"] == 0


def test_f16_small_buffers_carry_any_amount(serve):
    class Measures(Echoing):
        longest = 0

        def on_data(self, data):
            self.longest = max(self.longest, len(data))
            super().on_data(data)

    served = serve(Measures, buffer_size=4096, initial_reads=4)
    client, protocol = served.open()
    data = pattern(1 << 20)
    assert_same_bytes(client.exchange([data]), data)
    assert protocol.longest <= 4096
    assert served.stats()["receives"] >= 256


def test_f17_the_connections_can_be_listed_counted_and_closed(serve):
    served = serve(Echoing)
    opened = [served.open() for _ in range(6)]
    server = served.server
    assert server.connection_count == 6
    connections = server.connections
    assert type(connections) is list
    assert {id(conn) for conn in connections} == {id(p.transport) for _, p in opened}
    # One.
    chosen = next(
        conn
        for conn in connections
        if conn.get_extra_info("peername") == opened[2][0].sock.getsockname()
    )
    chosen.close()
    assert opened[2][0].read_to_end() == b""
    opened[2][0].close()
    opened[2][1].wait_for("connection_lost")
    wait_until_gone(served, 5)
    assert chosen not in server.connections and len(server.connections) == 5
    # All, in order.
    server.close_clients()
    for client, protocol in opened:
        if protocol is not opened[2][1]:
            assert client.read_to_end() == b""
            client.close()
            protocol.wait_for("connection_lost")
    wait_until_gone(served)
    assert server.connections == []
    # All, at once.
    client, protocol = served.open()
    server.abort_clients()
    protocol.wait_for("connection_lost")
    client.read_until_gone()
    assert server.is_serving() is True


def test_f17_the_list_of_connections_is_a_copy(serve):
    served = serve(Echoing)
    client, _ = served.open()
    served.server.connections.clear()
    assert len(served.server.connections) == 1
    assert client.exchange([b"hello"]) == b"hello"
    assert serve(iocpx.native.Echo).server.connections == []


class Talkative(CountingSent):
    """All five of the callbacks: established, read, written, closing, error."""

    def on_data(self, data):
        self.transport.write(data)


def test_f18_each_event_has_its_callback_and_the_end_is_told_once(serve):
    served = serve(Talkative)
    client, protocol = served.open()
    assert client.exchange([b"hello"]) == b"hello"
    protocol.wait_for("data_sent")
    client.half_close()
    assert client.read_to_end() == b""
    protocol.wait_for("connection_lost")
    assert protocol.events == [
        "connection_made",
        "data_received",
        "data_sent",
        "eof_received",
        "connection_lost",
    ]
    assert protocol.sent == 5
    assert protocol.lost_with is None
    client, protocol = served.open()
    protocol.transport.write(pattern(MORE_THAN_THE_KERNEL_TAKES))
    protocol.wait_for("pause_writing")
    client.reset()
    protocol.wait_for("connection_lost")
    assert isinstance(protocol.lost_with, OSError) and protocol.lost_with.winerror
    served.finish()
    assert protocol.events.count("connection_lost") == 1


def test_f19_a_second_start_is_refused_and_a_restart_works(serve):
    served = serve(Echoing)
    with pytest.raises(RuntimeError, match="already"):
        served.server.start()
    for turn in range(3):
        served.assert_serving(size=100 + turn)
        served.server.close()
        assert served.server.wait_closed(WAIT_S) is True
        assert_balanced(served.server)
        served.server.start()
    served.assert_serving()


@pytest.mark.python("the collector is Python's")
def test_f19_a_server_that_nobody_has_any_more_stops():
    before = own_threads()
    servers = [iocpx.Server(iocpx.native.Echo, own_host())]
    servers[0].start()
    address = servers[0].address
    assert own_threads() - before

    def drop():
        servers.clear()
        collect()

    with pytest.warns(ResourceWarning, match="unclosed server"):
        drop()
    connect_until_refused(address)
    wait_until(lambda: not own_threads() - before, "the end of the workers")


def test_f20_a_trace_follows_the_life_of_a_connection(serve):
    lines = []
    served = serve(Echoing, trace=lines.append)
    client, _ = served.open()
    host, port = client.address
    assert client.exchange([b"hello"]) == b"hello"
    served.finish()
    assert all(line.startswith(f"{host}:{port} #1 ") for line in lines), lines
    told = [line.split(" ", 2)[2] for line in lines]
    assert told[0].startswith("accepted")
    assert "received 5" in told and "sent 5" in told
    assert told.index("received 5") < told.index("sent 5")
    assert told[-1].startswith("handle closed")


def test_f21_the_echo_demo_is_stopped_by_a_named_event_of_another_process(start_script):
    name = f"iocpx-test-feature-{os.getpid()}"
    script = start_script(CLI, "echo", "--stop-event", name)
    address = listening_address(script)
    data = pattern(100_000)
    with Client(address) as client:
        assert_same_bytes(client.exchange([data]), data)
    set_event(name)
    status, lines, errors = script.finish()
    assert (status, errors) == (0, "")
    assert lines[0] == f"stopping: the event {name!r} was set"
    assert_totals(lines[1:], len(data))
