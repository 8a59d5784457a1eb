from iocpx._types cimport deliver_batch_fn, engine_t
from iocpx._winsock cimport HANDLE

cdef enum:
    WAIT_SLICE_MS = 100             # how long Ctrl+C may go unnoticed


cdef class EngineRun:
    cdef engine_t *engine           # owned
    cdef readonly list threads      # that have been started
    cdef readonly bint polled       # its worker is whoever calls Engine.poll()
    cdef set _to_begin
    cdef object _polling            # a lock, held by whoever polls
    cdef list _kept                 # packets of others for the next poll
    cdef readonly object exit       # a SystemExit or KeyboardInterrupt of a callback, for poll()
    cdef object _telling            # the thread that logs a trouble, or has
    cdef object _on_worker_start    # called on each worker's thread, or None…
    cdef object _on_worker_stop
    cdef object _begun              # … and what the first has raised, or None, for start()

    # The next poll() raises it, unless another one comes before.  Any thread.
    cdef void note_exit(self, exc) noexcept


# What every engine made from now on calls for connections with news for Python.
cdef void set_deliver(deliver_batch_fn deliver) noexcept
# What Engine.attach() and Engine.client_stats() do: functions of the engine and their arguments.
cdef void set_clients(attach, client_stats) noexcept
# True: the event was set by `due`, in perf_counter()'s seconds.  While it waits signal handlers
# run.
cdef bint wait_for(HANDLE event, double due) except -1
# The Engine of connections and files whose maker names none.
cdef object process_engine()
