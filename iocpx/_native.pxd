from iocpx._types cimport worker_t

# Sends back what comes.
cdef void deliver_echo(worker_t *worker) noexcept nogil
