"""What is asked about files that are sent, from any thread, and how a handler reads those that
Windows cannot send by itself.

Called by `_file_layer` and `_connection`; calls `_files`, `_requests`, `_conn`, `_sched`, `_wants`
and `_base`.
"""

from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from iocpx._base cimport count
from iocpx._conn cimport conn_mark
from iocpx._files cimport file_count, file_end, files_next
from iocpx._requests cimport conn_gather, conn_request_done, WRITE_NO_MEMORY
from iocpx._sched cimport conn_leave
from iocpx._state cimport buf_t, queue_push, queue_t, STATE_FLUSHING, STATE_OPEN
from iocpx._types cimport *
from iocpx._wants cimport conn_has_files
from iocpx._winsock cimport *

cdef enum:
    LEAST_PART_BYTES = 16384    # that are read at once
    MOST_PART_BYTES = 262144


cdef file_t *file_new(HANDLE handle, void *owner, uint64_t offset, uint64_t left,
                      size_t there) noexcept nogil:
    cdef file_t *file = <file_t *>calloc(1, sizeof(file_t))
    if file != NULL:
        file.buf.owner = owner
        file.handle = handle
        file.offset = offset
        file.left = left
        file.counted = <size_t>min(left, <uint64_t>there)
    return file


cdef void file_free(file_t *file) noexcept nogil:
    free(file)


cdef sendfile_result conn_sendfile(worker_t *worker, conn_t *conn, file_t *file) noexcept nogil:
    cdef sendfile_result result = SENDFILE_TAKEN
    AcquireSRWLockExclusive(&conn.lock)
    if conn.state != STATE_OPEN or conn.write_eof:
        result = SENDFILE_CLOSED
    elif file.handle != NULL and (conn.filtered or conn.provider.TransmitFile == NULL):
        result = SENDFILE_UNFIT
    elif conn.files == NULL:
        conn.files = <files_t *>calloc(1, sizeof(files_t))
        if conn.files == NULL:
            result = SENDFILE_NO_MEMORY
    if result == SENDFILE_TAKEN:
        count(conn.service, worker, N_FILES_OPENED, 1)
        conn.outbox.nbytes += file.counted
        conn.files.nbytes += file.counted
        queue_push(&conn.files.later, &file.buf)
        conn.after_send |= SENT_FILES
        files_next(conn)
    if worker != NULL:
        conn_leave(worker, conn)    # its next step sends
    else:
        conn_request_done(worker, conn)
    return result


cdef void conn_cancel_file(conn_t *conn, file_t *file) noexcept nogil:
    AcquireSRWLockExclusive(&conn.lock)
    file.cancelled = True
    # Whoever posts it at this moment looks again when it has.
    if conn.files.front == file and conn.sending and conn.send_bytes == A_FILE_IS_NEXT:
        CancelIoEx(<HANDLE>conn.sock, &conn.send.overlapped)
    ReleaseSRWLockExclusive(&conn.lock)


cdef bint conn_sends_files(conn_t *conn) noexcept nogil:
    AcquireSRWLockExclusive(&conn.lock)
    cdef bint sends = conn_has_files(conn)
    ReleaseSRWLockExclusive(&conn.lock)
    return sends


cdef file_t *conn_take_files(conn_t *conn) noexcept nogil:
    cdef file_t *files = NULL
    cdef buf_t *buf
    AcquireSRWLockExclusive(&conn.lock)
    if conn.files != NULL:
        files = <file_t *>conn.files.over.head
        memset(&conn.files.over, 0, sizeof(queue_t))
    ReleaseSRWLockExclusive(&conn.lock)
    buf = <buf_t *>files
    while buf != NULL:
        count(conn.service, NULL, N_FILES_CLOSED, 1)
        buf = buf.next
    return files


cdef file_t *conn_file_to_read(conn_t *conn, size_t *nbytes) noexcept nogil:
    cdef file_t *file = NULL
    AcquireSRWLockExclusive(&conn.lock)
    if (conn_has_files(conn) and conn.outbox.head == NULL and conn.plain.head == NULL
            and (conn.state == STATE_OPEN or conn.state == STATE_FLUSHING)):
        file = conn.files.front
        if file != NULL and (file.left == 0 or file.cancelled):
            file_end(conn)
            file = NULL     # what comes next is news
    if file != NULL:
        # Below the high mark, also encrypted: of a file whose size nobody knows, what is read shall
        # not pause who writes.
        nbytes[0] = min(max(conn.marks.high // 4 * 3, <size_t>LEAST_PART_BYTES),
                        <size_t>MOST_PART_BYTES)
        nbytes[0] = <size_t>min(<uint64_t>nbytes[0], file.left)
    ReleaseSRWLockExclusive(&conn.lock)
    return file


cdef int conn_put_part(conn_t *conn, const char *data, size_t nbytes, void *owner) noexcept nogil:
    cdef queue_t *queue
    cdef file_t *file
    cdef int result = 0
    AcquireSRWLockExclusive(&conn.lock)
    if (conn_has_files(conn) and conn.files.front != NULL
            and (conn.state == STATE_OPEN or conn.state == STATE_FLUSHING)):
        queue = &conn.plain if conn.filtered else &conn.outbox
        result = conn_gather(conn, queue, data, nbytes, owner)
        if not result & WRITE_NO_MEMORY:
            file = conn.files.front
            file.left -= nbytes
            file.sent += nbytes
            # From now on they count in their queue.
            file_count(conn, file, file.counted - min(nbytes, file.counted))
            if conn.filtered:
                conn.outbox.nbytes += nbytes
            conn_mark(NULL, conn)
    ReleaseSRWLockExclusive(&conn.lock)
    return result


cdef void conn_end_file(conn_t *conn) noexcept nogil:
    AcquireSRWLockExclusive(&conn.lock)
    if conn_has_files(conn) and conn.files.front != NULL:
        file_end(conn)
    ReleaseSRWLockExclusive(&conn.lock)
