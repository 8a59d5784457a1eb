"""websocket_threads.py, with websockets' client on threads."""

import contextlib

import pytest
from waiting import WAIT_S, run_together

websockets = pytest.importorskip("websockets")
from websockets.exceptions import ConnectionClosed  # noqa: E402 - not before it is known to be there
from websockets.sync.client import connect  # noqa: E402 - likewise

MESSAGES = ["hello", "", b"", bytes(range(256)), b"\0" * 900_000, "grüße" * 10_000]


@pytest.fixture
def served(start, tls, certificate):
    program = start("websocket_threads.py", 0, *certificate)
    yield f"{'wss' if tls else 'ws'}://127.0.0.1:{program.read_port()}"
    program.interrupt()


def test_messages_come_back(served, tls):
    def one():
        with connect(served, ssl=tls, open_timeout=WAIT_S) as client:
            for message in MESSAGES:
                client.send(message)
                assert client.recv(WAIT_S) == message
            client.send(["in ", "three ", "parts"])
            assert client.recv(WAIT_S) == "in three parts"
            assert client.ping().wait(WAIT_S)
            client.send("and goes")

    run_together(*[one] * 4)


def test_a_message_that_is_too_long_ends_its_connection(served, tls):
    with connect(served, ssl=tls, open_timeout=WAIT_S) as client:
        with contextlib.suppress(ConnectionClosed):  # the end comes while it still sends
            client.send(b"\0" * 2_000_000)
        with pytest.raises(ConnectionClosed) as caught:
            client.recv(WAIT_S)
        assert caught.value.rcvd.code == 1009
