from iocpx._types cimport conn_t, recv_t, worker_t
from iocpx._winsock cimport DWORD

# Precondition: executor; conn.lock held, which is released for the call.
cdef void recv_post(worker_t *worker, conn_t *conn) noexcept nogil
# Precondition: conn.lock held.
cdef void recv_done(worker_t *worker, conn_t *conn, recv_t *recv, int error,
                    DWORD nbytes) noexcept nogil
