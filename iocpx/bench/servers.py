"""The servers that are compared, each in a process of its own.

    python -m iocpx.bench.servers NAME [--role ROLE] [--workers N]

They echo; or they only take, and check, what streams in; or only send; or compute, then echo; or
send files, or read one. iocpx answers HTTP by a handler in C, examples/cython_handler. An event
loop also echoes with asyncio's streams, answers HTTP, or serves nobody: its scheduling is measured,
or how it reads a file.

Prints one JSON object per line: first {"port": …, "versions": {…}, …}, or
{"missing": reason} when the server's package is not installed for this Python.
Then, for each line "cpu" on stdin, {"user_s": …, "system_s": …}: what this process
has used so far; for "stats" {"stats": {…}}: what the server counts, if it does; for
"run ROW SECONDS", where scheduling is measured, or "run BYTES DEPTH SECONDS", where
a file is read, {"rate": …, "operations": …}. At the end of stdin it stops in order
and prints {"totals": …}.

benchmarks/ceiling.c, a server in C, speaks the same.
"""

import argparse
import asyncio
import contextlib
import importlib
import inspect
import itertools
import json
import os
import signal
import socket
import sys
import threading
from typing import Any, NamedTuple

from . import file_servers, files, http_servers, loops, scheduling, tls
from .pattern import HEADER, VERDICT, Check, Different, blocks

HOST = "127.0.0.1"
DEFAULT_WORKERS = 2
RECEIVE_BYTES = 65536
# Of asyncio's listeners, whose own default of 100 a burst of connections fills.
BACKLOG = 1024
# About 200 µs on the processors of 2024.
COMPUTE_STEPS = 5000


class OverTls(NamedTuple):
    """What is run, with TLS in between."""

    handler: Any


def taken_apart(handler):
    """(what is run, an ssl.SSLContext or None)"""
    if isinstance(handler, OverTls):
        return handler.handler, tls.server_context()
    return handler, None


class Echo(asyncio.Protocol):
    """What every server runs that does not say otherwise."""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)


class BufferedEcho(asyncio.BufferedProtocol):
    """The same into a buffer of its own."""

    def connection_made(self, transport):
        self.transport = transport
        self.buffer = memoryview(bytearray(RECEIVE_BYTES))

    def get_buffer(self, sizehint):
        return self.buffer

    def buffer_updated(self, nbytes):
        self.transport.write(self.buffer[:nbytes])


class Compute(Echo):
    """Works in Python before it answers."""

    def data_received(self, data):
        value = 1
        for step in range(COMPUTE_STEPS):
            # No constant above 256: those of an imported module are shared and counted, and
            # threads that use one at a time slow each other down several times (3.14t).
            value = (value * 31 + step) & 0xFF
        self.transport.write(data)


class Verdict:
    """What a sink makes of its stream: fed with all that comes, it answers when there is something
    to say."""

    def __init__(self):
        self.header = b""
        self.check = None

    def feed(self, data):
        """None while all is well."""
        if self.check is None:
            self.header += data
            if len(self.header) < HEADER.size:
                return None
            self.check = Check(*HEADER.unpack_from(self.header))
            data = self.header[HEADER.size :]
        try:
            self.check.take(data)
        except Different as different:
            return VERDICT.pack(-1 - different.args[0])
        return None

    def at_the_end(self):
        return VERDICT.pack(self.check.count if self.check else 0)


class Sink(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
        self.verdict = Verdict()

    def data_received(self, data):
        answer = self.verdict.feed(data)
        if answer:
            self.transport.write(answer)
            self.transport.close()

    def eof_received(self):
        self.transport.write(self.verdict.at_the_end())


class BufferedSink(Sink, asyncio.BufferedProtocol):
    def connection_made(self, transport):
        super().connection_made(transport)
        self.buffer = memoryview(bytearray(RECEIVE_BYTES))

    def get_buffer(self, sizehint):
        return self.buffer

    def buffer_updated(self, nbytes):
        self.data_received(self.buffer[:nbytes])


# Blocks that a source writes before the loop has a turn, if nothing pauses it: with TLS older
# Pythons tell of a connection that has failed in such a turn only, and by nothing else.
SOURCE_BLOCKS = 256


class Source(asyncio.Protocol):
    """Sends until the client resets the connection."""

    def connection_made(self, transport):
        self.transport = transport
        self.header = b""
        self.paused = False

    def data_received(self, data):
        self.header += data
        self.blocks = itertools.cycle(blocks(*HEADER.unpack(self.header)))
        self.send()

    def send(self):
        for _ in range(SOURCE_BLOCKS):
            if self.paused or self.transport.is_closing():
                return
            self.transport.write(next(self.blocks))
        soon = getattr(self.transport, "call_soon", None) or asyncio.get_running_loop().call_soon
        soon(self.send)

    def pause_writing(self):
        self.paused = True

    def resume_writing(self):
        self.paused = False
        self.send()

    def connection_lost(self, exc):
        self.paused = True


async def echo_stream(reader, writer):
    """The same with asyncio's streams."""
    while data := await reader.read(RECEIVE_BYTES):
        writer.write(data)
        await writer.drain()
    writer.close()


async def sink_stream(reader, writer):
    verdict, answer = Verdict(), None
    while not answer and (data := await reader.read(RECEIVE_BYTES)):
        answer = verdict.feed(data)
    writer.write(answer or verdict.at_the_end())
    writer.close()


async def source_stream(reader, writer):
    stream = itertools.cycle(blocks(*HEADER.unpack(await reader.readexactly(HEADER.size))))
    with contextlib.suppress(ConnectionError):
        # drain() alone does not tell: over TLS asyncio's goes on with a connection that is gone.
        while not writer.is_closing():
            for _ in range(SOURCE_BLOCKS):
                writer.write(next(stream))
                await writer.drain()
            await asyncio.sleep(0)


def echo_socket(sock):
    """The same with a blocking socket."""
    while data := sock.recv(RECEIVE_BYTES):
        sock.sendall(data)


def sink_socket(sock):
    verdict, answer = Verdict(), None
    while not answer and (data := sock.recv(RECEIVE_BYTES)):
        answer = verdict.feed(data)
    sock.sendall(answer or verdict.at_the_end())


def source_socket(sock):
    stream = itertools.cycle(blocks(*HEADER.unpack(sock.recv(HEADER.size))))
    with contextlib.suppress(ConnectionError):
        while True:
            sock.sendall(next(stream))


def tell(**fields):
    print(json.dumps(fields), flush=True)


def platform_facts():
    """Where this process runs, in words."""
    # Not by the platform module: under Wine 8 it ends the process (WMI).
    if sys.platform == "win32":
        # The other fields are what a program without a manifest is told: 6.2, for good.
        system = "Windows " + ".".join(map(str, sys.getwindowsversion().platform_version))
        wine = wine_version()
        if wine:
            system += f" (Wine {wine})"
    else:
        system = sys.platform
    free_threaded = hasattr(sys, "_is_gil_enabled") and not sys._is_gil_enabled()
    python = sys.version.split()[0] + (" without GIL" if free_threaded else "")
    return {"python": python, "free_threaded": free_threaded, "system": system}


def wine_version():
    """Wine's version, or None on Windows itself."""
    import ctypes

    try:
        get = ctypes.WinDLL("ntdll").wine_get_version
    except AttributeError:
        return None
    get.restype = ctypes.c_char_p
    return get().decode()


def serve_commands(port, facts, stats=dict, run=None):
    """Say where we are and answer stdin until its end."""
    tell(port=port, pid=os.getpid(), **platform_facts(), **facts)
    for line in sys.stdin:
        command, *words = line.split()
        if command == "cpu":
            times = os.times()
            tell(user_s=times.user, system_s=times.system)
        elif command == "stats":
            tell(stats=stats())
        elif command == "run":
            tell(**run(*words))


@contextlib.asynccontextmanager
async def listening(loop, handler):
    """A server on an event loop; gives its port. handler: a protocol class, a coroutine function of
    asyncio's streams, or the name of a server of HTTP."""
    if isinstance(handler, str):
        async with getattr(http_servers, handler)(HOST, BACKLOG) as port:
            yield port
        return
    handler, context = taken_apart(handler)
    options = {"backlog": BACKLOG, "ssl": context}
    if inspect.iscoroutinefunction(handler):
        server = await asyncio.start_server(handler, HOST, 0, **options)
    else:
        server = await loop.create_server(handler, HOST, 0, **options)
    yield server.sockets[0].getsockname()[1]
    server.close()


def serve_on_loop(loop, facts, handler):
    """The loop has the main thread, as usual; stdin has another."""

    async def serve():
        finished = asyncio.Event()

        def commands(port):
            try:
                serve_commands(port, facts)
            finally:
                loop.call_soon_threadsafe(finished.set)

        async with listening(loop, handler) as port:
            thread = threading.Thread(target=commands, args=(port,))
            thread.start()
            await finished.wait()
        thread.join()

    loop.run_until_complete(serve())


def schedule_on_loop(loop, facts):
    """Here stdin has the main thread: the loop runs for each row alone."""

    def run(row, seconds):
        return scheduling.measure(loop, row, float(seconds))

    serve_commands(None, facts, run=run)


def read_files(facts, measure, *arguments, stats=dict):
    """Here stdin has the main thread, too."""
    with files.made() as path:

        def run(nbytes, depth, seconds):
            return measure(path, *arguments, int(nbytes), int(depth), float(seconds))

        serve_commands(None, facts, stats, run)


def run_loop(name, handler, workers):
    """Any asyncio loop."""
    if name == "asyncio-streams":
        name = "asyncio"
    loop = loops.maker(name)()
    asyncio.set_event_loop(loop)
    facts = loops.facts(name, loop)
    try:
        if handler is scheduling:
            schedule_on_loop(loop, facts)
        elif handler is files:
            read_files(facts, files.measure_loop, loop, name == loops.OURS)
        else:
            if isinstance(handler, str):
                facts["versions"].update(http_servers.versions(handler))
            serve_on_loop(loop, facts, handler)
    finally:
        loop.close()
    tell(totals={})


def run_iocpx(name, handler, workers):
    import iocpx

    if handler is files:
        engine = iocpx.Engine(workers=workers)
        facts = {"versions": {"iocpx": iocpx.__version__}, "workers": workers}
        read_files(facts, files.measure_engine, engine, stats=engine.stats)
        tell(totals=engine.stats())
        return
    handler, context = taken_apart(handler)
    server = iocpx.Server(handler, HOST, 0, engine=iocpx.Engine(workers=workers), ssl=context)

    def stats():
        return {**server.engine.stats(), **server.stats()}

    server.start()
    try:
        facts = {"versions": {"iocpx": iocpx.__version__}, "workers": workers}
        serve_commands(server.address[1], facts, stats)
    finally:
        server.close()
        server.wait_closed()
    tell(totals=stats())


def run_iocpx_native(name, handler, workers):
    import iocpx.native

    if handler == C_HANDLER:
        made = iocpx.native.Handler(importlib.import_module(handler).capsule)
    else:
        made = getattr(iocpx.native, handler)
    run_iocpx(name, made, workers)


def run_threads(name, handler, workers):
    """A thread for each connection; nothing is waited for at the end.  A pool, to read a file."""
    if handler is files:
        read_files({"versions": {}}, files.measure_pool)
        tell(totals={})
        return
    handler, context = taken_apart(handler)
    listener = socket.create_server((HOST, 0), backlog=BACKLOG)

    def serve(sock):
        with sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if context is None:
                handler(sock)
                return
            with context.wrap_socket(sock, server_side=True) as secured:
                handler(secured)
                # Our close_notify, upon the client's.
                secured.unwrap()

    def accept():
        while True:
            sock, _ = listener.accept()
            threading.Thread(target=serve, args=(sock,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    serve_commands(listener.getsockname()[1], {"versions": {}})
    tell(totals={})


def over_tls_too(**handlers):
    """These, by their roles, and those over TLS of the roles that the benchmark has with it."""
    for role in ("echo", "source"):
        if role in handlers:
            handlers[f"{role}-tls"] = OverTls(handlers[role])
    return handlers


PROTOCOLS = over_tls_too(echo=Echo, sink=Sink, source=Source)
STREAMS = over_tls_too(echo=echo_stream, sink=sink_stream, source=source_stream)
SOCKETS = over_tls_too(echo=echo_socket, sink=sink_socket, source=source_socket)
ON_LOOPS = {
    **PROTOCOLS,
    "streams": echo_stream,
    "uvicorn": "uvicorn",
    "uvicorn-tls": "uvicorn_tls",
    "aiohttp": "aiohttp",
    "scheduling": scheduling,
    "files": files,
}
WITH_FILES = {**ON_LOOPS, "sendfile": file_servers.OnLoop}
# The module that examples/cython_handler makes.
C_HANDLER = "http_handler"
WHERE_IT_IS = "; it is examples/cython_handler, which `dev.py bench` builds, in a clone"
# How each is run, and what it runs in which role.
SERVERS = {
    "iocpx-native": (run_iocpx_native, {"echo": "Echo", "http": C_HANDLER}),
    "iocpx-protocol": (
        run_iocpx,
        {**PROTOCOLS, "compute": Compute, "files": files, "sendfile": file_servers.OnThreads},
    ),
    "iocpx-buffered": (run_iocpx, over_tls_too(echo=BufferedEcho, sink=BufferedSink)),
    "asyncio": (run_loop, ON_LOOPS),
    "asyncio-streams": (run_loop, STREAMS),
    **dict.fromkeys(loops.LOOPS, (run_loop, ON_LOOPS)),
    # The others have no sendfile(), or one that reads and writes.
    **dict.fromkeys((loops.OURS, "asyncio"), (run_loop, WITH_FILES)),
    "threads": (run_threads, {**SOCKETS, "files": files}),
    loops.WITHOUT_SOCKETS: (run_loop, {"scheduling": scheduling}),
}
# benchmarks/ceiling.c, by its roles: what it is told to be. Its echo is measured against streams',
# too.
CEILING = "ceiling"
CEILING_ROLES = {"echo": (), "streams": (), "http": ("--http",)}


def main():
    parser = argparse.ArgumentParser(description="One server, driven through stdin.")
    parser.add_argument("name", choices=SERVERS)
    parser.add_argument("--role", default="echo")
    parser.add_argument("--workers", type=int, default=DEFAULT_WORKERS)
    args = parser.parse_args()
    # Ctrl+C reaches the whole terminal; the process that started this one decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    run, handlers = SERVERS[args.name]
    if args.role not in handlers:
        parser.error(f"{args.name} does not serve as {args.role}")
    try:
        if args.name in loops.LOOPS:
            loops.maker(args.name)
        if isinstance(handlers[args.role], str) and run is run_loop:
            http_servers.versions(handlers[args.role])
        if handlers[args.role] == C_HANDLER:
            importlib.import_module(C_HANDLER)
    except (ImportError, AttributeError) as error:
        tell(missing=str(error) + (WHERE_IT_IS if handlers[args.role] == C_HANDLER else ""))
        return
    run(args.name, handlers[args.role], args.workers)


if __name__ == "__main__":
    main()
