"""Server: its arguments, and what it tells of its connections.

Called by the program, to which `_core` shows it, and by `_connecting`; calls `_serving`, from whose
class its own derives, `_runtime`, `_engines`, `_listening` and `native`.
"""

import asyncio
import threading
from ssl import PROTOCOL_TLS_CLIENT, SSLContext

from iocpx._arguments import integer_between, limit, milliseconds, refuse_async
from iocpx._engines import Engine
from iocpx._listening import bind, given_sockets, host_names
from iocpx._runtime import Runtime
from iocpx._serving import Serving
from iocpx.native import is_handler


class Server(Serving):
    """A TCP server whose callbacks run on the engine's worker threads; what
    asyncio.loop.create_server() is to a loop.  Microsoft's AcceptEx, WSARecv and WSASend.

    protocol_factory: callable without arguments that returns a protocol: an
        asyncio.Protocol or BufferedProtocol, or what else has their methods (see
        below).  Or iocpx.native.Echo, Discard, or a Handler.
    host: str, sequence of str, or None for all interfaces.
    port: int, 0 to 65535; 0 takes a free one, see `address`.
    sock: a bound TCP socket.socket, or a sequence of them, instead of host and port:
        made by the caller, or come from another process (socket.fromshare()).  The
        server closes it.
    engine: the iocpx.Engine that serves it, perhaps beside others; None: one of its own.
    backlog: connections the kernel keeps waiting, 1 to 65535.  A socket of the caller's
        that listens already keeps its own.
    initial_accepts, max_accepts: AcceptEx calls kept pending per listening socket,
        1 to 10000; the pool grows to max_accepts when clients come faster, and
        shrinks again.
    accept_receive: bool; accept a client with its first data only.  A silent client
        holds a slot of the accept pool, for accept_timeout_s seconds (1 to 86400).
    max_connections: int, or None for no limit; the next client gets a reset.  One
        whose connection_lost was told counts no more; as many may drain beside them.
    initial_reads: receives kept pending per connection, 1 to 64.
    idle_timeout_s: seconds without a byte in either direction before a reset,
        up to 86400; None: never.
    max_sends: writes that a connection may have queued; None: no limit.
    max_write_buffer: bytes that may be queued although pause_writing() was told, or at
        all where the high mark is not below that; None: no limit.  A write beyond either
        resets the connection.  What a callback writes counts from its end, and an empty
        queue takes a write of any size.
    close_timeout_s: seconds that the peer of a closing connection may show no life, and
        that the stop may take, before a reset, 0 to 86400.  Four times as long for a send
        of more than 16 KiB that is under way, and at most twelve times for a peer that
        goes on sending after our end.
    keepalive_idle_s, keepalive_interval_s: TCP keep-alive, seconds; None: off.
    max_free_connections: how many connections' memory is kept for reuse, 0 to 1000000.
    ssl: an ssl.SSLContext for a TLS server; None: no TLS.  connection_made() is called after
        the handshake, and the protocol is made for it; a handshake that fails costs that client
        only, and is counted (stats()).  The high mark of a TLS connection is 512 KiB.
    ssl_handshake_timeout_s: seconds that a handshake may take before a reset, 0.001 to 86400.
    ssl_shutdown_timeout_s: seconds that the end of a TLS connection may take, from its close()
        on, before a reset, 0.001 to 86400.
    max_handshakes: handshakes under way at once, 1 to 1000000; further clients wait for theirs,
        in order.
    exception_handler: callable with asyncio's context dict ("message", "exception",
        "protocol", "transport"), called on a worker when a callback raises; None:
        logged under "iocpx".
    trace: callable with a str, called on a worker for every step of every
        connection; slow.  None: off.

    A wrong argument is a TypeError or a ValueError that names it.

    A protocol is an object with data_received(), or with get_buffer() and
    buffer_updated(): these two are used if it is an asyncio.BufferedProtocol (by
    isinstance(), as in asyncio), or if it has no data_received().  What else it
    lacks is not called.  Its callbacks are looked up at each call, so it may replace
    its own.  data_sent(nbytes) is not asyncio's: it tells how many bytes the system
    has taken from the connection since the last time, and is called only where the
    protocol's class has a method of that name.  Of what callbacks return only
    eof_received()'s matters: if it is true, our direction stays open, but with TLS.  None
    may be an async def: that counts as a TypeError that it raised.

    The callbacks of a connection, from the factory's call on, run in a
    contextvars.Context of its own, a copy of the one that start() was called in, and
    the exception handler in that of the callback which failed.  As in asyncio, the
    copies refer to the same values: what start()'s thread has as decimal.getcontext()
    they share until they set another.

    What a callback raises is told to the exception handler; the connection is reset,
    and connection_lost() gets the exception.  Likewise, unlike in asyncio, where the
    factory or connection_made() raises.  Of pause_writing() and resume_writing() it
    is only told, as in asyncio: the connection goes on.

    Callbacks of one connection never overlap and come in stream order; those of
    different connections may run at the same time.  All methods may be called from
    any thread, also from callbacks and signal handlers, unless they say otherwise.

    SystemExit or KeyboardInterrupt raised in a callback, by the factory, the exception
    handler or the trace is reported as any exception is, and closes the server in
    order, as close() does; serve_forever() raises it when that is done.  wait_closed()
    and the end of a `with` do not.
    """

    def __init__(self, protocol_factory, host=None, port=0, *, sock=None, engine=None,
                 backlog=512, initial_accepts=10, max_accepts=100, accept_receive=False,
                 accept_timeout_s=120.0, max_connections=None, initial_reads=1,
                 idle_timeout_s=None, max_sends=None,
                 max_write_buffer=67108864, close_timeout_s=5.0, keepalive_idle_s=5.0,
                 keepalive_interval_s=1.0, max_free_connections=100, ssl=None,
                 ssl_handshake_timeout_s=60.0, ssl_shutdown_timeout_s=30.0, max_handshakes=256,
                 exception_handler=None, trace=None):
        self._runtime = None
        self._address = None
        self._closes = 0            # so often close() was called
        if not is_handler(protocol_factory) and not callable(protocol_factory):
            raise TypeError(f"protocol_factory must be callable, got {protocol_factory!r}")
        for name, value in (("exception_handler", exception_handler), ("trace", trace)):
            if value is not None and not callable(value):
                raise TypeError(f"{name} must be callable or None, got {value!r}")
            refuse_async(name, value)
        refuse_async("protocol_factory", protocol_factory)
        if trace is not None and is_handler(protocol_factory):
            raise ValueError(f"trace must be None with a native handler, got {trace!r}")
        if ssl is not None and not isinstance(ssl, SSLContext):
            raise TypeError(f"ssl must be an ssl.SSLContext or None, got {ssl!r}")
        if ssl is not None and ssl.protocol == PROTOCOL_TLS_CLIENT:
            raise ValueError("ssl must be a context for servers, got one of PROTOCOL_TLS_CLIENT")
        if ssl is not None and is_handler(protocol_factory):
            raise ValueError(f"ssl must be None with a native handler, got {ssl!r}")
        if not isinstance(accept_receive, bool):
            raise TypeError(f"accept_receive must be True or False, got {accept_receive!r}")
        if engine is not None and not isinstance(engine, Engine):
            raise TypeError(f"engine must be an iocpx.Engine or None, got {engine!r}")
        self._engine = Engine() if engine is None else engine
        self._sock = given_sockets(sock)
        if sock is not None and (host is not None or port != 0):
            raise ValueError(f"host and port must be left out with sock, got {host!r}, {port!r}")
        self._hosts = host_names(host)
        self._port = integer_between("port", port, 0, 65535)
        numbers = {
            "backlog": integer_between("backlog", backlog, 1, 65535),
            "initial_accepts": integer_between("initial_accepts", initial_accepts, 1, 10000),
            "max_accepts": integer_between("max_accepts", max_accepts, 1, 10000),
            "accept_receive": accept_receive,
            "accept_timeout_s": milliseconds("accept_timeout_s", accept_timeout_s, 1, 86400),
            "max_connections": limit("max_connections", max_connections, 10**9),
            "initial_reads": integer_between("initial_reads", initial_reads, 1, 64),
            "idle_timeout_s": 0 if idle_timeout_s is None else milliseconds(
                "idle_timeout_s", idle_timeout_s, 0.001, 86400),
            "max_sends": limit("max_sends", max_sends, 10**9),
            "max_write_buffer": limit("max_write_buffer", max_write_buffer, 2**48),
            "close_timeout_s": milliseconds("close_timeout_s", close_timeout_s, 0, 86400),
            "keepalive_idle_s": 0 if keepalive_idle_s is None else milliseconds(
                "keepalive_idle_s", keepalive_idle_s, 0.001, 86400),
            "keepalive_interval_s": milliseconds(
                "keepalive_interval_s", keepalive_interval_s, 0.001, 86400),
            "max_free_connections": integer_between(
                "max_free_connections", max_free_connections, 0, 10**6),
            "ssl_handshake_timeout_s": milliseconds(
                "ssl_handshake_timeout_s", ssl_handshake_timeout_s, 0.001, 86400),
            "ssl_shutdown_timeout_s": milliseconds(
                "ssl_shutdown_timeout_s", ssl_shutdown_timeout_s, 0.001, 86400),
            "max_handshakes": integer_between("max_handshakes", max_handshakes, 1, 10**6),
        }
        if numbers["max_accepts"] < numbers["initial_accepts"]:
            raise ValueError(f"max_accepts must be initial_accepts ({initial_accepts}) or more, "
                             f"got {max_accepts}")
        self._numbers = numbers
        self._arguments = (self._engine, protocol_factory, exception_handler, trace, ssl, numbers)
        self._start_lock = threading.Lock()

    def close_clients(self):
        """Close every connection gracefully; the server goes on.
        asyncio.Server.close_clients()."""
        runtime = self._runtime
        if runtime is not None:
            runtime.close_clients(False)

    def abort_clients(self):
        """Reset every connection; the server goes on.  asyncio.Server.abort_clients()."""
        runtime = self._runtime
        if runtime is not None:
            runtime.close_clients(True)

    @property
    def sockets(self):
        """The listening sockets, each an asyncio.trsock.TransportSocket (one that only the
        server can close); () when not serving.  asyncio.Server.sockets."""
        runtime = self._runtime
        sockets = runtime.sockets if runtime is not None and runtime.serving() else ()
        return tuple(asyncio.trsock.TransportSocket(sock) for sock in sockets)

    @property
    def connections(self):
        """The open Connection objects, a new list; [] with a native handler."""
        runtime = self._runtime
        return [] if runtime is None else list(runtime.connections)

    @property
    def connection_count(self):
        """Connections whose handle is open."""
        runtime = self._runtime
        return 0 if runtime is None else runtime.connection_count()

    def _make_runtime(self):
        return Runtime(*self._arguments)

    def _make_sockets(self):
        """For Runtime.start(), on a thread of its own."""
        if self._sock is None:
            sockets, skipped = bind(self._hosts, self._port)
        else:
            sockets, skipped = self._sock, ()
        self._address = sockets[0].getsockname()
        return sockets, skipped
