from iocpx._types cimport conn_t, worker_t

# Precondition: executor; conn.lock held, which is released for the call; CONNECTING, not posted.
cdef void connect_post(worker_t *worker, conn_t *conn) noexcept nogil
# error: a Windows code, or 0.  Precondition: conn.lock held.
cdef void connect_done(conn_t *conn, int error) noexcept nogil
