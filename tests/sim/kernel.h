/* The simulated kernel, as the driver sees it; what the engine sees stands in include/.

   Threads are fibers: one runs until it calls the kernel, which may then let another one go on.
   Which one, what the clients do next, which operation completes and how: all of it is drawn from
   one generator, so a run is a function of its seed. */
#ifndef SIM_KERNEL_H
#define SIM_KERNEL_H

#include <stddef.h>
#include <stdint.h>

#include "winsock2.h"

enum { SIM_CLIENTS = 24 };

/* What a run is like, beside its seed. Chances are 1 in so many, 0: never. */
typedef struct {
    int clients;
    int preempt;            /* that a call of the kernel lets another thread run */
    int faults;             /* that a call fails for lack of resources */
    int resets;             /* that a client's next step is a reset */
    int shorts;             /* that a send completes short */
    int skips;              /* the provider's sockets are real handles */
    size_t send_room;       /* bytes a socket takes off a sender ahead of its client */
    size_t bytes;           /* the most that a client sends */
} sim_config_t;

/* A client after the run. */
typedef struct {
    int connected;
    size_t sent;            /* bytes */
    size_t received;        /* bytes */
    int ended;              /* it has sent its FIN */
    int saw_end;            /* the server's FIN came, after all data before it */
    int reset;              /* by either side */
    int unreset;            /* the server wanted to, but SO_LINGER failed */
} sim_client_t;

void sim_begin(uint64_t seed);
void sim_configure(const sim_config_t *config);
/* A thread; `body` is called when sim_run comes to it. */
void sim_spawn(const char *name, void (*body)(void *), void *argument);
/* Returns when every thread has ended and the clients have nothing left to do. */
void sim_run(void);
/* Also asserts that nothing is left: handles, operations, packets, memory. */
void sim_end(void);
/* Failing calls begin or end. */
void sim_faults(int on);
SOCKET sim_listen(void);
void sim_client(int client, sim_client_t *out);
/* Byte `at` of the stream of a client, in either direction. */
unsigned char sim_byte(int client, size_t at);
/* For a thread: another one may run here. */
void sim_point(void);
void sim_sleep(unsigned int ms);
/* Until it is undone no other thread runs; nothing may be waited for meanwhile. */
void sim_atomic(int on);
/* How many locks the current thread has. */
int sim_locks(void);
uint32_t sim_random(uint32_t n);
void sim_note(const char *what, long long a, long long b);
void sim_fail(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
/* A number over all events of the run so far; the last of them to standard output. */
uint64_t sim_digest(void);
void sim_print_events(void);

#endif
