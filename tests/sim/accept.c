/* Listeners: their backlog, FD_ACCEPT, who else has them, and AcceptEx from its post to its
   completion.

   Called by clients.c, completions.c and sockets.c, by the engine and the driver; may call ops.c,
   streams.c and objects.c. */
#include "objects.h"

#include <string.h>

enum { ACCEPT_ADDRESS_BYTES = 144 };

/* -- the backlog ----------------------------------------------------------------------------- */

static op_t *free_accept(const object_t *listener)
{
    op_t *op = listener->first;
    while (op != NULL && (op->client != NULL || op->cancelled || op->accepted == NULL))
        op = op->next;
    return op;
}

client_t *first_in_backlog(object_t *listener)
{
    while (listener->backlog != NULL && listener->backlog->state != IN_BACKLOG)
        listener->backlog = listener->backlog->next;
    if (listener->backlog == NULL)
        listener->backlog_tail = &listener->backlog;
    return listener->backlog;
}

void into_backlog(client_t *client)
{
    client->next = NULL;
    *client->listener->backlog_tail = client;
    client->listener->backlog_tail = &client->next;
}

void match_backlog(object_t *listener)
{
    client_t *client;
    op_t *op = NULL;
    while ((client = first_in_backlog(listener)) != NULL
           && (op = free_accept(listener)) != NULL) {
        listener->backlog = client->next;
        op->client = client;
        op->connected_us = now_us();
        client->in_accept = 1;
        touch_op(op);
    }
    if (client != NULL && listener->accept_event != NULL && listener->accept_enabled) {
        listener->accept_enabled = 0;
        listener->accept_told = 1;
        listener->accept_event->set = 1;
        sim_note("FD_ACCEPT", listener->handle, 0);
        wake();
    }
}

/* -- listening ------------------------------------------------------------------------------- */

/* The clients are divided among all that there are when they are configured. */
SOCKET sim_bind(int family)
{
    object_t *sock = new_socket(family);
    winsock.listeners[winsock.n_listeners++] = sock;
    return (SOCKET)sock->handle;
}

int listen(SOCKET s, int backlog)
{
    KERNEL;
    object_t *sock = sock_of(s, "listen");
    if (fails(F_listen))
        return SOCKET_ERROR;
    // Only a hint, which is negative, makes it longer than 200; one that there is stays.
    if (!sock->listening && backlog >= 0)
        sock->backlog_limit = backlog < 200 ? backlog : 200;
    else if (!sock->listening)
        sock->backlog_limit = -backlog < 200 ? 200 : -backlog < 65535 ? -backlog : 65535;
    sock->listening = 1;
    for (client_t *client = winsock.clients; client < winsock.clients + config()->clients; client++)
        if (client->listener == sock)
            touch_client(client);
    return 0;
}

void sim_share(SOCKET s)
{
    KERNEL;
    object_t *sock = sock_of(s, "sim_share");
    sim_note("shared with another process", sock->handle, sock->on_port);
    sock->shared = 1;
    if (sock->on_port == NO_PORT)
        sock->on_port = ANOTHER_PORT;
    // One association for all, and the other one selects anew.
    sock->accept_event = NULL;
    sock->accept_told = 0;
}

int sim_backlog(SOCKET s)
{
    KERNEL;
    return sock_of(s, "sim_backlog")->backlog_limit;
}

int WSAEventSelect(SOCKET s, HANDLE event, long events)
{
    KERNEL;
    object_t *sock = sock_of(s, "WSAEventSelect");
    if (fails(F_WSAEventSelect))
        return SOCKET_ERROR;
    sock->non_blocking = 1;
    if (events == 0 && event == NULL) {
        sock->accept_event = NULL;
        sock->accept_told = 0;
        sock->selected = 0;
        return 0;
    }
    if (events != FD_ACCEPT)
        sim_fail("WSAEventSelect: only FD_ACCEPT is simulated");
    sock->accept_event = get((uintptr_t)event, AN_EVENT, "WSAEventSelect");
    sock->accept_enabled = 1;
    match_backlog(sock);
    return 0;
}

int WSAEnumNetworkEvents(SOCKET s, HANDLE event, WSANETWORKEVENTS *events)
{
    KERNEL;
    object_t *sock = sock_of(s, "WSAEnumNetworkEvents");
    (void)event;
    memset(events, 0, sizeof(*events));
    if (fails(F_WSAEnumNetworkEvents))
        return SOCKET_ERROR;
    if (sock->accept_told)
        events->lNetworkEvents = FD_ACCEPT;
    sock->accept_told = 0;
    return 0;
}

/* -- AcceptEx -------------------------------------------------------------------------------- */

int address_bytes(int family)
{
    return family == AF_INET ? 16 : 28;
}

void check_context(const object_t *sock, const char *call)
{
    if (sock->client == NULL || (!sock->updated && !config()->profile->lax_contexts))
        sim_fail("%s: handle %d does not know that it is connected", call, sock->handle);
}

void put_address(char *at, int family, int number)
{
    memset(at, 0, (size_t)address_bytes(family));
    at[0] = (char)family;
    memcpy(at + 4, &number, sizeof(number));
}

static void put_accepted(char *at, int family, int number)
{
    memset(at, 0x55, ACCEPT_ADDRESS_BYTES);     // beyond what is copied of it
    put_address(at, family, number);
}

void run_accept(op_t *op)
{
    client_t *client = op->client;
    object_t *sock = op->accepted;
    object_t *listener = op->sock;
    int in_time = client != NULL && sock != NULL && client_speaks(op);
    size_t nbytes = 0;
    take_op_back(op);
    if (sock == NULL || (op->cancelled && (!in_time || sim_random(2)))) {
        if (client != NULL && op->data_bytes == 0 && client->state == IN_BACKLOG
            && !listener->closed) {
            client->in_accept = 0;
            into_backlog(client);
        } else if (client != NULL) {
            client->state = GONE;
            client->facts.reset = 1;
            touch_client(client);
        }
        complete(op, sock == NULL ? STATUS_LOCAL_DISCONNECT : STATUS_CANCELLED, 0);
        if (!listener->closed)
            match_backlog(listener);
        return;
    }
    // A reset is told here, or by the first operation on the socket.
    if (client->facts.reset && sim_random(2)) {
        client->state = GONE;
        touch_client(client);
        complete(op, (DWORD)config()->profile->backlog_reset, 0);
        return;
    }
    sock->client = client;
    sock->reset = client->facts.reset;
    client->sock = sock;
    client->state = client->facts.reset ? GONE : ACCEPTED;
    client->facts.connected = 1;
    if (op->data_bytes > 0) {
        WSABUF buffer = {op->data_bytes, op->output};
        nbytes = fill(sock, &buffer, 1);
    }
    put_accepted(op->output + op->data_bytes, sock->family, SERVER_ADDRESS);
    put_accepted(op->output + op->data_bytes + ACCEPT_ADDRESS_BYTES, sock->family, client->number);
    sim_note("accepted", sock->handle, client->number);
    touch(sock);
    complete(op, STATUS_SUCCESS, nbytes);
}

BOOL accept_ex(SOCKET s, SOCKET accept, void *output, DWORD data_bytes, DWORD local_bytes,
               DWORD remote_bytes, DWORD *received, OVERLAPPED *overlapped)
{
    KERNEL;
    (void)received;
    sim_point();
    object_t *listener = sock_of(s, "AcceptEx");
    object_t *sock = sock_of(accept, "AcceptEx");
    object_t *event = NULL;
    check_unused(overlapped, "AcceptEx");
    if (overlapped->hEvent != NULL && ((uintptr_t)overlapped->hEvent & 1) == 0)
        sim_fail("AcceptEx: an event beside the packet is not simulated");
    if (overlapped->hEvent != NULL)
        event = get((uintptr_t)overlapped->hEvent - 1, AN_EVENT, "AcceptEx");
    if (!listener->listening || !listener->on_port)
        sim_fail("AcceptEx: handle %d does not listen on a port", listener->handle);
    if (listener->on_port == ANOTHER_PORT && event == NULL)
        sim_fail("AcceptEx: the packet of handle %d goes to another process", listener->handle);
    if (sock->in_accept || sock->client != NULL || sock->on_port
        || sock->family != listener->family)
        sim_fail("AcceptEx: handle %d is not fresh", sock->handle);
    if (local_bytes != ACCEPT_ADDRESS_BYTES || remote_bytes != ACCEPT_ADDRESS_BYTES)
        sim_fail("AcceptEx: %u and %u bytes for addresses", local_bytes, remote_bytes);
    // As it begins: whatever the event has told of is forgotten.
    if (event != NULL)
        event->set = 0;
    if (fails(F_AcceptEx))
        return 0;
    op_t *op = new_op(AN_ACCEPT, listener, overlapped, NULL, 0);
    op->event = event;
    op->accepted = sock;
    op->output = output;
    op->data_bytes = data_bytes;
    sock->in_accept = 1;
    lend_op(op);
    listener->accept_enabled = 1;
    match_backlog(listener);
    // Inline: a packet or the event follows all the same, since listeners do not skip.
    BOOL at_once = config()->profile->inline_accepts && op_can_complete(op)
                   && !op->client->facts.reset && sim_random(2);
    if (at_once)
        run_accept(op);
    sim_point();
    return at_once ? 1 : error_is(ERROR_IO_PENDING);
}

void accept_addresses(void *output, DWORD data_bytes, DWORD local_bytes, DWORD remote_bytes,
                      struct sockaddr **local, int *local_length, struct sockaddr **remote,
                      int *remote_length)
{
    (void)remote_bytes;
    *local = (struct sockaddr *)((char *)output + data_bytes);
    *remote = (struct sockaddr *)((char *)output + data_bytes + local_bytes);
    *local_length = *remote_length = address_bytes((*local)->sa_family);
}
