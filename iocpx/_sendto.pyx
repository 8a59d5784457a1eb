"""What the application asks of a datagram endpoint beyond what it may ask of any connection: that a
datagram be sent.

Called by `_datagram_layer`, from any thread; calls `_datagrams`, `_requests`, `_sched` and `_base`.
"""

from libc.string cimport memcpy

from iocpx._base cimport count, give_buffer, take_own_buffer
from iocpx._datagrams cimport datagram_fail
from iocpx._requests cimport conn_written, WRITE_CLOSED, WRITE_FLUSH, WRITE_NO_MEMORY
from iocpx._sched cimport conn_leave
from iocpx._state cimport buf_t, queue_push, STATE_OPEN
from iocpx._types cimport *
from iocpx._winsock cimport *

cdef enum:
    LONGEST = 65535         # bytes: no datagram is longer


cdef buf_t *datagram_new(engine_t *engine, const char *address, const char *data,
                         size_t nbytes) noexcept nogil:
    """NULL: out of memory."""
    # As long as it is, and not of a pool: thousands may wait, which the figures of the queue tell.
    cdef buf_t *buf = take_own_buffer(engine, sizeof(datagram_t) + nbytes)
    cdef datagram_t *datagram
    if buf == NULL:
        return NULL
    datagram = <datagram_t *>buf.base
    datagram.error = 0
    datagram.sending = True
    datagram.address_bytes = 0
    if address != NULL:
        memcpy(datagram.address, address, ADDRESS_BYTES)
        datagram.address_bytes = (
            ADDRESS_BYTES if (<const sockaddr *>address).sa_family == AF_INET6 else IPV4_BYTES)
    if nbytes > 0:
        memcpy(buf.base + sizeof(datagram_t), data, nbytes)
    # So that the figures of the queue count as asyncio's do.  Nobody reads from `data` on.
    buf.data = buf.base + sizeof(datagram_t) - DATAGRAM_COUNTS
    buf.size = nbytes + DATAGRAM_COUNTS
    buf.writes = 1
    return buf


cdef void datagram_drop(conn_t *conn, buf_t *buf) noexcept nogil:
    """There is no room for it.  That is told once for as many as come in a row.
    Precondition: conn.lock held."""
    cdef buf_t *last = conn.inbox.tail
    count(conn.service, NULL, N_DROPPED, 1)
    if (last != NULL and (<datagram_t *>last.base).sending
            and (<datagram_t *>last.base).error == WSAENOBUFS):
        give_buffer(conn.engine, buf)
    else:
        datagram_fail(conn, buf, WSAENOBUFS, True)


cdef int conn_sendto(worker_t *worker, conn_t *conn, const char *address, const char *data,
                     size_t nbytes) noexcept nogil:
    cdef service_config_t *config = &conn.service.config
    # No need to ask Windows, which would have to get a copy of it, and takes 32 bits for a length.
    cdef bint too_long = nbytes > LONGEST
    cdef buf_t *buf = datagram_new(conn.engine, address, data, 0 if too_long else nbytes)
    cdef int result = 0
    if buf == NULL:
        return WRITE_NO_MEMORY
    AcquireSRWLockExclusive(&conn.lock)
    if conn.state != STATE_OPEN:
        give_buffer(conn.engine, buf)
        result = WRITE_CLOSED
    elif too_long:
        count(conn.service, NULL, N_SEND_ERRORS, 1)
        datagram_fail(conn, buf, WSAEMSGSIZE, True)
    elif config.max_write_buffer != 0 and conn.outbox.head != NULL and (
            conn.outbox.nbytes + buf.size > config.max_write_buffer):
        datagram_drop(conn, buf)
    else:
        queue_push(&conn.outbox, buf)
        result = conn_written(worker, conn, buf.size)
    if worker == NULL and result & WRITE_FLUSH:
        ReleaseSRWLockExclusive(&conn.lock)     # the caller goes on with conn_flush
    else:
        conn_leave(worker, conn)
    return result
