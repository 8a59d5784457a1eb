"""Sending: what may be written, from where, in which order it leaves, and the buffer's marks."""

import array
import random
import struct
import sys

import pytest
from payload import MORE_THAN_THE_KERNEL_TAKES, assert_same_bytes, pattern
from protocols import CountingSent, Echoing, Recording
from waiting import run_together, wait_until

pytestmark = pytest.mark.engine("the queues are the engine's")

MB = 1 << 20


@pytest.fixture
def opened(serve):
    """A client and the transport of its connection."""
    client, protocol = serve(Recording).open()
    return client, protocol.transport


@pytest.mark.parametrize(
    "data",
    [
        b"bytes",
        bytearray(b"bytearray"),
        memoryview(b"a view"),
        memoryview(b"part of a view")[5:],
        memoryview(b"e.v.e.r.y. .s.e.c.o.n.d.")[::2],
        memoryview(array.array("I", [1, 2, 3, 400000])),
        array.array("d", [1.5, 2.5]),
    ],
    ids=["bytes", "bytearray", "memoryview", "slice", "stride", "wide-items", "array"],
)
def test_everything_bytes_like_can_be_written(opened, data):
    client, transport = opened
    wanted = memoryview(data).tobytes()
    transport.write(data)
    transport.write(b"|")
    assert client.read_exactly(len(wanted) + 1) == wanted + b"|"


@pytest.mark.parametrize("size", [10, 100_000, MORE_THAN_THE_KERNEL_TAKES])
@pytest.mark.parametrize(
    "kind", [bytearray, lambda data: memoryview(bytearray(data))], ids=["bytearray", "memoryview"]
)
def test_a_buffer_can_be_changed_right_after_it_was_written(opened, kind, size):
    client, transport = opened
    data = pattern(size)
    buffer = kind(data)
    transport.write(buffer)
    buffer[:] = bytes(size)
    assert_same_bytes(client.read_exactly(size), data)


def test_a_bytearray_can_be_resized_right_after_it_was_written(opened):
    client, transport = opened
    data = pattern(MORE_THAN_THE_KERNEL_TAKES)
    buffer = bytearray(data)
    transport.write(buffer)
    buffer.clear()
    assert_same_bytes(client.read_exactly(len(data)), data)


def test_writing_nothing_sends_nothing_and_ends_nothing(opened):
    client, transport = opened
    transport.write(b"")
    transport.writelines([])
    transport.writelines([b"", b""])
    transport.write(bytearray())
    assert transport.get_write_buffer_size() == 0
    transport.write(b"something")
    assert client.read_exactly(9) == b"something"
    transport.write(b"")
    transport.close()
    assert client.read_to_end() == b""


def test_writelines_sends_all_its_parts_in_order(opened):
    client, transport = opened
    parts = [pattern(size, size) for size in (1, 0, 70_000, 3, 200_000)] + [
        bytearray(b"ba"),
        memoryview(b"view"),
    ]
    transport.writelines(parts)
    transport.writelines(part for part in (b"from", b"a", b"generator"))
    wanted = b"".join(parts) + b"fromagenerator"
    assert_same_bytes(client.read_exactly(len(wanted)), wanted)


def test_writelines_takes_thousands_of_parts(opened):
    # More than one gather send may carry.
    client, transport = opened
    parts = [pattern(random.Random(i).randint(1, 50), i) for i in range(5000)]
    transport.writelines(parts)
    wanted = b"".join(parts)
    assert_same_bytes(client.read_exactly(len(wanted)), wanted)


def test_thousands_of_small_writes_keep_their_order(opened):
    client, transport = opened
    parts = [pattern(random.Random(i).randint(1, 50), i) for i in range(5000)]
    for part in parts:
        transport.write(part)
    wanted = b"".join(parts)
    assert_same_bytes(client.read_exactly(len(wanted)), wanted)


@pytest.mark.parametrize("wrong", ["text", 3, None, ["list"]])
def test_writing_something_else_is_refused_and_costs_nothing(opened, wrong):
    client, transport = opened
    with pytest.raises(TypeError, match=f"(?i)bytes-like.*{type(wrong).__name__}"):
        transport.write(wrong)
    with pytest.raises(TypeError, match=f"(?i)bytes-like.*{type(wrong).__name__}"):
        transport.writelines([b"not sent either", wrong])
    transport.write(b"fine")
    assert client.read_exactly(4) == b"fine"


def test_a_server_may_speak_first(serve):
    class Greets(Recording):
        def on_made(self):
            self.transport.write(b"hello")

    client, _ = serve(Greets).open()
    assert client.read_exactly(5) == b"hello"


def test_write_eof_ends_the_writing_and_not_the_reading(serve):
    client, protocol = serve(Recording).open()
    transport = protocol.transport
    assert transport.can_write_eof() is True
    data = pattern(3 * MB)
    transport.write(data)
    transport.write_eof()
    assert_same_bytes(client.read_to_end(), data)
    assert transport.is_closing() is False
    answer = pattern(200_000)
    client.send(answer)
    client.half_close()
    protocol.wait_for("connection_lost")
    assert_same_bytes(protocol.received, answer)
    assert protocol.lost_with is None


def test_write_eof_twice_is_once_and_nothing_can_be_written_after_it(opened):
    client, transport = opened
    transport.write(b"all")
    transport.write_eof()
    transport.write_eof()
    with pytest.raises(RuntimeError, match="write_eof"):
        transport.write(b"more")
    with pytest.raises(RuntimeError, match="write_eof"):
        transport.writelines([b"more"])
    assert client.read_to_end() == b"all"


def test_writing_after_close_is_ignored(serve):
    client, protocol = serve(Recording).open()
    protocol.transport.write(b"in time")
    protocol.transport.close()
    assert protocol.transport.is_closing() is True
    for _ in range(10):
        protocol.transport.write(b"too late")
        protocol.transport.writelines([b"too late"])
    assert client.read_to_end() == b"in time"


def test_nothing_can_be_wrong_with_a_write_after_close(opened):
    """In whatever order the two directions were ended."""
    client, transport = opened
    transport.close()
    transport.write_eof()
    transport.write(b"too late")
    transport.writelines([b"too late"])
    with pytest.raises(TypeError):
        transport.write("no bytes")
    assert client.read_to_end() == b""


@pytest.mark.parametrize("end", ["close", "abort"])
def test_what_write_eof_forbids_is_ignored_after_the_end(serve, end):
    client, protocol = serve(Recording).open()
    transport = protocol.transport
    transport.write_eof()
    getattr(transport, end)()

    def write():
        transport.write(b"too late")
        transport.writelines([b"too late"])
        transport.write_eof()

    write()
    assert client.read_until_gone() == b""
    client.close()
    protocol.wait_for("connection_lost")
    write()


def test_a_write_after_write_eof_is_ignored_once_the_client_has_ended_too(serve):
    client, protocol = serve(Recording).open()
    protocol.transport.write_eof()
    client.half_close()
    protocol.wait_for("connection_lost")
    protocol.transport.write(b"too late")
    protocol.transport.writelines([b"too late"])
    assert client.read_to_end() == b""


# -- the write buffer and its marks


def test_the_marks_of_the_write_buffer_follow_asyncio(opened):
    _, transport = opened
    assert transport.get_write_buffer_limits() == (16384, 65536)
    transport.set_write_buffer_limits(high=1000)
    assert transport.get_write_buffer_limits() == (250, 1000)
    transport.set_write_buffer_limits(low=1000)
    assert transport.get_write_buffer_limits() == (1000, 4000)
    transport.set_write_buffer_limits(high=1000, low=10)
    assert transport.get_write_buffer_limits() == (10, 1000)
    transport.set_write_buffer_limits(high=5, low=5)
    assert transport.get_write_buffer_limits() == (5, 5)
    transport.set_write_buffer_limits(high=0)
    assert transport.get_write_buffer_limits() == (0, 0)
    transport.set_write_buffer_limits()
    assert transport.get_write_buffer_limits() == (16384, 65536)


@pytest.mark.parametrize(
    "limits, marks",
    [
        ({"high": 1e6}, (250_000, 1_000_000)),
        ({"low": 1e3}, (1000, 4000)),
        ({"high": 10.9, "low": 2.9}, (2, 10)),
        ({"high": 0.0}, (0, 0)),
        ({"high": float("inf"), "low": 1.0}, (1, sys.maxsize)),
        ({"high": 1e300}, (sys.maxsize // 4, sys.maxsize)),
    ],
)
def test_marks_may_be_floats(opened, limits, marks):
    _, transport = opened
    transport.set_write_buffer_limits(**limits)
    low, high = transport.get_write_buffer_limits()
    assert (type(low), type(high)) == (int, int)
    # What is above sys.maxsize is cut to it after the default of `low` was taken.
    assert high == marks[1] and low == pytest.approx(marks[0], rel=1e-9)


@pytest.mark.parametrize(
    "limits, kind, text",
    [
        ({"high": 10, "low": 20}, ValueError, r"high \(?10\)?.*low \(?20\)?"),
        ({"high": -1}, ValueError, r"high.*-1"),
        ({"low": -1}, ValueError, r"low.*-1"),
        ({"high": 10, "low": -5}, ValueError, r"low.*-5"),
        ({"high": "big"}, TypeError, r"high.*'big'"),
        ({"high": float("nan")}, ValueError, r"high.*nan"),
        ({"low": float("nan")}, ValueError, r"low.*nan"),
        ({"high": -0.5}, ValueError, r"high.*-0\.5"),
        ({"low": float("-inf")}, ValueError, r"low.*-inf"),
        ({"high": 1e3, "low": 2e3}, ValueError, r"high \(?1000.*low \(?2000"),
        ({"high": 1j}, TypeError, r"high.*1j"),
    ],
)
def test_wrong_marks_are_refused_and_change_nothing(opened, limits, kind, text):
    _, transport = opened
    transport.set_write_buffer_limits(high=100, low=50)
    with pytest.raises(kind, match=text):
        transport.set_write_buffer_limits(**limits)
    assert transport.get_write_buffer_limits() == (50, 100)


class Marked(Recording):
    def on_made(self):
        self.transport.set_write_buffer_limits(high=100_000, low=20_000)
        self.sizes = []

    def on_pause(self):
        self.sizes.append(("paused", self.transport.get_write_buffer_size()))

    def on_resume(self):
        self.sizes.append(("resumed", self.transport.get_write_buffer_size()))


def test_writing_pauses_above_the_high_mark_and_resumes_at_the_low_one(serve):
    client, protocol = serve(Marked).open()
    data = pattern(MORE_THAN_THE_KERNEL_TAKES)
    protocol.transport.write(data)
    protocol.wait_for("pause_writing")
    assert protocol.transport.get_write_buffer_size() > 100_000
    assert "resume_writing" not in protocol.events
    assert_same_bytes(client.read_exactly(len(data)), data)
    protocol.wait_for("resume_writing")
    # The last of it may have come before the packet that says so.
    wait_until(lambda: protocol.transport.get_write_buffer_size() == 0, "an empty queue")
    assert protocol.sizes[0][0] == "paused"
    name, size = protocol.sizes[1]
    assert name == "resumed" and size <= 20_000


def test_writing_below_the_high_mark_never_pauses(serve):
    client, protocol = serve(CountingSent).open()
    protocol.transport.set_write_buffer_limits(high=100_000)
    for turn in range(1, 21):
        protocol.transport.write(bytes(90_000))
        client.read_exactly(90_000)
        protocol.wait_until(
            lambda turn=turn: protocol.finished["sent"] >= turn * 90_000,
            f"data_sent for block {turn}",
        )
    assert protocol.transport.get_write_buffer_size() == 0
    assert "pause_writing" not in protocol.events


@pytest.mark.parametrize("limits", [{}, {"max_sends": 100}, {"max_write_buffer": 2 * MB}])
def test_what_a_callback_writes_leaves_in_long_sends(serve, limits):
    block = pattern(64 * 1024)
    lines = []

    class Writes(CountingSent):
        def on_made(self):
            for _ in range(8):
                self.transport.write(block)

    served = serve(Writes, trace=lines.append, **limits)
    client, _ = served.open()
    assert_same_bytes(client.read_exactly(8 * len(block)), 8 * block)
    served.finish()
    first = next(line for line in lines if " sent " in line)
    assert int(first.split()[-1]) == 4 * len(block)


def test_above_the_high_mark_is_paused_within_a_callback_too(serve):
    """A protocol that stops when it sees the mark passed will be told to go on."""
    seen = []

    class StopsAtTheMark(Recording):
        def on_data(self, data):
            for _ in range(100):
                self.transport.write(bytes(100_000))
                if self.transport.get_write_buffer_size() > 65536:
                    seen.append("pause_writing" in self.events)
                    break

    client, protocol = serve(StopsAtTheMark).open()
    client.send(b"go")
    protocol.wait_for("pause_writing")
    protocol.wait_until(lambda: seen, "a queue above its mark")
    assert seen == [True]
    assert client.read_exactly(100_000) == bytes(100_000)


class PausesAndGoesOn(CountingSent):
    """Writes block after block and stops while told to pause or above the mark."""

    blocks = 60
    block = 300_000

    def __init__(self):
        super().__init__()
        self.written = 0
        self.paused = False
        self.greatest = 0

    def on_data(self, data):
        self.go_on()

    def go_on(self):
        while not self.paused and self.written < self.blocks:
            # Counted first: write() may call pause_writing before it returns.
            self.written += 1
            self.transport.write(pattern(self.block, self.written))
            size = self.transport.get_write_buffer_size()
            self.greatest = max(self.greatest, size)
            if size > 65536:
                return
        if self.written == self.blocks:
            self.transport.close()

    def on_pause(self):
        self.paused = True

    def on_resume(self):
        self.paused = False
        self.go_on()

    def on_sent(self, nbytes):
        # Where a block left before anybody had to pause, this is what carries on.
        if self.transport.get_write_buffer_size() == 0:
            self.go_on()


def test_a_protocol_that_heeds_the_marks_holds_little_memory(serve):
    served = serve(PausesAndGoesOn, close_timeout_s=30)
    client, protocol = served.open()
    client.send(b"go")
    wanted = b"".join(pattern(protocol.block, number + 1) for number in range(protocol.blocks))
    assert_same_bytes(client.read_to_end(), wanted)
    assert protocol.greatest <= 65536 + protocol.block


def test_the_write_buffer_counts_what_is_not_sent(serve):
    client, protocol = serve(Recording).open()
    transport = protocol.transport
    data = pattern(MORE_THAN_THE_KERNEL_TAKES)
    transport.write(data)
    protocol.wait_for("pause_writing")
    assert 0 < transport.get_write_buffer_size() <= len(data)
    assert_same_bytes(client.read_exactly(len(data)), data)
    protocol.wait_for("resume_writing")
    assert transport.get_write_buffer_size() <= 16384


def test_lowering_the_high_mark_below_what_is_buffered_pauses(serve):
    class WideMarks(Recording):
        def on_made(self):
            self.transport.set_write_buffer_limits(high=100 * MB)

    client, protocol = serve(WideMarks).open()
    data = pattern(MORE_THAN_THE_KERNEL_TAKES)
    protocol.transport.write(data)
    client.read_exactly(1000)
    assert "pause_writing" not in protocol.events
    protocol.transport.set_write_buffer_limits(high=1000)
    protocol.wait_for("pause_writing")
    assert_same_bytes(client.read_exactly(len(data) - 1000), data[1000:])
    protocol.wait_for("resume_writing")


# -- data_sent


def test_data_sent_adds_up_to_what_was_written(serve):
    client, protocol = serve(CountingSent).open()
    total = 0
    for size in (1, 1000, 0, 3 * MB, 70_000, 5):
        protocol.transport.write(pattern(size, size))
        total += size
    protocol.transport.writelines([bytes(10), b"", bytes(20)])
    total += 30
    client.read_exactly(total)
    protocol.wait_until(lambda: protocol.finished["sent"] >= total, f"data_sent for {total} bytes")
    assert protocol.sent == total
    client.close()
    protocol.wait_for("connection_lost")
    assert protocol.sent == total


def test_data_sent_is_complete_before_the_connection_is_lost(serve):
    class Says(CountingSent):
        def on_made(self):
            self.transport.write(pattern(5 * MB))
            self.transport.close()

    client, protocol = serve(Says, close_timeout_s=30).open()
    assert len(client.read_to_end()) == 5 * MB
    client.close()
    protocol.wait_for("connection_lost")
    assert protocol.sent == 5 * MB
    assert protocol.events[-1] == "connection_lost"


def test_data_sent_never_tells_of_more_than_the_client_could_get(serve):
    client, protocol = serve(CountingSent).open()
    protocol.transport.write(pattern(MORE_THAN_THE_KERNEL_TAKES))
    protocol.wait_for("pause_writing")
    client.read_exactly(1000)
    assert protocol.sent < MORE_THAN_THE_KERNEL_TAKES
    protocol.transport.abort()
    client.read_until_gone()
    protocol.wait_for("connection_lost")
    assert protocol.sent < MORE_THAN_THE_KERNEL_TAKES


def test_a_write_in_data_sent_goes_out(serve):
    class Continues(CountingSent):
        def on_data(self, data):
            self.transport.write(b"0")

        def on_sent(self, nbytes):
            if self.sent < 100:
                self.transport.write(b"%d" % (self.sent % 10))

    client, _ = serve(Continues).open()
    client.send(b"go")
    assert client.read_exactly(100) == b"0123456789" * 10


# -- several threads


RECORD = struct.Struct("<BIH")


def record(writer, number):
    """One record: who wrote it, which one it is, its length, and bytes that follow from these."""
    payload = pattern(
        random.Random(writer * 1000 + number).randint(0, 3000), seed=writer * 100_000 + number
    )
    return RECORD.pack(writer, number, len(payload)) + payload


def test_writes_from_several_threads_stay_whole_and_in_order(serve):
    client, protocol = serve(Echoing).open()
    writers, records = 8, 100
    total = sum(
        len(record(writer, number)) for writer in range(writers) for number in range(records)
    )
    got = []

    def write(writer):
        for number in range(records):
            if number % 3:
                protocol.transport.write(record(writer, number))
            else:
                data = record(writer, number)
                protocol.transport.writelines([data[:3], data[3:10], data[10:]])

    run_together(
        *(lambda writer=writer: write(writer) for writer in range(writers)),
        lambda: got.append(client.read_exactly(total)),
    )
    stream, place = got[0], 0
    expected = [0] * writers
    while place < len(stream):
        writer, number, size = RECORD.unpack_from(stream, place)
        assert writer < writers, f"a record is torn at {place}"
        assert number == expected[writer], (
            f"record {number} of writer {writer} came in place of {expected[writer]}"
        )
        end = place + RECORD.size + size
        assert_same_bytes(stream[place:end], record(writer, number))
        expected[writer] += 1
        place = end
    assert expected == [records] * writers


def test_writelines_of_several_threads_do_not_mix(serve):
    client, protocol = serve(Recording).open()
    writers, turns, parts = 4, 500, 50
    got = []

    def write(writer):
        for _ in range(turns):
            protocol.transport.writelines([bytes([writer]) * 20] * parts)

    run_together(
        *(lambda writer=writer: write(writer) for writer in range(writers)),
        lambda: got.append(client.read_exactly(writers * turns * parts * 20)),
    )
    counts = [0] * writers
    for place in range(0, len(got[0]), parts * 20):
        block = got[0][place : place + parts * 20]
        assert block == block[:1] * (parts * 20), f"parts of two threads are mixed at {place}"
        counts[block[0]] += 1
    assert counts == [turns] * writers


def test_writing_from_a_thread_while_the_worker_echoes(serve):
    client, protocol = serve(Echoing).open()
    rounds = 300

    def write():
        for _ in range(rounds):
            protocol.transport.write(b"T" * 10)

    got = []
    run_together(write, lambda: got.append(client.exchange([b"E" * 10] * rounds, size=rounds * 20)))
    assert got[0].count(b"T") == got[0].count(b"E") == rounds * 10
