"""Datagram endpoints of the asyncio loop: asyncio's transport, with another sending and receiving.

asyncio's own sends nothing more after close(), not even what it has queued, nor what is queued
behind a datagram that could not be sent; and it receives nothing more once an error has come, be it
that nobody listens where one datagram went.
"""

import collections
from asyncio import proactor_events
from typing import Any

from iocpx._errors import os_error

_PORT_UNREACHABLE = 1234
# What Windows tells of one datagram, beside all ConnectionErrors: too long, not delivered.  The
# socket is as good as before.
_OF_ONE_DATAGRAM = {234, 1231, 1232, 1233, _PORT_UNREACHABLE, 10040, 10051, 10052, 10065}
# What a datagram counts beside its data, as in asyncio: empty ones count too.
_HEADER_BYTES = 8


class DatagramTransport(proactor_events._ProactorDatagramTransport):  # type: ignore[name-defined,misc]
    """asyncio.DatagramTransport, made by the loop's create_datagram_endpoint()."""

    _closing: bool
    _read_fut: Any
    _write_fut: Any
    _buffer: collections.deque[tuple[bytes, Any]]
    _buffer_size = 0  # which Python 3.10 does not set

    def get_write_buffer_size(self) -> int:
        """Bytes queued and not yet sent, and 8 for each datagram."""
        return self._buffer_size

    def sendto(self, data: Any, addr: Any = None) -> None:
        """Send a datagram, or queue it as long as another is being sent.
        asyncio.DatagramTransport.sendto().  Without effect after close()."""
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(
                f"data argument must be a bytes-like object, not {type(data).__name__}"
            )
        if self._address is not None and addr not in (None, self._address):
            raise ValueError(f"Invalid address: must be None or {self._address}")
        if self._closing:
            return
        self._buffer.append((bytes(data), addr))
        self._buffer_size += len(data) + _HEADER_BYTES
        if self._write_fut is None:
            self._loop_writing()
        self._maybe_pause_protocol()

    def close(self) -> None:
        """Receive nothing more, send what is queued, then connection_lost(None).
        asyncio.BaseTransport.close()."""
        if self._closing:
            return
        self._closing = True
        if self._read_fut is not None:
            self._read_fut.cancel()
            self._read_fut = None
        if not self._buffer and self._write_fut is None:
            self._end()

    def _end(self) -> None:
        self._conn_lost += 1
        self._loop.call_soon(self._call_connection_lost, None)

    def _force_close(self, exc: BaseException | None) -> None:
        super()._force_close(exc)
        self._buffer = collections.deque()
        self._buffer_size = 0

    # Both are called by what they have started, with its future.  Without one they go on with the
    # next, unless somebody else has done that meanwhile.

    def _loop_writing(self, future: Any = None) -> None:
        if self._conn_lost or future is not self._write_fut:
            return
        self._write_fut = None
        try:
            if future is not None:
                future.result()
            if not self._buffer:
                if self._closing:
                    self._end()
                else:
                    self._maybe_resume_protocol()
                return
            data, addr = self._buffer.popleft()
            self._buffer_size -= len(data) + _HEADER_BYTES
            if self._address is not None:
                self._write_fut = self._loop._proactor.send(self._sock, data)
            else:
                self._write_fut = self._loop._proactor.sendto(self._sock, data, addr=addr)
        except OSError as exc:
            # First, since error_received() may raise.
            self._loop.call_soon(self._loop_writing)
            self._protocol.error_received(exc)
        except Exception as exc:
            self._fatal_error(exc, "Fatal write error on datagram transport")
        else:
            self._write_fut.add_done_callback(self._loop_writing)
            self._maybe_resume_protocol()

    def _loop_reading(self, future: Any = None) -> None:
        if self._closing or future is not self._read_fut:
            return
        self._read_fut = None
        data = addr = error = None
        try:
            if future is not None:
                data, addr = self._received(future.result())
            if self._address is not None:
                self._read_fut = self._loop._proactor.recv(self._sock, self.max_size)
            else:
                self._read_fut = self._loop._proactor.recvfrom(self._sock, self.max_size)
        except OSError as exc:
            error = exc
            if isinstance(exc, ConnectionError) or exc.winerror in _OF_ONE_DATAGRAM:
                self._loop.call_soon(self._loop_reading)
        else:
            self._read_fut.add_done_callback(self._loop_reading)
        if data:
            self._protocol.datagram_received(data, addr)
        if error is not None:
            self._protocol.error_received(error)

    def _received(self, result: Any) -> Any:
        if self._address is not None:
            return result, self._address
        data, addr = result
        if addr is None:
            # That is what the proactor makes of this error, from Python 3.12 on.
            raise os_error(_PORT_UNREACHABLE, "receive")
        return data, addr
