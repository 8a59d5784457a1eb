/* The simulated kernel: a completion port, sockets with scripted clients behind them, events,
   locks, a clock, and threads that are fibers.

   Every call asserts the caller's side of the contract. What the caller has lent (OVERLAPPED until
   its packet is dequeued, receive buffers until the receive is over) is poisoned, so that
   AddressSanitizer stops whoever touches it; what is being sent is compared with what was posted.
   A handle's value is never used again, so a call on a closed one is always seen. */
#include "kernel.h"

#include <malloc.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>

#include "mstcpip.h"
#include "mswsock.h"

/* The linker sends the engine's allocations through __wrap_…; the kernel's own go past them. */
void *__real_malloc(size_t);
void *__real_calloc(size_t, size_t);
void __real_free(void *);
void *__wrap_malloc(size_t);
void *__wrap_calloc(size_t, size_t);
void __wrap_free(void *);

enum {
    MAX_FIBERS = 16,
    STACK_BYTES = 128 * 1024,
    MAX_BUFFERS = 16,
    N_EVENTS = 1000,            /* events kept for the trace */
    MAX_STEPS = 2000000,        /* a run that takes more does not come to an end */
    RECEIVE_ROOM = 8192,        /* bytes a client can be ahead of the server's receives */
    ADDRESS_BYTES = 16,
    FIRST_HANDLE = 4,
};

enum {
    STATUS_SUCCESS = 0,
    STATUS_PENDING = 0x103,
};
#define STATUS_INSUFFICIENT_RESOURCES 0xc000009au
#define STATUS_LOCAL_DISCONNECT 0xc000013bu
#define STATUS_CANCELLED 0xc0000120u
#define STATUS_CONNECTION_RESET 0xc000020du

typedef struct object object_t;
typedef struct op op_t;
typedef struct packet packet_t;

/* -- what there is ------------------------------------------------------------------------ */

enum object_kind { A_PORT, AN_EVENT, A_SOCKET };

struct object {
    enum object_kind kind;
    int handle;
    int closed;
    /* an event */
    int manual;
    int set;
    /* a socket */
    object_t *port;
    int listening;
    int in_accept;              /* lent to an AcceptEx */
    int connected;              /* it has a client… */
    int updated;                /* …and has been told so by SO_UPDATE_ACCEPT_CONTEXT */
    int client;
    int skip;
    int non_blocking;
    int linger_zero;
    int shut;                   /* SD_SEND */
    int reset;                  /* by the client */
    size_t taken;               /* bytes of the client's stream that were received */
    size_t sent;                /* bytes that were taken off senders */
    int pending_receives;
    int pending_sends;
    object_t *accept_event;
    int accept_enabled;         /* FD_ACCEPT may be told */
    int accept_told;
};

enum op_kind { AN_ACCEPT, A_RECEIVE, A_SEND };
static const char *const op_names[] = {"AcceptEx", "WSARecv", "WSASend"};

struct op {
    op_t *prev, *next;          /* in the order in which they were posted */
    enum op_kind kind;
    int number;
    object_t *sock;
    OVERLAPPED *overlapped;
    DWORD count;
    WSABUF buffers[MAX_BUFFERS];
    size_t nbytes;
    uint32_t sum;               /* of what is to be sent */
    int cancelled;
    /* AcceptEx */
    object_t *accepted;
    char *output;
    DWORD data_bytes;
    int client;                 /* who has connected to it; -1: nobody yet */
    uint64_t connected_us;
    int silenced;               /* its socket was closed under it */
};

struct packet {
    packet_t *next;
    OVERLAPPED *overlapped;
    ULONG_PTR key;
    size_t nbytes;
    int number;
};

enum client_state { NEW, IN_BACKLOG, ACCEPTED, GONE };
enum client_end { ENDS_FIN, ENDS_RESET, ENDS_NEVER };

typedef struct {
    enum client_state state;
    enum client_end end;
    object_t *sock;             /* the server's, once accepted */
    size_t to_send;
    int reads;                  /* 0: for now not; -1: never */
    int in_accept;
    sim_client_t facts;
} client_t;

enum wait_kind { READY, WAIT_LOCK, WAIT_PORT, WAIT_EVENTS, WAIT_TIME };

typedef struct {
    const char *name;
    DWORD id;
    ucontext_t context;
    char *stack;
    void *fake_stack;           /* AddressSanitizer's */
    void (*body)(void *);
    void *argument;
    int done;
    DWORD error;                /* GetLastError() */
    int locks;
    enum wait_kind wait;
    uint64_t until_us;
    SRWLOCK *lock;
    object_t *port;
    object_t *events[2];
    DWORD n_events;
} fiber_t;

typedef struct {
    uint64_t us;
    const char *fiber;
    const char *what;
    long long a, b;
} event_t;

static struct {
    uint64_t seed, state, digest;
    sim_config_t config;
    uint64_t now_us;
    int faulty, atomic;
    long steps;
    fiber_t *current;
    int n_fibers;
    object_t **objects;
    int n_objects, room_objects, n_open;
    op_t ops;                   /* the head of the list */
    packet_t *packets, **packets_tail;
    int n_packets;
    int last_number;
    client_t clients[SIM_CLIENTS];
    object_t *listener;
    long blocks;                /* allocated by the engine and not freed */
    event_t events[N_EVENTS];
    long n_events;
} sim;

static fiber_t fibers[MAX_FIBERS];      /* their stacks are kept from run to run */
static fiber_t scheduler;
static const void *scheduler_stack;
static size_t scheduler_stack_bytes;

/* -- chance, events, failing ------------------------------------------------------------- */

uint32_t sim_random(uint32_t n)
{
    uint64_t z = sim.state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (uint32_t)((z >> 33) % n);
}

static int chance(int one_in)
{
    return one_in > 0 && sim_random((uint32_t)one_in) == 0;
}

void sim_note(const char *what, long long a, long long b)
{
    event_t *event = &sim.events[sim.n_events++ % N_EVENTS];
    event->us = sim.now_us;
    event->fiber = sim.current == NULL ? "-" : sim.current->name;
    event->what = what;
    event->a = a;
    event->b = b;
    for (const char *p = what; *p != 0; p++)
        sim.digest = (sim.digest ^ (unsigned char)*p) * 0x100000001b3u;
    for (const char *p = event->fiber; *p != 0; p++)
        sim.digest = (sim.digest ^ (unsigned char)*p) * 0x100000001b3u;
    sim.digest = (sim.digest ^ sim.now_us) * 0x100000001b3u;
    sim.digest = (sim.digest ^ (uint64_t)a) * 0x100000001b3u;
    sim.digest = (sim.digest ^ (uint64_t)b) * 0x100000001b3u;
}

uint64_t sim_digest(void)
{
    return sim.digest;
}

void sim_print_events(void)
{
    long first = sim.n_events > N_EVENTS ? sim.n_events - N_EVENTS : 0;
    if (first > 0)
        printf("(%ld events before these)\n", first);
    for (long i = first; i < sim.n_events; i++) {
        const event_t *event = &sim.events[i % N_EVENTS];
        printf("%12.3f ms  %-8s %-44s %6lld %6lld\n", (double)event->us / 1000, event->fiber,
               event->what, event->a, event->b);
    }
    fflush(stdout);
}

static void tell_failure(void)
{
    sim_print_events();
    printf("seed %llu failed\n", (unsigned long long)sim.seed);
    fflush(stdout);
}

void sim_fail(const char *format, ...)
{
    va_list arguments;
    tell_failure();
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    printf("\n");
    fflush(stdout);
    _exit(1);
}

/* -- fibers ------------------------------------------------------------------------------- */

static void switch_to(fiber_t *from, fiber_t *to, const void *stack, size_t nbytes)
{
    sim.current = to == &scheduler ? NULL : to;
    __sanitizer_start_switch_fiber(&from->fake_stack, stack, nbytes);
    swapcontext(&from->context, &to->context);
    __sanitizer_finish_switch_fiber(from->fake_stack, NULL, NULL);
}

static void to_scheduler(void)
{
    switch_to(sim.current, &scheduler, scheduler_stack, scheduler_stack_bytes);
}

static void fiber_main(void)
{
    fiber_t *me = sim.current;
    __sanitizer_finish_switch_fiber(NULL, &scheduler_stack, &scheduler_stack_bytes);
    me->body(me->argument);
    if (me->locks != 0)
        sim_fail("%s has ended with a lock", me->name);
    me->done = 1;
    sim_note("thread ends", me->id, 0);
    sim.current = NULL;
    __sanitizer_start_switch_fiber(NULL, scheduler_stack, scheduler_stack_bytes);
    setcontext(&scheduler.context);
}

void sim_spawn(const char *name, void (*body)(void *), void *argument)
{
    if (sim.n_fibers == MAX_FIBERS)
        sim_fail("more than %d threads", MAX_FIBERS);
    fiber_t *fiber = &fibers[sim.n_fibers++];
    char *stack = fiber->stack;
    if (stack == NULL) {
        stack = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (stack == MAP_FAILED)
            sim_fail("no memory for a stack");
    }
    memset(fiber, 0, sizeof(*fiber));
    fiber->stack = stack;
    fiber->name = name;
    fiber->id = 100 + (DWORD)sim.n_fibers;
    fiber->body = body;
    fiber->argument = argument;
    getcontext(&fiber->context);
    fiber->context.uc_stack.ss_sp = stack;
    fiber->context.uc_stack.ss_size = STACK_BYTES;
    makecontext(&fiber->context, fiber_main, 0);
}

void sim_atomic(int on)
{
    sim.atomic += on ? 1 : -1;
}

int sim_locks(void)
{
    return sim.current->locks;
}

void sim_point(void)
{
    if (++sim.steps > MAX_STEPS)
        sim_fail("the run does not come to an end");
    if (sim.current != NULL && sim.atomic == 0 && chance(sim.config.preempt))
        to_scheduler();
}

static void wait_for(enum wait_kind wait, uint64_t until_us)
{
    fiber_t *me = sim.current;
    if (me == NULL)
        sim_fail("there is no thread that could wait");
    me->wait = wait;
    me->until_us = until_us;
    to_scheduler();
    me->wait = READY;
}

static uint64_t deadline(DWORD timeout_ms)
{
    return timeout_ms == INFINITE ? UINT64_MAX : sim.now_us + (uint64_t)timeout_ms * 1000;
}

void sim_sleep(unsigned int ms)
{
    wait_for(WAIT_TIME, deadline(ms));
}

static int fiber_ready(const fiber_t *fiber)
{
    if (fiber->done)
        return 0;
    switch (fiber->wait) {
    case READY:
        return 1;
    case WAIT_LOCK:
        return fiber->lock->holder == 0;
    case WAIT_PORT:
        if (sim.packets != NULL)
            return 1;
        break;
    case WAIT_EVENTS:
        for (DWORD i = 0; i < fiber->n_events; i++)
            if (fiber->events[i]->set)
                return 1;
        break;
    case WAIT_TIME:
        break;
    }
    return fiber->until_us <= sim.now_us;
}

/* -- memory ------------------------------------------------------------------------------- */

static int failing(const char *name)
{
    if (sim.faulty && chance(sim.config.faults)) {
        sim_note(name, -1, 0);
        return 1;
    }
    return 0;
}

void *__wrap_malloc(size_t nbytes)
{
    if (failing("malloc fails"))
        return NULL;
    void *block = __real_malloc(nbytes);
    sim.blocks += block != NULL;
    return block;
}

void *__wrap_calloc(size_t n, size_t nbytes)
{
    if (failing("calloc fails"))
        return NULL;
    void *block = __real_calloc(n, nbytes);
    sim.blocks += block != NULL;
    return block;
}

static int within(const void *block, size_t nbytes, const void *p)
{
    return (const char *)p >= (const char *)block && (const char *)p < (const char *)block + nbytes;
}

void __wrap_free(void *block)
{
    if (block == NULL)
        return;
    size_t nbytes = malloc_usable_size(block);
    for (op_t *op = sim.ops.next; op != &sim.ops; op = op->next) {
        int lent = within(block, nbytes, op->overlapped)
                   || (op->output != NULL && within(block, nbytes, op->output));
        for (DWORD i = 0; i < op->count; i++)
            lent |= op->buffers[i].len > 0 && within(block, nbytes, op->buffers[i].buf);
        if (lent)
            sim_fail("memory is freed that %s #%d has", op_names[op->kind], op->number);
    }
    for (packet_t *packet = sim.packets; packet != NULL; packet = packet->next)
        if (within(block, nbytes, packet->overlapped))
            sim_fail("the OVERLAPPED of packet #%d is freed", packet->number);
    sim.blocks--;
    __real_free(block);
}

static void lend(const void *p, size_t nbytes)
{
    __asan_poison_memory_region(p, nbytes);
}

static void give_back(const void *p, size_t nbytes)
{
    __asan_unpoison_memory_region(p, nbytes);
}

/* -- handles ------------------------------------------------------------------------------ */

static object_t *new_object(enum object_kind kind)
{
    if (sim.n_objects == sim.room_objects) {
        sim.room_objects = sim.room_objects * 2 + 64;
        object_t **more = __real_calloc((size_t)sim.room_objects, sizeof(*more));
        if (sim.n_objects > 0)
            memcpy(more, sim.objects, (size_t)sim.n_objects * sizeof(*more));
        __real_free(sim.objects);
        sim.objects = more;
    }
    object_t *object = __real_calloc(1, sizeof(*object));
    object->kind = kind;
    object->client = -1;
    object->handle = FIRST_HANDLE * (sim.n_objects + 1);
    sim.objects[sim.n_objects++] = object;
    sim.n_open++;
    return object;
}

static object_t *get(uintptr_t handle, enum object_kind kind, const char *call)
{
    if (handle % FIRST_HANDLE != 0 || handle < FIRST_HANDLE
        || handle / FIRST_HANDLE > (uintptr_t)sim.n_objects)
        sim_fail("%s: %lld is no handle", call, (long long)handle);
    object_t *object = sim.objects[handle / FIRST_HANDLE - 1];
    if (object->closed)
        sim_fail("%s: handle %lld is closed", call, (long long)handle);
    if (object->kind != kind)
        sim_fail("%s: handle %lld is something else", call, (long long)handle);
    return object;
}

static object_t *sock_of(SOCKET s, const char *call)
{
    return get(s, A_SOCKET, call);
}

static void close_object(object_t *object)
{
    object->closed = 1;
    sim.n_open--;
    sim_note("handle closed", object->handle, object->client);
}

static BOOL error_is(DWORD error)
{
    if (sim.current != NULL)
        sim.current->error = error;
    else
        scheduler.error = error;
    return 0;
}

static int sock_error(DWORD error)
{
    error_is(error);
    return SOCKET_ERROR;
}

DWORD GetLastError(void)
{
    return sim.current != NULL ? sim.current->error : scheduler.error;
}

int WSAGetLastError(void)
{
    return (int)GetLastError();
}

DWORD GetCurrentThreadId(void)
{
    return sim.current != NULL ? sim.current->id : 1;
}

/* -- packets and operations --------------------------------------------------------------- */

static void check_unused(const OVERLAPPED *overlapped, const char *call)
{
    for (op_t *op = sim.ops.next; op != &sim.ops; op = op->next)
        if (op->overlapped == overlapped)
            sim_fail("%s: its OVERLAPPED is that of %s #%d, which is pending", call,
                     op_names[op->kind], op->number);
    for (packet_t *packet = sim.packets; packet != NULL; packet = packet->next)
        if (packet->overlapped == overlapped)
            sim_fail("%s: its OVERLAPPED is that of packet #%d, which nobody has dequeued", call,
                     packet->number);
}

static void queue_packet(OVERLAPPED *overlapped, ULONG_PTR key, size_t nbytes, int number)
{
    packet_t *packet = __real_calloc(1, sizeof(*packet));
    packet->overlapped = overlapped;
    packet->key = key;
    packet->nbytes = nbytes;
    packet->number = number;
    *sim.packets_tail = packet;
    sim.packets_tail = &packet->next;
    sim.n_packets++;
    lend(overlapped, sizeof(*overlapped));
}

static op_t *new_op(enum op_kind kind, object_t *sock, OVERLAPPED *overlapped)
{
    op_t *op = __real_calloc(1, sizeof(*op));
    op->kind = kind;
    op->number = ++sim.last_number;
    op->sock = sock;
    op->overlapped = overlapped;
    op->client = -1;
    return op;
}

/* From here on it is pending. */
static void lend_op(op_t *op)
{
    op->prev = sim.ops.prev;
    op->next = &sim.ops;
    op->prev->next = op;
    sim.ops.prev = op;
    op->overlapped->Internal = STATUS_PENDING;
    lend(op->overlapped, sizeof(OVERLAPPED));
    if (op->kind == A_RECEIVE) {
        op->sock->pending_receives++;
        for (DWORD i = 0; i < op->count; i++)
            lend(op->buffers[i].buf, op->buffers[i].len);
    } else if (op->kind == A_SEND) {
        op->sock->pending_sends++;
    }
    sim_note(op_names[op->kind], op->number, op->sock->handle);
}

static void take_op_back(op_t *op)
{
    op->prev->next = op->next;
    op->next->prev = op->prev;
    give_back(op->overlapped, sizeof(OVERLAPPED));
    if (op->kind == A_RECEIVE) {
        op->sock->pending_receives--;
        for (DWORD i = 0; i < op->count; i++)
            give_back(op->buffers[i].buf, op->buffers[i].len);
    } else if (op->kind == A_SEND) {
        op->sock->pending_sends--;
    } else {
        give_back(op->output, op->data_bytes);
    }
}

static void complete(op_t *op, DWORD status, size_t nbytes)
{
    take_op_back(op);
    op->overlapped->Internal = status;
    op->overlapped->InternalHigh = nbytes;
    sim_note(status == STATUS_SUCCESS ? "completes, bytes" : "completes, status", op->number,
             status == STATUS_SUCCESS ? (long long)nbytes : (long long)status);
    queue_packet(op->overlapped, 0x696f6370, nbytes, op->number);
    if (op->kind == AN_ACCEPT && op->accepted != NULL)
        op->accepted->in_accept = 0;
    __real_free(op);
}

static uint32_t sum_of(const op_t *op)
{
    uint32_t sum = 2166136261u;
    for (DWORD i = 0; i < op->count; i++)
        for (ULONG j = 0; j < op->buffers[i].len; j++)
            sum = (sum ^ (unsigned char)op->buffers[i].buf[j]) * 16777619u;
    return sum;
}

/* -- the streams -------------------------------------------------------------------------- */

unsigned char sim_byte(int client, size_t at)
{
    return (unsigned char)((size_t)client * 151 + at * 7 + (at >> 6) * 13);
}

static size_t available(const object_t *sock)
{
    return sim.clients[sock->client].facts.sent - sock->taken;
}

static int at_end(const object_t *sock)
{
    return sim.clients[sock->client].facts.ended && available(sock) == 0;
}

static size_t room(const object_t *sock)
{
    size_t used = sock->sent - sim.clients[sock->client].facts.received;
    return used < sim.config.send_room ? sim.config.send_room - used : 0;
}

static size_t fill(object_t *sock, const WSABUF *buffers, DWORD count)
{
    size_t done = 0;
    for (DWORD i = 0; i < count; i++)
        for (ULONG j = 0; j < buffers[i].len && available(sock) > 0; j++, done++)
            buffers[i].buf[j] = (char)sim_byte(sock->client, sock->taken++);
    return done;
}

static void take(object_t *sock, const WSABUF *buffers, DWORD count, size_t nbytes)
{
    for (DWORD i = 0; i < count; i++)
        for (ULONG j = 0; j < buffers[i].len && nbytes > 0; j++, nbytes--, sock->sent++)
            if ((unsigned char)buffers[i].buf[j] != sim_byte(sock->client, sock->sent))
                sim_fail("client %d is sent a wrong byte at %zu", sock->client, sock->sent);
}

static op_t *first_of(const object_t *sock, enum op_kind kind)
{
    for (op_t *op = sim.ops.next; op != &sim.ops; op = op->next)
        if (op->sock == sock && op->kind == kind)
            return op;
    return NULL;
}

/* -- what completes by itself -------------------------------------------------------------- */

static void match_backlog(void);

static int client_speaks(const op_t *op)
{
    const client_t *client = &sim.clients[op->client];
    return op->data_bytes == 0 || client->facts.sent > 0 || client->facts.ended
           || client->facts.reset;
}

static int accept_ready(const op_t *op)
{
    return op->cancelled || op->silenced || (op->client >= 0 && client_speaks(op));
}

static int op_ready(const op_t *op)
{
    object_t *sock = op->sock;
    if (op->kind == AN_ACCEPT)
        return accept_ready(op);
    if (op->cancelled || sock->reset)
        return 1;
    // One after the other, in the order in which they were posted.
    if (first_of(sock, op->kind) != op)
        return 0;
    if (op->kind == A_RECEIVE)
        return available(sock) > 0 || at_end(sock);
    return room(sock) >= op->nbytes || room(sock) == sim.config.send_room;
}

static void put_address(char *at, int client)
{
    memset(at, 0, 144);
    at[0] = AF_INET;
    at[4] = (char)(client + 1);
    at[ADDRESS_BYTES] = 0x55;       // beyond what is copied of it
}

static void run_accept(op_t *op)
{
    client_t *client = op->client < 0 ? NULL : &sim.clients[op->client];
    int in_time = client != NULL && !op->silenced && client_speaks(op);
    if (op->silenced || (op->cancelled && (!in_time || sim_random(2)))) {
        DWORD status = op->silenced ? STATUS_LOCAL_DISCONNECT : STATUS_CANCELLED;
        if (client != NULL && op->data_bytes == 0) {
            client->in_accept = 0;      // back into the backlog
        } else if (client != NULL) {
            client->state = GONE;
            client->facts.reset = 1;
        }
        complete(op, status, 0);
        match_backlog();
        return;
    }
    // A reset is told here, or by the first operation on the socket.
    if (client->facts.reset && sim_random(2)) {
        client->state = GONE;
        complete(op, STATUS_CONNECTION_RESET, 0);
        return;
    }
    object_t *sock = op->accepted;
    size_t nbytes = 0;
    sock->connected = 1;
    sock->client = op->client;
    sock->reset = client->facts.reset;
    client->sock = sock;
    client->state = client->facts.reset ? GONE : ACCEPTED;
    client->facts.connected = 1;
    char *output = op->output;
    DWORD data_bytes = op->data_bytes;
    give_back(output, data_bytes);
    if (data_bytes > 0) {
        WSABUF buffer = {data_bytes, output};
        nbytes = fill(sock, &buffer, 1);
    }
    put_address(output + data_bytes, 100);
    put_address(output + data_bytes + 144, sock->client);
    sim_note("accepted", sock->handle, sock->client);
    complete(op, STATUS_SUCCESS, nbytes);
}

static void run_op(op_t *op)
{
    object_t *sock = op->sock;
    if (op->kind == AN_ACCEPT) {
        run_accept(op);
    } else if (op->kind == A_RECEIVE) {
        // A cancelled one may have been about to complete with what is there.
        int in_time = first_of(sock, A_RECEIVE) == op && available(sock) > 0 && !sock->reset;
        if (op->cancelled && (!in_time || sim_random(2))) {
            complete(op, STATUS_CANCELLED, 0);
        } else if (sock->reset) {
            complete(op, STATUS_CONNECTION_RESET, 0);
        } else {
            for (DWORD i = 0; i < op->count; i++)
                give_back(op->buffers[i].buf, op->buffers[i].len);
            complete(op, STATUS_SUCCESS, fill(sock, op->buffers, op->count));
        }
    } else {
        if (sum_of(op) != op->sum)
            sim_fail("what WSASend #%d sends has been changed", op->number);
        if (op->cancelled && sim_random(2)) {
            complete(op, STATUS_CANCELLED, 0);
        } else if (sock->reset) {
            complete(op, STATUS_CONNECTION_RESET, 0);
        } else {
            size_t nbytes = op->nbytes;
            if (nbytes > 1 && chance(sim.config.shorts))
                nbytes = 1 + sim_random((uint32_t)nbytes - 1);
            take(sock, op->buffers, op->count, nbytes);
            complete(op, STATUS_SUCCESS, nbytes);
        }
    }
}

/* -- clients ------------------------------------------------------------------------------ */

static void tell_accept(object_t *listener)
{
    if (listener->accept_event == NULL || !listener->accept_enabled)
        return;
    for (op_t *op = sim.ops.next; op != &sim.ops; op = op->next)
        if (op->kind == AN_ACCEPT && op->client < 0 && !op->cancelled)
            return;
    for (int i = 0; i < sim.config.clients; i++)
        if (sim.clients[i].state == IN_BACKLOG && !sim.clients[i].in_accept) {
            listener->accept_enabled = 0;
            listener->accept_told = 1;
            listener->accept_event->set = 1;
            sim_note("FD_ACCEPT", listener->handle, 0);
            return;
        }
}

/* Clients of the backlog meet the AcceptEx that wait for them. */
static void match_backlog(void)
{
    for (int i = 0; i < sim.config.clients; i++) {
        client_t *client = &sim.clients[i];
        if (client->state != IN_BACKLOG || client->in_accept)
            continue;
        for (op_t *op = sim.ops.next; op != &sim.ops; op = op->next)
            if (op->kind == AN_ACCEPT && op->client < 0 && !op->cancelled && !op->silenced) {
                op->client = i;
                op->connected_us = sim.now_us;
                client->in_accept = 1;
                break;
            }
    }
    tell_accept(sim.listener);
}

enum client_step { NOTHING, CONNECT, SEND, END, READ, RESET, LEAVE, CHANGE };

/* What a client can do now; of several, one at random. */
static enum client_step client_next(const client_t *client)
{
    enum client_step steps[8];
    uint32_t n = 0;
    const object_t *sock = client->sock;
    if (client->state == GONE)
        return NOTHING;
    if (client->state == NEW)
        return CONNECT;
    if (client->to_send > 0 && (sock == NULL ? client->facts.sent == 0
                                : client->facts.sent - sock->taken < RECEIVE_ROOM))
        steps[n++] = SEND;
    if (client->to_send == 0 && !client->facts.ended && client->end == ENDS_FIN)
        steps[n++] = END;
    if (sock != NULL && sock->sent > client->facts.received && client->reads == 1)
        steps[n++] = READ;
    if (sock != NULL && sock->sent == client->facts.received && !client->facts.saw_end
        && (sock->shut || sock->closed))
        steps[n++] = LEAVE;
    if (sock != NULL && sock->sent > client->facts.received && client->reads == 0)
        steps[n++] = CHANGE;
    if (client->end == ENDS_RESET && (n == 0 || chance(sim.config.resets)))
        return RESET;
    return n == 0 ? NOTHING : steps[n == 1 ? 0 : sim_random(n)];
}

static void client_reset(client_t *client)
{
    client->facts.reset = 1;
    if (client->sock != NULL) {
        client->sock->reset = 1;
        client->state = GONE;
    } else if (!client->in_accept) {
        client->state = GONE;       // it vanishes from the backlog
    }
}

static void client_act(int number, enum client_step step)
{
    client_t *client = &sim.clients[number];
    size_t n;
    switch (step) {
    case NOTHING:
        break;
    case CONNECT:
        if (sim.listener->closed) {
            client->state = GONE;
            break;
        }
        sim_note("client connects", number, 0);
        client->state = IN_BACKLOG;
        match_backlog();
        break;
    case SEND:
        n = 1 + sim_random(client->to_send < 700 ? (uint32_t)client->to_send : 700);
        client->to_send -= n;
        if (client->sock != NULL && client->sock->closed) {
            sim_note("client sends to nobody", number, 0);
            client_reset(client);
            break;
        }
        client->facts.sent += n;
        sim_note("client sends", number, (long long)n);
        break;
    case END:
        client->facts.ended = 1;
        sim_note("client ends", number, (long long)client->facts.sent);
        break;
    case READ:
        n = client->sock->sent - client->facts.received;
        if (n > 1 && sim_random(2))
            n = 1 + sim_random((uint32_t)n);
        client->facts.received += n;
        sim_note("client reads", number, (long long)n);
        if (sim_random(32) == 0)
            client->reads = 0;
        break;
    case RESET:
        sim_note("client resets", number, 0);
        client_reset(client);
        break;
    case LEAVE:
        client->facts.saw_end = 1;
        sim_note("client sees the end", number, (long long)client->facts.received);
        if (client->end != ENDS_NEVER && !client->facts.ended) {
            // It has not sent all, and nobody would read it.
            client->to_send = 0;
            client->facts.ended = 1;
        }
        if (client->sock->closed)
            client->state = GONE;
        break;
    case CHANGE:
        client->reads = 1;
        sim_note("client reads again", number, 0);
        break;
    }
}

/* The server has closed its end. */
static void client_left_alone(object_t *sock)
{
    client_t *client = &sim.clients[sock->client];
    if (client->state == GONE)
        return;
    if (sock->linger_zero || available(sock) > 0) {
        client->facts.reset = 1;
        client->state = GONE;
        sim_note("client is reset", sock->client, 0);
    } else if (client->facts.saw_end) {
        client->state = GONE;
    } else if (client->reads == -1) {
        client->state = GONE;
    }
}

void sim_client(int client, sim_client_t *out)
{
    *out = sim.clients[client].facts;
}

/* -- the scheduler ------------------------------------------------------------------------ */

static int everyone_done(void)
{
    for (int i = 0; i < sim.n_fibers; i++)
        if (!fibers[i].done)
            return 0;
    return 1;
}

static uint64_t next_deadline(void)
{
    uint64_t first = UINT64_MAX;
    for (int i = 0; i < sim.n_fibers; i++)
        if (!fibers[i].done && fibers[i].wait != READY && fibers[i].wait != WAIT_LOCK
            && fibers[i].until_us < first)
            first = fibers[i].until_us;
    return first;
}

static int choose(void **what, int *kind)
{
    static void *things[256];
    static int kinds[256];
    int n = 0;
    for (int i = 0; i < sim.n_fibers; i++)
        if (fiber_ready(&fibers[i])) {
            things[n] = &fibers[i];
            kinds[n++] = 0;
        }
    for (op_t *op = sim.ops.next; op != &sim.ops && n < 200; op = op->next)
        if (op_ready(op)) {
            things[n] = op;
            kinds[n++] = 1;
        }
    for (int i = 0; i < sim.config.clients; i++) {
        enum client_step step = client_next(&sim.clients[i]);
        if (step != NOTHING) {
            things[n] = &sim.clients[i];
            kinds[n++] = 2 + (int)step;
        }
    }
    if (n == 0)
        return 0;
    int chosen = (int)sim_random((uint32_t)n);
    *what = things[chosen];
    *kind = kinds[chosen];
    return 1;
}

void sim_run(void)
{
    void *what;
    int kind;
    for (;;) {
        if (++sim.steps > MAX_STEPS)
            sim_fail("the run does not come to an end");
        sim.now_us++;
        if (sim_random(64) == 0)
            sim.now_us += 1u << sim_random(17);
        if (!choose(&what, &kind)) {
            if (everyone_done())
                return;
            uint64_t next = next_deadline();
            if (next == UINT64_MAX) {
                for (int i = 0; i < sim.n_fibers; i++)
                    if (!fibers[i].done)
                        printf("%s waits: %d\n", fibers[i].name, (int)fibers[i].wait);
                sim_fail("nothing can happen any more, and threads wait");
            }
            sim.now_us = next;
        } else if (kind == 0) {
            fiber_t *fiber = what;
            switch_to(&scheduler, fiber, fiber->stack, STACK_BYTES);
        } else if (kind == 1) {
            run_op(what);
        } else {
            client_act((int)((client_t *)what - sim.clients), (enum client_step)(kind - 2));
        }
    }
}

void sim_begin(uint64_t seed)
{
    static int prepared;
    if (!prepared)
        __sanitizer_set_death_callback(tell_failure);
    prepared = 1;
    memset(&sim, 0, sizeof(sim));
    sim.seed = seed;
    sim.state = seed * 0xd1342543de82ef95u + 1;
    sim.digest = 0xcbf29ce484222325u;
    sim.ops.prev = sim.ops.next = &sim.ops;
    sim.packets_tail = &sim.packets;
    sim.now_us = 1000000;
}

void sim_configure(const sim_config_t *config)
{
    sim.config = *config;
    for (int i = 0; i < config->clients; i++) {
        client_t *client = &sim.clients[i];
        client->to_send = sim_random(4) == 0 ? 0 : sim_random((uint32_t)config->bytes + 1);
        client->end = sim_random(8) == 0 ? ENDS_NEVER : ENDS_FIN;
        if (config->resets != 0 && sim_random(3) == 0)
            client->end = ENDS_RESET;
        client->reads = sim_random(10) == 0 ? -1 : 1;
    }
}

void sim_faults(int on)
{
    sim.faulty = on;
}

void sim_end(void)
{
    if (sim.ops.next != &sim.ops)
        sim_fail("%s #%d is still pending", op_names[sim.ops.next->kind], sim.ops.next->number);
    if (sim.packets != NULL)
        sim_fail("packet #%d was never dequeued", sim.packets->number);
    for (int i = 0; i < sim.n_objects; i++) {
        if (!sim.objects[i]->closed)
            sim_fail("handle %d is still open", sim.objects[i]->handle);
        __real_free(sim.objects[i]);
    }
    __real_free(sim.objects);
    sim.objects = NULL;
    sim.n_objects = sim.room_objects = 0;
    if (sim.blocks != 0)
        sim_fail("%ld blocks of memory were not freed", sim.blocks);
}

/* -- locks and atomics -------------------------------------------------------------------- */

void InitializeSRWLock(SRWLOCK *lock)
{
    lock->holder = 0;
}

void AcquireSRWLockExclusive(SRWLOCK *lock)
{
    sim_point();
    if (lock->holder == GetCurrentThreadId())
        sim_fail("a lock is taken twice");
    while (lock->holder != 0) {
        if (sim.current == NULL || sim.atomic != 0)
            sim_fail("a lock is taken that a thread has");
        sim.current->lock = lock;
        wait_for(WAIT_LOCK, UINT64_MAX);
    }
    lock->holder = GetCurrentThreadId();
    if (sim.current != NULL)
        sim.current->locks++;
}

void ReleaseSRWLockExclusive(SRWLOCK *lock)
{
    if (lock->holder != GetCurrentThreadId())
        sim_fail("a lock is released that another thread has, or nobody");
    lock->holder = 0;
    if (sim.current != NULL)
        sim.current->locks--;
    sim_point();
}

LONG InterlockedIncrement(LONG *value)
{
    sim_point();
    return ++*value;
}

LONG InterlockedDecrement(LONG *value)
{
    sim_point();
    return --*value;
}

LONG InterlockedExchange(LONG *value, LONG other)
{
    LONG old = *value;
    *value = other;
    return old;
}

LONG InterlockedExchangeAdd(LONG *value, LONG by)
{
    LONG old = *value;
    *value += by;
    return old;
}

LONG64 InterlockedExchangeAdd64(LONG64 *value, LONG64 by)
{
    LONG64 old = *value;
    *value += by;
    return old;
}

/* -- events, time ------------------------------------------------------------------------- */

BOOL QueryPerformanceCounter(LARGE_INTEGER *count)
{
    count->QuadPart = (LONG64)sim.now_us * 10;
    return 1;
}

BOOL QueryPerformanceFrequency(LARGE_INTEGER *frequency)
{
    frequency->QuadPart = 10000000;
    return 1;
}

HANDLE CreateEventW(void *attributes, BOOL manual, BOOL initial, void *name)
{
    (void)attributes;
    (void)name;
    if (failing("CreateEventW fails")) {
        error_is(ERROR_NO_SYSTEM_RESOURCES);
        return NULL;
    }
    object_t *event = new_object(AN_EVENT);
    event->manual = manual;
    event->set = initial;
    return (HANDLE)(uintptr_t)event->handle;
}

BOOL SetEvent(HANDLE handle)
{
    object_t *event = get((uintptr_t)handle, AN_EVENT, "SetEvent");
    event->set = 1;
    sim_point();
    return 1;
}

DWORD WaitForMultipleObjects(DWORD count, const HANDLE *handles, BOOL all, DWORD timeout_ms)
{
    uint64_t until_us = deadline(timeout_ms);
    object_t *events[2];
    if (count < 1 || count > 2 || all)
        sim_fail("WaitForMultipleObjects: not simulated");
    for (DWORD i = 0; i < count; i++)
        events[i] = get((uintptr_t)handles[i], AN_EVENT, "WaitForMultipleObjects");
    if (sim.current != NULL && sim.current->locks != 0)
        sim_fail("a thread waits for an event with a lock");
    sim_point();
    for (;;) {
        for (DWORD i = 0; i < count; i++)
            if (events[i]->set) {
                events[i]->set = events[i]->manual;
                return WAIT_OBJECT_0 + i;
            }
        if (until_us <= sim.now_us)
            return WAIT_TIMEOUT;
        sim.current->n_events = count;
        memcpy(sim.current->events, events, sizeof(events));
        wait_for(WAIT_EVENTS, until_us);
    }
}

DWORD WaitForSingleObject(HANDLE handle, DWORD timeout_ms)
{
    return WaitForMultipleObjects(1, &handle, 0, timeout_ms);
}

BOOL CloseHandle(HANDLE handle)
{
    uintptr_t number = (uintptr_t)handle;
    if (number >= FIRST_HANDLE && number / FIRST_HANDLE <= (uintptr_t)sim.n_objects
        && sim.objects[number / FIRST_HANDLE - 1]->kind == A_SOCKET)
        sim_fail("CloseHandle: %lld is a socket", (long long)number);
    enum object_kind kind = number / FIRST_HANDLE <= (uintptr_t)sim.n_objects
                            && number >= FIRST_HANDLE
        ? sim.objects[number / FIRST_HANDLE - 1]->kind : AN_EVENT;
    close_object(get(number, kind, "CloseHandle"));
    return 1;
}

/* -- the port ----------------------------------------------------------------------------- */

HANDLE CreateIoCompletionPort(HANDLE file, HANDLE port, ULONG_PTR key, DWORD threads)
{
    (void)threads;
    (void)key;
    if (failing("CreateIoCompletionPort fails")) {
        error_is(ERROR_NO_SYSTEM_RESOURCES);
        return NULL;
    }
    if (file == INVALID_HANDLE_VALUE)
        return (HANDLE)(uintptr_t)new_object(A_PORT)->handle;
    object_t *sock = sock_of((SOCKET)file, "CreateIoCompletionPort");
    object_t *to = get((uintptr_t)port, A_PORT, "CreateIoCompletionPort");
    if (sock->port != NULL)
        sim_fail("handle %d is on a port already", sock->handle);
    sock->port = to;
    return port;
}

BOOL SetFileCompletionNotificationModes(HANDLE file, UCHAR flags)
{
    object_t *sock = sock_of((SOCKET)file, "SetFileCompletionNotificationModes");
    if (failing("SetFileCompletionNotificationModes fails"))
        return error_is(ERROR_INVALID_PARAMETER);
    sock->skip = (flags & FILE_SKIP_COMPLETION_PORT_ON_SUCCESS) != 0;
    return 1;
}

BOOL PostQueuedCompletionStatus(HANDLE handle, DWORD nbytes, ULONG_PTR key, OVERLAPPED *overlapped)
{
    get((uintptr_t)handle, A_PORT, "PostQueuedCompletionStatus");
    sim_point();
    check_unused(overlapped, "PostQueuedCompletionStatus");
    if (failing("PostQueuedCompletionStatus fails"))
        return error_is(ERROR_NO_SYSTEM_RESOURCES);
    sim_note("packet posted", ++sim.last_number, 0);
    queue_packet(overlapped, key, nbytes, sim.last_number);
    sim_point();
    return 1;
}

BOOL GetQueuedCompletionStatusEx(HANDLE handle, OVERLAPPED_ENTRY *entries, ULONG count,
                                 ULONG *removed, DWORD timeout_ms, BOOL alertable)
{
    uint64_t until_us = deadline(timeout_ms);
    get((uintptr_t)handle, A_PORT, "GetQueuedCompletionStatusEx");
    if (alertable)
        sim_fail("GetQueuedCompletionStatusEx: alertable waits are not simulated");
    if (sim.current != NULL && sim.current->locks != 0)
        sim_fail("a thread waits for the port with a lock");
    sim_point();
    while (sim.packets == NULL) {
        if (until_us <= sim.now_us) {
            *removed = 1;
            return error_is(WAIT_TIMEOUT);
        }
        wait_for(WAIT_PORT, until_us);
    }
    ULONG n = 1 + sim_random(count);
    for (*removed = 0; *removed < n && sim.packets != NULL; ++*removed) {
        packet_t **at = &sim.packets;
        for (uint32_t skip = sim_random((uint32_t)sim.n_packets); skip > 0; skip--)
            at = &(*at)->next;
        packet_t *packet = *at;
        *at = packet->next;
        if (packet->next == NULL)
            sim.packets_tail = at;
        sim.n_packets--;
        give_back(packet->overlapped, sizeof(OVERLAPPED));
        OVERLAPPED_ENTRY *entry = &entries[*removed];
        entry->lpCompletionKey = packet->key;
        entry->lpOverlapped = packet->overlapped;
        entry->Internal = 0x5555;
        entry->dwNumberOfBytesTransferred = (DWORD)packet->nbytes;
        sim_note("packet dequeued", packet->number, 0);
        __real_free(packet);
    }
    sim_point();
    return 1;
}

BOOL CancelIoEx(HANDLE file, OVERLAPPED *overlapped)
{
    object_t *sock = sock_of((SOCKET)file, "CancelIoEx");
    int found = 0;
    for (op_t *op = sim.ops.next, *next; op != &sim.ops; op = next) {
        next = op->next;
        if (op->sock != sock || (overlapped != NULL && op->overlapped != overlapped))
            continue;
        found = 1;
        sim_note("cancel", op->number, sock->handle);
        op->cancelled = 1;
        if (sim_random(2))
            run_op(op);
    }
    sim_point();
    return found ? 1 : error_is(ERROR_NOT_FOUND);
}

/* -- sockets ------------------------------------------------------------------------------ */

SOCKET WSASocketW(int af, int type, int protocol, void *info, GROUP group, DWORD flags)
{
    (void)info;
    (void)group;
    if (af != AF_INET || type != SOCK_STREAM || protocol != IPPROTO_TCP
        || flags != (WSA_FLAG_OVERLAPPED | WSA_FLAG_NO_HANDLE_INHERIT))
        sim_fail("WSASocketW: not simulated");
    if (failing("WSASocketW fails")) {
        error_is(sim_random(2) ? WSAENOBUFS : WSAEMFILE);
        return INVALID_SOCKET;
    }
    return (SOCKET)new_object(A_SOCKET)->handle;
}

SOCKET sim_listen(void)
{
    object_t *sock = new_object(A_SOCKET);
    sock->listening = 1;
    sim.listener = sock;
    return (SOCKET)sock->handle;
}

int closesocket(SOCKET s)
{
    object_t *sock = sock_of(s, "closesocket");
    sim_point();
    for (op_t *op = sim.ops.next; op != &sim.ops; op = op->next) {
        if (op->sock == sock)
            sim_fail("handle %d is closed while %s #%d is pending", sock->handle,
                     op_names[op->kind], op->number);
        if (op->kind == AN_ACCEPT && op->accepted == sock) {
            op->silenced = 1;
            op->accepted = NULL;
        }
    }
    close_object(sock);
    if (sock->connected)
        client_left_alone(sock);
    if (sock->listening)
        for (int i = 0; i < sim.config.clients; i++)
            if (sim.clients[i].state == IN_BACKLOG) {
                sim.clients[i].state = GONE;
                sim.clients[i].facts.reset = 1;
            }
    sim_point();
    return 0;
}

int shutdown(SOCKET s, int how)
{
    object_t *sock = sock_of(s, "shutdown");
    sim_point();
    if (how != SD_SEND)
        sim_fail("shutdown: only SD_SEND is simulated");
    if (!sock->updated)
        sim_fail("shutdown of handle %d, which does not know that it is connected", sock->handle);
    if (sock->pending_sends > 0)
        sim_fail("SD_SEND on handle %d before all is sent", sock->handle);
    if (failing("shutdown fails"))
        return sock_error(WSAENOBUFS);
    if (sock->reset && sim_random(2))
        return sock_error(WSAECONNRESET);
    sock->shut = 1;
    sim_note("SD_SEND", sock->handle, sock->client);
    return 0;
}

int setsockopt(SOCKET s, int level, int name, const char *value, int length)
{
    object_t *sock = sock_of(s, "setsockopt");
    if (failing("setsockopt fails")) {
        if (name == SO_LINGER && sock->connected)
            sim.clients[sock->client].facts.unreset = 1;
        return sock_error(WSAENOBUFS);
    }
    if (level == IPPROTO_TCP && name == TCP_NODELAY)
        return 0;
    if (level == SOL_SOCKET && name == SO_LINGER) {
        const struct linger *linger = (const struct linger *)value;
        if (length != sizeof(*linger))
            sim_fail("SO_LINGER: %d bytes", length);
        sock->linger_zero = linger->l_onoff && linger->l_linger == 0;
        return 0;
    }
    if (level == SOL_SOCKET && name == SO_UPDATE_ACCEPT_CONTEXT) {
        SOCKET listener;
        memcpy(&listener, value, sizeof(listener));
        sock_of(listener, "SO_UPDATE_ACCEPT_CONTEXT");
        if (!sock->connected)
            sim_fail("SO_UPDATE_ACCEPT_CONTEXT on handle %d without a client", sock->handle);
        if (sock->reset && sim_random(4) == 0)
            return sock_error(WSAENOTCONN);
        sock->updated = 1;
        return 0;
    }
    sim_fail("setsockopt: option %d is not simulated", name);
}

int getsockopt(SOCKET s, int level, int name, char *value, int *length)
{
    object_t *sock = sock_of(s, "getsockopt");
    if (failing("getsockopt fails"))
        return sock_error(WSAENOBUFS);
    DWORD answer;
    if (level == SOL_SOCKET && name == SO_PROTOCOL_INFOW) {
        answer = sim.config.skips ? XP1_IFS_HANDLES : 0;
    } else if (level == SOL_SOCKET && name == SO_ACCEPTCONN) {
        answer = (DWORD)sock->listening;
    } else if (level == SOL_SOCKET && name == SO_CONNECT_TIME) {
        answer = (DWORD)-1;
        for (op_t *op = sim.ops.next; op != &sim.ops; op = op->next)
            if (op->kind == AN_ACCEPT && op->accepted == sock && op->client >= 0)
                answer = (DWORD)((sim.now_us - op->connected_us) / 1000000);
    } else {
        sim_fail("getsockopt: option %d is not simulated", name);
    }
    if (*length < (int)sizeof(answer))
        sim_fail("getsockopt: %d bytes", *length);
    memcpy(value, &answer, sizeof(answer));
    return 0;
}

int ioctlsocket(SOCKET s, long command, ULONG *argument)
{
    object_t *sock = sock_of(s, "ioctlsocket");
    if (command != FIONBIO)
        sim_fail("ioctlsocket: only FIONBIO is simulated");
    sock->non_blocking = *argument != 0;
    return 0;
}

int WSAEventSelect(SOCKET s, HANDLE event, long events)
{
    object_t *sock = sock_of(s, "WSAEventSelect");
    if (events != FD_ACCEPT)
        sim_fail("WSAEventSelect: only FD_ACCEPT is simulated");
    if (failing("WSAEventSelect fails"))
        return sock_error(WSAENOBUFS);
    sock->accept_event = get((uintptr_t)event, AN_EVENT, "WSAEventSelect");
    sock->accept_enabled = 1;
    tell_accept(sock);
    return 0;
}

int WSAEnumNetworkEvents(SOCKET s, HANDLE event, WSANETWORKEVENTS *events)
{
    object_t *sock = sock_of(s, "WSAEnumNetworkEvents");
    (void)event;
    memset(events, 0, sizeof(*events));
    if (failing("WSAEnumNetworkEvents fails"))
        return sock_error(WSAENETDOWN);
    if (sock->accept_told)
        events->lNetworkEvents = FD_ACCEPT;
    sock->accept_told = 0;
    return 0;
}

static BOOL accept_ex(SOCKET s, SOCKET accept, void *output, DWORD data_bytes, DWORD local_bytes,
                      DWORD remote_bytes, DWORD *received, OVERLAPPED *overlapped)
{
    object_t *listener = sock_of(s, "AcceptEx");
    object_t *sock = sock_of(accept, "AcceptEx");
    sim_point();
    (void)received;
    check_unused(overlapped, "AcceptEx");
    if (!listener->listening || listener->port == NULL)
        sim_fail("AcceptEx: handle %d does not listen on a port", listener->handle);
    if (sock->in_accept || sock->connected || sock->port != NULL)
        sim_fail("AcceptEx: handle %d is not fresh", sock->handle);
    if (local_bytes != 144 || remote_bytes != 144)
        sim_fail("AcceptEx: %u and %u bytes for addresses", local_bytes, remote_bytes);
    if (failing("AcceptEx fails"))
        return error_is(sim_random(2) ? WSAENOBUFS : WSAECONNRESET);
    op_t *op = new_op(AN_ACCEPT, listener, overlapped);
    op->accepted = sock;
    op->output = output;
    op->data_bytes = data_bytes;
    sock->in_accept = 1;
    lend_op(op);
    lend(output, data_bytes);
    listener->accept_enabled = 1;
    match_backlog();
    // Inline: a packet follows all the same, since listeners do not skip.
    BOOL at_once = accept_ready(op) && !sim.clients[op->client].facts.reset && sim_random(2);
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
    *local_length = *remote_length = ADDRESS_BYTES;
}

int WSAIoctl(SOCKET s, DWORD code, void *in, DWORD in_bytes, void *out, DWORD out_bytes,
             DWORD *returned, OVERLAPPED *overlapped, void *routine)
{
    sock_of(s, "WSAIoctl");
    (void)routine;
    if (overlapped != NULL)
        sim_fail("WSAIoctl: not simulated overlapped");
    if (failing("WSAIoctl fails"))
        return sock_error(WSAENOBUFS);
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

static void copy_buffers(op_t *op, const WSABUF *buffers, DWORD count, const char *call)
{
    if (count < 1 || count > MAX_BUFFERS)
        sim_fail("%s: %u buffers", call, count);
    op->count = count;
    for (DWORD i = 0; i < count; i++) {
        op->buffers[i] = buffers[i];
        op->nbytes += buffers[i].len;
    }
}

/* The op succeeds before its call returns. */
static int at_once(op_t *op, size_t nbytes, DWORD *done)
{
    object_t *sock = op->sock;
    op->overlapped->Internal = STATUS_SUCCESS;
    op->overlapped->InternalHigh = nbytes;
    *done = (DWORD)nbytes;
    sim_note(op->kind == A_SEND ? "WSASend at once, bytes" : "WSARecv at once, bytes",
             sock->client, (long long)nbytes);
    if (!sock->skip) {
        lend_op(op);
        complete(op, STATUS_SUCCESS, nbytes);
    } else {
        __real_free(op);
    }
    sim_point();
    return 0;
}

static int refuse(op_t *op, DWORD error)
{
    __real_free(op);
    return sock_error(error);
}

int WSARecv(SOCKET s, WSABUF *buffers, DWORD count, DWORD *received, DWORD *flags,
            OVERLAPPED *overlapped, void *routine)
{
    object_t *sock = sock_of(s, "WSARecv");
    sim_point();
    (void)routine;
    (void)flags;
    if (!sock->connected || !sock->updated)
        sim_fail("WSARecv: handle %d does not know that it is connected", sock->handle);
    if (failing("WSARecv fails"))
        return sock_error(WSAENOBUFS);
    if (overlapped == NULL) {
        if (!sock->non_blocking)
            sim_fail("WSARecv: would block");
        if (sock->pending_receives > 0)
            sim_fail("WSARecv: beside a receive that is pending");
        if (sock->reset)
            return sock_error(WSAECONNRESET);
        if (available(sock) == 0 && !at_end(sock))
            return sock_error(WSAEWOULDBLOCK);
        *received = (DWORD)fill(sock, buffers, count);
        sim_note("received", sock->client, *received);
        return 0;
    }
    if (sock->port == NULL)
        sim_fail("WSARecv: handle %d is on no port", sock->handle);
    check_unused(overlapped, "WSARecv");
    if (sock->reset && sim_random(2))
        return sock_error(WSAECONNRESET);
    op_t *op = new_op(A_RECEIVE, sock, overlapped);
    copy_buffers(op, buffers, count, "WSARecv");
    if (!sock->reset && sock->pending_receives == 0 && (available(sock) > 0 || at_end(sock))
        && sim_random(4) != 0)
        return at_once(op, fill(sock, op->buffers, op->count), received);
    lend_op(op);
    sim_point();
    return sock_error(WSA_IO_PENDING);
}

int WSASend(SOCKET s, WSABUF *buffers, DWORD count, DWORD *sent, DWORD flags,
            OVERLAPPED *overlapped, void *routine)
{
    object_t *sock = sock_of(s, "WSASend");
    sim_point();
    (void)routine;
    (void)flags;
    if (!sock->connected || !sock->updated)
        sim_fail("WSASend: handle %d does not know that it is connected", sock->handle);
    if (sock->shut)
        sim_fail("WSASend: handle %d has sent its end", sock->handle);
    if (overlapped == NULL || sock->port == NULL)
        sim_fail("WSASend: not simulated without a port");
    if (sock->pending_sends > 0)
        sim_fail("WSASend: two sends in flight on handle %d", sock->handle);
    check_unused(overlapped, "WSASend");
    if (failing("WSASend fails"))
        return sock_error(WSAENOBUFS);
    op_t *op = new_op(A_SEND, sock, overlapped);
    copy_buffers(op, buffers, count, "WSASend");
    if (op->nbytes == 0)
        sim_fail("WSASend: nothing to send");
    if (sock->reset && sim_random(2))
        return refuse(op, sim_random(2) ? WSAECONNRESET : WSAECONNABORTED);
    if (!sock->reset && room(sock) >= op->nbytes && sim_random(4) != 0) {
        size_t nbytes = op->nbytes;
        if (nbytes > 1 && chance(sim.config.shorts))
            nbytes = 1 + sim_random((uint32_t)nbytes - 1);
        take(sock, op->buffers, op->count, nbytes);
        return at_once(op, nbytes, sent);
    }
    op->sum = sum_of(op);
    lend_op(op);
    sim_point();
    return sock_error(WSA_IO_PENDING);
}

BOOL WSAGetOverlappedResult(SOCKET s, OVERLAPPED *overlapped, DWORD *transferred, BOOL wait,
                            DWORD *flags)
{
    sock_of(s, "WSAGetOverlappedResult");
    (void)wait;
    (void)flags;
    check_unused(overlapped, "WSAGetOverlappedResult");
    *transferred = (DWORD)overlapped->InternalHigh;
    switch (overlapped->Internal) {
    case STATUS_SUCCESS:
        return 1;
    case STATUS_CANCELLED:
        return error_is(ERROR_OPERATION_ABORTED);
    case STATUS_CONNECTION_RESET:
        return error_is(WSAECONNRESET);
    case STATUS_LOCAL_DISCONNECT:
        return error_is(WSAECONNABORTED);
    case STATUS_INSUFFICIENT_RESOURCES:
        return error_is(WSAENOBUFS);
    default:
        sim_fail("WSAGetOverlappedResult: %zx is no outcome", overlapped->Internal);
    }
}
