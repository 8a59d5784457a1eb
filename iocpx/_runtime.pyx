"""One run of a server: the engine with its threads, from start() to its end.

Above it `_core` gives it what delivers to Python (`set_deliver`); `_connection` tells it
what callbacks raise.

Who starts.  A signal handler may raise at any bytecode of the main thread, and between two
of them a socket or a thread would be made that nobody has yet.  So start() itself makes
nothing: `_prepare`, on a thread that no signal reaches, binds and starts the other threads.
start() waits, and may be interrupted; then it asks for the end, and what there is by then is
undone by the threads themselves, whether or not somebody waits for that.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.contextvars cimport PyContext_CopyCurrent
from cpython.exc cimport PyErr_CheckSignals
from cpython.ref cimport PyObject
from libc.stdint cimport uint64_t
from libc.string cimport memset

from iocpx._accept cimport engine_listen
from iocpx._base cimport engine_connections
from iocpx._engine cimport (
    engine_count, engine_create, engine_free, engine_on_worker, engine_pools, engine_stop,
    engine_wait_stopped, pools_t,
)
from iocpx._keeper cimport engine_forgo_keeper, engine_run_keeper
from iocpx._native cimport deliver_echo
from iocpx._requests cimport engine_close_clients
from iocpx._types cimport *
from iocpx._worker cimport engine_forgo_worker, engine_run_worker

import atexit
import logging
import socket
import threading
# From where queue has it: queue's name may have been replaced, by one that wakes greenlets of
# one thread only.
from _queue import Empty, SimpleQueue
from _thread import start_new_thread
from contextvars import copy_context
from time import perf_counter

from iocpx._addresses import address_text
from iocpx._errors import os_error
from iocpx.native import Echo

logger = logging.getLogger("iocpx")

cdef enum:
    HIGH_WATER_BYTES = 65536        # asyncio's defaults
    LOW_WATER_BYTES = 16384
    LINGER_MS = 1000                # what threads get that have only to log, or to vanish
    KEEPER = -1                     # among the indexes of the workers' threads
    EXIT_TIMEOUT_MS = 1000          # what connections get to finish at interpreter exit
    EXIT_PATIENCE_MS = 5000         # … and callbacks

cdef int ERROR_INVALID_PARAMETER = 87
cdef int ERROR_OPERATION_ABORTED = 995
cdef int WSAEOPNOTSUPP = 10045

# Delivers to protocols; set by _core, the one place that takes the GIL.
cdef deliver_fn deliver_to_python = NULL


cdef void set_deliver(deliver_fn deliver) noexcept:
    global deliver_to_python
    deliver_to_python = deliver


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
    "packets": N_PACKETS,
    "waits": N_WAITS,
    "empty_waits": N_EMPTY_WAITS,
    "gil_acquisitions": N_GIL_ACQUISITIONS,
    "write_pauses": N_WRITE_PAUSES,
    "read_pauses": N_READ_PAUSES,
    "takeovers": N_TAKEOVERS,
    "ops_posted": N_OPS_POSTED,
    "ops_completed": N_OPS_COMPLETED,
    "sockets_opened": N_SOCKETS_OPENED,
    "sockets_closed": N_SOCKETS_CLOSED,
    "connections_made": N_CONNECTIONS_MADE,
    "connections_retired": N_CONNECTIONS_RETIRED,
}

# In the order of abort_reason.
_ABORT_REASONS = ("application", "error", "callback", "write_limit", "idle_timeout",
                  "close_timeout", "stop")

# What runs at this moment; atexit stops it.  Entered by start(), left by the keeper's thread.
_running = set()


cdef class Runtime:
    """One run of a server, from start() to its end.

    Its threads refer to this object and not to the Server, so that a Server that
    nobody refers to any more can be finalised, and stop it.
    """

    def __cinit__(self, factory, exception_handler, trace, numbers):
        cdef config_t config
        cdef int error = 0
        self.factory = factory
        self.exception_handler = exception_handler
        self.trace = trace
        self.context = PyContext_CopyCurrent()
        self.sockets = ()
        self.threads = []
        self._skipped = ()
        self._to_begin = set()
        # An item: it has come so far, or will never.
        self._prepared = SimpleQueue()
        self._may_listen = SimpleQueue()
        self._listened = SimpleQueue()
        self._sockets_lock = threading.RLock()  # a signal handler may close in close()
        self.connections = set()
        memset(&config, 0, sizeof(config))
        config.workers = numbers["workers"]
        config.backlog = numbers["backlog"]
        config.initial_accepts = numbers["initial_accepts"]
        config.max_accepts = numbers["max_accepts"]
        config.accept_receive = numbers["accept_receive"]
        config.accept_timeout_ms = numbers["accept_timeout_s"]
        config.max_connections = numbers["max_connections"]
        config.initial_reads = numbers["initial_reads"]
        config.buffer_size = numbers["buffer_size"]
        config.max_free_buffers = numbers["max_free_buffers"]
        config.max_free_connections = numbers["max_free_connections"]
        config.idle_timeout_ms = numbers["idle_timeout_s"]
        config.max_sends = numbers["max_sends"]
        config.max_write_buffer = numbers["max_write_buffer"]
        config.close_timeout_ms = numbers["close_timeout_s"]
        config.keepalive_idle_ms = numbers["keepalive_idle_s"]
        config.keepalive_interval_ms = numbers["keepalive_interval_s"]
        config.high_water_bytes = HIGH_WATER_BYTES
        config.low_water_bytes = LOW_WATER_BYTES
        config.trace = trace is not None
        config.native = factory is Echo
        config.deliver = deliver_echo if config.native else deliver_to_python
        config.runtime = <PyObject *>self   # borrowed: the threads keep us
        self.engine = engine_create(&config, &error)
        if self.engine == NULL:
            raise os_error(error, "completion port")

    def __dealloc__(self):
        # The threads refer to self, so they have ended, or never began.
        if self.engine != NULL:
            engine_free(self.engine)

    def start(self, make_sockets, bint owns_sockets):
        """Bind, start the threads, then listen.  Once only; what fails is undone.

        make_sockets: callable, returns the bound sockets and the OSErrors of addresses that
        were left out; on another thread, in a copy of this one's context.
        owns_sockets: a failed start closes them.
        Returns also where close() came meanwhile; nothing is served then.
        """
        self._owns_sockets = owns_sockets
        self._to_begin = {KEEPER, *range(self.engine.config.workers)}
        _running.add(self)
        try:
            start_new_thread(copy_context().run, (self._prepare, make_sockets))
        except BaseException:
            self._forgo_threads()
            raise
        try:
            while not self._is_prepared():
                PyErr_CheckSignals()
            if self._raised is None:
                # Before the first AcceptEx: a socket of the caller's that has joined our port
                # could never join another one, so that the start could not be tried again.
                for error in self._skipped:
                    logger.warning("an address is left out: %s", error)
                if not self._closed:
                    self._told = True
                    logger.info("serving on %s, %d workers", self.addresses,
                                self.engine.config.workers)
        except BaseException:
            self._fail()
            self._may_listen.put(None)
            self.wait(-1)
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
            self._fail()
            self._drop_sockets()        # the keeper may have looked at `failed` before
            self.wait(-1)
            raise interrupt
        raised, self._raised = self._raised, None
        if raised is not None:
            self.wait(-1)
            raise raised

    def _is_prepared(self):
        try:
            self._prepared.get(True, WAIT_SLICE_MS / 1000.0)
        except Empty:
            return False
        return True

    def _prepare(self, make_sockets):
        """All of the start that an interrupt must not split.  Neither this thread nor the
        keeper may log before the end: the caller of start() may hold the lock of a log handler."""
        cdef bint go_on = False
        cdef int i
        try:
            sockets, self._skipped = make_sockets()
            # Before close() can reach them.
            self.addresses = ", ".join(address_text(sock.getsockname()) for sock in sockets)
            with self._sockets_lock:
                self.sockets = sockets
                go_on = not (self._closed or self.failed)
            if go_on:
                self._start_thread("iocpx-keeper", self.run_keeper)
                for i in range(self.engine.config.workers):
                    self._start_thread(f"iocpx-worker-{i}", self.run_worker, i)
        except BaseException as exc:
            self._raised = exc
            self.failed = True
            go_on = False
        if not go_on:
            self._forgo_threads()
        self._prepared.put(None)

    def _forgo_threads(self):
        """Give up those that have not begun, and end the others."""
        cdef int i
        # Once the keeper is there it ends by itself; without it there are no workers.
        cdef bint nobody = not self.threads and self._claim(KEEPER)
        for i in range(self.engine.config.workers):
            if self._claim(i):
                engine_forgo_worker(self.engine)
        with nogil:
            engine_stop(self.engine, 0)
        if nobody:
            self._drop_sockets()
            _running.discard(self)
            engine_forgo_keeper(self.engine)
            self._listened.put(None)

    def _fail(self):
        self.failed = True
        self._told = False
        with nogil:
            engine_stop(self.engine, 0)

    def _listen_to_all(self):
        """By the keeper: the thread of start() may end before a client comes."""
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
            self.failed = True
            with nogil:
                engine_stop(self.engine, 0)

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
                error = engine_listen(self.engine, handle, family)
        if error == ERROR_OPERATION_ABORTED:
            return          # close() was faster
        if error == ERROR_INVALID_PARAMETER:
            raise os_error(error, "listen: the socket is on another completion port already; "
                           "one listening socket cannot serve two servers or processes at a time "
                           "(to hand it over, socket.share() it before start(), and start one)",
                           address_text(sock.getsockname()))
        if error == WSAEOPNOTSUPP:
            raise os_error(error, "listen: the socket's provider lacks what a completion port "
                           "needs (`netsh winsock show catalog` lists the layered ones, such as "
                           "old proxies and filters)", address_text(sock.getsockname()))
        if error != 0:
            raise os_error(error, "listen", address_text(sock.getsockname()))

    def _claim(self, index):
        """True once per thread: it may run, or its place may be given up.  start() of a
        Thread may raise, for lack of memory, when that exists already."""
        try:
            self._to_begin.remove(index)
        except KeyError:
            return False
        return True

    def _start_thread(self, name, target, *args):
        # daemon: at interpreter exit the atexit handler stops them, with Python
        # still whole; Python would otherwise wait for them before it gets there.
        thread = threading.Thread(target=target, args=args, name=name, daemon=True)
        thread.start()
        self.threads.append(thread)

    def run_worker(self, int index):
        if self._claim(index):
            with nogil:
                engine_run_worker(self.engine, index)

    def run_keeper(self):
        cdef int trouble = 1
        if not self._claim(KEEPER):
            return
        self._may_listen.get()
        self._listen_to_all()
        if self._closed or self.failed:
            self._drop_sockets()
        self._listened.put(None)
        while trouble != 0:
            with nogil:
                trouble = engine_run_keeper(self.engine)
            if trouble != 0:
                self._tell_trouble(trouble)
        _running.discard(self)
        if self._told:
            # Nobody has to wait for it: all is over.
            logger.info("stopped after %d connections",
                        engine_count(self.engine, N_CONNECTIONS_MADE))

    def _tell_trouble(self, int trouble):
        """On a thread of its own: deadlines and the stop do not wait for a log handler, nor
        for its lock, which whoever waits for the stop may hold."""
        if self._telling is not None and self._telling.is_alive():
            return      # still at the last one
        try:
            thread = threading.Thread(
                target=logger.warning, name="iocpx-log", daemon=True, args=(
                    "cannot serve for now, trying again: %s",
                    os_error(trouble, "accept or wait")))
            thread.start()
        except (RuntimeError, MemoryError):
            return      # no thread to be had either; it is told again while it lasts
        self._telling = thread

    def serving(self):
        return self._listening and not (self._closed or self.failed)

    def over(self):
        """Has all ended?  Never waits, and runs no signal handler."""
        return engine_wait_stopped(self.engine, 0)

    def _drop_sockets(self):
        with self._sockets_lock:
            if self._owns_sockets or self._closed:
                for sock in self.sockets:
                    sock.close()

    def close(self, uint64_t timeout_ms):
        with nogil:
            engine_stop(self.engine, timeout_ms)
        with self._sockets_lock:
            self._closed = True
            for sock in self.sockets:
                sock.close()
        # A signal handler may have interrupted start(), and wait for the end before that goes on.
        self._may_listen.put(None)

    def wait(self, long long timeout_ms):
        """True when stopped within that time, -1: however long it takes.  Signal handlers
        run meanwhile."""
        cdef bint stopped
        cdef unsigned long slice_ms = WAIT_SLICE_MS
        cdef double now = perf_counter()
        cdef double due = float("inf") if timeout_ms < 0 else now + timeout_ms / 1000.0
        while True:
            if due - now < WAIT_SLICE_MS / 1000.0:
                slice_ms = <unsigned long>(max(due - now, 0.0) * 1000.0 + 0.999)
            with nogil:
                stopped = engine_wait_stopped(self.engine, slice_ms)
            if stopped:
                break
            PyErr_CheckSignals()
            now = perf_counter()
            if now >= due:
                return False
        # A courtesy: that nobody finds a thread of ours, and that the last line is in the log.
        # But a log handler may take its time, or need a lock that the caller holds.
        due = min(due, perf_counter() + LINGER_MS / 1000.0)
        for thread in self.threads:
            if thread.ident != threading.get_ident():   # the caller may be a log handler
                thread.join(max(due - perf_counter(), 0.0))
        return True

    def on_worker(self):
        return engine_on_worker(self.engine)

    def close_clients(self, bint abort):
        with nogil:
            engine_close_clients(self.engine, abort)

    def connection_count(self):
        return engine_connections(self.engine)

    def stats(self):
        cdef int counter
        stats = {name: engine_count(self.engine, counter) for name, counter in _COUNTERS.items()}
        cdef pools_t pools
        cdef int i
        engine_pools(self.engine, &pools)
        stats.update(
            connections_now=engine_connections(self.engine),
            connections_peak=pools.connections_peak,
            connections_draining=pools.connections_draining,
            connections_free=pools.connections_free,
            connection_hits=pools.connection_hits,
            connection_misses=pools.connection_misses,
            accepts_pending=pools.accepts_pending,
            buffers_out=pools.buffers_out,
            buffers_peak=pools.buffers_peak,
            buffers_free=pools.buffers_free,
            buffer_hits=pools.buffer_hits,
            buffer_misses=pools.buffer_misses,
            aborts_by_reason={name: engine_count(self.engine, N_ABORTS + i)
                              for i, name in enumerate(_ABORT_REASONS)},
            accept_errors_by_code={pools.accept_error_codes[i]: pools.accept_error_counts[i]
                                   for i in range(<int>ACCEPT_ERROR_CODES)
                                   if pools.accept_error_counts[i] > 0},
        )
        return stats

    cdef void tell_trace(self, conn_t *conn, const char *line) noexcept:
        try:
            self.trace(f"{address_text(address_tuple(<const unsigned char *>conn.remote))} "
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

    cdef void _note_exit(self, exc) noexcept:
        """What ends a program ends the server, in order: left to itself it would serve on,
        since no thread of ours is the program."""
        if isinstance(exc, (SystemExit, KeyboardInterrupt)):
            if self.exit is None:
                self.exit = exc
            self.close(self.engine.config.close_timeout_ms)


@atexit.register
def _stop_all():
    """Interpreter exit with running servers: stop them while Python is whole."""
    cdef double due
    runtimes = list(_running)
    for runtime in runtimes:
        runtime.close(EXIT_TIMEOUT_MS)
    # A callback that never returns does not keep the process: its thread dies with it.
    due = perf_counter() + EXIT_PATIENCE_MS / 1000.0
    for runtime in runtimes:
        runtime.wait(max(<long long>((due - perf_counter()) * 1000.0), 0))
