"""The keeper: one thread for deadlines, retries of what the system refused, help for
connections behind a long callback, and the end of the workers.

Never enters Python.  Called by `_engines`, whose thread it is; calls `_accept`, `_requests`,
`_conn`, `_life`, `_file_ops`, `_sched` and `_base`.
"""

from libc.stdint cimport uint64_t

from iocpx._accept cimport (
    accept_post, listener_begin, listener_crowded, listener_look_after, listener_tell, SHRINK_MS,
)
from iocpx._base cimport (
    conn_arm, conn_disarm_timer, conn_drop_spare, conn_ref, NEVER, now_ms, packet_post,
    pools_clear, RETRY_MS, trace,
)
from iocpx._conn cimport conn_advance, conn_close_due, conn_served
from iocpx._file_ops cimport engine_file_ops
from iocpx._life cimport conn_cancel, conn_fail, recv_take_back
from iocpx._requests cimport EACH_STOP, service_for_each
from iocpx._sched cimport (
    conn_leave, conn_to_worker, conn_unref, engine_has_waiting, worker_has_any, worker_next_work,
)
from iocpx._state cimport (
    deadline_disarm, deadline_t, deadlines_first, deadlines_t, STATE_ABORTING, STATE_ENDING,
    STATE_OPEN,
)
from iocpx._types cimport *
from iocpx._winsock cimport *
from iocpx._worker cimport HELP_MS


cdef void conn_quiet_due(conn_t *conn) noexcept nogil:
    """If nothing was received since the last look: no buffer for this one any more."""
    cdef int i
    AcquireSRWLockExclusive(&conn.lock)
    if conn.state == STATE_ABORTING or conn.state == STATE_ENDING:
        conn_cancel(conn)
    elif conn.service.config.datagrams:
        # What Windows has refused to receive is tried again.
        conn.eof_seen = conn.state != STATE_OPEN
    elif conn.state == STATE_OPEN and not conn.idle:
        if conn.receives != conn.receives_seen or conn.inbox.head != NULL:
            conn.receives_seen = conn.receives
            conn_arm(conn, &conn.service.quiet, &conn.quiet)
        else:
            trace(conn, "quiet", 0)
            conn.idle = True
            conn_drop_spare(conn)
            # A receive completes with its data or as cancelled, never as both, and
            # what it did not take stays with the socket: receive time-outs of other
            # runtimes on Windows rest on the same.
            for i in range(conn.window.size):
                recv_take_back(conn, &conn.recvs[i])
    conn_leave(NULL, conn)


cdef void conn_idle_due(conn_t *conn) noexcept nogil:
    """Looked at several times per idle timeout, so that it is neither early nor very late."""
    cdef uint64_t now = now_ms()
    AcquireSRWLockExclusive(&conn.lock)
    if conn.state == STATE_OPEN:
        # The added 1: both times are rounded down.
        if now >= conn.active_ms + conn.service.config.idle_timeout_ms + 1:
            conn_fail(conn, ABORT_IDLE, WSAETIMEDOUT, False)
        else:
            conn_arm(conn, &conn.service.idling, &conn.idling)
    conn_advance(NULL, conn, False)


cdef void conn_timer_due(conn_t *conn, uint64_t now) noexcept nogil:
    AcquireSRWLockExclusive(&conn.lock)
    # Again under its lock: it may have been told meanwhile, and asked for a later time.
    if 0 < conn.timer.due <= now:
        conn_disarm_timer(conn)
        conn.due |= DUE_TIMERS
    conn_leave(NULL, conn)


cdef conn_t *keeper_timer(engine_t *engine, uint64_t now) noexcept nogil:
    """A connection whose handler is to be woken by now, with a reference; NULL: none."""
    cdef conn_t *conn = NULL
    AcquireSRWLockExclusive(&engine.lock)
    if engine.timers.first != NULL and engine.timers.first.due <= now:
        # In the heap, so the handle is open and holds a reference.
        conn = <conn_t *>engine.timers.first.owner
        conn_ref(conn)
    ReleaseSRWLockExclusive(&engine.lock)
    return conn


cdef conn_t *keeper_expired(engine_t *engine, deadlines_t *deadlines, uint64_t now) noexcept nogil:
    """A connection whose deadline has passed, with a reference; NULL: none."""
    cdef conn_t *conn = NULL
    AcquireSRWLockExclusive(&engine.lock)
    cdef deadline_t *deadline = deadlines_first(deadlines)
    if deadline != NULL and deadline.due_ms <= now:
        deadline_disarm(deadline)
        # In the list, so the handle is open and holds a reference.
        conn = <conn_t *>deadline.link.owner
        conn_ref(conn)
    ReleaseSRWLockExclusive(&engine.lock)
    return conn


cdef service_t *keeper_services(engine_t *engine) noexcept nogil:
    """The first of the services.  No lock is needed to go on from there: new ones come before
    it, and only the keeper takes one out."""
    AcquireSRWLockExclusive(&engine.lock)
    cdef service_t *service = engine.services
    ReleaseSRWLockExclusive(&engine.lock)
    return service


cdef listener_t *service_listeners(service_t *service) noexcept nogil:
    """Likewise the first of its listeners, of which none goes."""
    AcquireSRWLockExclusive(&service.engine.lock)
    cdef listener_t *listener = service.listeners
    ReleaseSRWLockExclusive(&service.engine.lock)
    return listener


cdef void keeper_deadlines(service_t *service, uint64_t now) noexcept nogil:
    cdef engine_t *engine = service.engine
    cdef conn_t *conn = keeper_expired(engine, &service.closing, now)
    while conn != NULL:
        conn_close_due(conn, False)
        conn_unref(conn)
        conn = keeper_expired(engine, &service.closing, now)
    conn = keeper_expired(engine, &service.idling, now)
    while conn != NULL:
        conn_idle_due(conn)
        conn_unref(conn)
        conn = keeper_expired(engine, &service.idling, now)
    conn = keeper_expired(engine, &service.quiet, now)
    while conn != NULL:
        conn_quiet_due(conn)
        conn_unref(conn)
        conn = keeper_expired(engine, &service.quiet, now)


cdef void keeper_timers(engine_t *engine, uint64_t now) noexcept nogil:
    cdef conn_t *conn = keeper_timer(engine, now)
    while conn != NULL:
        conn_timer_due(conn, now)
        conn_unref(conn)
        conn = keeper_timer(engine, now)


cdef void keeper_listeners(service_t *service, uint64_t now) noexcept nogil:
    """Look after the accept pools every accept_period_ms."""
    cdef engine_t *engine = service.engine
    cdef listener_t *listener
    cdef bint due
    cdef bint shrink
    AcquireSRWLockExclusive(&engine.lock)
    listener = service.listeners
    due = service.accept_period_ms != 0 and service.accept_due_ms <= now
    shrink = service.shrink_due_ms <= now
    if due:
        service.accept_due_ms = now + service.accept_period_ms
    if shrink:
        service.shrink_due_ms = now + SHRINK_MS
    ReleaseSRWLockExclusive(&engine.lock)
    while due and listener != NULL:
        listener_look_after(listener, shrink)
        listener = listener.next


cdef void keeper_accept_event(engine_t *engine, uint64_t now) noexcept nogil:
    """FD_ACCEPT has come, or an AcceptEx without a packet is over, of any listener."""
    cdef service_t *service = keeper_services(engine)
    cdef listener_t *listener
    cdef bint all_told = True
    while service != NULL:
        listener = service_listeners(service)
        while listener != NULL:
            if listener.shared:
                all_told = listener_tell(listener) and all_told
            else:
                listener_crowded(listener)
            listener = listener.next
        service = service.next
    AcquireSRWLockExclusive(&engine.lock)
    engine.told_due_ms = NEVER if all_told else now + RETRY_MS
    ReleaseSRWLockExclusive(&engine.lock)


cdef void keeper_begin(engine_t *engine, uint64_t now) noexcept nogil:
    """The first AcceptEx of listeners that have come."""
    cdef service_t *service
    cdef listener_t *listener
    cdef bint all_have = True
    AcquireSRWLockExclusive(&engine.lock)
    cdef bint due = engine.listen_due_ms <= now
    if due:
        engine.listen_due_ms = NEVER
    ReleaseSRWLockExclusive(&engine.lock)
    if not due:
        return
    service = keeper_services(engine)
    while service != NULL:
        listener = service_listeners(service)
        while listener != NULL:
            all_have = listener_begin(listener) and all_have
            listener = listener.next
        service = service.next
    if not all_have:
        AcquireSRWLockExclusive(&engine.lock)
        engine.listen_due_ms = min(engine.listen_due_ms, now + RETRY_MS)
        ReleaseSRWLockExclusive(&engine.lock)


cdef void keeper_retry(engine_t *engine, uint64_t now) noexcept nogil:
    """Post again what the system refused."""
    cdef acceptor_t *starved = NULL
    cdef acceptor_t *next_starved
    cdef conn_t *unposted
    cdef conn_t *next_unposted
    AcquireSRWLockExclusive(&engine.lock)
    if engine.starved_due_ms <= now:
        starved = engine.starved
        engine.starved = NULL
    unposted = engine.unposted
    engine.unposted = NULL
    ReleaseSRWLockExclusive(&engine.lock)
    while starved != NULL:
        next_starved = starved.next_starved
        accept_post(NULL, starved)
        starved = next_starved
    while unposted != NULL:
        next_unposted = unposted.next_ready
        conn_to_worker(NULL, unposted)
        unposted = next_unposted


cdef void keeper_help(engine_t *engine, uint64_t now) noexcept nogil:
    """If a worker still has connections waiting, because of a long callback: have another
    one take them over.  Where none is idle, at least send what finished callbacks have
    written."""
    cdef bint waiting
    cdef bint idle
    cdef bint stuck
    cdef bint post
    cdef conn_t *conn
    cdef int i
    AcquireSRWLockExclusive(&engine.lock)
    cdef bint due = engine.help_due_ms <= now
    if due:
        engine.help_due_ms = NEVER
    ReleaseSRWLockExclusive(&engine.lock)
    if not due:
        return
    waiting = engine_has_waiting(engine)
    stuck = waiting or engine_file_ops(engine) > 0
    for i in range(engine.config.workers):
        stuck = stuck or worker_has_any(&engine.workers[i])
    if not stuck:
        return
    idle = InterlockedExchangeAdd(&engine.workers_idle, 0) > 0
    # While connections wait for their turn no worker sleeps, or looks after the others:
    # whoever serves them comes by the port.
    post = idle or waiting
    for i in range(0 if idle else engine.config.workers):
        conn = worker_next_work(&engine.workers[i])
        while conn != NULL:
            conn_served(NULL, conn)
            conn = worker_next_work(&engine.workers[i])
    AcquireSRWLockExclusive(&engine.lock)
    engine.help_due_ms = now + HELP_MS
    post = post and not engine.help_posted and engine.holds > 0
    if post:
        engine.help_posted = packet_post(engine, &engine.help)
    ReleaseSRWLockExclusive(&engine.lock)


cdef bint keeper_finish(engine_t *engine) noexcept nogil:
    """Nothing is left but the workers: end one after the other.  True: all are gone.

    Precondition: engine.lock held.
    """
    # One packet at a time, since a worker may take several at once; a refused
    # post is tried again on the next look.  After `help`: the last worker takes no other.
    if engine.workers_running > 0 and not engine.stop_posted and not engine.help_posted:
        engine.stop_posted = packet_post(engine, &engine.stop)
    return engine.workers_running == 0


cdef void keeper_serve(service_t *service, uint64_t now) noexcept nogil:
    """What is due of one service."""
    cdef engine_t *engine = service.engine
    cdef bint stop
    keeper_deadlines(service, now)
    keeper_listeners(service, now)
    AcquireSRWLockExclusive(&engine.lock)
    stop = service.stop_due_ms <= now
    if stop:
        service.stop_due_ms = NEVER
    ReleaseSRWLockExclusive(&engine.lock)
    if stop:
        service_for_each(service, EACH_STOP)


cdef bint keeper_end_service(engine_t *engine, bint dead, keeper_news_t *news) noexcept nogil:
    """Take out a service of which nothing is left.  False: there is none.

    dead: nobody works any more, so what the others have pending stays with the kernel, and their
    memory with them; they end all the same.
    """
    cdef service_t **place = &engine.services
    cdef service_t *service
    AcquireSRWLockExclusive(&engine.lock)
    while place[0] != NULL and not (place[0].over or dead):
        place = &place[0].next
    service = place[0]
    if service != NULL:
        place[0] = service.next
        engine.holds -= 1
        engine.abandoned = engine.abandoned or not service.over
        news.context = service.config.handler.context
        # For the next one, or for the engine's own end.
        SetEvent(engine.keeper_event)
        # The last that is done with it: whoever waits for that may free it.
        if service.stopped_event != NULL:
            SetEvent(service.stopped_event)
    ReleaseSRWLockExclusive(&engine.lock)
    return service != NULL


cdef uint64_t service_due(service_t *service) noexcept nogil:
    """When the keeper has to look after it.  Precondition: engine.lock held."""
    cdef uint64_t due = service.stop_due_ms
    cdef deadline_t *deadline = deadlines_first(&service.closing)
    if deadline != NULL:
        due = min(due, deadline.due_ms)
    deadline = deadlines_first(&service.quiet)
    if deadline != NULL:
        due = min(due, deadline.due_ms)
    deadline = deadlines_first(&service.idling)
    if deadline != NULL:
        due = min(due, deadline.due_ms)
    if not service.stopping and service.accept_period_ms != 0:
        due = min(due, service.accept_due_ms)
    return due


cdef bint keeper_step(engine_t *engine) noexcept nogil:
    """One wait of the keeper and the work that follows.  False: the engine has stopped."""
    cdef HANDLE[2] events
    cdef service_t *service
    cdef uint64_t now = now_ms()
    cdef uint64_t due
    cdef DWORD wait_ms
    cdef DWORD woken
    cdef bint finished
    AcquireSRWLockExclusive(&engine.lock)
    due = min(min(engine.help_due_ms, engine.listen_due_ms), engine.told_due_ms)
    service = engine.services
    while service != NULL:
        due = min(due, service_due(service))
        service = service.next
    if engine.timers.first != NULL:
        due = min(due, engine.timers.first.due)
    if engine.starved != NULL:
        due = min(due, engine.starved_due_ms)
    if engine.unposted != NULL or engine.holds == 0 or engine.workers_running == 0:
        due = min(due, now + RETRY_MS)
    engine.keeper_due_ms = due
    cdef uint64_t told_due = engine.told_due_ms
    ReleaseSRWLockExclusive(&engine.lock)

    events[0] = engine.keeper_event
    events[1] = engine.accept_event
    if due == NEVER:
        wait_ms = INFINITE
    else:
        wait_ms = <DWORD>min(due - now, <uint64_t>60000) if due > now else 0
    woken = WaitForMultipleObjects(2, events, False, wait_ms)
    if woken == WAIT_FAILED:
        # For lack of memory; without the pause the keeper would spin until there is some.
        WaitForSingleObject(engine.stopped_event, RETRY_MS)
    now = now_ms()
    # Where the wait failed nobody has looked at the event, and whoever has a client waits for it.
    if woken == WAIT_FAILED or woken == WAIT_OBJECT_0 + 1 or told_due <= now:
        keeper_accept_event(engine, now)
    keeper_help(engine, now)
    keeper_begin(engine, now)
    keeper_retry(engine, now)
    keeper_timers(engine, now)
    service = keeper_services(engine)
    while service != NULL:
        keeper_serve(service, now)
        service = service.next

    AcquireSRWLockExclusive(&engine.lock)
    # No workers: they could not be started, or their port is broken.
    finished = (engine.holds == 0 or engine.workers_running == 0) and keeper_finish(engine)
    ReleaseSRWLockExclusive(&engine.lock)
    return not finished


cdef bint engine_run_keeper(engine_t *engine, keeper_news_t *news) noexcept nogil:
    cdef bint running = True
    while running:
        running = keeper_step(engine)
        AcquireSRWLockExclusive(&engine.lock)
        news.trouble = engine.trouble if engine.serving > 0 else 0
        engine.trouble = 0
        ReleaseSRWLockExclusive(&engine.lock)
        news.ended = keeper_end_service(engine, not running, news)
        if news.trouble != 0 or news.ended:
            return True
    pools_clear(engine)
    # The lock: a worker that ends may still be inside engine_forgo_worker.
    AcquireSRWLockExclusive(&engine.lock)
    ReleaseSRWLockExclusive(&engine.lock)
    SetEvent(engine.stopped_event)
    return False


cdef void engine_forgo_keeper(engine_t *engine) noexcept nogil:
    SetEvent(engine.stopped_event)
