"""The protocol of each client, as the server's handler that is not native: what its callbacks do is
drawn.

Called by the engine's workers; calls _actions, _checks, _wakes and _run."""

from iocpx._types cimport worker_t

cdef void deliver_scripted(worker_t *worker) noexcept nogil
