from iocpx._op cimport op_t
from iocpx._types cimport engine_t
from iocpx._winsock cimport DWORD

cdef enum:
    HELP_MS = 20            # the keeper's patience with a worker that is busy while others are idle

# The body of a worker's thread, index 0 to workers - 1; each exactly once.
cdef void engine_run_worker(engine_t *engine, int index) noexcept nogil
# The worker whose thread never came to be; before engine_stop.
cdef void engine_forgo_worker(engine_t *engine) noexcept nogil
# The packets of the keeper: done_fn.
cdef void on_help(void *by, op_t *op, DWORD nbytes) noexcept nogil
cdef void on_stop(void *by, op_t *op, DWORD nbytes) noexcept nogil
