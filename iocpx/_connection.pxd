from libc.stdint cimport uint64_t

from iocpx._types cimport ADDRESS_BYTES, conn_t
from iocpx._runtime cimport Runtime
from iocpx._state cimport buf_t, queue_t
from iocpx._timers cimport TimerHandle, Timers


cdef class Connection:
    cdef conn_t *_conn              # one reference, until connection_lost; critical section
    cdef Runtime _runtime           # keeps the engine's memory while _conn may be used
    cdef char[ADDRESS_BYTES] _local
    cdef char[ADDRESS_BYTES] _remote
    cdef bint _eof_written
    cdef object _socket             # what get_extra_info("socket") made
    cdef Timers _timers             # made when the first is set; critical section
    cdef object _raised             # what a callback raised, for connection_lost
    # Critical section: set_protocol changes them.
    cdef object _protocol
    cdef object _data_received      # bound once: looked up per event they cost more than the call
    cdef object _get_buffer         # of a BufferedProtocol, else None
    cdef object _buffer_updated

    cdef void _attach(self, Runtime runtime, conn_t *conn) noexcept
    cdef void _detach(self) noexcept
    cdef conn_t *_enter(self) noexcept
    cdef _bind(self, protocol)
    cdef void _failed(self, str name, exc) noexcept
    cdef bint _call(self, str name, argument=*) noexcept
    cdef bint _takes_bytes(self) noexcept
    cdef void _feed(self, conn_t *conn, buf_t *buf) noexcept
    cdef void _feed_buffers(self, conn_t *conn, buf_t *buf) noexcept
    cdef void _run_timers(self, conn_t *conn) noexcept
    cdef void _lost(self, int error, bint error_sending) noexcept
    cdef int _queue(self, conn_t *conn, queue_t *parts, data) except -1
    cdef _flush(self, conn_t *conn)
    cdef _pause(self, bint paused)
    cdef Timers _timers_of(self)
    cdef TimerHandle _set_timer(self, callback, tuple args, uint64_t delay_us)
    cdef object _socket_for_options(self, default)
    cdef object _duplicate(self)
