"""What must be true of a run: in a callback, when nothing can happen, and at the end.

Called by the protocol, the application's thread and the driver; calls _run and _wakes alone."""

from _run cimport served_t
from iocpx._delivery cimport lost_t
from iocpx._types cimport conn_t

# What a client has sent comes whole and in order.
cdef void check_bytes(int client, const char *data, size_t nbytes) noexcept nogil
cdef void check_bounds(conn_t *conn) noexcept nogil
cdef void check_lost(int client, int error, bint paused) noexcept nogil
# … of a loop's, which is told the whole truth.
cdef void check_loop_lost(int client, const lost_t *lost) noexcept nogil
cdef void check_idle() noexcept nogil
# A loop would do without a look at the port.
cdef void check_spared() noexcept nogil
# A loop stops that has flushed what it has.
cdef void check_flushed() noexcept nogil
# Before its thread stops it, or ends its connections.
cdef void served_before(served_t *served) noexcept nogil
# Right after service_stop.
cdef void check_stopping() noexcept nogil
# engine_hold has refused.
cdef void check_refusal() noexcept nogil
# When its stopped_event is set.
cdef void check_service(served_t *served) noexcept nogil
cdef void check_probe(int client) noexcept nogil
cdef void check_client(int client) noexcept nogil
# When all threads have ended.
cdef void check_engine() noexcept nogil
