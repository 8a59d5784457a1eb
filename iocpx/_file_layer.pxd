from libc.stdint cimport uint64_t

from iocpx._messages cimport MessageUser
from iocpx._sendfile cimport sendfile_result
from iocpx._types cimport conn_t, file_t, worker_t
from iocpx._winsock cimport HANDLE


# A file that is to be sent, or has been, and who waits for that.
cdef class SentFile:
    cdef HANDLE handle              # owned: the file once more, for TransmitFile; NULL: none
    cdef object source              # what is read instead
    cdef bint own_source            # … which is ours to close
    cdef bint sought                # … and stands where it is read
    cdef object future              # gets the outcome
    cdef readonly uint64_t begin    # offset in bytes
    cdef uint64_t count             # bytes at most
    cdef size_t there               # that a real file has from there on; 0 for others
    cdef readonly uint64_t nbytes   # that have been sent
    cdef object exc                 # what reading it raised
    cdef file_t *file               # the connection's, as long as that has it

    cdef void close(self) noexcept
    cdef int read_instead(self) except -1
    cdef bytes read(self, size_t nbytes)


# What a connection that sends files is to this room.
cdef class FileUser(MessageUser):
    # On news_t.files, in the connection's turn; GIL held.
    cdef void _serve_files(self, conn_t *conn) noexcept
    cdef int _read_part(self, conn_t *conn, SentFile sent, size_t nbytes) except -1
    # For a subclass: a file could not be read on, or whoever waited for one has raised.
    cdef void _file_failed(self, conn_t *conn, exc) noexcept
    cdef void _file_callback_raised(self, exc) noexcept


cdef class FileSender(FileUser):
    cdef object _raised             # what a callback or a file raised, for connection_lost


# The caller has a reference to conn.  Raises MemoryError.
cdef sendfile_result queue_file(worker_t *worker, conn_t *conn, SentFile sent) except *
# On the one thread that serves conn.
cdef void cancel_file(conn_t *conn, SentFile sent) noexcept
# Those that are over, where nobody is told of anything any more.
cdef void drop_files(conn_t *conn) noexcept
