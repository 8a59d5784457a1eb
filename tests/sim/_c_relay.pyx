"""An echo in C whose connections answer for each other, as those of a gateway do: what has come is
laid aside, and written by callbacks of other connections, or by a timer of its own.

So a callback writes to other connections than its own, and closes them.
"""

from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from _kernel cimport sim_point, sim_random
from iocpx._c_handler cimport fill_engine_api
from iocpx._winsock cimport AcquireSRWLockExclusive, ReleaseSRWLockExclusive, SRWLOCK
from iocpx.engine_api cimport (
    api_conn_t, API_NO_MEMORY, API_VERSION, engine_api_t, handler_api_t,
)

cdef enum:
    MAX_ANSWERS = 32        # more than there are clients
    LATEST_MS = 20

# What is to be written to a connection, and its end.  All: of `lock`.
ctypedef struct answer_t:
    api_conn_t conn         # held; NULL: the place is free
    char *data              # owned
    size_t nbytes
    bint ends               # nothing comes after it
    bint busy               # somebody gives it, without the lock
    bint lost               # the connection is over: whoever is busy, or else `lost`, lets go of it

cdef SRWLOCK lock           # zeroed is unlocked
cdef answer_t[MAX_ANSWERS] answers
cdef engine_api_t api
cdef handler_api_t handler


cdef void give(answer_t *answer) noexcept nogil:
    """Write what is laid aside, unless somebody is at it, who then gives this, too."""
    cdef api_conn_t conn
    cdef char *data
    cdef size_t nbytes
    cdef bint ends
    AcquireSRWLockExclusive(&lock)
    conn = answer.conn
    if conn == NULL or answer.busy:
        ReleaseSRWLockExclusive(&lock)
        return
    answer.busy = True
    while not answer.lost and (answer.nbytes > 0 or answer.ends):
        data = answer.data
        nbytes = answer.nbytes
        ends = answer.ends
        answer.data = NULL
        answer.nbytes = 0
        answer.ends = False
        ReleaseSRWLockExclusive(&lock)
        sim_point()
        if nbytes > 0 and api.write(conn, data, nbytes) == API_NO_MEMORY:
            api.abort(conn)
        free(data)
        if ends:
            api.close(conn)
        AcquireSRWLockExclusive(&lock)
    answer.busy = False
    leave(answer)


cdef void leave(answer_t *answer) noexcept nogil:
    """Precondition: lock held, which is released."""
    cdef api_conn_t conn = NULL
    if answer.lost and not answer.busy:
        conn = answer.conn
        free(answer.data)
        answer.conn = NULL
    ReleaseSRWLockExclusive(&lock)
    if conn != NULL:
        api.let_go(conn)


cdef void give_most() noexcept nogil:
    cdef int i
    for i in range(MAX_ANSWERS):
        if sim_random(4) != 0:
            give(&answers[i])


cdef void *made(api_conn_t conn, void *user) noexcept nogil:
    cdef int i
    cdef answer_t *answer = NULL
    AcquireSRWLockExclusive(&lock)
    for i in range(MAX_ANSWERS):
        if answers[i].conn == NULL:
            answer = &answers[i]
            memset(answer, 0, sizeof(answer_t))
            answer.conn = conn
            break
    ReleaseSRWLockExclusive(&lock)
    if answer == NULL:
        api.abort(conn)
    else:
        api.hold(conn)
    return answer


cdef void take(api_conn_t conn, void *own, const char *data, size_t nbytes) noexcept nogil:
    cdef answer_t *answer = <answer_t *>own
    cdef char *both
    AcquireSRWLockExclusive(&lock)
    both = <char *>malloc(answer.nbytes + nbytes)
    if both != NULL:
        if answer.nbytes > 0:
            memcpy(both, answer.data, answer.nbytes)
        memcpy(both + answer.nbytes, data, nbytes)
        free(answer.data)
        answer.data = both
        answer.nbytes += nbytes
    ReleaseSRWLockExclusive(&lock)
    if both == NULL:
        api.abort(conn)
        return
    api.wake(conn, 1 + sim_random(LATEST_MS))
    give_most()


cdef int take_eof(api_conn_t conn, void *own) noexcept nogil:
    cdef answer_t *answer = <answer_t *>own
    AcquireSRWLockExclusive(&lock)
    answer.ends = True
    ReleaseSRWLockExclusive(&lock)
    api.wake(conn, 1 + sim_random(LATEST_MS))
    give_most()
    return 1


cdef void take_timer(api_conn_t conn, void *own) noexcept nogil:
    give(<answer_t *>own)


cdef void take_lost(api_conn_t conn, void *own, int error) noexcept nogil:
    cdef answer_t *answer = <answer_t *>own
    if answer != NULL:
        AcquireSRWLockExclusive(&lock)
        answer.lost = True
        leave(answer)


cdef const handler_api_t *c_relay() noexcept nogil:
    # The same each time, whoever comes first.
    fill_engine_api(&api)
    handler.version = API_VERSION
    handler.made = made
    handler.data = take
    handler.eof = take_eof
    handler.timer = take_timer
    handler.lost = take_lost
    return &handler
