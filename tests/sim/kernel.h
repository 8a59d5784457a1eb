/* The simulated kernel, as the driver sees it; what the engine sees stands in include/.

   Threads are fibers: one runs until it calls the kernel, which may then let another one go on.
   Which one, what the clients do next, which operation completes and how: all of it is drawn from
   one generator, so a run is a function of its seed. Compiled with -DSIM_THREADS threads are real
   ones, for ThreadSanitizer, and a run is no function of anything. */
#ifndef SIM_KERNEL_H
#define SIM_KERNEL_H

#include <stddef.h>
#include <stdint.h>

#include "winsock2.h"

/* How a kernel behaves where the documentation leaves it open, or Wine does not keep to it. */
typedef struct {
    const char *name;
    int fifo;               /* packets are dequeued in the order in which they were queued */
    int inline_accepts;     /* AcceptEx may succeed at once */
    int data_before_reset;  /* what came before a reset can still be received */
    int reset_as_eof;       /* of a reset that no receive was waiting for, only an end is seen */
    int lost_sends;         /* a send that a reset finds pending completes only by CancelIoEx */
    int accepted_outlive;   /* AcceptEx that has a client and waits for data outlives its listener */
    int inherited_events;   /* an accepted socket inherits the listener's WSAEventSelect */
    int lax_contexts;       /* an accepted socket works without SO_UPDATE_ACCEPT_CONTEXT */
    int backlog_reset;      /* the NTSTATUS of an AcceptEx whose client has gone */
} sim_profile_t;

/* What a run is like, beside its seed. Chances are 1 in so many, 0: never. */
typedef struct {
    const sim_profile_t *profile;
    int clients;
    int preempt;            /* that a call of the kernel lets another thread run */
    int stalls;             /* that it stands still until all others have done what they can */
    int faults;             /* that a call fails */
    int resets;             /* that a client's next step is a reset */
    int shorts;             /* that a send completes short */
    int handles;            /* the provider's sockets are real handles */
    int skips;              /* a completion at once can do without a packet */
    int transmits;          /* the provider has TransmitFile */
    size_t send_room;       /* bytes a socket takes off a sender ahead of its client */
    size_t bytes;           /* the most that a client sends */
    int inline_limit;       /* inline completions of a socket between two looks at the port */
    int plain;              /* nothing by chance: what can be done at once and in full, is */
} sim_config_t;

/* What a client does; sim_configure draws it, and a scenario can have it its own way. */
enum sim_end { ENDS_FIN, ENDS_RESET, ENDS_NEVER };
enum sim_reads { READS_NEVER = -1, READS_LATER = 0, READS = 1 };
typedef struct {
    size_t to_send;         /* bytes */
    int end;                /* how, once all is sent */
    int reads;
    int waits;              /* it connects only when sim_let_in says so */
    int called;             /* it does not connect, but waits for the server's ConnectEx */
} sim_script_t;

/* A client after the run. */
typedef struct {
    int connected;
    size_t sent;            /* bytes */
    size_t received;        /* bytes */
    size_t taken;           /* bytes of what it sent that the server has received */
    size_t given;           /* bytes that the server has sent */
    int ended;              /* it has sent its FIN */
    int saw_end;            /* the server's FIN came, after all data before it */
    int reset;              /* by either side */
    int cut;                /* by the server, although it reads what it is sent */
    int unreset;            /* the server wanted to, but SO_LINGER failed */
    int failed;             /* an operation of its connection, or its post, failed; not by
                               being cancelled */
} sim_client_t;

extern const sim_profile_t sim_profiles[];
extern const int sim_n_profiles;

void sim_begin(uint64_t seed);
void sim_configure(const sim_config_t *config);
void sim_script(int client, const sim_script_t *script);
/* Which listener it connects to; without this they are divided among all that there are. */
void sim_send_to(int client, SOCKET listener);
void sim_let_in(int client);
/* It does not connect, but waits to be called. */
void sim_call(int client);
/* A socket that somebody else than the engine has connected to a client that waits to be called.
   key: with which it is on the port already, by somebody else; 0: it is on none. */
SOCKET sim_connected(int client, ULONG_PTR key);
/* Of a client, as a sockaddr; SIM_SERVER: of the server's end. */
enum { SIM_SERVER = 100 };
void sim_address(int client, char address[28]);
/* So many bytes more to be sent by the client. */
void sim_feed(int client, size_t nbytes);
/* A thread; `body` is called when sim_run comes to it. */
void sim_spawn(const char *name, void (*body)(void *), void *argument);
/* The calling thread may end at any time: the operations that it posts must not pend. */
void sim_passing(void);
/* Does no other thread run until the caller waits? */
int sim_alone(void);
/* Returns when every thread has ended and the clients have nothing left to do. */
void sim_run(void);
/* Called when nothing can happen any more before a deadline passes; never with real threads. */
extern void (*sim_on_idle)(void);
/* Also asserts that nothing is left: handles, operations, packets, memory. */
void sim_end(void);
/* A socket that is bound; its clients come when it listens. */
SOCKET sim_bind(int family);
/* From here on another process has this listener, too: it had it first, unless the listener is on
   the engine's port already. */
void sim_share(SOCKET s);
/* What its listen() has made of the backlog. */
int sim_backlog(SOCKET s);
/* A file of that size, whose bytes from `offset` on are those of the stream to the client from `at`
   on. */
HANDLE sim_file(int client, size_t offset, size_t at, size_t size);
/* A file that is read and written: its first `size` bytes are those of `sim_disk_byte`, and what is
   written to an offset has to be. It has room for SIM_DISK bytes; what is appended is SIM_APPENDED. */
enum { SIM_DISK = 4096, SIM_APPENDED = 0xa5 };
HANDLE sim_disk_file(size_t size);
unsigned char sim_disk_byte(size_t at);
/* Asserts that these bytes were written, and not lost. Also of one that is closed. */
void sim_disk_check(HANDLE handle, size_t offset, size_t nbytes);
/* Bytes that were appended. */
size_t sim_disk_appended(HANDLE handle);
/* A bound socket of datagrams, to which so many come: the number of each is in the address from which
   it comes. */
SOCKET sim_datagrams(int to_come);
void sim_more_datagrams(SOCKET s, int more);
/* How many have been received so far. */
int sim_datagrams_come(SOCKET s);
/* Of the datagram of that number, in either direction. */
size_t sim_datagram_bytes(int number);
unsigned char sim_datagram_byte(int number, size_t at);
/* Asserts that the application can do with it whatever it may do with a socket. */
void sim_lend_socket(SOCKET s);
/* A packet that is not the engine's, of somebody who has the port, too. 0: there were too many. */
int sim_post_foreign(HANDLE port);
/* One that the engine hands back: asserts that it is the next of them, and as it was posted. */
void sim_foreign_came(const OVERLAPPED_ENTRY *entry);
/* How many accepted sockets could not join the port. */
int sim_unattached(void);
void sim_client(int client, sim_client_t *out);
/* Was this Windows code told about the client's connection? */
int sim_was_told(int client, int error);
/* Byte `at` of the stream of a client, in either direction. */
unsigned char sim_byte(int client, size_t at);
/* Bytes that the engine has allocated and not freed. */
long sim_bytes_allocated(void);
/* Callgrind counts from here on, or no longer. */
void sim_measure(int on);

/* Failing calls begin or end. */
void sim_faults(int on);
/* Call number n of this function fails, with its code number c (from 0); all later ones too if
   `sticky`. n 0: none. Holds for the runs that begin from now on. */
void sim_plan_fault(int function, long n, int c, int sticky);
/* How often it was called while faults were on, in this run. */
long sim_calls(int function);
int sim_n_functions(void);
const char *sim_function(int function);
/* 0: there is no such code. */
int sim_function_code(int function, int c);
/* Has the planned call taken place? */
int sim_fault_hit(void);

/* For a thread: another one may run here. */
void sim_point(void);
void sim_sleep(unsigned int ms);
/* The same for a thread that has other things to do: others cannot rely on it meanwhile. */
void sim_busy(unsigned int ms);
/* Until it is undone no other thread runs; nothing may be waited for meanwhile. */
void sim_atomic(int on);
/* How many locks the current thread has. */
int sim_locks(void);
uint32_t sim_random(uint32_t n);
void sim_note(const char *what, long long a, long long b);
void sim_fail(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
/* A line that a failure prints beside the seed. */
void sim_title(const char *title);
/* A number over all events of the run so far; the last of them to standard output. */
uint64_t sim_digest(void);
void sim_print_events(void);

#endif
