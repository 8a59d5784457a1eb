"""Whose turn it is: what a connection has to do, the lists in which it waits for a worker, and
its references.

A connection with something to do is `scheduled` exactly once: in a worker's ready list, in
the run queue or in an on_serve packet.  "Something to do" is computed from the state
(conn_has_news, conn_has_work), not kept in messages, so no wake-up can be lost.

Called by all rooms that change a connection (conn_leave) or have a reference to one (conn_unref),
Python's too, and by the workers, the keeper and `_core` for their lists; calls `_wants` and
`_base`.
"""

from libc.stdlib cimport free
from libc.string cimport memset

from iocpx._base cimport (
    conn_ref, count, count_op, keeper_wants, live_drop, now_ms, packet_post, RETRY_MS,
)
from iocpx._types cimport *
from iocpx._wants cimport conn_has_news, conn_has_work
from iocpx._winsock cimport *

cdef enum:
    SHARE = 16              # connections that a worker takes from the run queue at once


cdef void worker_append(worker_t *worker, conn_t *conn) noexcept nogil:
    """Precondition: worker.lock held."""
    ready_append(&worker.news if conn.deliver and conn.service.config.handler.deliver == NULL
                 else &worker.work, conn)


cdef void conn_to_worker(worker_t *worker, conn_t *conn) noexcept nogil:
    """Bring a scheduled connection to a worker: this one, or any by packet."""
    cdef engine_t *engine
    if worker != NULL:
        AcquireSRWLockExclusive(&worker.lock)
        worker_append(worker, conn)
        ReleaseSRWLockExclusive(&worker.lock)
        return
    engine = conn.engine
    if not packet_post(engine, &conn.serve):
        # Its events would be lost, so the keeper tries again.
        AcquireSRWLockExclusive(&engine.lock)
        conn.next_ready = engine.unposted
        engine.unposted = conn
        keeper_wants(engine, now_ms() + RETRY_MS)
        ReleaseSRWLockExclusive(&engine.lock)


cdef void conn_leave(worker_t *worker, conn_t *conn) noexcept nogil:
    """Release conn.lock; schedule the connection if that left something to do.

    Every change of a connection's state ends here.
    """
    cdef bint wake = False
    if conn.waiters != 0:
        WakeAllConditionVariable(&conn.writable)
    # Whoever serves a scheduled one looks again before giving it up.
    if not conn.scheduled:
        conn.deliver = conn_has_news(conn)
        wake = conn.deliver or conn_has_work(conn)
        if wake:
            conn.scheduled = True
            conn_ref(conn)
    ReleaseSRWLockExclusive(&conn.lock)
    if wake:
        conn_to_worker(worker, conn)


cdef void conn_retire(conn_t *conn) noexcept nogil:
    cdef service_t *service = conn.service
    free(conn.files)
    conn.files = NULL
    AcquireSRWLockExclusive(&service.engine.pool_lock)
    if service.n_free_conns < service.config.max_free_connections:
        conn.next_ready = service.free_conns
        service.free_conns = conn
        service.n_free_conns += 1
        conn = NULL
    ReleaseSRWLockExclusive(&service.engine.pool_lock)
    free(conn)
    count(service, NULL, N_CONNECTIONS_RETIRED, 1)
    live_drop(service)


cdef conn_t *worker_next(worker_t *worker) noexcept nogil:
    AcquireSRWLockExclusive(&worker.lock)
    cdef conn_t *conn = ready_pop(&worker.news)
    ReleaseSRWLockExclusive(&worker.lock)
    return conn


cdef void worker_delivered(worker_t *worker, conn_t *conn) noexcept nogil:
    # Not the executor's end: another worker may serve it from here on, but until then
    # what this thread writes to it waits for that.  Without the lock, since while
    # `executor` is this thread nobody else looks at it.
    conn.delivering = False
    AcquireSRWLockExclusive(&worker.lock)
    ready_append(&worker.work, conn)
    ReleaseSRWLockExclusive(&worker.lock)


cdef conn_t *worker_next_work(worker_t *worker) noexcept nogil:
    AcquireSRWLockExclusive(&worker.lock)
    cdef conn_t *conn = ready_pop(&worker.work)
    ReleaseSRWLockExclusive(&worker.lock)
    return conn


cdef bint worker_has_any(worker_t *worker) noexcept nogil:
    AcquireSRWLockExclusive(&worker.lock)
    cdef bint some = worker.news.head != NULL or worker.work.head != NULL
    ReleaseSRWLockExclusive(&worker.lock)
    return some


cdef bint engine_has_waiting(engine_t *engine) noexcept nogil:
    AcquireSRWLockExclusive(&engine.run_lock)
    cdef bint some = engine.run_queue.head != NULL
    ReleaseSRWLockExclusive(&engine.run_lock)
    return some


cdef void worker_share(worker_t *worker) noexcept nogil:
    """Where connections wait in the run queue, those that this worker has join it at the
    end, and it takes up to SHARE from the front."""
    cdef engine_t *engine = worker.engine
    cdef conn_t *conn
    cdef int n = 0
    AcquireSRWLockExclusive(&worker.lock)
    AcquireSRWLockExclusive(&engine.run_lock)
    if engine.run_queue.head != NULL:
        ready_move(&worker.news, &engine.run_queue)
        ready_move(&worker.work, &engine.run_queue)
        conn = ready_pop(&engine.run_queue)
        while conn != NULL:
            worker_append(worker, conn)
            n += 1
            conn = ready_pop(&engine.run_queue) if n < SHARE else NULL
    ReleaseSRWLockExclusive(&engine.run_lock)
    ReleaseSRWLockExclusive(&worker.lock)


cdef bint worker_take_over(worker_t *worker) noexcept nogil:
    """Before a worker waits: take what the others have not come to, because one of
    their callbacks takes long.  True: it has something to do now.

    Without this a connection would wait for the callback of another one only
    because one worker dequeued both, while other workers are idle.
    """
    cdef engine_t *engine = worker.engine
    cdef worker_t *other
    cdef ready_t news
    cdef ready_t work
    cdef bint some = False
    cdef int i
    for i in range(engine.config.workers):
        other = &engine.workers[i]
        if other == worker:
            continue
        AcquireSRWLockExclusive(&other.lock)
        news = other.news
        work = other.work
        memset(&other.news, 0, sizeof(ready_t))
        memset(&other.work, 0, sizeof(ready_t))
        ReleaseSRWLockExclusive(&other.lock)
        if news.head != NULL or work.head != NULL:
            some = True
            AcquireSRWLockExclusive(&worker.lock)
            ready_move(&news, &worker.news)
            ready_move(&work, &worker.work)
            ReleaseSRWLockExclusive(&worker.lock)
    if some:
        count_op(engine, worker, E_TAKEOVERS, 1)
    return some
