from libc.stdint cimport uint64_t

from iocpx._types cimport conn_t

cdef enum:
    MAX_TIMERS = 3

# The timers of one protocol, and what it has asked the engine for because of them.  Atomic.
ctypedef struct wakes_t:
    uint64_t[MAX_TIMERS] due_ms     # 0: none
    uint64_t asked_ms               # the earliest that was asked for and not yet answered
    int asking                      # threads that are about to ask, or just have
    uint64_t asks                   # so far

cdef void wakes_begin(wakes_t *wakes) noexcept nogil
# A timer is set, perhaps in place of another one.  The caller has a reference.
cdef void wakes_set(wakes_t *wakes, conn_t *conn, int client) noexcept nogil
# One is cancelled, if there is one; the engine is not told.
cdef void wakes_cancel(wakes_t *wakes) noexcept nogil
# Around conn_take_news.
cdef uint64_t wakes_before(wakes_t *wakes) noexcept nogil
# news.timers: returns how many timers are due, which are none from here on.
cdef int wakes_told(wakes_t *wakes, conn_t *conn, int client, uint64_t before) noexcept nogil
# When nothing can happen before a deadline passes.
cdef void wakes_check(const wakes_t *wakes, int client) noexcept nogil
