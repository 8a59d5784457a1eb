"""The engine's threads: its workers or what stands in for them, and its keeper.

Called by the driver, which makes the threads; calls _run."""

# argument: the worker's number.
cdef void worker_main(void *argument) noexcept nogil
# In place of the workers: a thread of the application's, which has other things to do as well…
cdef void poller_main(void *argument) noexcept nogil
# … and one that posts to the same port.
cdef void stranger_main(void *argument) noexcept nogil
cdef void keeper_main(void *argument) noexcept nogil
