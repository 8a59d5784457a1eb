"""Tls: the TLS of one connection, from bytes to bytes.

It knows of no socket, connection or loop: whoever has one feeds what was received and sends what
take_cipher() gives.  The work is done by Python's ssl, so contexts, errors and what can be asked
are Python's own.  Called by `_tls_layer`, `_messages`, `_connection` and `_transport`, made also by
`_connecting`, `_transports` and `_tcp_loop`; calls nothing of iocpx.

Two things make it fast.  The C object behind ssl.SSLObject is called, without a frame of Python
for each record.  And it is called only when it has something to give, since to hear that it has
not, by an SSLWantReadError, costs as much as to decrypt a record.  So the headers of the records
are followed in what is fed.  Their count is only a bound: OpenSSL takes records of its own accord,
in the handshake and where they bring no data.  Exact is another thing: as long as the
ssl.MemoryBIO holds more bytes than the incomplete record at its end has, there is a whole one.
"""

cimport cython
from cpython.buffer cimport PyBuffer_FillInfo
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_Clear, PyErr_ExceptionMatches
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF

import ssl

cdef extern from *:
    """
    #define iocpx_own_bytes(bytes) (bytes)
    """
    # Without Cython's checks of the result: see Tls.none_came.
    PyObject *vectorcall "PyObject_Vectorcall" (PyObject *callable, PyObject *const *args,
                                                size_t nargsf, PyObject *kwnames)
    PyObject *new_bytes "PyBytes_FromStringAndSize" (const char *data,
                                                     Py_ssize_t nbytes) except NULL
    int resize_bytes "_PyBytes_Resize" (PyObject **bytes, Py_ssize_t nbytes) except -1
    char *bytes_memory "PyBytes_AS_STRING" (PyObject *bytes)
    # A reference that is owned, as an object: nothing is counted.
    bytes own_bytes "iocpx_own_bytes" (PyObject *bytes)

cdef enum:
    HEADER_BYTES = 5
    MAX_PLAIN = 16384               # of one record
    MAX_BODY = MAX_PLAIN + 2048     # encrypted, by the most generous of the standards

cdef object SSLObject = ssl.SSLObject
cdef object MemoryBIO = ssl.MemoryBIO
cdef object WantRead = ssl.SSLWantReadError
cdef object ZeroReturn = ssl.SSLZeroReturnError


cdef int raise_pending() except -1:
    """Raise the exception that C code has left."""
    return -1


cdef object method_behind(ssl_object, str name):
    """A method of the C object behind an ssl.SSLObject, unless somebody has replaced the method
    that stands before it."""
    if (isinstance(ssl_object, SSLObject)
            and getattr(type(ssl_object), name) is getattr(SSLObject, name)):
        return getattr(ssl_object._sslobj, name)
    return getattr(ssl_object, name)


@cython.final
cdef class Lent:
    def __getbuffer__(self, Py_buffer *buffer, int flags):
        if self.memory == NULL:
            raise BufferError("the memory has been given back")
        PyBuffer_FillInfo(buffer, self, self.memory, self.nbytes, self.readonly, flags)


# no_gc_clear: what it refers to is used without a look whether it is there.
@cython.final
@cython.no_gc_clear
cdef class Tls:

    def __cinit__(self, context, bint server_side, server_hostname):
        if not isinstance(context, ssl.SSLContext):
            raise TypeError(
                f"the context must be an ssl.SSLContext, got {type(context).__name__}")
        # As Python does it itself from 3.14 on: before, no name would be checked.
        if context.check_hostname and not server_side and not server_hostname:
            raise ValueError("check_hostname requires server_hostname")
        self.context = context
        self.server_side = server_side
        self.incoming = MemoryBIO()
        outgoing = MemoryBIO()
        self.ssl_object = context.wrap_bio(
            self.incoming, outgoing, server_side=server_side, server_hostname=server_hostname)
        self.ssl_read = method_behind(self.ssl_object, "read")
        self.ssl_write = method_behind(self.ssl_object, "write")
        self.ssl_pending = method_behind(self.ssl_object, "pending")
        self.put_incoming = self.incoming.write
        self.take_outgoing = outgoing.read
        self.lent = Lent.__new__(Lent)

    # -- what is received ----------------------------------------------------------------------

    cpdef bint handshake(self) except -1:
        if self.opened:
            return True
        try:
            # Not the C object's: certificates may be verified in a method that replaces this one.
            self.ssl_object.do_handshake()
        except WantRead:
            self.drained()
            return False
        except BaseException:
            self.failed = True
            self.drained()
            raise
        self.opened = True
        self.eaten = 0
        self.rest = self.ssl_pending() > 0
        # Of the records that were counted the handshake has taken most.
        if not self.may_read():
            self.records = 0
        return True

    cdef int feed(self, const char *data, size_t nbytes) except -1:
        # Nobody will read what comes after the end.
        if nbytes == 0 or self.ended or self.failed:
            return 0
        self.lent.memory = <char *>data
        self.lent.nbytes = <Py_ssize_t>nbytes
        self.lent.readonly = True
        try:
            self.put_incoming(self.lent)
        finally:
            self.lent.memory = NULL
        self.count(<const unsigned char *>data, nbytes)
        return 0

    cdef void count(self, const unsigned char *data, size_t nbytes) noexcept:
        """Follow the records."""
        cdef Py_ssize_t left = <Py_ssize_t>nbytes
        cdef Py_ssize_t step
        while left > 0 and not self.uncounted:
            if self.header_bytes < HEADER_BYTES:
                self.header[self.header_bytes] = data[0]
                self.header_bytes += 1
                data += 1
                left -= 1
                if self.header_bytes < HEADER_BYTES:
                    continue
                self.body_bytes = self.header[3] << 8 | self.header[4]
                self.missing = self.body_bytes
                # Types and the major version, as all versions of TLS have them.
                if not (20 <= self.header[0] <= 24 and self.header[1] == 3
                        and self.body_bytes <= MAX_BODY):
                    self.uncounted = True
                    self.whole_bytes = MAX_BODY
                    left += HEADER_BYTES
                    break
            step = min(left, self.missing)
            data += step
            left -= step
            self.missing -= step
            if self.missing == 0:
                self.records += 1
                self.whole_bytes = self.body_bytes
                self.header_bytes = 0
        if self.uncounted:
            # OpenSSL is asked about every byte, and says what is wrong.
            self.records += left

    cdef Py_ssize_t incomplete(self) noexcept:
        """How many bytes there are of the record that has not come whole."""
        if self.uncounted or self.header_bytes == 0:
            return 0
        if self.header_bytes < HEADER_BYTES:
            return self.header_bytes
        return HEADER_BYTES + self.body_bytes - self.missing

    cdef bint may_read(self) except -1:
        """Is there a whole record?"""
        cdef Py_ssize_t pending = self.incoming.pending
        return pending > self.incomplete()

    cdef void drained(self) noexcept:
        """OpenSSL has taken all that was fed, and perhaps a part of a record."""
        self.records = 0
        self.eaten = self.incomplete()

    cpdef bytes read(self, size_t max_bytes):
        if self.records == 1 and not self.rest:
            return self.read_one()
        if self.records == 0 and not self.rest and self.error is None:
            return None
        return self.read_many(max_bytes)

    cdef bytes read_one(self):
        cdef bytes data
        # With 0 the C object would not ask OpenSSL.
        cdef Py_ssize_t room = max(self.whole_bytes, 1)
        cdef object number = room
        cdef PyObject *argument = <PyObject *>number
        cdef PyObject *result
        if not self.opened:
            return None
        result = vectorcall(<PyObject *>self.ssl_read, &argument, 1, NULL)
        if result == NULL:
            self.none_came()
            return None
        data = <bytes?>own_bytes(result)
        self.records = 0
        self.eaten = 0
        if PyBytes_GET_SIZE(data) == 0:
            self.ended = True
            return None
        if PyBytes_GET_SIZE(data) >= room:
            self.rest = self.ssl_pending() > 0
        return data

    cdef bytes read_many(self, size_t max_bytes):
        cdef PyObject *block
        cdef Py_ssize_t room
        cdef Py_ssize_t filled
        if not self.opened:
            return None
        # No plaintext is longer than its record.  If one were, it would have a rest.
        room = self.eaten + <Py_ssize_t>self.incoming.pending - self.incomplete()
        if self.rest:
            room += <Py_ssize_t>self.ssl_pending()
        if <size_t>room > max_bytes:
            room = min(room, <Py_ssize_t>max_bytes + MAX_PLAIN)
        room = max(room, 1)
        block = new_bytes(NULL, room)
        try:
            filled = self.fill(bytes_memory(block), <size_t>room, max_bytes)
        except BaseException:
            Py_DECREF(<object>block)
            raise
        if filled == 0:
            Py_DECREF(<object>block)
            return None
        if filled < room:
            resize_bytes(&block, filled)
        return own_bytes(block)

    cdef Py_ssize_t read_into(self, char *memory, size_t nbytes) except -1:
        if not self.opened:
            return 0
        return self.fill(memory, nbytes, nbytes)

    cdef Py_ssize_t fill(self, char *memory, size_t room, size_t enough) except -1:
        """Read record after record, until `enough` bytes are there."""
        cdef size_t filled = 0
        cdef size_t taken
        cdef PyObject *result
        cdef (PyObject *)[2] arguments
        cdef object left
        if self.error is not None:
            error = self.error
            self.error = None
            raise error
        while self.rest or self.records > 0:
            self.lent.memory = memory + filled
            self.lent.nbytes = <Py_ssize_t>(room - filled)
            self.lent.readonly = False
            left = room - filled
            arguments[0] = <PyObject *>left
            arguments[1] = <PyObject *>self.lent
            result = vectorcall(<PyObject *>self.ssl_read, arguments, 2, NULL)
            self.lent.memory = NULL
            if result == NULL:
                try:
                    self.none_came()
                except BaseException as exc:
                    # What came before it is not lost.
                    if filled == 0:
                        raise
                    self.error = exc
                break
            taken = <size_t>(<object>result)
            Py_DECREF(<object>result)
            if taken == 0:
                self.ended = True
                self.records = 0
                self.rest = False
                break
            if not self.rest:
                self.records -= 1
                self.eaten = 0
            self.rest = taken >= room - filled and self.ssl_pending() > 0
            filled += taken
            if filled >= enough or filled >= room:
                break
        return <Py_ssize_t>filled

    cdef int none_came(self) except -1:
        """After a read that has raised."""
        self.rest = False
        self.drained()
        try:
            raise_pending()
        except WantRead:
            pass
        except ZeroReturn:
            self.ended = True
        except BaseException:
            self.failed = True
            raise
        return 0

    cpdef bint has_more(self) except -1:
        if self.rest or self.error is not None:
            return True
        if self.records > 0 and not self.may_read():
            self.records = 0
        return self.records > 0

    # -- what is sent --------------------------------------------------------------------------

    cdef Py_ssize_t write(self, const char *data, size_t nbytes) except -1:
        cdef size_t written = 0
        cdef PyObject *argument = <PyObject *>self.lent
        cdef PyObject *result
        # OpenSSL would begin with the handshake.
        if not self.opened:
            return 0
        # It writes one record in each call.
        while written < nbytes:
            self.lent.memory = <char *>data + written
            self.lent.nbytes = <Py_ssize_t>(nbytes - written)
            self.lent.readonly = True
            result = vectorcall(<PyObject *>self.ssl_write, &argument, 1, NULL)
            self.lent.memory = NULL
            if result == NULL:
                if not PyErr_ExceptionMatches(WantRead):
                    return raise_pending()
                PyErr_Clear()
                break
            written += <size_t>(<object>result)
            Py_DECREF(<object>result)
        return <Py_ssize_t>written

    cpdef int shutdown(self) except -1:
        if self.shut or not self.opened:
            return 0
        # OpenSSL would look for the peer's close_notify, and throw data away that comes before it.
        held = self.incoming.read()
        try:
            self.ssl_object.unwrap()
            self.shut = True
        except WantRead:
            self.shut = True
        except ssl.SSLError:
            pass                        # there was an error before: nothing to be said any more
        finally:
            self.incoming.write(held)
        return 0

    cpdef bytes take_cipher(self):
        cdef bytes data = self.take_outgoing()
        if PyBytes_GET_SIZE(data) == 0:
            return None
        return data

    # -- for those that cannot call in C -------------------------------------------------------

    def feed_bytes(self, bytes data not None):
        """feed()"""
        self.feed(PyBytes_AS_STRING(data), <size_t>PyBytes_GET_SIZE(data))

    def write_bytes(self, bytes data not None):
        """write()"""
        return self.write(PyBytes_AS_STRING(data), <size_t>PyBytes_GET_SIZE(data))

    def read_into_bytearray(self, bytearray memory not None):
        """read_into()"""
        return self.read_into(PyByteArray_AS_STRING(memory),
                              <size_t>PyByteArray_GET_SIZE(memory))


cdef int check_side(context, bint server_side) except -1:
    # Tls would raise an ssl.SSLError, as if something had failed.
    if not isinstance(context, ssl.SSLContext):
        raise TypeError(f"context must be an ssl.SSLContext, got {context!r}")
    if context.protocol == (ssl.PROTOCOL_TLS_CLIENT if server_side else ssl.PROTOCOL_TLS_SERVER):
        raise ValueError(f"context must be for {'servers' if server_side else 'clients'}, "
                         f"got one of {context.protocol.name}")
    return 0
