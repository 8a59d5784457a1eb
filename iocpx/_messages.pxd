from iocpx._framers cimport Framer
from iocpx._frames cimport frame_result, frames_t
from iocpx._state cimport buf_t
from iocpx._tls_layer cimport TlsUser
from iocpx._types cimport conn_t


# What a connection has of its framer.
cdef class Framed:
    cdef Framer framer                  # constant; None: it was taken away, `held` is all there is
    cdef frames_t frames                # the message under way; framing is the framer's
    cdef list whole                     # messages for messages_received, not told yet; or None
    # Received, decrypted, and not looked at by this framer.  No buffer of the engine's:
    cdef buf_t held
    cdef bytes held_in                  # what it lies in

    cdef void hold(self, bytes data) noexcept
    cdef Framed passed_to(self, framer)
    cdef bytes take(self)


# What a connection with a framer is to this room: Connection and Transport derive from it.  All
# methods of C: the connection's turn, or the loop's thread; the GIL.
cdef class MessageUser(TlsUser):
    cdef Framed _framed                 # None: no framer.  Critical section: writers read it

    # A received buffer, where there is a _framed.  What is left in it goes back to the inbox.
    cdef void _cut(self, conn_t *conn, buf_t *buf) noexcept
    # After all that were there: tells messages_received, and has what is held.
    cdef void _tell_framed(self, conn_t *conn) noexcept
    # What was received and not delivered, as it came; from now on it is the caller's.
    # ended: the protocol was told that there is no more.
    cdef bytes _take_undelivered(self, conn_t *conn, bint ended)
    # connection_lost comes.
    cdef void _end_framed(self) noexcept
    cdef void _set_framed(self, Framed framed) noexcept
    cdef bint _drain(self, conn_t *conn) except -1
    cdef int _pass_on(self, conn_t *conn, Framed framed) except -1
    cdef int _cut_from(self, conn_t *conn, buf_t *source) except -1
    cdef int _refuse(self, conn_t *conn, Framer framer, frame_result result) except -1
    cdef int _tell_whole(self, conn_t *conn) except -1
    cdef bint _takes_messages(self) except -1
    cdef Framer _framer_to_write(self)

    # For a subclass.
    # The conn_t with a reference for the caller; NULL: closed.
    cdef conn_t *_enter(self) noexcept
    # RuntimeError where this thread may not set a framer now.
    cdef int _may_frame(self, conn_t *conn) except -1
    # Have a turn soon, for what is held; unless it is under way.
    cdef void _wants_turn(self) noexcept
    # Deliver a received buffer as it is, or by _cut where there is a _framed.
    cdef void _feed(self, conn_t *conn, buf_t *buf) noexcept
    # data_received
    cdef void _tell_data(self, conn_t *conn, bytes data) noexcept
    # messages_received
    cdef void _tell_messages(self, list messages) noexcept
    # It cannot go on.  framing: the peer has sent what is no message; else it was us.
    cdef void _unframeable(self, conn_t *conn, exc, bint framing) noexcept
