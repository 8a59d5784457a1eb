"""What a connection has to do, computed from its state and never kept in messages.

Inline, since each message asks several times; nothing in here changes anything.
Precondition of all: conn.lock held.

Called by `_sched`, `_life`, `_recv`, `_send`, `_conn`, `_requests`, `_filter`, `_sendfile`,
`_delivery` and `_native`; calls nothing.
"""

from iocpx._state cimport (
    queue_t, STATE_CONNECTING, STATE_DRAINING, STATE_FLUSHING, STATE_OPEN,
)
from iocpx._types cimport conn_t, DUE_FILES, DUE_MADE


cdef inline bint conn_flushes_filter(conn_t *conn) noexcept nogil:
    """It is closed, and its filter is not done with what was written: that one is given what comes
    until it is, as it may have to receive before anything leaves.  The handler is told nothing."""
    return conn.filter_flushes and not conn.filter_ended and conn.state == STATE_FLUSHING


cdef inline bint conn_readable(conn_t *conn) noexcept nogil:
    if conn.inbox.head != NULL:
        return (not conn.deaf and (not conn.read_paused or conn.filter_opening)
                or conn_flushes_filter(conn))
    return conn.filter_holds and not conn.deaf and not conn.read_paused


cdef inline bint conn_has_files(conn_t *conn) noexcept nogil:
    """Is a file to be sent, or something that was written after one?"""
    return conn.files != NULL and (conn.files.front != NULL or conn.files.later.head != NULL)


cdef inline size_t conn_bytes_in_memory(conn_t *conn) noexcept nogil:
    """Of what is to be sent, what no file holds."""
    return conn.outbox.nbytes - (conn.files.nbytes if conn.files != NULL else 0)


cdef inline queue_t *conn_write_queue(conn_t *conn) noexcept nogil:
    """Where what is written now has its place."""
    if conn_has_files(conn):
        return &conn.files.later
    return &conn.plain if conn.filtered else &conn.outbox


cdef inline bint conn_filter_due(conn_t *conn) noexcept nogil:
    """Has its filter, which there is, something to do with what is written, or with the end of
    that?"""
    return (conn.state == STATE_OPEN or conn.state == STATE_FLUSHING) and (
        conn.filter_begun or not conn.filter_waits and (
            conn.plain.head != NULL and not conn.filter_opening
            or conn.write_eof and not conn.filter_ended
            and (conn.filter_opening or not conn_has_files(conn))))


cdef inline bint conn_eof_due(conn_t *conn) noexcept nogil:
    return (conn.eof_seen and not conn.eof_told and conn.inbox.head == NULL
            and not conn.filter_holds and conn.state == STATE_OPEN
            and (not conn.read_paused or conn.filter_opening))


cdef inline bint conn_has_stream_news(conn_t *conn) noexcept nogil:
    return conn.spent.head != NULL or conn_readable(conn) or conn.sent_untold > 0


cdef inline bint conn_news_before_lost(conn_t *conn) noexcept nogil:
    return conn_has_stream_news(conn) or conn.due & DUE_FILES


cdef inline bint conn_has_news(conn_t *conn) noexcept nogil:
    """Is there anything to tell the handler?"""
    if conn.lost_told:
        return conn.spent.head != NULL or conn.traces.head != NULL
    return (conn.due != 0 or conn_has_stream_news(conn) or conn_eof_due(conn)
            or conn.traces.head != NULL or (conn.filtered and conn_filter_due(conn))
            or ((conn.marks.above or conn.passed) != conn.pause_told
                and (conn.service.config.handler.deliver == NULL
                     or conn.service.config.handler.marks)))


cdef inline bint conn_wants_recv(conn_t *conn) noexcept nogil:
    """Precondition: conn.lock held."""
    if conn.eof_seen:
        return False
    if conn.state == STATE_OPEN:
        # Not while the handler is behind: what it was given waits, or its replies leave more
        # slowly than requests come.  But a filter may have to receive before anything leaves, and
        # if neither of two ends that both write received, they would wait for ever: who has called
        # the other receives.
        if conn.due & DUE_MADE or conn.inbox.head != NULL or (
                conn.marks.above and not conn.service.config.like_asyncio and not conn.outgoing
                and not conn.filter_opening and not conn.filter_waits):
            return False
        # Where it has paused one stays posted, or it would not learn that the peer is gone.
        return conn.window.n < (1 if conn.idle or conn.read_paused else conn.window.size)
    # Closing: read on and discard.  Unread input would turn our FIN into a reset
    # that can destroy what the peer has not read yet, and a peer that is stuck in
    # its own send would never read.  What is for the filter waits for that first.
    return (conn.window.n == 0 and conn.inbox.head == NULL
            and (conn.state == STATE_FLUSHING or conn.state == STATE_DRAINING))


cdef inline bint conn_may_send(conn_t *conn) noexcept nogil:
    """Precondition: conn.lock held."""
    return (not conn.sending and conn.outbox.head != NULL
            and (conn.state == STATE_OPEN or conn.state == STATE_FLUSHING))


cdef inline bint conn_limit_counts(conn_t *conn) noexcept nogil:
    """Does what is queued now count against max_write_buffer?  Only what is written after a turn
    in which pause_writing was told does; where the high mark is no lower than the limit,
    everything."""
    return conn.limit_told or conn.marks.high >= conn.service.config.max_write_buffer


cdef inline bint conn_may_connect(conn_t *conn) noexcept nogil:
    return conn.state == STATE_CONNECTING and not conn.sending


cdef inline bint conn_has_work(conn_t *conn) noexcept nogil:
    """Is there an operation that only the executor posts?"""
    return conn_wants_recv(conn) or conn_may_send(conn) or conn_may_connect(conn)
