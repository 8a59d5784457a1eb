"""The scheduling of the asyncio loop: what is called next, what is called when, and how long to
wait at the port meanwhile.

An iteration (`Scheduler.iterate`) is asyncio's: look at the port, take the timers that are due,
call what was ready then.  What these callbacks schedule has its turn in the next one.  Two things
are not asyncio's.  A timer is never early, not by the resolution of the clock either.  And where
callbacks are ready the look may be spared, since it costs as much as dozens of callbacks.  While
operations are pending, after each look that finds nothing, but for the first ones, twice as many
iterations are without one, up to PATIENCE of them, or for LOOK_S.  While none is, the port is
looked at with every tick of the system's coarse clock.

Free-threaded builds, and a call of another thread that had better been call_soon_threadsafe():
queue and heap change in critical sections of their own, in which no Python code runs.

Called by `_loop` and, as the loop's own, by `_engine_loop` and `_event_loop`, whose classes derive
from its, and by `_transports` for the clock; calls `_handles`.
"""

cimport cython
from cpython.contextvars cimport PyContext_CopyCurrent
from cpython.exc cimport PyErr_CheckSignals
from cpython.list cimport PyList_GET_SIZE
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.math cimport INFINITY, ceil
from libc.stdlib cimport free, realloc

from iocpx._handles cimport (
    enter_section, handle_called, leave_section, new_handle, new_thread_safe_handle, new_timer,
    own, section_t, ThreadSafeHandle, track_handle, untrack_context,
)
from iocpx._winsock cimport (
    GetTickCount64, INFINITE, LARGE_INTEGER, QueryPerformanceCounter, QueryPerformanceFrequency,
)

import inspect
from asyncio import base_events, events, futures, log, tasks

cdef extern from *:
    """
    #define iocpx_list_items(list) (((PyListObject *)(list))->ob_item)
    """
    PyObject **list_items "iocpx_list_items" (PyObject *list)
    Py_ssize_t list_size "PyList_GET_SIZE" (PyObject *list)

cdef enum:
    FEW = 64                    # room of a queue that has never been long
    PATIENCE = 64               # iterations without a look, while operations are pending
    # After news the next looks are not spared: whoever is served in two iterations of asyncio's
    # loop, a client of a named pipe who comes once more, is so here.
    FIRST_LOOKS = 4
    MANY_CANCELLED = 50         # cancelled timers that may be left until they are the first
    TOO_MUCH = 65536            # room that an empty queue does not keep
    CHILDREN = 4                # of each in the heap, 64 bytes: fewer levels, and so cache lines

cdef double LOOK_S = 0.001
cdef double LONGEST_WAIT_S = 24 * 3600
# The distance from 1.0 to the next number.
cdef double EPSILON = 2.220446049250313e-16

cdef double ticks_per_second

cdef bint has_thread_safe_handle = hasattr(events, "_ThreadSafeHandle")


cdef object create_task_as_asyncio = base_events.BaseEventLoop.create_task
# From some 3.13 on; before that it refuses eager_start, which a task takes from 3.12 on.
cdef bint takes_all_options = (
    create_task_as_asyncio.__code__.co_flags & inspect.CO_VARKEYWORDS != 0)


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


# References move between the lists as pointers, which are owned: a heap of ten thousand timers is
# not in the processor's cache, and to count references would be to fetch each of them from memory.

# Lists as pointers, too: a reference that is counted up and down at once costs as much as a call.

cdef inline void put(PyObject *room, Py_ssize_t index, PyObject *handle) noexcept:
    """Into a place where None is."""
    list_items(room)[index] = handle
    Py_DECREF(None)


cdef inline PyObject *take(PyObject *room, Py_ssize_t index) noexcept:
    """Out of its place, where None stays."""
    cdef PyObject **items = list_items(room)
    cdef PyObject *handle = items[index]
    Py_INCREF(None)
    items[index] = <PyObject *>None
    return handle


cdef inline bint is_cancelled(PyObject *handle) noexcept:
    return (<TimerHandle>handle)._cancelled


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
        Py_INCREF(handle)
        return self.push_owned(<PyObject *>handle)

    cdef int push_owned(self, PyObject *handle) except -1:
        if not self.push_at_once(handle):
            try:
                self.push_growing(handle)
            except MemoryError:
                Py_DECREF(<object>handle)
                raise
        return 0

    cdef bint push_at_once(self, PyObject *handle) noexcept:
        cdef bint done
        cdef section_t section
        enter_section(&section, <PyObject *>self)
        done = self.push_into_room(handle)
        leave_section(&section)
        return done

    cdef bint push_into_room(self, PyObject *handle) noexcept:
        cdef Py_ssize_t room = list_size(<PyObject *>self.ring)
        if self.count == room:
            return False
        put(<PyObject *>self.ring, (self.head + self.count) & (room - 1), handle)
        self.count += 1
        return True

    cdef int push_growing(self, PyObject *handle) except -1:
        cdef list ring
        cdef list old
        cdef Py_ssize_t room = 0
        cdef bint done = False
        while not done:
            with cython.critical_section(self):
                room = PyList_GET_SIZE(self.ring)
            ring = [None] * max(2 * room, FEW)
            with cython.critical_section(self):
                old = self.ring         # goes when the section is over
                if PyList_GET_SIZE(ring) > PyList_GET_SIZE(old):
                    self.grow(ring)
                done = self.push_into_room(handle)
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
        self.roomy = PyList_GET_SIZE(ring) > TOO_MUCH

    cdef int shrink(self) except -1:
        cdef list ring = [None] * FEW
        cdef list _old = None           # goes when the section is over
        with cython.critical_section(self):
            if self.count == 0:
                _old = self.ring
                self.ring = ring
                self.head = 0
                self.roomy = False
        return 0

    cdef PyObject *pop(self) noexcept:
        cdef PyObject *taken
        cdef section_t section
        enter_section(&section, <PyObject *>self)
        taken = take(<PyObject *>self.ring, self.head)
        self.head = (self.head + 1) & (list_size(<PyObject *>self.ring) - 1)
        self.count -= 1
        leave_section(&section)
        return taken

    cdef void track(self) noexcept:
        cdef Py_ssize_t index
        with cython.critical_section(self):
            for index in range(self.count):
                track_handle(list_items(<PyObject *>self.ring)[
                    (self.head + index) & (PyList_GET_SIZE(self.ring) - 1)])

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
        handle = <object>self.pop()
        track_handle(<PyObject *>handle)
        Py_DECREF(handle)               # of the ring's reference
        return handle

    def clear(self):
        """deque.clear()"""
        cdef list ring = [None] * FEW
        cdef list _old = None           # goes when the section is over
        self.track()
        with cython.critical_section(self):
            _old = self.ring
            self.ring = ring
            self.head = 0
            self.count = 0
            self.roomy = False


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
        Py_INCREF(handle)
        if key_s != key_s:              # not a number: it would be before nothing, after nothing
            key_s = INFINITY
        while not done:
            with cython.critical_section(self):
                room = PyList_GET_SIZE(self.handles)
                if self.count < room:
                    due.when_s = key_s
                    due.number = self.number
                    self.number += 1
                    self.count += 1
                    self.rise(self.count - 1, due, <PyObject *>handle)
                    done = True
            if not done:
                try:
                    self.grow(max(2 * room, FEW))
                except MemoryError:
                    Py_DECREF(handle)
                    raise
        return 0

    cdef void move(self, Py_ssize_t index, Py_ssize_t gap) noexcept:
        """Into a gap, which is at the index then."""
        cdef PyObject **items = list_items(<PyObject *>self.handles)
        cdef PyObject *none = items[gap]
        items[gap] = items[index]
        items[index] = none
        self.dues[gap] = self.dues[index]

    cdef void rise(self, Py_ssize_t gap, due_t due, PyObject *handle) noexcept:
        """Put a handle into a gap, or above."""
        cdef Py_ssize_t parent
        while gap > 0:
            parent = (gap - 1) // CHILDREN
            if not is_before(&due, &self.dues[parent]):
                break
            self.move(parent, gap)
            gap = parent
        self.dues[gap] = due
        put(<PyObject *>self.handles, gap, handle)

    cdef void sink(self, Py_ssize_t gap, due_t due, PyObject *handle) noexcept:
        """Put a handle into a gap, or below."""
        cdef Py_ssize_t child = CHILDREN * gap + 1
        cdef Py_ssize_t other
        while child < self.count:
            for other in range(child + 1, min(child + CHILDREN, self.count)):
                if is_before(&self.dues[other], &self.dues[child]):
                    child = other
            if not is_before(&self.dues[child], &due):
                break
            self.move(child, gap)
            gap = child
            child = CHILDREN * gap + 1
        self.dues[gap] = due
        put(<PyObject *>self.handles, gap, handle)

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
                    self.roomy = room > TOO_MUCH
        if failed:
            raise MemoryError
        return 0

    cdef int shrink(self) except -1:
        cdef list handles = []
        cdef list _old = None           # goes when the section is over
        with cython.critical_section(self):
            if self.count == 0:
                _old = self.handles
                self.handles = handles
                self.cancelled = 0
                self.roomy = False
                free(self.dues)
                self.dues = NULL
        return 0

    cdef int move_due(self, double now_s, ReadyQueue ready) except -1:
        cdef PyObject *handle
        while True:
            handle = NULL
            with cython.critical_section(self):
                if self.count > 0 and self.dues[0].when_s <= now_s:
                    handle = self.take_first()
            if handle == NULL:
                return 0
            ready.push_owned(handle)

    cdef PyObject *take_first(self) noexcept:
        cdef PyObject *handle = take(<PyObject *>self.handles, 0)
        cdef PyObject *last
        self.count -= 1
        if self.count > 0:
            last = take(<PyObject *>self.handles, self.count)
            self.sink(0, self.dues[self.count], last)
        return handle

    cdef int note_cancelled(self, TimerHandle handle) except -1:
        cdef bint many = False
        cdef PyObject *last = NULL
        with cython.critical_section(self):
            if self.count > 0:
                # The last is often the one that was added last, and cancelled before others came.
                last = list_items(<PyObject *>self.handles)[self.count - 1]
                if last == <PyObject *>handle:
                    self.count -= 1
                    take(<PyObject *>self.handles, self.count)
                else:
                    last = NULL
                    self.cancelled += 1
                    many = self.cancelled > MANY_CANCELLED and 2 * self.cancelled > self.count
        if last != NULL:
            handle_called(last)         # lets go of the heap's reference
        if many:
            self.drop_cancelled()
        return 0

    cdef int tidy(self) except -1:
        cdef PyObject *first
        while True:
            first = NULL
            with cython.critical_section(self):
                if self.count > 0 and is_cancelled(list_items(<PyObject *>self.handles)[0]):
                    first = self.take_first()
                    if self.cancelled > 0:
                        self.cancelled -= 1
            if first == NULL:
                return 0
            handle_called(first)

    cdef int drop_cancelled(self) except -1:
        cdef list left = [None] * self.count    # let go after the section
        cdef PyObject *handle
        cdef Py_ssize_t index
        cdef Py_ssize_t cancelled = 0
        cdef Py_ssize_t count = 0
        with cython.critical_section(self):
            if PyList_GET_SIZE(left) < self.count:
                return 0                # some have come meanwhile: next time
            for index in range(self.count):
                handle = list_items(<PyObject *>self.handles)[index]
                if is_cancelled(handle):
                    track_handle(handle)
                    # An exchange, for one of its None.
                    list_items(<PyObject *>self.handles)[index] = (
                        list_items(<PyObject *>left)[cancelled])
                    list_items(<PyObject *>left)[cancelled] = handle
                    cancelled += 1
                elif count < index:
                    self.move(index, count)
                    count += 1
                else:
                    count += 1
            self.count = count
            self.cancelled = 0
            for index in range((count - 2) // CHILDREN if count > 1 else -1, -1, -1):
                self.sink(index, self.dues[index], take(<PyObject *>self.handles, index))
        return 0

    cdef void track(self) noexcept:
        cdef Py_ssize_t index
        with cython.critical_section(self):
            for index in range(self.count):
                track_handle(list_items(<PyObject *>self.handles)[index])

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
        cdef list _old = None           # goes when the section is over
        self.track()
        with cython.critical_section(self):
            _old = self.handles
            self.handles = new
            self.count = 0
            self.cancelled = 0
            self.roomy = False
            free(self.dues)
            self.dues = NULL


cdef class Scheduler(HandleOwner):
    """asyncio's event loop as far as it calls callbacks.  Methods are those of the same names of
    asyncio.BaseEventLoop, which is to be the other base of a subclass."""

    def __cinit__(self):
        self.ready = ReadyQueue()
        self.timers = TimerHeap()
        self.look_due = True
        self.patience = 1

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

    cdef int fill_handle(self, Handle handle, callback, tuple args, context) except -1:
        handle._loop = self
        handle._callback = callback
        handle._args = args
        handle.context = PyContext_CopyCurrent() if context is None else context
        if self._debug:
            handle.trace()
        return 0

    cdef Handle make_handle(self, callback, tuple args, context):
        cdef Handle handle = Handle.__new__(Handle)
        self.fill_handle(handle, callback, args, context)
        return handle

    cdef Handle add_soon(self, callback, tuple args, context, bint thread_safe):
        cdef Handle made
        cdef PyObject *handle
        cdef bint copied = context is None
        if not self.runs or self._debug:
            if thread_safe:
                made = ThreadSafeHandle.__new__(ThreadSafeHandle)
            else:
                made = Handle.__new__(Handle)
            self.fill_handle(made, callback, args, context)
            self.ready.push(made)
            return made
        if copied:
            context = PyContext_CopyCurrent()
        handle = new_thread_safe_handle() if thread_safe else new_handle()
        (<Handle>handle)._loop = self
        (<Handle>handle)._callback = callback
        (<Handle>handle)._args = args
        (<Handle>handle).context = context
        if copied:
            untrack_context(handle)
        # Before another thread can call it, and let go of the queue's.
        Py_INCREF(<object>handle)
        if not self.ready.push_at_once(handle):
            try:
                self.ready.push_growing(handle)
            except MemoryError:
                Py_DECREF(<object>handle)
                Py_DECREF(<object>handle)
                raise
        # Of another thread, while the loop has stopped.
        if not self.runs:
            track_handle(handle)
        return <Handle>own(handle)

    cdef TimerHandle add_timer(self, double when_s, double key_s, callback, tuple args, context):
        cdef TimerHandle handle
        if not self.runs or self._debug:
            handle = TimerHandle.__new__(TimerHandle)
        else:
            handle = <TimerHandle>own(new_timer())
        handle.when_s = when_s
        self.fill_handle(handle, callback, args, context)
        if context is None:
            untrack_context(<PyObject *>handle)
        self.timers.push(handle, key_s)
        return handle

    cdef int timer_cancelled(self, TimerHandle handle) except -1:
        return self.timers.note_cancelled(handle)

    @cython.binding(False)
    def call_soon(self, callback, *args, context=None):
        """asyncio's loop.call_soon().  The loop's thread."""
        if self._closed:
            raise RuntimeError("Event loop is closed")
        if self._debug:
            self._check_thread()
            self._check_callback(callback, "call_soon")
        return self.add_soon(callback, args, context, False)

    @cython.binding(False)
    def call_soon_threadsafe(self, callback, *args, context=None):
        """asyncio's loop.call_soon_threadsafe().  Any thread."""
        cdef Handle handle
        if self._closed:
            raise RuntimeError("Event loop is closed")
        if self._debug:
            self._check_callback(callback, "call_soon_threadsafe")
        handle = self.add_soon(callback, args, context, has_thread_safe_handle)
        self.wake()
        return handle

    @cython.binding(False)
    def call_later(self, delay, callback, *args, context=None):
        """asyncio's loop.call_later(); the delay in seconds.  The loop's thread."""
        cdef double delay_s
        cdef double when_s
        if delay is None:
            raise TypeError("delay must not be None")
        delay_s = delay
        if self._closed:
            raise RuntimeError("Event loop is closed")
        if self._debug:
            self._check_thread()
            self._check_callback(callback, "call_later")
        when_s = now() + delay_s
        return self.add_timer(when_s, after(when_s) if delay_s > 0 else when_s,
                              callback, args, context)

    @cython.binding(False)
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

    @cython.binding(False)
    def get_debug(self):
        """asyncio's loop.get_debug(), which every future asks for.  Any thread."""
        return self._debug

    @cython.binding(False)
    def create_future(self):
        """asyncio's loop.create_future().  The loop's thread."""
        return futures.Future(loop=self)

    @cython.binding(False)
    def create_task(self, coro, **options):
        """asyncio's loop.create_task().  The loop's thread."""
        if (self._closed or self._debug or self._task_factory is not None
                or not takes_all_options and "eager_start" in options):
            return create_task_as_asyncio(self, coro, **options)
        return tasks.Task(coro, loop=self, **options)

    @cython.binding(False)
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
        self.thread = this_thread()
        self.runs = True
        try:
            while True:
                self.iterate()
                if self._stopping:
                    break
        finally:
            self.runs = False
            self.ready.track()
            self.timers.track()

    cdef int iterate(self) except -1:
        cdef double now_s
        cdef Py_ssize_t todo
        cdef PyObject *handle
        cdef bint idle = self.ready.count == 0 and not self._stopping
        if self.timers.cancelled != 0:
            self.timers.tidy()
        if idle or self.look_wanted():
            self.look_due = False
            self.look_soon = False
            if self.look(self.timeout() if idle else 0):
                self.patience = 1
            elif self.patience < PATIENCE * FIRST_LOOKS:
                self.patience *= 2
            self.spared = 0
            self.looked_s = now()
            self.looked_ms = GetTickCount64()
        # Callbacks may be in C all of them, and then nobody else looks after signals.
        PyErr_CheckSignals()
        if self.timers.count != 0:
            now_s = now()
            self.timers.move_due(now_s, self.ready)
            if self.timers.roomy and self.timers.count == 0:
                self.timers.shrink()
        todo = self.ready.count
        while todo > 0 and self.ready.count > 0:
            todo -= 1
            handle = self.ready.pop()
            try:
                if self._debug or not isinstance(<object>handle, Handle):
                    self.run_watched(<object>handle)
                else:
                    (<Handle>handle).run()
            finally:
                handle_called(handle)
        if self.ready.roomy and self.ready.count == 0:
            self.ready.shrink()
        return 0

    cdef bint look_wanted(self) noexcept:
        self.spared += 1
        if self.look_due:
            return True
        if self.look_soon:
            return self.spared > 1
        if self.pending() == 0:
            return self.spared % PATIENCE == 0 and GetTickCount64() != self.looked_ms
        return FIRST_LOOKS * self.spared >= self.patience or GetTickCount64() != self.looked_ms or (
            self.spared % 8 == 0 and now() - self.looked_s >= LOOK_S)

    cdef DWORD timeout(self) noexcept:
        """How long nothing is to be done but to wait, in milliseconds."""
        cdef double wait_s
        if self.timers.count == 0:
            return INFINITE
        wait_s = self.timers.next_s() - now()
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
        self.set_current_handle(handle)
        try:
            started_s = now()
            handle._run()
            took_s = now() - started_s
            if took_s >= self.slow_callback_duration:
                log.logger.warning("Executing %s took %.3f seconds",
                                   base_events._format_handle(handle), took_s)
        finally:
            self.set_current_handle(None)
        return 0

    cdef void set_current_handle(self, handle) noexcept:
        # asyncio's exception handler looks at it, on whatever thread an exception is told of.
        with cython.critical_section(self):
            self._current_handle = handle
