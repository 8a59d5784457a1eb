"""The load: clients that check every byte, in a process of their own.

    python -m iocpx.bench.client --port N [--kind echo|churn|in|out|get|post|hello] [--tls] …

It uses the standard library only: it never runs in the process of a server, and on Linux it runs
natively while the server runs on a Windows Python. The kinds: echo.py, churn.py, stream.py,
http_load.py.

Dialogue, one JSON object per line: with --idle it first opens so many connections, echoes a message
on each, prints {"idle": count} and waits for a line on stdin; they stay open to the end. After an
untimed warm-up it prints {"ready": true} and waits for a line; then it runs the timed phase, prints
the result, and waits for another line; then it sees that the connections end as they should, prints
{"finished": true} and ends with status 0. Instead of any of these it prints {"wrong": sentence} (a
reply was not what was sent) or {"failed": sentence} (anything else) and ends with status 1.
"""

import argparse
import contextlib
import json
import signal
import socket
import sys
import time

from . import tls
from .churn import Churn
from .echo import Echo
from .http_load import Get, Hello, Post
from .sockets import STALL_S, Failed, Wrong, connect, drop
from .stream import In, Out

KINDS = {
    "echo": Echo, "churn": Churn, "in": In, "out": Out,
    "get": Get, "post": Post, "hello": Hello,
}
# Connections opened before their messages are sent: below every server's backlog.
IDLE_AT_A_TIME = 50


class Idle:
    """Connections that are open, have echoed one message, and do nothing more. context: an
    ssl.SSLContext, or None: no TLS."""

    def __init__(self, host, port, count, size, context=None):
        self.context = context
        self.socks = []
        while len(self.socks) < count:
            first = len(self.socks)
            group = range(first, min(first + IDLE_AT_A_TIME, count))
            self.socks += [connect(host, port, index, count) for index in group]
            if context:
                for index in group:
                    self.socks[index] = tls.secure(context, self.socks[index], index)
            for index in group:
                self.socks[index].sendall(self.message(index, size))
            for index in group:
                self.take(index, size)

    @staticmethod
    def message(index, size):
        return index.to_bytes(4, "big") * (size // 4 + 1)

    def take(self, index, size):
        sock = self.socks[index]
        sock.settimeout(STALL_S)
        message, reply = self.message(index, size), b""
        try:
            while len(reply) < len(message):
                data = sock.recv(65536)
                if not data:
                    raise Failed(f"idle connection {index}: the server closed it")
                reply += data
        except OSError as error:
            raise Failed(f"idle connection {index}: no reply: {error}") from None
        if reply != message:
            raise Wrong(f"idle connection {index}: its reply is not what was sent")

    def finish(self):
        """Half-close them all, or end their TLS, then see them end."""
        if self.context:
            self.socks = [tls.end(sock) for sock in self.socks]
        else:
            for sock in self.socks:
                sock.shutdown(socket.SHUT_WR)
        for index, sock in enumerate(self.socks):
            if sock.recv(1):
                raise Wrong(f"idle connection {index}: bytes came that nobody had asked for")
            sock.close()

    def abort(self):
        for sock in self.socks:
            drop(sock)


def raise_descriptor_limit():
    with contextlib.suppress(ImportError):  # Windows has none
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def tell(**fields):
    print(json.dumps(fields), flush=True)


def wait_for_a_line():
    if not sys.stdin.readline():
        raise Failed("nobody said go")


def run(args):
    raise_descriptor_limit()
    parts = []
    more = (tls.client_context(),) if args.tls else ()
    try:
        if args.idle:
            parts.append(Idle(args.host, args.port, args.idle, args.size, *more))
            tell(idle=args.idle)
            wait_for_a_line()
        load = KINDS[args.kind](
            args.host, args.port, args.connections, args.size, args.depth, *more
        )
        parts.append(load)
        load.phase(args.warmup)
        tell(ready=True)
        wait_for_a_line()
        cpu_before_s, before_s = time.process_time(), time.perf_counter()
        load.phase(args.seconds)
        busy = (time.process_time() - cpu_before_s) / (time.perf_counter() - before_s)
        tell(**load.figures(), client_busy=busy)
        # What the server does from here on is not of the timed phase.
        sys.stdin.readline()
        for part in parts:
            part.finish()
        tell(finished=True)
    except (Wrong, Failed) as error:
        tell(**{type(error).__name__.lower(): str(error)})
        for part in parts:
            part.abort()
        return 1
    return 0


def main():
    parser = argparse.ArgumentParser(
        description="Load a server and check every byte of its replies."
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--kind", choices=KINDS, default="echo")
    parser.add_argument("--connections", type=int, default=50)
    parser.add_argument("--size", type=int, default=64, help="bytes per message")
    parser.add_argument("--depth", type=int, default=1, help="messages under way per connection")
    parser.add_argument(
        "--tls", action="store_true", help="over TLS 1.3; not with in"
    )
    parser.add_argument("--idle", type=int, default=0, help="more connections, which do nothing")
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--warmup", type=float, default=0.3, help="untimed seconds before")
    # Ctrl+C reaches the whole terminal; the process that started this one decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return run(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
