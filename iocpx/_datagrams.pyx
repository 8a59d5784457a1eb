"""Datagrams: WSARecvFrom and WSASendTo, and their outcomes.

A datagram endpoint is a connection without an end of the stream, and perhaps without a peer: it has
turns, receives in a window, an outbox with marks, deadlines and an end like any other.  What
differs stands here.  A datagram and its address lie in one buffer (datagram_t), which is what the
inbox and the outbox consist of; an error is an entry of the inbox as well, so that it is told
between the datagrams before and after it.  No error ends an endpoint: each is of one datagram, or
reception is tried again after a while.

Receives always complete by a packet (see conn_open).  Sends are calls without an OVERLAPPED as long
as the kernel takes them, which for datagrams is nearly always, so that all that a turn has written
leaves in it; what it does not take at once pends.

Called by `_send`, `_conn`, `_open`, `_requests` and `_sendto`, and by the rooms above for what lies
in a buffer (`_datagram_layer`, `_datagram_server`, `_datagram_transport`); calls `_life`, `_sched`
and `_base`.
"""

from libc.string cimport memset

from iocpx._base cimport (
    conn_arm, conn_ref, count, count_op, give_buffer, now_ms, take_own_buffer, trace,
)
from iocpx._life cimport op_pended
from iocpx._sched cimport conn_unref
from iocpx._state cimport (
    buf_t, queue_pop, queue_push, queue_t, STATE_FLUSHING, STATE_OPEN, window_add, window_drop,
)
from iocpx._types cimport *
from iocpx._winsock cimport *

cdef enum:
    TURN_DATAGRAMS = 64     # that are sent before it is looked whether others are to be served
    WAITING_ERRORS = 100    # … with datagrams; beyond that they are only counted
    LONGEST = 65535         # bytes: no datagram is longer

# Where the rest of a datagram goes that is longer than its buffer, of all endpoints: nobody reads
# it.  Windows may say at once that a buffer is too short, and it is not documented whether a packet
# comes then as well; into two of 64 KiB every datagram fits.
cdef extern from * nogil:
    """
    static char iocpx_datagram_rest[65536];
    """
    char *iocpx_datagram_rest


# -- receiving -------------------------------------------------------------------------


cdef void datagram_give(conn_t *conn, buf_t *buf) noexcept nogil:
    """Keep a buffer for the next receive, if it is one of a receive: there are as many as are
    posted, and those of sends are as long as what they send.  Precondition: conn.lock held."""
    if conn.state == STATE_OPEN and not (<datagram_t *>buf.base).sending:
        buf.next = conn.spare
        conn.spare = buf
    else:
        give_buffer(conn.engine, buf)


cdef void conn_give_datagram(conn_t *conn, buf_t *buf) noexcept nogil:
    AcquireSRWLockExclusive(&conn.lock)
    datagram_give(conn, buf)
    ReleaseSRWLockExclusive(&conn.lock)


cdef int conn_datagrams(conn_t *conn) noexcept nogil:
    AcquireSRWLockExclusive(&conn.lock)
    cdef int n = conn.inbox.writes
    ReleaseSRWLockExclusive(&conn.lock)
    return n


cdef void datagram_recv_post(worker_t *worker, conn_t *conn) noexcept nogil:
    cdef recv_t *recv = &conn.recvs[window_add(&conn.window)]
    cdef size_t most = conn.service.config.datagram_bytes
    cdef datagram_t *datagram
    cdef WSABUF[2] wsabufs
    cdef DWORD flags = 0
    cdef int error = 0
    conn.pending += 1
    recv.buf = conn.spare
    if recv.buf != NULL:
        conn.spare = recv.buf.next
        recv.buf.next = NULL
    else:
        recv.buf = take_own_buffer(conn.engine, sizeof(datagram_t) + most)
    if recv.buf == NULL:
        datagram_recv_done(worker, conn, recv, WSAENOBUFS, 0)
        return
    datagram = <datagram_t *>recv.buf.base
    # All of it, for whoever compares addresses: an IPv4 one is shorter.
    memset(datagram.address, 0, ADDRESS_BYTES)
    datagram.address_bytes = ADDRESS_BYTES
    datagram.error = 0
    datagram.sending = False
    wsabufs[0].buf = recv.buf.base + sizeof(datagram_t)
    wsabufs[0].len = <ULONG>most
    wsabufs[1].buf = iocpx_datagram_rest
    wsabufs[1].len = LONGEST
    # Before the call: its completion may be handled before it returns.
    conn_ref(conn)
    memset(&recv.op.overlapped, 0, sizeof(OVERLAPPED))
    ReleaseSRWLockExclusive(&conn.lock)
    count_op(conn.engine, worker, E_OPS_POSTED, 1)
    if WSARecvFrom(conn.sock, wsabufs, 1 if most >= LONGEST else 2, NULL, &flags,
                   <sockaddr *>datagram.address, &datagram.address_bytes, &recv.op.overlapped,
                   NULL) != 0:
        error = WSAGetLastError()
    AcquireSRWLockExclusive(&conn.lock)
    if error == 0 or error == ERROR_IO_PENDING:
        op_pended(conn, recv)
        return
    count_op(conn.engine, worker, E_OPS_COMPLETED, 1)
    datagram_recv_done(worker, conn, recv, error, 0)
    conn_unref(conn)    # never the last one: the caller has its own


cdef void datagram_recv_done(worker_t *worker, conn_t *conn, recv_t *recv, int error,
                             DWORD nbytes) noexcept nogil:
    """The outcome of a receive waits until those posted before it are in as well."""
    recv.done = True
    recv.error = error
    recv.nbytes = nbytes
    conn.pending -= 1
    while conn.window.n > 0 and conn.recvs[conn.window.first].done:
        datagram_absorb(worker, conn, &conn.recvs[window_drop(&conn.window)])


cdef void datagram_absorb(worker_t *worker, conn_t *conn, recv_t *recv) noexcept nogil:
    """A receive whose turn has come enters the state.  Precondition: conn.lock held."""
    cdef service_t *service = conn.service
    cdef buf_t *buf = recv.buf
    cdef int error = recv.error
    recv.buf = NULL
    recv.done = False
    if conn.state != STATE_OPEN:
        # It has been closed, which has cancelled the receive, perhaps too late.
        if buf != NULL:
            give_buffer(conn.engine, buf)
        return
    if error == 0 and recv.nbytes > service.config.datagram_bytes:
        error = WSAEMSGSIZE
    if error == 0:
        trace(conn, "received", recv.nbytes)
        count(service, worker, N_RECEIVES, 1)
        count(service, worker, N_BYTES_RECEIVED, recv.nbytes)
        buf.data = buf.base + sizeof(datagram_t)
        buf.size = recv.nbytes
        buf.writes = 1
        queue_push(&conn.inbox, buf)
        return
    trace(conn, "not received, error", error)
    count(service, worker, N_TRUNCATED if error == WSAEMSGSIZE else N_RECEIVE_ERRORS, 1)
    if not is_of_one_datagram(error):
        # Again at once it would fail again, and again: the keeper has it tried a second later.
        conn.eof_seen = True
        conn_arm(conn, &service.quiet, &conn.quiet)
    if buf != NULL:
        datagram_fail(conn, buf, error, False)


cdef bint is_of_one_datagram(int error) noexcept nogil:
    """Is the socket as good as before?  What Windows tells of a datagram that has come, or of one
    that was sent before: nobody listens there, or it is not known how to get there."""
    return (error == WSAEMSGSIZE or error == ERROR_MORE_DATA
            or error == WSAECONNRESET or error == WSAENETRESET or error == WSAECONNREFUSED
            or error == WSAENETUNREACH or error == WSAEHOSTUNREACH
            or error == ERROR_PORT_UNREACHABLE or error == ERROR_CONNECTION_REFUSED
            or error == ERROR_NETWORK_UNREACHABLE or error == ERROR_HOST_UNREACHABLE
            or error == ERROR_PROTOCOL_UNREACHABLE)


cdef void datagram_fail(conn_t *conn, buf_t *buf, int error, bint sending) noexcept nogil:
    if (conn.deaf or conn.inbox.writes >= WAITING_ERRORS
            or not (conn.state == STATE_OPEN or conn.state == STATE_FLUSHING and sending)):
        give_buffer(conn.engine, buf)
        return
    (<datagram_t *>buf.base).error = error
    (<datagram_t *>buf.base).sending = sending
    buf.data = buf.base
    buf.size = 0
    buf.writes = 1
    queue_push(&conn.inbox, buf)


cdef void datagrams_close(conn_t *conn) noexcept nogil:
    cdef queue_t inbox = conn.inbox
    cdef buf_t *buf = queue_pop(&inbox)
    conn.eof_seen = True
    conn.read_paused = False
    memset(&conn.inbox, 0, sizeof(queue_t))
    # What could not be sent is told all the same, now and later: it was written before.
    while buf != NULL:
        if (<datagram_t *>buf.base).error != 0 and (<datagram_t *>buf.base).sending:
            queue_push(&conn.inbox, buf)
        else:
            give_buffer(conn.engine, buf)
        buf = queue_pop(&inbox)


# -- sending ---------------------------------------------------------------------------


cdef int datagram_call(conn_t *conn, buf_t *buf, OVERLAPPED *overlapped,
                       DWORD *nbytes) noexcept nogil:
    """0 or a Windows code.  Precondition: the handle is kept open."""
    cdef datagram_t *datagram = <datagram_t *>buf.base
    cdef WSABUF wsabuf
    cdef bint named = datagram.address_bytes != 0
    wsabuf.buf = buf.base + sizeof(datagram_t)
    wsabuf.len = <ULONG>(buf.size - DATAGRAM_COUNTS)
    if WSASendTo(conn.sock, &wsabuf, 1, nbytes, 0,
                 <sockaddr *>datagram.address if named else NULL, datagram.address_bytes,
                 overlapped, NULL) != 0:
        return WSAGetLastError()
    return 0


cdef bint datagrams_post(worker_t *worker, conn_t *conn, bint own) noexcept nogil:
    cdef engine_t *engine = conn.engine
    cdef buf_t *buf
    cdef DWORD nbytes
    cdef int error
    cdef int n = 0
    while n < TURN_DATAGRAMS and conn.outbox.head != NULL and (
            conn.state == STATE_OPEN or conn.state == STATE_FLUSHING):
        # Only its outcome takes it out, so it stays the first.
        buf = conn.outbox.head
        nbytes = 0
        conn.sending = True
        conn.pending += 1
        ReleaseSRWLockExclusive(&conn.lock)
        count_op(engine, worker, E_OPS_POSTED, 1)
        error = datagram_call(conn, buf, NULL, &nbytes)
        count_op(engine, worker, E_OPS_COMPLETED, 1)
        AcquireSRWLockExclusive(&conn.lock)
        if error == WSAEWOULDBLOCK:
            conn.sending = False
            conn.pending -= 1
            if own and (conn.state == STATE_OPEN or conn.state == STATE_FLUSHING):
                datagram_pend(worker, conn, buf)
            return False
        datagram_sent(worker, conn, error, nbytes)
        n += 1
    return n > 0


cdef void datagram_pend(worker_t *worker, conn_t *conn, buf_t *buf) noexcept nogil:
    """The kernel has no room: the first of the outbox waits there for some.

    Precondition: conn.lock held.  It stays so, the one exception to the rule, since by an error
    alone nobody knows whether a packet comes: one that is too long is refused with a status that
    counts as a warning on some systems, with a packet, and as an error on others, without.  The
    status block tells, until another worker has had that packet and posts anew."""
    cdef DWORD nbytes = 0
    cdef int error
    conn.send_lent = buf.size
    conn.sending = True
    conn.pending += 1
    conn_ref(conn)
    memset(&conn.send.overlapped, 0, sizeof(OVERLAPPED))
    conn.send.overlapped.Internal = STATUS_PENDING
    count_op(conn.engine, worker, E_OPS_POSTED, 1)
    error = datagram_call(conn, buf, &conn.send.overlapped, &nbytes)
    if error == 0 or error == ERROR_IO_PENDING or (
            HasOverlappedIoCompleted(&conn.send.overlapped)):
        op_pended(conn, NULL)
        return
    count_op(conn.engine, worker, E_OPS_COMPLETED, 1)
    datagram_sent(worker, conn, error, 0)
    conn_unref(conn)    # never the last one: the caller has its own


cdef void datagram_send_done(worker_t *worker, conn_t *conn, int error,
                             DWORD nbytes) noexcept nogil:
    if conn.send_lent == 0:
        # send_defer's
        conn.sending = False
        conn.pending -= 1
    else:
        datagram_sent(worker, conn, error, nbytes)


cdef void datagram_sent(worker_t *worker, conn_t *conn, int error, DWORD nbytes) noexcept nogil:
    """The first of the outbox has left, or never will.  Precondition: conn.lock held."""
    cdef buf_t *buf = queue_pop(&conn.outbox)
    conn.sending = False
    conn.pending -= 1
    conn.over_bytes = min(conn.over_bytes, conn.outbox.nbytes)
    if conn.state == STATE_FLUSHING:
        conn.progress_ms = now_ms()
    if error == 0:
        trace(conn, "sent", nbytes)
        count(conn.service, worker, N_SENDS, 1)
        count(conn.service, worker, N_BYTES_SENT, nbytes)
        give_buffer(conn.engine, buf)
        return
    trace(conn, "not sent, error", error)
    count(conn.service, worker, N_SEND_ERRORS, 1)
    datagram_fail(conn, buf, error, True)
