from iocpx._frames cimport framing_t


# How a connection's stream is made of messages: LineFramer or LengthPrefixFramer.  Constant, so
# that any number of connections and threads may share one.
cdef class Framer:
    cdef framing_t framing
    cdef readonly object max_bytes

    cdef tuple _arguments(self)
    # A message to be sent, as bytes.  TypeError, ValueError: it is none.
    cdef bytes _checked(self, data)
    # What stands before and behind it, each bytes or None.
    cdef bytes _prefix(self, Py_ssize_t nbytes)
    cdef bytes _end(self)
    # A message with what is put around it, in one piece: for one that is copied all the same.
    cdef bytes _joined(self, bytes message)
