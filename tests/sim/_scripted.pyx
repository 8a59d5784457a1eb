"""The protocol of each client: see _scripted.pxd."""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc

from _actions cimport (
    cancel_file, close_conn, filter_begin, filter_fail, filter_open, filter_pump, filter_take,
    flush, is_paused, meddle_with_another, pause_reading, release, send_file, serve_files,
    set_marks, write, write_eof,
)
from _checks cimport check_bounds, check_bytes, check_loop_lost, check_lost
from _disk cimport disk_told
from _kernel cimport *
from _run cimport (
    calm, client_of, disturbed, mark, marked, protocol_t, protocols, served_of, server, the,
    worker_of,
)
from _wakes cimport wakes_before, wakes_cancel, wakes_set, wakes_told
from iocpx._base cimport conn_ref
from iocpx._delivery cimport (
    conn_give_buffer, conn_is_reading_on, conn_offer, conn_take_data, conn_take_eof, conn_take_lost,
    conn_take_news, lost_t, news_t,
)
from iocpx._file_ops cimport engine_next_file_op
from iocpx._filter cimport conn_filter_begun, conn_filter_hold
from iocpx._requests cimport conn_tell_sent, WRITE_CLOSED, WRITE_FLUSH, WRITE_NO_MEMORY
from iocpx._sched cimport conn_unref, worker_delivered, worker_next
from iocpx._state cimport buf_free, buf_t, STATE_DRAINING, STATE_FLUSHING, STATE_OPEN
from iocpx._types cimport *
from iocpx._wants cimport conn_has_files
from iocpx._winsock cimport AcquireSRWLockExclusive, ReleaseSRWLockExclusive

cdef enum:
    LONG_WRITE = 20000      # bytes: longer than what the engine copies
    LONGEST_WRITE = 23000


cdef size_t over_now(int client) noexcept nogil:
    """What its turns before this one have written in spite of a pause; 0 if something has left."""
    cdef sim_client_t facts
    cdef size_t over = 0
    sim_client(client, &facts)
    AcquireSRWLockExclusive(&protocols[client].lock)
    if protocols[client].over_since == facts.given:
        over = protocols[client].over
    ReleaseSRWLockExclusive(&protocols[client].lock)
    return over


cdef void answer(int client, size_t nbytes) noexcept nogil:
    """One of the connection's own callbacks writes."""
    cdef protocol_t *protocol = &protocols[client]
    cdef conn_t *conn = protocol.conn
    if nbytes == 0:
        return
    cdef size_t limit = conn.service.config.max_write_buffer
    cdef bint in_parts = sim_random(4) == 0
    cdef int result
    cdef bint over = limit != 0 and over_now(client) > limit
    protocol.turn_written += nbytes
    protocol.turn_most = max(protocol.turn_most, protocol.turn_written)
    result = write(client, conn, nbytes, True, in_parts)
    # Of parts some may have been left out, for lack of memory.
    if not result & (WRITE_CLOSED | WRITE_NO_MEMORY) and not (in_parts and disturbed()):
        protocol.turn_taken += nbytes
    if over and not result & (WRITE_CLOSED | WRITE_NO_MEMORY) and over_now(client) > limit:
        sim_fail("client %d: its turns have written %zu bytes in spite of a pause, and may go on",
                 client, over_now(client))
    if result & WRITE_FLUSH:
        flush(client, conn)


cdef void note_turn(int client, conn_t *conn) noexcept nogil:
    """A turn begins: is what the last one has written in spite of a pause?"""
    cdef protocol_t *protocol = &protocols[client]
    cdef sim_client_t facts
    cdef bint told
    AcquireSRWLockExclusive(&conn.lock)
    told = conn.turn_told and not conn.filtered
    ReleaseSRWLockExclusive(&conn.lock)
    sim_client(client, &facts)
    AcquireSRWLockExclusive(&protocol.lock)
    if told and protocol.over_told and protocol.over_since == facts.given:
        protocol.over += protocol.turn_taken
    else:
        protocol.over = 0
        protocol.over_since = facts.given
    protocol.over_told = told
    ReleaseSRWLockExclusive(&protocol.lock)
    protocol.turn_written = 0
    protocol.turn_taken = 0


cdef bint takes_more(conn_t *conn) noexcept nogil:
    AcquireSRWLockExclusive(&conn.lock)
    cdef bint more = conn.state == STATE_OPEN or conn.state == STATE_FLUSHING
    ReleaseSRWLockExclusive(&conn.lock)
    return more


cdef void go_on(int client) noexcept nogil:
    """A loop's protocol may write again: what it has held back comes now, although it has closed
    the connection meanwhile."""
    cdef protocol_t *protocol = &protocols[client]
    cdef conn_t *conn = protocol.conn
    cdef size_t before = protocol.written
    if (sim_random(2) or protocol.eof_written or not takes_more(conn)
            or served_of(client).filtered):
        return
    answer(client, 1 + sim_random(900))
    # A file that is cancelled may be what paused it, and is told of after this.
    if (protocol.written == before and takes_more(conn) and not disturbed()
            and not protocol.cancels):
        sim_fail("client %d: what it has held back while it was paused is refused", client)


cdef void offer(conn_t *conn, size_t nbytes) noexcept nogil:
    """Memory of the handler's own for the next receive."""
    cdef char *data = <char *>malloc(nbytes)
    if data != NULL and not conn_offer(conn, data, data, nbytes):
        free(data)


cdef void react(int client) noexcept nogil:
    """What a callback does of its own."""
    cdef protocol_t *protocol = &protocols[client]
    cdef conn_t *conn = protocol.conn
    cdef uint32_t what = sim_random(100)
    if the.files and not calm(client) and what < 3:
        cancel_file(client, conn)
    elif the.files and not calm(client) and what < 25:
        send_file(client, conn)
    elif calm(client) or what < 50:
        answer(client, 1 + sim_random(900))
    elif what < 56:
        answer(client, LONG_WRITE + sim_random(LONGEST_WRITE - LONG_WRITE))
    elif what < 60:
        sim_note("pause_reading", client, 0)
        pause_reading(client, conn, True)
    elif what < 63:
        close_conn(client, conn, what == 62)
    elif what < 65:
        write_eof(client, conn)
    elif what < 67:
        set_marks(client, conn)
    elif what < 72 or (the.fatal and what >= 90):
        meddle_with_another(client, <int>sim_random(<uint32_t>(the.sim.clients - the.probe)),
                            what < 72)
    elif what < 82:
        wakes_set(&protocol.wakes, conn, client)
    elif what < 84:
        wakes_cancel(&protocol.wakes)


cdef void give_held(int client) noexcept nogil:
    """What its filter had is told."""
    cdef protocol_t *protocol = &protocols[client]
    if protocol.eof:
        sim_fail("client %d: data after the end", client)
    sim_note("data_received, held", client, <long long>protocol.held)
    protocol.received += protocol.held
    protocol.held = 0
    react(client)


cdef void take_end(int client, size_t due) noexcept nogil:
    """The end of what the client has sent, which were so many bytes."""
    cdef protocol_t *protocol = &protocols[client]
    sim_note("eof_received", client, 0)
    if protocol.eof:
        sim_fail("client %d: eof_received twice", client)
    protocol.eof = True
    protocol.due = due
    if calm(client) or sim_random(8) != 0:
        close_conn(client, protocol.conn, False)
    else:
        answer(client, sim_random(500))


cdef void deliver_scripted(worker_t *worker) noexcept nogil:
    cdef file_op_t *op = engine_next_file_op(worker)
    cdef conn_t *conn
    while op != NULL:
        disk_told(op)
        op = engine_next_file_op(worker)
    conn = worker_next(worker)
    while conn != NULL:
        deliver(worker, conn)
        worker_delivered(worker, conn)
        conn = worker_next(worker)


cdef void deliver(worker_t *worker, conn_t *conn) noexcept nogil:
    cdef int client = client_of(conn)
    cdef protocol_t *protocol = &protocols[client]
    cdef sim_client_t facts
    cdef news_t news
    cdef buf_t *buf
    cdef size_t n
    cdef size_t kept
    cdef size_t wanted
    cdef lost_t lost
    cdef bint paused
    cdef bint open
    cdef uint64_t before
    cdef bint late = False      # its filter begins too late for this turn
    if protocol.inside:
        sim_fail("client %d: two callbacks at once", client)
    if server.flushing:
        sim_fail("client %d: a loop that stops calls it", client)
    protocol.inside = True
    if sim_locks() != 0:
        sim_fail("a callback is called with a lock")
    AcquireSRWLockExclusive(&conn.lock)
    check_bounds(conn)
    # Whoever closes it from here on, from another thread, has not waited for that.
    if (worker_of(conn) != NULL and conn.pause_told and conn.shut and not conn.lost_told
            and not conn.filtered):
        sim_fail("client %d: its end was sent before resume_writing", client)
    ReleaseSRWLockExclusive(&conn.lock)
    before = wakes_before(&protocol.wakes)
    conn_take_news(conn, &news)
    release(news.spent)
    note_turn(client, conn)
    while news.traces != NULL:
        buf = news.traces
        news.traces = buf.next
        buf_free(buf)
    if news.made:
        if protocol.made:
            sim_fail("client %d: connection_made twice", client)
        sim_note("connection_made", client, 0)
        protocol.made = True
        if the.called[client] and conn.user != (
                <void *>protocol if marked(&protocol.watched) else NULL):
            sim_fail("client %d: who has called it is another one", client)
        if client % 3 == 0:
            # As after large sends that the kernel took at once: first without an OVERLAPPED.
            AcquireSRWLockExclusive(&conn.lock)
            if conn.send_bytes == SEND_BYTES:
                conn.send_bytes = MOST_SEND_BYTES
            ReleaseSRWLockExclusive(&conn.lock)
        if not protocol.opened:
            conn_ref(conn)
            protocol.tells = sim_random(2)
            conn_tell_sent(conn, protocol.tells)
        sim_atomic(True)
        protocol.conn = conn
        sim_atomic(False)
        if served_of(client).filtered:
            filter_begin(client, conn)
            # As in a callback that comes last in its turn.
            late = sim_random(4) == 0
        if sim_random(3) == 0:
            react(client)
    if protocol.lost and (news.resume or news.pause or news.sent > 0 or news.timers):
        sim_fail("client %d: a callback after connection_lost", client)
    if protocol.conn == NULL:
        # It was over before it began, or all is told.
        buf = conn_take_data(conn, &wanted)
        if buf != NULL:
            sim_fail("client %d: data for nobody", client)
        if news.timers:
            wakes_told(&protocol.wakes, conn, client, before)
        if conn_take_lost(conn, &lost):
            sim_note("not reached", client, lost.error)
            if not the.called[client] or protocol.made or protocol.lost:
                sim_fail("client %d: connection_lost for nobody", client)
            if marked(&protocol.watched) != (conn.user != NULL):
                sim_fail("client %d: who has called it is another one", client)
            protocol.lost = True
        protocol.inside = False
        return
    if news.pause:
        sim_note("pause_writing", client, 0)
        if marked(&protocol.paused):
            sim_fail("client %d: pause_writing twice", client)
        mark(&protocol.paused, True)
    if news.resume:
        sim_note("resume_writing", client, 0)
        if not marked(&protocol.paused):
            sim_fail("client %d: resume_writing without pause_writing", client)
        mark(&protocol.paused, False)
        if worker_of(conn) != NULL:
            go_on(client)
    protocol.sent += news.sent
    sim_point()
    if served_of(client).filtered and not late:
        conn_filter_begun(conn)
    open = not served_of(client).filtered or not late and filter_open(client, conn)
    # As the TLS layer has it: what was decrypted when reading was paused comes first.
    if open and protocol.held > 0 and conn_is_reading_on(conn):
        give_held(client)
    buf = NULL
    if open or protocol.hello > 0 and not late:
        buf = conn_take_data(conn, &wanted)
    while buf != NULL:
        if not open:
            open = filter_take(client, conn, buf)
        if not open or protocol.notified:
            check_bytes(client, buf.data, buf.size)
            buf.size = 0
            conn_give_buffer(conn, buf)
            buf = conn_take_data(conn, &wanted) if open or protocol.hello > 0 else NULL
            continue
        if protocol.eof:
            sim_fail("client %d: data after the end", client)
        if protocol.held > 0:
            give_held(client)
        # A part may be left for later.
        n = buf.size if sim_random(8) != 0 else 1 + sim_random(<uint32_t>buf.size)
        kept = 0
        if served_of(client).filtered and sim_random(4) == 0:
            kept = sim_random(<uint32_t>n)
        sim_note("data_received", client, <long long>(n - kept))
        check_bytes(client, buf.data, n)
        protocol.received -= kept
        protocol.held = kept
        if buf.owner != NULL and buf.data == buf.base and n == buf.size and sim_random(4) != 0:
            # The handler keeps the memory that it has offered.
            free(buf.owner)
            buf.owner = NULL
            buf.base = NULL
        buf.data += n
        buf.size -= n
        react(client)
        sim_point()
        conn_give_buffer(conn, buf)
        # Else in another turn, which the engine is asked for.
        if protocol.held > 0 and conn_is_reading_on(conn) and sim_random(2):
            give_held(client)
        if (served_of(client).filtered and not calm(client) and protocol.held == 0
                and conn_is_reading_on(conn) and sim_random(40) == 0):
            protocol.notified = True
            take_end(client, protocol.received)
        buf = conn_take_data(conn, &wanted)
    if open and wanted > 0 and sim_random(3) == 0:
        offer(conn, wanted)
    if news.timers and wakes_told(&protocol.wakes, conn, client, before) > 0:
        react(client)
    if news.files:
        serve_files(client, conn)
    if open and served_of(client).filtered:
        conn_filter_hold(conn, protocol.held > 0)
    if open and conn_take_eof(conn):
        sim_client(client, &facts)
        if not protocol.notified:
            take_end(client, facts.sent)
    elif not open and protocol.hello > 0 and conn_take_eof(conn):
        filter_fail(client, conn)
    if served_of(client).filtered:
        filter_pump(client, conn)
    # Before: another thread may resume it when the loss is decided already.
    paused = is_paused(client)
    if conn_take_lost(conn, &lost):
        AcquireSRWLockExclusive(&conn.lock)
        if conn_has_files(conn) or (conn.files != NULL and conn.files.over.head != NULL):
            sim_fail("client %d: connection_lost before its files are given back", client)
        ReleaseSRWLockExclusive(&conn.lock)
        sim_note("connection_lost", client, lost.error)
        if protocol.lost:
            sim_fail("client %d: connection_lost twice", client)
        protocol.lost = True
        protocol.error = lost.error
        protocol.reason = lost.reason
        check_lost(client, lost.error, paused)
        if worker_of(conn) != NULL:
            check_loop_lost(client, &lost)
            AcquireSRWLockExclusive(&conn.lock)
            protocol.draining = conn.state == STATE_DRAINING
            ReleaseSRWLockExclusive(&conn.lock)
            sim_client(client, &facts)
            protocol.taken = facts.taken
        sim_atomic(True)
        protocol.conn = NULL
        sim_atomic(False)
        conn_unref(conn)
    protocol.inside = False
