"""What anybody does to a connection, its own callbacks or others: write, pause, close.

Called by the protocol and the application's thread; calls _run and _checks."""

from iocpx._state cimport buf_t
from iocpx._types cimport conn_t

# Its connection with a reference; NULL: there is none (any more).
cdef conn_t *borrow(int client) noexcept nogil
# Free what has been sent: an owned chain.
cdef void release(buf_t *spent) noexcept nogil
# A write of the protocol's.  The result is conn_write's; the caller has a reference.
cdef int write(int client, conn_t *conn, size_t nbytes, bint keep, bint in_parts) noexcept nogil
cdef void pause_reading(int client, conn_t *conn, bint paused) noexcept nogil
cdef bint is_paused(int client) noexcept nogil
cdef void set_marks(int client, conn_t *conn) noexcept nogil
cdef void write_eof(int client, conn_t *conn) noexcept nogil
# What follows a write that says so; only with a loop's connection, or in its own callbacks.
cdef void flush(int client, conn_t *conn) noexcept nogil
# The filter of a client's connection, in its callbacks or on its loop's thread.  Has it opened?
cdef void filter_begin(int client, conn_t *conn) noexcept nogil
cdef bint filter_open(int client, conn_t *conn) noexcept nogil
# Of what has come while it opens, what is the filter's.  Is there more?  Then it has opened.
cdef bint filter_take(int client, conn_t *conn, buf_t *buf) noexcept nogil
# It does not open, or goes wrong.
cdef void filter_fail(int client, conn_t *conn) noexcept nogil
cdef void filter_pump(int client, conn_t *conn) noexcept nogil
# A file joins the stream, as a write of the protocol's does…
cdef void send_file(int client, conn_t *conn) noexcept nogil
cdef void cancel_file(int client, conn_t *conn) noexcept nogil
# … and is looked after in a delivery, on news_t.files.
cdef void serve_files(int client, conn_t *conn) noexcept nogil
cdef void close_conn(int client, conn_t *conn, bint abort) noexcept nogil
# Somebody else than the connection's own callbacks writes to it.
cdef void meddle_write(int client, conn_t *conn) noexcept nogil
# … although it is paused, as long as the limit lets him.
cdef void flood(int client, conn_t *conn) noexcept nogil
# One connection's callback writes to another connection, or aborts it.
cdef void meddle_with_another(int me, int client, bint writes) noexcept nogil
