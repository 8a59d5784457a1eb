"""A TCP proxy on threads: python tcp_proxy.py LISTEN_PORT HOST PORT

Who connects to LISTEN_PORT is connected to PORT of HOST. Each side is read only as fast as the
other one takes it, so a connection costs a bounded amount of memory. The end of one direction, or
a reset, is passed on. Ctrl+C stops it in order.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from concurrent.futures import Future

import iocpx


class Side(asyncio.Protocol):
    """One of the two connections that belong together; `peer` is the other one."""

    transport: iocpx.Connection
    peer: Side
    ended = False

    def connection_made(self, transport: iocpx.Connection) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.peer.transport.write(data)

    def pause_writing(self) -> None:
        self.peer.transport.pause_reading()

    def resume_writing(self) -> None:
        self.peer.transport.resume_reading()

    def eof_received(self) -> bool:
        self.ended = True
        self.peer.transport.write_eof()
        return not self.peer.ended  # true: the other direction goes on

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is None:
            self.peer.transport.close()
        else:
            self.peer.transport.abort()


class Back(Side):
    """Towards the host."""

    def __init__(self, peer: Front) -> None:
        self.peer = peer

    def connection_made(self, transport: iocpx.Connection) -> None:
        super().connection_made(transport)
        self.peer.peer = self
        self.peer.transport.resume_reading()


class Front(Side):
    """Towards the client."""

    way: Future[iocpx.Connection] | None = None

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy

    def connection_made(self, transport: iocpx.Connection) -> None:
        super().connection_made(transport)
        transport.pause_reading()  # until there is somebody to send it to
        try:
            self.way = self.proxy.connect(self)
        except RuntimeError:  # the server stops
            transport.abort()
        else:
            self.way.add_done_callback(self.tried)

    def tried(self, way: Future[iocpx.Connection]) -> None:
        if not way.cancelled() and (error := way.exception()) is not None:
            print(error, file=sys.stderr)
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.way is None:
            return
        # It may be about to be made: then its end waits for that.
        self.way.cancel()
        self.way.add_done_callback(lambda way: self.gone(way, exc))

    def gone(self, way: Future[iocpx.Connection], exc: Exception | None) -> None:
        if not way.cancelled() and way.exception() is None:
            super().connection_lost(exc)


class Proxy:
    def __init__(self, listen_port: int, host: str, port: int) -> None:
        self.host, self.port = host, port
        self.server = iocpx.Server(lambda: Front(self), "127.0.0.1", listen_port)

    def connect(self, front: Front) -> Future[iocpx.Connection]:
        return iocpx.connect(lambda: Back(front), self.host, self.port, server=self.server)


def main(listen_port: str = "8000", host: str = "127.0.0.1", port: str = "80") -> None:
    server = Proxy(int(listen_port), host, int(port)).server
    server.start()
    assert server.address is not None
    print("serving on port", server.address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main(*sys.argv[1:])
