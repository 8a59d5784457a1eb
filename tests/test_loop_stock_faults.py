"""What asyncio's own loop does wrong on Windows, and iocpx's does not.

Each test names CPython's issue; those for 156333, 149123, 116773, 156365, 156366 and one for 127859
are in test_loop_running.py, test_loop_tcp.py and test_loop_scheduling.py.

Inherited is 143249: _overlapped's C code never releases the buffer of a WSASendTo, WSARecvFrom or
WSARecvFromInto that fails to start (mended in later versions of Python 3.13 and 3.14), and Python
code has no hold of it.
"""

import array
import asyncio
import contextlib
import ctypes
import errno
import gc
import os
import socket
import ssl
import sys
import weakref
from pathlib import Path

import pytest
from clients import Client
from loops import run, running_loop
from sockets import free_port
from waiting import WAIT_S

from iocpx import _tcp_loop
from iocpx._errors import os_error
from iocpx._tcp_loop import open_transport

CERTIFICATE = Path(__file__).parent / "data" / "localhost.pem"
HOST = "127.0.0.1"
GIB = 2**30


@pytest.fixture
def loop():
    with running_loop() as loop:
        yield loop


def complete(loop, main):
    """Run a coroutine on the loop, within the time that a test has."""

    async def limited():
        return await asyncio.wait_for(main, WAIT_S)

    return loop.run_until_complete(limited())


# -- accepting -------------------------------------------------------------------------------------


async def echo(reader, writer):
    with contextlib.suppress(ConnectionError):
        writer.write(await reader.read())
        writer.close()
        await writer.wait_closed()


async def echo_once(address):
    reader, writer = await asyncio.open_connection(*address)
    writer.write(b"hello")
    writer.write_eof()
    assert await reader.read() == b"hello"
    writer.close()
    await writer.wait_closed()


def test_accepts_that_fail_do_not_end_the_listener_cpython_93821(loop):
    """By ERROR_OPERATION_ABORTED, all that are pending."""
    cancel = ctypes.WinDLL("kernel32", use_last_error=True).CancelIoEx
    cancel.argtypes = [ctypes.c_void_p, ctypes.c_void_p]

    async def main():
        server = await asyncio.start_server(echo, HOST, 0)
        listener = server.sockets[0]
        for _ in range(3):
            await echo_once(listener.getsockname())
            assert cancel(listener.fileno(), None)
        await echo_once(listener.getsockname())
        server.close()
        await server.wait_closed()

    complete(loop, main())
    assert loop.complaints == []


def test_clients_that_vanish_in_the_backlog_do_not_end_the_listener_cpython_93821(loop):
    async def main():
        server = await asyncio.start_server(echo, HOST, 0)
        address = server.sockets[0].getsockname()
        for _ in range(5):
            # More than are accepted while the loop's thread is here.
            clients = [Client(address) for _ in range(50)]
            for client in clients:
                client.reset()
            await echo_once(address)
        server.close()
        await server.wait_closed()

    complete(loop, main())
    assert loop.complaints == []


# -- sock_recv() and its kin -----------------------------------------------------------------------


@contextlib.contextmanager
def two_datagram_sockets():
    with (
        socket.socket(type=socket.SOCK_DGRAM) as near,
        socket.socket(type=socket.SOCK_DGRAM) as far,
    ):
        for sock in (near, far):
            sock.bind((HOST, 0))
            sock.setblocking(False)
        yield near, far


since_3_11 = pytest.mark.skipif(
    not hasattr(asyncio.AbstractEventLoop, "sock_recvfrom_into"),
    reason="these methods came with Python 3.11",
)


@since_3_11
@pytest.mark.parametrize("nbytes", [9, 2**32 + 1, -1])
def test_no_more_is_received_than_the_buffer_takes_cpython_148808(loop, nbytes):
    async def main():
        # The buffer is a part of a larger one, so that nobody else's memory is written to.
        whole = bytearray(200)
        with two_datagram_sockets() as (near, far):
            far.sendto(b"x" * 100, near.getsockname())
            with pytest.raises(ValueError, match=r"nbytes is greater|negative buffersize"):
                await loop.sock_recvfrom_into(near, memoryview(whole)[:8], nbytes)
            assert whole == bytes(200)
            # It is still there, and a buffer that is as long as it is said takes it.
            received = await loop.sock_recvfrom_into(near, memoryview(whole), 100)
            assert received == (100, far.getsockname())
            assert whole == b"x" * 100 + bytes(100)

    complete(loop, main())


@since_3_11
def test_without_a_number_as_much_is_received_as_the_buffer_takes_cpython_148808(loop):
    async def main():
        # 100 items, 400 bytes.
        buffer = array.array("I", bytes(400))
        with two_datagram_sockets() as (near, far):
            far.sendto(b"x" * 400, near.getsockname())
            assert await loop.sock_recvfrom_into(near, buffer) == (400, far.getsockname())
            assert buffer.tobytes() == b"x" * 400

    complete(loop, main())


def test_nothing_is_received_into_a_buffer_that_cannot_be_written_to(loop):
    """Neither this _overlapped checks."""

    async def main():
        buffer = bytes(3)
        near, far = socket.socketpair()
        with near, far:
            near.setblocking(False)
            far.send(b"abc")
            with pytest.raises(TypeError, match="read-write"):
                await loop.sock_recv_into(near, buffer)
            assert buffer == bytes(3)
            assert await loop.sock_recv(near, 10) == b"abc"
        if hasattr(loop, "sock_recvfrom_into"):
            with two_datagram_sockets() as (near, far):
                far.sendto(b"abc", near.getsockname())
                with pytest.raises(TypeError, match="read-write"):
                    await loop.sock_recvfrom_into(near, buffer)
                assert buffer == bytes(3)
                assert await loop.sock_recvfrom(near, 10) == (b"abc", far.getsockname())

    complete(loop, main())


@since_3_11
def test_a_negative_size_of_a_datagram_is_refused_cpython_148808(loop):
    async def main():
        with two_datagram_sockets() as (near, far):
            far.sendto(b"x", near.getsockname())
            with pytest.raises(ValueError, match="negative buffersize"):
                await loop.sock_recvfrom(near, -1)
            assert await loop.sock_recvfrom(near, 10) == (b"x", far.getsockname())

    complete(loop, main())


def test_a_negative_size_of_a_stream_is_refused_cpython_148808(loop):
    async def main():
        near, far = socket.socketpair()
        with near, far:
            near.setblocking(False)
            far.send(b"abc")
            with pytest.raises(ValueError, match="negative buffersize"):
                await loop.sock_recv(near, -1)
            whole = bytearray(10)
            assert await loop.sock_recv_into(near, memoryview(whole)[:2]) == 2
            assert whole == b"ab" + bytes(8)
            assert await loop.sock_recv(near, 10) == b"c"

    complete(loop, main())


# -- datagram endpoints ----------------------------------------------------------------------------


class Datagrams(asyncio.DatagramProtocol):
    """Keeps what it is told."""

    def __init__(self):
        self.told = []
        self.changed = asyncio.Event()
        self.lost = asyncio.get_running_loop().create_future()

    def datagram_received(self, data, addr):
        self.told.append(data)
        self.changed.set()

    def error_received(self, exc):
        self.told.append(exc)
        self.changed.set()

    def connection_lost(self, exc):
        self.lost.set_result(exc)

    async def until(self, condition):
        while not condition(self.told):
            self.changed.clear()
            await self.changed.wait()


async def open_endpoint(remote=None):
    """An endpoint, connected to the remote address or not, and its protocol."""
    loop = asyncio.get_running_loop()
    local = None if remote else (HOST, 0)
    return await loop.create_datagram_endpoint(Datagrams, local, remote)


@contextlib.contextmanager
def receiver(address=(HOST, 0)):
    """A plain socket."""
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.settimeout(WAIT_S)
        sock.bind(address)
        yield sock


either_endpoint = pytest.mark.parametrize("connected", [False, True], ids=["bound", "connected"])


@either_endpoint
def test_what_is_queued_is_sent_after_close_cpython_156920(loop, connected):
    async def main():
        with receiver() as far:
            address = far.getsockname()
            transport, protocol = await open_endpoint(address if connected else None)
            sent = [b"%d" % number for number in range(10)]
            for data in sent:
                transport.sendto(data, None if connected else address)
            assert transport.get_write_buffer_size() > 0
            transport.close()
            assert transport.is_closing()
            transport.sendto(b"too late", None if connected else address)
            assert await protocol.lost is None
            assert [far.recv(100) for _ in sent] == sent
            far.setblocking(False)
            with pytest.raises(BlockingIOError):
                far.recv(100)
            assert transport.get_write_buffer_size() == 0

    complete(loop, main())
    assert loop.complaints == []


@either_endpoint
def test_what_is_queued_is_not_sent_after_abort_cpython_156920(loop, connected):
    async def main():
        with receiver() as far:
            address = far.getsockname()
            transport, protocol = await open_endpoint(address if connected else None)
            for number in range(10):
                transport.sendto(b"%d" % number, None if connected else address)
            transport.close()
            transport.abort()
            assert await protocol.lost is None
            assert transport.get_write_buffer_size() == 0
            transport.sendto(b"too late", None if connected else address)
            with receiver() as near:
                near.sendto(b"last", address)
            received = []
            while b"last" not in received:
                received.append(far.recv(100))
            # The first was the kernel's already.
            assert set(received) <= {b"0", b"last"}

    complete(loop, main())
    assert loop.complaints == []


@either_endpoint
@pytest.mark.parametrize("close", [False, True], ids=["open", "closed"])
def test_after_one_that_cannot_be_sent_the_others_are_cpython_156698(loop, connected, close):
    async def main():
        with receiver() as far:
            address = far.getsockname()
            transport, protocol = await open_endpoint(address if connected else None)
            for data in (b"a", b"too long" * 10_000, b"b", b"c"):
                transport.sendto(data, None if connected else address)
            if close:
                transport.close()
            far.setblocking(False)
            assert [await loop.sock_recv(far, 100) for _ in range(3)] == [b"a", b"b", b"c"]
            (error,) = protocol.told
            assert isinstance(error, OSError) and error.winerror == 10040
            transport.close()
            assert await protocol.lost is None

    complete(loop, main())
    assert loop.complaints == []


def test_after_nobody_listened_an_endpoint_receives_cpython_91227(loop):
    """A connected one, of which Wine tells it too, by another code (1225) than Windows (1234).

    The answer is there before the loop looks, since Wine wakes no receive that is posted later.
    """

    async def main():
        address = (HOST, free_port())
        transport, protocol = await open_endpoint(address)
        near = transport.get_extra_info("sockname")
        # By now the first receive is pending.
        transport.sendto(b"is anybody there?")
        with receiver() as other:
            # What is sent afterwards comes afterwards: that one was refused.
            other.sendto(b"x", other.getsockname())
            assert other.recv(100) == b"x"
        with receiver(address) as far:
            far.sendto(b"yes", near)
            await protocol.until(lambda told: b"yes" in told and len(told) > 1)
            # Windows tells one receive, and Wine each that is pending.
            *errors, answer = protocol.told
            assert all(isinstance(error, ConnectionError) for error in errors)
            assert answer == b"yes"
            transport.sendto(b"good")
            assert far.recv(100) == b"good"
        transport.close()
        assert await protocol.lost is None

    complete(loop, main())
    assert loop.complaints == []


def test_the_error_for_nobody_there_is_the_connections_reset():
    error = os_error(1234, "receive")
    assert isinstance(error, ConnectionResetError)
    assert error.errno == errno.ECONNRESET and error.winerror == 1234


# -- files -----------------------------------------------------------------------------------------


@pytest.fixture
def large_file(tmp_path):
    """5 GiB, of which the first 100 bytes are there and all others are zeros, and no block."""
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.write(bytes(range(1, 101)))
        file.truncate(5 * GIB)
    yield path
    path.unlink()


async def connected_pair():
    """A transport and the reader of its other end, with what closes both."""
    loop = asyncio.get_running_loop()
    accepted = loop.create_future()
    server = await asyncio.start_server(lambda *ends: accepted.set_result(ends), HOST, 0)
    _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    reader, other = await accepted

    async def close():
        writer.close()
        other.close()
        await writer.wait_closed()
        server.close()

    return writer.transport, reader, close


OFFSETS = [
    # offset, count, what is sent
    (0, 10, bytes(range(1, 11))),
    (20, 10, bytes(range(21, 31))),
    (2 * GIB + 20, 10, bytes(10)),
    (4 * GIB + 20, 10, bytes(10)),
    (5 * GIB - 10, None, bytes(10)),
    (5 * GIB - 10, 3 * GIB, bytes(10)),
]


@pytest.mark.parametrize("offset, count, sent", OFFSETS)
def test_a_file_is_sent_from_the_offset_cpython_150142_150107(
    loop, large_file, offset, count, sent
):
    """Wherever the file's position was, and there it ends."""

    async def main():
        transport, reader, close = await connected_pair()
        with large_file.open("rb") as file:
            assert file.read(50) == bytes(range(1, 51))
            assert await loop.sendfile(transport, file, offset, count) == len(sent)
            assert file.tell() == offset + len(sent)
        assert await reader.readexactly(len(sent)) == sent
        await close()

    complete(loop, main())
    assert loop.complaints == []


@pytest.mark.parametrize("offset, count, sent", OFFSETS)
@pytest.mark.parametrize("native", [True, False], ids=["TransmitFile", "fallback"])
def test_a_file_is_sent_to_a_socket_from_the_offset_cpython_150142_150107(
    loop, large_file, monkeypatch, native, offset, count, sent
):
    """TransmitFile may look at the file's position, in place of the offset, where Wine does not:
    so the position has to be right too when it is called, of the file itself and not of its
    buffer."""
    positions = []
    sendfile = loop._proactor.sendfile

    def positioned(sock, file, *arguments):
        future = sendfile(sock, file, *arguments)
        positions.append(os.lseek(file.fileno(), 0, os.SEEK_CUR))
        # And TransmitFile may leave it elsewhere.
        future.add_done_callback(lambda _: os.lseek(file.fileno(), 77, os.SEEK_SET))
        return future

    async def main():
        monkeypatch.setattr(loop._proactor, "sendfile", positioned)
        near, far = socket.socketpair()
        with near, far, large_file.open("rb") as file:
            near.setblocking(False)
            far.settimeout(WAIT_S)
            assert file.read(50) == bytes(range(1, 51))
            source = file if native else Unnumbered(file)
            assert await loop.sock_sendfile(near, source, offset, count) == len(sent)
            assert file.tell() == offset + len(sent)
            assert far.recv(100) == sent
            after = bytes(range(offset + len(sent) + 1, 101))[:30] if offset < 100 else bytes(30)
            assert file.read(30) == (after if offset < 5 * GIB - 10 else b"")
        assert positions == ([offset] if native else [])

    complete(loop, main())


class Unnumbered:
    """A file that has no descriptor, as far as can be seen."""

    def __init__(self, file):
        self.seek = file.seek
        self.readinto = file.readinto


def test_a_file_is_sent_in_parts_that_transmitfile_takes_cpython_150142(
    loop, large_file, monkeypatch
):
    """At most 2,147,483,646 bytes, says Microsoft; Wine takes more, so that nothing is sent."""
    parts = []

    def sendfile(sock, file, offset, count):
        parts.append((offset, count))
        future = loop.create_future()
        future.set_result(count)
        return future

    async def main():
        monkeypatch.setattr(loop._proactor, "sendfile", sendfile)
        near, far = socket.socketpair()
        with near, far, large_file.open("rb") as file:
            near.setblocking(False)
            assert await loop.sock_sendfile(near, file, 10) == 5 * GIB - 10
            assert file.tell() == 5 * GIB
            assert await loop.sock_sendfile(near, file, 20, 3 * GIB) == 3 * GIB
            assert file.tell() == 3 * GIB + 20

    complete(loop, main())
    ends = [offset + count for offset, count in parts]
    assert [offset for offset, _ in parts] == [10, *ends[:2], 20, *ends[3:4]]
    assert ends[2] == 5 * GIB and ends[4] == 3 * GIB + 20 and len(ends) == 5
    assert max(count for _, count in parts) <= 2**31 - 2


def test_the_position_tells_how_much_was_sent_before_an_error_cpython_150142(
    loop, large_file, monkeypatch
):
    calls = []

    def sendfile(sock, file, offset, count):
        calls.append(offset)
        future = loop.create_future()
        if len(calls) == 1:
            future.set_result(count)
        else:
            future.set_exception(ConnectionResetError())
        return future

    async def main():
        monkeypatch.setattr(loop._proactor, "sendfile", sendfile)
        near, far = socket.socketpair()
        with near, far, large_file.open("rb") as file:
            near.setblocking(False)
            with pytest.raises(ConnectionResetError):
                await loop.sock_sendfile(near, file, 10)
            assert file.tell() == calls[1]
            assert 10 < file.tell() < 5 * GIB

    complete(loop, main())


# -- TLS -------------------------------------------------------------------------------------------


def hello_of(context):
    """A client's side of TLS: its object, what comes for it, and what it has to send."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    side = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        side.do_handshake()
    return side, incoming, outgoing


async def step(function, reader, incoming, writer, outgoing):
    """Call it until it does not want more from the other side; what it returns."""
    while True:
        try:
            result = function()
        except ssl.SSLWantReadError:
            result = None
        writer.write(outgoing.read())
        if result is not None:
            return result
        data = await reader.read(65536)
        assert data != b"", "the server has closed"
        incoming.write(data)


@pytest.mark.parametrize("parts", ["all", "one", "most"])
def test_what_came_before_start_tls_is_not_lost_cpython_142352(parts):
    """A client sends a line, and the beginning of TLS behind it; of that, as much as the test says
    is in the StreamReader when the server reads the line.  More than 20 bytes are more than this
    reader likes, and it has paused its transport."""

    async def main():
        loop = asyncio.get_running_loop()
        server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server_context.load_cert_chain(CERTIFICATE)
        served = loop.create_future()

        async def serve(reader, writer):
            try:
                assert await reader.readline() == b"PROXY\n"
                while len(reader._buffer) < early:
                    await reader._wait_for_data("the test")
                assert len(reader._buffer) == early
                said.set()
                await writer.start_tls(server_context)
                writer.write((await reader.readline()).upper())
                await writer.drain()
                writer.close()
                await writer.wait_closed()
            except BaseException as exc:
                served.set_exception(exc)
            else:
                served.set_result(None)

        said = asyncio.Event()
        server = await asyncio.start_server(serve, HOST, 0, limit=10)
        side, incoming, outgoing = hello_of(ssl.create_default_context(cafile=CERTIFICATE))
        hello = outgoing.read()
        early = {"all": len(hello), "one": 1, "most": len(hello) - 1}[parts]
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"PROXY\n" + hello[:early])
        await said.wait()
        writer.write(hello[early:])
        ends = reader, incoming, writer, outgoing
        await step(lambda: side.do_handshake() or True, *ends)
        await step(lambda: side.write(b"secret\n"), *ends)
        assert await step(lambda: side.read(100), *ends) == b"SECRET\n"
        writer.close()
        await writer.wait_closed()
        await served
        server.close()
        await server.wait_closed()

    run(main())


def test_what_came_before_start_tls_and_is_no_tls_is_not_read_after_it_cpython_142352():
    """Nobody gets words into a connection that is taken for a safe one."""

    async def main():
        loop = asyncio.get_running_loop()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTIFICATE)
        failed = loop.create_future()

        async def serve(reader, writer):
            assert await reader.readline() == b"PROXY\n"
            if not reader._buffer:
                await reader._wait_for_data("the test")
            try:
                await writer.start_tls(context)
            except BaseException as exc:
                failed.set_result((exc, bytes(reader._buffer)))
            writer.close()
            # Which has the error once more, and somebody has to take it.
            with contextlib.suppress(OSError):
                await writer.wait_closed()

        server = await asyncio.start_server(serve, HOST, 0)
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"PROXY\n" + b"no TLS at all" * 10)
        exc, unread = await failed
        assert isinstance(exc, ssl.SSLError)
        assert unread == b""
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        server.close()
        await server.wait_closed()

    run(main())


@pytest.mark.parametrize(
    "how",
    [
        pytest.param(
            "create_connection",
            marks=pytest.mark.skipif(
                sys.version_info < (3, 14), reason="its own frame, which is asyncio's, is the cycle"
            ),
        ),
        "start_tls",
    ],
)
def test_a_client_that_refuses_the_certificate_leaves_no_cycle_cpython_159049(how, monkeypatch):
    made = []

    def remember(*arguments):
        transport = open_transport(*arguments)
        made.append(weakref.ref(transport))
        return transport

    async def fail(address):
        # It does not know the certificate.
        context = ssl.create_default_context()
        loop = asyncio.get_running_loop()
        try:
            if how == "create_connection":
                await loop.create_connection(
                    asyncio.Protocol, *address, ssl=context, server_hostname="localhost"
                )
            else:
                transport, protocol = await loop.create_connection(asyncio.Protocol, *address)
                await loop.start_tls(transport, protocol, context, server_hostname="localhost")
        except ssl.SSLCertVerificationError:
            return
        raise AssertionError("the certificate was taken")

    async def main():
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTIFICATE)
        refused = asyncio.Event()

        async def serve(_, writer):
            with contextlib.suppress(OSError):
                await writer.start_tls(context)
            writer.close()
            # Asked for: the collector of a free-threaded Python would find it untold.
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            refused.set()

        server = await asyncio.start_server(serve, HOST, 0)
        gc.collect()
        gc.disable()
        try:
            monkeypatch.setattr(_tcp_loop, "open_transport", remember)
            await fail(server.sockets[0].getsockname())
            await refused.wait()
            server.close()
            await server.wait_closed()
            assert [known() for known in made] == [None]
        finally:
            gc.enable()

    run(main())


# -- timers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["call_later", "call_at"])
def test_a_timer_is_not_early_by_a_microsecond_cpython_127859(loop, method):
    """The loop never waits here, since something is always ready: so it looks at the clock again
    and again, right before a timer is due and right after.  One that is called a microsecond early
    is seen so in hundreds of these 3,000."""
    early = []
    left = 3000
    time = loop.time
    handle = None
    asked = 0.0
    delay = 0.0

    def spin():
        if left:
            loop.call_soon(spin)
        else:
            loop.stop()

    def due():
        nonlocal left
        now = time()
        if now < handle.when() or now - asked < delay:
            early.append((handle.when() - now, delay))
        left -= 1
        if left:
            set_next()

    def set_next():
        nonlocal handle, asked, delay
        delay = 1e-5 + left % 97 * 1e-7
        asked = time()
        if method == "call_later":
            handle = loop.call_later(delay, due)
        else:
            handle = loop.call_at(asked + delay, due)

    loop.call_soon(set_next)
    loop.call_soon(spin)
    loop.run_forever()
    assert early == []
