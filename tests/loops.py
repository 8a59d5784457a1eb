"""Event loops of the tests: made, run and closed, with what they complained about."""

import asyncio
import contextlib
import gc
import time

from waiting import WAIT_S

import iocpx


@contextlib.contextmanager
def running_loop():
    """A loop that is closed at the end; what its exception handler was told is in `complaints`."""
    loop = iocpx.new_event_loop()
    loop.complaints = []
    loop.set_exception_handler(lambda _, context: loop.complaints.append(context))
    try:
        yield loop
    finally:
        if not loop.is_closed():
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
        gc.collect()


def run(main, limit_s=WAIT_S):
    """Run a coroutine on a new loop, within the time that a test has; nothing may complain."""

    async def limited():
        return await asyncio.wait_for(main, limit_s)

    with running_loop() as loop:
        result = loop.run_until_complete(limited())
    assert loop.complaints == []
    return result


def run_once(loop):
    """Run what is ready now, and what is due now."""
    loop.call_soon(loop.stop)
    loop.run_forever()


def run_until(loop, condition, what):
    """Run the loop until the condition holds; `what` completes "... did not happen"."""
    limit = time.monotonic() + WAIT_S

    def look():
        if condition() or time.monotonic() > limit:
            loop.stop()
        else:
            loop.call_later(0.001, look)

    loop.call_soon(look)
    loop.run_forever()
    assert condition(), f"{what} did not happen within {WAIT_S} s"
