from iocpx._types cimport acceptor_t, listener_t, service_t, worker_t
from iocpx._winsock cimport DWORD, SOCKET

cdef enum:
    SHRINK_MS = 5000        # without FD_ACCEPT before the pool shrinks again

cdef void accept_post(worker_t *worker, acceptor_t *acceptor) noexcept nogil
# listen(), by any thread; the accept pool is filled by the keeper, at once.  sock: bound, borrowed
# until service_stop returns; one that listens already keeps its backlog.  0 or a Windows code;
# WSAEOPNOTSUPP: its provider cannot do it.
cdef int service_listen(service_t *service, SOCKET sock, int family) noexcept nogil
# False: out of memory, to be tried again.
cdef bint listener_begin(listener_t *listener) noexcept nogil
# The pool cannot be cancelled, and its handle is not to be used any more.  Precondition:
# listener.lock held, closing.
cdef void listener_abandon(listener_t *listener) noexcept nogil
cdef void listener_crowded(listener_t *listener) noexcept nogil
cdef void listener_look_after(listener_t *listener, bint shrink) noexcept nogil
