from iocpx._delivery cimport lost_t
from iocpx._engines cimport EngineRun
from iocpx._types cimport conn_t, service_config_t, service_t, tell_fn
from iocpx._winsock cimport HANDLE, LONG64


cdef class Runtime:
    cdef service_config_t config
    cdef HANDLE stopped             # owned: the service has ended, or never came to be
    cdef service_t *service         # owned, once _prepare has made it; set under _sockets_lock
    cdef readonly EngineRun run     # that it is on
    cdef readonly object factory
    cdef readonly object exception_handler
    cdef readonly tuple sockets
    cdef object addresses           # of the sockets, as text
    cdef readonly object exit       # the SystemExit or KeyboardInterrupt of a callback
    cdef object _engine
    cdef bint _owns_sockets         # a failed start closes them; close() does always
    cdef bint _listening
    cdef bint _closed               # close() was called; _sockets_lock
    cdef readonly bint failed        # the start is being undone, or was
    cdef bint _told                 # "serving on" is in the log
    cdef object _raised             # what start() is to raise
    cdef object _skipped            # OSErrors of addresses that were left out
    cdef object _prepared
    cdef object _may_listen
    cdef object _listened
    cdef object _end_told           # a lock, free when "stopped" is in the log too…
    cdef unsigned long _teller      # … for which this thread sees
    cdef object _sockets_lock       # a listening handle is used, or closed
    cdef readonly object trace
    cdef readonly object context    # of the thread that called start(): connections copy it
    cdef readonly set connections
    cdef readonly object sslcontext     # None: no TLS
    cdef readonly double handshake_s    # how long a TLS handshake may take…
    cdef readonly double shutdown_s     # … and a TLS connection's end
    cdef object handshake_lock
    # Under it:
    cdef int max_handshakes
    cdef int handshaking            # connections that have begun theirs
    cdef object waiting             # in order, those that have not
    cdef LONG64 handshakes          # that were done
    cdef LONG64 handshake_timeouts
    cdef dict handshake_failures    # by reason
    # Of connect(); critical section:
    cdef LONG64 connects            # futures that it has returned…
    cdef LONG64 connects_made       # … those that were given their connection…
    cdef LONG64 connects_failed     # … and those that were not: refused, too late, cancelled

    cdef void tell_trace(self, conn_t *conn, const char *line) noexcept
    # Whether a connection may begin its handshake; if not, it is not read, and its _begin_waiting()
    # is called when it may.
    cdef bint handshake_wanted(self, connection, conn_t *conn) except -1
    # exc: why it failed, or None.
    cdef void handshake_over(self, connection, exc) noexcept
    # For a service that is there as long as somebody needs it (_clients): one more does, for a
    # connection that we make or a call of connect(), and one less.  A server's are there anyway.
    cdef void stay(self) noexcept
    cdef void leave(self) noexcept
    # A future of connect() is given away, or done: made or failed.
    cdef void count_connect(self, bint begun, bint made) noexcept
    cdef void report(self, message, exc, protocol, transport) noexcept
    # Give a concurrent.futures.Future its outcome: None, or an exception.  of: what has made it.
    cdef void settle(self, future, exc, str of, connection) noexcept
    cdef void _note_exit(self, exc) noexcept


# What every service of a server made from now on tells its protocols by.
cdef void set_tell(tell_fn tell) noexcept
# The interpreter is at its end: what runs is being stopped, and nothing may begin.
cdef bint is_exiting() noexcept
# What a limit of ours says that has ended a connection; None: it was none.
cdef str limit_text(lost_t *lost, service_config_t *config)
cdef object duplicate_socket(size_t handle)
# A sockaddr as the socket module shows it.
cdef object address_tuple(const unsigned char *addr)
