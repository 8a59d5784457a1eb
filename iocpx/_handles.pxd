from cpython.object cimport PyObject

cdef extern from *:
    """
    #define iocpx_own(object) (object)
    #ifdef Py_GIL_DISABLED
    typedef PyCriticalSection iocpx_section_t;
    #define iocpx_enter_section(section, object) PyCriticalSection_Begin(section, object)
    #define iocpx_leave_section(section) PyCriticalSection_End(section)
    #else
    typedef char iocpx_section_t;
    #define iocpx_enter_section(section, object) ((void)(section), (void)(object))
    #define iocpx_leave_section(section) ((void)(section))
    #endif
    """
    # As `with cython.critical_section(object)`, which counts a reference also where there is a
    # GIL.  Up and down at once on the same count costs more than the rest of a short section.
    ctypedef struct section_t "iocpx_section_t":
        pass
    # A reference that is owned, as an object: nothing is counted.
    object own "iocpx_own" (PyObject *object)
    void enter_section "iocpx_enter_section" (section_t *section, PyObject *object)
    void leave_section "iocpx_leave_section" (section_t *section)


cdef class HandleOwner:
    # What handles ask of their loop.
    cdef public bint _debug
    # Any thread that has the loop's handle; the handle is cancelled already.
    cdef int timer_cancelled(self, TimerHandle handle) except -1


# What few handles have.
cdef class Details:
    cdef object source_traceback
    cdef object text                    # of a handle that was cancelled in debug mode
    cdef object over                    # a threading.Event: somebody waits for the callback's end


# The fields of all three classes stand in the first: Cython keeps a free list of objects of one
# size, and so it serves them all.
cdef class Handle:
    cdef object __weakref__
    cdef readonly HandleOwner _loop
    cdef readonly object _callback      # None: cancelled
    cdef readonly tuple _args           # None: cancelled
    cdef object context
    cdef readonly bint _cancelled
    cdef Details details                # None, for most
    # TimerHandle's:
    cdef double when_s
    # ThreadSafeHandle's:
    cdef unsigned long running_in       # the thread that calls it, 0: none
    # The garbage collector does not know it: it is spare, or the running loop is to call it…
    cdef bint untracked
    # … nor its context, which nobody else has.  Never without the other.
    cdef bint context_untracked

    # In debug mode, before anybody else has it: note where it was made.
    cdef int trace(self) except -1
    # Call the callback, unless it is cancelled.  Raises SystemExit, KeyboardInterrupt and what
    # the loop's exception handler raises.
    cdef int run(self) except -1
    cdef int report(self) except -1
    cdef Details detailed(self)
    cdef bint mark_cancelled(self) noexcept
    cdef int let_go(self) except -1


cdef class TimerHandle(Handle):
    pass


# A new handle, perhaps one that was used before; the reference is the caller's.  For a loop that
# runs: what it is to call is within reach, so the garbage collector has nothing to look for.
cdef PyObject *new_handle() except NULL
cdef PyObject *new_timer() except NULL
cdef PyObject *new_thread_safe_handle() except NULL
# The context of such a one was copied for it alone.
cdef void untrack_context(PyObject *handle) noexcept
# It was called, or will not be: lets go of the caller's reference.
cdef void handle_called(PyObject *handle) noexcept
# The loop runs no more: for those that it has not called.
cdef void track_handle(PyObject *handle) noexcept


cdef class ThreadSafeHandle(Handle):
    cdef int wait_for_the_end(self) except -1
