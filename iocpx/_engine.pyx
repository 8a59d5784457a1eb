"""The engine: made, freed, counted; and the map of its rooms.

    _types     structs, who owns what, the order of the locks
    _wants     what a connection has to do, computed from its state
    _base      counters, clock, buffers, packets, deadlines
    _sched     whose turn it is: ready lists, run queue, references
    _life      how a connection ends: cancelling, failing, closing
    _provider  AcceptEx, ConnectEx, TransmitFile, as the provider of a socket has them
    _connect   ConnectEx: post and completion
    _recv      WSARecv: post and completion
    _files     files that are sent: TransmitFile, post and completion
    _datagrams WSARecvFrom, WSASendTo: post and completion
    _send      WSASend: post and completion
    _conn      a connection's turn
    _open      how a connection begins
    _requests  what the application asks for
    _sendfile  … about files
    _sendto    … about datagrams
    _filter    what lies between a handler and the stream, as TLS
    _delivery  what the handler is told
    _accept    listeners and their pools of AcceptEx
    _service   what is served on an engine: made, stopped, freed, counted
    _file_ops  files of the application's: ReadFile, WriteFile
    _worker    the workers' loop
    _keeper    deadlines, retries, help, the end of the workers
    _engine    this one
    _native    handlers that never enter Python
    _c_handler handlers in C, of other modules, and what they can ask for

Calls go up that list only, from a room to those before it.  The head of each names them, and who
calls it, but for what all stand on: `_types`, `_state`, `_op` and `_winsock`.

Called by `_engines` and `_engine_loop`, and by `_connection`, which asks whether it is on a worker;
calls `_base`, and gives its two packets what completes them (`_worker`).

The life of a connection, with the function to read for each step:

    accept_post              a socket waits in the accept pool (AcceptEx)
      engine_run_worker      a worker dequeues the packet and dispatches its op
      on_accept_complete     the slot is posted again at once; then
      conn_open              the socket joins the port, a conn_t is made and scheduled
      tell (handler_t)       connection_made; a native handler has deliver instead
      conn_served            … and then the first receive:
    recv_post                WSARecv
      on_recv_complete       bytes go into the inbox, the connection is scheduled
      tell, deliver          data_received; what it writes is queued in the outbox
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
as the kernel takes it at once, without an OVERLAPPED; the rest is a worker's.  Files are the
exception (_file_ops).

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

The stop.  service_stop closes listeners and connections; what is still there at
the deadline is aborted; `live` counts acceptors and connections, and at zero the
keeper takes the service out of the engine.  After the last one it ends the workers by
packets.  Nothing is freed on a timeout.

The keeper is one thread that never enters Python: it looks after deadlines and
retries what the system refused for lack of resources.
"""

from libc.stdlib cimport calloc, free

from iocpx._base cimport NEVER, op_init, pools_clear
from iocpx._state cimport pool_init, pool_t
from iocpx._types cimport *
from iocpx._winsock cimport *
from iocpx._worker cimport on_help, on_stop

cdef enum:
    # Buffers have N_SIZES sizes: this, eight times as much, … and config.buffer_size.
    SMALLEST_BYTES = 1024


cdef int engine_open(engine_t *engine) noexcept nogil:
    """The engine's handles.  0 or a Windows code; those that there are stay the engine's."""
    # All workers may run at a time.  With as many as there are CPUs, which 0 stands for, workers
    # whose callbacks compute would keep the one away that is to take their connections over.
    if engine.port == NULL:
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


cdef engine_t *engine_create(const engine_config_t *config, HANDLE port,
                             int *error) noexcept nogil:
    cdef engine_t *engine = <engine_t *>calloc(1, sizeof(engine_t))
    cdef int i
    if engine == NULL:
        error[0] = WSAENOBUFS
        return NULL
    engine.config = config[0]
    engine.port = port
    engine.borrows_port = port != NULL
    engine.holds = 1
    engine.workers_running = config.workers
    InitializeSRWLock(&engine.lock)
    InitializeSRWLock(&engine.run_lock)
    InitializeSRWLock(&engine.pool_lock)
    engine.keeper_due_ms = NEVER
    engine.listen_due_ms = NEVER
    engine.told_due_ms = NEVER
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
        engine.workers[i].index = i
        engine.workers[i].batch = 1
        InitializeSRWLock(&engine.workers[i].lock)
    return engine


cdef void engine_free(engine_t *engine) noexcept nogil:
    if engine.abandoned:
        return
    pools_clear(engine)
    if engine.port != NULL and not engine.borrows_port:
        CloseHandle(engine.port)
    if engine.keeper_event != NULL:
        CloseHandle(engine.keeper_event)
    if engine.accept_event != NULL:
        CloseHandle(engine.accept_event)
    if engine.stopped_event != NULL:
        CloseHandle(engine.stopped_event)
    free(engine.workers)
    free(engine)


cdef bint engine_wait_stopped(engine_t *engine, DWORD timeout_ms) noexcept nogil:
    return WaitForSingleObject(engine.stopped_event, timeout_ms) == WAIT_OBJECT_0


cdef bint engine_ending(engine_t *engine) noexcept nogil:
    AcquireSRWLockExclusive(&engine.lock)
    cdef bint ending = engine.holds == 0 or engine.workers_running == 0
    ReleaseSRWLockExclusive(&engine.lock)
    return ending


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
    ReleaseSRWLockExclusive(&engine.pool_lock)
