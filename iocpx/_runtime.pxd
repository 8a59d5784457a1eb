from iocpx._types cimport conn_t, deliver_fn, engine_t

cdef enum:
    WAIT_SLICE_MS = 100             # how long Ctrl+C may go unnoticed


cdef class Runtime:
    cdef engine_t *engine           # owned
    cdef readonly object factory
    cdef readonly object exception_handler
    cdef readonly tuple sockets
    cdef object addresses           # of the sockets, as text
    cdef readonly list threads
    cdef set _to_begin
    cdef object _may_listen         # True: all threads have been started; False: not all can
    cdef object _listened           # what _listen_to_all returns
    cdef object _sockets_lock       # a listening handle is used, or closed
    cdef readonly object trace
    cdef readonly object context    # of the thread that called start(): connections copy it
    cdef readonly set connections

    cdef void tell_trace(self, conn_t *conn, const char *line) noexcept
    cdef void report(self, message, exc, protocol, transport) noexcept


# A sockaddr as the socket module shows it.
cdef object address_tuple(const unsigned char *addr)
# What every Runtime made from now on calls for connections with news.
cdef void set_deliver(deliver_fn deliver) noexcept
