from iocpx._types cimport conn_t, worker_t

# Queues a copy of a datagram.  address: a sockaddr of the socket's family, ADDRESS_BYTES of memory;
# NULL: whom the socket is connected to.  The result is write_result's; one beyond max_write_buffer
# is dropped, of which the handler is told.  worker, reference: as conn_write.
cdef int conn_sendto(worker_t *worker, conn_t *conn, const char *address, const char *data,
                     size_t nbytes) noexcept nogil
