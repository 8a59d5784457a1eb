"""What the application asks of a connection, from any thread, and passes over all connections.

Called by the rooms above for whoever has the connection, and by `_filter`, `_sendfile`, `_sendto`,
`_service`, `_keeper`, `_native` and `_c_handler`; calls `_conn`, `_send`, `_datagrams`, `_life`,
`_sched`, `_wants` and `_base`.
"""

from libc.stdint cimport uint64_t
from libc.string cimport memcpy, memset

from iocpx._base cimport (
    conn_arm, conn_drop_queue, conn_on_executor, conn_ref, count, keeper_wants, now_ms,
    take_buffer, trace,
)
from iocpx._conn cimport conn_advance, conn_close_due, conn_mark
from iocpx._datagrams cimport datagrams_close
from iocpx._life cimport conn_fail
from iocpx._sched cimport conn_leave, conn_unref
from iocpx._send cimport send_post
from iocpx._state cimport (
    buf_t, buf_wrap, conn_next_state, EVENT_CLOSE, link_t, list_append, list_remove,
    queue_extend, queue_move, queue_push, queue_t, STATE_CONNECTING, STATE_FLUSHING, STATE_OPEN,
    timer_arm, timer_disarm,
)
from iocpx._types cimport *
from iocpx._wants cimport (
    conn_flushes_filter, conn_limit_counts, conn_may_send, conn_write_queue,
)
from iocpx._winsock cimport *

cdef enum:
    GATHER_BYTES = 65536    # the largest buffer that small writes are gathered in
    PATIENCE = 4            # high marks that a callback may write before they are sent


cdef void conn_request_done(worker_t *worker, conn_t *conn) noexcept nogil:
    """Releases conn.lock and sees to it that a changed state has its effect."""
    if conn_on_executor(conn):
        ReleaseSRWLockExclusive(&conn.lock)
    else:
        conn_advance(worker, conn, False)


cdef bint conn_in_callback(conn_t *conn) noexcept nogil:
    """Is this thread in one of the connection's callbacks?  Precondition: conn.lock held."""
    return conn.delivering and conn_on_executor(conn)


cdef bint conn_flushes_on(conn_t *conn) noexcept nogil:
    """Closing, does it take more?  asyncio's transports do as long as they have something to send:
    what a TLS layer holds back while it is paused comes after its close().
    Precondition: conn.lock held."""
    return (conn.service.config.like_asyncio and conn.state == STATE_FLUSHING and not conn.shut
            and not conn.filtered)


cdef int conn_may_write(conn_t *conn, size_t nbytes) noexcept nogil:
    """0, or what speaks against one more write.  Precondition: conn.lock held."""
    cdef service_config_t *config = &conn.service.config
    cdef bint over = False
    if (conn.state != STATE_OPEN or conn.write_eof) and not conn_flushes_on(conn):
        return WRITE_CLOSED
    # An empty queue takes a write of any size: its memory is the caller's already.  What a
    # callback writes counts from the end of its turn: until then nobody has tried to send it.
    if config.max_sends != 0:
        over = conn.outbox.writes - conn.turn_writes >= config.max_sends
    if config.max_write_buffer != 0:
        if conn_in_callback(conn):
            over = over or conn.over_bytes > config.max_write_buffer
        elif conn_limit_counts(conn):
            over = over or conn.over_bytes + nbytes > config.max_write_buffer
    if over and conn.outbox.writes != 0:
        conn_fail(conn, ABORT_WRITE_LIMIT, WSAENOBUFS, True)
        return WRITE_CLOSED | WRITE_FLUSH
    return 0


cdef int conn_written(worker_t *worker, conn_t *conn, size_t nbytes) noexcept nogil:
    """Count a write that was queued.  What has to follow it: write_result's.
    Precondition: conn.lock held."""
    cdef int result = WRITE_SPENT if conn.spent.head != NULL else 0
    if conn_in_callback(conn):
        conn.turn_bytes += nbytes
        conn.turn_writes += 1
    elif conn_limit_counts(conn):
        conn.over_bytes += nbytes
    if worker != NULL:
        # Its next step sends, but above the mark pause_writing() is called by the write itself.
        return result | (WRITE_FLUSH if conn.outbox.nbytes > conn.marks.high else 0)
    # The executor sends when the callback is over, unless it writes so much that it has to
    # learn whether the peer takes it.
    if not conn_on_executor(conn) or (
            conn.outbox.nbytes > conn.marks.high and conn.outbox.nbytes >= conn_patience(conn)):
        return result | WRITE_FLUSH
    return result


cdef size_t conn_patience(conn_t *conn) noexcept nogil:
    """Bytes that a callback may write before they are sent, if they are above the high mark: as
    many as one send takes, so that it is worth its call, but not many times the mark.
    Precondition: conn.lock held."""
    if conn.sending:
        return 0    # what has to wait already need not become more
    return min(PATIENCE * min(conn.marks.high, <size_t>SEND_BYTES), <size_t>SEND_BYTES)


cdef int conn_gather(conn_t *conn, queue_t *parts, const char *data, size_t nbytes,
                     void *owner) noexcept nogil:
    cdef buf_t *buf
    cdef size_t room = 0
    if owner != NULL and nbytes > COPY_BYTES:
        buf = buf_wrap(owner, <char *>data, nbytes)
        if buf == NULL:
            return WRITE_NO_MEMORY
        queue_push(parts, buf)
        return WRITE_KEPT
    if not queue_extend(parts, data, nbytes):
        # Where one buffer is full of small writes already, the next one holds more of them.
        buf = parts.tail
        if buf != NULL and buf.base != NULL:
            room = min(8 * buf.capacity, <size_t>GATHER_BYTES)
        buf = take_buffer(conn.engine, max(nbytes, room))
        if buf == NULL:
            return WRITE_NO_MEMORY
        memcpy(buf.data, data, nbytes)
        buf.size = nbytes
        queue_push(parts, buf)
    return 0


cdef int conn_write(worker_t *worker, conn_t *conn, const char *data, size_t nbytes,
                    void *owner) noexcept nogil:
    cdef int result
    cdef queue_t *queue
    AcquireSRWLockExclusive(&conn.lock)
    result = conn_may_write(conn, nbytes)
    if result == 0:
        queue = conn_write_queue(conn)
        result = conn_gather(conn, queue, data, nbytes, owner)
        if not result & WRITE_NO_MEMORY:
            queue.tail.writes += 1
            queue.writes += 1
            if queue != &conn.outbox:
                conn.outbox.nbytes += nbytes
                conn.outbox.writes += 1
            result |= conn_written(worker, conn, nbytes)
    if worker != NULL:
        conn_leave(worker, conn)
    else:
        ReleaseSRWLockExclusive(&conn.lock)
    return result


cdef int conn_write_parts(worker_t *worker, conn_t *conn, queue_t *parts) noexcept nogil:
    cdef int result
    cdef queue_t *queue
    cdef size_t nbytes = parts.nbytes
    AcquireSRWLockExclusive(&conn.lock)
    result = conn_may_write(conn, nbytes)
    if result == 0:
        parts.tail.writes += 1
        parts.writes += 1
        queue = conn_write_queue(conn)
        if queue != &conn.outbox:
            conn.outbox.nbytes += nbytes
            conn.outbox.writes += 1
        queue_move(parts, queue)
        result = conn_written(worker, conn, nbytes)
    else:
        conn_drop_queue(conn, parts)
    conn_leave(worker, conn)
    return result


cdef bint conn_flush(worker_t *worker, conn_t *conn) noexcept nogil:
    cdef bint pause = False
    AcquireSRWLockExclusive(&conn.lock)
    # As much as the kernel takes at once: asyncio's loop gives it all in one call, and what is
    # paused in spite of that has to be able to wait.  A file has its turns for that.
    while (worker != NULL and conn.outbox.nbytes > conn.marks.high and conn_may_send(conn)
            and conn.send_bytes != A_FILE_IS_NEXT):
        if not send_post(worker, conn, True):
            break
    conn_advance(worker, conn, False)
    AcquireSRWLockExclusive(&conn.lock)
    # Elsewhere the pause comes as news, in its turn: but for a loop, whose one thread this is.
    if (worker != NULL or conn_in_callback(conn)) and conn.marks.above and not conn.pause_told:
        # On a loop nobody has seen it above the mark when the kernel has taken the rest at once.
        pause = worker == NULL or conn.outbox.nbytes > conn.marks.high
        conn.marks.above = pause
        conn.pause_told = pause
        conn.passed = False
    ReleaseSRWLockExclusive(&conn.lock)
    return pause


cdef void conn_write_eof(worker_t *worker, conn_t *conn) noexcept nogil:
    AcquireSRWLockExclusive(&conn.lock)
    conn.write_eof = True
    conn_request_done(worker, conn)


cdef void conn_close(worker_t *worker, conn_t *conn) noexcept nogil:
    AcquireSRWLockExclusive(&conn.lock)
    if conn.state == STATE_OPEN:
        conn.state = conn_next_state(conn.state, EVENT_CLOSE)
        conn.write_eof = True
        if conn.service.config.datagrams:
            datagrams_close(conn)
        else:
            conn.deaf = True
            # Decided here: one that opens later would miss what is dropped now.
            conn.filter_flushes = conn.filtered and not conn.filter_opening
            if conn.filter_holds:
                # What the filter waits for may be in what it holds, which is read from now on.
                conn.filter_waits = False
            if not conn_flushes_filter(conn):
                conn_drop_queue(conn, &conn.inbox)
        conn.progress_ms = now_ms()
        trace(conn, "close, bytes queued", <LONG64>conn.outbox.nbytes)
        conn_arm(conn, &conn.service.closing, &conn.closing)
    elif conn.state == STATE_CONNECTING:
        conn_fail(conn, ABORT_STOP if service_is_stopping(conn.service) else ABORT_APPLICATION, 0,
                  False)
    if worker != NULL and conn.service.config.datagrams and conn.outbox.head != NULL:
        conn_leave(worker, conn)    # the loop's next step sends it, unless abort() comes before
    else:
        conn_request_done(worker, conn)


cdef bint service_is_stopping(service_t *service) noexcept nogil:
    AcquireSRWLockExclusive(&service.engine.lock)
    cdef bint stopping = service.stopping
    ReleaseSRWLockExclusive(&service.engine.lock)
    return stopping


cdef void conn_abort(worker_t *worker, conn_t *conn, abort_reason reason) noexcept nogil:
    AcquireSRWLockExclusive(&conn.lock)
    conn.deaf = True
    conn_drop_queue(conn, &conn.inbox)
    conn_fail(conn, reason, 0, False)
    conn_request_done(worker, conn)


cdef bint conn_is_closing(conn_t *conn) noexcept nogil:
    AcquireSRWLockExclusive(&conn.lock)
    cdef bint closing = conn.state != STATE_OPEN
    ReleaseSRWLockExclusive(&conn.lock)
    return closing


cdef void conn_pause_reading(worker_t *worker, conn_t *conn, bint paused) noexcept nogil:
    # A receive that is pending stays so: cancelling it could lose what it carries.
    AcquireSRWLockExclusive(&conn.lock)
    # What is left to tell of an endpoint that closes is which datagrams could not be sent.
    if conn.service.config.datagrams and conn.state != STATE_OPEN:
        paused = False
    if paused and not conn.read_paused:
        count(conn.service, NULL, N_READ_PAUSES, 1)
    conn.read_paused = paused
    conn_leave(worker, conn)


cdef bint conn_is_reading(conn_t *conn) noexcept nogil:
    AcquireSRWLockExclusive(&conn.lock)
    cdef bint reading = conn.state == STATE_OPEN and not conn.read_paused and not conn.eof_told
    ReleaseSRWLockExclusive(&conn.lock)
    return reading


cdef void conn_tell_sent(conn_t *conn, bint tell) noexcept nogil:
    AcquireSRWLockExclusive(&conn.lock)
    if tell:
        conn.after_send |= SENT_TOLD
    else:
        conn.after_send &= ~<int>SENT_TOLD
        conn.sent_untold = 0
    ReleaseSRWLockExclusive(&conn.lock)


cdef SOCKET conn_borrow_handle(conn_t *conn) noexcept nogil:
    cdef SOCKET sock
    AcquireSRWLockExclusive(&conn.lock)
    sock = conn.sock
    # An accepted socket inherits the listener's WSAEventSelect, and as long as that holds
    # Windows refuses to make it blocking (WSAEINVAL), which socket.dup() does.
    if sock != INVALID_SOCKET and WSAEventSelect(sock, NULL, 0) == SOCKET_ERROR:
        sock = INVALID_SOCKET
    if sock != INVALID_SOCKET:
        conn.pending += 1   # like an op: the handle stays open
        conn.duplicated = True
    ReleaseSRWLockExclusive(&conn.lock)
    return sock


cdef SOCKET conn_lend_handle(conn_t *conn) noexcept nogil:
    AcquireSRWLockExclusive(&conn.lock)
    cdef SOCKET sock = conn.sock
    if sock != INVALID_SOCKET:
        conn.pending += 1
    ReleaseSRWLockExclusive(&conn.lock)
    return sock


cdef void conn_return_handle(worker_t *worker, conn_t *conn) noexcept nogil:
    AcquireSRWLockExclusive(&conn.lock)
    conn.pending -= 1
    conn_request_done(worker, conn)


cdef void conn_set_marks(worker_t *worker, conn_t *conn, size_t high_bytes,
                         size_t low_bytes) noexcept nogil:
    AcquireSRWLockExclusive(&conn.lock)
    conn.marks.high = high_bytes
    conn.marks.low = low_bytes
    conn_mark(worker, conn)
    conn_leave(worker, conn)


cdef void conn_get_marks(conn_t *conn, size_t *high_bytes, size_t *low_bytes) noexcept nogil:
    AcquireSRWLockExclusive(&conn.lock)
    high_bytes[0] = conn.marks.high
    low_bytes[0] = conn.marks.low
    ReleaseSRWLockExclusive(&conn.lock)


cdef wait_result conn_wait_writable(conn_t *conn, DWORD timeout_ms) noexcept nogil:
    cdef service_config_t *config = &conn.service.config
    cdef wait_result result = WAIT_AGAIN
    AcquireSRWLockExclusive(&conn.lock)
    for _ in range(2):
        if conn.state != STATE_OPEN or conn.write_eof:
            result = WAIT_CLOSED
        elif not conn.marks.above and (
                config.max_sends == 0 or conn.outbox.writes < config.max_sends) and (
                # Where the limit comes before the mark only an empty queue is sure to take more.
                conn.outbox.writes == 0 or config.max_write_buffer == 0
                or conn.marks.high < config.max_write_buffer):
            result = WAIT_WRITABLE
        if result != WAIT_AGAIN or timeout_ms == 0:
            break
        conn.waiters += 1
        SleepConditionVariableSRW(&conn.writable, &conn.lock, timeout_ms, 0)
        conn.waiters -= 1
        timeout_ms = 0
    ReleaseSRWLockExclusive(&conn.lock)
    return result


cdef buf_t *conn_take_spent(conn_t *conn) noexcept nogil:
    AcquireSRWLockExclusive(&conn.lock)
    cdef buf_t *spent = conn.spent.head
    memset(&conn.spent, 0, sizeof(queue_t))
    ReleaseSRWLockExclusive(&conn.lock)
    return spent


cdef void conn_wake_at(conn_t *conn, uint64_t due_ms) noexcept nogil:
    cdef engine_t *engine = conn.engine
    AcquireSRWLockExclusive(&conn.lock)
    if conn.lost_told or conn.sock == INVALID_SOCKET:
        pass        # nobody hears of it, and nothing would disarm the timer
    elif due_ms == 0:
        conn.due |= DUE_TIMERS
    elif conn.timer.due == 0 or due_ms < conn.timer.due:
        AcquireSRWLockExclusive(&engine.lock)
        timer_disarm(&engine.timers, &conn.timer)
        timer_arm(&engine.timers, &conn.timer, due_ms)
        keeper_wants(engine, due_ms)
        ReleaseSRWLockExclusive(&engine.lock)
    conn_leave(NULL, conn)


cdef size_t conn_write_buffer_size(conn_t *conn) noexcept nogil:
    AcquireSRWLockExclusive(&conn.lock)
    cdef size_t nbytes = conn.outbox.nbytes
    ReleaseSRWLockExclusive(&conn.lock)
    return nbytes


cdef void service_for_each(service_t *service, each_action action) noexcept nogil:
    """Do something to every connection that is there now.

    The list is turned once, one connection at a time, so that engine.lock is not
    held while a connection is worked on.  Connections that go or come meanwhile do
    no harm: new ones join at the end, behind all that were there.  pass_lock keeps
    two passes from turning it under each other.
    """
    cdef engine_t *engine = service.engine
    cdef link_t *link
    cdef conn_t *conn
    cdef LONG64 n
    AcquireSRWLockExclusive(&service.pass_lock)
    n = InterlockedExchangeAdd64(&service.connections_now, 0)
    while n > 0:
        n -= 1
        AcquireSRWLockExclusive(&engine.lock)
        link = service.connections.next
        if link == &service.connections:
            ReleaseSRWLockExclusive(&engine.lock)
            break
        list_remove(link)
        list_append(&service.connections, link)
        conn = <conn_t *>link.owner
        conn_ref(conn)
        ReleaseSRWLockExclusive(&engine.lock)
        if action == EACH_CLOSE:
            conn_close(NULL, conn)
        elif action == EACH_ABORT:
            conn_abort(NULL, conn, ABORT_APPLICATION)
        else:
            conn_close_due(conn, True)
        conn_unref(conn)
    ReleaseSRWLockExclusive(&service.pass_lock)


cdef void service_close_clients(service_t *service, bint abort) noexcept nogil:
    service_for_each(service, EACH_ABORT if abort else EACH_CLOSE)
