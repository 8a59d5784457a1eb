from cpython.buffer cimport Py_buffer

from iocpx._types cimport disk_file_t, engine_t, file_op_t


# A file on the port of an engine, and who is told of its operations; without the name that a
# program knows it by (File), so that this one can be finalised.
cdef class Opened:
    cdef disk_file_t *file          # owned; NULL: it never came to be
    cdef object path
    cdef bint may_read
    cdef bint may_write             # … and change its length
    cdef bint only_appends
    cdef bint is_pipe
    cdef readonly bint closed       # close() was called

    # Take over a handle, which is closed if that raises.
    cdef int put_on_port(self, engine_t *engine, size_t handle, bint skip) except -1
    # After whatever may have been the last of it.
    cdef void look_end(self) noexcept

    # For a subclass.  Have the engine, and take the handle over.
    cdef int begin(self, size_t handle) except -1
    # For an operation, or for an Aside.
    cdef object new_future(self, operation)
    # It pends: its packet is to be expected.
    cdef void posted(self) noexcept
    # The outcome of an operation, where that is told; at once, where it did not pend.  Returns what
    # was raised meanwhile and is nobody's yet, or None; raises nothing.
    cdef object settle(self, future, result, exc, bint cancelled)
    # That, where nobody is there to whom it could be raised.
    cdef void report(self, raised) noexcept
    # … of a call that was done aside, on that thread.
    cdef void settle_apart(self, future, exc) noexcept
    # Its handle is closed.
    cdef void ended(self) noexcept


# A read or a write, from its post until it is told.
cdef class Operation:
    cdef file_op_t op
    cdef Opened opened
    cdef object file                # the File: not finalised meanwhile
    cdef object future
    cdef bytes data                 # that is read into
    cdef Py_buffer view             # or of the caller's memory…
    cdef bint viewed                # … which it has
    cdef bint reading
    cdef size_t nbytes              # that are wanted

    cdef object post(self, char *data, unsigned long long offset)
    # Returns what settle() does.
    cdef object over(self)
    cdef object outcome(self, size_t nbytes)


# It is over: called by deliver_batch.
cdef void operation_over(file_op_t *op) noexcept
# What opens files of a loop's: called without arguments, it returns a new Opened, or None where no
# loop of ours runs on this thread.
cdef void set_loop_opener(opener) noexcept
