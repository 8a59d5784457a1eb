"""Engine: a completion port with its worker threads, which servers share; and one run of it.

Servers on it come (`_running`) and go; its threads are there as long as one of them is.  `_core`
gives it what delivers to Python (`set_deliver`), `_clients` what attach() does (`set_clients`).

Called by the program, by `_runtime`, which puts servers on it, by `_engine_loop`, and by most rooms
of the threaded server; calls `_threads`, and of the engine `_engine`, `_worker`, `_keeper` and
`_base`.
"""

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from libc.string cimport memset

from iocpx._base cimport engine_hold, engine_release
from iocpx._engine cimport (
    engine_count, engine_create, engine_ending, engine_free, engine_on_worker, engine_pools,
    pools_t,
)
from iocpx._keeper cimport engine_forgo_keeper, engine_run_keeper, keeper_news_t
from iocpx._types cimport *
from iocpx._winsock cimport (
    DWORD, HANDLE, OVERLAPPED_ENTRY, WaitForSingleObject, WAIT_OBJECT_0,
)
from iocpx._worker cimport engine_forgo_worker, engine_poll, engine_run_worker

import logging
import os
import sys
import threading
# Not queue's: see _runtime.
from _queue import SimpleQueue
from _thread import allocate_lock
from time import perf_counter

from iocpx._arguments import integer, integer_between, milliseconds, refuse_async
from iocpx._errors import os_error
from iocpx._threads import log_apart

logger = logging.getLogger("iocpx")

cdef enum:
    KEEPER = -1                     # among the indexes of the workers' threads

cdef bint free_threaded = not getattr(sys, "_is_gil_enabled", lambda: True)()

# Delivers to protocols; set by _core, the one place that takes the GIL.
cdef deliver_batch_fn deliver_to_python = NULL


cdef void set_deliver(deliver_batch_fn deliver) noexcept:
    global deliver_to_python
    deliver_to_python = deliver


# What is above this room, of an Engine's clients; set by _clients.
cdef object attach_to = None
cdef object client_stats_of = None


cdef void set_clients(attach, client_stats) noexcept:
    global attach_to, client_stats_of
    attach_to = attach
    client_stats_of = client_stats


cdef bint wait_for(HANDLE event, double due) except -1:
    cdef bint is_set
    cdef DWORD slice_ms
    cdef double left
    while True:
        left = max(due - perf_counter(), 0.0) * 1000.0
        slice_ms = WAIT_SLICE_MS if left >= WAIT_SLICE_MS else <DWORD>(left + 0.999)
        with nogil:
            is_set = WaitForSingleObject(event, slice_ms) == WAIT_OBJECT_0
        if is_set:
            return True
        if perf_counter() >= due:
            return False
        PyErr_CheckSignals()


_COUNTERS = {
    "packets": E_PACKETS,
    "waits": E_WAITS,
    "empty_waits": E_EMPTY_WAITS,
    "gil_acquisitions": E_GIL_ACQUISITIONS,
    "takeovers": E_TAKEOVERS,
    "ops_posted": E_OPS_POSTED,
    "ops_completed": E_OPS_COMPLETED,
    "file_handles_opened": E_FILES_OPENED,
    "file_handles_closed": E_FILES_CLOSED,
    "file_ops_begun": E_FILE_OPS_BEGUN,
    "file_ops_done": E_FILE_OPS_DONE,
}


def log_trouble(trouble):
    logger.warning("cannot serve for now, trying again: %s", os_error(trouble, "accept or wait"))


cdef class EngineRun:
    """An engine with its threads, from the first of the servers on it to the end of the last.

    Its threads refer to it, and the servers that it has, not to the Engine.
    """

    def __cinit__(self, numbers, size_t port, on_worker_start=None, on_worker_stop=None):
        cdef engine_config_t config
        cdef int error = 0
        self.threads = []
        self.polled = port != 0
        self._polling = allocate_lock()
        self._kept = []
        self._to_begin = {KEEPER, *range(numbers["workers"])}
        self._on_worker_start = on_worker_start
        self._on_worker_stop = on_worker_stop
        self._begun = SimpleQueue()
        memset(&config, 0, sizeof(config))
        config.workers = numbers["workers"]
        config.buffer_size = numbers["buffer_size"]
        config.max_free_buffers = numbers["max_free_buffers"]
        config.deliver_batch = deliver_to_python
        self.engine = engine_create(&config, <HANDLE>port, &error)
        if self.engine == NULL:
            raise os_error(error, "completion port")

    def __dealloc__(self):
        # The threads refer to self, so they have ended, or never began.
        if self.engine != NULL:
            engine_free(self.engine)

    cdef void note_exit(self, exc) noexcept:
        with cython.critical_section(self):
            if self.exit is None:
                self.exit = exc

    def start(self):
        """Start the threads; once only.  What fails is undone.  On a thread that no signal
        handler reaches, since one that raises would leave threads that nobody has."""
        cdef int i
        try:
            self._start_thread("iocpx-keeper", self.run_keeper)
            for i in range(0 if self.polled else self.engine.config.workers):
                self._start_thread(f"iocpx-worker-{i}", self.run_worker, i)
            if self._on_worker_start is not None:
                self._wait_for_hooks()
        except BaseException:
            self._forgo_threads()
            raise

    def _wait_for_hooks(self):
        """Until on_worker_start has returned on every worker; raises what it has raised first."""
        raised = [self._begun.get() for _ in range(self.engine.config.workers)]
        failed = next((exc for exc in raised if exc is not None), None)
        if failed is not None:
            raise failed

    def _start_thread(self, name, target, *args):
        # daemon: at interpreter exit the atexit handler stops them, with Python
        # still whole; Python would otherwise wait for them before it gets there.
        thread = threading.Thread(target=target, args=args, name=name, daemon=True)
        thread.start()
        self.threads.append(thread)

    def _claim(self, index):
        """True once per thread: it may run, or its place may be given up.  start() of a
        Thread may raise, for lack of memory, when that exists already."""
        try:
            self._to_begin.remove(index)
        except KeyError:
            return False
        return True

    def _forgo_threads(self):
        """Give up those that have not begun, and end the others."""
        cdef int i
        # Once the keeper is there it ends by itself; without it there are no workers.
        cdef bint nobody = not self.threads and self._claim(KEEPER)
        for i in range(self.engine.config.workers):
            if self._claim(i):
                engine_forgo_worker(self.engine)
        engine_release(self.engine)
        if nobody:
            engine_forgo_keeper(self.engine)

    def hold(self):
        """Keep it running until release().  False: it has ended, or is about to."""
        return engine_hold(self.engine)

    def release(self):
        engine_release(self.engine)

    def run_worker(self, int index):
        if not self._claim(index) or not self._worker_starts():
            return
        with nogil:
            engine_run_worker(self.engine, index)
        if self._on_worker_stop is not None:
            try:
                self._on_worker_stop()
            except BaseException as exc:
                logger.error("on_worker_stop raised", exc_info=exc)

    def _worker_starts(self):
        """False: on_worker_start has raised, so that this worker serves nobody."""
        if self._on_worker_start is None:
            return True
        raised = None
        try:
            self._on_worker_start()
        except BaseException as exc:
            raised = exc
            with nogil:
                engine_forgo_worker(self.engine)
        self._begun.put(raised)
        return raised is None

    def run_keeper(self):
        cdef keeper_news_t news
        cdef bint running = True
        if not self._claim(KEEPER):
            return
        while running:
            with nogil:
                running = engine_run_keeper(self.engine, &news)
            try:
                if running and news.trouble != 0:
                    self._tell_trouble(news.trouble)
                if running and news.ended:
                    (<object>news.context).ended()
            except BaseException:
                pass    # out of memory for a line in the log; the others' deadlines go on

    def _tell_trouble(self, int trouble):
        """On a thread of its own: deadlines and the stop do not wait for a log handler, nor
        for its lock, which whoever waits for the stop may hold."""
        if self._telling is None or not self._telling.is_alive():
            self._telling = log_apart(log_trouble, trouble)

    def ending(self):
        """Has it nothing to do any more, so that its threads end?"""
        return engine_ending(self.engine)

    def wait(self, double due):
        """True when its threads have nothing left to do, by `due` in perf_counter()'s seconds."""
        return wait_for(self.engine.stopped_event, due)

    def on_worker(self):
        return engine_on_worker(self.engine)

    def poll(self, DWORD timeout_ms):
        """One step of the worker that nobody else is.  None: the engine has ended."""
        cdef OVERLAPPED_ENTRY[PACKETS_PER_WAIT] foreign
        cdef int n
        if not self._polling.acquire(False):
            raise RuntimeError("poll() is called already: by one thread at a time, and not from "
                               "a callback")
        try:
            packets, self._kept = self._kept, []
            if packets:
                timeout_ms = 0
            with nogil:
                n = engine_poll(self.engine, timeout_ms, foreign, PACKETS_PER_WAIT)
            # What lpOverlapped points to, if to anything, is its owner's.
            packets += [(foreign[i].lpCompletionKey, foreign[i].dwNumberOfBytesTransferred,
                         <size_t>foreign[i].lpOverlapped) for i in range(n)]
            with cython.critical_section(self):
                raised, self.exit = self.exit, None
            if raised is not None:
                self._kept = packets    # for the next call
                raise raised
        finally:
            self._polling.release()
        return packets if packets or n >= 0 else None


class Engine:
    """A completion port with its worker threads and its buffers, for one server or for several.
    Microsoft's CreateIoCompletionPort and GetQueuedCompletionStatus.

    `Server(…, engine=engine)` puts a server on it; without that each makes one of its own.
    Servers on one engine share the threads and the memory, and nothing else: each has its own
    limits, callbacks, figures and stop.  So do its clients, the connections of attach() and of
    iocpx.connect(engine=).  There is nothing to start or to close: the threads come with the
    first server that starts, or the first client, and go with the last.

    workers: threads that serve connections, 1 to 256; None: 2, and as many as there
        are CPUs on a free-threaded Python.
    buffer_size: bytes of the largest receive buffer, 1 to 16 MiB; short messages get
        smaller ones.
    max_free_buffers: how many are kept for reuse, 0 to 1000000.
    completion_port: int, the handle of a completion port of yours, or None.  With it
        there are no worker threads: the callbacks run in poll(), on your own thread.
        Yours to close, after the servers' end.
    on_worker_start, on_worker_stop: callables without arguments, called on each worker's thread,
        before its first callback and after its last; None: nothing is called.  For what a thread
        needs that runs callbacks: COM, a database handle of its own.  What on_worker_start
        raises is raised by the start() that began the threads, and nothing runs then; what
        on_worker_stop raises is logged under "iocpx".  wait_closed() waits a second for the
        latter, and the end of the interpreter does not wait longer for it.  Neither may wait for
        this engine, as start() of a server on it, attach() and the future of connect() do.  Not
        with completion_port.

    A wrong argument is a TypeError or a ValueError that names it.  Any thread may make an engine
    and call its methods.
    """

    def __init__(self, *, workers=None, buffer_size=262144, max_free_buffers=200,
                 completion_port=None, on_worker_start=None, on_worker_stop=None):
        self._port = 0
        self._hooks = on_worker_start, on_worker_stop
        for name, hook in (("on_worker_start", on_worker_start),
                           ("on_worker_stop", on_worker_stop)):
            if hook is not None and not callable(hook):
                raise TypeError(f"{name} must be callable or None, got {hook!r}")
            refuse_async(name, hook)
            if hook is not None and completion_port is not None:
                raise ValueError(f"{name} must be None with completion_port, got {hook!r}: "
                                 "poll() runs on a thread of yours")
        if completion_port is not None:
            self._port = integer("completion_port", completion_port)
            if not 0 < self._port < 2**63:
                raise ValueError("completion_port must be the handle of one, "
                                 f"got {completion_port!r}")
            if workers is not None:
                raise ValueError("workers must be left out with completion_port, "
                                 f"got {workers!r}: poll() is the one worker")
            workers = 1
        if workers is None:
            workers = min(os.cpu_count() or 1, 256) if free_threaded else 2
        self._numbers = {
            "workers": integer_between("workers", workers, 1, 256),
            "buffer_size": integer_between("buffer_size", buffer_size, 1, 16 * 1024 * 1024),
            "max_free_buffers": integer_between("max_free_buffers", max_free_buffers, 0, 10**6),
        }
        self._run = None
        self._clients = None        # the service of its clients, while there are some, or the last
        # Held only by threads that no signal handler reaches, and never while one waits.
        self._lock = allocate_lock()
        self._clients_lock = allocate_lock()    # likewise; taken before

    def __repr__(self):
        return f"<iocpx.Engine workers={self.workers}>"

    def __reduce__(self):
        raise TypeError("an Engine cannot be copied or pickled: make it where it is to run")

    @property
    def workers(self):
        """Threads that serve connections, while there is a server."""
        return self._numbers["workers"]

    def _running(self):
        """For a server that starts: the run that there is, or a new one, with a hold on it, on
        a thread that no signal handler reaches."""
        with self._lock:
            run = self._run
            if run is None or not run.hold():
                run = EngineRun(self._numbers, self._port, *self._hooks)
                try:
                    run.start()
                except BaseException:
                    run.wait(float("inf"))      # for the threads that there are
                    raise
                self._run = run
            return run

    def _is_polled(self):
        return self._port != 0

    def stats(self):
        """Counters of its threads, of its operations and of its buffers, since the first of
        its servers started; docs/TUNING.md tells them.  Readable also when all have stopped,
        until the next starts.  Any thread."""
        return stats_of(self._run)

    def attach(self, sock, protocol):
        """Serve a connected TCP socket.socket, whoever has made it or handed it over
        (socket.fromshare()), as a connection of this engine; returns its Connection.
        asyncio.loop.connect_accepted_socket(), without a loop.

        connection_made() of the protocol, which is as one of iocpx.Server's, is called on a
        worker, perhaps before this returns.  What the connection has of limits and exits is that
        of iocpx.connect(engine=).  TLS: Connection.start_tls() in connection_made().

        The socket becomes the connection's, and sock is as after sock.detach().  Where this raises
        it stays the caller's, as it was.  Raises TypeError or ValueError for a wrong argument, and
        OSError with .winerror: 10057 for a socket that is not connected, 87 for one that is on
        another completion port, which it can never leave.  Any thread.
        """
        return attach_to(self, sock, protocol)

    def client_stats(self):
        """Counters of the connections of attach() and iocpx.connect(engine=), with the keys of
        Server.stats(): since the first of those that there are, or were last.  Any thread."""
        return client_stats_of(self)

    def poll(self, timeout=None):
        """With `completion_port` only: wait for packets, `timeout` seconds at most (0: not at all),
        handle those of the servers, run their callbacks, and return the others, which somebody
        else has posted: a list of (key, bytes, OVERLAPPED's address); GetOverlappedResult() tells
        what became of an operation.  None: no server runs, so there is nothing to poll for.

        Returns at least every 0.1 s, so that Ctrl+C is noticed; timeout None is as good as that.
        SystemExit and KeyboardInterrupt that a callback has raised are raised by it, after the
        callbacks of that step.  Microsoft's GetQueuedCompletionStatusEx.

        One thread at a time, and not from a callback (RuntimeError).  Always the same thread, or
        others that live as long as the servers: what they have posted is theirs.  To stop a
        server: close() it, and poll until wait_closed(0) is True.  One whose start() has failed
        is ending likewise.  For Server's `with` and serve_forever() somebody else has to poll, so
        they are refused.
        """
        cdef DWORD timeout_ms = WAIT_SLICE_MS
        if self._port == 0:
            raise RuntimeError("poll() is for an engine with a completion_port: "
                               "this one has worker threads")
        if timeout is not None:
            timeout_ms = <DWORD>min(milliseconds("timeout", timeout, 0, threading.TIMEOUT_MAX),
                                    <int>WAIT_SLICE_MS)
        run = self._run
        return None if run is None else run.poll(timeout_ms)


def stats_of(EngineRun run):
    cdef pools_t pools
    memset(&pools, 0, sizeof(pools))
    if run is not None:
        engine_pools(run.engine, &pools)
    stats = {name: 0 if run is None else engine_count(run.engine, counter)
             for name, counter in _COUNTERS.items()}
    stats.update(
        buffers_out=pools.buffers_out,
        buffers_peak=pools.buffers_peak,
        buffers_free=pools.buffers_free,
        buffer_hits=pools.buffer_hits,
        buffer_misses=pools.buffer_misses,
    )
    return stats


# Of those who name none.
cdef object engine_of_process = Engine()


cdef object process_engine():
    return engine_of_process
