"""The table of `engine_api.pxd` as a capsule, the handlers that come in capsules, and the thread
that calls what they post.

Called by `_runtime`, which serves with the handlers, by `native`, and by the handlers through the
table, which `_core` shows; calls `_c_handler`, which has most of its functions.
"""

from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_IsValid, PyCapsule_New
from libc.stdlib cimport free, malloc

from iocpx._c_handler cimport fill_engine_api
from iocpx._winsock cimport (
    AcquireSRWLockExclusive, CreateEventW, GetLastError, HANDLE, INFINITE, ReleaseSRWLockExclusive,
    SetEvent, SRWLOCK, WaitForSingleObject,
)
from iocpx.engine_api cimport (
    API_NO_MEMORY, api_result, API_TAKEN, API_VERSION, engine_api_t, handler_api_t,
)

# Not threading's: what these do no signal handler interrupts, so none finds the thread half begun.
from _thread import allocate_lock, start_new_thread

from iocpx._errors import os_error

ctypedef struct posted_t:
    posted_t *next
    void (*call)(void *argument) noexcept
    void *argument

cdef engine_api_t table
cdef const char *HANDLER_NAME = "iocpx.handler"

# All zero is its initial state (SRWLOCK_INIT).
cdef SRWLOCK posted_lock
cdef posted_t *first = NULL         # owned; posted_lock
cdef posted_t *last = NULL          # borrowed; posted_lock
cdef HANDLE posted_event = NULL     # auto-reset: there is something; never closed
cdef bint posting = False           # the thread is there
starting = allocate_lock()


cdef api_result api_post(void (*call)(void *argument) noexcept, void *argument) noexcept nogil:
    global first, last
    cdef posted_t *posted = <posted_t *>malloc(sizeof(posted_t))
    if posted == NULL:
        return API_NO_MEMORY
    posted.next = NULL
    posted.call = call
    posted.argument = argument
    AcquireSRWLockExclusive(&posted_lock)
    if first == NULL:
        first = posted
    else:
        last.next = posted
    last = posted
    ReleaseSRWLockExclusive(&posted_lock)
    SetEvent(posted_event)
    return API_TAKEN


def call_posted():
    """The thread's; it is there until Python ends."""
    global first, last
    cdef posted_t *posted
    cdef posted_t *rest
    while True:
        with nogil:
            WaitForSingleObject(posted_event, INFINITE)
            AcquireSRWLockExclusive(&posted_lock)
            rest = first
            first = NULL
            last = NULL
            ReleaseSRWLockExclusive(&posted_lock)
        while rest != NULL:
            posted = rest
            rest = posted.next
            posted.call(posted.argument)
            free(posted)


cdef int start_posting() except -1:
    global posted_event, posting
    with starting:
        if posted_event == NULL:
            # Set: something may have been posted already.
            posted_event = CreateEventW(NULL, False, True, NULL)
            if posted_event == NULL:
                raise os_error(<int>GetLastError(), "event")
        if not posting:
            start_new_thread(call_posted, ())
            posting = True
    return 0


cdef const handler_api_t *handler_of(capsule) except NULL:
    cdef const handler_api_t *handler
    if not PyCapsule_IsValid(capsule, HANDLER_NAME):
        raise TypeError("capsule must be a PyCapsule named 'iocpx.handler', with a "
                        f"handler_api_t of iocpx/engine_api.pxd, got {capsule!r}")
    handler = <const handler_api_t *>PyCapsule_GetPointer(capsule, HANDLER_NAME)
    if handler.version != API_VERSION:
        raise ValueError(f"the handler was built with version {handler.version} of iocpx's C "
                         f"interface, and this iocpx has version {<int>API_VERSION}: build it anew")
    return handler


def check_handler(capsule):
    """TypeError, ValueError: no handler that this version knows."""
    handler_of(capsule)


fill_engine_api(&table)
table.post = api_post
engine_api = PyCapsule_New(&table, "iocpx._core.engine_api", NULL)
