from iocpx._op cimport op_t
from iocpx._types cimport engine_t, ready_t
from iocpx._winsock cimport DWORD, OVERLAPPED_ENTRY

cdef enum:
    HELP_MS = 20            # the keeper's patience with a worker that is busy while others are idle

# The body of a worker's thread, index 0 to workers - 1; each exactly once.
cdef void engine_run_worker(engine_t *engine, int index) noexcept nogil
# In place of that, where the engine has one worker: one step of it, by a thread that has other
# things to do as well; one thread at a time.  Waits for timeout_ms at most, delivers and serves.
# Packets that are not the engine's, at most `max` (1 or more), are put into `foreign`.  Their
# number; -1: the engine has no worker any more, and is not to be polled.
cdef int engine_poll(engine_t *engine, DWORD timeout_ms, OVERLAPPED_ENTRY *foreign,
                     int max_foreign) noexcept nogil
# The worker whose thread never came to be.
cdef void engine_forgo_worker(engine_t *engine) noexcept nogil
# The packets of the keeper: done_fn.
cdef void on_help(void *by, op_t *op, DWORD nbytes) noexcept nogil
cdef void on_stop(void *by, op_t *op, DWORD nbytes) noexcept nogil
# For whoever polls, on its thread, between two polls.
# Serves the connections that its requests have left with something to do.  True: handlers were
# told something.
cdef bint engine_serve(engine_t *engine) noexcept nogil
# Likewise, as far as no handler has to be told anything; and what was written to the others, and
# to those that wait for their turn, is sent.
cdef void engine_flush(engine_t *engine) noexcept nogil
# Its two halves.  Those that wait have had their share, or their handler is to be told something:
# between the halves they may be looked at, and their filters work.
cdef void engine_take_waiting(engine_t *engine, ready_t *waiting) noexcept nogil
# They wait for the next step, but what was written to them does not.
cdef void engine_send_waiting(engine_t *engine, ready_t *waiting) noexcept nogil
# A packet of ours that has come under somebody else's key (conn_open, joined).
cdef void engine_complete(engine_t *engine, op_t *op, DWORD nbytes) noexcept nogil
# … and after those of one look: serves what they have brought.  As after a poll, receives follow in
# the next step, when whoever answers has written.
cdef void engine_tell(engine_t *engine) noexcept nogil
# Is anything left to be served, so that the next poll should come soon?
cdef bint engine_has_more(engine_t *engine) noexcept nogil
