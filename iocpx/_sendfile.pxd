from libc.stdint cimport uint64_t

from iocpx._types cimport conn_t, file_t, worker_t
from iocpx._winsock cimport HANDLE

cdef enum sendfile_result:
    SENDFILE_TAKEN
    SENDFILE_CLOSED         # nothing can be written any more
    SENDFILE_UNFIT          # TransmitFile is not for this connection: the handler has to read it
    SENDFILE_NO_MEMORY

# The caller's to free by file_free, until conn_sendfile has taken it.  handle: of a file that is
# open for overlapped reading, borrowed from owner, which is referenced until the file_t is taken
# back.  left: bytes at most.  there: bytes that the file has from offset on, for the marks; 0:
# nobody knows.  NULL: out of memory.
cdef file_t *file_new(HANDLE handle, void *owner, uint64_t offset, uint64_t left,
                      size_t there) noexcept nogil
cdef void file_free(file_t *file) noexcept nogil
# Queues it behind all that is written, as `_requests` does it.  Any thread.
cdef sendfile_result conn_sendfile(worker_t *worker, conn_t *conn, file_t *file) noexcept nogil
# It is over as soon as may be, and the connection goes on.  Not after conn_take_files has brought
# it.
cdef void conn_cancel_file(conn_t *conn, file_t *file) noexcept nogil
# Any thread: is one to be sent, or something that was written behind one?
cdef bint conn_sends_files(conn_t *conn) noexcept nogil

# On news_t.files, in the connection's turn:
# Those that are over, a chain by buf.next, each the caller's to free.
cdef file_t *conn_take_files(conn_t *conn) noexcept nogil
# Whose next part is to be read, and *nbytes of it at most; NULL: none, for now.
cdef file_t *conn_file_to_read(conn_t *conn, size_t *nbytes) noexcept nogil
# That part: a copy, or data itself where it is long and lies in `owner`.  The result is
# write_result's: KEPT, NO_MEMORY.
cdef int conn_put_part(conn_t *conn, const char *data, size_t nbytes, void *owner) noexcept nogil
# There is no more of it.
cdef void conn_end_file(conn_t *conn) noexcept nogil
