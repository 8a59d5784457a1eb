"""open_file() and File: reads and writes at offsets, told by futures.

On the threaded side a file is a user of its engine, as clients are: the first has the engine's
threads start, the last lets them go.  Its operations are posted by whoever calls, and told on a
worker.  A file of a loop (`_loop_files`) is opened by this room too, and told on the loop's thread.

A future is done when the kernel has given back what it was lent, never before, so cancel() asks for
the end and does not pretend it: what has been done by then stands.

Called by the program, to which `_core` shows it, by `_core`, which tells it what is over, and by
`_loop_files`; calls `_file_ops`, which posts and completes, `_clients`, `_engines`, `_runtime` and
`_aside`.
"""

from cpython.buffer cimport (
    PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_CheckBuffer, PyObject_GetBuffer,
)
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject

from iocpx._aside cimport aside
from iocpx._clients cimport Clients, wait_for_clients
from iocpx._engines cimport EngineRun, process_engine, WAIT_SLICE_MS
from iocpx._file_ops cimport (
    APPENDING, FILE_CLOSED, FILE_DONE, file_borrow, file_close, file_free, file_new,
    file_op_cancel, file_op_init, file_post_result, file_read, file_return, file_take_end,
    file_told, file_write,
)
from iocpx._futures cimport set_outcome
from iocpx._runtime cimport is_exiting
from iocpx._types cimport engine_t, file_op_t
from iocpx._winsock cimport *

import asyncio
import concurrent.futures
import io
import os
import warnings
from _thread import allocate_lock
from time import perf_counter

from iocpx._arguments import integer_between
from iocpx._engines import Engine
from iocpx._errors import file_error
from iocpx._runtime import _running

cdef extern from *:
    # Of the limited API on Windows as everywhere; the caller frees it by PyMem_Free.
    WCHAR *PyUnicode_AsWideCharString(object text, Py_ssize_t *size) except NULL

MOST_BYTES = 2**31 - 1          # of one operation
MOST = 2**63 - 1

# What builtin open() knows by the same names.
MODES = ("rb", "r+b", "wb", "w+b", "xb", "x+b", "ab", "a+b")

cdef object open_for_loop = None


cdef void set_loop_opener(opener) noexcept:
    global open_for_loop
    open_for_loop = opener


# -- opening ---------------------------------------------------------------------------


def open_file(path, mode="rb", *, engine=None):
    """Open a file for reads and writes at offsets that do not wait: Microsoft's CreateFile with
    FILE_FLAG_OVERLAPPED, on a completion port.  Returns a File.

    path: str, bytes or os.PathLike, of a file on a disk, also another machine's, or of a named
        pipe, which takes no notice of offsets.
    mode: "rb", "r+b", "wb", "w+b", "xb", "x+b", "ab" or "a+b", as of builtin open().
    engine: the iocpx.Engine whose workers tell the outcomes; None: in a coroutine or callback of a
        loop of iocpx's it is that loop, and the file is the loop's own; elsewhere an engine of the
        process's own, which connect() takes as well.

    Opening itself waits for the disk: Windows has no other way.  Raises what builtin open() raises,
    FileNotFoundError, FileExistsError, PermissionError (a folder, too) with .winerror and
    .filename; TypeError or ValueError for a wrong argument; RuntimeError at the end of the
    interpreter.  Any thread; in a loop that one's.
    """
    cdef Opened opened = None
    cdef size_t handle
    try:
        name = os.fspath(path)
    except TypeError:
        raise TypeError(f"path must be a str, bytes or os.PathLike, got {path!r}") from None
    mode = checked_mode(mode)
    if engine is not None and not isinstance(engine, Engine):
        raise TypeError(f"engine must be an iocpx.Engine or None, got {engine!r}")
    if is_exiting():
        raise RuntimeError("no file can be opened at the end of the interpreter")
    if engine is None and open_for_loop is not None:
        opened = open_for_loop()
    if opened is None:
        opened = ThreadOpened.__new__(ThreadOpened, process_engine() if engine is None else engine)
    handle = opened_handle(os.fsdecode(name), mode, name, &opened.is_pipe)
    opened.path = name
    opened.may_read = "r" in mode or "+" in mode
    opened.may_write = "r" not in mode or "+" in mode
    opened.only_appends = "a" in mode
    opened.begin(handle)
    return File(opened, name, mode)


cdef str checked_mode(mode):
    if not isinstance(mode, str):
        raise TypeError(f"mode must be a str, got {mode!r}")
    for known in MODES:
        if sorted(known) == sorted(mode):
            return known
    raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}: files are read and "
                     "written as bytes")


cdef size_t opened_handle(str path, str mode, name, bint *is_pipe) except? 0:
    cdef DWORD access = 0
    cdef DWORD how = OPEN_EXISTING
    cdef WCHAR *wide
    cdef HANDLE handle
    cdef DWORD kind = 0
    cdef int error = 0
    if "r" in mode or "+" in mode:
        access |= GENERIC_READ
    if "r" not in mode or "+" in mode:
        access |= GENERIC_WRITE
    if "w" in mode:
        how = CREATE_ALWAYS
    elif "x" in mode:
        how = CREATE_NEW
    elif "a" in mode:
        how = OPEN_ALWAYS
    wide = PyUnicode_AsWideCharString(path, NULL)
    with nogil:
        handle = CreateFileW(wide, access, FILE_SHARE_READ | FILE_SHARE_WRITE, NULL, how,
                             FILE_FLAG_OVERLAPPED, NULL)
        if handle == INVALID_HANDLE_VALUE:
            error = <int>GetLastError()
        else:
            kind = GetFileType(handle)
    PyMem_Free(wide)
    if error != 0:
        raise file_error(error, "open", name)
    if kind != FILE_TYPE_DISK and kind != FILE_TYPE_PIPE:
        CloseHandle(handle)
        raise ValueError(f"path must be that of a file or of a named pipe, got {name!r}")
    is_pipe[0] = kind == FILE_TYPE_PIPE
    return <size_t>handle


cdef class Opened:
    def __dealloc__(self):
        # Operations refer to it, and until its handle is closed so do others.
        if self.file != NULL:
            file_free(self.file)

    cdef int put_on_port(self, engine_t *engine, size_t handle, bint skip) except -1:
        cdef int error = 0
        self.file = file_new(engine, <HANDLE>handle, skip, &error)
        if self.file == NULL:
            CloseHandle(<HANDLE>handle)
            raise file_error(error, "open", self.path)
        return 0

    def close(self, timeout_ms=0):
        """What is pending is cancelled.  Any thread."""
        self.closed = True
        if self.file != NULL:
            with nogil:
                file_close(self.file)
            self.look_end()

    cdef void look_end(self) noexcept:
        if file_take_end(self.file):
            self.ended()

    cdef int begin(self, size_t handle) except -1:
        raise NotImplementedError

    cdef object new_future(self, operation):
        raise NotImplementedError

    cdef void posted(self) noexcept:
        pass

    cdef object settle(self, future, result, exc, bint cancelled):
        pass

    cdef void report(self, raised) noexcept:
        pass

    cdef void settle_apart(self, future, exc) noexcept:
        pass

    cdef void ended(self) noexcept:
        pass


# -- operations ------------------------------------------------------------------------


cdef class Operation:
    def __cinit__(self, Opened opened, file, bint reading):
        self.opened = opened
        self.file = file
        self.reading = reading
        file_op_init(&self.op, opened.file, <PyObject *>self)

    def __dealloc__(self):
        if self.viewed:
            PyBuffer_Release(&self.view)

    cdef object post(self, char *data, unsigned long long offset):
        """Returns the future."""
        cdef file_op_t *op = &self.op
        cdef bint reading = self.reading
        cdef size_t nbytes = self.nbytes
        cdef file_post_result result
        future = self.future = self.opened.new_future(self)
        Py_INCREF(self)                 # lent; dropped here, or when it is over
        with nogil:
            if reading:
                result = file_read(op, data, nbytes, offset)
            else:
                result = file_write(op, data, nbytes, offset)
        if result == FILE_CLOSED:
            Py_DECREF(self)
            self.future = future._operation = None
            raise closed_file()
        if result == FILE_DONE:
            raised = self.over()
            Py_DECREF(self)
            if raised is not None:
                raise raised            # of a signal: nobody else has the future yet
        else:
            self.opened.posted()
        return future

    def cancel(self):
        """Whether the kernel was asked, in time, to give it up.  Any thread."""
        cdef bint asked
        with nogil:
            asked = file_op_cancel(&self.op)
        return asked

    cdef object over(self):
        cdef int error = self.op.error
        cdef size_t nbytes = self.op.nbytes
        cdef bint cancelled = False
        cdef Opened opened = self.opened
        result = exc = None
        future, self.future = self.future, None
        try:
            if self.viewed:
                self.viewed = False
                PyBuffer_Release(&self.view)
            # Of a pipe, whose other side has closed, Windows says that it is broken.
            if self.reading and (error == ERROR_HANDLE_EOF or error == ERROR_BROKEN_PIPE):
                error = 0
                nbytes = 0
            elif error == 0 and not self.reading and nbytes < self.nbytes:
                error = ERROR_DISK_FULL
            if error == 0:
                result = self.outcome(nbytes)
            elif error == ERROR_OPERATION_ABORTED and (self.op.cancelled or opened.closed):
                cancelled = True
            else:
                exc = file_error(error, "read" if self.reading else "write", opened.path)
        except BaseException as raised:
            exc = raised
        raised = opened.settle(future, result, exc, cancelled)
        self.file = None
        with nogil:
            file_told(opened.file)
        opened.look_end()
        return raised

    cdef object outcome(self, size_t nbytes):
        data, self.data = self.data, None
        if data is None:
            return nbytes
        return data if nbytes == self.nbytes else data[:<Py_ssize_t>nbytes]


cdef void operation_over(file_op_t *op) noexcept:
    cdef Operation operation = <Operation>op.user
    raised = operation.over()
    if raised is not None:
        operation.opened.report(raised)
    Py_DECREF(operation)                # of the INCREF in post


cdef object closed_file():
    return ValueError("I/O operation on a closed file")


cdef class Aside:
    """A call that waits: on a thread where nobody else is kept waiting."""

    cdef Opened opened
    cdef object file
    cdef object future
    cdef HANDLE handle                  # borrowed
    cdef long long nbytes               # the length that it gets; -1: it is flushed

    def cancel(self):
        return False                    # Windows has no such thing

    def work(self):
        cdef HANDLE handle = self.handle
        cdef FILE_END_OF_FILE_INFO end
        cdef bint flushes = self.nbytes < 0
        cdef BOOL ok
        cdef int error = 0
        if self.opened.closed:
            self.end(closed_file())
            return
        end.EndOfFile.QuadPart = self.nbytes
        with nogil:
            if flushes:
                ok = FlushFileBuffers(handle)
            else:
                ok = SetFileInformationByHandle(handle, FileEndOfFileInfo, &end, sizeof(end))
            if not ok:
                error = <int>GetLastError()
        self.end(file_error(error, "flush" if flushes else "truncate", self.opened.path)
                 if error != 0 else None)

    cdef int end(self, exc) except -1:
        with nogil:
            file_return(self.opened.file)
        self.opened.settle_apart(self.future, exc)
        self.opened.look_end()
        return 0


cdef object call_aside(Opened opened, file, long long nbytes):
    cdef Aside call = Aside.__new__(Aside)
    if opened.is_pipe:
        raise io.UnsupportedOperation("a named pipe has no length, and is not flushed: that would "
                                      "wait until the other side has read everything")
    call.opened = opened
    call.file = file
    call.nbytes = nbytes
    call.future = opened.new_future(call)
    with nogil:
        call.handle = file_borrow(opened.file)
    if call.handle == NULL:
        raise closed_file()
    try:
        aside(call.work, None, 0, True)
    except BaseException:
        with nogil:
            file_return(opened.file)
        opened.look_end()
        raise
    return call.future


class FileFuture(concurrent.futures.Future):
    """Of an operation of a file that is no loop's."""

    _operation = None                   # until it is over; or a call that is done aside

    def cancel(self):
        """Ask Windows to give the operation up.  True: it was asked in time; whether the operation
        has ended so, or with its result after all, shows when the future is done."""
        operation = self._operation
        return self.cancelled() if operation is None else operation.cancel()

    def __await__(self):
        return asyncio.wrap_future(self).__await__()


cdef class ThreadOpened(Opened):
    """A file of an engine."""

    cdef object engine
    cdef Clients clients                # it is one of its users, until its handle is closed
    cdef object end_told                # a lock, free when that is closed

    def __cinit__(self, engine):
        self.engine = engine
        self.end_told = allocate_lock()

    cdef int begin(self, size_t handle) except -1:
        cdef Clients clients
        try:
            clients = wait_for_clients(self.engine)
        except BaseException:
            CloseHandle(<HANDLE>handle)
            raise
        try:
            self.put_on_port(clients.run.engine, handle, True)
        except BaseException:
            clients.leave()
            raise
        self.clients = clients
        self.end_told.acquire()
        _running.add(self)              # the exit finds it, or it finds the exit
        if is_exiting():
            self.close()
            raise RuntimeError("no file can be opened at the end of the interpreter")
        return 0

    cdef object new_future(self, operation):
        future = FileFuture()
        future._operation = operation
        return future

    cdef object settle(self, future, result, exc, bint cancelled):
        try:
            future._operation = None
            if not cancelled:
                return set_outcome(future, result, exc, False)
            try:
                concurrent.futures.Future.cancel(future)
            finally:
                # Also where a callback raises what ends programs: others wait for it.
                future.set_running_or_notify_cancel()
        except concurrent.futures.InvalidStateError:
            pass                        # somebody else has set it
        except BaseException as raised:
            return raised
        return None

    cdef void report(self, raised) noexcept:
        """SystemExit, of what is called when a future is done; or a signal's, in poll()."""
        self.clients.report("a callback of a future of a file raised", raised, None, None)

    cdef void settle_apart(self, future, exc) noexcept:
        raised = self.settle(future, None, exc, False)
        if raised is not None:
            self.report(raised)

    cdef void ended(self) noexcept:
        _running.discard(self)
        self.end_told.release()
        self.clients.leave()

    async def wait_closed(self):
        if self.end_told.locked():
            await asyncio.get_running_loop().run_in_executor(None, self.wait_end)

    def wait_end(self):
        self.end_told.acquire()
        self.end_told.release()

    def end(self, double due):
        """By the exit of the interpreter, after close()."""
        cdef EngineRun run = self.clients.run
        try:
            while run.polled and self.end_told.locked() and perf_counter() < due:
                if run.poll(WAIT_SLICE_MS) is None:
                    break
        except BaseException:
            pass                        # somebody else polls
        if self.end_told.acquire(True, max(due - perf_counter(), 0.0)):
            self.end_told.release()


# -- what a program has ----------------------------------------------------------------


class File:
    """A file that open_file() has opened.

    Each operation says where: there is no position, and any number may be under way at a time, in
    no order among each other.  On the threaded side each returns a concurrent.futures.Future, whose
    callbacks run on a worker, or at once where Windows had it done at once (so one that begins the
    next operation may run within the call that begins it, and a long chain of such is for a loop);
    on a loop of iocpx's an asyncio.Future of that loop, whose methods are then those of the loop's
    thread.  Both can be awaited.

    Called wrongly an operation raises at once: ValueError on a closed file and for a number outside
    of its range, TypeError for what is no number or no buffer, io.UnsupportedOperation (an OSError
    and a ValueError) for what the mode does not allow or a pipe cannot do.  On the threaded side
    any thread may call any of them.

    A future's exception is an OSError with .winerror and .filename.  cancel() of it asks Windows to
    give the operation up (CancelIoEx).  It is cancelled when Windows has done so; if the operation
    was faster, its result stands, so that nothing that was done is lost sight of.  A task that
    awaits a file of its loop, and is cancelled, goes on with its CancelledError then; one that
    awaits a future of a worker's at once.  Of a write that was cancelled any part may be in the
    file, from none to all.

    What is not cached is read while the program goes on.  Windows may let the caller wait all the
    same where it reads what is cached, in compressed and encrypted files, and in writes that make a
    file longer (Microsoft: "Asynchronous disk I/O appears as synchronous on Windows").

    `with` and `async with` close it, which gives up what is pending, so wait for your writes first;
    the latter waits until that is over.  Where nothing is pending the handle is closed when close()
    returns, and the file may be removed.
    """

    def __init__(self, opened, name, mode):
        self._opened = opened
        self.name = name
        self.mode = mode

    def __repr__(self):
        state = "closed " if self.closed else ""
        return f"<{state}iocpx.File name={self.name!r} mode={self.mode!r}>"

    def __reduce__(self):
        raise TypeError("a File cannot be copied or pickled: open the file where it is used")

    def __enter__(self):
        if self.closed:
            raise closed_file()
        return self

    def __exit__(self, *exc_info):
        self.close()

    async def __aenter__(self):
        return self.__enter__()

    async def __aexit__(self, *exc_info):
        self.close()
        await self._opened.wait_closed()

    def __del__(self):
        opened = getattr(self, "_opened", None)     # there is none, if nothing has made it
        if opened is not None and not opened.closed:
            try:
                warnings.warn(f"unclosed file {self!r}", ResourceWarning, stacklevel=2,
                              source=self)
            finally:
                self.close()            # also where warnings are errors

    @property
    def closed(self):
        """close() was called, or its loop has been closed."""
        return self._opened.closed

    def close(self):
        """Close it; what is pending is cancelled.  Waits for nothing: the handle is closed when
        what was pending is over.  Any thread, any number of times."""
        self._opened.close()

    def read(self, nbytes, offset):
        """Read up to nbytes, 0 to 2147483647, from an offset in bytes.  The future's result: bytes,
        fewer where the file ends before that, b"" at its end and beyond.  Microsoft's ReadFile."""
        cdef Opened opened = readable(self)
        cdef Operation operation = Operation.__new__(Operation, opened, self, True)
        operation.nbytes = integer_between("nbytes", nbytes, 0, MOST_BYTES)
        offset = integer_between("offset", offset, 0, MOST)
        operation.data = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>operation.nbytes)
        return operation.post(PyBytes_AS_STRING(operation.data), offset)

    def readinto(self, buffer, offset):
        """Read as much as the buffer, a bytearray or another that can be written to, has room for.
        The future's result: how many bytes, fewer where the file ends.  Until it is done, cancelled
        or not, the buffer is Windows's, and cannot be resized.  Microsoft's ReadFile."""
        cdef Opened opened = readable(self)
        cdef Operation operation = Operation.__new__(Operation, opened, self, True)
        offset = integer_between("offset", offset, 0, MOST)
        if not PyObject_CheckBuffer(buffer):
            raise TypeError("buffer must be a bytes-like object that can be written to, "
                            f"got {buffer!r}")
        try:
            PyObject_GetBuffer(buffer, &operation.view, PyBUF_SIMPLE | PyBUF_WRITABLE)
        except BufferError as exc:
            raise TypeError("buffer must be a contiguous one that can be written to, "
                            f"got {buffer!r}") from exc
        operation.viewed = True
        return post_view(operation, offset)

    def write(self, data, offset):
        """Write bytes at an offset; beyond the end of the file what is between becomes zeros.  The
        future's result: how many bytes, which is all.  Until it is done data must not be changed.
        Not in the modes "ab" and "a+b", where append() does it.  Microsoft's WriteFile."""
        cdef Opened opened = writable(self)
        if opened.only_appends:
            raise io.UnsupportedOperation(f"the file is open in mode {self.mode!r}: append() "
                                          "writes to it, at its end")
        offset = integer_between("offset", offset, 0, MOST)
        return post_view(write_operation(self, opened, data), offset)

    def append(self, data):
        """Write bytes at the end that the file has when Windows comes to it, whoever else on this
        machine appends.  In the modes "ab" and "a+b" only; otherwise as write()."""
        cdef Opened opened = writable(self)
        if not opened.only_appends:
            raise io.UnsupportedOperation(f"the file is open in mode {self.mode!r}: append() is "
                                          "for 'ab' and 'a+b'")
        return post_view(write_operation(self, opened, data), APPENDING)

    def size(self):
        """How long it is now, in bytes; at once, no future.  Raises OSError with .winerror.
        Microsoft's GetFileSizeEx."""
        cdef Opened opened = self._opened
        cdef LARGE_INTEGER size
        cdef BOOL ok
        cdef int error = 0
        cdef HANDLE handle
        with nogil:
            handle = file_borrow(opened.file)
        if handle == NULL:
            raise closed_file()
        with nogil:
            ok = GetFileSizeEx(handle, &size)
            if not ok:
                error = <int>GetLastError()
            file_return(opened.file)
        opened.look_end()
        if error != 0:
            raise file_error(error, "size", opened.path)
        return size.QuadPart

    def truncate(self, nbytes):
        """Make it nbytes long, by cutting it off or by zeros.  The future's result: None.  Windows
        waits for that, so it is done on a thread aside, and cannot be cancelled.  Microsoft's
        SetFileInformationByHandle."""
        cdef Opened opened = writable(self)
        return call_aside(opened, self, integer_between("nbytes", nbytes, 0, MOST))

    def flush(self):
        """Have what was written go to the disk; not of a pipe.  The future's result: None.  Done on
        a thread aside, as truncate().  Microsoft's FlushFileBuffers."""
        return call_aside(writable(self), self, -1)


cdef Opened readable(file):
    cdef Opened opened = file._opened
    if opened.closed:
        raise closed_file()
    if not opened.may_read:
        raise io.UnsupportedOperation(f"not readable: the file is open in mode {file.mode!r}")
    return opened


cdef Opened writable(file):
    cdef Opened opened = file._opened
    if opened.closed:
        raise closed_file()
    if not opened.may_write:
        raise io.UnsupportedOperation(f"not writable: the file is open in mode {file.mode!r}")
    return opened


cdef Operation write_operation(file, Opened opened, data):
    cdef Operation operation = Operation.__new__(Operation, opened, file, False)
    if not PyObject_CheckBuffer(data):
        raise TypeError(f"data must be a bytes-like object, got {type(data).__name__}")
    if type(data) is memoryview and not data.c_contiguous:
        data = bytes(data)
    PyObject_GetBuffer(data, &operation.view, PyBUF_SIMPLE)
    operation.viewed = True
    return operation


cdef object post_view(Operation operation, unsigned long long offset):
    if operation.view.len > MOST_BYTES:
        raise ValueError(f"one operation takes up to {MOST_BYTES} bytes, "
                         f"got {operation.view.len}")
    operation.nbytes = operation.view.len
    return operation.post(<char *>operation.view.buf, offset)
