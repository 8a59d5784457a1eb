from libc.stdint cimport uint64_t

from iocpx._types cimport disk_file_t, engine_t, file_op_t, worker_t
from iocpx._winsock cimport HANDLE

cdef enum file_post_result:
    FILE_PENDING            # engine_next_file_op brings it
    # It is over, has its outcome, and nobody else brings it; file_told follows, when it is told.
    FILE_DONE
    FILE_CLOSED             # the file is closed, or about to be: nothing was begun

# A file on the engine's port, and the engine goes on until the file has ended.  handle: opened
# with FILE_FLAG_OVERLAPPED, and the file's from here on.  skip: what completes at once is done at
# once, where Windows can tell so; otherwise engine_next_file_op brings all, also what is refused at
# once, unless there is no memory for its packet.  NULL: failed, *error is the Windows code, and the
# handle is the caller's as before.
cdef disk_file_t *file_new(engine_t *engine, HANDLE handle, bint skip, int *error) noexcept nogil
# Precondition: file_take_end has returned True, and no operation of it is untold.
cdef void file_free(disk_file_t *file) noexcept nogil

# What follows: any thread that has the file from its maker, which need not live on.

# Precondition: none of its operations is lent.
cdef void file_op_init(file_op_t *op, disk_file_t *file, void *user) noexcept nogil
# Read nbytes at an offset, or write them; at APPENDING: behind all that there is.  The op, and the
# memory from `data` on, are lent until it is over and, the op, until this has returned.
cdef file_post_result file_read(file_op_t *op, char *data, size_t nbytes,
                                uint64_t offset) noexcept nogil
cdef file_post_result file_write(file_op_t *op, const char *data, size_t nbytes,
                                 uint64_t offset) noexcept nogil
# Ask the kernel to give it up, which its outcome tells.  False: it was over before.
# Precondition: the caller keeps it.
cdef bint file_op_cancel(file_op_t *op) noexcept nogil
# The handle, which is open until file_return; NULL: the file is closed, or about to be.
cdef HANDLE file_borrow(disk_file_t *file) noexcept nogil
cdef void file_return(disk_file_t *file) noexcept nogil
# The outcome of an operation has been told: until then the file does not end, and neither does the
# engine, whose workers tell it.
cdef void file_told(disk_file_t *file) noexcept nogil
# Nothing new begins, and what is pending is given up.  The handle is closed when the last of that
# has completed, told or not; at once, if nothing is pending: who has waited for the outcomes may
# remove the file when this returns.
cdef void file_close(disk_file_t *file) noexcept nogil
# The file has ended: its handle is closed, and all is told.  True once, for whoever asks first.  To
# be asked after file_close, file_told and file_return.
cdef bint file_take_end(disk_file_t *file) noexcept nogil
# One that is over, and from here on its maker's, who tells it, then file_told; NULL: none, or the
# worker has told its share.  For deliver_batch.
cdef file_op_t *engine_next_file_op(worker_t *worker) noexcept nogil

cdef extern from * nogil:
    # Both halves of the OVERLAPPED's offset all ones: WriteFile's "at the end of the file".
    """
    #define IOCPX_APPENDING (~(unsigned long long)0)
    """
    const uint64_t APPENDING "IOCPX_APPENDING"


# For the workers and the keeper: how many are over that nobody has been told of.
cdef int engine_file_ops(engine_t *engine) noexcept nogil
