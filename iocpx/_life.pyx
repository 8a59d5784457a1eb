"""How a connection ends: cancelling, failing, SD_SEND, closing the handle.

CancelIoEx reaches only what has been posted.  A post that races with conn_fail is therefore
followed by a second look at the state (op_pended), under the lock that conn_fail holds.  A
handle is closed only when nothing is pending on it: its value is reused at once by Windows,
and a send still queued on it could reach another client.

Called by the operations (`_connect`, `_recv`, `_files`, `_datagrams`, `_send`), by `_conn`, by
`_requests`, `_filter` and `_delivery`, and by `_keeper`; calls `_wants` and `_base`.
"""

from libc.string cimport memset

from iocpx._base cimport (
    conn_arm, conn_disarm_timer, conn_drop_queue, conn_drop_spare, count, linger_zero, now_ms,
    trace,
)
from iocpx._state cimport (
    buf_t, conn_next_state, deadline_disarm, EVENT_ABORT, EVENT_EOF, EVENT_FLUSHED, EVENT_QUIET,
    list_remove, queue_pop, queue_push, queue_t, STATE_ABORTING, STATE_CLOSED, STATE_DRAINING,
    STATE_ENDING, STATE_FLUSHING, STATE_OPEN,
)
from iocpx._types cimport *
from iocpx._wants cimport conn_bytes_in_memory, conn_has_files
from iocpx._winsock cimport *


cdef void conn_cancel(conn_t *conn) noexcept nogil:
    """Precondition: conn.lock held, handle open."""
    if (conn.pending > 0 and not CancelIoEx(<HANDLE>conn.sock, NULL)
            and GetLastError() != ERROR_NOT_FOUND):
        # The end of the connection waits for these operations, perhaps for ever, so it
        # is tried again.
        conn_arm(conn, &conn.service.quiet, &conn.quiet)


cdef void op_pended(conn_t *conn, recv_t *recv) noexcept nogil:
    """After a post that is pending: whoever wanted to cancel it may have come too early.

    recv: the receive that was posted, or NULL.  Precondition: conn.lock held.
    """
    InterlockedIncrement(&conn.engine.packets_due)
    conn.inline_run = 0
    if conn.state == STATE_ABORTING or conn.state == STATE_ENDING:
        conn_cancel(conn)
    elif recv != NULL and conn.idle and conn.state == STATE_OPEN:
        # A closing one has it posted to the end, and would post it again and again.
        recv_take_back(conn, recv)


cdef void recv_take_back(conn_t *conn, recv_t *recv) noexcept nogil:
    """Cancel a receive because of its buffer.  Precondition: conn.lock held, handle open
    or recv not posted."""
    if recv.buf != NULL and not recv.done:
        recv.cancelled = True
        CancelIoEx(<HANDLE>conn.sock, &recv.op.overlapped)


cdef void conn_fail(conn_t *conn, abort_reason reason, int error, bint sending) noexcept nogil:
    """Reset the connection; `error` is for connection_lost.  Precondition: conn.lock held."""
    if conn.state == STATE_ENDING or conn.state == STATE_ABORTING or conn.state == STATE_CLOSED:
        return
    trace(conn, "abort, error", error)
    if conn.state != STATE_DRAINING:
        conn.reason = reason
        conn.unsent_bytes = conn_bytes_in_memory(conn)
        conn.unsent_writes = conn.outbox.writes
        # When draining, all was sent and connection_lost(None) is on its way.
        count(conn.service, NULL, N_ABORTS + reason, 1)
        conn.error = error
        conn.error_sending = sending
    conn.state = conn_next_state(conn.state, EVENT_ABORT)
    # asyncio's abort() drops what is not with the kernel yet, but resets nothing: the peer gets
    # what was sent, and then its end.
    if not (conn.service.config.datagrams
            or conn.service.config.like_asyncio and reason == ABORT_APPLICATION):
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
    if conn.service.config.idle_timeout_ms != 0:
        conn.active_ms = now_ms()
    if conn.idle:
        conn.idle = False
        conn_arm(conn, &conn.service.quiet, &conn.quiet)


cdef void conn_shut(conn_t *conn) noexcept nogil:
    """SD_SEND once all is sent, and what follows from it.
    Precondition: conn.lock held, write_eof asked for."""
    if conn.state != STATE_OPEN and conn.state != STATE_FLUSHING:
        return
    if conn.sending or conn.outbox.head != NULL:
        return
    if conn_has_files(conn):
        return      # the handler is to read the next part of one
    if conn.service.config.datagrams:
        conn_end_datagrams(conn)
        return
    if conn.filtered:
        if not conn.filter_ended:
            return
    # Who is paused may have more, once he is told that he may go on (conn_flushes_on).
    elif conn.service.config.like_asyncio and conn.pause_told and not conn.lost_told:
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
        conn_arm(conn, &conn.service.closing, &conn.closing)
        if conn.eof_seen:
            conn.state = conn_next_state(conn.state, EVENT_EOF)


cdef void conn_end_datagrams(conn_t *conn) noexcept nogil:
    """All that was sent before close() has left.  The end is told when the handle is closed: then
    somebody else may have the port."""
    if conn.state == STATE_FLUSHING:
        conn.state = conn_next_state(conn.state, EVENT_FLUSHED)
        conn.state = conn_next_state(conn.state, EVENT_EOF)
        conn_cancel(conn)


cdef void conn_drop_files(conn_t *conn) noexcept nogil:
    """Files that wait are over, unsent, and what was written after them is dropped."""
    cdef files_t *files = conn.files
    cdef queue_t written
    cdef buf_t *buf
    if files == NULL:
        return
    memset(&written, 0, sizeof(written))
    if files.front != NULL:
        if conn.send_bytes == A_FILE_IS_NEXT:
            queue_pop(&conn.outbox)
            conn.send_bytes = SEND_BYTES
        file_drop(conn, files.front)
        files.front = NULL
    buf = queue_pop(&files.later)
    while buf != NULL:
        if buf.data == NULL:
            file_drop(conn, <file_t *>buf)
        else:
            queue_push(&written, buf)
        buf = queue_pop(&files.later)
    conn.outbox.nbytes -= files.nbytes
    files.nbytes = 0
    conn.outbox.nbytes -= min(written.nbytes, conn.outbox.nbytes)
    conn.outbox.writes -= min(written.writes, conn.outbox.writes)
    conn_drop_queue(conn, &written)


cdef void file_drop(conn_t *conn, file_t *file) noexcept nogil:
    file.error = conn.error
    queue_push(&conn.files.over, &file.buf)
    conn.due |= DUE_FILES


cdef void conn_close_handle(conn_t *conn) noexcept nogil:
    """The end of the socket.  Precondition: conn.lock held, nothing pending; returns with
    the lock held again, connection_lost due."""
    cdef service_t *service = conn.service
    cdef engine_t *engine = conn.engine
    cdef SOCKET sock = conn.sock
    if conn.duplicated and conn.state == STATE_ABORTING and not conn.service.config.datagrams:
        # The application's own handle keeps the connection open, so closesocket does not reset
        # it: the peer shall see an end at least.
        shutdown(sock, SD_BOTH)
    cdef bint told = conn.lost_told
    conn.state = conn_next_state(conn.state, EVENT_QUIET)
    conn.sock = INVALID_SOCKET
    conn_drop_files(conn)
    conn_drop_queue(conn, &conn.outbox)
    conn_drop_queue(conn, &conn.plain)
    conn.outbox.nbytes = 0
    conn.outbox.writes = 0
    conn_drop_spare(conn)
    conn_disarm_timer(conn)
    ReleaseSRWLockExclusive(&conn.lock)

    closesocket(sock)
    count(service, NULL, N_SOCKETS_CLOSED, 1)
    AcquireSRWLockExclusive(&engine.lock)
    list_remove(&conn.link)
    deadline_disarm(&conn.closing)
    deadline_disarm(&conn.quiet)
    deadline_disarm(&conn.idling)
    # Both under the lock under which conn_open compares them: a client within max_connections
    # would be refused in between.
    InterlockedExchangeAdd64(&service.connections_now, -1)
    InterlockedExchangeAdd64(&service.outgoing, -conn.outgoing)
    if told and not conn.outgoing:
        InterlockedExchangeAdd64(&service.draining, -1)
    ReleaseSRWLockExclusive(&engine.lock)

    AcquireSRWLockExclusive(&conn.lock)
    trace(conn, "handle closed", 0)
    conn.due |= DUE_LOST
