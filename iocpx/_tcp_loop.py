"""TCP of the asyncio loop: what asyncio's own loop asks its subclasses for, on the engine.

Everything else is asyncio's.

Called by asyncio and by `_socket_loop`, whose class derives from its; calls
`_engine_loop`, which has the engine, `_transport` and `_transports`, which have the connections,
`_endpoint` and `_tls`.
"""

import asyncio
import inspect
import socket
from asyncio import constants, proactor_events, protocols, sslproto, streams
from functools import partial
from typing import Any

from iocpx._engine_loop import EngineLoop
from iocpx._tls import Tls
from iocpx._transport import Transport
from iocpx._transports import open_transport

# Without ssl_shutdown_timeout in Python 3.10.
_SSL_PARAMETERS = inspect.signature(sslproto.SSLProtocol).parameters

# asyncio's of Python 3.11 and later.
_SHUTDOWN_S = 30.0

_FAMILIES = (socket.AF_INET, socket.AF_INET6)


class TcpLoop(EngineLoop, proactor_events.BaseProactorEventLoop):
    """asyncio's loop of a proactor, with the engine's TCP."""

    _proactor: Any
    _listening: dict[Any, Any]  # the Endpoint of each listening socket

    def _start_serving(
        self,
        protocol_factory: Any,
        sock: Any,
        sslcontext: Any = None,
        server: Any = None,
        backlog: int = 100,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> None:
        handshake_s, shutdown_s = _tls_timeouts(ssl_handshake_timeout, ssl_shutdown_timeout)
        endpoint = self._endpoint(
            protocol_factory, server, sslcontext, handshake_s, shutdown_s, backlog
        )
        try:
            endpoint.listen(sock)
        except BaseException:
            endpoint.stop_accepting()
            raise
        self._listening[sock] = endpoint

    def _stop_serving(self, sock: Any) -> None:
        endpoint = self._listening.pop(sock, None)
        if endpoint is not None:
            endpoint.stop_accepting()
        if self.is_closed():
            # By a finaliser: the loop has stopped serving itself, but the socket is the server's.
            sock.close()
            return
        super()._stop_serving(sock)  # type: ignore[misc]

    def _stop_accept_futures(self) -> None:
        self._listening.clear()
        self._end_engine()
        self._end_polls()
        super()._stop_accept_futures()  # type: ignore[misc]

    def _make_socket_transport(
        self,
        sock: Any,
        protocol: Any,
        waiter: Any = None,
        extra: Any = None,
        server: Any = None,
    ) -> Any:
        if not _is_tcp(sock):
            # asyncio takes whatever behaves like a socket.
            return super()._make_socket_transport(  # type: ignore[misc]
                sock, protocol, waiter, extra, server
            )
        return open_transport(
            self,
            self._clients(),
            sock,
            protocol,
            waiter,
            extra,
            server,
            sock in self._proactor._registered,
        )

    def _make_ssl_transport(
        self,
        rawsock: Any,
        protocol: Any,
        sslcontext: Any,
        waiter: Any = None,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        extra: Any = None,
        server: Any = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> Any:
        timeouts = _tls_timeouts(ssl_handshake_timeout, ssl_shutdown_timeout)
        if not _is_tcp(rawsock):
            ssl_protocol = make_ssl_protocol(
                self,
                protocol,
                sslcontext,
                waiter,
                server_side,
                server_hostname,
                ssl_handshake_timeout=ssl_handshake_timeout,
                ssl_shutdown_timeout=ssl_shutdown_timeout,
            )
            self._make_socket_transport(rawsock, ssl_protocol, extra=extra, server=server)
            return ssl_protocol._app_transport
        try:
            tls = _make_tls(sslcontext, server_side, server_hostname)
        except BaseException:
            rawsock.close()  # as after a handshake that fails: nobody else has it
            raise
        return open_transport(
            self,
            self._clients(),
            rawsock,
            protocol,
            waiter,
            extra,
            server,
            rawsock in self._proactor._registered,
            tls,
            *timeouts,
        )

    async def start_tls(
        self,
        transport: Any,
        protocol: Any,
        sslcontext: Any,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> Any:
        """Go on with TLS; the transport to use from now on.  asyncio.AbstractEventLoop.start_tls().

        transport: of this loop, TCP or a pipe; a TLS one gets TLS in TLS.  protocol: the one that
        it has.  sslcontext: ssl.SSLContext.  server_hostname: str, for a client.
        ssl_handshake_timeout, ssl_shutdown_timeout: seconds, more than 0; None: 60 and 30.  The
        loop's thread.  Raises TypeError or ValueError for a wrong argument, ssl.SSLError or another
        OSError if the handshake fails; the transport is closed then.

        What a server's StreamReader has received and nobody has read goes to the TLS layer: a
        client may send its first TLS message together with its last words before.
        """
        if not hasattr(sslcontext, "wrap_bio"):
            raise TypeError(f"sslcontext must be an ssl.SSLContext, got {sslcontext!r}")
        if not getattr(transport, "_start_tls_compatible", False):
            raise TypeError(f"transport {transport!r} is not supported by start_tls()")
        timeouts = _tls_timeouts(ssl_handshake_timeout, ssl_shutdown_timeout)
        waiter: Any = self.create_future()
        if type(transport) is Transport and not transport._has_tls():
            tls = _make_tls(sslcontext, server_side, server_hostname)
            take_early = partial(_take_unread, protocol) if server_side else bytes
            transport._start_tls(protocol, tls, take_early, waiter, *timeouts)
            try:
                await waiter
            except BaseException:
                transport.close()
                waiter = None  # has the exception, whose traceback has this frame: a cycle
                raise
            return transport
        # TLS in TLS, or on a pipe.
        ssl_protocol = make_ssl_protocol(
            self,
            protocol,
            sslcontext,
            waiter,
            server_side,
            server_hostname,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
            call_connection_made=False,
        )
        # Until the TLS layer knows its transport.
        transport.pause_reading()
        early = _take_unread(protocol) if server_side else b""
        transport.set_protocol(ssl_protocol)
        begin = self.call_soon(_begin_tls, ssl_protocol, transport, early)
        try:
            await waiter
        except BaseException:
            transport.close()
            begin.cancel()
            waiter = None  # has the exception, whose traceback has this frame: a cycle
            raise
        return ssl_protocol._app_transport


def _is_tcp(sock: Any) -> bool:
    return isinstance(sock, socket.socket) and sock.family in _FAMILIES


def _make_tls(sslcontext: Any, server_side: bool, server_hostname: str | None) -> Any:
    if sslcontext is None:
        sslcontext = sslproto._create_transport_context(server_side, server_hostname)
    return Tls(sslcontext, server_side, None if server_side else server_hostname or None)


def _tls_timeouts(handshake_s: float | None, shutdown_s: float | None) -> tuple[float, float]:
    if handshake_s is None:
        handshake_s = constants.SSL_HANDSHAKE_TIMEOUT
    elif handshake_s <= 0:
        raise ValueError(f"ssl_handshake_timeout should be a positive number, got {handshake_s}")
    if shutdown_s is None:
        shutdown_s = _SHUTDOWN_S
    elif shutdown_s <= 0:
        raise ValueError(f"ssl_shutdown_timeout should be a positive number, got {shutdown_s}")
    return handshake_s, shutdown_s


def _take_unread(protocol: Any) -> bytes:
    reader = None
    if isinstance(protocol, streams.StreamReaderProtocol):
        reader = protocol._stream_reader  # type: ignore[attr-defined]
    if reader is None:
        return b""
    data = bytes(reader._buffer)
    reader._buffer.clear()
    return data


def _begin_tls(ssl_protocol: Any, transport: Any, early: bytes) -> None:
    ssl_protocol.connection_made(transport)
    if early:
        if isinstance(ssl_protocol, asyncio.BufferedProtocol):
            protocols._feed_data_to_buffered_proto(ssl_protocol, early)  # type: ignore[attr-defined]
        else:
            ssl_protocol.data_received(early)  # Python 3.10
    transport.resume_reading()


def make_ssl_protocol(*args: Any, ssl_shutdown_timeout: float | None, **kwargs: Any) -> Any:
    if "ssl_shutdown_timeout" in _SSL_PARAMETERS:
        kwargs["ssl_shutdown_timeout"] = ssl_shutdown_timeout
    return sslproto.SSLProtocol(*args, **kwargs)
