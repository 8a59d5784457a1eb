"""What the loop calls, when, and in which order."""

import asyncio
import contextlib
import contextvars
import gc
import inspect
import random
import socket
import sys
import threading
import time
import weakref

import pytest
from loops import run, run_once, running_loop
from waiting import run_together, wait_for_event

import iocpx


@pytest.fixture
def loop():
    with running_loop() as loop:
        yield loop


def nothing(*arguments):
    pass


# -- the ready queue -------------------------------------------------------------------------------


def test_callbacks_run_in_the_order_of_their_calls(loop):
    ran = []
    for number in range(1000):
        loop.call_soon(ran.append, number)
    assert len(loop._ready) == 1000 and len(list(loop._ready)) == 1000
    run_once(loop)
    assert ran == list(range(1000))
    assert len(loop._ready) == 0 and not loop._ready


def test_the_queue_grows_while_it_is_in_the_middle_of_its_ring(loop):
    ran = []

    def more(depth):
        ran.append(depth)
        if depth < 12:
            loop.call_soon(more, depth + 1)
            loop.call_soon(more, depth + 1)

    loop.call_soon(more, 0)
    for _ in range(13):
        run_once(loop)
    assert ran == sorted(ran) and len(ran) == 2**13 - 1


def test_what_a_callback_schedules_runs_in_the_next_iteration(loop):
    ran = []

    def first():
        ran.append("first")
        loop.call_soon(ran.append, "next")
        loop.stop()

    loop.call_soon(first)
    loop.call_soon(ran.append, "second")
    loop.run_forever()
    assert ran == ["first", "second"]
    run_once(loop)
    assert ran == ["first", "second", "next"]


def test_a_callback_that_calls_itself_for_ever_starves_neither_timers_nor_packets(loop):
    ran = []

    def again():
        if len(ran) < 2:
            loop.call_soon(again)
        else:
            loop.stop()

    loop.call_soon(again)
    loop.call_later(0.01, ran.append, "timer")

    async def read():
        near, far = socket.socketpair()
        with near, far:
            near.setblocking(False)
            far.send(b"packet")
            ran.append(await loop.sock_recv(near, 10))

    task = loop.create_task(read())
    loop.run_forever()
    assert set(ran) == {"timer", b"packet"}
    assert task.done()


def test_foreign_handles_are_called_too(loop):
    ran = []
    loop._ready.append(asyncio.Handle(ran.append, (1,), loop))
    loop._add_callback(asyncio.Handle(ran.append, (2,), loop))
    cancelled = asyncio.Handle(ran.append, (3,), loop)
    loop._ready.append(cancelled)
    cancelled.cancel()
    loop._add_callback(cancelled)
    run_once(loop)
    assert ran == [1, 2]


def test_the_queues_can_be_cleared(loop):
    handles = [loop.call_soon(nothing), loop.call_later(60, nothing)]
    assert list(loop._ready) == handles[:1] and list(loop._scheduled) == handles[1:]
    loop._ready.clear()
    loop._scheduled.clear()
    assert not loop._ready and not loop._scheduled
    handles[1].cancel()
    assert loop._timer_cancelled_count == 0


# -- timers ----------------------------------------------------------------------------------------


def test_a_timer_is_never_early_cpython_127859(loop):
    """Nor by the resolution of the clock, nor where its time was rounded down."""
    early = []
    left = []
    numbers = random.Random(127859)

    def due(asked, delay, handle):
        now = loop.time()
        if now - asked < delay or now < handle[0].when():
            early.append((asked, delay, now))
        left.pop()
        if not left:
            loop.stop()

    for _ in range(2000):
        delay = numbers.choice([0, 1e-7, 1e-4, 0.001, 0.01]) * numbers.random()
        handle = []
        asked = loop.time()
        left.append(1)
        handle.append(loop.call_later(delay, due, asked, delay, handle))
    loop.run_forever()
    assert early == []


def test_timers_come_in_the_order_of_their_times(loop):
    ran = []
    numbers = random.Random(1)
    now = loop.time()
    times = [now + numbers.randrange(50) * 1e-5 for _ in range(3000)]
    handles = [
        loop.call_at(when, lambda when=when, number=number: ran.append((when, number)))
        for number, when in enumerate(times)
    ]
    dropped = set(numbers.sample(range(3000), 1400))
    for number in dropped:
        handles[number].cancel()
    loop.call_at(now + 50e-5, loop.stop)
    loop.run_forever()
    expected = [(when, number) for number, when in enumerate(times) if number not in dropped]
    assert ran == sorted(expected)


@pytest.mark.parametrize("seed", range(3))
def test_the_heap_holds_what_was_set_and_not_cancelled(loop, seed):
    numbers = random.Random(seed)
    alive = []
    for _ in range(4000):
        if alive and numbers.random() < 0.45:
            alive.pop(numbers.randrange(len(alive))).cancel()
        else:
            alive.append(loop.call_later(60 + numbers.random(), nothing))
    run_once(loop)
    shown = list(loop._scheduled)
    assert {id(handle) for handle in shown if not handle.cancelled()} == set(map(id, alive))
    assert len(loop._scheduled) == len(shown) and loop._timer_cancelled_count <= 50 + len(alive)
    assert loop._scheduled[0].when() == min(handle.when() for handle in alive)
    assert all(handle._scheduled for handle in alive)


def test_cancelled_timers_do_not_pile_up(loop):
    kept = [loop.call_later(60, nothing) for _ in range(10)]
    for _ in range(100):
        for handle in [loop.call_later(70, nothing) for _ in range(100)]:
            handle.cancel()
    assert len(loop._scheduled) <= 200
    for handle in kept:
        handle.cancel()


def test_delays_and_times_that_asyncio_refuses(loop):
    with pytest.raises(TypeError, match="delay must not be None"):
        loop.call_later(None, nothing)
    with pytest.raises(TypeError, match="when cannot be None"):
        loop.call_at(None, nothing)
    with pytest.raises(TypeError):
        loop.call_later("1", nothing)


def test_a_delay_of_nothing_or_less_is_due_at_once(loop):
    ran = []
    for delay in (0, -1, -1e9, False, -0.0):
        loop.call_later(delay, ran.append, delay)
    loop.call_at(0, ran.append, "long ago")
    loop.call_later(0, loop.stop)
    loop.run_forever()
    assert len(ran) == 6


@pytest.mark.parametrize("delay", [1e12, float("inf"), float("nan")])
def test_a_timer_that_never_comes_blocks_nothing(loop, delay):
    handle = loop.call_later(delay, nothing)
    loop.call_later(0.001, loop.stop)
    loop.run_forever()
    handle.cancel()


def test_time_is_that_of_time_monotonic_where_this_is_as_fine(loop):
    if sys.version_info >= (3, 13):
        before, now, after = time.monotonic(), loop.time(), time.monotonic()
        assert before - 1e-6 <= now <= after + 1e-6
    readings = [loop.time() for _ in range(1000)]
    assert readings == sorted(readings) and len(set(readings)) > 1


# -- other threads ---------------------------------------------------------------------------------


def test_another_threads_call_wakes_a_loop_that_waits(loop):
    ran = []

    def call(number):
        ran.append((number, threading.get_ident()))
        if number < 200:
            threading.Thread(target=loop.call_soon_threadsafe, args=(call, number + 1)).start()
        else:
            loop.stop()

    loop.call_soon(call, 0)
    loop.run_forever()
    assert ran == [(number, threading.get_ident()) for number in range(201)]


def test_calls_of_many_threads_all_come_in_their_order(loop):
    ran = []

    def calls(thread):
        for number in range(2000):
            loop.call_soon_threadsafe(ran.append, (thread, number))

    def work():
        run_together(*(lambda thread=thread: calls(thread) for thread in range(4)))
        loop.call_soon_threadsafe(loop.stop)

    threading.Thread(target=work).start()
    loop.run_forever()
    for thread in range(4):
        assert [number for by, number in ran if by == thread] == list(range(2000))


def test_wrong_calls_of_other_threads_corrupt_nothing(loop):
    ran = []
    over = threading.Event()

    def calls():
        for _ in range(1000):
            loop.call_soon(ran.append, 1)
            loop.call_later(60, nothing).cancel()
            loop.call_later(0, ran.append, 1).cancelled()

    def work():
        run_together(calls, calls, calls)
        over.set()
        loop.call_soon_threadsafe(loop.stop)

    threading.Thread(target=work).start()
    loop.run_forever()
    wait_for_event(over, "the end of the threads")
    loop.call_later(0.01, loop.stop)
    loop.run_forever()
    assert len(ran) == 6000


def test_what_a_thread_called_before_the_loop_runs(loop):
    ran = []
    threading.Thread(target=loop.call_soon_threadsafe, args=(ran.append, 1)).start()
    loop.call_later(0.001, loop.stop)
    while not ran:
        loop.call_later(0.001, loop.stop)
        loop.run_forever()
    assert ran == [1]


# -- tasks and what stands on the loop -------------------------------------------------------------


def test_asyncio_on_the_loop():
    async def main():
        loop = asyncio.get_running_loop()
        assert isinstance(loop, iocpx.EventLoop)
        results = await asyncio.gather(*(asyncio.sleep(0.001, number) for number in range(50)))
        assert results == list(range(50))
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(loop.create_future(), 0.001)
        queue = asyncio.Queue(1)
        feeder = asyncio.ensure_future(asyncio.wait([loop.create_task(queue.put(1))]))
        assert await queue.get() == 1
        await feeder
        assert await loop.run_in_executor(None, sum, (1, 2)) == 3
        if sys.version_info >= (3, 12):
            loop.set_task_factory(asyncio.eager_task_factory)
            task = loop.create_task(asyncio.sleep(0, "eager"))
            assert await task == "eager"
        assert asyncio.current_task() in asyncio.all_tasks()
        return "done"

    assert run(main()) == "done"


def test_what_makes_tasks_and_futures(loop):
    """As asyncio's: the options go to the task, or to the factory as they are."""
    made = []

    def factory(loop, coro, **options):
        made.append(options)
        return asyncio.Task(coro, loop=loop, **options)

    async def nothing():
        pass

    async def main():
        context = contextvars.copy_context()
        named = loop.create_task(nothing(), name="named", context=context)
        assert type(named) is asyncio.Task and named.get_name() == "named"
        assert named.get_coro().cr_code is nothing.__code__
        if sys.version_info >= (3, 12):
            assert named.get_context() is context
        assert type(loop.create_future()) is asyncio.Future
        loop.set_task_factory(factory)
        assert loop.get_task_factory() is factory
        told = loop.create_task(nothing(), context=context)
        loop.set_task_factory(None)
        assert loop.get_task_factory() is None
        await asyncio.gather(named, told)

    loop.run_until_complete(main())
    assert [options["context"] is not None for options in made] == [True]
    for wrong in (5, nothing):
        with pytest.raises(TypeError, match="a coroutine was expected"):
            loop.create_task(wrong)
    if not asyncio.BaseEventLoop.create_task.__code__.co_flags & inspect.CO_VARKEYWORDS:
        with contextlib.closing(nothing()) as coro, pytest.raises(TypeError, match="eager_start"):
            loop.create_task(coro, eager_start=True)
    loop.set_debug(True)
    assert loop.get_debug() is True
    coro = nothing()
    task = loop.create_task(coro)
    assert task._source_traceback[-1].name == "test_what_makes_tasks_and_futures"
    loop.run_until_complete(task)
    loop.set_debug(False)
    loop.close()
    coro = nothing()
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        loop.create_task(coro)
    coro.close()


def test_another_thread_sees_the_tasks_of_the_loop(loop):
    """As debuggers and monitors look at them; from Python 3.14 on each thread has its own list."""
    names = []
    gate = asyncio.Event()

    async def waits():
        await gate.wait()

    async def main():
        tasks = [loop.create_task(waits(), name=f"waits {number}") for number in range(3)]
        await asyncio.sleep(0)
        thread = threading.Thread(
            target=lambda: names.extend(task.get_name() for task in asyncio.all_tasks(loop))
        )
        thread.start()
        thread.join()
        gate.set()
        await asyncio.gather(*tasks)

    loop.run_until_complete(main())
    assert {"waits 0", "waits 1", "waits 2"} <= set(names)


@pytest.mark.skipif(sys.version_info < (3, 14), reason="asyncio has it from Python 3.14 on")
def test_the_call_graph_of_a_task(loop):
    gate = asyncio.Event()

    async def inner():
        await gate.wait()

    async def outer():
        async with asyncio.TaskGroup() as group:
            group.create_task(inner(), name="inner")

    async def main():
        task = loop.create_task(outer(), name="outer")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        (waiting,) = [one for one in asyncio.all_tasks() if one.get_name() == "inner"]
        graph = asyncio.capture_call_graph(waiting)
        assert graph.future is waiting
        assert [call.frame.f_code.co_name for call in graph.call_stack] == ["wait", "inner"]
        assert [caller.future for caller in graph.awaited_by] == [task]
        text = asyncio.format_call_graph(waiting)
        assert "inner" in text and "outer" in text
        gate.set()
        await task

    loop.run_until_complete(main())


def test_an_unclosed_loop_is_collected_and_warned_of():
    class Loop(iocpx.EventLoop):
        pass

    def make():
        loop = Loop()
        loop.call_soon(nothing, loop)
        loop.call_later(60, nothing, loop)
        return weakref.ref(loop)

    gc.disable()  # it would warn where nobody waits for that
    try:
        gone = make()
        with pytest.warns(ResourceWarning, match="unclosed event loop"):
            gc.collect()
    finally:
        gc.enable()
    assert gone() is None
