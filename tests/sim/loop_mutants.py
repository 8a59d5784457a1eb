"""Deliberate defects, as those of mutants.py: of a worker that is a loop's thread, of filters."""

MUTANTS = [
    # -- a loop, whose thread makes requests between two polls
    (
        "what a task writes is left to nobody",
        "iocpx/_requests.pyx",
        [
            (
                "    if worker != NULL:\n        conn_leave(worker, conn)\n    else:\n"
                "        ReleaseSRWLockExclusive(&conn.lock)\n    return result\n",
                "    ReleaseSRWLockExclusive(&conn.lock)\n    return result\n",
            )
        ],
    ),
    (
        "a loop that stops sends nothing of what it has just written",
        "iocpx/_worker.pyx",
        [
            (
                "    worker_go_on(worker)\n    worker_serve_work(worker)\n"
                "    worker_receive(worker)\n",
                "",
            ),
            ("        conn_send_all(&engine.workers[0], conn)\n", "        pass\n"),
        ],
    ),
    (
        "a loop that stops calls its handlers",
        "iocpx/_worker.pyx",
        [
            (
                "    worker_serve_work(worker)\n    worker_receive(worker)\n    memset",
                "    worker_serve_all(worker)\n    worker_receive(worker)\n    memset",
            )
        ],
    ),
    (
        "a loop that stops sends nothing to those that wait for their turn",
        "iocpx/_worker.pyx",
        [("        conn_send_all(&engine.workers[0], conn)\n", "")],
    ),
    (
        "a loop that stops forgets those that have had their share",
        "iocpx/_worker.pyx",
        [("    ready_move(&worker.again, waiting)\n", "")],
    ),
    (
        "a poll waits although its thread has left something to be served",
        "iocpx/_worker.pyx",
        [("    if engine_serve(engine):\n        timeout_ms = 0\n", "")],
    ),
    (
        "a loop is not told of what waits for its turn",
        "iocpx/_worker.pyx",
        [
            (
                "worker.sent.head != NULL or engine_has_waiting(engine)",
                "worker.sent.head != NULL",
            )
        ],
    ),
    (
        "pause_writing does not come with the write that passes the mark",
        "iocpx/_requests.pyx",
        [
            (
                "    if (worker != NULL or conn_in_callback(conn)) and conn.marks.above",
                "    if conn_in_callback(conn) and conn.marks.above",
            )
        ],
    ),
    (
        "pause_writing comes with the write, and again in the turn",
        "iocpx/_requests.pyx",
        [
            (
                "        conn.pause_told = pause\n        conn.passed = False\n",
                "",
            )
        ],
    ),
    (
        "a loop's connection is not read while it is paused",
        "iocpx/_wants.pxd",
        [
            (
                "conn.marks.above and not conn.service.config.like_asyncio and not conn.outgoing\n",
                "conn.marks.above\n",
            )
        ],
    ),
    (
        "a loop's peer that sends on after both ends is listened to",
        "iocpx/_recv.pyx",
        [("            if conn.service.config.like_asyncio:\n", "            if False:\n")],
    ),
    (
        "what was held back while it was paused is refused by a close",
        "iocpx/_requests.pyx",
        [
            (
                "    return (conn.service.config.like_asyncio and conn.state == STATE_FLUSHING",
                "    return (False and conn.state == STATE_FLUSHING",
            )
        ],
    ),
    (
        "a write is taken after a close was flushed",
        "iocpx/_requests.pyx",
        [
            (
                "conn.state == STATE_FLUSHING and not conn.shut\n",
                "conn.state >= STATE_FLUSHING\n",
            )
        ],
    ),
    (
        "the end is sent before who is paused may write again",
        "iocpx/_life.pyx",
        [
            (
                "    elif conn.service.config.like_asyncio and conn.pause_told"
                " and not conn.lost_told:\n",
                "    elif False:\n",
            )
        ],
    ),
    (
        "who has opened a connection does not hear that it was over before it began",
        "iocpx/_delivery.pyx",
        [("if conn.due & DUE_LOST and conn.user == NULL:", "if conn.due & DUE_LOST:")],
    ),
    (
        "a packet that comes under another key brings nothing",
        "iocpx/_worker.pyx",
        [("    op.done(worker, op, nbytes)\n", "    op.done(worker, op, 0)\n")],
    ),
    (
        "a service that accepts no more never ends",
        "iocpx/_service.pyx",
        [
            (
                "    ReleaseSRWLockExclusive(&engine.lock)\n    live_drop(service)\n",
                "    ReleaseSRWLockExclusive(&engine.lock)\n",
            )
        ],
    ),
    (
        "a service that accepts no more closes nothing when it stops",
        "iocpx/_service.pyx",
        [("    first = not service.closing_clients\n", "    first = not service.stopping\n")],
    ),
    (
        "the end is sent before the filter has given its last",
        "iocpx/_life.pyx",
        [("        if not conn.filter_ended:\n", "        if False:\n")],
    ),
    (
        "a filter is not told of the end",
        "iocpx/_wants.pxd",
        [("or conn.write_eof and not conn.filter_ended\n", "or False\n")],
    ),
    (
        "what a filter holds back is not asked for again",
        "iocpx/_wants.pxd",
        [("    return conn.filter_holds and not conn.deaf", "    return False and not conn.deaf")],
    ),
    (
        "the end is told before what a filter holds back",
        "iocpx/_wants.pxd",
        [("            and not conn.filter_holds and conn.state", "            and conn.state")],
    ),
    (
        "what waits for a filter that opens is forgotten",
        "iocpx/_wants.pxd",
        [("            conn.plain.head != NULL and not", "            False and not")],
    ),
    (
        "what a filter gives back comes after what was written meanwhile",
        "iocpx/_filter.pyx",
        [
            (
                "        queue_move(&conn.plain, plain)\n        queue_move(plain, &conn.plain)\n",
                "        queue_move(plain, &conn.plain)\n",
            )
        ],
    ),
    (
        "what was written before a filter came is not told as sent",
        "iocpx/_filter.pyx",
        [("conn.filtered_bytes = conn.outbox.nbytes ", "conn.filtered_bytes = 0 ")],
    ),
    (
        "what a closed connection's filter did not get is kept",
        "iocpx/_life.pyx",
        [("    conn_drop_queue(conn, &conn.plain)\n", "")],
    ),
    (
        "what was filtered counts as queued for good",
        "iocpx/_filter.pyx",
        [
            (
                "    conn.outbox.nbytes -= min(plain_bytes, conn.outbox.nbytes)\n"
                "    conn.outbox.writes -= min(writes, conn.outbox.writes)\n"
                "    if plain_bytes == 0",
                "    if plain_bytes == 0",
            )
        ],
    ),
    (
        "a loop's connection that was told never receives",
        "iocpx/_worker.pyx",
        [
            (
                "        conn = ready_pop(&told)\n    worker_receive(worker)\n",
                "        conn = ready_pop(&told)\n",
            )
        ],
    ),
    (
        "a look begins without those that were told before",
        "iocpx/_worker.pyx",
        [
            (
                "    cdef bint told = False\n    worker_go_on(worker)\n",
                "    cdef bint told = False\n",
            )
        ],
    ),
    (
        "who has had his share before anything else is there waits for ever",
        "iocpx/_worker.pyx",
        [("(worker_has_any(worker) or worker.again.head != NULL)", "worker_has_any(worker)")],
    ),
    (
        "who was served untold does not receive before the wait",
        "iocpx/_worker.pyx",
        [
            (
                "        if not told:\n            worker_receive(worker)",
                "        if False:\n            worker_receive(worker)",
            )
        ],
    ),
    (
        "a loop that stops forgets whom it has not served",
        "iocpx/_worker.pyx",
        [("    ready_move(&worker.news, waiting)\n", "")],
    ),
    (
        "what a filter gives back to a closed connection is kept",
        "iocpx/_filter.pyx",
        [
            (
                "    if conn.sock == INVALID_SOCKET:\n        # Ended",
                "    if False:\n        # Ended",
            )
        ],
    ),
    (
        "a file that is cancelled ends its connection",
        "iocpx/_files.pyx",
        [(" and not (error == ERROR_OPERATION_ABORTED and file.cancelled):", ":")],
    ),
    (
        "a file that is cancelled is sent to its end",
        "iocpx/_files.pyx",
        [
            (" or nbytes == 0 or file.cancelled:", " or nbytes == 0:"),
            ("    if file.cancelled:\n        return 0\n", ""),
        ],
    ),
]
