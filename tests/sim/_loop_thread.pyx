"""A loop between two looks at the port: see _loop_thread.pxd."""

from libc.stdint cimport uint32_t

from _actions cimport (
    borrow, close_conn, flush, is_paused, meddle_write, pause_reading, send_file, set_marks, write,
    write_eof,
)
from _checks cimport check_flushed, check_spared
from _disk cimport disk_round
from _kernel cimport *
from _run cimport (
    mark, marked, one_of, protocol_t, protocols, served_of, served_t, server, the, worker_of,
)
from _wakes cimport wakes_set
from iocpx._base cimport count, drop_socket
from iocpx._open cimport conn_open
from iocpx._op cimport op_t
from iocpx._provider cimport provider_of_family
from iocpx._requests cimport (
    conn_borrow_handle, conn_lend_handle, conn_return_handle, conn_tell_sent, WRITE_FLUSH,
)
from iocpx._sched cimport conn_unref
from iocpx._state cimport STATE_OPEN
from iocpx._types cimport *
from iocpx._worker cimport engine_complete, engine_flush, engine_has_more, engine_tell
from iocpx._winsock cimport INVALID_SOCKET, OVERLAPPED_ENTRY, SOCKET

cdef enum:
    MANY_BYTES = 23000      # a write of these is above most marks
    SPARED = 4              # looks at the port, in a row


# -- requests ------------------------------------------------------------------------


cdef void task_write(int client, conn_t *conn) noexcept nogil:
    """Also while it is paused, or closing: asyncio's transports let it."""
    if marked(&protocols[client].paused) and sim_random(4) != 0:
        return
    if sim_random(3) != 0:
        meddle_write(client, conn)
    elif write(client, conn, 1 + sim_random(MANY_BYTES), True, sim_random(4) == 0) & WRITE_FLUSH:
        flush(client, conn)


cdef void task_handle(conn_t *conn, bint copied) noexcept nogil:
    cdef SOCKET sock = conn_borrow_handle(conn) if copied else conn_lend_handle(conn)
    if sock != INVALID_SOCKET:
        sim_point()
        conn_return_handle(worker_of(conn), conn)


cdef void task(int client) noexcept nogil:
    cdef conn_t *conn = borrow(client)
    cdef uint32_t what = sim_random(40)
    if conn == NULL:
        return
    if what < 22:
        task_write(client, conn)
    elif what < 24:
        pause_reading(client, conn, True)
    elif what < 28:
        pause_reading(client, conn, False)
    elif what < 31:
        close_conn(client, conn, what == 30)
        # What was held back until now.
        if sim_random(2):
            task_write(client, conn)
    elif what == 31:
        write_eof(client, conn)
    elif what < 34:
        set_marks(client, conn)
    elif what < 36:
        task_handle(conn, what == 34)
    elif what == 36 and the.files:
        send_file(client, conn)
    else:
        wakes_set(&protocols[client].wakes, conn, client)
    conn_unref(conn)


cdef bint is_loops(int client) noexcept nogil:
    return served_of(client).config.like_asyncio


cdef void random_task() noexcept nogil:
    cdef int client = <int>sim_random(<uint32_t>(the.sim.clients - the.probe))
    if the.disks > 0 and sim_random(8) == 0:
        disk_round()
    if is_loops(client) and not the.calm:
        task(client)


# -- connections that somebody else has made -----------------------------------------


cdef void open_one(int client, service_t *service) noexcept nogil:
    """A connected socket becomes a connection of the loop's."""
    cdef protocol_t *protocol = &protocols[client]
    cdef const provider_t *provider = NULL
    cdef conn_t *conn = NULL
    cdef char[ADDRESS_BYTES] local
    cdef char[ADDRESS_BYTES] remote
    cdef bint joined = sim_random(2)
    cdef SOCKET sock = sim_connected(client, JOINED_KEY if joined else 0)
    sim_address(SIM_SERVER, local)
    sim_address(client, remote)
    count(service, NULL, N_SOCKETS_OPENED, 1)
    protocol.opened = True
    cdef int error = provider_of_family(server.engine, AF_INET, sock, &provider)
    if error == 0:
        error = conn_open(service, &server.engine.workers[0], provider, sock, STATE_OPEN, local,
                          remote, NULL, protocol, &conn, joined)
    sim_note("opened", client, error)
    if error != 0:
        protocol.opened = False
        drop_socket(service, NULL, sock)
        return
    sim_atomic(True)
    protocol.conn = conn
    sim_atomic(False)
    protocol.tells = sim_random(2)
    conn_tell_sent(conn, protocol.tells)
    # As who waited for it does that was cancelled.
    if not the.calm and sim_random(4) == 0:
        close_conn(client, conn, sim_random(2))


cdef void open_wanted() noexcept nogil:
    cdef served_t *served
    cdef service_t *service
    cdef int client
    for client in range(the.sim.clients):
        if not marked(&protocols[client].wanted):
            continue
        mark(&protocols[client].wanted, False)
        served = served_of(client)
        sim_atomic(True)
        service = served.shared
        served.borrowers += service != NULL
        sim_atomic(False)
        if service != NULL:
            open_one(client, service)
            sim_atomic(True)
            served.borrowers -= 1
            sim_atomic(False)


cdef void resume_wanted() noexcept nogil:
    cdef conn_t *conn
    cdef int client
    cdef int i
    for i in range(the.services):
        if not marked(&server.resumes[i]):
            continue
        mark(&server.resumes[i], False)
        for client in range(the.sim.clients):
            conn = borrow(client) if the.goes_to[client] == i else NULL
            if conn != NULL:
                if is_paused(client):
                    pause_reading(client, conn, False)
                conn_unref(conn)


# -- the loop ------------------------------------------------------------------------


cdef bint next_task() noexcept nogil:
    sim_atomic(True)
    cdef bint some = server.tasks > 0
    server.tasks -= some
    sim_atomic(False)
    return some


cdef void loop_wake() noexcept nogil:
    sim_atomic(True)
    server.tasks += 1
    sim_atomic(False)
    if not sim_post_foreign(server.port):
        next_task()


cdef void loop_between() noexcept nogil:
    cdef int _spared
    cdef int _n
    for _spared in range(1 + <int>sim_random(SPARED)):
        while next_task():
            random_task()
        open_wanted()
        resume_wanted()
        for _n in range(<int>sim_random(3)):
            random_task()
        check_spared()
        if engine_has_more(server.engine):
            return      # the next look comes soon
        if sim_random(4) == 0:
            sim_busy(sim_random(30))
    # What others have asked for meanwhile must not wait for a packet that has come already.
    while next_task():
        random_task()
    open_wanted()
    resume_wanted()


cdef void loop_stops() noexcept nogil:
    sim_note("the loop stops", 0, 0)
    server.flushing = True
    engine_flush(server.engine)
    server.flushing = False
    check_flushed()
    # Nobody has to serve anything, until it runs again.
    mark(&server.looping, False)
    sim_busy(one_of(0, 1, 30, 3000))
    mark(&server.looping, True)


cdef bint loop_takes(const OVERLAPPED_ENTRY *entry) noexcept nogil:
    if entry.lpCompletionKey != JOINED_KEY:
        return False
    engine_complete(server.engine, <op_t *>entry.lpOverlapped, entry.dwNumberOfBytesTransferred)
    if sim_random(2):
        engine_tell(server.engine)
    return True
