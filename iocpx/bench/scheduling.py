"""Scheduling: what a loop's callbacks, timers and tasks cost without any input or output.

Each row is a function that does so many operations on a loop. It is either a coroutine function,
or a function that begins and has `done` called at the end.
"""

import asyncio
import inspect
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

# Callbacks that wait at the same time, where it is many.
MANY = 1000
# Timers that run at the same time. Their making takes longer than the last is due after, so that
# even a fast loop never sleeps.
TIMERS = 10_000
TASKS = 100
# A row is run until it takes this part of the time asked for; only then it is measured.
TRIAL = 1 / 4


def nothing():
    pass


def call_soon(loop, count, done):
    soon = loop.call_soon

    def step():
        nonlocal count
        count -= 1
        soon(step if count else done)

    soon(step)


def call_soon_many(loop, count, done):
    soon = loop.call_soon

    def batch():
        nonlocal count
        for _ in range(MANY - 1):
            soon(nothing)
        count -= MANY
        soon(batch if count > 0 else done)

    batch()


def call_later(loop, count, done):
    later = loop.call_later
    # Within a millisecond, in a mixed order.
    delays = [index * 7919 % TIMERS * 1e-3 / TIMERS for index in range(TIMERS)]
    waiting = 0

    def fired():
        nonlocal waiting
        waiting -= 1
        if not waiting:
            batch()

    def batch():
        nonlocal count, waiting
        if count <= 0:
            done()
            return
        count -= TIMERS
        waiting = TIMERS
        for delay in delays:
            later(delay, fired)

    batch()


def call_later_cancelled(loop, count, done):
    later = loop.call_later

    def batch():
        nonlocal count
        for _ in range(MANY):
            later(60.0, nothing).cancel()
        count -= MANY
        loop.call_soon(batch if count > 0 else done)

    batch()


async def sleep_0(loop, count):
    sleep = asyncio.sleep
    for _ in range(count):
        await sleep(0)


async def gather(loop, count):
    async def empty():
        pass

    for _ in range(0, count, TASKS):
        await asyncio.gather(*[empty() for _ in range(TASKS)])


async def future(loop, count):
    for _ in range(count):
        waiter = loop.create_future()
        loop.call_soon(waiter.set_result, None)
        await waiter


async def queue(loop, count):
    handed_over = asyncio.Queue(1)

    async def produce():
        for number in range(count):
            await handed_over.put(number)

    producer = loop.create_task(produce())
    for _ in range(count):
        await handed_over.get()
    await producer


def call_soon_threadsafe(loop, count, done):
    soon = loop.call_soon_threadsafe
    # The thread does not run ahead of the loop without end.
    ran = threading.Semaphore(0)

    def call():
        for _ in range(0, count, TIMERS):
            for _ in range(TIMERS - 1):
                soon(nothing)
            soon(ran.release)
            ran.acquire()
        soon(done)

    threading.Thread(target=call).start()


class Row(NamedTuple):
    title: str
    run: Callable
    at_a_time: int = 1  # operations, of which it does whole numbers


ROWS = {
    "call-soon": Row("call_soon, one after the other", call_soon),
    "call-soon-many": Row("call_soon, many at once", call_soon_many, MANY),
    "call-later": Row("call_later, fired", call_later, TIMERS),
    "call-later-cancelled": Row("call_later, cancelled", call_later_cancelled, MANY),
    "sleep-0": Row("sleep(0)", sleep_0),
    "gather": Row("gather of empty tasks", gather, TASKS),
    "future": Row("future set by call_soon, awaited", future),
    "queue": Row("asyncio.Queue(1) hand-over", queue),
    "threadsafe": Row("call_soon_threadsafe", call_soon_threadsafe, TIMERS),
}


def elapsed(loop, run, count):
    """The seconds that so many operations take."""
    begin = time.perf_counter()
    if inspect.iscoroutinefunction(run):
        loop.run_until_complete(run(loop, count))
    else:
        loop.call_soon(run, loop, count, loop.stop)
        loop.run_forever()
    return time.perf_counter() - begin


def measure(loop, name, seconds):
    """One row, for about so many seconds: its rate per second, and all operations, with those of
    the trials before."""
    row = ROWS[name]
    count, operations = row.at_a_time, 0
    while (took_s := elapsed(loop, row.run, count)) < seconds * TRIAL:
        operations += count
        count *= 2
    operations += count
    count = max(1, round(count * seconds / took_s / row.at_a_time)) * row.at_a_time
    rate = count / elapsed(loop, row.run, count)
    return {"rate": rate, "operations": operations + count}
