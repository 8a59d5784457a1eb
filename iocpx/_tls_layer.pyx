"""TLS between a connection and its protocol: what a turn of a connection with TLS does, for both
the threaded server's and the loop's.

An SSLObject is touched in the connection's turn only, or by the loop's one thread, so by one
thread at a time.  What is received goes to it as it comes, and what it gives back is delivered in
one piece per receive; what is written waits in the engine (`_filter`) until the end of the turn,
so that many writes become few records and one send.

Called by `_messages`, whose class derives from TlsUser, and so by `_connection` and `_transport`,
by `_core` and by `_transports`; calls `_tls`, `_buffers`, and of the engine `_filter`, `_delivery`
and `_requests`.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.string cimport memset

from iocpx._buffers cimport release_spent
from iocpx._delivery cimport (
    conn_discards, conn_give_buffer, conn_is_reading_on, conn_take_data,
)
from iocpx._filter cimport (
    conn_filter_begun, conn_filter_end, conn_filter_hold, conn_filter_open, conn_free_plain,
    conn_put_filtered, conn_return_plain, conn_take_plain,
)
from iocpx._requests cimport conn_abort, conn_is_closing, WRITE_KEPT, WRITE_NO_MEMORY
from iocpx._state cimport buf_t, queue_consume, queue_t
from iocpx._tls cimport Tls
from iocpx._types cimport *

cdef enum:
    MAX_READ = 262144           # plaintext that is delivered at once
    MAX_WRITE = 65536           # … and encrypted, before it goes to the outbox


cdef class TlsUser:
    cdef void _tls_deliver(self, conn_t *conn) noexcept:
        cdef size_t wanted
        cdef buf_t *buf = NULL
        if not self._tls.opened:
            conn_filter_begun(conn)
        try:
            # First what was left when reading was paused: of messages, and of records.
            if self._tls.opened:
                self._tls_holds(conn)
            self._tls_read(conn)
            buf = conn_take_data(conn, &wanted)
            while buf != NULL:
                self._tls.feed(buf.data, buf.size)
                buf.size = 0
                conn_give_buffer(conn, buf)
                buf = NULL
                self._tls_read(conn)
                buf = conn_take_data(conn, &wanted)
            self._tls_settle(conn)
        except BaseException as exc:
            if buf != NULL:
                buf.size = 0
                conn_give_buffer(conn, buf)
            self._tls_holds(conn)       # what came before it is not lost
            self._tls_fail(conn, exc)

    cdef int _tls_read(self, conn_t *conn) except -1:
        cdef Tls tls = self._tls
        if not tls.opened:
            # Its failure is told of once, and the connection may have further turns.
            if tls.failed:
                return 0
            if not tls.handshake():
                self._tls_put(conn, 0, 0)
                return 0
            self._tls_put(conn, 0, 0)
            ssl_object = tls.ssl_object
            # Now: another thread may ask for them while this one is in a call of OpenSSL's.
            self._tls_info = {
                "sslcontext": tls.context, "ssl_object": ssl_object,
                "peercert": ssl_object.getpeercert(), "cipher": ssl_object.cipher(),
                "compression": ssl_object.compression(),
            }
            with nogil:
                conn_filter_open(conn)
            self._tls_opened(conn)
        while not tls.ended and conn_is_reading_on(conn):
            if self._tls_is_buffered():
                if self._tls_fill(conn) == 0:
                    break
            else:
                data = tls.read(MAX_READ)
                if data is None:
                    break
                self._tls_data(conn, data)
        # What it waits for to encrypt the rest may stand behind data that nobody wants any more.
        while not tls.ended and conn_discards(conn):
            self._tls_told_end = True
            if tls.read(MAX_READ) is None:
                break
        return 0

    cdef int _tls_settle(self, conn_t *conn) except -1:
        """After all that was there."""
        cdef Tls tls = self._tls
        cdef bint holds
        if not tls.opened:
            return 0
        holds = self._tls_holds(conn)
        conn_filter_hold(conn, holds or (not tls.ended and tls.has_more()))
        if tls.ended and not holds and not self._tls_told_end:
            self._tls_told_end = True
            # As without TLS: who has closed is not told.
            if not conn_is_closing(conn):
                self._tls_eof(conn)
        return 0

    cdef void _tls_end_of_stream(self, conn_t *conn) noexcept:
        if not self._tls.opened:
            self._tls_fail(conn, ConnectionResetError("the peer has ended the TLS handshake"))
        elif not self._tls_told_end:
            self._tls_told_end = True
            self._tls_eof(conn)

    cdef void _tls_pump(self, conn_t *conn) noexcept:
        # Within OpenSSL's calls the interpreter runs signals' handlers and finalisers, which may
        # write: that comes after what is being encrypted.
        self._tls_pump_again = self._tls_pumps
        if self._tls_pumps:
            return
        self._tls_pumps = True
        self._tls_pump_once(conn)
        while self._tls_pump_again:
            self._tls_pump_again = False
            self._tls_pump_once(conn)
        self._tls_pumps = False

    cdef void _tls_pump_once(self, conn_t *conn) noexcept:
        cdef queue_t plain
        cdef queue_t done
        cdef bint last
        cdef size_t nbytes
        cdef size_t taken
        cdef size_t consumed = 0
        cdef int told = 0
        memset(&plain, 0, sizeof(plain))
        memset(&done, 0, sizeof(done))
        last = conn_take_plain(conn, &plain)
        try:
            while plain.head != NULL:
                # In pieces: what OpenSSL has to write at once it keeps the memory for.
                nbytes = min(plain.head.size, <size_t>MAX_WRITE)
                taken = <size_t>self._tls.write(plain.head.data, nbytes)
                queue_consume(&plain, taken, &done)
                consumed += taken
                if taken < nbytes:
                    break
                if consumed >= MAX_WRITE and plain.head != NULL:
                    self._tls_put(conn, consumed, done.writes - told)
                    told = done.writes
                    consumed = 0
            if last and not self._tls.opened:
                # Closed in the midst of the handshake, by the server.
                conn_abort(NULL, conn, ABORT_APPLICATION)
            elif last and plain.head == NULL:
                self._tls.shutdown()
            self._tls_put(conn, consumed, done.writes - told)
            if last and plain.head == NULL:
                conn_filter_end(conn)
        except BaseException as exc:
            self._tls_fail(conn, exc)
            self._tls_pump_again = False    # as the end asks for it: there is no TLS any more
        if plain.head != NULL:
            conn_return_plain(conn, &plain, &done)
        release_spent(conn_free_plain(conn, &done))

    cdef dict _tls_extra(self):
        """What get_extra_info() knows beside what it knows without TLS."""
        return self._tls_info or {"sslcontext": self._tls.context}

    cdef int _tls_put(self, conn_t *conn, size_t plain_bytes, int writes) except -1:
        """What TLS has to send goes to the outbox."""
        cdef bytes cipher = self._tls.take_cipher()
        cdef int result
        if cipher is None:
            if plain_bytes > 0:
                conn_put_filtered(conn, NULL, 0, NULL, plain_bytes, writes)
            return 0
        Py_INCREF(cipher)               # dropped here, or by release_spent once it is sent
        result = conn_put_filtered(conn, PyBytes_AS_STRING(cipher), PyBytes_GET_SIZE(cipher),
                                   <void *>cipher, plain_bytes, writes)
        if not result & WRITE_KEPT:
            Py_DECREF(cipher)
        if result & WRITE_NO_MEMORY:
            raise MemoryError
        return 0

    cdef void _tls_fail(self, conn_t *conn, exc) noexcept:
        try:
            self._tls_put(conn, 0, 0)   # the alert
        except BaseException:
            pass                        # the connection ends without
        conn_filter_end(conn)
        conn_filter_hold(conn, False)
        self._tls_failed(conn, exc, self._tls.opened)

    cdef void _tls_opened(self, conn_t *conn) noexcept:
        pass

    cdef void _tls_data(self, conn_t *conn, bytes data) noexcept:
        pass

    cdef bint _tls_holds(self, conn_t *conn) noexcept:
        return False

    cdef bint _tls_is_buffered(self) noexcept:
        return False

    cdef int _tls_fill(self, conn_t *conn) except -1:
        return 0

    cdef void _tls_eof(self, conn_t *conn) noexcept:
        pass

    cdef void _tls_failed(self, conn_t *conn, exc, bint opened) noexcept:
        pass
