"""What a loop does between two looks at the port: tasks, which make requests of its connections
with its worker, and packets of its own connections that come under somebody else's key.

Called by the thread that steps the worker; calls _actions, _checks, _wakes and _run."""

from iocpx._winsock cimport OVERLAPPED_ENTRY

# With which asyncio's proactor has brought a socket to the port.
cdef enum:
    JOINED_KEY = 7

cdef void loop_between() noexcept nogil
# The loop stops, and is run again some time later.
cdef void loop_stops() noexcept nogil
# Whether a packet that the engine hands back is one of a connection of its own.
cdef bint loop_takes(const OVERLAPPED_ENTRY *entry) noexcept nogil
# From other threads: something for the loop to do, and the packet that wakes it.
cdef void loop_wake() noexcept nogil
