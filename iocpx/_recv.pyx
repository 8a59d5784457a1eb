"""Receiving: WSARecv, its three outcomes, and the window that keeps them in order.

Called by `_conn`: recv_post in the connection's turn (`conn.post_recv`, which `_open` sets, and
which `_delivery` calls too), recv_done with its packet; calls `_life`, `_sched`, `_wants` and
`_base`.
"""

from libc.string cimport memset

from iocpx._base cimport (
    conn_keep_buffer, conn_ref, count, count_op, now_ms, recv_capacity, take_buffer, trace,
)
from iocpx._life cimport conn_active, conn_cancel, conn_end_of_stream, conn_fail, op_pended
from iocpx._sched cimport conn_unref
from iocpx._state cimport (
    buf_t, conn_next_state, EVENT_DEADLINE, queue_push, STATE_DRAINING, STATE_OPEN, window_add,
    window_drop,
)
from iocpx._types cimport *
from iocpx._wants cimport conn_flushes_filter
from iocpx._winsock cimport *

cdef enum:
    SHORT_RUN = 8           # receives that a smaller buffer would have done for, in a row


cdef void recv_fit(conn_t *conn, size_t nbytes, size_t capacity) noexcept nogil:
    """Choose the size for the next receive, after one that brought nbytes.
    Precondition: conn.lock held."""
    if nbytes == capacity and capacity == recv_capacity(conn):
        # Full: more may have been there.
        conn.recv_size = min(conn.recv_size + 1, <int>N_SIZES - 1)
        conn.short_run = 0
    elif (conn.recv_size > 0 and nbytes < capacity
          and nbytes <= conn.engine.pools[conn.recv_size - 1].capacity // 2):
        conn.short_run += 1
        if conn.short_run >= SHORT_RUN:
            conn.recv_size -= 1
            conn.short_run = 0
    else:
        conn.short_run = 0


cdef void recv_post(worker_t *worker, conn_t *conn) noexcept nogil:
    """Post the receive whose turn is next in the window.

    A zero-byte receive completes when there is something to receive.  It costs one
    more call per message, and no buffer while there is none: for idle connections.
    Precondition: executor; conn.lock held, which is released for the call.
    """
    cdef engine_t *engine = conn.engine
    cdef recv_t *recv = &conn.recvs[window_add(&conn.window)]
    cdef WSABUF wsabuf
    cdef DWORD nbytes = 0
    cdef DWORD flags = 0
    cdef int error = 0
    conn.pending += 1
    if conn.state == STATE_OPEN and conn.idle:
        count(conn.service, worker, N_ZERO_RECEIVES, 1)
        wsabuf.buf = NULL
        wsabuf.len = 0
    else:
        recv.buf = conn.spare
        conn.spare = NULL
        if recv.buf == NULL:
            recv.buf = take_buffer(engine, recv_capacity(conn))
        if recv.buf == NULL:
            recv_done(worker, conn, recv, WSAENOBUFS, 0)
            return
        wsabuf.buf = recv.buf.base
        wsabuf.len = <ULONG>recv.buf.capacity
    # Before the call: its completion may be handled before it returns.
    conn_ref(conn)
    memset(&recv.op.overlapped, 0, sizeof(OVERLAPPED))
    ReleaseSRWLockExclusive(&conn.lock)
    count_op(engine, worker, E_OPS_POSTED, 1)
    if WSARecv(conn.sock, &wsabuf, 1, &nbytes, &flags, &recv.op.overlapped, NULL) != 0:
        error = WSAGetLastError()
    AcquireSRWLockExclusive(&conn.lock)
    if error == ERROR_IO_PENDING or (error == 0 and not conn.skips):
        op_pended(conn, recv)
        return
    count_op(engine, worker, E_OPS_COMPLETED, 1)
    recv_done(worker, conn, recv, error, nbytes if error == 0 else 0)
    if error == 0:
        count(conn.service, worker, N_INLINE_COMPLETIONS, 1)
        conn.inline_run += 1
    conn_unref(conn)    # never the last one: the caller has its own


cdef void recv_done(worker_t *worker, conn_t *conn, recv_t *recv, int error,
                    DWORD nbytes) noexcept nogil:
    """The outcome of a receive waits until those posted before it are in as well.
    Precondition: conn.lock held."""
    if nbytes > 0:
        count(conn.service, worker, N_RECEIVES, 1)
        count(conn.service, worker, N_BYTES_RECEIVED, nbytes)
    recv.done = True
    recv.error = error
    recv.nbytes = nbytes
    conn.pending -= 1
    while conn.window.n > 0 and conn.recvs[conn.window.first].done:
        recv_absorb(conn, &conn.recvs[window_drop(&conn.window)])


cdef void recv_absorb(conn_t *conn, recv_t *recv) noexcept nogil:
    """A receive whose turn has come enters the state.  Precondition: conn.lock held."""
    cdef buf_t *buf = recv.buf
    cdef bint cancelled = recv.cancelled
    recv.buf = NULL
    recv.done = False
    recv.cancelled = False
    if recv.error != 0:
        if not (cancelled and recv.error == ERROR_OPERATION_ABORTED):
            conn_fail(conn, ABORT_ERROR, recv.error, False)
    elif recv.nbytes > 0:
        trace(conn, "received", recv.nbytes)
        conn_active(conn)
        if conn.state == STATE_DRAINING or (conn_flushes_filter(conn) and conn.filter_waits):
            conn.progress_ms = now_ms()
        if conn.state == STATE_DRAINING:
            if conn.service.config.like_asyncio:
                conn.state = conn_next_state(conn.state, EVENT_DEADLINE)
                conn_cancel(conn)
        recv_fit(conn, recv.nbytes, buf.capacity)
        if not conn.deaf or conn_flushes_filter(conn):
            buf.data = buf.base
            buf.size = recv.nbytes
            queue_push(&conn.inbox, buf)
            buf = NULL
    elif buf == NULL:
        conn_active(conn)
    else:
        conn_end_of_stream(conn)
    if buf != NULL:
        conn_keep_buffer(conn, buf)
