"""Server and Connection: Python's side of the engine.

`deliver_batch` is the one place that takes the GIL: once for all connections
that a worker found ready, whatever the number of their events.

Free-threaded builds: what several threads may reach at once lies in the conn_t
under its lock; of a Connection's own fields those that change (the protocol and
its bound methods, the pointer to the conn_t) are read and written in critical
sections, which cost nothing where there is a GIL.
"""

cimport cython
from cpython.buffer cimport (
    PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_CheckBuffer, PyObject_GetBuffer,
)
from cpython.bytes cimport (
    _PyBytes_Resize, PyBytes_AS_STRING, PyBytes_Check, PyBytes_FromStringAndSize, PyBytes_GET_SIZE,
)
from cpython.exc cimport PyErr_CheckSignals
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.stdint cimport uint64_t
from libc.string cimport memcpy, memset

from iocpx._engine cimport *
from iocpx._state cimport buf_free, buf_t, queue_t

import asyncio
import atexit
import logging
import math
import operator
import os
import queue
import socket
import sys
import sysconfig
import threading
import warnings

from iocpx._errors import os_error

logger = logging.getLogger("iocpx")

cdef enum:
    HIGH_WATER_BYTES = 65536        # asyncio's defaults
    LOW_WATER_BYTES = 16384
    WAIT_SLICE_MS = 100             # how long Ctrl+C may go unnoticed
    KEEPER = -1                     # among the indexes of the workers' threads
    EXIT_TIMEOUT_MS = 1000          # what connections get to finish at interpreter exit
    EXIT_PATIENCE_MS = 5000         # … and callbacks

cdef int ERROR_INVALID_PARAMETER = 87
cdef int ERROR_OPERATION_ABORTED = 995

MAX_BYTES = sys.maxsize

cdef bint free_threaded = not getattr(sys, "_is_gil_enabled", lambda: True)()
# Of the build, whether the GIL is on or not: an object that one thread has made and another
# one lets go of keeps its memory until the first runs Python again.
cdef bint frees_late = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


# -- the way from the engine into Python -------------------------------------------


cdef void deliver_batch(worker_t *worker) noexcept nogil:
    cdef conn_t *conn
    with gil:
        conn = worker_next(worker)
        while conn != NULL:
            deliver(<Runtime>worker.engine.config.runtime, conn)
            worker_delivered(worker, conn)
            conn = worker_next(worker)


cdef void deliver(Runtime runtime, conn_t *conn) noexcept:
    """Tell one connection's protocol all its news, in order."""
    cdef news_t news
    cdef buf_t *buf
    cdef size_t wanted
    cdef bint keep_open
    cdef int error = 0
    cdef bint error_sending = False
    cdef Connection connection
    conn_take_news(conn, &news)
    while news.spent != NULL:
        buf = news.spent
        news.spent = buf.next
        Py_DECREF(<object>buf.owner)    # of the INCREF in Connection._queue or offer_bytes
        buf_free(buf)
    while news.traces != NULL:
        buf = news.traces
        news.traces = buf.next
        runtime.tell_trace(conn, buf.data)
        buf_free(buf)
    if news.made:
        make_connection(runtime, conn)
    if conn.py == NULL:
        # There is no protocol: the factory raised, or all is told.
        buf = conn_take_data(conn, &wanted)
        while buf != NULL:
            buf.size = 0
            conn_give_buffer(conn, buf)
            buf = conn_take_data(conn, &wanted)
        conn_take_lost(conn, &error, &error_sending)
        return
    connection = <Connection>conn.py
    if news.made:
        connection._call("connection_made", connection)
    if news.resume:
        connection._call("resume_writing")
    if news.pause:
        connection._call("pause_writing")
    if news.sent > 0:
        connection._call("data_sent", news.sent)
    buf = conn_take_data(conn, &wanted)
    while buf != NULL:
        connection._feed(conn, buf)
        conn_give_buffer(conn, buf)
        buf = conn_take_data(conn, &wanted)
    if wanted > COPY_BYTES and not frees_late and connection._takes_bytes():
        offer_bytes(conn, wanted)
    if conn_take_eof(conn):
        keep_open = connection._call("eof_received")
        if not keep_open:
            conn_close(conn)
    if conn_take_lost(conn, &error, &error_sending):
        connection._lost(error, error_sending)
        conn.py = NULL
        Py_DECREF(connection)           # of the INCREF in make_connection


cdef void make_connection(Runtime runtime, conn_t *conn) noexcept:
    """Ask the factory for a protocol; conn.py becomes the Connection, or stays NULL."""
    cdef Connection connection = None
    try:
        connection = Connection.__new__(Connection)
        connection._attach(runtime, conn)
        connection._bind(runtime.factory())
        runtime.connections.add(connection)
    except BaseException as exc:
        if connection is not None:
            connection._detach()
        runtime.report("protocol_factory raised, the connection is reset", exc, None, None)
        conn_abort(conn, ABORT_CALLBACK)
        return
    Py_INCREF(connection)               # for conn.py
    conn.py = <PyObject *>connection


cdef void offer_bytes(conn_t *conn, size_t nbytes) noexcept:
    """Have the next receive fill a bytes object, for data_received as it is.

    Only now that the one before has been delivered: if the protocol has let go of it, its
    memory, still in the processor's cache, is used again.
    """
    try:
        data = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>nbytes)
    except MemoryError:
        return      # the receive takes a buffer of the engine's
    Py_INCREF(data)                     # dropped by take_bytes or deliver
    if not conn_offer(conn, <void *>data, PyBytes_AS_STRING(data), nbytes):
        Py_DECREF(data)


cdef bytes take_bytes(buf_t *buf):
    """What was received, as bytes: the object that it was received into, or a copy, so that
    a little data does not keep much memory."""
    cdef size_t nbytes = buf.size
    cdef PyObject *owner = <PyObject *>buf.owner
    if owner == NULL or buf.data != buf.base or 2 * nbytes < buf.capacity:
        data = PyBytes_FromStringAndSize(buf.data, <Py_ssize_t>nbytes)
        buf.size = 0
        return data
    buf.owner = NULL
    buf.base = NULL
    buf.size = 0
    if nbytes < buf.capacity:
        _PyBytes_Resize(&owner, <Py_ssize_t>nbytes)
    data = <bytes>owner
    Py_DECREF(data)                     # of the INCREF in offer_bytes
    return data


cdef object address_tuple(const unsigned char *addr):
    """A sockaddr as the socket module shows it."""
    cdef int family = addr[0] | addr[1] << 8
    cdef int port = addr[2] << 8 | addr[3]
    if family == socket.AF_INET:
        return socket.inet_ntop(family, PyBytes_FromStringAndSize(<char *>addr + 4, 4)), port
    if family == socket.AF_INET6:
        flowinfo = int.from_bytes(PyBytes_FromStringAndSize(<char *>addr + 4, 4), "big")
        scope = int.from_bytes(PyBytes_FromStringAndSize(<char *>addr + 24, 4), "little")
        host = socket.inet_ntop(family, PyBytes_FromStringAndSize(<char *>addr + 8, 16))
        return host, port, flowinfo, scope
    return None


# -- Connection ----------------------------------------------------------------------


@cython.final
@cython.no_gc_clear     # _detach needs _runtime, which keeps the engine's memory
cdef class Connection:
    """One connection of a server, with the interface of asyncio.Transport.

    Made by the server and given to the protocol's connection_made().  Every
    method may be called from any thread, at any time; once the connection is
    closed they have no effect.
    """

    cdef conn_t *_conn              # one reference, until connection_lost; critical section
    cdef Runtime _runtime           # keeps the engine's memory while _conn may be used
    cdef char[ADDRESS_BYTES] _local
    cdef char[ADDRESS_BYTES] _remote
    cdef bint _eof_written
    cdef object _socket             # what get_extra_info("socket") made
    cdef object _raised             # what a callback raised, for connection_lost
    # Critical section: set_protocol changes them.
    cdef object _protocol
    cdef object _data_received      # bound once: looked up per event they cost more than the call
    cdef object _get_buffer         # of a BufferedProtocol, else None
    cdef object _buffer_updated

    def __init__(self):
        raise TypeError("Connection objects are made by iocpx.Server only")

    def __dealloc__(self):
        self._detach()

    def __repr__(self):
        state = "closed"
        if self._conn != NULL:
            state = "closing" if self.is_closing() else "open"
        return f"<iocpx.Connection {address_text(self.get_extra_info('peername'))} {state}>"

    # From here to _feed: called by the engine's side only.

    cdef void _attach(self, Runtime runtime, conn_t *conn) noexcept:
        memcpy(self._local, conn.local, ADDRESS_BYTES)
        memcpy(self._remote, conn.remote, ADDRESS_BYTES)
        self._runtime = runtime
        conn_ref(conn)                  # dropped by _detach
        self._conn = conn

    cdef void _detach(self) noexcept:
        cdef conn_t *conn
        with cython.critical_section(self):
            conn = self._conn
            self._conn = NULL
        if conn != NULL:
            conn_unref(conn)

    cdef conn_t *_enter(self) noexcept:
        """The conn_t with a reference for the caller; NULL: closed."""
        cdef conn_t *conn
        with cython.critical_section(self):
            conn = self._conn
            if conn != NULL:
                conn_ref(conn)
        return conn

    cdef _bind(self, protocol):
        buffered = isinstance(protocol, asyncio.BufferedProtocol)
        for name in (("get_buffer", "buffer_updated") if buffered else ("data_received",)):
            if not callable(getattr(protocol, name, None)):
                raise TypeError(
                    f"protocol must be an object with a method {name}(), got {protocol!r}")
        get_buffer = protocol.get_buffer if buffered else None
        buffer_updated = protocol.buffer_updated if buffered else None
        data_received = None if buffered else protocol.data_received
        with cython.critical_section(self):
            self._protocol = protocol
            self._data_received = data_received
            self._get_buffer = get_buffer
            self._buffer_updated = buffer_updated
        tell_sent = hasattr(protocol, "data_sent")
        cdef conn_t *conn = self._enter()
        if conn != NULL:
            conn_tell_sent(conn, tell_sent)
            conn_unref(conn)

    cdef void _failed(self, str name, exc) noexcept:
        """A callback raised: its connection is reset, and no other."""
        if self._raised is None:
            self._raised = exc
        cdef conn_t *conn = self._enter()
        if conn != NULL:
            conn_abort(conn, ABORT_CALLBACK)
            conn_unref(conn)
        self._runtime.report(f"{name}() raised, the connection is reset", exc,
                             self.get_protocol(), self)

    cdef bint _call(self, str name, argument=None) noexcept:
        """One callback of the protocol, where it has it; the truth of what it returned."""
        try:
            callback = getattr(self.get_protocol(), name, None)
            if callback is None:
                return False
            return bool(callback() if argument is None else callback(argument))
        except BaseException as exc:
            self._failed(name, exc)
            return False

    cdef bint _takes_bytes(self) noexcept:
        """Is its protocol none that has buffers of its own?"""
        with cython.critical_section(self):
            takes = self._data_received is not None
        return takes

    cdef void _feed(self, conn_t *conn, buf_t *buf) noexcept:
        """Deliver one received buffer."""
        with cython.critical_section(self):
            data_received = self._data_received
        if data_received is None:
            self._feed_buffers(conn, buf)
            return
        try:
            data_received(take_bytes(buf))
        except BaseException as exc:
            self._failed("data_received", exc)

    cdef void _feed_buffers(self, conn_t *conn, buf_t *buf) noexcept:
        """Deliver one received buffer to a BufferedProtocol, in as many parts as it likes.

        A copy, since two things would be worse: to wait by a zero-byte receive and then to
        receive into the protocol's memory doubles the calls, and a receive that is posted into
        it beforehand would write there at any moment, not only between get_buffer() and
        buffer_updated().
        """
        cdef Py_buffer view
        cdef size_t part
        while buf.size > 0 and conn_is_reading_on(conn):
            with cython.critical_section(self):
                get_buffer = self._get_buffer
                buffer_updated = self._buffer_updated
            if get_buffer is None:
                # set_protocol() in between: the rest is for the new one.
                self._feed(conn, buf)
                return
            name = "get_buffer"
            try:
                PyObject_GetBuffer(get_buffer(<Py_ssize_t>buf.size), &view, PyBUF_WRITABLE)
                part = min(<size_t>view.len, buf.size)
                memcpy(view.buf, buf.data, part)
                PyBuffer_Release(&view)     # the protocol may resize it now
                if part == 0:
                    raise RuntimeError("get_buffer() returned an empty buffer")
                buf.data += part
                buf.size -= part
                name = "buffer_updated"
                buffer_updated(<Py_ssize_t>part)
            except BaseException as exc:
                self._failed(name, exc)

    cdef void _lost(self, int error, bint error_sending) noexcept:
        protocol = self.get_protocol()
        self._runtime.connections.discard(self)
        # First the end of get_extra_info("socket"): what it has made by then is closed
        # before connection_lost, so that the peer sees the end.
        self._detach()
        with cython.critical_section(self):
            sock = self._socket
            self._socket = None
        try:
            if sock is not None:
                sock.close()
            exc = self._raised
            if error != 0 and exc is None:
                exc = os_error(error, "send" if error_sending else "receive",
                               address_text(self.get_extra_info("peername")))
            callback = getattr(protocol, "connection_lost", None)
            if callback is not None:
                callback(exc)
        except BaseException as raised:
            self._runtime.report("connection_lost() raised", raised, protocol, self)
        self._raised = None
        with cython.critical_section(self):
            self._data_received = None
            self._get_buffer = None
            self._buffer_updated = None

    # -- asyncio.Transport ---------------------------------------------------------

    def write(self, data):
        """Queue data (bytes-like) to be sent; never blocks.  asyncio.WriteTransport.write().

        Any thread.  A callback's writes leave together when it returns, others
        at once.  bytes longer than 16 KiB are sent from where they are, all else
        is copied.  Without effect once the connection closes.  Raises TypeError
        for anything but a bytes-like object, RuntimeError after write_eof().
        """
        check_data(data)
        if self._eof_written:
            raise RuntimeError("cannot call write() after write_eof()")
        cdef conn_t *conn = self._enter()
        if conn == NULL:
            return
        try:
            if self._queue(conn, NULL, data) & WRITE_FLUSH:
                self._flush(conn)
        finally:
            conn_unref(conn)

    def writelines(self, list_of_data):
        """Queue several bytes-like objects as one write, without joining them.
        asyncio.WriteTransport.writelines().  Threads and errors as write()."""
        cdef queue_t parts
        cdef int result = 0
        items = list(list_of_data)
        for data in items:
            check_data(data)
        if self._eof_written:
            raise RuntimeError("cannot call writelines() after write_eof()")
        cdef conn_t *conn = self._enter()
        if conn == NULL:
            return
        memset(&parts, 0, sizeof(parts))
        try:
            try:
                for data in items:
                    self._queue(conn, &parts, data)
            finally:
                # Also if one raised, as a released memoryview does: those before it go.
                if parts.head != NULL:
                    result = conn_write_parts(conn, &parts)
            if result & WRITE_FLUSH:
                self._flush(conn)
        finally:
            conn_unref(conn)

    cdef int _queue(self, conn_t *conn, queue_t *parts, data) except -1:
        """Into the connection's queue, or into `parts`.  The result is write_result's."""
        cdef Py_buffer view
        cdef int result = 0
        if not PyBytes_Check(data):
            if type(data) is memoryview and not data.c_contiguous:
                data = bytes(data)
            else:
                # What the caller may change behind our back is copied at once.
                PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
                if view.len > 0:
                    result = queue_bytes(conn, parts, <char *>view.buf, view.len, NULL)
                PyBuffer_Release(&view)
                if result & WRITE_NO_MEMORY:
                    raise MemoryError
                return result
        if PyBytes_GET_SIZE(data) == 0:
            return 0
        Py_INCREF(data)                 # dropped here, or by deliver once it is sent
        result = queue_bytes(conn, parts, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data),
                             <PyObject *>data)
        if not result & WRITE_KEPT:
            Py_DECREF(data)
        if result & WRITE_NO_MEMORY:
            raise MemoryError
        return result

    cdef _flush(self, conn_t *conn):
        cdef bint pause
        with nogil:
            pause = conn_flush(conn)
        if pause:
            self._call("pause_writing")

    def can_write_eof(self):
        """True.  asyncio.WriteTransport.can_write_eof()."""
        return True

    def write_eof(self):
        """End our direction once all is sent; receiving goes on.
        asyncio.WriteTransport.write_eof(), Microsoft's shutdown(SD_SEND).  Any thread."""
        self._eof_written = True
        cdef conn_t *conn = self._enter()
        if conn != NULL:
            with nogil:
                conn_write_eof(conn)
                conn_unref(conn)

    def close(self):
        """Close gracefully: what is queued is sent, nothing more is received, then
        connection_lost(None).  asyncio.BaseTransport.close().  Any thread.

        A peer that takes nothing for the server's close_timeout_s gets a reset, and
        connection_lost a TimeoutError.
        """
        cdef conn_t *conn = self._enter()
        if conn != NULL:
            with nogil:
                conn_close(conn)
                conn_unref(conn)

    def abort(self):
        """Close with a reset; what is queued is dropped.  connection_lost(None) follows.
        asyncio.WriteTransport.abort().  Any thread."""
        cdef conn_t *conn = self._enter()
        if conn != NULL:
            with nogil:
                conn_abort(conn, ABORT_APPLICATION)
                conn_unref(conn)

    def is_closing(self):
        """Is the connection closing or closed?  asyncio.BaseTransport.is_closing()."""
        cdef bint closing = True
        cdef conn_t *conn = self._enter()
        if conn != NULL:
            closing = conn_is_closing(conn)
            conn_unref(conn)
        return closing

    def pause_reading(self):
        """Deliver nothing until resume_reading(); nothing is lost and the peer is slowed
        down.  asyncio.ReadTransport.pause_reading().  Any thread; from another thread a
        delivery that has begun goes on."""
        self._pause(True)

    def resume_reading(self):
        """asyncio.ReadTransport.resume_reading().  Any thread."""
        self._pause(False)

    cdef _pause(self, bint paused):
        cdef conn_t *conn = self._enter()
        if conn != NULL:
            with nogil:
                conn_pause_reading(conn, paused)
                conn_unref(conn)

    def is_reading(self):
        """Is the connection receiving?  asyncio.ReadTransport.is_reading()."""
        cdef bint reading = False
        cdef conn_t *conn = self._enter()
        if conn != NULL:
            reading = conn_is_reading(conn)
            conn_unref(conn)
        return reading

    def set_write_buffer_limits(self, high=None, low=None):
        """Set the marks (bytes) for pause_writing() and resume_writing().
        asyncio.WriteTransport.set_write_buffer_limits(), with its defaults: high 64 KiB
        or four times low, low a quarter of high.  Any thread."""
        if low is not None:
            low = _integer("low", low)
        if high is None:
            high = HIGH_WATER_BYTES if low is None else 4 * low
        high = _integer("high", high)
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
        cdef size_t high_bytes = min(high, MAX_BYTES)
        cdef size_t low_bytes = min(low, MAX_BYTES)
        cdef conn_t *conn = self._enter()
        if conn != NULL:
            with nogil:
                conn_set_marks(conn, high_bytes, low_bytes)
                conn_unref(conn)

    def get_write_buffer_limits(self):
        """(low, high) in bytes.  asyncio.WriteTransport.get_write_buffer_limits()."""
        cdef size_t high = 0
        cdef size_t low = 0
        cdef conn_t *conn = self._enter()
        if conn != NULL:
            conn_get_marks(conn, &high, &low)
            conn_unref(conn)
        return low, high

    def get_write_buffer_size(self):
        """Bytes queued and not yet sent.  asyncio.WriteTransport.get_write_buffer_size().

        Above the high mark only after pause_writing(), also inside of a callback: then what
        this has written is sent first, as far as the peer takes it.
        """
        cdef size_t nbytes = 0
        cdef size_t high
        cdef size_t low
        cdef conn_t *conn = self._enter()
        if conn == NULL:
            return 0
        try:
            nbytes = conn_write_buffer_size(conn)
            conn_get_marks(conn, &high, &low)
            if nbytes > high:
                self._flush(conn)
                nbytes = conn_write_buffer_size(conn)
        finally:
            conn_unref(conn)
        return nbytes

    def get_protocol(self):
        """asyncio.BaseTransport.get_protocol()."""
        with cython.critical_section(self):
            protocol = self._protocol
        return protocol

    def set_protocol(self, protocol):
        """Hand the connection to another protocol.  asyncio.BaseTransport.set_protocol().
        Any thread; a callback that has begun goes on with the old one.  TypeError where
        the protocol lacks data_received()."""
        self._bind(protocol)

    def get_extra_info(self, name, default=None):
        """"peername", "sockname" (addresses as the socket module shows them, also after
        the close) or "socket" (an asyncio.trsock.TransportSocket while the connection is
        open, for options), else default.  asyncio.BaseTransport.get_extra_info()."""
        if name == "peername":
            return address_tuple(<const unsigned char *>self._remote)
        if name == "sockname":
            return address_tuple(<const unsigned char *>self._local)
        if name == "socket":
            return self._socket_for_options(default)
        return default

    cdef object _socket_for_options(self, default):
        made = self._duplicate() if self._socket is None else None
        with cython.critical_section(self):
            # Another thread may have been faster, or the connection be over.
            if self._socket is None and self._conn != NULL:
                self._socket = made
                made = None
            sock = self._socket
        if made is not None:
            made.close()
        return default if sock is None else asyncio.trsock.TransportSocket(sock)

    cdef object _duplicate(self):
        """A socket object with a handle of its own: the engine's may be closed, and its
        value reused, at any moment."""
        cdef conn_t *conn = self._enter()
        cdef size_t handle
        if conn == NULL:
            return None
        handle = conn_borrow_handle(conn)
        if handle == <size_t>-1:
            conn_unref(conn)
            return None
        borrowed = None
        try:
            borrowed = socket.socket(fileno=handle)
            return borrowed.dup()
        finally:
            if borrowed is not None:
                borrowed.detach()
            with nogil:
                conn_return_handle(conn)
                conn_unref(conn)


cdef int check_data(data) except -1:
    if not PyObject_CheckBuffer(data):
        raise TypeError(f"data must be a bytes-like object, got {type(data).__name__}")
    return 0


cdef int queue_bytes(conn_t *conn, queue_t *parts, const char *data, size_t nbytes,
                     void *owner) noexcept nogil:
    if parts == NULL:
        return conn_write(conn, data, nbytes, owner)
    return conn_gather(conn, parts, data, nbytes, owner)


cdef str address_text(address):
    if address is None:
        return "?"
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


# -- Server ----------------------------------------------------------------------------


class NativeHandler:
    """A handler inside the engine, given to Server in the place of a factory."""

    def __init__(self, name):
        self._name = name

    def __repr__(self):
        return f"iocpx.native.{self._name}"


Echo = NativeHandler("Echo")

_COUNTERS = {
    "accepts": N_ACCEPTS,
    "accept_errors": N_ACCEPT_ERRORS,
    "accepts_grown": N_ACCEPTS_GROWN,
    "accepts_shrunk": N_ACCEPTS_SHRUNK,
    "refused": N_REFUSED,
    "silent_clients_dropped": N_SILENT_DROPPED,
    "receives": N_RECEIVES,
    "zero_byte_receives": N_ZERO_RECEIVES,
    "bytes_received": N_BYTES_RECEIVED,
    "sends": N_SENDS,
    "bytes_sent": N_BYTES_SENT,
    "inline_completions": N_INLINE_COMPLETIONS,
    "packets": N_PACKETS,
    "waits": N_WAITS,
    "empty_waits": N_EMPTY_WAITS,
    "gil_acquisitions": N_GIL_ACQUISITIONS,
    "write_pauses": N_WRITE_PAUSES,
    "read_pauses": N_READ_PAUSES,
    "takeovers": N_TAKEOVERS,
    "ops_posted": N_OPS_POSTED,
    "ops_completed": N_OPS_COMPLETED,
    "sockets_opened": N_SOCKETS_OPENED,
    "sockets_closed": N_SOCKETS_CLOSED,
    "connections_made": N_CONNECTIONS_MADE,
    "connections_retired": N_CONNECTIONS_RETIRED,
}

# In the order of abort_reason.
_ABORT_REASONS = ("application", "error", "callback", "write_limit", "idle_timeout",
                  "close_timeout", "stop")

# What runs at this moment; atexit stops it.  Entered by start(), left by the keeper's thread.
_running = set()


cdef class Runtime:
    """One run of a server, from start() to its end.

    Its threads refer to this object and not to the Server, so that a Server that
    nobody refers to any more can be finalised, and stop it.
    """

    cdef engine_t *engine
    cdef readonly object factory
    cdef readonly object exception_handler
    cdef readonly tuple sockets
    cdef object addresses           # of the sockets, as text
    cdef readonly list threads
    cdef set _to_begin
    cdef object _may_listen         # True: all threads have been started; False: not all can
    cdef object _listened           # what _listen_to_all returns
    cdef object _sockets_lock       # a listening handle is used, or closed
    cdef readonly object trace
    cdef readonly set connections

    def __cinit__(self, factory, exception_handler, trace, numbers):
        cdef config_t config
        cdef int error = 0
        self.factory = factory
        self.exception_handler = exception_handler
        self.trace = trace
        self.sockets = ()
        self.threads = []
        self._to_begin = set()
        self._may_listen = queue.SimpleQueue()
        self._listened = queue.SimpleQueue()
        self._sockets_lock = threading.RLock()  # a signal handler may close in close()
        self.connections = set()
        memset(&config, 0, sizeof(config))
        config.workers = numbers["workers"]
        config.initial_accepts = numbers["initial_accepts"]
        config.max_accepts = numbers["max_accepts"]
        config.accept_receive = numbers["accept_receive"]
        config.accept_timeout_ms = numbers["accept_timeout_s"]
        config.max_connections = numbers["max_connections"]
        config.initial_reads = numbers["initial_reads"]
        config.buffer_size = numbers["buffer_size"]
        config.max_free_buffers = numbers["max_free_buffers"]
        config.max_free_connections = numbers["max_free_connections"]
        config.idle_timeout_ms = numbers["idle_timeout_s"]
        config.max_sends = numbers["max_sends"]
        config.max_write_buffer = numbers["max_write_buffer"]
        config.close_timeout_ms = numbers["close_timeout_s"]
        config.keepalive_idle_ms = numbers["keepalive_idle_s"]
        config.keepalive_interval_ms = numbers["keepalive_interval_s"]
        config.high_water_bytes = HIGH_WATER_BYTES
        config.low_water_bytes = LOW_WATER_BYTES
        config.trace = trace is not None
        config.native = factory is Echo
        config.deliver = deliver_echo if config.native else deliver_batch
        config.runtime = <PyObject *>self   # borrowed: the threads keep us
        self.engine = engine_create(&config, &error)
        if self.engine == NULL:
            raise os_error(error, "completion port")

    def __dealloc__(self):
        # The threads refer to self, so they have ended, or never began.
        if self.engine != NULL:
            engine_free(self.engine)

    def adopt(self, sockets):
        """From here on close() closes them."""
        self.sockets = sockets
        self.addresses = ", ".join(address_text(sock.getsockname()) for sock in sockets)

    def start(self):
        """Start the threads, then listen.  What fails is undone."""
        cdef int workers = self.engine.config.workers
        self._to_begin = {KEEPER, *range(workers)}
        try:
            self._start_thread("iocpx-keeper", self.run_keeper)
            _running.add(self)
            for i in range(workers):
                self._start_thread(f"iocpx-worker-{i}", self.run_worker, i)
            self._may_listen.put(True)
            raised = self._listened.get()
            if raised is not None:
                raise raised
        except BaseException:
            self._may_listen.put(False)
            self._undo_start()
            raise
        logger.info("serving on %s, %d workers", self.addresses, workers)

    def _listen_to_all(self):
        """By the keeper: the thread of start() may end before a client comes.  Returns what
        was raised, or None."""
        try:
            for sock in self.sockets:
                self._listen(sock)
        except BaseException as exc:
            return exc

    def _listen(self, sock):
        cdef int error
        cdef int family = sock.family
        cdef size_t handle
        with self._sockets_lock:
            if sock.fileno() < 0:
                return      # close() was faster
            # The engine makes it so anyway (WSAEventSelect); told here, so that the
            # socket object knows, and can be duplicated.
            sock.setblocking(False)
            handle = sock.fileno()
            with nogil:
                error = engine_listen(self.engine, handle, family)
        if error == ERROR_OPERATION_ABORTED:
            return          # close() was faster
        if error == ERROR_INVALID_PARAMETER:
            raise os_error(error, "listen: the socket is on another completion port already "
                           "(to hand it to another process, socket.share() it before start())",
                           address_text(sock.getsockname()))
        if error != 0:
            raise os_error(error, "listen", address_text(sock.getsockname()))

    def _undo_start(self):
        for i in range(self.engine.config.workers):
            if self._claim(i):
                engine_forgo_worker(self.engine)
        if self._claim(KEEPER):
            _running.discard(self)
            engine_forgo_keeper(self.engine)
        else:
            with nogil:
                engine_stop(self.engine, 0)
            self.wait(-1)

    def _claim(self, index):
        """True once per thread: it may run, or its place may be given up.  start() may be
        interrupted at a moment when a thread exists and has not begun."""
        try:
            self._to_begin.remove(index)
        except KeyError:
            return False
        return True

    def _start_thread(self, name, target, *args):
        # daemon: at interpreter exit the atexit handler stops them, with Python
        # still whole; Python would otherwise wait for them before it gets there.
        thread = threading.Thread(target=target, args=args, name=name, daemon=True)
        self.threads.append(thread)
        thread.start()

    def run_worker(self, int index):
        if self._claim(index):
            with nogil:
                engine_run_worker(self.engine, index)

    def run_keeper(self):
        cdef int trouble = 1
        if not self._claim(KEEPER):
            return
        if self._may_listen.get():
            self._listened.put(self._listen_to_all())
        while trouble != 0:
            with nogil:
                trouble = engine_run_keeper(self.engine)
            if trouble != 0:
                logger.warning("cannot serve for now, trying again: %s",
                               os_error(trouble, "accept or wait"))
        _running.discard(self)
        logger.info("stopped after %d connections", engine_count(self.engine, N_CONNECTIONS_MADE))

    def stopping(self):
        return not any(sock.fileno() >= 0 for sock in self.sockets)

    def _close_sockets(self):
        with self._sockets_lock:
            for sock in self.sockets:
                sock.close()

    def close(self, uint64_t timeout_ms):
        with nogil:
            engine_stop(self.engine, timeout_ms)
        self._close_sockets()

    def wait(self, long long timeout_ms):
        """True when stopped within that time, -1: however long it takes.  Signal handlers
        run meanwhile."""
        cdef bint stopped
        cdef unsigned long slice_ms
        while True:
            slice_ms = WAIT_SLICE_MS if not 0 <= timeout_ms < WAIT_SLICE_MS else timeout_ms
            with nogil:
                stopped = engine_wait_stopped(self.engine, slice_ms)
            if stopped:
                break
            PyErr_CheckSignals()
            if timeout_ms >= 0:
                timeout_ms -= slice_ms
                if timeout_ms == 0:
                    return False
        for thread in self.threads:
            if thread.ident is not None:
                thread.join()
        return True

    def on_worker(self):
        return engine_on_worker(self.engine)

    def close_clients(self, bint abort):
        with nogil:
            engine_close_clients(self.engine, abort)

    def connection_count(self):
        return engine_connections(self.engine)

    def stats(self):
        cdef int counter
        stats = {name: engine_count(self.engine, counter) for name, counter in _COUNTERS.items()}
        cdef pools_t pools
        cdef int i
        engine_pools(self.engine, &pools)
        stats.update(
            connections_now=engine_connections(self.engine),
            connections_peak=pools.connections_peak,
            connections_free=pools.connections_free,
            connection_hits=pools.connection_hits,
            connection_misses=pools.connection_misses,
            accepts_pending=pools.accepts_pending,
            buffers_out=pools.buffers_out,
            buffers_peak=pools.buffers_peak,
            buffers_free=pools.buffers_free,
            buffer_hits=pools.buffer_hits,
            buffer_misses=pools.buffer_misses,
            aborts_by_reason={name: engine_count(self.engine, N_ABORTS + i)
                              for i, name in enumerate(_ABORT_REASONS)},
            accept_errors_by_code={pools.accept_error_codes[i]: pools.accept_error_counts[i]
                                   for i in range(<int>ACCEPT_ERROR_CODES)
                                   if pools.accept_error_counts[i] > 0},
        )
        return stats

    cdef void tell_trace(self, conn_t *conn, const char *line) noexcept:
        try:
            self.trace(f"{address_text(address_tuple(<const unsigned char *>conn.remote))} "
                       + line.decode("ascii"))
        except BaseException as raised:
            self.report("trace raised", raised, None, None)

    cdef void report(self, message, exc, protocol, transport) noexcept:
        """A callback raised: to the exception handler, which may raise as well."""
        context = {"message": message, "exception": exc, "protocol": protocol,
                   "transport": transport}
        try:
            if self.exception_handler is not None:
                self.exception_handler(context)
                return
        except BaseException as raised:
            logger.error("the exception handler raised", exc_info=raised)
        try:
            message = f"{message}; protocol: {protocol!r}, transport: {transport!r}"
        except BaseException:
            pass    # a repr() that raises does not take the report with it
        logger.error(message, exc_info=exc)


@atexit.register
def _stop_all():
    """Interpreter exit with running servers: stop them while Python is whole."""
    runtimes = list(_running)
    for runtime in runtimes:
        runtime.close(EXIT_TIMEOUT_MS)
    for runtime in runtimes:
        # A callback that never returns does not keep the process: its thread dies with it.
        runtime.wait(EXIT_PATIENCE_MS)


def _integer(name, value):
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None


def _integer_between(name, value, low, high):
    number = _integer(name, value)
    if not low <= number <= high:
        raise ValueError(f"{name} must be {low} to {high}, got {number}")
    return number


def _seconds(name, value, low, high):
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, got {value!r}")
    if not low <= value <= high:
        raise ValueError(f"{name} must be {low} to {high} seconds, got {value!r}")
    return value


def _milliseconds(name, value, low, high):
    return math.ceil(_seconds(name, value, low, high) * 1000)


def _limit(name, value, high):
    """0 stands for no limit."""
    return 0 if value is None else _integer_between(name, value, 1, high)


def _given_sockets(sock):
    if sock is None:
        return None
    try:
        sockets = (sock,) if isinstance(sock, socket.socket) else tuple(sock)
    except TypeError:
        sockets = (sock,)
    if not sockets or not all(isinstance(item, socket.socket) for item in sockets):
        raise TypeError(f"sock must be a socket.socket or a sequence of them, got {sock!r}")
    for item in sockets:
        if item.type != socket.SOCK_STREAM or item.family not in (socket.AF_INET, socket.AF_INET6):
            raise ValueError(f"sock must be a TCP socket, got {item!r}")
        try:
            item.getsockname()
        except OSError:
            raise ValueError(f"sock must be a bound socket, got {item!r}") from None
    return sockets


def _hosts(host):
    if host is None or host == "":
        return (None,)
    if isinstance(host, str):
        return (host,)
    try:
        hosts = tuple(host)
    except TypeError:
        hosts = (host,)
    if not all(isinstance(h, str) for h in hosts):
        raise TypeError(f"host must be None, a str or a sequence of str, got {host!r}")
    if not hosts:
        raise ValueError(
            f"host must be None, a str or a sequence of at least one str, got {host!r}")
    return hosts


def _bind(hosts, port, backlog):
    """Listening sockets for every address that the hosts stand for."""
    addresses = dict.fromkeys(
        (family, address)
        for host in hosts
        for family, _, _, _, address in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        if family in (socket.AF_INET, socket.AF_INET6))
    sockets = []
    try:
        for family, address in addresses:
            try:
                sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
            except OSError:
                if len(addresses) > 1:
                    continue    # this machine lacks the family
                raise
            sockets.append(sock)
            if sockets and port == 0 and len(sockets) > 1:
                # One ephemeral port for all addresses, not one for each.
                address = (address[0], sockets[0].getsockname()[1], *address[2:])
            # Without it any other process could bind the same port and take clients away.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
            if family == socket.AF_INET6:
                # Both families on one port: the IPv4 socket has it for IPv4.
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                sock.bind(address)
                sock.listen(backlog)
            except OSError as exc:
                raise os_error(exc.winerror, "listen", address_text(address)) from None
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return tuple(sockets)


def _listen(sockets, backlog):
    """Sockets of the caller's begin to listen, or go on with it."""
    for sock in sockets:
        try:
            sock.listen(backlog)
        except OSError as exc:
            raise os_error(exc.winerror, "listen", None) from None
    return sockets


class Server:
    """A TCP server whose callbacks run on the engine's worker threads.

    protocol_factory: callable without arguments that returns an asyncio.Protocol
        or BufferedProtocol (or anything with their methods), or iocpx.native.Echo.
    host: str, sequence of str, or None for all interfaces.
    port: int, 0 to 65535; 0 takes a free one, see `address`.
    sock: a bound TCP socket.socket, or a sequence of them, instead of host and port:
        made by the caller, or come from another process (socket.fromshare()).  The
        server closes it.
    workers: threads that serve connections, 1 to 256; None: 2, and as many as there
        are CPUs on a free-threaded Python.
    backlog: connections the kernel keeps waiting, 1 to 65535.
    initial_accepts, max_accepts: AcceptEx calls kept pending per listening socket,
        1 to 10000; the pool grows to max_accepts when clients come faster, and
        shrinks again.
    accept_receive: bool; accept a client with its first data only.  A silent client
        holds a slot of the accept pool, for accept_timeout_s seconds (1 to 86400).
    max_connections: int, or None for no limit; the next client gets a reset.
    initial_reads: receives kept pending per connection, 1 to 64.
    buffer_size: bytes of the largest receive buffer, 1 to 16 MiB; short messages get
        smaller ones.
    idle_timeout_s: seconds without a byte in either direction before a reset,
        up to 86400; None: never.
    max_sends, max_write_buffer: writes, and bytes, that a connection may have queued;
        None: no limit.  A write beyond resets the connection; an empty queue takes a
        write of any size.
    close_timeout_s: seconds that a closing connection, and the stop, may take
        before a reset, 0 to 86400.
    keepalive_idle_s, keepalive_interval_s: TCP keep-alive, seconds; None: off.
    max_free_buffers, max_free_connections: how many of each are kept for reuse.
    exception_handler: callable with asyncio's context dict ("message", "exception",
        "protocol", "transport"), called on a worker when a callback raises; None:
        logged under "iocpx".
    trace: callable with a str, called on a worker for every step of every
        connection; slow.  None: off.

    Callbacks of one connection never overlap and come in stream order; those of
    different connections may run at the same time.  All methods may be called from
    any thread, also from callbacks, unless they say otherwise.
    """

    def __init__(self, protocol_factory, host=None, port=0, *, sock=None, workers=None,
                 backlog=512, initial_accepts=10, max_accepts=100, accept_receive=False,
                 accept_timeout_s=120.0, max_connections=None, initial_reads=1,
                 buffer_size=262144, idle_timeout_s=None, max_sends=None,
                 max_write_buffer=67108864, close_timeout_s=5.0, keepalive_idle_s=5.0,
                 keepalive_interval_s=1.0, max_free_buffers=200, max_free_connections=100,
                 exception_handler=None, trace=None):
        self._runtime = None
        self._address = None
        if protocol_factory is not Echo and not callable(protocol_factory):
            raise TypeError(f"protocol_factory must be callable, got {protocol_factory!r}")
        for name, value in (("exception_handler", exception_handler), ("trace", trace)):
            if value is not None and not callable(value):
                raise TypeError(f"{name} must be callable or None, got {value!r}")
        if trace is not None and protocol_factory is Echo:
            raise ValueError(f"trace must be None with a native handler, got {trace!r}")
        if not isinstance(accept_receive, bool):
            raise TypeError(f"accept_receive must be True or False, got {accept_receive!r}")
        if workers is None:
            workers = min(os.cpu_count() or 1, 256) if free_threaded else 2
        self._sock = _given_sockets(sock)
        if sock is not None and (host is not None or port != 0):
            raise ValueError(f"host and port must be left out with sock, got {host!r}, {port!r}")
        self._hosts = _hosts(host)
        self._port = _integer_between("port", port, 0, 65535)
        self._backlog = _integer_between("backlog", backlog, 1, 65535)
        numbers = {
            "workers": _integer_between("workers", workers, 1, 256),
            "initial_accepts": _integer_between("initial_accepts", initial_accepts, 1, 10000),
            "max_accepts": _integer_between("max_accepts", max_accepts, 1, 10000),
            "accept_receive": accept_receive,
            "accept_timeout_s": _milliseconds("accept_timeout_s", accept_timeout_s, 1, 86400),
            "max_connections": _limit("max_connections", max_connections, 10**9),
            "initial_reads": _integer_between("initial_reads", initial_reads, 1, 64),
            "buffer_size": _integer_between("buffer_size", buffer_size, 1, 16 * 1024 * 1024),
            "idle_timeout_s": 0 if idle_timeout_s is None else _milliseconds(
                "idle_timeout_s", idle_timeout_s, 0.001, 86400),
            "max_sends": _limit("max_sends", max_sends, 10**9),
            "max_write_buffer": _limit("max_write_buffer", max_write_buffer, 2**48),
            "close_timeout_s": _milliseconds("close_timeout_s", close_timeout_s, 0, 86400),
            "keepalive_idle_s": 0 if keepalive_idle_s is None else _milliseconds(
                "keepalive_idle_s", keepalive_idle_s, 0.001, 86400),
            "keepalive_interval_s": _milliseconds(
                "keepalive_interval_s", keepalive_interval_s, 0.001, 86400),
            "max_free_buffers": _integer_between("max_free_buffers", max_free_buffers, 0, 10**6),
            "max_free_connections": _integer_between(
                "max_free_connections", max_free_connections, 0, 10**6),
        }
        if numbers["max_accepts"] < numbers["initial_accepts"]:
            raise ValueError(f"max_accepts must be initial_accepts ({initial_accepts}) or more, "
                             f"got {max_accepts}")
        self._numbers = numbers
        self._arguments = (protocol_factory, exception_handler, trace, numbers)
        self._start_lock = threading.Lock()

    def __repr__(self):
        state = "serving" if self.is_serving() else "not serving"
        where = f" on {address_text(self._address)}" if self._address else ""
        return f"<iocpx.Server {state}{where}>"

    def __del__(self):
        runtime = getattr(self, "_runtime", None)
        if runtime is not None and not runtime.stopping():
            warnings.warn(f"unclosed server {self!r}", ResourceWarning, source=self, stacklevel=1)
            self.close()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *exc_info):
        self.close()
        self.wait_closed()

    def start(self):
        """Bind, listen, start the workers, and return; clients can connect by then.

        OSError with .winerror when an address cannot be bound.  RuntimeError when
        the server runs already.  After close() and wait_closed() it may be started
        again.
        """
        with self._start_lock:
            if self._runtime is not None and not self._runtime.wait(0):
                raise RuntimeError("the server is already running" if self.is_serving()
                                   else "the server is still closing: call wait_closed() first")
            runtime = Runtime(*self._arguments)
            sockets = (_bind(self._hosts, self._port, self._backlog) if self._sock is None
                       else _listen(self._sock, self._backlog))
            self._address = sockets[0].getsockname()
            runtime.adopt(sockets)
            self._runtime = runtime     # from here on a callback's close() finds it
            try:
                runtime.start()
            except BaseException:
                self._runtime = None
                if self._sock is None:  # the caller's own stay the caller's
                    for sock in sockets:
                        sock.close()
                raise

    def serve_forever(self):
        """Start if that has not been done, and wait until the server is closed.

        Ctrl+C (any exception from a signal handler) closes it in order and is then
        raised; a second one aborts the connections that are still open.  A server that
        was closed is not started again by this, but by start().  Not from a callback.
        Main thread only, if Ctrl+C is to be noticed.
        """
        runtime = self._runtime
        if runtime is not None and runtime.on_worker():
            raise RuntimeError("serve_forever() must not be called from a callback")
        if runtime is None:
            self.start()
        try:
            self.wait_closed()
        except BaseException:
            self.close()
            try:
                self.wait_closed()
            except BaseException:
                self.abort_clients()
                self.wait_closed()
            raise

    def close(self):
        """Stop: no new clients, every connection is closed gracefully, within
        close_timeout_s.  Returns at once, see wait_closed(); any number of times."""
        runtime = self._runtime     # read once: a failing start() takes it back
        if runtime is not None:
            runtime.close(self._numbers["close_timeout_s"])

    def wait_closed(self, timeout=None):
        """Wait until a close() has taken full effect: True, or False after `timeout`
        seconds.  Not from a callback (RuntimeError): it would wait for itself."""
        timeout_ms = -1
        if timeout is not None:
            timeout_ms = _milliseconds("timeout", timeout, 0, threading.TIMEOUT_MAX)
        runtime = self._runtime
        if runtime is None:
            return True
        if runtime.on_worker():
            raise RuntimeError("wait_closed() must not be called from a callback: "
                               "the server cannot end before the callback returns")
        return runtime.wait(timeout_ms)

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

    def is_serving(self):
        """Does the server accept connections?  asyncio.Server.is_serving()."""
        runtime = self._runtime
        return runtime is not None and not runtime.stopping()

    @property
    def sockets(self):
        """The listening sockets, each an asyncio.trsock.TransportSocket (one that only the
        server can close); () when not serving.  asyncio.Server.sockets."""
        runtime = self._runtime
        sockets = () if runtime is None or runtime.stopping() else runtime.sockets
        return tuple(asyncio.trsock.TransportSocket(sock) for sock in sockets)

    @property
    def address(self):
        """Where the first listening socket is (or was last) bound, as socket.getsockname()."""
        return self._address

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

    def stats(self):
        """Counters since start(), readable also after the stop; docs/TUNING.md tells them.
        Any thread."""
        runtime = self._runtime
        if runtime is None:
            runtime = Runtime(*self._arguments)
        return runtime.stats()
