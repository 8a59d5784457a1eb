"""Files that are read and written: see _disk.pxd."""

from libc.stdint cimport uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from _checks cimport check_refusal
from _kernel cimport *
from _run cimport disturbed, mark, marked, one_of, server, the
from iocpx._file_ops cimport (
    APPENDING, FILE_CLOSED, FILE_DONE, file_borrow, file_close, file_free, file_new,
    file_op_cancel, file_op_init, file_post_result, file_read, file_return, file_take_end,
    file_told, file_write,
)
from iocpx._types cimport disk_file_t, file_op_t
from iocpx._winsock cimport (
    CloseHandle, ERROR_HANDLE_EOF, ERROR_OPERATION_ABORTED, ERROR_UNEXP_NET_ERR, HANDLE,
    InterlockedDecrement, LONG,
)

cdef enum:
    LONGEST = 300           # bytes of an operation
    FAR = 100000            # beyond every end

cdef enum disk_op_kind:
    READS_DISK
    WRITES_DISK
    APPENDS_DISK

ctypedef struct disk_op_t:
    file_op_t op            # first
    LONG refs               # whoever has begun it, and who is told
    disk_op_kind kind
    char *data              # owned
    size_t nbytes
    size_t offset
    bint cancelled          # somebody wanted it; atomic
    bint told

# The file.  Atomic, but for what is drawn.
ctypedef struct disk_t:
    HANDLE handle
    size_t size             # at the beginning
    disk_file_t *file       # NULL: not there, or not any more
    bint over               # … and it was there
    int users               # threads that have it from there
    int untold              # operations that are under way
    bint closing
    bint ended              # file_take_end has told so
    size_t appended         # bytes of appends that were told to be done…
    size_t not_appended     # … and of those that were not, or not wholly
    bint[4096] written      # bytes of which a write was told to be done

cdef disk_t disk


cdef void disk_begin() noexcept nogil:
    memset(&disk, 0, sizeof(disk))


cdef void unref(disk_op_t *op) noexcept nogil:
    if InterlockedDecrement(&op.refs) == 0:
        free(op.data)
        free(op)


cdef void look_end(disk_file_t *file) noexcept nogil:
    if not file_take_end(file):
        return
    sim_note("the file has ended", 0, 0)
    if not marked(&disk.closing):
        sim_fail("a file has ended that nobody has closed")
    if marked(&disk.ended):
        sim_fail("a file ends twice")
    mark(&disk.ended, True)


# -- what is told ----------------------------------------------------------------------


cdef void check_read(disk_op_t *op) noexcept nogil:
    cdef size_t i
    cdef unsigned char byte
    cdef size_t at
    if op.op.nbytes == 0 or op.op.nbytes > op.nbytes:
        sim_fail("%u of %zu bytes were read", op.op.nbytes, op.nbytes)
    for i in range(op.op.nbytes):
        byte = <unsigned char>op.data[i]
        at = op.offset + i
        # Beyond what was there at first nothing need be written yet.
        if byte != sim_disk_byte(at) and (at < disk.size or byte != 0 and byte != SIM_APPENDED):
            sim_fail("byte %zu of the file is wrong", at)


cdef void note_written(disk_op_t *op) noexcept nogil:
    cdef size_t i
    cdef bint done = op.op.error == 0
    if done and op.op.nbytes != op.nbytes:
        sim_fail("%u of %zu bytes were written", op.op.nbytes, op.nbytes)
    sim_atomic(True)
    if op.kind == APPENDS_DISK:
        disk.appended += op.nbytes if done else 0
        disk.not_appended += 0 if done else op.nbytes
    elif done:
        for i in range(op.nbytes):
            disk.written[op.offset + i] = True
    sim_atomic(False)


cdef void check_outcome(disk_op_t *op) noexcept nogil:
    cdef int error = op.op.error
    if op.told:
        sim_fail("an operation of a file is told twice")
    op.told = True
    if error == ERROR_HANDLE_EOF:
        if op.kind != READS_DISK or op.offset < disk.size:
            sim_fail("the file ends before its end")
    elif error == ERROR_OPERATION_ABORTED:
        if not marked(&op.cancelled) and not marked(&disk.closing):
            sim_fail("an operation of a file was given up, and nobody wanted that")
    elif error != 0 and error != ERROR_UNEXP_NET_ERR and not disturbed():
        sim_fail("an operation of a file has failed: %d", error)
    if op.kind != READS_DISK:
        note_written(op)
    elif error == 0:
        check_read(op)


cdef void over(disk_op_t *op) noexcept nogil:
    cdef disk_file_t *file = <disk_file_t *>op.op.op.owner
    sim_note("a file's operation is over", op.kind, op.op.error)
    check_outcome(op)
    if marked(&disk.ended):
        sim_fail("a file has ended before all of it is told")
    file_told(file)
    look_end(file)
    # Last: from here on the file may be freed.
    sim_atomic(True)
    disk.untold -= 1
    sim_atomic(False)
    unref(op)


cdef void disk_told(file_op_t *op) noexcept nogil:
    if sim_locks() != 0:
        sim_fail("an operation of a file is told with a lock")
    sim_point()
    over(<disk_op_t *>op)


# -- operations ------------------------------------------------------------------------


cdef disk_file_t *borrow_disk() noexcept nogil:
    sim_atomic(True)
    cdef disk_file_t *file = disk.file
    disk.users += file != NULL
    sim_atomic(False)
    return file


cdef void return_disk() noexcept nogil:
    sim_atomic(True)
    disk.users -= 1
    sim_atomic(False)


cdef void close_disk(disk_file_t *file) noexcept nogil:
    sim_note("close the file", 0, 0)
    mark(&disk.closing, True)
    file_close(file)
    look_end(file)


cdef disk_op_t *new_disk_op(disk_file_t *file) noexcept nogil:
    cdef disk_op_t *op = <disk_op_t *>malloc(sizeof(disk_op_t))
    cdef uint32_t what = sim_random(4)
    cdef size_t i
    if op == NULL:
        return NULL
    memset(op, 0, sizeof(disk_op_t))
    file_op_init(&op.op, file, NULL)
    op.refs = 2
    op.kind = READS_DISK if what < 2 else WRITES_DISK if what == 2 else APPENDS_DISK
    op.nbytes = 1 + sim_random(LONGEST)
    op.offset = sim_random(<uint32_t>(SIM_DISK - LONGEST))
    if op.kind == READS_DISK and sim_random(8) == 0:
        op.offset = FAR
    op.data = <char *>malloc(op.nbytes)
    if op.data == NULL:
        free(op)
        return NULL
    for i in range(op.nbytes if op.kind != READS_DISK else 0):
        op.data[i] = <char>(SIM_APPENDED if op.kind == APPENDS_DISK
                            else sim_disk_byte(op.offset + i))
    return op


cdef void begin_one(disk_file_t *file) noexcept nogil:
    cdef disk_op_t *op = new_disk_op(file)
    cdef file_post_result result
    if op == NULL:
        return
    sim_atomic(True)
    disk.untold += 1
    # What is appended must find room.
    if disk.appended + disk.not_appended > 2 * SIM_DISK and op.kind == APPENDS_DISK:
        op.kind = READS_DISK
    sim_atomic(False)
    sim_note("a file's operation begins", op.kind, <long long>op.offset)
    if op.kind == READS_DISK:
        result = file_read(&op.op, op.data, op.nbytes, op.offset)
    else:
        result = file_write(&op.op, op.data, op.nbytes,
                            APPENDING if op.kind == APPENDS_DISK else op.offset)
    if result == FILE_CLOSED:
        if not marked(&disk.closing):
            sim_fail("the file is closed, and nobody has closed it")
        sim_atomic(True)
        disk.untold -= 1
        sim_atomic(False)
        unref(op)
    elif result == FILE_DONE:
        over(op)
    elif sim_random(3) == 0:
        if sim_random(2):
            sim_busy(sim_random(3))
        mark(&op.cancelled, True)
        if file_op_cancel(&op.op):
            sim_note("a file's operation is cancelled", op.kind, 0)
    unref(op)


cdef void disk_round() noexcept nogil:
    cdef disk_file_t *file = borrow_disk()
    if file == NULL:
        return
    begin_one(file)
    if sim_random(16) == 0 and file_borrow(file) != NULL:
        sim_point()
        file_return(file)
    if sim_random(100) == 0:
        close_disk(file)
    look_end(file)
    return_disk()


# -- the threads -----------------------------------------------------------------------


cdef bint make_disk() noexcept nogil:
    cdef int error = 0
    cdef disk_file_t *file
    disk.size = sim_random(<uint32_t>SIM_DISK)
    disk.handle = sim_disk_file(disk.size)
    file = file_new(server.engine, disk.handle, sim_random(2), &error)
    if file == NULL:
        CloseHandle(disk.handle)
        if error == ERROR_OPERATION_ABORTED:
            check_refusal()
        elif not disturbed():
            sim_fail("a file cannot join the port: %d", error)
    sim_atomic(True)
    disk.file = file
    disk.over = file == NULL
    sim_atomic(False)
    return file != NULL


cdef bint all_told() noexcept nogil:
    sim_atomic(True)
    cdef bint told = disk.untold == 0 and disk.users == 0
    sim_atomic(False)
    return told


cdef void end_disk() noexcept nogil:
    cdef disk_file_t *file = disk.file
    cdef size_t appended
    cdef size_t i
    close_disk(file)
    sim_atomic(True)
    disk.file = NULL
    disk.over = True
    sim_atomic(False)
    while not all_told():
        sim_sleep(1)
    if not marked(&disk.ended):
        sim_fail("the file is closed, nothing of it is pending, and it does not end")
    file_free(file)
    appended = sim_disk_appended(disk.handle)
    if appended < disk.appended or appended > disk.appended + disk.not_appended:
        sim_fail("%zu bytes were appended, and %zu told", appended, disk.appended)
    for i in range(<size_t>SIM_DISK):
        if disk.written[i]:
            sim_disk_check(disk.handle, i, 1)


cdef void disk_main(void *argument) noexcept nogil:
    cdef uint32_t rounds = sim_random(8 if the.calm else one_of(4, 12, 40, 40))
    cdef uint32_t _round
    sim_passing()
    if argument == NULL:
        sim_sleep(one_of(0, 0, 50, 3000))
        if not make_disk():
            return
    else:
        while not marked(&disk.over) and borrow_disk() == NULL:
            sim_sleep(5)
        if marked(&disk.over):
            return
        return_disk()
    for _round in range(rounds):
        disk_round()
        if sim_random(4) == 0:
            sim_sleep(one_of(0, 1, 5, sim_random(100)))
    if argument == NULL:
        end_disk()
