from libc.stdint cimport uint64_t

from iocpx._state cimport buf_t, queue_t
from iocpx._types cimport abort_reason, conn_t, service_t, worker_t
from iocpx._winsock cimport DWORD, SOCKET

cdef enum each_action:
    EACH_CLOSE
    EACH_ABORT
    EACH_STOP

cdef enum write_result:
    # `owner` is referenced until conn_take_news or conn_take_spent hands it back
    WRITE_KEPT = 1
    WRITE_FLUSH = 2     # conn_flush has to be called
    WRITE_CLOSED = 4    # not taken: closing or write_eof
    WRITE_NO_MEMORY = 8  # not taken
    WRITE_SPENT = 16    # conn_take_spent has something

cdef enum wait_result:
    WAIT_AGAIN          # not yet, or woken for nothing
    WAIT_WRITABLE
    WAIT_CLOSED         # nothing can be written any more

# The caller has a reference to the connection.  worker: whose own thread calls between two of its
# steps, as a loop's does; what follows from the request is then done in its next one.  NULL: any
# other thread.
# The same for a write of several parts: first each is put into a queue of the caller's…
cdef int conn_gather(conn_t *conn, queue_t *parts, const char *data, size_t nbytes,
                     void *owner) noexcept nogil
# Queues a copy of data, or data itself where it is long and lies in `owner`.
cdef int conn_write(worker_t *worker, conn_t *conn, const char *data, size_t nbytes,
                    void *owner) noexcept nogil
# …then all are queued, or dropped, at once: no other thread's write comes between them.
cdef int conn_write_parts(worker_t *worker, conn_t *conn, queue_t *parts) noexcept nogil
# Posts what is queued, as far as the turn's share goes.  True: call pause_writing now; only with
# a worker, or inside one of the connection's own callbacks.
cdef bint conn_flush(worker_t *worker, conn_t *conn) noexcept nogil
# Precondition: conn.lock held, which is released.  Has what was asked for its effect, now or at the
# turn's end.
cdef void conn_request_done(worker_t *worker, conn_t *conn) noexcept nogil
# Counts a write of so many bytes that was queued.  What has to follow it: write_result's.
# Precondition: conn.lock held.
cdef int conn_written(worker_t *worker, conn_t *conn, size_t nbytes) noexcept nogil
# Precondition: conn.lock held.
cdef bint conn_in_callback(conn_t *conn) noexcept nogil
cdef void conn_write_eof(worker_t *worker, conn_t *conn) noexcept nogil
cdef void conn_close(worker_t *worker, conn_t *conn) noexcept nogil
cdef void conn_abort(worker_t *worker, conn_t *conn, abort_reason reason) noexcept nogil
cdef bint conn_is_closing(conn_t *conn) noexcept nogil
cdef void conn_pause_reading(worker_t *worker, conn_t *conn, bint paused) noexcept nogil
cdef bint conn_is_reading(conn_t *conn) noexcept nogil
# Whether conn_take_news reports sent bytes.
cdef void conn_tell_sent(conn_t *conn, bint tell) noexcept nogil
# The handle, kept open until conn_return_handle; INVALID_SOCKET: it is closed already,
# or the system refuses to make it a socket for the application.
cdef SOCKET conn_borrow_handle(conn_t *conn) noexcept nogil
# Likewise, for calls that leave nobody else a handle of the socket, and do not change its mode.
cdef SOCKET conn_lend_handle(conn_t *conn) noexcept nogil
# Only after one of those two that was successful.
cdef void conn_return_handle(worker_t *worker, conn_t *conn) noexcept nogil
cdef void conn_set_marks(worker_t *worker, conn_t *conn, size_t high_bytes,
                         size_t low_bytes) noexcept nogil
cdef void conn_get_marks(conn_t *conn, size_t *high_bytes, size_t *low_bytes) noexcept nogil
# Sleeps until the queue is not above its high mark (or no longer above it after it was, at its
# low one) and has room for a write, for so long at most.  Not on a worker: it might wait for
# itself.
cdef wait_result conn_wait_writable(conn_t *conn, DWORD timeout_ms) noexcept nogil
# What has been sent and has an owner: an owned chain; the caller releases each owner, then
# buf_free.  GIL held, for that.
cdef buf_t *conn_take_spent(conn_t *conn) noexcept nogil
# Has the handler told (news_t.timers) at due_ms, 0: as soon as may be, in the connection's turn.
# Of what is asked for before that the earliest counts.  Without effect once the connection is
# over.
cdef void conn_wake_at(conn_t *conn, uint64_t due_ms) noexcept nogil
cdef size_t conn_write_buffer_size(conn_t *conn) noexcept nogil
cdef void service_for_each(service_t *service, each_action action) noexcept nogil
cdef void service_close_clients(service_t *service, bint abort) noexcept nogil
