from iocpx._types cimport acceptor_t, engine_t, listener_t, worker_t
from iocpx._winsock cimport DWORD, SOCKET

cdef enum:
    SHRINK_MS = 5000        # without FD_ACCEPT before the pool shrinks again

cdef void accept_post(worker_t *worker, acceptor_t *acceptor) noexcept nogil
# listen() and the accept pool.  sock: bound, borrowed until engine_stop returns; one that
# listens already keeps its backlog.  0 or a Windows code; WSAEOPNOTSUPP: its provider cannot
# do it.  Only on the keeper's thread, before engine_run_keeper: it posts, see "Who posts".
cdef int engine_listen(engine_t *engine, SOCKET sock, int family) noexcept nogil
# The pool cannot be cancelled, and its handle is not to be used any more.  Precondition:
# listener.lock held, closing.
cdef void listener_abandon(listener_t *listener) noexcept nogil
cdef void listener_crowded(listener_t *listener) noexcept nogil
cdef void listener_look_after(listener_t *listener, bint shrink) noexcept nogil
