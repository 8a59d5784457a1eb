from iocpx._types cimport conn_t

# Sends back what comes.
cdef void deliver_echo(conn_t *conn) noexcept nogil
# Throws it away.
cdef void deliver_discard(conn_t *conn) noexcept nogil
