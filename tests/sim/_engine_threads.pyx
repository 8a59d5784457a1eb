"""The engine's threads: see _engine_threads.pxd."""

from _kernel cimport *
from _loop_thread cimport loop_between, loop_stops, loop_takes
from _run cimport disturbed, mark, marked, one_of, served_t, server, services, the
from iocpx._keeper cimport engine_run_keeper, keeper_news_t
from iocpx._types cimport PACKETS_PER_WAIT
from iocpx._worker cimport engine_poll, engine_run_worker
from iocpx._winsock cimport (
    AcquireSRWLockExclusive, GetLastError, GetQueuedCompletionStatusEx, INFINITE, OVERLAPPED_ENTRY,
    ReleaseSRWLockExclusive, ULONG, WAIT_TIMEOUT,
)


cdef void worker_main(void *argument) noexcept nogil:
    engine_run_worker(server.engine, <int><size_t>argument)


cdef void keeper_main(void *argument) noexcept nogil:
    cdef keeper_news_t news
    cdef served_t *served
    while engine_run_keeper(server.engine, &news):
        if news.trouble != 0:
            sim_note("trouble with a listener", news.trouble, 0)
        if news.ended:
            served = <served_t *>news.context
            sim_note("a service has ended", served - services, 0)
            if marked(&served.ended):
                sim_fail("a service ends twice")
            mark(&served.ended, True)


cdef bint engine_is_held() noexcept nogil:
    AcquireSRWLockExclusive(&server.engine.lock)
    cdef bint held = server.engine.holds > 0
    ReleaseSRWLockExclusive(&server.engine.lock)
    return held


cdef void poller_main(void *argument) noexcept nogil:
    cdef OVERLAPPED_ENTRY[PACKETS_PER_WAIT] foreign
    cdef int most
    cdef int n = 0
    mark(&server.looping, the.looped)
    while n >= 0:
        most = 1 + <int>sim_random(<int>PACKETS_PER_WAIT)
        n = engine_poll(server.engine, one_of(0, 1, 50, INFINITE), foreign, most)
        if n < 0 and engine_is_held() and not disturbed():
            sim_fail("an engine that somebody holds is not to be polled any more")
        if n > most:
            sim_fail("%d foreign packets, where there is room for %d", n, most)
        take(foreign, n)
        if the.looped and n >= 0:
            loop_between()
            if sim_random(16) == 0:
                loop_stops()
        elif sim_random(4) == 0:
            sim_busy(sim_random(30))
    mark(&server.looping, False)
    while not marked(&server.alone) or (the.looped and not all_gone()):
        sim_sleep(1)
    take_the_rest()


cdef bint all_gone() noexcept nogil:
    """Who wakes the loop are the threads of the services."""
    cdef int i
    for i in range(the.services):
        if not marked(&services[i].gone):
            return False
    return True


cdef void take(OVERLAPPED_ENTRY *foreign, int n) noexcept nogil:
    cdef int i
    for i in range(n):
        if not loop_takes(&foreign[i]):
            sim_foreign_came(&foreign[i])


cdef void take_the_rest() noexcept nogil:
    """What has come since the engine looks at the port no more."""
    cdef OVERLAPPED_ENTRY[PACKETS_PER_WAIT] foreign
    cdef ULONG n
    while True:
        if GetQueuedCompletionStatusEx(server.port, foreign, PACKETS_PER_WAIT, &n, 0, False):
            take(foreign, <int>n)
        elif GetLastError() == WAIT_TIMEOUT:
            return


cdef void stranger_main(void *argument) noexcept nogil:
    cdef int _round
    cdef int _n
    for _round in range(<int>sim_random(one_of(1, 10, 40, 40))):
        sim_sleep(one_of(0, 1, sim_random(30), sim_random(3000)))
        for _n in range(<int>sim_random(one_of(2, 2, 4, 40))):
            sim_post_foreign(server.port)
    mark(&server.alone, True)
