from iocpx._state cimport buf_t, queue_t
from iocpx._types cimport conn_t, worker_t

# Lets go of what has been sent: an owned chain of conn_take_news or conn_take_spent.
cdef void release_spent(buf_t *spent) noexcept
# What was received, as bytes: the object that it was received into, or a copy.
cdef bytes take_bytes(buf_t *buf)
# Has the next receive fill a bytes object of that size, where that is worth it.
cdef void offer_bytes(conn_t *conn, size_t nbytes) noexcept
# Queues a write, or puts it into `parts` where that is not NULL; a bytes-like object, held by the
# queue or copied.  The result is write_result's, but for NO_MEMORY, which is raised.
cdef int queue_data(worker_t *worker, conn_t *conn, queue_t *parts, data) except -1
