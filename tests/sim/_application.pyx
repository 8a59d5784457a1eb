"""The threads of the application: see _application.pxd."""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from _actions cimport (
    borrow, cancel_file, close_conn, flood, is_paused, meddle_write, pause_reading, send_file,
)
from _checks cimport check_probe, check_refusal, check_service, check_stopping, served_before
from _kernel cimport *
from _loop_thread cimport loop_wake
from _run cimport (
    disturbed, mark, marked, one_of, protocol_t, protocols, served_of, served_t, server, services,
    the,
)
from _wakes cimport wakes_set
from iocpx._accept cimport service_listen
from iocpx._base cimport engine_hold, engine_release
from iocpx._engine cimport engine_on_worker, engine_wait_stopped
from iocpx._requests cimport (
    conn_borrow_handle, conn_get_marks, conn_is_closing, conn_is_reading, conn_return_handle,
    conn_wait_writable, conn_write_buffer_size, service_close_clients, WAIT_WRITABLE,
)
from iocpx._open cimport service_connect
from iocpx._sched cimport conn_unref
from iocpx._service cimport service_create, service_free, service_retire, service_stop
from iocpx._types cimport *
from iocpx._worker cimport engine_forgo_worker
from iocpx._winsock cimport (
    ERROR_OPERATION_ABORTED, INFINITE, INVALID_SOCKET, SOCKET, WAIT_OBJECT_0, WSAENOBUFS,
    CloseHandle, closesocket, CreateEventW, GetLastError, WaitForSingleObject,
)


cdef enum:
    RETIRED_MS = 600000     # longer than any connection lasts whose client ends


# -- with its connections ------------------------------------------------------------


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
    elif what < 4 and the.polled and conn.service.config.max_write_buffer != 0:
        flood(client, conn)
    elif what < 9:
        resume(client)
    elif what < 12:
        close_conn(client, conn, what < 11)
    elif what == 12:
        sock = conn_borrow_handle(conn)
        if sock != INVALID_SOCKET:
            sim_lend_socket(sock)
            sim_point()
            conn_return_handle(NULL, conn)
    elif what == 13 and the.files and sim_random(2):
        cancel_file(client, conn)
    elif what == 13 and the.files:
        send_file(client, conn)
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


# -- with its service ----------------------------------------------------------------


cdef bint join(served_t *served) noexcept nogil:
    """Hold the engine.  False: it is about to end."""
    # Whoever makes an engine has its first hold.
    if served == &services[0]:
        return True
    while served.follows and not marked(&services[0].gone):
        sim_sleep(1 + sim_random(20))
    sim_sleep(served.joins_ms)
    if engine_hold(server.engine):
        return True
    check_refusal()
    return False


cdef int start(served_t *served) noexcept nogil:
    """0 or a Windows code.  Gives the hold back."""
    cdef int error = 0
    cdef int i
    cdef int _i
    if the.unborn > 0:
        # Before anybody else has the engine.
        for _i in range(the.unborn):
            engine_forgo_worker(server.engine)
        engine_release(server.engine)
        return WSAENOBUFS
    served.stopped_event = CreateEventW(NULL, True, False, NULL)
    if served.stopped_event == NULL:
        error = <int>GetLastError()
    else:
        served.service = service_create(server.engine, &served.config, served.stopped_event)
        if served.service == NULL:
            error = WSAENOBUFS
    engine_release(server.engine)
    for i in range(served.listeners if error == 0 else 0):
        error = service_listen(served.service, served.sockets[i], AF_INET6 if i > 0 else AF_INET)
        if error != 0:
            break
        if sim_backlog(served.sockets[i]) != served.config.backlog:
            sim_fail("a backlog of %d became %d", served.config.backlog,
                     sim_backlog(served.sockets[i]))
    if error == 0 and not the.sim.handles:
        sim_fail("a service begins where CancelIoEx reaches nothing")
    return error


cdef void call(served_t *served, int client) noexcept nogil:
    """Connect to a client that waits for it.  What fails has no connection."""
    cdef protocol_t *protocol = &protocols[client]
    cdef char[28] address
    cdef char[28] local
    cdef conn_t *conn = NULL
    cdef bint watched = not served.echo and sim_random(2)
    cdef int error
    sim_address(client, address)
    memset(local, 0, sizeof(local))
    local[0] = AF_INET
    # Before: a worker may come to it at once.
    mark(&protocol.watched, watched)
    error = service_connect(served.service, AF_INET, local if sim_random(2) else NULL, address,
                            protocol if watched else NULL, &conn if watched else NULL)
    if error != 0:
        mark(&protocol.watched, False)
    # Another thread may have begun its stop.
    if error != 0 and error != ERROR_OPERATION_ABORTED and not disturbed():
        sim_fail("client %d cannot be called", client)
    if error != 0 or not watched:
        return
    # As several attempts at one host are made: each has its time, and is given up for another one.
    if sim_random(2):
        wakes_set(&protocol.wakes, conn, client)
    if not the.calm and sim_random(4) == 0:
        sim_sleep(one_of(0, 0, 1, sim_random(30)))
        close_conn(client, conn, True)
    conn_unref(conn)


cdef void serve(served_t *served) noexcept nogil:
    cdef uint32_t rounds = sim_random(one_of(4, 12, 12, 60))
    cdef uint32_t _round
    cdef int client
    cdef int i
    for client in range(the.sim.clients):
        if the.called[client] and served_of(client) == served:
            sim_sleep(one_of(0, 0, 1, sim_random(30)))
            call(served, client)
        if the.opened[client] and served_of(client) == served:
            sim_sleep(one_of(0, 0, 1, sim_random(30)))
            mark(&protocols[client].wanted, True)
            loop_wake()
    for _round in range(rounds):
        sim_sleep(one_of(0, 0, 1, sim_random(30)))
        if the.calm:
            continue
        if sim_random(24) == 0:
            sim_note("close or abort all", served - services, 0)
            served_before(served)
            service_close_clients(served.service, sim_random(2))
        elif served.config.like_asyncio:
            loop_wake()
        elif not served.echo:
            client = <int>sim_random(<uint32_t>the.sim.clients - the.probe)
            if served_of(client) == served:
                meddle(client)
    if served.shared_later:
        for i in range(served.listeners):
            sim_share(served.sockets[i])
    # Often all there is to do is done by then.
    sim_sleep(served.linger_ms)
    if served.config.like_asyncio:
        mark(&server.resumes[served - services], True)
        loop_wake()
        sim_sleep(served.linger_ms)
    elif not served.echo and not the.calm:
        for client in range(the.sim.clients):
            if served_of(client) == served:
                resume(client)
        sim_sleep(served.linger_ms)
    if not the.late:
        sim_faults(False)
    if the.probe and served_of(the.sim.clients - 1) == served:
        check_probe(the.sim.clients - 1)


cdef void close_listeners(served_t *served) noexcept nogil:
    cdef int i
    for i in range(served.listeners):
        closesocket(served.sockets[i])


cdef void ask_to_stop(served_t *served, service_t *service, uint64_t timeout_ms) noexcept nogil:
    cdef bint first = not marked(&served.stopping)
    sim_note("stop", served - services, first)
    mark(&served.stopping, True)
    served_before(served)
    service_stop(service, timeout_ms)
    if first:
        check_stopping()


cdef void stop_others() noexcept nogil:
    """As it is done at the end of a program."""
    cdef served_t *served
    cdef service_t *service
    cdef int i
    for i in range(1, the.services):
        served = &services[i]
        sim_atomic(True)
        service = served.shared
        served.borrowers += service != NULL
        sim_atomic(False)
        if service != NULL:
            ask_to_stop(served, service, served.stop_ms)
            sim_atomic(True)
            served.borrowers -= 1
            sim_atomic(False)


cdef void share(served_t *served, service_t *service) noexcept nogil:
    """service: NULL: no longer; returns when nobody has it any more."""
    cdef bint borrowed = True
    while borrowed:
        sim_atomic(True)
        served.shared = service
        borrowed = service == NULL and served.borrowers > 0
        sim_atomic(False)
        if borrowed:
            sim_sleep(1)


cdef void retire(served_t *served) noexcept nogil:
    """It accepts no more, and may end without being stopped."""
    sim_note("retire", served - services, 0)
    mark(&served.retired, True)
    service_retire(served.service)
    close_listeners(served)
    WaitForSingleObject(served.stopped_event, one_of(0, 50, 3000, RETIRED_MS))


cdef void stop(served_t *served, uint64_t timeout_ms) noexcept nogil:
    if served.retires:
        retire(served)
    ask_to_stop(served, served.service, timeout_ms)
    if the.together and served == &services[0]:
        stop_others()
    # As the layer above does it: at once.
    if not served.retires:
        close_listeners(served)
    if sim_random(4) == 0:
        service_stop(served.service, 0)
    while WaitForSingleObject(served.stopped_event, INFINITE) != WAIT_OBJECT_0:
        sim_note("the wait for the stop failed", 0, 0)
        sim_sleep(10)
    # At once: nobody has it any more.
    share(served, NULL)
    check_service(served)
    service_free(served.service)
    served.service = NULL
    CloseHandle(served.stopped_event)


cdef void wait_for_engine() noexcept nogil:
    """Who had the last service on it waits for its threads, too."""
    if engine_hold(server.engine):
        engine_release(server.engine)
        return
    check_refusal()
    while not engine_wait_stopped(server.engine, INFINITE):
        sim_note("the wait for the end failed", 0, 0)
        sim_sleep(10)


cdef void application_main(void *argument) noexcept nogil:
    cdef served_t *served = <served_t *>argument
    sim_passing()
    served.refused = not join(served)
    if not served.refused:
        served.start_error = start(served)
        served.started = served.start_error == 0
    if served.started:
        share(served, served.service)
        serve(served)
    elif not the.late:
        sim_faults(False)
    if served.service != NULL:
        stop(served, served.stop_ms if served.started else 0)
    else:
        close_listeners(served)
        if served.stopped_event != NULL:
            CloseHandle(served.stopped_event)
    mark(&served.gone, True)
    wait_for_engine()
