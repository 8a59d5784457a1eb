/* Connecting: ConnectEx from its post to its outcome, towards a client that waits to be called.

   Called by the engine and the driver, and by completions.c when one completes; may call accept.c, ops.c, streams.c
   and objects.c. */
#include "objects.h"

#include <string.h>

int bind(SOCKET s, const struct sockaddr *name, int length)
{
    KERNEL;
    object_t *sock = sock_of(s, "bind");
    if (name->sa_family != sock->family || length != address_bytes(sock->family))
        sim_fail("bind: the address is not one of the socket's family");
    if (fails(F_bind))
        return SOCKET_ERROR;
    sock->bound = 1;
    return 0;
}

int getsockname(SOCKET s, struct sockaddr *name, int *length)
{
    KERNEL;
    object_t *sock = sock_of(s, "getsockname");
    check_context(sock, "getsockname");
    if (*length < address_bytes(sock->family))
        sim_fail("getsockname: %d bytes", *length);
    if (fails(F_getsockname))
        return SOCKET_ERROR;
    *length = address_bytes(sock->family);
    put_address((char *)name, sock->family, SERVER_ADDRESS);
    return 0;
}

void run_connect(op_t *op)
{
    client_t *client = op->client;
    object_t *sock = op->sock;
    take_op_back(op);
    if (op->cancelled && sim_random(2)) {
        complete(op, STATUS_CANCELLED, 0);
    } else if (client->script.end == ENDS_RESET && sim_random(2)) {
        sim_note("client refuses", client->number, 0);
        complete(op, STATUS_CONNECTION_REFUSED, 0);
    } else {
        sim_note("client is reached", client->number, sock->handle);
        sock->client = client;
        client->sock = sock;
        client->state = ACCEPTED;
        client->facts.connected = 1;
        complete(op, STATUS_SUCCESS, 0);
        return;
    }
    client->state = GONE;
    touch_client(client);
}

BOOL connect_ex(SOCKET s, const struct sockaddr *name, int length, void *buffer, DWORD nbytes,
                DWORD *sent, OVERLAPPED *overlapped)
{
    KERNEL;
    (void)sent;
    sim_point();
    object_t *sock = sock_of(s, "ConnectEx");
    check_unused(overlapped, "ConnectEx");
    if (buffer != NULL || nbytes != 0)
        sim_fail("ConnectEx: not simulated with data");
    if (!sock->bound || !sock->on_port)
        sim_fail("ConnectEx: handle %d is not bound, or on no port", sock->handle);
    if (sock->in_accept || sock->client != NULL || sock->first != NULL)
        sim_fail("ConnectEx: handle %d is not fresh", sock->handle);
    if (name->sa_family != sock->family || length != address_bytes(sock->family))
        sim_fail("ConnectEx: the address is not one of the socket's family");
    if (fails(F_ConnectEx))
        return 0;
    int number;
    memcpy(&number, (const char *)name + 4, sizeof(number));
    op_t *op = new_op(A_CONNECT, sock, overlapped, NULL, 0);
    op->client = &winsock.clients[number];
    if (op->client->state != NEW || !op->client->script.called)
        sim_fail("client %d does not wait to be called", number);
    lend_op(op);
    sim_point();
    return error_is(ERROR_IO_PENDING);
}

SOCKET sim_connected(int client, ULONG_PTR key)
{
    KERNEL;
    client_t *who = &winsock.clients[client];
    object_t *sock = new_socket(AF_INET);
    sock->bound = sock->updated = sock->non_blocking = 1;
    sock->on_port = key == 0 ? NO_PORT : OUR_PORT;
    sock->key = key;
    sock->client = who;
    who->sock = sock;
    who->state = ACCEPTED;
    who->facts.connected = 1;
    sim_note("client is connected by somebody else", client, sock->handle);
    touch(sock);
    return (SOCKET)sock->handle;
}

void sim_address(int client, char address[28])
{
    memset(address, 0, 28);
    put_address(address, AF_INET, client);
}
