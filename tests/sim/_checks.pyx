"""What must be true of a run: see _checks.pxd."""

from _kernel cimport *
from _run cimport (
    client_of, disturbed, marked, protocol_t, protocols, served_of, served_t, server, services,
    the, LENIENT_MS, MAX_CLIENTS, MEDDLED_WRITE,
)
from _wakes cimport wakes_check
from iocpx._base cimport conn_ref, service_connections
from iocpx._engine cimport engine_count, engine_pools, engine_wait_stopped, pools_t
from iocpx._service cimport service_count, service_figures, service_figures_t
from iocpx._sched cimport conn_unref
from iocpx._state cimport (
    STATE_ABORTING, STATE_DRAINING, STATE_ENDING, STATE_FLUSHING, STATE_OPEN, buf_t, link_t,
    queue_t,
)
from iocpx._types cimport *
from iocpx._wants cimport conn_has_files, conn_may_send
from iocpx._worker cimport engine_has_more
from iocpx._winsock cimport (
    AcquireSRWLockExclusive, ERROR_OPERATION_ABORTED, HasOverlappedIoCompleted,
    InterlockedExchangeAdd, LONG64, ReleaseSRWLockExclusive, WSAENOBUFS, WSAETIMEDOUT,
)


# -- in a callback -------------------------------------------------------------------


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
    cdef service_config_t *config = &conn.service.config
    # A connection reads on while its outbox is not above the mark, and then still gets
    # what is posted; accept_receive brings one buffer more.
    cdef size_t window = <size_t>(config.initial_reads + 1) * the.config.buffer_size
    cdef size_t most = config.high_water_bytes + window
    if config.handler.deliver == NULL:
        # What it wrote although it was paused, and in the turn that came to the limit.  An empty
        # queue takes a write of any size.
        most = <size_t>-1
        if config.max_write_buffer != 0 and conn.over_bytes > (
                max(config.max_write_buffer, <size_t>MEDDLED_WRITE)
                + protocols[client_of(conn)].turn_most):
            sim_fail("%zu bytes count against the limit of %zu", conn.over_bytes,
                     config.max_write_buffer)
    elif config.handler.c_handler != NULL and config.handler.c_handler.made != NULL:
        most = <size_t>-1   # it lays aside what it answers later
    if conn.inbox.nbytes > window:
        sim_fail("%zu bytes wait for the handler", conn.inbox.nbytes)
    if not conn.filtered and not config.datagrams:
        check_counted(conn)
    if conn.outbox.nbytes > most:
        sim_fail("%zu bytes wait to be sent, more than %zu", conn.outbox.nbytes, most)
    if conn.window.n > conn.window.size:
        sim_fail("%d receives are posted", conn.window.n)


cdef void check_counted(conn_t *conn) noexcept nogil:
    """What the marks count is what waits: in memory, and in files."""
    cdef size_t nbytes = bytes_of(&conn.outbox)
    cdef size_t in_files = 0
    cdef file_t *file = NULL
    if conn.files != NULL:
        nbytes += bytes_of(&conn.files.later)
        file = conn.files.front
        in_files = counted_of(&conn.files.later)
    if file != NULL:
        in_files += file.counted
        if file.counted > file.left:
            sim_fail("client %d: of a file %zu bytes count, and %zu are left", client_of(conn),
                     file.counted, <size_t>file.left)
        if file.looked and file.counted != file.left:
            sim_fail("client %d: of a file %zu bytes are left, and %zu count", client_of(conn),
                     <size_t>file.left, file.counted)
    if conn.outbox.nbytes != nbytes + in_files:
        sim_fail("client %d: %zu bytes wait in memory and %zu in files, and %zu are counted",
                 client_of(conn), nbytes, in_files, conn.outbox.nbytes)
    if in_files != (conn.files.nbytes if conn.files != NULL else 0):
        sim_fail("client %d: %zu bytes wait in files, and %zu are counted", client_of(conn),
                 in_files, conn.files.nbytes)


cdef size_t bytes_of(queue_t *queue) noexcept nogil:
    cdef size_t nbytes = 0
    cdef buf_t *buf = queue.head
    while buf != NULL:
        nbytes += buf.size
        buf = buf.next
    return nbytes


cdef size_t counted_of(queue_t *later) noexcept nogil:
    """Of the files in it."""
    cdef size_t nbytes = 0
    cdef buf_t *buf = later.head
    while buf != NULL:
        if buf.data == NULL:
            nbytes += (<file_t *>buf).counted
        buf = buf.next
    return nbytes


cdef void check_lost(int client, int error, bint paused) noexcept nogil:
    """Everything was told before; the error is what Windows said, or what the engine decides."""
    cdef protocol_t *protocol = &protocols[client]
    cdef sim_client_t facts
    sim_client(client, &facts)
    if not marked(&protocol.closed) and not paused and protocol.received != facts.taken:
        sim_fail("client %d: connection_lost after %zu of %zu bytes", client, protocol.received,
                 facts.taken)
    # Through a filter it is told when nothing is left, so of an aborted one perhaps of less.
    if protocol.tells and protocol.sent + protocol.own != facts.given and not (
            served_of(client).filtered and protocol.reason != -1 and protocol.sent <= facts.given):
        sim_fail("client %d: told of %zu of %zu bytes sent", client, protocol.sent, facts.given)
    if (error != 0 and not sim_was_told(client, error)
            and error != WSAETIMEDOUT and error != WSAENOBUFS):
        sim_fail("client %d: connection_lost(%d), and Windows never said so", client, error)
    if error == ERROR_OPERATION_ABORTED:
        sim_fail("client %d: connection_lost tells of an operation that we have cancelled", client)
    if error == 0 and facts.failed and not marked(&protocols[client].closed):
        sim_fail("client %d: connection_lost(None), although an operation failed", client)


cdef void check_loop_lost(int client, const lost_t *lost) noexcept nogil:
    cdef protocol_t *protocol = &protocols[client]
    cdef sim_client_t facts
    sim_client(client, &facts)
    if lost.reason == -1 and facts.given != protocol.written:
        sim_fail("client %d: closed, and %zu of %zu bytes were sent", client, facts.given,
                 protocol.written)
    if not protocol.made:
        sim_fail("client %d: connection_lost without connection_made", client)


# -- when nothing can happen ---------------------------------------------------------


cdef void check_idle() noexcept nogil:
    """Nothing can happen before a deadline passes: then there is nothing left to do either."""
    cdef service_t *service
    cdef listener_t *listener
    cdef link_t *link
    if server.engine == NULL:
        return
    if server.engine.file_ops != NULL:
        sim_fail("an operation of a file is over, and nobody tells it")
    if server.looping and server.tasks > 0 and not disturbed():
        sim_fail("the loop was woken, and sleeps on")
    service = server.engine.services
    while service != NULL:
        check_idle_retired(service)
        if service.live == 0 and not disturbed():
            sim_fail("nothing is left of a service, and nobody takes it out")
        listener = service.listeners
        while listener != NULL:
            check_idle_listener(listener)
            listener = listener.next
        link = service.connections.next
        # Of datagrams: _datagram_app's.
        while link != &service.connections and not service.config.datagrams:
            check_idle_conn(<conn_t *>link.owner)
            link = link.next
        service = service.next


cdef void check_idle_retired(service_t *service) noexcept nogil:
    cdef listener_t *listener = service.listeners
    cdef bint empty = service.stopping and not disturbed() and (
        service_count(service, N_CONNECTIONS_MADE) == service_count(service, N_CONNECTIONS_RETIRED))
    while listener != NULL:
        empty = empty and listener.acceptors.next == &listener.acceptors
        listener = listener.next
    if empty:
        sim_fail("nothing is left of a service that accepts no more, and it does not end")


cdef void check_idle_loop_conn(conn_t *conn, int client) noexcept nogil:
    cdef protocol_t *protocol = &protocols[client]
    cdef sim_client_t facts
    if not conn.lost_told and ((conn.marks.above or conn.passed) != conn.pause_told
                               or conn.pause_told != protocol.paused):
        sim_fail("client %d: pause_writing or resume_writing is due, and not told", client)
    if (conn.state == STATE_OPEN and conn.window.n == 0 and not conn.eof_seen
            and conn.inbox.head == NULL):
        sim_fail("client %d: no receive is posted, because it is paused", client)
    sim_client(client, &facts)
    if conn.state == STATE_DRAINING and protocol.draining and facts.taken > protocol.taken:
        sim_fail("client %d: it sends on after both ends, and is not reset", client)


cdef void check_spared() noexcept nogil:
    cdef engine_t *engine = server.engine
    AcquireSRWLockExclusive(&engine.run_lock)
    cdef conn_t *before = engine.run_queue.head
    ReleaseSRWLockExclusive(&engine.run_lock)
    cdef bint more = engine_has_more(engine)
    AcquireSRWLockExclusive(&engine.run_lock)
    cdef conn_t *after = engine.run_queue.head
    ReleaseSRWLockExclusive(&engine.run_lock)
    if not more and before != NULL and before == after:
        sim_fail("a connection waits for its turn, and the loop is not told")


cdef int collect_loops(conn_t *conn, conn_t **found, int n) noexcept nogil:
    while conn != NULL:
        if conn.service.config.like_asyncio:
            conn_ref(conn)
            found[n] = conn
            n += 1
        conn = conn.next_ready
    return n


cdef void check_flushed() noexcept nogil:
    cdef worker_t *worker = &server.engine.workers[0]
    cdef conn_t *found[MAX_CLIENTS]
    cdef bint unsent
    cdef int n = 0
    cdef int i
    AcquireSRWLockExclusive(&worker.lock)
    AcquireSRWLockExclusive(&server.engine.run_lock)
    n = collect_loops(worker.work.head, found, n)
    n = collect_loops(worker.news.head, found, n)
    n = collect_loops(worker.again.head, found, n)
    n = collect_loops(server.engine.run_queue.head, found, n)
    ReleaseSRWLockExclusive(&server.engine.run_lock)
    ReleaseSRWLockExclusive(&worker.lock)
    for i in range(n):
        AcquireSRWLockExclusive(&found[i].lock)
        unsent = conn_may_send(found[i])
        ReleaseSRWLockExclusive(&found[i].lock)
        if unsent:
            sim_fail("client %d: the loop stops, and what was written is not sent",
                     client_of(found[i]))
        conn_unref(found[i])


cdef void check_idle_listener(listener_t *listener) noexcept nogil:
    cdef link_t *link = listener.acceptors.next
    cdef acceptor_t *acceptor
    while link != &listener.acceptors:
        acceptor = <acceptor_t *>link.owner
        if acceptor.failures != 0 and not disturbed():
            sim_fail("a client has gone, and that counts as a failure of the system")
        if (listener.shared and acceptor.pending and not acceptor.told
                and HasOverlappedIoCompleted(&acceptor.op.overlapped) and not disturbed()):
            sim_fail("an AcceptEx is over, and nobody is told")
        link = link.next


cdef void check_idle_conn(conn_t *conn) noexcept nogil:
    cdef service_config_t *config = &conn.service.config
    check_bounds(conn)
    # What failed is tried again after a while.
    if disturbed():
        return
    if conn.scheduled:
        sim_fail("client %d: scheduled, and nobody comes", client_of(conn))
    if conn.state == STATE_ABORTING or conn.state == STATE_ENDING:
        sim_fail("client %d: its connection has ended and is still open", client_of(conn))
    if (conn.outbox.head != NULL and not conn.sending
            and (conn.state == STATE_OPEN or conn.state == STATE_FLUSHING)):
        sim_fail("client %d: what was written waits, and nobody sends", client_of(conn))
    if (conn_has_files(conn) and conn.outbox.head == NULL and conn.plain.head == NULL
            and (conn.state == STATE_OPEN or conn.state == STATE_FLUSHING)):
        sim_fail("client %d: a file waits, and nobody sends", client_of(conn))
    if (conn.plain.head != NULL and not conn.filter_opening and not conn.filter_waits
            and (conn.state == STATE_OPEN or conn.state == STATE_FLUSHING)):
        sim_fail("client %d: what was written waits for its filter, which is not asked",
                 client_of(conn))
    if (conn.filtered and (conn.filter_opening or conn.filter_waits) and conn.window.n == 0
            and conn.inbox.head == NULL and not conn.eof_seen
            and (conn.state == STATE_OPEN or conn.state == STATE_FLUSHING)):
        sim_fail("client %d: its filter waits for bytes, and nobody receives any", client_of(conn))
    if (conn.filtered and conn.write_eof and conn.plain.head == NULL and not conn.filter_ended
            and not conn.filter_waits and (conn.filter_opening or not conn_has_files(conn))
            and (conn.state == STATE_OPEN or conn.state == STATE_FLUSHING)):
        sim_fail("client %d: its filter is not asked for its end", client_of(conn))
    if (conn.state == STATE_FLUSHING and conn.outbox.head == NULL and not conn.sending
            and not conn_has_files(conn) and (conn.filter_ended or not conn.filtered)
            and not (config.like_asyncio and conn.pause_told)):
        sim_fail("client %d: all is sent, and its end is not", client_of(conn))
    if conn.waiters != 0 and not conn.marks.above and (
            config.max_sends == 0 or conn.outbox.writes < config.max_sends) and (
            config.max_write_buffer == 0 or conn.marks.high < config.max_write_buffer):
        sim_fail("client %d: a thread waits to write, and may", client_of(conn))
    if conn.inbox.head != NULL and not conn.read_paused:
        sim_fail("client %d: data waits, and nobody is told", client_of(conn))
    # Without one nobody would learn that the peer is gone.
    if (conn.state == STATE_OPEN and conn.window.n == 0 and not conn.eof_seen
            and conn.inbox.head == NULL and not conn.marks.above):
        sim_fail("client %d: no receive is posted", client_of(conn))
    if conn.service.closing_clients and conn.state == STATE_OPEN:
        sim_fail("client %d: its service stops, and it is open", client_of(conn))
    if config.like_asyncio:
        check_idle_loop_conn(conn, client_of(conn))
    # A keeper that stands still before it waits, waits that much longer.
    if not conn.lost_told and the.sim.stalls == 0:
        wakes_check(&protocols[client_of(conn)].wakes, client_of(conn))


# -- at the end ----------------------------------------------------------------------


cdef bint lenient(const served_t *served) noexcept nogil:
    """Does it end no connection of its own accord?"""
    cdef const service_config_t *config = &served.config
    return (config.max_connections == 0 and config.idle_timeout_ms == 0 and config.max_sends == 0
            and config.max_write_buffer == 0 and config.close_timeout_ms >= LENIENT_MS)


cdef void served_before(served_t *served) noexcept nogil:
    """From here on the service ends connections of its own accord; note who had all before."""
    cdef sim_client_t facts
    cdef protocol_t *protocol
    cdef int client
    for client in range(the.sim.clients):
        if served_of(client) != served:
            continue
        protocol = &protocols[client]
        sim_client(client, &facts)
        # Who was not taken yet when it accepted no more was reset by that.
        if (facts.cut and not marked(&protocol.closed) and not disturbed() and lenient(served)
                and (protocol.made or not marked(&served.retired))):
            sim_fail("client %d was reset, and nobody asked for that", client)
        sim_atomic(True)
        # A client that could not be taken for lack of resources sees an end as well, and so
        # does one that spoke too late.
        protocol.served = (protocol.served or facts.saw_end and not facts.reset
                           and not protocol.closed and not disturbed()
                           and service_count(served.service, N_SILENT_DROPPED) == 0)
        protocol.closed = True
        sim_atomic(False)


cdef size_t facts_due(int client, const sim_client_t *facts) noexcept nogil:
    """What a native handler has to send."""
    return 0 if served_of(client).discards else facts.sent


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
    if not facts.saw_end or facts.reset or (
            served_of(client).echo and facts.received != facts_due(client, &facts)):
        sim_fail("a client that came last was not served")


cdef void check_client(int client) noexcept nogil:
    cdef sim_client_t facts
    cdef protocol_t *protocol = &protocols[client]
    cdef bint echo = served_of(client).echo
    sim_client(client, &facts)
    if protocol.conn != NULL:
        sim_fail("client %d: connection_lost never came", client)
    if protocol.files != 0:
        sim_fail("client %d: %d files were never given back", client, protocol.files)
    if echo and facts.received > facts_due(client, &facts):
        sim_fail("client %d was sent more than it sent, or than nothing", client)
    if echo:
        if protocol.served and facts.received != facts_due(client, &facts):
            sim_fail("client %d got %zu of %zu bytes back", client, facts.received, facts.sent)
        return
    if (protocol.made or protocol.opened or protocol.watched) and not protocol.lost:
        sim_fail("client %d: connection_lost never came", client)
    # The first that comes after both ends resets it.
    if protocol.draining and facts.taken > protocol.taken + the.config.buffer_size:
        sim_fail("client %d: %zu bytes came after both ends, and it was not reset", client,
                 facts.taken - protocol.taken)
    # What a closing connection still receives is discarded; until then nothing is lost.
    if (protocol.eof and protocol.received != protocol.due and not facts.reset
            and not protocol.notified):
        sim_fail("client %d: the end came after %zu of %zu bytes", client, protocol.received,
                 protocol.due)
    # A loop's abort() drops what it has, and need not reset.
    if served_of(client).config.like_asyncio and protocol.reason == ABORT_APPLICATION:
        return
    if (facts.saw_end and not facts.reset and not facts.unreset
            and facts.received != protocol.written):
        sim_fail("client %d got %zu of %zu bytes", client, facts.received, protocol.written)


cdef void same(const char *what, LONG64 a, LONG64 b) noexcept nogil:
    if a != b:
        sim_fail("%s: %lld and %lld", what, a, b)


cdef void check_refusal() noexcept nogil:
    """An engine that is about to end does not come back."""
    AcquireSRWLockExclusive(&server.engine.lock)
    if server.engine.holds > 0 and server.engine.workers_running > 0:
        sim_fail("an engine that runs cannot be held")
    ReleaseSRWLockExclusive(&server.engine.lock)


cdef void check_stopping() noexcept nogil:
    """The slots of a service that stops are given up at once, if they wait to be posted."""
    cdef engine_t *engine = server.engine
    cdef bint waiting
    AcquireSRWLockExclusive(&engine.lock)
    waiting = engine.starved != NULL and engine.starved_due_ms != 0
    ReleaseSRWLockExclusive(&engine.lock)
    # Those of another one may have come meanwhile.
    if waiting and sim_alone():
        sim_fail("a service stops, and its accept pool waits to be posted again")


cdef void check_service(served_t *served) noexcept nogil:
    cdef service_t *service = served.service
    cdef service_t *other
    cdef service_figures_t figures
    if InterlockedExchangeAdd(&service.live, 0) != 0:
        sim_fail("a service counts as stopped, and something of it is left")
    AcquireSRWLockExclusive(&server.engine.lock)
    other = server.engine.services
    while other != NULL:
        if other == service:
            sim_fail("a service counts as stopped, and the engine still has it")
        other = other.next
    ReleaseSRWLockExclusive(&server.engine.lock)
    service_figures(service, &figures)
    same("sockets opened, closed", service_count(service, N_SOCKETS_OPENED),
         service_count(service, N_SOCKETS_CLOSED))
    same("connections made, retired", service_count(service, N_CONNECTIONS_MADE),
         service_count(service, N_CONNECTIONS_RETIRED))
    same("files opened, closed", service_count(service, N_FILES_OPENED),
         service_count(service, N_FILES_CLOSED))
    same("connections now", service_connections(service), 0)
    same("connections draining", figures.connections_draining, 0)
    same("connections kept", <LONG64>figures.connections_free, 0)
    same("accepts pending", figures.accepts_pending, 0)
    served.accept_errors = service_count(service, N_ACCEPT_ERRORS)


cdef void check_engine() noexcept nogil:
    cdef engine_t *engine = server.engine
    cdef pools_t pools
    cdef LONG64 accept_errors = 0
    cdef int i
    engine_pools(engine, &pools)
    for i in range(the.services):
        accept_errors += services[i].accept_errors
    if accept_errors < sim_unattached():
        sim_fail("a client that could not be taken is not counted")
    if not engine_wait_stopped(engine, 0):
        sim_fail("the engine has ended, and nobody is told")
    if engine.services != NULL:
        sim_fail("the engine has ended, and a service has not")
    same("holds", engine.holds, 0)
    same("services that serve", engine.serving, 0)
    same("operations posted, completed", engine_count(engine, E_OPS_POSTED),
         engine_count(engine, E_OPS_COMPLETED))
    same("packets due", engine.packets_due, 0)
    same("file handles opened, closed", engine_count(engine, E_FILES_OPENED),
         engine_count(engine, E_FILES_CLOSED))
    same("file operations begun, done", engine_count(engine, E_FILE_OPS_BEGUN),
         engine_count(engine, E_FILE_OPS_DONE))
    if engine.file_ops != NULL:
        sim_fail("an operation of a file is over, and was never told")
    same("buffers out", <LONG64>pools.buffers_out, 0)
    # Clients that go before they are accepted are no lack of anything.
    if not disturbed() and (engine.trouble_due_ms != 0 or engine.starved_due_ms != 0):
        sim_fail("the system refused nothing, and that was told")
