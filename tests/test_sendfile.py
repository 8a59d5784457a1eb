"""Connection.sendfile(): files among what is written, by TransmitFile or read part by part."""

import concurrent.futures
import contextlib
import gzip
import io
import os
import socket
import tempfile
import threading

import pytest
from clients import assert_all_comes_to_a_slow_reader
from payload import MORE_THAN_THE_KERNEL_TAKES, assert_same_bytes, pattern
from protocols import CountingSent, Recording
from test_exit import assert_quiet_end
from tls_peers import TlsClient, client_context, server_context
from waiting import (
    WAIT_S,
    run_together,
    wait_for_a_turn,
    wait_for_event,
    wait_for_figure,
    wait_until,
)

pytestmark = pytest.mark.engine("files are read and sent by the engine")

KB = 1 << 10
# More than one TransmitFile, and more than one part that is read.
DATA = pattern(700 * KB)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(DATA)
    return path


@pytest.fixture
def large(tmp_path):
    """A file of more than the kernel takes, and what it holds."""
    path = tmp_path / "large"
    data = pattern(1 << 20) * (MORE_THAN_THE_KERNEL_TAKES >> 20)
    path.write_bytes(data)
    return path, data


class Unreal:
    """What is no real file: it has read() and seek(), and tells how it was read."""

    def __init__(self, data, fails_at=None):
        self.file = io.BytesIO(data)
        self.sizes = []
        self.fails_at = fails_at

    def seek(self, offset):
        self.file.seek(offset)

    def read(self, size):
        self.sizes.append(size)
        if self.fails_at is not None and self.file.tell() >= self.fails_at:
            raise RuntimeError("read fails")
        return self.file.read(size)


SOURCES = {
    "real": lambda path: path.open("rb"),
    "unbuffered": lambda path: path.open("rb", buffering=0),
    "BytesIO": lambda path: io.BytesIO(path.read_bytes()),
    "unreal": lambda path: Unreal(path.read_bytes()),
}


@pytest.fixture(params=SOURCES)
def source(request, path):
    """A file object of each kind that holds DATA."""
    made = SOURCES[request.param](path)
    yield made
    if hasattr(made, "close"):
        made.close()


@pytest.fixture(params=["plain", "TLS"])
def opened(request, serve, serve_tls):
    """A client and the transport of its connection."""
    client, protocol = (serve if request.param == "plain" else serve_tls)(Recording).open()
    return client, protocol.transport


def test_a_file_is_sent_in_order_with_what_is_written(opened, source):
    client, transport = opened
    transport.write(b"before")
    future = transport.sendfile(source)
    transport.write(b"after")
    again = transport.sendfile(source, len(DATA) - 10)
    transport.writelines([b"the", b"end"])
    wanted = b"before" + DATA + b"after" + DATA[-10:] + b"theend"
    assert_same_bytes(client.read_exactly(len(wanted)), wanted)
    assert isinstance(future, concurrent.futures.Future)
    assert future.result(WAIT_S) == len(DATA)
    assert again.result(WAIT_S) == 10


RANGES = [
    # offset, count, what is sent
    (0, None, slice(0, None)),
    (5, None, slice(5, None)),
    (0, 1, slice(0, 1)),
    (300_001, 300_000, slice(300_001, 600_001)),
    (len(DATA) - 5, 5, slice(-5, None)),
    (len(DATA) - 5, 6, slice(-5, None)),
    (0, 2**63 - 1, slice(0, None)),
    (len(DATA), None, slice(0, 0)),
    (len(DATA) + 1, 10, slice(0, 0)),
    (2**63 - 1, 2**63 - 1, slice(0, 0)),
]


@pytest.mark.parametrize("offset, count, sent", RANGES)
@pytest.mark.parametrize("kind", ["real", "BytesIO"])
def test_a_range_of_a_file_is_sent_as_far_as_there_is_one(serve, path, kind, offset, count, sent):
    client, protocol = serve(Recording).open()
    with SOURCES[kind](path) as file:
        future = protocol.transport.sendfile(file, offset, count)
        protocol.transport.write(b"!")
        wanted = DATA[sent] + b"!"
        assert_same_bytes(client.read_exactly(len(wanted)), wanted)
        assert future.result(WAIT_S) == len(wanted) - 1


@pytest.mark.parametrize("kind", SOURCES)
def test_an_empty_file_sends_nothing_and_is_done(opened, tmp_path, kind):
    client, transport = opened
    (tmp_path / "empty").touch()
    empty = SOURCES[kind](tmp_path / "empty")
    future = transport.sendfile(empty)
    assert future.result(WAIT_S) == 0
    if hasattr(empty, "close"):
        empty.close()
    transport.write(b"!")
    assert client.read_exactly(1) == b"!"


def test_the_position_of_a_real_file_counts_for_nothing_and_stays(serve, serve_tls, path):
    for make in (serve, serve_tls):
        client, protocol = make(Recording).open()
        with path.open("rb") as file:
            assert file.read(100) == DATA[:100]
            future = protocol.transport.sendfile(file, 50, 1000)
            assert client.read_exactly(1000) == DATA[50:1050]
            assert future.result(WAIT_S) == 1000
            assert file.tell() == 100
            assert file.read(10) == DATA[100:110]


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
def test_a_real_file_may_be_closed_and_deleted_at_once(serve, serve_tls, path, tls):
    client, protocol = (serve_tls if tls else serve)(Recording).open()
    with path.open("rb") as file:
        future = protocol.transport.sendfile(file)
    path.unlink()
    assert_same_bytes(client.read_exactly(len(DATA)), DATA)
    assert future.result(WAIT_S) == len(DATA)


@pytest.mark.python("gzip is Python's")
def test_what_decompresses_sends_what_it_reads(serve, tmp_path):
    """Its descriptor is that of the compressed file."""
    client, protocol = serve(Recording).open()
    path = tmp_path / "file.gz"
    path.write_bytes(gzip.compress(DATA, 1))
    for offset in (0, 1000):
        with gzip.open(path) as file:
            future = protocol.transport.sendfile(file, offset)
            assert_same_bytes(client.read_exactly(len(DATA) - offset), DATA[offset:])
            assert future.result(WAIT_S) == len(DATA) - offset


@pytest.mark.python("tempfile is Python's")
def test_a_temporary_file_is_sent(serve):
    """Windows deletes it with its handle, and may open it no second time."""
    client, protocol = serve(Recording).open()
    with tempfile.TemporaryFile() as file:
        file.write(DATA)
        file.flush()
        future = protocol.transport.sendfile(file)
        assert_same_bytes(client.read_exactly(len(DATA)), DATA)
        assert future.result(WAIT_S) == len(DATA)


def test_what_grows_is_sent_as_far_as_it_was_when_its_turn_came(serve, large):
    path, data = large
    client, protocol = serve(Recording).open()
    with path.open("rb") as file:
        future = protocol.transport.sendfile(file)
        transport = protocol.transport
        # A first byte: its turn has come, and its end has been looked up.
        assert client.read_exactly(1) == data[:1]
        with path.open("ab") as more:
            more.write(b"not sent")
        transport.write(b"the end")
        assert_same_bytes(client.read_exactly(len(data) + 6), data[1:] + b"the end")
        assert future.result(WAIT_S) == len(data)


@pytest.mark.parametrize("kind", ["serve", "serve_tls"])
def test_a_file_that_is_truncated_meanwhile_ends_there(request, large, kind):
    path, data = large
    client, protocol = request.getfixturevalue(kind)(Recording).open()
    transport = protocol.transport
    with path.open("rb") as file:
        future = transport.sendfile(file)
        transport.write(b"the end")
        transport.close()
        assert client.read_exactly(1) == data[:1]
        os.truncate(path, 1000)
        got = data[:1] + client.read_until_gone()
    protocol.wait_for("connection_lost")
    if protocol.lost_with is None:
        sent = future.result(WAIT_S)
        assert 1000 <= sent < len(data)
        assert_same_bytes(got, data[:sent] + b"the end")
    else:
        # In the midst of a TransmitFile, which Windows may let fail.
        assert isinstance(future.exception(WAIT_S), OSError)
        assert data.startswith(got)


@pytest.mark.parametrize(
    "wrong",
    [
        (TypeError, "file must be a file object", "name"),
        (TypeError, "file must be a file object", b"bytes"),
        (TypeError, "file must be a file object", 3),
        (TypeError, "file must be a file object", None),
        (ValueError, "file must be open in binary mode", io.StringIO("text")),
    ],
    ids=str,
)
def test_what_is_no_binary_file_is_refused(serve, wrong):
    error, text, file = wrong
    client, protocol = serve(Recording).open()
    with pytest.raises(error, match=text):
        protocol.transport.sendfile(file)
    protocol.transport.write(b"fine")
    assert client.read_exactly(4) == b"fine"


def test_a_file_that_cannot_be_read_is_refused(serve, path):
    _, protocol = serve(Recording).open()
    sendfile = protocol.transport.sendfile
    with path.open("rb") as closed:
        pass
    with pytest.raises(ValueError, match="file must be open, got a closed one"):
        sendfile(closed)
    closed = io.BytesIO()
    closed.close()
    with pytest.raises(ValueError, match="file must be open, got a closed one"):
        sendfile(closed)
    with path.open("ab") as file, pytest.raises(ValueError, match="open for reading"):
        sendfile(file)
    with path.open() as file, pytest.raises(ValueError, match="binary mode"):
        sendfile(file)


@pytest.mark.parametrize(
    "offset, count, error, text",
    [
        (-1, None, ValueError, "offset must be 0 to"),
        (1.5, None, TypeError, "offset must be an integer, got 1.5"),
        (None, None, TypeError, "offset must be an integer, got None"),
        (2**63, None, ValueError, "offset must be 0 to"),
        (0, 0, ValueError, "count must be 1 to"),
        (0, -1, ValueError, "count must be 1 to"),
        (0, "1", TypeError, "count must be an integer, got '1'"),
    ],
)
def test_a_range_that_is_none_is_refused(serve, path, offset, count, error, text):
    _, protocol = serve(Recording).open()
    with path.open("rb") as file, pytest.raises(error, match=text):
        protocol.transport.sendfile(file, offset, count)


class Stream:
    """What can only be read on."""

    def __init__(self, data):
        self.file = io.BytesIO(data)

    def read(self, size):
        return self.file.read(min(size, 1000))


def test_what_cannot_seek_is_sent_from_where_it_stands(serve):
    client, protocol = serve(Recording).open()
    stream = Stream(DATA)
    assert stream.read(5) == DATA[:5]
    future = protocol.transport.sendfile(stream, count=5000)
    assert client.read_exactly(5000) == DATA[5:5005]
    assert future.result(WAIT_S) == 5000
    with pytest.raises(ValueError, match=r"offset must be 0 for a file without seek\(\)"):
        protocol.transport.sendfile(stream, 1)


@pytest.mark.parametrize(
    "read, error, text",
    [
        (lambda size: "text", TypeError, r"file.read\(\) must return bytes, got str"),
        (lambda size: None, TypeError, r"file.read\(\) must return bytes, got NoneType"),
        (lambda size: bytes(size + 1), ValueError, "must return no more"),
    ],
)
def test_a_file_that_reads_wrongly_ends_its_connection(serve, read, error, text):
    client, protocol = serve(Recording).open()
    stream = Stream(b"")
    stream.read = read
    future = protocol.transport.sendfile(stream)
    with pytest.raises(error, match=text):
        future.result(WAIT_S)
    assert client.read_until_gone() == b""
    protocol.wait_for("connection_lost")
    assert protocol.lost_with is future.exception()


def test_a_file_that_fails_in_the_midst_ends_its_connection(opened):
    client, transport = opened
    protocol = transport.get_protocol()
    future = transport.sendfile(Unreal(DATA, fails_at=len(DATA) // 2))
    transport.write(b"what must not follow half a file")
    with pytest.raises(RuntimeError, match="read fails"):
        future.result(WAIT_S)
    assert DATA.startswith(client.read_until_gone())
    protocol.wait_for("connection_lost")
    assert protocol.lost_with is future.exception()


def test_close_sends_the_file_first(opened, source):
    client, transport = opened
    protocol = transport.get_protocol()
    future = transport.sendfile(source)
    transport.write(b"the end")
    transport.close()
    assert_same_bytes(client.read_to_end(), DATA + b"the end")
    assert future.result(WAIT_S) == len(DATA)
    client.close()
    protocol.wait_for("connection_lost")
    assert protocol.lost_with is None


def test_write_eof_comes_after_the_file(serve, source):
    client, protocol = serve(Recording).open()
    future = protocol.transport.sendfile(source)
    protocol.transport.write_eof()
    assert_same_bytes(client.read_to_end(), DATA)
    assert future.result(WAIT_S) == len(DATA)
    client.send(b"still read")
    protocol.wait_for_data(10)


@pytest.mark.parametrize("kind", ["real", "BytesIO"])
def test_abort_ends_the_files_that_wait_and_the_one_under_way(serve, large, kind):
    path, _ = large
    client, protocol = serve(Recording).open()
    transport = protocol.transport
    with SOURCES[kind](path) as file:
        futures = [transport.sendfile(file), transport.sendfile(file)]
        assert client.read_exactly(1)
        transport.abort()
        for future in futures:
            assert isinstance(future.exception(WAIT_S), ConnectionAbortedError)
    protocol.wait_for("connection_lost")
    assert protocol.lost_with is None
    assert client.read_until_gone() is not None


@pytest.mark.parametrize("kind", ["real", "BytesIO"])
def test_a_peer_that_resets_ends_the_file_with_the_error_that_the_protocol_gets(serve, large, kind):
    path, _ = large
    client, protocol = serve(Recording).open()
    with SOURCES[kind](path) as file:
        future = protocol.transport.sendfile(file)
        assert client.read_exactly(1)
        client.reset()
        error = future.exception(WAIT_S)
    protocol.wait_for("connection_lost")
    assert isinstance(error, ConnectionError)
    assert error.winerror == protocol.lost_with.winerror


def test_the_stop_of_the_server_sends_the_file(serve, path):
    served = serve(Recording)
    client, protocol = served.open()
    with path.open("rb") as file:
        future = protocol.transport.sendfile(file)
        served.server.close()
        assert_same_bytes(client.read_to_end(), DATA)
        assert future.result(WAIT_S) == len(DATA)
    client.close()
    protocol.wait_for("connection_lost")


def test_after_the_end_no_file_is_taken(serve, path):
    client, protocol = serve(Recording).open()
    with path.open("rb") as file:
        protocol.transport.close()
        late = [protocol.transport.sendfile(file)]
        client.close()
        protocol.wait_for("connection_lost")
        late.append(protocol.transport.sendfile(file))
        for future in late:
            assert isinstance(future.exception(WAIT_S), ConnectionAbortedError)


def test_futures_are_done_before_connection_lost(serve, large):
    path, _ = large

    class Asks(Recording):
        futures = ()

        def on_lost(self, exc):
            self.done = [future.done() for future in self.futures]

    client, protocol = serve(Asks).open()
    with path.open("rb") as file:
        protocol.futures = [protocol.transport.sendfile(file) for _ in range(3)]
        client.reset()
        protocol.wait_for("connection_lost")
    assert protocol.done == [True] * 3


def test_a_future_that_is_cancelled_stops_nothing(serve, path):
    client, protocol = serve(Recording).open()
    held = threading.Event()
    protocol.transport.call_soon(held.wait, WAIT_S)
    with path.open("rb") as file:
        future = protocol.transport.sendfile(file)
        assert future.cancel()
        held.set()
        assert_same_bytes(client.read_exactly(len(DATA)), DATA)
    wait_for_a_turn(protocol.transport)


def test_what_a_callback_of_the_future_raises_ends_nothing(serve, path, caplog):
    client, protocol = serve(Recording).open()
    with path.open("rb") as file:
        # Before it can be done: a callback that comes later is called by who has added it.
        protocol.transport.call_soon(
            lambda: protocol.transport.sendfile(file).add_done_callback(lambda future: 1 / 0)
        )
        assert_same_bytes(client.read_exactly(len(DATA)), DATA)
        wait_until(lambda: "ZeroDivisionError" in caplog.text, "the line in the log")
    protocol.transport.write(b"fine")
    assert client.read_exactly(4) == b"fine"


@pytest.mark.parametrize("where", ["a callback", "a thread", "another connection's callback"])
def test_a_file_is_sent_from_anywhere(serve, path, where):
    class Sends(Recording):
        def on_data(self, data):
            sender.sent = sender.transport.sendfile(file)

    served = serve(Sends)
    client, sender = served.open()
    with path.open("rb") as file:
        if where == "a thread":
            run_together(lambda: sender.on_data(b""))
        elif where == "a callback":
            client.send(b"go")
        else:
            other_client, other = served.open()
            other_client.send(b"go")
            other.wait_for("data_received")
        assert_same_bytes(client.read_exactly(len(DATA)), DATA)
        wait_for_a_turn(sender.transport)
        assert sender.sent.result(WAIT_S) == len(DATA)


@contextlib.contextmanager
def held_worker(transport):
    """Nothing is sent meanwhile, where there is one worker."""
    begun, over = threading.Event(), threading.Event()
    transport.call_soon(lambda: (begun.set(), over.wait(WAIT_S)))
    wait_for_event(begun, "the callback")
    yield
    over.set()


@pytest.mark.parametrize("kind", ["serve", "serve_tls"])
def test_what_is_left_of_a_file_counts_for_the_marks(request, large, kind):
    path, data = large
    client, protocol = request.getfixturevalue(kind)(Recording, workers=1).open()
    transport = protocol.transport
    with path.open("rb") as file, held_worker(transport):
        # All that there is, as much as is asked for, and as much as there is beyond an offset.
        sizes = [len(data), 1000, 500]
        futures = [
            transport.sendfile(file),
            transport.sendfile(file, 5, 1000),
            transport.sendfile(file, len(data) - 500, 10_000),
            transport.sendfile(file, len(data) + 1),
        ]
        assert transport.get_write_buffer_size() == sum(sizes)
        transport.write(bytes(1000))
        assert transport.get_write_buffer_size() == sum(sizes) + 1000
    protocol.wait_for("pause_writing")
    assert transport.wait_writable(0) is False
    assert_same_bytes(client.read_exactly(len(data)), data)
    assert_same_bytes(client.read_exactly(1500), data[5:1005] + data[-500:])
    assert client.read_exactly(1000) == bytes(1000)
    assert [future.result(WAIT_S) for future in futures] == [*sizes, 0]
    protocol.wait_for("resume_writing")
    assert transport.wait_writable(WAIT_S) is True
    # The last of it may have come before the packet that says so.
    wait_until(lambda: transport.get_write_buffer_size() == 0, "an empty queue")
    assert protocol.events.count("pause_writing") == 1


@pytest.mark.parametrize("become", ["shorter", "longer"])
def test_a_file_counts_for_what_it_is_when_its_turn_has_come(serve, large, become):
    path, data = large
    client, protocol = serve(Recording, workers=1).open()
    transport = protocol.transport
    with path.open("r+b") as file, held_worker(transport):
        future = transport.sendfile(file)
        assert transport.get_write_buffer_size() == len(data)
        if become == "shorter":
            file.truncate(1000)
        else:
            file.seek(0, 2)
            file.write(bytes(5000))
            file.flush()
    sent = data[:1000] if become == "shorter" else data + bytes(5000)
    assert_same_bytes(client.read_exactly(len(sent)), sent)
    assert future.result(WAIT_S) == len(sent)
    assert transport.wait_writable(WAIT_S) is True
    assert transport.get_write_buffer_size() == 0


def test_a_file_whose_size_nobody_knows_does_not_pause_who_writes(opened, path):
    client, transport = opened
    future = transport.sendfile(io.BytesIO(DATA))
    assert_same_bytes(client.read_exactly(len(DATA)), DATA)
    assert future.result(WAIT_S) == len(DATA)
    assert "pause_writing" not in transport.get_protocol().events


def test_what_is_behind_a_file_meets_the_limit_and_the_file_does_not(serve, large):
    path, data = large
    client, protocol = serve(Recording, max_write_buffer=100_000).open()
    transport = protocol.transport
    with path.open("rb") as file:
        future = transport.sendfile(file)
        protocol.wait_for("pause_writing")
        wait_for_a_turn(transport)
        transport.write(bytes(70_000))
        wait_for_a_turn(transport)
        assert protocol.lost_with is None and not transport.is_closing()
        transport.write(bytes(30_001))
        protocol.wait_for("connection_lost")
        assert protocol.lost_with.winerror == 10055
        assert future.exception(WAIT_S).winerror == 10055
    assert data.startswith(client.read_until_gone())


def test_a_file_is_read_only_as_the_peer_takes_it(serve, large):
    _, data = large
    client, protocol = serve(Recording).open()
    file = Unreal(data)
    future = protocol.transport.sendfile(file)
    held = client.read_exactly(1)
    # The rest of it goes nowhere while nobody reads; a receive that comes back shows that the
    # worker is free.
    client.send(b"hello")
    protocol.wait_for_data(5)
    assert sum(file.sizes) < len(data)
    assert max(file.sizes) <= 65536
    assert_same_bytes(held + client.read_exactly(len(data) - 1), data)
    assert future.result(WAIT_S) == len(data)


def test_what_is_sent_of_a_file_is_told_and_counted(serve, path):
    served = serve(CountingSent)
    client, protocol = served.open()
    with path.open("rb") as file:
        protocol.transport.write(b"12345")
        protocol.transport.sendfile(file)
        protocol.transport.sendfile(io.BytesIO(DATA))
        assert len(client.read_exactly(5 + 2 * len(DATA))) == 5 + 2 * len(DATA)
    total = 5 + 2 * len(DATA)
    protocol.wait_until(lambda: protocol.finished["sent"] == total, "data_sent")
    assert served.server.stats()["bytes_sent"] == total
    wait_for_figure(served.server, "files_closed", 2)
    assert served.server.stats()["files_opened"] == 2


def test_many_files_on_many_connections_from_one_file_object(serve, path):
    served = serve(Recording)
    pairs = [served.open() for _ in range(6)]
    offsets = [0, 1, 100_000, 400_000, len(DATA) - 1]
    wanted = b"".join(DATA[offset:] + b"%d" % offset for offset in offsets)
    with path.open("rb") as file:
        futures = []
        for offset in offsets:
            for _, protocol in pairs:
                futures.append(protocol.transport.sendfile(file, offset))
                protocol.transport.write(b"%d" % offset)
        got = {}
        run_together(
            *(
                lambda number=number, client=client: got.update(
                    {number: client.read_exactly(len(wanted))}
                )
                for number, (client, _) in enumerate(pairs)
            )
        )
        for data in got.values():
            assert_same_bytes(data, wanted)
        assert sum(future.result(WAIT_S) for future in futures) == 6 * sum(
            len(DATA) - offset for offset in offsets
        )


@pytest.mark.once("the engine's")
@pytest.mark.slow("reads for seconds, as slow peers do")
def test_a_slow_peer_that_takes_a_file_is_not_given_up(serve, path):
    """Each TransmitFile is as long as what it takes in the timeout: it shows life within that."""
    served = serve(Recording, close_timeout_s=1.0)
    futures = []

    def begin():
        client, protocol = served.open()
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * KB)
        sock = protocol.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32 * KB)
        futures.append(protocol.transport.sendfile(file))
        protocol.transport.close()
        return client, protocol

    with path.open("rb") as file:
        assert_all_comes_to_a_slow_reader(begin, DATA, 0.15, 0.5)
        assert futures[-1].result(WAIT_S) == len(DATA)


def test_tls_cannot_begin_in_the_midst_of_a_file(serve, large):
    path, data = large

    class Starts(Recording):
        def on_data(self, _):
            with path.open("rb") as file:
                self.sent = self.transport.sendfile(file)
            try:
                self.transport.start_tls(server_context())
            except ConnectionAbortedError as error:
                self.transport.write(str(error).encode())

    client, protocol = serve(Starts).open()
    client.send(b"go")
    assert_same_bytes(client.read_exactly(len(data)), data)
    refused = b"the connection is closing, or sends a file: TLS cannot begin"
    assert client.read_exactly(len(refused)) == refused
    assert protocol.sent.result(WAIT_S) == len(data)


def test_a_file_after_starttls_is_encrypted(serve, path):
    class Starts(Recording):
        def on_data(self, data):
            if data == b"STARTTLS":
                self.transport.write(b"ready")
                self.transport.start_tls(server_context())
                # Before the handshake: it waits for that.
                self.transport.write(b"hello")
                with path.open("rb") as file:
                    self.sent = self.transport.sendfile(file)
                self.transport.write(b"after")

    client, protocol = serve(Starts).open()
    client.send(b"STARTTLS")
    assert client.read_exactly(5) == b"ready"
    secure = TlsClient(None, client_context(), sock=client.sock)
    wanted = b"hello" + DATA + b"after"
    assert_same_bytes(secure.read_exactly(len(wanted)), wanted)
    assert protocol.sent.result(WAIT_S) == len(DATA)


def test_a_handshake_that_never_comes_ends_the_file(serve, path):
    class Starts(Recording):
        def on_data(self, data):
            if data == b"STARTTLS":
                self.transport.write(b"ready")
                self.transport.start_tls(server_context())
                with path.open("rb") as file:
                    self.sent = self.transport.sendfile(file)

    client, protocol = serve(Starts).open()
    client.send(b"STARTTLS")
    assert client.read_exactly(5) == b"ready"
    client.send(b"this is no TLS, and nothing like it")
    protocol.wait_for("connection_lost")
    assert isinstance(protocol.sent.exception(WAIT_S), OSError)
    client.read_until_gone()


def test_a_close_in_the_handshake_ends_the_file_at_once(serve, path):
    class Starts(Recording):
        def on_data(self, data):
            self.transport.start_tls(server_context())
            with path.open("rb") as file:
                self.sent = self.transport.sendfile(file)
            self.transport.close()

    client, protocol = serve(Starts, close_timeout_s=3600).open()
    client.send(b"STARTTLS")
    protocol.wait_for("connection_lost")
    assert isinstance(protocol.sent.exception(WAIT_S), OSError)
    client.read_until_gone()


def test_what_was_written_to_a_file_and_not_flushed_is_of_the_file(serve, tmp_path):
    class Sends(Recording):
        def on_made(self):
            with (tmp_path / "new").open("w+b") as file:
                file.write(b"just written")
                self.sent = self.transport.sendfile(file)

    client, protocol = serve(Sends).open()
    assert client.read_exactly(12) == b"just written"
    assert protocol.sent.result(WAIT_S) == 12


def test_a_connection_that_nobody_reads_frees_its_worker(serve, large):
    """While a file waits for its peer the worker serves others."""
    path, _ = large
    served = serve(Recording, workers=1)
    _, stuck = served.open()
    with path.open("rb") as file:
        stuck.transport.sendfile(file)
        stuck.transport.sendfile(io.BytesIO(bytes(1 << 20)))
        client, other = served.open()
        client.send(b"hello")
        other.wait_for_data(5)
    stuck.transport.abort()


SENDS = """
import asyncio, socket, sys
import iocpx

class Sends(asyncio.Protocol):
    def connection_made(self, transport):
        with open(sys.argv[1], "rb") as file:
            self.sent = transport.sendfile(file)

server = iocpx.Server(Sends, "127.0.0.1")
server.start()
sock = socket.create_connection(server.address)
assert sock.recv(1)
print("sent", flush=True)
"""


@pytest.mark.python("the exit is Python's")
def test_the_program_ends_while_a_file_is_sent(start_script, large):
    """At the exit of the interpreter connections get a second to finish."""
    path, _ = large
    script = start_script(SENDS, str(path))
    assert script.read_line() == "sent"
    assert_quiet_end(script)


def test_a_client_of_a_stopped_server_has_its_files_given_back(serve, large):
    path, _ = large
    served = serve(Recording, close_timeout_s=0.0)
    client, protocol = served.open()
    lost = threading.Event()
    with path.open("rb") as file:
        future = protocol.transport.sendfile(file)
        future.add_done_callback(lambda _: lost.set())
        served.server.close()
        wait_for_event(lost, "the future's end")
        assert isinstance(future.exception(), OSError)
    client.close()
