/* The simulated machine: threads, memory, a clock, chance, and what is kept of the run to be shown.
   Its locks: locks.c.

   Threads are fibers, one of which runs at a time, or (SIM_THREADS) real ones. */
#include "inside.h"

#include <malloc.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef SIM_THREADS
#include <pthread.h>
#include <sched.h>
#else
#include "fibers.h"

#include <sys/mman.h>
#endif

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#ifdef SIM_COUNT
#include <valgrind/callgrind.h>
#endif

void *__wrap_malloc(size_t);
void *__wrap_calloc(size_t, size_t);
void __wrap_free(void *);

enum {
    MAX_THREADS = 16,
    STACK_BYTES = 128 * 1024,
    N_EVENTS = 1000,        /* events kept to be shown */
    MAX_CODES = 8,
};
/* A run that takes more does not come to an end. */
#define MAX_STEPS (3000000 + 1000l * sim.config.clients)

static const struct {
    const char *name;
    int codes[MAX_CODES];
} functions[] = {
#define X(name, ...) {#name, {__VA_ARGS__}},
    FUNCTIONS(X)
#undef X
};

typedef struct {
    thread_t public;        /* first: this_thread() is the whole of it */
    void (*body)(void *);
    void *argument;
#ifdef SIM_THREADS
    pthread_t handle;
    int depth;              /* of kernel calls within each other */
    uint64_t random;
#else
    context_t context;
    char *stack;
    void *fake_stack;       /* AddressSanitizer's */
#endif
} fiber_t;

typedef struct {
    uint64_t us;
    const char *thread;
    const char *what;
    long long a, b;
} event_t;

static struct {
    uint64_t seed, random, digest;
    sim_config_t config;
    uint64_t now_us;
    int faulty, atomic;
    long steps;
    int n_threads;
    long blocks, bytes;     /* allocated by the engine and not freed */
    long calls[N_FUNCTIONS];
    int fault_hit;
    event_t events[N_EVENTS];
    long n_events;
} sim;

static struct {
    int function, code, sticky;
    long n;
} plan;

void (*sim_on_idle)(void);

static char title[200];
static fiber_t fibers[MAX_THREADS];     /* their stacks are kept from run to run */
static fiber_t scheduler = {.public = {.name = "-", .id = 1}};

static void show_failure(void);

/* -- the one that runs, with fibers or with threads ----------------------------------------- */

#ifdef SIM_THREADS

static _Thread_local fiber_t *current = &scheduler;
static pthread_mutex_t kernel_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t atomic_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

static fiber_t *me(void)
{
    return current;
}

int kernel_enter(void)
{
    if (me()->depth++ == 0)
        pthread_mutex_lock(&kernel_lock);
    return 0;
}

void kernel_leave(int *guard)
{
    (void)guard;
    if (--me()->depth == 0)
        pthread_mutex_unlock(&kernel_lock);
}

static uint64_t *random_state(void)
{
    return &me()->random;
}

void wake(void)
{
    pthread_cond_broadcast(&changed);
}

#else

static fiber_t *current = &scheduler;
static const void *scheduler_stack;
static size_t scheduler_stack_bytes;

static fiber_t *me(void)
{
    return current;
}

static uint64_t *random_state(void)
{
    return &sim.random;
}

void wake(void)
{
}

#endif

thread_t *this_thread(void)
{
    return &me()->public;
}

int on_scheduler(void)
{
    return me() == &scheduler;
}

/* -- chance, events, failing ---------------------------------------------------------------- */

uint32_t sim_random(uint32_t n)
{
    uint64_t z = *random_state() += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (uint32_t)((z >> 33) % n);
}

int chance(int one_in)
{
    return one_in > 0 && sim_random((uint32_t)one_in) == 0;
}

const sim_config_t *config(void)
{
    return &sim.config;
}

static uint64_t stir(uint64_t digest, uint64_t value)
{
    return (digest ^ value) * 0x100000001b3u;
}

void sim_note(const char *what, long long a, long long b)
{
    KERNEL;
    event_t *event = &sim.events[sim.n_events++ % N_EVENTS];
    *event = (event_t){sim.now_us, this_thread()->name, what, a, b};
    for (const char *p = what; *p != 0; p++)
        sim.digest = stir(sim.digest, (unsigned char)*p);
    sim.digest = stir(stir(sim.digest, this_thread()->id), sim.now_us);
    sim.digest = stir(stir(sim.digest, (uint64_t)a), (uint64_t)b);
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
        printf("%12.3f ms  %-8s %-44s %6lld %6lld\n", (double)event->us / 1000, event->thread,
               event->what, event->a, event->b);
    }
    fflush(stdout);
}

void sim_title(const char *text)
{
    snprintf(title, sizeof(title), "%s", text);
}

static void show_failure(void)
{
    sim_print_events();
    if (title[0] != 0)
        printf("%s failed\n", title);
    else
        printf("seed %llu failed\n", (unsigned long long)sim.seed);
    fflush(stdout);
}

void sim_fail(const char *format, ...)
{
    va_list arguments;
    show_failure();
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    printf("\n");
    fflush(stdout);
    _exit(1);
}

BOOL error_is(DWORD error)
{
    this_thread()->error = error;
    return 0;
}

int sock_error(DWORD error)
{
    error_is(error);
    return SOCKET_ERROR;
}

DWORD GetLastError(void)
{
    return this_thread()->error;
}

int WSAGetLastError(void)
{
    return (int)GetLastError();
}

DWORD GetCurrentThreadId(void)
{
    return this_thread()->id;
}

/* -- faults --------------------------------------------------------------------------------- */

void sim_faults(int on)
{
    KERNEL;
    sim.faulty = on;
}

void sim_plan_fault(int function, long n, int c, int sticky)
{
    plan.function = function;
    plan.n = n;
    plan.code = sim_function_code(function, c);
    plan.sticky = sticky;
}

int sim_fault_hit(void)
{
    return sim.fault_hit;
}

long sim_calls(int function)
{
    return sim.calls[function];
}

int sim_n_functions(void)
{
    return N_FUNCTIONS;
}

const char *sim_function(int function)
{
    return functions[function].name;
}

int sim_function_code(int function, int c)
{
    return c < MAX_CODES ? functions[function].codes[c] : 0;
}

int fails(enum function function)
{
    KERNEL;
    int code = 0;
    if (!sim.faulty)
        return 0;
    long n = ++sim.calls[function];
    if (plan.n > 0 && (int)function == plan.function && (n == plan.n || (plan.sticky && n > plan.n))) {
        code = plan.code;
        sim.fault_hit = 1;
    } else if (chance(sim.config.faults)) {
        int n_codes = 0;
        while (sim_function_code(function, n_codes) != 0)
            n_codes++;
        code = n_codes > 0 ? sim_function_code(function, (int)sim_random((uint32_t)n_codes)) : 0;
    }
    if (code == 0)
        return 0;
    sim_note("… fails:", (long long)code, 0);
    sim_note(functions[function].name, n, 0);
    error_is((DWORD)code);
    return 1;
}

/* -- memory --------------------------------------------------------------------------------- */

#ifdef __SANITIZE_ADDRESS__

void lend(const void *p, size_t nbytes)
{
    __asan_poison_memory_region(p, nbytes);
}

void give_back(const void *p, size_t nbytes)
{
    __asan_unpoison_memory_region(p, nbytes);
}

int is_lent(const void *p, size_t nbytes)
{
    return __asan_region_is_poisoned((void *)p, nbytes) != NULL;
}

#else

void lend(const void *p, size_t nbytes)
{
    (void)p, (void)nbytes;
}

void give_back(const void *p, size_t nbytes)
{
    (void)p, (void)nbytes;
}

int is_lent(const void *p, size_t nbytes)
{
    (void)p, (void)nbytes;
    return 0;
}

#endif

static void *allocated(void *block)
{
    if (block != NULL) {
        __atomic_add_fetch(&sim.blocks, 1, __ATOMIC_RELAXED);
        __atomic_add_fetch(&sim.bytes, (long)malloc_usable_size(block), __ATOMIC_RELAXED);
    }
    return block;
}

void *__wrap_malloc(size_t nbytes)
{
    return fails(F_malloc) ? NULL : allocated(__real_malloc(nbytes));
}

void *__wrap_calloc(size_t n, size_t nbytes)
{
    return fails(F_calloc) ? NULL : allocated(__real_calloc(n, nbytes));
}

void __wrap_free(void *block)
{
    if (block == NULL)
        return;
    size_t nbytes = malloc_usable_size(block);
    check_not_pending(block, nbytes);
    __atomic_sub_fetch(&sim.blocks, 1, __ATOMIC_RELAXED);
    __atomic_sub_fetch(&sim.bytes, (long)nbytes, __ATOMIC_RELAXED);
    __real_free(block);
}

long sim_bytes_allocated(void)
{
    return __atomic_load_n(&sim.bytes, __ATOMIC_RELAXED);
}

void sim_measure(int on)
{
    (void)on;
#ifdef SIM_COUNT
    if (on) {
        CALLGRIND_START_INSTRUMENTATION;
    } else {
        CALLGRIND_STOP_INSTRUMENTATION;
    }
#endif
}

/* -- time and events -------------------------------------------------------------------------- */

uint64_t now_us(void)
{
    return sim.now_us;
}

uint64_t deadline_us(DWORD timeout_ms)
{
    return timeout_ms == INFINITE ? UINT64_MAX : sim.now_us + (uint64_t)timeout_ms * 1000;
}

BOOL QueryPerformanceCounter(LARGE_INTEGER *count)
{
    KERNEL;
    count->QuadPart = (LONG64)sim.now_us * 10;
    return 1;
}

BOOL QueryPerformanceFrequency(LARGE_INTEGER *frequency)
{
    frequency->QuadPart = 10000000;
    return 1;
}

void sim_sleep(unsigned int ms)
{
    KERNEL;
    wait_for(WAIT_TIME, deadline_us(ms));
}

void sim_busy(unsigned int ms)
{
    KERNEL;
    this_thread()->stalled = 1;
    wait_for(WAIT_TIME, deadline_us(ms));
    this_thread()->stalled = 0;
}

static int is_ready(const thread_t *thread)
{
    if (thread->done)
        return 0;
    switch (thread->wait) {
    case READY:
        return 1;
    case WAIT_LOCK:
        return thread->lock->holder == 0;
    case WAIT_PORT:
        if (packets_waiting())
            return 1;
        break;
    case WAIT_EVENTS:
        for (DWORD i = 0; i < thread->n_events; i++)
            if (event_is_set(thread->events[i]))
                return 1;
        break;
    case WAIT_CONDITION:
        if (thread->condition->wakes != thread->wakes)
            return 1;
        break;
    case WAIT_TIME:
        break;
    }
    return thread->until_us <= sim.now_us;
}

static uint64_t next_deadline(void)
{
    uint64_t first = UINT64_MAX;
    for (int i = 0; i < sim.n_threads; i++) {
        const thread_t *thread = &fibers[i].public;
        if (!thread->done && thread->wait != READY && thread->wait != WAIT_LOCK
            && thread->until_us < first)
            first = thread->until_us;
    }
    return first;
}

/* Nothing else can happen: the clock moves on to the next deadline.  0: there is no thread left. */
static int pass_time(void)
{
    uint64_t next = next_deadline();
    int left = 0;
    for (int i = 0; i < sim.n_threads; i++)
        left += !fibers[i].public.done;
    if (left == 0)
        return 0;
    if (next == UINT64_MAX) {
        for (int i = 0; i < sim.n_threads; i++)
            if (!fibers[i].public.done)
                printf("%s waits: %d\n", fibers[i].public.name, (int)fibers[i].public.wait);
        sim_fail("nothing can happen any more, and threads wait");
    }
    sim.now_us = next;
    wake();
    return 1;
}

static void count_step(void)
{
    if (__atomic_add_fetch(&sim.steps, 1, __ATOMIC_RELAXED) > MAX_STEPS)
        sim_fail("the run does not come to an end");
}

static void tick(void)
{
    count_step();
    sim.now_us++;
    if (sim_random(64) == 0 && !sim.config.plain)
        sim.now_us += 1u << sim_random(17);
}

/* -- threads: fibers, or real ones ------------------------------------------------------------ */

static fiber_t *new_thread(const char *name, void (*body)(void *), void *argument)
{
    if (sim.n_threads == MAX_THREADS)
        sim_fail("more than %d threads", MAX_THREADS);
    fiber_t *fiber = &fibers[sim.n_threads++];
    memset(&fiber->public, 0, sizeof(fiber->public));
    fiber->public.name = name;
    fiber->public.id = 100 + (DWORD)sim.n_threads;
    fiber->body = body;
    fiber->argument = argument;
    return fiber;
}

void sim_passing(void)
{
    this_thread()->passing = 1;
}

int sim_alone(void)
{
#ifdef SIM_THREADS
    return 0;
#else
    return sim.config.preempt == 0 && sim.config.stalls == 0;
#endif
}

static void thread_ends(void)
{
    if (this_thread()->locks != 0)
        sim_fail("%s has ended with a lock", this_thread()->name);
    this_thread()->done = 1;
    sim_note("thread ends", this_thread()->id, 0);
}

int sim_locks(void)
{
    return this_thread()->locks;
}

#ifdef SIM_THREADS

void sim_spawn(const char *name, void (*body)(void *), void *argument)
{
    fiber_t *fiber = new_thread(name, body, argument);
    fiber->depth = 0;
    fiber->random = sim.seed * 31 + fiber->public.id;
}

static void *thread_main(void *fiber)
{
    current = fiber;
    current->body(current->argument);
    KERNEL;
    thread_ends();
    return NULL;
}

void wait_for(enum wait_kind wait, uint64_t until_us)
{
    fiber_t *fiber = me();
    if (on_scheduler() || fiber->depth != 1)
        sim_fail("this cannot wait");
    fiber->public.wait = wait;
    fiber->public.until_us = until_us;
    while (!is_ready(&fiber->public))
        pthread_cond_wait(&changed, &kernel_lock);
    fiber->public.wait = READY;
}

/* Lets the others run, too; whatever the caller knew of the kernel may have changed. */
static void step_aside(void)
{
    int depth = me()->depth;
    if (depth > 0)
        pthread_mutex_unlock(&kernel_lock);
    sched_yield();
    if (depth > 0)
        pthread_mutex_lock(&kernel_lock);
}

void sim_point(void)
{
    count_step();
    if (!on_scheduler() && chance(sim.config.preempt))
        step_aside();
}

void sim_atomic(int on)
{
    if (on)
        pthread_mutex_lock(&atomic_lock);
    else
        pthread_mutex_unlock(&atomic_lock);
}

void sim_run(void)
{
    KERNEL;
    for (int i = 0; i < sim.n_threads; i++)
        if (!fibers[i].public.done)
            pthread_create(&fibers[i].handle, NULL, thread_main, &fibers[i]);
    for (;;) {
        int busy = winsock_act();
        if (busy)
            tick();
        for (int i = 0; i < sim.n_threads; i++)
            busy |= is_ready(&fibers[i].public);
        if (busy) {
            wake();
            step_aside();
        } else if (!pass_time()) {
            break;
        }
    }
    for (int i = 0; i < sim.n_threads; i++)
        pthread_join(fibers[i].handle, NULL);
    sim.n_threads = 0;
}

#else

static void switch_to(fiber_t *to)
{
    fiber_t *from = me();
    current = to;
#ifdef __SANITIZE_ADDRESS__
    const void *stack = to == &scheduler ? scheduler_stack : to->stack;
    size_t nbytes = to == &scheduler ? scheduler_stack_bytes : STACK_BYTES;
    __sanitizer_start_switch_fiber(from->public.done ? NULL : &from->fake_stack, stack, nbytes);
#endif
    context_switch(&from->context, &to->context);
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(from->fake_stack, NULL, NULL);
#endif
}

static void fiber_main(void)
{
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(NULL, &scheduler_stack, &scheduler_stack_bytes);
#else
    (void)scheduler_stack, (void)scheduler_stack_bytes;
#endif
    me()->body(me()->argument);
    thread_ends();
    switch_to(&scheduler);
}

void sim_spawn(const char *name, void (*body)(void *), void *argument)
{
    fiber_t *fiber = new_thread(name, body, argument);
    if (fiber->stack == NULL) {
        fiber->stack =
            mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (fiber->stack == MAP_FAILED)
            sim_fail("no memory for a stack");
    }
#ifdef __SANITIZE_ADDRESS__
    // Of the one that was here before, which never came back from its last call.
    __asan_unpoison_memory_region(fiber->stack, STACK_BYTES);
#endif
    context_begin(&fiber->context, fiber->stack, STACK_BYTES, fiber_main);
}

void wait_for(enum wait_kind wait, uint64_t until_us)
{
    if (on_scheduler() || sim.atomic != 0)
        sim_fail("this cannot wait");
    this_thread()->wait = wait;
    this_thread()->until_us = until_us;
    switch_to(&scheduler);
    this_thread()->wait = READY;
}

void sim_point(void)
{
    count_step();
    if (on_scheduler() || sim.atomic != 0)
        return;
    if (chance(sim.config.stalls)) {
        this_thread()->stalled = 1;
        // Mostly within the patience of the keeper, now and then beyond that of a connection.
        wait_for(WAIT_TIME, sim.now_us + 1 + sim_random(chance(8) ? 3000000 : 20000));
        this_thread()->stalled = 0;
    } else if (chance(sim.config.preempt)) {
        switch_to(&scheduler);
    }
}

void sim_atomic(int on)
{
    sim.atomic += on ? 1 : -1;
}

static int anyone_stalled(void)
{
    for (int i = 0; i < sim.n_threads; i++)
        if (fibers[i].public.stalled)
            return 1;
    return 0;
}

void sim_run(void)
{
    for (;;) {
        fiber_t *ready[MAX_THREADS];
        uint32_t n = 0;
        tick();
        for (int i = 0; i < sim.n_threads; i++)
            if (is_ready(&fibers[i].public))
                ready[n++] = &fibers[i];
        // As often a thread as a client or a completion, when there are both.
        if ((n == 0 || sim_random(2)) && winsock_act())
            continue;
        if (n > 0) {
            switch_to(ready[sim_random(n)]);
            continue;
        }
        if (sim_on_idle != NULL && !anyone_stalled())
            sim_on_idle();
        if (!pass_time())
            return;
    }
}

#endif

/* -- a run ------------------------------------------------------------------------------------ */

void sim_begin(uint64_t seed)
{
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_set_death_callback(show_failure);
#endif
    memset(&sim, 0, sizeof(sim));
    sim.seed = seed;
    sim.random = seed * 0xd1342543de82ef95u + 1;
    sim.digest = 0xcbf29ce484222325u;
    sim.now_us = 1000000;
#ifdef SIM_THREADS
    scheduler.random = sim.random;
#endif
    winsock_begin();
}

void sim_configure(const sim_config_t *with)
{
    sim.config = *with;
    winsock_configure();
}

void sim_end(void)
{
    winsock_end();
    if (sim.blocks != 0)
        sim_fail("%ld blocks of memory were not freed", sim.blocks);
}
