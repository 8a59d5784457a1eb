from iocpx._state cimport buf_t
from iocpx._types cimport abort_reason, conn_t, engine_t, recv_t, worker_t
from iocpx._winsock cimport SOCKET

# data: the first data, or NULL; the connection's from here on.  0, or a Windows code, and sock and
# data are still the caller's: WSAECONNREFUSED beyond max_connections, ERROR_OPERATION_ABORTED while
# the engine stops, else what the system refused.
cdef int conn_open(engine_t *engine, worker_t *worker, SOCKET sock, const char *local,
                   const char *remote, buf_t *data) noexcept nogil
# Precondition: conn.lock held, handle open.
cdef void conn_cancel(conn_t *conn) noexcept nogil
# Precondition: conn.lock held.
cdef void op_pended(conn_t *conn, recv_t *recv) noexcept nogil
# Precondition: conn.lock held, handle open or recv not posted.
cdef void recv_take_back(conn_t *conn, recv_t *recv) noexcept nogil
# Precondition: conn.lock held.
cdef void conn_fail(conn_t *conn, abort_reason reason, int error, bint sending) noexcept nogil
# Precondition: conn.lock held.
cdef void conn_end_of_stream(conn_t *conn) noexcept nogil
# Precondition: conn.lock held.
cdef void conn_active(conn_t *conn) noexcept nogil
# Precondition: conn.lock held, write_eof asked for.
cdef void conn_shut(conn_t *conn) noexcept nogil
# Precondition: conn.lock held, nothing pending; returns with the lock held again,
# connection_lost due.
cdef void conn_close_handle(conn_t *conn) noexcept nogil
