"""DatagramTransport: a datagram endpoint of an asyncio loop, and how its protocol is told.

All callbacks run on the loop's thread: what has come is taken in the loop's look at the port, and
told in the same iteration.  Methods are the loop's thread's, as asyncio has it; a call of another
thread corrupts nothing.

Called by `_socket_loop`, by `_transport_socket`, and by the engine's side through `_endpoint`;
calls `_datagram_layer`, from whose class its own derives, `_engine_loop`, `_scheduling`,
`_endpoint`, `_transport_socket`, and of the engine `_open`, `_datagrams`, `_delivery` and
`_requests`.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING
from cpython.contextvars cimport PyContext_CopyCurrent, PyContext_Enter, PyContext_Exit
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.stdint cimport uint64_t

from iocpx._base cimport count, drop_socket
from iocpx._datagram_layer cimport Datagrams
from iocpx._datagrams cimport conn_give_datagram
from iocpx._delivery cimport conn_take_data, conn_take_lost, conn_take_news, lost_t, news_t
from iocpx._endpoint cimport Endpoint, set_tell_of_datagrams
from iocpx._engine_loop cimport EngineLoop
from iocpx._open cimport conn_open
from iocpx._requests cimport conn_borrow_handle, conn_lend_handle, conn_return_handle
from iocpx._sched cimport conn_unref
from iocpx._scheduling cimport on_loop
from iocpx._state cimport buf_t, STATE_OPEN
from iocpx._types cimport *

import _socket
import socket
import warnings
from asyncio import proactor_events

from iocpx._addresses import address_text, sockaddr
from iocpx._errors import os_error
from iocpx._transport_socket import TransportSocket


@cython.final
cdef class DatagramTransport(Datagrams):
    """asyncio.DatagramTransport, made by the loop's create_datagram_endpoint()."""

    cdef readonly EngineLoop _loop
    cdef worker_t *_worker          # the loop's one; as long as _conn is
    cdef Endpoint _endpoint         # keeps the engine's memory while _conn may be used
    cdef object _context            # its callbacks'
    cdef object _given              # the socket that it was made of, closed with it
    cdef object _waiter             # a future: connection_made was called
    cdef object _extra
    cdef int _proto
    # (data, addr, error, it is of a send) that are not told yet; or None
    cdef list _come
    cdef object _end                # … and connection_lost's exception behind them, in a tuple
    cdef readonly bint _protocol_paused  # its writing, as asyncio's transports have it
    cdef bint _told                 # connection_lost was called
    cdef bint _closed               # close() or abort() was
    cdef bint _aborted
    cdef uint64_t _looked           # the loop's looks when a datagram last left at once
    cdef object __weakref__
    cdef dict __dict__              # as with asyncio's, whose attributes may be set

    def __init__(self):
        raise TypeError("DatagramTransport objects are made by iocpx.EventLoop only")

    # A compiled class cannot derive from asyncio's, which has slots; isinstance() asks this.  Of
    # its two it is the one that is an asyncio.Transport as well, as asyncio's own here is.
    @property
    def __class__(self):
        return proactor_events._ProactorDatagramTransport

    def __repr__(self):
        state = "closed" if self._told else "closing" if self.is_closing() else "open"
        return f"<iocpx.DatagramTransport {address_text(self._sockname)} {state}>"

    def __reduce__(self):
        raise TypeError("a DatagramTransport cannot be copied or pickled: it belongs to its loop")

    def __del__(self):
        if self._endpoint is not None and not self._told:
            warnings.warn(f"unclosed transport {self!r}", ResourceWarning, source=self)
            if self._given is not None:
                self._given.close()

    def __dealloc__(self):
        if self._conn != NULL:
            conn_unref(self._conn)

    cdef void _failed(self, str name, exc) noexcept:
        self._loop.callback_raised(exc, f"Exception in callback {name}()", self.get_protocol(),
                                   self)

    cdef bint _leaves_now(self) noexcept:
        """A lone datagram does, as with asyncio; of many in one iteration the others leave together
        at its end."""
        cdef bint first = self._looked != self._loop.looks
        self._looked = self._loop.looks
        return first

    cdef worker_t *_by(self) noexcept:
        return self._worker if on_loop(self._loop) else NULL

    cdef void _asked(self) noexcept:
        self._loop.wants_look()

    cdef void _ending(self, bint aborted) noexcept:
        self._closed = True
        self._aborted = self._aborted or aborted

    cdef void _tell_marks(self, str name) noexcept:
        self._protocol_paused = name == "pause_writing"
        self._call(name, ())

    cdef void _made(self) noexcept:
        self._call("connection_made", (self,))
        try:
            if self._waiter is not None:
                self._loop.call_soon(self._tell_waiter)
        except BaseException as exc:
            self._failed("connection_made", exc)

    def _tell_waiter(self):
        waiter, self._waiter = self._waiter, None
        if not waiter.done():
            waiter.set_result(None)
        # As with asyncio: before whoever waits goes on, and sends, receives are posted.
        self._loop.wants_look()

    cdef void _lost(self, lost_t *lost) noexcept:
        self._told = True
        exc = None
        try:
            if lost.error != 0:
                exc = os_error(lost.error, "send" if lost.sending else "receive")
        except BaseException as raised:
            exc = raised
        # First: whoever hears of it may bind the port.
        given, self._given = self._given, None
        if given is not None:
            try:
                given.close()
            except BaseException as raised:
                self._loop.callback_raised(raised, "the endpoint's socket cannot be closed",
                                           self.get_protocol(), self)
        if self._come is None:
            self._call("connection_lost", (exc,))
        else:
            self._end = (exc,)
        self._detach()

    # As with asyncio what has come is told by a callback of its own, behind all that are to be
    # called already: a task that was made before may wait for it.
    cdef bint _later(self, data, addr, error, bint sending) except -1:
        if self._come is None:
            self._loop.call_soon(self._tell_come, context=self._context)
            self._come = []
        self._come.append((data, addr, error, sending))
        return True

    def _tell_come(self):
        come, self._come = self._come, None
        some = []
        for data, addr, error, sending in come:
            # Each callback may close it.  What it has sent before is told of, unless it aborts.
            if self._aborted or (self._closed and not sending):
                continue
            with cython.critical_section(self):
                protocol = self._protocol
                in_lists = self._in_lists
            if error is None and in_lists:
                some.append((data, addr))
                continue
            if some:
                self._tell_list(protocol, some)
                some = []
                if self._aborted or (self._closed and not sending):
                    continue
            if error is not None:
                self._call("error_received", (error,))
                continue
            try:
                protocol.datagram_received(data, addr)
            except BaseException as exc:
                self._failed("datagram_received", exc)
        if some and not self._closed:
            self._tell_list(self.get_protocol(), some)
        end, self._end = self._end, None
        if end is not None:
            self._call("connection_lost", end)

    def get_extra_info(self, name, default=None):
        """"sockname", "peername" where there is one, "socket" (an asyncio.trsock.TransportSocket).
        asyncio.BaseTransport.get_extra_info()."""
        # Made when it is asked for, since it refers to the transport, which then refers to it.
        if name == "socket" and "socket" not in self._extra:
            self._extra["socket"] = TransportSocket(self, self._peers.family, socket.SOCK_DGRAM,
                                                    self._proto)
        return self._extra.get(name, default)

    def _lend_handle(self, copied=False):
        """(the socket's handle, what _return_handle() wants), and it stays open until that is
        called; None: it is closed.

        copied: somebody makes a handle of his own of it.
        """
        cdef conn_t *conn = self._enter()
        cdef size_t handle
        if conn == NULL:
            return None
        handle = conn_borrow_handle(conn) if copied else conn_lend_handle(conn)
        if handle == <size_t>-1:
            conn_unref(conn)
            return None
        return handle, <size_t>conn

    def _return_handle(self, size_t lent):
        """After a _lend_handle() that was not None, once."""
        cdef conn_t *conn = <conn_t *>lent
        cdef worker_t *by = self._by()
        with nogil:
            conn_return_handle(by, conn)
            conn_unref(conn)


cdef void drop_news(conn_t *conn) noexcept:
    """Nobody is told."""
    cdef size_t wanted
    cdef lost_t lost
    cdef buf_t *buf = conn_take_data(conn, &wanted)
    while buf != NULL:
        conn_give_datagram(conn, buf)
        buf = conn_take_data(conn, &wanted)
    if conn_take_lost(conn, &lost) and conn.user != NULL:
        transport = <DatagramTransport>conn.user
        conn.user = NULL
        (<DatagramTransport>transport)._detach()
        Py_DECREF(transport)


cdef void tell(void *context, conn_t *conn) noexcept:
    """Tell one endpoint's protocol all its news, in the context that its callbacks share."""
    cdef Endpoint endpoint = <Endpoint>context
    cdef EngineLoop loop = <EngineLoop>endpoint.loop
    cdef DatagramTransport transport
    cdef bint entered = False
    cdef news_t news
    cdef lost_t lost
    conn_take_news(conn, &news)
    if loop.is_over or conn.user == NULL:
        drop_news(conn)
        return
    transport = <DatagramTransport>conn.user
    try:
        PyContext_Enter(transport._context)
        entered = True
    except BaseException as exc:
        loop.callback_raised(exc, "an endpoint is served outside of its context", None, None)
    if news.made:
        transport._made()
    if news.pause:
        transport._tell_marks("pause_writing")
    if news.resume:
        transport._tell_marks("resume_writing")
    transport._tell_datagrams(conn)
    if conn_take_lost(conn, &lost):
        transport._lost(&lost)
        conn.user = NULL
        Py_DECREF(transport)            # of the INCREF in open_datagrams
    if entered:
        try:
            PyContext_Exit(transport._context)
        except BaseException as exc:
            loop.callback_raised(exc, "a callback returned in another context", None, None)


def open_datagrams(EngineLoop loop, Endpoint endpoint, sock, protocol, address, waiter, extra,
                   bint joined):
    """A DatagramTransport of a socket, which closes it in the end.

    address: the only one that it sends to; None: any.
    joined: asyncio's proactor has brought the socket to the port.
    """
    cdef DatagramTransport transport = DatagramTransport.__new__(DatagramTransport)
    cdef conn_t *conn = NULL
    cdef size_t handle
    cdef int error
    sock.setblocking(False)
    try:
        sock.getsockname()
    except OSError:
        # Nothing can be received before it has a port, which Windows would give it with the first
        # datagram that it sends.
        sock.bind(("", 0))
    try:
        peername = sock.getpeername()
    except OSError:
        peername = None
    sockname = sock.getsockname()
    local = sockaddr(sockname)
    remote = sockaddr(peername)
    transport._begin(sock.family, sockname, peername if address is None else tuple(address),
                     peername is not None)
    transport._take_protocol(protocol)
    transport._context = PyContext_CopyCurrent()
    transport._waiter = waiter
    # A handle of the engine's own: the caller's socket stays the caller's to look at.
    handle = _socket.dup(sock.fileno())
    count(endpoint.service, NULL, N_SOCKETS_OPENED, 1)
    Py_INCREF(transport)                # for conn.user, dropped when connection_lost was told
    error = conn_open(endpoint.service, &endpoint.run.engine.workers[0], NULL, handle, STATE_OPEN,
                      PyBytes_AS_STRING(local), PyBytes_AS_STRING(remote), NULL,
                      <PyObject *>transport, &conn, joined)
    if error != 0:
        Py_DECREF(transport)
        drop_socket(endpoint.service, NULL, handle)
        raise os_error(error, "endpoint")
    transport._loop = loop
    transport._endpoint = endpoint
    transport._worker = &conn.engine.workers[0]
    transport._take_conn(conn)
    if joined:
        loop.adopt(conn)
    conn_unref(conn)                    # _take_conn has its own
    transport._given = sock
    transport._proto = sock.proto
    transport._extra = {**(extra or {}), "sockname": sockname, "peername": peername}
    (<object>loop)._transports[sock.fileno()] = transport
    loop.wants_look()
    return transport


set_tell_of_datagrams(tell)
