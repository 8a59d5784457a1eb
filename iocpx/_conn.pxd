from iocpx._types cimport conn_t, recv_t, worker_t
from iocpx._winsock cimport DWORD

# Precondition: the caller has a reference, and conn.lock, which is released. executor:
# conn_served.
cdef void conn_advance(worker_t *worker, conn_t *conn, bint executor) noexcept nogil
# Precondition: conn.lock held.
cdef void conn_mark(worker_t *worker, conn_t *conn) noexcept nogil
cdef void conn_served(worker_t *worker, conn_t *conn) noexcept nogil
cdef void on_recv_complete(worker_t *worker, recv_t *recv, DWORD nbytes) noexcept nogil
cdef void on_send_complete(worker_t *worker, conn_t *conn, DWORD nbytes) noexcept nogil
cdef void conn_close_due(conn_t *conn, bint stop) noexcept nogil
