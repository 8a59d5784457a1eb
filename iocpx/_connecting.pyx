"""connect(): a connection to a host, by whichever of its addresses answers first.

The addresses are tried as RFC 8305 has it: the families in turns, each a quarter of a second after
the one before, or at once when that has failed; from a port of the caller's only then, as one
attempt at a time can have it.  Each attempt is a Connection, whose maker is the Dial: the first
that is connected goes on as such, the others are reset, and their protocol was never made.  An
attempt that fails, and its timers, are told in its own turn, on a worker; so no thread waits for
any of them.  What blocks, the look for a name's addresses and the start of an engine's threads, is
done aside.

Several workers, and whoever cancels, may come to a Dial at a time: what it has changes in critical
sections, which run no Python code, and whoever sets `over` in one does what follows from the end.

Called by the program, to which `_core` shows it, and as the maker of its connections by `_clients`
and `_connection`; calls these two, `_runtime`, `_futures`, `_engines`, `_server`, `native`,
`_aside`, `_names`, `_threads`, `_tls` and, of the engine, `_open`.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING
from cpython.contextvars cimport PyContext_CopyCurrent
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.math cimport ceil
from libc.stdint cimport uint64_t

from iocpx._aside cimport aside
from iocpx._base cimport now_us
from iocpx._clients cimport clients_of, connection_adopt, connection_new, make_clients
from iocpx._connection cimport Connection
from iocpx._engines cimport process_engine
from iocpx._futures cimport set_outcome
from iocpx._open cimport service_connect
from iocpx._runtime cimport Runtime
from iocpx._tls cimport Tls
from iocpx._types cimport conn_t, service_t

import functools
import ssl as ssl_module
from concurrent.futures import CancelledError, Future
from time import perf_counter

from iocpx._addresses import address_text, sockaddr
from iocpx._arguments import integer_between, refuse_async, seconds
from iocpx._engines import Engine
from iocpx._errors import joined, os_error
from iocpx._names import interleaved, literal, look_up
from iocpx._server import Server
from iocpx._threads import require_system_threads
from iocpx.native import NativeHandler

cdef enum:
    NEXT_US = 250000        # after one attempt has begun, before the next: RFC 8305's

cdef int ERROR_OPERATION_ABORTED = 995
cdef int WSAEADDRNOTAVAIL = 10049
cdef int WSAETIMEDOUT = 10060


@cython.final
cdef class Dial:
    """One call of connect(), until its future is done."""

    # Constant:
    cdef object engine              # None: a server's
    cdef object protocol_factory
    cdef object context             # contextvars'; each attempt has a copy
    cdef str where                  # host and port, for what is told
    cdef Tls tls                    # None: no TLS
    cdef double timeout_s
    cdef double due_s               # in perf_counter()'s seconds
    cdef uint64_t due_us            # the same time, in now_us()'s
    # Set before the first attempt:
    cdef Runtime runtime            # one of its users, until the end
    # Critical section:
    cdef object future              # None from the end on
    cdef list addresses             # to be tried, the next one last: what attempt() takes
    cdef int beginning              # attempts that are about to be among…
    cdef set attempts               # … these, which are under way
    cdef list errors                # of those that are over
    cdef list timers
    cdef object winner              # the attempt that is connected
    cdef bint claimed               # its protocol is being made: no cancel() any more
    cdef bint over

    def __cinit__(self):
        self.addresses = []
        self.attempts = set()
        self.errors = []
        self.timers = []

    # -- before the first attempt ------------------------------------------------------

    cdef bint join(self, Runtime runtime) noexcept:
        """The caller has made it a user of the runtime; False: it is over, and none any more."""
        cdef bint over
        with cython.critical_section(self):
            over = self.over
            if not over:
                self.runtime = runtime
        if over:
            runtime.leave()
        else:
            runtime.count_connect(True, False)
        return not over

    cdef void begin(self, list addresses) noexcept:
        with cython.critical_section(self):
            self.addresses = addresses
        self.go_on()

    def prepare(self, addresses, host, port, local_addr):
        """Aside: whatever blocks."""
        cdef bint over
        with cython.critical_section(self):
            over = self.over
        if over:
            return      # nobody waits for it any more
        try:
            if addresses is None:
                addresses = way(look_up(host, port), local_addr)
            if self.runtime is None and not self.join(make_clients(self.engine)):
                return
            self.begin(addresses)
        except BaseException as exc:
            self.fail(exc)

    # -- attempts ----------------------------------------------------------------------

    cdef void go_on(self) noexcept:
        """Begin the next attempt; where there is none, that was all."""
        cdef bint nothing
        cdef bint failed = True
        while failed:
            address = None
            with cython.critical_section(self):
                if self.addresses and not self.over and self.winner is None:
                    address = self.addresses.pop()
                    self.beginning += 1
            if address is None:
                break
            error = None
            try:
                error = self.attempt(address)
            except BaseException as exc:
                error = exc
            failed = error is not None
            with cython.critical_section(self):
                self.beginning -= 1
                if failed:
                    self.errors.append(error)
        # Also after one that was begun: whoever was told its end may have come before, and left it
        # to us, as it was still among those that begin.
        with cython.critical_section(self):
            nothing = not (self.over or self.addresses or self.attempts or self.beginning > 0
                           or self.winner is not None)
        if nothing:
            try:
                exc = joined(self.errors)
            except BaseException as raised:
                exc = raised
            self.fail(exc)

    def next_is_due(self):
        self.go_on()

    cdef object attempt(self, tuple address):
        """The error, or None: it is under way, and told of its end.

        address: (family, sockaddr, the local one's or None, text for errors).
        """
        cdef Runtime runtime = self.runtime
        cdef service_t *service = runtime.service
        cdef int family = address[0]
        cdef const char *remote = PyBytes_AS_STRING(address[1])
        cdef const char *local = NULL if address[2] is None else PyBytes_AS_STRING(address[2])
        cdef Connection connection
        cdef void *user
        cdef conn_t *conn = NULL
        cdef int error
        # Others of the family can be bound to the caller's port only when this one has let it go.
        cdef bint alone = local != NULL and (local[2] != 0 or local[3] != 0)
        cdef bint more
        cdef bint wanted
        cdef uint64_t now
        with cython.critical_section(self):
            context = self.context
        if context is None:
            return given_up()
        connection = connection_new(runtime, self, context, remote)
        user = <void *><PyObject *>connection
        runtime.stay()                  # until it is told its end
        with cython.critical_section(self):
            self.attempts.add(connection)
        Py_INCREF(connection)           # for conn.user, dropped when its end was told
        with nogil:
            error = service_connect(service, family, local, remote, user, &conn)
        if error != 0:
            Py_DECREF(connection)
            with cython.critical_section(self):
                self.attempts.discard(connection)
            runtime.leave()
            if error == ERROR_OPERATION_ABORTED:
                return given_up()
            return os_error(error, "connect", address[3])
        connection_adopt(connection, conn)
        with cython.critical_section(self):
            more = len(self.addresses) > 0 and not alone
        now = now_us()
        self.wake(connection, self.time_is_up, self.due_us - now if self.due_us > now else 0)
        if more:
            self.wake(connection, self.next_is_due, NEXT_US)
        # Whoever has ended this meanwhile may have come before the connection had its conn_t.
        with cython.critical_section(self):
            wanted = connection is self.winner or (not self.over and self.winner is None)
        if not wanted:
            connection.abort()
        return None

    cdef int wake(self, Connection connection, callback, uint64_t delay_us) except -1:
        cdef bint over
        timer = connection._set_timer(callback, (), delay_us)
        with cython.critical_section(self):
            over = self.over
            if not over:
                self.timers.append(timer)
        if over:
            timer.cancel()
        return 0

    # -- what a maker is asked (_clients) ----------------------------------------------

    def connected(self, connection):
        cdef bint won
        others = None
        with cython.critical_section(self):
            won = not self.over and self.winner is None
            if won:
                self.winner = connection
                self.attempts.discard(connection)
                others = self.attempts
                self.attempts = set()
                self.addresses = []
        if not won:
            raise ConnectionAbortedError("another attempt was faster, or was given up with all")
        for other in others:
            other.abort()
        return self.tls

    def factory(self):
        cdef bint may
        with cython.critical_section(self):
            may = not self.over
            self.claimed = may
            future = self.future
            make = self.protocol_factory
        if may and not future.set_running_or_notify_cancel():
            self.settle(False, False)
            may = False
        if not may:
            raise CancelledError()
        return make()

    def made(self, connection):
        future = self.settle(False, True)
        if future is None:
            return
        raised = set_outcome(future, connection, None, False)
        if raised is not None:
            (<Connection>connection)._runtime.report(
                "a callback of a future of connect() raised", raised, None, connection)

    def lost(self, connection, exc):
        cdef bint won
        cdef bint tried
        with cython.critical_section(self):
            won = connection is self.winner
            tried = connection in self.attempts
            self.attempts.discard(connection)
            if tried and exc is not None:
                self.errors.append(exc)
        if won or (tried and exc is None):
            self.fail(given_up() if exc is None else exc)
        elif tried:
            self.go_on()

    # -- the end -----------------------------------------------------------------------

    cdef object settle(self, bint unless_claimed, bint made):
        """The future, for whoever ends it, once; everybody else gets None."""
        cdef Runtime runtime = None
        cdef bint mine
        future = factory = context = None
        timers = []
        with cython.critical_section(self):
            mine = not self.over and not (unless_claimed and self.claimed)
            if mine:
                self.over = True
                future = self.future
                self.future = None      # which refers to self
                timers = self.timers
                self.timers = []
                self.addresses = []
                runtime = self.runtime
                # The future, which somebody may keep, refers to self.
                factory, self.protocol_factory = self.protocol_factory, None
                context, self.context = self.context, None
        if not mine:
            return None
        for timer in timers:
            timer.cancel()
        if runtime is not None:
            runtime.count_connect(False, made)
            runtime.leave()
        return future

    cdef void end(self, future, exc) noexcept:
        """exc: None: it was cancelled."""
        with cython.critical_section(self):
            left = self.attempts
            self.attempts = set()
            winner = self.winner
            self.winner = None
        for connection in left:
            connection.abort()
        if winner is not None:
            winner.abort()
        # Of one that was cancelled the exception is in vain.
        raised = set_outcome(future, None, exc or CancelledError(), not self.claimed)
        if raised is not None and self.runtime is not None:
            self.runtime.report("a callback of a future of connect() raised", raised, None, None)

    cdef void fail(self, exc) noexcept:
        future = self.settle(False, False)
        if future is not None:
            self.end(future, exc)

    def time_is_up(self):
        # Before the future is taken away, since this may raise.
        exc = os_error(WSAETIMEDOUT, "connect", self.where,
                       f"not done within timeout_s={self.timeout_s:g}")
        future = self.settle(True, False)
        if future is not None:
            self.end(future, exc)

    def future_done(self, future):
        if future.cancelled():
            future = self.settle(True, False)
            if future is not None:
                self.end(future, None)


cdef object given_up():
    return os_error(ERROR_OPERATION_ABORTED, "connect", None,
                    "given up, what the connection was to belong to has been closed")


def way(found, local_addr):
    """The addresses as attempts take them, the first one last; local_addr: (host, port) or None."""
    cdef list addresses = []
    local = {}
    if local_addr is not None:
        for family, address in literal(*local_addr) or look_up(*local_addr):
            local.setdefault(family, sockaddr(address))
    for family, address in interleaved(found):
        if local_addr is None or family in local:
            addresses.append((family, sockaddr(address), local.get(family), address_text(address)))
    if not addresses:
        raise os_error(WSAEADDRNOTAVAIL, "connect", address_text(local_addr),
                       "local_addr is of another family than every address of the host")
    addresses.reverse()
    return addresses


def checked_address(name, host, port, low):
    if not isinstance(host, str):
        raise TypeError(f"{name} must be a str, got {host!r}")
    if not host:
        raise ValueError(f"{name} must be a name or an address, got {host!r}")
    return host, integer_between("port" if low else "local_addr's port", port, low, 65535)


cdef Tls checked_tls(ssl, server_hostname, host):
    if server_hostname is not None and not isinstance(server_hostname, str):
        raise TypeError(f"server_hostname must be a str or None, got {server_hostname!r}")
    if ssl is None or ssl is False:
        if server_hostname is not None:
            raise ValueError(f"server_hostname must be None without ssl, got {server_hostname!r}")
        return None
    if ssl is True:
        ssl = ssl_module.create_default_context()
    if not isinstance(ssl, ssl_module.SSLContext):
        raise TypeError(f"ssl must be an ssl.SSLContext, True or None, got {ssl!r}")
    if ssl.protocol == ssl_module.PROTOCOL_TLS_SERVER:
        raise ValueError("ssl must be a context for clients, got one of PROTOCOL_TLS_SERVER")
    name = host if server_hostname is None else server_hostname
    return Tls.__new__(Tls, ssl, False, name or None)


def connect(protocol_factory, host, port, *, timeout_s=60.0, local_addr=None, ssl=None,
            server_hostname=None, engine=None, server=None):
    """Connect to a host: returns a concurrent.futures.Future, whose result is the Connection once
    connection_made() has returned; its protocol is connection.get_protocol().
    asyncio.loop.create_connection(), Microsoft's ConnectEx.  Any thread, callbacks included.

    protocol_factory: callable without arguments that returns a protocol, as iocpx.Server's; called
        for a connection that is there, after the handshake.
    host: str, an address or a name.  The addresses of a name are tried in turns of their families,
        each 0.25 s after the one before, or at once when that has failed; the first that connects
        is taken, and the others' protocol is never made.  From a port of local_addr's, which one
        attempt at a time can have, each only when the one before has failed.
    port: int, 1 to 65535.
    timeout_s: seconds for all of it, 0.001 to 86400, never less; then the future has a
        TimeoutError.
    local_addr: (host, port) that it goes out from, port 0: any; None: as the system likes.
    ssl: an ssl.SSLContext for a client, True: ssl.create_default_context(); None: no TLS.
    server_hostname: str, whose certificate it must be; None: host.  "": nobody's.
    engine: the iocpx.Engine that it is served by, on which a server need not run; None, and no
        server: one of the process, with the defaults.  Its threads are there as long as one of its
        connections or of these calls is; there is nothing to close, and the interpreter's exit
        stops it.  No idle timeout, close_timeout_s, keep-alive and max_write_buffer as Server's
        defaults, and what callbacks raise is logged under "iocpx".
    server: an iocpx.Server that runs, instead of engine: the connection belongs to it, with its
        limits but for max_connections and max_handshakes, its figures, exception handler and
        context, and ends with its stop.

    The future's errors: OSError with .winerror, naming the address; where several have failed,
    of the first one's class, with the text of all.  socket.gaierror for a name that has none.
    ssl.SSLError for a handshake that fails.  TimeoutError; also Windows itself gives an address
    up, after 21 s.  What the factory or connection_made() raises.  Its cancel() ends all attempts,
    until the factory is called.  What is to be called when it is done runs on a worker, on a thread
    that looks for names, or on the one that cancels.

    What a callback of the protocol raises costs its connection only, and is logged or told as with
    a server.  SystemExit and KeyboardInterrupt end more than that, in order: with server= the
    server, as its own callbacks' do; else all connections that connect() and Engine.attach() have
    made on the engine, and what is connected after that is not concerned.  The engine's poll()
    raises them where it is polled; else nothing does, so a client that shall end the program sets
    an event that its main thread waits for.

    Raises TypeError or ValueError for a wrong argument, RuntimeError for a server that is not
    serving.
    """
    cdef Dial dial = Dial.__new__(Dial)
    cdef Runtime runtime = None
    if not callable(protocol_factory):
        raise TypeError(f"protocol_factory must be callable, got {protocol_factory!r}")
    refuse_async("protocol_factory", protocol_factory)
    host, port = checked_address("host", host, port, 1)
    if local_addr is not None:
        try:
            local_host, local_port = local_addr
        except (TypeError, ValueError):
            raise TypeError(
                f"local_addr must be (host, port) or None, got {local_addr!r}") from None
        local_addr = checked_address("local_addr's host", local_host, local_port, 0)
    if engine is not None and not isinstance(engine, Engine):
        raise TypeError(f"engine must be an iocpx.Engine or None, got {engine!r}")
    if server is not None and not isinstance(server, Server):
        raise TypeError(f"server must be an iocpx.Server or None, got {server!r}")
    if engine is not None and server is not None:
        raise ValueError(f"engine must be None with server, got {engine!r}")
    dial.timeout_s = seconds("timeout_s", timeout_s, 0.001, 86400)
    dial.tls = checked_tls(ssl, server_hostname, host)
    dial.protocol_factory = protocol_factory
    dial.where = address_text((host, port))
    if server is not None:
        runtime = server._runtime
        if runtime is None or not runtime.serving():
            raise RuntimeError("server must be serving: start() it before")
        if isinstance(runtime.factory, NativeHandler):
            raise ValueError(f"server must have no native handler, got {server!r}")
        dial.context = runtime.context
    else:
        dial.engine = process_engine() if engine is None else engine
        dial.context = PyContext_CopyCurrent()
    error = None
    addresses = literal(host, port)
    if addresses is not None and (local_addr is None or literal(*local_addr) is not None):
        try:
            addresses = way(addresses, local_addr)
        except OSError as exc:
            error = exc
    else:
        addresses = None
    future = Future()
    dial.future = future
    future.add_done_callback(dial.future_done)
    dial.due_us = now_us() + <uint64_t>ceil(dial.timeout_s * 1e6)
    dial.due_s = perf_counter() + dial.timeout_s
    work = functools.partial(dial.prepare, addresses, host, port, local_addr)
    # From here on no signal handler can leave it half begun: none runs, or nothing has begun.
    if server is None:
        runtime = clients_of(dial.engine)
    if runtime is None:
        require_system_threads()
    else:
        dial.join(runtime)
    if error is not None:
        dial.fail(error)
    elif runtime is not None and addresses is not None:
        dial.begin(addresses)
    else:
        try:
            # Where there is no name to look for it but makes the engine run.
            aside(work, dial.time_is_up, dial.due_s, addresses is not None)
        except BaseException:
            dial.settle(False, False)
            raise
    return future
