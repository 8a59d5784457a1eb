from iocpx._types cimport conn_t, file_t, worker_t
from iocpx._winsock cimport DWORD

# Precondition: conn.lock held, which is released for the call; the engine's own thread; a file is
# what the outbox holds.  True: something has been done at once.
cdef bint file_post(worker_t *worker, conn_t *conn) noexcept nogil
# The outcome of a TransmitFile, or of send_defer's packet.  Precondition: conn.lock held.
cdef void file_done(worker_t *worker, conn_t *conn, int error, DWORD nbytes) noexcept nogil
# From now on the marks count so much of it.  Precondition: conn.lock held, conn has the file.
cdef void file_count(conn_t *conn, file_t *file, size_t nbytes) noexcept nogil
# Precondition: conn.lock held, there is a front.
cdef void file_end(conn_t *conn) noexcept nogil
# Precondition: conn.lock held, conn.files there.
cdef void files_next(conn_t *conn) noexcept nogil
