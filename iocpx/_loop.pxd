from iocpx._scheduling cimport Scheduler
from iocpx._socket_polls cimport SocketPolls
from iocpx._winsock cimport DWORD, HANDLE, OVERLAPPED, OVERLAPPED_ENTRY

cdef enum:
    BATCH = 64                          # packets that one look takes


cdef class LoopCore(Scheduler):
    cdef HANDLE port                    # the proactor's, which closes it
    cdef OVERLAPPED wake_op             # its address is what tells a wake packet
    # The proactor's bookkeeping: what it knows of its operations, by the OVERLAPPED's address.
    cdef dict cache
    cdef list unregistered
    cdef object stopped_serving
    cdef SocketPolls polls              # None: no socket was watched yet
    # The packets of the last look; those from next_entry on are not dispatched yet, since what
    # came before them raised.
    cdef OVERLAPPED_ENTRY entries[BATCH]
    cdef int next_entry
    cdef int n_entries
    # Operations of the proactor's that bring nothing which a program waits for.
    cdef public Py_ssize_t _own_operations

    # A packet of the proactor's, of a poll's, or of nobody.
    cdef int dispatch(self, DWORD nbytes, size_t key, size_t address) except -1
    cdef int wait_at_port(self, DWORD timeout_ms) except -1
    cdef int refuse(self, DWORD nbytes, size_t key, size_t address) except -1
