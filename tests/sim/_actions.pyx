"""What anybody does to a connection: see _actions.pxd."""

from libc.stdint cimport uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from _kernel cimport *
from _run cimport mark, marked, protocol_t, protocols, MEDDLED_WRITE
from iocpx._base cimport conn_ref
from iocpx._requests cimport (
    conn_abort, conn_close, conn_flush, conn_gather, conn_pause_reading, conn_take_spent,
    conn_write, conn_write_parts, WRITE_CLOSED, WRITE_FLUSH, WRITE_KEPT, WRITE_NO_MEMORY,
    WRITE_SPENT,
)
from iocpx._sched cimport conn_unref
from iocpx._state cimport buf_free, queue_t
from iocpx._types cimport *
from iocpx._winsock cimport AcquireSRWLockExclusive, ReleaseSRWLockExclusive


cdef conn_t *borrow(int client) noexcept nogil:
    cdef conn_t *conn
    sim_atomic(True)
    conn = protocols[client].conn
    if conn != NULL:
        conn_ref(conn)
    sim_atomic(False)
    return conn


cdef void release(buf_t *spent) noexcept nogil:
    cdef buf_t *buf
    while spent != NULL:
        buf = spent
        spent = buf.next
        free(buf.owner)
        buf_free(buf)


cdef int put(int client, conn_t *conn, queue_t *parts, size_t nbytes, bint keep) noexcept nogil:
    """Queue the next bytes of the stream: in `parts` behind what is there, or if that is NULL
    in the connection.  keep: in a block that may stay with the engine.

    Precondition: protocol.lock held, since where they stand in the stream is known only if no
    other write comes between.
    """
    cdef size_t at = protocols[client].written + (0 if parts == NULL else parts.nbytes)
    cdef char *data = <char *>malloc(nbytes)
    cdef void *owner = data if keep else NULL
    cdef size_t i
    cdef int result
    if data == NULL:
        return WRITE_NO_MEMORY
    for i in range(nbytes):
        data[i] = <char>sim_byte(client, at + i)
    if parts == NULL:
        result = conn_write(NULL, conn, data, nbytes, owner)
    else:
        result = conn_gather(conn, parts, data, nbytes, owner)
    if not result & WRITE_KEPT:
        free(data)
    return result


cdef int write(int client, conn_t *conn, size_t nbytes, bint keep, bint in_parts) noexcept nogil:
    cdef protocol_t *protocol = &protocols[client]
    cdef queue_t parts
    cdef int result = WRITE_NO_MEMORY
    cdef size_t left = nbytes
    cdef size_t part
    memset(&parts, 0, sizeof(parts))
    AcquireSRWLockExclusive(&protocol.lock)
    if in_parts:
        while left > 0:
            part = 1 + sim_random(<uint32_t>left)
            # What there is no memory for is left out.
            put(client, conn, &parts, part, keep)
            left -= part
        nbytes = parts.nbytes
        if nbytes > 0:
            result = conn_write_parts(NULL, conn, &parts)
    else:
        result = put(client, conn, NULL, nbytes, keep)
    if not result & (WRITE_CLOSED | WRITE_NO_MEMORY):
        protocol.written += nbytes
    ReleaseSRWLockExclusive(&protocol.lock)
    if result & (WRITE_FLUSH | WRITE_SPENT):
        release(conn_take_spent(conn))
    sim_note("writelines" if in_parts else "write", client, <long long>nbytes)
    return result


cdef void pause_reading(int client, conn_t *conn, bint paused) noexcept nogil:
    AcquireSRWLockExclusive(&protocols[client].lock)
    protocols[client].reading_paused = paused
    conn_pause_reading(NULL, conn, paused)
    ReleaseSRWLockExclusive(&protocols[client].lock)


cdef bint is_paused(int client) noexcept nogil:
    AcquireSRWLockExclusive(&protocols[client].lock)
    cdef bint paused = protocols[client].reading_paused
    ReleaseSRWLockExclusive(&protocols[client].lock)
    return paused


cdef void close_conn(int client, conn_t *conn, bint abort) noexcept nogil:
    sim_note("abort" if abort else "close", client, 0)
    mark(&protocols[client].closed, True)
    if abort:
        conn_abort(NULL, conn, ABORT_APPLICATION)
    else:
        conn_close(NULL, conn)


cdef void meddle_write(int client, conn_t *conn) noexcept nogil:
    cdef size_t nbytes = 1 + sim_random(MEDDLED_WRITE)
    if write(client, conn, nbytes, False, sim_random(4) == 0) & WRITE_FLUSH and (
            conn_flush(NULL, conn)):
        sim_fail("client %d: pause_writing outside of its callbacks", client)


cdef void meddle_with_another(int me, int client, bint writes) noexcept nogil:
    cdef conn_t *conn = borrow(client)
    if conn == NULL:
        return
    if client != me and not writes:
        close_conn(client, conn, True)
    elif client != me and not marked(&protocols[client].paused):
        meddle_write(client, conn)
    conn_unref(conn)
