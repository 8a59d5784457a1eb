"""The threads of a run: see _application.pxd."""

from libc.stdint cimport uint32_t, uint64_t

from _actions cimport borrow, close_conn, is_paused, meddle_write, pause_reading
from _checks cimport check_probe, served_before
from _kernel cimport *
from _run cimport mark, marked, one_of, protocols, server, the
from _wakes cimport wakes_set
from iocpx._accept cimport engine_listen
from iocpx._engine cimport engine_on_worker, engine_stop, engine_wait_stopped
from iocpx._keeper cimport engine_run_keeper
from iocpx._requests cimport (
    conn_borrow_handle, conn_get_marks, conn_is_closing, conn_is_reading, conn_return_handle,
    conn_wait_writable, conn_write_buffer_size, engine_close_clients, WAIT_WRITABLE,
)
from iocpx._sched cimport conn_unref
from iocpx._types cimport *
from iocpx._worker cimport engine_forgo_worker, engine_run_worker
from iocpx._winsock cimport INFINITE, INVALID_SOCKET, SOCKET, WSAENOBUFS, closesocket


# -- the engine's --------------------------------------------------------------------


cdef void worker_main(void *argument) noexcept nogil:
    engine_run_worker(server.engine, <int><size_t>argument)


cdef void keeper_main(void *argument) noexcept nogil:
    listen()
    while engine_run_keeper(server.engine) != 0:
        sim_note("trouble with a listener", 0, 0)


cdef void listen() noexcept nogil:
    cdef int i
    for i in range(the.listeners):
        server.listen_error = engine_listen(server.engine, server.listeners[i],
                                            AF_INET6 if i > 0 else AF_INET)
        if server.listen_error != 0:
            break
        if sim_backlog(server.listeners[i]) != the.config.backlog:
            sim_fail("a backlog of %d became %d", the.config.backlog,
                     sim_backlog(server.listeners[i]))
    mark(&server.listened, True)


# -- the application's ---------------------------------------------------------------


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
    if conn_write_buffer_size(conn) > 0 and engine_on_worker(server.engine):
        sim_fail("the application's thread counts as a worker")


cdef bint start() noexcept nogil:
    cdef int _i
    cdef int error
    # The keeper listens: this thread may end at any time.
    while not marked(&server.listened):
        sim_sleep(1)
    error = server.listen_error
    if error == 0 and not the.sim.handles:
        sim_fail("the server begins where CancelIoEx reaches nothing")
    if the.unborn > 0:
        error = WSAENOBUFS
        for _i in range(the.unborn):
            engine_forgo_worker(server.engine)
    server.start_error = error
    server.started = error == 0
    return server.started


cdef void stop(uint64_t timeout_ms) noexcept nogil:
    cdef int i
    sim_note("stop", 0, 0)
    served_before()
    engine_stop(server.engine, timeout_ms)
    # As the layer above does it: at once.
    for i in range(the.listeners):
        closesocket(server.listeners[i])
    if sim_random(4) == 0:
        engine_stop(server.engine, 0)
    while not engine_wait_stopped(server.engine, INFINITE):
        sim_note("the wait for the stop failed", 0, 0)
        sim_sleep(10)
    sim_faults(False)


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
            engine_close_clients(server.engine, sim_random(2))
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
