from iocpx._engines cimport EngineRun
from iocpx._types cimport service_config_t, service_t, tell_fn


cdef class Endpoint:
    cdef service_config_t config
    cdef service_t *service         # owned
    cdef readonly EngineRun run     # that it is on
    cdef readonly object loop
    cdef readonly object factory    # of protocols; None: its connections bring their own
    cdef readonly object server     # the asyncio.Server, or None
    cdef readonly object sslcontext     # None: no TLS
    cdef readonly double handshake_s    # how long a TLS handshake may take…
    cdef readonly double shutdown_s     # … and a TLS connection's end
    cdef readonly object context    # connections copy it
    cdef list _ended                # the loop's, which this joins at its end

    cdef void abort(self) noexcept


# What every endpoint of datagrams made from now on tells its protocols by.
cdef void set_tell_of_datagrams(tell_fn tell) noexcept
# What every other endpoint made from now on tells its protocols by, and encrypts what they wrote.
cdef void set_tell_of_transports(tell_fn tell, tell_fn pump) noexcept
