from iocpx._state cimport buf_t
from iocpx._types cimport conn_t, datagram_t, recv_t, worker_t
from iocpx._winsock cimport DWORD


# Of a buffer with a datagram.
cdef inline datagram_t *datagram_of(buf_t *buf) noexcept nogil:
    return <datagram_t *>buf.base


# Its bytes, which follow.
cdef inline char *datagram_bytes(buf_t *buf) noexcept nogil:
    return buf.base + sizeof(datagram_t)


# conn.post_recv of datagram endpoints.  Precondition: executor; conn.lock held, which is released
# for the call.
cdef void datagram_recv_post(worker_t *worker, conn_t *conn) noexcept nogil
# Precondition: conn.lock held.
cdef void datagram_recv_done(worker_t *worker, conn_t *conn, recv_t *recv, int error,
                             DWORD nbytes) noexcept nogil
# Sends what is in the outbox, one after the other.  True: it may go on.
# own: the thread is the engine's; False: then nothing pends.
# Precondition: conn.lock held, which is released for the calls.
cdef bint datagrams_post(worker_t *worker, conn_t *conn, bint own) noexcept nogil
# The outcome of a WSASendTo that was pending, or of send_defer's packet.  Precondition: conn.lock
# held.
cdef void datagram_send_done(worker_t *worker, conn_t *conn, int error,
                             DWORD nbytes) noexcept nogil
# Puts an error into the inbox, in `buf`, which has a datagram_t and becomes the inbox's; or drops
# it.  Precondition: conn.lock held.
cdef void datagram_fail(conn_t *conn, buf_t *buf, int error, bint sending) noexcept nogil
# close() was called: nothing that is received counts any more.  Precondition: conn.lock held.
cdef void datagrams_close(conn_t *conn) noexcept nogil
# For the handler: gives back what conn_take_data has given, read or not.
cdef void conn_give_datagram(conn_t *conn, buf_t *buf) noexcept nogil
# … and how many there are to take.
cdef int conn_datagrams(conn_t *conn) noexcept nogil
