"""`python -m iocpx`: an echo server, the benchmark, and what is installed here.

Run by Python; calls what is public of the package, and `bench`.
"""

import argparse
import contextlib
import ctypes
import signal
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator, Mapping
from types import FrameType

import iocpx
import iocpx.native


def main(argv: list[str] | None = None) -> int:
    """Run one command, or none: print the help; returns the exit status.

    Main thread only, as it handles Ctrl+C.
    """
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(
        prog="iocpx", description=iocpx.__doc__.splitlines()[0] if iocpx.__doc__ else None
    )
    parser.add_argument("--version", action="version", version=f"iocpx {iocpx.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    echo = commands.add_parser(
        "echo", help="an echo server", description="Serve echo until Ctrl+C or the stop event."
    )
    echo.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)"
    )
    echo.add_argument(
        "--port", type=int, default=0, help="0 to 65535; 0, the default, takes a free one"
    )
    echo.add_argument("--workers", type=int, help="threads, 1 to 256 (default: the server's own)")
    echo.add_argument("--native", action="store_true", help="echo without entering Python")
    echo.add_argument(
        "--stop-event",
        metavar="NAME",
        help="stop when another process sets this named Windows event",
    )
    commands.add_parser(
        "bench", help="compare with asyncio's loops; bench --help tells more", add_help=False
    )
    commands.add_parser(
        "info", help="what is installed here", description="Tell what is installed here."
    )
    if argv[:1] == ["bench"]:
        # The benchmark has a parser of its own, as it also runs where iocpx does not. Imported
        # where it is used: the other commands start the faster.
        from iocpx.bench.run import main as bench_main

        status: int = bench_main(argv[1:])
        return status
    args = parser.parse_args(argv)
    if args.command is None:
        parser.print_help()
        return 0
    if args.command == "info":
        return info()
    from iocpx.bench.servers import Echo

    try:
        server = iocpx.Server(
            iocpx.native.Echo if args.native else Echo,
            args.host,
            args.port,
            engine=iocpx.Engine(workers=args.workers),
        )
    except (TypeError, ValueError) as error:
        echo.error(str(error))
    return serve_echo(server, args.stop_event)


def info() -> int:
    from iocpx.bench.servers import platform_facts

    facts = platform_facts()
    free_threaded = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
    gil_off = hasattr(sys, "_is_gil_enabled") and not sys._is_gil_enabled()
    for name, value in (
        ("iocpx", iocpx.__version__),
        ("Python", sys.version.replace("\n", " ")),
        (
            "build",
            f"{sysconfig.get_platform()}, "
            + ("free-threaded" if free_threaded else "with the GIL"),
        ),
        ("GIL", "off" if gil_off else "on"),
        ("system", facts["system"]),
        ("handlers", "asyncio protocols; native: " + ", ".join(iocpx.native.HANDLERS)),
        ("extension", sys.modules[iocpx.Server.__module__].__file__),
    ):
        print(f"{name:<10} {value}")
    return 0


def serve_echo(server: iocpx.Server, event_name: str | None) -> int:
    """Serve until Ctrl+C or the named event, then print the totals. Returns the exit status."""

    stopping = False

    def on_interrupt(signum: int, frame: FrameType | None) -> None:
        nonlocal stopping
        if not stopping:
            # First the state: the next Ctrl+C can come in the midst of this.
            stopping = True
            server.close()
            text = "stopping: open connections are closed in order; Ctrl+C again resets them"
        else:
            server.abort_clients()
            text = "resetting the connections"
        print(text, flush=True)

    def on_event() -> None:
        nonlocal stopping
        stopping = True
        print(f"stopping: the event {event_name!r} was set", flush=True)
        server.close()

    try:
        with stop_event(event_name, on_event):
            previous = signal.signal(signal.SIGINT, on_interrupt)
            try:
                if not stopping:
                    server.start()
                    if stopping:
                        # A close() that came before the start has had no effect on it.
                        server.close()
                    for sock in server.sockets:
                        host, port = sock.getsockname()[:2]
                        print(f"listening on {host} port {port}; Ctrl+C stops", flush=True)
                    server.serve_forever()
            finally:
                signal.signal(signal.SIGINT, previous)
    except OSError as error:
        print(f"iocpx echo: {error}", file=sys.stderr)
        return 1
    for line in totals({**server.engine.stats(), **server.stats()}):
        print(line)
    return 0


def totals(stats: Mapping[str, object]) -> Iterator[str]:
    """A stopped server's counts in words."""
    yield "stopped"
    made, retired = stats["connections_made"], stats["connections_retired"]
    yield f"connections  {made:,} made, {retired:,} retired"
    yield f"received     {stats['bytes_received']:,} bytes in {stats['receives']:,} receives"
    yield f"sent         {stats['bytes_sent']:,} bytes in {stats['sends']:,} sends"
    yield (
        f"operations   {stats['ops_posted']:,} posted, {stats['ops_completed']:,} completed, "
        f"{stats['inline_completions']:,} of them inline"
    )
    yield (
        f"packets      {stats['packets']:,} in {stats['waits']:,} waits, "
        f"the GIL taken {stats['gil_acquisitions']:,} times"
    )


@contextlib.contextmanager
def stop_event(name: str | None, on_event: Callable[[], None]) -> Iterator[None]:
    """Within the block, call on_event() once when another process sets the Windows event of that
    name, on a thread of its own; before the block, where the event is set already.

    The event is made when it does not exist. OSError when another kind of object has the name.
    """
    if name is None:
        yield
        return
    kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
    kernel32.CreateEventW.restype = ctypes.c_void_p
    kernel32.CreateEventW.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_wchar_p]
    kernel32.WaitForMultipleObjects.argtypes = [
        ctypes.c_uint32,
        ctypes.c_void_p,
        ctypes.c_int,
        ctypes.c_uint32,
    ]
    kernel32.SetEvent.argtypes = [ctypes.c_void_p]
    kernel32.CloseHandle.argtypes = [ctypes.c_void_p]

    def make(event_name: str | None) -> int:
        # Manual reset: several servers may wait for one event, and each must see it.
        handle: int | None = kernel32.CreateEventW(None, True, False, event_name)
        if handle is None:
            error = ctypes.WinError(ctypes.get_last_error())
            raise OSError(f"the event {event_name!r} cannot be made: {error}")
        return handle

    asked = make(name)
    # The waiting thread is let go by an event of our own: the named one may be others', too.
    done = make(None)
    handles = (ctypes.c_void_p * 2)(asked, done)
    infinite = 0xFFFFFFFF

    def is_set(limit_ms: int) -> bool:
        # ctypes releases the GIL during the call.
        return bool(kernel32.WaitForMultipleObjects(2, handles, False, limit_ms) == 0)

    def wait() -> None:
        if is_set(infinite):
            on_event()

    thread = threading.Thread(target=wait, name="iocpx stop event")
    if is_set(0):
        on_event()
    else:
        thread.start()
    try:
        yield
    finally:
        kernel32.SetEvent(done)
        if thread.ident is not None:
            thread.join()
        kernel32.CloseHandle(asked)
        kernel32.CloseHandle(done)


if __name__ == "__main__":
    sys.exit(main())
