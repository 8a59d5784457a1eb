"""What a connection has to tell its handler: taken under its lock, piece by piece, in order.

Called by the handlers, on the worker that has the connection (`_core`, `_datagram_server`,
`_transports`, `_datagram_transport`, `_native`, `_c_handler`), and by `_buffers`, `_tls_layer`,
`_messages`, `_datagram_layer`, `_connection` and `_transport`, which do a part of it; calls
`_life`, `_wants` and `_base`, and posts receives (`conn.post_recv`).
"""

from libc.string cimport memset

from iocpx._base cimport conn_disarm_timer, conn_drop_queue, conn_keep_buffer, recv_capacity
from iocpx._life cimport conn_cancel
from iocpx._state cimport (
    buf_free, buf_t, buf_wrap, conn_next_state, EVENT_DEADLINE, queue_pop, queue_push_front,
    queue_t, STATE_DRAINING, STATE_OPEN,
)
from iocpx._types cimport *
from iocpx._wants cimport (
    conn_eof_due, conn_flushes_filter, conn_limit_counts, conn_news_before_lost, conn_readable,
    conn_wants_recv,
)
from iocpx._winsock cimport *


cdef void conn_take_news(conn_t *conn, news_t *news) noexcept nogil:
    memset(news, 0, sizeof(news_t))
    AcquireSRWLockExclusive(&conn.lock)
    if conn.pause_told and not conn.marks.above:
        # A handler that fills its queue whenever it may would otherwise never be read:
        # neither its peer's requests nor the end of the stream would come to it.
        if conn_wants_recv(conn):
            conn.post_recv(NULL, conn)
    conn.executor = GetCurrentThreadId()
    conn.delivering = True
    conn.turn_told = conn_limit_counts(conn)
    news.spent = conn.spent.head
    memset(&conn.spent, 0, sizeof(queue_t))
    news.traces = conn.traces.head
    memset(&conn.traces, 0, sizeof(queue_t))
    conn.untraced = 0
    if conn.due & DUE_MADE:
        conn.due &= ~<int>DUE_MADE
        # Over before it began: nobody hears of it, but for who has made it.
        if conn.due & DUE_LOST and conn.user == NULL:
            conn_tell_lost(conn)
        else:
            news.made = True
    if not conn.lost_told:
        news.pause = (conn.marks.above or conn.passed) and not conn.pause_told
        news.resume = (conn.pause_told or news.pause) and not conn.marks.above
        conn.pause_told = conn.marks.above
        conn.passed = False
        if news.resume:
            conn.limit_told = False
            conn.over_bytes = 0
        news.sent = conn.sent_untold
        conn.sent_untold = 0
        if conn.due & DUE_TIMERS:
            conn.due &= ~<int>DUE_TIMERS
            news.timers = True
            # The handler looks at all of its timers and then asks for the first that is left:
            # it is not woken twice for one of them.
            conn_disarm_timer(conn)
        if conn.due & DUE_FILES:
            conn.due &= ~<int>DUE_FILES
            news.files = True
    ReleaseSRWLockExclusive(&conn.lock)


cdef buf_t *conn_take_data(conn_t *conn, size_t *wanted) noexcept nogil:
    cdef buf_t *buf = NULL
    wanted[0] = 0
    AcquireSRWLockExclusive(&conn.lock)
    if conn_readable(conn):
        buf = queue_pop(&conn.inbox)
    elif (conn.state == STATE_OPEN and conn.spare == NULL and not conn.idle
            and conn_wants_recv(conn)):
        wanted[0] = recv_capacity(conn)
    ReleaseSRWLockExclusive(&conn.lock)
    return buf


cdef bint conn_offer(conn_t *conn, void *owner, char *data, size_t nbytes) noexcept nogil:
    cdef buf_t *buf = buf_wrap(owner, data, nbytes)
    if buf == NULL:
        return False
    buf.base = data
    buf.capacity = nbytes
    AcquireSRWLockExclusive(&conn.lock)
    conn_keep_buffer(conn, buf)
    ReleaseSRWLockExclusive(&conn.lock)
    return True


cdef bint conn_is_reading_on(conn_t *conn) noexcept nogil:
    AcquireSRWLockExclusive(&conn.lock)
    cdef bint on = not conn.deaf and not conn.read_paused
    ReleaseSRWLockExclusive(&conn.lock)
    return on


cdef bint conn_discards(conn_t *conn) noexcept nogil:
    AcquireSRWLockExclusive(&conn.lock)
    cdef bint discards = conn.deaf and conn_flushes_filter(conn)
    ReleaseSRWLockExclusive(&conn.lock)
    return discards


cdef void conn_give_buffer(conn_t *conn, buf_t *buf) noexcept nogil:
    if buf.base == NULL:
        buf_free(buf)
        return
    AcquireSRWLockExclusive(&conn.lock)
    if buf.size > 0 and (not conn.deaf or conn_flushes_filter(conn)):
        queue_push_front(&conn.inbox, buf)
    else:
        conn_keep_buffer(conn, buf)
    ReleaseSRWLockExclusive(&conn.lock)


cdef bint conn_take_eof(conn_t *conn) noexcept nogil:
    AcquireSRWLockExclusive(&conn.lock)
    cdef bint due = conn_eof_due(conn)
    if due:
        conn.eof_told = True
    ReleaseSRWLockExclusive(&conn.lock)
    return due


cdef void conn_tell_lost(conn_t *conn) noexcept nogil:
    """From here on the handler knows of it no more.  Precondition: conn.lock held."""
    cdef service_t *service = conn.service
    cdef LONG64 draining
    conn.lost_told = True
    conn.deaf = True
    conn.due &= ~<int>DUE_TIMERS
    conn_disarm_timer(conn)
    conn_drop_queue(conn, &conn.inbox)
    if conn.sock == INVALID_SOCKET or conn.outgoing:
        return
    # What drains has no part in max_connections any more; as many again may.
    draining = InterlockedExchangeAdd64(&service.draining, 1) + 1
    if (conn.state == STATE_DRAINING and service.config.max_connections != 0
            and draining > service.config.max_connections):
        conn.state = conn_next_state(conn.state, EVENT_DEADLINE)
        conn_cancel(conn)


cdef bint conn_take_lost(conn_t *conn, lost_t *lost) noexcept nogil:
    AcquireSRWLockExclusive(&conn.lock)
    cdef bint due = (conn.due & DUE_LOST and not conn.lost_told
                     and not conn_news_before_lost(conn))
    if due:
        lost.error = conn.error
        lost.sending = conn.error_sending
        lost.reason = conn.reason
        lost.unsent_bytes = conn.unsent_bytes
        lost.unsent_writes = conn.unsent_writes
        conn_tell_lost(conn)
    ReleaseSRWLockExclusive(&conn.lock)
    return due
