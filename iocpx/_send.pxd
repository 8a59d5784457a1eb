from iocpx._types cimport conn_t, worker_t
from iocpx._winsock cimport DWORD

# Precondition: conn.lock held, which is released for the call: whoever writes meanwhile appends
# behind what is gathered here.
cdef bint send_post(worker_t *worker, conn_t *conn, bint overlapped) noexcept nogil
# Precondition: conn.lock held, the connection is scheduled.
cdef void send_defer(conn_t *conn) noexcept nogil
# Precondition: conn.lock held.
cdef void send_fit(conn_t *conn, DWORD nbytes) noexcept nogil
# Precondition: conn.lock held.
cdef void send_done(worker_t *worker, conn_t *conn, int error, DWORD nbytes) noexcept nogil
