from cpython.object cimport PyObject


# Somebody else's memory as an object, for the time of one call: a memoryview would be made anew
# each time.
cdef class Lent:
    cdef char *memory                   # the lender's
    cdef Py_ssize_t nbytes
    cdef bint readonly


# One thread at a time, with the GIL: the caller's promise.  No method calls a protocol, but a
# handshake calls the context's callbacks, and every call of OpenSSL lets go of the GIL meanwhile.
#
# An error of the handshake or a read has ended the connection but for the alert: take_cipher()
# gives it, feed() takes nothing any more and there is no more to read.
#
# Tls(context, server_side, server_hostname): as context.wrap_bio(), and raises what that raises.
cdef class Tls:
    # ssl.SSLObject, or what the context makes instead.
    cdef readonly object ssl_object
    cdef readonly object context
    cdef readonly bint server_side
    cdef readonly bint opened           # the handshake is done
    cdef readonly bint ended            # the peer's close_notify has been read
    cdef readonly bint shut             # ours is in what take_cipher() gives, or has given

    cdef object incoming                # ssl.MemoryBIO: received, and not yet seen by OpenSSL
    # Methods of the C object behind ssl_object, and of the two ssl.MemoryBIO.
    cdef object ssl_read
    cdef object ssl_write
    cdef object ssl_pending
    cdef object put_incoming
    cdef object take_outgoing
    cdef Lent lent
    cdef object error                   # raised by the next read, since this one had data
    cdef bint failed

    # The stream of records that is fed, as far as it came: the header of the last record and how
    # many bytes of its body are still to come.
    cdef unsigned char[5] header
    cdef int header_bytes               # of it are there
    cdef Py_ssize_t body_bytes
    cdef Py_ssize_t missing             # of them
    cdef bint uncounted                 # these are no records, or OpenSSL knows better
    # Whole records that wait for a read.  Never too few; too many where OpenSSL has taken several
    # in one call, until a read finds none.
    cdef Py_ssize_t records
    cdef Py_ssize_t whole_bytes         # the body of the last one, more than its plaintext
    cdef Py_ssize_t eaten               # bytes of an incomplete record that OpenSSL has already
    cdef bint rest                      # OpenSSL holds decrypted bytes that had no room

    # One step of the handshake; True: it is done, with this step or before.
    cpdef bint handshake(self) except -1
    # What was received.
    cdef int feed(self, const char *data, size_t nbytes) except -1
    # The plaintext of all records that are there, but no further record once max_bytes are
    # reached; None: none now.  Sets `ended`, perhaps together with the last data.
    cpdef bytes read(self, size_t max_bytes)
    # The same into the caller's memory; how many bytes, 0: none now.
    cdef Py_ssize_t read_into(self, char *memory, size_t nbytes) except -1
    # Does another read have something to look at: a whole record, bytes that had no room, or the
    # error that came after data?  A record need not bring data.
    cpdef bint has_more(self) except -1
    # Encrypt; how many bytes were taken.  Fewer than all: OpenSSL has to read first (a handshake,
    # at the beginning or anew), and the same data is to be offered again after the next read.  The
    # memory must not change meanwhile.  What take_cipher() has not taken is kept in one block,
    # which is never given back: whoever has much to write does it in pieces.
    cdef Py_ssize_t write(self, const char *data, size_t nbytes) except -1
    # Our close_notify.  Reading goes on until the peer's, but decrypted bytes that had no room
    # are lost.
    cpdef int shutdown(self) except -1
    # All that is to be sent; None: nothing.  Due after each of the others but feed(): a read may
    # answer something too.
    cpdef bytes take_cipher(self)

    cdef void count(self, const unsigned char *data, size_t nbytes) noexcept
    cdef Py_ssize_t incomplete(self) noexcept
    cdef bint may_read(self) except -1
    cdef bytes read_one(self)
    cdef bytes read_many(self, size_t max_bytes)
    cdef Py_ssize_t fill(self, char *memory, size_t room, size_t enough) except -1
    cdef int none_came(self) except -1
    cdef void drained(self) noexcept


# TypeError, ValueError: no context for that side.
cdef int check_side(context, bint server_side) except -1
