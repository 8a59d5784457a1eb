"""What every room of the engine needs: counters, the clock, buffers and their pools, the
trace, packets, deadlines, socket options.

Called by nearly all rooms above, Python's too; calls the operating system and `_state` only.
Nothing in here knows what a connection does next.
"""

from libc.stdint cimport uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport free
from libc.string cimport memset

from iocpx._op cimport done_fn, op_t
from iocpx._state cimport (
    buf_new, buf_t, deadline_arm, deadline_t, deadlines_t, pool_clear, pool_give,
    pool_take, pool_trim, queue_pop, queue_push, queue_t, STATE_CLOSED, timer_disarm,
)
from iocpx._types cimport *
from iocpx._winsock cimport *

cdef enum:
    TROUBLE_MS = 10000      # between two reports of it
    TRACE_BYTES = 120       # one line
    TRACE_LINES = 1000      # of one connection, that wait to be told


cdef uint64_t now_ms() noexcept nogil:
    # Not GetTickCount64: its 15.6 ms steps would let deadlines come early.
    cdef LARGE_INTEGER ticks, frequency
    QueryPerformanceCounter(&ticks)
    QueryPerformanceFrequency(&frequency)
    return (<uint64_t>(ticks.QuadPart // frequency.QuadPart) * 1000
            + <uint64_t>(ticks.QuadPart % frequency.QuadPart * 1000 // frequency.QuadPart))


cdef uint64_t now_us() noexcept nogil:
    cdef LARGE_INTEGER ticks, frequency
    QueryPerformanceCounter(&ticks)
    QueryPerformanceFrequency(&frequency)
    return (<uint64_t>(ticks.QuadPart // frequency.QuadPart) * 1000000
            + <uint64_t>(ticks.QuadPart % frequency.QuadPart * 1000000 // frequency.QuadPart))


cdef void keeper_wants(engine_t *engine, uint64_t due_ms) noexcept nogil:
    """Have the keeper look at due_ms at the latest.  Precondition: engine.lock held."""
    if due_ms < engine.keeper_due_ms:
        engine.keeper_due_ms = due_ms
        SetEvent(engine.keeper_event)


cdef void live_drop(service_t *service) noexcept nogil:
    cdef engine_t *engine = service.engine
    cdef conn_t *conn
    if InterlockedDecrement(&service.live) != 0:
        return
    AcquireSRWLockExclusive(&engine.pool_lock)
    while service.free_conns != NULL:
        conn = service.free_conns
        service.free_conns = conn.next_ready
        free(conn)
    service.n_free_conns = 0
    ReleaseSRWLockExclusive(&engine.pool_lock)
    # The keeper takes it out: it goes through the services without a lock.
    AcquireSRWLockExclusive(&engine.lock)
    service.over = True
    # Its endpoints have ended without a stop.
    engine.serving -= service.config.datagrams and not service.closing_clients
    service.closing_clients = True
    SetEvent(engine.keeper_event)
    ReleaseSRWLockExclusive(&engine.lock)


cdef bint engine_hold(engine_t *engine) noexcept nogil:
    AcquireSRWLockExclusive(&engine.lock)
    # One on a borrowed port has to be polled to its end; until that it can go on.
    cdef bint running = engine.workers_running > 0 and (engine.holds > 0 or engine.borrows_port)
    engine.holds += running
    ReleaseSRWLockExclusive(&engine.lock)
    return running


cdef void engine_release(engine_t *engine) noexcept nogil:
    AcquireSRWLockExclusive(&engine.lock)
    engine.holds -= 1
    SetEvent(engine.keeper_event)
    ReleaseSRWLockExclusive(&engine.lock)


cdef void engine_trouble(engine_t *engine, int error) noexcept nogil:
    """Have the keeper tell that the system refuses something, now and then.
    Precondition: engine.lock held."""
    cdef uint64_t now = now_ms()
    if now >= engine.trouble_due_ms:
        engine.trouble = error
        engine.trouble_due_ms = now + TROUBLE_MS
        SetEvent(engine.keeper_event)


cdef buf_t *take_buffer(engine_t *engine, size_t nbytes) noexcept nogil:
    """A buffer of the smallest size that holds nbytes; NULL: out of memory."""
    cdef int size = 0
    while size < N_SIZES - 1 and engine.pools[size].capacity < nbytes:
        size += 1
    AcquireSRWLockExclusive(&engine.pool_lock)
    cdef buf_t *buf = pool_take(&engine.pools[size], nbytes)
    if buf != NULL:
        engine.buffers_out += 1
        engine.buffers_peak = max(engine.buffers_peak, engine.buffers_out)
    ReleaseSRWLockExclusive(&engine.pool_lock)
    return buf


cdef buf_t *take_own_buffer(engine_t *engine, size_t nbytes) noexcept nogil:
    cdef buf_t *buf = buf_new(nbytes)
    if buf != NULL:
        AcquireSRWLockExclusive(&engine.pool_lock)
        engine.buffers_out += 1
        engine.buffers_peak = max(engine.buffers_peak, engine.buffers_out)
        ReleaseSRWLockExclusive(&engine.pool_lock)
    return buf


cdef void give_buffer(engine_t *engine, buf_t *buf) noexcept nogil:
    cdef int size = 0
    cdef size_t n_free = 0
    cdef int i
    while size < N_SIZES - 1 and engine.pools[size].capacity < buf.capacity:
        size += 1
    AcquireSRWLockExclusive(&engine.pool_lock)
    engine.buffers_out -= 1
    for i in range(<int>N_SIZES):
        n_free += engine.pools[i].n_free
    if n_free >= engine.config.max_free_buffers:
        # The limit is one for all sizes: the largest make room, or what a burst of uploads
        # left would stay for good.
        i = N_SIZES - 1
        while i > size and engine.pools[i].n_free == 0:
            i -= 1
        if i > size:
            pool_trim(&engine.pools[i])
            n_free -= 1
    engine.pools[size].max_free = (
        engine.pools[size].n_free + (n_free < engine.config.max_free_buffers))
    pool_give(&engine.pools[size], buf)
    ReleaseSRWLockExclusive(&engine.pool_lock)


cdef void pools_clear(engine_t *engine) noexcept nogil:
    """Precondition: no worker runs."""
    cdef int i
    AcquireSRWLockExclusive(&engine.pool_lock)
    for i in range(<int>N_SIZES):
        pool_clear(&engine.pools[i])
    ReleaseSRWLockExclusive(&engine.pool_lock)


cdef void conn_drop_queue(conn_t *conn, queue_t *queue) noexcept nogil:
    """Empty a queue whose bytes nobody needs any more.  Precondition: conn.lock held."""
    while queue.head != NULL:
        conn_drop_buffer(conn, queue_pop(queue))


cdef void conn_drop_buffer(conn_t *conn, buf_t *buf) noexcept nogil:
    """Give one back to whom it belongs.  Precondition: conn.lock held."""
    if buf.owner != NULL:
        queue_push(&conn.spent, buf)
    else:
        give_buffer(conn.engine, buf)


cdef void conn_keep_buffer(conn_t *conn, buf_t *buf) noexcept nogil:
    """Keep one for the next receive, which spares the pool's lock.
    Precondition: conn.lock held."""
    if (conn.spare == NULL and not conn.idle and conn.state != STATE_CLOSED
            and buf.capacity == recv_capacity(conn)):
        conn.spare = buf
    else:
        conn_drop_buffer(conn, buf)


cdef void conn_drop_spare(conn_t *conn) noexcept nogil:
    """Precondition: conn.lock held."""
    cdef buf_t *buf = conn.spare
    while buf != NULL:
        conn.spare = buf.next
        buf.next = NULL
        conn_drop_buffer(conn, buf)
        buf = conn.spare


cdef void trace_line(conn_t *conn, const char *what, LONG64 detail) noexcept nogil:
    """One line of the connection's life.  Precondition: conn.lock held."""
    cdef buf_t *line
    if conn.traces.writes >= TRACE_LINES:
        # A callback lasts, and others go on: the last line counts them, and memory does not grow.
        conn.untraced += 1
        line = conn.traces.tail
        line.size = <size_t>snprintf(line.data, TRACE_BYTES, "#%lld %lld lines left out",
                                     conn.number, conn.untraced)
        return
    line = buf_new(TRACE_BYTES)
    if line != NULL:
        line.writes = 1
        line.size = <size_t>snprintf(line.data, TRACE_BYTES, "#%lld %s %lld",
                                     conn.number, what, detail)
        queue_push(&conn.traces, line)


cdef void op_init(op_t *op, done_fn done, void *owner) noexcept nogil:
    memset(op, 0, sizeof(op_t))
    op.done = done
    op.owner = owner


cdef bint packet_post(engine_t *engine, op_t *op) noexcept nogil:
    """False: refused, out of non-paged pool most likely.  Precondition: op is not in use."""
    memset(&op.overlapped, 0, sizeof(OVERLAPPED))
    count_op(engine, NULL, E_OPS_POSTED, 1)
    if not PostQueuedCompletionStatus(engine.port, 0, engine_key(engine), &op.overlapped):
        count_op(engine, NULL, E_OPS_COMPLETED, 1)
        return False
    InterlockedIncrement(&engine.packets_due)
    return True


cdef int op_error(op_t *op, SOCKET sock) noexcept nogil:
    """The Windows code of a completed op, 0 for success.  Precondition: sock is open."""
    cdef DWORD nbytes = 0
    cdef DWORD flags = 0
    if op.overlapped.Internal == 0:
        return 0
    # The NTSTATUS becomes a Winsock code where a socket is asked for it, which
    # tells a reset (10054) from the bare ERROR_NETNAME_DELETED (64).
    if WSAGetOverlappedResult(sock, &op.overlapped, &nbytes, False, &flags):
        return 0
    return WSAGetLastError()


cdef void linger_zero(SOCKET sock) noexcept nogil:
    """Have closesocket reset the connection."""
    cdef LINGER linger
    linger.l_onoff = 1
    linger.l_linger = 0
    setsockopt(sock, SOL_SOCKET, SO_LINGER, <char *>&linger, sizeof(linger))


cdef void drop_socket(service_t *service, worker_t *worker, SOCKET sock) noexcept nogil:
    closesocket(sock)
    count(service, worker, N_SOCKETS_CLOSED, 1)


cdef void conn_arm(conn_t *conn, deadlines_t *deadlines, deadline_t *deadline) noexcept nogil:
    """Precondition: conn.lock held.  Without effect once the handle is closed: nothing
    would disarm it, and the conn_t be freed under the keeper's hands."""
    cdef engine_t *engine = conn.engine
    if conn.sock == INVALID_SOCKET:
        return
    AcquireSRWLockExclusive(&engine.lock)
    deadline_arm(deadlines, deadline, now_ms())
    keeper_wants(engine, deadline.due_ms)
    ReleaseSRWLockExclusive(&engine.lock)


cdef void conn_disarm_timer(conn_t *conn) noexcept nogil:
    """Precondition: conn.lock held."""
    cdef engine_t *engine = conn.engine
    if conn.timer.due == 0:
        return
    AcquireSRWLockExclusive(&engine.lock)
    timer_disarm(&engine.timers, &conn.timer)
    conn.timer.due = 0
    ReleaseSRWLockExclusive(&engine.lock)


cdef LONG64 service_connections(service_t *service) noexcept nogil:
    return InterlockedExchangeAdd64(&service.connections_now, 0)
