/* Windows as the simulated kernel shows it: what iocpx/_winsock.pxd declares, and no more.
   Names and values are Microsoft's, the functions are kernel.c's. */
#ifndef SIM_WINDOWS_H
#define SIM_WINDOWS_H

#include <stddef.h>
#include <stdint.h>

typedef int BOOL;
typedef unsigned char UCHAR;
typedef unsigned short USHORT;
typedef int32_t LONG;
typedef long long LONG64;
typedef uint32_t ULONG;
typedef uint32_t DWORD;
typedef size_t ULONG_PTR;
typedef void *HANDLE;
typedef uint16_t WCHAR;
typedef struct { unsigned char bytes[16]; } GUID;

#define INVALID_HANDLE_VALUE ((HANDLE)(intptr_t)-1)
#define INFINITE 0xffffffffu
#define STATUS_PENDING 0x103u
#define WAIT_OBJECT_0 0u
#define WAIT_TIMEOUT 258u
#define WAIT_FAILED 0xffffffffu
#define ERROR_INVALID_FUNCTION 1
#define ERROR_NOT_ENOUGH_MEMORY 8
#define ERROR_UNEXP_NET_ERR 59
#define ERROR_NETNAME_DELETED 64
#define ERROR_HANDLE_EOF 38
#define ERROR_INVALID_PARAMETER 87
#define ERROR_DISK_FULL 112
#define ERROR_MORE_DATA 234
#define ERROR_OPERATION_ABORTED 995
#define ERROR_IO_PENDING 997
#define ERROR_NOT_FOUND 1168
#define ERROR_CONNECTION_REFUSED 1225
#define ERROR_NETWORK_UNREACHABLE 1231
#define ERROR_HOST_UNREACHABLE 1232
#define ERROR_PROTOCOL_UNREACHABLE 1233
#define ERROR_PORT_UNREACHABLE 1234
#define ERROR_CONNECTION_ABORTED 1236
#define ERROR_NO_SYSTEM_RESOURCES 1450
#define FILE_SKIP_COMPLETION_PORT_ON_SUCCESS 1
#define FILE_SKIP_SET_EVENT_ON_HANDLE 2

typedef struct {
    ULONG_PTR Internal;
    ULONG_PTR InternalHigh;
    DWORD Offset;
    DWORD OffsetHigh;
    HANDLE hEvent;
} OVERLAPPED;

typedef struct {
    ULONG_PTR lpCompletionKey;
    OVERLAPPED *lpOverlapped;
    ULONG_PTR Internal;
    DWORD dwNumberOfBytesTransferred;
} OVERLAPPED_ENTRY;

typedef union { LONG64 QuadPart; } LARGE_INTEGER;

/* holder: 0, or the id of the thread that has it. */
typedef struct { DWORD holder; } SRWLOCK;
/* How often it has been woken. */
typedef struct { DWORD wakes; } CONDITION_VARIABLE;

HANDLE CreateIoCompletionPort(HANDLE file, HANDLE port, ULONG_PTR key, DWORD threads);
BOOL GetQueuedCompletionStatusEx(HANDLE port, OVERLAPPED_ENTRY *entries, ULONG count,
                                 ULONG *removed, DWORD timeout_ms, BOOL alertable);
BOOL PostQueuedCompletionStatus(HANDLE port, DWORD nbytes, ULONG_PTR key, OVERLAPPED *overlapped);
BOOL SetFileCompletionNotificationModes(HANDLE file, UCHAR flags);
BOOL CancelIoEx(HANDLE file, OVERLAPPED *overlapped);
BOOL ReadFile(HANDLE file, void *buffer, DWORD nbytes, DWORD *read, OVERLAPPED *overlapped);
BOOL WriteFile(HANDLE file, const void *buffer, DWORD nbytes, DWORD *written,
               OVERLAPPED *overlapped);
BOOL GetOverlappedResult(HANDLE file, OVERLAPPED *overlapped, DWORD *transferred, BOOL wait);
BOOL HasOverlappedIoCompleted(const OVERLAPPED *overlapped);
BOOL CloseHandle(HANDLE object);
BOOL GetFileSizeEx(HANDLE file, LARGE_INTEGER *size);
HANDLE CreateEventW(void *attributes, BOOL manual, BOOL initial, void *name);
BOOL SetEvent(HANDLE event);
DWORD WaitForSingleObject(HANDLE handle, DWORD timeout_ms);
DWORD WaitForMultipleObjects(DWORD count, const HANDLE *handles, BOOL all, DWORD timeout_ms);
DWORD GetLastError(void);
DWORD GetCurrentThreadId(void);
BOOL QueryPerformanceCounter(LARGE_INTEGER *count);
BOOL QueryPerformanceFrequency(LARGE_INTEGER *frequency);
void InitializeSRWLock(SRWLOCK *lock);
void AcquireSRWLockExclusive(SRWLOCK *lock);
void ReleaseSRWLockExclusive(SRWLOCK *lock);
BOOL SleepConditionVariableSRW(CONDITION_VARIABLE *condition, SRWLOCK *lock, DWORD timeout_ms,
                               ULONG flags);
void WakeAllConditionVariable(CONDITION_VARIABLE *condition);
LONG InterlockedIncrement(LONG *value);
LONG InterlockedDecrement(LONG *value);
LONG InterlockedExchange(LONG *value, LONG other);
LONG InterlockedExchangeAdd(LONG *value, LONG by);
LONG64 InterlockedExchangeAdd64(LONG64 *value, LONG64 by);

#endif
