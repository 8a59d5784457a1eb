/* What the parts of the simulated kernel share: machine.c (threads, clock, memory, chance),
   fibers.c, locks.c and the rooms of the simulated Winsock (objects.h: the port, sockets, the clients behind them). */
#ifndef SIM_INSIDE_H
#define SIM_INSIDE_H

#include "faults.h"
#include "kernel.h"

/* The linker sends the engine's allocations through __wrap_…; the kernel's own go past them. */
void *__real_malloc(size_t);
void *__real_calloc(size_t, size_t);
void __real_free(void *);

typedef struct object object_t;

/* What a thread waits for. */
enum wait_kind { READY, WAIT_LOCK, WAIT_PORT, WAIT_EVENTS, WAIT_CONDITION, WAIT_TIME };

typedef struct {
    const char *name;
    DWORD id;
    int done;
    int stalled;            /* it stands still by chance, not because it waits for anything */
    int passing;            /* it may end before an operation that it posts */
    DWORD error;            /* GetLastError() */
    int locks;              /* that it has */
    long looks;             /* at the port */
    enum wait_kind wait;
    uint64_t until_us;
    const SRWLOCK *lock;
    const CONDITION_VARIABLE *condition;
    DWORD wakes;            /* of it, when the wait began */
    const object_t *events[2];
    DWORD n_events;
} thread_t;

/* The one that runs; the scheduler counts as one. */
thread_t *this_thread(void);
int on_scheduler(void);
/* The caller's thread goes on when its wait is over by what `wait` says, or at until_us. */
void wait_for(enum wait_kind wait, uint64_t until_us);
/* Something has changed that a thread may be waiting for. */
void wake(void);

uint64_t now_us(void);
/* The end of a wait that begins now. */
uint64_t deadline_us(DWORD timeout_ms);
int chance(int one_in);
const sim_config_t *config(void);

/* Sets the last error, for `return`: FALSE, or SOCKET_ERROR. */
BOOL error_is(DWORD error);
int sock_error(DWORD error);
/* Does this call fail?  If so, the last error is set. */
int fails(enum function function);

/* Memory that Windows has is nobody else's: AddressSanitizer stops whoever touches it. */
void lend(const void *p, size_t nbytes);
void give_back(const void *p, size_t nbytes);
int is_lent(const void *p, size_t nbytes);

/* The simulated Winsock, for the scheduler */
void winsock_begin(void);
void winsock_configure(void);
void winsock_end(void);
/* One thing that can happen by itself, at random: a completion, or a client's step. */
int winsock_act(void);
int packets_waiting(void);
int event_is_set(const object_t *event);
/* Ends the run if this memory is part of an operation. */
void check_not_pending(const void *block, size_t nbytes);

/* As each of the kernel's functions begins: with real threads, one at a time is inside. */
#ifdef SIM_THREADS
int kernel_enter(void);
void kernel_leave(int *guard);
#define KERNEL __attribute__((cleanup(kernel_leave))) int kernel_guard = kernel_enter()
#else
#define KERNEL (void)0
#endif

#endif
