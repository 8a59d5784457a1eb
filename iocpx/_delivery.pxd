from iocpx._state cimport buf_t
from iocpx._types cimport conn_t

ctypedef struct news_t:
    bint made
    bint pause
    bint resume
    bint timers         # the time is here that conn_wake_at was told; it asks for the next one
    bint files          # conn_take_files or conn_file_to_read may have something
    size_t sent         # bytes
    buf_t *traces       # owned chain of lines; the caller frees each with buf_free
    buf_t *spent        # owned chain; the caller releases each owner, then buf_free

ctypedef struct lost_t:
    int error               # Windows code; 0: an end without one
    bint sending            # it was a send that failed
    int reason              # abort_reason; -1: closed, and all was sent
    size_t unsent_bytes     # that were queued when it was aborted…
    int unsent_writes       # … in so many writes

# All only by the worker that has the connection, inside its handler.
cdef void conn_take_news(conn_t *conn, news_t *news) noexcept nogil
# The next received buffer, owned, to be given back by conn_give_buffer; NULL: none for now, and
# *wanted is the size of the buffer that the next receive lacks; 0: it has one, or there is no
# next receive.
cdef buf_t *conn_take_data(conn_t *conn, size_t *wanted) noexcept nogil
# Memory for that receive, in place of a buffer of the engine's: so many bytes at data, in owner.
# True: owner is referenced until it comes back, with a received buffer or among the spent.
cdef bint conn_offer(conn_t *conn, void *owner, char *data, size_t nbytes) noexcept nogil
# False: closed or paused since conn_take_data.
cdef bint conn_is_reading_on(conn_t *conn) noexcept nogil
# It is closed, and what comes is for the filter alone, which needs it to send the rest.
cdef bint conn_discards(conn_t *conn) noexcept nogil
# What is left in it (size) is delivered first when the connection reads on.  Whoever has taken
# over its owner, and all data with it, leaves owner and base NULL.
cdef void conn_give_buffer(conn_t *conn, buf_t *buf) noexcept nogil
cdef bint conn_take_eof(conn_t *conn) noexcept nogil
# True, once, when connection_lost is due and nothing comes before it.
cdef bint conn_take_lost(conn_t *conn, lost_t *lost) noexcept nogil
# Likewise for a handler that hears of no end.  Precondition: conn.lock held.
cdef void conn_tell_lost(conn_t *conn) noexcept nogil
