"""Sockets that are no TCP transports: asyncio's own methods, where these have faults.

The proactor below does the operations, and tests/test_loop_stock_faults.py names the faults.

Called by asyncio and by `_event_loop`, whose class derives from its; calls `_tcp_loop`, from whose
class its own derives, `_transport` and `_datagram_transport`.
"""

import io
import os
import sys
from asyncio import SendfileNotAvailableError
from typing import Any

from iocpx._datagram_transport import open_datagrams
from iocpx._tcp_loop import TcpLoop
from iocpx._transport import Transport

# What TransmitFile takes at once.
_MOST_OF_A_FILE = 2**31 - 2


class SocketLoop(TcpLoop):
    """asyncio's loop of a proactor, with the engine's TCP and without these faults."""

    def _make_datagram_transport(
        self, sock: Any, protocol: Any, address: Any = None, waiter: Any = None, extra: Any = None
    ) -> Any:
        return open_datagrams(
            self,
            self._datagrams(),
            sock,
            protocol,
            address,
            waiter,
            extra,
            sock in self._proactor._registered,
        )

    # _overlapped takes every size for an unsigned one, and asks no buffer whether it is as long, or
    # may be written to.

    async def sock_recv(self, sock: Any, n: int) -> bytes:
        """Receive up to n bytes.  asyncio.AbstractEventLoop.sock_recv()."""
        if n < 0:
            raise ValueError("negative buffersize in sock_recv")
        return await super().sock_recv(sock, n)

    async def sock_recv_into(self, sock: Any, buf: Any) -> int:
        """Receive as many bytes as the buffer has room for, at most.
        asyncio.AbstractEventLoop.sock_recv_into()."""
        _room(buf)
        return await super().sock_recv_into(sock, buf)

    if sys.version_info >= (3, 11):

        async def sock_recvfrom(self, sock: Any, bufsize: int) -> Any:
            """Receive a datagram of up to bufsize bytes: (data, address).
            asyncio.AbstractEventLoop.sock_recvfrom()."""
            if bufsize < 0:
                raise ValueError("negative buffersize in sock_recvfrom")
            return await super().sock_recvfrom(sock, bufsize)

        async def sock_recvfrom_into(self, sock: Any, buf: Any, nbytes: int = 0) -> Any:
            """Receive a datagram of up to nbytes (0: as many as the buffer has room for) into the
            buffer: (size, address).  asyncio.AbstractEventLoop.sock_recvfrom_into()."""
            room = _room(buf)
            if nbytes < 0:
                raise ValueError("negative buffersize in sock_recvfrom_into")
            if nbytes > room:
                raise ValueError("nbytes is greater than the length of the buffer")
            return await super().sock_recvfrom_into(sock, buf, nbytes or room)

    async def _sock_sendfile_native(
        self, sock: Any, file: Any, offset: int, count: int | None
    ) -> int:
        try:
            size = os.fstat(file.fileno()).st_size
        except (AttributeError, io.UnsupportedOperation, OSError):
            raise SendfileNotAvailableError("not a regular file") from None
        end = size if count is None else min(offset + count, size)
        begin = offset = min(offset, size)
        try:
            while offset < end:
                _seek(file, offset)
                part = min(end - offset, _MOST_OF_A_FILE)
                await self._proactor.sendfile(sock, file, offset, part)
                offset += part
            return offset - begin
        finally:
            _seek(file, offset)

    async def _sendfile_native(
        self, transp: Any, file: Any, offset: int, count: int | None
    ) -> int:
        if type(transp) is not Transport:
            return await super()._sendfile_native(transp, file, offset, count)  # type: ignore[misc,no-any-return]
        if isinstance(file, io.TextIOBase):
            raise ValueError("file should be opened in binary mode")
        _check_count(count)
        future: Any = self.create_future()
        sent = transp._send_file(file, offset, count, future)
        if sent is None:
            raise SendfileNotAvailableError("TransmitFile is not for this file or transport")
        try:
            nbytes: int = await future
            return nbytes
        finally:
            if not future.done() or future.cancelled():
                transp._cancel_file(sent)
            # The engine reads past the file's own position, which tells how much was sent, but for
            # a file that was cancelled.
            file.seek(sent.begin + sent.nbytes)

    # That of older Pythons does not seek for an offset of 0.

    async def _sock_sendfile_fallback(
        self, sock: Any, file: Any, offset: int, count: int | None
    ) -> int:
        if hasattr(file, "seek"):
            file.seek(offset)
        return await super()._sock_sendfile_fallback(sock, file, offset, count)  # type: ignore[misc,no-any-return]

    async def _sendfile_fallback(
        self, transp: Any, file: Any, offset: int, count: int | None
    ) -> int:
        _check_count(count)
        if hasattr(file, "seek"):
            file.seek(offset)
        return await super()._sendfile_fallback(transp, file, offset, count)  # type: ignore[misc,no-any-return]


def _check_count(count: Any) -> None:
    # For asyncio's fallback 0 is the whole rest of the file.
    if isinstance(count, int) and count <= 0:
        raise ValueError(f"count must be a positive integer (got {count!r})")


def _room(buf: Any) -> int:
    with memoryview(buf) as view:
        if view.readonly:
            raise TypeError(f"a read-write bytes-like object is required, not {type(buf).__name__}")
        return view.nbytes


def _seek(file: Any, offset: int) -> None:
    """Move the file's own position: TransmitFile may begin there in spite of the offset that it is
    given, and it moves it unseen by a buffered file, which would not move it back."""
    # A seek relative to the end empties the buffer, within which nothing would move.
    file.seek(0, os.SEEK_END)
    file.seek(offset)
