/* The simulated Winsock: a completion port, events, sockets with scripted clients behind them.

   Every call asserts the caller's side of the contract. What the caller has lent (OVERLAPPED until
   its packet is dequeued, receive buffers until the receive is over) is poisoned, so that
   AddressSanitizer stops whoever touches it; what is being sent is compared with what was posted.
   A handle's value is never used again, so a call on a closed one is always seen.

   Here stand its objects, and what each of its rooms has for the others. A room calls only those
   that stand before it; all call machine.c, and are called by the engine, the driver (kernel.h) and
   the scheduler (inside.h). */
#ifndef SIM_OBJECTS_H
#define SIM_OBJECTS_H

#include "inside.h"
#include "mswsock.h"

enum { MAX_LISTENERS = 6, MAX_TOLD = 8, MAX_FOREIGN = 400 };
/* What the reserved part of an entry holds. */
enum { RESERVED = 0x5555 };
/* Where a client's address has its number, the server's has this. */
enum { SERVER_ADDRESS = SIM_SERVER };

#define STATUS_SUCCESS 0u
#define STATUS_END_OF_FILE 0xc0000011u
#define STATUS_BUFFER_OVERFLOW 0x80000005u
#define STATUS_UNEXPECTED_NETWORK_ERROR 0xc00000c4u
#define STATUS_CANCELLED 0xc0000120u
#define STATUS_LOCAL_DISCONNECT 0xc000013bu
#define STATUS_CONNECTION_RESET 0xc000020du
#define STATUS_CONNECTION_REFUSED 0xc0000236u

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

enum object_kind { A_PORT, AN_EVENT, A_SOCKET, A_FILE };

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
    /* a file */
    size_t size;
    size_t offset, at;          /* where it has which byte of… */
    client_t *client;           /* …whose stream.  A socket: NULL: none… */
    int transmits;              /* TransmitFile that are pending */
    unsigned char *content;     /* owned; of one that is read and written */
    size_t appended;            /* bytes */
    /* a socket, or a file that is read and written */
    int family;
    int bound;
    enum { NO_PORT, OUR_PORT, ANOTHER_PORT } on_port;
    ULONG_PTR key;              /* …with which its packets come */
    op_t *first, *last;         /* its pending operations, in the order of their posts */
    int in_accept;              /* lent to an AcceptEx */
    int untold;                 /* that has succeeded, and nobody has its packet yet */
    int updated;                /* …and the client's, and told so by SO_UPDATE_…_CONTEXT */
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
    /* one of datagrams */
    int datagrams;
    int to_come, come;          /* that are on their way, and that have been received */
    int sent_next;              /* the least number of the next that is sent */
    int in_vain;                /* receives that were cancelled, in a row */
    long inlined;               /* completions at once… */
    long inlined_look;          /* …since this look at the port… */
    DWORD inlined_by;           /* …by this thread */
    /* a listening one */
    int shared;                 /* another process has it, too: closing it ends nothing */
    int listening;
    int backlog_limit;
    client_t *backlog, **backlog_tail;
    object_t *accept_event;
    int accept_enabled;         /* FD_ACCEPT may be told */
    int accept_told;
};

enum op_kind {
    AN_ACCEPT, A_RECEIVE, A_SEND, A_CONNECT, A_TRANSMIT, A_READ, A_WRITE, A_RECEIVE_FROM, A_SEND_TO
};
extern const char *const op_names[];

struct op {
    op_t *prev, *next;          /* of its socket, or file */
    op_t *prev_send, *next_send;
    int at;                     /* in `ready` */
    enum op_kind kind;
    int number;
    object_t *sock;
    OVERLAPPED *overlapped;
    size_t nbytes;
    uint32_t sum;               /* of what is to be sent */
    int cancelled;
    object_t *event;            /* that tells of its end, instead of a packet; NULL: a packet does */
    /* AcceptEx */
    object_t *accepted;         /* NULL: closed under it */
    char *output;
    DWORD data_bytes;
    client_t *client;           /* who has connected to it; NULL: nobody yet. ConnectEx: whom it
                                   calls */
    uint64_t connected_us;
    /* WSARecvFrom */
    char *from;
    int *from_bytes;
    /* WSASendTo */
    int datagram;               /* its number */
    /* TransmitFile */
    object_t *file;
    size_t offset;
    DWORD count;
    WSABUF buffers[];
};

struct packet {
    packet_t *next;
    OVERLAPPED *overlapped;
    size_t nbytes;
    DWORD status;
    int number;
    ULONG_PTR key;
    int foreign;
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

/* A packet of somebody else. */
typedef struct {
    OVERLAPPED overlapped;      /* lent until it comes back */
    OVERLAPPED_ENTRY entry;     /* as it has to come */
} foreign_t;

struct winsock {
    object_t **objects;
    int n_objects, room_objects;
    op_t *sends;
    op_t *over;                 /* told by an event, and not yet posted by the engine itself */
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
    foreign_t *foreign[MAX_FOREIGN];
    int n_foreign, n_foreign_back;
};
extern struct winsock winsock;

/* -- objects.c ---------------------------------------------------------------------------- */

/* `at`: where the thing keeps its place. */
void set_member(set_t *set, void *thing, int *at, int on);
object_t *new_object(enum object_kind kind);
object_t *new_socket(int family);
/* The open object that a call is given; `call` is for the complaint if there is none. */
object_t *get_any(uintptr_t handle, const char *call);
object_t *get(uintptr_t handle, enum object_kind kind, const char *call);
object_t *sock_of(SOCKET s, const char *call);
/* What can be on a port: a socket, or a file that is read and written. */
object_t *io_of(uintptr_t handle, const char *call);
/* -1: it has none. */
long long client_of(const object_t *sock);
void close_object(object_t *object);

/* -- streams.c ---------------------------------------------------------------------------- */

/* Bytes that the client has sent and nobody has received. */
size_t available(const object_t *sock);
enum incoming { NOTHING_YET, DATA, END, BROKEN };
enum incoming incoming(const object_t *sock);
/* Bytes that can be taken off a sender. */
size_t room(const object_t *sock);
/* Into a receive's buffers; returns how many bytes. */
size_t fill(object_t *sock, const WSABUF *buffers, DWORD count);
/* Off a sender. */
void take(object_t *sock, const WSABUF *buffers, DWORD count, size_t nbytes);
op_t *first_of(const object_t *sock, enum op_kind kind);
int client_speaks(const op_t *op);
int op_can_complete(const op_t *op);
enum client_step { NOTHING, CONNECT, SEND, FINISH, READ, RESET, LEAVE, CHANGE };
/* What a client can do now; returns how many. */
uint32_t client_steps(const client_t *client, enum client_step steps[8]);
void touch_client(client_t *client);
void touch_op(op_t *op);
/* To be called whenever something about a connection has changed. */
void touch(object_t *sock);

/* -- ops.c -------------------------------------------------------------------------------- */

void check_unused(const OVERLAPPED *overlapped, const char *call);
/* The status block is written only when the packet is dequeued; until then nobody can tell from it
   that the operation is over. */
packet_t *queue_packet(OVERLAPPED *overlapped, DWORD status, size_t nbytes, int number,
                       object_t *sock);
op_t *new_op(enum op_kind kind, object_t *sock, OVERLAPPED *overlapped, const WSABUF *buffers,
             DWORD count);
/* Of the bytes that it is to send, as they are now. */
uint32_t sum_of(const op_t *op);
/* One that is told by an event is pending as long as its OVERLAPPED says so, which anybody may
   look at. From here on it is. */
void lend_op(op_t *op);
void take_op_back(op_t *op);
/* Queues its packet, and frees it; or sets its event. */
void complete(op_t *op, DWORD status, size_t nbytes);
/* The engine posts this: the end of an operation without a packet, which it may be, is known by it.
   Returns the socket that an AcceptEx has given a client; NULL: it is nothing of the kind. */
object_t *take_over(const OVERLAPPED *overlapped);
/* An outcome was an error; the server shall tell its own. Returns the code. */
int tell(object_t *sock, int code);
/* The same of a call, as its last error. */
int refuse(object_t *sock, int code);

/* -- accept.c ----------------------------------------------------------------------------- */

/* NULL: nobody waits. */
client_t *first_in_backlog(object_t *listener);
void into_backlog(client_t *client);
/* Clients of the backlog meet the AcceptEx that wait for them; if there are none, FD_ACCEPT. */
void match_backlog(object_t *listener);
void run_accept(op_t *op);
BOOL accept_ex(SOCKET s, SOCKET accept, void *output, DWORD data_bytes, DWORD local_bytes,
               DWORD remote_bytes, DWORD *received, OVERLAPPED *overlapped);
void accept_addresses(void *output, DWORD data_bytes, DWORD local_bytes, DWORD remote_bytes,
                      struct sockaddr **local, int *local_length, struct sockaddr **remote,
                      int *remote_length);

/* Of a sockaddr. */
int address_bytes(int family);
void put_address(char *at, int family, int number);
/* A call on a socket that has to know that it is connected. */
void check_context(const object_t *sock, const char *call);

/* -- connect.c ---------------------------------------------------------------------------- */

void run_connect(op_t *op);
BOOL connect_ex(SOCKET s, const struct sockaddr *name, int length, void *buffer, DWORD nbytes,
                DWORD *sent, OVERLAPPED *overlapped);

/* -- datagrams.c -------------------------------------------------------------------------- */

void run_receive_from(op_t *op);
void run_send_to(op_t *op);

/* -- files.c ------------------------------------------------------------------------------ */

void run_file(op_t *op);
/* As `take`, of a file. */
void take_file(object_t *sock, const object_t *file, size_t offset, size_t nbytes);

/* -- clients.c ---------------------------------------------------------------------------- */

/* One of its steps, at random. */
void client_act(client_t *client);
/* The server has closed its end. */
void client_left_alone(object_t *sock);

/* -- completions.c, port.c, foreign.c and sockets.c have nothing for each other -------------- */

#endif
