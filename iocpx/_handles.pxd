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
    cdef readonly object _context
    cdef readonly bint _cancelled
    cdef Details details                # None, for most
    # TimerHandle's:
    cdef double when_s
    # ThreadSafeHandle's:
    cdef unsigned long running_in       # the thread that calls it, 0: none

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


cdef class ThreadSafeHandle(Handle):
    cdef int wait_for_the_end(self) except -1
