"""How a connection begins: a socket joins the port and becomes a conn_t, connected or to be so.

Called by `_accept`, and above the engine by `_runtime`, `_clients`, `_connecting`, `_transports`,
`_datagram_server` and `_datagram_transport`; calls `_provider`, `_sched` and `_base`, and gives a
connection what completes its operations (`_conn`) and posts its receives (`_recv`, `_datagrams`).
"""

from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from iocpx._base cimport (
    conn_arm, conn_keep_buffer, count, drop_socket, engine_key, now_ms, op_init,
    service_connections, trace,
)
from iocpx._conn cimport (
    on_connect_complete, on_datagram_received, on_datagram_sent, on_recv_complete,
    on_send_complete, on_serve,
)
from iocpx._datagrams cimport datagram_recv_post
from iocpx._provider cimport provider_of_family
from iocpx._recv cimport recv_post
from iocpx._sched cimport conn_leave, conn_unref
from iocpx._state cimport buf_t, list_append, queue_push, STATE_CONNECTING, STATE_OPEN
from iocpx._types cimport *
from iocpx._winsock cimport *


cdef conn_t *conn_new(service_t *service) noexcept nogil:
    """A conn_t with its recv_t's, all zero; NULL: out of memory."""
    cdef size_t nbytes = sizeof(conn_t) + <size_t>service.config.initial_reads * sizeof(recv_t)
    cdef conn_t *conn
    AcquireSRWLockExclusive(&service.engine.pool_lock)
    conn = service.free_conns
    if conn != NULL:
        service.free_conns = conn.next_ready
        service.n_free_conns -= 1
        service.conn_hits += 1
    else:
        service.conn_misses += 1
    ReleaseSRWLockExclusive(&service.engine.pool_lock)
    if conn != NULL:
        memset(conn, 0, nbytes)
        return conn
    return <conn_t *>calloc(1, nbytes)


cdef void conn_has_datagrams(conn_t *conn) noexcept nogil:
    cdef int i
    for i in range(conn.window.size):
        op_init(&conn.recvs[i].op, on_datagram_received, conn)
    op_init(&conn.send, on_datagram_sent, conn)
    conn.post_recv = datagram_recv_post
    conn.send_bytes = DATAGRAMS_ARE_NEXT
    # There is no end of a stream, of which anybody could be told.
    conn.eof_told = True


cdef int conn_open(service_t *service, worker_t *worker, const provider_t *provider, SOCKET sock,
                   int state, const char *local, const char *remote, buf_t *data,
                   void *user, conn_t **opened, bint joined) noexcept nogil:
    """Make a connection of a socket and schedule it."""
    cdef engine_t *engine = service.engine
    cdef conn_t *conn
    cdef tcp_keepalive keepalive
    cdef DWORD nbytes = 0
    cdef BOOL on = True
    cdef bint running
    cdef bint room
    cdef int error
    cdef int i
    cdef LONG64 now
    conn = conn_new(service)
    if conn == NULL:
        return WSAENOBUFS
    if not joined and CreateIoCompletionPort(<HANDLE>sock, engine.port, engine_key(engine),
                                             0) == NULL:
        error = <int>GetLastError()
        free(conn)
        return error
    if not service.config.datagrams:
        # These only tune the connection; without them it still works.
        setsockopt(sock, IPPROTO_TCP, TCP_NODELAY, <char *>&on, sizeof(on))
        if service.config.keepalive_idle_ms != 0:
            keepalive.onoff = 1
            keepalive.keepalivetime = service.config.keepalive_idle_ms
            keepalive.keepaliveinterval = service.config.keepalive_interval_ms
            WSAIoctl(sock, SIO_KEEPALIVE_VALS, &keepalive, sizeof(keepalive), NULL, 0, &nbytes,
                     NULL, NULL)

    conn.service = service
    conn.engine = engine
    conn.provider = provider
    conn.sock = sock
    conn.user = user
    conn.refs = 2       # the open handle, and this function's
    conn.link.owner = conn
    conn.closing.link.owner = conn
    conn.quiet.link.owner = conn
    conn.idling.link.owner = conn
    conn.timer.owner = conn
    conn.due = DUE_MADE if state == STATE_OPEN else 0
    InitializeSRWLock(&conn.lock)
    conn.state = state
    conn.outgoing = state == STATE_CONNECTING
    conn.reason = -1
    conn.send_bytes = SEND_BYTES
    # Of datagrams Windows is not sure to say at once what succeeds at once, and then no packet
    # would come either.
    conn.skips = not service.config.datagrams and SetFileCompletionNotificationModes(
        <HANDLE>sock, FILE_SKIP_COMPLETION_PORT_ON_SUCCESS | FILE_SKIP_SET_EVENT_ON_HANDLE)
    conn.marks.high = service.config.high_water_bytes
    conn.marks.low = service.config.low_water_bytes
    conn.window.size = service.config.initial_reads
    conn.recvs = <recv_t *>(conn + 1)
    for i in range(conn.window.size):
        op_init(&conn.recvs[i].op, on_recv_complete, conn)
    op_init(&conn.send, on_send_complete if state == STATE_OPEN else on_connect_complete, conn)
    op_init(&conn.serve, on_serve, conn)
    conn.post_recv = recv_post
    if service.config.datagrams:
        conn_has_datagrams(conn)
    memcpy(conn.local, local, ADDRESS_BYTES)
    memcpy(conn.remote, remote, ADDRESS_BYTES)

    # From the list on others may reach it, to end it at once; its first data comes before that.
    AcquireSRWLockExclusive(&conn.lock)
    AcquireSRWLockExclusive(&engine.lock)
    # Under the lock that service_stop takes: what is in the list by then it
    # closes, and nothing comes after.
    running = not service.stopping
    now = service_connections(service)
    # The limit is for who comes, not for whom we go to.
    room = conn.outgoing or service.config.max_connections == 0 or (
        now - InterlockedExchangeAdd64(&service.outgoing, 0)
        - InterlockedExchangeAdd64(&service.draining, 0) < service.config.max_connections)
    if running and room:
        list_append(&service.connections, &conn.link)
        InterlockedIncrement(&service.live)
        InterlockedExchangeAdd64(&service.connections_now, 1)
        InterlockedExchangeAdd64(&service.outgoing, conn.outgoing)
        service.connections_peak = max(service.connections_peak, now + 1)
        service.last_number += 1
        conn.number = service.last_number
    ReleaseSRWLockExclusive(&engine.lock)
    if not (running and room):
        ReleaseSRWLockExclusive(&conn.lock)
        free(conn)
        return WSAECONNREFUSED if running else ERROR_OPERATION_ABORTED
    count(service, worker, N_CONNECTIONS_MADE, 1)

    trace(conn, "accepted" if state == STATE_OPEN else "connecting", 0)
    if data != NULL and data.size > 0:
        trace(conn, "received", <LONG64>data.size)
        count(service, worker, N_RECEIVES, 1)
        count(service, worker, N_BYTES_RECEIVED, <LONG64>data.size)
        queue_push(&conn.inbox, data)
    else:
        # A client that says nothing at once finds out that it is idle later.
        if data != NULL:
            conn_keep_buffer(conn, data)
    if state == STATE_OPEN:
        if service.config.idle_timeout_ms != 0:
            conn.active_ms = now_ms()
            conn_arm(conn, &service.idling, &conn.idling)
        if not service.config.datagrams:
            conn_arm(conn, &service.quiet, &conn.quiet)
    conn_leave(worker, conn)
    if opened != NULL:
        opened[0] = conn
    else:
        conn_unref(conn)
    return 0


cdef int service_connect(service_t *service, int family, const char *local, const char *remote,
                         void *user, conn_t **opened) noexcept nogil:
    cdef engine_t *engine = service.engine
    cdef const provider_t *provider = NULL
    cdef char[ADDRESS_BYTES] any_address
    cdef int error
    cdef SOCKET sock = WSASocketW(family, SOCK_STREAM, IPPROTO_TCP, NULL, 0,
                                  WSA_FLAG_OVERLAPPED | WSA_FLAG_NO_HANDLE_INHERIT)
    if sock == INVALID_SOCKET:
        return WSAGetLastError()
    count(service, NULL, N_SOCKETS_OPENED, 1)
    error = provider_of_family(engine, family, sock, &provider)
    if error == 0 and provider.ConnectEx == NULL:
        error = WSAEOPNOTSUPP
    # ConnectEx wants a socket that is bound.
    if local == NULL:
        memset(any_address, 0, sizeof(any_address))
        (<sockaddr *>any_address).sa_family = <USHORT>family
        local = any_address
    if error == 0 and bind(sock, <sockaddr *>local,
                           ADDRESS_BYTES if family == AF_INET6 else IPV4_BYTES) != 0:
        error = WSAGetLastError()
    if error == 0:
        error = conn_open(service, NULL, provider, sock, STATE_CONNECTING, local, remote,
                          NULL, user, opened, False)
    if error != 0:
        drop_socket(service, NULL, sock)
    return error
