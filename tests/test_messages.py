"""Framers of the threaded server: whole messages in, whole messages out."""

import copy
import pickle
import threading

import pytest
from payload import MORE_THAN_THE_KERNEL_TAKES, assert_same_bytes, pattern
from protocols import EchoingBuffered, Recording, RecordingBuffered
from test_exit import assert_quiet_end
from tls_peers import TlsClient, server_context
from waiting import WAIT_S, wait_for_event, wait_for_figure, wait_until

import iocpx
from iocpx.native import LengthPrefixFramer, LineFramer

pytestmark = pytest.mark.engine("streams are cut in C, which is the engine's")

LINES = LineFramer(100)
WORDS = LineFramer(100, b"abab")
SHORTS = LengthPrefixFramer(2, max_bytes=100)
COUNTED = LengthPrefixFramer(4, max_bytes=100, endian="little", includes_prefix=True)
# Each with messages that try its search, and how they stand in the stream.
MESSAGES = [b"one", b"", b"a", b"aba" * 3, b"\x00\xff\r", b"ab", b"x" * 100, b"last"]
STREAMS = {
    LINES: b"".join(message + b"\n" for message in MESSAGES),
    WORDS: b"oneabab" + b"abab" + b"xabaabab" + b"abbabab",
    SHORTS: b"".join(len(message).to_bytes(2, "big") + message for message in MESSAGES),
    COUNTED: b"".join((len(message) + 4).to_bytes(4, "little") + message for message in MESSAGES),
}
FOUND = dict.fromkeys(STREAMS, MESSAGES) | {WORDS: [b"one", b"", b"xaba", b"abb"]}


class Gets(Recording):
    """Has a framer from the beginning; gets its messages one by one."""

    framer = LINES

    def __init__(self):
        super().__init__()
        self.messages = []

    def on_made(self):
        self.transport.set_framer(self.framer)

    def check_data(self, data):
        assert type(data) is bytes  # and may be empty
        self.messages.append(data)


class GetsLists(Gets):
    """… all that there are at once."""

    def __init__(self):
        super().__init__()
        self.lists = []

    def messages_received(self, messages):
        with self._callback("messages_received"):
            assert type(messages) is list and messages
            self.lists.append(messages)
            for message in messages:
                self.check_data(message)
                self.keep(message)
            self.on_messages(messages)

    def on_messages(self, messages):
        pass


def with_framer(protocol, framer, **more):
    return type(protocol.__name__, (protocol,), {"framer": framer, **more})


def wait_for_messages(protocol, messages):
    protocol.wait_until(lambda: len(protocol.messages) >= len(messages), f"{messages!r}")
    assert protocol.messages == messages


both = pytest.mark.parametrize("protocol_class", [Gets, GetsLists])
every = pytest.mark.parametrize("framer", STREAMS, ids=["lines", "words", "shorts", "counted"])


# -- what comes ------------------------------------------------------------------------------------


@both
@every
def test_messages_come_whole_wherever_the_stream_is_cut(serve, protocol_class, framer):
    stream = STREAMS[framer]

    class Cuts(with_framer(protocol_class, framer)):
        """Sees each part of the stream as a receive of its own."""

    served = serve(Cuts)
    client, protocol = served.open()
    for byte in stream:
        client.send(bytes([byte]))
    wait_for_messages(protocol, FOUND[framer])
    client, protocol = served.open()
    client.send(stream)
    wait_for_messages(protocol, FOUND[framer])
    # Those of one receive are counted when they have been told.
    wait_for_figure(served.server, "messages_received", 2 * len(FOUND[framer]))


def test_a_list_has_all_that_are_there(serve):
    messages = [b"%099d" % number for number in range(30)]

    def come_while_paused():
        paused = threading.Event()

        def pause():
            # In a turn of its own: by now its receives are posted, and they stay.
            protocol.transport.pause_reading()
            paused.set()

        served = serve(GetsLists, buffer_size=1024, initial_reads=4)
        client, protocol = served.open()
        protocol.transport.call_soon(pause)
        wait_for_event(paused, "the pause")
        client.send(b"".join(message + b"\n" for message in messages))

        def held_up():
            # One that is silent for a second, or held up so long, has its buffers taken from it.
            return served.stats()["zero_byte_receives"] > 0

        wait_until(lambda: served.stats()["bytes_received"] == 3000 or held_up(), "the messages")
        if held_up():
            return None
        assert served.stats()["receives"] > 1
        return protocol

    for _ in range(20):
        if protocol := come_while_paused():
            break
    else:
        raise AssertionError("this machine is too slow: each time a second passed in silence")
    protocol.transport.resume_reading()
    wait_for_messages(protocol, messages)
    assert len(protocol.lists) == 1


@pytest.mark.parametrize("size", [16_000, 1_000_000])
def test_long_messages(serve, size):
    framer = LengthPrefixFramer(4, max_bytes=size)
    messages = [pattern(size, 1), pattern(size - 1, 2), b""]
    client, protocol = serve(with_framer(GetsLists, framer)).open()
    client.send(b"".join(len(message).to_bytes(4, "big") + message for message in messages))
    protocol.wait_until(lambda: len(protocol.messages) == 3, "three messages")
    for got, message in zip(protocol.messages, messages):
        assert_same_bytes(got, message)


@both
@pytest.mark.parametrize(
    "framer, good, bad",
    [
        (LineFramer(5), b"first\n", b"123456"),
        (LineFramer(5, b"ab"), b"firstab", b"12345a6"),
        (LengthPrefixFramer(2, max_bytes=5), b"\x00\x05first", b"\x00\x06"),
        (LengthPrefixFramer(8, max_bytes=5), b"\0\0\0\0\0\0\0\x05first", b"\xff" * 8),
        (COUNTED, b"\x09\0\0\0first", b"\x03\0\0\0"),
    ],
)
@pytest.mark.parametrize("at_once", [True, False])
def test_what_is_no_message_ends_its_connection(serve, protocol_class, framer, good, bad, at_once):
    served = serve(with_framer(protocol_class, framer))
    client, protocol = served.open()
    client.send(good + bad if at_once else good)
    wait_for_messages(protocol, [b"first"])
    if not at_once:
        for byte in bad:
            client.send_until_refused(bytes([byte]))
    protocol.wait_for("connection_lost")
    client.read_until_gone()
    assert isinstance(protocol.lost_with, OSError)
    assert protocol.lost_with.winerror == 10040
    assert repr(framer) in str(protocol.lost_with)
    assert protocol.messages == [b"first"]
    assert served.stats()["aborts_by_reason"]["framing"] == 1
    client, other = served.open()
    client.send(good)
    wait_for_messages(other, [b"first"])


@both
def test_the_end_of_the_stream_within_a_message(serve, protocol_class):
    class Answers(protocol_class):
        def on_eof(self):
            # Too late: what has come of a message is none.
            self.transport.set_framer(None)
            self.transport.write(b"the end")
            return False

    client, protocol = serve(Answers).open()
    client.send(b"whole\nhalf")
    client.half_close()
    assert client.read_to_end() == b"the end"
    protocol.wait_for("connection_lost")
    assert protocol.messages == [b"whole"]
    assert protocol.lost_with is None


def test_pause_reading_between_two_messages(serve):
    class Pauses(Gets):
        def on_data(self, data):
            self.transport.pause_reading()

    client, protocol = serve(Pauses).open()
    client.send(STREAMS[LINES])
    client.half_close()
    for number in range(1, len(MESSAGES) + 1):
        protocol.wait_for("data_received", number)
        assert not protocol.transport.is_reading()
        assert protocol.messages == MESSAGES[:number]
        protocol.transport.resume_reading()
    protocol.wait_for("eof_received")


def test_pause_reading_in_messages_received(serve):
    class Pauses(GetsLists):
        def on_messages(self, messages):
            self.transport.pause_reading()

    client, protocol = serve(Pauses).open()
    client.send(b"one\ntwo\nthr")
    protocol.wait_until(lambda: protocol.finished["messages_received"], "a list")
    client.send(b"ee\n")
    client.half_close()
    while len(protocol.messages) < 3:
        count = protocol.finished["messages_received"]
        protocol.transport.resume_reading()
        protocol.wait_for("messages_received", count + 1)
    assert protocol.messages == [b"one", b"two", b"three"]
    protocol.transport.resume_reading()
    protocol.wait_for("eof_received")


# -- another framer, another protocol, TLS ---------------------------------------------------------


class Body(Gets):
    """A line that says how many bytes follow, as they are; then the next line."""

    left = 0

    def on_data(self, data):
        if self.left:
            self.left -= len(data)
            assert self.left >= 0
            if self.left == 0:
                self.transport.set_framer(LINES)
        else:
            self.left = int(data)
            self.transport.set_framer(LengthPrefixFramer(1, max_bytes=200))


def test_another_framer_has_what_follows_the_message(serve):
    client, protocol = serve(Body).open()
    client.send(b"3\n\x03abc2\n\x02")
    client.send(b"de1\n\x01f")
    wait_for_messages(protocol, [b"3", b"abc", b"2", b"de", b"1", b"f"])


@both
def test_without_a_framer_the_rest_comes_as_it_is(serve, protocol_class):
    class Drops(protocol_class):
        def on_data(self, data):
            if data == b"raw":
                self.transport.set_framer(None)

        def on_messages(self, messages):
            self.on_data(messages[-1])

    client, protocol = serve(Drops).open()
    # Nothing more is sent: the turn that takes the framer away delivers what it held.
    client.send(b"line\nraw\nno li")
    protocol.wait_for_data(len(b"linerawno li"))
    client.send(b"ne\n")
    protocol.wait_for_data(len(b"linerawno line\n"))
    assert protocol.received == b"linerawno line\n"
    assert protocol.messages[:2] == [b"line", b"raw"]


@pytest.mark.parametrize("framer", [None, WORDS])
def test_what_has_begun_is_given_back_while_reading_is_paused(serve, framer):
    class Pauses(GetsLists):
        def on_messages(self, messages):
            if messages == [b"pause"]:
                self.transport.pause_reading()
                self.transport.set_framer(framer)

    client, protocol = serve(Pauses).open()
    client.send(b"pause\nbegun")
    wait_for_messages(protocol, [b"pause"])
    client.send(b"abab")
    client.half_close()
    protocol.transport.call_soon(protocol.transport.resume_reading)
    protocol.wait_for("eof_received")
    assert protocol.received == b"pausebegun" + b"abab" * (framer is None)


def test_a_framer_from_the_midst_of_a_delivery_and_from_a_timer(serve):
    class Later(Gets):
        def on_made(self):
            pass

        def on_data(self, data):
            if data == b"lines":
                self.transport.set_framer(LINES)
            elif data == b"timer":
                self.transport.call_soon(self.transport.set_framer, None)

    client, protocol = serve(Later).open()
    client.send(b"lines")
    protocol.wait_for("data_received")
    client.send(b"one\ntimer\nrest")
    protocol.wait_for_data(len(b"linesonetimerrest"))
    assert protocol.messages == [b"lines", b"one", b"timer", b"rest"]


def test_another_protocol_gets_the_next_message(serve):
    class Hands(Gets):
        told_of_connection = True

        def on_data(self, data):
            self.next.transport = self.transport
            self.transport.set_protocol(self.next)

        def check(self):
            assert "connection_lost" not in self.events

    class Takes(Gets):
        told_of_connection = False

    def factory():
        protocol = Hands()
        protocol.next = Takes()
        return protocol

    client, protocol = serve(factory).open()
    client.send(b"mine\nyours\nyours, too\n")
    wait_for_messages(protocol.next, [b"yours", b"yours, too"])
    assert protocol.messages == [b"mine"]
    client.close()
    protocol.next.wait_for("connection_lost")
    protocol.next.check()


class TakesLines(RecordingBuffered):
    """A BufferedProtocol with messages, until one of them ends it."""

    room = 3

    def on_made(self):
        self.transport.set_framer(LINES)

    def messages_received(self, messages):
        with self._callback("messages_received"):
            self.keep(b"|".join(messages) + b"|")
            if messages[-1] == b"raw":
                self.transport.set_framer(None)

    def on_data(self, data):
        if b"!" in data:
            self.transport.set_framer(LINES)


def test_a_buffered_protocol_gets_messages_and_then_its_buffer_back(serve):
    client, protocol = serve(TakesLines).open()
    client.send(b"one\nraw\nabcdef")
    protocol.wait_for_data(len(b"one|raw|abcdef"))
    # "gh!" fills its buffer; the rest is the framer's.
    client.send(b"gh!ij\nk\n")
    protocol.wait_for_data(len(b"one|raw|abcdefgh!ij|k|"))
    assert protocol.received.startswith(b"one|raw|abcdefgh!ij|k|")


def test_a_buffered_protocol_without_messages_is_told_so(serve):
    class Lacks(EchoingBuffered):
        def on_made(self):
            self.transport.set_framer(LINES)

    served = serve(Lacks)
    client, protocol = served.open()
    client.send(b"line\n")
    client.read_until_gone()
    assert isinstance(served.take_error()["exception"], AttributeError)
    protocol.wait_for("connection_lost")


@both
@every
def test_messages_over_tls(serve_tls, protocol_class, framer):
    class Answers(with_framer(protocol_class, framer)):
        def on_data(self, data):
            self.transport.write_message(data)

        def on_messages(self, messages):
            self.transport.write_messages(messages)

    client, protocol = serve_tls(Answers).open()
    stream = STREAMS[framer]
    for cut in (1, len(stream) // 2):
        assert client.exchange([stream[:cut], stream[cut:]]) == stream
    assert protocol.messages == 2 * FOUND[framer]
    client.unwrap()
    protocol.wait_for("eof_received")


def test_a_pause_over_tls_and_a_framer_taken_away(serve_tls):
    class Pauses(Gets):
        def on_data(self, data):
            self.transport.pause_reading()
            if data == b"raw":
                self.transport.set_framer(None)

    client, protocol = serve_tls(Pauses).open()
    client.send(b"one\ntwo\nraw\nrest\nof it")
    client.end()
    for number in range(1, 5):
        protocol.wait_for("data_received", number)
        # Not before the last of it.
        assert "eof_received" not in protocol.events or number == 4
        protocol.transport.resume_reading()
    protocol.wait_for("eof_received")
    assert protocol.messages == [b"one", b"two", b"raw", b"rest\nof it"]


def test_a_message_that_is_too_long_over_tls(serve_tls):
    served = serve_tls(with_framer(GetsLists, LineFramer(5)))
    client, protocol = served.open()
    client.send(b"first\ntoo long")
    protocol.wait_for("connection_lost")
    client.read_until_gone()
    assert protocol.lost_with.winerror == 10040
    assert protocol.messages == [b"first"]


LOST_IN_A_CALLBACK = """
import asyncio, socket, struct, sys, threading
import iocpx

sent, over = threading.Event(), threading.Event()

class Lost(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
        transport.set_framer(iocpx.native.LineFramer(10))

    def data_received(self, message):
        sent.wait()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("HH", 1, 0))
        client.close()
        for _ in range(20):
            self.transport.write(bytes(1_000_000))

    def connection_lost(self, exc):
        print(type(exc).__name__, flush=True)
        over.set()

if "lists" in sys.argv:
    Lost.messages_received = Lost.data_received

async def main():
    global client
    server = await asyncio.get_running_loop().create_server(Lost, "127.0.0.1", 0)
    client = socket.create_connection(server.sockets[0].getsockname())
    client.sendall(b"first\\n" + b"too long" * 100)
    sent.set()
    while not over.is_set():
        await asyncio.sleep(0.01)

if "loop" in sys.argv:
    iocpx.run(main())
else:
    with iocpx.Server(Lost, "127.0.0.1") as server:
        client = socket.create_connection(server.address)
        client.sendall(b"first\\n" + b"too long" * 100)
        sent.set()
        over.wait(30)
"""


@pytest.mark.python("the exit is Python's")
@pytest.mark.parametrize("door", ["server", "loop"])
@pytest.mark.parametrize("how", ["lists", "one by one"])
def test_what_is_no_message_of_a_connection_that_is_lost_keeps_nobody(start_script, door, how):
    """The error of a send ends it in the callback of the message before that.  A program of its
    own: what would go round for ever holds the GIL, and no test would go on."""
    script = start_script(LOST_IN_A_CALLBACK, door, how)
    assert script.read_line() in ("ConnectionResetError", "ConnectionAbortedError")
    assert_quiet_end(script)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
def test_a_pause_for_each_message_holds_up_the_peer(serve, serve_tls, tls):
    """Of what has come no more is kept than a few receives bring."""
    line = pattern(3999).replace(b"\n", b" ") + b"\n"
    most = []

    class Pauses(Gets):
        framer = LineFramer(4000)

        def check_data(self, data):
            assert data == line[:-1]
            self.messages.append(None)
            self.transport.pause_reading()
            self.transport.call_soon(self.transport.resume_reading)
            most.append(served.stats()["bytes_received"] - len(self.messages) * len(line))

    served = (serve_tls if tls else serve)(Pauses)
    client, protocol = served.open()
    sender = threading.Thread(target=client.send, args=(line * 1000,))
    sender.start()
    protocol.wait_until(lambda: len(protocol.messages) == 1000, "all of them")
    sender.join()
    assert max(most) < 1_500_000


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
def test_a_framer_for_each_message(serve, serve_tls, tls):
    """A line with a size, then so many bytes, as a message of their own."""
    bodies = [pattern(n % 50 + 1, seed=n) for n in range(3000)]

    class Turns(Gets):
        body = False

        def check_data(self, data):
            if self.body:
                self.messages.append(data)
            self.body = not self.body
            self.transport.set_framer(SHORTS if self.body else LINES)

    client, protocol = (serve_tls if tls else serve)(Turns).open()
    client.send(b"".join(b"%d\n" % len(b) + len(b).to_bytes(2, "big") + b for b in bodies))
    wait_for_messages(protocol, bodies)


@both
def test_start_tls_between_two_messages(serve, protocol_class):
    class Starts(protocol_class):
        future = None

        def on_data(self, data):
            if data == b"STARTTLS":
                self.future = self.transport.start_tls(server_context())

        def on_messages(self, messages):
            self.on_data(messages[-1])

    client, protocol = serve(Starts).open()
    secure = TlsClient(None, sock=client.sock, shake=False)
    hello = secure.hello()
    # What is no line yet, or the rest of the buffer, is TLS's.
    cut = hello.index(b"\n") if protocol_class is GetsLists and b"\n" in hello else len(hello)
    client.send(b"STARTTLS\n" + hello[:cut])
    protocol.wait_until(lambda: protocol.future is not None, "the begin of TLS")
    client.send(hello[cut:])
    secure.receive()
    secure.handshake()
    secure.send(b"secret\nsecr")
    secure.send(b"et 2\n")
    wait_for_messages(protocol, [b"STARTTLS", b"secret", b"secret 2"])
    assert protocol.future.result(WAIT_S) is None


def test_tls_that_begins_in_what_a_framer_had_begun_keeps_no_worker(serve):
    """The first bytes of the handshake are handed over by data_received(), and the rest takes its
    time: the one worker serves the others meanwhile."""

    class Proxied(GetsLists):
        def on_messages(self, messages):
            if messages[-1] == b"PROXY":
                self.transport.set_framer(None)

        def on_data(self, data):
            if data[:1] == b"\x16":
                self.future = self.transport.start_tls(server_context(), received=data)
            else:
                self.transport.write(data)

    served = serve(Proxied, workers=1)
    client, protocol = served.open()
    secure = TlsClient(None, sock=client.sock, shake=False)
    hello = secure.hello()
    cut = hello.index(b"\n") if b"\n" in hello else len(hello) // 2
    client.send(b"PROXY\n" + hello[:cut])
    protocol.wait_until(lambda: getattr(protocol, "future", None) is not None, "the begin of TLS")
    other, _ = served.open()
    other.send(b"PROXY\n" + b"served")
    assert other.read_exactly(6) == b"served"
    client.send(hello[cut:])
    secure.receive()
    secure.handshake()
    assert protocol.future.result(WAIT_S) is None


# -- what goes -------------------------------------------------------------------------------------


@every
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, type("Own", (bytes,), {})])
def test_messages_are_written_as_they_are_read(serve, framer, kind):
    class Greets(with_framer(Gets, framer)):
        def on_made(self):
            super().on_made()
            for message in FOUND[framer]:
                self.transport.write_message(kind(message))
            self.transport.write_messages(kind(message) for message in FOUND[framer])
            self.transport.write_messages([])

    served = serve(Greets)
    client, _ = served.open()
    assert client.read_exactly(2 * len(STREAMS[framer])) == 2 * STREAMS[framer]


def test_long_messages_are_written(serve):
    big = pattern(MORE_THAN_THE_KERNEL_TAKES)
    middle = bytearray(pattern(20_000, 3))

    class Greets(Gets):
        framer = LengthPrefixFramer(4, max_bytes=len(big))

        def on_made(self):
            super().on_made()
            self.transport.write_message(big)
            self.transport.write_messages([b"small", middle, big])
            middle[:] = bytes(len(middle))
            self.transport.set_framer(LineFramer(len(big), b"the end of it"))
            self.transport.write_message(big)
            self.transport.close()

    client = serve(Greets).connect()
    for message in (big, b"small", pattern(20_000, 3), big):
        assert client.read_exactly(4) == len(message).to_bytes(4, "big")
        assert_same_bytes(client.read_exactly(len(message)), message)
    assert_same_bytes(client.read_to_end(), big + b"the end of it")


class Tries(Gets):
    """Writes what it is told to, and keeps what that raised."""

    def __init__(self):
        super().__init__()
        self.raised = []

    def on_made(self):
        self.trials()

    def trying(self, framer, method, data):
        self.transport.set_framer(framer)
        try:
            getattr(self.transport, method)(data)
        except Exception as exc:
            self.raised.append(type(exc))
        else:
            self.raised.append(None)

    def trials(self):
        for framer, data, _ in REFUSED:
            self.trying(framer, "write_message", data)
            self.trying(framer, "write_messages", [b"good", data])
        self.transport.set_framer(None)
        self.transport.write(b"nothing")
        self.transport.close()


REFUSED = [
    (None, b"no framer", RuntimeError),
    (LINES, b"two\nlines", ValueError),
    (LINES, b"\n", ValueError),
    (LINES, b"x" * 101, ValueError),
    (WORDS, b"xababx", ValueError),
    (WORDS, b"xab", ValueError),  # with what follows the delimiter would begin two bytes early
    (SHORTS, b"x" * 101, ValueError),
    (LengthPrefixFramer(1, max_bytes=300), b"x" * 256, ValueError),
    (LengthPrefixFramer(1, max_bytes=300, includes_prefix=True), b"x" * 255, ValueError),
    (LINES, "text", TypeError),
    (LINES, 5, TypeError),
]


def test_what_cannot_be_read_is_not_written(serve):
    client, protocol = serve(Tries).open()
    assert client.read_to_end() == b"nothing"
    protocol.wait_for("connection_lost")
    assert protocol.raised == [error for _, _, error in REFUSED for _ in range(2)]


def test_threads_write_messages_whole(serve):
    messages = [bytes([65 + number]) * 1000 for number in range(4)]
    client, protocol = serve(with_framer(Gets, LineFramer(1000))).open()

    def write(message):
        for _ in range(20):
            protocol.transport.write_messages([message, message])

    threads = [threading.Thread(target=write, args=(message,)) for message in messages]
    for thread in threads:
        thread.start()
    lines = client.read_exactly(4 * 40 * 1001).split(b"\n")
    for thread in threads:
        thread.join()
    assert lines.pop() == b""
    assert sorted(lines) == sorted(40 * messages)
    assert all(first == second for first, second in zip(lines[::2], lines[1::2]))


# -- arguments, threads, the end -------------------------------------------------------------------


def test_a_framer_is_set_in_a_callback(serve):
    client, protocol = serve(Gets).open()
    with pytest.raises(RuntimeError, match="callback"):
        protocol.transport.set_framer(None)
    client.send(b"still\nlines\n")
    wait_for_messages(protocol, [b"still", b"lines"])


@pytest.mark.parametrize("wrong", [b"\n", LineFramer, 5, iocpx.native.Echo])
def test_a_framer_is_none_of_these(serve, wrong):
    _, protocol = serve(Gets).open()
    with pytest.raises(TypeError, match="framer must be"):
        protocol.transport.set_framer(wrong)


def test_after_the_end_nothing_has_an_effect(serve):
    client, protocol = serve(Gets).open()
    client.send(b"begun")
    client.close()
    protocol.wait_for("connection_lost")
    protocol.transport.write_message(b"late")
    protocol.transport.write_messages([b"late"])
    protocol.transport.set_framer(None)
    assert protocol.messages == []


def test_messages_received_that_raises_costs_its_connection(serve):
    class Raises(GetsLists):
        def on_messages(self, messages):
            raise ArithmeticError("of a test")

    served = serve(Raises)
    client, protocol = served.open()
    client.send(b"line\n")
    client.read_until_gone()
    protocol.wait_for("connection_lost")
    assert isinstance(protocol.lost_with, ArithmeticError)
    context = served.take_error()
    assert "messages_received() raised" in context["message"]


WRONG = [
    (LineFramer, (), {}, TypeError),
    (LineFramer, (0,), {}, ValueError),
    (LineFramer, (2**48 + 1,), {}, ValueError),
    (LineFramer, (1.5,), {}, TypeError),
    (LineFramer, (5, ""), {}, TypeError),
    (LineFramer, (5, b""), {}, ValueError),
    (LineFramer, (5, bytes(256)), {}, ValueError),
    (LengthPrefixFramer, (4,), {}, TypeError),
    (LengthPrefixFramer, (4, 100), {}, TypeError),
    (LengthPrefixFramer, (3,), {"max_bytes": 5}, ValueError),
    (LengthPrefixFramer, ("4",), {"max_bytes": 5}, TypeError),
    (LengthPrefixFramer, (4,), {"max_bytes": 0}, ValueError),
    (LengthPrefixFramer, (4,), {"max_bytes": 5, "endian": "native"}, ValueError),
]


@pytest.mark.once("arguments")
@pytest.mark.parametrize("kind, positional, named, error", WRONG)
def test_a_wrong_argument(kind, positional, named, error):
    with pytest.raises(error):
        kind(*positional, **named)


@pytest.mark.once("arguments")
def test_a_framer_is_a_value():
    every = [
        LineFramer(5),
        LineFramer(6),
        LineFramer(5, b"\r\n"),
        LineFramer(5, bytes(255)),
        LengthPrefixFramer(4, max_bytes=5),
        LengthPrefixFramer(8, max_bytes=5),
        LengthPrefixFramer(4, max_bytes=5, endian="little"),
        LengthPrefixFramer(4, max_bytes=5, includes_prefix=True),
    ]
    assert len(set(every)) == len(every)
    for framer in every:
        same = eval(repr(framer), {"iocpx": iocpx})
        for other in (same, copy.copy(framer), pickle.loads(pickle.dumps(framer))):
            assert other == framer and hash(other) == hash(framer)
            assert [one == other for one in every].count(True) == 1
        with pytest.raises(AttributeError):
            framer.max_bytes = 7
    assert (every[2].max_bytes, every[2].delimiter) == (5, b"\r\n")
    last = every[-1]
    assert (last.prefix_bytes, last.endian, last.includes_prefix) == (4, "big", True)
    assert LineFramer(5) != "LineFramer(5)"
    with pytest.raises(TypeError):
        iocpx._framers.Framer()


# -- Discard ---------------------------------------------------------------------------------------


def test_discard_takes_everything_and_says_nothing(serve):
    served = serve(iocpx.native.Discard, initial_reads=2)
    data = pattern(3_000_000)
    client = served.connect()
    client.send(data)
    client.half_close()
    assert client.read_to_end() == b""
    stats = served.stats()
    assert stats["bytes_received"] == len(data)
    assert stats["gil_acquisitions"] == 0


@pytest.mark.python("pickle is Python's")
def test_discard_is_a_native_handler_like_echo():
    discard = iocpx.native.Discard
    assert repr(discard) == "iocpx.native.Discard"
    assert copy.deepcopy(discard) is discard
    assert pickle.loads(pickle.dumps(discard)) is discard
    for name, value in (("trace", print), ("ssl", server_context())):
        with pytest.raises(ValueError, match="native handler"):
            iocpx.Server(discard, **{name: value})


