"""The stop: what is still sent, what is waited for, who may ask for it; and the start after it."""

import contextlib
import sys
import threading

import pytest
from clients import Client, connect_until_refused
from payload import MORE_THAN_THE_KERNEL_TAKES, assert_same_bytes, pattern
from protocols import Echoing, Recording
from script import start
from served import assert_balanced
from sockets import free_port, own_host
from waiting import WAIT_S, run_together, wait_for_event

import iocpx

pytestmark = pytest.mark.engine("the stop is the engine's")

# -- stopping


def test_close_refuses_new_clients_and_ends_old_ones(serve):
    served = serve(Echoing, own_host())
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
    assert served.stats()["bytes_sent"] == len(answer)


def test_a_client_that_never_reads_does_not_hold_up_the_stop(serve):
    served = serve(Recording, close_timeout_s=0.1)
    client, protocol = served.open()
    protocol.transport.write(pattern(MORE_THAN_THE_KERNEL_TAKES))
    protocol.wait_for("pause_writing")
    served.server.close()
    assert served.server.wait_closed(WAIT_S) is True
    assert protocol.events[-1] == "connection_lost"
    assert len(client.read_until_gone()) < MORE_THAN_THE_KERNEL_TAKES


@pytest.mark.slow("takes close_timeout_s")
def test_a_stop_ends_who_goes_on_sending_at_the_close_timeout(serve):
    """His connection's own time begins anew with all that comes, up to twelve times."""
    served = serve(Recording, close_timeout_s=3)
    client, protocol = served.open()

    def send():
        with contextlib.suppress(ConnectionError):
            while True:
                client.send(bytes(1000))

    sender = threading.Thread(target=send)
    sender.start()
    protocol.wait_for("data_received")
    served.server.close()
    assert served.server.wait_closed(WAIT_S) is True
    sender.join(WAIT_S)
    client.close()


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
    served = serve(Echoing, own_host())
    address = served.server.address
    client, protocol = served.open()
    client.exchange([b"hello"])
    # With close_fds=False the child inherits every handle that may be inherited.
    program = "print('up', flush=True); input()"
    child = start([sys.executable, "-c", program], close_fds=False)
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
    served = serve(Echoing, own_host(), workers=workers, close_timeout_s=1)
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
    port = free_port()
    served = serve(Echoing, "127.0.0.1", port)
    for turn in range(3):
        served.assert_serving(size=1000 + turn)
        served.server.close()
        assert served.server.wait_closed(WAIT_S) is True
        served.server.start()
        assert served.server.address[1] == port
    served.assert_serving()
