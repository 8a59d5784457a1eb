"""The workers' loop: look at the port, handle the packets, deliver, serve.

Called by the threads of `_engines`, and on a loop by `_engine_loop`; calls what completes each op
(`op_t.done`), the handlers (`handler_t.deliver`, or for Python `deliver_batch`, which is
`_core`'s), `_conn` for those that were ready, `_file_ops`, `_sched` and `_base`.
"""

from libc.stdint cimport uint64_t
from libc.string cimport memset

from iocpx._base cimport (
    count_op, engine_key, engine_trouble, keeper_wants, NEVER, now_ms, packet_came, RETRY_MS,
)
from iocpx._conn cimport conn_send_all, conn_send_turn, conn_served
from iocpx._file_ops cimport engine_file_ops
from iocpx._op cimport op_t
from iocpx._sched cimport (
    engine_has_waiting, ready_append, ready_move, ready_pop, worker_has_any, worker_next_work,
    worker_share, worker_take_over,
)
from iocpx._types cimport *
from iocpx._winsock cimport *

cdef enum:
    # Where only new clients can be in the port: shares in a row without a look at it, and for
    # how long.
    UNLOOKED = 3
    UNLOOKED_MS = 4
    PORT_ATTEMPTS = 100     # looks at the port that fail, in a row, while the server stops


cdef void worker_serve_work(worker_t *worker) noexcept nogil:
    """Serve those that Python has been told all of, and those that it is told nothing of."""
    cdef conn_t *conn = worker_next_work(worker)
    cdef deliver_fn deliver
    while conn != NULL:
        deliver = conn.service.config.handler.deliver
        if deliver != NULL:
            if conn.deliver:
                deliver(conn)
            conn_served(worker, conn)
        else:
            conn_send_turn(worker, conn)
            ready_append(&worker.sent, conn)
        conn = worker_next_work(worker)
    # Those that Python was told of receive after all of them have sent: by then some peers have
    # answered, and what is there already is received without a packet.  On a loop most answers
    # come from tasks, which run after this: there it waits for the next look (worker_go_on).
    if worker.sent.head != NULL and not worker.engine.borrows_port:
        worker_receive(worker)


cdef void worker_receive(worker_t *worker) noexcept nogil:
    cdef conn_t *conn = ready_pop(&worker.sent)
    while conn != NULL:
        conn_served(worker, conn)
        conn = ready_pop(&worker.sent)


cdef void worker_go_on(worker_t *worker) noexcept nogil:
    """On a loop, when its callbacks have run: what these have written to those that Python was
    told of is sent first, then they receive."""
    cdef ready_t told = worker.sent
    cdef conn_t *conn = ready_pop(&told)
    memset(&worker.sent, 0, sizeof(ready_t))
    while conn != NULL:
        conn_send_turn(worker, conn)
        ready_append(&worker.sent, conn)
        conn = ready_pop(&told)
    worker_receive(worker)


cdef void worker_yield(worker_t *worker) noexcept nogil:
    """Those that have had their share and have more wait for their turn with whoever has time."""
    cdef engine_t *engine = worker.engine
    if worker.again.head != NULL:
        # Nobody is told: this worker looks at the queue before it waits, and the keeper
        # wakes others if that takes long.
        AcquireSRWLockExclusive(&engine.run_lock)
        ready_move(&worker.again, &engine.run_queue)
        ReleaseSRWLockExclusive(&engine.run_lock)


cdef void worker_tell(worker_t *worker, bint several) noexcept nogil:
    """Call Python, for all that it is to be told: once."""
    cdef engine_t *engine = worker.engine
    worker_yield(worker)    # not behind a callback that may take long
    if several or engine_has_waiting(engine):
        # Should one callback take long, the keeper sees to the others.
        AcquireSRWLockExclusive(&engine.lock)
        if engine.help_due_ms == NEVER:
            engine.help_due_ms = now_ms() + HELP_MS
            keeper_wants(engine, engine.help_due_ms)
        ReleaseSRWLockExclusive(&engine.lock)
    count_op(engine, worker, E_GIL_ACQUISITIONS, 1)
    engine.config.deliver_batch(worker)


cdef void worker_do_also(worker_t *worker) noexcept nogil:
    """What packets have brought beside work of connections."""
    cdef engine_t *engine = worker.engine
    cdef bint helps = worker.also & ALSO_HELP
    worker.also = 0
    if helps:
        # Not before: what is late already must not queue up again.
        worker_take_over(worker)
    # What comes while these are told is told by the worker that brings it.
    worker.file_share = engine_file_ops(engine)
    if worker.file_share > 0:
        # First what needs no Python, which may take its time.
        worker_serve_work(worker)
        worker_tell(worker, worker.file_share > 1 or worker_has_any(worker))


cdef void worker_serve(worker_t *worker) noexcept nogil:
    """Serve all that are ready, those that wait for Python last, which it tells in one call."""
    cdef bint news
    cdef bint several
    worker_serve_work(worker)
    AcquireSRWLockExclusive(&worker.lock)
    news = worker.news.head != NULL
    several = worker.news.head != worker.news.tail
    ReleaseSRWLockExclusive(&worker.lock)
    if news:
        worker_tell(worker, several)
        worker_serve_work(worker)
    worker_yield(worker)


cdef void worker_serve_all(worker_t *worker) noexcept nogil:
    """Serve until nothing is left that this worker has."""
    cdef bint some = True
    while some:
        worker_serve(worker)
        some = worker_has_any(worker)


cdef bint worker_wait_out(worker_t *worker, DWORD error) noexcept nogil:
    """The look at the port has failed, for lack of memory most likely.  Its packets are not
    lost, so it is tried again a little later.  False: not any more, nothing is served and it
    has failed too often; what was pending then stays with the kernel.
    """
    cdef engine_t *engine = worker.engine
    AcquireSRWLockExclusive(&engine.lock)
    cdef bint running = engine.serving > 0
    engine_trouble(engine, <int>error)
    ReleaseSRWLockExclusive(&engine.lock)
    worker.failures = 0 if running else worker.failures + 1
    if worker.failures > PORT_ATTEMPTS:
        return False
    # Not set before this worker has ended: a pause.
    WaitForSingleObject(engine.stopped_event, RETRY_MS)
    return True


cdef int worker_step(worker_t *worker, DWORD timeout_ms, OVERLAPPED_ENTRY *foreign,
                     ULONG max_packets) noexcept nogil:
    """A look at the port, if it cannot be spared, and the work that follows.  The number of
    packets put into `foreign`, which may be NULL: then the port is the engine's own."""
    cdef engine_t *engine = worker.engine
    cdef int n_foreign = 0
    cdef ULONG n = 0
    cdef ULONG i
    cdef op_t *op
    cdef bint ok
    cdef DWORD error
    cdef uint64_t now
    if (worker.unlooked < UNLOOKED and foreign == NULL
            and InterlockedExchangeAdd(&engine.packets_due, 0) <= 0
            and engine_has_waiting(engine)):
        # A look at the port is a call of the system, and only new clients can be in it.
        now = now_ms()
        if worker.unlooked == 0:
            worker.look_due_ms = now + UNLOOKED_MS
        if now < worker.look_due_ms:
            worker.unlooked += 1
            worker_share(worker)
            worker_serve_all(worker)
            return 0
    worker.unlooked = 0
    # Idle first, then the last look: whoever gets something to do after that
    # look sees an idle worker, and has the keeper watch over it.
    cdef bint others_idle = InterlockedIncrement(&engine.workers_idle) > 1
    cdef bint waiting = engine_has_waiting(engine)
    if not waiting and worker_take_over(worker):
        # These have waited long enough, so the port comes after them.
        InterlockedDecrement(&engine.workers_idle)
        worker_serve_all(worker)
        return 0
    # Where others are idle they shall get their share of the packets, unless there are more
    # than all of them take.
    if not others_idle or waiting:
        worker.batch = PACKETS_PER_WAIT
    worker.batch = min(worker.batch, max_packets)
    ok = GetQueuedCompletionStatusEx(engine.port, worker.entries, worker.batch, &n,
                                     0 if waiting else timeout_ms, False)
    error = 0 if ok else GetLastError()
    InterlockedDecrement(&engine.workers_idle)
    if ok or error == WAIT_TIMEOUT:
        worker.failures = 0
    if ok:
        for i in range(n):
            # First whose packet it is: what somebody else has posted is no op.
            if worker.entries[i].lpCompletionKey == engine_key(engine):
                op = <op_t *>worker.entries[i].lpOverlapped
                op.done(worker, op, worker.entries[i].dwNumberOfBytesTransferred)
            elif foreign != NULL:
                foreign[n_foreign] = worker.entries[i]
                n_foreign += 1
        count_op(engine, worker, E_WAITS, 1)
        count_op(engine, worker, E_PACKETS, n - <ULONG>n_foreign)
        count_op(engine, worker, E_OPS_COMPLETED, n - <ULONG>n_foreign)
    elif error == WAIT_TIMEOUT:
        count_op(engine, worker, E_EMPTY_WAITS, 1)
    else:
        worker.ending = not worker_wait_out(worker, error)
    worker.batch = (min(2 * worker.batch, <ULONG>PACKETS_PER_WAIT) if n == worker.batch
                    else max(n, <ULONG>1))
    worker_share(worker)
    if worker.also != 0:
        worker_do_also(worker)
    worker_serve_all(worker)
    return n_foreign


cdef void on_help(void *by, op_t *op, DWORD nbytes) noexcept nogil:
    cdef worker_t *worker = <worker_t *>by
    cdef engine_t *engine = worker.engine
    packet_came(engine)
    AcquireSRWLockExclusive(&engine.lock)
    engine.help_posted = False
    if engine.holds == 0:
        SetEvent(engine.keeper_event)
    ReleaseSRWLockExclusive(&engine.lock)
    worker.also |= ALSO_HELP


cdef void on_stop(void *by, op_t *op, DWORD nbytes) noexcept nogil:
    cdef worker_t *worker = <worker_t *>by
    cdef engine_t *engine = worker.engine
    packet_came(engine)
    # On a borrowed port it only wakes: until the last poll a new service may come.
    if not engine.borrows_port:
        worker.ending = True
        return
    AcquireSRWLockExclusive(&engine.lock)
    engine.stop_posted = False
    ReleaseSRWLockExclusive(&engine.lock)


cdef void engine_run_worker(engine_t *engine, int index) noexcept nogil:
    cdef worker_t *worker = &engine.workers[index]
    InterlockedExchange(&worker.thread_id, <LONG>GetCurrentThreadId())
    while not worker.ending:
        worker_step(worker, INFINITE, NULL, PACKETS_PER_WAIT)
    InterlockedExchange(&worker.thread_id, 0)
    engine_forgo_worker(engine)


cdef int engine_poll(engine_t *engine, DWORD timeout_ms, OVERLAPPED_ENTRY *foreign,
                     int max_foreign) noexcept nogil:
    cdef worker_t *worker = &engine.workers[0]
    cdef int n
    if worker.ending:
        return -1
    InterlockedExchange(&worker.thread_id, <LONG>GetCurrentThreadId())
    # What its thread has asked for since the last poll.  A callback of those may have asked for
    # something else than packets, so nobody waits then.
    if engine_serve(engine):
        timeout_ms = 0
    n = worker_step(worker, timeout_ms, foreign,
                    <ULONG>min(max_foreign, <int>PACKETS_PER_WAIT))
    InterlockedExchange(&worker.thread_id, 0)
    AcquireSRWLockExclusive(&engine.lock)
    if worker.ending:
        # The port is broken.  What is in it may still come out, with somebody else.
        engine.abandoned = engine.abandoned or engine.help_posted or engine.stop_posted
    elif engine.holds == 0 and not engine.help_posted and not engine.stop_posted:
        worker.ending = True
    if worker.ending:
        worker_ended(engine)
    ReleaseSRWLockExclusive(&engine.lock)
    return n


cdef bint engine_serve(engine_t *engine) noexcept nogil:
    cdef worker_t *worker = &engine.workers[0]
    cdef LONG64 before = worker.tally.n[<int>E_GIL_ACQUISITIONS]
    cdef bint told = False
    worker_go_on(worker)
    while not told and (worker_has_any(worker) or worker.again.head != NULL):
        worker_serve_all(worker)
        told = worker.tally.n[<int>E_GIL_ACQUISITIONS] != before
        if not told:
            worker_receive(worker)      # no callback comes that could write more
    return told


cdef void engine_take_waiting(engine_t *engine, ready_t *waiting) noexcept nogil:
    cdef worker_t *worker = &engine.workers[0]
    worker_go_on(worker)
    worker_serve_work(worker)
    worker_receive(worker)
    memset(waiting, 0, sizeof(ready_t))
    AcquireSRWLockExclusive(&worker.lock)
    AcquireSRWLockExclusive(&engine.run_lock)
    ready_move(&engine.run_queue, waiting)
    ready_move(&worker.news, waiting)
    ready_move(&worker.work, waiting)
    ready_move(&worker.again, waiting)
    ReleaseSRWLockExclusive(&engine.run_lock)
    ReleaseSRWLockExclusive(&worker.lock)


cdef void engine_send_waiting(engine_t *engine, ready_t *waiting) noexcept nogil:
    cdef conn_t *conn = ready_pop(waiting)
    while conn != NULL:
        conn_send_all(&engine.workers[0], conn)
        AcquireSRWLockExclusive(&engine.run_lock)
        ready_append(&engine.run_queue, conn)
        ReleaseSRWLockExclusive(&engine.run_lock)
        conn = ready_pop(waiting)


cdef void engine_flush(engine_t *engine) noexcept nogil:
    cdef ready_t waiting
    engine_take_waiting(engine, &waiting)
    engine_send_waiting(engine, &waiting)


cdef void engine_complete(engine_t *engine, op_t *op, DWORD nbytes) noexcept nogil:
    cdef worker_t *worker = &engine.workers[0]
    count_op(engine, worker, E_PACKETS, 1)
    count_op(engine, worker, E_OPS_COMPLETED, 1)
    op.done(worker, op, nbytes)


cdef void engine_tell(engine_t *engine) noexcept nogil:
    worker_serve_all(&engine.workers[0])


cdef bint engine_has_more(engine_t *engine) noexcept nogil:
    cdef worker_t *worker = &engine.workers[0]
    return worker_has_any(worker) or worker.sent.head != NULL or engine_has_waiting(engine)


cdef void worker_ended(engine_t *engine) noexcept nogil:
    """Precondition: engine.lock held."""
    engine.workers_running -= 1
    engine.stop_posted = False
    SetEvent(engine.keeper_event)


cdef void engine_forgo_worker(engine_t *engine) noexcept nogil:
    # Under the lock, so that the keeper cannot finish, and the engine be freed,
    # between the two calls.
    AcquireSRWLockExclusive(&engine.lock)
    worker_ended(engine)
    ReleaseSRWLockExclusive(&engine.lock)
