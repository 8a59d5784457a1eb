"""DatagramServer: datagram endpoints on an engine's workers, and the transports of their protocols.

A run of it is a Runtime whose service has the endpoints, one for each socket, and no listeners.

Called by the program, to which `_core` shows it, and by the workers through the service's handler;
calls `_datagram_layer` and `_serving`, from whose classes its own derive, `_timers`, `_protocols`,
`_runtime`, `_engines`, `_listening`, and of the engine `_open`, `_datagrams`, `_delivery`,
`_requests` and `_service`.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING
from cpython.contextvars cimport PyContext_Copy, PyContext_Enter, PyContext_Exit
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.stdint cimport uint64_t

from iocpx._base cimport count, service_connections
from iocpx._datagram_layer cimport Datagrams
from iocpx._datagrams cimport conn_give_datagram
from iocpx._delivery cimport conn_take_data, conn_take_lost, conn_take_news, lost_t, news_t
from iocpx._open cimport conn_open
from iocpx._protocols cimport method_of, refuse_coroutine
from iocpx._requests cimport (
    conn_abort, conn_borrow_handle, conn_is_closing, conn_pause_reading, conn_return_handle,
)
from iocpx._runtime cimport duplicate_socket, Runtime
from iocpx._sched cimport conn_unref
from iocpx._service cimport service_retire
from iocpx._state cimport buf_free, buf_t, STATE_OPEN
from iocpx._timers cimport check_callback, microseconds, TimerHandle, Timers
from iocpx._types cimport *

import _socket
import asyncio
import socket
import threading

from iocpx._addresses import address_text, sockaddr
from iocpx._arguments import integer_between, limit, milliseconds, refuse_async
from iocpx._engines import Engine
from iocpx._errors import os_error
from iocpx._listening import bind, given_sockets, host_names
from iocpx._serving import Serving

cdef int ERROR_INVALID_PARAMETER = 87
cdef int ERROR_OPERATION_ABORTED = 995

_COUNTERS = {
    "datagrams_received": N_RECEIVES,
    "bytes_received": N_BYTES_RECEIVED,
    "datagrams_truncated": N_TRUNCATED,
    "receive_errors": N_RECEIVE_ERRORS,
    "datagrams_sent": N_SENDS,
    "bytes_sent": N_BYTES_SENT,
    "send_errors": N_SEND_ERRORS,
    "datagrams_dropped": N_DROPPED,
    "write_pauses": N_WRITE_PAUSES,
    "read_pauses": N_READ_PAUSES,
    "sockets_opened": N_SOCKETS_OPENED,
    "sockets_closed": N_SOCKETS_CLOSED,
    "endpoints_made": N_CONNECTIONS_MADE,
    "endpoints_retired": N_CONNECTIONS_RETIRED,
}

# What of a Runtime concerns connections only.
_NO_NUMBERS = {
    "backlog": 1, "initial_accepts": 1, "max_accepts": 1, "accept_receive": False,
    "accept_timeout_s": 0, "max_connections": 0, "idle_timeout_s": 0, "max_sends": 0,
    "keepalive_idle_s": 0, "keepalive_interval_s": 0, "max_free_connections": 0,
    "ssl_handshake_timeout_s": 1, "ssl_shutdown_timeout_s": 1, "max_handshakes": 1,
}


@cython.final
cdef class DatagramTransport(Datagrams):
    """One endpoint of a DatagramServer, with the interface of asyncio.DatagramTransport.

    Made by the server and given to the protocol's connection_made().  Every method may be called
    from any thread, at any time; those of an endpoint that is closed have no effect.
    """

    cdef Runtime _runtime           # keeps the engine's memory while _conn may be used
    cdef object _context            # its callbacks', until connection_lost; the executor's
    cdef object _raised             # what connection_lost gets in place of Windows' error
    cdef object _socket             # what get_extra_info("socket") made; critical section
    cdef Timers _timers             # made when the first is set; critical section
    cdef object __weakref__

    def __init__(self):
        raise TypeError("DatagramTransport objects are made by iocpx.DatagramServer only")

    def __repr__(self):
        state = "closed" if self._conn == NULL else "closing" if self.is_closing() else "open"
        return f"<iocpx.DatagramTransport {address_text(self._sockname)} {state}>"

    def __reduce__(self):
        raise TypeError("a DatagramTransport cannot be copied or pickled: it belongs to its server")

    # From here to pause_reading: called by the engine's side only.

    cdef object _run(self, str name, tuple arguments):
        result = Datagrams._run(self, name, arguments)
        if result is not None:
            refuse_coroutine(name, result)
        return result

    cdef int _returned(self, str name, result) except -1:
        refuse_coroutine(name, result)
        return 0

    cdef void _failed(self, str name, exc) noexcept:
        """A callback raised.  The endpoint serves others as well, and goes on."""
        self._runtime.report(f"{name}() raised, the endpoint goes on", exc, self.get_protocol(),
                             self)

    cdef bint _made(self, conn_t *conn) noexcept:
        """False: there is no protocol."""
        fault = "protocol_factory raised"
        # Here, since a worker may come to it before conn_open has returned.
        self._take_conn(conn)
        try:
            protocol = self._runtime.factory()
            fault = "protocol_factory returned no protocol"
            refuse_coroutine("protocol_factory", protocol)
            self._take_protocol(protocol)
            if method_of(protocol, "datagram_received") is None and not self._in_lists:
                self._take_protocol(None)
                raise TypeError("protocol must be an object with a method datagram_received() or "
                                f"datagrams_received(), got {protocol!r}")
            self._runtime.connections.add(self)
            fault = "connection_made() raised"
            self._run("connection_made", (self,))
        except BaseException as exc:
            self._raised = exc
            self._runtime.report(f"{fault}, the endpoint is closed", exc, self.get_protocol(), self)
            conn_abort(NULL, conn, ABORT_CALLBACK)
        return self._protocol is not None

    cdef void _lost(self, lost_t *lost) noexcept:
        exc = self._raised
        self._runtime.connections.discard(self)
        self._detach()
        with cython.critical_section(self):
            sock = self._socket
            self._socket = None
            timers = self._timers
            self._timers = None
        if timers is not None:
            timers.end()
        try:
            if sock is not None:
                sock.close()
            if lost.error != 0 and exc is None:
                exc = os_error(lost.error, "send" if lost.sending else "receive",
                               address_text(self._sockname))
        except BaseException as raised:
            self._runtime.report("what ended an endpoint cannot be told", raised, None, self)
        try:
            if self._protocol is not None:
                self._run("connection_lost", (exc,))
        except BaseException as raised:
            self._runtime.report("connection_lost() raised", raised, self.get_protocol(), self)
        self._raised = None
        self._context = None

    cdef void _run_timers(self, conn_t *conn) noexcept:
        with cython.critical_section(self):
            timers = self._timers
        if timers is not None:
            timers.run(conn, self._runtime, self)

    def pause_reading(self):
        """Tell nothing until resume_reading(), errors neither, and receive no more than is pending
        (`receives`); what the system has no room for meanwhile is lost.  Without effect once the
        endpoint closes.  asyncio.ReadTransport.pause_reading()."""
        self._pause(True)

    def resume_reading(self):
        """asyncio.ReadTransport.resume_reading()."""
        self._pause(False)

    cdef _pause(self, bint paused):
        cdef conn_t *conn = self._enter()
        if conn != NULL:
            with nogil:
                if not conn_is_closing(conn):
                    conn_pause_reading(NULL, conn, paused)
                conn_unref(conn)

    def call_later(self, delay_s, callback, *args):
        """Call callback(*args) in the endpoint's own turn, on a worker, once delay_s seconds have
        passed; returns a TimerHandle.  Connection.call_later(), for an endpoint."""
        return self._set_timer(callback, args, microseconds(delay_s))

    def call_soon(self, callback, *args):
        """call_later(0, callback, *args): in the endpoint's next turn."""
        return self._set_timer(callback, args, 0)

    cdef TimerHandle _set_timer(self, callback, tuple args, uint64_t delay_us):
        cdef Timers timers
        cdef conn_t *conn
        check_callback(callback)
        made = Timers.__new__(Timers)
        with cython.critical_section(self):
            if self._timers is None and self._conn != NULL:
                self._timers = made
            timers = self._timers
        if timers is None:
            return TimerHandle.__new__(TimerHandle)     # of no endpoint: cancelled
        conn = self._enter()
        try:
            return timers.add(conn, callback, args, delay_us)
        finally:
            if conn != NULL:
                conn_unref(conn)

    def get_extra_info(self, name, default=None):
        """"sockname"; "peername" where the socket is connected; "socket" (an
        asyncio.trsock.TransportSocket while the endpoint is open, for options, as multicast).
        asyncio.BaseTransport.get_extra_info()."""
        if name == "sockname":
            return self._sockname
        if name == "peername" and self._remote is not None:
            return self._remote
        if name != "socket":
            return default
        made = self._duplicate() if self._socket is None else None
        with cython.critical_section(self):
            # Another thread may have been faster, or the endpoint be over.
            if self._socket is None and self._conn != NULL:
                self._socket = made
                made = None
            sock = self._socket
        if made is not None:
            made.close()
        return default if sock is None else asyncio.trsock.TransportSocket(sock)

    cdef object _duplicate(self):
        """A socket object with a handle of its own: the engine's may be closed, and its value
        reused, at any moment."""
        cdef conn_t *conn = self._enter()
        cdef size_t handle
        if conn == NULL:
            return None
        handle = conn_borrow_handle(conn)
        if handle == <size_t>-1:
            conn_unref(conn)
            return None
        try:
            copy = duplicate_socket(handle)
        finally:
            with nogil:
                conn_return_handle(NULL, conn)
                conn_unref(conn)
        return socket.socket(fileno=copy)


# -- how a protocol is told ------------------------------------------------------------


cdef void tell(void *context, conn_t *conn) noexcept:
    """Tell one endpoint's protocol all its news, in the context that its callbacks share."""
    cdef Runtime runtime = <Runtime>context
    cdef DatagramTransport transport
    cdef bint entered = False
    cdef size_t wanted
    cdef news_t news
    cdef lost_t lost
    cdef buf_t *buf
    conn_take_news(conn, &news)
    while news.traces != NULL:
        buf = news.traces
        news.traces = buf.next
        runtime.tell_trace(conn, buf.data)
        buf_free(buf)
    if conn.user == NULL:
        # Told of its end already.
        buf = conn_take_data(conn, &wanted)
        while buf != NULL:
            conn_give_datagram(conn, buf)
            buf = conn_take_data(conn, &wanted)
        conn_take_lost(conn, &lost)
        return
    transport = <DatagramTransport>conn.user
    own = transport._context
    try:
        PyContext_Enter(own)
        entered = True
    except BaseException as exc:
        runtime.report("an endpoint is served outside of its context", exc, None, None)
    if news.made:
        transport._made(conn)
    if news.pause:
        transport._tell_marks("pause_writing")
    if news.resume:
        transport._tell_marks("resume_writing")
    transport._tell_datagrams(conn)
    if news.timers:
        transport._run_timers(conn)
    if conn_take_lost(conn, &lost):
        transport._lost(&lost)
        conn.user = NULL
        Py_DECREF(transport)            # of the INCREF in _listen
    if entered:
        try:
            PyContext_Exit(own)
        except BaseException as exc:
            # C code among the callbacks has entered one of its own and stayed there.
            runtime.report("a callback returned in another context", exc, None, None)


# -- the server ------------------------------------------------------------------------


@cython.no_gc_clear
cdef class DatagramRuntime(Runtime):
    def __cinit__(self, engine, factory, exception_handler, trace, sslcontext, numbers):
        self.config.handler.deliver = NULL
        self.config.handler.tell = tell
        self.config.datagrams = True
        self.config.datagram_bytes = numbers["max_datagram_bytes"]

    def start(self, make_sockets, bint owns_sockets):
        # A given one, too, is closed where this fails: others have become endpoints by then, which
        # close theirs.
        Runtime.start(self, make_sockets, True)

    def _listen_to_all(self):
        Runtime._listen_to_all(self)
        # It ends with the last of its endpoints.
        with self._sockets_lock:
            if self.service != NULL and not (self._closed or self.failed):
                with nogil:
                    service_retire(self.service)

    def _listen(self, sock):
        cdef DatagramTransport transport = DatagramTransport.__new__(DatagramTransport)
        cdef void *user = <void *><PyObject *>transport
        cdef size_t handle
        cdef const char *local_address
        cdef const char *remote_address
        cdef int error = 0
        with self._sockets_lock:
            if sock.fileno() < 0:
                return      # close() was faster
            sock.setblocking(False)
            sockname = sock.getsockname()
            try:
                peername = sock.getpeername()
            except OSError:
                peername = None
            local = sockaddr(sockname)
            remote = sockaddr(peername)
            local_address = PyBytes_AS_STRING(local)
            remote_address = PyBytes_AS_STRING(remote)
            transport._begin(sock.family, sockname, peername, peername is not None)
            transport._runtime = self
            transport._context = PyContext_Copy(self.context)
            handle = sock.fileno()
            Py_INCREF(transport)        # for conn.user, dropped when connection_lost was told
            with nogil:
                error = conn_open(self.service, NULL, NULL, handle, STATE_OPEN, local_address,
                                  remote_address, NULL, user, NULL, False)
            if error != 0:
                Py_DECREF(transport)
            else:
                count(self.service, NULL, N_SOCKETS_OPENED, 1)
                # The C type's own: the handle is the endpoint's.
                _socket.socket.detach(sock)
                sock.detach()
        if error == ERROR_OPERATION_ABORTED:
            return          # close() was faster
        if error != 0:
            raise os_error(error, "endpoint", address_text(sockname),
                           "the socket belongs to another completion port already"
                           if error == ERROR_INVALID_PARAMETER else None)

    def serving(self):
        return (Runtime.serving(self) and self.service != NULL
                and service_connections(self.service) > 0)

    def stats(self):
        cdef int i
        stats = {name: self._count(counter) for name, counter in _COUNTERS.items()}
        stats["endpoints_now"] = self.connection_count()
        # As far as an endpoint knows such ends.
        stats["aborts_by_reason"] = {
            name: self._count(N_ABORTS + i)
            for name, i in (("application", ABORT_APPLICATION), ("callback", ABORT_CALLBACK),
                            ("close_timeout", ABORT_CLOSE_TIMEOUT), ("stop", ABORT_STOP))}
        return stats


class DatagramServer(Serving):
    """A UDP server whose callbacks run on the engine's worker threads; what
    asyncio.loop.create_datagram_endpoint() is to a loop.  Microsoft's WSARecvFrom and WSASendTo.

    protocol_factory: callable without arguments that returns a protocol: an
        asyncio.DatagramProtocol, or what else has its methods (see below).  It is called once for
        each endpoint.
    host: str, sequence of str, or None for all interfaces.  Each address that this stands for is
        an endpoint of its own, with a protocol and a transport of its own.
    port: int, 0 to 65535; 0 takes a free one, see `address`.
    sock: a bound UDP socket.socket, or a sequence of them, instead of host and port; one that is
        connected too sends to its peer only.  The server closes it, also where it cannot be
        served, so that it can be started once.
    engine: the iocpx.Engine that serves it, perhaps beside others; None: one of its own.
    receives: receives kept pending per endpoint, 1 to 64: so many datagrams, and no more, come in
        one turn.
    max_datagram_bytes: of the longest datagram that is received, 1 to 65535; a longer one is
        lost, and error_received() gets an OSError with .winerror 10040.  The memory of an endpoint
        is about this times `receives`.
    max_write_buffer: bytes that may be queued, 8 more for each datagram; None: no limit.  What
        does not fit in is lost, and error_received() gets an OSError with .winerror 10055, once
        for as many as come in a row.
    close_timeout_s: seconds that the end of an endpoint may take which has something to send, and
        that the stop may take, 0 to 86400.
    exception_handler, trace: as iocpx.Server's.  A wrong argument is a TypeError or a ValueError
        that names it.

    A protocol is an object with datagram_received(data, addr), or with datagrams_received(list),
    which is not asyncio's: it gets all the datagrams that have come by the endpoint's turn, as a
    list of (data, addr), and is called in place of the other where the protocol's class has it.
    What else it lacks is not called: connection_made(transport), error_received(exc),
    connection_lost(exc), pause_writing(), resume_writing().  Empty datagrams are delivered.

    No error of the network ends an endpoint: each is told by error_received(), be it that a
    datagram could not be sent, that nobody listens where one went, as far as Windows tells
    (ConnectionResetError), or that the system refuses to receive, which is tried again a second
    later.  What a callback raises is told to the exception handler, and the endpoint goes on; but
    what the factory or connection_made() raises closes it.

    The callbacks of an endpoint never overlap; those of different endpoints may run at the same
    time, and all run in a contextvars.Context of its own.  The server ends by close(), or when its
    last endpoint has closed.  start(), close(), `with` and the rest are as iocpx.Server's.
    """

    _kind = "DatagramServer"

    def __init__(self, protocol_factory, host=None, port=0, *, sock=None, engine=None, receives=16,
                 max_datagram_bytes=65535, max_write_buffer=67108864, close_timeout_s=5.0,
                 exception_handler=None, trace=None):
        self._runtime = None
        self._address = None
        self._addresses = ()
        self._closes = 0            # so often close() was called
        if not callable(protocol_factory):
            raise TypeError(f"protocol_factory must be callable, got {protocol_factory!r}")
        for name, value in (("exception_handler", exception_handler), ("trace", trace)):
            if value is not None and not callable(value):
                raise TypeError(f"{name} must be callable or None, got {value!r}")
            refuse_async(name, value)
        refuse_async("protocol_factory", protocol_factory)
        if engine is not None and not isinstance(engine, Engine):
            raise TypeError(f"engine must be an iocpx.Engine or None, got {engine!r}")
        self._engine = Engine() if engine is None else engine
        self._sock = given_sockets(sock, socket.SOCK_DGRAM)
        if sock is not None and (host is not None or port != 0):
            raise ValueError(f"host and port must be left out with sock, got {host!r}, {port!r}")
        self._hosts = host_names(host)
        self._port = integer_between("port", port, 0, 65535)
        self._numbers = {
            **_NO_NUMBERS,
            "initial_reads": integer_between("receives", receives, 1, 64),
            "max_datagram_bytes": integer_between(
                "max_datagram_bytes", max_datagram_bytes, 1, 65535),
            "max_write_buffer": limit("max_write_buffer", max_write_buffer, 2**48),
            "close_timeout_s": milliseconds("close_timeout_s", close_timeout_s, 0, 86400),
        }
        self._arguments = (self._engine, protocol_factory, exception_handler, trace, None,
                           self._numbers)
        self._start_lock = threading.Lock()

    def _make_runtime(self):
        return DatagramRuntime(*self._arguments)

    def _make_sockets(self):
        """For Runtime.start(), on a thread of its own."""
        if self._sock is None:
            sockets, skipped = bind(self._hosts, self._port, socket.SOCK_DGRAM)
        else:
            sockets, skipped = self._sock, ()
        try:
            self._addresses = tuple(sock.getsockname() for sock in sockets)
        except OSError:
            for sock in sockets:
                sock.close()
            raise
        self._address = self._addresses[0]
        return sockets, skipped

    @property
    def addresses(self):
        """Where its sockets are (or were last) bound, each as socket.getsockname(), a tuple."""
        return self._addresses

    @property
    def transports(self):
        """The open DatagramTransport objects, a new list."""
        runtime = self._runtime
        return [] if runtime is None else list(runtime.connections)
