/* Winsock as the simulated kernel shows it; see windows.h beside this file. */
#ifndef SIM_WINSOCK2_H
#define SIM_WINSOCK2_H

#include "windows.h"

/* These names are libc's too, and Python's own sockets shall not land in the simulation. */
#define bind sim_bind_socket
#define getsockname sim_getsockname
#define listen sim_listen
#define shutdown sim_shutdown
#define setsockopt sim_setsockopt
#define getsockopt sim_getsockopt

typedef size_t SOCKET;
typedef unsigned int GROUP;

#define INVALID_SOCKET ((SOCKET)-1)
#define SOCKET_ERROR (-1)
#define AF_INET 2
#define AF_INET6 23
#define SOCK_STREAM 1
#define IPPROTO_TCP 6
#define WSA_FLAG_OVERLAPPED 1
#define WSA_FLAG_NO_HANDLE_INHERIT 0x80
#define SD_SEND 1
#define SD_BOTH 2
#define SOL_SOCKET 0xffff
#define SO_LINGER 0x80
#define SO_PROTOCOL_INFOW 0x2005
#define SOMAXCONN_HINT(b) (-(b))
#define TCP_NODELAY 1
#define FIONBIO ((long)0x8004667e)
#define FD_ACCEPT 8
#define XP1_IFS_HANDLES 0x20000
#define SIO_GET_EXTENSION_FUNCTION_POINTER 0xc8000006u
#define WSA_IO_PENDING ERROR_IO_PENDING
#define WSAEINVAL 10022
#define WSAEMFILE 10024
#define WSAEWOULDBLOCK 10035
#define WSAENOPROTOOPT 10042
#define WSAEOPNOTSUPP 10045
#define WSAEADDRINUSE 10048
#define WSAEMSGSIZE 10040
#define WSAENETDOWN 10050
#define WSAENETUNREACH 10051
#define WSAENETRESET 10052
#define WSAECONNABORTED 10053
#define WSAECONNRESET 10054
#define WSAENOBUFS 10055
#define WSAENOTCONN 10057
#define WSAESHUTDOWN 10058
#define WSAETIMEDOUT 10060
#define WSAECONNREFUSED 10061
#define WSAEHOSTUNREACH 10065

struct sockaddr { USHORT sa_family; char sa_data[14]; };
struct linger { USHORT l_onoff; USHORT l_linger; };
typedef struct { ULONG len; char *buf; } WSABUF;
typedef struct { DWORD dwServiceFlags1; } WSAPROTOCOL_INFOW;
typedef struct { long lNetworkEvents; int iErrorCode[10]; } WSANETWORKEVENTS;

int WSAGetLastError(void);
SOCKET WSASocketW(int af, int type, int protocol, void *info, GROUP group, DWORD flags);
int bind(SOCKET s, const struct sockaddr *name, int length);
int getsockname(SOCKET s, struct sockaddr *name, int *length);
int listen(SOCKET s, int backlog);
int closesocket(SOCKET s);
int shutdown(SOCKET s, int how);
int setsockopt(SOCKET s, int level, int name, const char *value, int length);
int getsockopt(SOCKET s, int level, int name, char *value, int *length);
int ioctlsocket(SOCKET s, long command, ULONG *argument);
int WSAEventSelect(SOCKET s, HANDLE event, long events);
int WSAEnumNetworkEvents(SOCKET s, HANDLE event, WSANETWORKEVENTS *events);
int WSAIoctl(SOCKET s, DWORD code, void *in, DWORD in_bytes, void *out, DWORD out_bytes,
             DWORD *returned, OVERLAPPED *overlapped, void *routine);
int WSARecv(SOCKET s, WSABUF *buffers, DWORD count, DWORD *received, DWORD *flags,
            OVERLAPPED *overlapped, void *routine);
int WSASend(SOCKET s, WSABUF *buffers, DWORD count, DWORD *sent, DWORD flags,
            OVERLAPPED *overlapped, void *routine);
int WSARecvFrom(SOCKET s, WSABUF *buffers, DWORD count, DWORD *received, DWORD *flags,
                struct sockaddr *from, int *from_bytes, OVERLAPPED *overlapped, void *routine);
int WSASendTo(SOCKET s, WSABUF *buffers, DWORD count, DWORD *sent, DWORD flags,
              const struct sockaddr *to, int to_bytes, OVERLAPPED *overlapped, void *routine);
BOOL WSAGetOverlappedResult(SOCKET s, OVERLAPPED *overlapped, DWORD *transferred, BOOL wait,
                            DWORD *flags);

#endif
