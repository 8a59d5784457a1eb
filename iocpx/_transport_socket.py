"""get_extra_info("socket") of a loop's transport: its socket, to look at and to set options of.

The handle is the engine's, which may close it at any moment: each call borrows it.

Called by the program, to which `_transport` and `_datagram_transport` give it; calls nothing of
iocpx but the transport that lends it, and `_errors`.
"""

import asyncio.trsock
import socket
from typing import Any

from iocpx._errors import os_error

WSAENOTSOCK = 10038


class _Lent:
    """What asyncio.trsock.TransportSocket asks of a socket, asked of the engine's."""

    def __init__(self, transport: Any, family: int, kind: int, proto: int) -> None:
        self._transport = transport
        self.family = socket.AddressFamily(family)
        self.type = socket.SocketKind(kind)
        self.proto = proto

    def _call(self, name: str, *args: Any, copied: bool = False) -> Any:
        lent_handle = self._transport._lend_handle(copied)
        if lent_handle is None:
            raise os_error(WSAENOTSOCK, name)
        handle, token = lent_handle
        try:
            lent = socket.socket(self.family, self.type, self.proto, fileno=handle)
            try:
                if copied:
                    # A copy has the mode of the original, which may not wait.
                    lent.setblocking(False)
                return getattr(lent, name)(*args)
            finally:
                lent.detach()
        finally:
            self._transport._return_handle(token)

    def fileno(self) -> int:
        lent_handle = self._transport._lend_handle()
        if lent_handle is None:
            return -1
        handle: int = lent_handle[0]
        # Whoever has the number may hand it to add_reader(), which refuses it.
        self._transport._loop._transports[handle] = self._transport
        self._transport._return_handle(lent_handle[1])
        return handle

    def dup(self) -> socket.socket:
        copy: socket.socket = self._call("dup", copied=True)
        return copy

    def get_inheritable(self) -> bool:
        return False

    def getsockopt(self, *args: Any) -> Any:
        return self._call("getsockopt", *args)

    def setsockopt(self, *args: Any) -> None:
        self._call("setsockopt", *args)

    def getpeername(self) -> Any:
        return self._call("getpeername")

    def getsockname(self) -> Any:
        return self._call("getsockname")

    def shutdown(self, how: int) -> None:
        self._call("shutdown", how)


class TransportSocket(asyncio.trsock.TransportSocket):
    """An asyncio.trsock.TransportSocket of a handle that is lent for each call."""

    __slots__ = ()

    def __init__(
        self,
        transport: Any,
        family: int,
        kind: int = socket.SOCK_STREAM,
        proto: int = socket.IPPROTO_TCP,
    ) -> None:
        super().__init__(_Lent(transport, family, kind, proto))  # type: ignore[arg-type]
