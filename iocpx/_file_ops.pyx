"""Files of the application's on the port: ReadFile and WriteFile, post and completion.

Operations of one file are independent of each other: any number of them may be pending, and they
complete in any order.  So there is no turn, as a connection has; an operation that is over waits in
engine.file_ops, and whichever worker takes the GIL next tells its maker.

Any thread posts them.  That one of the application may end at any time does no harm here: Windows
cancels what a thread has pending when it ends, but not on handles that are on a completion port.

The same rules hold as for sockets: an op and its memory are lent until its packet has come, a post
that races with a close is followed by a second look, and the handle is closed when nothing is
pending on it.  The file ends when all has been told, too.

Called by `_open_file` and, to tell what is over, `_core`, and by `_worker` and `_keeper`, which ask
whether something is; calls `_base`.
"""

from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from iocpx._base cimport (
    count_op, engine_hold, engine_key, engine_release, op_init, packet_came, packet_post,
)
from iocpx._op cimport op_t
from iocpx._types cimport *
from iocpx._winsock cimport *


cdef disk_file_t *file_new(engine_t *engine, HANDLE handle, bint skip, int *error) noexcept nogil:
    cdef disk_file_t *file = <disk_file_t *>calloc(1, sizeof(disk_file_t))
    if file == NULL:
        error[0] = ERROR_NOT_ENOUGH_MEMORY
        return NULL
    if not engine_hold(engine):
        free(file)
        error[0] = ERROR_OPERATION_ABORTED
        return NULL
    if CreateIoCompletionPort(handle, engine.port, engine_key(engine), 0) == NULL:
        error[0] = <int>GetLastError()
        free(file)
        engine_release(engine)
        return NULL
    file.engine = engine
    file.handle = handle
    file.queues = not skip
    file.skips = skip and SetFileCompletionNotificationModes(
        handle, FILE_SKIP_COMPLETION_PORT_ON_SUCCESS | FILE_SKIP_SET_EVENT_ON_HANDLE)
    InitializeSRWLock(&file.lock)
    count_op(engine, NULL, E_FILES_OPENED, 1)
    error[0] = 0
    return file


cdef void file_free(disk_file_t *file) noexcept nogil:
    free(file)


cdef void file_leave(disk_file_t *file) noexcept nogil:
    """Release file.lock; close the handle if that has left nothing pending of a file that is
    closing.  Precondition: the caller keeps the file, or has something of it that is untold."""
    cdef HANDLE handle = NULL
    if file.closing and file.pending == 0:
        handle = file.handle
        file.handle = NULL
    ReleaseSRWLockExclusive(&file.lock)
    if handle == NULL:
        return
    # Without the lock: on another machine it may take its time.
    CloseHandle(handle)
    count_op(file.engine, NULL, E_FILES_CLOSED, 1)
    AcquireSRWLockExclusive(&file.lock)
    file.closed = True
    ReleaseSRWLockExclusive(&file.lock)


cdef void file_close(disk_file_t *file) noexcept nogil:
    AcquireSRWLockExclusive(&file.lock)
    if not file.closing:
        file.closing = True
        if file.pending > 0:
            # Where that fails what is pending ends by itself.
            CancelIoEx(file.handle, NULL)
    file_leave(file)


cdef bint file_take_end(disk_file_t *file) noexcept nogil:
    AcquireSRWLockExclusive(&file.lock)
    cdef bint ended = file.closed and file.untold == 0
    cdef bint first = ended and not file.end_taken
    file.end_taken = ended
    ReleaseSRWLockExclusive(&file.lock)
    if first:
        engine_release(file.engine)
    return first


cdef HANDLE file_borrow(disk_file_t *file) noexcept nogil:
    cdef HANDLE handle = NULL
    AcquireSRWLockExclusive(&file.lock)
    if not file.closing:
        handle = file.handle
        file.pending += 1
        file.untold += 1
    ReleaseSRWLockExclusive(&file.lock)
    return handle


cdef void file_return(disk_file_t *file) noexcept nogil:
    AcquireSRWLockExclusive(&file.lock)
    file.pending -= 1
    file_leave(file)
    # Last: from here on the file may end.
    file_told(file)


cdef void file_told(disk_file_t *file) noexcept nogil:
    AcquireSRWLockExclusive(&file.lock)
    file.untold -= 1
    ReleaseSRWLockExclusive(&file.lock)


# -- operations ------------------------------------------------------------------------


cdef void file_op_init(file_op_t *op, disk_file_t *file, void *user) noexcept nogil:
    memset(op, 0, sizeof(file_op_t))
    op_init(&op.op, on_file_op, file)
    op.user = user


cdef bint file_op_begin(file_op_t *op, uint64_t offset) noexcept nogil:
    """False: the file is closed, or about to be."""
    cdef disk_file_t *file = <disk_file_t *>op.op.owner
    AcquireSRWLockExclusive(&file.lock)
    cdef bint open = not file.closing
    file.pending += open
    file.untold += open
    op.pending = open
    ReleaseSRWLockExclusive(&file.lock)
    if not open:
        return False
    op.op.overlapped.Offset = <DWORD>offset
    op.op.overlapped.OffsetHigh = <DWORD>(offset >> 32)
    count_op(file.engine, NULL, E_FILE_OPS_BEGUN, 1)
    count_op(file.engine, NULL, E_OPS_POSTED, 1)
    return True


cdef file_post_result file_read(file_op_t *op, char *data, size_t nbytes,
                                uint64_t offset) noexcept nogil:
    cdef disk_file_t *file = <disk_file_t *>op.op.owner
    cdef int error = 0
    if not file_op_begin(op, offset):
        return FILE_CLOSED
    # `pending` keeps the handle open.
    if not ReadFile(file.handle, data, <DWORD>nbytes, NULL, &op.op.overlapped):
        error = <int>GetLastError()
    return file_op_posted(file, op, error)


cdef file_post_result file_write(file_op_t *op, const char *data, size_t nbytes,
                                 uint64_t offset) noexcept nogil:
    cdef disk_file_t *file = <disk_file_t *>op.op.owner
    cdef int error = 0
    if not file_op_begin(op, offset):
        return FILE_CLOSED
    if not WriteFile(file.handle, data, <DWORD>nbytes, NULL, &op.op.overlapped):
        error = <int>GetLastError()
    return file_op_posted(file, op, error)


cdef file_post_result file_op_posted(disk_file_t *file, file_op_t *op, int error) noexcept nogil:
    cdef engine_t *engine = file.engine
    # ERROR_MORE_DATA, of a pipe of messages: no error for Windows but a warning, with a packet.
    if error == ERROR_IO_PENDING or error == ERROR_MORE_DATA or (error == 0 and not file.skips):
        InterlockedIncrement(&engine.packets_due)
        # Whoever wanted to cancel it may have come before there was anything to cancel.
        AcquireSRWLockExclusive(&file.lock)
        if op.pending and (file.closing or op.cancelled):
            CancelIoEx(file.handle, &op.op.overlapped)
        ReleaseSRWLockExclusive(&file.lock)
        return FILE_PENDING
    op.error = error
    op.nbytes = <DWORD>op.op.overlapped.InternalHigh if error == 0 else 0
    count_op(engine, NULL, E_OPS_COMPLETED, 1)
    file_op_over(file, op)
    if file.queues:
        op.refused = True
        if packet_post(engine, &op.op):
            return FILE_PENDING
    count_op(engine, NULL, E_FILE_OPS_DONE, 1)
    return FILE_DONE


cdef void file_op_over(disk_file_t *file, file_op_t *op) noexcept nogil:
    """It has its outcome, and is untold, which keeps the file."""
    AcquireSRWLockExclusive(&file.lock)
    op.pending = False
    file.pending -= 1
    file_leave(file)


cdef bint file_op_cancel(file_op_t *op) noexcept nogil:
    cdef disk_file_t *file = <disk_file_t *>op.op.owner
    cdef bint found = False
    AcquireSRWLockExclusive(&file.lock)
    if op.pending:
        op.cancelled = True
        found = CancelIoEx(file.handle, &op.op.overlapped)
    ReleaseSRWLockExclusive(&file.lock)
    return found


cdef void on_file_op(void *by, op_t *packet, DWORD nbytes) noexcept nogil:
    """Its packet has come: done_fn."""
    cdef worker_t *worker = <worker_t *>by
    cdef engine_t *engine = worker.engine
    cdef file_op_t *op = <file_op_t *>packet
    cdef disk_file_t *file = <disk_file_t *>packet.owner
    cdef DWORD transferred = 0
    packet_came(engine)
    if not op.refused:
        op.nbytes = nbytes
        op.error = 0
        # It is pending until file_op_over, so the handle is open.
        if packet.overlapped.Internal != 0 and not GetOverlappedResult(
                file.handle, &packet.overlapped, &transferred, False):
            op.error = <int>GetLastError()
        file_op_over(file, op)
    op.next = NULL
    # From here on it may be told by any worker, and then be gone with its file.
    AcquireSRWLockExclusive(&engine.run_lock)
    if engine.file_ops == NULL:
        engine.file_ops = op
    else:
        engine.last_file_op.next = op
    engine.last_file_op = op
    engine.n_file_ops += 1
    ReleaseSRWLockExclusive(&engine.run_lock)
    worker.also |= ALSO_FILES


# -- what is over ----------------------------------------------------------------------


cdef file_op_t *engine_next_file_op(worker_t *worker) noexcept nogil:
    cdef engine_t *engine = worker.engine
    cdef file_op_t *op
    # Without a lock: mostly there is nothing.
    if worker.file_share == 0:
        return NULL
    AcquireSRWLockExclusive(&engine.run_lock)
    op = engine.file_ops
    if op != NULL:
        engine.file_ops = op.next
        engine.n_file_ops -= 1
    ReleaseSRWLockExclusive(&engine.run_lock)
    worker.file_share = 0 if op == NULL else worker.file_share - 1
    if op != NULL:
        count_op(engine, worker, E_FILE_OPS_DONE, 1)
    return op


cdef int engine_file_ops(engine_t *engine) noexcept nogil:
    AcquireSRWLockExclusive(&engine.run_lock)
    cdef int n = engine.n_file_ops
    ReleaseSRWLockExclusive(&engine.run_lock)
    return n
