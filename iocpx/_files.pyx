"""Files among what is to be sent: whose turn it is, TransmitFile, and its three outcomes.

The outbox holds what leaves next: bytes, or one file and nothing else.  What follows a file waits
in `files.later`, and moves up when the outbox is empty.  So sending bytes asks nothing about files,
and a connection that sends none pays nothing for them.  A file without a handle that Windows
could send from (a filter makes something else of its bytes, or there is none) is the front without
being in the outbox: its handler reads it, part by part, each time when all before that is sent.

Called by `_send`, `_conn` and `_sendfile`; calls `_life`, `_sched` and `_base`.
"""

from libc.stdint cimport uint64_t
from libc.string cimport memset

from iocpx._base cimport conn_ref, count, count_op, now_ms, trace
from iocpx._life cimport conn_fail, op_pended
from iocpx._sched cimport conn_unref
from iocpx._state cimport buf_t, queue_pop, queue_push, queue_t, STATE_FLUSHING
from iocpx._types cimport *
from iocpx._winsock cimport *


cdef void files_next(conn_t *conn) noexcept nogil:
    """Where all before it is sent, the next of what waits behind files moves up.
    Precondition: conn.lock held, conn.files there."""
    cdef files_t *files = conn.files
    if conn.outbox.head != NULL or conn.plain.head != NULL:
        return
    if files.front != NULL:
        conn.due |= DUE_FILES
    elif files.later.head == NULL:
        conn.after_send &= ~<int>SENT_FILES
    elif files.later.head.data == NULL:
        file_begin(conn, <file_t *>queue_pop(&files.later))
    else:
        move_up(conn, &conn.plain if conn.filtered else &conn.outbox)


cdef void file_begin(conn_t *conn, file_t *file) noexcept nogil:
    """It is next."""
    conn.files.front = file
    if file.handle == NULL:
        conn.due |= DUE_FILES
        return
    file.part = SEND_BYTES
    queue_push(&conn.outbox, &file.buf)
    conn.send_bytes = A_FILE_IS_NEXT


cdef void move_up(conn_t *conn, queue_t *onto) noexcept nogil:
    """The bytes that come before the next file, which the outbox counts already."""
    cdef queue_t *later = &conn.files.later
    cdef buf_t *buf
    while later.head != NULL and later.head.data != NULL:
        buf = queue_pop(later)
        if onto == &conn.outbox:
            conn.outbox.nbytes -= buf.size
            conn.outbox.writes -= buf.writes
        queue_push(onto, buf)


cdef void file_count(conn_t *conn, file_t *file, size_t nbytes) noexcept nogil:
    conn.outbox.nbytes += nbytes - file.counted
    conn.files.nbytes += nbytes - file.counted
    file.counted = nbytes


cdef void file_end(conn_t *conn) noexcept nogil:
    """All of the front has been sent."""
    cdef file_t *file = conn.files.front
    file_count(conn, file, 0)
    if conn.send_bytes == A_FILE_IS_NEXT:
        queue_pop(&conn.outbox)
        conn.send_bytes = SEND_BYTES
    trace(conn, "file sent", <LONG64>file.sent)
    file.ended = True
    conn.files.front = NULL
    queue_push(&conn.files.over, &file.buf)
    conn.due |= DUE_FILES
    files_next(conn)


cdef size_t file_part(file_t *file, uint64_t size) noexcept nogil:
    """Bytes of its next TransmitFile, now that the file has `size`."""
    cdef uint64_t there = size - file.offset if size > file.offset else 0
    if not file.looked:
        # What it grows by from now on is not sent.
        file.looked = True
        file.left = min(file.left, there)
    if file.cancelled:
        return 0
    return <size_t>min(min(file.left, there), <uint64_t>file.part)


cdef bint file_post(worker_t *worker, conn_t *conn) noexcept nogil:
    """The next part of the file, which stays as it is until that is back: only its completion
    moves it on."""
    cdef file_t *file = conn.files.front
    cdef LARGE_INTEGER size
    cdef size_t part = 0
    cdef DWORD nbytes = 0
    cdef DWORD flags = 0
    cdef int error = 0
    conn.send_lent = 0
    conn.send_ms = 0
    conn.sending = True
    conn.pending += 1
    conn_ref(conn)
    ReleaseSRWLockExclusive(&conn.lock)
    # Each time, since it may become shorter meanwhile.  Beyond the end TransmitFile fails, and
    # nobody knows how much it has sent by then.
    if not GetFileSizeEx(file.handle, &size):
        error = <int>GetLastError()
    AcquireSRWLockExclusive(&conn.lock)
    if error == 0:
        part = file_part(file, <uint64_t>size.QuadPart)
        file_count(conn, file, <size_t>file.left)
    if part == 0:
        conn.sending = False
        conn.pending -= 1
        conn_unref(conn)    # never the last one: the caller has its own
        if error != 0:
            conn_fail(conn, ABORT_ERROR, error, True)
            return False
        file_end(conn)
        return True
    conn.send_lent = part
    memset(&conn.send.overlapped, 0, sizeof(OVERLAPPED))
    conn.send.overlapped.Offset = <DWORD>file.offset
    conn.send.overlapped.OffsetHigh = <DWORD>(file.offset >> 32)
    ReleaseSRWLockExclusive(&conn.lock)
    count_op(conn.engine, worker, E_OPS_POSTED, 1)
    if not conn.provider.TransmitFile(conn.sock, file.handle, <DWORD>part, 0,
                                      &conn.send.overlapped, NULL, 0):
        error = WSAGetLastError()
        if error == WSAENOTCONN:
            error = WSAECONNRESET   # as WSASend calls what it was, and is no more
    elif conn.skips:
        WSAGetOverlappedResult(conn.sock, &conn.send.overlapped, &nbytes, False, &flags)
    AcquireSRWLockExclusive(&conn.lock)
    if error == ERROR_IO_PENDING or (error == 0 and not conn.skips):
        conn.send_ms = now_ms()
        op_pended(conn, NULL)
        # By now it may be another file, or none: another worker may have had the completion.
        file = conn.files.front
        if file != NULL and file.cancelled and conn.sending:
            CancelIoEx(<HANDLE>conn.sock, &conn.send.overlapped)
        return False
    count_op(conn.engine, worker, E_OPS_COMPLETED, 1)
    if error == 0:
        count(conn.service, worker, N_INLINE_COMPLETIONS, 1)
        file.part = min(2 * part, <size_t>MOST_SEND_BYTES)
    file_done(worker, conn, error, nbytes)
    conn_unref(conn)    # never the last one: the caller has its own
    return error == 0


cdef void file_done(worker_t *worker, conn_t *conn, int error, DWORD nbytes) noexcept nogil:
    cdef file_t *file = conn.files.front
    conn.sending = False
    conn.pending -= 1
    if nbytes > 0:
        count(conn.service, worker, N_SENDS, 1)
        count(conn.service, worker, N_BYTES_SENT, nbytes)
        file.offset += nbytes
        file.left -= nbytes
        file_count(conn, file, <size_t>file.left)
        file.sent += nbytes
        if conn.after_send & SENT_TOLD:
            conn.sent_untold += nbytes
        trace(conn, "sent of a file", nbytes)
        if conn.state == STATE_FLUSHING:
            conn.progress_ms = now_ms()
        if conn.service.config.idle_timeout_ms != 0:
            conn.active_ms = now_ms()
    if error != 0 and not (error == ERROR_OPERATION_ABORTED and file.cancelled):
        # How much has been sent is not known, so what follows the file must not follow it.
        conn_fail(conn, ABORT_ERROR, error, True)
    elif conn.send_lent == 0:
        pass        # send_defer's
    elif file.left == 0 or nbytes == 0 or file.cancelled:
        # Of less than was asked for without an error nothing is left: it ends there.
        file_end(conn)
