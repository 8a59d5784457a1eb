"""A connection's turn: whatever its state asks for now (conn_advance), the end of a turn
(conn_served), and what the completion of a receive or a send leads to.

Called by the workers, the keeper, by `_requests` for the threads of the application, by `_filter`
and `_sendfile` (conn_mark), and by `_open`, which gives the ops what completes them; calls
`_connect`, `_recv`, `_send`, `_files`, `_datagrams`, `_life`, `_sched`, `_wants` and `_base`.
"""

from libc.stdint cimport uint64_t

from iocpx._base cimport conn_arm, conn_on_executor, count, now_ms, op_error, packet_came
from iocpx._connect cimport connect_done, connect_post
from iocpx._datagrams cimport datagram_recv_done, datagram_send_done
from iocpx._files cimport file_done
from iocpx._life cimport conn_cancel, conn_close_handle, conn_fail, conn_shut
from iocpx._op cimport op_t
from iocpx._recv cimport recv_done
from iocpx._sched cimport conn_leave, conn_to_worker, conn_unref, ready_append
from iocpx._send cimport send_defer, send_done, send_fit, send_post
from iocpx._state cimport (
    conn_next_state, EVENT_DEADLINE, marks_update, STATE_ABORTING, STATE_DRAINING, STATE_ENDING,
    STATE_FLUSHING, STATE_OPEN,
)
from iocpx._types cimport *
from iocpx._wants cimport (
    conn_bytes_in_memory, conn_has_news, conn_has_work, conn_may_connect, conn_may_send,
    conn_wants_recv,
)
from iocpx._winsock cimport *

cdef enum:
    # Inline completions of one connection in a turn: its reply, and the next message if
    # that is there already.  Twice as many gave no more
    # throughput and half as much again of p99; without a bound the busiest connection
    # gets nearly everything.
    INLINE_BUDGET = 2
    LONG_SEND_TIMES = 4     # close_timeout_ms, for a long send that was under way
    DRAIN_TIMES = 12        # … for a peer that goes on sending after our end


cdef void conn_mark(worker_t *worker, conn_t *conn) noexcept nogil:
    """The marks follow the outbox.  Precondition: conn.lock held."""
    cdef bint above = conn.marks.above
    marks_update(&conn.marks, conn.outbox.nbytes)
    if conn.marks.above and not above:
        count(conn.service, worker, N_WRITE_PAUSES, 1)
        # Told also where the queue drains before: whoever has seen it above the mark may be
        # waiting for resume_writing.
        conn.passed = not conn.pause_told
    elif above and not conn.marks.above:
        # A thread may go on at once (conn_wait_writable), though resume_writing is told later.
        conn.limit_told = False
        conn.over_bytes = 0


cdef void conn_advance(worker_t *worker, conn_t *conn, bint serving) noexcept nogil:
    """Do whatever the state asks for now: send, end sending, receive, close.

    Every completion and every request of the application ends here.
    Precondition: the caller has a reference, and conn.lock, which is released.
    """
    # A turn's share, the callbacks in it included: one that writes as long as it is not
    # paused has to be paused some time.  What others post is not part of it.
    cdef bint turn = serving or conn_on_executor(conn)
    cdef bint own = turn or worker != NULL      # the thread is the engine's
    cdef int sends = conn.inline_run if turn else 0
    cdef bint first = True
    cdef bint closed = False
    while sends < INLINE_BUDGET and conn_may_send(conn) and send_post(worker, conn, own):
        if turn:
            conn.inline_run += 1
        sends += 1
    if not turn and conn.scheduled and conn_may_send(conn):
        send_defer(conn)
    if conn.marks.above or conn.outbox.nbytes > conn.marks.high:
        conn_mark(worker, conn)
    if conn.write_eof:
        conn_shut(conn)
    # Bounded also where what comes is discarded at once: a peer that keeps sending
    # must not keep its worker, or the keeper.  At least one in each turn, however much
    # was sent in it: a connection that is sent to all the time has to be read, too.
    while serving and (first or conn.inline_run < INLINE_BUDGET) and conn_wants_recv(conn):
        conn.post_recv(worker, conn)
        first = False
    if serving and conn_may_connect(conn):
        connect_post(worker, conn)
        conn_connected(conn)
    if conn.pending == 0 and (conn.state == STATE_ENDING or conn.state == STATE_ABORTING):
        conn_close_handle(conn)
        closed = True
    conn_leave(worker, conn)
    if closed:
        conn_unref(conn)    # of the open handle


cdef void conn_connected(conn_t *conn) noexcept nogil:
    """From here on the send op is a send's.  Precondition: conn.lock held."""
    if conn.state == STATE_OPEN:
        conn.send.done = on_send_complete


cdef void conn_send_turn(worker_t *worker, conn_t *conn) noexcept nogil:
    """Send what the turn has written."""
    AcquireSRWLockExclusive(&conn.lock)
    conn.executor = 0
    while conn.inline_run < INLINE_BUDGET and conn_may_send(conn) and (
            send_post(worker, conn, True)):
        conn.inline_run += 1
    ReleaseSRWLockExclusive(&conn.lock)


cdef void conn_served(worker_t *worker, conn_t *conn) noexcept nogil:
    """The executor's last step: post what delivery asked for, then give the turn up,
    or keep it if there is more."""
    cdef bint had_share
    AcquireSRWLockExclusive(&conn.lock)
    # Until here the thread that delivered last left it to this turn to send what it wrote;
    # from now on whoever writes sends.
    conn.executor = 0
    conn_advance(worker, conn, True)
    AcquireSRWLockExclusive(&conn.lock)
    conn.limit_told = conn.pause_told and conn.marks.above
    if conn.turn_writes != 0:
        # From here on what the turn has written counts, unless it was what passed the mark.
        if conn.turn_told:
            conn.over_bytes = min(conn.over_bytes + conn.turn_bytes,
                                  conn_bytes_in_memory(conn))
        conn.turn_bytes = 0
        conn.turn_writes = 0
    conn.deliver = conn_has_news(conn)
    if not conn.deliver and not conn_has_work(conn):
        conn.scheduled = False
        ReleaseSRWLockExclusive(&conn.lock)
        conn_unref(conn)
        return
    # Woken at once, again and again, by its own callbacks: the others come in between.  So is an
    # endpoint whose callback sends what cannot be sent, each time that it is told of that.
    had_share = (conn.inline_run >= INLINE_BUDGET or conn.due & DUE_TIMERS
                 or conn.service.config.datagrams and conn.inbox.head != NULL)
    if had_share:
        conn.inline_run = 0
    ReleaseSRWLockExclusive(&conn.lock)
    if had_share and worker != NULL:
        ready_append(&worker.again, conn)
    else:
        conn_to_worker(worker, conn)


cdef void conn_send_all(worker_t *worker, conn_t *conn) noexcept nogil:
    AcquireSRWLockExclusive(&conn.lock)
    while conn_may_send(conn) and send_post(worker, conn, True):
        pass
    conn_advance(worker, conn, False)


cdef void on_recv_complete(void *by, op_t *op, DWORD nbytes) noexcept nogil:
    cdef worker_t *worker = <worker_t *>by
    cdef recv_t *recv = <recv_t *>op
    cdef conn_t *conn = <conn_t *>op.owner
    # The handle is open: it is closed only when nothing is pending.
    cdef int error = op_error(op, conn.sock)
    packet_came(conn.engine)
    AcquireSRWLockExclusive(&conn.lock)
    recv_done(worker, conn, recv, error, nbytes)
    conn_advance(worker, conn, False)
    conn_unref(conn)


cdef void on_send_complete(void *by, op_t *op, DWORD nbytes) noexcept nogil:
    cdef worker_t *worker = <worker_t *>by
    cdef conn_t *conn = <conn_t *>op.owner
    cdef int error = op_error(op, conn.sock)
    packet_came(conn.engine)
    AcquireSRWLockExclusive(&conn.lock)
    send_fit(conn, nbytes)
    if conn.send_bytes == A_FILE_IS_NEXT:
        file_done(worker, conn, error, nbytes)
    else:
        send_done(worker, conn, error, nbytes)
    conn_advance(worker, conn, False)
    conn_unref(conn)


cdef void on_connect_complete(void *by, op_t *op, DWORD nbytes) noexcept nogil:
    cdef worker_t *worker = <worker_t *>by
    cdef conn_t *conn = <conn_t *>op.owner
    cdef int error = op_error(op, conn.sock)
    packet_came(conn.engine)
    AcquireSRWLockExclusive(&conn.lock)
    connect_done(conn, error)
    conn_connected(conn)
    conn_advance(worker, conn, False)
    conn_unref(conn)


cdef void on_datagram_received(void *by, op_t *op, DWORD nbytes) noexcept nogil:
    cdef worker_t *worker = <worker_t *>by
    cdef conn_t *conn = <conn_t *>op.owner
    cdef int error = op_error(op, conn.sock)
    packet_came(conn.engine)
    AcquireSRWLockExclusive(&conn.lock)
    datagram_recv_done(worker, conn, <recv_t *>op, error, nbytes)
    conn_advance(worker, conn, False)
    conn_unref(conn)


cdef void on_datagram_sent(void *by, op_t *op, DWORD nbytes) noexcept nogil:
    cdef worker_t *worker = <worker_t *>by
    cdef conn_t *conn = <conn_t *>op.owner
    cdef int error = op_error(op, conn.sock)
    packet_came(conn.engine)
    AcquireSRWLockExclusive(&conn.lock)
    datagram_send_done(worker, conn, error, nbytes)
    conn_advance(worker, conn, False)
    conn_unref(conn)


cdef void on_serve(void *worker, op_t *op, DWORD nbytes) noexcept nogil:
    cdef conn_t *conn = <conn_t *>op.owner
    packet_came(conn.engine)
    conn_to_worker(<worker_t *>worker, conn)


cdef void conn_close_due(conn_t *conn, bint stop) noexcept nogil:
    """A closing connection has had its time.  It gets more while the peer shows life,
    unless the server's own time is over (stop)."""
    cdef service_t *service = conn.service
    cdef uint64_t patience_ms = service.config.close_timeout_ms
    cdef uint64_t now = now_ms()
    AcquireSRWLockExclusive(&conn.lock)
    if conn.state == STATE_FLUSHING:
        if conn.sending and conn.send_lent > SLOW_SEND_BYTES:
            # A slow peer needs longer for so much, and only the whole of it shows.
            patience_ms *= LONG_SEND_TIMES
        if not stop and now < conn.progress_ms + patience_ms:
            conn_arm(conn, &service.closing, &conn.closing)
        else:
            conn_fail(conn, ABORT_STOP if stop else ABORT_CLOSE_TIMEOUT, WSAETIMEDOUT, True)
    elif conn.state == STATE_DRAINING and not stop and now < min(
            conn.progress_ms + patience_ms, conn.flushed_ms + DRAIN_TIMES * patience_ms):
        # It still sends: closing now would reset it, and what it has not read yet be lost.
        conn_arm(conn, &service.closing, &conn.closing)
    elif conn.state == STATE_DRAINING:
        # All was sent; the peer just does not end its side.
        conn.state = conn_next_state(conn.state, EVENT_DEADLINE)
        conn_cancel(conn)
    elif conn.state == STATE_OPEN and stop:
        conn_fail(conn, ABORT_STOP, 0, False)
    conn_advance(NULL, conn, False)
