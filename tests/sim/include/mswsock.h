#ifndef SIM_MSWSOCK_H
#define SIM_MSWSOCK_H

#include "winsock2.h"

#define SO_UPDATE_ACCEPT_CONTEXT 0x700b
#define SO_CONNECT_TIME 0x700c
#define SO_UPDATE_CONNECT_CONTEXT 0x7010
/* Only told apart from each other. */
#define WSAID_ACCEPTEX {{1}}
#define WSAID_GETACCEPTEXSOCKADDRS {{2}}
#define WSAID_CONNECTEX {{3}}
#define WSAID_TRANSMITFILE {{4}}

typedef BOOL (*LPFN_ACCEPTEX)(SOCKET, SOCKET, void *, DWORD, DWORD, DWORD, DWORD *, OVERLAPPED *);
typedef void (*LPFN_GETACCEPTEXSOCKADDRS)(void *, DWORD, DWORD, DWORD, struct sockaddr **, int *,
                                          struct sockaddr **, int *);
typedef BOOL (*LPFN_CONNECTEX)(SOCKET, const struct sockaddr *, int, void *, DWORD, DWORD *,
                               OVERLAPPED *);
typedef BOOL (*LPFN_TRANSMITFILE)(SOCKET, HANDLE, DWORD, DWORD, OVERLAPPED *, void *, DWORD);

#endif
