"""Accepting: the listeners and their pools of AcceptEx.

A slot of the pool is posted again before its client becomes a connection, so no outcome of
a client costs a slot.

Called by the workers (completions), by the keeper (the first posts, growing, shrinking, silent
clients, retries), by `_runtime` and `_endpoint` (service_listen) and by `_service`, which cancels;
calls `_open` for what it accepted, `_provider` and `_base`.

A listener that several processes have, or several engines, is on the port of whoever came first,
since a file object belongs to one port for good.  The others accept by events: AcceptEx whose
hEvent has its low bit set sends no packet to any port.  All of an engine have one event, on
which the keeper posts the packet of each that is over to the engine's own port, and a worker goes
on from there.  Each keeps `initial_accepts` of them waiting, the first one too: Windows takes
them in the order of their posts, so that all have their share.
"""

from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from iocpx._base cimport (
    count, count_op, drop_socket, engine_key, engine_trouble, give_buffer, keeper_wants,
    linger_zero, live_drop, now_ms, op_error, op_init, RETRY_MS, take_buffer,
)
from iocpx._op cimport op_t
from iocpx._open cimport conn_open
from iocpx._provider cimport provider_look
from iocpx._state cimport buf_t, link_t, list_append, list_init, list_remove, STATE_OPEN
from iocpx._types cimport *
from iocpx._winsock cimport *

cdef enum:
    ACCEPT_ATTEMPTS = 4     # AcceptEx posts refused by a vanished client, in a row
    ACCEPT_GROWTH = 50      # slots added when FD_ACCEPT says that the pool ran dry


cdef void accept_post(worker_t *worker, acceptor_t *acceptor) noexcept nogil:
    """Give a slot of the accept pool a fresh socket and post it.

    A slot is given up only with the listener, or when the pool shrinks; what cannot
    be posted now is left to the keeper.
    """
    cdef listener_t *listener = acceptor.listener
    cdef service_t *service = listener.service
    cdef engine_t *engine = listener.engine
    cdef int error = 0
    cdef int _attempt
    cdef bint over
    for _attempt in range(ACCEPT_ATTEMPTS):
        AcquireSRWLockExclusive(&listener.lock)
        over = listener.closing or listener.n_acceptors > listener.target
        if over:
            list_remove(&acceptor.link)
            listener.n_acceptors -= 1
            if not listener.closing:
                count(service, worker, N_ACCEPTS_SHRUNK, 1)
        ReleaseSRWLockExclusive(&listener.lock)
        if over:
            if acceptor.data != NULL:
                give_buffer(engine, acceptor.data)
            free(acceptor)
            live_drop(service)
            return
        error = acceptor_call(worker, acceptor)
        if error == ERROR_IO_PENDING:
            return
        if error == ERROR_OPERATION_ABORTED:
            continue    # closing: the next turn ends it
        count_accept_error(service, worker, error)
        if not client_vanished(error):
            break       # trying again at once is no use
    accept_starve(acceptor, error)


cdef bint client_vanished(int error) noexcept nogil:
    """Does the failure of an accept tell of its client, and not of what the system lacks?  It
    takes a client each time, so it comes no more often than they do."""
    return (error == WSAECONNRESET or error == WSAECONNABORTED or error == WSAENOTCONN
            or error == WSAETIMEDOUT or error == ERROR_NETNAME_DELETED
            or error == ERROR_UNEXP_NET_ERR or error == ERROR_CONNECTION_ABORTED)


cdef void accept_starve(acceptor_t *acceptor, int error) noexcept nogil:
    """Leave the slot to the keeper, which posts it again soon."""
    cdef engine_t *engine = acceptor.listener.engine
    AcquireSRWLockExclusive(&engine.lock)
    acceptor.next_starved = engine.starved
    engine.starved = acceptor
    engine.starved_due_ms = now_ms() + RETRY_MS
    keeper_wants(engine, engine.starved_due_ms)
    if not client_vanished(error):
        engine_trouble(engine, error)
    ReleaseSRWLockExclusive(&engine.lock)


cdef int acceptor_call(worker_t *worker, acceptor_t *acceptor) noexcept nogil:
    """A fresh socket, and AcceptEx.  ERROR_IO_PENDING: a packet will follow, and the
    acceptor is no longer the caller's.  Else a Windows code, and nothing is posted."""
    cdef listener_t *listener = acceptor.listener
    cdef service_t *service = listener.service
    cdef engine_t *engine = listener.engine
    cdef SOCKET sock
    cdef DWORD nbytes = 0
    cdef DWORD data_bytes = 0
    cdef char *output = acceptor.addresses
    cdef int error
    if service.config.accept_receive:
        if acceptor.data == NULL:
            acceptor.data = take_buffer(engine, 2 * ACCEPT_ADDRESS_BYTES + 1)
            if acceptor.data == NULL:
                return WSAENOBUFS
        output = acceptor.data.base
        data_bytes = <DWORD>(acceptor.data.capacity - 2 * ACCEPT_ADDRESS_BYTES)
    sock = WSASocketW(listener.family, SOCK_STREAM, IPPROTO_TCP, NULL, 0,
                      WSA_FLAG_OVERLAPPED | WSA_FLAG_NO_HANDLE_INHERIT)
    if sock == INVALID_SOCKET:
        return WSAGetLastError()
    count(service, worker, N_SOCKETS_OPENED, 1)
    memset(&acceptor.op.overlapped, 0, sizeof(OVERLAPPED))
    if listener.shared:
        acceptor.op.overlapped.hEvent = <HANDLE>(<ULONG_PTR>engine.accept_event | 1)
    # The lock keeps the listening handle from being closed, and its value from
    # being reused, between the look at `closing` and the call.
    AcquireSRWLockExclusive(&listener.lock)
    if listener.closing:
        error = ERROR_OPERATION_ABORTED
    else:
        acceptor.sock = sock
        acceptor.pending = True
        acceptor.told = False
        InterlockedExchangeAdd64(&service.accepts_pending, 1)
        count_op(engine, worker, E_OPS_POSTED, 1)
        error = ERROR_IO_PENDING
        # Without first data, since a client that says nothing would hold the slot,
        # unless the server asked for it.  Listeners do not skip, so a packet
        # follows also where it succeeds at once.
        if not listener.provider.AcceptEx(
                listener.sock, sock, output, data_bytes, ACCEPT_ADDRESS_BYTES,
                ACCEPT_ADDRESS_BYTES, &nbytes, &acceptor.op.overlapped):
            error = WSAGetLastError()
        if listener.shared:
            # The call has reset the event, which may have told of another one.
            SetEvent(engine.accept_event)
        if error != ERROR_IO_PENDING:
            acceptor.pending = False
            acceptor.sock = INVALID_SOCKET
            InterlockedExchangeAdd64(&service.accepts_pending, -1)
            count_op(engine, worker, E_OPS_COMPLETED, 1)
    ReleaseSRWLockExclusive(&listener.lock)
    if error != ERROR_IO_PENDING:
        drop_socket(service, worker, sock)
    return error


cdef void count_accept_error(service_t *service, worker_t *worker, int error) noexcept nogil:
    cdef int i
    count(service, worker, N_ACCEPT_ERRORS, 1)
    AcquireSRWLockExclusive(&service.engine.lock)
    for i in range(<int>ACCEPT_ERROR_CODES):
        if service.accept_error_counts[i] == 0 or service.accept_error_codes[i] == error:
            service.accept_error_codes[i] = error
            service.accept_error_counts[i] += 1
            break
    ReleaseSRWLockExclusive(&service.engine.lock)


cdef void on_accept_complete(void *by, op_t *op, DWORD nbytes) noexcept nogil:
    cdef worker_t *worker = <worker_t *>by
    cdef acceptor_t *acceptor = <acceptor_t *>op
    cdef listener_t *listener = acceptor.listener
    cdef service_t *service = listener.service
    cdef engine_t *engine = listener.engine
    cdef sockaddr *local = NULL
    cdef sockaddr *remote = NULL
    cdef int local_bytes = 0
    cdef int remote_bytes = 0
    cdef char[ADDRESS_BYTES] local_copy
    cdef char[ADDRESS_BYTES] remote_copy
    cdef buf_t *data
    cdef SOCKET sock
    cdef int error = 0
    cdef bint closing
    cdef bint expected      # to fail: cancelled by us
    cdef bint silent
    AcquireSRWLockExclusive(&listener.lock)
    acceptor.pending = False
    sock = acceptor.sock    # INVALID_SOCKET: by listener_cancel
    acceptor.sock = INVALID_SOCKET
    closing = listener.closing
    expected = closing or acceptor.cancelled
    silent = acceptor.silent
    acceptor.cancelled = False
    acceptor.silent = False
    if not closing:
        error = op_error(&acceptor.op, listener.sock)
        # Without SO_UPDATE_ACCEPT_CONTEXT the socket does not know that it is
        # connected: shutdown, getpeername and the inherited options fail.
        if error == 0 and setsockopt(sock, SOL_SOCKET, SO_UPDATE_ACCEPT_CONTEXT,
                                     <char *>&listener.sock, sizeof(SOCKET)) != 0:
            error = WSAGetLastError()
    ReleaseSRWLockExclusive(&listener.lock)
    InterlockedExchangeAdd64(&service.accepts_pending, -1)
    if closing or error != 0:
        if silent and error == ERROR_OPERATION_ABORTED:
            count(service, worker, N_SILENT_DROPPED, 1)
        # This one client's failure, or nobody's; the slot goes on.
        if sock != INVALID_SOCKET:
            # There may be a client on it, which shall see that it was not taken.
            linger_zero(sock)
            drop_socket(service, worker, sock)
        if not expected:
            acceptor.failures += not client_vanished(error)
            count_accept_error(service, worker, error)
        if not expected and not client_vanished(error) and (
                acceptor.failures % ACCEPT_ATTEMPTS == 0):
            # So often in a row: posted again at once it could spin.
            accept_starve(acceptor, error)
        else:
            accept_post(worker, acceptor)
        return
    acceptor.failures = 0
    data = acceptor.data
    listener.provider.GetAcceptExSockaddrs(
        <char *>acceptor.addresses if data == NULL else data.base,
        0 if data == NULL else <DWORD>(data.capacity - 2 * ACCEPT_ADDRESS_BYTES),
        ACCEPT_ADDRESS_BYTES, ACCEPT_ADDRESS_BYTES,
        &local, &local_bytes, &remote, &remote_bytes)
    memset(local_copy, 0, sizeof(local_copy))
    memset(remote_copy, 0, sizeof(remote_copy))
    memcpy(local_copy, local, min(<size_t>local_bytes, sizeof(local_copy)))
    memcpy(remote_copy, remote, min(<size_t>remote_bytes, sizeof(remote_copy)))
    if data != NULL:
        # Not the packet's, which is the keeper's where the listener is shared.
        data.size = acceptor.op.overlapped.InternalHigh
        acceptor.data = NULL
    # The slot, which may be given up, and the connection, which may be over at once, could be the
    # last that keep the service.
    InterlockedIncrement(&service.live)
    # The slot first: the pool stays full whatever becomes of this client.
    accept_post(worker, acceptor)
    error = conn_open(service, worker, &listener.provider, sock, STATE_OPEN, local_copy,
                      remote_copy, data, NULL, NULL, False)
    if error == 0:
        count(service, worker, N_ACCEPTS, 1)
        live_drop(service)
        return
    if error == WSAECONNREFUSED:
        count(service, worker, N_REFUSED, 1)
    elif error != ERROR_OPERATION_ABORTED:
        count_accept_error(service, worker, error)
        AcquireSRWLockExclusive(&engine.lock)
        engine_trouble(engine, error)
        ReleaseSRWLockExclusive(&engine.lock)
    if data != NULL:
        give_buffer(engine, data)
    # The client shall see at once that it was not taken.
    linger_zero(sock)
    drop_socket(service, worker, sock)
    live_drop(service)


cdef int listener_prepare(listener_t *listener) noexcept nogil:
    """Everything but the pool.  0 or a Windows code."""
    cdef int backlog = listener.service.config.backlog
    cdef int error = provider_look(listener.sock, &listener.provider)
    if error != 0:
        return error
    if listen(listener.sock, backlog if backlog <= 200 else SOMAXCONN_HINT(backlog)) != 0:
        return WSAGetLastError()
    # Before the port: so whoever comes to share it finds FD_ACCEPT selected, not about to be.
    if WSAEventSelect(listener.sock, listener.engine.accept_event, FD_ACCEPT) == SOCKET_ERROR:
        return WSAGetLastError()
    if CreateIoCompletionPort(<HANDLE>listener.sock, listener.engine.port,
                              engine_key(listener.engine), 0) != NULL:
        return 0
    error = <int>GetLastError()
    # FD_ACCEPT is the socket's, not the process's: from here on nobody has it, and nobody's pool
    # grows at the others' expense.
    WSAEventSelect(listener.sock, NULL, 0)
    if error != ERROR_INVALID_PARAMETER:
        return error
    listener.shared = True
    return 0


cdef int service_listen(service_t *service, SOCKET sock, int family) noexcept nogil:
    cdef engine_t *engine = service.engine
    cdef listener_t *listener = <listener_t *>calloc(1, sizeof(listener_t))
    cdef int error
    cdef bint running
    if listener == NULL:
        return WSAENOBUFS
    listener.service = service
    listener.engine = engine
    listener.sock = sock
    listener.family = family
    list_init(&listener.acceptors)
    InitializeSRWLock(&listener.lock)
    error = listener_prepare(listener)
    if error != 0:
        free(listener)
        return error
    AcquireSRWLockExclusive(&engine.lock)
    running = not service.stopping
    if running:
        listener.next = service.listeners
        service.listeners = listener
        # The keeper posts, see "Who posts"; clients wait in the backlog until then.
        engine.listen_due_ms = 0
        keeper_wants(engine, 0)
    ReleaseSRWLockExclusive(&engine.lock)
    if not running:
        free(listener)
        return ERROR_OPERATION_ABORTED
    return 0


cdef bint listener_begin(listener_t *listener) noexcept nogil:
    """Fill the pool of a listener that has none yet.  False: out of memory for even one slot, or
    of a shared one for any, and it is to be tried again, since what posts nothing is told of
    nothing, and what is shared not even of a pool that ran dry."""
    cdef WSANETWORKEVENTS events
    cdef int initial = listener.service.config.initial_accepts
    cdef int least = initial if listener.shared else 1
    cdef int missing
    cdef int _attempt
    for _attempt in range(2):
        AcquireSRWLockExclusive(&listener.lock)
        missing = 0
        if listener.n_acceptors < least and not listener.closing:
            missing = initial - listener.n_acceptors
        ReleaseSRWLockExclusive(&listener.lock)
        if missing == 0:
            return True
        if _attempt == 0:
            listener_grow(listener, missing)
            # Who came before has met the pool by now: that there was none is no reason to grow.
            AcquireSRWLockExclusive(&listener.lock)
            if not listener.closing and not listener.shared:
                WSAEnumNetworkEvents(listener.sock, NULL, &events)
            ReleaseSRWLockExclusive(&listener.lock)
    return False


cdef void listener_grow(listener_t *listener, int by) noexcept nogil:
    """Add slots to the accept pool, up to max_accepts.  Precondition: no lock held.

    What cannot even be allocated is left out: FD_ACCEPT, which each post enables, asks again.
    """
    cdef service_t *service = listener.service
    cdef acceptor_t *acceptor
    cdef bint room
    while by > 0:
        by -= 1
        acceptor = <acceptor_t *>calloc(1, sizeof(acceptor_t))
        if acceptor == NULL:
            return
        op_init(&acceptor.op, on_accept_complete, acceptor)
        acceptor.listener = listener
        acceptor.link.owner = acceptor
        acceptor.sock = INVALID_SOCKET
        AcquireSRWLockExclusive(&listener.lock)
        room = not listener.closing and listener.n_acceptors < service.config.max_accepts
        if room:
            list_append(&listener.acceptors, &acceptor.link)
            listener.n_acceptors += 1
            listener.target = max(listener.target, listener.n_acceptors)
            InterlockedIncrement(&service.live)
        ReleaseSRWLockExclusive(&listener.lock)
        if not room:
            free(acceptor)
            return
        accept_post(NULL, acceptor)


cdef void listener_cancel(listener_t *listener) noexcept nogil:
    cdef acceptor_t *acceptor
    cdef link_t *link = listener.acceptors.next
    while link != &listener.acceptors:
        acceptor = <acceptor_t *>link.owner
        link = link.next
        # One by one: another engine of this process may have the same socket.
        if (acceptor.pending
                and not CancelIoEx(<HANDLE>listener.sock, &acceptor.op.overlapped)
                and GetLastError() != ERROR_NOT_FOUND):
            # It ends with its socket, or with the listener, which its owner closes now.
            drop_socket(listener.service, NULL, acceptor.sock)
            acceptor.sock = INVALID_SOCKET


cdef bint listener_tell(listener_t *listener) noexcept nogil:
    cdef engine_t *engine = listener.engine
    cdef bint all_told = True
    cdef acceptor_t *acceptor
    cdef link_t *link
    AcquireSRWLockExclusive(&listener.lock)
    link = listener.acceptors.next
    while link != &listener.acceptors:
        acceptor = <acceptor_t *>link.owner
        link = link.next
        if (acceptor.pending and not acceptor.told
                and HasOverlappedIoCompleted(&acceptor.op.overlapped)):
            acceptor.told = PostQueuedCompletionStatus(engine.port, 0, engine_key(engine),
                                                       &acceptor.op.overlapped)
            all_told = all_told and acceptor.told
    ReleaseSRWLockExclusive(&listener.lock)
    return all_told


cdef void listener_crowded(listener_t *listener) noexcept nogil:
    """FD_ACCEPT may have come: a client waits, and no AcceptEx did."""
    cdef WSANETWORKEVENTS events
    cdef bint crowded
    listener_begin(listener)
    AcquireSRWLockExclusive(&listener.lock)
    crowded = (not listener.closing
               and WSAEnumNetworkEvents(listener.sock, NULL, &events) == 0
               and (events.lNetworkEvents & FD_ACCEPT) != 0)
    listener.crowded = listener.crowded or crowded
    cdef int before = listener.n_acceptors
    ReleaseSRWLockExclusive(&listener.lock)
    if crowded:
        listener_grow_more(listener, ACCEPT_GROWTH, before)


cdef void listener_grow_more(listener_t *listener, int by, int before) noexcept nogil:
    listener_grow(listener, by)
    AcquireSRWLockExclusive(&listener.lock)
    count(listener.service, NULL, N_ACCEPTS_GROWN, max(listener.n_acceptors - before, 0))
    ReleaseSRWLockExclusive(&listener.lock)


cdef void listener_look_after(listener_t *listener, bint shrink) noexcept nogil:
    """Drop clients that have been silent too long; have as many slots as ever wait for clients;
    shrink a pool that was not needed."""
    cdef service_t *service = listener.service
    cdef int initial = service.config.initial_accepts
    cdef link_t *link
    cdef acceptor_t *acceptor
    cdef DWORD seconds
    cdef int length
    cdef int waiting = 0        # slots without a client
    cdef int surplus = 0
    cdef int before
    cdef bint closing
    AcquireSRWLockExclusive(&listener.lock)
    if shrink:
        shrink = not listener.crowded
        listener.crowded = False
    closing = listener.closing
    link = listener.acceptors.next
    while link != &listener.acceptors and not closing:
        acceptor = <acceptor_t *>link.owner
        link = link.next
        if not acceptor.pending:
            continue
        length = sizeof(seconds)
        seconds = <DWORD>-1     # as for a socket that nobody has connected to
        getsockopt(acceptor.sock, SOL_SOCKET, SO_CONNECT_TIME, <char *>&seconds, &length)
        if seconds == <DWORD>-1:
            waiting += 1
            if shrink and waiting > initial:
                surplus += 1
                acceptor.cancelled = True
                CancelIoEx(<HANDLE>listener.sock, &acceptor.op.overlapped)
        elif (service.config.accept_receive
              and <uint64_t>seconds * 1000 >= service.config.accept_timeout_ms
              and CancelIoEx(<HANDLE>listener.sock, &acceptor.op.overlapped)):
            # Not by closing the accept socket: the client may have spoken by now, and its packet
            # wait for a worker.  Before that is dequeued nobody can tell, but an operation that
            # is over is none to cancel.
            acceptor.cancelled = True
            acceptor.silent = True
    before = listener.n_acceptors
    if shrink:
        listener.target = before - surplus
    ReleaseSRWLockExclusive(&listener.lock)
    if service.config.accept_receive and waiting < initial and not closing:
        # Silent clients have the others.  FD_ACCEPT would tell when there is none left, but not
        # where the listener is shared.
        listener_grow_more(listener, initial - waiting, before)
