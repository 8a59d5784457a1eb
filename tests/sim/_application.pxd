"""The threads of a run: the engine's own, and one of the application, which waits for the start,
meddles with the connections, and stops the server.

Called by the driver, which makes the threads; calls _actions, _checks, _wakes and _run."""

# argument: the worker's number.
cdef void worker_main(void *argument) noexcept nogil
cdef void keeper_main(void *argument) noexcept nogil
cdef void application_main(void *argument) noexcept nogil
