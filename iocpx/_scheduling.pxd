from cpython.object cimport PyObject
from libc.stdint cimport uint64_t

from iocpx._handles cimport Handle, HandleOwner, TimerHandle
from iocpx._winsock cimport DWORD


cdef extern from *:
    unsigned long this_thread "PyThread_get_thread_ident" ()


cdef struct due_t:
    double when_s
    uint64_t number                     # of two that are due at the same time the older is first


# The handles that are called in the next iteration, first in, first out: a ring.
cdef class ReadyQueue:
    cdef list ring                      # as long as there is room; where no handle is, None
    cdef Py_ssize_t head
    cdef Py_ssize_t count
    cdef bint roomy                     # more room than an empty queue keeps

    # Any thread.
    cdef int push(self, handle) except -1
    cdef int push_owned(self, PyObject *handle) except -1   # takes over a reference
    # The reference is taken over if it is done: False where there is no room.
    cdef bint push_at_once(self, PyObject *handle) noexcept
    cdef int push_growing(self, PyObject *handle) except -1
    # In the critical section.
    cdef bint push_into_room(self, PyObject *handle) noexcept
    # Precondition: there is one, and no other thread takes it.  The reference is the caller's.
    cdef PyObject *pop(self) noexcept
    cdef void grow(self, list ring) noexcept
    # Give back the room of a long queue, unless something has come again.
    cdef int shrink(self) except -1
    # For the garbage collector: the loop runs no more.
    cdef void track(self) noexcept


# The handles that are called at a time: a heap of times, and beside it, at the same
# indexes, one of handles.
cdef class TimerHeap:
    cdef due_t *dues                    # owned
    cdef list handles                   # as long as there is room; where no handle is, None
    cdef Py_ssize_t count
    # Cancelled since the last time that all were taken out: of these at most so many are.
    cdef Py_ssize_t cancelled
    cdef uint64_t number
    cdef bint roomy                     # more room than an empty heap keeps

    cdef int push(self, TimerHandle handle, double key_s) except -1
    # Those that are due at now_s, in their order.
    cdef int move_due(self, double now_s, ReadyQueue ready) except -1
    cdef int note_cancelled(self, TimerHandle handle) except -1
    # Cancelled ones leave that are the first.
    cdef int tidy(self) except -1
    # All cancelled ones leave.
    cdef int drop_cancelled(self) except -1
    cdef double next_s(self) noexcept
    # For the garbage collector: the loop runs no more.
    cdef void track(self) noexcept
    cdef int grow(self, Py_ssize_t room) except -1
    # Give back the room of a long one, if it is empty.
    cdef int shrink(self) except -1
    # What follows: in the critical section.  References are taken over, and given away.
    cdef PyObject *take_first(self) noexcept
    cdef void move(self, Py_ssize_t index, Py_ssize_t gap) noexcept
    cdef void rise(self, Py_ssize_t gap, due_t due, PyObject *handle) noexcept
    cdef void sink(self, Py_ssize_t gap, due_t due, PyObject *handle) noexcept


cdef class Scheduler(HandleOwner):
    cdef ReadyQueue ready
    cdef TimerHeap timers
    cdef public bint _closed
    cdef public bint _stopping
    cdef public object _thread_id
    cdef public object _current_handle
    cdef public object _task_factory
    cdef public double slow_callback_duration
    # Set by whoever knows that a packet is to be expected: the next iteration looks at the port.
    cdef bint look_due
    cdef bint look_soon             # … but after one iteration without, if anything is ready
    cdef bint runs                      # in _run_until_stopped
    cdef unsigned long thread           # that it runs on, or has run on last; 0: on none yet
    cdef bint waiting                   # the loop's thread is at the port and may be waiting there
    cdef bint woken                     # and a wake packet is on its way to it
    cdef double looked_s                # when the port was looked at last
    cdef uint64_t looked_ms             # the same, by a clock that is cheap and coarse
    cdef unsigned int spared            # iterations since
    # How many may be while something is pending, times FIRST_LOOKS.
    cdef unsigned int patience

    # For a subclass.  Look at the port, wait there for timeout_ms at most (INFINITE: for ever) and
    # dispatch what there is; how many packets.  The loop's thread.
    cdef int look(self, DWORD timeout_ms) except -1
    # How many operations are under way whose packets look() would find.
    cdef Py_ssize_t pending(self) noexcept
    # Have a look() that waits return.  Any thread.
    cdef void wake(self) noexcept

    # In look(), around the call that waits: what is to be waited for now, in milliseconds.
    cdef DWORD begin_wait(self, DWORD timeout_ms) noexcept
    cdef void end_wait(self) noexcept
    # A handle that is not called before somebody pushes it into `ready`.
    cdef Handle make_handle(self, callback, tuple args, context)
    cdef int fill_handle(self, Handle handle, callback, tuple args, context) except -1
    # call_soon() without its checks.  The loop's thread.
    cdef Handle add_soon(self, callback, tuple args, context, bint thread_safe)
    cdef TimerHandle add_timer(self, double when_s, double key_s, callback, tuple args, context)
    cdef int iterate(self) except -1
    cdef bint look_wanted(self) noexcept
    cdef DWORD timeout(self) noexcept
    cdef int run_watched(self, handle) except -1
    cdef void set_current_handle(self, handle) noexcept


# The loop's clock, in seconds: QueryPerformanceCounter.
cdef double now() noexcept nogil


# Is this thread the loop's?  Or may it be: one that has not run yet.
cdef inline bint on_loop(Scheduler loop) noexcept:
    return loop.thread == this_thread() or loop.thread == 0
