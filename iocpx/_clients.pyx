"""Connections that we make ourselves: the service that those of an engine belong to, how one
begins, and Engine.attach().

The service comes with the first call and goes with the last connection, so there is nothing to
close; the interpreter's exit stops it as it stops servers.

Called by `_connecting`, which makes connections of addresses, for it or for a server, by
`_open_file`, by `_core`, and by `_engines` through what it gives it (`set_clients`); calls
`_connection`, `_runtime`, `_engines`, `_threads`, and of the engine `_open`, `_provider`,
`_requests` and `_service`.

Who has made a connection is its `_maker` until connection_made() has returned.  It is asked:
    connected(connection)   its socket is connected: returns its Tls, or None, or raises if it is
                            wanted no more
    factory()               for the protocol; what it raises ends the connection, and lost() gets it
    made(connection)        connection_made() has returned; raises nothing
    lost(connection, exc)   it is over before that; raises nothing
all of them in the connection's turn.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING
from cpython.contextvars cimport PyContext_Copy, PyContext_CopyCurrent
from cpython.exc cimport PyErr_CheckSignals
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.string cimport memcpy

from iocpx._base cimport conn_ref, count
from iocpx._connection cimport Connection
from iocpx._engines cimport set_clients, WAIT_SLICE_MS
from iocpx._open cimport conn_open
from iocpx._provider cimport provider_of_family
from iocpx._requests cimport conn_abort, conn_is_closing
from iocpx._runtime cimport is_exiting, Runtime
from iocpx._sched cimport conn_unref
from iocpx._service cimport service_retire
from iocpx._state cimport STATE_OPEN
from iocpx._tls cimport Tls
from iocpx._types cimport *

import _socket
import socket
import ssl
# Not queue's: see _runtime.
from _queue import Empty, SimpleQueue
from _thread import start_new_thread

from iocpx._addresses import address_text, sockaddr
from iocpx._errors import os_error
from iocpx._runtime import _running
from iocpx._threads import require_system_threads

cdef int ERROR_INVALID_PARAMETER = 87

# What a server has if nothing else is asked for, as far as it concerns connections.
NUMBERS = {
    "backlog": 1, "initial_accepts": 1, "max_accepts": 1, "accept_receive": False,
    "accept_timeout_s": 0, "max_connections": 0, "initial_reads": 1, "idle_timeout_s": 0,
    "max_sends": 0, "max_write_buffer": 67108864, "close_timeout_s": 5000,
    "keepalive_idle_s": 5000, "keepalive_interval_s": 1000, "max_free_connections": 100,
    "ssl_handshake_timeout_s": 60000, "ssl_shutdown_timeout_s": 30000, "max_handshakes": 1,
}


@cython.no_gc_clear
cdef class Clients(Runtime):
    """Never start()ed: made with its service at once, and never listening."""

    def __cinit__(self, engine, *arguments):
        self.users = 1      # the caller
        # First, so that the exit finds it or it finds the exit.
        _running.add(self)
        try:
            if is_exiting():
                raise RuntimeError("no connection can be made at the end of the interpreter")
            self.run = engine._running()
            try:
                self._join()
            finally:
                self.run.release()
            if self.service == NULL:
                raise RuntimeError("no connection can be made at the end of the interpreter")
        except BaseException:
            self._end_unmade()
            raise

    cdef bint enter(self) noexcept:
        cdef bint goes_on
        with cython.critical_section(self):
            goes_on = self.users > 0 and not self.retires and not self._closed
            self.users += goes_on
        return goes_on

    cdef void stay(self) noexcept:
        with cython.critical_section(self):
            self.users += 1

    cdef void leave(self) noexcept:
        cdef bint last
        with cython.critical_section(self):
            self.users -= 1
            last = self.users == 0 and not self.retires
            self.retires = self.retires or last
        if last:
            # It ends when its connections have gone, of which no protocol hears any more.
            with nogil:
                service_retire(self.service)


cdef Clients clients_of(engine):
    cdef Clients clients = engine._clients
    return clients if clients is not None and clients.enter() else None


cdef Clients make_clients(engine):
    cdef Clients clients
    with engine._clients_lock:
        clients = clients_of(engine)
        if clients is None:
            clients = Clients.__new__(Clients, engine, None, None, None, None, NUMBERS)
            engine._clients = clients
    return clients


cdef class Wanted:
    """What a thread makes that no signal handler reaches, for one that may be interrupted."""

    cdef object engine
    cdef object done                # a queue: it is made, or never will be
    # Critical section:
    cdef Clients clients
    cdef object raised
    cdef bint given_up

    def make(self):
        cdef bint given_up = False
        cdef Clients clients = None
        raised = None
        try:
            clients = make_clients(self.engine)
        except BaseException as exc:
            raised = exc
        with cython.critical_section(self):
            self.clients = clients
            self.raised = raised
            given_up = self.given_up
        if given_up and clients is not None:
            clients.leave()
        self.done.put(None)


cdef Clients wait_for_clients(engine):
    """make_clients() by any thread."""
    cdef Wanted wanted
    cdef Clients clients = clients_of(engine)
    if clients is not None:
        return clients
    require_system_threads()
    wanted = Wanted.__new__(Wanted)
    wanted.engine = engine
    wanted.done = SimpleQueue()
    start_new_thread(wanted.make, ())
    try:
        while True:
            try:
                wanted.done.get(True, WAIT_SLICE_MS / 1000.0)
                break
            except Empty:
                PyErr_CheckSignals()
    except BaseException:
        with cython.critical_section(wanted):
            wanted.given_up = True
            clients = wanted.clients
        if clients is not None:
            clients.leave()
        raise
    if wanted.raised is not None:
        raise wanted.raised
    return wanted.clients


# -- how a connection begins -----------------------------------------------------------


cdef Connection connection_new(Runtime runtime, maker, context, const char *remote):
    cdef Connection connection = Connection.__new__(Connection)
    connection._runtime = runtime
    # Its own: several may be under way for one call of connect().
    connection._context = PyContext_Copy(context)
    connection._maker = maker
    memcpy(connection._remote, remote, ADDRESS_BYTES)
    return connection


cdef void connection_adopt(Connection connection, conn_t *conn) noexcept:
    cdef bint taken
    with cython.critical_section(connection):
        taken = connection._conn == NULL and not connection._detached
        if taken:
            connection._conn = conn
    if not taken:
        conn_unref(conn)


cdef void connection_begins(Connection connection, conn_t *conn) noexcept:
    cdef Tls tls
    memcpy(connection._local, conn.local, ADDRESS_BYTES)
    conn_ref(conn)
    connection_adopt(connection, conn)
    try:
        tls = connection._maker.connected(connection)
        if tls is None:
            connection._take_protocol_of_factory(conn)
        else:
            connection._take_tls(conn, tls, 0, connection._runtime.shutdown_s)
    except BaseException as exc:
        # Where it was over before TLS could begin, connection_lost says why.
        if connection._raised is None and not (isinstance(exc, ConnectionAbortedError)
                                               and conn_is_closing(conn)):
            connection._raised = exc
        conn_abort(NULL, conn, ABORT_APPLICATION)


# -- Engine.attach() -------------------------------------------------------------------


cdef class Attached:
    """The maker of a connection whose socket and protocol are there already."""

    cdef object protocol

    def connected(self, connection):
        return None

    def factory(self):
        return self.protocol

    def made(self, connection):
        pass

    def lost(self, connection, exc):
        pass


def attach(engine, sock, protocol):
    """Engine.attach()."""
    cdef Attached maker = Attached.__new__(Attached)
    cdef Connection connection
    cdef Clients clients
    cdef service_t *service
    cdef void *user
    cdef const provider_t *provider = NULL
    cdef conn_t *conn = NULL
    cdef const char *local
    cdef const char *remote
    cdef int family
    cdef size_t handle
    cdef int error
    if not isinstance(sock, socket.socket):
        raise TypeError(f"sock must be a socket.socket, got {sock!r}")
    if isinstance(sock, ssl.SSLSocket):
        raise TypeError("sock must be a plain socket, and TLS begin with the connection's "
                        f"start_tls(), got {sock!r}")
    if sock.type != socket.SOCK_STREAM or sock.family not in (socket.AF_INET, socket.AF_INET6):
        raise ValueError(f"sock must be a TCP socket, got {sock!r}")
    if sock.fileno() < 0:
        raise ValueError(f"sock must be open, got {sock!r}")
    try:
        peer = sock.getpeername()
        addresses = sockaddr(sock.getsockname()), sockaddr(peer)
    except OSError as exc:
        raise os_error(exc.winerror, "attach") from None
    local = PyBytes_AS_STRING(addresses[0])
    remote = PyBytes_AS_STRING(addresses[1])
    family = sock.family
    handle = sock.fileno()
    maker.protocol = protocol
    clients = wait_for_clients(engine)
    try:
        connection = connection_new(clients, maker, PyContext_CopyCurrent(), remote)
        memcpy(connection._local, local, ADDRESS_BYTES)
        connection._bind(protocol)
        Py_INCREF(connection)           # for conn.user, dropped when connection_lost was told
        user = <void *><PyObject *>connection
        service = clients.service
        with nogil:
            error = provider_of_family(service.engine, family, handle, &provider)
            if error == 0:
                error = conn_open(service, NULL, provider, handle, STATE_OPEN, local, remote, NULL,
                                  user, &conn, False)
        if error != 0:
            Py_DECREF(connection)
            raise os_error(error, "attach", address_text(peer),
                           "the socket belongs to another completion port already"
                           if error == ERROR_INVALID_PARAMETER else None)
    except BaseException:
        clients.leave()                 # which the connection does at its end
        raise
    count(service, NULL, N_SOCKETS_OPENED, 1)
    connection_adopt(connection, conn)
    # The C type's own: no signal handler comes between, and nobody else closes the handle.
    _socket.socket.detach(sock)
    sock.detach()
    return connection


def client_stats(engine):
    """Engine.client_stats()."""
    runtime = engine._clients
    if runtime is None:
        runtime = Runtime(engine, None, None, None, None, NUMBERS)
    return runtime.stats()


set_clients(attach, client_stats)
