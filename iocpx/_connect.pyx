"""Connecting: ConnectEx, and its three outcomes.

Called by `_conn`, which posts it in the connection's turn and has its packet; calls `_life`,
`_sched` and `_base`.
"""

from libc.string cimport memset

from iocpx._base cimport conn_arm, conn_ref, count_op, now_ms, trace
from iocpx._life cimport conn_fail, op_pended
from iocpx._sched cimport conn_unref
from iocpx._state cimport conn_next_state, EVENT_CONNECTED, STATE_CONNECTING
from iocpx._types cimport *
from iocpx._winsock cimport *


cdef void connect_post(worker_t *worker, conn_t *conn) noexcept nogil:
    """While it connects nothing can be sent, so the ConnectEx is the send op's."""
    cdef engine_t *engine = conn.engine
    cdef int error = 0
    conn.sending = True
    conn.pending += 1
    # Before the call: its completion may be handled before it returns.
    conn_ref(conn)
    memset(&conn.send.overlapped, 0, sizeof(OVERLAPPED))
    ReleaseSRWLockExclusive(&conn.lock)
    count_op(engine, worker, E_OPS_POSTED, 1)
    if not conn.provider.ConnectEx(
            conn.sock, <sockaddr *>conn.remote, address_bytes(conn.remote), NULL, 0, NULL,
            &conn.send.overlapped):
        error = WSAGetLastError()
    AcquireSRWLockExclusive(&conn.lock)
    if error == ERROR_IO_PENDING or (error == 0 and not conn.skips):
        op_pended(conn, NULL)
        return
    count_op(engine, worker, E_OPS_COMPLETED, 1)
    connect_done(conn, error)
    conn_unref(conn)    # never the last one: the caller has its own


cdef int address_bytes(const char *address) noexcept nogil:
    """What Winsock wants to be told of a sockaddr_in or sockaddr_in6."""
    return ADDRESS_BYTES if (<const sockaddr *>address).sa_family == AF_INET6 else IPV4_BYTES


cdef void connect_done(conn_t *conn, int error) noexcept nogil:
    cdef int nbytes = ADDRESS_BYTES
    conn.sending = False
    conn.pending -= 1
    # Without SO_UPDATE_CONNECT_CONTEXT the socket does not know that it is connected: shutdown,
    # getsockname and getpeername fail.
    if error == 0 and setsockopt(conn.sock, SOL_SOCKET, SO_UPDATE_CONNECT_CONTEXT, NULL, 0) != 0:
        error = WSAGetLastError()
    if conn.state != STATE_CONNECTING:
        return      # given up meanwhile; the handle closes
    if error != 0:
        conn_fail(conn, ABORT_ERROR, error, True)
        return
    # Bound to any address before, it has the one by now from which the peer was reached.
    getsockname(conn.sock, <sockaddr *>conn.local, &nbytes)
    trace(conn, "connected", 0)
    conn.state = conn_next_state(conn.state, EVENT_CONNECTED)
    conn.due |= DUE_MADE
    conn.active_ms = now_ms()
    if conn.service.config.idle_timeout_ms != 0:
        conn_arm(conn, &conn.service.idling, &conn.idling)
    conn_arm(conn, &conn.service.quiet, &conn.quiet)
