"""Handlers inside the engine, which never enter Python.

Called by the workers, for one connection at a time (`handler_t.deliver`, which `_runtime` sets);
calls `_delivery`, `_requests`, `_wants` and `_base`.
"""

from iocpx._base cimport conn_drop_queue, conn_keep_buffer
from iocpx._delivery cimport conn_tell_lost
from iocpx._requests cimport conn_close
from iocpx._state cimport queue_pop, queue_push, STATE_OPEN
from iocpx._types cimport *
from iocpx._wants cimport conn_eof_due, conn_readable
from iocpx._winsock cimport *


cdef void deliver_echo(conn_t *conn) noexcept nogil:
    """Send back what was received: the received buffer itself moves to the outbox."""
    AcquireSRWLockExclusive(&conn.lock)
    conn.due &= ~<int>DUE_MADE
    if conn.state != STATE_OPEN:
        # What is in the outbox by then is the last that goes out.
        conn_drop_queue(conn, &conn.inbox)
    while conn_readable(conn):
        queue_push(&conn.outbox, queue_pop(&conn.inbox))
    native_end(conn)


cdef void deliver_discard(conn_t *conn) noexcept nogil:
    """The received buffer itself is the next receive's."""
    AcquireSRWLockExclusive(&conn.lock)
    conn.due &= ~<int>DUE_MADE
    while conn.inbox.head != NULL:
        conn_keep_buffer(conn, queue_pop(&conn.inbox))
    native_end(conn)


cdef void native_end(conn_t *conn) noexcept nogil:
    """What comes behind all data.  Precondition: conn.lock held, which is released."""
    if conn.due & DUE_LOST and not conn.lost_told:
        conn_tell_lost(conn)
    if conn_eof_due(conn):
        conn.eof_told = True
        ReleaseSRWLockExclusive(&conn.lock)
        conn_close(NULL, conn)
    else:
        ReleaseSRWLockExclusive(&conn.lock)
