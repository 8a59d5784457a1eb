"""websockets' server, with its client on threads and its client on our loop."""

import asyncio

import pytest
from waiting import WAIT_S, run_together

websockets = pytest.importorskip("websockets")
from websockets.sync.client import connect  # noqa: E402 - not before it is known to be there

MESSAGES = ["hello", b"", bytes(range(256)), b"\0" * 900_000, "grüße" * 10_000]


@pytest.fixture
def served(start, tls, certificate):
    program = start("websockets_echo.py", 0, *certificate)
    yield f"{'wss' if tls else 'ws'}://127.0.0.1:{program.read_port()}"
    program.interrupt()


def test_messages_come_back(served, tls):
    def one():
        with connect(served, ssl=tls, open_timeout=WAIT_S) as client:
            for message in MESSAGES:
                client.send(message)
                assert client.recv(WAIT_S) == message

    run_together(*[one] * 4)


def test_the_client_on_our_loop(served, tls, run):
    async def one():
        async with websockets.connect(served, ssl=tls, open_timeout=WAIT_S) as client:
            for message in MESSAGES:
                await client.send(message)
                assert await client.recv() == message

    async def main():
        await asyncio.gather(*[one() for _ in range(10)])

    run(main)
