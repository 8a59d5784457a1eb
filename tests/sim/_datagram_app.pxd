"""An application's datagram endpoint, on a service of its own: a thread that opens it, sends, and
closes it, a handler that answers, and what must be true of them.

Calls _checks and _run."""

from _run cimport served_t

# What its service is to the keeper.
cdef served_t datagram_service

cdef void datagram_main(void *argument) noexcept nogil
# Nothing can happen before a deadline passes.
cdef void check_idle_datagrams() noexcept nogil
# At the run's begin, and when all threads have ended.
cdef void datagrams_begin() noexcept nogil
cdef void check_datagrams() noexcept nogil
