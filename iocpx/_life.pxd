from iocpx._types cimport abort_reason, conn_t, recv_t

# Precondition: conn.lock held, handle open.
cdef void conn_cancel(conn_t *conn) noexcept nogil
# Precondition: conn.lock held.
cdef void op_pended(conn_t *conn, recv_t *recv) noexcept nogil
# Precondition: conn.lock held, handle open or recv not posted.
cdef void recv_take_back(conn_t *conn, recv_t *recv) noexcept nogil
# Precondition: conn.lock held.
cdef void conn_fail(conn_t *conn, abort_reason reason, int error, bint sending) noexcept nogil
# Precondition: conn.lock held.
cdef void conn_end_of_stream(conn_t *conn) noexcept nogil
# Precondition: conn.lock held.
cdef void conn_active(conn_t *conn) noexcept nogil
# Precondition: conn.lock held, write_eof asked for.
cdef void conn_shut(conn_t *conn) noexcept nogil
# Precondition: conn.lock held; no TransmitFile is pending.
cdef void conn_drop_files(conn_t *conn) noexcept nogil
# Precondition: conn.lock held, nothing pending; returns with the lock held again,
# connection_lost due.
cdef void conn_close_handle(conn_t *conn) noexcept nogil
