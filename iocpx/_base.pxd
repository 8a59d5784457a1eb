from libc.stdint cimport uint64_t
from iocpx._op cimport done_fn, op_t
from iocpx._state cimport buf_t, deadline_t, deadlines_t, queue_t
from iocpx._types cimport conn_t, engine_t, service_t, worker_t
from iocpx._winsock cimport (
    LONG64, SOCKET, ULONG_PTR, GetCurrentThreadId, InterlockedDecrement, InterlockedExchangeAdd64,
    InterlockedIncrement,
)

cdef enum:
    RETRY_MS = 50           # the keeper's patience with a lack of resources

# A time that the keeper need not wake up for.
cdef extern from * nogil:
    """
    #define IOCPX_NEVER (~(unsigned long long)0)
    """
    const uint64_t NEVER "IOCPX_NEVER"


# worker: whose counters they are; NULL: a thread that is none.
cdef inline void count(service_t *service, worker_t *worker, int counter,
                       LONG64 by) noexcept nogil:
    InterlockedExchangeAdd64(
        &service.tallies[0 if worker == NULL else worker.index + 1].n[counter], by)


# Likewise, of the engine: an engine_counter.
cdef inline void count_op(engine_t *engine, worker_t *worker, int counter,
                          LONG64 by) noexcept nogil:
    InterlockedExchangeAdd64(
        &engine.guest_tally.n[counter] if worker == NULL else &worker.tally.n[counter], by)


# The completion key of every handle and packet of an engine: on a port that it borrows there may
# be others.
cdef inline ULONG_PTR engine_key(engine_t *engine) noexcept nogil:
    return <ULONG_PTR>engine


# A packet that is in `packets_due` has come.
cdef inline void packet_came(engine_t *engine) noexcept nogil:
    InterlockedDecrement(&engine.packets_due)


# References are taken before a post and dropped, by conn_unref, after the completion.
cdef inline void conn_ref(conn_t *conn) noexcept nogil:
    InterlockedIncrement(&conn.refs)


cdef inline size_t recv_capacity(conn_t *conn) noexcept nogil:
    """Bytes of the next receive's buffer.  Short messages get a small one: it costs less to
    post, and many connections that are busy with such do not need much memory."""
    return conn.engine.pools[conn.recv_size].capacity


cdef inline bint conn_on_executor(conn_t *conn) noexcept nogil:
    """Is this thread serving the connection?  conn_served will then do what has to
    be done, for all that one callback batch asks, in one go.  Precondition: conn.lock held."""
    return conn.executor != 0 and conn.executor == GetCurrentThreadId()


# Since the system was started, rounded down.
cdef uint64_t now_ms() noexcept nogil
cdef uint64_t now_us() noexcept nogil
# Precondition: engine.lock held.
cdef void keeper_wants(engine_t *engine, uint64_t due_ms) noexcept nogil
# Give back one share of `live`; nothing of the service is used after the last.
cdef void live_drop(service_t *service) noexcept nogil
# Keeps the engine from ending.  False: it has, or is about to.
cdef bint engine_hold(engine_t *engine) noexcept nogil
cdef void engine_release(engine_t *engine) noexcept nogil
# Precondition: engine.lock held.
cdef void engine_trouble(engine_t *engine, int error) noexcept nogil
# A buffer of the smallest size that holds nbytes, owned; NULL: out of memory.
cdef buf_t *take_buffer(engine_t *engine, size_t nbytes) noexcept nogil
# One of just that size, of no pool.
cdef buf_t *take_own_buffer(engine_t *engine, size_t nbytes) noexcept nogil
cdef void give_buffer(engine_t *engine, buf_t *buf) noexcept nogil
# Precondition: no worker runs.
cdef void pools_clear(engine_t *engine) noexcept nogil
# Precondition: conn.lock held.
cdef void conn_drop_queue(conn_t *conn, queue_t *queue) noexcept nogil
# Precondition: conn.lock held.
cdef void conn_keep_buffer(conn_t *conn, buf_t *buf) noexcept nogil
# Precondition: conn.lock held.
cdef void conn_drop_spare(conn_t *conn) noexcept nogil
# Precondition: conn.lock held, tracing on.
cdef void trace_line(conn_t *conn, const char *what, LONG64 detail) noexcept nogil
cdef void op_init(op_t *op, done_fn done, void *owner) noexcept nogil
# Precondition: op is not in use.
cdef bint packet_post(engine_t *engine, op_t *op) noexcept nogil
# Precondition: sock is open.
cdef int op_error(op_t *op, SOCKET sock) noexcept nogil
cdef void linger_zero(SOCKET sock) noexcept nogil
cdef void drop_socket(service_t *service, worker_t *worker, SOCKET sock) noexcept nogil
# Precondition: conn.lock held. Without effect once the handle is closed: nothing would disarm
# it, and the conn_t be freed under the keeper's hands.
cdef void conn_arm(conn_t *conn, deadlines_t *deadlines, deadline_t *deadline) noexcept nogil
# Precondition: conn.lock held.
cdef void conn_disarm_timer(conn_t *conn) noexcept nogil
cdef LONG64 service_connections(service_t *service) noexcept nogil


# One line of the connection's life.  Precondition: conn.lock held.
cdef inline void trace(conn_t *conn, const char *what, LONG64 detail) noexcept nogil:
    if conn.service.config.trace:
        trace_line(conn, what, detail)
