from iocpx._types cimport conn_t, deliver_fn, engine_t

cdef enum:
    WAIT_SLICE_MS = 100             # how long Ctrl+C may go unnoticed


cdef class Runtime:
    cdef engine_t *engine           # owned
    cdef readonly object factory
    cdef readonly object exception_handler
    cdef readonly tuple sockets
    cdef object addresses           # of the sockets, as text
    cdef readonly list threads      # that have been started
    cdef readonly object exit       # the SystemExit or KeyboardInterrupt of a callback
    cdef bint _owns_sockets         # a failed start closes them; close() does always
    cdef bint _listening
    cdef bint _closed               # close() was called; _sockets_lock
    cdef readonly bint failed        # the start is being undone, or was
    cdef bint _told                 # "serving on" is in the log
    cdef object _raised             # what start() is to raise
    cdef object _skipped            # OSErrors of addresses that were left out
    cdef set _to_begin
    cdef object _prepared
    cdef object _may_listen
    cdef object _listened
    cdef object _telling            # the thread that logs a trouble, or has
    cdef object _sockets_lock       # a listening handle is used, or closed
    cdef readonly object trace
    cdef readonly object context    # of the thread that called start(): connections copy it
    cdef readonly set connections

    cdef void tell_trace(self, conn_t *conn, const char *line) noexcept
    cdef void report(self, message, exc, protocol, transport) noexcept
    cdef void _note_exit(self, exc) noexcept


# A sockaddr as the socket module shows it.
cdef object address_tuple(const unsigned char *addr)
# What every Runtime made from now on calls for connections with news.
cdef void set_deliver(deliver_fn deliver) noexcept
