"""The echo servers that are compared, each in a process of its own.

    python -m iocpx.bench.servers NAME [--workers N]

Prints one JSON object per line: first {"port": …, "versions": {…}, …}, or
{"missing": reason} when the server's package is not installed for this Python.
Then, for each line "cpu" on stdin, {"user_s": …, "system_s": …}: what this process
has used so far; for "stats" {"stats": {…}}: what the server counts, if it does. At
the end of stdin it stops in order and prints {"totals": …}.

benchmarks/ceiling.c, a server in C, speaks the same.
"""

import argparse
import asyncio
import json
import os
import signal
import socket
import sys
import threading

HOST = "127.0.0.1"
DEFAULT_WORKERS = 2
RECEIVE_BYTES = 65536


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


async def echo_stream(reader, writer):
    """The same with asyncio's streams."""
    while data := await reader.read(RECEIVE_BYTES):
        writer.write(data)
        await writer.drain()
    writer.close()


def echo_socket(sock):
    """The same with a blocking socket."""
    with sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while data := sock.recv(RECEIVE_BYTES):
            sock.sendall(data)


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
    return {"python": python, "system": system}


def wine_version():
    """Wine's version, or None on Windows itself."""
    import ctypes

    try:
        get = ctypes.WinDLL("ntdll").wine_get_version
    except AttributeError:
        return None
    get.restype = ctypes.c_char_p
    return get().decode()


def serve_commands(port, facts, stats=dict):
    """Say where we are and answer stdin until its end."""
    tell(port=port, **platform_facts(), **facts)
    for line in sys.stdin:
        if line.strip() == "cpu":
            times = os.times()
            tell(user_s=times.user, system_s=times.system)
        elif line.strip() == "stats":
            tell(stats=stats())


def run_loop(loop, facts, streams=False):
    """Any asyncio loop: it has the main thread, as usual; stdin has another."""

    async def serve():
        finished = asyncio.Event()
        if streams:
            server = await asyncio.start_server(echo_stream, HOST, 0)
        else:
            server = await loop.create_server(Echo, HOST, 0)
        port = server.sockets[0].getsockname()[1]

        def commands():
            try:
                serve_commands(port, facts)
            finally:
                loop.call_soon_threadsafe(finished.set)

        thread = threading.Thread(target=commands)
        thread.start()
        await finished.wait()
        server.close()
        thread.join()

    try:
        loop.run_until_complete(serve())
    finally:
        loop.close()
    tell(totals={})


def run_asyncio(streams=False):
    # The system's own default: Proactor on Windows.
    loop = asyncio.new_event_loop()
    run_loop(loop, {"versions": {}, "loop": type(loop).__name__}, streams)


def run_other_loop(name):
    module = __import__(name)
    loop = module.new_event_loop()
    asyncio.set_event_loop(loop)
    run_loop(loop, {"versions": {name: package_version(name)}, "loop": type(loop).__name__})


def package_version(name):
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        return "of unknown version"


def run_iocpx(factory, workers):
    import iocpx

    server = iocpx.Server(factory, HOST, 0, workers=workers)
    server.start()
    try:
        facts = {"versions": {"iocpx": iocpx.__version__}, "workers": workers}
        serve_commands(server.address[1], facts, server.stats)
    finally:
        server.close()
        server.wait_closed()
    tell(totals=server.stats())


def run_iocpx_native(workers):
    from iocpx.native import Echo as NativeEcho

    run_iocpx(NativeEcho, workers)


def run_threads():
    """A thread for each connection; nothing is waited for at the end."""
    listener = socket.create_server((HOST, 0), backlog=1024)

    def accept():
        while True:
            sock, _ = listener.accept()
            threading.Thread(target=echo_socket, args=(sock,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    serve_commands(listener.getsockname()[1], {"versions": {}})
    tell(totals={})


SERVERS = {
    "iocpx-native": run_iocpx_native,
    "iocpx-protocol": lambda workers: run_iocpx(Echo, workers),
    "iocpx-buffered": lambda workers: run_iocpx(BufferedEcho, workers),
    "asyncio": lambda workers: run_asyncio(),
    "asyncio-streams": lambda workers: run_asyncio(streams=True),
    "winloop": lambda workers: run_other_loop("winloop"),
    "blazio": lambda workers: run_other_loop("blazio"),
    "zuvloop": lambda workers: run_other_loop("zuvloop"),
    "threads": lambda workers: run_threads(),
}
# Those may be absent: comparing with them is a service, not a need.
OPTIONAL = {"winloop", "blazio", "zuvloop"}


def main():
    parser = argparse.ArgumentParser(description="One echo server, driven through stdin.")
    parser.add_argument("name", choices=SERVERS)
    parser.add_argument("--workers", type=int, default=DEFAULT_WORKERS)
    args = parser.parse_args()
    # Ctrl+C reaches the whole terminal; the process that started this one decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if args.name in OPTIONAL:
        try:
            __import__(args.name)
        except ImportError as error:
            tell(missing=str(error))
            return
    SERVERS[args.name](args.workers)


if __name__ == "__main__":
    main()
