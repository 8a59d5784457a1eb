"""The threads of a run: the engine's own, and one of the application for each service, which makes
it, meddles with its connections, and stops and frees it.

Called by the driver, which makes the threads; calls _actions, _checks, _wakes and _run."""

# argument: the worker's number.
cdef void worker_main(void *argument) noexcept nogil
cdef void keeper_main(void *argument) noexcept nogil
# argument: the service.
cdef void application_main(void *argument) noexcept nogil
