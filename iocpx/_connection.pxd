from libc.stdint cimport uint64_t

from iocpx._delivery cimport lost_t
from iocpx._file_layer cimport FileSender
from iocpx._runtime cimport Runtime
from iocpx._state cimport buf_t, queue_t
from iocpx._timers cimport TimerHandle, Timers
from iocpx._tls cimport Tls
from iocpx._types cimport ADDRESS_BYTES, conn_t, worker_t


cdef class Connection(FileSender):
    cdef conn_t *_conn              # one reference, until connection_lost; critical section
    cdef Runtime _runtime           # keeps the engine's memory while _conn may be used
    cdef char[ADDRESS_BYTES] _local
    cdef char[ADDRESS_BYTES] _remote
    cdef bint _eof_written
    cdef bint _close_called
    cdef bint _detached             # it has had its conn_t, or never will; critical section
    # Who has made it (_clients), until connection_made has returned, or the end; None: it came by
    # itself.  The executor's.
    cdef object _maker
    cdef object _socket             # what get_extra_info("socket") made
    cdef Timers _timers             # made when the first is set; critical section
    cdef object _context            # its callbacks', until connection_lost; the executor's
    cdef object _tls_timer          # the handshake, or the end, takes too long
    cdef double _tls_shutdown_s     # how long the end may take
    cdef object _tls_future         # start_tls() returned it, and the handshake is under way
    cdef bint _handshaking          # it is one of the runtime's handshakes; the executor's
    cdef object __weakref__
    # Critical section: set_protocol changes them.
    cdef object _protocol
    cdef bint _buffered             # … takes its data as a BufferedProtocol…
    cdef bint _tells_sent           # … and wants to be told what was sent

    cdef void _attach(self, Runtime runtime, conn_t *conn, context) noexcept
    cdef void _detach(self) noexcept
    cdef _bind(self, protocol)
    cdef void _failed(self, str name, exc) noexcept
    cdef void _made(self) noexcept
    cdef object _run(self, str name, tuple arguments=*)
    cdef void _call(self, str name, tuple arguments=*) noexcept
    cdef void _tell_marks(self, str name) noexcept
    cdef bint _keeps_open(self) noexcept
    cdef bint _takes_bytes(self) noexcept
    cdef void _feed_buffers(self, conn_t *conn, buf_t *buf) noexcept
    cdef void _run_timers(self, conn_t *conn) noexcept
    cdef void _lost(self, conn_t *conn, lost_t *lost) noexcept
    cdef int _after_write(self, conn_t *conn, int result) except -1
    cdef _flush(self, conn_t *conn)
    cdef _pause(self, bint paused)
    cdef Timers _timers_of(self)
    cdef TimerHandle _set_timer(self, callback, tuple args, uint64_t delay_us)
    cdef object _socket_for_options(self, default)
    cdef object _duplicate(self)
    # Take up TLS, from the runtime's context: in its first turn, or when it may begin.
    cdef void _begin_tls(self, conn_t *conn) noexcept
    cdef int _take_tls(self, conn_t *conn, Tls tls, double handshake_s, double shutdown_s) except -1
    cdef void _end_handshake(self, exc) noexcept
    cdef int _keep_tls_timer(self, timer, bint anew) except -1
    cdef int _limit_the_end_of_tls(self, bint anew) except -1
    cdef void _stop_tls_timer(self) noexcept
    cdef bint _take_protocol_of_factory(self, conn_t *conn) noexcept
