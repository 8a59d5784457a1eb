"""Deliberate defects, as those of mutants.py: of clients, files, datagrams and framers."""

MUTANTS = [
    # -- clients that are called
    (
        "a socket that has connected is not told so",
        "iocpx/_connect.pyx",
        [("    if error == 0 and setsockopt(", "    if False and setsockopt(")],
    ),
    (
        "what was given up while it connected is told all the same",
        "iocpx/_connect.pyx",
        [("    if conn.state != STATE_CONNECTING:\n", "    if False:\n")],
    ),
    (
        "no reference for a ConnectEx",
        "iocpx/_connect.pyx",
        [("    conn_ref(conn)\n    memset(", "    memset(")],
    ),
    (
        "the send op stays the ConnectEx's",
        "iocpx/_conn.pyx",
        [("        conn.send.done = on_send_complete\n", "        pass\n")],
    ),
    (
        "close() leaves what connects as it is",
        "iocpx/_requests.pyx",
        [("    elif conn.state == STATE_CONNECTING:\n", "    elif False:\n")],
    ),
    (
        "a client that cannot be called is forgotten",
        "iocpx/_open.pyx",
        [("    if error != 0:\n        drop_socket(", "    if False:\n        drop_socket(")],
    ),
    (
        "who has called a client is told nothing of it",
        "iocpx/_open.pyx",
        [("NULL, user, opened, False)", "NULL, NULL, opened, False)")],
    ),
    (
        "what is written in spite of a pause is not counted",
        "iocpx/_requests.pyx",
        [("        conn.over_bytes += nbytes\n", "        pass\n")],
    ),
    (
        "nothing is received in a handshake before which much was written",
        "iocpx/_wants.pxd",
        [("not conn.filter_opening and not conn.filter_waits):", "not conn.filter_waits):")],
    ),
    # -- files
    (
        "what is written after a file overtakes it",
        "iocpx/_wants.pxd",
        [("    if conn_has_files(conn):\n        return &conn.files.later\n", "")],
    ),
    (
        "TransmitFile is told to send more than is left of the file",
        "iocpx/_files.pyx",
        [
            ("min(min(file.left, there), ", "min(file.left, "),
            ("        file.left = min(file.left, there)\n", "        pass\n"),
        ],
    ),
    (
        "what a short TransmitFile has left is taken for sent",
        "iocpx/_files.pyx",
        [("        file.offset += nbytes\n", "        file.offset += <DWORD>conn.send_lent\n")],
    ),
    (
        "no reference for a TransmitFile",
        "iocpx/_files.pyx",
        [("    conn_ref(conn)\n    ReleaseSRWLockExclusive", "    ReleaseSRWLockExclusive")],
    ),
    (
        "a thread that may end posts a TransmitFile",
        "iocpx/_send.pyx",
        [("            return overlapped and file_post(", "            return file_post(")],
    ),
    (
        "files that wait are lost with their connection",
        "iocpx/_life.pyx",
        [("    queue_push(&conn.files.over, &file.buf)\n", "    pass\n")],
    ),
    (
        "connection_lost is told ahead of files that are over",
        "iocpx/_wants.pxd",
        [("conn_has_stream_news(conn) or conn.due & DUE_FILES", "conn_has_stream_news(conn)")],
    ),
    (
        "SD_SEND does not wait for a file that is read",
        "iocpx/_life.pyx",
        [("    if conn_has_files(conn):\n        return  ", "    if False:\n        return  ")],
    ),
    (
        "TLS ends before the file that is to be encrypted",
        "iocpx/_filter.pyx",
        [
            (
                "                      and (conn.filter_opening or not conn_has_files(conn))\n",
                "",
            )
        ],
    ),
    (
        "a file that is over counts on",
        "iocpx/_files.pyx",
        [("    file_count(conn, file, 0)\n", "")],
    ),
    (
        "what is read of a file counts in it, too",
        "iocpx/_sendfile.pyx",
        [("            file_count(conn, file, file.counted - min(nbytes, file.counted))\n", "")],
    ),
    (
        "files that are dropped count on",
        "iocpx/_life.pyx",
        [("    conn.outbox.nbytes -= files.nbytes\n    files.nbytes = 0\n", "")],
    ),
    # -- files that are read and written
    (
        "a file's operation that is begun is not counted as pending",
        "iocpx/_file_ops.pyx",
        [("    file.pending += open\n", "")],
    ),
    (
        "what completes at once is told by its packet too",
        "iocpx/_file_ops.pyx",
        [("(error == 0 and not file.skips)", "(error == 0 and False)")],
    ),
    (
        "what is refused at once is asked of Windows by its packet",
        "iocpx/_file_ops.pyx",
        [("        op.refused = True\n", "")],
    ),
    (
        "what is appended goes to the beginning",
        "iocpx/_file_ops.pyx",
        [("    op.op.overlapped.OffsetHigh = <DWORD>(offset >> 32)\n", "")],
    ),
    (
        "the end of a file's handle is told twice",
        "iocpx/_file_ops.pyx",
        [("    file.end_taken = ended\n", "    pass\n")],
    ),
    (
        "a file ends before all of it is told",
        "iocpx/_file_ops.pyx",
        [("file.closed and file.untold == 0\n", "file.closed\n")],
    ),
    (
        "an operation of a file that is over keeps its handle open",
        "iocpx/_file_ops.pyx",
        [("    op.pending = False\n    file.pending -= 1\n", "    op.pending = False\n")],
    ),
    (
        "a file does not keep its engine",
        "iocpx/_file_ops.pyx",
        [
            ("    if not engine_hold(engine):\n", "    if False:\n"),
            ("        engine_release(file.engine)\n", "        pass\n"),
        ],
    ),
    (
        "operations of files that are over at a time are told but for the first",
        "iocpx/_file_ops.pyx",
        [("        engine.last_file_op.next = op\n", "        pass\n")],
    ),
    (
        "nobody is told what is over of a file",
        "iocpx/_file_ops.pyx",
        [("    worker.also |= ALSO_FILES\n", "")],
    ),
    # -- datagrams
    (
        "no reference for a WSARecvFrom",
        "iocpx/_datagrams.pyx",
        [
            (
                "    conn_ref(conn)\n    memset(&recv.op.overlapped",
                "    memset(&recv.op.overlapped",
            )
        ],
    ),
    (
        "a datagram that is longer than its buffer is delivered",
        "iocpx/_datagrams.pyx",
        [("if error == 0 and recv.nbytes > service.config.datagram_bytes:", "if False:")],
    ),
    (
        "a datagram overtakes the one that is pending",
        "iocpx/_datagrams.pyx",
        [
            (
                "    conn.send_lent = buf.size\n    conn.sending = True\n",
                "    conn.send_lent = buf.size\n",
            )
        ],
    ),
    (
        "what could not be sent is not told when the endpoint closes",
        "iocpx/_datagrams.pyx",
        [
            (
                "            queue_push(&conn.inbox, buf)\n        else:",
                "            give_buffer(conn.engine, buf)\n        else:",
            )
        ],
    ),
    (
        "an endpoint that has sent all waits for its receives",
        "iocpx/_life.pyx",
        [("EVENT_EOF)\n        conn_cancel(conn)\n", "EVENT_EOF)\n")],
    ),
    # -- framers
    (
        "a delimiter that is cut is looked for anew",
        "iocpx/_frames.pyx",
        [("        frames.matched = matched\n", "        frames.matched = 0\n")],
    ),
    (
        "what may be the beginning of a delimiter within one is forgotten",
        "iocpx/_frames.pyx",
        [("                n = framing.fallback[n - 1]\n", "                n = 0\n")],
    ),
    (
        "a message may be a byte too long",
        "iocpx/_frames.pyx",
        [("    if value > framing.max_bytes:\n", "    if value > framing.max_bytes + 1:\n")],
    ),
    (
        "a prefix that is refused counts as read",
        "iocpx/_frames.pyx",
        [
            (
                "        if result != FRAME_WHOLE:\n            return result\n",
                "        if result != FRAME_WHOLE:\n"
                "            frames.prefix_bytes = prefix_bytes\n            return result\n",
            )
        ],
    ),
]
