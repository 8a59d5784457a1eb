#ifndef SIM_MSTCPIP_H
#define SIM_MSTCPIP_H

#include "winsock2.h"

#define SIO_KEEPALIVE_VALS 0x98000004u

struct tcp_keepalive { ULONG onoff; ULONG keepalivetime; ULONG keepaliveinterval; };

#endif
