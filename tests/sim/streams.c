/* The bytes between a client and the server, and what can happen by itself because of them: which
   operations can complete, what a client can do.

   Called by every room but objects.c and port.c; may call objects.c. */
#include "objects.h"

enum { RECEIVE_ROOM = 8192 };   /* bytes a client can be ahead of the server's receives */

/* -- bytes ----------------------------------------------------------------------------------- */

unsigned char sim_byte(int client, size_t at)
{
    return (unsigned char)((size_t)client * 151 + at * 7 + (at >> 6) * 13);
}

size_t available(const object_t *sock)
{
    return sock->client->facts.sent - sock->taken;
}

enum incoming incoming(const object_t *sock)
{
    if (sock->reset && (available(sock) == 0 || !config()->profile->data_before_reset))
        return sock->reset_unseen ? END : BROKEN;
    if (available(sock) > 0)
        return DATA;
    return sock->client->facts.ended ? END : NOTHING_YET;
}

size_t room(const object_t *sock)
{
    size_t used = sock->sent - sock->client->facts.received;
    return used < config()->send_room ? config()->send_room - used : 0;
}

size_t fill(object_t *sock, const WSABUF *buffers, DWORD count)
{
    size_t done = 0;
    for (DWORD i = 0; i < count; i++)
        for (ULONG j = 0; j < buffers[i].len && available(sock) > 0; j++, done++)
            buffers[i].buf[j] = (char)sim_byte(sock->client->number, sock->taken++);
    return done;
}

void take(object_t *sock, const WSABUF *buffers, DWORD count, size_t nbytes)
{
    for (DWORD i = 0; i < count; i++)
        for (ULONG j = 0; j < buffers[i].len && nbytes > 0; j++, nbytes--, sock->sent++)
            if ((unsigned char)buffers[i].buf[j] != sim_byte(sock->client->number, sock->sent))
                sim_fail("client %d is sent a wrong byte at %zu", sock->client->number,
                         sock->sent);
}

/* -- what can happen by itself --------------------------------------------------------------- */

op_t *first_of(const object_t *sock, enum op_kind kind)
{
    op_t *op = sock->first;
    while (op != NULL && op->kind != kind)
        op = op->next;
    return op;
}

int client_speaks(const op_t *op)
{
    const sim_client_t *facts = &op->client->facts;
    return op->data_bytes == 0 || facts->sent > 0 || facts->ended || facts->reset;
}

int op_can_complete(const op_t *op)
{
    object_t *sock = op->sock;
    if (op->cancelled)
        return 1;
    switch (op->kind) {
    case AN_ACCEPT:
        return op->accepted == NULL || (op->client != NULL && client_speaks(op));
    case A_CONNECT:
        return op->client->script.end != ENDS_NEVER;
    case A_RECEIVE:
        // One after the other, in the order in which they were posted.
        return incoming(sock) == BROKEN
               || (first_of(sock, A_RECEIVE) == op && incoming(sock) != NOTHING_YET);
    case A_RECEIVE_FROM:
        return first_of(sock, A_RECEIVE_FROM) == op && sock->to_come > 0;
    case A_SEND_TO:
        return 1;
    case A_SEND:
    case A_TRANSMIT:
        if (sock->reset)
            return !config()->profile->lost_sends;
        return room(sock) >= op->nbytes || room(sock) == config()->send_room;
    case A_READ:
    case A_WRITE:
        return 1;
    }
    return 0;
}

uint32_t client_steps(const client_t *client, enum client_step steps[8])
{
    uint32_t n = 0;
    const object_t *sock = client->sock;
    const sim_client_t *facts = &client->facts;
    if (client->state == GONE || client->script.waits)
        return 0;
    if (client->state == NEW && client->script.called)
        return 0;
    if (client->state == NEW) {
        steps[0] = CONNECT;
        return client->listener->listening;
    }
    if (client->script.to_send > 0
        && (sock == NULL ? facts->sent == 0 : facts->sent - sock->taken < RECEIVE_ROOM))
        steps[n++] = SEND;
    if (client->script.to_send == 0 && !facts->ended && client->script.end == ENDS_FIN)
        steps[n++] = FINISH;
    if (sock != NULL && sock->sent > facts->received && client->script.reads != READS_NEVER)
        steps[n++] = client->script.reads == READS ? READ : CHANGE;
    if (sock != NULL && sock->sent == facts->received && !facts->saw_end
        && (sock->shut || sock->closed))
        steps[n++] = LEAVE;
    if (n == 0 && client->script.end == ENDS_RESET)
        steps[n++] = RESET;
    return n;
}

void touch_client(client_t *client)
{
    enum client_step steps[8];
    set_member(&winsock.ready, client, &client->at, client_steps(client, steps) > 0);
}

void touch_op(op_t *op)
{
    set_member(&winsock.ready, op, &op->at, op_can_complete(op));
}

void touch(object_t *sock)
{
    for (op_t *op = sock->first; op != NULL; op = op->next)
        touch_op(op);
    if (sock->client != NULL)
        touch_client(sock->client);
}
