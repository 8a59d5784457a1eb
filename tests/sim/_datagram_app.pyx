"""A datagram endpoint beside the clients: see _datagram_app.pxd."""

from libc.stdint cimport uint32_t
from libc.string cimport memset

from _checks cimport check_service
from _kernel cimport *
from _run cimport disturbed, mark, one_of, served_t, server, the
from iocpx._base cimport count, engine_hold, engine_release
from iocpx._datagrams cimport (
    conn_datagrams, conn_give_datagram, datagram_bytes, datagram_of,
)
from iocpx._delivery cimport conn_take_data, conn_take_lost, conn_take_news, lost_t, news_t
from iocpx._engine cimport engine_wait_stopped
from iocpx._open cimport conn_open
from iocpx._requests cimport (
    conn_abort, conn_borrow_handle, conn_close, conn_flush, conn_pause_reading, conn_return_handle,
    WRITE_CLOSED, WRITE_FLUSH, WRITE_NO_MEMORY,
)
from iocpx._sched cimport conn_unref
from iocpx._sendto cimport conn_sendto
from iocpx._service cimport (
    service_count, service_create, service_free, service_retire, service_stop,
)
from iocpx._state cimport buf_t, link_t, STATE_OPEN
from iocpx._types cimport *
from iocpx._winsock cimport (
    AcquireSRWLockExclusive, CloseHandle, closesocket, CreateEventW, INFINITE, INVALID_SOCKET,
    ReleaseSRWLockExclusive, SOCKET, SRWLOCK, WAIT_OBJECT_0, WaitForSingleObject, WSAEMSGSIZE,
)

ctypedef struct endpoint_t:
    SRWLOCK lock            # held while a datagram is numbered and queued
    SOCKET sock
    int written             # the number of the next that is sent; lock
    int accepted            # that were queued, or dropped because of the limit; lock
    int due                 # the number of the next that comes; the handler's
    int failed              # errors of sends that were told; the handler's
    bint inside             # its handler runs
    bint made
    bint lost
    int reason              # of that; -1: closed
    bint reading_paused     # atomic
    bint closed             # by the application; atomic

cdef endpoint_t endpoint


cdef void datagrams_begin() noexcept nogil:
    memset(&endpoint, 0, sizeof(endpoint))
    memset(&datagram_service, 0, sizeof(datagram_service))


# -- the handler -----------------------------------------------------------------------


cdef void send_one(conn_t *conn) noexcept nogil:
    cdef char[2000] data
    cdef char[28] address
    cdef size_t nbytes
    cdef size_t i
    cdef int result
    AcquireSRWLockExclusive(&endpoint.lock)
    nbytes = sim_datagram_bytes(endpoint.written)
    for i in range(nbytes):
        data[i] = <char>sim_datagram_byte(endpoint.written, i)
    sim_address(endpoint.written, address)
    result = conn_sendto(NULL, conn, address, data, nbytes)
    if not result & (WRITE_CLOSED | WRITE_NO_MEMORY):
        endpoint.written += 1
        endpoint.accepted += 1
    ReleaseSRWLockExclusive(&endpoint.lock)
    if result & WRITE_FLUSH:
        conn_flush(NULL, conn)


cdef void take_one(conn_t *conn, buf_t *buf) noexcept nogil:
    cdef datagram_t *datagram = datagram_of(buf)
    cdef size_t i
    cdef int number
    if datagram.error != 0:
        if not datagram.sending and datagram.error == WSAEMSGSIZE:
            endpoint.due += 1
        endpoint.failed += datagram.sending
        if sim_random(2):
            send_one(conn)
        return
    number = (<int *>(datagram.address + 4))[0]
    if number != endpoint.due:
        sim_fail("datagram %d comes in place of datagram %d", number, endpoint.due)
    endpoint.due += 1
    if buf.size != sim_datagram_bytes(number):
        sim_fail("datagram %d comes with %zu bytes", number, buf.size)
    for i in range(buf.size):
        if <unsigned char>datagram_bytes(buf)[i] != sim_datagram_byte(number, i):
            sim_fail("datagram %d comes with a wrong byte at %zu", number, i)
    if sim_random(2):
        send_one(conn)


cdef void deliver(conn_t *conn) noexcept nogil:
    cdef news_t news
    cdef lost_t lost
    cdef size_t wanted
    cdef buf_t *buf
    cdef int left
    if endpoint.inside:
        sim_fail("two callbacks of an endpoint at once")
    endpoint.inside = True
    conn_take_news(conn, &news)
    if news.made:
        endpoint.made = True
    if endpoint.lost:
        sim_fail("an endpoint is told something after its end")
    left = conn_datagrams(conn)
    buf = conn_take_data(conn, &wanted) if left > 0 else NULL
    while buf != NULL:
        left -= 1
        take_one(conn, buf)
        conn_give_datagram(conn, buf)
        if sim_random(16) == 0:
            pause(conn, True)
        buf = conn_take_data(conn, &wanted) if left > 0 else NULL
    sim_point()
    if conn_take_lost(conn, &lost):
        sim_note("an endpoint is over", lost.error, lost.reason)
        endpoint.lost = True
        endpoint.reason = lost.reason
    endpoint.inside = False


cdef void pause(conn_t *conn, bint paused) noexcept nogil:
    mark(&endpoint.reading_paused, paused)
    conn_pause_reading(NULL, conn, paused)


# -- the thread ------------------------------------------------------------------------


cdef void configure(service_config_t *config) noexcept nogil:
    config.handler.deliver = deliver
    config.handler.marks = True
    config.handler.context = &datagram_service
    config.datagrams = True
    config.datagram_bytes = one_of(65535, 700, 500, 65535)
    config.initial_reads = one_of(1, 2, 4, 8)
    config.max_write_buffer = one_of(0, 0, 2000, 0)
    config.high_water_bytes = one_of(0, 1000, 65536, 65536)
    config.low_water_bytes = config.high_water_bytes // 4
    config.close_timeout_ms = 60000
    config.backlog = 1
    config.initial_accepts = 1
    config.max_accepts = 1


cdef conn_t *open_endpoint(service_t *service) noexcept nogil:
    cdef char[28] local
    cdef char[28] remote
    cdef conn_t *conn = NULL
    cdef int error
    memset(remote, 0, sizeof(remote))
    sim_address(SIM_SERVER, local)
    endpoint.sock = sim_datagrams(<int>sim_random(
        4 if the.datagrams == 1 else one_of(1, 4, 40, 200)))
    error = conn_open(service, NULL, NULL, endpoint.sock, STATE_OPEN, local, remote, NULL, NULL,
                      &conn, False)
    if error != 0:
        closesocket(endpoint.sock)
        if not disturbed():
            sim_fail("an endpoint cannot be opened: %d", error)
        return NULL
    count(service, NULL, N_SOCKETS_OPENED, 1)
    return conn


cdef void use(conn_t *conn) noexcept nogil:
    cdef int _round
    cdef int _n
    cdef uint32_t what
    cdef bint few = the.datagrams == 1
    for _round in range(<int>sim_random(5 if few else one_of(2, 10, 30, 30))):
        sim_sleep(one_of(0, 0, 1, sim_random(2000)))
        what = sim_random(8)
        if what < 4:
            for _n in range(<int>sim_random(3 if few else one_of(2, 2, 10, 100))):
                send_one(conn)
        elif what == 4:
            pause(conn, True)
        elif what == 5:
            # A copy of the socket is made, which may block from then on.
            if conn_borrow_handle(conn) != INVALID_SOCKET:
                sim_point()
                conn_return_handle(NULL, conn)
        else:
            pause(conn, False)
    pause(conn, False)
    # What is refused is tried again.
    sim_sleep(one_of(0, 1, 3000, 3000))
    if sim_random(3) == 0:
        mark(&endpoint.closed, True)
        conn_abort(NULL, conn, ABORT_APPLICATION)
    elif sim_random(2):
        mark(&endpoint.closed, True)
        conn_close(NULL, conn)


cdef void serve() noexcept nogil:
    cdef served_t *served = &datagram_service
    cdef conn_t *conn
    configure(&served.config)
    served.service = service_create(server.engine, &served.config, served.stopped_event)
    engine_release(server.engine)
    if served.service == NULL:
        return
    conn = open_endpoint(served.service)
    # As DatagramServer does it: it ends with its last endpoint.
    service_retire(served.service)
    if conn != NULL:
        use(conn)
        conn_unref(conn)
    mark(&endpoint.closed, True)
    service_stop(served.service, one_of(0, 10, 60000, 60000))
    while WaitForSingleObject(served.stopped_event, INFINITE) != WAIT_OBJECT_0:
        sim_sleep(10)
    if conn != NULL:
        check_end(served.service)
    check_service(served)
    service_free(served.service)
    served.service = NULL


cdef void datagram_main(void *argument) noexcept nogil:
    sim_passing()
    if not engine_hold(server.engine):
        return
    datagram_service.stopped_event = CreateEventW(NULL, True, False, NULL)
    if datagram_service.stopped_event == NULL:
        engine_release(server.engine)
    else:
        serve()
        CloseHandle(datagram_service.stopped_event)
    if engine_hold(server.engine):
        engine_release(server.engine)
        return
    while not engine_wait_stopped(server.engine, INFINITE):
        sim_sleep(10)


# -- what must be true -----------------------------------------------------------------


cdef void check_end(service_t *service) noexcept nogil:
    cdef LONG64 gone = (service_count(service, N_SENDS) + service_count(service, N_SEND_ERRORS)
                        + service_count(service, N_DROPPED))
    if endpoint.made and not endpoint.lost:
        sim_fail("an endpoint is over, and its handler was not told")
    if endpoint.lost and endpoint.reason == -1 and gone != endpoint.accepted:
        sim_fail("closed, and of %d datagrams %lld are sent, failed or dropped",
                 endpoint.accepted, gone)
    # Of more than a hundred not all have to be.
    if endpoint.lost and endpoint.reason == -1 and endpoint.accepted <= 100 and (
            endpoint.failed < service_count(service, N_SEND_ERRORS)):
        sim_fail("closed, and of %lld errors of sends %d were told",
                 service_count(service, N_SEND_ERRORS), endpoint.failed)
    if gone > endpoint.accepted:
        sim_fail("of %d datagrams %lld are sent, failed or dropped", endpoint.accepted, gone)


cdef void check_idle_endpoint(conn_t *conn) noexcept nogil:
    cdef buf_t *spare = conn.spare
    cdef int spares = 0
    if conn.window.n > conn.window.size or conn.inbox.writes > conn.window.size + 100:
        sim_fail("%d datagrams wait, of %d receives", conn.inbox.writes, conn.window.size)
    while spare != NULL:
        spares += 1
        spare = spare.next
    if spares > conn.window.size:
        sim_fail("%d buffers are kept for %d receives", spares, conn.window.size)
    if disturbed():
        return
    if conn.scheduled:
        sim_fail("an endpoint is scheduled, and nobody comes")
    if conn.state != STATE_OPEN:
        sim_fail("an endpoint has been closed, and is not over")
    if conn.outbox.head != NULL and not conn.sending:
        sim_fail("datagrams wait, and nobody sends")
    if conn.read_paused:
        return
    if conn.inbox.head != NULL:
        sim_fail("datagrams wait, and nobody is told")
    if conn.window.n != conn.window.size:
        sim_fail("%d of %d receives are posted", conn.window.n, conn.window.size)
    if sim_datagrams_come(endpoint.sock) != endpoint.due:
        sim_fail("of %d datagrams %d were told", sim_datagrams_come(endpoint.sock), endpoint.due)


cdef void check_idle_datagrams() noexcept nogil:
    cdef service_t *service = datagram_service.service
    cdef link_t *link
    if service == NULL:
        return
    link = service.connections.next
    while link != &service.connections:
        check_idle_endpoint(<conn_t *>link.owner)
        link = link.next


cdef void check_datagrams() noexcept nogil:
    if endpoint.inside or endpoint.made and not endpoint.lost:
        sim_fail("an endpoint was never told of its end")
