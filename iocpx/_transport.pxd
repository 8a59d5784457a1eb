from iocpx._delivery cimport lost_t
from iocpx._endpoint cimport Endpoint
from iocpx._engine_loop cimport EngineLoop
from iocpx._file_layer cimport FileUser
from iocpx._state cimport buf_t, queue_t
from iocpx._tls cimport Tls
from iocpx._types cimport ADDRESS_BYTES, conn_t, worker_t


cdef class Transport(FileUser):
    cdef conn_t *_conn              # one reference, until the engine is done with it
    cdef worker_t *_worker          # the loop's one; as long as _conn is
    cdef readonly EngineLoop _loop
    cdef Endpoint _endpoint         # keeps the engine's memory while _conn may be used
    cdef object _protocol
    cdef bint _buffered             # … takes its data as a BufferedProtocol
    cdef object _context            # its callbacks', until connection_lost
    cdef object _server             # the asyncio.Server that counts it, until connection_lost
    cdef object _given              # the socket that it was made of, closed with it; or None
    cdef object _waiter             # a future: connection_made was called
    cdef object _view               # get_extra_info("socket")
    cdef dict _own_extra            # what is asked for by name, once somebody has
    cdef char[ADDRESS_BYTES] _local
    cdef char[ADDRESS_BYTES] _remote
    cdef bint _closing
    cdef bint _eof_written
    cdef readonly bint _protocol_paused  # its writing, as asyncio's transports have it
    cdef bint _paused               # by the protocol…
    cdef bint _gated                # … or until whoever waits for the connection has had its turn
    cdef bint _connected            # connection_made was called
    cdef bint _told                 # connection_lost was called
    cdef bint _lost_soon            # … or will be, by call_soon
    cdef object _exc                # what it is called with
    cdef int _dropped_writes
    cdef object _tls_timer          # a handle: the handshake, or the end, takes too long
    cdef double _tls_shutdown_s     # how long the end may take
    cdef object __weakref__
    cdef dict __dict__              # as with asyncio's, whose attributes may be set

    cdef void _attach(self, Endpoint endpoint, conn_t *conn) noexcept
    cdef void _detach(self) noexcept
    cdef _join(self, server)
    cdef _take_protocol(self, protocol)
    cdef void _made(self) noexcept
    cdef void _feed_buffers(self, conn_t *conn, buf_t *buf) noexcept
    cdef void _tell_marks(self, str name) noexcept
    cdef void _end_of_stream(self, conn_t *conn) noexcept
    cdef void _lost(self, conn_t *conn, lost_t *lost) noexcept
    cdef void _fail(self, exc, str message) noexcept
    cdef void _fail_for_good(self, exc, str message) noexcept
    cdef int _after_write(self, worker_t *by, conn_t *conn, int result) except -1
    cdef worker_t *_by(self) noexcept
    # data: None: it is not empty.
    cdef bint _may_write(self, data) except -1
    cdef void _gate(self) noexcept
    cdef _take_tls(self, Tls tls, double handshake_s, double shutdown_s)
    cdef void _stop_tls_timer(self) noexcept
