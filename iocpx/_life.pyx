"""How a connection begins and ends: opening, cancelling, failing, SD_SEND, closing the handle.

CancelIoEx reaches only what has been posted.  A post that races with conn_fail is therefore
followed by a second look at the state (op_pended), under the lock that conn_fail holds.  A
handle is closed only when nothing is pending on it: its value is reused at once by Windows,
and a send still queued on it could reach another client.

Called by the operations (`_recv`, `_send`), by `_conn` and `_accept`; calls `_sched`.
"""

from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from iocpx._base cimport (
    conn_arm, conn_disarm_timer, conn_drop_queue, conn_drop_spare, conn_keep_buffer, count,
    engine_connections, KEY, linger_zero, now_ms, op_init, trace,
)
from iocpx._op cimport OP_RECV, OP_SEND, OP_SERVE
from iocpx._sched cimport conn_leave, conn_unref
from iocpx._state cimport (
    buf_t, conn_next_state, deadline_disarm, EVENT_ABORT, EVENT_EOF, EVENT_FLUSHED, EVENT_QUIET,
    list_append, list_remove, queue_push, STATE_ABORTING, STATE_DRAINING, STATE_ENDING,
    STATE_FLUSHING, STATE_OPEN,
)
from iocpx._types cimport *
from iocpx._winsock cimport *


cdef conn_t *conn_new(engine_t *engine) noexcept nogil:
    """A conn_t with its recv_t's, all zero; NULL: out of memory."""
    cdef size_t nbytes = sizeof(conn_t) + <size_t>engine.config.initial_reads * sizeof(recv_t)
    cdef conn_t *conn
    AcquireSRWLockExclusive(&engine.pool_lock)
    conn = engine.free_conns
    if conn != NULL:
        engine.free_conns = conn.next_ready
        engine.n_free_conns -= 1
        engine.conn_hits += 1
    else:
        engine.conn_misses += 1
    ReleaseSRWLockExclusive(&engine.pool_lock)
    if conn != NULL:
        memset(conn, 0, nbytes)
        return conn
    return <conn_t *>calloc(1, nbytes)


cdef int conn_open(engine_t *engine, worker_t *worker, SOCKET sock, const char *local,
                   const char *remote, buf_t *data) noexcept nogil:
    """Make a connection of a connected socket and schedule it."""
    cdef conn_t *conn
    cdef tcp_keepalive keepalive
    cdef DWORD nbytes = 0
    cdef BOOL on = True
    cdef bint running
    cdef bint room
    cdef int error
    cdef int i
    cdef LONG64 now
    conn = conn_new(engine)
    if conn == NULL:
        return WSAENOBUFS
    if CreateIoCompletionPort(<HANDLE>sock, engine.port, KEY, 0) == NULL:
        error = <int>GetLastError()
        free(conn)
        return error
    # These only tune the connection; without them it still works.
    setsockopt(sock, IPPROTO_TCP, TCP_NODELAY, <char *>&on, sizeof(on))
    if engine.config.keepalive_idle_ms != 0:
        keepalive.onoff = 1
        keepalive.keepalivetime = engine.config.keepalive_idle_ms
        keepalive.keepaliveinterval = engine.config.keepalive_interval_ms
        WSAIoctl(sock, SIO_KEEPALIVE_VALS, &keepalive, sizeof(keepalive), NULL, 0, &nbytes,
                 NULL, NULL)

    conn.engine = engine
    conn.sock = sock
    conn.refs = 2       # the open handle, and this function's
    conn.link.owner = conn
    conn.closing.link.owner = conn
    conn.quiet.link.owner = conn
    conn.idling.link.owner = conn
    conn.timer.owner = conn
    conn.due = DUE_MADE
    InitializeSRWLock(&conn.lock)
    conn.state = STATE_OPEN
    conn.reason = -1
    conn.send_bytes = SEND_BYTES
    conn.skips = SetFileCompletionNotificationModes(
        <HANDLE>sock, FILE_SKIP_COMPLETION_PORT_ON_SUCCESS | FILE_SKIP_SET_EVENT_ON_HANDLE)
    conn.marks.high = engine.config.high_water_bytes
    conn.marks.low = engine.config.low_water_bytes
    conn.window.size = engine.config.initial_reads
    conn.recvs = <recv_t *>(conn + 1)
    for i in range(conn.window.size):
        op_init(&conn.recvs[i].op, OP_RECV, conn)
    op_init(&conn.send, OP_SEND, conn)
    op_init(&conn.serve, OP_SERVE, conn)
    memcpy(conn.local, local, ADDRESS_BYTES)
    memcpy(conn.remote, remote, ADDRESS_BYTES)

    # From the list on others may reach it, to end it at once; its first data comes before that.
    AcquireSRWLockExclusive(&conn.lock)
    AcquireSRWLockExclusive(&engine.lock)
    # Under the lock that engine_stop takes: what is in the list by then it
    # closes, and nothing comes after.
    running = engine.phase == PHASE_RUNNING
    now = engine_connections(engine)
    room = engine.config.max_connections == 0 or (
        now - InterlockedExchangeAdd64(&engine.draining, 0) < engine.config.max_connections)
    if running and room:
        list_append(&engine.connections, &conn.link)
        InterlockedIncrement(&engine.live)
        InterlockedExchangeAdd64(&engine.connections_now, 1)
        engine.connections_peak = max(engine.connections_peak, now + 1)
        engine.last_number += 1
        conn.number = engine.last_number
    ReleaseSRWLockExclusive(&engine.lock)
    if not (running and room):
        ReleaseSRWLockExclusive(&conn.lock)
        free(conn)
        return WSAECONNREFUSED if running else ERROR_OPERATION_ABORTED
    count(engine, worker, N_CONNECTIONS_MADE, 1)

    trace(conn, "accepted", 0)
    if data != NULL and data.size > 0:
        trace(conn, "received", <LONG64>data.size)
        count(engine, worker, N_RECEIVES, 1)
        count(engine, worker, N_BYTES_RECEIVED, <LONG64>data.size)
        queue_push(&conn.inbox, data)
    else:
        # A client that says nothing at once finds out that it is idle later.
        if data != NULL:
            conn_keep_buffer(conn, data)
    if engine.config.idle_timeout_ms != 0:
        conn.active_ms = now_ms()
        conn_arm(conn, &engine.idling, &conn.idling)
    conn_arm(conn, &engine.quiet, &conn.quiet)
    conn_leave(worker, conn)
    conn_unref(conn)
    return 0


cdef void conn_cancel(conn_t *conn) noexcept nogil:
    """Precondition: conn.lock held, handle open."""
    if (conn.pending > 0 and not CancelIoEx(<HANDLE>conn.sock, NULL)
            and GetLastError() != ERROR_NOT_FOUND):
        # The end of the connection waits for these operations, perhaps for ever, so it
        # is tried again.
        conn_arm(conn, &conn.engine.quiet, &conn.quiet)


cdef void op_pended(conn_t *conn, recv_t *recv) noexcept nogil:
    """After a post that is pending: whoever wanted to cancel it may have come too early.

    recv: the receive that was posted, or NULL.  Precondition: conn.lock held.
    """
    InterlockedIncrement(&conn.engine.packets_due)
    conn.inline_run = 0
    if conn.state == STATE_ABORTING or conn.state == STATE_ENDING:
        conn_cancel(conn)
    elif recv != NULL and conn.idle:
        recv_take_back(conn, recv)


cdef void recv_take_back(conn_t *conn, recv_t *recv) noexcept nogil:
    """Cancel a receive because of its buffer.  Precondition: conn.lock held, handle open
    or recv not posted."""
    if recv.buf != NULL and not recv.done:
        recv.cancelled = True
        CancelIoEx(<HANDLE>conn.sock, &recv.op.overlapped)


cdef void conn_fail(conn_t *conn, abort_reason reason, int error, bint sending) noexcept nogil:
    """Reset the connection; `error` is for connection_lost.  Precondition: conn.lock held."""
    if conn.state != STATE_OPEN and conn.state != STATE_FLUSHING and conn.state != STATE_DRAINING:
        return
    trace(conn, "abort, error", error)
    if conn.state != STATE_DRAINING:
        conn.reason = reason
        conn.unsent_bytes = conn.outbox.nbytes
        conn.unsent_writes = conn.outbox.writes
        # When draining, all was sent and connection_lost(None) is on its way.
        count(conn.engine, NULL, N_ABORTS + reason, 1)
        conn.error = error
        conn.error_sending = sending
    conn.state = conn_next_state(conn.state, EVENT_ABORT)
    linger_zero(conn.sock)
    conn_cancel(conn)


cdef void conn_end_of_stream(conn_t *conn) noexcept nogil:
    """Precondition: conn.lock held."""
    if not conn.eof_seen:
        trace(conn, "EOF", 0)
        conn.eof_seen = True
        conn.state = conn_next_state(conn.state, EVENT_EOF)


cdef void conn_active(conn_t *conn) noexcept nogil:
    """Something came.  Precondition: conn.lock held."""
    conn.receives += 1
    if conn.engine.config.idle_timeout_ms != 0:
        conn.active_ms = now_ms()
    if conn.idle:
        conn.idle = False
        conn_arm(conn, &conn.engine.quiet, &conn.quiet)


cdef void conn_shut(conn_t *conn) noexcept nogil:
    """SD_SEND once all is sent, and what follows from it.
    Precondition: conn.lock held, write_eof asked for."""
    if conn.state != STATE_OPEN and conn.state != STATE_FLUSHING:
        return
    if conn.sending or conn.outbox.head != NULL:
        return
    # Where the peer has ended its side, closesocket does the same: nothing is left unread that
    # would make a reset of it, and nobody else has the socket.
    if not conn.shut and not (conn.state == STATE_FLUSHING and conn.eof_seen
                              and not conn.duplicated):
        if shutdown(conn.sock, SD_SEND) == SOCKET_ERROR:
            # Closing, and all is sent: that the peer has gone already is no news.
            conn_fail(conn, ABORT_ERROR,
                      WSAGetLastError() if conn.state == STATE_OPEN else 0, True)
            return
        conn.shut = True
        trace(conn, "SD_SEND", 0)
    if conn.state == STATE_FLUSHING:
        conn.state = conn_next_state(conn.state, EVENT_FLUSHED)
        conn.due |= DUE_LOST
        # What has been sent has yet to arrive: the peer's time begins anew.
        conn.flushed_ms = now_ms()
        conn.progress_ms = conn.flushed_ms
        conn_arm(conn, &conn.engine.closing, &conn.closing)
        if conn.eof_seen:
            conn.state = conn_next_state(conn.state, EVENT_EOF)


cdef void conn_close_handle(conn_t *conn) noexcept nogil:
    """The end of the socket.  Precondition: conn.lock held, nothing pending; returns with
    the lock held again, connection_lost due."""
    cdef engine_t *engine = conn.engine
    cdef SOCKET sock = conn.sock
    if conn.duplicated and conn.state == STATE_ABORTING:
        # The application's own handle keeps the connection open, so closesocket does not reset
        # it: the peer shall see an end at least.
        shutdown(sock, SD_BOTH)
    if conn.lost_told:
        InterlockedExchangeAdd64(&engine.draining, -1)
    conn.state = conn_next_state(conn.state, EVENT_QUIET)
    conn.sock = INVALID_SOCKET
    conn_drop_queue(conn, &conn.outbox)
    conn_drop_spare(conn)
    conn_disarm_timer(conn)
    ReleaseSRWLockExclusive(&conn.lock)

    closesocket(sock)
    count(engine, NULL, N_SOCKETS_CLOSED, 1)
    AcquireSRWLockExclusive(&engine.lock)
    list_remove(&conn.link)
    deadline_disarm(&conn.closing)
    deadline_disarm(&conn.quiet)
    deadline_disarm(&conn.idling)
    ReleaseSRWLockExclusive(&engine.lock)
    InterlockedExchangeAdd64(&engine.connections_now, -1)

    AcquireSRWLockExclusive(&conn.lock)
    trace(conn, "handle closed", 0)
    conn.due |= DUE_LOST
