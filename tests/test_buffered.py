"""BufferedProtocol: what is received goes into the protocol's own buffer."""

import pytest
from payload import MORE_THAN_THE_KERNEL_TAKES, assert_same_bytes, pattern, pieces
from protocols import EchoingBuffered, Recording, RecordingBuffered, in_turn
from waiting import run_together


class Tiny(EchoingBuffered):
    room = 7


class Roomy(EchoingBuffered):
    room = 1 << 20


class LendsViews(EchoingBuffered):
    """Lends a part of a bigger buffer, as a memoryview."""

    room = 1000

    def lend(self):
        return memoryview(self._buffer)[:500]


@pytest.mark.parametrize(
    "protocol_class, size",
    [(EchoingBuffered, 1 << 20), (Tiny, 5000), (Roomy, 2 << 20), (LendsViews, 300_000)],
)
def test_a_buffered_protocol_gets_every_byte_in_order(serve, protocol_class, size):
    client, protocol = serve(protocol_class).open()
    data = pattern(size)
    assert_same_bytes(client.exchange(pieces(data, 20)), data)
    client.half_close()
    assert client.read_to_end() == b""
    protocol.wait_for("connection_lost")
    assert_same_bytes(protocol.received, data)
    assert protocol.events[-2:] == ["eof_received", "connection_lost"]
    assert all(type(hint) is int and hint > 0 for hint in protocol.hints)


def test_no_more_is_put_into_a_buffer_than_it_holds(serve):
    client, protocol = serve(Tiny).open()
    data = pattern(1000)
    client.exchange([data])
    assert protocol.events.count("buffer_updated") >= 1000 / 7


class PausesBuffered(RecordingBuffered):
    def on_data(self, data):
        self.transport.pause_reading()


def test_a_buffered_protocol_can_pause_between_buffers(serve):
    client, protocol = serve(PausesBuffered).open()
    data = pattern(100_000)

    def send():
        client.send(data)
        client.half_close()

    def resume():
        turn, done = 0, protocol.finished
        while not done["eof_received"]:
            turn += 1
            protocol.wait_until(
                lambda turn=turn: done["buffer_updated"] >= turn or done["eof_received"],
                f"buffer number {turn} or the end of the stream",
            )
            assert protocol.events.count("buffer_updated") <= turn, (
                "data came while reading was paused"
            )
            protocol.transport.resume_reading()

    run_together(send, resume)
    protocol.wait_for("connection_lost")
    assert_same_bytes(protocol.received, data)


class ClosesInBetween(RecordingBuffered):
    room = 10

    def on_data(self, data):
        self.transport.close()


def test_nothing_is_put_into_a_buffer_after_close(serve):
    client, protocol = serve(ClosesInBetween).open()
    client.send(pattern(1000))
    assert client.read_to_end() == b""
    client.close()
    protocol.wait_for("connection_lost")
    assert protocol.received == pattern(1000)[:10]


class PlainAfterwards(Recording):
    told_of_connection = False


class BufferedAfterwards(RecordingBuffered):
    told_of_connection = False
    room = 10


class BufferedThenPlain(RecordingBuffered):
    """Hands over in the middle of what came in one piece."""

    room = 10

    def __init__(self):
        super().__init__()
        self.second = PlainAfterwards()

    def on_data(self, data):
        self.transport.set_protocol(self.second)

    def check(self):
        assert self.events == ["connection_made", "get_buffer", "buffer_updated"], self.events
        self.second.check()


class PlainThenBuffered(Recording):
    def __init__(self):
        super().__init__()
        self.second = BufferedAfterwards()

    def on_data(self, data):
        self.transport.set_protocol(self.second)

    def check(self):
        assert self.events == ["connection_made", "data_received"], self.events
        self.second.check()


@pytest.mark.parametrize("first_class", [BufferedThenPlain, PlainThenBuffered])
def test_protocols_of_the_two_kinds_can_replace_each_other(serve, first_class):
    client, first = serve(first_class).open()
    data = pattern(200_000)
    client.send(data)
    client.half_close()
    first.second.wait_for("connection_lost")
    assert_same_bytes(first.received + first.second.received, data)
    assert first.received and first.second.received


class LendsNothing(RecordingBuffered):
    def lend(self):
        return bytearray()


class LendsConstant(RecordingBuffered):
    def lend(self):
        return bytes(100)


class LendsNoBuffer(RecordingBuffered):
    def lend(self):
        return None


@pytest.mark.parametrize(
    "protocol_class, kind, text",
    [
        (LendsNothing, RuntimeError, "get_buffer.*empty"),
        (LendsConstant, (TypeError, BufferError, ValueError), "(?i)read-?only|writable"),
        (LendsNoBuffer, TypeError, "(?i)buffer|bytes-like"),
    ],
)
def test_a_useless_buffer_costs_its_connection_only(serve, protocol_class, kind, text):
    served = serve(in_turn(protocol_class, EchoingBuffered))
    client, protocol = served.open()
    client.send(b"data")
    client.read_until_gone()
    protocol.wait_for("connection_lost")
    context = served.take_error()
    with pytest.raises(kind, match=text):
        raise context["exception"]
    assert protocol.lost_with is context["exception"]
    assert context["protocol"] is protocol
    assert "buffer_updated" not in protocol.events
    served.assert_serving()


def test_a_buffered_protocol_is_paused_while_it_writes_more_than_the_client_reads(serve):
    class Floods(RecordingBuffered):
        def on_data(self, data):
            self.transport.write(reply)

    reply = pattern(MORE_THAN_THE_KERNEL_TAKES)
    client, protocol = serve(Floods).open()
    client.send(b"go")
    protocol.wait_for("pause_writing")
    assert_same_bytes(client.read_exactly(len(reply)), reply)
    protocol.wait_for("resume_writing")
