"""What call_soon() and call_later() of the loop return: to a program asyncio's own handles."""

import asyncio
import contextvars
import copy
import gc
import logging
import pickle
import sys
import threading
import weakref

import pytest
from loops import run_once, running_loop
from waiting import wait_for_event

import iocpx

variable = contextvars.ContextVar("variable", default="unset")


@pytest.fixture
def loop():
    with running_loop() as loop:
        yield loop


@pytest.fixture(params=["call_soon", "call_soon_threadsafe"])
def call_soon(loop, request):
    """Both, since from Python 3.14 on they have handles of different classes."""
    return getattr(loop, request.param)


def nothing(*arguments):
    pass


def same_handles(loop):
    """A handle of each kind and asyncio's for the same callback."""
    context = contextvars.copy_context()
    when = loop.time() + 60
    own = loop.call_at(when, nothing, 1, "two", context=context)
    theirs = asyncio.TimerHandle(when, nothing, (1, "two"), loop, context)
    yield own, theirs
    own.cancel()
    own = loop.call_soon(nothing, 1, "two", context=context)
    yield own, asyncio.Handle(nothing, (1, "two"), loop, context)
    own.cancel()


def test_isinstance_and_what_it_says_of_itself(loop):
    for own, theirs in same_handles(loop):
        assert isinstance(own, type(theirs))
        assert isinstance(own, asyncio.Handle)
        assert own.__class__ is type(theirs)
        for again in range(2):
            assert repr(own) == repr(theirs)
            assert own.cancelled() is theirs.cancelled() is bool(again)
            assert own._cancelled is theirs._cancelled
            assert own._callback == theirs._callback and own._args == theirs._args
            own.cancel()
            theirs.cancel()
        assert own.get_context() is own._context is theirs._context
        assert own._loop is loop
        assert weakref.ref(own)() is own


def test_a_plain_handle_is_no_timer(loop):
    handle = loop.call_soon(nothing)
    assert not isinstance(handle, asyncio.TimerHandle)
    assert not hasattr(handle, "when")


def test_debug_mode_keeps_the_text_and_the_place(loop):
    loop.set_debug(True)
    for own, theirs in same_handles(loop):
        assert own._source_traceback[-1].filename == __file__
        assert own._source_traceback[-1].name == "same_handles"
        assert f"created at {__file__}:" in repr(own)
        strip = repr(own).replace("cancelled ", "").rpartition(" created at ")[0]
        assert strip == repr(theirs).rpartition(" created at ")[0]
        own.cancel()
        assert "nothing(1, 'two')" in repr(own) and "cancelled" in repr(own)
        assert own._callback is None


def test_outside_of_debug_mode_no_place_is_kept(loop):
    assert loop.call_soon(nothing)._source_traceback is None


def test_timers_compare_as_asyncios_do(loop):
    context = contextvars.copy_context()
    early = loop.call_at(1e9, nothing, context=context)
    same = loop.call_at(1e9, nothing, context=context)
    late = loop.call_at(2e9, nothing, context=context)
    stock = asyncio.TimerHandle(2e9, nothing, (), loop, context)
    assert early == same and hash(early) == hash(same) == hash(1e9)
    assert early != late and late == stock and stock == late
    assert early < late <= stock and stock > early and late >= early
    assert early.when() == early._when == 1e9
    assert early != 1e9
    with pytest.raises(TypeError, match="not supported"):
        assert early < 1e9
    assert early._scheduled
    for timer in (early, same, late):
        timer.cancel()


def test_a_callback_runs_in_the_context_it_was_given(loop):
    seen = []
    variable.set("before")
    context = contextvars.copy_context()
    context.run(variable.set, "given")
    loop.call_soon(lambda: seen.append(variable.get()))
    loop.call_soon(lambda: seen.append(variable.get()), context=context)
    loop.call_later(0, lambda: seen.append(variable.get()), context=context)
    loop.call_soon(variable.set, "of the callback alone")
    variable.set("after")
    loop.call_later(0.002, loop.stop)
    loop.run_forever()
    assert seen == ["before", "given", "given"]
    assert variable.get() == "after"


def test_a_context_that_is_entered_already_is_an_exception_of_the_callback(loop, caplog):
    context = contextvars.copy_context()
    ran = []

    def enter():
        handle = loop.call_soon(ran.append, 1, context=context)
        context.run(handle._run)
        handle.cancel()

    loop.call_soon(enter)
    run_once(loop)
    assert ran == []
    # asyncio calls the exception handler in the same context, which fails in its turn.
    assert "cannot enter context" in f"{loop.complaints} {caplog.text}"


def test_an_exception_is_told_as_asyncio_tells_it(loop):
    error = ValueError("told")

    def fails(argument):
        raise error

    for debug in (False, True):
        loop.set_debug(debug)
        handle = loop.call_soon(fails, 5)
        stock = asyncio.Handle(fails, (5,), loop)
        stock._run()
        run_once(loop)
        theirs, ours = loop.complaints
        assert ours["message"] == theirs["message"]
        assert ours["exception"] is error
        assert ours["handle"] is handle
        assert set(ours) == set(theirs)
        loop.complaints.clear()


@pytest.mark.parametrize("fatal", [SystemExit, KeyboardInterrupt])
def test_what_ends_a_program_leaves_run_forever_and_the_rest_stays_ready(loop, fatal):
    ran = []

    def fails():
        raise fatal("now")

    loop.call_soon(fails)
    loop.call_soon(ran.append, 1)
    with pytest.raises(fatal, match="now"):
        loop.run_forever()
    assert not loop.is_running()
    assert ran == [] and loop.complaints == []
    run_once(loop)
    assert ran == [1]


def test_a_callback_that_cancels_itself(loop):
    handles = []

    def cancels(argument):
        handles[0].cancel()
        raise ValueError(argument)

    handles.append(loop.call_soon(cancels, "still here"))
    run_once(loop)
    assert str(loop.complaints[0]["exception"]) == "still here"


def test_cancelled_handles_are_not_called_and_let_go_of_what_they_held(loop):
    class Held:
        pass

    for call in (loop.call_soon, lambda *a: loop.call_later(0, *a), loop.call_soon_threadsafe):
        held = Held()
        gone = weakref.ref(held)
        handle = call(nothing, held)
        del held
        handle.cancel()
        gc.collect()
        assert gone() is None
        run_once(loop)
        assert handle.cancelled()


def test_a_slow_callback_is_warned_of_in_debug_mode(loop, caplog):
    def slow():
        assert loop._current_handle is handle

    loop.set_debug(True)
    loop.slow_callback_duration = 0
    handle = loop.call_soon(slow)
    with caplog.at_level(logging.WARNING, "asyncio"):
        run_once(loop)
    texts = [record.getMessage() for record in caplog.records]
    assert any(
        text.startswith("Executing <Handle") and "slow()" in text and text.endswith(" seconds")
        for text in texts
    ), texts
    assert loop._current_handle is None


def test_debug_mode_checks_callbacks_and_threads(loop):
    async def coroutine():
        pass

    loop.set_debug(True)
    for call in (
        loop.call_soon,
        loop.call_soon_threadsafe,
        lambda callback: loop.call_later(1, callback),
        lambda callback: loop.call_at(1, callback),
    ):
        with pytest.raises(TypeError, match="coroutines cannot be used with call_"):
            call(coroutine)
        with pytest.raises(TypeError, match="a callable object was expected"):
            call("text")
    errors = []

    def wrong_thread():
        for call in (loop.call_soon, lambda callback: loop.call_later(1, callback)):
            try:
                call(nothing)
            except RuntimeError as error:
                errors.append(str(error))
        loop.call_soon_threadsafe(loop.stop)

    loop.call_soon(threading.Thread(target=wrong_thread).start)
    loop.run_forever()
    assert len(errors) == 2 and all("Non-thread-safe operation" in text for text in errors)


@pytest.mark.skipif(sys.version_info < (3, 14), reason="asyncio's are so from 3.14 on")
def test_another_threads_cancel_waits_for_the_end_of_the_callback(loop):
    begun, asked, finished = threading.Event(), threading.Event(), threading.Event()
    seen = []

    def callback():
        begun.set()
        wait_for_event(asked, "the call of cancel()")
        assert not handle.cancelled()  # its own thread does not wait
        finished.set()

    def cancels():
        wait_for_event(begun, "the callback")
        asked.set()
        handle.cancel()
        seen.append(finished.is_set())
        loop.call_soon_threadsafe(loop.stop)

    handle = loop.call_soon_threadsafe(callback)
    assert type(asyncio.events._ThreadSafeHandle) is type
    assert isinstance(handle, asyncio.events._ThreadSafeHandle)
    threading.Thread(target=cancels).start()
    loop.run_forever()
    assert seen == [True]


def test_handles_that_nobody_holds_are_collected_with_their_loop():
    class Marked:
        pass

    def make():
        marked = Marked()
        with running_loop() as loop:
            for call in (loop.call_soon, loop.call_soon_threadsafe):
                call(nothing, loop, marked)
            loop.marked = loop.call_later(60, nothing, loop, marked)
        return weakref.ref(marked), weakref.ref(loop)

    references = make()
    gc.collect()
    assert [reference() for reference in references] == [None, None]


# -- handles that are used again ---------------------------------------------------


def call_many(loop, *calls):
    """Have the running loop call what it made itself, and a hundred others after that."""

    def begin():
        for call in calls:
            call()
        for _ in range(100):
            loop.call_soon(nothing)
        loop.call_soon(loop.call_soon, loop.stop)

    loop.call_soon(begin)
    loop.run_forever()


def test_a_handle_that_somebody_holds_stays_what_it_was(loop, call_soon):
    kept = []
    called = []

    def call(number):
        kept.append(call_soon(called.append, number))

    call_many(loop, *(lambda number=number: call(number) for number in range(3)))
    call_many(loop)
    assert called == [0, 1, 2]
    assert [(handle._callback, handle._args) for handle in kept] == [
        (called.append, (number,)) for number in range(3)
    ]
    assert not any(handle.cancelled() for handle in kept)


def test_a_handle_that_was_cancelled_does_not_cancel_the_next(loop, call_soon):
    called = []

    def cancelled():
        call_soon(called.append, "cancelled").cancel()

    call_many(loop, cancelled, cancelled)
    call_many(loop, *(lambda n=n: call_soon(called.append, n) for n in range(200)))
    assert called == list(range(200))


def test_a_weak_reference_dies_with_its_handle(loop, call_soon):
    references = []
    call_many(loop, lambda: references.append(weakref.ref(call_soon(nothing))))
    assert [reference() for reference in references] == [None]


def test_what_a_called_handle_held_is_let_go_of(loop, call_soon):
    class Marked:
        pass

    references = []

    def call():
        marked = Marked()
        references.append(weakref.ref(marked))
        call_soon(nothing, marked)

    call_many(loop, call)
    assert [reference() for reference in references] == [None]


def test_a_called_handle_in_a_cycle_is_collected(loop, call_soon):
    class Holder:
        pass

    references = []

    def call():
        holder = Holder()
        references.append(weakref.ref(holder))
        holder.handle = call_soon(nothing, holder)

    call_many(loop, call)
    gc.collect()
    assert [reference() for reference in references] == [None]


@pytest.mark.filterwarnings("ignore:unclosed event loop:ResourceWarning")
def test_a_loop_that_was_stopped_and_forgotten_is_collected_with_its_handles():
    def make():
        loop = iocpx.new_event_loop()

        def stop():
            loop.stop()
            loop.call_soon(nothing, loop)

        loop.call_soon(stop)
        loop.run_forever()
        return weakref.ref(loop)

    reference = make()
    gc.collect()
    assert reference() is None


def test_a_timer_that_somebody_holds_stays_what_it_was(loop):
    kept, called = [], []

    def begin(number):
        kept.append(loop.call_later(0.001 * number, called.append, number))

    def others():
        for _ in range(100):
            loop.call_later(0.001, nothing)
        loop.call_later(0.01, loop.stop)

    for number in range(3):
        loop.call_soon(begin, number)
    loop.call_soon(others)
    loop.run_forever()
    times = [handle.when() for handle in kept]
    loop.call_soon(others)
    loop.run_forever()
    assert called == [0, 1, 2]
    assert [handle.when() for handle in kept] == times == sorted(times)
    assert [handle._args for handle in kept] == [(0,), (1,), (2,)]
    assert not any(handle.cancelled() for handle in kept)


def test_the_collector_knows_what_is_left_when_the_loop_has_stopped(loop, call_soon):
    """While it runs it does not look at what is called sooner or later in any case."""
    left = []

    def begin():
        left.append(loop.call_later(60, nothing))
        left.append(call_soon(nothing))
        loop.stop()

    loop.call_soon(begin)
    loop.run_forever()
    for handle in left:
        assert gc.is_tracked(handle) and gc.is_tracked(handle.get_context())


@pytest.mark.parametrize("kind", ["called", "cancelled", "seen"])
@pytest.mark.parametrize("later", [False, True], ids=["soon", "later"])
def test_what_only_a_context_and_its_handle_hold_is_collected(loop, kind, later):
    """The context has an object that has the handle, whose context it is."""

    class Keeps:
        pass

    references = []
    without = contextvars.copy_context()

    def begin():
        keeps = Keeps()
        references.append(weakref.ref(keeps))
        variable.set(keeps)
        keeps.handle = loop.call_later(0, nothing) if later else loop.call_soon(nothing)
        if kind == "cancelled":
            keeps.handle.cancel()
        elif kind == "seen":
            keeps.context = keeps.handle.get_context()
        loop.call_later(0.01, collect, context=without)

    def collect():
        gc.collect()
        references.append(references[0]())
        loop.stop()

    loop.call_soon(begin, context=contextvars.copy_context())
    loop.run_forever()
    assert references[1] is None


def test_a_handle_is_not_copied(loop):
    def copies():
        for handle in (loop.call_soon(nothing), loop.call_later(60, nothing)):
            for copy_it in (copy.copy, copy.deepcopy, pickle.dumps):
                with pytest.raises(TypeError, match="pickle"):
                    copy_it(handle)
        raised.append(None)
        loop.stop()

    raised = []
    loop.call_soon(copies)
    loop.run_forever()
    assert raised == [None]


def test_handles_that_are_taken_out_of_the_queues_are_the_collectors_again(loop):
    """As those do that look into a loop."""
    left = []

    def takes():
        left.extend(loop.call_soon(nothing) for _ in range(2))
        left.append(loop.call_later(60, nothing))
        assert loop._ready.popleft() is left[0]
        loop._ready.clear()
        loop._scheduled.clear()
        assert [gc.is_tracked(handle) for handle in left] == [True] * 3
        loop.stop()

    loop.call_soon(takes)
    loop.run_forever()
    assert len(left) == 3 and loop.complaints == []


def test_contexts_by_the_thousand_while_the_collector_runs(loop):
    """What is called keeps its context, cancels another, or looks at it."""
    seen, kept = [], []

    def look(number, held):
        seen.append(number)
        assert variable.get() == number
        if number % 7 == 0:
            gc.collect(0)
        if number % 3 == 0:
            kept.append((held[0], held[0].get_context()))

    def begin():
        for number in range(1000):
            variable.set(number)
            held = []
            call = loop.call_soon if number % 2 else lambda *a: loop.call_later(0.0001, *a)
            held.append(call(look, number, held))
            if number % 5 == 0:
                call(nothing).cancel()
        loop.call_later(0.01, loop.stop)

    loop.call_soon(begin)
    loop.run_forever()
    assert sorted(seen) == list(range(1000))
    assert all(handle.get_context() is context for handle, context in kept)
    assert [context[variable] for _, context in kept] == [handle._args[0] for handle, _ in kept]


def test_handles_of_another_thread_by_the_thousand(loop):
    """Some are kept, some cancelled: those called, some of them meanwhile."""
    called, kept, cancelled = [], {}, []

    def call(number):
        called.append(number)

    def calls():
        for number in range(5000):
            handle = loop.call_soon_threadsafe(call, number)
            if number % 7 == 0:
                kept[number] = handle
            if number % 5 == 0:
                handle.cancel()
                cancelled.append(number)
        loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=calls)
    thread.start()
    loop.run_forever()
    thread.join()
    assert called == sorted(called)
    assert set(range(5000)) - set(called) <= set(cancelled)
    for number, handle in kept.items():
        assert handle.cancelled() == (number % 5 == 0)
        assert handle._args == (None if handle.cancelled() else (number,))
