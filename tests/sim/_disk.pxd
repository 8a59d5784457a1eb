"""Files that the application reads and writes: threads that begin operations, give some up and
close the file; and what is told of them.

The first of the threads makes the file; the others, and a loop, use it as well.  Called by the
protocol, the loop's thread and the driver; calls _checks and _run."""

from iocpx._types cimport file_op_t

# Before a run.
cdef void disk_begin() noexcept nogil
# argument: which of the threads.
cdef void disk_main(void *argument) noexcept nogil
# One operation, if there is the file.
cdef void disk_round() noexcept nogil
# It is over: by a worker.
cdef void disk_told(file_op_t *op) noexcept nogil
