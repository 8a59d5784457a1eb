"""Framers: what a connection's stream is made of, given to set_framer().

Public as iocpx.native.LineFramer and LengthPrefixFramer.  Here they are arguments that were
checked, and messages on their way out; `_frames` reads what comes in.

Called by `_messages`, which has the connection, and by the program through `native`; calls
`_frames`.
"""

cimport cython
from cpython.buffer cimport PyObject_CheckBuffer
from cpython.bytes cimport (
    PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE,
)
from libc.string cimport memcpy

from iocpx._frames cimport (
    frames_delimiter, frames_is_clean, frames_put_prefix, MAX_DELIMITER, MAX_PREFIX,
)

from iocpx._arguments import integer, integer_between

MAX_BYTES = 2**48


cdef class Framer:
    def __cinit__(self):
        # Without its arguments it would be none.
        if not isinstance(self, (LineFramer, LengthPrefixFramer)):
            raise TypeError("a framer is a LineFramer or a LengthPrefixFramer")

    cdef tuple _arguments(self):
        """(positional, those with a name)"""
        return (), {}

    def __repr__(self):
        positional, named = self._arguments()
        texts = [*map(repr, positional), *(f"{name}={value!r}" for name, value in named.items())]
        return f"iocpx.native.{type(self).__name__}({', '.join(texts)})"

    def __eq__(self, other):
        if type(self) is not type(other):
            return NotImplemented
        return self._arguments() == (<Framer>other)._arguments()

    def __hash__(self):
        positional, named = self._arguments()
        return hash((type(self), positional, tuple(named.values())))

    def __reduce__(self):
        return make, (type(self), *self._arguments())

    cdef bytes _checked(self, data):
        if not PyBytes_CheckExact(data):
            if not PyObject_CheckBuffer(data):
                raise TypeError(
                    f"a message must be a bytes-like object, got {type(data).__name__}")
            data = bytes(memoryview(data))
        if <size_t>PyBytes_GET_SIZE(data) > self.framing.max_bytes:
            raise ValueError(f"a message must have at most max_bytes={self.max_bytes} bytes, "
                             f"got one of {PyBytes_GET_SIZE(data)}")
        return data

    cdef bytes _prefix(self, Py_ssize_t nbytes):
        return None

    cdef bytes _end(self):
        return None

    cdef bytes _joined(self, bytes message):
        cdef Py_ssize_t before = self.framing.prefix_bytes
        cdef Py_ssize_t nbytes = PyBytes_GET_SIZE(message)
        cdef Py_ssize_t behind = self.framing.delimiter_bytes
        cdef bytes joined = PyBytes_FromStringAndSize(NULL, before + nbytes + behind)
        cdef char *into = PyBytes_AS_STRING(joined)
        frames_put_prefix(&self.framing, <size_t>nbytes, <unsigned char *>into)
        memcpy(into + before, PyBytes_AS_STRING(message), <size_t>nbytes)
        memcpy(into + before + nbytes, self.framing.delimiter, <size_t>behind)
        return joined


@cython.final
cdef class LineFramer(Framer):
    """Messages that end with a delimiter, which is no part of them: lines.

    max_bytes: int, 1 to 2^48: of a message, without its delimiter.  A connection that sends more
    without one is reset, and holds no more than that meanwhile.
    delimiter: bytes, 1 to 255 of them, any.  Only exactly these end a message: with b"\\n" what a
    peer ends with b"\\r\\n" keeps its b"\\r".

    For Connection.set_framer() and the loop's transports.  Cannot be changed; two with the same
    arguments are equal.  TypeError or ValueError for a wrong argument.
    """

    cdef readonly bytes delimiter

    def __cinit__(self, max_bytes, delimiter=b"\n"):
        self.max_bytes = integer_between("max_bytes", max_bytes, 1, MAX_BYTES)
        if not isinstance(delimiter, bytes):
            raise TypeError(f"delimiter must be bytes, got {delimiter!r}")
        if not 1 <= len(delimiter) <= MAX_DELIMITER:
            raise ValueError(
                f"delimiter must have 1 to {MAX_DELIMITER} bytes, got {len(delimiter)}")
        self.delimiter = bytes(delimiter)
        self.framing.max_bytes = self.max_bytes
        frames_delimiter(&self.framing, PyBytes_AS_STRING(delimiter),
                         <int>PyBytes_GET_SIZE(delimiter))

    cdef tuple _arguments(self):
        return (self.max_bytes,), {"delimiter": self.delimiter}

    cdef bytes _checked(self, data):
        cdef bytes message = Framer._checked(self, data)
        if not frames_is_clean(&self.framing, PyBytes_AS_STRING(message),
                               <size_t>PyBytes_GET_SIZE(message)):
            raise ValueError("a message must not have the delimiter in it, nor end so that it "
                             f"begins there: {self.delimiter!r}")
        return message

    cdef bytes _end(self):
        return self.delimiter


@cython.final
cdef class LengthPrefixFramer(Framer):
    """Messages with their length before them, as an unsigned integer, which is no part of them.

    prefix_bytes: int, 1, 2, 4 or 8: of that integer.
    max_bytes: int, 1 to 2^48: of a message, without its prefix.  A connection that announces more
    is reset at once; memory is used for what has come, not for what is announced.
    endian: "big" (the highest byte first, network order) or "little".
    includes_prefix: bool: does the length count the prefix's own bytes?  One that is less than
    these resets the connection as well.

    For Connection.set_framer() and the loop's transports.  Cannot be changed; two with the same
    arguments are equal.  TypeError or ValueError for a wrong argument.
    """

    cdef readonly object prefix_bytes
    cdef readonly str endian
    cdef readonly bint includes_prefix

    def __cinit__(self, prefix_bytes, *, max_bytes, endian="big", includes_prefix=False):
        self.prefix_bytes = integer("prefix_bytes", prefix_bytes)
        if self.prefix_bytes not in (1, 2, 4, MAX_PREFIX):
            raise ValueError(f"prefix_bytes must be 1, 2, 4 or 8, got {self.prefix_bytes}")
        self.max_bytes = integer_between("max_bytes", max_bytes, 1, MAX_BYTES)
        if endian not in ("big", "little"):
            raise ValueError(f"endian must be 'big' or 'little', got {endian!r}")
        self.endian = endian
        self.includes_prefix = includes_prefix
        self.framing.max_bytes = self.max_bytes
        self.framing.prefix_bytes = self.prefix_bytes
        self.framing.little = endian == "little"
        self.framing.includes_prefix = self.includes_prefix

    cdef tuple _arguments(self):
        return (self.prefix_bytes,), {
            "max_bytes": self.max_bytes, "endian": self.endian,
            "includes_prefix": self.includes_prefix,
        }

    cdef bytes _checked(self, data):
        cdef bytes message = Framer._checked(self, data)
        cdef unsigned char[MAX_PREFIX] prefix
        if not frames_put_prefix(&self.framing, <size_t>PyBytes_GET_SIZE(message), prefix):
            raise ValueError(f"a message of {len(message)} bytes does not fit a prefix of "
                             f"{self.prefix_bytes}")
        return message

    cdef bytes _prefix(self, Py_ssize_t nbytes):
        cdef unsigned char[MAX_PREFIX] prefix
        frames_put_prefix(&self.framing, <size_t>nbytes, prefix)
        return PyBytes_FromStringAndSize(<char *>prefix, self.framing.prefix_bytes)


def make(kind, positional, named):
    """A framer, of what its __reduce__() has said."""
    return kind(*positional, **named)
