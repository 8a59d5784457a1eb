"""Closing towards peers that are slow, that go on sending, or that keep their side open."""

import socket
import threading

import pytest
from clients import assert_all_comes_to_a_slow_reader
from payload import pattern
from protocols import Recording
from waiting import wait_for_figure, wait_until

pytestmark = [
    pytest.mark.once("the deadlines are the engine's"),
    pytest.mark.slow("waits for seconds, as slow peers do"),
]

KB = 1 << 10
# Seconds; what a test's peer needs is a multiple of it. Longer than a busy machine stands still.
CLOSE_TIMEOUT_S = 1.0


class Answers(Recording):
    """Answers the first request and closes."""

    answer = pattern(1024 * KB)

    def on_made(self):
        # So that little of the answer is out of sight in the kernel.
        sock = self.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32 * KB)

    def on_data(self, data):
        self.transport.write(self.answer)
        self.transport.close()


def test_a_peer_that_reads_slowly_gets_all_that_was_written_before_close(serve):
    served = serve(Answers, close_timeout_s=CLOSE_TIMEOUT_S)

    def begin():
        client, protocol = served.open()
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * KB)
        client.send(b"go")
        return client, protocol

    # 256 KiB, the longest send, take about twice the timeout.
    assert_all_comes_to_a_slow_reader(
        begin, Answers.answer, CLOSE_TIMEOUT_S / 10, CLOSE_TIMEOUT_S / 2
    )


def test_a_send_under_way_at_the_close_is_given_time(serve):
    served = serve(Recording, close_timeout_s=CLOSE_TIMEOUT_S)

    def begin():
        client, protocol = served.open()
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * KB)
        Answers.on_made(protocol)
        # By a thread, so that the send is posted before the close.
        protocol.transport.write(Answers.answer)
        protocol.wait_for("pause_writing")
        protocol.transport.close()
        return client, protocol

    assert_all_comes_to_a_slow_reader(
        begin, Answers.answer, CLOSE_TIMEOUT_S / 10, CLOSE_TIMEOUT_S / 2
    )


def test_a_peer_that_goes_on_sending_gets_all_that_was_sent(serve):
    """Closing the socket while it sends would reset it, and what it has not read be lost."""

    class AnswersShortly(Recording):
        answer = pattern(256 * KB)

        def on_data(self, data):
            self.transport.write(self.answer)
            self.transport.close()

    served = serve(AnswersShortly, close_timeout_s=2 * CLOSE_TIMEOUT_S)

    def begin():
        client, protocol = served.open()
        client.send(b"go")
        return client, protocol

    # Twice the timeout after all has been sent.
    assert_all_comes_to_a_slow_reader(
        begin, AnswersShortly.answer, CLOSE_TIMEOUT_S / 4, CLOSE_TIMEOUT_S / 2, b"x"
    )


def test_a_peer_that_sends_for_ever_after_the_end_is_dropped_some_time(serve):
    served = serve(Answers, close_timeout_s=0.05)
    client, _ = served.open()
    client.send(b"go")
    over = threading.Event()

    def send():
        while not over.wait(0.01):
            client.send_until_refused(b"x")

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    client.read_until_gone()
    try:
        wait_for_figure(served.server, "connections_now", 0)
    finally:
        over.set()
        sender.join()


def test_a_peer_that_takes_nothing_is_reset_and_the_error_says_why(serve):
    client, protocol = serve(Answers, close_timeout_s=CLOSE_TIMEOUT_S).open()
    client.send(b"go")
    protocol.wait_for("connection_lost")
    assert isinstance(protocol.lost_with, TimeoutError)
    assert f"took nothing for close_timeout_s={CLOSE_TIMEOUT_S:g}:" in str(protocol.lost_with)
    assert "were not sent" in str(protocol.lost_with)
    client.read_until_gone()


# -- max_connections counts what the application knows of


class Closes(Recording):
    def on_made(self):
        self.transport.close()


def test_a_connection_that_is_over_for_the_application_leaves_its_place(serve):
    served = serve(Closes, max_connections=1, close_timeout_s=300)
    for _ in range(2):
        client, protocol = served.open()
        # The client keeps its side open.
        protocol.wait_for("connection_lost")
        assert client.read_to_end() == b""
    assert served.stats()["refused"] == 0


def test_no_more_drain_than_may_be_open(serve):
    served = serve(Closes, max_connections=2, close_timeout_s=300)
    for number in range(1, 8):
        _, protocol = served.open()
        protocol.wait_for("connection_lost")
        expected = min(number, 2)
        wait_until(
            lambda expected=expected: served.stats()["connections_now"] == expected,
            f"{expected} that drain",
        )
    assert served.stats()["refused"] == 0
