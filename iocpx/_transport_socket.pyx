"""get_extra_info("socket") of a loop's transport: its socket, to look at and to set options of.

The handle is the engine's, which may close it at any moment: each call borrows it.  In C from the
loan to the return: where the handler of a signal raised in between, an object of socket.socket
would close the handle, whose value others get then, or the loan never end.

Called by the program, to which `_transport` and `_datagram_transport` give it; calls nothing of
iocpx but the transport that lends it, `_runtime` and `_errors`.
"""

from iocpx._runtime cimport duplicate_socket

import _socket
import asyncio.trsock
import socket

from iocpx._errors import os_error

WSAENOTSOCK = 10038


class _Lent:
    """What asyncio.trsock.TransportSocket asks of a socket, asked of the engine's."""

    def __init__(self, transport, family, kind, proto):
        self._transport = transport
        self.family = socket.AddressFamily(family)
        self.type = socket.SocketKind(kind)
        self.proto = proto

    def _call(self, name, *args):
        transport = self._transport
        family, kind, proto = int(self.family), int(self.type), self.proto
        lent_handle = transport._lend_handle()
        if lent_handle is None:
            raise os_error(WSAENOTSOCK, name)
        handle, token = lent_handle
        try:
            lent = _socket.socket(family, kind, proto, handle)
            try:
                return getattr(lent, name)(*args)
            finally:
                lent.detach()
        finally:
            transport._return_handle(token)

    def fileno(self):
        transport = self._transport
        known = transport._loop._transports
        lent_handle = transport._lend_handle()
        if lent_handle is None:
            return -1
        handle, token = lent_handle
        transport._return_handle(token)
        # Whoever has the number may hand it to add_reader(), which refuses it.
        known[handle] = transport
        return handle

    def dup(self):
        transport = self._transport
        lent_handle = transport._lend_handle(True)
        if lent_handle is None:
            raise os_error(WSAENOTSOCK, "dup")
        handle, token = lent_handle
        try:
            copy = duplicate_socket(handle)
        finally:
            transport._return_handle(token)
        return socket.socket(self.family, self.type, self.proto, fileno=copy)

    def get_inheritable(self):
        return False

    def getsockopt(self, *args):
        return self._call("getsockopt", *args)

    def setsockopt(self, *args):
        self._call("setsockopt", *args)

    def getpeername(self):
        return self._call("getpeername")

    def getsockname(self):
        return self._call("getsockname")

    def shutdown(self, how):
        self._call("shutdown", how)


class TransportSocket(asyncio.trsock.TransportSocket):
    """An asyncio.trsock.TransportSocket of a handle that is lent for each call."""

    __slots__ = ()

    def __init__(self, transport, family, kind=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP):
        super().__init__(_Lent(transport, family, kind, proto))
