from libc.stdint cimport uint64_t
from iocpx._types cimport ACCEPT_ERROR_CODES, engine_t, service_config_t, service_t
from iocpx._winsock cimport HANDLE, LONG64

ctypedef struct service_figures_t:
    LONG64 accepts_pending
    LONG64 connections_peak
    LONG64 connections_draining
    LONG64 connections_outgoing
    size_t connections_free
    LONG64 connection_hits
    LONG64 connection_misses
    int[ACCEPT_ERROR_CODES] accept_error_codes
    LONG64[ACCEPT_ERROR_CODES] accept_error_counts

# stopped_event: borrowed until it is set, when nothing is left; may be NULL.  The result NULL: out
# of memory, or nobody works on the engine any more, as its port is broken.
# Precondition: the caller holds the engine (engine_hold); the service does so itself from here on.
cdef service_t *service_create(engine_t *engine, const service_config_t *config,
                               HANDLE stopped_event) noexcept nogil
# Precondition: stopped_event is set, and the engine is still there.  Keeps the memory if the
# kernel still owns some.
cdef void service_free(service_t *service) noexcept nogil
# No new connections; it ends with the last of those that there are.  Returns at once; the
# listening sockets may be closed then.  Any number of times.
cdef void service_retire(service_t *service) noexcept nogil
# Begins the stop and returns at once; any number of times, the earliest end of timeout_ms
# counts: connections that are not closed by then are aborted.
cdef void service_stop(service_t *service, uint64_t timeout_ms) noexcept nogil
# counter: counter
cdef LONG64 service_count(service_t *service, int counter) noexcept nogil
cdef void service_figures(service_t *service, service_figures_t *figures) noexcept nogil
