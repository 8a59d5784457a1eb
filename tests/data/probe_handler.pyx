"""A handler that uses all of iocpx's C interface.  The first byte of a connection says what to do:
e: echo what follows; a: the peer's port; t: a word after 50 ms; m: four megabytes, as the marks
allow; p: a word that a function with the GIL writes; k: more than the kernel takes, lent; b: the
same, and a reset in the next callback; r: a close, then two writes that are refused; f: pauses, and
ends its own direction once it goes on.

`eager` is another handler: it writes more than the kernel takes in `made`, and closes when that has
left.
"""

from cpython.pycapsule cimport PyCapsule_New
from libc.stdio cimport snprintf
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from iocpx.engine_api cimport (
    API_ADDRESS_BYTES, API_CLOSED, api_conn_t, api_result, API_TAKEN, API_VERSION, engine_api_t,
    handler_api_t, import_engine_api,
)

cdef extern from "<windows.h>" nogil:
    long InterlockedIncrement(long *value)
    unsigned long long GetTickCount64()

cdef enum:
    WAIT_MS = 50
    PART = 50000
    ALL = 4000000
    LENT = 16777216             # more than the kernels of both sides take
    EAGER_PARTS = 400           # of PART: as much

ctypedef struct own_t:
    char what
    size_t left
    bint paused
    bint holds                  # what comes, by `pause`
    unsigned long long since_ms

cdef const engine_api_t *api
cdef handler_api_t table
cdef handler_api_t another
cdef handler_api_t eager_table
cdef char[PART] part
cdef long n_made = 0
cdef long n_lost = 0
cdef long n_owned = 0
cdef long n_released = 0
cdef long n_paused = 0
cdef long n_resumed = 0
cdef long was_early = 0
cdef size_t n_sent = 0
cdef bint was_refused = False
cdef bint was_held = True       # nothing was told meanwhile
cdef size_t n_queued = 0
cdef bint eof_refuses = False   # what is written after it, on a connection that does not close
# Of the eager one:
cdef void *eager_own = NULL     # what `made` has returned
cdef bint in_made = False
cdef long eager_paused = 0
cdef long eager_resumed = 0
cdef long eager_wrong = 0       # told within `made`, or with another `own`


cdef void *on_made(api_conn_t conn, void *user) noexcept nogil:
    cdef own_t *own = <own_t *>calloc(1, sizeof(own_t))
    InterlockedIncrement(&n_made)
    (<long *>user)[0] += 1
    return own


cdef void released_one(void *argument) noexcept nogil:
    free(argument)
    InterlockedIncrement(&n_released)


cdef void write_on(api_conn_t conn, own_t *own) noexcept nogil:
    cdef size_t nbytes
    while own.left > 0 and not own.paused:
        nbytes = min(own.left, <size_t>PART)
        own.left -= nbytes
        if api.write(conn, part, nbytes) != API_TAKEN:
            return
    if own.left == 0:
        own.what = 0
        api.close(conn)


cdef void with_gil(void *argument) noexcept:
    word = "posted".encode()
    api.write(argument, <const char *>word, len(word))
    api.close(argument)
    api.let_go(argument)


cdef api_result lend(api_conn_t conn, size_t nbytes) noexcept nogil:
    """Write so many bytes that are released when they are not needed any more."""
    cdef char *copy = <char *>malloc(nbytes)
    memset(copy, 121, nbytes)
    InterlockedIncrement(&n_owned)
    return api.write_owned(conn, copy, nbytes, released_one, copy)


cdef bint are_refused(api_conn_t conn) noexcept nogil:
    """Both of two writes, one that would be copied, and released within the call."""
    cdef long before = n_released
    cdef api_result large = lend(conn, LENT)
    cdef api_result small = lend(conn, 1)
    return large == API_CLOSED and small == API_CLOSED and n_released == before + 2


cdef void on_data(api_conn_t conn, void *own_, const char *data, size_t nbytes) noexcept nogil:
    cdef own_t *own = <own_t *>own_
    cdef unsigned char[API_ADDRESS_BYTES] address
    cdef char[16] text
    cdef int digits
    cdef char *copy
    global was_refused, was_held, n_queued, eof_refuses
    if own.what == 0:
        own.what = data[0]
        data += 1
        nbytes -= 1
        if own.what == 97:      # a
            api.address(conn, 1, address)
            digits = snprintf(text, sizeof(text), b"%d", <int>address[2] << 8 | <int>address[3])
            api.write(conn, text, <size_t>digits)
        elif own.what == 116:   # t
            own.since_ms = GetTickCount64()
            api.wake(conn, WAIT_MS)
        elif own.what == 109:   # m
            own.left = ALL
            api.set_marks(conn, 100000, 20000)
            write_on(conn, own)
        elif own.what == 112:   # p
            api.hold(conn)
            if api.post(with_gil, conn) != API_TAKEN:
                api.let_go(conn)
        elif own.what == 107 or own.what == 98:     # k, b
            # Above the high mark nothing would be received.
            api.set_marks(conn, 2 * LENT, LENT)
            lend(conn, LENT)
        elif own.what == 114:   # r
            api.close(conn)
            was_refused = api.is_closing(conn) and are_refused(conn)
        elif own.what == 102:   # f
            own.holds = True
            api.pause(conn, 1)
            api.wake(conn, WAIT_MS)
            api.write(conn, b"held", 4)
    elif own.what == 98:
        api.abort(conn)
    elif own.what == 102:
        if own.holds:
            was_held = False
        api.write(conn, b"more", 4)
        n_queued = api.queued(conn)
        api.write_eof(conn)
        eof_refuses = api.write(conn, b"late", 4) == API_CLOSED and not api.is_closing(conn)
    if own.what == 101 and nbytes > 0:      # e
        copy = <char *>malloc(nbytes)
        memcpy(copy, data, nbytes)
        InterlockedIncrement(&n_owned)
        api.write_owned(conn, copy, nbytes, released_one, copy)


cdef int on_eof(api_conn_t conn, void *own_) noexcept nogil:
    cdef own_t *own = <own_t *>own_
    # The others close when they have written.
    return own.what == 116 or own.what == 109 or own.what == 112


cdef void on_sent(api_conn_t conn, void *own, size_t nbytes) noexcept nogil:
    global n_sent
    n_sent += nbytes


cdef void on_marks(api_conn_t conn, void *own_, int paused) noexcept nogil:
    cdef own_t *own = <own_t *>own_
    own.paused = paused != 0
    InterlockedIncrement(&n_paused if paused else &n_resumed)
    if not paused and own.what == 109:
        write_on(conn, own)


cdef void on_timer(api_conn_t conn, void *own_) noexcept nogil:
    global was_early
    cdef own_t *own = <own_t *>own_
    if own.what == 102:
        own.holds = False
        api.pause(conn, 0)
        return
    if GetTickCount64() - own.since_ms + 16 < WAIT_MS:     # its tick
        was_early = 1
    api.write(conn, b"timer", 5)
    api.close(conn)


cdef void on_lost(api_conn_t conn, void *own, int error) noexcept nogil:
    free(own)
    InterlockedIncrement(&n_lost)


cdef void *eager_made(api_conn_t conn, void *user) noexcept nogil:
    global eager_own, in_made
    cdef int left = EAGER_PARTS
    in_made = True
    api.set_marks(conn, 100000, 20000)
    while left > 0:
        api.write(conn, part, PART)
        left -= 1
    eager_own = calloc(1, 1)
    in_made = False
    return eager_own


cdef void eager_marks(api_conn_t conn, void *own, int paused) noexcept nogil:
    global eager_paused, eager_resumed, eager_wrong
    if in_made or own != eager_own:
        eager_wrong += 1
    if paused:
        eager_paused += 1
    else:
        eager_resumed += 1
        api.close(conn)


cdef void eager_lost(api_conn_t conn, void *own, int error) noexcept nogil:
    free(own)


def eager_told():
    """How often it was told of the marks: paused, resumed, and wrongly."""
    return eager_paused, eager_resumed, eager_wrong


def refused():
    return bool(was_refused)


def flow():
    """What was told while it paused; what was queued; what its end has refused."""
    return bool(was_held), n_queued, bool(eof_refuses)


def made():
    return n_made if n_made == count else -1


def lost():
    return n_lost


def owned():
    return n_owned


def released():
    return n_released


def marks():
    return n_paused == n_resumed and n_paused > 0


def early():
    return bool(was_early)


def sent():
    return n_sent


cdef long count = 0
memset(part, 120, PART)
api = import_engine_api()
table.version = API_VERSION
table.user = &count
table.made = on_made
table.data = on_data
table.eof = on_eof
table.sent = on_sent
table.marks = on_marks
table.timer = on_timer
table.lost = on_lost
another.version = 999
eager_table.version = API_VERSION
eager_table.made = eager_made
eager_table.marks = eager_marks
eager_table.lost = eager_lost
capsule = PyCapsule_New(&table, "iocpx.handler", NULL)
eager = PyCapsule_New(&eager_table, "iocpx.handler", NULL)
other_version = PyCapsule_New(&another, "iocpx.handler", NULL)
other_name = PyCapsule_New(&table, "other.handler", NULL)
