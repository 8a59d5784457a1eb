"""The scheduling of the asyncio loop: what is called next, what is called when, and how long to
wait at the port meanwhile.

An iteration (`Scheduler.iterate`) is asyncio's: look at the port, take the timers that are due, call
what was ready then.  What these callbacks schedule has its turn in the next one.  Two things are
not asyncio's.  A timer is never early, not by the resolution of the clock either.  And where
callbacks are ready the look is spared, for LOOK_S at most: it costs as much as dozens of callbacks.
While operations are pending, only ever more iterations are spared after looks that found nothing,
up to PATIENCE.

Free-threaded builds, and a call of another thread that had better been call_soon_threadsafe():
queue and heap change in critical sections of their own, in which no Python code runs.
"""

cimport cython
from cpython.contextvars cimport PyContext_CopyCurrent
from cpython.exc cimport PyErr_CheckSignals
from cpython.list cimport PyList_GET_SIZE
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.math cimport ceil
from libc.stdlib cimport free, realloc

from iocpx._handles cimport ThreadSafeHandle
from iocpx._winsock cimport (
    INFINITE, LARGE_INTEGER, QueryPerformanceCounter, QueryPerformanceFrequency,
)

from asyncio import base_events, events
from asyncio.log import logger

cdef extern from *:
    PyObject **list_items "PySequence_Fast_ITEMS" (PyObject *of)

cdef enum:
    FEW = 64                    # room of a queue that has never been long
    PATIENCE = 64               # iterations without a look, while operations are pending
    MANY_TIMERS = 100           # asyncio's: from here on cancelled ones are not left for long

cdef double LOOK_S = 0.001
cdef double LONGEST_WAIT_S = 24 * 3600
# The distance from 1.0 to the next number.
cdef double EPSILON = 2.220446049250313e-16

cdef double ticks_per_second

cdef bint has_thread_safe_handle = hasattr(events, "_ThreadSafeHandle")


cdef double now() noexcept nogil:
    cdef LARGE_INTEGER ticks
    QueryPerformanceCounter(&ticks)
    return <double>ticks.QuadPart / ticks_per_second


cdef int read_frequency() noexcept:
    global ticks_per_second
    cdef LARGE_INTEGER frequency
    QueryPerformanceFrequency(&frequency)
    ticks_per_second = <double>frequency.QuadPart
    return 0


read_frequency()


cdef inline double after(double when_s) noexcept:
    """When a timer is called, the next number: a time that has been computed as another plus a
    delay may be rounded down, and the timer would be early by as much."""
    return when_s + when_s * EPSILON


cdef inline void put(list room, Py_ssize_t index, handle) noexcept:
    """Into a place where None is."""
    cdef PyObject **items = list_items(<PyObject *>room)
    Py_INCREF(handle)
    items[index] = <PyObject *>handle
    Py_DECREF(None)


cdef inline take(list room, Py_ssize_t index):
    """Out of its place, where None stays."""
    cdef PyObject **items = list_items(<PyObject *>room)
    cdef PyObject *item = items[index]
    Py_INCREF(None)
    items[index] = <PyObject *>None
    handle = <object>item
    Py_DECREF(handle)                   # of the list's reference
    return handle


cdef inline bint is_before(due_t *one, due_t *other) noexcept:
    return one.when_s < other.when_s or (one.when_s == other.when_s
                                         and one.number < other.number)


# What holds handles is a list, since the garbage collector looks into lists: callbacks refer to
# their loop.  It may even empty them, but only those of a loop that nobody can reach any more.
# no_gc_clear: then they are empty, not None.
@cython.final
@cython.no_gc_clear
cdef class ReadyQueue:
    """What loop._ready is: as much of a deque as whoever looks into a loop asks of it."""

    def __cinit__(self):
        self.ring = [None] * FEW

    cdef int push(self, handle) except -1:
        cdef list ring = None
        cdef list old = None
        cdef bint done = False
        cdef Py_ssize_t room
        while not done:
            with cython.critical_section(self):
                room = PyList_GET_SIZE(self.ring)
                if ring is not None and PyList_GET_SIZE(ring) > room:
                    old = self.ring
                    self.grow(ring)
                    room = PyList_GET_SIZE(ring)
                if self.count < room:
                    put(self.ring, (self.head + self.count) & (room - 1), handle)
                    self.count += 1
                    done = True
            if not done:
                ring = [None] * max(2 * room, FEW)
        return 0

    cdef void grow(self, list ring) noexcept:
        """Move to a larger ring."""
        cdef Py_ssize_t index
        cdef Py_ssize_t room = PyList_GET_SIZE(self.ring)
        cdef PyObject **old = list_items(<PyObject *>self.ring)
        cdef PyObject **new = list_items(<PyObject *>ring)
        cdef PyObject *item
        if room == 0:                   # the garbage collector was here
            self.count = 0
        for index in range(self.count):
            # An exchange: the None goes the other way.
            item = new[index]
            new[index] = old[(self.head + index) & (room - 1)]
            old[(self.head + index) & (room - 1)] = item
        self.head = 0
        self.ring = ring

    cdef pop(self):
        cdef Py_ssize_t head
        handle = None
        with cython.critical_section(self):
            head = self.head
            handle = take(self.ring, head)
            self.head = (head + 1) & (PyList_GET_SIZE(self.ring) - 1)
            self.count -= 1
        return handle

    def __len__(self):
        return self.count

    def __iter__(self):
        cdef Py_ssize_t index
        handles = []
        with cython.critical_section(self):
            for index in range(self.count):
                handles.append(self.ring[(self.head + index) & (PyList_GET_SIZE(self.ring) - 1)])
        return iter(handles)

    def __repr__(self):
        return f"ReadyQueue({list(self)!r})"

    def append(self, handle):
        """deque.append()"""
        self.push(handle)

    def popleft(self):
        """deque.popleft()"""
        if self.count == 0:
            raise IndexError("pop from an empty ReadyQueue")
        return self.pop()

    def clear(self):
        """deque.clear()"""
        cdef list ring = [None] * FEW
        old = None
        with cython.critical_section(self):
            old = self.ring
            self.ring = ring
            self.head = 0
            self.count = 0


@cython.final
@cython.no_gc_clear
cdef class TimerHeap:
    """What loop._scheduled is: as much of a list as whoever looks into a loop asks of it."""

    def __cinit__(self):
        self.handles = []

    def __dealloc__(self):
        free(self.dues)

    cdef int push(self, TimerHandle handle, double key_s) except -1:
        cdef bint done = False
        cdef due_t due
        cdef Py_ssize_t room = 0
        if self.count == PyList_GET_SIZE(self.handles) and 2 * self.cancelled > self.count:
            self.drop_cancelled()
        while not done:
            with cython.critical_section(self):
                room = PyList_GET_SIZE(self.handles)
                if self.count < room:
                    due.when_s = key_s
                    due.number = self.number
                    self.number += 1
                    handle.scheduled = True
                    self.count += 1
                    self.rise(self.count - 1, due, handle)
                    done = True
            if not done:
                self.grow(max(2 * room, FEW))
        return 0

    cdef void move(self, Py_ssize_t index, Py_ssize_t gap) noexcept:
        """Into a gap, which is at the index then."""
        cdef PyObject **items = list_items(<PyObject *>self.handles)
        cdef PyObject *none = items[gap]
        items[gap] = items[index]
        items[index] = none
        self.dues[gap] = self.dues[index]

    cdef void rise(self, Py_ssize_t gap, due_t due, handle) noexcept:
        """Put a handle into a gap, or above."""
        cdef Py_ssize_t parent
        while gap > 0:
            parent = (gap - 1) // 2
            if not is_before(&due, &self.dues[parent]):
                break
            self.move(parent, gap)
            gap = parent
        self.dues[gap] = due
        put(self.handles, gap, handle)

    cdef void sink(self, Py_ssize_t gap, due_t due, handle) noexcept:
        """Put a handle into a gap, or below."""
        cdef Py_ssize_t child = 2 * gap + 1
        while child < self.count:
            if child + 1 < self.count and is_before(&self.dues[child + 1], &self.dues[child]):
                child += 1
            if not is_before(&self.dues[child], &due):
                break
            self.move(child, gap)
            gap = child
            child = 2 * gap + 1
        self.dues[gap] = due
        put(self.handles, gap, handle)

    cdef int grow(self, Py_ssize_t room) except -1:
        cdef list handles = [None] * room
        cdef Py_ssize_t index
        cdef due_t *dues
        cdef bint failed = False
        cdef list old = None
        cdef PyObject **to
        cdef PyObject **of
        cdef PyObject *item
        with cython.critical_section(self):
            if PyList_GET_SIZE(self.handles) < room:
                dues = <due_t *>realloc(self.dues, room * sizeof(due_t))
                failed = dues == NULL
                if not failed:
                    self.dues = dues
                    old = self.handles
                    self.count = min(self.count, PyList_GET_SIZE(old))
                    to = list_items(<PyObject *>handles)
                    of = list_items(<PyObject *>old)
                    for index in range(self.count):
                        item = to[index]
                        to[index] = of[index]
                        of[index] = item
                    self.handles = handles
        if failed:
            raise MemoryError
        return 0

    cdef TimerHandle pop_due(self, double now_s):
        cdef TimerHandle handle = None
        with cython.critical_section(self):
            if self.count > 0 and self.dues[0].when_s <= now_s:
                handle = self.take_first()
        return handle

    cdef take_first(self):
        cdef TimerHandle handle = <TimerHandle>take(self.handles, 0)
        handle.scheduled = False
        if handle._cancelled:
            self.cancelled -= 1
        self.count -= 1
        if self.count > 0:
            self.sink(0, self.dues[self.count], take(self.handles, self.count))
        return handle

    cdef int note_cancelled(self, TimerHandle handle) except -1:
        with cython.critical_section(self):
            if handle.scheduled:
                self.cancelled += 1
                # The last is often the one that was added last, and cancelled before others came.
                if list_items(<PyObject *>self.handles)[self.count - 1] == <PyObject *>handle:
                    self.count -= 1
                    self.cancelled -= 1
                    handle.scheduled = False
                    take(self.handles, self.count)
        return 0

    cdef int tidy(self) except -1:
        cdef bint found = True
        if self.cancelled == 0:
            return 0
        if self.count > MANY_TIMERS and 2 * self.cancelled > self.count:
            return self.drop_cancelled()
        while found:
            first = None                # let go outside of the section
            with cython.critical_section(self):
                found = self.count > 0 and (
                    <TimerHandle>list_items(<PyObject *>self.handles)[0])._cancelled
                if found:
                    first = self.take_first()
        return 0

    cdef int drop_cancelled(self) except -1:
        cdef list left = []             # let go after the section
        cdef TimerHandle handle
        cdef Py_ssize_t index
        cdef Py_ssize_t count = 0
        with cython.critical_section(self):
            for index in range(self.count):
                handle = <TimerHandle>take(self.handles, index)
                if handle._cancelled:
                    handle.scheduled = False
                    left.append(handle)
                else:
                    self.dues[count] = self.dues[index]
                    put(self.handles, count, handle)
                    count += 1
            self.count = count
            self.cancelled = 0
            for index in range(count // 2 - 1, -1, -1):
                self.sink(index, self.dues[index], take(self.handles, index))
        return 0

    cdef double next_s(self) noexcept:
        cdef double when_s = 0
        with cython.critical_section(self):
            if self.count > 0:
                when_s = self.dues[0].when_s
        return when_s

    def __len__(self):
        return self.count

    def __iter__(self):
        with cython.critical_section(self):
            handles = self.handles[:self.count]
        return iter(handles)

    def __getitem__(self, index):
        return list(self)[index]

    def __repr__(self):
        return f"TimerHeap({list(self)!r})"

    def clear(self):
        """list.clear()"""
        cdef list new = []
        cdef list old = None
        cdef TimerHandle handle
        with cython.critical_section(self):
            old = self.handles
            for index in range(min(self.count, PyList_GET_SIZE(old))):
                handle = <TimerHandle>list_items(<PyObject *>old)[index]
                handle.scheduled = False
            self.handles = new
            self.count = 0
            self.cancelled = 0


cdef class Scheduler(HandleOwner):
    """asyncio's event loop as far as it calls callbacks.  Methods are those of the same names of
    asyncio.BaseEventLoop, which is to be the other base of a subclass."""

    def __cinit__(self):
        self.ready = ReadyQueue()
        self.timers = TimerHeap()
        self.look_due = True

    # -- for a subclass ------------------------------------------------------------------------

    cdef int look(self, DWORD timeout_ms) except -1:
        raise NotImplementedError

    cdef Py_ssize_t pending(self) noexcept:
        return 0

    cdef void wake(self) noexcept:
        pass

    cdef DWORD begin_wait(self, DWORD timeout_ms) noexcept:
        if timeout_ms != 0:
            # In this order: another thread adds a handle, then looks whether the loop waits.
            with cython.critical_section(self):
                self.waiting = True
            if self.ready.count != 0:
                timeout_ms = 0
        return timeout_ms

    cdef void end_wait(self) noexcept:
        with cython.critical_section(self):
            self.waiting = False
            self.woken = False

    # -- what is to be called ------------------------------------------------------------------

    cdef Handle make_handle(self, callback, tuple args, context):
        cdef Handle handle = Handle.__new__(Handle)
        handle._loop = self
        handle._callback = callback
        handle._args = args
        handle._context = PyContext_CopyCurrent() if context is None else context
        if self._debug:
            handle.trace()
        return handle

    cdef Handle add_soon(self, callback, tuple args, context):
        cdef Handle handle = self.make_handle(callback, args, context)
        self.ready.push(handle)
        return handle

    cdef TimerHandle add_timer(self, double when_s, double key_s, callback, tuple args, context):
        cdef TimerHandle handle = TimerHandle.__new__(TimerHandle)
        handle._loop = self
        handle._callback = callback
        handle._args = args
        handle._context = PyContext_CopyCurrent() if context is None else context
        handle.when_s = when_s
        if self._debug:
            handle.trace()
        self.timers.push(handle, key_s)
        return handle

    cdef int timer_cancelled(self, TimerHandle handle) except -1:
        return self.timers.note_cancelled(handle)

    def call_soon(self, callback, *args, context=None):
        """asyncio's loop.call_soon().  The loop's thread."""
        if self._closed:
            raise RuntimeError("Event loop is closed")
        if self._debug:
            self._check_thread()
            self._check_callback(callback, "call_soon")
        return self.add_soon(callback, args, context)

    def call_soon_threadsafe(self, callback, *args, context=None):
        """asyncio's loop.call_soon_threadsafe().  Any thread."""
        cdef Handle handle
        if self._closed:
            raise RuntimeError("Event loop is closed")
        if self._debug:
            self._check_callback(callback, "call_soon_threadsafe")
        if not has_thread_safe_handle:
            handle = self.add_soon(callback, args, context)
        else:
            handle = ThreadSafeHandle.__new__(ThreadSafeHandle)
            handle._loop = self
            handle._callback = callback
            handle._args = args
            handle._context = PyContext_CopyCurrent() if context is None else context
            if self._debug:
                handle.trace()
            self.ready.push(handle)
        self.wake()
        return handle

    def call_later(self, delay, callback, *args, context=None):
        """asyncio's loop.call_later(); the delay in seconds.  The loop's thread."""
        cdef double when_s
        if delay is None:
            raise TypeError("delay must not be None")
        if self._closed:
            raise RuntimeError("Event loop is closed")
        if self._debug:
            self._check_thread()
            self._check_callback(callback, "call_later")
        when_s = now() + <double>delay
        return self.add_timer(when_s, after(when_s) if delay > 0 else when_s,
                              callback, args, context)

    def call_at(self, when, callback, *args, context=None):
        """asyncio's loop.call_at(); the time in seconds of loop.time().  The loop's thread."""
        cdef double when_s
        if when is None:
            raise TypeError("when cannot be None")
        if self._closed:
            raise RuntimeError("Event loop is closed")
        if self._debug:
            self._check_thread()
            self._check_callback(callback, "call_at")
        when_s = when
        return self.add_timer(when_s, after(when_s), callback, args, context)

    def time(self):
        """asyncio's loop.time(): seconds of QueryPerformanceCounter, as time.monotonic() has them
        from Python 3.13 on.  Any thread."""
        return now()

    def _add_callback(self, handle):
        if not handle._cancelled:
            self.ready.push(handle)

    def _write_to_self(self):
        self.wake()

    @property
    def _ready(self):
        return self.ready

    @_ready.setter
    def _ready(self, handles):
        # asyncio's __init__ sets an empty deque.
        self.ready.clear()
        for handle in handles:
            self.ready.push(handle)

    @property
    def _scheduled(self):
        return self.timers

    @_scheduled.setter
    def _scheduled(self, handles):
        self.timers.clear()
        for handle in handles:
            self.timers.push(handle, handle.when())

    @property
    def _timer_cancelled_count(self):
        return self.timers.cancelled

    @_timer_cancelled_count.setter
    def _timer_cancelled_count(self, count):
        pass                            # asyncio's __init__ sets it

    # -- calling -------------------------------------------------------------------------------

    def _run_once(self):
        """One iteration.  asyncio's BaseEventLoop._run_once()."""
        self.iterate()

    def _run_until_stopped(self):
        """What asyncio's run_forever() does between its preparations and its cleaning up."""
        self.look_due = True
        while True:
            self.iterate()
            if self._stopping:
                break

    cdef int iterate(self) except -1:
        cdef double now_s
        cdef Py_ssize_t todo
        cdef int found
        cdef bint idle = self.ready.count == 0 and not self._stopping
        self.timers.tidy()
        now_s = now()
        if idle or self.look_wanted(now_s):
            self.look_due = False
            self.spared = 0
            found = self.look(self.timeout(now_s) if idle else 0)
            self.patience = 1 if found else min(2 * self.patience, PATIENCE)
            now_s = self.looked_s = now()
        # Callbacks may be in C all of them, and then nobody else looks after signals.
        PyErr_CheckSignals()
        if self.timers.count != 0:
            handle = self.timers.pop_due(now_s)
            while handle is not None:
                self.ready.push(handle)
                handle = self.timers.pop_due(now_s)
        todo = self.ready.count
        while todo > 0 and self.ready.count > 0:
            todo -= 1
            handle = self.ready.pop()
            if self._debug or not isinstance(handle, Handle):
                self.run_watched(handle)
            else:
                (<Handle>handle).run()
        return 0

    cdef bint look_wanted(self, double now_s) noexcept:
        self.spared += 1
        return (self.look_due or now_s - self.looked_s >= LOOK_S
                or (self.spared >= self.patience and self.pending() != 0))

    cdef DWORD timeout(self, double now_s) noexcept:
        """How long nothing is to be done but to wait, in milliseconds."""
        cdef double wait_s
        if self.timers.count == 0:
            return INFINITE
        wait_s = self.timers.next_s() - now_s
        if wait_s <= 0:
            return 0
        if wait_s < LONGEST_WAIT_S:
            return <DWORD>ceil(wait_s * 1000)
        return <DWORD>(LONGEST_WAIT_S * 1000)

    cdef int run_watched(self, handle) except -1:
        """Call it as asyncio does in debug mode."""
        cdef double started_s
        cdef double took_s
        if handle._cancelled:
            return 0
        if not self._debug:
            handle._run()
            return 0
        self._current_handle = handle
        try:
            started_s = now()
            handle._run()
            took_s = now() - started_s
            if took_s >= self.slow_callback_duration:
                logger.warning("Executing %s took %.3f seconds",
                               base_events._format_handle(handle), took_s)
        finally:
            self._current_handle = None
        return 0
