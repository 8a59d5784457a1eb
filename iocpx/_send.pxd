from iocpx._types cimport conn_t, worker_t
from iocpx._winsock cimport DWORD

cdef enum:
    # One send: enough for full speed, little enough that its completion tells a
    # slow reader from a dead one, and that Windows need not lock much memory.
    SEND_BYTES = 262144

# Precondition: conn.lock held, which is released for the call: whoever writes meanwhile appends
# behind what is gathered here.
cdef bint send_post(worker_t *worker, conn_t *conn, bint overlapped) noexcept nogil
# Precondition: conn.lock held, the connection is scheduled.
cdef void send_defer(conn_t *conn) noexcept nogil
# Precondition: conn.lock held.
cdef void send_done(worker_t *worker, conn_t *conn, int error, DWORD nbytes) noexcept nogil
