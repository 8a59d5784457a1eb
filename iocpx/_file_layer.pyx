"""Files that a connection sends: what sendfile() is given, how it is read where Windows cannot send
it, and who is told.

Windows sends from a file of our own, opened anew from the caller's handle (ReOpenFile).  So the
caller may close his at once, its position stays where it is, and many connections send from one
file at a time, each from its own offset: with a handle that was opened without
FILE_FLAG_OVERLAPPED, as Python's are, TransmitFile may take the position of the file, which all of
its duplicates share, in place of the offset.

Called by `_connection` and `_transport`, whose classes derive from FileSender and FileUser, by
`_core` and by `_transports`; calls `_messages`, from whose class these derive, `_futures`, and of
the engine `_sendfile` and `_requests`.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject

from iocpx._futures cimport set_outcome
from iocpx._requests cimport conn_abort, WRITE_KEPT, WRITE_NO_MEMORY
from iocpx._sched cimport conn_unref
from iocpx._sendfile cimport (
    conn_cancel_file, conn_end_file, conn_file_to_read, conn_put_part, conn_sendfile,
    conn_take_files, file_free, file_new, SENDFILE_CLOSED, SENDFILE_NO_MEMORY, SENDFILE_TAKEN,
    SENDFILE_UNFIT, sendfile_result,
)
from iocpx._types cimport *
from iocpx._winsock cimport (
    CloseHandle, DWORD, FILE_FLAG_OVERLAPPED, FILE_FLAG_SEQUENTIAL_SCAN, FILE_SHARE_DELETE,
    FILE_SHARE_READ, FILE_SHARE_WRITE, GENERIC_READ, GetFileSizeEx, HANDLE, INVALID_HANDLE_VALUE,
    LARGE_INTEGER, ReOpenFile,
)

import asyncio
import concurrent.futures
import io
import msvcrt
import os
import stat

from iocpx._arguments import integer_between
from iocpx._errors import os_error

MOST = 2**63 - 1


cdef HANDLE reopen(file, DWORD flags) noexcept:
    """A file of our own, for reading; NULL: it is no real file, or Windows does not open it twice,
    as one that is deleted when it is closed."""
    cdef size_t handle
    cdef HANDLE made
    # Others may have a descriptor whose bytes are not what they read, as one that decompresses.
    raw = file.raw if type(file) is io.BufferedReader or type(file) is io.BufferedRandom else file
    if type(raw) is not io.FileIO:
        return NULL
    try:
        if type(file) is io.BufferedRandom:
            file.flush()                # what was written to it is of the file
        if not stat.S_ISREG(os.fstat(raw.fileno()).st_mode):
            return NULL
        handle = msvcrt.get_osfhandle(raw.fileno())
    except OSError:
        return NULL
    with nogil:
        made = ReOpenFile(<HANDLE>handle, GENERIC_READ,
                          FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE, flags)
    return NULL if made == INVALID_HANDLE_VALUE else made


cdef size_t bytes_from(HANDLE handle, uint64_t offset) noexcept nogil:
    """What a file holds from there on; 0 for none."""
    cdef LARGE_INTEGER size
    if handle == NULL:
        return 0
    if not GetFileSizeEx(handle, &size):
        return 0
    return <size_t>(max(<uint64_t>size.QuadPart, offset) - offset)


cdef int check_file(file) except -1:
    if not callable(getattr(file, "read", None)):
        raise TypeError("file must be a file object that is open for reading in binary mode, "
                        f"got {file!r}")
    if isinstance(file, io.TextIOBase) or getattr(file, "encoding", None) is not None:
        raise ValueError(f"file must be open in binary mode, got {file!r}")
    if getattr(file, "closed", False):
        raise ValueError(f"file must be open, got a closed one: {file!r}")
    readable = getattr(file, "readable", None)
    if callable(readable) and not readable():
        raise ValueError(f"file must be open for reading, got {file!r}")
    return 0


cdef bint is_seekable(file) except -1:
    seekable = getattr(file, "seekable", None)
    return bool(seekable()) if callable(seekable) else hasattr(file, "seek")


cdef class SentFile:
    def __cinit__(self, file, offset, count, future):
        """TypeError, ValueError: of what sendfile() was given."""
        check_file(file)
        self.begin = integer_between("offset", offset, 0, MOST)
        self.count = MOST if count is None else integer_between("count", count, 1, MOST)
        if self.begin > 0 and not is_seekable(file):
            raise ValueError(f"offset must be 0 for a file without seek(), got {offset}")
        self.future = future
        self.source = file
        self.handle = reopen(file, FILE_FLAG_OVERLAPPED | FILE_FLAG_SEQUENTIAL_SCAN)
        with nogil:
            self.there = bytes_from(self.handle, self.begin)

    def __dealloc__(self):
        if self.handle != NULL:
            CloseHandle(self.handle)

    cdef void close(self) noexcept:
        source, self.source = self.source, None
        if self.handle != NULL:
            CloseHandle(self.handle)
            self.handle = NULL
        if self.own_source:
            try:
                source.close()
            except BaseException:
                pass                    # nothing was written to it

    cdef int read_instead(self) except -1:
        """It is not for TransmitFile."""
        CloseHandle(self.handle)
        self.handle = reopen(self.source, FILE_FLAG_SEQUENTIAL_SCAN)
        if self.handle == NULL:
            return 0
        descriptor = msvcrt.open_osfhandle(<size_t>self.handle, os.O_RDONLY)
        self.handle = NULL              # the descriptor's
        self.source = io.FileIO(descriptor)
        self.own_source = True
        return 0

    cdef bytes read(self, size_t nbytes):
        if not self.sought:
            if is_seekable(self.source):
                self.source.seek(self.begin)
            self.sought = True
        data = self.source.read(nbytes)
        if not isinstance(data, bytes):
            raise TypeError(f"file.read() must return bytes, got {type(data).__name__}")
        if len(data) > <Py_ssize_t>nbytes:
            raise ValueError(f"file.read({nbytes}) must return no more, got {len(data)} bytes")
        return bytes(data)


cdef class FileUser:
    cdef void _serve_files(self, conn_t *conn) noexcept:
        cdef size_t nbytes = 0
        cdef SentFile sent
        cdef file_t *file = conn_take_files(conn)
        while file != NULL:
            file = tell_file(self, file)
        file = conn_file_to_read(conn, &nbytes)
        if file == NULL:
            return
        sent = <SentFile>file.buf.owner
        try:
            self._read_part(conn, sent, nbytes)
        except BaseException as exc:
            sent.exc = exc
            self._file_failed(conn, exc)

    cdef int _read_part(self, conn_t *conn, SentFile sent, size_t nbytes) except -1:
        cdef bytes data = sent.read(nbytes)
        cdef int result
        if not data:
            conn_end_file(conn)
            return 0
        Py_INCREF(data)                 # dropped here, or by release_spent once it is sent
        result = conn_put_part(conn, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), <void *>data)
        if not result & WRITE_KEPT:
            Py_DECREF(data)
        if result & WRITE_NO_MEMORY:
            raise MemoryError
        return 0

    cdef void _file_failed(self, conn_t *conn, exc) noexcept:
        with nogil:
            conn_abort(NULL, conn, ABORT_CALLBACK)

    cdef void _file_callback_raised(self, exc) noexcept:
        pass


cdef file_t *tell_file(FileUser user, file_t *file) noexcept:
    """Tell of one that is over, and free it; returns the next of the chain."""
    cdef file_t *following = <file_t *>file.buf.next
    cdef SentFile sent = <SentFile>file.buf.owner
    cdef bint ended = file.ended
    cdef int error = file.error
    sent.nbytes = file.sent
    sent.file = NULL
    file_free(file)
    sent.close()
    Py_DECREF(sent)                     # of the INCREF in queue_file
    try:
        future, sent.future = sent.future, None
        if ended:
            settle(future, sent.nbytes, None)
        elif sent.exc is not None:
            settle(future, None, sent.exc)
        elif error != 0:
            settle(future, None, os_error(error, "sendfile"))
        else:
            settle(future, None, ConnectionAbortedError(
                "the connection ended before the file was sent"))
    except BaseException as exc:
        user._file_callback_raised(exc)
    return following


cdef int settle(future, result, exc) except -1:
    """Unless nobody waits for it any more."""
    if not asyncio.isfuture(future):
        raised = set_outcome(future, result, exc, True)
        if raised is not None:
            raise raised
    elif future.done():
        return 0
    elif exc is None:
        future.set_result(result)
    else:
        future.set_exception(exc)
    return 0


cdef class FileSender:
    def sendfile(self, file, offset=0, count=None):
        """Send a file, or a part of it, in order with what is written before and after.
        Microsoft's TransmitFile; asyncio.loop.sendfile(), for a connection of a server.

        file: a file object, open for reading in binary mode; it may be closed at once.  offset:
        where to begin, in bytes.  count: how many bytes at most, None: to the end that the file
        has when its turn comes.  Returns a concurrent.futures.Future: its result is how many bytes
        were sent, fewer than count where the file ends before that; its exception what has ended
        the connection, or ConnectionAbortedError.  Its own callbacks run in the connection's turn.

        Windows reads and sends it without Python, and the file's position stays as it is.  With
        TLS, and where it is no real file (io.BytesIO, one that decompresses), it is read on a
        worker, part by part, as the peer takes it; an object that is no real file must be left
        alone until the future is done.  What cannot be read ends the connection, since its bytes
        were promised.  What is left of a real file counts for the marks and in
        get_write_buffer_size(), and not for max_write_buffer, since it takes no memory; of another
        the part that has been read counts.

        Any thread.  Raises TypeError or ValueError for a wrong argument.
        """
        cdef SentFile sent = SentFile.__new__(SentFile, file, offset, count,
                                              concurrent.futures.Future())
        cdef sendfile_result result = SENDFILE_CLOSED
        future = sent.future
        cdef conn_t *conn = self._enter()
        if conn != NULL:
            try:
                result = queue_file(NULL, conn, sent)
                if result == SENDFILE_UNFIT:
                    sent.read_instead()
                    result = queue_file(NULL, conn, sent)
            finally:
                conn_unref(conn)
        if result == SENDFILE_CLOSED:
            sent.close()
            settle(future, None, ConnectionAbortedError("the connection is closing"))
        return future

    cdef void _file_failed(self, conn_t *conn, exc) noexcept:
        if self._raised is None:
            self._raised = exc
        FileUser._file_failed(self, conn, exc)


cdef sendfile_result queue_file(worker_t *worker, conn_t *conn, SentFile sent) except *:
    cdef sendfile_result result
    sent.file = file_new(sent.handle, <PyObject *>sent, sent.begin, sent.count,
                         sent.there)
    if sent.file == NULL:
        raise MemoryError
    cdef file_t *file = sent.file
    Py_INCREF(sent)                     # dropped here, or when it is over
    with nogil:
        result = conn_sendfile(worker, conn, file)
    if result != SENDFILE_TAKEN:
        sent.file = NULL
        file_free(file)
        Py_DECREF(sent)
    if result == SENDFILE_NO_MEMORY:
        raise MemoryError
    return result


cdef void cancel_file(conn_t *conn, SentFile sent) noexcept:
    if sent.file != NULL:
        conn_cancel_file(conn, sent.file)


cdef void drop_files(conn_t *conn) noexcept:
    cdef file_t *file = conn_take_files(conn)
    cdef file_t *following
    while file != NULL:
        following = <file_t *>file.buf.next
        sent = <SentFile>file.buf.owner
        (<SentFile>sent).file = NULL
        file_free(file)
        (<SentFile>sent).close()
        Py_DECREF(sent)                 # of the INCREF in queue_file
        file = following
