"""Files of a loop: their operations complete in its look at the port, and their futures are
asyncio's.

Loaded with the loop; from then on open_file() asks here whether one runs.

Imported by `_event_loop`, and called by `_open_file` through what it gives it
(`set_loop_opener`); calls `_open_file`, from whose class its own derives, and `_engine_loop`.
"""

cimport cython

from iocpx._engine_loop cimport EngineLoop
from iocpx._engines cimport EngineRun
from iocpx._open_file cimport Opened, set_loop_opener
from iocpx._winsock cimport CloseHandle, HANDLE

import asyncio


class LoopFileFuture(asyncio.Future):
    """Of an operation of a loop's file."""

    _operation = None                   # until it is over; or a call that is done aside
    _message = None

    def cancel(self, msg=None):
        """Ask Windows to give the operation up.  False: nothing is cancelled yet, so a task that is
        cancelled meanwhile waits for the outcome, and then gets its CancelledError."""
        operation = self._operation
        if operation is None:
            return super().cancel(msg)
        self._message = msg
        operation.cancel()
        return False


cdef class LoopOpened(Opened):
    cdef EngineLoop loop
    cdef list waiters                   # futures of wait_closed()
    cdef bint over                      # its handle is closed

    def __cinit__(self, EngineLoop loop):
        self.loop = loop
        self.waiters = []

    cdef int begin(self, size_t handle) except -1:
        cdef EngineRun run
        try:
            run = self.loop.engine_run()
        except BaseException:
            CloseHandle(<HANDLE>handle)
            raise
        # Each operation has its packet, so that whoever awaits one lets others have their turn.
        self.put_on_port(run.engine, handle, False)
        self.loop.files.add(self)
        return 0

    cdef object new_future(self, operation):
        future = LoopFileFuture(loop=self.loop)
        future._operation = operation
        return future

    cdef void posted(self) noexcept:
        self.loop.wants_look()

    cdef object settle(self, future, result, exc, bint cancelled):
        try:
            future._operation = None
            if future.done():
                return None
            if cancelled:
                future.cancel(future._message)
            elif exc is not None:
                future.set_exception(exc)
            else:
                future.set_result(result)
        except BaseException as raised:
            self.loop.callback_raised(raised, "a future of a file could not be set", None, None)

    cdef void settle_apart(self, future, exc) noexcept:
        try:
            self.loop.call_soon_threadsafe(settle_here, self, future, exc)
        except RuntimeError:
            pass                        # it is closed

    cdef void ended(self) noexcept:
        with cython.critical_section(self):
            self.over = True
        self.loop.files.discard(self)
        if self.waiters:
            try:
                self.loop.call_soon_threadsafe(self.wake_waiters)
            except RuntimeError:
                pass                    # it is closed

    cdef bint is_over(self) noexcept:
        cdef bint over
        # As ended() has it: without a GIL each would else see what was before the other.
        with cython.critical_section(self):
            over = self.over
        return over

    def wake_waiters(self):
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def wait_closed(self):
        """After close(), until its handle is closed."""
        waiter = self.loop.create_future()
        # First, so that the end finds it or it finds the end.
        self.waiters.append(waiter)
        if not self.is_over():
            await waiter


def settle_here(LoopOpened opened, future, exc):
    opened.settle(future, None, exc, False)


def open_for_running_loop():
    loop = asyncio._get_running_loop()
    return LoopOpened.__new__(LoopOpened, loop) if isinstance(loop, EngineLoop) else None


set_loop_opener(open_for_running_loop)
