"""A filter between a connection's handler and the stream: what is written waits in `plain` until
the filter has it in the connection's turn, and what the filter makes of it goes to the outbox.

Marks and limits count what waits and what was made of it alike, by the outbox's figures.

Called by the rooms above that have the filter, TLS (`_tls_layer`, `_messages`, `_connection`,
`_transport`, `_transports`); calls `_requests`, `_conn`, `_life`, `_sched`, `_wants` and `_base`.
"""

from iocpx._base cimport conn_drop_queue, give_buffer
from iocpx._conn cimport conn_mark
from iocpx._life cimport conn_drop_files, conn_fail
from iocpx._requests cimport conn_gather, conn_in_callback, WRITE_NO_MEMORY
from iocpx._sched cimport conn_leave
from iocpx._state cimport (
    buf_t, queue_move, queue_pop, queue_t, STATE_FLUSHING, STATE_OPEN,
)
from iocpx._types cimport *
from iocpx._wants cimport conn_has_files
from iocpx._winsock cimport *

cdef enum:
    # Of a filter's own, unread: what new keys take is 26 bytes, and no peer asks for 40,000 of
    # them while one stream is sent.
    MOST_OWN_BYTES = 1048576


cdef bint conn_filter_begin(worker_t *worker, conn_t *conn, bint resume) noexcept nogil:
    cdef bint begun
    AcquireSRWLockExclusive(&conn.lock)
    begun = (conn.state == STATE_OPEN and not conn.filtered and not conn.write_eof
             and not conn_has_files(conn))
    if begun:
        conn.filtered = True
        conn.filter_begun = True
        conn.filter_opening = True
        conn.filtered_bytes = conn.outbox.nbytes    # what was written before, as it is
        # An end that the handler knows of has come in place of the filter's handshake: it is told,
        # too, or would wait for bytes that nobody receives.
        conn.eof_told = False
        if resume:
            conn.read_paused = False
    conn_leave(worker, conn)
    return begun


cdef void conn_filter_begun(conn_t *conn) noexcept nogil:
    AcquireSRWLockExclusive(&conn.lock)
    conn.filter_begun = False
    ReleaseSRWLockExclusive(&conn.lock)


cdef void conn_filter_open(conn_t *conn) noexcept nogil:
    AcquireSRWLockExclusive(&conn.lock)
    conn.filter_opening = False
    ReleaseSRWLockExclusive(&conn.lock)


cdef void conn_filter_hold(conn_t *conn, bint holds) noexcept nogil:
    AcquireSRWLockExclusive(&conn.lock)
    conn.filter_holds = holds
    ReleaseSRWLockExclusive(&conn.lock)


cdef bint conn_may_filter(conn_t *conn) noexcept nogil:
    AcquireSRWLockExclusive(&conn.lock)
    cdef bint may = conn_in_callback(conn)
    ReleaseSRWLockExclusive(&conn.lock)
    return may


cdef bint conn_take_plain(conn_t *conn, queue_t *plain) noexcept nogil:
    AcquireSRWLockExclusive(&conn.lock)
    conn.filter_waits = False
    if not conn.filter_opening:
        queue_move(&conn.plain, plain)
    # Before the handshake is done a file has no way out either: it ends with the connection.
    cdef bint last = (conn.write_eof and not conn.filter_ended
                      and (conn.filter_opening or not conn_has_files(conn))
                      and (conn.state == STATE_OPEN or conn.state == STATE_FLUSHING))
    ReleaseSRWLockExclusive(&conn.lock)
    return last


cdef void conn_return_plain(conn_t *conn, queue_t *plain, queue_t *done) noexcept nogil:
    AcquireSRWLockExclusive(&conn.lock)
    if conn.sock == INVALID_SOCKET:
        # Ended by the filter's own failure, and its queues were dropped.
        queue_move(plain, done)
    else:
        # What was written meanwhile comes after it.
        queue_move(&conn.plain, plain)
        queue_move(plain, &conn.plain)
        # Its turn comes with what is received, and no sooner: to ask again meanwhile would be in
        # vain.
        conn.filter_waits = True
    ReleaseSRWLockExclusive(&conn.lock)


cdef buf_t *conn_free_plain(conn_t *conn, queue_t *plain) noexcept nogil:
    cdef buf_t *owned = NULL
    cdef buf_t *buf = queue_pop(plain)
    while buf != NULL:
        if buf.owner != NULL:
            buf.next = owned
            owned = buf
        else:
            give_buffer(conn.engine, buf)
        buf = queue_pop(plain)
    return owned


cdef int conn_put_filtered(conn_t *conn, const char *data, size_t nbytes, void *owner,
                           size_t plain_bytes, int writes) noexcept nogil:
    cdef int result = 0
    AcquireSRWLockExclusive(&conn.lock)
    conn.outbox.nbytes -= min(plain_bytes, conn.outbox.nbytes)
    conn.outbox.writes -= min(writes, conn.outbox.writes)
    if plain_bytes == 0:
        # A peer may ask for answers of the filter's own, as new keys, and never read them.
        conn.filter_own = nbytes if conn.outbox.head == NULL else conn.filter_own + nbytes
        if conn.filter_own > MOST_OWN_BYTES:
            conn_fail(conn, ABORT_WRITE_LIMIT, WSAENOBUFS, True)
    if nbytes > 0 and (conn.state == STATE_OPEN or conn.state == STATE_FLUSHING):
        if conn.outbox.head == NULL:
            conn.filtered_bytes = 0     # left before anybody wanted to be told of it (SENT_TOLD)
        result = conn_gather(conn, &conn.outbox, data, nbytes, owner)
        if not result & WRITE_NO_MEMORY:
            conn.outbox.tail.writes += writes
            conn.outbox.writes += writes
            conn.filtered_bytes += plain_bytes
    conn_mark(NULL, conn)
    ReleaseSRWLockExclusive(&conn.lock)
    return result


cdef void conn_filter_end(conn_t *conn) noexcept nogil:
    AcquireSRWLockExclusive(&conn.lock)
    conn.filter_ended = True
    conn.outbox.nbytes -= min(conn.plain.nbytes, conn.outbox.nbytes)
    conn.outbox.writes -= min(conn.plain.writes, conn.outbox.writes)
    conn_drop_queue(conn, &conn.plain)
    if conn.deaf:
        conn_drop_queue(conn, &conn.inbox)
    conn_drop_files(conn)
    ReleaseSRWLockExclusive(&conn.lock)
