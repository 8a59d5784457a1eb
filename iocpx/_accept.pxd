from iocpx._types cimport acceptor_t, listener_t, service_t, worker_t
from iocpx._winsock cimport DWORD, SOCKET

cdef enum:
    SHRINK_MS = 5000        # without FD_ACCEPT before the pool shrinks again
    SILENT_MS = 1000        # between two looks at who is silent, at most

cdef void accept_post(worker_t *worker, acceptor_t *acceptor) noexcept nogil
# listen(), by any thread; the accept pool is filled by the keeper, at once.  sock: bound, borrowed
# until service_stop returns; one that listens already keeps its backlog.  Another engine or process
# may serve it, too.  0 or a Windows code; WSAEOPNOTSUPP: its provider cannot do it.
cdef int service_listen(service_t *service, SOCKET sock, int family) noexcept nogil
# False: out of memory, to be tried again.
cdef bint listener_begin(listener_t *listener) noexcept nogil
# End its AcceptEx.  Precondition: listener.lock held, closing.
cdef void listener_cancel(listener_t *listener) noexcept nogil
# Post the packets of a shared listener's AcceptEx that are over.  False: the system refuses some,
# and it is to be tried again.
cdef bint listener_tell(listener_t *listener) noexcept nogil
cdef void listener_crowded(listener_t *listener) noexcept nogil
cdef void listener_look_after(listener_t *listener, bint shrink) noexcept nogil
