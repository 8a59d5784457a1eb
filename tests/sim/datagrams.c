/* Datagrams: what comes to a socket that has no peer, and what is sent from it.

   Called by the engine and the driver, and by completions.c when one completes; may call accept.c,
   ops.c, streams.c and objects.c. */
#include "objects.h"

#include <string.h>

enum { LENGTHS = 700 };     /* of datagrams, in bytes, are less */

size_t sim_datagram_bytes(int number)
{
    return (size_t)number * 97 % LENGTHS;
}

unsigned char sim_datagram_byte(int number, size_t at)
{
    return (unsigned char)(number * 31 + (int)at * 7);
}

SOCKET sim_datagrams(int to_come)
{
    KERNEL;
    object_t *sock = new_socket(AF_INET);
    sock->datagrams = sock->bound = sock->non_blocking = 1;
    sock->to_come = to_come;
    return (SOCKET)sock->handle;
}

void sim_more_datagrams(SOCKET s, int more)
{
    KERNEL;
    object_t *sock = sock_of(s, "sim_more_datagrams");
    sock->to_come += more;
    touch(sock);
}

int sim_datagrams_come(SOCKET s)
{
    KERNEL;
    return sock_of(s, "sim_datagrams_come")->come;
}

static object_t *datagrams_of(SOCKET s, const char *call)
{
    object_t *sock = sock_of(s, call);
    if (!sock->datagrams)
        sim_fail("%s: handle %d has no datagrams", call, sock->handle);
    if (!sock->on_port)
        sim_fail("%s: handle %d is on no port", call, sock->handle);
    return sock;
}

/* -- receiving ------------------------------------------------------------------------------- */

void run_receive_from(op_t *op)
{
    object_t *sock = op->sock;
    int first = first_of(sock, A_RECEIVE_FROM) == op;
    take_op_back(op);
    if (!first || sock->to_come == 0 || (op->cancelled && sim_random(2))) {
        complete(op, STATUS_CANCELLED, 0);
        return;
    }
    if (!config()->plain && sim_random(8) == 0) {
        sim_note("nobody listens where a datagram went", sock->handle, 0);
        complete(op, STATUS_CONNECTION_RESET, 0);
        return;
    }
    int number = sock->come++;
    size_t nbytes = sim_datagram_bytes(number), done = 0;
    sock->to_come--;
    for (DWORD i = 0; i < op->count; i++)
        for (ULONG j = 0; j < op->buffers[i].len && done < nbytes; j++, done++)
            op->buffers[i].buf[j] = (char)sim_datagram_byte(number, done);
    put_address(op->from, sock->family, number);
    *op->from_bytes = address_bytes(sock->family);
    sim_note("datagram comes, bytes", number, (long long)nbytes);
    complete(op, done < nbytes ? STATUS_BUFFER_OVERFLOW : STATUS_SUCCESS, done);
}

int WSARecvFrom(SOCKET s, WSABUF *buffers, DWORD count, DWORD *received, DWORD *flags,
                struct sockaddr *from, int *from_bytes, OVERLAPPED *overlapped, void *routine)
{
    KERNEL;
    (void)routine;
    sim_point();
    object_t *sock = datagrams_of(s, "WSARecvFrom");
    if (count < 1 || count > 2 || received != NULL || flags == NULL || overlapped == NULL)
        sim_fail("WSARecvFrom: not simulated so");
    if (*from_bytes < address_bytes(sock->family))
        sim_fail("WSARecvFrom: %d bytes for an address", *from_bytes);
    check_unused(overlapped, "WSARecvFrom");
    if (fails(F_WSARecvFrom))
        return refuse(sock, WSAGetLastError());
    op_t *op = new_op(A_RECEIVE_FROM, sock, overlapped, buffers, count);
    op->from = (char *)from;
    op->from_bytes = from_bytes;
    int at_once = sock->receives == 0 && sock->to_come > 0 && sim_random(2);
    lend_op(op);
    // Its packet comes all the same.
    if (at_once)
        run_receive_from(op);
    sim_point();
    return at_once ? 0 : sock_error(WSA_IO_PENDING);
}

/* -- sending --------------------------------------------------------------------------------- */

static void take_datagram(object_t *sock, int number, const WSABUF *buffer)
{
    if (number < sock->sent_next)
        sim_fail("datagram %d is sent after datagram %d", number, sock->sent_next - 1);
    if (buffer->len != sim_datagram_bytes(number))
        sim_fail("datagram %d is sent with %u bytes", number, buffer->len);
    for (ULONG i = 0; i < buffer->len; i++)
        if ((unsigned char)buffer->buf[i] != sim_datagram_byte(number, i))
            sim_fail("datagram %d is sent with a wrong byte at %u", number, i);
    sock->sent_next = number + 1;
    sim_note("datagram leaves, bytes", number, buffer->len);
}

void run_send_to(op_t *op)
{
    if (sum_of(op) != op->sum)
        sim_fail("what WSASendTo #%d sends has been changed", op->number);
    take_op_back(op);
    if (op->cancelled && sim_random(2)) {
        complete(op, STATUS_CANCELLED, 0);
        return;
    }
    take_datagram(op->sock, op->datagram, op->buffers);
    complete(op, STATUS_SUCCESS, op->nbytes);
}

int WSASendTo(SOCKET s, WSABUF *buffers, DWORD count, DWORD *sent, DWORD flags,
              const struct sockaddr *to, int to_bytes, OVERLAPPED *overlapped, void *routine)
{
    KERNEL;
    int number;
    (void)routine;
    sim_point();
    object_t *sock = datagrams_of(s, "WSASendTo");
    if (count != 1 || flags != 0)
        sim_fail("WSASendTo: not simulated so");
    if (to == NULL || to->sa_family != sock->family || to_bytes != address_bytes(sock->family))
        sim_fail("WSASendTo: the address is not one of the socket's family");
    if (overlapped == NULL && !sock->non_blocking)
        sim_fail("WSASendTo: would block");
    if (sock->sends > 0)
        sim_fail("WSASendTo: one is pending on handle %d, and would be overtaken", sock->handle);
    if (overlapped != NULL)
        check_unused(overlapped, "WSASendTo");
    memcpy(&number, (const char *)to + 4, sizeof(number));
    if (fails(F_WSASendTo))
        return refuse(sock, WSAGetLastError());
    if (overlapped == NULL && !config()->plain && sim_random(4) == 0)
        return sock_error(WSAEWOULDBLOCK);
    if (overlapped == NULL) {
        take_datagram(sock, number, buffers);
        *sent = buffers->len;
        sim_point();
        return 0;
    }
    // As one that is too long: some systems send a packet then, and tell so in the status block.
    int refused = !config()->plain && sim_random(16) == 0;
    if (refused && sim_random(2))
        return sock_error(WSAEMSGSIZE);
    op_t *op = new_op(A_SEND_TO, sock, overlapped, buffers, 1);
    op->datagram = number;
    lend_op(op);
    if (refused) {
        take_op_back(op);
        complete(op, STATUS_BUFFER_OVERFLOW, 0);
        give_back(overlapped, sizeof(overlapped->Internal));
        overlapped->Internal = STATUS_BUFFER_OVERFLOW;
        return sock_error(WSAEMSGSIZE);
    }
    sim_point();
    return sock_error(WSA_IO_PENDING);
}
