"""How data is received: several receives at once, none while idle, and not too much."""

import asyncio
import socket
import threading
import tracemalloc

import pytest
from clients import send_to_one_that_pauses
from payload import assert_same_bytes, pattern, pieces
from protocols import (
    CountingSent,
    Echoing,
    EchoingBuffered,
    PausesOften,
    Recorder,
    Recording,
    RecordingBuffered,
)
from waiting import (
    clock,
    run_together,
    wait_for_event,
    wait_for_figure,
    wait_until,
    wait_until_gone,
)

import iocpx

pytestmark = pytest.mark.engine("what is received, and into which memory, is the engine's")

# -- initial_reads


@pytest.mark.parametrize("reads", [1, 2, 7, 64])
@pytest.mark.parametrize("buffer_size, size", [(1, 500), (37, 30_000), (65536, 4 << 20)])
def test_data_of_several_receives_comes_in_order(serve, reads, buffer_size, size):
    served = serve(Recording, initial_reads=reads, buffer_size=buffer_size)
    client, protocol = served.open()
    data = pattern(size, seed=reads)
    for piece in pieces(data, 30):
        client.send(piece)
    client.half_close()
    protocol.wait_for("connection_lost")
    assert_same_bytes(protocol.received, data)
    assert protocol.events[-2:] == ["eof_received", "connection_lost"]
    assert protocol.events.count("data_received") >= size / buffer_size
    assert served.stats()["receives"] >= size / buffer_size


@pytest.mark.parametrize("reads", [1, 8])
def test_no_data_is_longer_than_the_buffer(serve, reads):
    class Measuring(Recording):
        longest = 0

        def on_data(self, data):
            self.longest = max(self.longest, len(data))

    client, protocol = serve(Measuring, initial_reads=reads, buffer_size=1000).open()
    client.send(pattern(50_000))
    protocol.wait_for_data(50_000)
    assert 0 < protocol.longest <= 1000


@pytest.mark.parametrize("workers", [1, 2, 8])
@pytest.mark.parametrize("handler", [Echoing, iocpx.native.Echo], ids=["protocol", "native"])
def test_an_echo_with_several_receives_keeps_the_order(serve, handler, workers):
    served = serve(handler, initial_reads=8, buffer_size=512, workers=workers)
    clients = [served.connect() for _ in range(5)]

    def talk(number):
        data = pattern(100_000, number)
        assert_same_bytes(clients[number].exchange(pieces(data, 20, number)), data)

    run_together(*(lambda number=number: talk(number) for number in range(len(clients))))


def test_pausing_with_several_receives_pending_loses_and_swaps_nothing(serve):
    client, protocol = serve(PausesOften, initial_reads=8, buffer_size=3000).open()
    send_to_one_that_pauses(client, protocol, pattern(150_000))


@pytest.mark.parametrize("end", ["close", "half_close", "reset"])
def test_several_pending_receives_end_the_stream_once(serve, end):
    served = serve(Recording, initial_reads=16)
    client, protocol = served.open()
    client.send(b"hello")
    protocol.wait_for_data(5)
    getattr(client, end)()
    protocol.wait_for("connection_lost")
    # The rules that every Recorder checks at the end: one end, one loss, no data after either.
    protocol.check()
    assert protocol.received == b"hello"
    if end != "reset":
        assert protocol.events.count("eof_received") == 1
        assert protocol.lost_with is None


def test_closing_with_several_receives_pending(serve):
    served = serve(Recording, initial_reads=16)
    for method in ("close", "abort"):
        client, protocol = served.open()
        getattr(protocol.transport, method)()
        client.read_until_gone()
        client.close()
        protocol.wait_for("connection_lost")
        assert protocol.lost_with is None


# -- long receives, which fill the bytes object that data_received gets


class KeepingParts(Recording):
    def __init__(self):
        super().__init__()
        self.parts = []

    def on_data(self, data):
        self.parts.append(data)


@pytest.mark.parametrize("reads", [1, 4])
@pytest.mark.parametrize("buffer_size", [20_000, 65536, 262144])
def test_what_was_received_is_never_written_to_again(serve, buffer_size, reads):
    client, protocol = serve(KeepingParts, buffer_size=buffer_size, initial_reads=reads).open()
    data = pattern(8 << 20, reads)
    run_together(lambda: client.send(data), lambda: protocol.wait_for_data(len(data)))
    assert max(map(len, protocol.parts)) > 16384
    assert_same_bytes(b"".join(protocol.parts), data)
    client.close()


class Afterwards(RecordingBuffered):
    told_of_connection = False


class ChangesAtTheFirstLong(Recording):
    def __init__(self):
        super().__init__()
        self.second = Afterwards()

    def on_data(self, data):
        if len(data) > 16384:
            self.transport.set_protocol(self.second)

    def check(self):
        assert self.events == ["connection_made"] + ["data_received"] * (len(self.events) - 1)
        self.second.check()


@pytest.mark.parametrize("reads", [1, 4])
def test_a_protocol_changed_among_long_receives_misses_nothing(serve, reads):
    client, first = serve(ChangesAtTheFirstLong, initial_reads=reads).open()
    data = pattern(4 << 20)
    client.send(data)
    client.half_close()
    first.second.wait_for("connection_lost")
    assert_same_bytes(bytes(first.received + first.second.received), data)
    client.close()


class Counting(Recorder, asyncio.Protocol):
    """Keeps nothing of what it gets."""

    def keep(self, data):
        self.kept_bytes += len(data)

    def data_received(self, data):
        with self._callback("data_received"):
            self.keep(data)


@pytest.mark.slow("memory is given back after seconds")
@pytest.mark.parametrize("how", ["quiet", "close", "abort", "reset"])
def test_memory_for_a_long_receive_is_given_back(serve, how):
    served = serve(Counting)
    opened = [served.open() for _ in range(4)]
    data = bytes(4 << 20)
    tracemalloc.start()
    try:
        for client, protocol in opened:
            client.send(data)
            protocol.wait_for_data(len(data))
        for client, protocol in opened:
            if how == "reset":
                client.reset()
            elif how != "quiet":
                getattr(protocol.transport, how)()
                client.read_until_gone()
                client.close()
        # Less than one of them has taken.
        wait_until(
            lambda: tracemalloc.get_traced_memory()[0] < 200_000,
            "the end of the memory of receives",
        )
    finally:
        tracemalloc.stop()
    for client, _ in opened:
        client.close()


# -- idle connections hold no buffer


@pytest.mark.slow("a connection is idle after seconds")
def test_an_idle_connection_holds_no_buffer(serve):
    several = [
        serve(Echoing, initial_reads=1),
        serve(Echoing, initial_reads=8),
        serve(iocpx.native.Echo, initial_reads=8),
    ]
    clients = []
    for served in several:
        own = [served.connect() for _ in range(5)]
        clients += own

        def all_held(served=served, own=own):
            for client in own:
                assert client.exchange([b"hello"]) == b"hello"
            return served.stats()["buffers_peak"] >= 5

        # Not where a busy machine lets a second pass between the first and the last.
        wait_until(all_held, "a buffer of each connection")
    for served in several:
        wait_for_figure(served.server, "buffers_out", 0)
        # Each is posted a moment after its buffer has gone.
        wait_until(
            lambda served=served: served.stats()["zero_byte_receives"] >= 5,
            "a zero-byte receive for each connection",
        )
    # Nothing got lost with the buffers: more than they would hold comes through.
    for number, client in enumerate(clients):
        data = pattern(300_000, number)
        assert_same_bytes(client.exchange([data]), data)


def test_connections_that_never_spoke_hold_no_buffer(serve):
    served = serve(Echoing)
    opened = [served.open() for _ in range(20)]
    wait_for_figure(served.server, "buffers_out", 0)
    for client, _ in opened:
        assert client.exchange([b"hello"]) == b"hello"


@pytest.mark.slow("a connection is idle after seconds")
def test_an_idle_connection_sees_the_end_of_its_client(serve):
    served = serve(Recording)
    client, protocol = served.open()
    wait_for_figure(served.server, "buffers_out", 0)
    client.close()
    protocol.wait_for("connection_lost")
    assert protocol.events == ["connection_made", "eof_received", "connection_lost"]
    client, protocol = served.open()
    wait_for_figure(served.server, "buffers_out", 0)
    client.reset()
    protocol.wait_for("connection_lost")
    assert "data_received" not in protocol.events


def test_data_that_races_with_the_taking_back_of_buffers_is_kept(serve):
    """Each connection speaks at another moment around the second at which it counts as idle."""
    served = serve(Echoing, initial_reads=4)
    opened = [served.open() for _ in range(25)]
    for client, _ in opened:
        assert client.exchange([b"hello"]) == b"hello"
    start = clock()
    turn = 0
    while clock() - start < 1.2:
        client, _ = opened[turn % len(opened)]
        message = pattern(50, turn)
        assert client.exchange([message]) == message
        turn += 1
    for client, protocol in opened:
        assert client.exchange([b"bye"]) == b"bye"
        assert "connection_lost" not in protocol.events


# -- BufferedProtocol


class Roomy(EchoingBuffered):
    room = 50_000


def test_a_buffered_protocol_costs_no_more_calls_than_another(serve):
    served = serve(Roomy)
    client, _ = served.open()
    data = pattern(1 << 20)
    for _ in range(50):
        assert client.exchange([b"short"]) == b"short"
    assert_same_bytes(client.exchange([data]), data)
    stats = served.stats()
    # A few of these also on a slow machine, where the connection may turn idle in between.
    assert stats["zero_byte_receives"] < 25
    assert stats["receives"] > 50


def test_a_buffered_protocol_is_asked_for_as_much_room_as_there_is_data(serve):
    held, sent = threading.Event(), threading.Event()

    class Holds(RecordingBuffered):
        room = 1 << 20

        def on_data(self, data):
            if not held.is_set():
                held.set()
                wait_for_event(sent, "the sending of the rest")

    client, protocol = serve(Holds).open()
    data = pattern(100_000)
    # Fills the receive that every connection begins with, so the next is eight times as long…
    client.send(data[:1024])
    wait_for_event(held, "the first data")
    client.send(data[1024:])
    sent.set()
    protocol.wait_for_data(len(data))
    assert_same_bytes(protocol.received, data)
    # …and so is the one after it.
    assert protocol.hints[:2] == [1024, 8192]
    assert protocol.hints[2] > 8192
    assert sum(protocol.hints) == len(data)


def test_a_lent_buffer_is_given_back_when_the_connection_is_over(serve):
    served = serve(Roomy)
    client, protocol = served.open()
    client.exchange([b"hello"])
    client.close()
    protocol.wait_for("connection_lost")
    # A bytearray that is still lent refuses this with a BufferError.
    protocol._buffer.clear()


def test_many_buffered_connections_do_not_mix(serve):
    served = serve(Roomy, workers=4, initial_reads=4)
    clients = [served.connect() for _ in range(8)]

    def talk(number):
        data = pattern(200_000, number)
        assert_same_bytes(clients[number].exchange(pieces(data, 10, number)), data)

    run_together(*(lambda number=number: talk(number) for number in range(len(clients))))


def test_what_had_come_before_a_buffered_protocol_took_over_comes_first(serve):
    """Receives of the first protocol's are under way while it hands over; more data follow them."""
    count = 40

    class HandsOver(Recording):
        def __init__(self):
            super().__init__()
            self.second, self.handed, self.sent = Afterwards(), threading.Event(), threading.Event()

        def on_data(self, data):
            if data[:1] == b"0":
                self.transport.set_protocol(self.second)
                self.handed.set()
                wait_for_event(self.sent, "the sending of the rest")

        def check(self):
            assert set(self.events) == {"connection_made", "data_received"}, self.events
            self.second.check()

    served = serve(HandsOver, workers=1, initial_reads=4, buffer_size=64)
    for _ in range(20):
        client, protocol = served.open()
        client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # From now on the connection is not idle, and has four receives pending.
        client.send(b"!" * 10)
        protocol.wait_for_data(10)
        client.send(b"0" * 10)
        wait_for_event(protocol.handed, "the hand-over")
        data = [b"%010d" % number for number in range(1, count)]
        for piece in data:
            client.send(piece)
        protocol.sent.set()
        protocol.second.wait_for_data(10 * len(data))
        assert protocol.received == b"!" * 10 + b"0" * 10
        assert_same_bytes(protocol.second.received, b"".join(data))
        client.close()


# -- back-pressure


class EchoingBlindly(Recording):
    """Writes whatever comes and does not care for pause_writing; it cannot even be told."""

    pause_writing = None
    resume_writing = None

    def __init__(self):
        super().__init__()
        self.greatest = 0

    def on_data(self, data):
        self.transport.write(data)
        self.greatest = max(self.greatest, self.transport.get_write_buffer_size())


class EchoingBlindlyBuffered(RecordingBuffered):
    room = 65536
    greatest = 0
    pause_writing = None
    resume_writing = None

    def on_data(self, data):
        self.transport.write(data)
        self.greatest = max(self.greatest, self.transport.get_write_buffer_size())


@pytest.mark.parametrize(
    "protocol_class, reads",
    [(EchoingBlindly, 1), (EchoingBlindly, 4), (EchoingBlindlyBuffered, 1)],
    ids=["one-read", "four-reads", "buffered"],
)
def test_a_client_that_does_not_read_is_not_read_either(serve, protocol_class, reads):
    served = serve(protocol_class, initial_reads=reads, buffer_size=65536)
    client, protocol = served.open()
    other = served.connect()
    data = pattern(16 << 20)
    got = []

    def read_late():
        wait_until(lambda: served.stats()["write_pauses"] > 0, "a full write queue")
        # The server is at work meanwhile, and would take in all that this client has sent.
        for _ in range(200):
            other.send(b"hello")
            assert other.read_exactly(5) == b"hello"
        got.append(client.read_exactly(len(data)))

    run_together(lambda: client.send(data), read_late)
    assert_same_bytes(got[0], data)
    # The high mark, and what had been received by the time it was passed.
    assert protocol.greatest <= 65536 + (reads + 2) * 65536


def test_reading_goes_on_at_the_low_mark(serve):
    """A connection above its high mark hears nothing until its client has read."""

    class Floods(CountingSent):
        def on_data(self, data):
            if data == b"flood":
                self.transport.write(flood)

    flood = pattern(16 << 20)
    served = serve(Floods, workers=1)
    client, protocol = served.open()
    client.send(b"flood")
    protocol.wait_for("pause_writing")
    client.send(b"more")
    other, _ = served.open()
    for turn in range(20):
        # The server is at work all the time; it just does not look at this connection.
        other.send(b"x")
        served.protocols[-1].wait_for_data(turn + 1)
    assert protocol.received == b"flood"
    assert_same_bytes(client.read_exactly(len(flood)), flood)
    protocol.wait_for_data(9)
    assert protocol.received == b"floodmore"
    assert protocol.events.index("resume_writing") < len(protocol.events) - 1


# -- idle_timeout_s


def assert_timed_out(protocol, client):
    host, port = client.address
    error = protocol.lost_with
    assert type(error) is TimeoutError
    assert error.winerror == 10060
    assert str(error).endswith(f"({host}:{port})"), error


@pytest.mark.parametrize("protocol_class", [Recording, RecordingBuffered])
def test_a_silent_connection_is_reset_after_the_idle_timeout_and_not_before(serve, protocol_class):
    served = serve(protocol_class, idle_timeout_s=0.3)
    start = clock()
    client, protocol = served.open_to_its_end()
    clients = served.stats()["connections_retired"]
    assert clock() - start >= 0.3 * clients
    assert_timed_out(protocol, client)
    assert protocol.events == ["connection_made", "connection_lost"]
    assert served.stats()["aborts_by_reason"]["idle_timeout"] == clients


def test_silent_connections_of_the_native_echo_are_reset_too(serve):
    served = serve(iocpx.native.Echo, idle_timeout_s=0.3)
    start = clock()
    got = []
    run_together(*[lambda: got.append(served.connect_in_vain())] * 5)
    assert got == [b""] * 5
    assert clock() - start >= 0.3
    wait_until_gone(served)
    assert served.stats()["aborts_by_reason"]["idle_timeout"] == 5


class EndlessTalk:
    """Talks to a connection with an idle timeout for much longer than that.

    Each `turn()` is traffic. A machine that stands still may let the timeout pass between two
    turns: then the connection may be lost, but not sooner.
    """

    timeout = 0.3

    def __init__(self, served, turn):
        for _ in range(10):
            wait_until_gone(served)
            while not served._made.empty():
                served._made.get()  # of one that was gone before it was a client
            start = self.began = clock()
            try:
                self.client, self.protocol = served.open()
                while clock() - start < 2 * self.timeout:
                    began = clock()
                    turn(self.client, self.protocol)
                    # When this turn's byte passed is not known, but it was not before that.
                    self.began = began
                return
            except (AssertionError, ConnectionError):
                assert clock() - self.began >= self.timeout, "lost in the midst of traffic"
        raise AssertionError("this machine is too slow for so short a timeout")

    def check_end(self):
        """After the last turn the connection is silent, and lost in due time."""
        self.protocol.wait_for("connection_lost")
        assert clock() - self.began >= self.timeout
        assert_timed_out(self.protocol, self.client)


def test_receiving_puts_the_idle_timeout_off(serve):
    def turn(client, protocol):
        done = protocol.finished
        seen = done["received"]
        client.send(b"?")
        protocol.wait_until(
            lambda: done["received"] > seen or done["connection_lost"], "the arrival of a byte"
        )
        assert done["received"] > seen

    EndlessTalk(serve(Recording, idle_timeout_s=EndlessTalk.timeout), turn).check_end()


def test_sending_puts_the_idle_timeout_off(serve):
    def turn(client, protocol):
        protocol.transport.write(b"!")
        assert client.read_exactly(1) == b"!"

    EndlessTalk(serve(Recording, idle_timeout_s=EndlessTalk.timeout), turn).check_end()


def test_without_an_idle_timeout_a_silent_connection_stays(serve):
    """It outlives the timeouts of a whole other server."""
    client, protocol = serve(Echoing).open()
    serve(Recording, idle_timeout_s=0.3).open_to_its_end()
    assert client.exchange([b"hello"]) == b"hello"
    assert "connection_lost" not in protocol.events
