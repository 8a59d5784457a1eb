"""The trace: a line for each step of each connection's life."""

import re
import threading

import pytest
from payload import assert_same_bytes, pattern
from protocols import Echoing, Recording
from waiting import WAIT_S, wait_until_gone


class Trace:
    """A place for the lines; any thread may add."""

    def __init__(self):
        self.lines = []
        self.threads = set()

    def __call__(self, line):
        self.lines.append(line)
        self.threads.add(threading.current_thread().name)

    def of(self, client):
        """What was said of one client's connection, without its name."""
        host, port = client.address[:2]
        name = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        return [line.removeprefix(name + " ") for line in self.lines if line.startswith(name + " ")]


def steps(lines):
    """The names of the steps: "#3 close, bytes queued 5" is "close"."""
    found = [re.fullmatch(r"#\d+ ([A-Za-z_ ]+)(?:, [a-z ]+)? \d+", line) for line in lines]
    assert all(found), lines
    return [match[1] for match in found]


def test_the_life_of_a_connection_is_told_in_order(serve):
    trace = Trace()
    served = serve(Echoing, trace=trace)
    client, protocol = served.open()
    client.exchange([b"hello"])
    client.half_close()
    assert client.read_to_end() == b""
    client.close()
    protocol.wait_for("connection_lost")
    wait_until_gone(served)
    served.finish()
    told = steps(trace.of(client))
    assert told[0] == "accepted"
    order = ["accepted", "received", "sent", "EOF", "close", "handle closed"]
    places = [told.index(step) for step in order]
    assert places == sorted(places), told


def test_a_close_by_the_server_comes_before_the_clients(serve):
    trace = Trace()
    served = serve(Echoing, trace=trace)
    client, protocol = served.open()
    protocol.transport.close()
    assert client.read_to_end() == b""
    client.close()
    wait_until_gone(served)
    served.finish()
    told = steps(trace.of(client))
    places = [told.index(step) for step in ["close", "SD_SEND", "EOF", "handle closed"]]
    assert places == sorted(places), told


class LooksAtItsSocket(Echoing):
    def on_made(self):
        self.duplicate = self.transport.get_extra_info("socket").dup()


def test_a_client_that_has_ended_sees_the_end_although_its_socket_has_another_handle(serve):
    trace = Trace()
    served = serve(LooksAtItsSocket, trace=trace)
    client, protocol = served.open()
    client.exchange([b"hello"])
    client.half_close()
    assert client.read_to_end() == b""
    protocol.wait_for("connection_lost")
    served.finish()
    assert "SD_SEND" in steps(trace.of(client))
    protocol.duplicate.close()


def test_sizes_are_told(serve):
    trace = Trace()
    served = serve(Echoing, trace=trace)
    client, _ = served.open()
    data = pattern(100_000)
    assert_same_bytes(client.exchange([data]), data)
    served.finish()
    lines = trace.of(client)
    for step in ("received", "sent"):
        found = [re.fullmatch(rf"#\d+ {step} (\d+)", line) for line in lines]
        assert sum(int(match[1]) for match in found if match) == len(data), lines


@pytest.mark.parametrize("end", ["abort", "raise"])
def test_an_abort_is_told(serve, end):
    class Ends(Recording):
        def on_data(self, data):
            if end == "abort":
                self.transport.abort()
            else:
                raise LookupError("on purpose")

    trace = Trace()
    served = serve(Ends, trace=trace)
    client, protocol = served.open()
    client.send(b"go")
    protocol.wait_for("connection_lost")
    if end == "raise":
        served.take_error()
    served.finish()
    assert "abort" in steps(trace.of(client))


def test_the_code_of_an_error_is_told(serve):
    trace = Trace()
    served = serve(Recording, trace=trace, idle_timeout_s=0.05)
    client, _ = served.open_to_its_end()
    served.finish()
    assert any("error 10060" in line for line in trace.of(client)), trace.lines


def test_each_line_names_its_connection(serve):
    trace = Trace()
    served = serve(Echoing, trace=trace)
    opened = [served.open() for _ in range(5)]
    for number, (client, _) in enumerate(opened):
        client.exchange([bytes(100 * number + 1)])
    served.finish()
    numbers = set()
    for number, (client, _) in enumerate(opened):
        lines = trace.of(client)
        # A number of its own, and its own data only.
        own = {re.match(r"#(\d+) ", line)[1] for line in lines}
        assert len(own) == 1
        numbers |= own
        assert any(line.endswith(f" received {100 * number + 1}") for line in lines)
    assert len(numbers) == 5
    assert len(trace.lines) == sum(len(trace.of(client)) for client, _ in opened)


def test_the_trace_runs_on_the_workers(serve):
    trace = Trace()
    served = serve(Echoing, trace=trace)
    served.assert_serving()
    served.finish()
    assert trace.threads
    assert all(name.startswith("iocpx-worker-") for name in trace.threads), trace.threads


def test_a_trace_that_raises_is_reported_and_costs_no_connection(serve):
    def trace(line):
        raise LookupError(line)

    served = serve(Echoing, trace=trace)
    served.assert_serving()
    served.server.close()
    assert served.server.wait_closed(WAIT_S) is True
    contexts = []
    while not served.errors.empty():
        contexts.append(served.take_error())
    assert contexts
    for context in contexts:
        assert type(context["exception"]) is LookupError
        assert "trace" in context["message"]


def test_without_a_trace_nothing_is_told(serve, capfd):
    served = serve(Echoing)
    served.assert_serving()
    served.finish()
    assert capfd.readouterr() == ("", "")


def test_lines_that_wait_behind_a_callback_are_bounded(serve):
    """A thread writes while the connection's turn, which would tell the trace, is held up."""
    inside = threading.Event()
    may_return = threading.Event()

    class Waits(Recording):
        def on_data(self, data):
            inside.set()
            assert may_return.wait(WAIT_S)

    trace = Trace()
    served = serve(Waits, trace=trace, workers=2)
    client, protocol = served.open()
    client.send(b"go")
    assert inside.wait(WAIT_S)
    for _ in range(1500):
        protocol.transport.write(b"x")
        client.read_exactly(1)
    may_return.set()
    protocol.wait_for("data_received")
    served.finish()
    lines = trace.of(client)
    assert 1000 <= len(lines) < 1100
    (left_out,) = [line for line in lines if line.endswith(" lines left out")]
    assert 400 < int(left_out.split()[1]) < 600
