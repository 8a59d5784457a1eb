"""The operating system as iocpx sees it: Winsock and Win32 declarations in
Microsoft's spelling, and no logic.

Everything that the engine asks of Windows is declared here and nowhere else.
Names, argument order and types are those of Microsoft's headers; a constant
without a comment means what its documentation page says.

Cimported by the engine's rooms, and by those above that ask the system something themselves; needs
nothing of iocpx.
"""

cdef extern from * nogil:
    # winsock2.h has to come before windows.h, which would otherwise bring in
    # the 1.1 header with clashing declarations (WIN32_LEAN_AND_MEAN, set by
    # setup.py, keeps it out where another header was faster).
    """
    #include <winsock2.h>
    #include <ws2tcpip.h>
    #include <mswsock.h>
    #include <mstcpip.h>
    #include <windows.h>
    #ifndef SOMAXCONN_HINT      /* some headers are older than it is */
    #define SOMAXCONN_HINT(b) (-(b))
    #endif
    """
    ctypedef int BOOL
    ctypedef unsigned char UCHAR
    ctypedef unsigned short USHORT
    ctypedef unsigned short WCHAR
    ctypedef long LONG
    ctypedef long long LONG64
    ctypedef unsigned long ULONG
    ctypedef unsigned long DWORD
    ctypedef size_t ULONG_PTR
    ctypedef void *HANDLE
    ctypedef size_t SOCKET
    ctypedef unsigned int GROUP

    HANDLE INVALID_HANDLE_VALUE
    SOCKET INVALID_SOCKET
    int SOCKET_ERROR
    DWORD INFINITE

    # -- overlapped I/O and the completion port ------------------------------
    ctypedef struct OVERLAPPED:
        # NTSTATUS of the operation, from when its packet has been dequeued on; before that
        # it does not tell whether the operation is over, unless no packet comes (hEvent).  The
        # copy in OVERLAPPED_ENTRY is documented as reserved, so this one is read.  Where a post
        # is refused at once with a warning, it is written, and a packet comes all the same.
        ULONG_PTR Internal
        ULONG_PTR InternalHigh
        DWORD Offset
        DWORD OffsetHigh
        HANDLE hEvent           # with its low bit set: the operation sends no packet to any port

    ctypedef struct OVERLAPPED_ENTRY:
        ULONG_PTR lpCompletionKey
        OVERLAPPED *lpOverlapped
        ULONG_PTR Internal
        DWORD dwNumberOfBytesTransferred

    HANDLE CreateIoCompletionPort(HANDLE FileHandle, HANDLE ExistingCompletionPort,
                                  ULONG_PTR CompletionKey,
                                  DWORD NumberOfConcurrentThreads)
    BOOL GetQueuedCompletionStatusEx(HANDLE CompletionPort,
                                     OVERLAPPED_ENTRY *lpCompletionPortEntries,
                                     ULONG ulCount, ULONG *ulNumEntriesRemoved,
                                     DWORD dwMilliseconds, BOOL fAlertable)
    BOOL PostQueuedCompletionStatus(HANDLE CompletionPort,
                                    DWORD dwNumberOfBytesTransferred,
                                    ULONG_PTR dwCompletionKey,
                                    OVERLAPPED *lpOverlapped)
    BOOL SetFileCompletionNotificationModes(HANDLE FileHandle, UCHAR Flags)
    BOOL CancelIoEx(HANDLE hFile, OVERLAPPED *lpOverlapped)
    BOOL DeviceIoControl(HANDLE hDevice, DWORD dwIoControlCode, void *lpInBuffer,
                         DWORD nInBufferSize, void *lpOutBuffer, DWORD nOutBufferSize,
                         DWORD *lpBytesReturned, OVERLAPPED *lpOverlapped)
    BOOL ReadFile(HANDLE hFile, void *lpBuffer, DWORD nNumberOfBytesToRead,
                  DWORD *lpNumberOfBytesRead, OVERLAPPED *lpOverlapped)
    BOOL WriteFile(HANDLE hFile, const void *lpBuffer, DWORD nNumberOfBytesToWrite,
                   DWORD *lpNumberOfBytesWritten, OVERLAPPED *lpOverlapped)
    BOOL GetOverlappedResult(HANDLE hFile, OVERLAPPED *lpOverlapped,
                             DWORD *lpNumberOfBytesTransferred, BOOL bWait)
    # Whether Internal is another than this.
    ULONG_PTR STATUS_PENDING
    BOOL HasOverlappedIoCompleted(const OVERLAPPED *lpOverlapped)
    UCHAR FILE_SKIP_COMPLETION_PORT_ON_SUCCESS
    UCHAR FILE_SKIP_SET_EVENT_ON_HANDLE

    # -- handles, events, threads, time --------------------------------------
    BOOL CloseHandle(HANDLE hObject)
    ctypedef struct LARGE_INTEGER:
        LONG64 QuadPart
    BOOL GetFileSizeEx(HANDLE hFile, LARGE_INTEGER *lpFileSize)
    HANDLE CreateFileW(const WCHAR *lpFileName, DWORD dwDesiredAccess, DWORD dwShareMode,
                       void *lpSecurityAttributes, DWORD dwCreationDisposition,
                       DWORD dwFlagsAndAttributes, HANDLE hTemplateFile)
    DWORD GetFileType(HANDLE hFile)
    BOOL FlushFileBuffers(HANDLE hFile)
    ctypedef struct FILE_END_OF_FILE_INFO:
        LARGE_INTEGER EndOfFile
    enum FILE_INFO_BY_HANDLE_CLASS:
        FileEndOfFileInfo
    BOOL SetFileInformationByHandle(HANDLE hFile, FILE_INFO_BY_HANDLE_CLASS FileInformationClass,
                                    void *lpFileInformation, DWORD dwBufferSize)
    HANDLE ReOpenFile(HANDLE hOriginalFile, DWORD dwDesiredAccess, DWORD dwShareMode,
                      DWORD dwFlagsAndAttributes)
    DWORD GENERIC_READ
    DWORD GENERIC_WRITE
    DWORD FILE_SHARE_READ
    DWORD FILE_SHARE_WRITE
    DWORD FILE_SHARE_DELETE
    DWORD CREATE_NEW
    DWORD CREATE_ALWAYS
    DWORD OPEN_EXISTING
    DWORD OPEN_ALWAYS
    DWORD FILE_TYPE_DISK
    DWORD FILE_TYPE_PIPE
    DWORD FILE_FLAG_OVERLAPPED
    DWORD FILE_FLAG_SEQUENTIAL_SCAN
    HANDLE CreateEventW(void *lpEventAttributes, BOOL bManualReset,
                        BOOL bInitialState, void *lpName)
    BOOL SetEvent(HANDLE hEvent)
    DWORD WaitForSingleObject(HANDLE hHandle, DWORD dwMilliseconds)
    DWORD WaitForMultipleObjects(DWORD nCount, const HANDLE *lpHandles,
                                 BOOL bWaitAll, DWORD dwMilliseconds)
    DWORD WAIT_OBJECT_0
    DWORD WAIT_TIMEOUT
    DWORD WAIT_FAILED
    DWORD GetLastError()
    DWORD GetCurrentThreadId()
    BOOL QueryPerformanceCounter(LARGE_INTEGER *lpPerformanceCount)
    BOOL QueryPerformanceFrequency(LARGE_INTEGER *lpFrequency)
    unsigned long long GetTickCount64()

    # -- locks and atomics ----------------------------------------------------
    ctypedef struct SRWLOCK:
        pass
    void InitializeSRWLock(SRWLOCK *SRWLock)
    void AcquireSRWLockExclusive(SRWLOCK *SRWLock)
    void ReleaseSRWLockExclusive(SRWLOCK *SRWLock)
    # All zero is its initial state (CONDITION_VARIABLE_INIT).
    ctypedef struct CONDITION_VARIABLE:
        pass
    BOOL SleepConditionVariableSRW(CONDITION_VARIABLE *ConditionVariable, SRWLOCK *SRWLock,
                                   DWORD dwMilliseconds, ULONG Flags)
    void WakeAllConditionVariable(CONDITION_VARIABLE *ConditionVariable)
    LONG InterlockedIncrement(LONG *Addend)
    LONG InterlockedDecrement(LONG *Addend)
    LONG InterlockedExchange(LONG *Target, LONG Value)
    LONG InterlockedExchangeAdd(LONG *Addend, LONG Value)
    LONG64 InterlockedExchangeAdd64(LONG64 *Addend, LONG64 Value)

    # -- sockets ---------------------------------------------------------------
    struct sockaddr:
        USHORT sa_family
    ctypedef struct GUID:
        pass
    ctypedef struct WSABUF:
        ULONG len
        char *buf
    ctypedef struct WSAPROTOCOL_INFOW:
        DWORD dwServiceFlags1
    DWORD XP1_IFS_HANDLES
    ctypedef struct WSANETWORKEVENTS:
        long lNetworkEvents
    long FD_ACCEPT
    long FIONBIO
    ctypedef struct LINGER "struct linger":
        USHORT l_onoff
        USHORT l_linger
    ctypedef struct tcp_keepalive "struct tcp_keepalive":
        ULONG onoff
        ULONG keepalivetime
        ULONG keepaliveinterval

    int WSAGetLastError()
    SOCKET WSASocketW(int af, int type, int protocol, void *lpProtocolInfo,
                      GROUP g, DWORD dwFlags)
    int bind(SOCKET s, const sockaddr *name, int namelen)
    int getsockname(SOCKET s, sockaddr *name, int *namelen)
    int listen(SOCKET s, int backlog)
    # What makes a backlog of more than 200 effective: 200 to 65535.
    int SOMAXCONN_HINT(int b)
    int closesocket(SOCKET s)
    int shutdown(SOCKET s, int how)
    int setsockopt(SOCKET s, int level, int optname, const char *optval, int optlen)
    int getsockopt(SOCKET s, int level, int optname, char *optval, int *optlen)
    int ioctlsocket(SOCKET s, long cmd, ULONG *argp)
    int WSAEventSelect(SOCKET s, HANDLE hEventObject, long lNetworkEvents)
    int WSAEnumNetworkEvents(SOCKET s, HANDLE hEventObject,
                             WSANETWORKEVENTS *lpNetworkEvents)
    int WSAIoctl(SOCKET s, DWORD dwIoControlCode, void *lpvInBuffer, DWORD cbInBuffer,
                 void *lpvOutBuffer, DWORD cbOutBuffer, DWORD *lpcbBytesReturned,
                 OVERLAPPED *lpOverlapped, void *lpCompletionRoutine)
    int WSARecv(SOCKET s, WSABUF *lpBuffers, DWORD dwBufferCount,
                DWORD *lpNumberOfBytesRecvd, DWORD *lpFlags,
                OVERLAPPED *lpOverlapped, void *lpCompletionRoutine)
    int WSASend(SOCKET s, WSABUF *lpBuffers, DWORD dwBufferCount,
                DWORD *lpNumberOfBytesSent, DWORD dwFlags,
                OVERLAPPED *lpOverlapped, void *lpCompletionRoutine)
    int WSARecvFrom(SOCKET s, WSABUF *lpBuffers, DWORD dwBufferCount,
                    DWORD *lpNumberOfBytesRecvd, DWORD *lpFlags, sockaddr *lpFrom,
                    int *lpFromlen, OVERLAPPED *lpOverlapped, void *lpCompletionRoutine)
    int WSASendTo(SOCKET s, WSABUF *lpBuffers, DWORD dwBufferCount,
                  DWORD *lpNumberOfBytesSent, DWORD dwFlags, const sockaddr *lpTo, int iTolen,
                  OVERLAPPED *lpOverlapped, void *lpCompletionRoutine)
    BOOL WSAGetOverlappedResult(SOCKET s, OVERLAPPED *lpOverlapped,
                                DWORD *lpcbTransfer, BOOL fWait, DWORD *lpdwFlags)

    int AF_INET
    int AF_INET6
    int SOCK_STREAM
    int IPPROTO_TCP
    DWORD WSA_FLAG_OVERLAPPED
    DWORD WSA_FLAG_NO_HANDLE_INHERIT
    int SD_SEND
    int SD_BOTH
    int SOL_SOCKET
    int SO_LINGER
    int SO_TYPE
    int SO_UPDATE_ACCEPT_CONTEXT
    int SO_UPDATE_CONNECT_CONTEXT
    int SO_PROTOCOL_INFOW
    int SO_CONNECT_TIME
    int TCP_NODELAY
    DWORD SIO_KEEPALIVE_VALS
    DWORD SIO_GET_EXTENSION_FUNCTION_POINTER
    # The handle below all layered providers.
    DWORD SIO_BASE_HANDLE
    int ERROR_IO_PENDING "WSA_IO_PENDING"
    int WSAETIMEDOUT
    int WSAECONNABORTED
    int WSAECONNREFUSED
    int WSAECONNRESET
    int WSAENETRESET
    int WSAENETUNREACH
    int WSAEHOSTUNREACH
    int WSAEMSGSIZE
    int WSAENOTCONN
    int WSAENOBUFS
    int WSAEINVAL
    int WSAEWOULDBLOCK
    int WSAEOPNOTSUPP
    int ERROR_UNEXP_NET_ERR
    int ERROR_NETNAME_DELETED
    int ERROR_CONNECTION_REFUSED
    int ERROR_NETWORK_UNREACHABLE
    int ERROR_HOST_UNREACHABLE
    int ERROR_PROTOCOL_UNREACHABLE
    int ERROR_PORT_UNREACHABLE
    int ERROR_MORE_DATA
    int ERROR_CONNECTION_ABORTED
    int ERROR_OPERATION_ABORTED
    int ERROR_NOT_FOUND
    int ERROR_INVALID_PARAMETER
    int ERROR_INVALID_HANDLE
    int ERROR_HANDLE_EOF
    int ERROR_BROKEN_PIPE
    int ERROR_NOT_ENOUGH_MEMORY
    int ERROR_DISK_FULL

    # Extension functions have no import library entry; WSAIoctl returns their
    # addresses, which hold for every socket of the same provider.
    ctypedef BOOL (__stdcall *LPFN_ACCEPTEX)(
        SOCKET sListenSocket, SOCKET sAcceptSocket, void *lpOutputBuffer,
        DWORD dwReceiveDataLength, DWORD dwLocalAddressLength,
        DWORD dwRemoteAddressLength, DWORD *lpdwBytesReceived,
        OVERLAPPED *lpOverlapped) noexcept nogil
    ctypedef void (__stdcall *LPFN_GETACCEPTEXSOCKADDRS)(
        void *lpOutputBuffer, DWORD dwReceiveDataLength, DWORD dwLocalAddressLength,
        DWORD dwRemoteAddressLength, sockaddr **LocalSockaddr,
        int *LocalSockaddrLength, sockaddr **RemoteSockaddr,
        int *RemoteSockaddrLength) noexcept nogil
    ctypedef BOOL (__stdcall *LPFN_CONNECTEX)(
        SOCKET s, const sockaddr *name, int namelen, void *lpSendBuffer,
        DWORD dwSendDataLength, DWORD *lpdwBytesSent, OVERLAPPED *lpOverlapped) noexcept nogil
    ctypedef BOOL (__stdcall *LPFN_TRANSMITFILE)(
        SOCKET hSocket, HANDLE hFile, DWORD nNumberOfBytesToWrite, DWORD nNumberOfBytesPerSend,
        OVERLAPPED *lpOverlapped, void *lpTransmitBuffers, DWORD dwFlags) noexcept nogil
