"""The engine on the simulated kernel: what a run is made of, and what must be true of it.

A run has a server with one to three workers and a keeper, each on the engine's own thread
function; clients with a script; and one thread of the application, which starts the server,
meddles, and stops it.  Everything that differs between runs is drawn from the seed, unless a
scenario or a knob has it otherwise.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from _kernel cimport *
from _wakes cimport (
    wakes_before, wakes_begin, wakes_cancel, wakes_check, wakes_set, wakes_t, wakes_told,
)
from iocpx._accept cimport engine_listen
from iocpx._base cimport conn_ref, engine_connections
from iocpx._delivery cimport (
    conn_give_buffer, conn_offer, conn_take_data, conn_take_eof, conn_take_lost, conn_take_news,
    lost_t, news_t,
)
from iocpx._engine cimport (
    engine_count, engine_create, engine_free, engine_on_worker, engine_pools, engine_stop,
    engine_wait_stopped, pools_t,
)
from iocpx._keeper cimport engine_run_keeper
from iocpx._native cimport deliver_echo
from iocpx._requests cimport (
    conn_abort, conn_borrow_handle, conn_close, conn_flush, conn_gather, conn_get_marks,
    conn_is_closing, conn_is_reading, conn_pause_reading, conn_return_handle, conn_set_marks,
    conn_tell_sent, conn_write, conn_write_buffer_size, conn_write_eof, conn_write_parts,
    engine_close_clients, WRITE_CLOSED, WRITE_FLUSH, WRITE_KEPT, WRITE_NO_MEMORY,
    conn_take_spent, conn_wait_writable, WAIT_WRITABLE, WRITE_SPENT,
)
from iocpx._sched cimport conn_unref, worker_delivered, worker_next
from iocpx._types cimport *
from iocpx._worker cimport engine_forgo_worker, engine_run_worker
from iocpx._state cimport (
    STATE_ABORTING, STATE_ENDING, STATE_FLUSHING, STATE_OPEN, buf_free, buf_t, link_t, queue_t,
)
from iocpx._winsock cimport (
    INFINITE, INVALID_SOCKET, LONG64, SOCKET, SRWLOCK, WSAENOBUFS, WSAETIMEDOUT,
    WSAEOPNOTSUPP, AcquireSRWLockExclusive, ReleaseSRWLockExclusive, closesocket,
)

cdef extern from * nogil:
    """
    #ifdef SIM_THREADS
    enum { REAL_THREADS = 1 };
    #else
    enum { REAL_THREADS = 0 };
    #endif
    """
    const bint REAL_THREADS

cdef enum:
    MAX_CLIENTS = 24
    MAX_WORKERS = 3
    LONG_WRITE = 20000      # bytes: longer than what the engine copies
    LONGEST_WRITE = 23000
    MEDDLED_WRITE = 400     # the longest of others than the connection's own callbacks
    # Inline completions of one connection between two looks at the port: the engine's
    # budget, the sends of one more round, and as many receives as are posted at once.
    INLINE_LIMIT = 16

# What the protocol of one client has seen and done.  Its callbacks come one at a time;
# what the application's thread looks at as well changes in an atomic section.
ctypedef struct protocol_t:
    SRWLOCK lock            # held while bytes of the stream are written, and for a pause
    conn_t *conn            # with a reference, from connection_made to connection_lost; atomic
    bint inside             # one of its callbacks runs
    bint made
    bint paused             # writing, by pause_writing; atomic
    bint reading_paused     # as the engine has it; lock
    bint eof
    bint lost
    int error               # of connection_lost
    bint closed             # by the application, in whatever way; atomic
    bint served             # with echo: its end came before the application did anything
    size_t received         # bytes
    size_t due              # bytes that the client had sent at its end
    size_t written          # bytes, as far as the engine took them; lock
    bint tells              # it wants to be told what was sent
    size_t sent             # bytes, as far as it was told
    size_t turn_written     # bytes, by its own callbacks in the turn under way…
    size_t turn_most        # … and in any
    wakes_t wakes

# One run, apart from its seed.
ctypedef struct run_t:
    config_t config
    sim_config_t sim
    bint echo               # the native handler, instead of the protocol
    int listeners
    int unborn              # workers whose thread never comes to be
    bint probe              # a last client comes when faults are over, and must be served
    bint calm               # the application's thread does not meddle
    bint fatal              # callbacks abort other connections, too
    bint late               # calls fail during the stop as well
    unsigned int linger_ms  # how long it waits before it stops the server
    unsigned int stop_ms

cdef protocol_t[MAX_CLIENTS] protocols
cdef run_t the
cdef engine_t *the_engine
cdef SOCKET[2] listeners
cdef bint listened
cdef int listen_error
cdef bint started
cdef int start_error


cdef uint32_t one_of(uint32_t a, uint32_t b, uint32_t c, uint32_t d) noexcept nogil:
    cdef uint32_t which = sim_random(4)
    return a if which == 0 else b if which == 1 else c if which == 2 else d


cdef void mark(bint *flag, bint value) noexcept nogil:
    sim_atomic(True)
    flag[0] = value
    sim_atomic(False)


cdef bint marked(const bint *flag) noexcept nogil:
    sim_atomic(True)
    cdef bint value = flag[0]
    sim_atomic(False)
    return value


# -- the protocol --------------------------------------------------------------------


cdef int client_of(conn_t *conn) noexcept nogil:
    """The kernel puts it into the address."""
    cdef int client = (<int *>(conn.remote + 4))[0]
    cdef int length = 16 if conn.remote[0] == AF_INET else 28
    if (<int *>(conn.local + 4))[0] != 100 or client < 0 or client >= the.sim.clients:
        sim_fail("an address is wrong")
    if length < <int>ADDRESS_BYTES and conn.remote[length] != 0:
        sim_fail("more of an address was copied than there is")
    return client


cdef void check_bytes(int client, const char *data, size_t nbytes) noexcept nogil:
    cdef protocol_t *protocol = &protocols[client]
    cdef size_t i
    for i in range(nbytes):
        if <unsigned char>data[i] != sim_byte(client, protocol.received + i):
            sim_fail("client %d: a wrong byte was received at %zu", client,
                     protocol.received + i)
    protocol.received += nbytes


cdef void check_bounds(conn_t *conn) noexcept nogil:
    """What a connection holds is limited by its configuration."""
    cdef config_t *config = &the.config
    # A connection reads on while its outbox is not above the mark, and then still gets
    # what is posted; accept_receive brings one buffer more.
    cdef size_t window = <size_t>(config.initial_reads + 1) * config.buffer_size
    cdef size_t most = config.high_water_bytes + window
    if not the.echo:
        # What it wrote although it was paused, and in the turn that came to the limit.  An empty
        # queue takes a write of any size.
        most = <size_t>-1
        if config.max_write_buffer != 0 and conn.over_bytes > (
                max(config.max_write_buffer, <size_t>MEDDLED_WRITE)
                + protocols[client_of(conn)].turn_most):
            sim_fail("%zu bytes count against the limit of %zu", conn.over_bytes,
                     config.max_write_buffer)
    if conn.inbox.nbytes > window:
        sim_fail("%zu bytes wait for the handler", conn.inbox.nbytes)
    if conn.outbox.nbytes > most:
        sim_fail("%zu bytes wait to be sent, more than %zu", conn.outbox.nbytes, most)
    if conn.window.n > conn.window.size:
        sim_fail("%d receives are posted", conn.window.n)


cdef void release(buf_t *spent) noexcept nogil:
    """Free what has been sent: an owned chain."""
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
        result = conn_write(conn, data, nbytes, owner)
    else:
        result = conn_gather(conn, parts, data, nbytes, owner)
    if not result & WRITE_KEPT:
        free(data)
    return result


cdef int write(int client, conn_t *conn, size_t nbytes, bint keep, bint in_parts) noexcept nogil:
    """A write of the protocol's.  The result is conn_write's; the caller has a reference."""
    cdef protocol_t *protocol = &protocols[client]
    cdef queue_t parts
    cdef int result = WRITE_NO_MEMORY
    cdef size_t left = nbytes
    cdef size_t part
    memset(&parts, 0, sizeof(parts))
    AcquireSRWLockExclusive(&protocol.lock)
    if in_parts:
        while left > 0:
            part = 1 + sim_random(<uint32_t>left)
            # What there is no memory for is left out.
            put(client, conn, &parts, part, keep)
            left -= part
        nbytes = parts.nbytes
        if nbytes > 0:
            result = conn_write_parts(conn, &parts)
    else:
        result = put(client, conn, NULL, nbytes, keep)
    if not result & (WRITE_CLOSED | WRITE_NO_MEMORY):
        protocol.written += nbytes
    ReleaseSRWLockExclusive(&protocol.lock)
    if result & (WRITE_FLUSH | WRITE_SPENT):
        release(conn_take_spent(conn))
    sim_note("writelines" if in_parts else "write", client, <long long>nbytes)
    return result


cdef void answer(int client, size_t nbytes) noexcept nogil:
    """One of the connection's own callbacks writes."""
    cdef protocol_t *protocol = &protocols[client]
    cdef conn_t *conn = protocol.conn
    if nbytes == 0:
        return
    protocol.turn_written += nbytes
    protocol.turn_most = max(protocol.turn_most, protocol.turn_written)
    if write(client, conn, nbytes, True, sim_random(4) == 0) & WRITE_FLUSH and conn_flush(conn):
        sim_note("pause_writing", client, 1)
        if marked(&protocol.paused):
            sim_fail("client %d: pause_writing twice", client)
        mark(&protocol.paused, True)


cdef void offer(conn_t *conn, size_t nbytes) noexcept nogil:
    """Memory of the handler's own for the next receive."""
    cdef char *data = <char *>malloc(nbytes)
    if data != NULL and not conn_offer(conn, data, data, nbytes):
        free(data)


cdef void pause_reading(int client, conn_t *conn, bint paused) noexcept nogil:
    AcquireSRWLockExclusive(&protocols[client].lock)
    protocols[client].reading_paused = paused
    conn_pause_reading(conn, paused)
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
        conn_abort(conn, ABORT_APPLICATION)
    else:
        conn_close(conn)


cdef bint calm(int client) noexcept nogil:
    """Does its protocol just answer?"""
    return the.calm or (the.probe and client == the.sim.clients - 1)


cdef void react(int client) noexcept nogil:
    """What a callback does of its own."""
    cdef protocol_t *protocol = &protocols[client]
    cdef conn_t *conn = protocol.conn
    cdef uint32_t what = sim_random(100)
    if calm(client) or what < 50:
        answer(client, 1 + sim_random(900))
    elif what < 56:
        answer(client, LONG_WRITE + sim_random(LONGEST_WRITE - LONG_WRITE))
    elif what < 60:
        sim_note("pause_reading", client, 0)
        pause_reading(client, conn, True)
    elif what < 63:
        close_conn(client, conn, what == 62)
    elif what < 65:
        sim_note("write_eof", client, 0)
        conn_write_eof(conn)
    elif what < 67:
        conn_set_marks(conn, sim_random(2000), 0)
    elif what < 72 or (the.fatal and what >= 90):
        meddle_with_another(client, <int>sim_random(<uint32_t>(the.sim.clients - the.probe)),
                            what < 72)
    elif what < 82:
        wakes_set(&protocol.wakes, conn, client)
    elif what < 84:
        wakes_cancel(&protocol.wakes)


cdef void deliver_scripted(worker_t *worker) noexcept nogil:
    cdef conn_t *conn = worker_next(worker)
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
    cdef size_t wanted
    cdef lost_t lost
    cdef bint paused
    cdef uint64_t before
    if protocol.inside:
        sim_fail("client %d: two callbacks at once", client)
    protocol.inside = True
    if sim_locks() != 0:
        sim_fail("a callback is called with a lock")
    AcquireSRWLockExclusive(&conn.lock)
    check_bounds(conn)
    ReleaseSRWLockExclusive(&conn.lock)
    before = wakes_before(&protocol.wakes)
    conn_take_news(conn, &news)
    release(news.spent)
    protocol.turn_written = 0
    while news.traces != NULL:
        buf = news.traces
        news.traces = buf.next
        buf_free(buf)
    if news.made:
        if protocol.made:
            sim_fail("client %d: connection_made twice", client)
        sim_note("connection_made", client, 0)
        protocol.made = True
        conn_ref(conn)
        protocol.tells = sim_random(2)
        conn_tell_sent(conn, protocol.tells)
        sim_atomic(True)
        protocol.conn = conn
        sim_atomic(False)
        if sim_random(3) == 0:
            react(client)
    if protocol.lost and (news.resume or news.pause or news.sent > 0 or news.timers):
        sim_fail("client %d: a callback after connection_lost", client)
    if protocol.conn == NULL:
        # It was over before it began, or all is told.
        buf = conn_take_data(conn, &wanted)
        if buf != NULL:
            sim_fail("client %d: data for nobody", client)
        if conn_take_lost(conn, &lost):
            sim_fail("client %d: connection_lost for nobody", client)
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
    protocol.sent += news.sent
    sim_point()
    buf = conn_take_data(conn, &wanted)
    while buf != NULL:
        if protocol.eof:
            sim_fail("client %d: data after the end", client)
        # A part may be left for later.
        n = buf.size if sim_random(8) != 0 else 1 + sim_random(<uint32_t>buf.size)
        sim_note("data_received", client, <long long>n)
        check_bytes(client, buf.data, n)
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
        buf = conn_take_data(conn, &wanted)
    if wanted > 0 and sim_random(3) == 0:
        offer(conn, wanted)
    if news.timers and wakes_told(&protocol.wakes, conn, client, before) > 0:
        react(client)
    if conn_take_eof(conn):
        sim_note("eof_received", client, 0)
        if protocol.eof:
            sim_fail("client %d: eof_received twice", client)
        protocol.eof = True
        sim_client(client, &facts)
        protocol.due = facts.sent
        if calm(client) or sim_random(8) != 0:
            close_conn(client, conn, False)
        else:
            answer(client, sim_random(500))
    # Before: another thread may resume it when the loss is decided already.
    paused = is_paused(client)
    if conn_take_lost(conn, &lost):
        sim_note("connection_lost", client, lost.error)
        if protocol.lost:
            sim_fail("client %d: connection_lost twice", client)
        protocol.lost = True
        protocol.error = lost.error
        check_lost(client, lost.error, paused)
        sim_atomic(True)
        protocol.conn = NULL
        sim_atomic(False)
        conn_unref(conn)
    protocol.inside = False


cdef void check_lost(int client, int error, bint paused) noexcept nogil:
    """Everything was told before; the error is what Windows said, or what the engine decides."""
    cdef protocol_t *protocol = &protocols[client]
    cdef sim_client_t facts
    sim_client(client, &facts)
    if not marked(&protocol.closed) and not paused and protocol.received != facts.taken:
        sim_fail("client %d: connection_lost after %zu of %zu bytes", client, protocol.received,
                 facts.taken)
    if protocol.tells and protocol.sent != facts.given:
        sim_fail("client %d: told of %zu of %zu bytes sent", client, protocol.sent, facts.given)
    if (error != 0 and not sim_was_told(client, error)
            and error != WSAETIMEDOUT and error != WSAENOBUFS):
        sim_fail("client %d: connection_lost(%d), and Windows never said so", client, error)
    if error == 0 and facts.failed and not marked(&protocols[client].closed):
        sim_fail("client %d: connection_lost(None), although an operation failed", client)


# -- threads -------------------------------------------------------------------------


cdef void worker_main(void *argument) noexcept nogil:
    engine_run_worker(the_engine, <int><size_t>argument)


cdef void keeper_main(void *argument) noexcept nogil:
    listen()
    while engine_run_keeper(the_engine) != 0:
        sim_note("trouble with a listener", 0, 0)


cdef conn_t *borrow(int client) noexcept nogil:
    """Its connection with a reference; NULL: there is none (any more)."""
    cdef conn_t *conn
    sim_atomic(True)
    conn = protocols[client].conn
    if conn != NULL:
        conn_ref(conn)
    sim_atomic(False)
    return conn


cdef void resume(int client) noexcept nogil:
    cdef conn_t *conn = borrow(client)
    if conn == NULL:
        return
    if is_paused(client):
        sim_note("resume_reading", client, 0)
        pause_reading(client, conn, False)
    conn_unref(conn)


cdef void meddle(int client) noexcept nogil:
    """A thread of the application does something to a connection."""
    cdef conn_t *conn = borrow(client)
    cdef uint32_t what = sim_random(18)
    cdef SOCKET sock
    if conn == NULL:
        return
    if what < 4 and not marked(&protocols[client].paused):
        meddle_write(client, conn)
    elif what < 9:
        resume(client)
    elif what < 12:
        close_conn(client, conn, what < 11)
    elif what == 12:
        sock = conn_borrow_handle(conn)
        if sock != INVALID_SOCKET:
            sim_lend_socket(sock)
            sim_point()
            conn_return_handle(conn)
    elif what == 14:
        # As a thread does that cannot be told of a pause.
        if conn_wait_writable(conn, sim_random(200)) == WAIT_WRITABLE:
            meddle_write(client, conn)
    elif what > 14:
        wakes_set(&protocols[client].wakes, conn, client)
    else:
        look_at(conn)
    conn_unref(conn)


cdef void look_at(conn_t *conn) noexcept nogil:
    """What anybody may ask at any time."""
    cdef size_t high
    cdef size_t low
    conn_get_marks(conn, &high, &low)
    if conn_is_closing(conn) and conn_is_reading(conn):
        sim_fail("a connection is closing and reading")
    if conn_write_buffer_size(conn) > 0 and engine_on_worker(the_engine):
        sim_fail("the application's thread counts as a worker")


cdef void meddle_with_another(int me, int client, bint writes) noexcept nogil:
    """One connection's callback writes to another connection, or aborts it."""
    cdef conn_t *conn = borrow(client)
    if conn == NULL:
        return
    if client != me and not writes:
        close_conn(client, conn, True)
    elif client != me and not marked(&protocols[client].paused):
        meddle_write(client, conn)
    conn_unref(conn)


cdef void meddle_write(int client, conn_t *conn) noexcept nogil:
    """Somebody else than the connection's own callbacks writes to it."""
    cdef size_t nbytes = 1 + sim_random(MEDDLED_WRITE)
    if write(client, conn, nbytes, False, sim_random(4) == 0) & WRITE_FLUSH and conn_flush(conn):
        sim_fail("client %d: pause_writing outside of its callbacks", client)


cdef void check_idle() noexcept nogil:
    """Nothing can happen before a deadline passes: then there is nothing left to do either."""
    cdef link_t *link
    cdef conn_t *conn
    if the_engine == NULL:
        return
    link = the_engine.connections.next
    while link != &the_engine.connections:
        conn = <conn_t *>link.owner
        check_bounds(conn)
        # What failed is tried again after a while.
        if not disturbed():
            if conn.scheduled:
                sim_fail("client %d: scheduled, and nobody comes", client_of(conn))
            if conn.state == STATE_ABORTING or conn.state == STATE_ENDING:
                sim_fail("client %d: its connection has ended and is still open", client_of(conn))
            if (conn.outbox.head != NULL and not conn.sending
                    and (conn.state == STATE_OPEN or conn.state == STATE_FLUSHING)):
                sim_fail("client %d: what was written waits, and nobody sends", client_of(conn))
            if conn.waiters != 0 and not conn.marks.above and (
                    the.config.max_sends == 0 or conn.outbox.writes < the.config.max_sends) and (
                    the.config.max_write_buffer == 0
                    or conn.marks.high < the.config.max_write_buffer):
                sim_fail("client %d: a thread waits to write, and may", client_of(conn))
            if conn.inbox.head != NULL and not conn.read_paused:
                sim_fail("client %d: data waits, and nobody is told", client_of(conn))
            # A keeper that stands still before it waits, waits that much longer.
            if not conn.lost_told and the.sim.stalls == 0:
                wakes_check(&protocols[client_of(conn)].wakes, client_of(conn))
        link = link.next


cdef void served_before() noexcept nogil:
    """From here on the server ends connections of its own accord; note who had all before."""
    cdef sim_client_t facts
    cdef protocol_t *protocol
    cdef int client
    for client in range(the.sim.clients):
        protocol = &protocols[client]
        sim_client(client, &facts)
        sim_atomic(True)
        # A client that could not be taken for lack of resources sees an end as well, and so
        # does one that spoke too late.
        protocol.served = (protocol.served or facts.saw_end and not facts.reset
                           and not protocol.closed and not disturbed()
                           and engine_count(the_engine, N_SILENT_DROPPED) == 0)
        protocol.closed = True
        sim_atomic(False)


cdef bint disturbed() noexcept nogil:
    return the.sim.faults != 0 or sim_fault_hit()


cdef void application_main(void *argument) noexcept nogil:
    cdef uint32_t rounds = sim_random(one_of(4, 12, 12, 60))
    cdef uint32_t _round
    cdef int client
    sim_passing()
    if not start():
        if not the.late:
            sim_faults(False)
        stop(0)
        return
    for _round in range(rounds):
        sim_sleep(one_of(0, 0, 1, sim_random(30)))
        if the.calm:
            continue
        if sim_random(24) == 0:
            sim_note("close or abort all", 0, 0)
            served_before()
            engine_close_clients(the_engine, sim_random(2))
        elif not the.echo:
            meddle(<int>sim_random(<uint32_t>the.sim.clients - the.probe))
    # Often all there is to do is done by then.
    sim_sleep(the.linger_ms)
    if not the.echo and not the.calm:
        for client in range(the.sim.clients):
            resume(client)
        sim_sleep(the.linger_ms)
    if not the.late:
        sim_faults(False)
    if the.probe:
        check_probe(the.sim.clients - 1)
    stop(the.stop_ms)


cdef void listen() noexcept nogil:
    global listen_error
    cdef int i
    for i in range(the.listeners):
        listen_error = engine_listen(the_engine, listeners[i], AF_INET6 if i > 0 else AF_INET)
        if listen_error != 0:
            break
        if sim_backlog(listeners[i]) != the.config.backlog:
            sim_fail("a backlog of %d became %d", the.config.backlog, sim_backlog(listeners[i]))
    mark(&listened, True)


cdef bint start() noexcept nogil:
    global started, start_error
    cdef int _i
    cdef int error
    # The keeper listens: this thread may end at any time.
    while not marked(&listened):
        sim_sleep(1)
    error = listen_error
    if error == 0 and not the.sim.handles:
        sim_fail("the server begins where CancelIoEx reaches nothing")
    if the.unborn > 0:
        error = WSAENOBUFS
        for _i in range(the.unborn):
            engine_forgo_worker(the_engine)
    start_error = error
    started = error == 0
    return started


cdef void check_probe(int client) noexcept nogil:
    """When all is well again the listener accepts, and who comes is served."""
    cdef sim_client_t facts
    # What was refused is tried again by now.
    sim_sleep(1000)
    sim_note("the probe comes", client, 0)
    sim_let_in(client)
    # Far longer than all that may stand still meanwhile.
    sim_sleep(600000)
    sim_client(client, &facts)
    if not facts.saw_end or facts.reset or (the.echo and facts.received != facts.sent):
        sim_fail("a client that came last was not served")


cdef void stop(uint64_t timeout_ms) noexcept nogil:
    cdef int i
    sim_note("stop", 0, 0)
    served_before()
    engine_stop(the_engine, timeout_ms)
    # As the layer above does it: at once.
    for i in range(the.listeners):
        closesocket(listeners[i])
    if sim_random(4) == 0:
        engine_stop(the_engine, 0)
    while not engine_wait_stopped(the_engine, INFINITE):
        sim_note("the wait for the stop failed", 0, 0)
        sim_sleep(10)
    sim_faults(False)


# -- a run ---------------------------------------------------------------------------

# What a knob fixes, whatever the seed says; -1: nothing.
cdef enum knob:
    K_ECHO
    K_PROFILE
    K_CLIENTS
    K_WORKERS
    K_PREEMPT
    K_STALLS
    K_FAULTS
    K_RESETS
    K_SHORTS
    K_HANDLES
    K_SKIPS
    K_ROOM
    K_BYTES
    K_LISTENERS
    K_BACKLOG
    K_UNBORN
    K_PROBE
    K_CALM
    K_LATE
    K_ACCEPTS
    K_MAX_ACCEPTS
    K_ACCEPT_RECEIVE
    K_MAX_CONNECTIONS
    K_READS
    K_BUFFER
    K_IDLE
    K_LIMITS
    K_TRACE
    K_LINGER
    K_STOP
    N_KNOBS

KNOBS = ["echo", "profile", "clients", "workers", "preempt", "stalls", "faults", "resets",
         "shorts", "handles", "skips", "room", "bytes", "listeners", "backlog", "unborn", "probe",
         "calm", "late", "accepts", "max_accepts", "accept_receive", "max_connections", "reads",
         "buffer", "idle", "limits", "trace", "linger", "stop"]
cdef long[N_KNOBS] knobs


cdef long turned(int which, long drawn) noexcept nogil:
    """Drawn in any case, so that a knob leaves the other draws as they are."""
    return drawn if knobs[which] < 0 else knobs[which]


cdef void configure() noexcept nogil:
    cdef config_t *config = &the.config
    cdef sim_config_t *sim = &the.sim
    memset(&the, 0, sizeof(the))
    the.echo = turned(K_ECHO, sim_random(2))
    sim.profile = &sim_profiles[turned(K_PROFILE, sim_random(<uint32_t>sim_n_profiles))]
    sim.clients = <int>turned(K_CLIENTS, 1 + sim_random(one_of(1, 3, 8, MAX_CLIENTS)))
    sim.preempt = <int>turned(K_PREEMPT, one_of(0, 2, 5, 20))
    sim.stalls = <int>turned(K_STALLS, one_of(0, 1000, 200, 50))
    sim.faults = <int>turned(K_FAULTS, one_of(0, 0, 40, 200))
    sim.resets = <int>turned(K_RESETS, one_of(0, 0, 10, 50))
    sim.shorts = <int>turned(K_SHORTS, one_of(0, 0, 1, 5))
    sim.handles = <int>turned(K_HANDLES, sim_random(100) != 0)
    sim.skips = <int>turned(K_SKIPS, sim_random(4) != 0)
    sim.send_room = <size_t>turned(K_ROOM, one_of(64, 1000, 8000, 70000))
    sim.bytes = <size_t>turned(K_BYTES, one_of(10, 500, 3000, 12000))
    config.workers = <int>turned(K_WORKERS, 1 + sim_random(MAX_WORKERS))
    the.listeners = <int>turned(K_LISTENERS, 1 + (sim_random(4) == 0))
    config.backlog = <int>turned(K_BACKLOG, one_of(1, 200, 512, 65535))
    the.unborn = <int>turned(K_UNBORN, 1 if config.workers > 1 and sim_random(100) == 0 else 0)
    config.initial_accepts = <int>turned(K_ACCEPTS, 1 + sim_random(4))
    config.max_accepts = config.initial_accepts + <int>turned(K_MAX_ACCEPTS, one_of(0, 0, 3, 30))
    config.accept_receive = turned(K_ACCEPT_RECEIVE, sim_random(3) == 0)
    config.accept_timeout_ms = one_of(0, 500, 3000, 10000)
    config.max_connections = turned(K_MAX_CONNECTIONS, one_of(0, 0, 3, 10))
    config.initial_reads = <int>turned(K_READS, one_of(1, 1, 2, 5))
    config.buffer_size = <size_t>turned(K_BUFFER, one_of(512, 1024, 4096, 20000))
    config.max_free_buffers = one_of(0, 2, 10, 100)
    config.max_free_connections = one_of(0, 1, 3, 100)
    config.idle_timeout_ms = turned(K_IDLE, one_of(0, 0, 0, 5000))
    config.max_sends = <int>turned(K_LIMITS, one_of(0, 0, 0, 4))
    config.max_write_buffer = <size_t>turned(K_LIMITS, one_of(0, 0, 0, 5000))
    config.native = the.echo
    config.deliver = deliver_echo if the.echo else deliver_scripted
    # The layer above refuses a trace of a native handler, which would not take its lines.
    config.trace = turned(K_TRACE, sim_random(8) == 0) and not the.echo
    config.high_water_bytes = one_of(0, 100, 4000, 65536)
    config.low_water_bytes = config.high_water_bytes // 4
    config.close_timeout_ms = one_of(1, 100, 2000, 10000)
    config.keepalive_idle_ms = one_of(0, 5000, 5000, 5000)
    the.calm = turned(K_CALM, 0)
    the.fatal = sim_random(4) == 0
    the.linger_ms = <unsigned int>turned(K_LINGER, one_of(0, 50, 3000, 20000))
    the.stop_ms = <unsigned int>turned(K_STOP, one_of(0, 10, 500, 5000))
    sim.inline_limit = INLINE_LIMIT + config.initial_reads
    # A client that the limit turns away, or one that is silent in every slot, hides nothing.
    the.probe = turned(K_PROBE, sim_random(4) == 0 and config.max_connections == 0
                       and config.idle_timeout_ms == 0)
    the.late = turned(K_LATE, sim_random(4) == 0) and not the.probe
    if the.probe:
        sim.clients = min(sim.clients + 1, <int>MAX_CLIENTS)
        config.accept_timeout_ms = 500
        config.close_timeout_ms = 300000


cdef void draw_probe() noexcept nogil:
    cdef sim_script_t script
    memset(&script, 0, sizeof(script))
    script.to_send = 3
    script.end = ENDS_FIN
    script.reads = READS
    script.waits = True
    sim_script(the.sim.clients - 1, &script)


cdef void check_client(int client) noexcept nogil:
    cdef sim_client_t facts
    cdef protocol_t *protocol = &protocols[client]
    sim_client(client, &facts)
    if protocol.conn != NULL:
        sim_fail("client %d: connection_lost never came", client)
    if facts.received > facts.sent and the.echo:
        sim_fail("client %d was sent more than it sent", client)
    if the.echo:
        if protocol.served and facts.received != facts.sent:
            sim_fail("client %d got %zu of %zu bytes back", client, facts.received, facts.sent)
        return
    if protocol.made and not protocol.lost:
        sim_fail("client %d: connection_lost never came", client)
    # What a closing connection still receives is discarded; until then nothing is lost.
    if protocol.eof and protocol.received != protocol.due and not facts.reset:
        sim_fail("client %d: the end came after %zu of %zu bytes", client, protocol.received,
                 protocol.due)
    if (facts.saw_end and not facts.reset and not facts.unreset
            and facts.received != protocol.written):
        sim_fail("client %d got %zu of %zu bytes", client, facts.received, protocol.written)


cdef void same(const char *what, LONG64 a, LONG64 b) noexcept nogil:
    if a != b:
        sim_fail("%s: %lld and %lld", what, a, b)


cdef void check_ledger() noexcept nogil:
    cdef pools_t pools
    engine_pools(the_engine, &pools)
    same("operations posted, completed", engine_count(the_engine, N_OPS_POSTED),
         engine_count(the_engine, N_OPS_COMPLETED))
    same("sockets opened, closed", engine_count(the_engine, N_SOCKETS_OPENED),
         engine_count(the_engine, N_SOCKETS_CLOSED))
    same("connections made, retired", engine_count(the_engine, N_CONNECTIONS_MADE),
         engine_count(the_engine, N_CONNECTIONS_RETIRED))
    same("connections now", engine_connections(the_engine), 0)
    same("accepts pending", pools.accepts_pending, 0)
    same("packets due", the_engine.packets_due, 0)
    same("buffers out", <LONG64>pools.buffers_out, 0)
    if engine_count(the_engine, N_ACCEPT_ERRORS) < sim_unattached():
        sim_fail("a client that could not be taken is not counted")
    # Clients that go before they are accepted are no lack of anything.
    if not disturbed() and (the_engine.trouble_due_ms != 0 or the_engine.starved_due_ms != 0):
        sim_fail("the system refused nothing, and that was told")


cdef void run_seed(uint64_t seed, int expected) noexcept nogil:
    """One run.  Ends the process if something is wrong.

    expected: the code with which a start may fail; 0: any.
    """
    global the_engine, listened, listen_error, started, start_error, sim_on_idle
    cdef int i
    sim_on_idle = check_idle
    the_engine = NULL
    sim_begin(seed)
    configure()
    memset(protocols, 0, sizeof(protocols))
    for i in range(<int>MAX_CLIENTS):
        wakes_begin(&protocols[i].wakes)
    listened = False
    listen_error = 0
    started = False
    start_error = 0
    for i in range(the.listeners):
        listeners[i] = sim_bind(AF_INET6 if i > 0 else AF_INET)
    sim_configure(&the.sim)
    if the.probe:
        draw_probe()
    sim_faults(True)
    the_engine = engine_create(&the.config, &start_error)
    if the_engine == NULL:
        for i in range(the.listeners):
            closesocket(listeners[i])
    else:
        for i in range(the.config.workers - the.unborn):
            sim_spawn("worker 1" if i == 0 else "worker 2" if i == 1 else "worker 3",
                      worker_main, <void *><size_t>i)
        sim_spawn("keeper", keeper_main, NULL)
        sim_spawn("app", application_main, NULL)
    sim_run()
    sim_faults(False)
    if not started:
        if not disturbed() and the.unborn == 0 and the.sim.handles:
            sim_fail("the start failed: %d", start_error)
        if start_error == 0:
            sim_fail("the start failed, and nobody knows why")
        if not the.sim.handles:
            # What fails before that comes first.
            expected = 0 if disturbed() else WSAEOPNOTSUPP
        if expected != 0 and the.unborn == 0 and start_error != expected:
            sim_fail("the start failed with %d instead of %d", start_error, expected)
    if the_engine != NULL:
        check_ledger()
        for i in range(the.sim.clients):
            check_client(i)
        engine_free(the_engine)
    sim_end()


# -- for the program -------------------------------------------------------------------


def run(seed, knob_values, fault=None, title=""):
    """One run; returns the digest of its events.  Ends the process if something is wrong.

    fault: (function, call, code, sticky), numbers as in `functions`.
    """
    cdef uint64_t number = seed
    cdef int expected = 0
    for i, name in enumerate(KNOBS):
        knobs[i] = knob_values.get(name, -1)
    sim_title(title.encode())
    sim_plan_fault(0, 0, 0, False)
    if fault:
        sim_plan_fault(fault[0], fault[1], fault[2], fault[3])
        expected = sim_function_code(fault[0], fault[2])
        if sim_function(fault[0]) in (b"malloc", b"calloc"):
            expected = WSAENOBUFS
    with nogil:
        run_seed(number, expected)
    return sim_digest()


def functions():
    """Every function of the system that the engine calls: [(name, [code…])…]."""
    found = []
    for i in range(sim_n_functions()):
        codes = []
        while sim_function_code(i, len(codes)) != 0:
            codes.append(sim_function_code(i, len(codes)))
        found.append((sim_function(i).decode(), codes))
    return found


def calls(function):
    """How often the last run called it while faults were on."""
    return sim_calls(function)


def fault_hit():
    """Did the last run come to the call that should fail?"""
    return sim_fault_hit()


def print_events():
    sim_print_events()


def profiles():
    return [sim_profiles[i].name.decode() for i in range(sim_n_profiles)]
