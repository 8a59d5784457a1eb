"""Endpoint: where a loop's connections come from, a listening socket or the loop itself.

A service on the loop's engine.  `_transports` and `_datagram_transport` give it what tells the
protocols of its connections.

Called by `_engine_loop`, which makes it, and by `_tcp_loop`, `_transports` and
`_datagram_transport`; calls `_service` and `_accept`.
"""

cimport cython
from cpython.contextvars cimport PyContext_CopyCurrent
from cpython.ref cimport PyObject

from iocpx._accept cimport service_listen
from iocpx._service cimport service_create, service_free, service_retire, service_stop
from iocpx._types cimport *

from iocpx._addresses import address_text
from iocpx._errors import os_error

cdef enum:
    LOW_WATER_BYTES = 16384
    INITIAL_ACCEPTS = 16
    MAX_ACCEPTS = 200
    MAX_FREE_CONNECTIONS = 200
    # Of a datagram endpoint: receives that are posted, and the longest there is.
    DATAGRAM_READS = 4
    DATAGRAM_BYTES = 65535
    # A closed transport gives up a peer that takes nothing for so long, or does not end its side.
    CLOSE_TIMEOUT_MS = 60000

cdef tell_fn tell_of_transports = NULL
cdef tell_fn pump_transports = NULL
cdef tell_fn tell_of_datagrams = NULL


cdef void set_tell_of_datagrams(tell_fn tell) noexcept:
    global tell_of_datagrams
    tell_of_datagrams = tell


cdef void set_tell_of_transports(tell_fn tell, tell_fn pump) noexcept:
    global tell_of_transports, pump_transports
    tell_of_transports = tell
    pump_transports = pump


# Not cleared: __dealloc__ needs `run`.
@cython.no_gc_clear
cdef class Endpoint:
    """A service of a loop's, from its making until its last connection is gone.

    The loop refers to it until it has ended, and its connections borrow it.
    """

    def __cinit__(self, loop, EngineRun run, endpoints, ended, factory, server, sslcontext,
                  double handshake_s, double shutdown_s, int backlog, bint datagrams=False):
        self.loop = loop
        self.run = run
        self.factory = factory
        self.server = server
        self.sslcontext = sslcontext
        self.handshake_s = handshake_s
        self.shutdown_s = shutdown_s
        self.context = PyContext_CopyCurrent()
        self._ended = ended
        if datagrams:
            self.config.handler.tell = tell_of_datagrams
            self.config.datagrams = True
            self.config.datagram_bytes = DATAGRAM_BYTES
        else:
            self.config.handler.tell = tell_of_transports
            self.config.handler.pump = pump_transports
        self.config.handler.context = <PyObject *>self  # borrowed: `endpoints` has us to the end
        self.config.backlog = backlog
        self.config.initial_accepts = INITIAL_ACCEPTS
        self.config.max_accepts = MAX_ACCEPTS
        self.config.initial_reads = DATAGRAM_READS if datagrams else 1
        self.config.max_free_connections = MAX_FREE_CONNECTIONS
        self.config.close_timeout_ms = CLOSE_TIMEOUT_MS
        self.config.like_asyncio = True
        self.config.high_water_bytes = HIGH_WATER_BYTES
        self.config.low_water_bytes = LOW_WATER_BYTES
        endpoints.add(self)
        self.service = service_create(run.engine, &self.config, NULL)
        if self.service == NULL:
            endpoints.discard(self)
            raise MemoryError("out of memory for an endpoint")

    def __dealloc__(self):
        # Not among the endpoints any more, so it is over.
        if self.service != NULL:
            service_free(self.service)

    def listen(self, sock):
        """Accept on a bound socket, which stays the caller's to close, after stop_accepting()."""
        cdef size_t handle = sock.fileno()
        cdef int family = sock.family
        cdef int error
        with nogil:
            error = service_listen(self.service, handle, family)
        if error != 0:
            raise os_error(error, "listen", address_text(sock.getsockname()))

    def stop_accepting(self):
        """The connections that there are go on, and it ends with the last of them."""
        with nogil:
            service_retire(self.service)

    cdef void abort(self) noexcept:
        """… and now."""
        with nogil:
            service_stop(self.service, 0)

    def ended(self):
        """By the keeper: nothing is left of it.  The loop lets go of it on its own thread, since
        what a factory refers to may have to be finalised there."""
        self._ended.append(self)
