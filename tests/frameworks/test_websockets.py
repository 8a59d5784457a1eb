"""websockets' server, with its client on Python's loop and its client on our loop.

Not its client on threads: that one reads and writes a connection's TLS on two threads at once,
which Python's ssl, of 3.13.2 for one, does not stand. Now and then its request is never sent,
whoever serves.
"""

import asyncio

import pytest
from waiting import WAIT_S

websockets = pytest.importorskip("websockets")

MESSAGES = ["hello", b"", bytes(range(256)), b"\0" * 900_000, "grüße" * 10_000]


@pytest.fixture
def served(start, tls, certificate):
    program = start("websockets_echo.py", 0, *certificate)
    yield f"{'wss' if tls else 'ws'}://127.0.0.1:{program.read_port()}"
    program.interrupt()


async def echo(served, tls):
    async with websockets.connect(served, ssl=tls, open_timeout=WAIT_S) as client:
        for message in MESSAGES:
            await client.send(message)
            assert await asyncio.wait_for(client.recv(), WAIT_S) == message


async def several(served, tls):
    await asyncio.gather(*[echo(served, tls) for _ in range(10)])


def test_messages_come_back(served, tls):
    asyncio.run(several(served, tls))


def test_the_client_on_our_loop(served, tls, run):
    run(lambda: several(served, tls))
