from libc.stdint cimport uint64_t

from iocpx._endpoint cimport Endpoint
from iocpx._engines cimport EngineRun
from iocpx._loop cimport LoopCore
from iocpx._types cimport conn_t


cdef class EngineLoop(LoopCore):
    cdef readonly EngineRun _engine  # None: there was no TCP connection yet
    cdef Endpoint clients           # of the connections that the loop itself has made
    cdef Endpoint datagrams         # of its datagram endpoints
    cdef set endpoints              # that the loop has not let go of yet
    cdef list ended                 # … and that are over; the keeper appends
    cdef dict adopted               # the conn_t of each op whose packets come under another key
    cdef set files                  # opened ones, until their handles are closed
    cdef Py_ssize_t sweep_at        # so many of them, and those that are over are let go
    cdef uint64_t looks             # iterations that have looked at the port, from 1 on
    cdef bint is_over               # close() was called: no callback any more
    cdef bint polling               # in the engine, and what it calls
    cdef bint completed             # packets of adopted connections have come
    cdef int unlooked               # iterations that told somebody since the last look at the port
    cdef bint one_has_ended         # connection_lost was told since the last wait at the port
    cdef object raised              # SystemExit or KeyboardInterrupt of a callback
    cdef int raise_raised(self) except -1

    # Whoever asked something of a connection: the next iteration does what follows from it.
    cdef void wants_look(self) noexcept
    # A connection ends: it is told in the next iteration, which may be the loop's last.
    cdef void one_is_ending(self) noexcept
    # Packets of its operations will come under another key than the engine's.
    cdef int adopt(self, conn_t *conn) except -1
    cdef void sweep(self) noexcept
    # Let go of endpoints that are over.
    cdef void drop_ended(self) noexcept
    cdef void flush(self) noexcept
    cdef EngineRun engine_run(self)
    # To the exception handler; what ends a program is raised by the iteration under way.
    cdef void callback_raised(self, exc, message, protocol, transport) noexcept
