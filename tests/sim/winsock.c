/* The simulated Winsock: a completion port, events, sockets with scripted clients behind them.

   Every call asserts the caller's side of the contract. What the caller has lent (OVERLAPPED until
   its packet is dequeued, receive buffers until the receive is over) is poisoned, so that
   AddressSanitizer stops whoever touches it; what is being sent is compared with what was posted.
   A handle's value is never used again, so a call on a closed one is always seen. */
#include "inside.h"

#include <string.h>

#include "mstcpip.h"
#include "mswsock.h"

enum {
    MAX_BUFFERS = 16,
    MAX_LISTENERS = 2,
    MAX_TOLD = 8,
    RECEIVE_ROOM = 8192,        /* bytes a client can be ahead of the server's receives */
    ACCEPT_ADDRESS_BYTES = 144,
    FIRST_HANDLE = 4,
    SHARE = 4,                  /* inline completions of a turn */
};

#define STATUS_SUCCESS 0u
#define STATUS_UNEXPECTED_NETWORK_ERROR 0xc00000c4u
#define STATUS_CANCELLED 0xc0000120u
#define STATUS_LOCAL_DISCONNECT 0xc000013bu
#define STATUS_CONNECTION_RESET 0xc000020du

const sim_profile_t sim_profiles[] = {
    {.name = "windows", .inline_accepts = 1, .accepted_outlive = 1, .inherited_events = 1,
     .backlog_reset = (int)STATUS_CONNECTION_RESET},
    {.name = "wine", .fifo = 1, .data_before_reset = 1, .reset_as_eof = 1, .lost_sends = 1,
     .lax_contexts = 1, .backlog_reset = (int)STATUS_UNEXPECTED_NETWORK_ERROR},
};
const int sim_n_profiles = (int)(sizeof(sim_profiles) / sizeof(sim_profiles[0]));

/* -- what there is ------------------------------------------------------------------------ */

typedef struct op op_t;
typedef struct packet packet_t;
typedef struct client client_t;

/* Things that can happen; a member knows its place. */
typedef struct {
    int *at;
    void *thing;
} member_t;

typedef struct {
    member_t *members;
    int n, room;
} set_t;

enum object_kind { A_PORT, AN_EVENT, A_SOCKET };

struct object {
    enum object_kind kind;
    int handle;
    int closed;
    /* a port */
    DWORD threads;              /* how many it lets run */
    uint64_t lookers;           /* who has looked at it, a bit for each thread */
    /* an event */
    int manual;
    int set;
    /* a socket */
    int family;
    int on_port;
    op_t *first, *last;         /* its pending operations, in the order of their posts */
    int in_accept;              /* lent to an AcceptEx */
    int untold;                 /* that has succeeded, and nobody has its packet yet */
    client_t *client;           /* NULL: none… */
    int updated;                /* …and told so by SO_UPDATE_ACCEPT_CONTEXT */
    int selected;               /* a WSAEventSelect of the listener's holds for it */
    int skip;
    int non_blocking;
    int linger_zero;
    int shut;                   /* SD_SEND */
    int reset;                  /* by the client… */
    int reset_unseen;           /* …while no receive was pending */
    size_t taken;               /* bytes of the client's stream that were received */
    size_t sent;                /* bytes that were taken off senders */
    int receives, sends;        /* pending */
    long inlined;               /* completions at once… */
    long inlined_look;          /* …since this look at the port… */
    DWORD inlined_by;           /* …by this thread */
    /* a listening one */
    int listening;
    int backlog_limit;
    client_t *backlog, **backlog_tail;
    object_t *accept_event;
    int accept_enabled;         /* FD_ACCEPT may be told */
    int accept_told;
};

enum op_kind { AN_ACCEPT, A_RECEIVE, A_SEND };
static const char *const op_names[] = {"AcceptEx", "WSARecv", "WSASend"};

struct op {
    op_t *prev, *next;          /* of its socket */
    op_t *prev_send, *next_send;
    int at;                     /* in `ready` */
    enum op_kind kind;
    int number;
    object_t *sock;
    OVERLAPPED *overlapped;
    size_t nbytes;
    uint32_t sum;               /* of what is to be sent */
    int cancelled;
    /* AcceptEx */
    object_t *accepted;         /* NULL: closed under it */
    char *output;
    DWORD data_bytes;
    client_t *client;           /* who has connected to it; NULL: nobody yet */
    uint64_t connected_us;
    DWORD count;
    WSABUF buffers[];
};

struct packet {
    packet_t *next;
    OVERLAPPED *overlapped;
    size_t nbytes;
    DWORD status;
    int number;
    object_t *sock;             /* NULL: posted */
    object_t *accepted;         /* by an AcceptEx that has succeeded */
};

enum client_state { NEW, IN_BACKLOG, ACCEPTED, GONE };

struct client {
    int number;
    int at;                     /* in `ready` */
    enum client_state state;
    sim_script_t script;
    client_t *next;             /* in the backlog */
    object_t *listener;
    object_t *sock;             /* the server's, once accepted */
    int in_accept;
    sim_client_t facts;
    int told[MAX_TOLD];         /* Windows codes */
    int n_told;
};

static struct {
    object_t **objects;
    int n_objects, room_objects;
    op_t *sends;
    int n_ops;
    packet_t *packets, **packets_tail;
    int n_packets;
    int last_number;
    client_t *clients;
    object_t *listeners[MAX_LISTENERS];
    int n_listeners;
    int cancel_failed;
    int n_unattached;
    set_t ready;                /* operations and clients */
} winsock;

/* -- sets --------------------------------------------------------------------------------- */

static void set_member(set_t *set, void *thing, int *at, int on)
{
    if (on == (*at >= 0))
        return;
    if (!on) {
        set->members[*at] = set->members[--set->n];
        *set->members[*at].at = *at;
        *at = -1;
        return;
    }
    if (set->n == set->room) {
        set->room = set->room * 2 + 64;
        member_t *more = __real_calloc((size_t)set->room, sizeof(*more));
        if (set->n > 0)
            memcpy(more, set->members, (size_t)set->n * sizeof(*more));
        __real_free(set->members);
        set->members = more;
    }
    *at = set->n;
    set->members[set->n++] = (member_t){at, thing};
}

/* -- handles ------------------------------------------------------------------------------ */

static object_t *new_object(enum object_kind kind)
{
    if (winsock.n_objects == winsock.room_objects) {
        winsock.room_objects = winsock.room_objects * 2 + 64;
        object_t **more = __real_calloc((size_t)winsock.room_objects, sizeof(*more));
        if (winsock.n_objects > 0)
            memcpy(more, winsock.objects, (size_t)winsock.n_objects * sizeof(*more));
        __real_free(winsock.objects);
        winsock.objects = more;
    }
    object_t *object = __real_calloc(1, sizeof(*object));
    object->kind = kind;
    object->handle = FIRST_HANDLE * (winsock.n_objects + 1);
    winsock.objects[winsock.n_objects++] = object;
    return object;
}

static object_t *get_any(uintptr_t handle, const char *call)
{
    if (handle % FIRST_HANDLE != 0 || handle < FIRST_HANDLE
        || handle / FIRST_HANDLE > (uintptr_t)winsock.n_objects)
        sim_fail("%s: %lld is no handle", call, (long long)handle);
    object_t *object = winsock.objects[handle / FIRST_HANDLE - 1];
    if (object->closed)
        sim_fail("%s: handle %lld is closed", call, (long long)handle);
    return object;
}

static object_t *get(uintptr_t handle, enum object_kind kind, const char *call)
{
    object_t *object = get_any(handle, call);
    if (object->kind != kind)
        sim_fail("%s: handle %lld is something else", call, (long long)handle);
    return object;
}

static object_t *sock_of(SOCKET s, const char *call)
{
    return get(s, A_SOCKET, call);
}

static long long client_of(const object_t *sock)
{
    return sock->client == NULL ? -1 : sock->client->number;
}

static void close_object(object_t *object)
{
    object->closed = 1;
    sim_note("handle closed", object->handle, client_of(object));
}

/* -- the streams -------------------------------------------------------------------------- */

unsigned char sim_byte(int client, size_t at)
{
    return (unsigned char)((size_t)client * 151 + at * 7 + (at >> 6) * 13);
}

static size_t available(const object_t *sock)
{
    return sock->client->facts.sent - sock->taken;
}

enum incoming { NOTHING_YET, DATA, END, BROKEN };

static enum incoming incoming(const object_t *sock)
{
    if (sock->reset && (available(sock) == 0 || !config()->profile->data_before_reset))
        return sock->reset_unseen ? END : BROKEN;
    if (available(sock) > 0)
        return DATA;
    return sock->client->facts.ended ? END : NOTHING_YET;
}

static size_t room(const object_t *sock)
{
    size_t used = sock->sent - sock->client->facts.received;
    return used < config()->send_room ? config()->send_room - used : 0;
}

static size_t fill(object_t *sock, const WSABUF *buffers, DWORD count)
{
    size_t done = 0;
    for (DWORD i = 0; i < count; i++)
        for (ULONG j = 0; j < buffers[i].len && available(sock) > 0; j++, done++)
            buffers[i].buf[j] = (char)sim_byte(sock->client->number, sock->taken++);
    return done;
}

static void take(object_t *sock, const WSABUF *buffers, DWORD count, size_t nbytes)
{
    for (DWORD i = 0; i < count; i++)
        for (ULONG j = 0; j < buffers[i].len && nbytes > 0; j++, nbytes--, sock->sent++)
            if ((unsigned char)buffers[i].buf[j] != sim_byte(sock->client->number, sock->sent))
                sim_fail("client %d is sent a wrong byte at %zu", sock->client->number,
                         sock->sent);
}

/* -- what can happen by itself -------------------------------------------------------------- */

static op_t *first_of(const object_t *sock, enum op_kind kind)
{
    op_t *op = sock->first;
    while (op != NULL && op->kind != kind)
        op = op->next;
    return op;
}

static int client_speaks(const op_t *op)
{
    const sim_client_t *facts = &op->client->facts;
    return op->data_bytes == 0 || facts->sent > 0 || facts->ended || facts->reset;
}

static int op_can_complete(const op_t *op)
{
    object_t *sock = op->sock;
    if (op->cancelled)
        return 1;
    switch (op->kind) {
    case AN_ACCEPT:
        return op->accepted == NULL || (op->client != NULL && client_speaks(op));
    case A_RECEIVE:
        // One after the other, in the order in which they were posted.
        return incoming(sock) == BROKEN
               || (first_of(sock, A_RECEIVE) == op && incoming(sock) != NOTHING_YET);
    case A_SEND:
        if (sock->reset)
            return !config()->profile->lost_sends;
        return room(sock) >= op->nbytes || room(sock) == config()->send_room;
    }
    return 0;
}

enum client_step { NOTHING, CONNECT, SEND, FINISH, READ, RESET, LEAVE, CHANGE };

/* What a client can do now; returns how many. */
static uint32_t client_steps(const client_t *client, enum client_step steps[8])
{
    uint32_t n = 0;
    const object_t *sock = client->sock;
    const sim_client_t *facts = &client->facts;
    if (client->state == GONE || client->script.waits)
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

static void touch_client(client_t *client)
{
    enum client_step steps[8];
    set_member(&winsock.ready, client, &client->at, client_steps(client, steps) > 0);
}

static void touch_op(op_t *op)
{
    set_member(&winsock.ready, op, &op->at, op_can_complete(op));
}

/* To be called whenever something about a connection has changed. */
static void touch(object_t *sock)
{
    for (op_t *op = sock->first; op != NULL; op = op->next)
        touch_op(op);
    if (sock->client != NULL)
        touch_client(sock->client);
}

/* -- packets and operations --------------------------------------------------------------- */

static void check_unused(const OVERLAPPED *overlapped, const char *call)
{
    if (is_lent(overlapped, sizeof(*overlapped)))
        sim_fail("%s: its OVERLAPPED is Windows's already", call);
}

void check_not_pending(const void *block, size_t nbytes)
{
    if (is_lent(block, nbytes))
        sim_fail("memory is freed that Windows has");
    KERNEL;
    const char *first = block;
    for (const op_t *op = winsock.sends; op != NULL; op = op->next_send)
        for (DWORD i = 0; i < op->count; i++)
            if (op->buffers[i].buf >= first && op->buffers[i].buf < first + nbytes)
                sim_fail("memory is freed that WSASend #%d has", op->number);
}

int packets_waiting(void)
{
    return winsock.packets != NULL;
}

/* The status block is written only when the packet is dequeued; until then nobody can tell from it
   that the operation is over. */
static packet_t *queue_packet(OVERLAPPED *overlapped, DWORD status, size_t nbytes, int number,
                              object_t *sock)
{
    packet_t *packet = __real_calloc(1, sizeof(*packet));
    packet->overlapped = overlapped;
    packet->status = status;
    packet->nbytes = nbytes;
    packet->number = number;
    packet->sock = sock;
    *winsock.packets_tail = packet;
    winsock.packets_tail = &packet->next;
    winsock.n_packets++;
    lend(overlapped, sizeof(*overlapped));
    wake();
    return packet;
}

static op_t *new_op(enum op_kind kind, object_t *sock, OVERLAPPED *overlapped,
                    const WSABUF *buffers, DWORD count)
{
    op_t *op = __real_calloc(1, sizeof(*op) + count * sizeof(*buffers));
    op->at = -1;
    op->kind = kind;
    op->number = ++winsock.last_number;
    op->sock = sock;
    op->overlapped = overlapped;
    op->count = count;
    for (DWORD i = 0; i < count; i++) {
        op->buffers[i] = buffers[i];
        op->nbytes += buffers[i].len;
    }
    return op;
}

static uint32_t sum_of(const op_t *op)
{
    uint32_t sum = 2166136261u;
    for (DWORD i = 0; i < op->count; i++)
        for (ULONG j = 0; j < op->buffers[i].len; j++)
            sum = (sum ^ (unsigned char)op->buffers[i].buf[j]) * 16777619u;
    return sum;
}

/* From here on it is pending. */
static void lend_op(op_t *op)
{
    object_t *sock = op->sock;
    if (this_thread()->passing)
        sim_fail("%s #%d may outlive the thread that posts it", op_names[op->kind], op->number);
    op->prev = sock->last;
    *(sock->last == NULL ? &sock->first : &sock->last->next) = op;
    sock->last = op;
    winsock.n_ops++;
    lend(op->overlapped, sizeof(OVERLAPPED));
    if (op->kind == A_RECEIVE) {
        sock->receives++;
        for (DWORD i = 0; i < op->count; i++)
            lend(op->buffers[i].buf, op->buffers[i].len);
    } else if (op->kind == A_SEND) {
        sock->sends++;
        op->sum = sum_of(op);
        op->next_send = winsock.sends;
        if (winsock.sends != NULL)
            winsock.sends->prev_send = op;
        winsock.sends = op;
    } else {
        lend(op->output, op->data_bytes);
    }
    sim_note(op_names[op->kind], op->number, sock->handle);
    touch_op(op);
}

static void take_op_back(op_t *op)
{
    object_t *sock = op->sock;
    *(op->prev == NULL ? &sock->first : &op->prev->next) = op->next;
    *(op->next == NULL ? &sock->last : &op->next->prev) = op->prev;
    winsock.n_ops--;
    set_member(&winsock.ready, op, &op->at, 0);
    give_back(op->overlapped, sizeof(OVERLAPPED));
    if (op->kind == A_RECEIVE) {
        sock->receives--;
        for (DWORD i = 0; i < op->count; i++)
            give_back(op->buffers[i].buf, op->buffers[i].len);
    } else if (op->kind == A_SEND) {
        sock->sends--;
        *(op->prev_send == NULL ? &winsock.sends : &op->prev_send->next_send) = op->next_send;
        if (op->next_send != NULL)
            op->next_send->prev_send = op->prev_send;
    } else {
        give_back(op->output, op->data_bytes);
        if (op->accepted != NULL)
            op->accepted->in_accept = 0;
    }
}

static void complete(op_t *op, DWORD status, size_t nbytes)
{
    sim_note(status == STATUS_SUCCESS ? "completes, bytes" : "completes, status", op->number,
             status == STATUS_SUCCESS ? (long long)nbytes : (long long)status);
    packet_t *packet = queue_packet(op->overlapped, status, nbytes, op->number, op->sock);
    if (op->kind == AN_ACCEPT && status == STATUS_SUCCESS) {
        packet->accepted = op->accepted;
        op->accepted->untold = 1;
    }
    touch(op->sock);
    __real_free(op);
}

/* Its outcome was an error; the server shall tell its own. */
static int tell(object_t *sock, int code)
{
    client_t *client = sock->client;
    if (client != NULL) {
        client->facts.failed |= code != ERROR_OPERATION_ABORTED;
        if (client->n_told < MAX_TOLD)
            client->told[client->n_told++] = code;
    }
    return code;
}

static int refuse(object_t *sock, int code)
{
    return sock_error((DWORD)tell(sock, code));
}

int sim_was_told(int client, int error)
{
    const client_t *who = &winsock.clients[client];
    for (int i = 0; i < who->n_told; i++)
        if (who->told[i] == error)
            return 1;
    return who->n_told == MAX_TOLD;
}

int sim_unattached(void)
{
    return winsock.n_unattached;
}

/* -- accepting ------------------------------------------------------------------------------ */

static op_t *free_accept(const object_t *listener)
{
    op_t *op = listener->first;
    while (op != NULL && (op->client != NULL || op->cancelled || op->accepted == NULL))
        op = op->next;
    return op;
}

static client_t *first_in_backlog(object_t *listener)
{
    while (listener->backlog != NULL && listener->backlog->state != IN_BACKLOG)
        listener->backlog = listener->backlog->next;
    if (listener->backlog == NULL)
        listener->backlog_tail = &listener->backlog;
    return listener->backlog;
}

static void into_backlog(client_t *client)
{
    client->next = NULL;
    *client->listener->backlog_tail = client;
    client->listener->backlog_tail = &client->next;
}

/* Clients of the backlog meet the AcceptEx that wait for them; if there are none, FD_ACCEPT. */
static void match_backlog(object_t *listener)
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

static void put_address(char *at, int family, int number)
{
    int length = family == AF_INET ? 16 : 28;
    memset(at, 0, ACCEPT_ADDRESS_BYTES);
    at[0] = (char)family;
    memcpy(at + 4, &number, sizeof(number));
    at[length] = 0x55;      // beyond what is copied of it
}

static void run_accept(op_t *op)
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
    put_address(op->output + op->data_bytes, sock->family, 100);
    put_address(op->output + op->data_bytes + ACCEPT_ADDRESS_BYTES, sock->family, client->number);
    sim_note("accepted", sock->handle, client->number);
    touch(sock);
    complete(op, STATUS_SUCCESS, nbytes);
}

/* -- completions ------------------------------------------------------------------------------ */

static void run_receive(op_t *op)
{
    object_t *sock = op->sock;
    enum incoming what = first_of(sock, A_RECEIVE) == op ? incoming(sock) : NOTHING_YET;
    if (incoming(sock) == BROKEN)
        what = BROKEN;
    take_op_back(op);
    // A cancelled one may have been about to complete with what is there.
    if (op->cancelled && (what != DATA || sim_random(2)))
        complete(op, STATUS_CANCELLED, 0);
    else if (what == BROKEN)
        complete(op, STATUS_CONNECTION_RESET, 0);
    else
        complete(op, STATUS_SUCCESS, fill(sock, op->buffers, op->count));
}

static void run_send(op_t *op)
{
    object_t *sock = op->sock;
    if (sum_of(op) != op->sum)
        sim_fail("what WSASend #%d sends has been changed", op->number);
    take_op_back(op);
    if (op->cancelled && (sock->reset || sim_random(2))) {
        complete(op, STATUS_CANCELLED, 0);
    } else if (sock->reset) {
        complete(op, STATUS_CONNECTION_RESET, 0);
    } else {
        size_t nbytes = op->nbytes;
        if (nbytes > 1 && chance(config()->shorts))
            nbytes = 1 + sim_random((uint32_t)nbytes - 1);
        take(sock, op->buffers, op->count, nbytes);
        complete(op, STATUS_SUCCESS, nbytes);
    }
}

static void run_op(op_t *op)
{
    if (op->kind == AN_ACCEPT)
        run_accept(op);
    else if (op->kind == A_RECEIVE)
        run_receive(op);
    else
        run_send(op);
}

/* -- clients ------------------------------------------------------------------------------ */

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

static void client_act(client_t *client)
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

/* The server has closed its end. */
static void client_left_alone(object_t *sock)
{
    client_t *client = sock->client;
    if (client->state == GONE)
        return;
    if (sock->linger_zero || available(sock) > 0) {
        client->facts.reset = 1;
        client->state = GONE;
        sim_note("client is reset", client->number, 0);
    } else if (client->facts.saw_end || client->script.reads == READS_NEVER) {
        client->state = GONE;
    }
    touch_client(client);
}

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

int winsock_act(void)
{
    set_t *ready = &winsock.ready;
    if (ready->n == 0)
        return 0;
    member_t *member = &ready->members[sim_random((uint32_t)ready->n)];
    client_t *client = member->thing;
    if (winsock.clients <= client && client < winsock.clients + config()->clients)
        client_act(client);
    else
        run_op(member->thing);
    return 1;
}

/* -- events ----------------------------------------------------------------------------------- */

HANDLE CreateEventW(void *attributes, BOOL manual, BOOL initial, void *name)
{
    KERNEL;
    (void)attributes;
    (void)name;
    if (fails(F_CreateEventW))
        return NULL;
    object_t *event = new_object(AN_EVENT);
    event->manual = manual;
    event->set = initial;
    error_is(0);        // ERROR_ALREADY_EXISTS otherwise: success sets it, too
    return (HANDLE)(uintptr_t)event->handle;
}

BOOL SetEvent(HANDLE handle)
{
    KERNEL;
    get((uintptr_t)handle, AN_EVENT, "SetEvent")->set = 1;
    wake();
    sim_point();
    return 1;
}

int event_is_set(const object_t *event)
{
    return event->set;
}

static DWORD wait_for_events(DWORD count, const HANDLE *handles, DWORD timeout_ms)
{
    thread_t *thread = this_thread();
    uint64_t until_us = deadline_us(timeout_ms);
    object_t *events[2];
    for (DWORD i = 0; i < count; i++)
        events[i] = get((uintptr_t)handles[i], AN_EVENT, "a wait");
    if (thread->locks != 0)
        sim_fail("a thread waits for an event with a lock");
    sim_point();
    for (;;) {
        for (DWORD i = 0; i < count; i++)
            if (events[i]->set) {
                events[i]->set = events[i]->manual;
                return WAIT_OBJECT_0 + i;
            }
        if (until_us <= now_us())
            return WAIT_TIMEOUT;
        thread->n_events = count;
        for (DWORD i = 0; i < count; i++)
            thread->events[i] = events[i];
        wait_for(WAIT_EVENTS, until_us);
    }
}

DWORD WaitForMultipleObjects(DWORD count, const HANDLE *handles, BOOL all, DWORD timeout_ms)
{
    KERNEL;
    if (count < 1 || count > 2 || all)
        sim_fail("WaitForMultipleObjects: not simulated");
    if (fails(F_WaitForMultipleObjects))
        return WAIT_FAILED;
    return wait_for_events(count, handles, timeout_ms);
}

DWORD WaitForSingleObject(HANDLE handle, DWORD timeout_ms)
{
    KERNEL;
    if (fails(F_WaitForSingleObject))
        return WAIT_FAILED;
    return wait_for_events(1, &handle, timeout_ms);
}

BOOL CloseHandle(HANDLE handle)
{
    KERNEL;
    object_t *object = get_any((uintptr_t)handle, "CloseHandle");
    if (object->kind == A_SOCKET)
        sim_fail("CloseHandle: %d is a socket", object->handle);
    close_object(object);
    return 1;
}

/* -- the port --------------------------------------------------------------------------------- */

HANDLE CreateIoCompletionPort(HANDLE file, HANDLE port, ULONG_PTR key, DWORD threads)
{
    KERNEL;
    (void)key;
    object_t *sock = NULL;
    if (file != INVALID_HANDLE_VALUE)
        sock = sock_of((SOCKET)file, "CreateIoCompletionPort");
    if (fails(F_CreateIoCompletionPort)) {
        winsock.n_unattached += sock != NULL && !sock->listening;
        return NULL;
    }
    if (sock == NULL) {
        object_t *made = new_object(A_PORT);
        // 0: as many as there are CPUs, and there is one.
        made->threads = threads == 0 ? 1 : threads;
        return (HANDLE)(uintptr_t)made->handle;
    }
    get((uintptr_t)port, A_PORT, "CreateIoCompletionPort");
    if (sock->on_port)
        sim_fail("handle %d is on a port already", sock->handle);
    sock->on_port = 1;
    return port;
}

BOOL SetFileCompletionNotificationModes(HANDLE file, UCHAR flags)
{
    KERNEL;
    object_t *sock = sock_of((SOCKET)file, "SetFileCompletionNotificationModes");
    if (fails(F_SetFileCompletionNotificationModes))
        return 0;
    if (!config()->skips)
        return error_is(ERROR_INVALID_FUNCTION);
    sock->skip = (flags & FILE_SKIP_COMPLETION_PORT_ON_SUCCESS) != 0;
    return 1;
}

BOOL PostQueuedCompletionStatus(HANDLE port, DWORD nbytes, ULONG_PTR key, OVERLAPPED *overlapped)
{
    KERNEL;
    (void)key;
    sim_point();
    get((uintptr_t)port, A_PORT, "PostQueuedCompletionStatus");
    check_unused(overlapped, "PostQueuedCompletionStatus");
    if (fails(F_PostQueuedCompletionStatus))
        return 0;
    sim_note("packet posted", ++winsock.last_number, 0);
    queue_packet(overlapped, STATUS_SUCCESS, nbytes, winsock.last_number, NULL);
    sim_point();
    return 1;
}

/* Where more threads wait for packets than the port lets run, one that computes, which for Windows is
   whoever has packets and waits for nothing, keeps the others from theirs. */
static void check_concurrency(object_t *port)
{
    port->lookers |= (uint64_t)1 << this_thread()->id % 64;
    int n = __builtin_popcountll(port->lookers);
    if (n > (int)port->threads)
        sim_fail("%d threads look at a port that lets %u run", n, port->threads);
}

BOOL GetQueuedCompletionStatusEx(HANDLE port, OVERLAPPED_ENTRY *entries, ULONG count,
                                 ULONG *removed, DWORD timeout_ms, BOOL alertable)
{
    KERNEL;
    uint64_t until_us = deadline_us(timeout_ms);
    if (alertable || count < 1)
        sim_fail("GetQueuedCompletionStatusEx: not simulated");
    if (this_thread()->locks != 0)
        sim_fail("a thread waits for the port with a lock");
    this_thread()->looks++;
    *removed = 1;       // what it says after a failure counts for nothing
    if (fails(F_GetQueuedCompletionStatusEx))
        return 0;
    sim_point();
    check_concurrency(get((uintptr_t)port, A_PORT, "GetQueuedCompletionStatusEx"));
    while (winsock.packets == NULL) {
        if (until_us <= now_us())
            return error_is(WAIT_TIMEOUT);
        wait_for(WAIT_PORT, until_us);
    }
    ULONG n = config()->plain ? count : 1 + sim_random(count);
    for (*removed = 0; *removed < n && winsock.packets != NULL; ++*removed) {
        packet_t **at = &winsock.packets;
        uint32_t skip = config()->profile->fifo ? 0 : sim_random((uint32_t)winsock.n_packets);
        while (skip-- > 0)
            at = &(*at)->next;
        packet_t *packet = *at;
        *at = packet->next;
        if (packet->next == NULL)
            winsock.packets_tail = at;
        winsock.n_packets--;
        give_back(packet->overlapped, sizeof(OVERLAPPED));
        packet->overlapped->Internal = packet->status;
        packet->overlapped->InternalHigh = packet->nbytes;
        if (packet->accepted != NULL)
            packet->accepted->untold = 0;
        // Its Internal is reserved, and says nothing.
        entries[*removed] = (OVERLAPPED_ENTRY){0x696f6370, packet->overlapped, 0x5555,
                                               (DWORD)packet->nbytes};
        sim_note("packet dequeued", packet->number, 0);
        // Another thread brings what the connection has waited for: its share begins anew.
        if (packet->sock != NULL && packet->sock->inlined_by != this_thread()->id
            && packet->sock->inlined > 0)
            packet->sock->inlined -= packet->sock->inlined > SHARE ? SHARE : packet->sock->inlined;
        __real_free(packet);
    }
    sim_point();
    return 1;
}

BOOL CancelIoEx(HANDLE file, OVERLAPPED *overlapped)
{
    KERNEL;
    object_t *sock = sock_of((SOCKET)file, "CancelIoEx");
    int found = 0;
    if (fails(F_CancelIoEx)) {
        winsock.cancel_failed = 1;
        return 0;
    }
    for (op_t *op = sock->first, *next; op != NULL; op = next) {
        next = op->next;
        if (overlapped != NULL && op->overlapped != overlapped)
            continue;
        found = 1;
        sim_note("cancel", op->number, sock->handle);
        op->cancelled = 1;
        touch_op(op);
        if (sim_random(2))
            run_op(op);
    }
    sim_point();
    return found ? 1 : error_is(ERROR_NOT_FOUND);
}

/* -- sockets ---------------------------------------------------------------------------------- */

static object_t *new_socket(int family)
{
    object_t *sock = new_object(A_SOCKET);
    sock->family = family;
    sock->backlog_tail = &sock->backlog;
    return sock;
}

SOCKET WSASocketW(int af, int type, int protocol, void *info, GROUP group, DWORD flags)
{
    KERNEL;
    (void)info;
    (void)group;
    if ((af != AF_INET && af != AF_INET6) || type != SOCK_STREAM || protocol != IPPROTO_TCP
        || flags != (WSA_FLAG_OVERLAPPED | WSA_FLAG_NO_HANDLE_INHERIT))
        sim_fail("WSASocketW: not simulated");
    if (fails(F_WSASocketW))
        return INVALID_SOCKET;
    return (SOCKET)new_socket(af)->handle;
}

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

int sim_backlog(SOCKET s)
{
    KERNEL;
    return sock_of(s, "sim_backlog")->backlog_limit;
}

int closesocket(SOCKET s)
{
    KERNEL;
    sim_point();
    object_t *sock = sock_of(s, "closesocket");
    if (sock->first != NULL && !sock->listening)
        sim_fail("handle %d is closed while %s #%d is pending", sock->handle,
                 op_names[sock->first->kind], sock->first->number);
    if (sock->untold && !winsock.cancel_failed)
        sim_fail("client %lld has been accepted, and its socket is closed before that is known",
                 client_of(sock));
    close_object(sock);
    // A listener's end is that of every AcceptEx on it. One that has its client and waits for data
    // is an affair of the accept socket's already; Wine ends it all the same.
    for (op_t *op = sock->first; op != NULL; op = op->next) {
        op->cancelled |= op->client == NULL || op->data_bytes == 0
                         || !config()->profile->accepted_outlive;
        touch_op(op);
    }
    if (sock->in_accept)
        for (int i = 0; i < winsock.n_listeners; i++)
            for (op_t *op = winsock.listeners[i]->first; op != NULL; op = op->next)
                if (op->accepted == sock) {
                    op->accepted = NULL;
                    touch_op(op);
                }
    if (sock->client != NULL)
        client_left_alone(sock);
    for (client_t *client; (client = first_in_backlog(sock)) != NULL;) {
        client->state = GONE;
        client->facts.reset = 1;
        touch_client(client);
    }
    // Where it fails, the handle is gone all the same.
    int failed = fails(F_closesocket);
    sim_point();
    return failed ? SOCKET_ERROR : 0;
}

static void check_context(const object_t *sock, const char *call)
{
    if (sock->client == NULL || (!sock->updated && !config()->profile->lax_contexts))
        sim_fail("%s: handle %d does not know that it is connected", call, sock->handle);
}

int shutdown(SOCKET s, int how)
{
    KERNEL;
    sim_point();
    object_t *sock = sock_of(s, "shutdown");
    if (how != SD_SEND && how != SD_BOTH)
        sim_fail("shutdown: not simulated");
    check_context(sock, "shutdown");
    if (sock->sends > 0)
        sim_fail("SD_SEND on handle %d before all is sent", sock->handle);
    if (fails(F_shutdown))
        return refuse(sock, WSAGetLastError());
    if (sock->reset && sim_random(2))
        return refuse(sock, WSAECONNRESET);
    sock->shut = 1;
    sim_note("SD_SEND", sock->handle, client_of(sock));
    touch(sock);
    return 0;
}

int setsockopt(SOCKET s, int level, int name, const char *value, int length)
{
    KERNEL;
    object_t *sock = sock_of(s, "setsockopt");
    if (fails(F_setsockopt)) {
        if (name == SO_LINGER && sock->client != NULL)
            sock->client->facts.unreset = 1;
        return SOCKET_ERROR;
    }
    if (level == IPPROTO_TCP && name == TCP_NODELAY)
        return 0;
    if (level == SOL_SOCKET && name == SO_LINGER) {
        struct linger linger;
        if (length != sizeof(linger))
            sim_fail("SO_LINGER: %d bytes", length);
        memcpy(&linger, value, sizeof(linger));
        // closesocket does not look at it where it does not know that there is a connection.
        sock->linger_zero = linger.l_onoff && linger.l_linger == 0
                            && (sock->updated || config()->profile->lax_contexts);
        return 0;
    }
    if (level == SOL_SOCKET && name == SO_UPDATE_ACCEPT_CONTEXT) {
        SOCKET listener;
        memcpy(&listener, value, sizeof(listener));
        const object_t *from = sock_of(listener, "SO_UPDATE_ACCEPT_CONTEXT");
        if (!from->listening)
            sim_fail("SO_UPDATE_ACCEPT_CONTEXT: %zu does not listen", listener);
        if (sock->client == NULL)
            sim_fail("SO_UPDATE_ACCEPT_CONTEXT on handle %d without a client", sock->handle);
        if (sock->reset && sim_random(4) == 0)
            return sock_error(WSAENOTCONN);
        sock->updated = 1;
        if (config()->profile->inherited_events && from->accept_event != NULL)
            sock->selected = sock->non_blocking = 1;
        return 0;
    }
    sim_fail("setsockopt: option %d is not simulated", name);
}

static DWORD connect_time_s(const object_t *sock)
{
    for (int i = 0; i < winsock.n_listeners; i++)
        for (op_t *op = winsock.listeners[i]->first; op != NULL; op = op->next)
            if (op->accepted == sock && op->client != NULL)
                return (DWORD)((now_us() - op->connected_us) / 1000000);
    return (DWORD)-1;
}

int getsockopt(SOCKET s, int level, int name, char *value, int *length)
{
    KERNEL;
    object_t *sock = sock_of(s, "getsockopt");
    if (fails(F_getsockopt))
        return SOCKET_ERROR;
    DWORD answer;
    if (level == SOL_SOCKET && name == SO_PROTOCOL_INFOW)
        answer = config()->handles ? XP1_IFS_HANDLES : 0;
    else if (level == SOL_SOCKET && name == SO_CONNECT_TIME)
        answer = connect_time_s(sock);
    else
        sim_fail("getsockopt: option %d is not simulated", name);
    if (*length < (int)sizeof(answer))
        sim_fail("getsockopt: %d bytes", *length);
    memcpy(value, &answer, sizeof(answer));
    return 0;
}

int ioctlsocket(SOCKET s, long command, ULONG *argument)
{
    KERNEL;
    object_t *sock = sock_of(s, "ioctlsocket");
    if (command != FIONBIO)
        sim_fail("ioctlsocket: only FIONBIO is simulated");
    if (fails(F_ioctlsocket))
        return SOCKET_ERROR;
    if (*argument == 0 && (sock->selected || sock->accept_event != NULL))
        return sock_error(WSAEINVAL);
    sock->non_blocking = *argument != 0;
    return 0;
}

int WSAEventSelect(SOCKET s, HANDLE event, long events)
{
    KERNEL;
    object_t *sock = sock_of(s, "WSAEventSelect");
    if (fails(F_WSAEventSelect))
        return SOCKET_ERROR;
    sock->non_blocking = 1;
    if (events == 0 && event == NULL && !sock->listening) {
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

void sim_lend_socket(SOCKET s)
{
    KERNEL;
    if (sock_of(s, "sim_lend_socket")->selected)
        sim_fail("the application gets a socket that cannot be made blocking");
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

static BOOL accept_ex(SOCKET s, SOCKET accept, void *output, DWORD data_bytes, DWORD local_bytes,
                      DWORD remote_bytes, DWORD *received, OVERLAPPED *overlapped)
{
    KERNEL;
    (void)received;
    sim_point();
    object_t *listener = sock_of(s, "AcceptEx");
    object_t *sock = sock_of(accept, "AcceptEx");
    check_unused(overlapped, "AcceptEx");
    if (!listener->listening || !listener->on_port)
        sim_fail("AcceptEx: handle %d does not listen on a port", listener->handle);
    if (sock->in_accept || sock->client != NULL || sock->on_port
        || sock->family != listener->family)
        sim_fail("AcceptEx: handle %d is not fresh", sock->handle);
    if (local_bytes != ACCEPT_ADDRESS_BYTES || remote_bytes != ACCEPT_ADDRESS_BYTES)
        sim_fail("AcceptEx: %u and %u bytes for addresses", local_bytes, remote_bytes);
    if (fails(F_AcceptEx))
        return 0;
    op_t *op = new_op(AN_ACCEPT, listener, overlapped, NULL, 0);
    op->accepted = sock;
    op->output = output;
    op->data_bytes = data_bytes;
    sock->in_accept = 1;
    lend_op(op);
    listener->accept_enabled = 1;
    match_backlog(listener);
    // Inline: a packet follows all the same, since listeners do not skip.
    BOOL at_once = config()->profile->inline_accepts && op_can_complete(op)
                   && !op->client->facts.reset && sim_random(2);
    if (at_once)
        run_accept(op);
    sim_point();
    return at_once ? 1 : error_is(ERROR_IO_PENDING);
}

static void accept_addresses(void *output, DWORD data_bytes, DWORD local_bytes, DWORD remote_bytes,
                             struct sockaddr **local, int *local_length, struct sockaddr **remote,
                             int *remote_length)
{
    (void)remote_bytes;
    *local = (struct sockaddr *)((char *)output + data_bytes);
    *remote = (struct sockaddr *)((char *)output + data_bytes + local_bytes);
    *local_length = *remote_length = (*local)->sa_family == AF_INET ? 16 : 28;
}

int WSAIoctl(SOCKET s, DWORD code, void *in, DWORD in_bytes, void *out, DWORD out_bytes,
             DWORD *returned, OVERLAPPED *overlapped, void *routine)
{
    KERNEL;
    (void)routine;
    sock_of(s, "WSAIoctl");
    if (overlapped != NULL)
        sim_fail("WSAIoctl: not simulated overlapped");
    if (fails(F_WSAIoctl))
        return SOCKET_ERROR;
    *returned = 0;
    if (code == SIO_KEEPALIVE_VALS) {
        if (in_bytes != sizeof(struct tcp_keepalive))
            sim_fail("SIO_KEEPALIVE_VALS: %u bytes", in_bytes);
        return 0;
    }
    if (code != SIO_GET_EXTENSION_FUNCTION_POINTER || out_bytes != sizeof(void *))
        sim_fail("WSAIoctl: code %x is not simulated", code);
    if (((const GUID *)in)->bytes[0] == 1) {
        LPFN_ACCEPTEX function = accept_ex;
        memcpy(out, &function, sizeof(function));
    } else {
        LPFN_GETACCEPTEXSOCKADDRS function = accept_addresses;
        memcpy(out, &function, sizeof(function));
    }
    return 0;
}

/* An operation, or a send without an OVERLAPPED, has succeeded before its call returns. */
static int at_once(object_t *sock, enum op_kind kind, OVERLAPPED *overlapped, size_t nbytes,
                   DWORD *done)
{
    thread_t *thread = this_thread();
    *done = (DWORD)nbytes;
    sim_note(kind == A_SEND ? "WSASend at once, bytes" : "WSARecv at once, bytes",
             client_of(sock), (long long)nbytes);
    if (sock->inlined_by != thread->id || sock->inlined_look != thread->looks)
        sock->inlined = 0;
    sock->inlined_by = thread->id;
    sock->inlined_look = thread->looks;
    if (++sock->inlined > config()->inline_limit && config()->inline_limit > 0
        && thread->looks > 0)
        sim_fail("client %lld is served %ld times before others are looked for",
                 client_of(sock), sock->inlined);
    if (overlapped != NULL) {
        overlapped->Internal = STATUS_SUCCESS;
        overlapped->InternalHigh = nbytes;
        if (!sock->skip)
            queue_packet(overlapped, STATUS_SUCCESS, nbytes, ++winsock.last_number, sock);
    }
    touch(sock);
    sim_point();
    return 0;
}

/* Does the call wait for its outcome, although it could have it at once? */
static int would_rather_wait(void)
{
    return !config()->plain && sim_random(4) == 0;
}

static void check_buffers(DWORD count, const char *call)
{
    if (count < 1 || count > MAX_BUFFERS)
        sim_fail("%s: %u buffers", call, count);
}

int WSARecv(SOCKET s, WSABUF *buffers, DWORD count, DWORD *received, DWORD *flags,
            OVERLAPPED *overlapped, void *routine)
{
    KERNEL;
    (void)routine;
    (void)flags;
    sim_point();
    object_t *sock = sock_of(s, "WSARecv");
    check_context(sock, "WSARecv");
    check_buffers(count, "WSARecv");
    if (fails(F_WSARecv))
        return refuse(sock, WSAGetLastError());
    if (overlapped == NULL)
        sim_fail("WSARecv: without an OVERLAPPED");
    if (!sock->on_port)
        sim_fail("WSARecv: handle %d is on no port", sock->handle);
    check_unused(overlapped, "WSARecv");
    enum incoming what = incoming(sock);
    if (what == BROKEN && sim_random(2))
        return refuse(sock, WSAECONNRESET);
    if ((what == DATA || what == END) && sock->receives == 0 && !would_rather_wait())
        return at_once(sock, A_RECEIVE, overlapped, fill(sock, buffers, count), received);
    lend_op(new_op(A_RECEIVE, sock, overlapped, buffers, count));
    sim_point();
    return sock_error(WSA_IO_PENDING);
}

int WSASend(SOCKET s, WSABUF *buffers, DWORD count, DWORD *sent, DWORD flags,
            OVERLAPPED *overlapped, void *routine)
{
    KERNEL;
    size_t nbytes = 0;
    (void)routine;
    (void)flags;
    sim_point();
    object_t *sock = sock_of(s, "WSASend");
    check_context(sock, "WSASend");
    check_buffers(count, "WSASend");
    if (sock->shut)
        sim_fail("WSASend: handle %d has sent its end", sock->handle);
    if (overlapped == NULL && !sock->non_blocking)
        sim_fail("WSASend: would block");
    if (overlapped != NULL && !sock->on_port)
        sim_fail("WSASend: handle %d is on no port", sock->handle);
    if (sock->sends > 0)
        sim_fail("WSASend: two sends in flight on handle %d", sock->handle);
    if (overlapped != NULL)
        check_unused(overlapped, "WSASend");
    for (DWORD i = 0; i < count; i++)
        nbytes += buffers[i].len;
    if (nbytes == 0)
        sim_fail("WSASend: nothing to send");
    if (fails(F_WSASend))
        return refuse(sock, WSAGetLastError());
    if (sock->reset && (overlapped == NULL || sim_random(2)))
        return refuse(sock, sim_random(2) ? WSAECONNRESET : WSAECONNABORTED);
    if (overlapped == NULL && nbytes > room(sock))
        nbytes = room(sock);
    if (overlapped == NULL && (nbytes == 0 || would_rather_wait()))
        return sock_error(WSAEWOULDBLOCK);
    if (!sock->reset && room(sock) >= nbytes && (overlapped == NULL || !would_rather_wait())) {
        if (nbytes > 1 && chance(config()->shorts))
            nbytes = 1 + sim_random((uint32_t)nbytes - 1);
        take(sock, buffers, count, nbytes);
        return at_once(sock, A_SEND, overlapped, nbytes, sent);
    }
    lend_op(new_op(A_SEND, sock, overlapped, buffers, count));
    sim_point();
    return sock_error(WSA_IO_PENDING);
}

BOOL WSAGetOverlappedResult(SOCKET s, OVERLAPPED *overlapped, DWORD *transferred, BOOL wait,
                            DWORD *flags)
{
    static const struct { DWORD status; int code; } codes[] = {
        {STATUS_CANCELLED, ERROR_OPERATION_ABORTED},
        {STATUS_CONNECTION_RESET, WSAECONNRESET},
        {STATUS_LOCAL_DISCONNECT, WSAECONNABORTED},
        {STATUS_UNEXPECTED_NETWORK_ERROR, ERROR_UNEXP_NET_ERR},
    };
    KERNEL;
    (void)wait;
    (void)flags;
    object_t *sock = sock_of(s, "WSAGetOverlappedResult");
    check_unused(overlapped, "WSAGetOverlappedResult");
    *transferred = (DWORD)overlapped->InternalHigh;
    if (overlapped->Internal == STATUS_SUCCESS)
        return 1;
    if (fails(F_WSAGetOverlappedResult))
        return error_is((DWORD)tell(sock, WSAGetLastError()));
    for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++)
        if (codes[i].status == overlapped->Internal)
            return error_is((DWORD)tell(sock, codes[i].code));
    sim_fail("WSAGetOverlappedResult: %zx is no outcome", overlapped->Internal);
}

/* -- a run -------------------------------------------------------------------------------------- */

void winsock_begin(void)
{
    member_t *members = winsock.ready.members;
    int room = winsock.ready.room;
    memset(&winsock, 0, sizeof(winsock));
    winsock.ready.members = members;
    winsock.ready.room = room;
    winsock.packets_tail = &winsock.packets;
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

void winsock_end(void)
{
    if (winsock.n_ops > 0)
        sim_fail("%d operations are still pending", winsock.n_ops);
    if (winsock.packets != NULL)
        sim_fail("packet #%d was never dequeued", winsock.packets->number);
    for (int i = 0; i < winsock.n_objects; i++) {
        if (!winsock.objects[i]->closed)
            sim_fail("handle %d is still open", winsock.objects[i]->handle);
        __real_free(winsock.objects[i]);
    }
    __real_free(winsock.objects);
    __real_free(winsock.clients);
}
