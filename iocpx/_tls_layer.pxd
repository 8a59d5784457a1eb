from iocpx._tls cimport Tls
from iocpx._types cimport conn_t


# What a connection with TLS is to this room: Connection and Transport derive from it.  All methods:
# the connection's turn, or the loop's thread; the GIL.
cdef class TlsUser:
    cdef Tls _tls                       # None: no TLS
    cdef bint _tls_told_end             # eof_received was called, or never will be
    cdef bint _tls_pumps                # _tls_pump() runs …
    cdef bint _tls_pump_again           # … and was asked for meanwhile
    cdef dict _tls_info                 # what get_extra_info() tells of it, after the handshake

    # Hand over what has come.  After it the protocol may have written.
    cdef void _tls_deliver(self, conn_t *conn) noexcept
    # Encrypt what was written, and the end of it.
    cdef void _tls_pump(self, conn_t *conn) noexcept
    cdef void _tls_pump_once(self, conn_t *conn) noexcept
    # The stream has ended.
    cdef void _tls_end_of_stream(self, conn_t *conn) noexcept
    cdef int _tls_read(self, conn_t *conn) except -1
    cdef int _tls_settle(self, conn_t *conn) except -1
    cdef dict _tls_extra(self)
    cdef int _tls_put(self, conn_t *conn, size_t plain_bytes, int writes) except -1
    cdef void _tls_fail(self, conn_t *conn, exc) noexcept

    # For a subclass.
    # The handshake is done.
    cdef void _tls_opened(self, conn_t *conn) noexcept
    # Deliver plaintext: True, all that there is; False: reading is paused, or no more.
    cdef void _tls_data(self, conn_t *conn, bytes data) noexcept
    # All of a delivery was.  True: something of it could not be delivered, and waits there.
    cdef bint _tls_holds(self, conn_t *conn) noexcept
    # Is the protocol a BufferedProtocol?  Then it gets …
    cdef bint _tls_is_buffered(self) noexcept
    # … what there is, as far as it takes it.
    cdef int _tls_fill(self, conn_t *conn) except -1
    # The peer has ended its side, in order or not.
    cdef void _tls_eof(self, conn_t *conn) noexcept
    # TLS has failed, in the handshake or after it; the alert is in the connection's queue.
    cdef void _tls_failed(self, conn_t *conn, exc, bint opened) noexcept
