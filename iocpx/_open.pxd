from iocpx._state cimport buf_t
from iocpx._types cimport service_t, worker_t
from iocpx._winsock cimport SOCKET

# data: the first data, or NULL; the connection's from here on.  0, or a Windows code, and sock and
# data are still the caller's: WSAECONNREFUSED beyond max_connections, ERROR_OPERATION_ABORTED while
# the service stops, else what the system refused.
cdef int conn_open(service_t *service, worker_t *worker, SOCKET sock, const char *local,
                   const char *remote, buf_t *data) noexcept nogil
