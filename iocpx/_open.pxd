from iocpx._state cimport buf_t
from iocpx._types cimport conn_t, provider_t, service_t, worker_t
from iocpx._winsock cimport SOCKET

# state: STATE_OPEN, or STATE_CONNECTING: a worker calls ConnectEx then.  provider: borrowed, for
# as long as the service is there.  data: the first data, or NULL; the connection's from here on.
# user: the handler's, NULL: it makes its own.  opened: becomes the connection, with a reference for
# the caller; may be NULL.  joined: the socket is on the engine's port already, under a key that is
# not the engine's: whoever has the port brings what comes for it (engine_complete).
# Where the service's connections are datagram endpoints the socket is bound, and does not block;
# and there is no provider (NULL).
# 0, or a Windows code, and sock and data are still the caller's: WSAECONNREFUSED beyond
# max_connections, ERROR_OPERATION_ABORTED while the service stops, else what the system refused.
cdef int conn_open(service_t *service, worker_t *worker, const provider_t *provider, SOCKET sock,
                   int state, const char *local, const char *remote, buf_t *data,
                   void *user, conn_t **opened, bint joined) noexcept nogil
# A client of ours: a connection to `remote`, a sockaddr of AF_INET or AF_INET6, told to the
# service's handler once it is there.  local: a sockaddr of the same family, from which it goes out;
# NULL: any address and port.  user, opened: as conn_open's.  Any thread.  0 or a Windows code; what
# fails later ends the connection, of which the handler is told only where there is a user.
cdef int service_connect(service_t *service, int family, const char *local, const char *remote,
                         void *user, conn_t **opened) noexcept nogil
