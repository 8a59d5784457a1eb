"""What a connection has to tell its handler: taken under its lock, piece by piece, in order.

Called by the handler (`_core`, `_native`) on the worker that has the connection; calls
`_recv`.
"""

from libc.string cimport memset

from iocpx._base cimport conn_disarm_timer, conn_drop_queue, conn_keep_buffer, recv_capacity
from iocpx._recv cimport recv_post
from iocpx._state cimport (
    buf_free, buf_t, buf_wrap, queue_pop, queue_push_front, queue_t, STATE_OPEN,
)
from iocpx._types cimport *
from iocpx._wants cimport conn_eof_due, conn_news_before_lost, conn_readable, conn_wants_recv
from iocpx._winsock cimport *


cdef void conn_take_news(conn_t *conn, news_t *news) noexcept nogil:
    memset(news, 0, sizeof(news_t))
    AcquireSRWLockExclusive(&conn.lock)
    if conn.pause_told and not conn.marks.above:
        # A handler that fills its queue whenever it may would otherwise never be read:
        # neither its peer's requests nor the end of the stream would come to it.
        if conn_wants_recv(conn):
            recv_post(NULL, conn)
    conn.executor = GetCurrentThreadId()
    conn.delivering = True
    news.spent = conn.spent.head
    memset(&conn.spent, 0, sizeof(queue_t))
    news.traces = conn.traces.head
    memset(&conn.traces, 0, sizeof(queue_t))
    if conn.due & DUE_MADE:
        conn.due &= ~<int>DUE_MADE
        # Over before it began: nobody hears of it.
        if conn.due & DUE_LOST:
            conn.lost_told = True
            conn.deaf = True
            conn_drop_queue(conn, &conn.inbox)
        else:
            news.made = True
    if not conn.lost_told:
        news.pause = conn.marks.above and not conn.pause_told
        news.resume = conn.pause_told and not conn.marks.above
        conn.pause_told = conn.marks.above
        news.sent = conn.sent_untold
        conn.sent_untold = 0
        if conn.due & DUE_TIMERS:
            conn.due &= ~<int>DUE_TIMERS
            news.timers = True
            # The handler looks at all of its timers and then asks for the first that is left:
            # it is not woken twice for one of them.
            conn_disarm_timer(conn)
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


cdef void conn_give_buffer(conn_t *conn, buf_t *buf) noexcept nogil:
    if buf.base == NULL:
        buf_free(buf)
        return
    AcquireSRWLockExclusive(&conn.lock)
    if buf.size > 0 and not conn.deaf:
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


cdef bint conn_take_lost(conn_t *conn, int *error, bint *error_sending) noexcept nogil:
    AcquireSRWLockExclusive(&conn.lock)
    cdef bint due = (conn.due & DUE_LOST and not conn.lost_told
                     and not conn_news_before_lost(conn))
    if due:
        conn.lost_told = True
        conn.deaf = True
        conn.due &= ~<int>DUE_TIMERS
        conn_disarm_timer(conn)
        conn_drop_queue(conn, &conn.inbox)
        error[0] = conn.error
        error_sending[0] = conn.error_sending
    ReleaseSRWLockExclusive(&conn.lock)
    return due
