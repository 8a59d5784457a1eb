/* Every function of the system that the engine calls, with the codes with which it can fail for
   reasons that lie outside the program. What is left out needs a mistake of the caller's (a handle
   that is none, a pointer to nowhere), and those the kernel reports as such.

   tests/host/test_sim.py compares the names with iocpx/_winsock.pxd. */
#ifndef SIM_FAULTS_H
#define SIM_FAULTS_H

#define FUNCTIONS(X) \
    /* memory */ \
    X(malloc, ERROR_NOT_ENOUGH_MEMORY) \
    X(calloc, ERROR_NOT_ENOUGH_MEMORY) \
    /* the port */ \
    X(CreateIoCompletionPort, ERROR_NOT_ENOUGH_MEMORY, ERROR_NO_SYSTEM_RESOURCES) \
    X(GetQueuedCompletionStatusEx, ERROR_NOT_ENOUGH_MEMORY, ERROR_NO_SYSTEM_RESOURCES) \
    X(PostQueuedCompletionStatus, ERROR_NOT_ENOUGH_MEMORY, ERROR_NO_SYSTEM_RESOURCES) \
    X(SetFileCompletionNotificationModes, ERROR_INVALID_FUNCTION, ERROR_INVALID_PARAMETER) \
    X(CancelIoEx, ERROR_NOT_ENOUGH_MEMORY, ERROR_NO_SYSTEM_RESOURCES) \
    /* events and waiting */ \
    X(CreateEventW, ERROR_NOT_ENOUGH_MEMORY, ERROR_NO_SYSTEM_RESOURCES) \
    X(WaitForSingleObject, ERROR_NOT_ENOUGH_MEMORY) \
    X(WaitForMultipleObjects, ERROR_NOT_ENOUGH_MEMORY) \
    /* sockets */ \
    X(WSASocketW, WSAEMFILE, WSAENETDOWN, WSAENOBUFS) \
    X(bind, WSAEADDRINUSE, WSAENETDOWN, WSAENOBUFS) \
    X(getsockname, WSAENETDOWN) \
    X(listen, WSAEADDRINUSE, WSAENETDOWN, WSAENOBUFS) \
    X(closesocket, WSAENETDOWN) \
    X(shutdown, WSAECONNABORTED, WSAECONNRESET, WSAENETDOWN, WSAENOTCONN) \
    X(setsockopt, WSAENETDOWN, WSAENETRESET, WSAENOBUFS, WSAENOTCONN) \
    X(getsockopt, WSAENETDOWN, WSAENOPROTOOPT) \
    X(ioctlsocket, WSAENETDOWN) \
    X(WSAEventSelect, WSAENETDOWN) \
    X(WSAEnumNetworkEvents, WSAENETDOWN) \
    X(WSAIoctl, WSAENETDOWN, WSAEOPNOTSUPP) \
    X(AcceptEx, WSAECONNRESET, WSAEMFILE, WSAENETDOWN, WSAENOBUFS) \
    X(ConnectEx, WSAECONNREFUSED, WSAENETDOWN, WSAENOBUFS) \
    X(WSARecv, WSAECONNABORTED, WSAECONNRESET, WSAENETDOWN, WSAENETRESET, WSAENOBUFS, \
      WSAETIMEDOUT) \
    X(WSASend, WSAECONNABORTED, WSAECONNRESET, WSAENETDOWN, WSAENETRESET, WSAENOBUFS) \
    X(WSARecvFrom, WSAENETDOWN, WSAECONNRESET, WSAENETRESET, WSAENOBUFS) \
    X(WSASendTo, WSAENETDOWN, WSAEMSGSIZE, WSAENETUNREACH, WSAEHOSTUNREACH, WSAENOBUFS) \
    X(TransmitFile, WSAECONNABORTED, WSAECONNRESET, WSAENETDOWN, WSAENOBUFS) \
    X(WSAGetOverlappedResult, WSAENETDOWN) \
    /* files */ \
    X(GetFileSizeEx, ERROR_NETNAME_DELETED, ERROR_NO_SYSTEM_RESOURCES) \
    X(ReadFile, ERROR_NETNAME_DELETED, ERROR_NO_SYSTEM_RESOURCES) \
    X(WriteFile, ERROR_NO_SYSTEM_RESOURCES, ERROR_DISK_FULL) \
    /* fail for a handle that is none, and for nothing else */ \
    X(CloseHandle) \
    X(SetEvent) \
    /* cannot fail */ \
    X(GetOverlappedResult) \
    X(HasOverlappedIoCompleted) \
    X(SOMAXCONN_HINT) \
    X(GetLastError) \
    X(WSAGetLastError) \
    X(GetCurrentThreadId) \
    X(GetAcceptExSockaddrs) \
    X(QueryPerformanceCounter) \
    X(QueryPerformanceFrequency) \
    X(InitializeSRWLock) \
    X(AcquireSRWLockExclusive) \
    X(ReleaseSRWLockExclusive) \
    X(SleepConditionVariableSRW) \
    X(WakeAllConditionVariable) \
    X(InterlockedIncrement) \
    X(InterlockedDecrement) \
    X(InterlockedExchange) \
    X(InterlockedExchangeAdd) \
    X(InterlockedExchangeAdd64)

enum function {
#define X(name, ...) F_##name,
    FUNCTIONS(X)
#undef X
    N_FUNCTIONS
};

#endif
