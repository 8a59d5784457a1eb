"""Connection: the transport that a protocol gets, and how its callbacks are called.

Free-threaded builds: what several threads may reach at once lies in the conn_t
under its lock; of a Connection's own fields those that change (the protocol, the
pointer to the conn_t) are read and written in critical sections, which cost nothing
where there is a GIL.

Called by the program, by `_core`, `_clients` and `_connecting`, and by `_runtime` for a handshake;
calls `_file_layer`, from whose class its own derives, `_protocols`, `_timers`, `_runtime`, `_tls`,
`_buffers`, and of the engine `_requests`, `_filter`, `_delivery`, `_sendfile` and `_engine`.
"""

cimport cython
from cpython.buffer cimport (
    PyBUF_WRITABLE, PyBuffer_Release, PyObject_CheckBuffer, PyObject_GetBuffer,
)
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport uint64_t
from libc.string cimport memcpy, memset

from iocpx._base cimport NEVER, conn_ref, now_ms
from iocpx._buffers cimport queue_data, release_spent, take_bytes
from iocpx._delivery cimport conn_is_reading_on, lost_t
from iocpx._engine cimport engine_on_worker
from iocpx._filter cimport conn_filter_begin, conn_filter_hold, conn_may_filter
from iocpx._requests cimport (
    WAIT_AGAIN, WAIT_WRITABLE, WRITE_FLUSH, WRITE_SPENT, conn_abort, conn_borrow_handle, conn_close,
    conn_flush, conn_get_marks, conn_is_closing, conn_is_reading, conn_pause_reading,
    conn_return_handle, conn_set_marks, conn_take_spent, conn_tell_sent, conn_wait_writable,
    conn_write_buffer_size, conn_write_eof, conn_write_parts, wait_result,
)
from iocpx._engines cimport WAIT_SLICE_MS
from iocpx._protocols cimport defines_data_sent, is_buffered, refuse_coroutine
from iocpx._runtime cimport address_tuple, duplicate_socket, limit_text, Runtime
from iocpx._sched cimport conn_unref
from iocpx._sendfile cimport conn_sends_files
from iocpx._state cimport buf_t, queue_t
from iocpx._tls cimport check_side, Tls
from iocpx._timers cimport check_callback, microseconds, TimerHandle, Timers
from iocpx._types cimport *
from iocpx._winsock cimport DWORD

import asyncio
import concurrent.futures
import socket
import threading

from iocpx._addresses import address_text
from iocpx._arguments import milliseconds, write_marks
from iocpx._errors import os_error


@cython.final
cdef class Connection:
    """One connection of a server, of iocpx.connect() or of Engine.attach(), with the interface of
    asyncio.Transport.

    Made by the engine and given to the protocol's connection_made().  Every
    method may be called from any thread, at any time.  Once the connection
    closes they have no effect, and raise nothing but a TypeError or ValueError
    for a wrong argument.

    It has all methods of asyncio.Transport but is no instance of it: a compiled
    class cannot derive from it, and it is no abstract class that others can be
    registered with.  A Connection can be referenced weakly.
    """

    def __init__(self):
        raise TypeError("Connection objects are made by iocpx.Server, connect() and attach() only")

    def __repr__(self):
        state = "closed"
        if self._conn != NULL:
            state = "closing" if self.is_closing() else "open"
        return f"<iocpx.Connection {address_text(self.get_extra_info('peername'))} {state}>"

    def __reduce__(self):
        raise TypeError("a Connection cannot be copied or pickled: it belongs to its server")

    # From here to _feed: called by the engine's side only.

    cdef void _attach(self, Runtime runtime, conn_t *conn, context) noexcept:
        """Until _detach the engine refers to this object, or its maker does."""
        memcpy(self._local, conn.local, ADDRESS_BYTES)
        memcpy(self._remote, conn.remote, ADDRESS_BYTES)
        self._runtime = runtime
        self._context = context
        conn_ref(conn)                  # dropped by _detach
        self._conn = conn

    cdef void _detach(self) noexcept:
        cdef conn_t *conn
        with cython.critical_section(self):
            conn = self._conn
            self._conn = NULL
            self._detached = True
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
        cdef bint buffered = is_buffered(protocol)
        cdef bint tells_sent = defines_data_sent(protocol)
        cdef conn_t *conn = self._enter()
        before = None
        with cython.critical_section(self):
            # Not the last reference: what its end calls would come before the rest is changed.
            before = self._protocol
            self._protocol = protocol
            self._buffered = buffered
            self._tells_sent = tells_sent
            if conn != NULL:
                conn_tell_sent(conn, tells_sent)
        if conn != NULL:
            conn_unref(conn)

    cdef void _failed(self, str name, exc) noexcept:
        """A callback raised: its connection is reset, and no other."""
        cdef bint closing = True
        if self._raised is None:
            self._raised = exc
        cdef conn_t *conn = self._enter()
        if conn != NULL:
            # One that is closing may be beyond a reset: then none happens, and none is counted.
            closing = conn_is_closing(conn)
            conn_abort(NULL, conn, ABORT_CALLBACK)
            conn_unref(conn)
        self._runtime.report(
            f"{name}() raised, the connection was closing already" if closing
            else f"{name}() raised, the connection is reset", exc, self.get_protocol(), self)

    cdef object _run(self, str name, tuple arguments=()):
        """One callback of the protocol, where it has it.  It is looked up each time, as asyncio
        does it, since a protocol may replace its own."""
        callback = getattr(self.get_protocol(), name, None)
        if callback is None:
            return None
        result = callback(*arguments)
        if result is not None:
            refuse_coroutine(name, result)
        return result

    cdef void _call(self, str name, tuple arguments=()) noexcept:
        try:
            self._run(name, arguments)
        except BaseException as exc:
            self._failed(name, exc)

    cdef void _made(self) noexcept:
        self._call("connection_made", (self,))
        if self._maker is not None and self._raised is None:
            maker, self._maker = self._maker, None
            maker.made(self)

    cdef void _tell_marks(self, str name) noexcept:
        """pause_writing or resume_writing.  One that raises is told of and has no other effect,
        as with asyncio: it has missed advice, and no byte."""
        try:
            self._run(name)
        except BaseException as exc:
            self._runtime.report(f"{name}() raised, the connection goes on as if it had not", exc,
                                 self.get_protocol(), self)

    cdef bint _keeps_open(self) noexcept:
        """eof_received: does the protocol want to go on sending?"""
        try:
            return bool(self._run("eof_received"))
        except BaseException as exc:
            self._failed("eof_received", exc)
            return False

    cdef void _file_callback_raised(self, exc) noexcept:
        self._runtime.report("a callback of sendfile()'s future raised", exc, None, self)

    cdef bint _takes_bytes(self) noexcept:
        """Is its protocol none that has buffers of its own?"""
        with cython.critical_section(self):
            buffered = self._buffered
        return not buffered

    cdef void _feed(self, conn_t *conn, buf_t *buf) noexcept:
        """Deliver one received buffer."""
        cdef bint buffered
        if self._framed is not None:
            self._cut(conn, buf)
            return
        with cython.critical_section(self):
            protocol = self._protocol
            buffered = self._buffered
        if buffered:
            self._feed_buffers(conn, buf)
            return
        try:
            # Called where it is looked up: that makes no bound method.
            result = protocol.data_received(take_bytes(buf))
            if result is not None:
                refuse_coroutine("data_received", result)
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
        cdef bint buffered
        tls = self._tls
        # After start_tls() or set_framer() the rest is for these.
        while (buf.size > 0 and conn_is_reading_on(conn) and self._tls is tls
               and self._framed is None):
            with cython.critical_section(self):
                protocol = self._protocol
                buffered = self._buffered
            if not buffered:
                # set_protocol() in between: the rest is for the new one.
                self._feed(conn, buf)
                return
            name = "get_buffer"
            try:
                lent = protocol.get_buffer(<Py_ssize_t>buf.size)
                if not PyObject_CheckBuffer(lent):
                    refuse_coroutine(name, lent)
                PyObject_GetBuffer(lent, &view, PyBUF_WRITABLE)
                lent = None                 # a memoryview would keep the protocol's buffer locked
                part = min(<size_t>view.len, buf.size)
                memcpy(view.buf, buf.data, part)
                PyBuffer_Release(&view)     # the protocol may resize it now
                if part == 0:
                    raise RuntimeError("get_buffer() returned an empty buffer")
                buf.data += part
                buf.size -= part
                name = "buffer_updated"
                result = protocol.buffer_updated(<Py_ssize_t>part)
                if result is not None:
                    refuse_coroutine(name, result)
            except BaseException as exc:
                self._failed(name, exc)

    cdef void _run_timers(self, conn_t *conn) noexcept:
        with cython.critical_section(self):
            timers = self._timers
        if timers is not None:
            timers.run(conn, self._runtime, self)

    cdef void _lost(self, conn_t *conn, lost_t *lost) noexcept:
        cdef str doing = "send" if lost.sending else "receive"
        exc = self._raised
        self._runtime.connections.discard(self)
        self._runtime.leave()
        self._end_framed()
        if self._handshaking:
            self._end_handshake(exc or (
                ConnectionResetError("the client has gone")
                if lost.reason == ABORT_ERROR and self._runtime.serving()
                else ConnectionAbortedError("it was ended here")))
        self._stop_tls_timer()
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
            if lost.error != 0 and exc is None:
                if self._maker is not None and self._protocol is None and self._tls is None:
                    doing = "connect"
                exc = os_error(lost.error, doing,
                               address_text(self.get_extra_info("peername")),
                               limit_text(lost, &conn.service.config))
        except BaseException as raised:
            self._runtime.report("what ended a connection cannot be told", raised, None, self)
        try:
            if self._tls_future is not None:
                future, self._tls_future = self._tls_future, None
                self._runtime.settle(
                    future, exc or ConnectionAbortedError("the connection was closed"),
                    "start_tls", self)
            if self._protocol is not None:      # there is none before the handshake is done
                self._run("connection_lost", (exc,))
        except BaseException as raised:
            self._runtime.report("connection_lost() raised", raised, self.get_protocol(), self)
        maker, self._maker = self._maker, None
        if maker is not None:
            maker.lost(self, exc)
        self._raised = None
        self._context = None

    # -- TLS -----------------------------------------------------------------------

    cdef void _begin_tls(self, conn_t *conn) noexcept:
        """The handshake of a client, before anybody is told of him.  In the connection's turn."""
        try:
            runtime = self._runtime
            self._take_tls(conn, Tls.__new__(Tls, runtime.sslcontext, True, None),
                           runtime.handshake_s, runtime.shutdown_s)
        except ConnectionAbortedError:
            pass                        # it ends already: the server closes
        except BaseException as exc:
            self._runtime.report("TLS cannot begin, the connection is reset", exc, None, None)
            conn_abort(NULL, conn, ABORT_CALLBACK)

    cdef int _take_tls(self, conn_t *conn, Tls tls, double handshake_s,
                       double shutdown_s) except -1:
        cdef bint begun
        cdef bint resume = self._handshaking
        cdef size_t high
        cdef size_t low
        # Before the handshake can be over.  0: who has made the connection has the time.
        if handshake_s > 0:
            self._keep_tls_timer(self._set_timer(self._give_up_tls_handshake, (handshake_s,),
                                                 microseconds(handshake_s)), True)
        with nogil:
            # Of those that wait for their handshake nothing was read.
            begun = conn_filter_begin(NULL, conn, resume)
            conn_get_marks(conn, &high, &low)
            # Marks that somebody has set stay.
            if begun and high == HIGH_WATER_BYTES and low == HIGH_WATER_BYTES // 4:
                conn_set_marks(NULL, conn, TLS_HIGH_WATER_BYTES, TLS_HIGH_WATER_BYTES // 4)
        if not begun:
            self._stop_tls_timer()
            raise ConnectionAbortedError(
                "the connection is closing, or sends a file: TLS cannot begin")
        # Not before: other threads look at it, so it is not taken back.  All that uses it is done
        # in the connection's turn, which this is.
        self._tls_shutdown_s = shutdown_s
        self._tls = tls
        return 0

    def _begin_waiting(self):
        """For the runtime: his handshake may begin.  Any thread, so it begins in a turn of its own:
        another worker may just tell of the connection's end, and look at its TLS."""
        try:
            self._set_timer(self._begin_in_turn, (), 0)
        except BaseException:
            self.abort()

    def _begin_in_turn(self):
        cdef conn_t *conn = self._enter()
        if conn != NULL:
            self._begin_tls(conn)
            conn_unref(conn)

    cdef void _end_handshake(self, exc) noexcept:
        """It is over, exc says how: the next that waits for his may begin."""
        if self._handshaking:
            self._handshaking = False
            self._runtime.handshake_over(self, exc)

    cdef int _keep_tls_timer(self, timer, bint anew) except -1:
        """In place of the one that there is; anew False: only if there is none."""
        with cython.critical_section(self):
            if anew or self._tls_timer is None:
                timer, self._tls_timer = self._tls_timer, timer
        if timer is not None:
            timer.cancel()
        return 0

    cdef void _stop_tls_timer(self) noexcept:
        with cython.critical_section(self):
            timer, self._tls_timer = self._tls_timer, None
        if timer is not None:
            timer.cancel()

    def _give_up_tls_handshake(self, seconds):
        cdef conn_t *conn
        if self._tls is None or self._tls.opened:
            return
        conn = self._enter()
        if conn != NULL:
            self._tls_failed(conn, TimeoutError(
                f"the TLS handshake took longer than {seconds:g} s"), False)
            conn_unref(conn)

    def _give_up_tls(self):
        cdef bint sends = False
        cdef conn_t *conn = self._enter()
        if conn != NULL:
            sends = conn_sends_files(conn)
            conn_unref(conn)
        if sends:
            # As long as the peer takes it: for one that does not there is close_timeout_s.
            self._limit_the_end_of_tls(True)
            return
        if self._raised is None:
            self._raised = TimeoutError(
                f"the end of TLS took longer than {self._tls_shutdown_s:g} s")
        self.abort()

    cdef int _limit_the_end_of_tls(self, bint anew) except -1:
        return self._keep_tls_timer(
            self._set_timer(self._give_up_tls, (), microseconds(self._tls_shutdown_s)), anew)

    cdef void _tls_opened(self, conn_t *conn) noexcept:
        self._stop_tls_timer()
        if self._close_called:
            # Another thread's, which may have found the handshake's time running: see there.
            try:
                self._limit_the_end_of_tls(False)
            except BaseException:
                self.abort()
        self._end_handshake(None)
        if self._tls_future is not None:
            future, self._tls_future = self._tls_future, None
            self._runtime.settle(future, None, "start_tls", self)
        elif self._take_protocol_of_factory(conn):
            self._made()

    cdef bint _take_protocol_of_factory(self, conn_t *conn) noexcept:
        cdef bint bound                 # by attach(), and perhaps set_protocol() since
        with cython.critical_section(self):
            bound = self._protocol is not None
            if bound:
                conn_tell_sent(conn, self._tells_sent)
        fault = "raised"
        try:
            protocol = (self._runtime if self._maker is None else self._maker).factory()
            fault = "returned no protocol"
            refuse_coroutine("protocol_factory", protocol)
            if not bound:
                self._bind(protocol)
            self._runtime.connections.add(self)
        except BaseException as exc:
            if self._maker is not None:
                self._raised = exc      # which its maker is told
            else:
                self._runtime.report(f"protocol_factory {fault}, the connection is reset", exc,
                                     None, None)
            conn_abort(NULL, conn, ABORT_CALLBACK)
            return False
        return True

    cdef void _tls_failed(self, conn_t *conn, exc, bint opened) noexcept:
        self._stop_tls_timer()
        self._end_handshake(exc)
        if self._raised is None:
            self._raised = exc
        if isinstance(exc, (SystemExit, KeyboardInterrupt)):
            # Of a signal, where the program's own thread steps the engine.
            self._runtime.report("TLS was interrupted", exc, self.get_protocol(), self)
        if isinstance(exc, TimeoutError):
            conn_abort(NULL, conn, ABORT_APPLICATION)
        else:
            # The alert goes out before the end.
            conn_close(NULL, conn)

    cdef void _tell_data(self, conn_t *conn, bytes data) noexcept:
        with cython.critical_section(self):
            protocol = self._protocol
        try:
            result = protocol.data_received(data)
            if result is not None:
                refuse_coroutine("data_received", result)
        except BaseException as exc:
            self._failed("data_received", exc)

    cdef void _tell_messages(self, list messages) noexcept:
        self._call("messages_received", (messages,))

    cdef int _may_frame(self, conn_t *conn) except -1:
        if not conn_may_filter(conn):
            raise RuntimeError("set_framer() must be called from a callback of its connection")
        return 0

    cdef void _unframeable(self, conn_t *conn, exc, bint framing) noexcept:
        if not framing:
            self._failed("messages_received", exc)
            return
        if self._raised is None:
            self._raised = exc
        conn_abort(NULL, conn, ABORT_FRAMING)

    cdef bint _tls_is_buffered(self) noexcept:
        return self._framed is None and not self._takes_bytes()

    cdef int _tls_fill(self, conn_t *conn) except -1:
        cdef Py_buffer view
        cdef Py_ssize_t got = 0
        cdef bint reads = False
        if not self._tls.has_more():
            return 0
        name = "get_buffer"
        try:
            protocol = self.get_protocol()
            lent = protocol.get_buffer(-1)
            if not PyObject_CheckBuffer(lent):
                refuse_coroutine(name, lent)
            PyObject_GetBuffer(lent, &view, PyBUF_WRITABLE)
            lent = None                     # a memoryview would keep the protocol's buffer locked
            try:
                if view.len == 0:
                    raise RuntimeError("get_buffer() returned an empty buffer")
                reads = True
                got = self._tls.read_into(<char *>view.buf, view.len)
                reads = False
            finally:
                PyBuffer_Release(&view)
            if got > 0:
                name = "buffer_updated"
                result = protocol.buffer_updated(got)
                if result is not None:
                    refuse_coroutine(name, result)
        except BaseException as exc:
            if reads:
                raise       # of TLS
            self._failed(name, exc)
            return 0
        return got > 0

    cdef void _tls_eof(self, conn_t *conn) noexcept:
        self._keeps_open()                  # which TLS cannot
        self.close()

    def start_tls(self, context, *, server_side=True, server_hostname=None, received=b"",
                  ssl_handshake_timeout_s=60.0, ssl_shutdown_timeout_s=30.0):
        """Go on with TLS: STARTTLS, or TLS after a PROXY header.  asyncio.loop.start_tls(), for a
        connection of a server.  Returns a concurrent.futures.Future: its result is None once the
        handshake is done, its exception what has ended it.

        context: ssl.SSLContext.  server_side: bool; False: we are the client, of server_hostname,
        a str, or None where the context does not check it.
        received: bytes of the TLS stream that data_received() has got already, behind the last
        words without TLS.  What comes from now on is TLS's, and is delivered decrypted; what was
        written before leaves as it is, and what is written now waits for the handshake.
        ssl_handshake_timeout_s, ssl_shutdown_timeout_s: as Server's.

        From a callback of this connection: whatever was delivered before was no TLS.  Raises
        RuntimeError elsewhere, or where there is TLS already, ConnectionAbortedError on a
        connection that closes, TypeError or ValueError for a wrong argument.
        """
        cdef conn_t *conn
        cdef bint ended
        handshake_s = milliseconds("ssl_handshake_timeout_s", ssl_handshake_timeout_s, 0.001,
                                   86400) / 1000.0
        shutdown_s = milliseconds("ssl_shutdown_timeout_s", ssl_shutdown_timeout_s, 0.001,
                                  86400) / 1000.0
        if not isinstance(received, bytes):
            raise TypeError(f"received must be bytes, got {type(received).__name__}")
        check_side(context, server_side)
        tls = Tls.__new__(Tls, context, server_side, server_hostname)
        if self._tls is not None:
            raise RuntimeError("the connection has TLS already")
        conn = self._enter()
        if conn == NULL:
            raise ConnectionAbortedError("the connection is closed: TLS cannot begin")
        try:
            if not conn_may_filter(conn):
                raise RuntimeError("start_tls() must be called from a callback of its connection")
            ended = conn.eof_told       # TLS is told again
            self._take_tls(conn, tls, handshake_s, shutdown_s)
            tls.feed_bytes(received + self._take_undelivered(conn, ended))
            # Nothing is held any more, also where this is called for what was: TLS has it.
            conn_filter_hold(conn, False)
        finally:
            conn_unref(conn)
        future = concurrent.futures.Future()
        self._tls_future = future
        return future

    # -- asyncio.Transport ---------------------------------------------------------

    def write(self, data):
        """Queue data (bytes-like) to be sent; never blocks.  asyncio.WriteTransport.write().

        Any thread.  A callback's writes leave together when it returns, others
        at once.  bytes longer than 16 KiB are sent from where they are, all else
        is copied.  Without effect once the connection closes.  Raises TypeError
        for anything but a bytes-like object, RuntimeError after write_eof()
        while the connection is open.
        """
        check_data(data)
        if self._eof_written and not self.is_closing():
            raise RuntimeError("cannot call write() after write_eof()")
        cdef conn_t *conn = self._enter()
        if conn == NULL:
            return
        try:
            self._after_write(conn, queue_data(NULL, conn, NULL, data))
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
        if self._eof_written and not self.is_closing():
            raise RuntimeError("cannot call writelines() after write_eof()")
        cdef conn_t *conn = self._enter()
        if conn == NULL:
            return
        memset(&parts, 0, sizeof(parts))
        try:
            try:
                for data in items:
                    queue_data(NULL, conn, &parts, data)
            finally:
                # Also if one raised, as a released memoryview does: those before it go.
                if parts.head != NULL:
                    result = conn_write_parts(NULL, conn, &parts)
            self._after_write(conn, result)
        finally:
            conn_unref(conn)

    cdef int _after_write(self, conn_t *conn, int result) except -1:
        if result & WRITE_FLUSH:
            if self._tls is not None and conn_may_filter(conn):
                self._tls_pump(conn)
            self._flush(conn)
        if result & (WRITE_FLUSH | WRITE_SPENT):
            # By whoever has the GIL: the connection's own turn may have to wait for a callback
            # that takes long, while others write on.
            release_spent(conn_take_spent(conn))
        return 0

    def wait_writable(self, timeout=None):
        """Wait until the connection can be written to: its queue is not above the high mark,
        or down to the low one after it was, and max_sends leaves room.  For threads, to
        which pause_writing() cannot be told.

        timeout: seconds, None: for ever.  True: write; False: the time is over, or the
        connection is closing (is_closing()), so that nothing can be written any more.
        Any thread but a worker's: RuntimeError in a callback, which would wait for itself.
        """
        cdef wait_result result
        cdef uint64_t now
        cdef uint64_t due_ms = NEVER
        if timeout is not None:
            # The added 1: the clock is rounded down.
            due_ms = now_ms() + 1 + <uint64_t>milliseconds(
                "timeout", timeout, 0, threading.TIMEOUT_MAX)
        cdef conn_t *conn = self._enter()
        if conn == NULL:
            return False
        try:
            if engine_on_worker(conn.engine):
                raise RuntimeError("wait_writable() must not be called from a callback: "
                                   "use pause_writing() and resume_writing()")
            while True:
                with nogil:
                    now = now_ms()
                    result = conn_wait_writable(conn, 0 if now >= due_ms else <DWORD>min(
                        due_ms - now, <uint64_t>WAIT_SLICE_MS))
                if result != WAIT_AGAIN or now >= due_ms:
                    return result == WAIT_WRITABLE
                PyErr_CheckSignals()
        finally:
            conn_unref(conn)

    cdef _flush(self, conn_t *conn):
        cdef bint pause
        with nogil:
            pause = conn_flush(NULL, conn)
        if pause:
            self._tell_marks("pause_writing")

    def can_write_eof(self):
        """True, but for TLS.  asyncio.WriteTransport.can_write_eof()."""
        return self._tls is None

    def write_eof(self):
        """End our direction once all is sent; receiving goes on.
        asyncio.WriteTransport.write_eof(), Microsoft's shutdown(SD_SEND).  NotImplementedError with
        TLS, whose end ends both directions.  Any thread."""
        if self._tls is not None:
            raise NotImplementedError("a TLS connection has no end in one direction only")
        self._eof_written = True
        cdef conn_t *conn = self._enter()
        if conn != NULL:
            with nogil:
                conn_write_eof(NULL, conn)
                conn_unref(conn)

    def close(self):
        """Close gracefully: what is queued is sent, nothing more is received, then
        connection_lost(None).  asyncio.BaseTransport.close().  Any thread.

        A peer that takes nothing for the server's close_timeout_s (see there) gets a reset,
        and connection_lost a TimeoutError.  With TLS the last that is sent is close_notify, and
        all that may take ssl_shutdown_timeout_s.
        """
        cdef bint opened
        cdef conn_t *conn = self._enter()
        if conn != NULL:
            # Before the look at TLS: a handshake that ends meanwhile sees this, or is seen here.
            self._close_called = True
            with nogil:
                conn_close(NULL, conn)
            with cython.critical_section(self):
                opened = self._tls is not None and self._tls.opened and self._tls_timer is None
            try:
                if opened:
                    self._limit_the_end_of_tls(False)
            finally:
                conn_unref(conn)

    def abort(self):
        """Close with a reset; what is queued is dropped.  connection_lost(None) follows.
        asyncio.WriteTransport.abort().  Any thread."""
        cdef conn_t *conn = self._enter()
        if conn != NULL:
            with nogil:
                conn_abort(NULL, conn, ABORT_APPLICATION)
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
                conn_pause_reading(NULL, conn, paused)
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
        asyncio.WriteTransport.set_write_buffer_limits(), with its defaults: high 64 KiB, with TLS
        512 KiB, or four times low; low a quarter of high.  int or float, rounded down; infinity: no
        mark.  Any thread.  TypeError for anything else, ValueError for marks that are
        negative, not a number, or the wrong way round."""
        high, low = write_marks(high, low, <int>(HIGH_WATER_BYTES if self._tls is None
                                                 else TLS_HIGH_WATER_BYTES))
        cdef size_t high_bytes = high
        cdef size_t low_bytes = low
        cdef conn_t *conn = self._enter()
        if conn != NULL:
            with nogil:
                conn_set_marks(NULL, conn, high_bytes, low_bytes)
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
                if self._tls is not None and conn_may_filter(conn):
                    self._tls_pump(conn)
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
        Any thread; a callback that has begun goes on with the old one.  TypeError for an
        object without data_received(), or get_buffer() and buffer_updated(): nothing is
        changed then."""
        self._bind(protocol)

    def get_extra_info(self, name, default=None):
        """"peername", "sockname" (addresses as the socket module shows them, also after
        the close) or "socket" (an asyncio.trsock.TransportSocket while the connection is
        open, for options); with TLS "sslcontext", and after the handshake "ssl_object",
        "peercert", "cipher" and "compression"; else default.
        asyncio.BaseTransport.get_extra_info()."""
        if name == "peername":
            return address_tuple(<const unsigned char *>self._remote)
        if name == "sockname":
            return address_tuple(<const unsigned char *>self._local)
        if name == "socket":
            return self._socket_for_options(default)
        return default if self._tls is None else self._tls_extra().get(name, default)

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
        try:
            copy = duplicate_socket(handle)
        finally:
            with nogil:
                conn_return_handle(NULL, conn)
                conn_unref(conn)
        return socket.socket(fileno=copy)


cdef int check_data(data) except -1:
    if not PyObject_CheckBuffer(data):
        raise TypeError(f"data must be a bytes-like object, got {type(data).__name__}")
    return 0
