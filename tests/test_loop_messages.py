"""Framers on the asyncio loop: whole messages in and out, as on the threaded server."""

import asyncio

import pytest
import tls_loops
from payload import pattern
from test_messages import COUNTED, FOUND, LINES, STREAMS, WORDS, every
from tls_loops import BufferedPeer, Peer, connect, contexts, serving

from iocpx.native import LengthPrefixFramer, LineFramer

run = tls_loops.run
told = tls_loops.told


class Gets(Peer):
    framer = LINES

    def __init__(self):
        super().__init__()
        self.messages = []

    def connection_made(self, transport):
        super().connection_made(transport)
        transport.set_framer(self.framer)

    def data_received(self, data):
        assert type(data) is bytes
        self.messages.append(data)
        self.on_data(data)
        super().data_received(data)

    def on_data(self, data):
        pass


class GetsLists(Gets):
    def messages_received(self, messages):
        assert type(messages) is list and messages
        self.messages += messages
        self.on_messages(messages)
        self.changed.set()

    def on_messages(self, messages):
        pass


both = pytest.mark.parametrize("protocol_class", [Gets, GetsLists])
secured = pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])


def one_of(protocol_class, **more):
    return type(protocol_class.__name__, (protocol_class,), more)


async def connected(factory, secure=False):
    """(protocol of the server, plain client's) of a new connection; the server goes at the end."""
    server_context, client_context = contexts() if secure else (None, None)
    async with serving(factory, ssl=server_context) as served:
        client = await connect(Peer, served.address, client_context)
        protocol = await served.protocol()
        await protocol.until_told("made")
    return protocol, client


async def ended(*protocols):
    for protocol in protocols:
        protocol.transport.abort()
        await protocol.lost()


@both
@every
@secured
def test_messages_come_and_go(run, protocol_class, framer, secure):
    class Answers(one_of(protocol_class, framer=framer)):
        def on_data(self, data):
            self.transport.write_message(data)

        def on_messages(self, messages):
            self.transport.write_messages(messages)

    async def main():
        protocol, client = await connected(Answers, secure)
        stream = STREAMS[framer]
        for cut in (1, len(stream) // 2):
            client.forget()
            client.transport.write(stream[:cut])
            await asyncio.sleep(0)
            client.transport.write(stream[cut:])
            await client.until(lambda: client.kept_bytes >= len(stream))
            assert client.received == stream
        assert protocol.messages == 2 * FOUND[framer]
        await ended(client, protocol)

    run(main)


@both
@secured
def test_a_message_that_is_too_long(run, protocol_class, secure):
    async def main():
        framer = LengthPrefixFramer(1, max_bytes=5)
        protocol, client = await connected(one_of(protocol_class, framer=framer), secure)
        client.transport.write(b"\x05first\x06")
        exc = await protocol.lost()
        assert isinstance(exc, OSError)
        assert exc.winerror == 10040
        assert repr(framer) in str(exc)
        assert protocol.messages == [b"first"]
        await client.lost()

    run(main)


@both
@secured
def test_a_framer_is_taken_away_by_a_task(run, protocol_class, secure):
    async def main():
        protocol, client = await connected(protocol_class, secure)
        client.transport.write(b"line\nbegun")
        await protocol.until(lambda: protocol.messages == [b"line"])
        # Nothing more is sent: what has begun comes by itself, but not while reading is paused.
        protocol.transport.pause_reading()
        protocol.transport.set_framer(None)
        for _ in range(3):
            await asyncio.sleep(0)
        assert protocol.messages == [b"line"]
        protocol.transport.resume_reading()
        await protocol.until(lambda: protocol.messages[1:] == [b"begun"])
        protocol.transport.set_framer(WORDS)
        client.transport.write(b"wordabab")
        await protocol.until(lambda: protocol.messages[2:] == [b"word"])
        await ended(client, protocol)

    run(main)


def test_a_pause_between_two_messages(run):
    class Pauses(Gets):
        def on_data(self, data):
            self.transport.pause_reading()

    async def main():
        protocol, client = await connected(Pauses)
        client.transport.write(b"one\ntwo\nthree\n")
        client.transport.write_eof()
        for number in range(1, 4):
            await protocol.until(lambda number=number: len(protocol.messages) == number)
            assert "eof" not in protocol.told
            protocol.transport.resume_reading()
        await protocol.until_told("eof")
        assert protocol.messages == [b"one", b"two", b"three"]
        await protocol.lost()
        await client.lost()

    run(main)


@secured
def test_a_buffered_protocol(run, secure):
    class TakesLines(BufferedPeer):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.set_framer(LINES)

        def messages_received(self, messages):
            self.keep(b"|".join(messages) + b"|")
            self.changed.set()
            if messages[-1] == b"raw":
                self.transport.set_framer(None)

        def data_received(self, data):
            super().data_received(data)
            if b"!" in data:
                self.transport.set_framer(LINES)

    async def main():
        protocol, client = await connected(lambda: TakesLines(3), secure)
        client.transport.write(b"one\nraw\nabcdef")
        await protocol.until(lambda: protocol.received == b"one|raw|abcdef")
        client.transport.write(b"gh!ij\nk\n")
        await protocol.until(lambda: protocol.received == b"one|raw|abcdefgh!ij|k|")
        await ended(client, protocol)

    run(main)


@both
def test_start_tls(run, protocol_class):
    async def main():
        server_context, client_context = contexts()
        protocol, client = await connected(protocol_class)
        loop = asyncio.get_running_loop()
        client.transport.write(b"STARTTLS\n")
        await protocol.until(lambda: protocol.messages == [b"STARTTLS"])
        await asyncio.gather(
            loop.start_tls(protocol.transport, protocol, server_context, server_side=True),
            loop.start_tls(
                client.transport, client, client_context, server_hostname="localhost"
            ),
        )
        client.transport.write(b"secret\n")
        await protocol.until(lambda: protocol.messages == [b"STARTTLS", b"secret"])
        await ended(client, protocol)

    run(main)


def test_messages_received_that_raises(run, told):
    class Raises(GetsLists):
        def on_messages(self, messages):
            raise ArithmeticError("of a test")

    async def main():
        protocol, client = await connected(Raises)
        client.transport.write(b"line\n")
        assert isinstance(await protocol.lost(), ArithmeticError)
        await client.lost()

    run(main)
    context = told.complaints.pop()
    assert "messages_received" in context["message"]


def test_what_a_client_writes(run):
    big = pattern(100_000)

    async def main():
        protocol, client = await connected(one_of(Gets, framer=LineFramer(200_000, b"\r\n")))
        with pytest.raises(RuntimeError, match="set_framer"):
            client.transport.write_message(b"")
        with pytest.raises(TypeError, match="framer must be"):
            client.transport.set_framer(b"\n")
        client.transport.set_framer(COUNTED)
        client.transport.set_framer(LineFramer(200_000, b"\r\n"))
        with pytest.raises(ValueError, match="delimiter"):
            client.transport.write_message(b"two\r\nlines")
        client.transport.write_messages([b"small", big.replace(b"\r\n", b"--")])
        await protocol.until(lambda: len(protocol.messages) == 2)
        assert protocol.messages == [b"small", big.replace(b"\r\n", b"--")]
        await ended(client, protocol)
        client.transport.write_message(b"late")
        client.transport.set_framer(None)

    run(main)
