"""The engine: a completion port, its workers, and the connections on it.

The life of a connection, with the function to read for each step:

    accept_post              a socket waits in the accept pool (AcceptEx)
      engine_run_worker      a worker dequeues the packet and dispatches its op
      on_accept_complete     the slot is posted again at once; then
      conn_attach            the socket joins the port, a conn_t is made and scheduled
      deliver (config)       connection_made
      conn_served            … and then the first receive:
    recv_post                WSARecv
      on_recv_complete       bytes go into the inbox, the connection is scheduled
      deliver                data_received; what it writes is queued in the outbox
      conn_served            everything queued leaves in one gather send:
    send_post                WSASend
      on_send_complete       the outbox shrinks; what came meanwhile goes out next
    conn_close               FLUSHING: the outbox goes out, input is discarded
      conn_advance           SD_SEND → DRAINING (connection_lost is due) → peer's EOF → ENDING
    conn_abort, conn_fail    ABORTING: linger 0, CancelIoEx
      conn_advance           no op pending → closesocket → CLOSED (connection_lost is due)
    conn_unref               the last reference: retired, memory freed

Who owns what.  A conn_t lives as long as its reference count: one for the open
handle, one per op that the kernel may own, one while it is scheduled, one for
the Python Connection.  References are taken before the post and dropped after
the completion was handled, so an OVERLAPPED is never freed while it is lent.

The serial executor.  A connection with something to do is `scheduled` exactly
once: in a worker's ready list, in the run queue or in an OP_SERVE packet.  The
worker that has it delivers its news, posts its operations (conn_served), looks
again under the lock, and only then gives it up.  "Something to do" is computed from the state
(conn_has_news, conn_has_work), not kept in messages, so no wake-up can be lost.

Who posts.  Only threads that are there until nothing is pending any more: the workers and
the keeper.  A thread of the application may end at any time, and not every system lets an
operation outlive the thread that issued it: Windows cancels those of sockets that are on no
completion port, and others have lost the outcome.  What such a thread writes is sent as far
as the kernel takes it at once, without an OVERLAPPED; the rest is a worker's.

Every post has three outcomes, inline, pending and failed, and each X_post
handles all three by calling X_done in the first and the last.  With
FILE_SKIP_COMPLETION_PORT_ON_SUCCESS an inline completion yields no packet;
INLINE_BUDGET bounds how many a connection may have in a turn; then it waits in the run
queue until the others have had theirs, since one busy connection would otherwise
starve the rest.  The queue is one for all workers, and as long as it is not empty what
they dequeue from the port joins it: whose turn is next does not depend on who dequeued
whom.

Cancelling.  CancelIoEx reaches only what has been posted.  A post that races
with conn_fail is therefore followed by a second look at the state
(op_pended), under the lock that conn_fail holds.  A handle is closed only
when nothing is pending on it: its value is reused at once by Windows, and a
send still queued on it could reach another client.

The stop.  engine_stop closes listeners and connections; what is still there at
the deadline is aborted; `live` counts acceptors and connections, and at zero the
keeper ends the workers by packets.  Nothing is freed on a timeout.

The keeper is one thread that never enters Python: it looks after deadlines and
retries what the system refused for lack of resources.
"""

from libc.stdint cimport uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from iocpx._op cimport OP_ACCEPT, OP_HELP, OP_RECV, OP_SEND, OP_SERVE, OP_STOP, op_kind, op_t
from iocpx._state cimport (
    EVENT_ABORT, EVENT_CLOSE, EVENT_DEADLINE, EVENT_EOF, EVENT_FLUSHED, EVENT_QUIET,
    STATE_ABORTING, STATE_CLOSED, STATE_DRAINING, STATE_ENDING, STATE_FLUSHING, STATE_OPEN,
    buf_free, buf_new, buf_t, buf_wrap, conn_next_state, deadline_arm, deadline_disarm, deadline_t,
    deadlines_first, deadlines_init, deadlines_t, link_t, list_append, list_init, list_remove,
    marks_update, pool_clear, pool_give, pool_init, pool_t, pool_take, pool_trim,
    queue_consume, queue_extend, queue_move, queue_pop, queue_push, queue_push_front, queue_t,
    window_add, window_drop,
)
from iocpx._winsock cimport *

cdef extern from * nogil:
    # Microsoft gives these as initializers, which only a definition can take.
    """
    static GUID accept_ex_id = WSAID_ACCEPTEX;
    static GUID accept_addresses_id = WSAID_GETACCEPTEXSOCKADDRS;
    """
    GUID accept_ex_id
    GUID accept_addresses_id

cdef enum:
    # Inline completions of one connection in a turn: its reply, and the next message if
    # that is there already.  Twice as many gave no more
    # throughput and half as much again of p99; without a bound the busiest connection
    # gets nearly everything.
    INLINE_BUDGET = 2
    SHARE = 16              # connections that a worker takes from the run queue at once
    # Where only new clients can be in the port: shares in a row without a look at it, and for
    # how long.
    UNLOOKED = 3
    UNLOOKED_MS = 4
    # One send: enough for full speed, little enough that its completion tells a
    # slow reader from a dead one, and that Windows need not lock much memory.
    SEND_BYTES = 262144
    GATHER_BYTES = 65536    # the largest buffer that small writes are gathered in
    PATIENCE = 4            # high marks that a callback may write before they are sent
    AMPLE_BYTES = 16 * SEND_BYTES   # a max_write_buffer of which such writes are a small part
    RETRY_MS = 50           # the keeper's patience with a lack of resources
    TROUBLE_MS = 10000      # between two reports of it
    PORT_ATTEMPTS = 100     # looks at the port that fail, in a row, while the server stops
    HELP_MS = 20            # the keeper's patience with a worker that is busy while others are idle
    ACCEPT_ATTEMPTS = 4     # AcceptEx posts refused by a vanished client, in a row
    ACCEPT_GROWTH = 50      # slots added when FD_ACCEPT says that the pool ran dry
    SHRINK_MS = 5000        # without FD_ACCEPT before the pool shrinks again
    QUIET_MS = 1000         # without data before a receive's buffer is taken back
    TRACE_BYTES = 120       # one line
    # Buffers have N_SIZES sizes: this, eight times as much, … and config.buffer_size.
    SMALLEST_BYTES = 1024
    SHORT_RUN = 8           # receives that a smaller buffer would have done for, in a row
    KEY = 0x696f6370        # the completion key of every handle and packet of ours

# A time that the keeper need not wake up for.
cdef uint64_t NEVER = <uint64_t>-1


# -- small things --------------------------------------------------------------


cdef void count(engine_t *engine, worker_t *worker, int counter, LONG64 by) noexcept nogil:
    cdef tally_t *tally = &engine.guest_tally if worker == NULL else &worker.tally
    InterlockedExchangeAdd64(&tally.n[counter], by)


cdef uint64_t now_ms() noexcept nogil:
    # Not GetTickCount64: its 15.6 ms steps would let deadlines come early.
    cdef LARGE_INTEGER ticks, frequency
    QueryPerformanceCounter(&ticks)
    QueryPerformanceFrequency(&frequency)
    return (<uint64_t>(ticks.QuadPart // frequency.QuadPart) * 1000
            + <uint64_t>(ticks.QuadPart % frequency.QuadPart * 1000 // frequency.QuadPart))


cdef void keeper_wants(engine_t *engine, uint64_t due_ms) noexcept nogil:
    """Have the keeper look at due_ms at the latest.  Precondition: engine.lock held."""
    if due_ms < engine.keeper_due_ms:
        engine.keeper_due_ms = due_ms
        SetEvent(engine.keeper_event)


cdef void live_drop(engine_t *engine) noexcept nogil:
    """Give back one share of `live`; whoever gives the last ends the engine."""
    if InterlockedDecrement(&engine.live) == 0:
        AcquireSRWLockExclusive(&engine.lock)
        engine.phase = PHASE_FINISHED
        SetEvent(engine.keeper_event)
        ReleaseSRWLockExclusive(&engine.lock)


cdef buf_t *take_buffer(engine_t *engine, size_t nbytes) noexcept nogil:
    """A buffer of the smallest size that holds nbytes; NULL: out of memory."""
    cdef int size = 0
    while size < N_SIZES - 1 and engine.pools[size].capacity < nbytes:
        size += 1
    AcquireSRWLockExclusive(&engine.pool_lock)
    cdef buf_t *buf = pool_take(&engine.pools[size], nbytes)
    if buf != NULL:
        engine.buffers_out += 1
        engine.buffers_peak = max(engine.buffers_peak, engine.buffers_out)
    ReleaseSRWLockExclusive(&engine.pool_lock)
    return buf


cdef void give_buffer(engine_t *engine, buf_t *buf) noexcept nogil:
    cdef int size = 0
    cdef size_t n_free = 0
    cdef pool_t *largest = NULL
    cdef int i
    while size < N_SIZES - 1 and engine.pools[size].capacity < buf.capacity:
        size += 1
    AcquireSRWLockExclusive(&engine.pool_lock)
    engine.buffers_out -= 1
    # The limit is one for all sizes; at the limit the largest make room, or what a burst
    # of uploads left would stay for good.
    for i in range(<int>N_SIZES):
        n_free += engine.pools[i].n_free
        if engine.pools[i].n_free > 0:
            largest = &engine.pools[i]
    if n_free >= engine.config.max_free_buffers and largest != NULL and (
            largest.capacity > buf.capacity):
        pool_trim(largest)
        n_free -= 1
    engine.pools[size].max_free = (
        engine.pools[size].n_free + (n_free < engine.config.max_free_buffers))
    pool_give(&engine.pools[size], buf)
    ReleaseSRWLockExclusive(&engine.pool_lock)


cdef void conn_drop_queue(conn_t *conn, queue_t *queue) noexcept nogil:
    """Empty a queue whose bytes nobody needs any more.  Precondition: conn.lock held."""
    while queue.head != NULL:
        conn_drop_buffer(conn, queue_pop(queue))


cdef void conn_drop_buffer(conn_t *conn, buf_t *buf) noexcept nogil:
    """Give one back to whom it belongs.  Precondition: conn.lock held."""
    if buf.owner != NULL:
        queue_push(&conn.spent, buf)
    else:
        give_buffer(conn.engine, buf)


cdef void trace(conn_t *conn, const char *what, LONG64 detail) noexcept nogil:
    """One line of the connection's life.  Precondition: conn.lock held."""
    cdef buf_t *line
    if not conn.engine.config.trace:
        return
    line = buf_new(TRACE_BYTES)
    if line != NULL:
        line.size = <size_t>snprintf(line.data, TRACE_BYTES, "#%lld %s %lld",
                                     conn.number, what, detail)
        queue_push(&conn.traces, line)


cdef void op_init(op_t *op, op_kind kind, void *owner) noexcept nogil:
    memset(op, 0, sizeof(op_t))
    op.kind = kind
    op.owner = owner


cdef bint packet_post(engine_t *engine, op_t *op) noexcept nogil:
    """False: refused, out of non-paged pool most likely.  Precondition: op is not in use."""
    memset(&op.overlapped, 0, sizeof(OVERLAPPED))
    count(engine, NULL, N_OPS_POSTED, 1)
    if not PostQueuedCompletionStatus(engine.port, 0, KEY, &op.overlapped):
        count(engine, NULL, N_OPS_COMPLETED, 1)
        return False
    InterlockedIncrement(&engine.packets_due)
    return True


cdef int op_error(op_t *op, SOCKET sock) noexcept nogil:
    """The Windows code of a completed op, 0 for success.  Precondition: sock is open."""
    cdef DWORD nbytes = 0
    cdef DWORD flags = 0
    if op.overlapped.Internal == 0:
        return 0
    # The NTSTATUS becomes a Winsock code where a socket is asked for it, which
    # tells a reset (10054) from the bare ERROR_NETNAME_DELETED (64).
    if WSAGetOverlappedResult(sock, &op.overlapped, &nbytes, False, &flags):
        return 0
    return WSAGetLastError()


# -- scheduling ----------------------------------------------------------------


cdef void ready_append(ready_t *ready, conn_t *conn) noexcept nogil:
    conn.next_ready = NULL
    if ready.tail == NULL:
        ready.head = conn
    else:
        ready.tail.next_ready = conn
    ready.tail = conn


cdef conn_t *ready_pop(ready_t *ready) noexcept nogil:
    cdef conn_t *conn = ready.head
    if conn != NULL:
        ready.head = conn.next_ready
        if ready.head == NULL:
            ready.tail = NULL
        conn.next_ready = NULL
    return conn


cdef void ready_move(ready_t *ready, ready_t *onto) noexcept nogil:
    if ready.head != NULL:
        if onto.tail == NULL:
            onto.head = ready.head
        else:
            onto.tail.next_ready = ready.head
        onto.tail = ready.tail
        ready.head = NULL
        ready.tail = NULL


cdef bint conn_readable(conn_t *conn) noexcept nogil:
    return conn.inbox.head != NULL and not conn.deaf and not conn.read_paused


cdef bint conn_eof_due(conn_t *conn) noexcept nogil:
    return (conn.eof_seen and not conn.eof_told and conn.inbox.head == NULL
            and conn.state == STATE_OPEN and not conn.read_paused)


cdef bint conn_news_before_lost(conn_t *conn) noexcept nogil:
    return (conn.spent.head != NULL or conn_readable(conn)
            or (conn.tell_sent and conn.sent_untold > 0))


cdef bint conn_has_news(conn_t *conn) noexcept nogil:
    """Is there anything to tell the handler?  Precondition: conn.lock held."""
    if conn.lost_told:
        return conn.spent.head != NULL or conn.traces.head != NULL
    return (not conn.made_told or conn.lost_due or conn_news_before_lost(conn)
            or conn_eof_due(conn) or conn.traces.head != NULL
            or (conn.marks.above != conn.pause_told and not conn.engine.config.native))


cdef bint conn_wants_recv(conn_t *conn) noexcept nogil:
    """Precondition: conn.lock held."""
    if conn.eof_seen:
        return False
    if conn.state == STATE_OPEN:
        # Not while the handler is behind: what it was given waits, it has paused,
        # or its replies leave more slowly than requests come.
        if (not conn.made_told or conn.read_paused or conn.inbox.head != NULL
                or conn.marks.above):
            return False
        return conn.window.n < (1 if conn.idle else conn.window.size)
    # Closing: read on and discard.  Unread input would turn our FIN into a reset
    # that can destroy what the peer has not read yet, and a peer that is stuck in
    # its own send would never read.
    return conn.window.n == 0 and (conn.state == STATE_FLUSHING or conn.state == STATE_DRAINING)


cdef bint conn_may_send(conn_t *conn) noexcept nogil:
    """Precondition: conn.lock held."""
    return (not conn.sending and conn.outbox.head != NULL
            and (conn.state == STATE_OPEN or conn.state == STATE_FLUSHING))


cdef bint conn_has_work(conn_t *conn) noexcept nogil:
    """Is there an operation that only the executor posts?  Precondition: conn.lock held."""
    return conn_wants_recv(conn) or conn_may_send(conn)


cdef void conn_to_worker(worker_t *worker, conn_t *conn) noexcept nogil:
    """Bring a scheduled connection to a worker: this one, or any by packet."""
    cdef engine_t *engine
    if worker != NULL:
        AcquireSRWLockExclusive(&worker.lock)
        ready_append(&worker.news if conn.deliver else &worker.work, conn)
        ReleaseSRWLockExclusive(&worker.lock)
        return
    engine = conn.engine
    if not packet_post(engine, &conn.serve):
        # Its events would be lost, so the keeper tries again.
        AcquireSRWLockExclusive(&engine.lock)
        conn.next_ready = engine.unposted
        engine.unposted = conn
        keeper_wants(engine, now_ms() + RETRY_MS)
        ReleaseSRWLockExclusive(&engine.lock)


cdef void conn_leave(worker_t *worker, conn_t *conn) noexcept nogil:
    """Release conn.lock; schedule the connection if that left something to do.

    Every change of a connection's state ends here.
    """
    cdef bint news = conn_has_news(conn)
    cdef bint wake = not conn.scheduled and (news or conn_has_work(conn))
    if wake:
        conn.scheduled = True
        conn.deliver = news
        conn_ref(conn)
    ReleaseSRWLockExclusive(&conn.lock)
    if wake:
        conn_to_worker(worker, conn)


# -- a connection: references, failing, closing ----------------------------------


cdef void conn_ref(conn_t *conn) noexcept nogil:
    InterlockedIncrement(&conn.refs)


cdef void conn_unref(conn_t *conn) noexcept nogil:
    cdef engine_t *engine
    if InterlockedDecrement(&conn.refs) == 0:
        engine = conn.engine
        AcquireSRWLockExclusive(&engine.pool_lock)
        if engine.n_free_conns < engine.config.max_free_connections:
            conn.next_ready = engine.free_conns
            engine.free_conns = conn
            engine.n_free_conns += 1
            conn = NULL
        ReleaseSRWLockExclusive(&engine.pool_lock)
        free(conn)
        count(engine, NULL, N_CONNECTIONS_RETIRED, 1)
        live_drop(engine)


cdef conn_t *conn_new(engine_t *engine) noexcept nogil:
    """A conn_t with its recv_t's, all zero; NULL: out of memory."""
    cdef size_t nbytes = sizeof(conn_t) + <size_t>engine.config.initial_reads * sizeof(recv_t)
    cdef conn_t *conn
    AcquireSRWLockExclusive(&engine.pool_lock)
    conn = engine.free_conns
    if conn != NULL:
        engine.free_conns = conn.next_ready
        engine.n_free_conns -= 1
        engine.conn_hits += 1
    else:
        engine.conn_misses += 1
    ReleaseSRWLockExclusive(&engine.pool_lock)
    if conn != NULL:
        memset(conn, 0, nbytes)
        return conn
    return <conn_t *>calloc(1, nbytes)


cdef void conn_cancel(conn_t *conn) noexcept nogil:
    """Precondition: conn.lock held, handle open."""
    if (conn.pending > 0 and not CancelIoEx(<HANDLE>conn.sock, NULL)
            and GetLastError() != ERROR_NOT_FOUND):
        # The end of the connection waits for these operations, perhaps for ever, so it
        # is tried again.
        conn_arm(conn, &conn.engine.quiet, &conn.quiet)


cdef void op_pended(conn_t *conn, recv_t *recv) noexcept nogil:
    """After a post that is pending: whoever wanted to cancel it may have come too early.

    recv: the receive that was posted, or NULL.  Precondition: conn.lock held.
    """
    InterlockedIncrement(&conn.engine.packets_due)
    conn.inline_run = 0
    if conn.state == STATE_ABORTING or conn.state == STATE_ENDING:
        conn_cancel(conn)
    elif recv != NULL and conn.idle:
        recv_take_back(conn, recv)


cdef void recv_take_back(conn_t *conn, recv_t *recv) noexcept nogil:
    """Cancel a receive because of its buffer.  Precondition: conn.lock held, handle open
    or recv not posted."""
    if recv.buf != NULL and not recv.done:
        recv.cancelled = True
        CancelIoEx(<HANDLE>conn.sock, &recv.op.overlapped)


cdef void conn_fail(conn_t *conn, abort_reason reason, int error, bint sending) noexcept nogil:
    """Reset the connection; `error` is for connection_lost.  Precondition: conn.lock held."""
    if conn.state != STATE_OPEN and conn.state != STATE_FLUSHING and conn.state != STATE_DRAINING:
        return
    trace(conn, "abort, error", error)
    if conn.state != STATE_DRAINING:
        # When draining, all was sent and connection_lost(None) is on its way.
        count(conn.engine, NULL, N_ABORTS + reason, 1)
        conn.error = error
        conn.error_sending = sending
    conn.state = conn_next_state(conn.state, EVENT_ABORT)
    linger_zero(conn.sock)
    conn_cancel(conn)


cdef void conn_shut(conn_t *conn) noexcept nogil:
    """SD_SEND once all is sent, and what follows from it.  Precondition: conn.lock held."""
    if conn.state != STATE_OPEN and conn.state != STATE_FLUSHING:
        return
    if conn.sending or conn.outbox.head != NULL or not conn.write_eof:
        return
    # Where the peer has ended its side, closesocket does the same: nothing is left unread that
    # would make a reset of it, and nobody else has the socket.
    if not conn.shut and not (conn.state == STATE_FLUSHING and conn.eof_seen
                              and not conn.duplicated):
        if shutdown(conn.sock, SD_SEND) == SOCKET_ERROR:
            # Closing, and all is sent: that the peer has gone already is no news.
            conn_fail(conn, ABORT_ERROR,
                      WSAGetLastError() if conn.state == STATE_OPEN else 0, True)
            return
        conn.shut = True
        trace(conn, "SD_SEND", 0)
    if conn.state == STATE_FLUSHING:
        conn.state = conn_next_state(conn.state, EVENT_FLUSHED)
        conn.lost_due = True
        if conn.eof_seen:
            conn.state = conn_next_state(conn.state, EVENT_EOF)


cdef void conn_close_handle(conn_t *conn) noexcept nogil:
    """The end of the socket.  Precondition: conn.lock held, nothing pending; returns with
    the lock held again, connection_lost due."""
    cdef engine_t *engine = conn.engine
    cdef SOCKET sock = conn.sock
    conn.state = conn_next_state(conn.state, EVENT_QUIET)
    conn.sock = INVALID_SOCKET
    conn_drop_queue(conn, &conn.outbox)
    conn_drop_spare(conn)
    ReleaseSRWLockExclusive(&conn.lock)

    closesocket(sock)
    count(engine, NULL, N_SOCKETS_CLOSED, 1)
    AcquireSRWLockExclusive(&engine.lock)
    list_remove(&conn.link)
    deadline_disarm(&conn.closing)
    deadline_disarm(&conn.quiet)
    deadline_disarm(&conn.idling)
    ReleaseSRWLockExclusive(&engine.lock)
    InterlockedExchangeAdd64(&engine.connections_now, -1)

    AcquireSRWLockExclusive(&conn.lock)
    trace(conn, "handle closed", 0)
    conn.lost_due = True


cdef void conn_advance(worker_t *worker, conn_t *conn, bint executor) noexcept nogil:
    """Do whatever the state asks for now: send, end sending, receive, close.

    Every completion and every request of the application ends here.
    Precondition: the caller has a reference, and conn.lock, which is released.
    """
    # A turn's share, the callbacks in it included: one that writes as long as it is not
    # paused has to be paused some time.  What others post is not part of it.
    cdef bint turn = executor or conn_on_executor(conn)
    cdef bint own = turn or worker != NULL      # the thread is the engine's
    cdef int sends = conn.inline_run if turn else 0
    cdef bint first = True
    cdef bint above
    cdef bint closed = False
    while sends < INLINE_BUDGET and conn_may_send(conn) and send_post(worker, conn, own):
        if turn:
            conn.inline_run += 1
        sends += 1
    if not turn and conn.scheduled and conn_may_send(conn):
        send_defer(conn)
    above = conn.marks.above
    marks_update(&conn.marks, conn.outbox.nbytes)
    if conn.marks.above and not above:
        count(conn.engine, worker, N_WRITE_PAUSES, 1)
    conn_shut(conn)
    # Bounded also where what comes is discarded at once: a peer that keeps sending
    # must not keep its worker, or the keeper.  At least one in each turn, however much
    # was sent in it: a connection that is sent to all the time has to be read, too.
    while executor and (first or conn.inline_run < INLINE_BUDGET) and conn_wants_recv(conn):
        recv_post(worker, conn)
        first = False
    if conn.pending == 0 and (conn.state == STATE_ENDING or conn.state == STATE_ABORTING):
        conn_close_handle(conn)
        closed = True
    conn_leave(worker, conn)
    if closed:
        conn_unref(conn)    # of the open handle


# -- receiving -----------------------------------------------------------------


cdef size_t recv_capacity(conn_t *conn) noexcept nogil:
    """Bytes of the next receive's buffer.  Short messages get a small one: it costs less to
    post, and many connections that are busy with such do not need much memory."""
    return conn.engine.pools[conn.recv_size].capacity


cdef void recv_fit(conn_t *conn, size_t nbytes, size_t capacity) noexcept nogil:
    """Choose the size for the next receive, after one that brought nbytes.
    Precondition: conn.lock held."""
    if nbytes == capacity and capacity == recv_capacity(conn):
        # Full: more may have been there.
        conn.recv_size = min(conn.recv_size + 1, <int>N_SIZES - 1)
        conn.short_run = 0
    elif (conn.recv_size > 0 and nbytes < capacity
          and nbytes <= conn.engine.pools[conn.recv_size - 1].capacity // 2):
        conn.short_run += 1
        if conn.short_run >= SHORT_RUN:
            conn.recv_size -= 1
            conn.short_run = 0
    else:
        conn.short_run = 0


cdef void recv_post(worker_t *worker, conn_t *conn) noexcept nogil:
    """Post the receive whose turn is next in the window.

    A zero-byte receive completes when there is something to receive.  It costs one
    more call per message, and no buffer while there is none: for idle connections.
    Precondition: executor; conn.lock held, which is released for the call.
    """
    cdef engine_t *engine = conn.engine
    cdef recv_t *recv = &conn.recvs[window_add(&conn.window)]
    cdef WSABUF wsabuf
    cdef DWORD nbytes = 0
    cdef DWORD flags = 0
    cdef int error = 0
    conn.pending += 1
    if conn.state == STATE_OPEN and conn.idle:
        count(engine, worker, N_ZERO_RECEIVES, 1)
        wsabuf.buf = NULL
        wsabuf.len = 0
    else:
        recv.buf = conn.spare
        conn.spare = NULL
        if recv.buf == NULL:
            recv.buf = take_buffer(engine, recv_capacity(conn))
        if recv.buf == NULL:
            recv_done(worker, conn, recv, WSAENOBUFS, 0)
            return
        wsabuf.buf = recv.buf.base
        wsabuf.len = <ULONG>recv.buf.capacity
    # Before the call: its completion may be handled before it returns.
    conn_ref(conn)
    memset(&recv.op.overlapped, 0, sizeof(OVERLAPPED))
    ReleaseSRWLockExclusive(&conn.lock)
    count(engine, worker, N_OPS_POSTED, 1)
    if WSARecv(conn.sock, &wsabuf, 1, &nbytes, &flags, &recv.op.overlapped, NULL) != 0:
        error = WSAGetLastError()
    AcquireSRWLockExclusive(&conn.lock)
    if error == ERROR_IO_PENDING or (error == 0 and not conn.skips):
        op_pended(conn, recv)
        return
    count(engine, worker, N_OPS_COMPLETED, 1)
    recv_done(worker, conn, recv, error, nbytes if error == 0 else 0)
    if error == 0:
        count(engine, worker, N_INLINE_COMPLETIONS, 1)
        conn.inline_run += 1
    conn_unref(conn)    # never the last one: the caller has its own


cdef void recv_done(worker_t *worker, conn_t *conn, recv_t *recv, int error,
                    DWORD nbytes) noexcept nogil:
    """The outcome of a receive waits until those posted before it are in as well.
    Precondition: conn.lock held."""
    if nbytes > 0:
        count(conn.engine, worker, N_RECEIVES, 1)
        count(conn.engine, worker, N_BYTES_RECEIVED, nbytes)
    recv.done = True
    recv.error = error
    recv.nbytes = nbytes
    conn.pending -= 1
    while conn.window.n > 0 and conn.recvs[conn.window.first].done:
        recv_absorb(conn, &conn.recvs[window_drop(&conn.window)])


cdef void recv_absorb(conn_t *conn, recv_t *recv) noexcept nogil:
    """A receive whose turn has come enters the state.  Precondition: conn.lock held."""
    cdef buf_t *buf = recv.buf
    cdef bint cancelled = recv.cancelled
    recv.buf = NULL
    recv.done = False
    recv.cancelled = False
    if recv.error != 0:
        if not (cancelled and recv.error == ERROR_OPERATION_ABORTED):
            conn_fail(conn, ABORT_ERROR, recv.error, False)
    elif recv.nbytes > 0:
        trace(conn, "received", recv.nbytes)
        conn_active(conn)
        recv_fit(conn, recv.nbytes, buf.capacity)
        if not conn.deaf:
            buf.data = buf.base
            buf.size = recv.nbytes
            queue_push(&conn.inbox, buf)
            buf = NULL
    elif buf == NULL:
        conn_active(conn)
    else:
        conn_end_of_stream(conn)
    if buf != NULL:
        conn_keep_buffer(conn, buf)


cdef void conn_end_of_stream(conn_t *conn) noexcept nogil:
    """Precondition: conn.lock held."""
    if not conn.eof_seen:
        trace(conn, "EOF", 0)
        conn.eof_seen = True
        conn.state = conn_next_state(conn.state, EVENT_EOF)


cdef void conn_active(conn_t *conn) noexcept nogil:
    """Something came.  Precondition: conn.lock held."""
    conn.receives += 1
    if conn.engine.config.idle_timeout_ms != 0:
        conn.active_ms = now_ms()
    if conn.idle:
        conn.idle = False
        conn_arm(conn, &conn.engine.quiet, &conn.quiet)


cdef void conn_keep_buffer(conn_t *conn, buf_t *buf) noexcept nogil:
    """Keep one for the next receive, which spares the pool's lock.
    Precondition: conn.lock held."""
    if (conn.spare == NULL and not conn.idle and conn.state != STATE_CLOSED
            and buf.capacity == recv_capacity(conn)):
        conn.spare = buf
    else:
        conn_drop_buffer(conn, buf)


cdef void conn_drop_spare(conn_t *conn) noexcept nogil:
    """Precondition: conn.lock held."""
    if conn.spare != NULL:
        conn_drop_buffer(conn, conn.spare)
        conn.spare = NULL


cdef void on_recv_complete(worker_t *worker, recv_t *recv, DWORD nbytes) noexcept nogil:
    cdef conn_t *conn = <conn_t *>recv.op.owner
    # The handle is open: it is closed only when nothing is pending.
    cdef int error = op_error(&recv.op, conn.sock)
    AcquireSRWLockExclusive(&conn.lock)
    recv_done(worker, conn, recv, error, nbytes)
    conn_advance(worker, conn, False)
    conn_unref(conn)


# -- sending -------------------------------------------------------------------


cdef bint conn_make_nonblocking(conn_t *conn) noexcept nogil:
    """For calls without an OVERLAPPED; operations with one do not care.  False: refused.
    Precondition: conn.lock held, handle open."""
    cdef ULONG on = True
    if not conn.nonblocking:
        conn.nonblocking = ioctlsocket(conn.sock, FIONBIO, &on) == 0
    return conn.nonblocking


cdef bint send_post(worker_t *worker, conn_t *conn, bint overlapped) noexcept nogil:
    """One gather send of the front of the outbox.  True: it succeeded at once.

    overlapped: False on a thread that is not the engine's.  Then it takes what the kernel
    takes at once, which may be nothing, and never pends.
    Precondition: conn.lock held, which is released for the call: whoever writes
    meanwhile appends behind what is gathered here.
    """
    cdef engine_t *engine = conn.engine
    cdef WSABUF[SEND_BUFFERS] wsabufs
    cdef DWORD n = 0
    cdef DWORD nbytes = 0
    cdef size_t room = SEND_BYTES
    cdef buf_t *buf = conn.outbox.head
    cdef int error = 0
    if not overlapped and not conn_make_nonblocking(conn):
        return False
    while buf != NULL and n < SEND_BUFFERS and room > 0:
        wsabufs[n].buf = buf.data
        wsabufs[n].len = <ULONG>min(buf.size, room)
        room -= wsabufs[n].len
        n += 1
        buf = buf.next
    conn.sending = True
    conn.pending += 1
    conn_ref(conn)
    memset(&conn.send.overlapped, 0, sizeof(OVERLAPPED))
    ReleaseSRWLockExclusive(&conn.lock)
    count(engine, worker, N_OPS_POSTED, 1)
    if WSASend(conn.sock, wsabufs, n, &nbytes, 0,
               &conn.send.overlapped if overlapped else NULL, NULL) != 0:
        error = WSAGetLastError()
    AcquireSRWLockExclusive(&conn.lock)
    if overlapped and (error == ERROR_IO_PENDING or (error == 0 and not conn.skips)):
        op_pended(conn, NULL)
        return False
    count(engine, worker, N_OPS_COMPLETED, 1)
    if not overlapped and error == WSAEWOULDBLOCK:
        conn.sending = False
        conn.pending -= 1
        conn_unref(conn)    # never the last one: the caller has its own
        return False
    send_done(worker, conn, error, nbytes if error == 0 else 0)
    if error == 0:
        count(engine, worker, N_INLINE_COMPLETIONS, 1)
    conn_unref(conn)    # never the last one: the caller has its own
    return error == 0


cdef void send_defer(conn_t *conn) noexcept nogil:
    """Have a worker go on sending, by the packet of a send that has taken nothing: who serves
    the connection may be in a callback that takes long, perhaps because it waits for this
    very data to leave.  Precondition: conn.lock held, the connection is scheduled.
    """
    conn_ref(conn)
    if packet_post(conn.engine, &conn.send):
        conn.sending = True
        conn.pending += 1
    else:
        # Whoever serves it sends.
        conn_unref(conn)    # never the last one: the caller has its own


cdef void send_done(worker_t *worker, conn_t *conn, int error, DWORD nbytes) noexcept nogil:
    """The outcome of a send enters the connection's state; a short one leaves the rest queued.
    Precondition: conn.lock held."""
    cdef queue_t emptied
    memset(&emptied, 0, sizeof(emptied))
    if nbytes > 0:
        count(conn.engine, worker, N_SENDS, 1)
        count(conn.engine, worker, N_BYTES_SENT, nbytes)
    conn.sending = False
    conn.pending -= 1
    queue_consume(&conn.outbox, nbytes, &emptied)
    conn_drop_queue(conn, &emptied)
    if conn.tell_sent:
        conn.sent_untold += nbytes
    if error != 0:
        conn_fail(conn, ABORT_ERROR, error, True)
        return
    if nbytes == 0:
        return      # send_defer's
    trace(conn, "sent", nbytes)
    if conn.state == STATE_FLUSHING:
        conn.progress_ms = now_ms()
    if conn.engine.config.idle_timeout_ms != 0:
        conn.active_ms = now_ms()


cdef void on_send_complete(worker_t *worker, conn_t *conn, DWORD nbytes) noexcept nogil:
    cdef int error = op_error(&conn.send, conn.sock)
    AcquireSRWLockExclusive(&conn.lock)
    send_done(worker, conn, error, nbytes)
    conn_advance(worker, conn, False)
    conn_unref(conn)


# -- accepting -----------------------------------------------------------------


cdef void accept_post(worker_t *worker, acceptor_t *acceptor) noexcept nogil:
    """Give a slot of the accept pool a fresh socket and post it.

    A slot is given up only with the listener, or when the pool shrinks; what cannot
    be posted now is left to the keeper.
    """
    cdef listener_t *listener = acceptor.listener
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
                count(engine, worker, N_ACCEPTS_SHRUNK, 1)
        ReleaseSRWLockExclusive(&listener.lock)
        if over:
            if acceptor.data != NULL:
                give_buffer(engine, acceptor.data)
            free(acceptor)
            live_drop(engine)
            return
        error = acceptor_call(worker, acceptor)
        if error == ERROR_IO_PENDING:
            return
        if error == ERROR_OPERATION_ABORTED:
            continue    # closing: the next turn ends it
        count_accept_error(engine, worker, error)
        if error != WSAECONNRESET:
            break       # not a vanished client's, so trying again at once is no use
    accept_starve(acceptor, error)


cdef void accept_starve(acceptor_t *acceptor, int error) noexcept nogil:
    """Leave the slot to the keeper, which posts it again soon."""
    cdef engine_t *engine = acceptor.listener.engine
    AcquireSRWLockExclusive(&engine.lock)
    acceptor.next_starved = engine.starved
    engine.starved = acceptor
    engine.starved_due_ms = now_ms() + RETRY_MS
    keeper_wants(engine, engine.starved_due_ms)
    engine_trouble(engine, error)
    ReleaseSRWLockExclusive(&engine.lock)


cdef void engine_trouble(engine_t *engine, int error) noexcept nogil:
    """Have the keeper tell that the system refuses something, now and then.
    Precondition: engine.lock held."""
    cdef uint64_t now = now_ms()
    if now >= engine.trouble_due_ms:
        engine.trouble = error
        engine.trouble_due_ms = now + TROUBLE_MS
        SetEvent(engine.keeper_event)


cdef int acceptor_call(worker_t *worker, acceptor_t *acceptor) noexcept nogil:
    """A fresh socket, and AcceptEx.  ERROR_IO_PENDING: a packet will follow, and the
    acceptor is no longer the caller's.  Else a Windows code, and nothing is posted."""
    cdef listener_t *listener = acceptor.listener
    cdef engine_t *engine = listener.engine
    cdef SOCKET sock
    cdef DWORD nbytes = 0
    cdef DWORD data_bytes = 0
    cdef char *output = acceptor.addresses
    cdef int error
    if engine.config.accept_receive:
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
    count(engine, worker, N_SOCKETS_OPENED, 1)
    memset(&acceptor.op.overlapped, 0, sizeof(OVERLAPPED))
    # The lock keeps the listening handle from being closed, and its value from
    # being reused, between the look at `closing` and the call.
    AcquireSRWLockExclusive(&listener.lock)
    if listener.closing:
        error = ERROR_OPERATION_ABORTED
    else:
        acceptor.sock = sock
        acceptor.pending = True
        InterlockedExchangeAdd64(&engine.accepts_pending, 1)
        count(engine, worker, N_OPS_POSTED, 1)
        error = ERROR_IO_PENDING
        # Without first data, since a client that says nothing would hold the slot,
        # unless the server asked for it.  Listeners do not skip, so a packet
        # follows also where it succeeds at once.
        if not listener.AcceptEx(listener.sock, sock, output, data_bytes,
                                 ACCEPT_ADDRESS_BYTES, ACCEPT_ADDRESS_BYTES, &nbytes,
                                 &acceptor.op.overlapped):
            error = WSAGetLastError()
        if error != ERROR_IO_PENDING:
            acceptor.pending = False
            acceptor.sock = INVALID_SOCKET
            InterlockedExchangeAdd64(&engine.accepts_pending, -1)
            count(engine, worker, N_OPS_COMPLETED, 1)
    ReleaseSRWLockExclusive(&listener.lock)
    if error != ERROR_IO_PENDING:
        drop_socket(engine, worker, sock)
    return error


cdef void drop_socket(engine_t *engine, worker_t *worker, SOCKET sock) noexcept nogil:
    closesocket(sock)
    count(engine, worker, N_SOCKETS_CLOSED, 1)


cdef void linger_zero(SOCKET sock) noexcept nogil:
    """Have closesocket reset the connection."""
    cdef LINGER linger
    linger.l_onoff = 1
    linger.l_linger = 0
    setsockopt(sock, SOL_SOCKET, SO_LINGER, <char *>&linger, sizeof(linger))


cdef void count_accept_error(engine_t *engine, worker_t *worker, int error) noexcept nogil:
    cdef int i
    count(engine, worker, N_ACCEPT_ERRORS, 1)
    AcquireSRWLockExclusive(&engine.lock)
    for i in range(<int>ACCEPT_ERROR_CODES):
        if engine.accept_error_counts[i] == 0 or engine.accept_error_codes[i] == error:
            engine.accept_error_codes[i] = error
            engine.accept_error_counts[i] += 1
            break
    ReleaseSRWLockExclusive(&engine.lock)


cdef void on_accept_complete(worker_t *worker, acceptor_t *acceptor, DWORD nbytes) noexcept nogil:
    cdef listener_t *listener = acceptor.listener
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
    AcquireSRWLockExclusive(&listener.lock)
    acceptor.pending = False
    sock = acceptor.sock    # INVALID_SOCKET: a silent client, dropped
    acceptor.sock = INVALID_SOCKET
    closing = listener.closing
    expected = closing or sock == INVALID_SOCKET or acceptor.cancelled
    acceptor.cancelled = False
    if not closing:
        error = op_error(&acceptor.op, listener.sock)
        # Without SO_UPDATE_ACCEPT_CONTEXT the socket does not know that it is
        # connected: shutdown, getpeername and the inherited options fail.
        if error == 0 and sock != INVALID_SOCKET and setsockopt(
                sock, SOL_SOCKET, SO_UPDATE_ACCEPT_CONTEXT,
                <char *>&listener.sock, sizeof(SOCKET)) != 0:
            error = WSAGetLastError()
    ReleaseSRWLockExclusive(&listener.lock)
    InterlockedExchangeAdd64(&engine.accepts_pending, -1)
    if closing or error != 0 or sock == INVALID_SOCKET:
        # This one client's failure, or nobody's; the slot goes on.
        if sock != INVALID_SOCKET:
            # There may be a client on it, which shall see that it was not taken.
            linger_zero(sock)
            drop_socket(engine, worker, sock)
        if not expected:
            acceptor.failures += 1
            count_accept_error(engine, worker, error)
        if not expected and acceptor.failures % ACCEPT_ATTEMPTS == 0:
            # So often in a row: posted again at once it could spin.
            accept_starve(acceptor, error)
        else:
            accept_post(worker, acceptor)
        return
    acceptor.failures = 0
    data = acceptor.data
    listener.GetAcceptExSockaddrs(
        <char *>acceptor.addresses if data == NULL else data.base,
        0 if data == NULL else <DWORD>(data.capacity - 2 * ACCEPT_ADDRESS_BYTES),
        ACCEPT_ADDRESS_BYTES, ACCEPT_ADDRESS_BYTES,
        &local, &local_bytes, &remote, &remote_bytes)
    memset(local_copy, 0, sizeof(local_copy))
    memset(remote_copy, 0, sizeof(remote_copy))
    memcpy(local_copy, local, min(<size_t>local_bytes, sizeof(local_copy)))
    memcpy(remote_copy, remote, min(<size_t>remote_bytes, sizeof(remote_copy)))
    if data != NULL:
        data.size = nbytes
        acceptor.data = NULL
    # The slot first: the pool stays full whatever becomes of this client.
    accept_post(worker, acceptor)
    if conn_attach(worker, listener, sock, local_copy, remote_copy, data):
        count(engine, worker, N_ACCEPTS, 1)
        return
    if data != NULL:
        give_buffer(engine, data)
    # The client shall see at once that it was not taken.
    linger_zero(sock)
    drop_socket(engine, worker, sock)


cdef bint conn_attach(worker_t *worker, listener_t *listener, SOCKET sock,
                      const char *local, const char *remote, buf_t *data) noexcept nogil:
    """Make a connection of an accepted socket and schedule it.

    data: the first data, or NULL; the connection's from here on.  False: sock and
    data are still the caller's.
    """
    cdef engine_t *engine = listener.engine
    cdef conn_t *conn
    cdef tcp_keepalive keepalive
    cdef DWORD nbytes = 0
    cdef BOOL on = True
    cdef bint running
    cdef bint room
    cdef int i
    cdef LONG64 now
    conn = conn_new(engine)
    if conn == NULL:
        return False
    if CreateIoCompletionPort(<HANDLE>sock, engine.port, KEY, 0) == NULL:
        free(conn)
        return False
    # These only tune the connection; without them it still works.
    setsockopt(sock, IPPROTO_TCP, TCP_NODELAY, <char *>&on, sizeof(on))
    if engine.config.keepalive_idle_ms != 0:
        keepalive.onoff = 1
        keepalive.keepalivetime = engine.config.keepalive_idle_ms
        keepalive.keepaliveinterval = engine.config.keepalive_interval_ms
        WSAIoctl(sock, SIO_KEEPALIVE_VALS, &keepalive, sizeof(keepalive), NULL, 0, &nbytes,
                 NULL, NULL)

    conn.engine = engine
    conn.sock = sock
    conn.refs = 2       # the open handle, and this function's
    conn.link.owner = conn
    conn.closing.link.owner = conn
    conn.quiet.link.owner = conn
    conn.idling.link.owner = conn
    InitializeSRWLock(&conn.lock)
    conn.state = STATE_OPEN
    conn.skips = listener.skips and SetFileCompletionNotificationModes(
        <HANDLE>sock, FILE_SKIP_COMPLETION_PORT_ON_SUCCESS | FILE_SKIP_SET_EVENT_ON_HANDLE)
    conn.marks.high = engine.config.high_water_bytes
    conn.marks.low = engine.config.low_water_bytes
    conn.window.size = engine.config.initial_reads
    conn.recvs = <recv_t *>(conn + 1)
    for i in range(conn.window.size):
        op_init(&conn.recvs[i].op, OP_RECV, conn)
    op_init(&conn.send, OP_SEND, conn)
    op_init(&conn.serve, OP_SERVE, conn)
    memcpy(conn.local, local, ADDRESS_BYTES)
    memcpy(conn.remote, remote, ADDRESS_BYTES)

    # From the list on others may reach it, to end it at once; its first data comes before that.
    AcquireSRWLockExclusive(&conn.lock)
    AcquireSRWLockExclusive(&engine.lock)
    # Under the lock that engine_stop takes: what is in the list by then it
    # closes, and nothing comes after.
    running = engine.phase == PHASE_RUNNING
    now = engine_connections(engine)
    room = engine.config.max_connections == 0 or now < engine.config.max_connections
    if running and room:
        list_append(&engine.connections, &conn.link)
        InterlockedIncrement(&engine.live)
        InterlockedExchangeAdd64(&engine.connections_now, 1)
        engine.connections_peak = max(engine.connections_peak, now + 1)
        engine.last_number += 1
        conn.number = engine.last_number
    ReleaseSRWLockExclusive(&engine.lock)
    if not (running and room):
        ReleaseSRWLockExclusive(&conn.lock)
        free(conn)
        if running:
            count(engine, worker, N_REFUSED, 1)
        return False
    count(engine, worker, N_CONNECTIONS_MADE, 1)

    trace(conn, "accepted", 0)
    if data != NULL and data.size > 0:
        trace(conn, "received", <LONG64>data.size)
        count(engine, worker, N_RECEIVES, 1)
        count(engine, worker, N_BYTES_RECEIVED, <LONG64>data.size)
        queue_push(&conn.inbox, data)
    else:
        # A client that says nothing at once finds out that it is idle later.
        if data != NULL:
            conn_keep_buffer(conn, data)
    if engine.config.idle_timeout_ms != 0:
        conn.active_ms = now_ms()
        conn_arm(conn, &engine.idling, &conn.idling)
    conn_arm(conn, &engine.quiet, &conn.quiet)
    conn_leave(worker, conn)
    conn_unref(conn)
    return True


cdef int listener_prepare(listener_t *listener) noexcept nogil:
    """Provider's flags and extension functions of a listening socket.  0 or a Windows code."""
    cdef WSAPROTOCOL_INFOW protocol
    cdef int length = sizeof(protocol)
    cdef DWORD nbytes = 0
    cdef BOOL listening = False
    # A layered provider without real handles reports inline completions wrongly;
    # its sockets go without FILE_SKIP_COMPLETION_PORT_ON_SUCCESS.
    listener.skips = getsockopt(
        listener.sock, SOL_SOCKET, SO_PROTOCOL_INFOW, <char *>&protocol, &length
    ) == 0 and (protocol.dwServiceFlags1 & XP1_IFS_HANDLES) != 0
    # AcceptEx on a socket that does not listen fails with WSAEINVAL on Windows; to
    # be sure that it does not wait for ever instead, it is asked first.
    length = sizeof(listening)
    if getsockopt(listener.sock, SOL_SOCKET, SO_ACCEPTCONN, <char *>&listening, &length) != 0:
        return WSAGetLastError()
    if not listening:
        return WSAEINVAL
    if WSAIoctl(listener.sock, SIO_GET_EXTENSION_FUNCTION_POINTER,
                &accept_ex_id, sizeof(accept_ex_id), &listener.AcceptEx,
                sizeof(listener.AcceptEx), &nbytes, NULL, NULL) == SOCKET_ERROR:
        return WSAGetLastError()
    if WSAIoctl(listener.sock, SIO_GET_EXTENSION_FUNCTION_POINTER,
                &accept_addresses_id, sizeof(accept_addresses_id),
                &listener.GetAcceptExSockaddrs, sizeof(listener.GetAcceptExSockaddrs),
                &nbytes, NULL, NULL) == SOCKET_ERROR:
        return WSAGetLastError()
    if CreateIoCompletionPort(<HANDLE>listener.sock, listener.engine.port, KEY, 0) == NULL:
        return <int>GetLastError()
    if WSAEventSelect(listener.sock, listener.engine.accept_event, FD_ACCEPT) == SOCKET_ERROR:
        return WSAGetLastError()
    return 0


cdef int engine_listen(engine_t *engine, SOCKET sock, int family) noexcept nogil:
    cdef listener_t *listener = <listener_t *>calloc(1, sizeof(listener_t))
    cdef int error
    cdef bint running
    if listener == NULL:
        return WSAENOBUFS
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
    running = engine.phase == PHASE_RUNNING
    if running:
        listener.next = engine.listeners
        engine.listeners = listener
    ReleaseSRWLockExclusive(&engine.lock)
    if not running:
        free(listener)
        return ERROR_OPERATION_ABORTED
    listener_grow(listener, engine.config.initial_accepts)
    # With no slot at all nothing would ever be posted, and without a post FD_ACCEPT does
    # not come again: the listener would be deaf.
    AcquireSRWLockExclusive(&listener.lock)
    if listener.n_acceptors == 0 and not listener.closing:
        error = WSAENOBUFS
    ReleaseSRWLockExclusive(&listener.lock)
    return error


cdef void listener_grow(listener_t *listener, int by) noexcept nogil:
    """Add slots to the accept pool, up to max_accepts.  Precondition: no lock held.

    What cannot even be allocated is left out: FD_ACCEPT, which each post enables, asks again.
    """
    cdef engine_t *engine = listener.engine
    cdef acceptor_t *acceptor
    cdef bint room
    while by > 0:
        by -= 1
        acceptor = <acceptor_t *>calloc(1, sizeof(acceptor_t))
        if acceptor == NULL:
            return
        op_init(&acceptor.op, OP_ACCEPT, acceptor)
        acceptor.listener = listener
        acceptor.link.owner = acceptor
        acceptor.sock = INVALID_SOCKET
        AcquireSRWLockExclusive(&listener.lock)
        room = not listener.closing and listener.n_acceptors < engine.config.max_accepts
        if room:
            list_append(&listener.acceptors, &acceptor.link)
            listener.n_acceptors += 1
            listener.target = max(listener.target, listener.n_acceptors)
            InterlockedIncrement(&engine.live)
        ReleaseSRWLockExclusive(&listener.lock)
        if not room:
            free(acceptor)
            return
        accept_post(NULL, acceptor)


cdef void listener_crowded(listener_t *listener) noexcept nogil:
    """FD_ACCEPT may have come: a client waits, and no AcceptEx did."""
    cdef engine_t *engine = listener.engine
    cdef WSANETWORKEVENTS events
    cdef bint crowded
    AcquireSRWLockExclusive(&listener.lock)
    crowded = (not listener.closing
               and WSAEnumNetworkEvents(listener.sock, NULL, &events) == 0
               and (events.lNetworkEvents & FD_ACCEPT) != 0)
    listener.crowded = listener.crowded or crowded
    cdef int before = listener.n_acceptors
    ReleaseSRWLockExclusive(&listener.lock)
    if crowded:
        listener_grow(listener, ACCEPT_GROWTH)
        AcquireSRWLockExclusive(&listener.lock)
        count(engine, NULL, N_ACCEPTS_GROWN, max(listener.n_acceptors - before, 0))
        ReleaseSRWLockExclusive(&listener.lock)


cdef void listener_look_after(listener_t *listener, bint shrink) noexcept nogil:
    """Drop clients that have been silent too long; shrink a pool that was not needed."""
    cdef engine_t *engine = listener.engine
    cdef link_t *link
    cdef acceptor_t *acceptor
    cdef DWORD seconds
    cdef int length
    cdef int surplus = 0
    AcquireSRWLockExclusive(&listener.lock)
    if shrink and not listener.closing:
        if not listener.crowded:
            listener.target = engine.config.initial_accepts
            surplus = listener.n_acceptors - listener.target
        listener.crowded = False
    link = listener.acceptors.next
    while link != &listener.acceptors and not listener.closing:
        acceptor = <acceptor_t *>link.owner
        link = link.next
        if not acceptor.pending or acceptor.sock == INVALID_SOCKET:
            continue
        length = sizeof(seconds)
        seconds = <DWORD>-1     # as for a socket that nobody has connected to
        getsockopt(acceptor.sock, SOL_SOCKET, SO_CONNECT_TIME, <char *>&seconds, &length)
        if seconds == <DWORD>-1:
            if surplus > 0:
                surplus -= 1
                acceptor.cancelled = True
                CancelIoEx(<HANDLE>listener.sock, &acceptor.op.overlapped)
        elif (engine.config.accept_receive
              and <uint64_t>seconds * 1000 >= engine.config.accept_timeout_ms
              and not HasOverlappedIoCompleted(&acceptor.op.overlapped)):
            # It has said nothing; one that has may be waiting for a worker that is busy.
            # As AcceptEx's documentation has it: closing the accept socket makes the call
            # fail, and its completion posts the slot anew.
            drop_socket(engine, NULL, acceptor.sock)
            acceptor.sock = INVALID_SOCKET
            count(engine, NULL, N_SILENT_DROPPED, 1)
    ReleaseSRWLockExclusive(&listener.lock)


# -- workers -------------------------------------------------------------------


cdef void conn_served(worker_t *worker, conn_t *conn) noexcept nogil:
    """The executor's last step: post what delivery asked for, then give the turn up,
    or keep it if there is more."""
    cdef bint had_share
    AcquireSRWLockExclusive(&conn.lock)
    # Until here the thread that delivered last left it to this turn to send what it wrote;
    # from now on whoever writes sends.
    conn.executor = 0
    conn_advance(worker, conn, True)
    AcquireSRWLockExclusive(&conn.lock)
    conn.deliver = conn_has_news(conn)
    if not conn.deliver and not conn_has_work(conn):
        conn.scheduled = False
        ReleaseSRWLockExclusive(&conn.lock)
        conn_unref(conn)
        return
    had_share = conn.inline_run >= INLINE_BUDGET
    if had_share:
        conn.inline_run = 0
    ReleaseSRWLockExclusive(&conn.lock)
    if had_share and worker != NULL:
        ready_append(&worker.again, conn)
    else:
        conn_to_worker(worker, conn)


cdef conn_t *worker_next(worker_t *worker) noexcept nogil:
    AcquireSRWLockExclusive(&worker.lock)
    cdef conn_t *conn = ready_pop(&worker.news)
    ReleaseSRWLockExclusive(&worker.lock)
    return conn


cdef void worker_delivered(worker_t *worker, conn_t *conn) noexcept nogil:
    # Not the executor's end: another worker may serve it from here on, but until then
    # what this thread writes to it waits for that.  Without the lock, since while
    # `executor` is this thread nobody else looks at it.
    conn.delivering = False
    AcquireSRWLockExclusive(&worker.lock)
    ready_append(&worker.work, conn)
    ReleaseSRWLockExclusive(&worker.lock)


cdef conn_t *worker_next_work(worker_t *worker) noexcept nogil:
    AcquireSRWLockExclusive(&worker.lock)
    cdef conn_t *conn = ready_pop(&worker.work)
    ReleaseSRWLockExclusive(&worker.lock)
    return conn


cdef bint worker_has_any(worker_t *worker) noexcept nogil:
    AcquireSRWLockExclusive(&worker.lock)
    cdef bint some = worker.news.head != NULL or worker.work.head != NULL
    ReleaseSRWLockExclusive(&worker.lock)
    return some


cdef bint engine_has_waiting(engine_t *engine) noexcept nogil:
    AcquireSRWLockExclusive(&engine.run_lock)
    cdef bint some = engine.run_queue.head != NULL
    ReleaseSRWLockExclusive(&engine.run_lock)
    return some


cdef void worker_share(worker_t *worker) noexcept nogil:
    """Where connections wait in the run queue, those that this worker has join it at the
    end, and it takes up to SHARE from the front."""
    cdef engine_t *engine = worker.engine
    cdef conn_t *conn
    cdef int n = 0
    AcquireSRWLockExclusive(&worker.lock)
    AcquireSRWLockExclusive(&engine.run_lock)
    if engine.run_queue.head != NULL:
        ready_move(&worker.news, &engine.run_queue)
        ready_move(&worker.work, &engine.run_queue)
        conn = ready_pop(&engine.run_queue)
        while conn != NULL:
            ready_append(&worker.news if conn.deliver else &worker.work, conn)
            n += 1
            conn = ready_pop(&engine.run_queue) if n < SHARE else NULL
    ReleaseSRWLockExclusive(&engine.run_lock)
    ReleaseSRWLockExclusive(&worker.lock)


cdef bint worker_take_over(worker_t *worker) noexcept nogil:
    """Before a worker waits: take what the others have not come to, because one of
    their callbacks takes long.  True: it has something to do now.

    Without this a connection would wait for the callback of another one only
    because one worker dequeued both, while other workers are idle.
    """
    cdef engine_t *engine = worker.engine
    cdef worker_t *other
    cdef ready_t news
    cdef ready_t work
    cdef bint some = False
    cdef int i
    for i in range(engine.config.workers):
        other = &engine.workers[i]
        if other == worker:
            continue
        AcquireSRWLockExclusive(&other.lock)
        news = other.news
        work = other.work
        memset(&other.news, 0, sizeof(ready_t))
        memset(&other.work, 0, sizeof(ready_t))
        ReleaseSRWLockExclusive(&other.lock)
        if news.head != NULL or work.head != NULL:
            some = True
            AcquireSRWLockExclusive(&worker.lock)
            ready_move(&news, &worker.news)
            ready_move(&work, &worker.work)
            ReleaseSRWLockExclusive(&worker.lock)
    if some:
        count(engine, worker, N_TAKEOVERS, 1)
    return some


cdef void worker_serve(worker_t *worker) noexcept nogil:
    """Deliver to all connections with news in one call, then serve all that were ready."""
    cdef engine_t *engine = worker.engine
    cdef conn_t *conn
    cdef bint news
    cdef bint several
    AcquireSRWLockExclusive(&worker.lock)
    news = worker.news.head != NULL
    several = news and (worker.news.head != worker.news.tail or worker.work.head != NULL)
    ReleaseSRWLockExclusive(&worker.lock)
    if news:
        if several or engine_has_waiting(engine):
            # Should one callback take long, the keeper sees to the others.
            AcquireSRWLockExclusive(&engine.lock)
            if engine.help_due_ms == NEVER:
                engine.help_due_ms = now_ms() + HELP_MS
                keeper_wants(engine, engine.help_due_ms)
            ReleaseSRWLockExclusive(&engine.lock)
        if not engine.config.native:
            count(engine, worker, N_GIL_ACQUISITIONS, 1)
        engine.config.deliver(worker)
    conn = worker_next_work(worker)
    while conn != NULL:
        conn_served(worker, conn)
        conn = worker_next_work(worker)
    if worker.again.head != NULL:
        # Nobody is told: this worker looks at the queue before it waits, and the keeper
        # wakes others if that takes long.
        AcquireSRWLockExclusive(&engine.run_lock)
        ready_move(&worker.again, &engine.run_queue)
        ReleaseSRWLockExclusive(&engine.run_lock)


cdef void worker_serve_all(worker_t *worker) noexcept nogil:
    """Serve until nothing is left that this worker has."""
    cdef bint some = True
    while some:
        worker_serve(worker)
        some = worker_has_any(worker)


cdef bint worker_wait_out(worker_t *worker, DWORD error) noexcept nogil:
    """The look at the port has failed, for lack of memory most likely.  Its packets are not
    lost, so it is tried again a little later.  False: not any more, the server stops and it
    has failed too often; what was pending then stays with the kernel.
    """
    cdef engine_t *engine = worker.engine
    AcquireSRWLockExclusive(&engine.lock)
    cdef bint running = engine.phase == PHASE_RUNNING
    engine_trouble(engine, <int>error)
    ReleaseSRWLockExclusive(&engine.lock)
    worker.failures = 0 if running else worker.failures + 1
    if worker.failures > PORT_ATTEMPTS:
        return False
    # Not set before this worker has ended: a pause.
    WaitForSingleObject(engine.stopped_event, RETRY_MS)
    return True


cdef bint worker_step(worker_t *worker, DWORD timeout_ms) noexcept nogil:
    """A look at the port, if it cannot be spared, and the work that follows.  False: this
    worker ends."""
    cdef engine_t *engine = worker.engine
    cdef ULONG n = 0
    cdef ULONG i
    cdef op_t *op
    cdef bint go_on = True
    cdef bint help = False
    cdef bint ok
    cdef DWORD error
    cdef uint64_t now
    if (worker.unlooked < UNLOOKED and InterlockedExchangeAdd(&engine.packets_due, 0) <= 0
            and engine_has_waiting(engine)):
        # A look at the port is a call of the system, and only new clients can be in it.
        now = now_ms()
        if worker.unlooked == 0:
            worker.look_due_ms = now + UNLOOKED_MS
        if now < worker.look_due_ms:
            worker.unlooked += 1
            worker_share(worker)
            worker_serve_all(worker)
            return True
    worker.unlooked = 0
    # Idle first, then the last look: whoever gets something to do after that
    # look sees an idle worker, and has the keeper watch over it.
    cdef bint others_idle = InterlockedIncrement(&engine.workers_idle) > 1
    cdef bint waiting = engine_has_waiting(engine)
    if not waiting and worker_take_over(worker):
        # These have waited long enough, so the port comes after them.
        InterlockedDecrement(&engine.workers_idle)
        worker_serve_all(worker)
        return True
    # Where others are idle they shall get their share of the packets, unless there are more
    # than all of them take.
    if not others_idle or waiting:
        worker.batch = PACKETS_PER_WAIT
    ok = GetQueuedCompletionStatusEx(engine.port, worker.entries, worker.batch, &n,
                                     0 if waiting else timeout_ms, False)
    error = 0 if ok else GetLastError()
    InterlockedDecrement(&engine.workers_idle)
    if ok or error == WAIT_TIMEOUT:
        worker.failures = 0
    if ok:
        count(engine, worker, N_WAITS, 1)
        count(engine, worker, N_PACKETS, n)
        count(engine, worker, N_OPS_COMPLETED, n)
        for i in range(n):
            op = <op_t *>worker.entries[i].lpOverlapped
            if op.kind != OP_ACCEPT:
                InterlockedDecrement(&engine.packets_due)
            if op.kind == OP_RECV:
                on_recv_complete(worker, <recv_t *>op,
                                 worker.entries[i].dwNumberOfBytesTransferred)
            elif op.kind == OP_SEND:
                on_send_complete(worker, <conn_t *>op.owner,
                                 worker.entries[i].dwNumberOfBytesTransferred)
            elif op.kind == OP_ACCEPT:
                on_accept_complete(worker, <acceptor_t *>op,
                                   worker.entries[i].dwNumberOfBytesTransferred)
            elif op.kind == OP_SERVE:
                conn_to_worker(worker, <conn_t *>op.owner)
            elif op.kind == OP_HELP:
                AcquireSRWLockExclusive(&engine.lock)
                engine.help_posted = False
                if engine.phase == PHASE_FINISHED:
                    SetEvent(engine.keeper_event)
                ReleaseSRWLockExclusive(&engine.lock)
                help = True
            else:
                go_on = False
    elif error == WAIT_TIMEOUT:
        count(engine, worker, N_EMPTY_WAITS, 1)
    else:
        go_on = worker_wait_out(worker, error)
    worker.batch = (min(2 * worker.batch, <ULONG>PACKETS_PER_WAIT) if n == worker.batch
                    else max(n, <ULONG>1))
    worker_share(worker)
    if help:
        # Not before: what is late already must not queue up again.
        worker_take_over(worker)
    worker_serve_all(worker)
    return go_on


cdef void engine_run_worker(engine_t *engine, int index) noexcept nogil:
    cdef worker_t *worker = &engine.workers[index]
    InterlockedExchange(&worker.thread_id, <LONG>GetCurrentThreadId())
    while worker_step(worker, INFINITE):
        pass
    InterlockedExchange(&worker.thread_id, 0)
    engine_forgo_worker(engine)


cdef void engine_forgo_keeper(engine_t *engine) noexcept nogil:
    SetEvent(engine.stopped_event)


cdef void engine_forgo_worker(engine_t *engine) noexcept nogil:
    # Under the lock, so that the keeper cannot finish, and the engine be freed,
    # between the two calls.
    AcquireSRWLockExclusive(&engine.lock)
    engine.workers_running -= 1
    engine.stop_posted = False
    SetEvent(engine.keeper_event)
    ReleaseSRWLockExclusive(&engine.lock)


# -- the keeper ------------------------------------------------------------------


cdef void conn_arm(conn_t *conn, deadlines_t *deadlines, deadline_t *deadline) noexcept nogil:
    """Precondition: conn.lock held.  Without effect once the handle is closed: nothing
    would disarm it, and the conn_t be freed under the keeper's hands."""
    cdef engine_t *engine = conn.engine
    if conn.sock == INVALID_SOCKET:
        return
    AcquireSRWLockExclusive(&engine.lock)
    deadline_arm(deadlines, deadline, now_ms())
    keeper_wants(engine, deadline.due_ms)
    ReleaseSRWLockExclusive(&engine.lock)


cdef void conn_close_due(conn_t *conn, bint stop) noexcept nogil:
    """A closing connection has had its time.  It gets more while bytes still leave,
    unless the server's own time is over (stop)."""
    cdef engine_t *engine = conn.engine
    cdef uint64_t now = now_ms()
    AcquireSRWLockExclusive(&conn.lock)
    if conn.state == STATE_FLUSHING:
        if not stop and now < conn.progress_ms + engine.config.close_timeout_ms:
            conn_arm(conn, &engine.closing, &conn.closing)
        else:
            conn_fail(conn, ABORT_STOP if stop else ABORT_CLOSE_TIMEOUT, WSAETIMEDOUT, True)
    elif conn.state == STATE_DRAINING:
        # All was sent; the peer just does not end its side.
        conn.state = conn_next_state(conn.state, EVENT_DEADLINE)
        conn_cancel(conn)
    elif conn.state == STATE_OPEN and stop:
        conn_fail(conn, ABORT_STOP, 0, False)
    conn_advance(NULL, conn, False)


cdef void conn_quiet_due(conn_t *conn) noexcept nogil:
    """If nothing was received since the last look: no buffer for this one any more."""
    cdef int i
    AcquireSRWLockExclusive(&conn.lock)
    if conn.state == STATE_ABORTING or conn.state == STATE_ENDING:
        conn_cancel(conn)
    elif conn.state == STATE_OPEN and not conn.idle:
        if conn.receives != conn.receives_seen or conn.inbox.head != NULL:
            conn.receives_seen = conn.receives
            conn_arm(conn, &conn.engine.quiet, &conn.quiet)
        else:
            trace(conn, "quiet", 0)
            conn.idle = True
            conn_drop_spare(conn)
            # A receive completes with its data or as cancelled, never as both, and
            # what it did not take stays with the socket: receive time-outs of other
            # runtimes on Windows rest on the same.
            for i in range(conn.window.size):
                recv_take_back(conn, &conn.recvs[i])
    conn_leave(NULL, conn)


cdef void conn_idle_due(conn_t *conn) noexcept nogil:
    """Looked at several times per idle timeout, so that it is neither early nor very late."""
    cdef uint64_t now = now_ms()
    AcquireSRWLockExclusive(&conn.lock)
    if conn.state == STATE_OPEN:
        # The added 1: both times are rounded down.
        if now >= conn.active_ms + conn.engine.config.idle_timeout_ms + 1:
            conn_fail(conn, ABORT_IDLE, WSAETIMEDOUT, False)
        else:
            conn_arm(conn, &conn.engine.idling, &conn.idling)
    conn_advance(NULL, conn, False)


cdef conn_t *keeper_expired(engine_t *engine, deadlines_t *deadlines, uint64_t now) noexcept nogil:
    """A connection whose deadline has passed, with a reference; NULL: none."""
    cdef conn_t *conn = NULL
    AcquireSRWLockExclusive(&engine.lock)
    cdef deadline_t *deadline = deadlines_first(deadlines)
    if deadline != NULL and deadline.due_ms <= now:
        deadline_disarm(deadline)
        # In the list, so the handle is open and holds a reference.
        conn = <conn_t *>deadline.link.owner
        conn_ref(conn)
    ReleaseSRWLockExclusive(&engine.lock)
    return conn


cdef void keeper_deadlines(engine_t *engine, uint64_t now) noexcept nogil:
    cdef conn_t *conn = keeper_expired(engine, &engine.closing, now)
    while conn != NULL:
        conn_close_due(conn, False)
        conn_unref(conn)
        conn = keeper_expired(engine, &engine.closing, now)
    conn = keeper_expired(engine, &engine.idling, now)
    while conn != NULL:
        conn_idle_due(conn)
        conn_unref(conn)
        conn = keeper_expired(engine, &engine.idling, now)
    conn = keeper_expired(engine, &engine.quiet, now)
    while conn != NULL:
        conn_quiet_due(conn)
        conn_unref(conn)
        conn = keeper_expired(engine, &engine.quiet, now)


cdef void keeper_listeners(engine_t *engine, uint64_t now) noexcept nogil:
    """Look after the accept pools every accept_period_ms."""
    cdef listener_t *listener
    cdef bint due
    cdef bint shrink
    AcquireSRWLockExclusive(&engine.lock)
    listener = engine.listeners
    due = engine.accept_period_ms != 0 and engine.accept_due_ms <= now
    shrink = engine.shrink_due_ms <= now
    if due:
        engine.accept_due_ms = now + engine.accept_period_ms
    if shrink:
        engine.shrink_due_ms = now + SHRINK_MS
    ReleaseSRWLockExclusive(&engine.lock)
    while due and listener != NULL:
        listener_look_after(listener, shrink)
        listener = listener.next


cdef void keeper_retry(engine_t *engine, uint64_t now) noexcept nogil:
    """Post again what the system refused."""
    cdef acceptor_t *starved = NULL
    cdef acceptor_t *next_starved
    cdef conn_t *unposted
    cdef conn_t *next_unposted
    AcquireSRWLockExclusive(&engine.lock)
    # Also at once when stopping: accept_post then frees the slot.
    if engine.starved_due_ms <= now or engine.phase != PHASE_RUNNING:
        starved = engine.starved
        engine.starved = NULL
    unposted = engine.unposted
    engine.unposted = NULL
    ReleaseSRWLockExclusive(&engine.lock)
    while starved != NULL:
        next_starved = starved.next_starved
        accept_post(NULL, starved)
        starved = next_starved
    while unposted != NULL:
        next_unposted = unposted.next_ready
        conn_to_worker(NULL, unposted)
        unposted = next_unposted


cdef void keeper_help(engine_t *engine, uint64_t now) noexcept nogil:
    """If a worker still has connections waiting, because of a long callback: have another
    one take them over.  Where none is idle, at least send what finished callbacks have
    written."""
    cdef bint waiting
    cdef bint idle
    cdef bint stuck
    cdef bint post
    cdef conn_t *conn
    cdef int i
    AcquireSRWLockExclusive(&engine.lock)
    cdef bint due = engine.help_due_ms <= now
    if due:
        engine.help_due_ms = NEVER
    ReleaseSRWLockExclusive(&engine.lock)
    if not due:
        return
    waiting = engine_has_waiting(engine)
    stuck = waiting
    for i in range(engine.config.workers):
        stuck = stuck or worker_has_any(&engine.workers[i])
    if not stuck:
        return
    idle = InterlockedExchangeAdd(&engine.workers_idle, 0) > 0
    # While connections wait for their turn no worker sleeps, or looks after the others:
    # whoever serves them comes by the port.
    post = idle or waiting
    for i in range(0 if idle else engine.config.workers):
        conn = worker_next_work(&engine.workers[i])
        while conn != NULL:
            conn_served(NULL, conn)
            conn = worker_next_work(&engine.workers[i])
    AcquireSRWLockExclusive(&engine.lock)
    engine.help_due_ms = now + HELP_MS
    post = post and not engine.help_posted and engine.phase != PHASE_FINISHED
    if post:
        engine.help_posted = packet_post(engine, &engine.help)
    ReleaseSRWLockExclusive(&engine.lock)


cdef bint keeper_finish(engine_t *engine) noexcept nogil:
    """Nothing is left but the workers: end one after the other.  True: all are gone.

    Precondition: engine.lock held.
    """
    # One packet at a time, since a worker may take several at once; a refused
    # post is tried again on the next look.  After `help`: the last worker takes no other.
    if engine.workers_running > 0 and not engine.stop_posted and not engine.help_posted:
        engine.stop_posted = packet_post(engine, &engine.stop)
    return engine.workers_running == 0


cdef bint keeper_step(engine_t *engine) noexcept nogil:
    """One wait of the keeper and the work that follows.  False: the engine has stopped."""
    cdef HANDLE[2] events
    cdef deadline_t *deadline
    cdef listener_t *listener
    cdef uint64_t now = now_ms()
    cdef uint64_t due
    cdef DWORD wait_ms
    cdef DWORD woken
    cdef bint finished
    cdef bint stop
    AcquireSRWLockExclusive(&engine.lock)
    due = min(engine.stop_due_ms, engine.help_due_ms)
    if engine.phase == PHASE_RUNNING and engine.accept_period_ms != 0:
        due = min(due, engine.accept_due_ms)
    deadline = deadlines_first(&engine.closing)
    if deadline != NULL:
        due = min(due, deadline.due_ms)
    deadline = deadlines_first(&engine.quiet)
    if deadline != NULL:
        due = min(due, deadline.due_ms)
    deadline = deadlines_first(&engine.idling)
    if deadline != NULL:
        due = min(due, deadline.due_ms)
    if engine.starved != NULL:
        due = min(due, engine.starved_due_ms)
    if engine.unposted != NULL or engine.phase == PHASE_FINISHED:
        due = min(due, now + RETRY_MS)
    engine.keeper_due_ms = due
    ReleaseSRWLockExclusive(&engine.lock)

    events[0] = engine.keeper_event
    events[1] = engine.accept_event
    if due == NEVER:
        wait_ms = INFINITE
    else:
        wait_ms = <DWORD>min(due - now, <uint64_t>60000) if due > now else 0
    woken = WaitForMultipleObjects(2, events, False, wait_ms)
    if woken == WAIT_FAILED:
        # For lack of memory; without the pause the keeper would spin until there is some.
        WaitForSingleObject(engine.stopped_event, RETRY_MS)
    elif woken == WAIT_OBJECT_0 + 1:
        AcquireSRWLockExclusive(&engine.lock)
        listener = engine.listeners
        ReleaseSRWLockExclusive(&engine.lock)
        while listener != NULL:
            listener_crowded(listener)
            listener = listener.next

    now = now_ms()
    keeper_help(engine, now)
    keeper_retry(engine, now)
    keeper_deadlines(engine, now)
    keeper_listeners(engine, now)

    AcquireSRWLockExclusive(&engine.lock)
    # No workers: they could not be started, or their port is broken.
    finished = ((engine.phase == PHASE_FINISHED or engine.workers_running == 0)
                and keeper_finish(engine))
    stop = engine.stop_due_ms <= now
    if stop:
        engine.stop_due_ms = NEVER
    ReleaseSRWLockExclusive(&engine.lock)
    if stop:
        engine_for_each(engine, EACH_STOP)
    return not finished


cdef int engine_run_keeper(engine_t *engine) noexcept nogil:
    cdef int trouble
    while keeper_step(engine):
        AcquireSRWLockExclusive(&engine.lock)
        trouble = engine.trouble if engine.phase == PHASE_RUNNING else 0
        engine.trouble = 0
        ReleaseSRWLockExclusive(&engine.lock)
        if trouble != 0:
            return trouble
    engine_clear_pools(engine)
    # The lock: a worker that ends may still be inside engine_forgo_worker.
    AcquireSRWLockExclusive(&engine.lock)
    ReleaseSRWLockExclusive(&engine.lock)
    SetEvent(engine.stopped_event)
    return 0


# -- the engine ------------------------------------------------------------------


cdef int engine_open(engine_t *engine) noexcept nogil:
    """The engine's handles.  0 or a Windows code; those that there are stay the engine's."""
    engine.port = CreateIoCompletionPort(INVALID_HANDLE_VALUE, NULL, 0, 0)
    if engine.port == NULL:
        return <int>GetLastError()
    engine.keeper_event = CreateEventW(NULL, False, False, NULL)
    if engine.keeper_event == NULL:
        return <int>GetLastError()
    engine.accept_event = CreateEventW(NULL, False, False, NULL)
    if engine.accept_event == NULL:
        return <int>GetLastError()
    engine.stopped_event = CreateEventW(NULL, True, False, NULL)
    if engine.stopped_event == NULL:
        return <int>GetLastError()
    return 0


cdef engine_t *engine_create(const config_t *config, int *error) noexcept nogil:
    cdef engine_t *engine = <engine_t *>calloc(1, sizeof(engine_t))
    cdef int i
    if engine == NULL:
        error[0] = WSAENOBUFS
        return NULL
    engine.config = config[0]
    engine.live = 1
    engine.workers_running = config.workers
    InitializeSRWLock(&engine.lock)
    InitializeSRWLock(&engine.pass_lock)
    InitializeSRWLock(&engine.run_lock)
    InitializeSRWLock(&engine.pool_lock)
    list_init(&engine.connections)
    deadlines_init(&engine.closing, config.close_timeout_ms)
    deadlines_init(&engine.quiet, QUIET_MS)
    deadlines_init(&engine.idling, config.idle_timeout_ms // 8 + 1)
    # Silent clients are looked for several times per timeout, so that none stays
    # much longer; a pool that never grows need not shrink.
    if config.accept_receive:
        engine.accept_period_ms = min(config.accept_timeout_ms // 8 + 1, <uint64_t>SHRINK_MS)
    elif config.max_accepts > config.initial_accepts:
        engine.accept_period_ms = SHRINK_MS
    engine.accept_due_ms = now_ms() + engine.accept_period_ms
    engine.shrink_due_ms = now_ms() + SHRINK_MS
    engine.keeper_due_ms = NEVER
    engine.stop_due_ms = NEVER
    engine.help_due_ms = NEVER
    op_init(&engine.help, OP_HELP, engine)
    op_init(&engine.stop, OP_STOP, engine)
    for i in range(<int>N_SIZES - 1):
        pool_init(&engine.pools[i], min(config.buffer_size, <size_t>SMALLEST_BYTES << (3 * i)), 0)
    pool_init(&engine.pools[<int>N_SIZES - 1], config.buffer_size, 0)
    engine.workers = <worker_t *>calloc(config.workers, sizeof(worker_t))
    error[0] = WSAENOBUFS if engine.workers == NULL else engine_open(engine)
    if error[0] != 0:
        engine_free(engine)
        return NULL
    for i in range(config.workers):
        engine.workers[i].engine = engine
        engine.workers[i].batch = 1
        InitializeSRWLock(&engine.workers[i].lock)
    return engine


cdef void engine_clear_pools(engine_t *engine) noexcept nogil:
    """Precondition: no worker runs."""
    cdef conn_t *conn
    cdef int i
    AcquireSRWLockExclusive(&engine.pool_lock)
    while engine.free_conns != NULL:
        conn = engine.free_conns
        engine.free_conns = conn.next_ready
        free(conn)
    engine.n_free_conns = 0
    for i in range(<int>N_SIZES):
        pool_clear(&engine.pools[i])
    ReleaseSRWLockExclusive(&engine.pool_lock)


cdef void engine_free(engine_t *engine) noexcept nogil:
    cdef listener_t *listener
    if InterlockedExchangeAdd(&engine.live, 0) > 1:
        return
    while engine.listeners != NULL:
        listener = engine.listeners
        engine.listeners = listener.next
        free(listener)
    engine_clear_pools(engine)
    if engine.port != NULL:
        CloseHandle(engine.port)
    if engine.keeper_event != NULL:
        CloseHandle(engine.keeper_event)
    if engine.accept_event != NULL:
        CloseHandle(engine.accept_event)
    if engine.stopped_event != NULL:
        CloseHandle(engine.stopped_event)
    free(engine.workers)
    free(engine)


cdef enum each_action:
    EACH_CLOSE
    EACH_ABORT
    EACH_STOP


cdef void engine_for_each(engine_t *engine, each_action action) noexcept nogil:
    """Do something to every connection that is there now.

    The list is turned once, one connection at a time, so that engine.lock is not
    held while a connection is worked on.  Connections that go or come meanwhile do
    no harm: new ones join at the end, behind all that were there.  pass_lock keeps
    two passes from turning it under each other.
    """
    cdef link_t *link
    cdef conn_t *conn
    cdef LONG64 n
    AcquireSRWLockExclusive(&engine.pass_lock)
    n = InterlockedExchangeAdd64(&engine.connections_now, 0)
    while n > 0:
        n -= 1
        AcquireSRWLockExclusive(&engine.lock)
        link = engine.connections.next
        if link == &engine.connections:
            ReleaseSRWLockExclusive(&engine.lock)
            break
        list_remove(link)
        list_append(&engine.connections, link)
        conn = <conn_t *>link.owner
        conn_ref(conn)
        ReleaseSRWLockExclusive(&engine.lock)
        if action == EACH_CLOSE:
            conn_close(conn)
        elif action == EACH_ABORT:
            conn_abort(conn, ABORT_APPLICATION)
        else:
            conn_close_due(conn, True)
        conn_unref(conn)
    ReleaseSRWLockExclusive(&engine.pass_lock)


cdef void engine_close_clients(engine_t *engine, bint abort) noexcept nogil:
    engine_for_each(engine, EACH_ABORT if abort else EACH_CLOSE)


cdef void engine_stop(engine_t *engine, uint64_t timeout_ms) noexcept nogil:
    cdef listener_t *listener
    cdef acceptor_t *acceptor
    cdef link_t *link
    cdef bint first
    cdef uint64_t due = now_ms() + timeout_ms + 1
    AcquireSRWLockExclusive(&engine.lock)
    first = engine.phase == PHASE_RUNNING
    if first:
        engine.phase = PHASE_STOPPING
        engine.stop_due_ms = NEVER
    if due < engine.stop_due_ms:
        engine.stop_due_ms = due
        keeper_wants(engine, due)
    listener = engine.listeners
    ReleaseSRWLockExclusive(&engine.lock)
    # Every caller, not only the first: each may close the listening sockets after it.
    while listener != NULL:
        AcquireSRWLockExclusive(&listener.lock)
        if not listener.closing:
            listener.closing = True
            CancelIoEx(<HANDLE>listener.sock, NULL)
            # An AcceptEx that has its client and waits for first data is given up
            # by closing the accept socket, as its documentation has it.
            link = listener.acceptors.next
            while engine.config.accept_receive and link != &listener.acceptors:
                acceptor = <acceptor_t *>link.owner
                if acceptor.pending and acceptor.sock != INVALID_SOCKET:
                    drop_socket(engine, NULL, acceptor.sock)
                    acceptor.sock = INVALID_SOCKET
                link = link.next
        ReleaseSRWLockExclusive(&listener.lock)
        listener = listener.next
    if not first:
        return
    AcquireSRWLockExclusive(&engine.lock)
    if engine.starved != NULL:
        SetEvent(engine.keeper_event)
    ReleaseSRWLockExclusive(&engine.lock)
    engine_close_clients(engine, False)
    live_drop(engine)


cdef bint engine_wait_stopped(engine_t *engine, DWORD timeout_ms) noexcept nogil:
    return WaitForSingleObject(engine.stopped_event, timeout_ms) == WAIT_OBJECT_0


cdef bint engine_on_worker(engine_t *engine) noexcept nogil:
    cdef LONG me = <LONG>GetCurrentThreadId()
    cdef int i
    for i in range(engine.config.workers):
        if InterlockedExchangeAdd(&engine.workers[i].thread_id, 0) == me:
            return True
    return False


cdef LONG64 engine_count(engine_t *engine, int counter) noexcept nogil:
    cdef LONG64 total = InterlockedExchangeAdd64(&engine.guest_tally.n[counter], 0)
    cdef int i
    for i in range(engine.config.workers):
        total += InterlockedExchangeAdd64(&engine.workers[i].tally.n[counter], 0)
    return total


cdef void engine_pools(engine_t *engine, pools_t *pools) noexcept nogil:
    cdef const pool_t *pool
    cdef int i
    pools.accepts_pending = InterlockedExchangeAdd64(&engine.accepts_pending, 0)
    AcquireSRWLockExclusive(&engine.lock)
    pools.connections_peak = engine.connections_peak
    for i in range(<int>ACCEPT_ERROR_CODES):
        pools.accept_error_codes[i] = engine.accept_error_codes[i]
        pools.accept_error_counts[i] = engine.accept_error_counts[i]
    ReleaseSRWLockExclusive(&engine.lock)
    AcquireSRWLockExclusive(&engine.pool_lock)
    pools.buffers_out = engine.buffers_out
    pools.buffers_peak = engine.buffers_peak
    pools.buffers_free = 0
    pools.buffer_hits = 0
    pools.buffer_misses = 0
    for i in range(<int>N_SIZES):
        pool = &engine.pools[i]
        pools.buffers_free += pool.n_free
        pools.buffer_hits += pool.hits
        pools.buffer_misses += pool.misses
    pools.connections_free = engine.n_free_conns
    pools.connection_hits = engine.conn_hits
    pools.connection_misses = engine.conn_misses
    ReleaseSRWLockExclusive(&engine.pool_lock)


cdef LONG64 engine_connections(engine_t *engine) noexcept nogil:
    return InterlockedExchangeAdd64(&engine.connections_now, 0)


# -- requests of the application -----------------------------------------------------


cdef bint conn_on_executor(conn_t *conn) noexcept nogil:
    """Is this thread serving the connection?  conn_served will then do what has to
    be done, for all that one callback batch asks, in one go.  Precondition: conn.lock held."""
    return conn.executor != 0 and conn.executor == GetCurrentThreadId()


cdef void conn_request_done(conn_t *conn) noexcept nogil:
    """Releases conn.lock and sees to it that a changed state has its effect."""
    if conn_on_executor(conn):
        ReleaseSRWLockExclusive(&conn.lock)
    else:
        conn_advance(NULL, conn, False)


cdef int conn_may_write(conn_t *conn, size_t nbytes) noexcept nogil:
    """0, or what speaks against one more write.  Precondition: conn.lock held."""
    cdef config_t *config = &conn.engine.config
    if conn.state != STATE_OPEN or conn.write_eof:
        return WRITE_CLOSED
    # An empty queue takes a write of any size: its memory is the caller's already.
    if conn.outbox.head != NULL and (
            (config.max_write_buffer != 0
             and conn.outbox.nbytes + nbytes > config.max_write_buffer)
            or (config.max_sends != 0 and conn.outbox.writes >= config.max_sends)):
        conn_fail(conn, ABORT_WRITE_LIMIT, WSAENOBUFS, True)
        return WRITE_CLOSED | WRITE_FLUSH
    return 0


cdef int conn_written(conn_t *conn) noexcept nogil:
    """What has to follow a write.  Precondition: conn.lock held."""
    # The executor sends when the callback is over, unless it writes so much that it has to
    # learn whether the peer takes it.
    if not conn_on_executor(conn) or (
            conn.outbox.nbytes > conn.marks.high and conn.outbox.nbytes >= conn_patience(conn)):
        return WRITE_FLUSH
    return 0


cdef size_t conn_patience(conn_t *conn) noexcept nogil:
    """Bytes that a callback may write before they are sent, if they are above the high mark: as
    many as one send takes, so that it is worth its call, but not many times the mark.
    Precondition: conn.lock held."""
    cdef config_t *config = &conn.engine.config
    if conn.sending:
        return 0    # what has to wait already need not become more
    if config.max_sends != 0 or 0 < config.max_write_buffer < AMPLE_BYTES:
        return 0    # a limit so tight counts what the peer has not taken, not what waits here
    return min(PATIENCE * min(conn.marks.high, <size_t>SEND_BYTES), <size_t>SEND_BYTES)


cdef int conn_gather(conn_t *conn, queue_t *parts, const char *data, size_t nbytes,
                     void *owner) noexcept nogil:
    cdef buf_t *buf
    cdef size_t room = 0
    if owner != NULL and nbytes > COPY_BYTES:
        buf = buf_wrap(owner, <char *>data, nbytes)
        if buf == NULL:
            return WRITE_NO_MEMORY
        queue_push(parts, buf)
        return WRITE_KEPT
    if not queue_extend(parts, data, nbytes):
        # Where one buffer is full of small writes already, the next one holds more of them.
        buf = parts.tail
        if buf != NULL and buf.base != NULL:
            room = min(8 * buf.capacity, <size_t>GATHER_BYTES)
        buf = take_buffer(conn.engine, max(nbytes, room))
        if buf == NULL:
            return WRITE_NO_MEMORY
        memcpy(buf.data, data, nbytes)
        buf.size = nbytes
        queue_push(parts, buf)
    return 0


cdef int conn_write(conn_t *conn, const char *data, size_t nbytes, void *owner) noexcept nogil:
    cdef int result
    AcquireSRWLockExclusive(&conn.lock)
    result = conn_may_write(conn, nbytes)
    if result == 0:
        result = conn_gather(conn, &conn.outbox, data, nbytes, owner)
        if not result & WRITE_NO_MEMORY:
            conn.outbox.tail.writes += 1
            conn.outbox.writes += 1
            result |= conn_written(conn)
    ReleaseSRWLockExclusive(&conn.lock)
    return result


cdef int conn_write_parts(conn_t *conn, queue_t *parts) noexcept nogil:
    cdef int result
    AcquireSRWLockExclusive(&conn.lock)
    result = conn_may_write(conn, parts.nbytes)
    if result == 0:
        parts.tail.writes += 1
        parts.writes += 1
        queue_move(parts, &conn.outbox)
        result = conn_written(conn)
    else:
        conn_drop_queue(conn, parts)
    conn_leave(NULL, conn)
    return result


cdef bint conn_flush(conn_t *conn) noexcept nogil:
    cdef bint pause = False
    AcquireSRWLockExclusive(&conn.lock)
    conn_advance(NULL, conn, False)
    AcquireSRWLockExclusive(&conn.lock)
    # Elsewhere the pause comes as news, in its turn.
    if (conn_on_executor(conn) and conn.delivering and conn.marks.above
            and not conn.pause_told):
        conn.pause_told = True
        pause = True
    ReleaseSRWLockExclusive(&conn.lock)
    return pause


cdef void conn_write_eof(conn_t *conn) noexcept nogil:
    AcquireSRWLockExclusive(&conn.lock)
    conn.write_eof = True
    conn_request_done(conn)


cdef void conn_close(conn_t *conn) noexcept nogil:
    AcquireSRWLockExclusive(&conn.lock)
    if conn.state == STATE_OPEN:
        conn.state = conn_next_state(conn.state, EVENT_CLOSE)
        conn.write_eof = True
        conn.deaf = True
        conn_drop_queue(conn, &conn.inbox)
        conn.progress_ms = now_ms()
        trace(conn, "close, bytes queued", <LONG64>conn.outbox.nbytes)
        conn_arm(conn, &conn.engine.closing, &conn.closing)
    conn_request_done(conn)


cdef void conn_abort(conn_t *conn, abort_reason reason) noexcept nogil:
    AcquireSRWLockExclusive(&conn.lock)
    conn.deaf = True
    conn_drop_queue(conn, &conn.inbox)
    conn_fail(conn, reason, 0, False)
    conn_request_done(conn)


cdef bint conn_is_closing(conn_t *conn) noexcept nogil:
    AcquireSRWLockExclusive(&conn.lock)
    cdef bint closing = conn.state != STATE_OPEN
    ReleaseSRWLockExclusive(&conn.lock)
    return closing


cdef void conn_pause_reading(conn_t *conn, bint paused) noexcept nogil:
    # A receive that is pending stays so: cancelling it could lose what it carries.
    AcquireSRWLockExclusive(&conn.lock)
    if paused and not conn.read_paused:
        count(conn.engine, NULL, N_READ_PAUSES, 1)
    conn.read_paused = paused
    conn_leave(NULL, conn)


cdef bint conn_is_reading(conn_t *conn) noexcept nogil:
    AcquireSRWLockExclusive(&conn.lock)
    cdef bint reading = conn.state == STATE_OPEN and not conn.read_paused and not conn.eof_told
    ReleaseSRWLockExclusive(&conn.lock)
    return reading


cdef void conn_tell_sent(conn_t *conn, bint tell) noexcept nogil:
    AcquireSRWLockExclusive(&conn.lock)
    conn.tell_sent = tell
    ReleaseSRWLockExclusive(&conn.lock)


cdef SOCKET conn_borrow_handle(conn_t *conn) noexcept nogil:
    cdef SOCKET sock
    AcquireSRWLockExclusive(&conn.lock)
    sock = conn.sock
    if sock != INVALID_SOCKET:
        conn.pending += 1   # like an op: the handle stays open
        conn.duplicated = True
    ReleaseSRWLockExclusive(&conn.lock)
    return sock


cdef void conn_return_handle(conn_t *conn) noexcept nogil:
    AcquireSRWLockExclusive(&conn.lock)
    conn.pending -= 1
    conn_request_done(conn)


cdef void conn_set_marks(conn_t *conn, size_t high_bytes, size_t low_bytes) noexcept nogil:
    AcquireSRWLockExclusive(&conn.lock)
    conn.marks.high = high_bytes
    conn.marks.low = low_bytes
    marks_update(&conn.marks, conn.outbox.nbytes)
    conn_leave(NULL, conn)


cdef void conn_get_marks(conn_t *conn, size_t *high_bytes, size_t *low_bytes) noexcept nogil:
    AcquireSRWLockExclusive(&conn.lock)
    high_bytes[0] = conn.marks.high
    low_bytes[0] = conn.marks.low
    ReleaseSRWLockExclusive(&conn.lock)


cdef size_t conn_write_buffer_size(conn_t *conn) noexcept nogil:
    AcquireSRWLockExclusive(&conn.lock)
    cdef size_t nbytes = conn.outbox.nbytes
    ReleaseSRWLockExclusive(&conn.lock)
    return nbytes


# -- delivery --------------------------------------------------------------------


cdef void conn_take_news(conn_t *conn, news_t *news) noexcept nogil:
    memset(news, 0, sizeof(news_t))
    AcquireSRWLockExclusive(&conn.lock)
    if conn.pause_told and not conn.marks.above:
        # A handler that fills its queue whenever it may would otherwise never be read:
        # neither its peer's requests nor the end of the stream would come to it.
        if conn_wants_recv(conn):
            recv_post(NULL, conn)
    conn.executor = GetCurrentThreadId()
    conn.delivering = True
    news.spent = conn.spent.head
    memset(&conn.spent, 0, sizeof(queue_t))
    news.traces = conn.traces.head
    memset(&conn.traces, 0, sizeof(queue_t))
    if not conn.made_told:
        conn.made_told = True
        # Over before it began: nobody hears of it.
        if conn.lost_due:
            conn.lost_told = True
            conn.deaf = True
            conn_drop_queue(conn, &conn.inbox)
        else:
            news.made = True
    if not conn.lost_told:
        news.pause = conn.marks.above and not conn.pause_told
        news.resume = conn.pause_told and not conn.marks.above
        conn.pause_told = conn.marks.above
        news.sent = conn.sent_untold
        conn.sent_untold = 0
    ReleaseSRWLockExclusive(&conn.lock)


cdef buf_t *conn_take_data(conn_t *conn, size_t *wanted) noexcept nogil:
    cdef buf_t *buf = NULL
    wanted[0] = 0
    AcquireSRWLockExclusive(&conn.lock)
    if conn_readable(conn):
        buf = queue_pop(&conn.inbox)
    elif (conn.state == STATE_OPEN and conn.spare == NULL and not conn.idle
            and conn_wants_recv(conn)):
        wanted[0] = recv_capacity(conn)
    ReleaseSRWLockExclusive(&conn.lock)
    return buf


cdef bint conn_offer(conn_t *conn, void *owner, char *data, size_t nbytes) noexcept nogil:
    cdef buf_t *buf = buf_wrap(owner, data, nbytes)
    if buf == NULL:
        return False
    buf.base = data
    buf.capacity = nbytes
    AcquireSRWLockExclusive(&conn.lock)
    conn_keep_buffer(conn, buf)
    ReleaseSRWLockExclusive(&conn.lock)
    return True


cdef bint conn_is_reading_on(conn_t *conn) noexcept nogil:
    AcquireSRWLockExclusive(&conn.lock)
    cdef bint on = not conn.deaf and not conn.read_paused
    ReleaseSRWLockExclusive(&conn.lock)
    return on


cdef void conn_give_buffer(conn_t *conn, buf_t *buf) noexcept nogil:
    if buf.base == NULL:
        buf_free(buf)
        return
    AcquireSRWLockExclusive(&conn.lock)
    if buf.size > 0 and not conn.deaf:
        queue_push_front(&conn.inbox, buf)
    else:
        conn_keep_buffer(conn, buf)
    ReleaseSRWLockExclusive(&conn.lock)


cdef bint conn_take_eof(conn_t *conn) noexcept nogil:
    AcquireSRWLockExclusive(&conn.lock)
    cdef bint due = conn_eof_due(conn)
    if due:
        conn.eof_told = True
    ReleaseSRWLockExclusive(&conn.lock)
    return due


cdef bint conn_take_lost(conn_t *conn, int *error, bint *error_sending) noexcept nogil:
    AcquireSRWLockExclusive(&conn.lock)
    cdef bint due = conn.lost_due and not conn.lost_told and not conn_news_before_lost(conn)
    if due:
        conn.lost_told = True
        conn.deaf = True
        conn_drop_queue(conn, &conn.inbox)
        error[0] = conn.error
        error_sending[0] = conn.error_sending
    ReleaseSRWLockExclusive(&conn.lock)
    return due


# -- native handlers -------------------------------------------------------------


cdef void deliver_echo(worker_t *worker) noexcept nogil:
    """Send back what was received: the received buffer itself moves to the outbox."""
    cdef conn_t *conn = worker_next(worker)
    cdef bint over
    while conn != NULL:
        AcquireSRWLockExclusive(&conn.lock)
        conn.made_told = True
        if conn.state != STATE_OPEN:
            # What is in the outbox by then is the last that goes out.
            conn_drop_queue(conn, &conn.inbox)
        while conn_readable(conn):
            queue_push(&conn.outbox, queue_pop(&conn.inbox))
        over = conn_eof_due(conn)
        conn.eof_told = conn.eof_told or over
        conn.lost_told = conn.lost_due
        ReleaseSRWLockExclusive(&conn.lock)
        if over:
            conn_close(conn)
        worker_delivered(worker, conn)
        conn = worker_next(worker)
