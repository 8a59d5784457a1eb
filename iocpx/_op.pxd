"""The per-I/O struct.  One `op_t` stands for one operation that Windows may own.

From the post until its completion an op is lent to the kernel: its memory is
not moved, reused or freed, whatever else happens to its connection.
"""

from iocpx._winsock cimport OVERLAPPED

# What an op does, and so what `owner` points to and who handles its packet.
cdef enum op_kind:
    OP_ACCEPT   # owner: acceptor_t, one slot of a listener's accept pool
    OP_RECV     # owner: conn_t
    OP_SEND     # owner: conn_t
    OP_SERVE    # owner: conn_t; posted packet: serve this connection on a worker
    OP_HELP     # owner: engine_t; posted packet: an idle worker looks what others have
    OP_STOP     # owner: engine_t; posted packet: one worker ends

ctypedef struct op_t:
    # First, so that the OVERLAPPED pointer of a packet is the op pointer.
    OVERLAPPED overlapped
    void *owner         # borrowed: the owner embeds or outlives the op
    op_kind kind
