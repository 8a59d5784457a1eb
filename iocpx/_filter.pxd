from iocpx._state cimport buf_t, queue_t
from iocpx._types cimport conn_t, worker_t

# All but conn_filter_begin: in the connection's turn, on the worker that has it, or on the loop's
# thread between two turns; the caller has a reference.

# From here on what is written and what is received goes through a filter: the caller's, which has
# to open before anything passes.  What was written before leaves as it is, before all else.
# False: the connection is not open, has a filter, or sends a file.  Any thread; what the handler
# has not been given by then is the filter's.  It has a turn soon.  resume: reading was paused until
# now, and afterwards it would be too late: the handler may pause it again by then.
cdef bint conn_filter_begin(worker_t *worker, conn_t *conn, bint resume) noexcept nogil
# It has the turn that it is promised by conn_filter_begin, before it looks at anything: without it
# it would have another one, and one more.
cdef void conn_filter_begun(conn_t *conn) noexcept nogil
cdef void conn_filter_open(conn_t *conn) noexcept nogil
# Whether the handler left something with the filter when it paused reading.
cdef void conn_filter_hold(conn_t *conn, bint holds) noexcept nogil
# Is this thread in one of the connection's callbacks, where the filter may work?  Any thread.
cdef bint conn_may_filter(conn_t *conn) noexcept nogil
# What is to be filtered, in order; the figures of the queue count it until conn_put_filtered.
# True: there is no more to come, the filter shall end once it has put all that.
cdef bint conn_take_plain(conn_t *conn, queue_t *plain) noexcept nogil
# What of it the filter cannot take before it has received more, which is the rest; with `done`
# where the connection has ended meanwhile.
cdef void conn_return_plain(conn_t *conn, queue_t *plain, queue_t *done) noexcept nogil
# What is not needed any more; an owned chain of what has owners: release_spent.
cdef buf_t *conn_free_plain(conn_t *conn, queue_t *plain) noexcept nogil
# Queues what the filter has made of `plain_bytes` in `writes`, both maybe 0: a copy, or data itself
# where it is long and lies in `owner`.  The result is write_result's: KEPT, NO_MEMORY.
cdef int conn_put_filtered(conn_t *conn, const char *data, size_t nbytes, void *owner,
                           size_t plain_bytes, int writes) noexcept nogil
# Its last bytes have been put; what is still to be filtered is dropped, and so are files.
cdef void conn_filter_end(conn_t *conn) noexcept nogil
