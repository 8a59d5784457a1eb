"""What Winsock has beyond its exported functions: AcceptEx, ConnectEx, TransmitFile.

They belong to a provider, so they are asked of a socket and hold for all sockets of the same
provider: for a listener, which may be the caller's own, of itself and for what it accepts; for
sockets that the engine makes, of the first one of each family.

Called by `_accept` and `_open`, and by `_clients` and `_transports` for sockets that somebody else
has connected; calls the operating system only.
"""

from iocpx._types cimport *
from iocpx._winsock cimport *

cdef extern from * nogil:
    # Microsoft gives these as initializers, which only a definition can take.
    """
    static GUID accept_ex_id = WSAID_ACCEPTEX;
    static GUID accept_addresses_id = WSAID_GETACCEPTEXSOCKADDRS;
    static GUID connect_ex_id = WSAID_CONNECTEX;
    static GUID transmit_file_id = WSAID_TRANSMITFILE;
    """
    GUID accept_ex_id
    GUID accept_addresses_id
    GUID connect_ex_id
    GUID transmit_file_id


cdef int extension_look(SOCKET sock, GUID *id, void *function) noexcept nogil:
    """function: where its address is put, untouched if there is none.  0 or a Windows code."""
    cdef DWORD nbytes = 0
    if WSAIoctl(sock, SIO_GET_EXTENSION_FUNCTION_POINTER, id, sizeof(GUID), function,
                sizeof(void *), &nbytes, NULL, NULL) == SOCKET_ERROR:
        return WSAGetLastError()
    return 0


cdef int provider_look(SOCKET sock, provider_t *provider) noexcept nogil:
    cdef WSAPROTOCOL_INFOW protocol
    cdef int length = sizeof(protocol)
    cdef int error
    # CancelIoEx is a call of the kernel's: a layered provider whose sockets are no real handles
    # does not hear of it, and what it has pending would never end.
    if getsockopt(sock, SOL_SOCKET, SO_PROTOCOL_INFOW, <char *>&protocol, &length) != 0:
        return WSAGetLastError()
    if not protocol.dwServiceFlags1 & XP1_IFS_HANDLES:
        return WSAEOPNOTSUPP
    error = extension_look(sock, &accept_ex_id, &provider.AcceptEx)
    if error == 0:
        error = extension_look(sock, &accept_addresses_id, &provider.GetAcceptExSockaddrs)
    # Not needed to accept, so they may be missing.
    provider.ConnectEx = NULL
    provider.TransmitFile = NULL
    extension_look(sock, &connect_ex_id, &provider.ConnectEx)
    extension_look(sock, &transmit_file_id, &provider.TransmitFile)
    return error


cdef int provider_of_family(engine_t *engine, int family, SOCKET sock,
                            const provider_t **provider) noexcept nogil:
    cdef provider_t *own = &engine.providers[family == AF_INET6]
    cdef provider_t found
    cdef int error
    provider[0] = own
    AcquireSRWLockExclusive(&engine.lock)
    cdef bint known = own.AcceptEx != NULL
    ReleaseSRWLockExclusive(&engine.lock)
    if known:
        return 0
    error = provider_look(sock, &found)
    if error != 0:
        return error
    # Two threads may have looked, and one of them been refused something: what the first has found
    # stays, since connections go by it.
    AcquireSRWLockExclusive(&engine.lock)
    if own.AcceptEx == NULL:
        own[0] = found
    ReleaseSRWLockExclusive(&engine.lock)
    return 0
