from libc.stdint cimport uint64_t
from iocpx._types cimport engine_config_t, engine_t
from iocpx._winsock cimport DWORD, HANDLE, LONG64

ctypedef struct pools_t:
    size_t buffers_out
    size_t buffers_peak
    size_t buffers_free
    uint64_t buffer_hits
    uint64_t buffer_misses

# With one hold, the caller's: engine_release.  port: a completion port of somebody else's, which
# is left open, for an engine of one worker that engine_poll steps; NULL: a new one.  NULL: failed,
# *error is the Windows code.
cdef engine_t *engine_create(const engine_config_t *config, HANDLE port, int *error) noexcept nogil
# Precondition: stopped, or no thread of it ever ran.  Keeps the memory if the kernel still owns
# some.
cdef void engine_free(engine_t *engine) noexcept nogil
# True: it has ended within that time; its threads have nothing left to do.
cdef bint engine_wait_stopped(engine_t *engine, DWORD timeout_ms) noexcept nogil
# It has nothing to do any more, and its threads end.
cdef bint engine_ending(engine_t *engine) noexcept nogil
cdef bint engine_on_worker(engine_t *engine) noexcept nogil
# counter: engine_counter
cdef LONG64 engine_count(engine_t *engine, int counter) noexcept nogil
cdef void engine_pools(engine_t *engine, pools_t *pools) noexcept nogil
