from libc.stdint cimport uint64_t

from iocpx._runtime cimport Runtime
from iocpx._state cimport timer_t, timers_t
from iocpx._types cimport conn_t


cdef class TimerHandle:
    cdef Timers timers              # constant; None: the connection was over
    # Critical section of `timers`:
    cdef timer_t timer              # in timers.heap while the callback is to come; due in µs
    cdef bint was_cancelled
    # Likewise while in the heap, then of whoever has taken it out:
    cdef object callback
    cdef tuple args


# All of one connection.
cdef class Timers:
    # Critical section:
    cdef timers_t heap              # a reference for each TimerHandle in it
    cdef bint over                  # nothing comes into it any more

    # The caller has a reference to conn.  NULL: it is over by now, and `end` comes.
    cdef TimerHandle add(self, conn_t *conn, callback, tuple args, uint64_t delay_us)
    cdef TimerHandle take(self, uint64_t now, bint over)
    # On news_t.timers: calls what is due.
    cdef void run(self, conn_t *conn, Runtime runtime, connection) noexcept
    # Cancels all that there are, and whatever is added from now on.
    cdef void end(self) noexcept


# Of a delay in seconds, rounded up.  Raises TypeError or ValueError.
cdef uint64_t microseconds(delay_s) except? 0
# Raises TypeError.
cdef int check_callback(callback) except -1
