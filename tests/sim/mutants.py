"""Deliberate defects of the engine. `python3 dev.py sim --mutants` makes each in a copy of the
sources, one at a time, and the simulation must find every one of them.

(what is wrong, file, [(text that is there once, text in its place)…])
"""

MUTANTS = [
    (
        "no reference is taken before a receive is posted",
        "iocpx/_recv.pyx",
        [
            (
                "    conn_ref(conn)\n    memset(&recv.op.overlapped",
                "    memset(&recv.op.overlapped",
            )
        ],
    ),
    (
        "no reference is taken before a send is posted",
        "iocpx/_send.pyx",
        [
            (
                "    conn.sending = True\n    conn.pending += 1\n    conn_ref(conn)\n",
                "    conn.sending = True\n    conn.pending += 1\n",
            )
        ],
    ),
    (
        "a receive is pending before it is counted as pending",
        "iocpx/_recv.pyx",
        [
            (
                "    conn.pending += 1\n    if conn.state == STATE_OPEN and conn.idle:",
                "    if conn.state == STATE_OPEN and conn.idle:",
            ),
            (
                "    AcquireSRWLockExclusive(&conn.lock)\n"
                "    if error == ERROR_IO_PENDING or (error == 0 and not conn.skips):\n"
                "        op_pended(conn, recv)\n",
                "    AcquireSRWLockExclusive(&conn.lock)\n    conn.pending += 1\n"
                "    if error == ERROR_IO_PENDING or (error == 0 and not conn.skips):\n"
                "        op_pended(conn, recv)\n",
            ),
        ],
    ),
    (
        "the end of the stream is told ahead of the data",
        "iocpx/_wants.pxd",
        [
            (
                "conn.eof_seen and not conn.eof_told and conn.inbox.head == NULL\n",
                "conn.eof_seen and not conn.eof_told\n",
            )
        ],
    ),
    (
        "connection_lost is told ahead of the data",
        "iocpx/_delivery.pyx",
        [
            (
                "(conn.due & DUE_LOST and not conn.lost_told\n"
                "                     and not conn_news_before_lost(conn))",
                "(conn.due & DUE_LOST and not conn.lost_told)",
            )
        ],
    ),
    (
        "a post that races with an abort is not cancelled",
        "iocpx/_life.pyx",
        [
            (
                "    if conn.state == STATE_ABORTING or conn.state == STATE_ENDING:\n"
                "        conn_cancel(conn)\n    elif recv != NULL",
                "    if recv != NULL",
            )
        ],
    ),
    (
        "a handle is closed while operations are pending on it",
        "iocpx/_conn.pyx",
        [
            (
                "    if conn.pending == 0 and (conn.state == STATE_ENDING",
                "    if conn.pending >= 0 and (conn.state == STATE_ENDING",
            )
        ],
    ),
    (
        "the buffer of a receive is freed on a timeout",
        "iocpx/_life.pyx",
        [
            ("from iocpx._base cimport (\n", "from iocpx._base cimport (\n    give_buffer,\n"),
            (
                "        recv.cancelled = True\n        CancelIoEx(",
                "        recv.cancelled = True\n        give_buffer(conn.engine, recv.buf)\n"
                "        recv.buf = NULL\n        CancelIoEx(",
            ),
        ],
    ),
    (
        "a slot of the accept pool is lost with a client that fails",
        "iocpx/_accept.pyx",
        [
            (
                "        else:\n            accept_post(worker, acceptor)\n        return\n",
                "        elif closing or expected:\n            accept_post(worker, acceptor)\n"
                "        return\n",
            )
        ],
    ),
    (
        "a slot that could not be posted is not tried again",
        "iocpx/_keeper.pyx",
        [
            (
                "    if engine.starved_due_ms <= now:\n",
                "    if engine.starved_due_ms == 0:\n",
            )
        ],
    ),
    (
        "a thread that may end at any time posts an operation",
        "iocpx/_conn.pyx",
        [("cdef bint own = turn or worker != NULL", "cdef bint own = True")],
    ),
    (
        "what the kernel does not take at once of another thread's write is a failure",
        "iocpx/_send.pyx",
        [("not overlapped and error == WSAEWOULDBLOCK", "False")],
    ),
    (
        "a send that is left to a worker does not keep the handle open",
        "iocpx/_send.pyx",
        [
            (
                "        conn.sending = True\n        conn.pending += 1\n    else:\n",
                "        conn.sending = True\n    else:\n",
            )
        ],
    ),
    (
        "a wake-up is lost: a connection with operations to post is not scheduled",
        "iocpx/_sched.pyx",
        [
            (
                "wake = conn.deliver or conn_has_work(conn)",
                "wake = conn.deliver",
            )
        ],
    ),
    (
        "a connection whose turn could not be posted is forgotten",
        "iocpx/_sched.pyx",
        [
            (
                "        engine.unposted = conn\n"
                "        keeper_wants(engine, now_ms() + RETRY_MS)\n",
                "        keeper_wants(engine, now_ms() + RETRY_MS)\n",
            )
        ],
    ),
    (
        "a receive enters the state without the lock",
        "iocpx/_conn.pyx",
        [
            (
                "    AcquireSRWLockExclusive(&conn.lock)\n"
                "    recv_done(worker, conn, recv, error, nbytes)\n    conn_advance",
                "    recv_done(worker, conn, recv, error, nbytes)\n"
                "    AcquireSRWLockExclusive(&conn.lock)\n    conn_advance",
            )
        ],
    ),
    (
        "a connection whose turn is over still leaves it to its worker to send",
        "iocpx/_conn.pyx",
        # After a handler in C, which may write to others.
        [("    conn.executor = 0\n    conn_advance(", "    conn_advance(")],
    ),
    (
        "what a datagram was sent from is kept to receive into",
        "iocpx/_datagrams.pyx",
        [(" and not (<datagram_t *>buf.base).sending:", ":")],
    ),
    (
        "a connection that was taken from the run queue is forgotten",
        "iocpx/_sched.pyx",
        [
            (
                "ready_pop(&engine.run_queue) if n < SHARE else NULL",
                "ready_pop(&engine.run_queue)\n            if n >= 2:\n                break",
            )
        ],
    ),
    (
        "what a short send has left is dropped",
        "iocpx/_send.pyx",
        [
            (
                "    queue_consume(&conn.outbox, nbytes, &emptied)\n",
                "    if nbytes > 0:\n"
                "        queue_consume(&conn.outbox, conn.outbox.head.size, &emptied)\n",
            )
        ],
    ),
    (
        "inline completions are not bounded",
        "iocpx/_conn.pyx",
        [("    INLINE_BUDGET = ", "    INLINE_BUDGET = 1000 + ")],
    ),
    (
        "receives are delivered as they complete, not as they were posted",
        "iocpx/_recv.pyx",
        [
            (
                "    while conn.window.n > 0 and conn.recvs[conn.window.first].done:\n"
                "        recv_absorb(conn, &conn.recvs[window_drop(&conn.window)])\n",
                "    recv_absorb(conn, recv)\n    window_drop(&conn.window)\n",
            )
        ],
    ),
    (
        "only one worker is told to end",
        "iocpx/_worker.pyx",
        [
            (
                "    engine.stop_posted = False\n    SetEvent(engine.keeper_event)\n",
                "    SetEvent(engine.keeper_event)\n",
            )
        ],
    ),
    (
        "an accepted socket is used without SO_UPDATE_ACCEPT_CONTEXT",
        "iocpx/_accept.pyx",
        [
            (
                "        if error == 0 and setsockopt(sock,",
                "        if error != 0 and setsockopt(sock,",
            )
        ],
    ),
    (
        "connections are lost when an idle worker takes them over",
        "iocpx/_sched.pyx",
        [
            (
                "            ready_move(&news, &worker.news)\n"
                "            ready_move(&work, &worker.work)\n",
                "            ready_move(&news, &worker.news)\n",
            )
        ],
    ),
    (
        "a peer that does not read its replies is read on",
        "iocpx/_wants.pxd",
        [
            (
                "conn.marks.above and not conn.service",
                "False and not conn.service",
            )
        ],
    ),
    (
        "SD_SEND overtakes what is still queued",
        "iocpx/_life.pyx",
        [
            (
                "    if conn.sending or conn.outbox.head != NULL:\n",
                "    if conn.sending:\n",
            )
        ],
    ),
    (
        "two sends are posted at a time",
        "iocpx/_wants.pxd",
        [
            (
                "    return (not conn.sending and conn.outbox.head != NULL\n",
                "    return (conn.outbox.head != NULL\n",
            )
        ],
    ),
    (
        "a deadline outlives its connection",
        "iocpx/_life.pyx",
        [("    deadline_disarm(&conn.quiet)\n", "")],
    ),
    (
        "a timer is told early",
        "iocpx/_keeper.pyx",
        [
            ("engine.timers.first.due <= now:", "engine.timers.first.due <= now + 20:"),
            ("    if 0 < conn.timer.due <= now:\n", "    if 0 < conn.timer.due <= now + 20:\n"),
        ],
    ),
    (
        "a timer that is due earlier than the one before it waits for that",
        "iocpx/_requests.pyx",
        [("conn.timer.due == 0 or due_ms < conn.timer.due", "conn.timer.due == 0")],
    ),
    (
        "a timer that was told is told again",
        "iocpx/_delivery.pyx",
        [("            conn_disarm_timer(conn)\n", "            pass\n")],
    ),
    (
        "a timer that is taken out of the heap takes the later ones with it",
        "iocpx/_state.pyx",
        [("        root = timer_meld(timers.first, root)\n", "        root = timers.first\n")],
    ),
    (
        "resume_writing is not told",
        "iocpx/_delivery.pyx",
        [("        news.resume = (conn.pause_told or news.pause) and not conn.marks.above\n", "")],
    ),
    (
        "AcceptEx is posted on a listener that is closed",
        "iocpx/_accept.pyx",
        [
            (
                "    if listener.closing:\n        error = ERROR_OPERATION_ABORTED\n",
                "    if False:\n        error = ERROR_OPERATION_ABORTED\n",
            )
        ],
    ),
    (
        "a look at the port that fails ends the worker",
        "iocpx/_worker.pyx",
        [
            (
                "        worker.ending = not worker_wait_out(worker, error)\n",
                "        worker.ending = True\n",
            )
        ],
    ),
    (
        "a pause is told beside the connection's own callbacks",
        "iocpx/_requests.pyx",
        [("if (worker != NULL or conn_in_callback(conn)) and", "if")],
    ),
    (
        "a queue that drained before its pause was told is never said to have drained",
        "iocpx/_delivery.pyx",
        [("(conn.pause_told or news.pause) and not", "conn.pause_told and not")],
    ),
    (
        "what a turn writes in spite of a pause is not counted",
        "iocpx/_conn.pyx",
        [("        if conn.turn_told:\n", "        if False:\n")],
    ),
    (
        "a thread that waits to write is not woken",
        "iocpx/_sched.pyx",
        [("        WakeAllConditionVariable(&conn.writable)\n", "        pass\n")],
    ),
    (
        "nothing is received while reading is paused",
        "iocpx/_wants.pxd",
        [
            (
                "(1 if conn.idle or conn.read_paused else",
                "(0 if conn.read_paused else 1 if conn.idle else",
            )
        ],
    ),
    (
        "CancelIoEx that fails is not tried again",
        "iocpx/_life.pyx",
        [
            (
                "        conn_arm(conn, &conn.service.quiet, &conn.quiet)\n\n\ncdef void op_pended",
                "        pass\n\n\ncdef void op_pended",
            )
        ],
    ),
    (
        "a send may block, where FIONBIO failed",
        "iocpx/_send.pyx",
        [
            (
                "        conn.nonblocking = ioctlsocket(conn.sock, FIONBIO, &on) == 0\n",
                "        conn.nonblocking = ioctlsocket(conn.sock, FIONBIO, &on) <= 0\n",
            )
        ],
    ),
    (
        "a listener without a single slot counts as one that listens",
        "iocpx/_accept.pyx",
        [
            (
                "    return False\n\n\ncdef void listener_grow",
                "    return True\n\n\ncdef void listener_grow",
            )
        ],
    ),
    (
        "the last byte of a copied write is lost",
        "iocpx/_state.pyx",
        [
            (
                "    memcpy(buf.data + buf.size, data, nbytes)\n",
                "    memcpy(buf.data + buf.size, data, nbytes - 1)\n",
            )
        ],
    ),
    (
        "the pool hands the same buffer out twice",
        "iocpx/_state.pyx",
        [
            (
                "        buf = pool.free\n        pool.free = buf.next\n"
                "        pool.n_free -= 1\n        pool.hits",
                "        buf = pool.free\n        pool.hits",
            )
        ],
    ),
    (
        "packets that are due are not counted",
        "iocpx/_life.pyx",
        [("    InterlockedIncrement(&conn.engine.packets_due)\n", "")],
    ),
    (
        "a worker sleeps while connections wait for their turn",
        "iocpx/_worker.pyx",
        [("    cdef bint waiting = engine_has_waiting(engine)\n", "    cdef bint waiting = 0\n")],
    ),
    (
        "memory that a handler has kept is given to the next receive",
        "iocpx/_delivery.pyx",
        [("    if buf.base == NULL:\n        buf_free(buf)\n        return\n", "")],
    ),
    (
        "a silent client is dropped by closing the accept socket",
        "iocpx/_accept.pyx",
        [
            (
                "              and CancelIoEx(<HANDLE>listener.sock, &acceptor.op.overlapped)):\n",
                "              and acceptor.sock != INVALID_SOCKET):\n"
                "            drop_socket(service, NULL, acceptor.sock)\n"
                "            acceptor.sock = INVALID_SOCKET\n",
            ),
            ("    if closing or error != 0:\n", "    if closing or error != 0 or sock + 1 == 0:\n"),
        ],
    ),
    (
        "AcceptEx that waits for first data is left to the end of its listener",
        "iocpx/_accept.pyx",
        [
            (
                "            drop_socket(listener.service, NULL, acceptor.sock)\n"
                "            acceptor.sock = INVALID_SOCKET\n",
                "            pass\n",
            )
        ],
    ),
    (
        "a backlog above 200 is no hint",
        "iocpx/_accept.pyx",
        [("SOMAXCONN_HINT(backlog)", "backlog")],
    ),
    (
        "the port lets as many workers run as there are CPUs",
        "iocpx/_engine.pyx",
        [("<DWORD>engine.config.workers)", "0)")],
    ),
    (
        "a provider without real handles is served",
        "iocpx/_provider.pyx",
        [("        return WSAEOPNOTSUPP\n", "        pass\n")],
    ),
    (
        "the application gets a socket with the listener's WSAEventSelect",
        "iocpx/_requests.pyx",
        [("WSAEventSelect(sock, NULL, 0) == SOCKET_ERROR", "False")],
    ),
    (
        "a client that cannot be attached is not counted",
        "iocpx/_accept.pyx",
        [
            (
                "    elif error != ERROR_OPERATION_ABORTED:\n"
                "        count_accept_error(service, worker, error)\n",
                "    elif error != ERROR_OPERATION_ABORTED:\n",
            )
        ],
    ),
    (
        "clients that have vanished are taken for a lack of resources",
        "iocpx/_accept.pyx",
        [("    return (error == WSAECONNRESET or ", "    return error > 99999 and (")],
    ),
    (
        "memory that a handler has offered goes to the engine's pool",
        "iocpx/_base.pyx",
        [
            (
                "        conn_drop_buffer(conn, buf)\n        buf = conn.spare\n",
                "        give_buffer(conn.engine, buf)\n        buf = conn.spare\n",
            )
        ],
    ),
    (
        "a connection can end before its first data is there",
        "iocpx/_open.pyx",
        [
            (
                "    count(service, worker, N_CONNECTIONS_MADE, 1)\n",
                "    ReleaseSRWLockExclusive(&conn.lock)\n"
                "    count(service, worker, N_CONNECTIONS_MADE, 1)\n"
                "    AcquireSRWLockExclusive(&conn.lock)\n",
            )
        ],
    ),
    # -- several services on one engine
    (
        "a service is looked at when its last share was given back",
        "iocpx/_base.pyx",
        [
            (
                "    service.closing_clients = True\n    SetEvent(engine.keeper_event)\n"
                "    ReleaseSRWLockExclusive(&engine.lock)\n",
                "    service.closing_clients = True\n    SetEvent(engine.keeper_event)\n"
                "    ReleaseSRWLockExclusive(&engine.lock)\n    service.draining = 0\n",
            )
        ],
    ),
    (
        "a service counts as stopped before the keeper has taken it out",
        "iocpx/_base.pyx",
        [
            (
                "    service.over = True\n",
                "    service.over = True\n    SetEvent(service.stopped_event)\n",
            )
        ],
    ),
    (
        "a service can be freed while one of its clients becomes a connection",
        "iocpx/_accept.pyx",
        [
            (
                "    InterlockedIncrement(&service.live)\n    # The slot first",
                "    # The slot first",
            ),
            (
                "        live_drop(service)\n        return\n    if error == WSAECONNREFUSED",
                "        return\n    if error == WSAECONNREFUSED",
            ),
            (
                "    drop_socket(service, worker, sock)\n    live_drop(service)\n",
                "    drop_socket(service, worker, sock)\n",
            ),
        ],
    ),
    (
        "after a service's end the keeper does not look for the next one",
        "iocpx/_keeper.pyx",
        [
            (
                "        SetEvent(engine.keeper_event)\n        # The last that is done",
                "        # The last that is done",
            )
        ],
    ),
    (
        "a service does not keep the engine from ending",
        "iocpx/_service.pyx",
        [("        engine.holds += 1\n", "")],
    ),
    (
        "an engine that is about to end can be held",
        "iocpx/_base.pyx",
        [("engine.workers_running > 0 and (engine.holds > 0 or engine.borrows_port)", "True")],
    ),
    (
        "the slots of a service that stops wait until they are posted again",
        "iocpx/_service.pyx",
        [("    if engine.starved != NULL:\n", "    if False:\n")],
    ),
    (
        "only the last service that came has deadlines",
        "iocpx/_keeper.pyx",
        [
            (
                "        keeper_serve(service, now)\n        service = service.next\n",
                "        keeper_serve(service, now)\n        service = NULL\n",
            )
        ],
    ),
    (
        "a pool that could not be filled is not filled later",
        "iocpx/_keeper.pyx",
        [("    if not all_have:\n", "    if False:\n")],
    ),
    (
        "a native handler is not told",
        "iocpx/_worker.pyx",
        [("            if conn.deliver:\n", "            if False:\n")],
    ),
    (
        "a closing connection's receive is taken back because it was idle",
        "iocpx/_life.pyx",
        [("conn.idle and conn.state == STATE_OPEN:\n", "conn.idle:\n")],
    ),
    # -- a worker that is stepped from outside
    (
        "a foreign packet is taken for an operation",
        "iocpx/_worker.pyx",
        [
            (
                "worker.entries[i].lpCompletionKey == engine_key(engine):\n",
                "worker.entries[i].lpOverlapped != NULL:\n",
            )
        ],
    ),
    (
        "a foreign packet is dropped",
        "iocpx/_worker.pyx",
        [("                n_foreign += 1\n", "                pass\n")],
    ),
    (
        "foreign packets count as the engine's",
        "iocpx/_worker.pyx",
        [("E_OPS_COMPLETED, n - <ULONG>n_foreign)", "E_OPS_COMPLETED, n)")],
    ),
    (
        "more packets are handed out than there is room for",
        "iocpx/_worker.pyx",
        [("    worker.batch = min(worker.batch, max_packets)\n", "")],
    ),
    (
        "a borrowed port is closed",
        "iocpx/_engine.pyx",
        [("engine.port != NULL and not engine.borrows_port", "engine.port != NULL")],
    ),
    # -- a listener that others have, too
    (
        "a listener that is on another port is refused",
        "iocpx/_accept.pyx",
        [("    if error != ERROR_INVALID_PARAMETER:\n", "    if True:\n")],
    ),
    (
        "AcceptEx on a listener of another port sends its packet there",
        "iocpx/_accept.pyx",
        [
            (
                "    if listener.shared:\n        acceptor.op.overlapped.hEvent",
                "    if False:\n        acceptor.op.overlapped.hEvent",
            )
        ],
    ),
    (
        "what the event has told of is forgotten with the next AcceptEx",
        "iocpx/_accept.pyx",
        [("            SetEvent(engine.accept_event)\n", "            pass\n")],
    ),
    (
        "an AcceptEx that is over is told of again",
        "iocpx/_accept.pyx",
        [("if (acceptor.pending and not acceptor.told\n", "if (acceptor.pending\n")],
    ),
    (
        "an AcceptEx that is over is forgotten where its packet is refused",
        "iocpx/_keeper.pyx",
        [("NEVER if all_told else now + RETRY_MS", "NEVER")],
    ),
    (
        "AcceptEx on a listener that others have ends with this process's handle",
        "iocpx/_service.pyx",
        [("            listener_cancel(listener)\n", "            pass\n")],
    ),
]
