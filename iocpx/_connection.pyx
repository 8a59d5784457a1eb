"""Connection: the transport that a protocol gets, and how its callbacks are called.

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
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.stdint cimport uint64_t
from libc.string cimport memcpy, memset

from iocpx._base cimport conn_ref
from iocpx._delivery cimport conn_is_reading_on
from iocpx._requests cimport (
    conn_abort, conn_borrow_handle, conn_close, conn_flush, conn_gather, conn_get_marks,
    conn_is_closing, conn_is_reading, conn_pause_reading, conn_return_handle, conn_set_marks,
    conn_tell_sent, conn_write, conn_write_buffer_size, conn_write_eof, conn_write_parts,
    WRITE_FLUSH, WRITE_KEPT, WRITE_NO_MEMORY,
)
from iocpx._sched cimport conn_unref
from iocpx._types cimport *
from iocpx._runtime cimport Runtime, address_tuple
from iocpx._state cimport buf_t, queue_t
from iocpx._timers cimport check_callback, microseconds, TimerHandle, Timers

import asyncio
import socket
import sys

from iocpx._addresses import address_text
from iocpx._arguments import integer
from iocpx._errors import os_error

cdef enum:
    HIGH_WATER_BYTES = 65536        # asyncio's default

MAX_BYTES = sys.maxsize


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


@cython.final
@cython.no_gc_clear     # _detach needs _runtime, which keeps the engine's memory
cdef class Connection:
    """One connection of a server, with the interface of asyncio.Transport.

    Made by the server and given to the protocol's connection_made().  Every
    method may be called from any thread, at any time; once the connection is
    closed they have no effect.
    """

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

    cdef void _run_timers(self, conn_t *conn) noexcept:
        with cython.critical_section(self):
            timers = self._timers
        if timers is not None:
            timers.run(conn, self._runtime, self)

    cdef void _lost(self, int error, bint error_sending) noexcept:
        protocol = self.get_protocol()
        self._runtime.connections.discard(self)
        # First the end of get_extra_info("socket"): what it has made by then is closed
        # before connection_lost, so that the peer sees the end.
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
            low = integer("low", low)
        if high is None:
            high = HIGH_WATER_BYTES if low is None else 4 * low
        high = integer("high", high)
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

    def call_later(self, delay_s, callback, *args):
        """Call callback(*args) in the connection's own turn, on a worker, once delay_s seconds
        (int or float, 0 to a year) have passed; returns a TimerHandle.
        asyncio.loop.call_later(), for one connection.  Any thread.

        Like the protocol's callbacks it never runs beside another one of this connection, also
        while reading is paused.  Never early; late by the system's clock tick (up to 16 ms on
        Windows), and by what the workers have to do.  Those that are due are called in the
        order of their times, then of the calls that set them.  Whatever is left when
        connection_lost() is called is cancelled by then; a connection that has begun to close
        still has its timers.  What the callback raises goes to the exception handler, and the
        connection goes on.  Raises TypeError for a callback that is none or an async def,
        TypeError or ValueError for such a delay_s.
        """
        return self._set_timer(callback, args, microseconds(delay_s))

    def call_soon(self, callback, *args):
        """call_later(0, callback, *args): in the connection's next turn.
        asyncio.loop.call_soon(), for one connection.  Any thread."""
        return self._set_timer(callback, args, 0)

    cdef TimerHandle _set_timer(self, callback, tuple args, uint64_t delay_us):
        check_callback(callback)
        cdef Timers timers = self._timers_of()
        if timers is None:
            return TimerHandle.__new__(TimerHandle)     # of no connection: cancelled
        cdef conn_t *conn = self._enter()
        try:
            return timers.add(conn, callback, args, delay_us)
        finally:
            if conn != NULL:
                conn_unref(conn)

    cdef Timers _timers_of(self):
        """None: the connection is over."""
        with cython.critical_section(self):
            timers = self._timers
        if timers is None:
            made = Timers.__new__(Timers)
            with cython.critical_section(self):
                # Another thread may have been faster, or the connection be over.
                if self._timers is None and self._conn != NULL:
                    self._timers = made
                timers = self._timers
        return timers

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
