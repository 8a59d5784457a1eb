"""A service: what is served on an engine, with its own limits, handler, listeners, connections
and figures.  Made, stopped, freed, counted.

Several share one engine, its port, its workers and its buffers; one stops while the others go
on.

Called by `_runtime` and `_endpoint`, which have one each, by `_clients` and `_datagram_server`,
which retire theirs; calls `_accept`, `_requests` and `_base`.
"""

from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free

from iocpx._accept cimport listener_cancel, SHRINK_MS, SILENT_MS
from iocpx._base cimport keeper_wants, live_drop, NEVER, now_ms
from iocpx._requests cimport service_close_clients
from iocpx._state cimport deadlines_init, list_init
from iocpx._types cimport *
from iocpx._winsock cimport *

cdef enum:
    QUIET_MS = 1000         # without data before a receive's buffer is taken back


cdef service_t *service_create(engine_t *engine, const service_config_t *config,
                               HANDLE stopped_event) noexcept nogil:
    cdef service_t *service = <service_t *>calloc(1, sizeof(service_t))
    if service == NULL:
        return NULL
    service.tallies = <tally_t *>calloc(1 + <size_t>engine.config.workers, sizeof(tally_t))
    if service.tallies == NULL:
        free(service)
        return NULL
    service.config = config[0]
    service.engine = engine
    service.stopped_event = stopped_event
    service.live = 1
    InitializeSRWLock(&service.pass_lock)
    list_init(&service.connections)
    deadlines_init(&service.closing, config.close_timeout_ms)
    deadlines_init(&service.quiet, QUIET_MS)
    deadlines_init(&service.idling, config.idle_timeout_ms // 8 + 1)
    # Silent clients are looked for several times per timeout, so that none stays
    # much longer; a pool that never grows need not shrink.
    if config.accept_receive:
        service.accept_period_ms = min(config.accept_timeout_ms // 8 + 1, <uint64_t>SILENT_MS)
    elif config.max_accepts > config.initial_accepts:
        service.accept_period_ms = SHRINK_MS
    service.accept_due_ms = now_ms() + service.accept_period_ms
    service.shrink_due_ms = now_ms() + SHRINK_MS
    service.stop_due_ms = NEVER
    AcquireSRWLockExclusive(&engine.lock)
    # The keeper has the listeners' deadlines from when there are some: service_listen wakes it.
    cdef bint running = engine.workers_running > 0
    if running:
        service.next = engine.services
        engine.services = service
        engine.holds += 1
        engine.serving += 1
    ReleaseSRWLockExclusive(&engine.lock)
    if running:
        return service
    free(service.tallies)
    free(service)
    return NULL


cdef void service_free(service_t *service) noexcept nogil:
    cdef listener_t *listener
    # The lock: whoever set stopped_event may still hold it.
    AcquireSRWLockExclusive(&service.engine.lock)
    cdef bint over = service.over
    ReleaseSRWLockExclusive(&service.engine.lock)
    if not over:
        return
    while service.listeners != NULL:
        listener = service.listeners
        service.listeners = listener.next
        free(listener)
    free(service.tallies)
    free(service)


cdef void service_retire(service_t *service) noexcept nogil:
    cdef engine_t *engine = service.engine
    cdef listener_t *listener
    cdef bint first
    AcquireSRWLockExclusive(&engine.lock)
    first = not service.stopping
    if first:
        service.stopping = True
        # Endpoints of datagrams serve until they are closed.
        engine.serving -= not service.config.datagrams
    listener = service.listeners
    ReleaseSRWLockExclusive(&engine.lock)
    # Every caller, not only the first: each may close the listening sockets after it.
    while listener != NULL:
        AcquireSRWLockExclusive(&listener.lock)
        if not listener.closing:
            listener.closing = True
            listener_cancel(listener)
        ReleaseSRWLockExclusive(&listener.lock)
        listener = listener.next
    if not first:
        return
    AcquireSRWLockExclusive(&engine.lock)
    if engine.starved != NULL:
        # At once: accept_post frees those that are ours.
        engine.starved_due_ms = 0
        keeper_wants(engine, 0)
    ReleaseSRWLockExclusive(&engine.lock)
    live_drop(service)


cdef void service_stop(service_t *service, uint64_t timeout_ms) noexcept nogil:
    cdef engine_t *engine = service.engine
    cdef uint64_t due = now_ms() + timeout_ms + 1
    cdef bint first
    AcquireSRWLockExclusive(&engine.lock)
    first = not service.closing_clients
    service.closing_clients = True
    engine.serving -= first and service.config.datagrams
    ReleaseSRWLockExclusive(&engine.lock)
    service_retire(service)
    # After that: the keeper ends whoever is there then once, and nobody comes any more.
    AcquireSRWLockExclusive(&engine.lock)
    if not service.over and due < service.stop_due_ms:
        service.stop_due_ms = due
        keeper_wants(engine, due)
    ReleaseSRWLockExclusive(&engine.lock)
    if first:
        service_close_clients(service, False)


cdef LONG64 service_count(service_t *service, int counter) noexcept nogil:
    cdef LONG64 total = 0
    cdef int i
    for i in range(1 + service.engine.config.workers):
        total += InterlockedExchangeAdd64(&service.tallies[i].n[counter], 0)
    return total


cdef void service_figures(service_t *service, service_figures_t *figures) noexcept nogil:
    cdef engine_t *engine = service.engine
    cdef int i
    figures.accepts_pending = InterlockedExchangeAdd64(&service.accepts_pending, 0)
    figures.connections_draining = InterlockedExchangeAdd64(&service.draining, 0)
    figures.connections_outgoing = InterlockedExchangeAdd64(&service.outgoing, 0)
    AcquireSRWLockExclusive(&engine.lock)
    figures.connections_peak = service.connections_peak
    for i in range(<int>ACCEPT_ERROR_CODES):
        figures.accept_error_codes[i] = service.accept_error_codes[i]
        figures.accept_error_counts[i] = service.accept_error_counts[i]
    ReleaseSRWLockExclusive(&engine.lock)
    AcquireSRWLockExclusive(&engine.pool_lock)
    figures.connections_free = service.n_free_conns
    figures.connection_hits = service.conn_hits
    figures.connection_misses = service.conn_misses
    ReleaseSRWLockExclusive(&engine.pool_lock)
