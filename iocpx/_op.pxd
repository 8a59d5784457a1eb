"""The per-I/O struct.  One `op_t` stands for one operation that Windows may own.

From the post until its completion an op is lent to the kernel: its memory is
not moved, reused or freed, whatever else happens to its connection.

An op knows what completes it: a worker that dequeues its packet calls `done` and
asks no further, so a new kind of operation changes nothing in the workers.

Cimported by `_types` and by the rooms that make, dispatch or complete operations; needs `_winsock`
alone.
"""

from iocpx._winsock cimport DWORD, OVERLAPPED

# worker: the worker_t that has dequeued the packet.  nbytes: of the operation.  No lock held.
ctypedef void (*done_fn)(void *worker, op_t *op, DWORD nbytes) noexcept nogil

ctypedef struct op_t:
    # First, so that the OVERLAPPED pointer of a packet is the op pointer.
    OVERLAPPED overlapped
    void *owner         # borrowed: the owner embeds or outlives the op
    done_fn done
