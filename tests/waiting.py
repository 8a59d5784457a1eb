"""Waits of the tests: each has a limit and fails with a sentence."""

import queue
import threading
import time

# How long anything may take before a test calls it lost, in seconds. Far above what is needed: it
# measures nothing.
WAIT_S = 30

# The clock for "never early": time.monotonic() has steps of 15.6 ms on Windows before Python 3.13.
clock = time.perf_counter


def wait_for_event(event, what):
    """Wait for a threading.Event; `what` completes the sentence "... did not happen"."""
    assert event.wait(WAIT_S), f"{what} did not happen within {WAIT_S} s"


def take(items, what):
    """The next item of a queue; `what` completes the sentence "... did not come"."""
    try:
        return items.get(timeout=WAIT_S)
    except queue.Empty:
        raise AssertionError(f"{what} did not come within {WAIT_S} s") from None


def wait_until(condition, what):
    """Wait until `condition()` holds; `what` completes the sentence "... did not happen".

    For what only the server's figures tell of: no callback wakes this one.
    """
    limit = time.monotonic() + WAIT_S
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < limit, f"{what} did not happen within {WAIT_S} s"
        pause.wait(0.01)


def wait_for_a_turn(connection):
    """Wait until the turn that the connection has now, callbacks and all, is over."""
    over = threading.Event()
    connection.call_soon(over.set)
    assert over.wait(WAIT_S), f"no other turn came within {WAIT_S} s"


def all_stats(server):
    """The figures of a server and of its engine."""
    return {**server.engine.stats(), **server.stats()}


def wait_for_figure(server, name, value):
    """Wait until `all_stats(server)[name]` is `value`."""
    figures = []

    def reached():
        figures.append(all_stats(server)[name])
        return figures[-1] == value

    try:
        wait_until(reached, f"{name} == {value}")
    except AssertionError as error:
        raise AssertionError(f"{error}; it is {figures[-1]}") from None


def wait_until_gone(served, count=0):
    """Wait until only `count` connections are left."""
    wait_until(lambda: served.server.connection_count == count, f"a count of {count} connections")


def run_together(*functions):
    """Run the functions at the same time, each in a thread; raise the first error of theirs."""
    errors = []

    def guarded(function):
        try:
            function()
        except BaseException as error:
            errors.append(error)

    threads = [
        threading.Thread(target=guarded, args=(function,), daemon=True) for function in functions
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(4 * WAIT_S)
        assert not thread.is_alive(), f"a thread of the test did not end within {4 * WAIT_S} s"
    if errors:
        raise errors[0]


def forget_interrupts():
    """Main thread: have no Ctrl+C that was handled wake a later wait for a lock.

    It is an event that stays set until such a wait. Where that is one of CPython's own, for which
    other threads wait too, CPython 3.13 and 3.14 may end the process (their issue 148820, mended in
    April 2026).
    """
    mine = threading.Lock()
    mine.acquire()
    mine.acquire(timeout=0.001)
