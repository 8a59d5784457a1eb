"""A handler that uses all of iocpx's C interface.  The first byte of a connection says what to do:
e: echo what follows; a: the peer's port; t: a word after 50 ms; m: four megabytes, as the marks
allow; p: a word that a function with the GIL writes.
"""

from cpython.pycapsule cimport PyCapsule_New
from libc.stdio cimport snprintf
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from iocpx.engine_api cimport (
    API_ADDRESS_BYTES, api_conn_t, API_TAKEN, API_VERSION, engine_api_t, handler_api_t,
    import_engine_api,
)

cdef extern from "<windows.h>" nogil:
    long InterlockedIncrement(long *value)
    unsigned long long GetTickCount64()

cdef enum:
    WAIT_MS = 50
    PART = 50000
    ALL = 4000000

ctypedef struct own_t:
    char what
    size_t left
    bint paused
    unsigned long long since_ms

cdef const engine_api_t *api
cdef handler_api_t table
cdef handler_api_t another
cdef char[PART] part
cdef long n_made = 0
cdef long n_lost = 0
cdef long n_owned = 0
cdef long n_released = 0
cdef long n_paused = 0
cdef long n_resumed = 0
cdef long was_early = 0
cdef size_t n_sent = 0


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


cdef void on_data(api_conn_t conn, void *own_, const char *data, size_t nbytes) noexcept nogil:
    cdef own_t *own = <own_t *>own_
    cdef unsigned char[API_ADDRESS_BYTES] address
    cdef char[16] text
    cdef int digits
    cdef char *copy
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
    if GetTickCount64() - own.since_ms + 16 < WAIT_MS:     # its tick
        was_early = 1
    api.write(conn, b"timer", 5)
    api.close(conn)


cdef void on_lost(api_conn_t conn, void *own, int error) noexcept nogil:
    free(own)
    InterlockedIncrement(&n_lost)


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
capsule = PyCapsule_New(&table, "iocpx.handler", NULL)
other_version = PyCapsule_New(&another, "iocpx.handler", NULL)
other_name = PyCapsule_New(&table, "other.handler", NULL)
