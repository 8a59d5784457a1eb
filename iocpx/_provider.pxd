from iocpx._types cimport engine_t, provider_t
from iocpx._winsock cimport SOCKET

# What the provider of this socket has; ConnectEx and TransmitFile may be NULL.  0 or a Windows
# code; WSAEOPNOTSUPP: its sockets are no handles of the system's.
cdef int provider_look(SOCKET sock, provider_t *provider) noexcept nogil
# The engine's own for a family (AF_INET or AF_INET6), looked up with the first of its sockets.
# Likewise; *provider is borrowed and stays as long as the engine.
cdef int provider_of_family(engine_t *engine, int family, SOCKET sock,
                            const provider_t **provider) noexcept nogil
