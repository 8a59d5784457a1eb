"""Handlers in C: how one is told of its connection, and what it can ask for.

`engine_api.pxd` is the interface, with what it promises.  Called by the workers
(`handler_t.deliver`, which `_runtime` sets) and by the handlers, through the table that
`_engine_api` has filled in here; calls `_delivery`, `_requests`, `_sched` and `_base`.
"""

from libc.stdint cimport uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from iocpx._base cimport conn_ref, now_ms
from iocpx._delivery cimport (
    conn_give_buffer, conn_take_data, conn_take_eof, conn_take_lost, conn_take_news, lost_t, news_t,
)
from iocpx._requests cimport (
    conn_abort, conn_close, conn_flush, conn_is_closing, conn_pause_reading, conn_set_marks,
    conn_take_spent, conn_tell_sent, conn_wake_at, conn_write, conn_write_buffer_size,
    conn_write_eof, WRITE_CLOSED, WRITE_FLUSH, WRITE_KEPT, WRITE_NO_MEMORY, WRITE_SPENT,
)
from iocpx._sched cimport conn_unref
from iocpx._state cimport buf_free, buf_t
from iocpx._types cimport *
from iocpx.engine_api cimport (
    API_CLOSED, api_conn_t, API_NO_MEMORY, api_result, API_TAKEN, API_VERSION, engine_api_t,
    handler_api_t,
)

cdef enum:
    LONGEST_MS = 2147483647     # 24 days

# What conn.user points to while `made` runs.
cdef char in_made = 0

# The owner of a buffer of a handler in C.
ctypedef struct owner_t:
    void (*release)(void *argument) noexcept nogil
    void *argument


cdef void release_owners(buf_t *spent) noexcept nogil:
    """Let go of what has been sent: an owned chain."""
    cdef buf_t *buf
    cdef owner_t *owner
    while spent != NULL:
        buf = spent
        spent = buf.next
        owner = <owner_t *>buf.owner
        owner.release(owner.argument)
        free(owner)
        buf_free(buf)


cdef void tell_marks(conn_t *conn, bint paused) noexcept nogil:
    cdef const handler_api_t *handler = conn.service.config.handler.c_handler
    if handler.marks != NULL:
        handler.marks(conn, conn.user, paused)


cdef void tell_made(conn_t *conn) noexcept nogil:
    cdef const handler_api_t *handler = conn.service.config.handler.c_handler
    if handler.sent != NULL:
        conn_tell_sent(conn, True)
    if handler.made != NULL:
        # Meanwhile nothing is told, not even by what it writes: `own` is not there yet.
        conn.user = &in_made
        conn.user = handler.made(conn, handler.user)
        # Of this turn, so without the lock.
        if conn.pause_told:
            tell_marks(conn, True)


cdef void deliver_to_c(conn_t *conn) noexcept nogil:
    cdef const handler_api_t *handler = conn.service.config.handler.c_handler
    cdef news_t news
    cdef lost_t lost
    cdef buf_t *buf
    cdef size_t wanted
    conn_take_news(conn, &news)
    release_owners(news.spent)
    if news.made:
        tell_made(conn)
    if news.pause:
        tell_marks(conn, True)
    if news.resume:
        tell_marks(conn, False)
    if news.sent > 0:
        handler.sent(conn, conn.user, news.sent)
    buf = conn_take_data(conn, &wanted)
    while buf != NULL:
        if handler.data != NULL:
            handler.data(conn, conn.user, buf.data, buf.size)
        buf.size = 0
        conn_give_buffer(conn, buf)
        buf = conn_take_data(conn, &wanted)
    if news.timers and handler.timer != NULL:
        handler.timer(conn, conn.user)
    if conn_take_eof(conn) and (handler.eof == NULL or not handler.eof(conn, conn.user)):
        conn_close(NULL, conn)
    if conn_take_lost(conn, &lost) and handler.lost != NULL:
        handler.lost(conn, conn.user, lost.error)
    # Without the lock, as in worker_delivered.
    conn.delivering = False


# -- the table -------------------------------------------------------------------------------


cdef api_result written(conn_t *conn, int result) noexcept nogil:
    if result & WRITE_FLUSH and conn_flush(NULL, conn) and conn.user != &in_made:
        tell_marks(conn, True)
    if result & (WRITE_FLUSH | WRITE_SPENT):
        release_owners(conn_take_spent(conn))
    if result & WRITE_NO_MEMORY:
        return API_NO_MEMORY
    return API_CLOSED if result & WRITE_CLOSED else API_TAKEN


cdef api_result api_write(api_conn_t conn, const void *data, size_t nbytes) noexcept nogil:
    if nbytes == 0:
        return API_TAKEN
    return written(<conn_t *>conn, conn_write(NULL, <conn_t *>conn, <const char *>data, nbytes,
                                              NULL))


cdef api_result api_write_owned(api_conn_t conn, const void *data, size_t nbytes,
                                void (*release)(void *argument) noexcept nogil,
                                void *argument) noexcept nogil:
    cdef int result
    cdef api_result told
    cdef owner_t *owner = NULL
    # Once it is released the caller's own hold may be gone, by another worker that has sent it.
    conn_ref(<conn_t *>conn)
    if nbytes > COPY_BYTES:
        owner = <owner_t *>malloc(sizeof(owner_t))
        if owner == NULL:
            result = WRITE_NO_MEMORY
        else:
            owner.release = release
            owner.argument = argument
            result = conn_write(NULL, <conn_t *>conn, <const char *>data, nbytes, owner)
            if not result & WRITE_KEPT:
                free(owner)
    elif nbytes > 0:
        result = conn_write(NULL, <conn_t *>conn, <const char *>data, nbytes, NULL)
    else:
        result = 0
    told = written(<conn_t *>conn, result)
    conn_unref(<conn_t *>conn)
    if not result & WRITE_KEPT:
        release(argument)
    return told


cdef void api_write_eof(api_conn_t conn) noexcept nogil:
    conn_write_eof(NULL, <conn_t *>conn)


cdef void api_close(api_conn_t conn) noexcept nogil:
    conn_close(NULL, <conn_t *>conn)


cdef void api_abort(api_conn_t conn) noexcept nogil:
    conn_abort(NULL, <conn_t *>conn, ABORT_APPLICATION)


cdef int api_is_closing(api_conn_t conn) noexcept nogil:
    return conn_is_closing(<conn_t *>conn)


cdef void api_pause(api_conn_t conn, int paused) noexcept nogil:
    conn_pause_reading(NULL, <conn_t *>conn, paused != 0)


cdef size_t api_queued(api_conn_t conn) noexcept nogil:
    return conn_write_buffer_size(<conn_t *>conn)


cdef void api_set_marks(api_conn_t conn, size_t high, size_t low) noexcept nogil:
    conn_set_marks(NULL, <conn_t *>conn, high, low)


cdef void api_wake(api_conn_t conn, uint64_t delay_ms) noexcept nogil:
    # The added 1: the clock is rounded down.
    conn_wake_at(<conn_t *>conn, now_ms() + min(delay_ms, <uint64_t>LONGEST_MS) + 1
                 if delay_ms > 0 else 0)


cdef void api_address(api_conn_t conn, int of_peer, void *into) noexcept nogil:
    # Constant as long as the handler knows the connection.
    cdef const char *address = (<conn_t *>conn).local
    if of_peer:
        address = (<conn_t *>conn).remote
    memcpy(into, address, ADDRESS_BYTES)


cdef void api_hold(api_conn_t conn) noexcept nogil:
    conn_ref(<conn_t *>conn)


cdef void api_let_go(api_conn_t conn) noexcept nogil:
    conn_unref(<conn_t *>conn)


cdef void fill_engine_api(engine_api_t *api) noexcept nogil:
    api.version = API_VERSION
    api.write = api_write
    api.write_owned = api_write_owned
    api.write_eof = api_write_eof
    api.close = api_close
    api.abort = api_abort
    api.is_closing = api_is_closing
    api.pause = api_pause
    api.queued = api_queued
    api.set_marks = api_set_marks
    api.wake = api_wake
    api.address = api_address
    api.hold = api_hold
    api.let_go = api_let_go
