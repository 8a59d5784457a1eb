"""What the protocols of the simulation want of the engine's clock, and what must be true of it:
they are told not before the time that they asked for, and when it has come; never after their end.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from _kernel cimport *
from iocpx._base cimport NEVER, now_ms
from iocpx._requests cimport conn_wake_at
from iocpx._types cimport conn_t


cdef enum:
    LATE_MS = 1000


cdef void wakes_begin(wakes_t *wakes) noexcept nogil:
    memset(wakes, 0, sizeof(wakes_t))
    wakes.asked_ms = NEVER


cdef uint64_t earliest(const wakes_t *wakes) noexcept nogil:
    cdef uint64_t due = NEVER
    cdef int i
    for i in range(<int>MAX_TIMERS):
        if wakes.due_ms[i] != 0:
            due = min(due, wakes.due_ms[i])
    return due


cdef void ask(wakes_t *wakes, conn_t *conn, uint64_t due_ms, bint now) noexcept nogil:
    sim_atomic(True)
    wakes.asks += 1
    wakes.asking += 1
    wakes.asked_ms = min(wakes.asked_ms, due_ms)
    sim_atomic(False)
    conn_wake_at(conn, 0 if now else due_ms)
    sim_atomic(True)
    wakes.asking -= 1
    sim_atomic(False)


cdef void wakes_set(wakes_t *wakes, conn_t *conn, int client) noexcept nogil:
    cdef uint32_t kind = sim_random(4)
    cdef uint64_t delay_ms = kind if kind < 2 else sim_random(100 if kind == 2 else 5000)
    # now_ms is rounded down.
    cdef uint64_t due = now_ms() + delay_ms + (delay_ms > 0)
    cdef int slot = <int>sim_random(<uint32_t>MAX_TIMERS)
    sim_note("set a timer", client, <long long>due)
    sim_atomic(True)
    wakes.due_ms[slot] = due
    cdef bint first = due == earliest(wakes)
    sim_atomic(False)
    # The first has been asked for, and whoever is told asks for the next one.
    if first:
        ask(wakes, conn, due, delay_ms == 0)


cdef void wakes_cancel(wakes_t *wakes) noexcept nogil:
    cdef int slot = <int>sim_random(<uint32_t>MAX_TIMERS)
    sim_atomic(True)
    wakes.due_ms[slot] = 0
    sim_atomic(False)


cdef uint64_t wakes_before(wakes_t *wakes) noexcept nogil:
    """How many asks there were, if none is under way; otherwise NEVER."""
    sim_atomic(True)
    cdef uint64_t asks = NEVER if wakes.asking > 0 else wakes.asks
    sim_atomic(False)
    return asks


cdef int wakes_told(wakes_t *wakes, conn_t *conn, int client, uint64_t before) noexcept nogil:
    cdef uint64_t now = now_ms()
    cdef uint64_t next_ms
    cdef uint64_t asked_ms
    cdef int n = 0
    cdef int i
    sim_atomic(True)
    asked_ms = wakes.asked_ms
    # Where somebody asks at the same time, it cannot be known which of them was answered.
    if wakes.asks == before:
        wakes.asked_ms = NEVER
    for i in range(<int>MAX_TIMERS):
        if 0 < wakes.due_ms[i] <= now:
            wakes.due_ms[i] = 0
            n += 1
    next_ms = earliest(wakes)
    sim_atomic(False)
    sim_note("timers", client, n)
    if asked_ms > now:
        sim_fail("client %d: woken at %llu, and it asked for %llu", client,
                 <unsigned long long>now, <unsigned long long>asked_ms)
    if next_ms != NEVER:
        ask(wakes, conn, next_ms, next_ms <= now)
    return n


cdef void wakes_check(const wakes_t *wakes, int client) noexcept nogil:
    cdef uint64_t due = earliest(wakes)
    # The clock may jump, up to 65 ms at a time, between the keeper's look at it and its wait.
    if due < now_ms() and now_ms() - due > LATE_MS:
        sim_fail("client %d: a timer was due at %llu, and nobody is told", client,
                 <unsigned long long>due)
