from iocpx._op cimport op_t
from iocpx._types cimport conn_t, worker_t
from iocpx._winsock cimport DWORD

# Precondition: the caller has a reference, and conn.lock, which is released. serving:
# conn_served.
cdef void conn_advance(worker_t *worker, conn_t *conn, bint serving) noexcept nogil
# Precondition: conn.lock held.
cdef void conn_mark(worker_t *worker, conn_t *conn) noexcept nogil
cdef void conn_send_turn(worker_t *worker, conn_t *conn) noexcept nogil
cdef void conn_served(worker_t *worker, conn_t *conn) noexcept nogil
# Between two turns: as much of what was written as the kernel takes, without a turn's limit.
cdef void conn_send_all(worker_t *worker, conn_t *conn) noexcept nogil
# What completes the operations of a connection: done_fn.
cdef void on_recv_complete(void *by, op_t *op, DWORD nbytes) noexcept nogil
cdef void on_send_complete(void *by, op_t *op, DWORD nbytes) noexcept nogil
cdef void on_datagram_received(void *by, op_t *op, DWORD nbytes) noexcept nogil
cdef void on_datagram_sent(void *by, op_t *op, DWORD nbytes) noexcept nogil
cdef void on_connect_complete(void *by, op_t *op, DWORD nbytes) noexcept nogil
# The packet that brings a scheduled connection to a worker.
cdef void on_serve(void *worker, op_t *op, DWORD nbytes) noexcept nogil
cdef void conn_close_due(conn_t *conn, bint stop) noexcept nogil
