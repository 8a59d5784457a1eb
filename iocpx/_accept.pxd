from iocpx._types cimport acceptor_t, engine_t, listener_t, worker_t
from iocpx._winsock cimport DWORD, SOCKET

cdef enum:
    SHRINK_MS = 5000        # without FD_ACCEPT before the pool shrinks again

cdef void accept_post(worker_t *worker, acceptor_t *acceptor) noexcept nogil
cdef void on_accept_complete(worker_t *worker, acceptor_t *acceptor, DWORD nbytes) noexcept nogil
# sock: bound and listening, borrowed until engine_stop returns.  0 or a Windows code. Only on
# the keeper's thread, before engine_run_keeper: it posts, see "Who posts".
cdef int engine_listen(engine_t *engine, SOCKET sock, int family) noexcept nogil
cdef void listener_crowded(listener_t *listener) noexcept nogil
cdef void listener_look_after(listener_t *listener, bint shrink) noexcept nogil
