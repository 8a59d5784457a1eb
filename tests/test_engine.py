"""Several servers on one engine: its threads and memory are shared, and nothing else."""

import contextlib
import copy
import pickle
import queue
import socket
import threading

import pytest
from clients import Client, connect_until_refused, limit_waits
from payload import assert_same_bytes, pattern
from protocols import Echoing, Plain, Recording
from served import Served, assert_balanced
from sockets import own_host
from waiting import (
    WAIT_S,
    clock,
    run_together,
    take,
    wait_for_event,
    wait_for_figure,
    wait_until,
)

import iocpx

pytestmark = pytest.mark.engine("the engine is shared below Python")


def threads(*names):
    """The engine's threads of those names that there are."""
    return sorted(
        thread.name for thread in threading.enumerate() if thread.name.startswith(names or "iocpx-")
    )


@pytest.fixture
def engine():
    """An engine of two workers; at the end its books are balanced, and no thread is left."""
    engine = iocpx.Engine(workers=2)
    yield engine
    wait_until(lambda: threads() == [], "the end of every thread")
    stats = engine.stats()
    assert stats["ops_posted"] == stats["ops_completed"], stats
    assert stats["buffers_out"] == 0, stats


@pytest.fixture
def share(engine):
    """`share(protocol_factory, **parameters)`: a started `Served` on the engine."""
    made = []

    def make(protocol_factory, **parameters):
        made.append(Served(protocol_factory, engine=engine, **parameters))
        return made[-1]

    yield make
    for served in made:
        served.hang_up()
        served.server.close()
        assert served.server.wait_closed(WAIT_S) is True
        assert_even(served.server)
        assert served.errors.empty(), f"an error that no test asked for: {served.errors.get()}"


def assert_even(server):
    """The ledger of a stopped server whose engine may go on."""
    stats = server.stats()
    assert stats["sockets_opened"] == stats["sockets_closed"], stats
    assert stats["connections_made"] == stats["connections_retired"], stats
    assert stats["connections_now"] == stats["accepts_pending"] == 0, stats


class Shouts(Plain):
    def data_received(self, data):
        self.transport.write(data.upper())


def echo(client, size=1000):
    data = pattern(size, seed=size)
    assert_same_bytes(client.exchange([data]), data)


def test_a_server_tells_its_engine(engine):
    assert iocpx.Server(Plain, engine=engine).engine is engine
    one, other = iocpx.Server(Plain), iocpx.Server(Plain)
    assert isinstance(one.engine, iocpx.Engine)
    assert one.engine is not other.engine


def test_servers_share_the_threads(share, engine):
    share(Plain)
    assert threads("iocpx-worker") == ["iocpx-worker-0", "iocpx-worker-1"]
    before = threads()
    share(Shouts)
    share(iocpx.native.Echo)
    assert threads() == before


def test_each_server_has_its_own_callbacks(share):
    plain, shouting, native = share(Plain), share(Shouts), share(iocpx.native.Echo)
    clients = [served.connect() for served in (plain, shouting, native)]
    for _ in range(20):
        answers = [client.exchange([b"hello"]) for client in clients]
        assert answers == [b"hello", b"HELLO", b"hello"]


def test_python_and_native_connections_of_one_worker_are_served_together():
    engine = iocpx.Engine(workers=1)
    native = Served(iocpx.native.Echo, engine=engine)
    python = Served(Plain, engine=engine)
    clients = [served.connect() for served in (native, python) for _ in range(8)]

    def talk(client):
        for _ in range(50):
            echo(client, 3000)

    run_together(*[lambda client=client: talk(client) for client in clients])
    assert native.server.stats()["bytes_received"] == 8 * 50 * 3000
    assert python.server.stats()["bytes_received"] == 8 * 50 * 3000
    for served in (native, python):
        served.hang_up()
        served.server.close()
        assert served.server.wait_closed(WAIT_S) is True
    assert_balanced(native.server)
    assert_balanced(python.server)


def test_a_native_connection_costs_no_look_into_python(share, engine):
    client = share(iocpx.native.Echo).connect()
    share(Plain)
    echo(client)
    before = engine.stats()["gil_acquisitions"]
    for _ in range(10):
        echo(client)
    assert engine.stats()["gil_acquisitions"] == before


def test_each_server_has_its_own_figures(share):
    one, other = share(Plain), share(Plain)
    echo(one.connect(), 1000)
    other.connect()
    wait_for_figure(other.server, "accepts", 1)
    wait_for_figure(one.server, "bytes_sent", 1000)
    wait_for_figure(one.server, "accepts_pending", 10)
    wait_for_figure(other.server, "accepts_pending", 10)
    assert other.server.stats()["bytes_received"] == 0
    assert one.server.connection_count == other.server.connection_count == 1
    # One is counted when it is accepted, and listed when its connection_made() is called.
    wait_until(
        lambda: [len(served.server.connections) for served in (one, other)] == [1, 1],
        "a connection of each",
    )
    other.connect()
    wait_for_figure(other.server, "connections_peak", 2)
    assert one.server.stats()["connections_peak"] == 1


def test_each_server_has_its_own_limits(share):
    few, many = share(Plain, max_connections=1), share(Plain)
    few.connect().exchange([b"in"])
    assert few.connect_in_vain(b"out") == b""
    for client in [many.connect() for _ in range(3)]:
        echo(client)
    assert few.server.stats()["refused"] == 1
    assert many.server.stats()["refused"] == 0


@pytest.mark.slow("the shortest timeout is seconds")
def test_each_server_has_its_own_deadlines(share):
    hasty, patient = share(Recording, idle_timeout_s=2), share(Plain)
    client = patient.connect()
    echo(client)
    _, protocol = hasty.open_to_its_end()
    assert protocol.lost_with.winerror == 10060
    echo(client)
    assert patient.server.stats()["aborts_by_reason"]["idle_timeout"] == 0


def test_one_stops_while_the_other_serves(share, engine):
    leaving, staying = share(Echoing, host=own_host()), share(Echoing)
    gone, client = leaving.connect(), staying.connect()
    echo(gone)
    echo(client)
    busy = threading.Event()

    def talk():
        while not busy.is_set():
            echo(client, 50_000)

    talking = threading.Thread(target=talk, daemon=True)
    talking.start()
    for _ in range(3):
        leaving.server.close()
        assert gone.read_to_end() == b""
        gone.close()
        assert leaving.server.wait_closed(WAIT_S) is True
        assert_even(leaving.server)
        assert leaving.server.is_serving() is False
        assert staying.server.is_serving() is True
        assert threads("iocpx-worker") == ["iocpx-worker-0", "iocpx-worker-1"]
        connect_until_refused(leaving.server.address)
        leaving.server.start()
        gone = leaving.connect()
        echo(gone)
    busy.set()
    talking.join(WAIT_S)
    assert not talking.is_alive()
    echo(client)
    assert sum(staying.server.stats()["aborts_by_reason"].values()) == 0


def test_a_stop_has_its_own_time(share):
    """One server's stop aborts who does not end; nobody else's client is touched."""
    stuck, staying = share(Plain, close_timeout_s=0), share(Plain)
    client, other = stuck.connect(), staying.connect()
    echo(client)
    echo(other)
    stuck.server.close()
    assert stuck.server.wait_closed(WAIT_S) is True
    echo(other)
    assert staying.server.stats()["aborts_by_reason"]["stop"] == 0


def test_clients_of_one_server_are_closed_and_not_the_others(share):
    closed, aborted, staying = share(Plain), share(Plain), share(Plain)
    clients = [served.connect() for served in (closed, aborted, staying)]
    for client in clients:
        echo(client)
    closed.server.close_clients()
    aborted.server.abort_clients()
    assert clients[0].read_to_end() == b""
    assert clients[1].read_until_gone() == b""
    echo(clients[2])


def test_the_engine_begins_anew_after_its_last_server(share, engine):
    for _ in range(3):
        served = share(Plain)
        echo(served.connect())
        served.hang_up()
        served.server.close()
        assert served.server.wait_closed(WAIT_S) is True
        wait_until(lambda: threads("iocpx-worker", "iocpx-keeper") == [], "the end of its threads")


def test_the_last_that_waits_sees_the_threads_end(share, engine):
    first, last = share(Plain), share(Plain)
    first.server.close()
    assert first.server.wait_closed(WAIT_S) is True
    assert threads("iocpx-worker") != []
    last.server.close()
    begin = clock()
    assert last.server.wait_closed(WAIT_S) is True
    # Or it has waited a second for them: a busy machine may exceed that.
    assert threads("iocpx-worker", "iocpx-keeper") == [] or clock() - begin >= 1


def test_servers_come_and_go_at_the_same_time(engine):
    """The engine ends and begins under the hands of those that start."""

    def come_and_go():
        for _ in range(15):
            server = iocpx.Server(Plain, "127.0.0.1", engine=engine)
            with server, Client(server.address) as client:
                echo(client, 100)
            assert_even(server)

    run_together(*[come_and_go] * 4)


def test_a_server_closed_in_its_start_leaves_the_engine_alone(share, engine):
    client = share(Plain).connect()
    for _ in range(20):
        server = iocpx.Server(Plain, "127.0.0.1", engine=engine)
        closing = threading.Thread(target=server.close, daemon=True)
        closing.start()
        server.start()
        closing.join(WAIT_S)
        server.close()
        assert server.wait_closed(WAIT_S) is True
        assert_even(server)
    echo(client)


def test_a_failed_start_leaves_the_engine_alone(share, engine):
    served = share(Plain)
    client = served.connect()
    taken = iocpx.Server(Plain, "127.0.0.1", served.server.address[1], engine=engine)
    with pytest.raises(OSError, match="listen: the address") as raised:
        taken.start()
    assert raised.value.winerror in (10013, 10048)
    echo(client)


@pytest.mark.parametrize("number", [0, 1, 2], ids=["keeper", "first worker", "second worker"])
def test_where_no_thread_is_to_be_had_the_next_start_tries_again(engine, monkeypatch, number):
    server = iocpx.Server(Plain, "127.0.0.1", engine=engine)
    start = threading.Thread.start
    started = []

    def refuse(thread):
        if thread.name.startswith("iocpx-"):
            started.append(thread)
            if len(started) == number + 1:
                raise RuntimeError("can't start new thread")
        start(thread)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            server.start()
    # They have nothing left to do by then, but one may not have vanished yet.
    wait_until(lambda: threads() == [], "the end of every thread")
    with server, Client(server.address) as client:
        echo(client)


def test_a_long_callback_of_one_server_does_not_hold_up_the_other(share):
    entered, leave = threading.Event(), threading.Event()

    class Lasts(Plain):
        def data_received(self, data):
            entered.set()
            wait_for_event(leave, "the other server's echo")

    lasting, other = share(Lasts), share(Plain)
    client = other.connect()
    echo(client)
    lasting.connect().send(b"wait")
    wait_for_event(entered, "the callback that lasts")
    for _ in range(20):
        echo(client)
    leave.set()


def test_a_start_that_fails_in_a_callback_does_not_wait_for_its_own_worker():
    engine = iocpx.Engine(workers=1)
    failed = queue.Queue()
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))

    class Starts(Plain):
        def data_received(self, data):
            # The second socket cannot listen, and AcceptEx wait on the first by then.
            other = iocpx.Server(Plain, sock=[bound, connected], engine=engine)
            try:
                other.start()
            except OSError as error:
                failed.put((other, error))
            self.transport.write(data)

    # Whoever is connected ends last.
    served = Served(Starts, engine=engine, close_timeout_s=0.1)
    with bound, socket.create_connection(served.server.address) as connected:
        client = served.connect()
        assert client.exchange([b"start"]) == b"start"
        other, error = take(failed, "the failure")
        assert str(error).startswith("[WinError 100"), error
        assert other.wait_closed(WAIT_S) is True
        served.hang_up()
        served.server.close()
        assert served.server.wait_closed(WAIT_S) is True
    assert_balanced(served.server)


def test_the_end_is_not_waited_for_on_a_worker_of_the_engine(share):
    raised = []

    class Waits(Plain):
        def data_received(self, data):
            try:
                other.server.wait_closed(0)
            except RuntimeError as error:
                raised.append(str(error))
            self.transport.write(data)

    other = share(Plain)
    assert share(Waits).connect().exchange([b"x"]) == b"x"
    assert len(raised) == 1 and "callback" in raised[0]


def test_what_ends_a_program_ends_the_server_that_raised_it_and_no_other(share):
    class Leaves(Plain):
        def data_received(self, data):
            raise SystemExit(3)

    leaving, staying = share(Leaves), share(Plain)
    client = staying.connect()
    echo(client)
    leaving.connect().send(b"leave")
    assert isinstance(leaving.take_error()["exception"], SystemExit)
    assert leaving.server.wait_closed(WAIT_S) is True
    assert leaving.server.is_serving() is False
    echo(client)
    assert staying.server.is_serving() is True


def test_each_server_reports_to_its_own_handler(share):
    class Raises(Plain):
        def data_received(self, data):
            raise LookupError(data)

    one, other = share(Raises), share(Raises)
    one.connect().send(b"one")
    assert one.take_error()["exception"].args == (b"one",)
    assert other.errors.empty()


def test_timers_of_both_servers_come(share):
    fired = queue.Queue()

    class Sets(Plain):
        def connection_made(self, transport):
            transport.call_later(0.05, fired.put, self.name)

    class One(Sets):
        name = "one"

    class Other(Sets):
        name = "other"

    share(One).connect()
    share(Other).connect()
    assert {take(fired, "a timer"), take(fired, "the other timer")} == {"one", "other"}


def test_at_exit_all_servers_of_an_engine_are_stopped(start_script):
    script = start_script(
        """
import asyncio
import iocpx

class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
    def data_received(self, data):
        self.transport.write(data)
    def connection_lost(self, exc):
        print(f"lost {exc}\\n", end="", flush=True)

engine = iocpx.Engine(workers=2)
servers = [iocpx.Server(Echo, "127.0.0.1", engine=engine) for _ in range(2)]
for server in servers:
    server.start()
    print(server.address[1], flush=True)
input()
"""
    )
    clients = [Client(("127.0.0.1", int(script.read_line()))) for _ in range(2)]
    for client in clients:
        echo(client)
    script.tell()
    for client in clients:
        assert client.read_to_end() == b""
        client.close()
    status, lines, errors = script.finish()
    assert (status, lines, errors) == (0, ["lost None"] * 2, "")


def test_an_engine_is_not_copied(engine):
    assert repr(engine) == "<iocpx.Engine workers=2>"
    for attempt in (copy.copy, pickle.dumps):
        with pytest.raises(TypeError, match="cannot be copied"):
            attempt(engine)


def fill(sock):
    """Send until the system takes no more; how much."""
    sent = 0
    sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            sent += sock.send(bytes(65536))
    limit_waits(sock)
    return sent


def test_a_callback_that_takes_long_holds_up_nobody_who_has_had_his_share(share):
    """One that the callback's worker has served, and would have gone on with."""
    inside, told = queue.Queue(), queue.Queue()
    go_on = {b"0": threading.Event(), b"1": threading.Event()}
    data = bytes(64 << 20)

    class Waits(Recording):
        def on_data(self, data):
            if data in go_on:
                inside.put(data)
                wait_for_event(go_on[data], "the end of the wait")
            else:
                inside.put(data)
                told.put(share_is_over())

    def share_is_over():
        wait_until(
            lambda: discards.stats()["bytes_received"] == len(data), "the receipt of all of it"
        )
        return True

    waits, discards = share(Waits), share(iocpx.native.Discard)
    client, (other, _) = discards.connect(), waits.open()
    client.send(b"x")
    wait_for_figure(discards.server, "bytes_received", 1)
    for number in go_on:
        # Both workers wait, so all that comes now is served by the one that goes on first.
        waits.open()[0].send(number)
        assert take(inside, "a callback") == number
    other.send(b"long")
    sent = fill(client.sock)
    sender = threading.Thread(target=client.send, args=(data[1 + sent :],))
    sender.start()
    go_on[b"0"].set()
    assert take(inside, "the long callback") == b"long"
    go_on[b"1"].set()
    assert take(told, "the end of the long callback")
    sender.join()
