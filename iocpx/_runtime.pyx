"""One run of a server: a service on an engine, from start() to its end; and what it shares with
`_clients`, whose services have no listeners.

Called by most rooms of the threaded server above it: `_connection` tells it what callbacks raise,
`_core` finds by it what to call, `_peers` and the loop's `_transport` show addresses by it, and
`_transport_socket` and all that have sockets to show duplicate them by it.  Calls `_engines`,
`_engine_api`, `_futures`, `_threads`, `native`, and of the engine `_service`, `_accept`, `_open`
and `_requests`; gives a service its handler (`_native`, `_c_handler`, or what `_core` has given
it), and a `_connection` its turn for a TLS handshake.

Who starts.  A signal handler may raise at any bytecode of the main thread, and between two
of them a socket or a thread would be made that nobody has yet.  So start() itself makes
nothing: `_prepare`, on a thread that no signal reaches, binds, has the engine started and
listens.  start() waits, and may be interrupted; then it asks for the end, and what there is by
then is undone, whether or not somebody waits for that.
"""

cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.contextvars cimport PyContext_CopyCurrent
from cpython.exc cimport PyErr_CheckSignals
from cpython.ref cimport PyObject
from libc.stdint cimport uint64_t
from libc.string cimport memset

from iocpx._accept cimport service_listen
from iocpx._base cimport service_connections
from iocpx._c_handler cimport deliver_to_c
from iocpx._engine_api cimport handler_of, start_posting
from iocpx._engines cimport wait_for, WAIT_SLICE_MS
from iocpx._futures cimport set_outcome
from iocpx._native cimport deliver_discard, deliver_echo
from iocpx._open cimport service_connect
from iocpx._requests cimport conn_pause_reading, service_close_clients
from iocpx._service cimport (
    service_count, service_create, service_figures, service_figures_t, service_free, service_stop,
)
from iocpx._types cimport *
from iocpx._winsock cimport CloseHandle, CreateEventW, GetLastError, SetEvent

import _socket
import atexit
import collections
import logging
import socket
import threading
# From where queue has it: queue's name may have been replaced, by one that wakes greenlets of
# one thread only.
from _queue import Empty, SimpleQueue
from _thread import allocate_lock, start_new_thread
from contextvars import copy_context
from time import perf_counter

from iocpx._addresses import address_text
from iocpx._errors import os_error
from iocpx._threads import log_apart
from iocpx.native import Discard, Echo, Handler

logger = logging.getLogger("iocpx")

cdef enum:
    LINGER_MS = 1000                # what threads get that have only to log, or to vanish
    EXIT_TIMEOUT_MS = 1000          # what connections get to finish at interpreter exit
    EXIT_PATIENCE_MS = 5000         # … and callbacks

cdef int ERROR_OPERATION_ABORTED = 995
cdef int WSAEOPNOTSUPP = 10045


# Tells protocols of a server's connections; set by _core.
cdef tell_fn tell_of_servers = NULL


cdef void set_tell(tell_fn tell) noexcept:
    global tell_of_servers
    tell_of_servers = tell


cdef object address_tuple(const unsigned char *addr):
    """A sockaddr as the socket module shows it."""
    cdef int family = addr[0] | addr[1] << 8
    cdef int port = addr[2] << 8 | addr[3]
    if family == socket.AF_INET:
        return socket.inet_ntop(family, PyBytes_FromStringAndSize(<char *>addr + 4, 4)), port
    if family == socket.AF_INET6:
        flowinfo = int.from_bytes(PyBytes_FromStringAndSize(<char *>addr + 4, 4), "big")
        scope = int.from_bytes(PyBytes_FromStringAndSize(<char *>addr + 24, 4), "little")
        host = socket.inet_ntop(family, PyBytes_FromStringAndSize(<char *>addr + 8, 16))
        return host, port, flowinfo, scope
    return None


_COUNTERS = {
    "accepts": N_ACCEPTS,
    "accept_errors": N_ACCEPT_ERRORS,
    "accepts_grown": N_ACCEPTS_GROWN,
    "accepts_shrunk": N_ACCEPTS_SHRUNK,
    "refused": N_REFUSED,
    "silent_clients_dropped": N_SILENT_DROPPED,
    "receives": N_RECEIVES,
    "zero_byte_receives": N_ZERO_RECEIVES,
    "bytes_received": N_BYTES_RECEIVED,
    "sends": N_SENDS,
    "bytes_sent": N_BYTES_SENT,
    "inline_completions": N_INLINE_COMPLETIONS,
    "write_pauses": N_WRITE_PAUSES,
    "read_pauses": N_READ_PAUSES,
    "files_opened": N_FILES_OPENED,
    "files_closed": N_FILES_CLOSED,
    "messages_received": N_MESSAGES_RECEIVED,
    "sockets_opened": N_SOCKETS_OPENED,
    "sockets_closed": N_SOCKETS_CLOSED,
    "connections_made": N_CONNECTIONS_MADE,
    "connections_retired": N_CONNECTIONS_RETIRED,
}

# In the order of abort_reason.
_ABORT_REASONS = ("application", "error", "callback", "write_limit", "idle_timeout",
                  "close_timeout", "stop", "framing")

# What runs at this moment; atexit stops it.  Entered by start(), left at the end (ended()).
_running = set()
cdef bint exiting = False


cdef bint is_exiting() noexcept:
    return exiting


# Not cleared: __dealloc__ needs `run`.
@cython.no_gc_clear
cdef class Runtime:
    """One run of a server, from start() to its end.

    While it runs `_running` refers to it, and so do its connections, but nothing refers to the
    Server, so that one that nobody has any more can be finalised, and stop it.
    """

    def __cinit__(self, engine, factory, exception_handler, trace, sslcontext, numbers):
        self.stopped = CreateEventW(NULL, True, False, NULL)
        if self.stopped == NULL:
            raise os_error(<int>GetLastError(), "event")
        self._engine = engine
        self.factory = factory
        self.exception_handler = exception_handler
        self.trace = trace
        self.context = PyContext_CopyCurrent()
        self.sockets = ()
        self._skipped = ()
        # An item: it has come so far, or will never.
        self._prepared = SimpleQueue()
        self._may_listen = SimpleQueue()
        self._listened = SimpleQueue()
        self._end_told = allocate_lock()
        self._sockets_lock = threading.RLock()  # a signal handler may close in close()
        self.connections = set()
        self.sslcontext = sslcontext
        self.handshake_s = numbers["ssl_handshake_timeout_s"] / 1000.0
        self.shutdown_s = numbers["ssl_shutdown_timeout_s"] / 1000.0
        self.max_handshakes = numbers["max_handshakes"]
        self.waiting = collections.OrderedDict()
        self.handshake_lock = allocate_lock()
        self.handshake_failures = {}
        memset(&self.config, 0, sizeof(self.config))
        if factory is Echo:
            self.config.handler.deliver = deliver_echo
        elif factory is Discard:
            self.config.handler.deliver = deliver_discard
        elif type(factory) is Handler:
            self.config.handler.deliver = deliver_to_c
            self.config.handler.c_handler = handler_of(factory.capsule)     # `factory` has it
            self.config.handler.marks = True
            start_posting()
        self.config.handler.tell = tell_of_servers
        self.config.handler.context = <PyObject *>self  # borrowed: _running and connections have us
        self.config.backlog = numbers["backlog"]
        self.config.initial_accepts = numbers["initial_accepts"]
        self.config.max_accepts = numbers["max_accepts"]
        self.config.accept_receive = numbers["accept_receive"]
        self.config.accept_timeout_ms = numbers["accept_timeout_s"]
        self.config.max_connections = numbers["max_connections"]
        self.config.initial_reads = numbers["initial_reads"]
        self.config.max_free_connections = numbers["max_free_connections"]
        self.config.idle_timeout_ms = numbers["idle_timeout_s"]
        self.config.max_sends = numbers["max_sends"]
        self.config.max_write_buffer = numbers["max_write_buffer"]
        self.config.close_timeout_ms = numbers["close_timeout_s"]
        self.config.keepalive_idle_ms = numbers["keepalive_idle_s"]
        self.config.keepalive_interval_ms = numbers["keepalive_interval_s"]
        self.config.high_water_bytes = TLS_HIGH_WATER_BYTES if sslcontext else HIGH_WATER_BYTES
        self.config.low_water_bytes = self.config.high_water_bytes // 4
        self.config.trace = trace is not None

    def __dealloc__(self):
        # Not in _running any more, so it is over, or never began.
        if self.service != NULL:
            service_free(self.service)
        if self.stopped != NULL:
            CloseHandle(self.stopped)

    def start(self, make_sockets, bint owns_sockets):
        """Bind, have the engine run, then listen.  Once only; what fails is undone.

        make_sockets: callable, returns the bound sockets and the OSErrors of addresses that
        were left out; on another thread, in a copy of this one's context.
        owns_sockets: a failed start closes them.
        Returns also where close() came meanwhile; nothing is served then.
        """
        self._owns_sockets = owns_sockets
        self._end_told.acquire()
        _running.add(self)
        try:
            start_new_thread(copy_context().run, (self._prepare, make_sockets))
        except BaseException:
            self._end_unmade()
            raise
        try:
            while not self._is_prepared():
                PyErr_CheckSignals()
            if self._raised is None:
                # Before the first listen(): a socket of the caller's that has joined our port
                # could never join another one, and would be served without one from then on.
                for error in self._skipped:
                    logger.warning("an address is left out: %s", error)
                if not self._closed:
                    self._told = True
                    logger.info("serving on %s, %d workers", self.addresses,
                                self._engine.workers)
        except BaseException:
            self._undo()
            self._may_listen.put(None)
            self._wait_undone()
            raise
        self._may_listen.put(None)
        interrupt = None
        while True:
            try:
                self._listened.get()    # from 3.14 on signal handlers run in it
                break
            except BaseException as exc:
                interrupt = exc
        if interrupt is not None:
            self._undo()
            self._wait_undone()
            raise interrupt
        raised, self._raised = self._raised, None
        if raised is not None:
            self._wait_undone()
            raise raised

    def _undo(self):
        """What there is, whatever else is raised meanwhile."""
        self.failed = True
        self._told = False
        while True:
            try:
                self._fail()
                self._drop_sockets()    # _prepare may have looked at `failed` before
                return
            except BaseException:
                pass    # of a signal handler, while it waited for the lock

    def _wait_undone(self):
        # Not for what needs this very thread to end.
        if self.run is None or not (self.run.polled or self.run.on_worker()):
            self.wait(-1)

    def _is_prepared(self):
        try:
            self._prepared.get(True, WAIT_SLICE_MS / 1000.0)
        except Empty:
            return False
        return True

    def _prepare(self, make_sockets):
        """All of the start that an interrupt must not split.  May not log: the caller of start()
        may hold the lock of a log handler."""
        closed = True
        try:
            sockets, self._skipped = make_sockets()
            # Before close() can reach them.
            self.addresses = ", ".join(address_text(sock.getsockname()) for sock in sockets)
            with self._sockets_lock:
                self.sockets = sockets
                closed = self._closed or self.failed
            if not closed:
                self.run = self._engine._running()
                try:
                    self._join()
                finally:
                    self.run.release()
        except BaseException as exc:
            self._raised = exc
            self.failed = True
        self._prepared.put(None)
        self._may_listen.get()
        if self.failed:
            self._fail()        # whoever was to do it may have been interrupted
        self._listen_to_all()
        if self._closed or self.failed:
            self._drop_sockets()
        if self.service == NULL:
            self._end_unmade()
        self._listened.put(None)

    def _join(self):
        cdef service_t *service
        with self._sockets_lock:
            if self._closed or self.failed:
                return
            service = service_create(self.run.engine, &self.config, self.stopped)
            if service == NULL:
                raise MemoryError("out of memory for a server")
            # Others look at it without the lock: its contents come first, on ARM too.
            with cython.critical_section(self):
                self.service = service

    def _end_unmade(self):
        """The end of what never came to be served."""
        self._told = False
        self._end_is_told()
        _running.discard(self)
        SetEvent(self.stopped)

    def ended(self):
        """By the keeper: nothing is left of it.  Nobody has to wait for the last line."""
        _running.discard(self)
        if not self._told or log_apart(self._tell_end) is None:
            self._end_is_told()

    def _tell_end(self):
        self._teller = threading.get_ident()
        try:
            logger.info("stopped after %d connections",
                        service_count(self.service, N_CONNECTIONS_MADE))
        finally:
            self._end_is_told()

    def _end_is_told(self):
        try:
            self._end_told.release()
        except RuntimeError:
            pass    # by the thread of the line, which counted as one that could not be started

    def _fail(self):
        with self._sockets_lock:
            self.failed = True
            self._told = False
            if self.service != NULL:
                with nogil:
                    service_stop(self.service, 0)

    def _listen_to_all(self):
        if self._closed or self.failed:
            return
        self._listening = True
        try:
            for sock in self.sockets:
                self._listen(sock)
        except BaseException as exc:
            if self._closed:
                return      # and has taken the socket away
            self._raised = exc
            self._fail()

    def _listen(self, sock):
        cdef int error = 0
        cdef int family = sock.family
        cdef size_t handle
        with self._sockets_lock:
            if sock.fileno() < 0:
                return      # close() was faster
            # The engine makes it so anyway (WSAEventSelect); told here, so that the
            # socket object knows, and can be duplicated.
            sock.setblocking(False)
            handle = sock.fileno()
            with nogil:
                error = service_listen(self.service, handle, family)
        if error == ERROR_OPERATION_ABORTED:
            return          # close() was faster
        if error == WSAEOPNOTSUPP:
            raise os_error(error, "listen: the socket's provider lacks what a completion port "
                           "needs (`netsh winsock show catalog` lists the layered ones, such as "
                           "old proxies and filters)", address_text(sock.getsockname()))
        if error != 0:
            raise os_error(error, "listen", address_text(sock.getsockname()))

    def serving(self):
        return self._listening and not (self._closed or self.failed)

    def over(self):
        """Has all ended?  Never waits, and runs no signal handler."""
        return self._has_ended(0)

    def _drop_sockets(self):
        with self._sockets_lock:
            if self._owns_sockets or self._closed:
                for sock in self.sockets:
                    sock.close()

    def close(self, uint64_t timeout_ms):
        with self._sockets_lock:
            self._closed = True
            if self.service != NULL:
                with nogil:
                    service_stop(self.service, timeout_ms)
            for sock in self.sockets:
                sock.close()
        # A signal handler may have interrupted start(), and wait for the end before that goes on.
        self._may_listen.put(None)

    def _has_ended(self, double due):
        """True when its service has, and the engine too if this was the last on it, by `due`."""
        return wait_for(self.stopped, due) and (
            self.run is None or not self.run.ending() or self.run.wait(due))

    def wait(self, long long timeout_ms):
        """True when stopped within that time, -1: however long it takes.  Signal handlers
        run meanwhile."""
        cdef double due = (float("inf") if timeout_ms < 0
                           else perf_counter() + timeout_ms / 1000.0)
        if not self._has_ended(due):
            return False
        # A courtesy: that nobody finds a thread of ours, and that the last line is in the log.
        # But a log handler may take its time, or need a lock that the caller holds.
        due = min(due, perf_counter() + LINGER_MS / 1000.0)
        if self.run is not None and self.run.ending():
            for thread in self.run.threads:
                if thread.ident != threading.get_ident():   # the caller may be a log handler
                    thread.join(max(due - perf_counter(), 0.0))
        if self._teller != threading.get_ident() and (
                self._end_told.acquire(True, max(due - perf_counter(), 0.0))):
            self._end_told.release()
        return True

    def end(self, double due):
        """By atexit, until `due`: what has to be polled to its end is polled here."""
        try:
            while (self.run is not None and self.run.polled and not self._has_ended(0)
                   and perf_counter() < due and self.run.poll(WAIT_SLICE_MS) is not None):
                pass
        except BaseException:
            pass    # somebody else polls, or a callback ends what is ending already
        self.wait(max(<long long>((due - perf_counter()) * 1000.0), 0))

    def on_worker(self):
        return self.run is not None and self.run.on_worker()

    def connect(self, int family, bytes address):
        """Have the service connect to `address`, a sockaddr; its factory makes the protocol."""
        cdef const char *remote = address
        cdef int error = ERROR_OPERATION_ABORTED
        assert len(address) == ADDRESS_BYTES
        if self.service != NULL:
            with nogil:
                error = service_connect(self.service, family, NULL, remote, NULL, NULL)
        if error != 0:
            raise os_error(error, "connect")

    def close_clients(self, bint abort):
        if self.service != NULL:
            with nogil:
                service_close_clients(self.service, abort)

    def connection_count(self):
        return 0 if self.service == NULL else service_connections(self.service)

    def stats(self):
        cdef service_figures_t figures
        cdef int counter
        cdef int i
        memset(&figures, 0, sizeof(figures))
        if self.service != NULL:
            service_figures(self.service, &figures)
        stats = {name: self._count(counter) for name, counter in _COUNTERS.items()}
        stats.update(
            connections_now=self.connection_count(),
            connections_peak=figures.connections_peak,
            connections_draining=figures.connections_draining,
            connections_outgoing=figures.connections_outgoing,
            connections_free=figures.connections_free,
            connection_hits=figures.connection_hits,
            connection_misses=figures.connection_misses,
            accepts_pending=figures.accepts_pending,
            aborts_by_reason={name: self._count(N_ABORTS + i)
                              for i, name in enumerate(_ABORT_REASONS)},
            accept_errors_by_code={figures.accept_error_codes[i]: figures.accept_error_counts[i]
                                   for i in range(<int>ACCEPT_ERROR_CODES)
                                   if figures.accept_error_counts[i] > 0},
        )
        with self.handshake_lock:
            stats.update(
                handshakes=self.handshakes,
                active_handshakes=self.handshaking,
                handshakes_waiting=len(self.waiting),
                handshake_timeouts=self.handshake_timeouts,
                handshake_failures=dict(self.handshake_failures),
            )
        with cython.critical_section(self):
            begun, made, failed = self.connects, self.connects_made, self.connects_failed
        stats.update(connects=begun, connects_made=made, connects_failed=failed)
        return stats

    def _count(self, int counter):
        return 0 if self.service == NULL else service_count(self.service, counter)

    cdef bint handshake_wanted(self, connection, conn_t *conn) except -1:
        cdef bint may = False
        with self.handshake_lock:
            may = self.handshaking < self.max_handshakes
            if may:
                self.handshaking += 1
            else:
                self.waiting[connection] = None
                # Before another one's end lets it begin.
                conn_pause_reading(NULL, conn, True)
        return may

    cdef void handshake_over(self, connection, exc) noexcept:
        """Of one that was told to begin, or that has gone while it waited."""
        after = None
        reason = getattr(exc, "reason", None) or type(exc).__name__
        with self.handshake_lock:
            if exc is None:
                self.handshakes += 1
            elif isinstance(exc, TimeoutError):
                self.handshake_timeouts += 1
            else:
                self.handshake_failures[reason] = self.handshake_failures.get(reason, 0) + 1
            if connection in self.waiting:
                del self.waiting[connection]
            elif self.waiting:
                after = self.waiting.popitem(last=False)[0]
            else:
                self.handshaking -= 1
        if after is not None:
            after._begin_waiting()

    cdef void stay(self) noexcept:
        pass

    cdef void leave(self) noexcept:
        pass

    cdef void count_connect(self, bint begun, bint made) noexcept:
        with cython.critical_section(self):
            if begun:
                self.connects += 1
            elif made:
                self.connects_made += 1
            else:
                self.connects_failed += 1

    cdef void tell_trace(self, conn_t *conn, const char *line) noexcept:
        cdef const char *address = conn.remote
        if conn.service.config.datagrams:
            address = conn.local
        try:
            self.trace(f"{address_text(address_tuple(<const unsigned char *>address))} "
                       + line.decode("ascii"))
        except BaseException as raised:
            self.report("trace raised", raised, None, None)

    cdef void report(self, message, exc, protocol, transport) noexcept:
        """A callback raised: to the exception handler, which may raise as well."""
        self._note_exit(exc)
        context = {"message": message, "exception": exc, "protocol": protocol,
                   "transport": transport}
        try:
            if self.exception_handler is not None:
                self.exception_handler(context)
                return
        except BaseException as raised:
            self._note_exit(raised)
            logger.error("the exception handler raised", exc_info=raised)
        try:
            message = f"{message}; protocol: {protocol!r}, transport: {transport!r}"
        except BaseException:
            pass    # a repr() that raises does not take the report with it
        logger.error(message, exc_info=exc)

    cdef void settle(self, future, exc, str of, connection) noexcept:
        raised = set_outcome(future, None, exc, True)
        if raised is not None:
            self.report(f"a callback of a future of {of}() raised", raised, None, connection)

    cdef void _note_exit(self, exc) noexcept:
        """What ends a program ends the server, in order: left to itself it would serve on,
        since no thread of ours is the program."""
        if isinstance(exc, (SystemExit, KeyboardInterrupt)):
            with cython.critical_section(self):
                if self.exit is None:
                    self.exit = exc
            if self.run is not None and self.run.polled:
                self.run.note_exit(exc)
            self.close(self.config.close_timeout_ms)


cdef object duplicate_socket(size_t handle):
    """A handle of its own, an int, for the socket of one that the caller has borrowed.

    In C throughout: where the handler of a signal raised, an object of socket.socket would close
    the borrowed one, and the engine go on with whatever gets its value next.
    """
    borrowed = _socket.socket(-1, -1, -1, handle)
    try:
        # dup() gives the copy the mode of the original, and the mode is the socket's, not the
        # handle's: a blocking one would make the writes of threads wait.
        borrowed.setblocking(False)
    finally:
        borrowed.detach()
    return _socket.dup(handle)


cdef str limit_text(lost_t *lost, service_config_t *config):
    """What a limit of ours says that has ended a connection; None: it was none."""
    unsent = f"{lost.unsent_bytes:,} bytes of {lost.unsent_writes:,} writes were not sent"
    if lost.reason == ABORT_WRITE_LIMIT:
        return (f"the peer does not take what is written: {unsent}, and the limit is "
                f"max_write_buffer={config.max_write_buffer or None}, "
                f"max_sends={config.max_sends or None}")
    if lost.reason == ABORT_IDLE:
        return f"nothing came or left for idle_timeout_s={config.idle_timeout_ms / 1000.0:g}"
    if lost.reason == ABORT_CLOSE_TIMEOUT:
        return (f"closing, the peer took nothing for close_timeout_s="
                f"{config.close_timeout_ms / 1000.0:g}: {unsent}")
    if lost.reason == ABORT_STOP:
        return f"the server stops, and its time for that is over: {unsent}"
    return None


@atexit.register
def _stop_all():
    """Interpreter exit with running servers: stop them while Python is whole."""
    global exiting
    cdef double due
    exiting = True
    runtimes = list(_running)
    for runtime in runtimes:
        runtime.close(EXIT_TIMEOUT_MS)
    # A callback that never returns does not keep the process: its thread dies with it.
    due = perf_counter() + EXIT_PATIENCE_MS / 1000.0
    for runtime in runtimes:
        runtime.end(due)
