"""Transport: a TCP connection of an asyncio loop.

All callbacks run on the loop's thread, in the loop's look at the port.  Methods are the loop's
thread's, as asyncio has it.  A call from another thread corrupts nothing: each has a reference to
the conn_t meanwhile (_enter), is no worker's to the engine (_by), and leaves pause_writing(), TLS's
work and abort() to the loop's thread.

Called by `_transports`, `_tcp_loop`, `_socket_loop` and `_transport_socket`; calls `_file_layer`,
from whose class its own derives, `_engine_loop`, `_scheduling`, `_tls`, `_buffers`,
`_transport_socket`, `_runtime` (address_tuple), and of the engine `_requests`, `_filter` and
`_delivery`.
"""

cimport cython
from cpython.buffer cimport (
    PyBUF_WRITABLE, PyBuffer_Release, PyObject_CheckBuffer, PyObject_GetBuffer,
)
from libc.string cimport memcpy, memset

from iocpx._base cimport conn_ref
from iocpx._buffers cimport queue_data, release_spent, take_bytes
from iocpx._delivery cimport conn_is_reading_on, lost_t
from iocpx._endpoint cimport Endpoint
from iocpx._engine_loop cimport EngineLoop
from iocpx._file_layer cimport SentFile, cancel_file, queue_file
from iocpx._filter cimport conn_filter_begin, conn_filter_hold
from iocpx._requests cimport (
    conn_abort, conn_borrow_handle, conn_close, conn_flush, conn_get_marks, conn_is_closing,
    conn_lend_handle, conn_pause_reading, conn_return_handle, conn_set_marks, conn_take_spent,
    conn_write_buffer_size, conn_write_eof, conn_write_parts, WRITE_FLUSH, WRITE_SPENT,
)
from iocpx._runtime cimport address_tuple
from iocpx._sched cimport conn_unref
from iocpx._scheduling cimport on_loop
from iocpx._sendfile cimport SENDFILE_CLOSED, SENDFILE_TAKEN, SENDFILE_UNFIT
from iocpx._state cimport buf_t, queue_t
from iocpx._tls cimport Tls
from iocpx._types cimport *

import asyncio
import ssl
import sys
import warnings
from asyncio import constants, log, sslproto, transports

from iocpx._addresses import address_text
from iocpx._errors import os_error
from iocpx._transport_socket import TransportSocket

MAX_BYTES = sys.maxsize

logger = log.logger

cdef object LOST_WRITES = constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES
# From 3.13 on a server knows its transports; before it counts them.
cdef bint server_takes_transport = asyncio.Server._attach.__code__.co_argcount > 1


cdef inline object protocol_of(Transport transport):
    # Free-threaded builds: set_protocol() of another thread may be letting go of it.
    with cython.critical_section(transport):
        protocol = transport._protocol
    return protocol


@cython.final
cdef class Transport:
    """A TCP connection of an iocpx.EventLoop; asyncio.Transport.

    Made by the loop's create_server(), create_connection() and connect_accepted_socket().
    """

    _start_tls_compatible = True

    @property
    def _sendfile_compatible(self):
        if self._tls is not None:
            return constants._SendfileMode.FALLBACK
        # Which _send_file() does.
        return constants._SendfileMode.TRY_NATIVE

    def __init__(self):
        raise TypeError("Transport objects are made by iocpx.EventLoop only")

    # A compiled class cannot derive from asyncio.Transport, which has slots; isinstance() asks
    # this.  The mixin, which derives from it, is what sendfile() wants.
    @property
    def __class__(self):
        if self._tls is not None:
            return sslproto._SSLProtocolTransport
        return transports._FlowControlMixin

    def __repr__(self):
        state = "closed" if self._told else "closing" if self._closing else "open"
        return (f"<iocpx.Transport {address_text(address_tuple(<unsigned char *>self._local))} "
                f"- {address_text(address_tuple(<unsigned char *>self._remote))} {state}>")

    def __reduce__(self):
        raise TypeError("a Transport cannot be copied or pickled: it belongs to its loop")

    def __del__(self):
        if self._endpoint is not None and not self._told:
            warnings.warn(f"unclosed transport {self!r}", ResourceWarning, source=self)
            if self._given is not None:
                self._given.close()

    def __dealloc__(self):
        if self._conn != NULL:
            conn_unref(self._conn)

    # From here to _fail: called by the engine's side only, on the loop's thread.

    cdef void _attach(self, Endpoint endpoint, conn_t *conn) noexcept:
        memcpy(self._local, conn.local, ADDRESS_BYTES)
        memcpy(self._remote, conn.remote, ADDRESS_BYTES)
        self._loop = <EngineLoop>endpoint.loop
        self._endpoint = endpoint
        self._worker = &conn.engine.workers[0]
        conn_ref(conn)                  # dropped by _detach
        self._conn = conn

    cdef void _detach(self) noexcept:
        cdef conn_t *conn
        with cython.critical_section(self):
            conn = self._conn
            self._conn = NULL
        if conn != NULL:
            conn_unref(conn)
        self._context = None

    cdef _join(self, server):
        """The server counts it from now on, until connection_lost; None: there is none."""
        if server is not None:
            if server_takes_transport:
                server._attach(self)
            else:
                server._attach()
        self._server = server

    cdef _take_protocol(self, protocol):
        cdef bint buffered = isinstance(protocol, asyncio.BufferedProtocol)
        before = None
        with cython.critical_section(self):
            # Not the last reference: what its end calls would come before the rest is changed.
            before = self._protocol
            self._protocol = protocol
            self._buffered = buffered

    cdef void _made(self) noexcept:
        self._connected = True
        # First: a task that begins at once may call start_tls() in connection_made(), and wait.
        waiter, self._waiter = self._waiter, None
        try:
            protocol_of(self).connection_made(self)
        except BaseException as exc:
            self._loop.callback_raised(exc, "Exception in callback connection_made()",
                                       protocol_of(self), self)
        if waiter is None:
            return
        try:
            if not waiter.done():
                waiter.set_result(None)
            # What comes is delivered after the one that waits has had its turn: it may set
            # another protocol.
            self._loop.call_soon(self._ungate)
        except BaseException as exc:
            self._loop.callback_raised(exc, "Exception in callback connection_made()",
                                       protocol_of(self), self)

    def _ungate(self):
        self._gated = False
        self._gate()

    cdef void _gate(self) noexcept:
        """Deliver what comes, or do not."""
        cdef bint paused
        cdef bint again = True
        cdef conn_t *conn = self._enter()
        cdef worker_t *by = self._by()
        if conn != NULL:
            while again:
                paused = self._paused or self._gated
                with nogil:
                    conn_pause_reading(by, conn, paused)
                # Another thread may have changed it meanwhile, and have been faster at the engine.
                again = paused != (self._paused or self._gated)
            conn_unref(conn)
            self._loop.wants_look()

    cdef void _feed(self, conn_t *conn, buf_t *buf) noexcept:
        """Deliver one received buffer."""
        if self._framed is not None:
            self._cut(conn, buf)
            return
        if self._buffered:
            self._feed_buffers(conn, buf)
            return
        try:
            protocol_of(self).data_received(take_bytes(buf))
        except BaseException as exc:
            self._fail(exc, "Fatal error: protocol.data_received() call failed.")

    cdef void _feed_buffers(self, conn_t *conn, buf_t *buf) noexcept:
        """… to a BufferedProtocol, in as many parts as it likes."""
        cdef Py_buffer view
        cdef size_t part = 0
        message = "Fatal error: protocol.get_buffer() call failed."
        tls = self._tls
        try:
            # After set_framer(), or start_tls() of a task that began at once, the rest is theirs.
            while (buf.size > 0 and conn_is_reading_on(conn) and self._framed is None
                   and self._tls is tls):
                if not self._buffered:
                    # set_protocol() in between: the rest is for the new one.
                    self._feed(conn, buf)
                    return
                message = "Fatal error: protocol.get_buffer() call failed."
                part = 0
                lent = protocol_of(self).get_buffer(<Py_ssize_t>buf.size)
                PyObject_GetBuffer(lent, &view, PyBUF_WRITABLE)
                lent = None             # a memoryview would keep the protocol's buffer locked
                part = min(<size_t>view.len, buf.size)
                memcpy(view.buf, buf.data, part)
                PyBuffer_Release(&view)
                if part == 0:
                    raise RuntimeError("get_buffer() returned an empty buffer")
                buf.data += part
                buf.size -= part
                message = "Fatal error: protocol.buffer_updated() call failed."
                protocol_of(self).buffer_updated(<Py_ssize_t>part)
        except BaseException as exc:
            if part == 0:
                # Without a buffer nothing is taken, and it would be asked for again at once.
                self._fail_for_good(exc, message)
            else:
                self._fail(exc, message)

    cdef void _tell_marks(self, str name) noexcept:
        """pause_writing or resume_writing."""
        if self._told:
            return      # what was with the kernel when it was aborted has left since
        self._protocol_paused = name == "pause_writing"
        try:
            getattr(protocol_of(self), name)()
        except BaseException as exc:
            self._loop.callback_raised(exc, f"protocol.{name}() failed", protocol_of(self), self)

    cdef void _end_of_stream(self, conn_t *conn) noexcept:
        cdef bint keep_open = False
        try:
            keep_open = bool(protocol_of(self).eof_received())
        except BaseException as exc:
            self._fail(exc, "Fatal error: protocol.eof_received() call failed.")
            return
        if not keep_open:
            self.close()

    cdef void _lost(self, conn_t *conn, lost_t *lost) noexcept:
        """The engine's last news."""
        self._loop.one_has_ended = True
        self._end_framed()
        if lost.error != 0 and self._exc is None:
            try:
                self._exc = os_error(lost.error, "send" if lost.sending else "receive",
                                     address_text(address_tuple(<unsigned char *>self._remote)))
            except BaseException as exc:
                self._exc = exc
        self._closing = True
        if not self._lost_soon:
            try:
                self._call_connection_lost()
            except BaseException as exc:
                self._loop.callback_raised(exc, "Exception in callback connection_lost()",
                                           protocol_of(self), self)
        self._detach()

    def _call_connection_lost(self):
        if self._told:
            return
        self._told = True
        self._dropped_writes += 1
        self._stop_tls_timer()
        exc, self._exc = self._exc, None
        server, self._server = self._server, None
        given, self._given = self._given, None
        waiter, self._waiter = self._waiter, None
        try:
            if self._connected:
                protocol_of(self).connection_lost(exc)
        finally:
            if self._tls is not None:
                # As with asyncio: a protocol that keeps its transport keeps no SSLContext.
                self._take_protocol(None)
            if given is not None:
                given.close()
            if server is not None:
                if server_takes_transport:
                    server._detach(self)
                else:
                    server._detach()
            if waiter is not None and not waiter.done():
                waiter.set_exception(exc or ConnectionAbortedError("connection lost"))

    cdef void _fail(self, exc, str message) noexcept:
        """A callback raised: its connection is reset, and no other.  What ends the program leaves
        the connection as it is, as with asyncio: tasks that clean up go on with it."""
        if isinstance(exc, (SystemExit, KeyboardInterrupt)):
            self._loop.callback_raised(exc, message, protocol_of(self), self)
            return
        try:
            self._fatal_error(exc, message)
        except BaseException as raised:
            self._loop.callback_raised(raised, message, protocol_of(self), self)

    cdef void _fail_for_good(self, exc, str message) noexcept:
        """The same where nobody could go on with it, so that it is reset by whatever was raised."""
        self._fail(exc, message)
        try:
            self._force_close(exc)
        except BaseException as raised:
            self._loop.callback_raised(raised, message, protocol_of(self), self)

    def _fatal_error(self, exc, message="Fatal error on transport"):
        """As asyncio's transports have it: tell of it, and close the connection."""
        try:
            if isinstance(exc, OSError):
                if self._loop.get_debug():
                    logger.debug("%r: %s", self, message, exc_info=exc)
            else:
                self._loop.callback_raised(exc, message, protocol_of(self), self)
        finally:
            self._force_close(exc)

    def _force_close(self, exc):
        """As asyncio's transports have it: close at once, without waiting for what the kernel does
        not take at once; connection_lost(exc) by call_soon()."""
        cdef conn_t *conn
        if self._told or self._lost_soon:
            return
        if self._by() == NULL and not self._loop._closed:
            self._loop.call_soon_threadsafe(self._force_close, exc)
            return
        self._closing = True
        self._lost_soon = True
        self._dropped_writes += 1
        if self._exc is None:
            self._exc = exc
        conn = self._enter()
        if conn != NULL:
            if self._tls is not None:
                self._tls_pump(conn)
            with nogil:
                # What was written leaves as far as the kernel takes it at once, as with asyncio,
                # whose write() has given it to the kernel already.
                conn_flush(self._worker, conn)
                conn_abort(self._worker, conn, ABORT_APPLICATION)
                conn_unref(conn)
            self._loop.one_is_ending()
        # A closed loop calls nobody any more, and a finaliser may come so late.
        if not self._loop._closed:
            self._loop.call_soon(self._call_connection_lost)

    # -- asyncio.Transport ---------------------------------------------------------

    cdef bint _may_write(self, data) except -1:
        if self._eof_written:
            raise RuntimeError("write_eof() already called")
        if self._conn != NULL and self._dropped_writes == 0:
            return True
        if data is not None and memoryview(data).nbytes == 0:
            return False
        if self._dropped_writes >= LOST_WRITES:
            logger.warning("socket.send() raised exception.")
        self._dropped_writes += 1
        return False

    def write(self, data):
        """Queue data (bytes-like) to be sent; never blocks.  asyncio.WriteTransport.write().

        What one iteration of the loop writes leaves together, at its end.  bytes longer than
        16 KiB are sent from where they are, all else is copied.  Without effect once the
        connection closes.  TypeError for anything but a bytes-like object, RuntimeError after
        write_eof().
        """
        cdef conn_t *conn
        cdef worker_t *by
        if not PyObject_CheckBuffer(data):
            raise TypeError("data argument must be a bytes-like object, "
                            f"not {type(data).__name__}")
        if not self._may_write(data):
            return
        conn = self._enter()
        by = self._by()
        if conn == NULL:
            return
        try:
            self._after_write(by, conn, queue_data(by, conn, NULL, data))
        finally:
            conn_unref(conn)

    def writelines(self, list_of_data):
        """Queue several bytes-like objects as one write, without joining them.
        asyncio.WriteTransport.writelines()."""
        cdef queue_t parts
        cdef conn_t *conn
        cdef worker_t *by = self._by()
        cdef int result = 0
        items = list(list_of_data)
        for data in items:
            if not PyObject_CheckBuffer(data):
                raise TypeError("data argument must be a bytes-like object, "
                                f"not {type(data).__name__}")
        if not self._may_write(None):
            return
        conn = self._enter()
        if conn == NULL:
            return
        memset(&parts, 0, sizeof(parts))
        try:
            try:
                for data in items:
                    queue_data(by, conn, &parts, data)
            finally:
                # Also if one raised, as a released memoryview does: those before it go.
                if parts.head != NULL:
                    result = conn_write_parts(by, conn, &parts)
            self._after_write(by, conn, result)
        finally:
            conn_unref(conn)

    cdef int _after_write(self, worker_t *by, conn_t *conn, int result) except -1:
        cdef bint pause
        self._loop.wants_look()
        if result & WRITE_FLUSH:
            # Another thread's has its turn on the loop, which is woken for it.
            if self._tls is not None and by != NULL:
                self._tls_pump(conn)
            with nogil:
                pause = conn_flush(by, conn)
            if pause:
                self._tell_marks("pause_writing")
        if result & (WRITE_FLUSH | WRITE_SPENT):
            release_spent(conn_take_spent(conn))
        return 0

    def can_write_eof(self):
        """True, but for TLS.  asyncio.WriteTransport.can_write_eof()."""
        return self._tls is None

    def write_eof(self):
        """End our direction once all is sent; receiving goes on.
        asyncio.WriteTransport.write_eof(), Microsoft's shutdown(SD_SEND).  NotImplementedError with
        TLS, whose end ends both directions."""
        cdef conn_t *conn
        cdef worker_t *by
        if self._tls is not None:
            raise NotImplementedError("a TLS connection has no end in one direction only")
        if self._closing or self._eof_written:
            return
        self._eof_written = True
        conn = self._enter()
        by = self._by()
        if conn != NULL:
            with nogil:
                conn_write_eof(by, conn)
                conn_unref(conn)
            self._loop.wants_look()

    def close(self):
        """Close gracefully: what is queued is sent, nothing more is received, then
        connection_lost(None).  asyncio.BaseTransport.close().

        A peer that takes nothing for 60 seconds gets a reset, and connection_lost a TimeoutError.
        """
        cdef conn_t *conn
        cdef worker_t *by = self._by()
        cdef size_t queued
        if self._closing:
            return
        if by == NULL and self._tls is not None and not self._loop._closed:
            self._loop.call_soon_threadsafe(self.close)
            return
        if self._tls is not None and not self._tls.opened:
            self._force_close(None)
            return
        self._closing = True
        conn = self._enter()
        if conn == NULL:
            return
        try:
            if self._tls is not None:
                self._tls_timer = self._loop.call_later(self._tls_shutdown_s, self._give_up_tls)
        finally:
            with nogil:
                conn_close(by, conn)
                queued = conn_write_buffer_size(conn)
                conn_unref(conn)
            if queued == 0:
                self._dropped_writes += 1
            self._loop.one_is_ending()

    def abort(self):
        """Close at once; what is queued is sent as far as the kernel takes it without waiting, and
        else dropped.  connection_lost(None) follows, by call_soon().
        asyncio.WriteTransport.abort()."""
        self._force_close(None)

    def is_closing(self):
        """asyncio.BaseTransport.is_closing()."""
        # A send or a receive may have failed, and this callback is told of that only later: one
        # that writes until it is paused or closing must come to its end.
        cdef bint closing = self._closing
        cdef conn_t *conn = NULL if closing else self._enter()
        if conn != NULL:
            closing = conn_is_closing(conn)
            conn_unref(conn)
        return closing

    def pause_reading(self):
        """Deliver nothing until resume_reading(); nothing is lost and the peer is slowed down.
        asyncio.ReadTransport.pause_reading()."""
        if not self._closing and not self._paused:
            self._paused = True
            self._gate()

    def resume_reading(self):
        """asyncio.ReadTransport.resume_reading()."""
        if not self._closing and self._paused:
            self._paused = False
            self._gate()

    def is_reading(self):
        """asyncio.ReadTransport.is_reading()."""
        return not self._paused and not self._closing

    def set_write_buffer_limits(self, high=None, low=None):
        """Set the marks (bytes) for pause_writing() and resume_writing(): high 64 KiB, with TLS
        512 KiB, or four times low; low a quarter of high.
        asyncio.WriteTransport.set_write_buffer_limits()."""
        if high is None:
            high = 4 * low if low is not None else <int>(
                HIGH_WATER_BYTES if self._tls is None else TLS_HIGH_WATER_BYTES)
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
        cdef size_t high_bytes = <size_t>min(high, MAX_BYTES)
        cdef size_t low_bytes = <size_t>min(low, MAX_BYTES)
        cdef conn_t *conn = self._enter()
        cdef worker_t *by = self._by()
        cdef bint pause
        if conn != NULL:
            with nogil:
                conn_set_marks(by, conn, high_bytes, low_bytes)
                pause = by != NULL and conn_flush(by, conn)
                conn_unref(conn)
            if pause:
                self._tell_marks("pause_writing")
            self._loop.wants_look()

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
        """Bytes queued and not yet sent; none after abort(), although Windows may have some until
        it has given up.  asyncio.WriteTransport.get_write_buffer_size()."""
        cdef size_t queued = 0
        cdef conn_t *conn = self._enter() if not (self._lost_soon or self._told) else NULL
        if conn != NULL:
            queued = conn_write_buffer_size(conn)
            conn_unref(conn)
        return queued

    def get_protocol(self):
        """asyncio.BaseTransport.get_protocol()."""
        return protocol_of(self)

    def set_protocol(self, protocol):
        """Hand the connection to another protocol.  asyncio.BaseTransport.set_protocol()."""
        self._take_protocol(protocol)

    @property
    def _extra(self):
        """What get_extra_info() knows, as asyncio's transports keep it."""
        if self._own_extra is None:
            made = {
                "peername": address_tuple(<const unsigned char *>self._remote),
                "sockname": address_tuple(<const unsigned char *>self._local),
                "socket": self._socket_view(),
            }
            if self._tls is not None:
                made.update(self._tls_extra())
            with cython.critical_section(self):
                # Another thread may have been faster.  Once it is there it stays.
                if self._own_extra is None:
                    self._own_extra = made
        return self._own_extra

    def get_extra_info(self, name, default=None):
        """"peername", "sockname", "socket" (an asyncio.trsock.TransportSocket), with TLS
        "sslcontext", and after the handshake "ssl_object", "peercert", "cipher", "compression";
        or what _extra has been given.  asyncio.BaseTransport.get_extra_info()."""
        if self._own_extra is not None:
            return self._own_extra.get(name, default)
        if name == "peername":
            return address_tuple(<const unsigned char *>self._remote)
        if name == "sockname":
            return address_tuple(<const unsigned char *>self._local)
        if name == "socket":
            return self._socket_view()
        return default if self._tls is None else self._tls_extra().get(name, default)

    def _socket_view(self):
        if self._view is None:
            made = TransportSocket(self, <int>self._local[0] | <int>self._local[1] << 8)
            with cython.critical_section(self):
                if self._view is None:
                    self._view = made
        return self._view

    # -- TLS -----------------------------------------------------------------------

    cdef _take_tls(self, Tls tls, double handshake_s, double shutdown_s):
        """From here on there is TLS, and it begins with the handshake."""
        cdef conn_t *conn = self._conn
        cdef bint begun = False
        if conn != NULL:
            with nogil:
                begun = conn_filter_begin(self._worker, conn, False)
        if not begun:
            raise ConnectionAbortedError(
                "the connection is closing, or sends a file: TLS cannot begin")
        self._tls = tls
        self._tls_shutdown_s = shutdown_s
        with nogil:
            conn_set_marks(self._worker, conn, TLS_HIGH_WATER_BYTES, TLS_HIGH_WATER_BYTES // 4)
        self._tls_timer = self._loop.call_later(handshake_s, self._give_up_tls_handshake,
                                                handshake_s)
        self._loop.wants_look()

    def _has_tls(self):
        return self._tls is not None

    def _start_tls(self, protocol, Tls tls not None, take_early, waiter, double handshake_s,
                   double shutdown_s):
        """For the loop's start_tls(): TLS on a connection whose protocol knows it already, and may
        have received bytes of it, which take_early() takes back."""
        cdef bint ended = self._conn != NULL and self._conn.eof_told    # TLS is told again
        self._take_tls(tls, handshake_s, shutdown_s)
        tls.feed_bytes(take_early() + self._take_undelivered(self._conn, ended))
        conn_filter_hold(self._conn, False)
        self._take_protocol(protocol)
        self._waiter = waiter
        if self._own_extra is not None:
            self._own_extra.update(self._tls_extra())
        self._paused = False
        self._gate()

    cdef void _stop_tls_timer(self) noexcept:
        timer, self._tls_timer = self._tls_timer, None
        if timer is not None:
            timer.cancel()

    def _give_up_tls_handshake(self, seconds):
        if not self._tls.opened:
            self._tls_failed(self._conn, ConnectionAbortedError(
                f"SSL handshake is taking longer than {seconds} seconds: "
                "aborting the connection"), False)

    def _give_up_tls(self):
        self._force_close(asyncio.TimeoutError("SSL shutdown timed out"))

    cdef void _tls_opened(self, conn_t *conn) noexcept:
        self._stop_tls_timer()
        if self._own_extra is not None:
            self._own_extra.update(self._tls_extra())
        if not self._connected:
            self._made()
        else:
            waiter, self._waiter = self._waiter, None
            if waiter is not None and not waiter.done():
                waiter.set_result(None)

    cdef void _tls_failed(self, conn_t *conn, exc, bint opened) noexcept:
        if opened:
            message = "Fatal error on SSL protocol"
        elif isinstance(exc, ssl.CertificateError):
            message = "SSL handshake failed on verifying the certificate"
        else:
            message = "SSL handshake failed"
        self._stop_tls_timer()
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_exception(exc)
        # What was raised may have come from a signal within a call of OpenSSL's, whose outcome is
        # lost with it.
        self._fail_for_good(exc, message)

    cdef void _tell_data(self, conn_t *conn, bytes data) noexcept:
        try:
            protocol_of(self).data_received(data)
        except BaseException as exc:
            self._fail(exc, "Fatal error: protocol.data_received() call failed.")

    cdef void _tell_messages(self, list messages) noexcept:
        try:
            protocol_of(self).messages_received(messages)
        except BaseException as exc:
            self._fail(exc, "Fatal error: protocol.messages_received() call failed.")

    cdef conn_t *_enter(self) noexcept:
        cdef conn_t *conn
        with cython.critical_section(self):
            conn = self._conn
            if conn != NULL:
                conn_ref(conn)          # dropped by the caller
        return conn

    cdef worker_t *_by(self) noexcept:
        """Who asks the engine: the loop's thread, which is its worker, or another one, NULL."""
        return self._worker if on_loop(self._loop) else NULL

    cdef void _wants_turn(self) noexcept:
        self._gate()

    cdef void _unframeable(self, conn_t *conn, exc, bint framing) noexcept:
        if not framing:
            self._fail(exc, "Fatal error: protocol.messages_received() call failed.")
            return
        if self._exc is None:
            self._exc = exc
        with nogil:
            conn_abort(self._worker, conn, ABORT_FRAMING)
        self._loop.wants_look()

    cdef bint _tls_is_buffered(self) noexcept:
        return self._buffered and self._framed is None

    cdef int _tls_fill(self, conn_t *conn) except -1:
        cdef Py_buffer view
        cdef Py_ssize_t got = 0
        cdef bint reads = False
        if not self._tls.has_more():
            return 0
        message = "Fatal error: protocol.get_buffer() call failed."
        try:
            lent = protocol_of(self).get_buffer(-1)
            PyObject_GetBuffer(lent, &view, PyBUF_WRITABLE)
            lent = None                 # a memoryview would keep the protocol's buffer locked
            try:
                if view.len == 0:
                    raise RuntimeError("get_buffer() returned an empty buffer")
                reads = True
                got = self._tls.read_into(<char *>view.buf, view.len)
                reads = False
            finally:
                PyBuffer_Release(&view)
            if got > 0:
                message = "Fatal error: protocol.buffer_updated() call failed."
                protocol_of(self).buffer_updated(got)
        except BaseException as exc:
            if reads:
                raise       # of TLS
            if got == 0:
                self._fail_for_good(exc, message)
            else:
                self._fail(exc, message)
            return 0
        return got > 0

    cdef void _tls_eof(self, conn_t *conn) noexcept:
        try:
            if protocol_of(self).eof_received():
                logger.warning("returning true from eof_received() has no effect when using ssl")
        except BaseException as exc:
            self._fail(exc, "Fatal error: protocol.eof_received() call failed.")
            return
        self.close()

    # For the loop's sendfile().

    def _send_file(self, file, offset, most, future):
        """Have the engine send it, in order with what is written; future: gets its outcome.
        Returns its SentFile; None: it has to be read.  ConnectionError: the transport is closed."""
        cdef SentFile sent
        cdef conn_t *conn
        cdef int result = SENDFILE_UNFIT
        try:
            sent = SentFile.__new__(SentFile, file, offset, most, future)
        except (TypeError, ValueError):
            return None                 # asyncio takes more, and says what it does not take
        if sent.handle == NULL:
            return None
        conn = NULL if self._closing else self._enter()
        if conn == NULL:
            raise ConnectionError("Transport is closing")
        try:
            result = queue_file(self._worker, conn, sent)
        finally:
            conn_unref(conn)
        if result == SENDFILE_CLOSED:
            raise ConnectionError("Transport is closing")
        self._loop.wants_look()
        return sent if result == SENDFILE_TAKEN else None

    def _cancel_file(self, SentFile sent not None):
        """Nobody waits for it any more."""
        cdef conn_t *conn = self._enter()
        if conn != NULL:
            cancel_file(conn, sent)
            conn_unref(conn)
            self._loop.wants_look()

    # For TransportSocket.

    def _lend_handle(self, bint copied=False):
        """(the socket's handle, what _return_handle() wants), and it stays open until that is
        called; None: it is closed.

        copied: somebody makes a handle of his own of it.
        """
        cdef conn_t *conn
        cdef size_t handle
        conn = self._enter()            # until _return_handle
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
