"""Several loops in one process: one after the other, at once, beside a threaded server; and what
outlives its loop, or comes when it is closed."""

import asyncio
import concurrent.futures
import contextlib
import ctypes
import gc
import inspect
import logging
import msvcrt
import os
import socket
import ssl
import sys
import sysconfig
import threading
import traceback
import warnings
from asyncio import windows_utils
from pathlib import Path

import pytest
from loops import run, run_once, running_loop
from process import collect, committed_bytes, handle_count
from script import begun
from waiting import WAIT_S, wait_for_event

import iocpx

CERTIFICATE = Path(__file__).parent / "data" / "localhost.pem"
MB = 1 << 20


async def echo(reader, writer):
    while data := await reader.read(1000):
        writer.write(data)
    writer.close()
    await writer.wait_closed()


async def exchange(reader, writer, message):
    writer.write(message)
    assert await reader.readexactly(len(message)) == message


# -- one after the other ---------------------------------------------------------------------------


@pytest.mark.slow("makes 300 loops")
def test_many_loops_with_tcp_leave_everything_where_it_was():
    async def main():
        served = asyncio.Event()

        async def serve(reader, writer):
            await echo(reader, writer)
            # Before 3.12 wait_closed() does not wait for it.
            served.set()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        await exchange(reader, writer, b"hello")
        writer.close()
        await writer.wait_closed()
        await served.wait()
        server.close()
        await server.wait_closed()

    def make(count):
        for _ in range(count):
            loop = iocpx.new_event_loop()
            loop.run_until_complete(main())
            loop.close()
        del loop
        collect()
        return (
            handle_count(),
            threading.active_count(),
            len(gc.get_objects()),
            committed_bytes(),
        )

    make(20)
    handles, threads, objects, nbytes = make(20)
    again = make(300)
    assert again[0] <= handles and again[1] <= threads
    assert again[2] < objects + 300
    # Two pages of each loop would be more.
    assert again[3] < nbytes + 2 * MB


# -- at once ---------------------------------------------------------------------------------------

LOOPS = 4


class Member:
    """A loop in a thread of its own, with an echo server, and a client of each other's."""

    def __init__(self):
        self.address = concurrent.futures.Future()
        self.closed = threading.Event()
        self.complaints = None
        self.thread = threading.Thread(target=self.work, daemon=True)
        self.thread.start()

    def work(self):
        try:
            with running_loop() as self.loop:
                self.complaints = self.loop.complaints
                self.loop.run_until_complete(self.main())
            self.closed.set()
        except BaseException as exc:
            if not self.address.done():
                self.address.set_exception(exc)
            raise

    async def main(self):
        self.end = asyncio.Event()
        self.clients = {}
        self.tasks = set()
        server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        self.address.set_result(server.sockets[0].getsockname())
        await self.end.wait()
        server.close()
        for member in list(self.clients):
            await self.leave(member)
        # The others' clients are still there.
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def serve(self, reader, writer):
        self.tasks.add(asyncio.current_task())
        try:
            await echo(reader, writer)
        finally:
            writer.close()
            await writer.wait_closed()
            self.tasks.discard(asyncio.current_task())

    async def join(self, member):
        self.clients[member] = await asyncio.open_connection(*member.address.result())

    async def leave(self, member):
        _, writer = self.clients.pop(member)
        writer.close()
        await writer.wait_closed()

    async def talk(self, member, rounds):
        for number in range(rounds):
            await exchange(*self.clients[member], b"%d" % number * 100)

    async def see_the_end_of(self, member):
        assert await self.clients[member][0].read() == b""
        await self.leave(member)

    def ask(self, what, *arguments):
        """Begin it on the member's loop; its concurrent.futures.Future."""
        return asyncio.run_coroutine_threadsafe(what(self, *arguments), self.loop)


def ask_all(members, what, *arguments):
    """Each about each other, all at once."""
    asked = [
        one.ask(what, other, *arguments) for one in members for other in members if one is not other
    ]
    for future in asked:
        future.result(WAIT_S)


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]])
def test_loops_in_several_threads_are_each_others_clients_and_end_in_any_order(order):
    members = [Member() for _ in range(LOOPS)]
    for member in members:
        member.address.result(WAIT_S)
    ask_all(members, Member.join)
    ask_all(members, Member.talk, 50)
    for leaving in [members[number] for number in order]:
        leaving.loop.call_soon_threadsafe(leaving.end.set)
        members.remove(leaving)
        for future in [member.ask(Member.see_the_end_of, leaving) for member in members]:
            future.result(WAIT_S)
        wait_for_event(leaving.closed, "the end of a loop")
        leaving.thread.join(WAIT_S)
        assert leaving.complaints == []
        ask_all(members, Member.talk, 10)


@pytest.mark.skipif(
    not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this Python has a GIL always"
)
def test_two_loops_run_python_at_once_without_a_gil():
    assert sys._is_gil_enabled() is False
    # These calls keep the GIL, where there is one, until they return.
    kernel32 = ctypes.PyDLL("kernel32")
    kernel32.CreateEventW.restype = ctypes.c_void_p
    kernel32.SetEvent.argtypes = kernel32.CloseHandle.argtypes = [ctypes.c_void_p]
    kernel32.WaitForSingleObject.argtypes = [ctypes.c_void_p, ctypes.c_ulong]
    events = [kernel32.CreateEventW(None, False, False, None) for _ in range(2)]

    async def meet(mine):
        kernel32.SetEvent(events[mine])
        return kernel32.WaitForSingleObject(events[1 - mine], WAIT_S * 1000)

    gc.disable()  # a collection would stop the world, and wait for who waits in its call
    try:
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            assert list(pool.map(lambda mine: run(meet(mine)), range(2))) == [0, 0]
    finally:
        gc.enable()
    for event in events:
        kernel32.CloseHandle(event)


# -- beside a threaded server ----------------------------------------------------------------------


@pytest.mark.parametrize("first", ["loop", "server"])
def test_a_loop_beside_a_threaded_server(serve, first):
    loop = iocpx.new_event_loop()
    complaints = []
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    asked = []
    lost = threading.Event()

    class Answers(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport

        def data_received(self, data):
            if data == b"plain":
                self.transport.write(data)
            else:
                loop.call_soon_threadsafe(asked.pop().set_result, (data, threading.get_ident()))

        def connection_lost(self, exc):
            lost.set()

    served = serve(Answers)

    async def main():
        reader, writer = await asyncio.open_connection(*served.server.address)
        for number in range(100):
            asked.append(loop.create_future())
            answer = asked[0]
            writer.write(b"%d" % number)
            data, thread = await answer
            assert data == b"%d" % number and thread != threading.get_ident()
        return reader, writer

    async def leave(reader, writer):
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()

    reader, writer = loop.run_until_complete(main())
    if first == "server":
        served.server.close()
        loop.run_until_complete(leave(reader, writer))
        assert served.server.wait_closed(WAIT_S)
        assert loop.run_until_complete(asyncio.sleep(0, "goes on")) == "goes on"
        loop.close()
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # an unclosed transport
            loop.close()
            del reader, writer
            gc.collect()
        wait_for_event(lost, "connection_lost")
        with socket.create_connection(served.server.address, WAIT_S) as client:
            client.sendall(b"plain")
            assert client.recv(100) == b"plain"
    assert complaints == []


# -- what outlives its loop ------------------------------------------------------------------------


class Told(logging.Handler):
    """What a loop, its finalisers and asyncio's logger tell of, as texts."""

    def __init__(self):
        super().__init__()
        self.texts = []
        self.setFormatter(logging.Formatter())

    def emit(self, record):
        self.texts.append(self.format(record))  # with the exception's traceback

    def unraisable(self, raised):
        told = traceback.format_exception(raised.exc_value)
        self.texts.append(f"{raised.object!r}: {''.join(told)}")

    def complaint(self, loop, context):
        self.texts.append(repr(context))


@pytest.fixture
def told(monkeypatch):
    told = Told()
    monkeypatch.setattr(sys, "unraisablehook", told.unraisable)
    logger = logging.getLogger("asyncio")
    logger.addHandler(told)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # of what is never closed, which is all
        yield told
        gc.collect()
    logger.removeHandler(told)
    # That a task was pending may be told; and CPython's own pipes and subprocesses have faults.
    allowed = ["Task was destroyed", "I/O operation on closed pipe"]
    if sys.version_info < (3, 14):
        allowed.append("BaseSubprocessTransport.__del__")  # CPython issue 114177
    assert [text for text in told.texts if not any(one in text for one in allowed)] == []


@pytest.fixture
def loop(told):
    loop = iocpx.new_event_loop()
    loop.set_exception_handler(told.complaint)
    yield loop
    loop.close()


async def tcp(tls=False):
    server_tls = client_tls = None
    if tls:
        server_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server_tls.load_cert_chain(CERTIFICATE)
        client_tls = ssl.create_default_context(cafile=CERTIFICATE)
    server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=server_tls)
    client = await asyncio.open_connection(
        *server.sockets[0].getsockname(),
        ssl=client_tls,
        server_hostname="localhost" if tls else None,
    )
    await exchange(*client, b"hello")
    return server, client


async def tls():
    return await tcp(True)


async def pipe():
    address = rf"\\.\pipe\iocpx-outlives-{id(object())}"
    loop = asyncio.get_running_loop()
    servers = await loop.start_serving_pipe(
        lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader(), echo), address
    )
    reader = asyncio.StreamReader()
    transport, protocol = await loop.create_pipe_connection(
        lambda: asyncio.StreamReaderProtocol(reader), address
    )
    writer = asyncio.StreamWriter(transport, protocol, reader, loop)
    await exchange(reader, writer, b"hello")
    return servers, reader, writer


async def datagrams():
    loop = asyncio.get_running_loop()
    return await loop.create_datagram_endpoint(asyncio.DatagramProtocol, ("127.0.0.1", 0))


@pytest.mark.parametrize("make", [tcp, tls, pipe, datagrams])
def test_transports_may_outlive_their_loop(loop, make):
    left = loop.run_until_complete(make())
    loop.close()
    gc.collect()
    del left
    gc.collect()


@pytest.mark.parametrize("call", ["close", "abort", "write_eof", "pause_reading"])
def test_a_transport_and_a_server_may_be_ended_after_their_loop(loop, call):
    server, (_, writer) = loop.run_until_complete(tcp())
    loop.close()
    getattr(writer.transport, call)()
    writer.transport.close()
    server.close()
    assert writer.transport.is_closing() and not server.is_serving()


def test_tasks_may_outlive_their_loop(loop):
    ended = []

    async def main():
        server, (reader, writer) = await tcp()
        loop.stop()
        try:
            await reader.read()
        finally:
            server.close()
            writer.close()
            writer.transport.abort()
            ended.append(1)

    task = loop.create_task(main())
    loop.run_forever()
    loop.close()
    assert not task.done()
    del task
    gc.collect()
    assert ended == [1]


def test_an_asynchronous_generator_may_outlive_its_loop(loop):
    async def count():
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(0)

    async def main():
        numbers = count()
        assert await numbers.__anext__() == 1
        return numbers

    numbers = loop.run_until_complete(main())
    loop.close()
    del numbers
    gc.collect()


# -- what comes when the loop is closed ------------------------------------------------------------


class Listens(asyncio.Protocol):
    def __init__(self, told):
        self.told = told

    def data_received(self, data):
        self.told.append(data)

    def datagram_received(self, data, address):
        self.told.append(data)

    def eof_received(self):
        self.told.append("eof")

    def connection_lost(self, exc):
        self.told.append(exc)


class Pending:
    """Operations of all kinds that are pending, and what ends each of them."""

    def __init__(self, loop):
        self.loop = loop
        self.left = []  # not collected before the loop is closed
        self.ends = contextlib.ExitStack()
        self.told = []

    def protocol(self):
        return Listens(self.told)

    def pair(self):
        near, far = socket.socketpair()
        near.setblocking(False)
        self.ends.enter_context(far)
        self.left.append(near)
        return near, far

    async def sock_recv(self):
        near, far = self.pair()
        self.left.append(self.loop.create_task(self.loop.sock_recv(near, 10)))
        return lambda: far.send(b"x")

    async def sock_accept(self):
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        self.left += [listener, self.loop.create_task(self.loop.sock_accept(listener))]
        far = self.ends.enter_context(socket.socket())
        far.setblocking(False)
        return lambda: far.connect_ex(listener.getsockname())

    async def datagram(self):
        transport, _ = await self.loop.create_datagram_endpoint(self.protocol, ("127.0.0.1", 0))
        self.left.append(transport)
        address = transport.get_extra_info("sockname")
        far = self.ends.enter_context(socket.socket(type=socket.SOCK_DGRAM))
        return lambda: far.sendto(b"x", address)

    async def pipe(self):
        ours, theirs = windows_utils.pipe(duplex=True, overlapped=(True, False))
        fd = msvcrt.open_osfhandle(theirs, 0)
        self.ends.callback(os.close, fd)
        handle = windows_utils.PipeHandle(ours)
        self.left += await self.loop.connect_read_pipe(self.protocol, handle)
        return lambda: os.write(fd, b"x")

    async def add_reader(self):
        near, far = self.pair()
        self.loop.add_reader(near, self.told.append, "ready")
        return lambda: far.send(b"x")

    async def connection(self):
        near, far = self.pair()
        self.left += await self.loop.connect_accepted_socket(self.protocol, near)
        return lambda: far.send(b"x")

    async def stream(self):
        near, far = self.pair()
        self.left += await asyncio.open_connection(sock=near)
        self.left.append(self.loop.create_task(self.left[-2].read()))
        self.left[-2].write(bytes(4 * MB))
        return lambda: far.send(b"x")

    async def subprocess(self):
        def start():
            return asyncio.create_subprocess_exec(
                sys.executable, "-c", "input()", stdin=asyncio.subprocess.PIPE
            )

        process = await begun(start)
        self.left += [process, self.loop.create_task(process.wait())]
        return process._transport._proc.kill


KINDS = [name for name in vars(Pending) if inspect.iscoroutinefunction(getattr(Pending, name))]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("when", ["before", "after"])
def test_what_is_pending_when_a_loop_is_closed_comes_to_nobody(loop, kind, when):
    pending = Pending(loop)
    end = loop.run_until_complete(getattr(pending, kind)())
    run_once(loop)
    with pending.ends:
        if when == "before":
            end()  # its packet is in the port
        loop.close()
        if when == "after":
            with contextlib.suppress(OSError):
                end()
        pending.left.clear()
        gc.collect()
        assert pending.told == []


def test_a_loop_whose_proactor_is_finalised_first_is_closed():
    """As the collector may do it without a GIL."""
    loop = iocpx.new_event_loop()

    async def main():
        server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
        server.close()
        await server.wait_closed()

    loop.run_until_complete(main())
    with pytest.warns(ResourceWarning, match="unclosed event loop"):
        loop._proactor.__del__()
    assert loop.is_closed()
