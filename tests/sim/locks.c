/* The simulated machine's locks, condition variables and atomics, on the threads of machine.c. */
#include "inside.h"

#ifdef SIM_THREADS
#include <sched.h>
#endif

void InitializeSRWLock(SRWLOCK *lock)
{
    lock->holder = 0;
}

#ifdef SIM_THREADS

/* Not through the kernel: its own lock would order what the engine's must. */
void AcquireSRWLockExclusive(SRWLOCK *lock)
{
    DWORD nobody = 0;
    while (!__atomic_compare_exchange_n(&lock->holder, &nobody, GetCurrentThreadId(), 0,
                                        __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) {
        if (nobody == GetCurrentThreadId())
            sim_fail("a lock is taken twice");
        nobody = 0;
        sched_yield();
    }
    this_thread()->locks++;
}

void ReleaseSRWLockExclusive(SRWLOCK *lock)
{
    this_thread()->locks--;
    __atomic_store_n(&lock->holder, 0, __ATOMIC_RELEASE);
}

#else

void AcquireSRWLockExclusive(SRWLOCK *lock)
{
    sim_point();
    if (lock->holder == GetCurrentThreadId())
        sim_fail("a lock is taken twice");
    while (lock->holder != 0) {
        this_thread()->lock = lock;
        wait_for(WAIT_LOCK, UINT64_MAX);
    }
    lock->holder = GetCurrentThreadId();
    this_thread()->locks++;
}

void ReleaseSRWLockExclusive(SRWLOCK *lock)
{
    if (lock->holder != GetCurrentThreadId())
        sim_fail("a lock is released that another thread has, or nobody");
    lock->holder = 0;
    this_thread()->locks--;
    sim_point();
}

#endif

/* Not while the lock is taken again: whoever has it may need the kernel. */
static int sleep_on(CONDITION_VARIABLE *condition, SRWLOCK *lock, DWORD timeout_ms)
{
    KERNEL;
    this_thread()->condition = condition;
    this_thread()->wakes = condition->wakes;
    ReleaseSRWLockExclusive(lock);
    // Now and then for nothing, as documented.
    if (!chance(8))
        wait_for(WAIT_CONDITION, deadline_us(timeout_ms));
    return condition->wakes != this_thread()->wakes;
}

BOOL SleepConditionVariableSRW(CONDITION_VARIABLE *condition, SRWLOCK *lock, DWORD timeout_ms,
                               ULONG flags)
{
    if (flags != 0)
        sim_fail("SleepConditionVariableSRW: not simulated");
    int woken = sleep_on(condition, lock, timeout_ms);
    AcquireSRWLockExclusive(lock);
    return woken;
}

void WakeAllConditionVariable(CONDITION_VARIABLE *condition)
{
    KERNEL;
    condition->wakes++;
    wake();
}

LONG InterlockedIncrement(LONG *value)
{
    sim_point();
    return __atomic_add_fetch(value, 1, __ATOMIC_SEQ_CST);
}

LONG InterlockedDecrement(LONG *value)
{
    sim_point();
    return __atomic_sub_fetch(value, 1, __ATOMIC_SEQ_CST);
}

LONG InterlockedExchange(LONG *value, LONG other)
{
    return __atomic_exchange_n(value, other, __ATOMIC_SEQ_CST);
}

LONG InterlockedExchangeAdd(LONG *value, LONG by)
{
    return __atomic_fetch_add(value, by, __ATOMIC_SEQ_CST);
}

LONG64 InterlockedExchangeAdd64(LONG64 *value, LONG64 by)
{
    return __atomic_fetch_add(value, by, __ATOMIC_SEQ_CST);
}
