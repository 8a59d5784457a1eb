"""Sending: one gather WSASend of the front of the outbox, and its three outcomes.

What is next may be a file, which `_files` sends, or datagrams (`_datagrams`).

Called by `_conn` and `_requests`; calls `_files`, `_datagrams`, `_life`, `_sched`, `_wants` and
`_base`.
"""

from libc.stdint cimport uint64_t
from libc.string cimport memset

from iocpx._base cimport conn_drop_queue, conn_ref, count, count_op, now_ms, packet_post, trace
from iocpx._datagrams cimport datagrams_post
from iocpx._files cimport file_post, files_next
from iocpx._life cimport conn_fail, op_pended
from iocpx._sched cimport conn_unref
from iocpx._state cimport buf_t, queue_consume, queue_t, STATE_FLUSHING
from iocpx._types cimport *
from iocpx._wants cimport conn_bytes_in_memory
from iocpx._winsock cimport *


cdef bint conn_make_nonblocking(conn_t *conn) noexcept nogil:
    """For calls without an OVERLAPPED; operations with one do not care.  False: refused.
    Precondition: conn.lock held, handle open."""
    cdef ULONG on = True
    if not conn.nonblocking:
        conn.nonblocking = ioctlsocket(conn.sock, FIONBIO, &on) == 0
    return conn.nonblocking


cdef bint send_post(worker_t *worker, conn_t *conn, bint overlapped) noexcept nogil:
    """One gather send of the front of the outbox.  True: it succeeded at once.

    overlapped: False on a thread that is not the engine's.  Then it takes what the kernel
    takes at once, which may be nothing, and never pends.  So is what is larger than the kernel is
    to have pending.
    Precondition: conn.lock held, which is released for the call: whoever writes
    meanwhile appends behind what is gathered here.
    """
    cdef engine_t *engine = conn.engine
    cdef WSABUF[SEND_BUFFERS] wsabufs
    cdef DWORD n = 0
    cdef DWORD nbytes = 0
    cdef size_t room
    cdef buf_t *buf = conn.outbox.head
    cdef int error = 0
    cdef bint large = False
    if not overlapped or conn.send_bytes > SEND_BYTES:
        if conn.send_bytes == A_FILE_IS_NEXT:
            return overlapped and file_post(worker, conn)
        if conn.send_bytes == DATAGRAMS_ARE_NEXT:
            return datagrams_post(worker, conn, overlapped)
        large = overlapped
        # Where somebody else has the socket as well it may block at any moment, whatever we make
        # it.
        overlapped = conn.duplicated or not conn_make_nonblocking(conn)
        if overlapped and not large:
            return False
        if overlapped:
            conn.send_bytes = SEND_BYTES
            large = False
    room = conn.send_bytes
    while buf != NULL and n < SEND_BUFFERS and room > 0:
        wsabufs[n].buf = buf.data
        wsabufs[n].len = <ULONG>min(buf.size, room)
        room -= wsabufs[n].len
        n += 1
        buf = buf.next
    conn.send_lent = conn.send_bytes - room
    conn.send_ms = 0
    conn.sending = True
    conn.pending += 1
    conn_ref(conn)
    memset(&conn.send.overlapped, 0, sizeof(OVERLAPPED))
    ReleaseSRWLockExclusive(&conn.lock)
    count_op(engine, worker, E_OPS_POSTED, 1)
    if WSASend(conn.sock, wsabufs, n, &nbytes, 0,
               &conn.send.overlapped if overlapped else NULL, NULL) != 0:
        error = WSAGetLastError()
    AcquireSRWLockExclusive(&conn.lock)
    if overlapped and (error == ERROR_IO_PENDING or (error == 0 and not conn.skips)):
        conn.send_ms = now_ms()
        op_pended(conn, NULL)
        return False
    count_op(engine, worker, E_OPS_COMPLETED, 1)
    if not overlapped and error == WSAEWOULDBLOCK:
        conn.sending = False
        conn.pending -= 1
        conn_unref(conn)    # never the last one: the caller has its own
        if large:
            conn.send_bytes = SEND_BYTES
            return send_post(worker, conn, True)
        return False
    send_done(worker, conn, error, nbytes if error == 0 else 0)
    if error == 0:
        count(conn.service, worker, N_INLINE_COMPLETIONS, 1)
        if nbytes >= SEND_BYTES:
            if nbytes < conn.send_lent:
                conn.send_bytes = SEND_BYTES
            elif nbytes == conn.send_bytes:
                conn.send_bytes = min(2 * conn.send_bytes, <size_t>MOST_SEND_BYTES)
    conn_unref(conn)    # never the last one: the caller has its own
    return error == 0


cdef void send_defer(conn_t *conn) noexcept nogil:
    """Have a worker go on sending, by the packet of a send that has taken nothing: who serves
    the connection may be in a callback that takes long, perhaps because it waits for this
    very data to leave.  Precondition: conn.lock held, the connection is scheduled.
    """
    conn_ref(conn)
    conn.send_lent = 0
    if packet_post(conn.engine, &conn.send):
        conn.sending = True
        conn.pending += 1
    else:
        # Whoever serves it sends.
        conn_unref(conn)    # never the last one: the caller has its own


cdef void send_fit(conn_t *conn, DWORD nbytes) noexcept nogil:
    """After a send that was pending: the next takes what the peer has taken in a second, or in
    close_timeout_s if that is less, so that one that reads slowly shows that it does.
    Precondition: conn.lock held."""
    cdef uint64_t took_ms
    cdef uint64_t most
    cdef uint64_t next_ms
    # 0: it was faster than who posted it.
    if nbytes > 0 and conn.send_ms != 0:
        took_ms = max(now_ms() - conn.send_ms, <uint64_t>1)
        next_ms = conn.service.config.close_timeout_ms
        if next_ms == 0 or next_ms > 1000:
            next_ms = 1000
        most = max(<uint64_t>nbytes * next_ms // took_ms, <uint64_t>SLOW_SEND_BYTES)
        if conn.send_bytes == A_FILE_IS_NEXT:
            conn.files.front.part = <size_t>min(most, <uint64_t>MOST_SEND_BYTES)
        else:
            conn.send_bytes = <size_t>min(most, <uint64_t>SEND_BYTES)


cdef size_t conn_sent_plain(conn_t *conn) noexcept nogil:
    """Of what the handler has written, how much has been sent since the last time: known only when
    nothing that the filter made of it is left.  Precondition: conn.lock held."""
    cdef size_t nbytes = 0
    if conn.outbox.head == NULL:
        nbytes = conn.filtered_bytes
        conn.filtered_bytes = 0
    return nbytes


cdef void send_follow(conn_t *conn, DWORD nbytes) noexcept nogil:
    """What few connections want of each send.  Precondition: conn.lock held."""
    if conn.after_send & SENT_TOLD:
        conn.sent_untold += conn_sent_plain(conn) if conn.filtered else nbytes
    if conn.after_send & SENT_FILES:
        conn.over_bytes = min(conn.over_bytes, conn_bytes_in_memory(conn))
        files_next(conn)


cdef void send_done(worker_t *worker, conn_t *conn, int error, DWORD nbytes) noexcept nogil:
    """The outcome of a send enters the connection's state; a short one leaves the rest queued.
    Precondition: conn.lock held."""
    cdef queue_t emptied
    memset(&emptied, 0, sizeof(emptied))
    if nbytes > 0:
        count(conn.service, worker, N_SENDS, 1)
        count(conn.service, worker, N_BYTES_SENT, nbytes)
    conn.sending = False
    conn.pending -= 1
    queue_consume(&conn.outbox, nbytes, &emptied)
    conn_drop_queue(conn, &emptied)
    conn.over_bytes = min(conn.over_bytes, conn.outbox.nbytes)
    if conn.after_send != 0:
        send_follow(conn, nbytes)
    if error != 0:
        conn_fail(conn, ABORT_ERROR, error, True)
        return
    if nbytes == 0:
        return      # send_defer's
    trace(conn, "sent", nbytes)
    if conn.state == STATE_FLUSHING:
        conn.progress_ms = now_ms()
    if conn.service.config.idle_timeout_ms != 0:
        conn.active_ms = now_ms()
