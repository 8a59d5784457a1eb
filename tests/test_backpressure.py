"""Writing faster than the peer reads: what a callback and what a thread can rely on."""

import threading

import pytest
from payload import MORE_THAN_THE_KERNEL_TAKES, assert_same_bytes, pattern
from protocols import Echoing, Recording, in_turn
from waiting import WAIT_S, clock, run_together, wait_for_event, wait_until

pytestmark = pytest.mark.engine("the queues are the engine's")

MB = 1 << 20
BLOCK = 64 * 1024


# -- a callback that writes more than the limit


class WritesABody(Recording):
    """Answers with a header and a body, each a write."""

    body = 80 * MB

    def on_data(self, data):
        self.transport.write(b"header")
        self.transport.write(bytes(self.body))


def test_a_header_and_80_mib_in_one_callback_are_sent(serve):
    client, protocol = serve(WritesABody).open()
    client.send(b"go")
    assert client.read_exactly(6) == b"header"
    left = WritesABody.body
    while left > 0:
        left -= len(client.read_exactly(min(left, MB)))
    protocol.wait_for("resume_writing")
    assert protocol.transport.is_closing() is False


def test_a_hundred_writes_of_a_mib_and_close_are_sent(serve):
    block = pattern(MB)

    class Writes(Recording):
        def on_data(self, data):
            for _ in range(100):
                self.transport.write(block)
            self.transport.close()

    client, protocol = serve(Writes, close_timeout_s=WAIT_S).open()
    client.send(b"go")
    for _ in range(100):
        assert_same_bytes(client.read_exactly(MB), block)
    assert client.read_to_end() == b""
    client.close()
    protocol.wait_for("connection_lost")
    assert protocol.lost_with is None


# -- a thread that heeds pause_writing()


class Producing(Recording):
    def __init__(self):
        super().__init__()
        self.may_write = threading.Event()
        self.may_write.set()

    def on_pause(self):
        self.may_write.clear()

    def on_resume(self):
        self.may_write.set()


@pytest.mark.parametrize("limits", [{}, {"max_write_buffer": 4 * MB}, {"max_write_buffer": MB}])
def test_a_thread_that_waits_for_resume_writing_is_never_reset(serve, limits):
    client, protocol = serve(Producing, **limits).open()
    blocks = 200 * MB // BLOCK
    block = pattern(BLOCK)

    def produce():
        for _ in range(blocks):
            wait_for_event(protocol.may_write, "resume_writing")
            protocol.transport.write(block)

    def consume():
        for _ in range(blocks):
            assert_same_bytes(client.read_exactly(BLOCK), block)

    run_together(produce, consume)
    assert protocol.transport.is_closing() is False


def test_whoever_sees_the_queue_above_its_mark_is_told_to_resume(serve):
    client, protocol = serve(Recording).open()
    transport = protocol.transport
    resumes = []
    above = threading.Event()

    def produce():
        for _ in range(2000):
            transport.write(bytes(BLOCK))
            if transport.get_write_buffer_size() > 65536:
                above.set()
                protocol.wait_for("resume_writing", len(resumes) + 1)
                resumes.append(transport)

    def consume():
        wait_for_event(above, "a queue above its mark")
        client.read_exactly(2000 * BLOCK)

    run_together(produce, consume)
    assert resumes


# -- wait_writable


def test_a_thread_that_waits_until_it_may_write_is_never_reset(serve):
    client, protocol = serve(Recording, max_write_buffer=MB).open()
    transport = protocol.transport
    blocks = 100 * MB // BLOCK
    block = pattern(BLOCK)
    largest = []

    def produce():
        for _ in range(blocks):
            assert transport.wait_writable(30) is True
            transport.write(block)
            largest.append(transport.get_write_buffer_size())

    def consume():
        for _ in range(blocks):
            assert_same_bytes(client.read_exactly(BLOCK), block)

    run_together(produce, consume)
    assert max(largest) <= 65536 + BLOCK


def test_a_queue_below_its_mark_may_be_written_to_at_once(serve):
    _, protocol = serve(Recording).open()
    assert protocol.transport.wait_writable() is True
    assert protocol.transport.wait_writable(0) is True


def test_the_wait_ends_with_its_time_and_never_before(serve):
    _, protocol = serve(Recording).open()
    protocol.transport.write(bytes(MORE_THAN_THE_KERNEL_TAKES))
    assert protocol.transport.wait_writable(0) is False
    begin = clock()
    assert protocol.transport.wait_writable(0.25) is False
    assert clock() - begin >= 0.25
    assert protocol.transport.is_closing() is False
    protocol.transport.abort()


def test_the_wait_ends_at_the_low_mark(serve):
    client, protocol = serve(Recording).open()
    protocol.transport.set_write_buffer_limits(high=MB, low=1000)
    protocol.transport.write(bytes(MORE_THAN_THE_KERNEL_TAKES))
    sizes = []

    def wait():
        assert protocol.transport.wait_writable(30) is True
        sizes.append(protocol.transport.get_write_buffer_size())

    run_together(wait, lambda: client.read_exactly(MORE_THAN_THE_KERNEL_TAKES))
    assert sizes[0] <= 1000


def test_the_wait_heeds_max_sends(serve):
    client, protocol = serve(Recording, max_sends=2, max_write_buffer=None).open()
    transport = protocol.transport
    transport.set_write_buffer_limits(high=1 << 40)
    transport.write(bytes(MORE_THAN_THE_KERNEL_TAKES))
    assert transport.wait_writable(0) is True
    transport.write(b"second")
    assert transport.wait_writable(0) is False
    results = []
    run_together(
        lambda: results.append(transport.wait_writable(30)),
        lambda: client.read_exactly(MORE_THAN_THE_KERNEL_TAKES + 6),
    )
    assert results == [True]


@pytest.mark.parametrize("end", ["close", "abort", "write_eof", "reset"])
def test_the_end_of_the_connection_ends_the_wait(serve, end):
    client, protocol = serve(Recording).open()
    transport = protocol.transport
    transport.write(bytes(MORE_THAN_THE_KERNEL_TAKES))
    waiting = threading.Event()
    results = []

    def wait():
        waiting.set()
        results.append(transport.wait_writable())

    def finish():
        wait_for_event(waiting, "the wait")
        client.reset() if end == "reset" else getattr(transport, end)()

    run_together(wait, finish)
    assert results == [False]
    assert transport.wait_writable(1) is False
    client.close() if end != "reset" else None
    protocol.wait_for("connection_lost")
    assert transport.wait_writable(1) is False


def test_the_wait_is_refused_in_callbacks(serve):
    class Waits(Recording):
        def on_data(self, data):
            self.transport.wait_writable(1)

    served = serve(in_turn(Waits, Echoing))
    client, _ = served.open()
    client.send(b"go")
    error = served.take_error()["exception"]
    assert isinstance(error, RuntimeError)
    assert "wait_writable() must not be called from a callback" in str(error)
    client.read_until_gone()
    served.assert_serving()


@pytest.mark.parametrize(
    "timeout, kind",
    [(-1, ValueError), ("1", TypeError), (True, TypeError), (float("nan"), ValueError)],
)
def test_a_wrong_timeout_is_refused(serve, timeout, kind):
    _, protocol = serve(Recording).open()
    with pytest.raises(kind, match="timeout"):
        protocol.transport.wait_writable(timeout)


# -- what has been sent is given back


def test_what_was_sent_is_given_back_while_a_callback_lasts(serve):
    """A thread writes while the connection's own turn is held up by a callback."""

    alive = []

    class Block(bytes):
        def __del__(self):
            alive.pop()

    inside = threading.Event()
    may_return = threading.Event()

    class Waits(Recording):
        def on_data(self, data):
            inside.set()
            # A hundred rounds, each of which may be held up.
            assert may_return.wait(3 * WAIT_S), "the test has not let the callback return"

    client, protocol = serve(Waits, workers=2).open()
    client.send(b"go")
    most = 0
    try:
        wait_for_event(inside, "the callback")
        for _ in range(100):
            block = Block(100_000)
            alive.append(True)
            protocol.transport.write(block)
            del block
            client.read_exactly(100_000)
            wait_until(lambda: protocol.transport.get_write_buffer_size() == 0, "the completion")
            most = max(most, len(alive))
    finally:
        may_return.set()
    assert most <= 3
    protocol.wait_for("data_received")


def test_the_wait_heeds_a_limit_that_is_below_the_high_mark(serve):
    _, protocol = serve(Recording, max_write_buffer=65536).open()
    writes = 0
    while protocol.transport.wait_writable(0.3):
        protocol.transport.write(bytes(40_000))
        writes += 1
    assert writes > 1
    assert protocol.transport.is_closing() is False
    protocol.transport.abort()
