"""What call_soon(), call_later() and their kin return: asyncio.Handle and asyncio.TimerHandle,
made and called in C.

To isinstance() they are asyncio's, since their `__class__` says so, and what they say of
themselves (repr, comparisons) asyncio's own functions say, called with them.

Free-threaded builds: a handle may be cancelled by another thread while its loop runs it, so the
callback and its arguments are taken out in a critical section of the handle.

Called by `_scheduling`, `_socket_polls` and the program; calls nothing of iocpx but the loop that a
handle has (HandleOwner).
"""

cimport cython
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF, Py_XDECREF, Py_XINCREF

import sys
import threading
from asyncio import events, format_helpers

cdef extern from *:
    """
    #define iocpx_tuple_items(tuple) (((PyTupleObject *)(tuple))->ob_item)
    """
    # Without Cython's checks of the result: see Handle.run.
    PyObject *vectorcall "PyObject_Vectorcall" (PyObject *callable, PyObject *const *args,
                                                size_t nargsf, PyObject *kwnames)
    int enter_context "PyContext_Enter" (PyObject *context)
    int exit_context "PyContext_Exit" (PyObject *context)
    PyObject **tuple_items "iocpx_tuple_items" (PyObject *args)
    Py_ssize_t tuple_size "PyTuple_GET_SIZE" (PyObject *args)
    unsigned long this_thread "PyThread_get_thread_ident" ()

cdef extern from *:
    """
    #define iocpx_weakrefs(o) (*(PyObject **)((char *)(o) + Py_TYPE(o)->tp_weaklistoffset))
    /* Without a GIL a count of references tells nothing to another thread. */
    #ifdef Py_GIL_DISABLED
    #define iocpx_uses_handles_again 0
    #else
    #define iocpx_uses_handles_again 1
    #endif
    """
    PyObject *weakrefs "iocpx_weakrefs" (PyObject *handle)
    bint uses_again "iocpx_uses_handles_again"
    Py_ssize_t references "Py_REFCNT" (PyObject *object)
    void track "PyObject_GC_Track" (PyObject *object)
    void untrack "PyObject_GC_UnTrack" (PyObject *object)

cdef enum:
    MAX_SPARE = 8192

# Handles of one class that were called and that nobody has, owned: to make an object and to give it
# back cost more than what a loop does with it.
ctypedef struct spare_t:
    (PyObject *)[MAX_SPARE] handles
    int count

cdef spare_t spare
cdef spare_t spare_timers
cdef spare_t spare_thread_safe

# From 3.14 on a handle of call_soon_threadsafe() is of a class of its own.
THREAD_SAFE = getattr(events, "_ThreadSafeHandle", None)

# Since some 3.13 the arguments are shown in debug mode only.
cdef bint has_debug = "debug" in (format_helpers._format_callback_source.__kwdefaults__ or ())

cdef object AsyncioHandle = events.Handle
cdef object AsyncioTimerHandle = events.TimerHandle
cdef object format_callback = format_helpers._format_callback_source


cdef class HandleOwner:
    cdef int timer_cancelled(self, TimerHandle handle) except -1:
        return 0


cdef int raise_pending() except -1:
    """Raise the exception that C code has left."""
    return -1


@cython.final
cdef class Details:
    pass


# auto_pickle: a copy would share a context that the collector does not know.
@cython.freelist(1024)
@cython.auto_pickle(False)
cdef class Handle:
    """asyncio.Handle."""

    @property
    def __class__(self):
        return AsyncioHandle

    cdef int trace(self) except -1:
        # Compiled functions have no frame: the innermost is the caller of call_soon().
        self.detailed().source_traceback = format_helpers.extract_stack(sys._getframe(0))
        return 0

    cdef Details detailed(self):
        if self.details is None:
            self.details = Details.__new__(Details)
        return self.details

    @property
    def _source_traceback(self):
        return None if self.details is None else self.details.source_traceback

    @property
    def _repr(self):
        return None if self.details is None else self.details.text

    cdef int run(self) except -1:
        cdef PyObject *callback = NULL
        cdef PyObject *args = NULL
        cdef PyObject *result = NULL
        cdef int status
        cdef section_t section
        enter_section(&section, <PyObject *>self)
        if not self._cancelled:
            callback = <PyObject *>self._callback
            args = <PyObject *>self._args
            # The callback may cancel the handle, which lets go of these two.
            Py_XINCREF(callback)
            Py_XINCREF(args)
        leave_section(&section)
        if callback == NULL:
            return 0
        # As context.run() does it.  What the callback raises stays pending meanwhile: a try
        # statement would cost all those that raise nothing.
        status = enter_context(<PyObject *>self.context)
        if status == 0:
            result = vectorcall(callback, tuple_items(args), <size_t>tuple_size(args), NULL)
            status = exit_context(<PyObject *>self.context)
        Py_DECREF(<object>callback)
        Py_DECREF(<object>args)
        if result == NULL or status != 0:
            Py_XDECREF(result)
            self.report()
        else:
            Py_DECREF(<object>result)
        return 0

    cdef int report(self) except -1:
        """Tell the loop what the callback has raised."""
        try:
            raise_pending()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            if has_debug:
                text = format_callback(self._callback, self._args, debug=self._loop._debug)
            else:
                text = format_callback(self._callback, self._args)
            news = {
                "message": f"Exception in callback {text}",
                "exception": exc,
                "handle": self,
            }
            if self.details is not None and self.details.source_traceback:
                news["source_traceback"] = self.details.source_traceback
            (<object>self._loop).call_exception_handler(news)
        return 0

    cdef bint mark_cancelled(self) noexcept:
        """False: it was cancelled already."""
        cdef bint marked = False
        with cython.critical_section(self):
            if not self._cancelled:
                self._cancelled = True
                marked = True
        return marked

    cdef int let_go(self) except -1:
        """Let go of the callback, after mark_cancelled."""
        if self._loop._debug:
            # For the warning about a slow callback that has cancelled itself.
            self.detailed().text = AsyncioHandle.__repr__(self)
        with cython.critical_section(self):
            # They go when the section is over.
            _callback = self._callback
            _args = self._args
            self._callback = None
            self._args = None
        return 0

    def _run(self):
        """asyncio's Handle._run(): for those that run a loop by hand."""
        self.run()

    @cython.binding(False)
    def cancel(self):
        """Have the callback not called.  asyncio.Handle.cancel().  The loop's thread."""
        if self.mark_cancelled():
            self.let_go()

    @cython.binding(False)
    def cancelled(self):
        """Whether cancel() was called.  asyncio.Handle.cancelled().  The loop's thread."""
        return self._cancelled

    def get_context(self):
        """The contextvars.Context that the callback runs in.  asyncio.Handle.get_context()."""
        track_context(self)
        return self.context

    @property
    def _context(self):
        return self.get_context()

    def __dealloc__(self):
        track_context(self)

    def _repr_info(self):
        return AsyncioHandle._repr_info(self)

    def __repr__(self):
        return AsyncioHandle.__repr__(self)


cdef PyObject *new_handle() except NULL:
    cdef PyObject *handle = take_spare(&spare)
    return handle if handle != NULL else begin(Handle.__new__(Handle))


cdef PyObject *new_timer() except NULL:
    cdef PyObject *handle = take_spare(&spare_timers)
    return handle if handle != NULL else begin(TimerHandle.__new__(TimerHandle))


cdef PyObject *new_thread_safe_handle() except NULL:
    cdef PyObject *handle = take_spare(&spare_thread_safe)
    return handle if handle != NULL else begin(ThreadSafeHandle.__new__(ThreadSafeHandle))


cdef inline PyObject *take_spare(spare_t *those) noexcept:
    """NULL: there is none."""
    if those.count == 0:
        return NULL
    those.count -= 1
    return those.handles[those.count]


cdef PyObject *begin(Handle made) noexcept:
    if uses_again:
        untrack(<PyObject *>made)
        made.untracked = True
    Py_INCREF(made)
    return <PyObject *>made


# Contexts are copied by the thousand, and each would be looked at in several collections before it
# goes: that takes as long as all else that is done for a callback.
cdef void untrack_context(PyObject *handle) noexcept:
    if (<Handle>handle).untracked:
        untrack(<PyObject *>(<Handle>handle).context)
        (<Handle>handle).context_untracked = True


cdef void track_context(Handle handle) noexcept:
    if handle.context_untracked:
        handle.context_untracked = False
        track(<PyObject *>handle.context)


cdef inline spare_t *spare_of(PyObject *handle) noexcept:
    """NULL: those of its class are not used again."""
    if type(<object>handle) is Handle:
        return &spare
    if type(<object>handle) is TimerHandle:
        return &spare_timers
    if type(<object>handle) is ThreadSafeHandle:
        return &spare_thread_safe
    return NULL


cdef void handle_called(PyObject *handle) noexcept:
    cdef Handle called
    cdef spare_t *others = spare_of(handle) if uses_again else NULL
    if others != NULL:
        if references(handle) > 1:
            track_handle(handle)
        elif others.count < MAX_SPARE and weakrefs(handle) == NULL:
            called = <Handle>handle
            # First: whatever goes with these may ask the collector what there is.
            if not called.untracked:
                untrack(handle)
                called.untracked = True
            # Or it may call new_handle().
            called._callback = None
            called._args = None
            track_context(called)       # its end takes it for tracked
            called.context = None
            called._loop = None
            called.details = None
            called._cancelled = False
            if others.count < MAX_SPARE:
                others.handles[others.count] = handle
                others.count += 1
                return
    Py_DECREF(<object>handle)


cdef void track_handle(PyObject *handle) noexcept:
    if spare_of(handle) != NULL and (<Handle>handle).untracked:
        (<Handle>handle).untracked = False
        track_context(<Handle>handle)
        track(handle)


@cython.auto_pickle(False)
cdef class TimerHandle(Handle):
    """asyncio.TimerHandle."""

    @property
    def __class__(self):
        return AsyncioTimerHandle

    @property
    def _when(self):
        return self.when_s

    @property
    def _scheduled(self):
        return self in self._loop._scheduled

    @cython.binding(False)
    def cancel(self):
        """Have the callback not called.  asyncio.TimerHandle.cancel().  The loop's thread."""
        if self.mark_cancelled():
            self._loop.timer_cancelled(self)
            self.let_go()

    def when(self):
        """When the callback is due, in seconds of loop.time().  asyncio.TimerHandle.when()."""
        return self.when_s

    def _repr_info(self):
        return AsyncioTimerHandle._repr_info(self)

    def __hash__(self):
        return hash(self.when_s)

    def __eq__(self, other):
        return AsyncioTimerHandle.__eq__(self, other)

    def __lt__(self, other):
        return AsyncioTimerHandle.__lt__(self, other)

    def __le__(self, other):
        return AsyncioTimerHandle.__le__(self, other)

    def __gt__(self, other):
        return AsyncioTimerHandle.__gt__(self, other)

    def __ge__(self, other):
        return AsyncioTimerHandle.__ge__(self, other)


@cython.auto_pickle(False)
cdef class ThreadSafeHandle(Handle):
    """What call_soon_threadsafe() returns from Python 3.14 on.

    As asyncio's: while the callback runs, cancel() and cancelled() of another thread wait for its
    end.
    """

    @property
    def __class__(self):
        return THREAD_SAFE

    cdef int run(self) except -1:
        with cython.critical_section(self):
            self.running_in = this_thread()
        try:
            Handle.run(self)
        finally:
            with cython.critical_section(self):
                self.running_in = 0
                over = None
                if self.details is not None:
                    over = self.details.over
                    self.details.over = None
            if over is not None:
                over.set()
        return 0

    cdef int wait_for_the_end(self) except -1:
        if self.running_in == 0 or self.running_in == this_thread():
            return 0
        over = threading.Event()
        details = Details.__new__(Details)
        with cython.critical_section(self):
            if self.running_in == 0:
                over = None
            else:
                if self.details is None:
                    self.details = details
                if self.details.over is None:
                    self.details.over = over
                else:
                    over = self.details.over
        if over is not None:
            over.wait()
        return 0

    @cython.binding(False)
    def cancel(self):
        """Have the callback not called.  asyncio.Handle.cancel().  Any thread."""
        self.wait_for_the_end()
        marked = self.mark_cancelled()
        # Without a GIL it may have begun since, and not seen the mark.
        self.wait_for_the_end()
        if marked:
            self.let_go()

    @cython.binding(False)
    def cancelled(self):
        """Whether cancel() was called.  asyncio.Handle.cancelled().  Any thread."""
        self.wait_for_the_end()
        return self._cancelled
