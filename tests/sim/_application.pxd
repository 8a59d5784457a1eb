"""The threads of the application, one for each service, which makes it, meddles with its
connections, and stops and frees it.

Called by the driver, which makes the threads; calls _actions, _checks, _wakes and _run."""

# argument: the service.
cdef void application_main(void *argument) noexcept nogil
