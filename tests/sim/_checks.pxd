"""What must be true of a run: in a callback, when nothing can happen, and at the end.

Called by the protocol, the application's thread and the driver; calls _run and _wakes alone."""

from iocpx._types cimport conn_t

# What a client has sent comes whole and in order.
cdef void check_bytes(int client, const char *data, size_t nbytes) noexcept nogil
cdef void check_bounds(conn_t *conn) noexcept nogil
cdef void check_lost(int client, int error, bint paused) noexcept nogil
cdef void check_idle() noexcept nogil
cdef void served_before() noexcept nogil
cdef void check_probe(int client) noexcept nogil
cdef void check_client(int client) noexcept nogil
cdef void check_ledger() noexcept nogil
