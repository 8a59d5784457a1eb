"""The bounds on what a connection may have queued: max_sends and max_write_buffer."""

import re

import pytest
from payload import MORE_THAN_THE_KERNEL_TAKES, assert_same_bytes, pattern
from protocols import CountingSent, Echoing, Recording, in_turn
from waiting import run_together, wait_for_a_turn, wait_for_figure, wait_until

pytestmark = pytest.mark.engine("the limits are the engine's")

MB = 1 << 20
NO_BUFFER_SPACE = 10055


class Wide(Recording):
    """Does not pause: what it writes in one callback is sent when the callback is over."""

    def on_made(self):
        self.transport.set_write_buffer_limits(high=1 << 40)


def fill(protocol):
    """One write that cannot complete, since the client does not read."""
    protocol.transport.write(pattern(MORE_THAN_THE_KERNEL_TAKES))


def assert_over_the_limit(protocol, client):
    host, port = client.address
    protocol.wait_for("connection_lost")
    error = protocol.lost_with
    assert type(error) is OSError
    assert error.winerror == NO_BUFFER_SPACE
    assert re.match(r"\[WinError 10055\] send: ", str(error)), error
    assert str(error).endswith(f"({host}:{port})"), error


# -- max_sends


@pytest.mark.parametrize("limit", [1, 2, 20])
def test_as_many_writes_as_allowed_are_queued_and_sent(serve, limit):
    client, protocol = serve(Recording, max_sends=limit).open()
    fill(protocol)
    for number in range(limit - 1):
        protocol.transport.write(b"%3d" % number)
    assert protocol.transport.is_closing() is False
    wanted = pattern(MORE_THAN_THE_KERNEL_TAKES) + b"".join(b"%3d" % n for n in range(limit - 1))
    assert_same_bytes(client.read_exactly(len(wanted)), wanted)


@pytest.mark.parametrize("limit", [1, 2, 20])
def test_one_write_more_than_allowed_resets_the_connection(serve, limit):
    served = serve(in_turn(Recording, Echoing), max_sends=limit)
    client, protocol = served.open()
    fill(protocol)
    for _ in range(limit - 1):
        protocol.transport.write(b"x")
    assert protocol.transport.is_closing() is False
    protocol.transport.write(b"x")
    assert_over_the_limit(protocol, client)
    assert len(client.read_until_gone()) < MORE_THAN_THE_KERNEL_TAKES
    assert served.stats()["aborts_by_reason"]["write_limit"] == 1
    served.assert_serving()


def test_writes_that_have_left_make_room_for_others(serve):
    client, protocol = serve(CountingSent, max_sends=2).open()
    total = 0
    for turn in range(1, 30):
        data = pattern(1000, turn)
        protocol.transport.write(data)
        protocol.transport.write(data)
        total += 2000
        assert client.read_exactly(2000) == data + data
        protocol.wait_until(
            lambda total=total: protocol.finished["sent"] >= total,
            f"the completion of {total} bytes",
        )
    assert protocol.transport.is_closing() is False


class Obeys(Wide):
    """Writes what it is told, byte counts one after the other in one callback: "600 400 1"."""

    def on_data(self, data):
        for size in data.split():
            self.transport.write(pattern(int(size)))


def test_what_one_callback_writes_is_sent_however_many_writes_it_is(serve):
    client, protocol = serve(Obeys, max_sends=5).open()
    for _ in range(3):
        client.send(b"1 " * 100)
        assert client.read_exactly(100) == pattern(1) * 100
        wait_until(lambda: protocol.transport.get_write_buffer_size() == 0, "the completion")
    assert protocol.transport.is_closing() is False


def test_the_writes_that_earlier_callbacks_left_count_one_by_one(serve):
    served = serve(Obeys, max_sends=3)
    client, protocol = served.open()
    client.send(b"%d 1 1" % MORE_THAN_THE_KERNEL_TAKES)
    protocol.wait_for("data_received")
    assert protocol.transport.is_closing() is False
    client.send(b"1")
    assert_over_the_limit(protocol, client)
    assert "max_sends=3" in str(protocol.lost_with)
    client.read_until_gone()


def test_an_empty_write_is_no_write(serve):
    client, protocol = serve(Recording, max_sends=1).open()
    fill(protocol)
    for _ in range(5):
        protocol.transport.write(b"")
    assert protocol.transport.is_closing() is False
    assert len(client.read_exactly(MORE_THAN_THE_KERNEL_TAKES)) == MORE_THAN_THE_KERNEL_TAKES


def test_writelines_is_one_write(serve):
    client, protocol = serve(Wide, max_sends=2).open()
    parts = [b"%4d" % number for number in range(1000)]
    protocol.transport.writelines(parts)
    assert protocol.transport.is_closing() is False
    assert_same_bytes(client.read_exactly(4000), b"".join(parts))


def test_without_max_sends_any_number_of_writes_is_queued(serve):
    client, protocol = serve(Recording, max_sends=None).open()
    fill(protocol)
    for _ in range(5000):
        protocol.transport.write(b"x")
    data = client.read_exactly(MORE_THAN_THE_KERNEL_TAKES + 5000)
    assert data[-5000:] == b"x" * 5000


# -- max_write_buffer


@pytest.mark.parametrize("sizes", ["1000000", "1 1000000", "600000 400001", "500000 500000 1"])
def test_what_one_callback_writes_is_sent_however_much_it_is(serve, sizes):
    client, protocol = serve(Obeys, max_write_buffer=1_000_000).open()
    client.send(sizes.encode())
    total = sum(map(int, sizes.split()))
    assert len(client.read_exactly(total)) == total
    assert protocol.transport.is_closing() is False


def test_what_earlier_callbacks_left_beyond_the_limit_resets_the_connection(serve):
    served = serve(in_turn(Obeys, Echoing), max_write_buffer=1_000_000)
    client, protocol = served.open()
    client.send(b"%d" % MORE_THAN_THE_KERNEL_TAKES)
    protocol.wait_for("data_received")
    assert protocol.transport.is_closing() is False
    client.send(b"1")
    assert_over_the_limit(protocol, client)
    assert "max_write_buffer=1000000" in str(protocol.lost_with)
    client.read_until_gone()
    assert served.stats()["aborts_by_reason"]["write_limit"] == 1
    served.assert_serving()


def test_one_byte_more_than_a_thread_may_queue_resets_the_connection(serve):
    client, protocol = serve(Recording, max_write_buffer=MORE_THAN_THE_KERNEL_TAKES).open()
    protocol.transport.set_write_buffer_limits(high=1 << 40)
    fill(protocol)
    protocol.transport.write(bytes(MORE_THAN_THE_KERNEL_TAKES))
    assert_over_the_limit(protocol, client)
    client.read_until_gone()


def test_an_empty_queue_takes_a_write_of_any_size(serve):
    client, protocol = serve(Recording, max_write_buffer=1000).open()
    data = pattern(MB)
    protocol.transport.write(data)
    assert_same_bytes(client.read_exactly(len(data)), data)


def test_what_has_left_makes_room_again(serve):
    client, protocol = serve(Obeys, max_write_buffer=1000).open()
    for _ in range(30):
        client.send(b"400 600")
        assert client.read_exactly(1000) == pattern(400) + pattern(600)
        wait_until(lambda: protocol.transport.get_write_buffer_size() == 0, "the completion")
    assert protocol.transport.is_closing() is False


def test_by_default_64_mib_may_be_queued_in_spite_of_a_pause(serve):
    served = serve(Recording)
    client, protocol = served.open()
    # More than the limit, and fine: nobody has been told to pause.
    fill(protocol)
    protocol.wait_for("pause_writing")
    wait_for_a_turn(protocol.transport)
    protocol.transport.write(bytes(64 * MB))
    assert protocol.transport.is_closing() is False
    protocol.transport.write(b"x")
    assert_over_the_limit(protocol, client)
    client.read_until_gone()


def test_without_max_write_buffer_any_number_of_bytes_is_queued(serve):
    client, protocol = serve(Recording, max_write_buffer=None).open()
    fill(protocol)
    # One object three times: the memory of one.
    block = bytes(32 * MB)
    for _ in range(3):
        protocol.transport.write(block)
    assert protocol.transport.is_closing() is False
    assert protocol.transport.get_write_buffer_size() > 96 * MB
    protocol.transport.abort()
    client.read_until_gone()


# -- what both have in common


def test_after_the_limit_nothing_of_the_connection_is_left(serve):
    served = serve(Recording, max_sends=1, close_timeout_s=300)
    opened = [served.open() for _ in range(5)]
    for _, protocol in opened:
        fill(protocol)
        protocol.transport.write(b"one too many")
        protocol.transport.write(b"and more")
        protocol.transport.close()
    for client, protocol in opened:
        assert_over_the_limit(protocol, client)
        assert protocol.transport.get_write_buffer_size() == 0
        assert protocol.events[-1] == "connection_lost"
    wait_for_figure(served.server, "connections_now", 0)
    assert served.stats()["aborts_by_reason"]["write_limit"] == 5


def test_several_threads_meet_the_limit_once(serve):
    client, protocol = serve(Recording, max_sends=50).open()
    fill(protocol)

    def write():
        for _ in range(100):
            protocol.transport.write(b"x")

    run_together(*[write] * 4)
    assert_over_the_limit(protocol, client)
    client.read_until_gone()
    assert protocol.events.count("connection_lost") == 1


def test_the_error_of_the_limit_is_told_after_what_was_received_before(serve):
    client, protocol = serve(Obeys, max_sends=1).open()
    client.send(b"%d" % MORE_THAN_THE_KERNEL_TAKES)
    protocol.wait_for("data_received")
    client.send(b"1")
    assert_over_the_limit(protocol, client)
    assert protocol.events == ["connection_made", *2 * ["data_received"], "connection_lost"]
    client.read_until_gone()
