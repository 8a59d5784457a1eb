"""websocket_threads.py, with websockets' client on Python's loop."""

import asyncio
import contextlib

import pytest
from waiting import WAIT_S

websockets = pytest.importorskip("websockets")
from websockets.exceptions import ConnectionClosed  # noqa: E402 - not before it is known to be there

MESSAGES = ["hello", "", b"", bytes(range(256)), b"\0" * 900_000, "grüße" * 10_000]


@pytest.fixture
def served(start, tls, certificate):
    program = start("websocket_threads.py", 0, *certificate)
    yield f"{'wss' if tls else 'ws'}://127.0.0.1:{program.read_port()}"
    program.interrupt()


def test_messages_come_back(served, tls):
    async def one():
        async with websockets.connect(served, ssl=tls, open_timeout=WAIT_S) as client:
            for message in MESSAGES:
                await client.send(message)
                assert await asyncio.wait_for(client.recv(), WAIT_S) == message
            await client.send(["in ", "three ", "parts"])
            assert await asyncio.wait_for(client.recv(), WAIT_S) == "in three parts"
            assert await asyncio.wait_for(await client.ping(), WAIT_S) >= 0
            await client.send("and goes")

    async def main():
        await asyncio.gather(*[one() for _ in range(4)])

    asyncio.run(main())


def test_a_message_that_is_too_long_ends_its_connection(served, tls):
    async def main():
        async with websockets.connect(served, ssl=tls, open_timeout=WAIT_S) as client:
            with contextlib.suppress(ConnectionClosed):  # the end comes while it still sends
                await client.send(b"\0" * 2_000_000)
            with pytest.raises(ConnectionClosed) as caught:
                await asyncio.wait_for(client.recv(), WAIT_S)
            assert caught.value.rcvd.code == 1009

    asyncio.run(main())
