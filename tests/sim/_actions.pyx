"""What anybody does to a connection: see _actions.pxd."""

from libc.stdint cimport uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from _checks cimport check_bytes
from _kernel cimport *
from _run cimport (
    calm, mark, marked, one_of, protocol_t, protocols, served_of, worker_of, MEDDLED_WRITE,
)
from iocpx._base cimport conn_ref
from iocpx._filter cimport (
    conn_filter_begin, conn_filter_end, conn_filter_hold, conn_filter_open, conn_free_plain,
    conn_put_filtered, conn_return_plain, conn_take_plain,
)
from iocpx._requests cimport (
    conn_abort, conn_close, conn_flush, conn_gather, conn_pause_reading, conn_set_marks,
    conn_take_spent, conn_write, conn_write_eof, conn_write_parts, WRITE_CLOSED, WRITE_FLUSH,
    WRITE_KEPT, WRITE_NO_MEMORY, WRITE_SPENT,
)
from iocpx._sched cimport conn_leave, conn_unref
from iocpx._sendfile cimport (
    conn_cancel_file, conn_end_file, conn_file_to_read, conn_put_part, conn_sendfile,
    conn_take_files, file_free, file_new, sendfile_result, SENDFILE_CLOSED, SENDFILE_TAKEN,
    SENDFILE_UNFIT,
)
from iocpx._state cimport buf_free, queue_consume, queue_t
from iocpx._types cimport *
from iocpx._winsock cimport (
    AcquireSRWLockExclusive, CloseHandle, HANDLE, ReleaseSRWLockExclusive,
)


cdef enum:
    FLOOD = 20000           # bytes: far more than any limit there is
    LONG_FILE = 300000      # bytes: more than one TransmitFile

# A file that is sent.
ctypedef struct sent_file_t:
    HANDLE handle           # owned
    size_t at               # where in the stream it begins
    size_t size             # bytes that are sent of it


cdef conn_t *borrow(int client) noexcept nogil:
    cdef conn_t *conn
    sim_atomic(True)
    conn = protocols[client].conn
    if conn != NULL:
        conn_ref(conn)
    sim_atomic(False)
    return conn


cdef void release(buf_t *spent) noexcept nogil:
    cdef buf_t *buf
    while spent != NULL:
        buf = spent
        spent = buf.next
        free(buf.owner)
        buf_free(buf)


cdef int put(int client, conn_t *conn, queue_t *parts, size_t nbytes, bint keep) noexcept nogil:
    """Queue the next bytes of the stream: in `parts` behind what is there, or if that is NULL
    in the connection.  keep: in a block that may stay with the engine.

    Precondition: protocol.lock held, since where they stand in the stream is known only if no
    other write comes between.
    """
    cdef size_t at = protocols[client].written + (0 if parts == NULL else parts.nbytes)
    cdef char *data = <char *>malloc(nbytes)
    cdef void *owner = data if keep else NULL
    cdef size_t i
    cdef int result
    if data == NULL:
        return WRITE_NO_MEMORY
    for i in range(nbytes):
        data[i] = <char>sim_byte(client, at + i)
    if parts == NULL:
        result = conn_write(worker_of(conn), conn, data, nbytes, owner)
    else:
        result = conn_gather(conn, parts, data, nbytes, owner)
    if not result & WRITE_KEPT:
        free(data)
    return result


cdef int write(int client, conn_t *conn, size_t nbytes, bint keep, bint in_parts) noexcept nogil:
    cdef protocol_t *protocol = &protocols[client]
    cdef queue_t parts
    cdef int result = WRITE_NO_MEMORY
    cdef size_t left = nbytes
    cdef size_t part
    if protocol.eof_written:
        return WRITE_CLOSED
    memset(&parts, 0, sizeof(parts))
    AcquireSRWLockExclusive(&protocol.lock)
    if protocol.cancels:
        ReleaseSRWLockExclusive(&protocol.lock)
        return WRITE_CLOSED
    if in_parts:
        while left > 0:
            part = 1 + sim_random(<uint32_t>left)
            # What there is no memory for is left out.
            put(client, conn, &parts, part, keep)
            left -= part
        nbytes = parts.nbytes
        if nbytes > 0:
            result = conn_write_parts(worker_of(conn), conn, &parts)
    else:
        result = put(client, conn, NULL, nbytes, keep)
    if not result & (WRITE_CLOSED | WRITE_NO_MEMORY):
        protocol.written += nbytes
    ReleaseSRWLockExclusive(&protocol.lock)
    if result & (WRITE_FLUSH | WRITE_SPENT):
        release(conn_take_spent(conn))
    sim_note("writelines" if in_parts else "write", client, <long long>nbytes)
    return result


cdef void pause_reading(int client, conn_t *conn, bint paused) noexcept nogil:
    AcquireSRWLockExclusive(&protocols[client].lock)
    protocols[client].reading_paused = paused
    conn_pause_reading(worker_of(conn), conn, paused)
    ReleaseSRWLockExclusive(&protocols[client].lock)


cdef bint is_paused(int client) noexcept nogil:
    AcquireSRWLockExclusive(&protocols[client].lock)
    cdef bint paused = protocols[client].reading_paused
    ReleaseSRWLockExclusive(&protocols[client].lock)
    return paused


cdef void close_conn(int client, conn_t *conn, bint abort) noexcept nogil:
    sim_note("abort" if abort else "close", client, 0)
    mark(&protocols[client].closed, True)
    if abort:
        conn_abort(worker_of(conn), conn, ABORT_APPLICATION)
    else:
        conn_close(worker_of(conn), conn)


cdef void send_file(int client, conn_t *conn) noexcept nogil:
    cdef protocol_t *protocol = &protocols[client]
    cdef sendfile_result result = SENDFILE_CLOSED
    cdef size_t offset = sim_random(100)
    cdef file_t *file
    cdef sent_file_t *sent = <sent_file_t *>malloc(sizeof(sent_file_t))
    if sent == NULL or protocol.eof_written:
        free(sent)
        return
    cdef size_t size = 0
    if sim_random(8) != 0:
        size = 1 + sim_random(LONG_FILE if sim_random(4) == 0 else 900)
    cdef size_t count = size + 1 + sim_random(50)
    cdef size_t there = offset + size
    if size > 0 and sim_random(2):
        count = size
        there += sim_random(50)     # more than is asked for
    sim_atomic(True)
    protocol.files += 1
    sim_atomic(False)
    AcquireSRWLockExclusive(&protocol.lock)
    if protocol.cancels:
        ReleaseSRWLockExclusive(&protocol.lock)
        sim_atomic(True)
        protocol.files -= 1
        sim_atomic(False)
        free(sent)
        return
    sent.size = size
    sent.at = protocol.written
    sent.handle = sim_file(client, offset, sent.at, there)
    # How much there is of one that is read is known, or not.
    cdef bint real = sim_random(3) != 0
    file = file_new(sent.handle if real else NULL, sent, offset, count,
                    there - offset if real or sim_random(2) else 0)
    if file != NULL:
        result = conn_sendfile(worker_of(conn), conn, file)
        if result == SENDFILE_UNFIT:
            file.handle = NULL
            result = conn_sendfile(worker_of(conn), conn, file)
    if result == SENDFILE_TAKEN:
        # It may be over already, and is given back only after this.
        protocol.written += size
        protocol.last_file = file
        protocol.last_end = protocol.written
        sim_note("sendfile", client, <long long>size)
    ReleaseSRWLockExclusive(&protocol.lock)
    if result != SENDFILE_TAKEN:
        give_back(client, file, sent)


cdef void cancel_file(int client, conn_t *conn) noexcept nogil:
    """Give up the last file, if nothing was written after it, whose place would be another then."""
    cdef protocol_t *protocol = &protocols[client]
    AcquireSRWLockExclusive(&protocol.lock)
    if (protocol.last_file != NULL and protocol.last_end == protocol.written
            and not protocol.cancels):
        protocol.cancels = True
        sim_note("cancel file", client, 0)
        conn_cancel_file(conn, protocol.last_file)
        # What is with the kernel may still be sent, and no more.
        AcquireSRWLockExclusive(&conn.lock)
        protocol.cancel_most = <size_t>protocol.last_file.sent
        if (conn.files.front == protocol.last_file and conn.sending
                and conn.send_bytes == A_FILE_IS_NEXT):
            protocol.cancel_most += conn.send_lent
        ReleaseSRWLockExclusive(&conn.lock)
    ReleaseSRWLockExclusive(&protocol.lock)


cdef void give_back(int client, file_t *file, sent_file_t *sent) noexcept nogil:
    CloseHandle(sent.handle)
    file_free(file)
    free(sent)
    sim_atomic(True)
    protocols[client].files -= 1
    sim_atomic(False)


cdef void serve_files(int client, conn_t *conn) noexcept nogil:
    cdef protocol_t *protocol = &protocols[client]
    cdef file_t *file
    cdef file_t *following
    cdef sent_file_t *sent
    cdef size_t nbytes = 0
    AcquireSRWLockExclusive(&protocol.lock)
    file = conn_take_files(conn)
    following = file
    while following != NULL:
        if following == protocol.last_file:
            protocol.last_file = NULL
            if protocol.cancels:
                sent = <sent_file_t *>following.buf.owner
                if following.handle != NULL and following.sent > protocol.cancel_most:
                    sim_fail("client %d: %zu bytes of a cancelled file were sent, %zu might be",
                             client, <size_t>following.sent, protocol.cancel_most)
                protocol.written -= sent.size - <size_t>following.sent
                sent.size = <size_t>following.sent
                protocol.cancels = False
        following = <file_t *>following.buf.next
    ReleaseSRWLockExclusive(&protocol.lock)
    while file != NULL:
        following = <file_t *>file.buf.next
        sent = <sent_file_t *>file.buf.owner
        sim_note("file over", client, <long long>file.sent)
        if file.ended and file.sent != sent.size:
            sim_fail("client %d: %zu bytes of a file were sent, and %zu counted", client, sent.size,
                     <size_t>file.sent)
        give_back(client, file, sent)
        file = following
    file = conn_file_to_read(conn, &nbytes)
    if file != NULL:
        read_part(client, conn, file, nbytes)


cdef void read_part(int client, conn_t *conn, file_t *file, size_t most) noexcept nogil:
    cdef sent_file_t *sent = <sent_file_t *>file.buf.owner
    cdef size_t nbytes = min(most, sent.size - <size_t>file.sent)
    cdef bint keep = sim_random(2)
    cdef char *data
    cdef size_t i
    cdef int result
    if nbytes == 0:
        conn_end_file(conn)
        return
    nbytes = nbytes if sim_random(2) else 1 + sim_random(<uint32_t>nbytes)
    data = <char *>malloc(nbytes)
    if data == NULL:
        close_conn(client, conn, True)
        return
    for i in range(nbytes):
        data[i] = <char>sim_byte(client, sent.at + <size_t>file.sent + i)
    sim_point()
    result = conn_put_part(conn, data, nbytes, data if keep else NULL)
    if not result & WRITE_KEPT:
        free(data)
    if result & WRITE_NO_MEMORY:
        close_conn(client, conn, True)


cdef void put_own(int client, conn_t *conn, size_t at, size_t nbytes) noexcept nogil:
    """What the filter has to say itself, which stands at this place in the stream."""
    cdef char *data = <char *>malloc(nbytes)
    cdef bint keep = sim_random(2)
    cdef size_t i
    cdef int result = WRITE_NO_MEMORY
    if data != NULL:
        for i in range(nbytes):
            data[i] = <char>sim_byte(client, at + i)
        result = conn_put_filtered(conn, data, nbytes, data if keep else NULL, 0, 0)
    if not result & WRITE_KEPT:
        free(data)
    if result & WRITE_NO_MEMORY:
        close_conn(client, conn, True)
    else:
        protocols[client].own += nbytes


cdef void filter_begin(int client, conn_t *conn) noexcept nogil:
    cdef protocol_t *protocol = &protocols[client]
    cdef size_t hello = 0 if calm(client) else one_of(0, 0, 1 + sim_random(20), 200)
    cdef size_t first = 1 + sim_random(100)
    cdef size_t at = 0
    sim_note("filter begins", client, <long long>hello)
    AcquireSRWLockExclusive(&protocol.lock)
    if conn_filter_begin(worker_of(conn), conn, False):
        protocol.filter_opening = True
        protocol.hello = hello
    if protocol.hello > 0:
        at = protocol.written
        # What is written from here on waits, and comes after both.
        protocol.reply = 1 + sim_random(100)
        protocol.reply_at = at + first
        protocol.written += first + protocol.reply
    ReleaseSRWLockExclusive(&protocol.lock)
    if protocol.hello > 0:
        put_own(client, conn, at, first)


cdef void filter_fail(int client, conn_t *conn) noexcept nogil:
    sim_note("filter fails", client, 0)
    # First: of one that is closing already the end would be sent in between, and the client take
    # what it has got for all.
    close_conn(client, conn, True)
    conn_filter_end(conn)
    conn_filter_hold(conn, False)


cdef bint filter_open(int client, conn_t *conn) noexcept nogil:
    cdef protocol_t *protocol = &protocols[client]
    if (protocol.filter_opening and not calm(client) and not marked(&protocol.closed)
            and sim_random(16) == 0):
        # As a handshake that fails.
        filter_fail(client, conn)
    elif protocol.filter_opening and protocol.hello == 0 and sim_random(3) != 0:
        filter_opened(client, conn)
    elif protocol.filter_opening and protocol.hello == 0:
        filter_asks(conn)
    return not protocol.filter_opening


cdef void filter_asks(conn_t *conn) noexcept nogil:
    """For one more turn, as if what it waits for had come by then."""
    AcquireSRWLockExclusive(&conn.lock)
    conn.filter_begun = True
    conn_leave(worker_of(conn), conn)


cdef void filter_opened(int client, conn_t *conn) noexcept nogil:
    cdef protocol_t *protocol = &protocols[client]
    sim_note("filter opens", client, 0)
    if protocol.reply > 0:
        put_own(client, conn, protocol.reply_at, protocol.reply)
        protocol.reply = 0
    protocol.filter_opening = False
    conn_filter_open(conn)


cdef bint filter_take(int client, conn_t *conn, buf_t *buf) noexcept nogil:
    cdef size_t nbytes = min(protocols[client].hello, buf.size)
    check_bytes(client, buf.data, nbytes)
    protocols[client].hello -= nbytes
    buf.data += nbytes
    buf.size -= nbytes
    if buf.size > 0:
        filter_opened(client, conn)
    return buf.size > 0


cdef void filter_pump(int client, conn_t *conn) noexcept nogil:
    """As the TLS layer does it, with a cipher that changes nothing, and that cannot take all at
    times."""
    cdef queue_t plain
    cdef queue_t done
    cdef size_t part
    cdef int writes
    cdef int result = 0
    cdef char *made
    cdef bint keep
    cdef bint last
    cdef bint left
    memset(&plain, 0, sizeof(plain))
    memset(&done, 0, sizeof(done))
    last = conn_take_plain(conn, &plain)
    while plain.head != NULL and sim_random(8) != 0:
        part = plain.head.size if sim_random(4) else 1 + sim_random(<uint32_t>plain.head.size)
        made = <char *>malloc(part)
        if made == NULL:
            # As the TLS layer has it: what can never be filtered would be tried for ever.
            close_conn(client, conn, True)
            break
        memcpy(made, plain.head.data, part)
        writes = done.writes
        queue_consume(&plain, part, &done)
        keep = sim_random(2)
        result = conn_put_filtered(conn, made, part, made if keep else NULL, part,
                                   done.writes - writes)
        if not result & WRITE_KEPT:
            free(made)
        if result & WRITE_NO_MEMORY:
            close_conn(client, conn, True)
            break
        sim_point()
    if last and plain.head == NULL and not protocols[client].filter_opening:
        conn_filter_end(conn)
    elif last and protocols[client].hello > 0:
        close_conn(client, conn, True)      # it would wait for a peer that need not come
    left = plain.head != NULL
    if left:
        sim_point()
        if not calm(client) and sim_random(4) == 0:
            # As another thread does just now: what is given back stands before it.
            write(client, conn, 1 + sim_random(MEDDLED_WRITE), False, False)
        conn_return_plain(conn, &plain, &done)
    if left:
        filter_asks(conn)
    release(conn_free_plain(conn, &done))


cdef void write_eof(int client, conn_t *conn) noexcept nogil:
    if served_of(client).filtered:
        return
    sim_note("write_eof", client, 0)
    protocols[client].eof_written = conn.service.config.like_asyncio
    conn_write_eof(worker_of(conn), conn)


cdef void flush(int client, conn_t *conn) noexcept nogil:
    cdef bint untold
    if served_of(client).filtered:
        filter_pump(client, conn)
    if conn_flush(worker_of(conn), conn):
        sim_note("pause_writing", client, 1)
        if marked(&protocols[client].paused):
            sim_fail("client %d: pause_writing twice", client)
        mark(&protocols[client].paused, True)
    if worker_of(conn) != NULL:
        AcquireSRWLockExclusive(&conn.lock)
        untold = conn.outbox.nbytes > conn.marks.high and not conn.pause_told
        ReleaseSRWLockExclusive(&conn.lock)
        if untold:
            sim_fail("client %d: above the mark, and pause_writing does not come with the write",
                     client)


cdef void set_marks(int client, conn_t *conn) noexcept nogil:
    # While somebody writes in spite of a pause it shall not end by this.
    AcquireSRWLockExclusive(&protocols[client].lock)
    conn_set_marks(worker_of(conn), conn, sim_random(2000), 0)
    # Where the mark is higher now it is paused no more.
    protocols[client].over = 0
    protocols[client].over_told = False
    ReleaseSRWLockExclusive(&protocols[client].lock)
    if worker_of(conn) != NULL:
        flush(client, conn)


cdef void meddle_write(int client, conn_t *conn) noexcept nogil:
    cdef size_t nbytes = 1 + sim_random(MEDDLED_WRITE)
    cdef int result = write(client, conn, nbytes, False, sim_random(4) == 0)
    if not result & WRITE_FLUSH:
        return
    if worker_of(conn) != NULL:
        flush(client, conn)
    elif conn_flush(NULL, conn):
        sim_fail("client %d: pause_writing outside of its callbacks", client)


cdef void flood(int client, conn_t *conn) noexcept nogil:
    """As a thread does that cares for no pause: the limit is there for it."""
    cdef protocol_t *protocol = &protocols[client]
    cdef size_t before
    cdef size_t after
    cdef size_t nbytes
    cdef size_t flooded = 0
    cdef int result = 0
    # Held all the time, so that nobody else writes.
    AcquireSRWLockExclusive(&protocol.lock)
    if protocol.cancels:
        ReleaseSRWLockExclusive(&protocol.lock)
        return
    AcquireSRWLockExclusive(&conn.lock)
    before = conn.outbox.nbytes if conn.limit_told else 0
    ReleaseSRWLockExclusive(&conn.lock)
    while before > 0 and flooded < FLOOD and not result & WRITE_CLOSED:
        nbytes = 1 + sim_random(FLOOD // 8)
        result = put(client, conn, NULL, nbytes, False)
        if result & WRITE_NO_MEMORY:
            break
        if not result & WRITE_CLOSED:
            protocol.written += nbytes
            flooded += nbytes
    AcquireSRWLockExclusive(&conn.lock)
    after = conn.outbox.nbytes
    ReleaseSRWLockExclusive(&conn.lock)
    # Where nothing has left it was paused all the time.
    if before > 0 and after == before + flooded and (
            flooded > conn.service.config.max_write_buffer):
        sim_fail("client %d: %zu bytes more are queued while it is paused, and the limit is %zu",
                 client, flooded, conn.service.config.max_write_buffer)
    ReleaseSRWLockExclusive(&protocol.lock)
    sim_note("writes in spite of a pause", client, <long long>flooded)
    release(conn_take_spent(conn))
    conn_flush(NULL, conn)


cdef void meddle_with_another(int me, int client, bint writes) noexcept nogil:
    cdef conn_t *conn = borrow(client)
    if conn == NULL:
        return
    if client != me and not writes:
        close_conn(client, conn, True)
    elif client != me and not marked(&protocols[client].paused):
        meddle_write(client, conn)
    conn_unref(conn)
