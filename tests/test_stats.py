"""The figures of a server: what each of them counts."""

import queue
import threading

import pytest
from payload import MORE_THAN_THE_KERNEL_TAKES, pattern
from protocols import Echoing, Recording, in_turn
from served import assert_balanced
from waiting import (
    WAIT_S,
    all_stats,
    take,
    wait_for_event,
    wait_for_figure,
    wait_until,
    wait_until_gone,
)

import iocpx

pytestmark = pytest.mark.engine("the figures are the engine's")

# What is counted from start() on, and what is the state at this moment.
COUNTED = {
    "ops_posted",
    "ops_completed",
    "sockets_opened",
    "sockets_closed",
    "connections_made",
    "connections_retired",
    "connections_peak",
    "connection_hits",
    "connection_misses",
    "accepts",
    "accept_errors",
    "accepts_grown",
    "accepts_shrunk",
    "refused",
    "silent_clients_dropped",
    "bytes_received",
    "bytes_sent",
    "receives",
    "zero_byte_receives",
    "sends",
    "write_pauses",
    "read_pauses",
    "files_opened",
    "files_closed",
    "file_handles_opened",
    "file_handles_closed",
    "file_ops_begun",
    "file_ops_done",
    "messages_received",
    "buffer_hits",
    "buffer_misses",
    "buffers_peak",
    "inline_completions",
    "packets",
    "waits",
    "empty_waits",
    "gil_acquisitions",
    "takeovers",
    "connects",
    "connects_made",
    "connects_failed",
}
NOW = {
    "connections_now",
    "connections_outgoing",
    "connections_free",
    "accepts_pending",
    "buffers_out",
    "buffers_free",
}
REASONS = {
    "application",
    "error",
    "callback",
    "write_limit",
    "idle_timeout",
    "close_timeout",
    "stop",
    "framing",
}

TABLES = ("aborts_by_reason", "accept_errors_by_code", "handshake_failures")


def assert_form(stats):
    """Every documented name, and nothing but whole numbers from 0 on."""
    assert set(stats) >= COUNTED | NOW | {*TABLES}
    for name, value in stats.items():
        if name in TABLES:
            assert type(value) is dict
        else:
            assert type(value) is int and value >= 0, name
    assert set(stats["aborts_by_reason"]) == REASONS
    for table in map(stats.get, TABLES):
        assert all(type(count) is int and count >= 0 for count in table.values())
    assert all(type(code) is int for code in stats["accept_errors_by_code"])
    assert sum(stats["accept_errors_by_code"].values()) <= stats["accept_errors"]


def numbers(stats):
    """All figures that must be 0 where nothing has happened."""
    return {name: value for name, value in stats.items() if name not in TABLES}


def test_before_the_start_every_figure_is_there_and_zero():
    stats = all_stats(iocpx.Server(Recording, "127.0.0.1"))
    assert_form(stats)
    assert set(numbers(stats).values()) == {0}
    assert set(stats["aborts_by_reason"].values()) == {0}
    assert stats["accept_errors_by_code"] == stats["handshake_failures"] == {}


@pytest.mark.parametrize("handler", [Echoing, iocpx.native.Echo], ids=["protocol", "native"])
def test_the_form_is_the_same_before_during_and_after(serve, handler):
    served = serve(handler)
    assert_form(served.stats())
    served.assert_serving()
    assert_form(served.stats())
    served.finish()
    assert_form(served.stats())


def test_the_tables_are_copies(serve):
    server = serve(Recording).server
    server.stats()["aborts_by_reason"]["error"] = 77
    server.stats()["accept_errors_by_code"][64] = 77
    assert server.stats()["aborts_by_reason"]["error"] == 0
    assert server.stats()["accept_errors_by_code"] == {}
    server.stats()["handshake_failures"]["HTTP_REQUEST"] = 77
    assert server.stats()["handshake_failures"] == {}


def test_counts_never_go_down(serve):
    served = serve(Echoing)
    before = served.stats()
    for turn in range(20):
        served.assert_serving(size=1000 * turn + 1)
        after = served.stats()
        assert not [name for name in COUNTED if after[name] < before[name]]
        before = after


# -- the ledger


def test_the_figures_stay_readable_after_the_stop_and_balance(serve):
    served = serve(Echoing)
    for _ in range(5):
        served.assert_serving()
    served.finish()
    first = served.stats()
    assert_balanced(served.server)
    assert first["ops_posted"] > 0 and first["sockets_opened"] > 0
    assert first["connections_made"] == first["accepts"] == 5
    assert first["bytes_received"] == first["bytes_sent"] == 5000
    assert first["accepts_pending"] == 0
    assert served.stats() == first


def test_a_restart_counts_from_zero(serve):
    served = serve(Echoing)
    for _ in range(3):
        served.assert_serving()
    served.finish()
    assert served.stats()["connections_made"] == 3
    served.server.start()
    assert served.stats()["connections_made"] == 0
    served.assert_serving()
    assert served.stats()["connections_made"] == 1


def test_every_accepted_socket_is_counted(serve):
    served = serve(Echoing, initial_accepts=5, max_accepts=5)
    wait_for_figure(served.server, "sockets_opened", 5)
    for _ in range(7):
        served.assert_serving()
    wait_for_figure(served.server, "accepts_pending", 5)
    wait_for_figure(served.server, "sockets_opened", 12)
    assert served.stats()["ops_posted"] >= 12


# -- connections


def test_now_and_peak_follow_the_connections(serve):
    served = serve(Echoing)
    opened = [served.open() for _ in range(8)]
    assert served.stats()["connections_now"] == 8
    assert served.stats()["connections_peak"] == 8
    for client, _ in opened[:6]:
        client.close()
    wait_until_gone(served, 2)
    assert served.stats()["connections_now"] == 2
    for _ in range(3):
        served.open()
    assert served.stats()["connections_peak"] == 8
    assert served.stats()["connections_made"] == 11
    served.finish()
    assert served.stats()["connections_peak"] == 8


def test_refused_clients_are_no_connections(serve):
    served = serve(Recording, max_connections=1)
    served.open()
    for _ in range(3):
        served.connect_in_vain()
    stats = served.stats()
    assert (stats["refused"], stats["connections_made"], stats["accept_errors"]) == (3, 1, 0)


# -- bytes and messages


@pytest.mark.parametrize("handler", [Echoing, iocpx.native.Echo], ids=["protocol", "native"])
def test_bytes_are_counted_in_both_directions(serve, handler):
    served = serve(handler)
    with served.connect() as client:
        for size in (1, 1000, 300_000):
            client.exchange([pattern(size)])
    wait_until_gone(served)
    stats = served.stats()
    assert stats["bytes_received"] == stats["bytes_sent"] == 301_001
    assert 3 <= stats["receives"] <= 301_001
    assert 3 <= stats["sends"] <= 301_001


def test_what_a_callback_writes_leaves_in_one_send(serve):
    class Answers(Recording):
        def on_data(self, data):
            for _ in range(10):
                self.transport.write(b"x")

    served = serve(Answers)
    client, _ = served.open()
    client.send(b"go")
    assert client.read_exactly(10) == b"x" * 10
    wait_until(lambda: served.stats()["bytes_sent"] == 10, "the completion of the send")
    assert served.stats()["sends"] == 1


def test_small_receives_are_counted_one_by_one(serve):
    served = serve(Recording, buffer_size=100)
    client, protocol = served.open()
    client.send(pattern(10_000))
    protocol.wait_for_data(10_000)
    assert served.stats()["receives"] >= 100
    assert served.stats()["receives"] == protocol.events.count("data_received")


def test_zero_byte_receives_belong_to_idle_connections(serve):
    served = serve(Recording)
    _, protocol = served.open()
    wait_until(lambda: served.stats()["zero_byte_receives"] > 0, "a zero-byte receive")
    assert served.stats()["receives"] == 0
    assert "data_received" not in protocol.events


# -- the engine at work


def test_packets_waits_and_the_gil(serve):
    served = serve(Echoing)
    for _ in range(5):
        served.assert_serving()
    served.finish()
    stats = served.stats()
    assert 0 < stats["waits"] <= stats["packets"]
    # Every operation ends in one packet or inline.
    assert stats["packets"] + stats["inline_completions"] <= stats["ops_completed"]
    # At least connection_made, data and the end of the five; never without news of a packet or of
    # an inline completion.
    assert stats["gil_acquisitions"] >= 5


def test_looks_at_the_port_that_find_nothing_are_counted_apart(serve):
    """One is made after each turn of a connection that has more to receive."""
    made, sent = queue.SimpleQueue(), threading.Event()

    class BeginsLate(Recording):
        def on_made(self):
            made.put(self)
            wait_for_event(sent, "the sending")

    served = serve(BeginsLate, workers=1, buffer_size=100)
    client = served.connect()
    client.send(bytes(50_000))
    sent.set()
    take(made, "connection_made").wait_for_data(50_000)
    stats = served.stats()
    assert stats["empty_waits"] >= 50
    assert stats["waits"] <= stats["packets"]
    client.close()


def test_the_native_handler_never_takes_the_gil(serve):
    served = serve(iocpx.native.Echo)
    for _ in range(5):
        served.assert_serving()
    served.finish()
    assert served.stats()["gil_acquisitions"] == 0


# -- pauses


def test_write_pauses_count_the_times_above_the_high_mark(serve):
    served = serve(Recording)
    client, protocol = served.open()
    for turn in range(1, 4):
        protocol.transport.write(bytes(MORE_THAN_THE_KERNEL_TAKES))
        protocol.wait_for("pause_writing", turn)
        client.read_exactly(MORE_THAN_THE_KERNEL_TAKES)
        protocol.wait_for("resume_writing", turn)
        assert served.stats()["write_pauses"] == turn


def test_read_pauses_count_pause_reading(serve):
    served = serve(Recording)
    _, protocol = served.open()
    for _ in range(3):
        protocol.transport.pause_reading()
        protocol.transport.pause_reading()
        protocol.transport.resume_reading()
    assert served.stats()["read_pauses"] == 3


# -- aborts by reason


def aborts(served):
    """The reasons that have occurred, with their counts."""
    table = served.stats()["aborts_by_reason"]
    return {reason: count for reason, count in table.items() if count}


def test_an_orderly_end_is_no_abort(serve):
    served = serve(Echoing)
    client, protocol = served.open()
    protocol.transport.close()
    assert client.read_to_end() == b""
    client.close()
    protocol.wait_for("connection_lost")
    served.assert_serving()
    served.finish()
    assert aborts(served) == {}


def test_an_abort_of_the_application(serve):
    served = serve(Recording)
    _, protocol = served.open()
    protocol.transport.abort()
    protocol.transport.abort()
    protocol.wait_for("connection_lost")
    assert aborts(served) == {"application": 1}
    for _ in range(3):
        served.open()
    served.server.abort_clients()
    wait_until_gone(served)
    assert aborts(served) == {"application": 4}


def test_a_reset_by_the_client_is_an_error(serve):
    served = serve(Recording)
    client, protocol = served.open()
    protocol.transport.write(pattern(MORE_THAN_THE_KERNEL_TAKES))
    protocol.wait_for("pause_writing")
    client.reset()
    protocol.wait_for("connection_lost")
    assert isinstance(protocol.lost_with, OSError)
    assert aborts(served) == {"error": 1}


def test_a_raising_callback(serve):
    class Raises(Recording):
        def on_data(self, data):
            raise LookupError("on purpose")

    served = serve(in_turn(Raises, lambda: 3))
    client, protocol = served.open()
    client.send(b"go")
    protocol.wait_for("connection_lost")
    assert isinstance(served.take_error()["exception"], LookupError)
    assert aborts(served) == {"callback": 1}
    # The factory's second product is no protocol.
    assert served.connect_in_vain() == b""
    served.take_error()
    assert aborts(served) == {"callback": 2}


def test_a_client_beyond_the_write_limit(serve):
    served = serve(Recording, max_sends=1)
    _, protocol = served.open()
    protocol.transport.write(pattern(MORE_THAN_THE_KERNEL_TAKES))
    protocol.transport.write(b"x")
    protocol.wait_for("connection_lost")
    assert aborts(served) == {"write_limit": 1}


def test_an_idle_client(serve):
    served = serve(Recording, idle_timeout_s=0.05)
    served.connect_in_vain()
    wait_until(lambda: aborts(served) == {"idle_timeout": 1}, "the timeout of an idle client")


def test_a_client_that_takes_nothing_while_its_connection_closes(serve):
    served = serve(Recording, close_timeout_s=0.05)
    _, protocol = served.open()
    protocol.transport.write(pattern(MORE_THAN_THE_KERNEL_TAKES))
    protocol.wait_for("pause_writing")
    protocol.transport.close()
    protocol.wait_for("connection_lost")
    assert aborts(served) == {"close_timeout": 1}


def test_a_client_that_the_stop_cuts_off(serve):
    class NeverDone(Recording):
        """Takes so long that the server's stop cannot wait for it."""

        def on_made(self):
            self.transport.write(pattern(MORE_THAN_THE_KERNEL_TAKES))

    served = serve(NeverDone, close_timeout_s=0.1)
    client, protocol = served.open()
    protocol.wait_for("pause_writing")
    served.server.close()
    assert served.server.wait_closed(WAIT_S) is True
    table = aborts(served)
    # The deadline of its own and the one of the stop come at the same time.
    assert sum(table.values()) == 1 and set(table) <= {"stop", "close_timeout"}
    client.read_until_gone()


# -- the pools


def test_buffers_are_used_again_and_counted(serve):
    served = serve(Echoing)
    client, _ = served.open()
    for _ in range(50):
        client.exchange([pattern(1000)])
    stats = served.stats()
    # One connection never needs more than a few at a time, so nearly all come from the pool or
    # stay with the connection.
    assert stats["buffer_misses"] <= stats["buffers_peak"] <= 5
    assert stats["buffers_out"] <= stats["buffers_peak"]
    for _ in range(10):
        served.assert_serving()
    assert served.stats()["buffer_hits"] > 0


@pytest.mark.parametrize("most", [0, 1, 3])
def test_no_more_buffers_are_kept_than_allowed(serve, most):
    served = serve(Echoing, max_free_buffers=most, initial_reads=4)
    opened = [served.open() for _ in range(5)]
    for client, _ in opened:
        client.exchange([pattern(10_000)])
    for client, _ in opened:
        client.close()
    wait_until_gone(served)
    wait_for_figure(served.server, "buffers_out", 0)
    stats = served.stats()
    assert stats["buffers_peak"] > most
    assert stats["buffers_free"] == most


@pytest.mark.parametrize("most", [0, 1, 3])
def test_no_more_connections_are_kept_than_allowed(serve, most):
    served = serve(Echoing, max_free_connections=most)
    opened = [served.open() for _ in range(5)]
    assert served.stats()["connection_misses"] == 5
    for client, _ in opened:
        client.close()
    for protocol in served.protocols:
        protocol.wait_for("connection_lost")
        # A connection lives as long as somebody holds it; the test does no more.
        protocol.transport = None
    wait_for_figure(served.server, "connections_retired", 5)
    assert served.stats()["connections_free"] == most
    for _ in range(3):
        served.open()
    stats = served.stats()
    assert stats["connection_hits"] == most
    assert stats["connection_misses"] == 8 - most


def test_the_pools_are_empty_after_the_stop(serve):
    served = serve(Echoing)
    for _ in range(5):
        served.assert_serving()
    wait_until_gone(served)
    assert served.stats()["buffers_free"] > 0
    # A connection retires when its worker lets it go, after it is no longer counted.
    wait_until(lambda: served.stats()["connections_free"] > 0, "a connection that is kept")
    served.finish()
    stats = served.stats()
    assert (stats["buffers_out"], stats["connections_now"]) == (0, 0)
    assert stats["buffers_free"] == stats["connections_free"] == 0
