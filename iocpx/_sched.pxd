from iocpx._types cimport conn_t, engine_t, ready_t, worker_t
from iocpx._winsock cimport InterlockedDecrement


cdef inline void ready_append(ready_t *ready, conn_t *conn) noexcept nogil:
    conn.next_ready = NULL
    if ready.tail == NULL:
        ready.head = conn
    else:
        ready.tail.next_ready = conn
    ready.tail = conn


cdef inline conn_t *ready_pop(ready_t *ready) noexcept nogil:
    cdef conn_t *conn = ready.head
    if conn != NULL:
        ready.head = conn.next_ready
        if ready.head == NULL:
            ready.tail = NULL
        conn.next_ready = NULL
    return conn


cdef inline void ready_move(ready_t *ready, ready_t *onto) noexcept nogil:
    if ready.head != NULL:
        if onto.tail == NULL:
            onto.head = ready.head
        else:
            onto.tail.next_ready = ready.head
        onto.tail = ready.tail
        ready.head = NULL
        ready.tail = NULL


cdef void conn_to_worker(worker_t *worker, conn_t *conn) noexcept nogil
cdef void conn_leave(worker_t *worker, conn_t *conn) noexcept nogil
# Precondition: the last reference is dropped.
cdef void conn_retire(conn_t *conn) noexcept nogil
# For the handler: the next connection with news, the caller's to deliver to; NULL: none.
cdef conn_t *worker_next(worker_t *worker) noexcept nogil
# For the handler: it has been told everything; what it asked for is done next.
cdef void worker_delivered(worker_t *worker, conn_t *conn) noexcept nogil
cdef conn_t *worker_next_work(worker_t *worker) noexcept nogil
cdef bint worker_has_any(worker_t *worker) noexcept nogil
cdef bint engine_has_waiting(engine_t *engine) noexcept nogil
cdef void worker_share(worker_t *worker) noexcept nogil
cdef bint worker_take_over(worker_t *worker) noexcept nogil


# Drops a reference; whoever drops the last one retires the connection.
cdef inline void conn_unref(conn_t *conn) noexcept nogil:
    if InterlockedDecrement(&conn.refs) == 0:
        conn_retire(conn)
