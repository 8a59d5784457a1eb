/* The clients: what they are like, and their steps.

   Called by completions.c when one of them acts, by sockets.c when the server closes its end, by
   the driver and the scheduler; may call accept.c, streams.c and objects.c. */
#include "objects.h"

/* -- their steps ----------------------------------------------------------------------------- */

static void client_reset(client_t *client)
{
    object_t *sock = client->sock;
    sim_note("client resets", client->number, 0);
    client->facts.reset = 1;
    if (sock != NULL) {
        sock->reset = 1;
        sock->reset_unseen = config()->profile->reset_as_eof && sock->receives == 0;
        client->state = GONE;
        if (!sock->closed)
            touch(sock);
    } else if (!client->in_accept) {
        client->state = GONE;       // it vanishes from the backlog
    } else {
        client->script.waits = 1;   // whoever accepts it learns of it
        touch(client->listener);
    }
}

void client_act(client_t *client)
{
    enum client_step steps[8];
    uint32_t n_steps = client_steps(client, steps);
    enum client_step step = steps[n_steps == 1 ? 0 : sim_random(n_steps)];
    sim_client_t *facts = &client->facts;
    size_t n;
    if (client->state != NEW && client->script.end == ENDS_RESET && chance(config()->resets))
        step = RESET;
    switch (step) {
    case NOTHING:
        break;
    case CONNECT:
        if (client->listener->closed) {
            client->state = GONE;
            break;
        }
        sim_note("client connects", client->number, 0);
        client->state = IN_BACKLOG;
        into_backlog(client);
        match_backlog(client->listener);
        break;
    case SEND:
        if (client->sock != NULL && client->sock->closed) {
            sim_note("client sends to nobody", client->number, 0);
            client_reset(client);
            break;
        }
        n = client->script.to_send;
        if (!config()->plain)
            n = 1 + sim_random(n < 700 ? (uint32_t)n : 700);
        client->script.to_send -= n;
        facts->sent += n;
        sim_note("client sends", client->number, (long long)n);
        break;
    case FINISH:
        facts->ended = 1;
        sim_note("client ends", client->number, (long long)facts->sent);
        break;
    case READ:
        n = client->sock->sent - facts->received;
        if (n > 1 && !config()->plain && sim_random(2))
            n = 1 + sim_random((uint32_t)n);
        facts->received += n;
        sim_note("client reads", client->number, (long long)n);
        if (!config()->plain && sim_random(32) == 0)
            client->script.reads = READS_LATER;
        break;
    case RESET:
        client_reset(client);
        break;
    case LEAVE:
        facts->saw_end = 1;
        sim_note("client sees the end", client->number, (long long)facts->received);
        if (client->script.end != ENDS_NEVER && !facts->ended) {
            // It has not sent all, and nobody would read it.
            client->script.to_send = 0;
            facts->ended = 1;
        }
        if (client->sock->closed)
            client->state = GONE;
        break;
    case CHANGE:
        client->script.reads = READS;
        sim_note("client reads again", client->number, 0);
        break;
    }
    if (client->sock != NULL && !client->sock->closed)
        touch(client->sock);
    else if (client->in_accept)
        touch(client->listener);
    touch_client(client);
}

void client_left_alone(object_t *sock)
{
    client_t *client = sock->client;
    if (client->state == GONE)
        return;
    if (sock->linger_zero || available(sock) > 0) {
        client->facts.reset = 1;
        client->facts.cut = client->script.reads != READS_NEVER;
        client->state = GONE;
        sim_note("client is reset", client->number, 0);
    } else if (client->facts.saw_end || client->script.reads == READS_NEVER) {
        client->state = GONE;
    }
    touch_client(client);
}

/* -- for the driver -------------------------------------------------------------------------- */

void sim_client(int client, sim_client_t *out)
{
    KERNEL;
    const client_t *who = &winsock.clients[client];
    *out = who->facts;
    if (who->sock != NULL) {
        out->taken = who->sock->taken;
        out->given = who->sock->sent;
    }
}

void sim_script(int client, const sim_script_t *script)
{
    winsock.clients[client].script = *script;
    touch_client(&winsock.clients[client]);
}

void sim_send_to(int client, SOCKET listener)
{
    winsock.clients[client].listener = sock_of(listener, "sim_send_to");
    touch_client(&winsock.clients[client]);
}

void sim_feed(int client, size_t nbytes)
{
    KERNEL;
    winsock.clients[client].script.to_send += nbytes;
    touch_client(&winsock.clients[client]);
}

void sim_let_in(int client)
{
    KERNEL;
    winsock.clients[client].script.waits = 0;
    touch_client(&winsock.clients[client]);
}

void sim_call(int client)
{
    winsock.clients[client].script.called = 1;
    touch_client(&winsock.clients[client]);
}

void winsock_configure(void)
{
    int n = config()->clients;
    winsock.clients = __real_calloc((size_t)n, sizeof(client_t));
    for (int i = 0; i < n; i++) {
        client_t *client = &winsock.clients[i];
        client->number = i;
        client->at = -1;
        client->listener = winsock.listeners[i % winsock.n_listeners];
        client->script.to_send = sim_random(4) == 0 ? 0 : sim_random((uint32_t)config()->bytes + 1);
        client->script.end = sim_random(8) == 0 ? ENDS_NEVER : ENDS_FIN;
        if (config()->resets != 0 && sim_random(3) == 0)
            client->script.end = ENDS_RESET;
        client->script.reads = sim_random(10) == 0 ? READS_NEVER : READS;
        touch_client(client);
    }
}
