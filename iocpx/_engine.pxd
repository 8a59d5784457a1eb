from libc.stdint cimport uint64_t
from iocpx._types cimport ACCEPT_ERROR_CODES, config_t, engine_t
from iocpx._winsock cimport DWORD, LONG64

ctypedef struct pools_t:
    LONG64 accepts_pending
    LONG64 connections_peak
    LONG64 connections_draining
    size_t buffers_out
    size_t buffers_peak
    size_t buffers_free
    uint64_t buffer_hits
    uint64_t buffer_misses
    size_t connections_free
    LONG64 connection_hits
    LONG64 connection_misses
    int[ACCEPT_ERROR_CODES] accept_error_codes
    LONG64[ACCEPT_ERROR_CODES] accept_error_counts

# NULL: failed, *error is the Windows code.
cdef engine_t *engine_create(const config_t *config, int *error) noexcept nogil
# Precondition: stopped or never started.  Keeps the memory if the kernel still owns some.
cdef void engine_free(engine_t *engine) noexcept nogil
# Begins the stop and returns at once; any number of times, the earliest end of timeout_ms
# counts: connections that are not closed by then are aborted.
cdef void engine_stop(engine_t *engine, uint64_t timeout_ms) noexcept nogil
# True: stopped within that time.
cdef bint engine_wait_stopped(engine_t *engine, DWORD timeout_ms) noexcept nogil
cdef bint engine_on_worker(engine_t *engine) noexcept nogil
cdef LONG64 engine_count(engine_t *engine, int counter) noexcept nogil
cdef void engine_pools(engine_t *engine, pools_t *pools) noexcept nogil
