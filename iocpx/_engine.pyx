"""The engine: made, stopped, freed, counted; and the map of its rooms.

    _types     structs, who owns what, the order of the locks
    _base      counters, clock, buffers, packets, deadlines
    _sched     whose turn it is: ready lists, run queue, references
    _life      how a connection ends: cancelling, failing, closing
    _recv      WSARecv: post and completion
    _send      WSASend: post and completion
    _conn      a connection's turn
    _open      how a connection begins
    _requests  what the application asks for
    _delivery  what the handler is told
    _accept    listeners and their pools of AcceptEx
    _worker    the workers' loop
    _keeper    deadlines, retries, help, the end of the workers
    _engine    this one
    _native    handlers that never enter Python

Calls go up that list only, from a room to those before it.

The life of a connection, with the function to read for each step:

    accept_post              a socket waits in the accept pool (AcceptEx)
      engine_run_worker      a worker dequeues the packet and dispatches its op
      on_accept_complete     the slot is posted again at once; then
      conn_open              the socket joins the port, a conn_t is made and scheduled
      deliver (config)       connection_made
      conn_served            … and then the first receive:
    recv_post                WSARecv
      on_recv_complete       bytes go into the inbox, the connection is scheduled
      deliver                data_received; what it writes is queued in the outbox
      conn_served            everything queued leaves in one gather send:
    send_post                WSASend
      on_send_complete       the outbox shrinks; what came meanwhile goes out next
    conn_close               FLUSHING: the outbox goes out, input is discarded
      conn_advance           SD_SEND → DRAINING (connection_lost is due) → peer's EOF → ENDING
    conn_abort, conn_fail    ABORTING: linger 0, CancelIoEx
      conn_advance           no op pending → closesocket → CLOSED (connection_lost is due)
    conn_unref               the last reference: retired, memory freed

Who owns what.  A conn_t lives as long as its reference count: one for the open
handle, one per op that the kernel may own, one while it is scheduled, one for
the Python Connection.  References are taken before the post and dropped after
the completion was handled, so an OVERLAPPED is never freed while it is lent.

The serial executor.  A connection with something to do is `scheduled` exactly
once: in a worker's ready list, in the run queue or in an on_serve packet.  The
worker that has it delivers its news, posts its operations (conn_served), looks
again under the lock, and only then gives it up.  "Something to do" is computed from the state
(conn_has_news, conn_has_work), not kept in messages, so no wake-up can be lost.

Who posts.  Only threads that are there until nothing is pending any more: the workers and
the keeper.  A thread of the application may end at any time, and not every system lets an
operation outlive the thread that issued it: Windows cancels those of sockets that are on no
completion port, and others have lost the outcome.  What such a thread writes is sent as far
as the kernel takes it at once, without an OVERLAPPED; the rest is a worker's.

Every post has three outcomes, inline, pending and failed, and each X_post
handles all three by calling X_done in the first and the last.  With
FILE_SKIP_COMPLETION_PORT_ON_SUCCESS an inline completion yields no packet;
INLINE_BUDGET bounds how many a connection may have in a turn; then it waits in the run
queue until the others have had theirs, since one busy connection would otherwise
starve the rest.  The queue is one for all workers, and as long as it is not empty what
they dequeue from the port joins it: whose turn is next does not depend on who dequeued
whom.

Cancelling.  CancelIoEx reaches only what has been posted.  A post that races
with conn_fail is therefore followed by a second look at the state
(op_pended), under the lock that conn_fail holds.  A handle is closed only
when nothing is pending on it: its value is reused at once by Windows, and a
send still queued on it could reach another client.

The stop.  engine_stop closes listeners and connections; what is still there at
the deadline is aborted; `live` counts acceptors and connections, and at zero the
keeper ends the workers by packets.  Nothing is freed on a timeout.

The keeper is one thread that never enters Python: it looks after deadlines and
retries what the system refused for lack of resources.
"""

from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free

from iocpx._accept cimport listener_abandon, SHRINK_MS
from iocpx._base cimport keeper_wants, live_drop, NEVER, now_ms, op_init, pools_clear
from iocpx._requests cimport engine_close_clients
from iocpx._state cimport deadlines_init, list_init, pool_init, pool_t
from iocpx._types cimport *
from iocpx._winsock cimport *
from iocpx._worker cimport on_help, on_stop

cdef enum:
    QUIET_MS = 1000         # without data before a receive's buffer is taken back
    # Buffers have N_SIZES sizes: this, eight times as much, … and config.buffer_size.
    SMALLEST_BYTES = 1024


cdef int engine_open(engine_t *engine) noexcept nogil:
    """The engine's handles.  0 or a Windows code; those that there are stay the engine's."""
    # All workers may run at a time.  With as many as there are CPUs, which 0 stands for, workers
    # whose callbacks compute would keep the one away that is to take their connections over.
    engine.port = CreateIoCompletionPort(INVALID_HANDLE_VALUE, NULL, 0,
                                         <DWORD>engine.config.workers)
    if engine.port == NULL:
        return <int>GetLastError()
    engine.keeper_event = CreateEventW(NULL, False, False, NULL)
    if engine.keeper_event == NULL:
        return <int>GetLastError()
    engine.accept_event = CreateEventW(NULL, False, False, NULL)
    if engine.accept_event == NULL:
        return <int>GetLastError()
    engine.stopped_event = CreateEventW(NULL, True, False, NULL)
    if engine.stopped_event == NULL:
        return <int>GetLastError()
    return 0


cdef engine_t *engine_create(const config_t *config, int *error) noexcept nogil:
    cdef engine_t *engine = <engine_t *>calloc(1, sizeof(engine_t))
    cdef int i
    if engine == NULL:
        error[0] = WSAENOBUFS
        return NULL
    engine.config = config[0]
    engine.live = 1
    engine.workers_running = config.workers
    InitializeSRWLock(&engine.lock)
    InitializeSRWLock(&engine.pass_lock)
    InitializeSRWLock(&engine.run_lock)
    InitializeSRWLock(&engine.pool_lock)
    list_init(&engine.connections)
    deadlines_init(&engine.closing, config.close_timeout_ms)
    deadlines_init(&engine.quiet, QUIET_MS)
    deadlines_init(&engine.idling, config.idle_timeout_ms // 8 + 1)
    # Silent clients are looked for several times per timeout, so that none stays
    # much longer; a pool that never grows need not shrink.
    if config.accept_receive:
        engine.accept_period_ms = min(config.accept_timeout_ms // 8 + 1, <uint64_t>SHRINK_MS)
    elif config.max_accepts > config.initial_accepts:
        engine.accept_period_ms = SHRINK_MS
    engine.accept_due_ms = now_ms() + engine.accept_period_ms
    engine.shrink_due_ms = now_ms() + SHRINK_MS
    engine.keeper_due_ms = NEVER
    engine.stop_due_ms = NEVER
    engine.help_due_ms = NEVER
    op_init(&engine.help, on_help, engine)
    op_init(&engine.stop, on_stop, engine)
    for i in range(<int>N_SIZES - 1):
        pool_init(&engine.pools[i], min(config.buffer_size, <size_t>SMALLEST_BYTES << (3 * i)), 0)
    pool_init(&engine.pools[<int>N_SIZES - 1], config.buffer_size, 0)
    engine.workers = <worker_t *>calloc(config.workers, sizeof(worker_t))
    error[0] = WSAENOBUFS if engine.workers == NULL else engine_open(engine)
    if error[0] != 0:
        engine_free(engine)
        return NULL
    for i in range(config.workers):
        engine.workers[i].engine = engine
        engine.workers[i].batch = 1
        InitializeSRWLock(&engine.workers[i].lock)
    return engine


cdef void engine_free(engine_t *engine) noexcept nogil:
    cdef listener_t *listener
    if InterlockedExchangeAdd(&engine.live, 0) > 1:
        return
    while engine.listeners != NULL:
        listener = engine.listeners
        engine.listeners = listener.next
        free(listener)
    pools_clear(engine)
    if engine.port != NULL:
        CloseHandle(engine.port)
    if engine.keeper_event != NULL:
        CloseHandle(engine.keeper_event)
    if engine.accept_event != NULL:
        CloseHandle(engine.accept_event)
    if engine.stopped_event != NULL:
        CloseHandle(engine.stopped_event)
    free(engine.workers)
    free(engine)


cdef void engine_stop(engine_t *engine, uint64_t timeout_ms) noexcept nogil:
    cdef listener_t *listener
    cdef bint first
    cdef uint64_t due = now_ms() + timeout_ms + 1
    AcquireSRWLockExclusive(&engine.lock)
    first = engine.phase == PHASE_RUNNING
    if first:
        engine.phase = PHASE_STOPPING
        engine.stop_due_ms = NEVER
    if due < engine.stop_due_ms:
        engine.stop_due_ms = due
        keeper_wants(engine, due)
    listener = engine.listeners
    ReleaseSRWLockExclusive(&engine.lock)
    # Every caller, not only the first: each may close the listening sockets after it.
    while listener != NULL:
        AcquireSRWLockExclusive(&listener.lock)
        if not listener.closing:
            listener.closing = True
            if (not CancelIoEx(<HANDLE>listener.sock, NULL)
                    and GetLastError() != ERROR_NOT_FOUND):
                listener_abandon(listener)
        ReleaseSRWLockExclusive(&listener.lock)
        listener = listener.next
    if not first:
        return
    AcquireSRWLockExclusive(&engine.lock)
    if engine.starved != NULL:
        SetEvent(engine.keeper_event)
    ReleaseSRWLockExclusive(&engine.lock)
    engine_close_clients(engine, False)
    live_drop(engine)


cdef bint engine_wait_stopped(engine_t *engine, DWORD timeout_ms) noexcept nogil:
    return WaitForSingleObject(engine.stopped_event, timeout_ms) == WAIT_OBJECT_0


cdef bint engine_on_worker(engine_t *engine) noexcept nogil:
    cdef LONG me = <LONG>GetCurrentThreadId()
    cdef int i
    for i in range(engine.config.workers):
        if InterlockedExchangeAdd(&engine.workers[i].thread_id, 0) == me:
            return True
    return False


cdef LONG64 engine_count(engine_t *engine, int counter) noexcept nogil:
    cdef LONG64 total = InterlockedExchangeAdd64(&engine.guest_tally.n[counter], 0)
    cdef int i
    for i in range(engine.config.workers):
        total += InterlockedExchangeAdd64(&engine.workers[i].tally.n[counter], 0)
    return total


cdef void engine_pools(engine_t *engine, pools_t *pools) noexcept nogil:
    cdef const pool_t *pool
    cdef int i
    pools.accepts_pending = InterlockedExchangeAdd64(&engine.accepts_pending, 0)
    pools.connections_draining = InterlockedExchangeAdd64(&engine.draining, 0)
    AcquireSRWLockExclusive(&engine.lock)
    pools.connections_peak = engine.connections_peak
    for i in range(<int>ACCEPT_ERROR_CODES):
        pools.accept_error_codes[i] = engine.accept_error_codes[i]
        pools.accept_error_counts[i] = engine.accept_error_counts[i]
    ReleaseSRWLockExclusive(&engine.lock)
    AcquireSRWLockExclusive(&engine.pool_lock)
    pools.buffers_out = engine.buffers_out
    pools.buffers_peak = engine.buffers_peak
    pools.buffers_free = 0
    pools.buffer_hits = 0
    pools.buffer_misses = 0
    for i in range(<int>N_SIZES):
        pool = &engine.pools[i]
        pools.buffers_free += pool.n_free
        pools.buffer_hits += pool.hits
        pools.buffer_misses += pool.misses
    pools.connections_free = engine.n_free_conns
    pools.connection_hits = engine.conn_hits
    pools.connection_misses = engine.conn_misses
    ReleaseSRWLockExclusive(&engine.pool_lock)
