"""The timers of a connection: what call_later() and call_soon() return, and the heap that they
are in.

The engine is asked to wake the connection when the first of them is due (conn_wake_at).  One
that is cancelled leaves the heap at once, and the engine is not told: a protocol that cancels
one and sets another with each message does not move the engine's, and the connection is woken
once for nothing when the first of these would have been due.

Free-threaded builds: handles and heap change in critical sections of `Timers`.  Nothing in these
runs Python code, which could end them early.

Called by the program, and by `_connection` and `_datagram_server`; calls `_requests`, and
`_runtime`, which it tells what callbacks raise.
"""

cimport cython
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.math cimport ceil
from libc.stdint cimport uint64_t

from iocpx._base cimport NEVER, now_us
from iocpx._requests cimport conn_wake_at
from iocpx._runtime cimport Runtime
from iocpx._state cimport timer_arm, timer_disarm
from iocpx._types cimport conn_t

import functools
import inspect
import types

from iocpx._arguments import seconds

MAX_DELAY_S = 366 * 86400

cdef object FunctionType = types.FunctionType
cdef object MethodType = types.MethodType
cdef int IS_ASYNC = inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR


@cython.final
cdef class TimerHandle:
    """A callback to come: what Connection.call_later() and call_soon() return.
    asyncio.TimerHandle, for any thread."""

    def __init__(self):
        raise TypeError(
            "TimerHandle objects are made by Connection.call_later() and call_soon() only")

    def cancel(self):
        """Have the callback not called; without effect once it has begun, or is cancelled.
        asyncio.Handle.cancel().  Any thread."""
        cdef bint armed = False
        cdef Timers timers = self.timers
        callback = args = None
        if timers is None:
            return
        with cython.critical_section(timers):
            if timer_disarm(&timers.heap, &self.timer):
                armed = True
                self.was_cancelled = True
                callback = self.callback
                args = self.args
                self.callback = None
                self.args = None
        if armed:
            Py_DECREF(self)             # of the INCREF in add

    def cancelled(self):
        """Was it cancelled, by cancel() or by the end of the connection?
        asyncio.Handle.cancelled().  Any thread.

        True means that the callback was not called and will not be; so, unlike asyncio's, a
        cancel() that came too late leaves this False.
        """
        cdef bint was_cancelled = True
        cdef Timers timers = self.timers
        if timers is not None:
            with cython.critical_section(timers):
                was_cancelled = self.was_cancelled
        return was_cancelled


@cython.final
cdef class Timers:
    # now_us is rounded down, as every clock: a timer has its time once that shows more than it
    # was set for.  At the same reading it could be early by less than a microsecond.

    cdef TimerHandle add(self, conn_t *conn, callback, tuple args, uint64_t delay_us):
        cdef TimerHandle handle = TimerHandle.__new__(TimerHandle)
        cdef uint64_t due = 0
        cdef bint first = False
        handle.timers = self
        handle.timer.owner = <PyObject *>handle
        with cython.critical_section(self):
            handle.was_cancelled = self.over
            if not self.over:
                # In this section, so that what is added after `run` has looked at the clock is
                # due no earlier.
                due = now_us() + delay_us
                timer_arm(&self.heap, &handle.timer, due)
                first = self.heap.first == &handle.timer
                handle.callback = callback
                handle.args = args
                Py_INCREF(handle)       # dropped by cancel or take
        # What is due before it has been asked for already, or else is asked for by run.
        if first and conn != NULL:
            ask(conn, due, delay_us == 0)
        return handle

    cdef TimerHandle take(self, uint64_t now, bint over):
        """The first, if its time has passed; None: there is none such.  over: it is cancelled,
        and no other is added."""
        cdef TimerHandle handle = None
        with cython.critical_section(self):
            self.over = self.over or over
            if self.heap.first != NULL and self.heap.first.due < now:
                handle = <TimerHandle>self.heap.first.owner
                timer_disarm(&self.heap, &handle.timer)
                handle.was_cancelled = over
        if handle is not None:
            Py_DECREF(handle)           # of the INCREF in add
        return handle

    cdef void run(self, conn_t *conn, Runtime runtime, connection) noexcept:
        cdef uint64_t now
        cdef uint64_t next_us = NEVER
        cdef TimerHandle handle
        # For all: what its callbacks add has its turn later, or a chain of them would never end.
        with cython.critical_section(self):
            now = now_us()
        handle = self.take(now, False)
        while handle is not None:
            callback = handle.callback
            args = handle.args
            handle.callback = None
            handle.args = None
            try:
                callback(*args)
            except BaseException as exc:
                runtime.report("the callback of a timer raised, the connection goes on as if it "
                               "had not", exc, connection.get_protocol(), connection)
            callback = args = None
            handle = self.take(now, False)
        with cython.critical_section(self):
            if self.heap.first != NULL:
                next_us = self.heap.first.due
        if next_us != NEVER:
            ask(conn, next_us, next_us <= now_us())

    cdef void end(self) noexcept:
        cdef TimerHandle handle = self.take(NEVER, True)
        while handle is not None:
            handle.callback = None
            handle.args = None
            handle = self.take(NEVER, True)


cdef void ask(conn_t *conn, uint64_t due_us, bint now) noexcept:
    # With the GIL: what may be asked per message is done before another thread could have it,
    # and the engine's locks are never held while the GIL is awaited.
    conn_wake_at(conn, 0 if now else due_us // 1000 + 1)


cdef uint64_t microseconds(delay_s) except? 0:
    return <uint64_t>ceil(<double>seconds("delay_s", delay_s, 0, MAX_DELAY_S) * 1e6)


cdef bint is_async(function):
    """Is it an async def?  Functions and methods without a call, since timers may be set per
    message."""
    if type(function) is MethodType:
        function = function.__func__
    while isinstance(function, functools.partial):
        function = function.func
    if type(function) is MethodType:
        function = function.__func__
    return type(function) is FunctionType and (<int>function.__code__.co_flags & IS_ASYNC) != 0


cdef int check_callback(callback) except -1:
    if not callable(callback):
        raise TypeError(f"callback must be callable, got {callback!r}")
    if is_async(callback):
        raise TypeError(f"callback must be callable without await, no async def, got {callback!r}")
    return 0
