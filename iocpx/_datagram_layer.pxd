from iocpx._peers cimport Peers
from iocpx._types cimport ADDRESS_BYTES, conn_t, worker_t


# What a datagram endpoint is to its protocol, on threads and on a loop: the transports of both
# derive from it.
cdef class Datagrams:
    cdef conn_t *_conn              # one reference, until connection_lost; critical section
    cdef Peers _peers
    cdef object _remote             # the one that it sends to; None: sendto() has to be told
    cdef bint _connected            # … which the kernel knows
    cdef object _sockname
    # Critical section: set_protocol changes them.
    cdef object _protocol
    cdef bint _in_lists             # … takes its datagrams so

    # `remote`: NULL or an address of a sockaddr: whom the socket is connected to.
    cdef int _begin(self, int family, sockname, remote, bint connected) except -1
    cdef void _take_conn(self, conn_t *conn) noexcept
    cdef void _detach(self) noexcept
    # The conn_t with a reference for the caller; NULL: it is over.
    cdef conn_t *_enter(self) noexcept
    cdef _take_protocol(self, protocol)
    # Tell what has come.
    cdef void _tell_datagrams(self, conn_t *conn) noexcept
    cdef void _tell_marks(self, str name) noexcept
    # One callback of the protocol, where it has it.
    cdef object _run(self, str name, tuple arguments)
    cdef void _call(self, str name, tuple arguments) noexcept

    # For a subclass.
    # Who asks the engine: the loop's worker, on its thread; NULL: a thread that is none.
    cdef worker_t *_by(self) noexcept
    # A callback raised.
    cdef void _failed(self, str name, exc) noexcept
    # What a callback has returned, if not None.
    cdef int _returned(self, str name, result) except -1
    # Keep what has come, to be told by a callback of the loop.  False: it is told now.
    # sending: the error is one of a send.
    cdef bint _later(self, data, addr, error, bint sending) except -1
    # close() or abort() is called.
    cdef void _ending(self, bint aborted) noexcept
    cdef void _tell_list(self, protocol, list some) noexcept
    # Shall the first of what is queued leave at once?
    cdef bint _leaves_now(self) noexcept
    # Something was asked for.
    cdef void _asked(self) noexcept
