"""A connection whose stream a framer cuts into messages, and the messages that it writes; for both
the threaded server's and the loop's.

`_frames` finds where a message ends.  What is received is looked at as it comes, in its buffer;
only a message that has not come whole is kept, in memory of its own.  A protocol with
messages_received() is told once in a turn, with TLS or without it, so all that is there is cut
first.  One without it is told of one message after the other, each before the next is looked for:
it may pause, set another framer or begin TLS between them, and what follows is left as it came.

Whatever was read and cannot be delivered yet is `held`: the message that had begun when the framer
was changed, and with TLS the plaintext that came while reading is paused.

Called by `_file_layer`, whose classes derive from MessageUser, and so by `_connection` and
`_transport`, by `_core` and by `_transports`; calls `_tls_layer`, from whose class its own derives,
`_tls`, `_framers`, `_frames`, and of the engine `_filter`, `_delivery` and `_requests`.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memcpy, memset

from iocpx._base cimport count
from iocpx._delivery cimport conn_is_reading_on
from iocpx._filter cimport conn_filter_hold
from iocpx._framers cimport Framer
from iocpx._frames cimport (
    FRAME_BEGUN, FRAME_NO_MEMORY, frame_result, frame_t, FRAME_TOO_LONG,
    FRAME_WHOLE, frames_done, frames_next, frames_size, frames_take,
)
from iocpx._requests cimport conn_is_closing
from iocpx._sched cimport conn_unref
from iocpx._state cimport buf_t
from iocpx._tls cimport Tls
from iocpx._types cimport *

from iocpx._addresses import address_text
from iocpx._errors import os_error

cdef int WSAEMSGSIZE = 10040


@cython.final
cdef class Framed:

    def __dealloc__(self):
        frames_take(&self.frames, NULL)

    cdef void hold(self, bytes data) noexcept:
        """Precondition: nothing is held."""
        self.held_in = data
        memset(&self.held, 0, sizeof(buf_t))
        self.held.data = PyBytes_AS_STRING(data)
        self.held.size = <size_t>PyBytes_GET_SIZE(data)

    cdef Framed passed_to(self, framer):
        """What another framer begins with: what is held.  Precondition: no message is under way."""
        cdef Framed framed = framed_by(framer, self)
        framed.held_in = self.held_in
        framed.held = self.held
        self.held.size = 0
        self.held_in = None
        return framed

    cdef bytes take(self):
        """The message under way and what is held, as it came; neither is there any more."""
        cdef size_t begun = frames_size(&self.frames)
        cdef bytes data
        if begun == 0 and self.held.size == <size_t>len(self.held_in or b""):
            data = self.held_in or b""
        else:
            data = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>(begun + self.held.size))
            frames_take(&self.frames, PyBytes_AS_STRING(data))
            if self.held.size > 0:
                memcpy(PyBytes_AS_STRING(data) + begun, self.held.data, self.held.size)
        self.held.size = 0
        self.held_in = None
        return data


cdef Framed framed_by(framer, Framed before):
    """What was cut before is told first."""
    cdef Framed framed = Framed.__new__(Framed)
    framed.framer = framer
    if framer is not None:
        framed.frames.framing = &(<Framer>framer).framing
    if before is not None:
        framed.whole = before.whole
    return framed


cdef class MessageUser(TlsUser):

    # -- what is received ----------------------------------------------------------------------

    cdef void _cut(self, conn_t *conn, buf_t *buf) noexcept:
        try:
            if not self._drain(conn):
                return
            if self._framed is None:
                self._feed(conn, buf)
            else:
                self._cut_from(conn, buf)
        except BaseException as exc:
            self._unframeable(conn, exc, False)

    cdef void _tls_data(self, conn_t *conn, bytes data) noexcept:
        cdef Framed framed = self._framed
        if framed is None:
            self._tell_data(conn, data)
            return
        try:
            framed.hold(framed.held_in[len(framed.held_in) - framed.held.size:] + data
                        if framed.held.size > 0 else data)
            self._drain(conn)
        except BaseException as exc:
            self._unframeable(conn, exc, False)

    cdef bint _tls_holds(self, conn_t *conn) noexcept:
        if self._framed is None:
            return False
        self._tell_framed(conn)
        return self._framed is not None and self._framed.held.size > 0

    cdef void _tell_framed(self, conn_t *conn) noexcept:
        cdef bint more = True
        try:
            # What messages_received() is told of may make more of it: another framer.
            while more:
                self._tell_whole(conn)
                self._drain(conn)
                more = self._framed is not None and bool(self._framed.whole)
        except BaseException as exc:
            self._unframeable(conn, exc, False)

    cdef bint _drain(self, conn_t *conn) except -1:
        """Go on with what is held.  True: that is all done, and the buffer that follows is next."""
        cdef object tls = self._tls
        cdef Framed framed = self._framed
        cdef bint held = framed is not None and framed.held.size > 0
        while framed is not None and framed.held.size > 0:
            if self._tls is not tls or not conn_is_reading_on(conn):
                return False
            if framed.framer is None:
                self._pass_on(conn, framed)
            else:
                self._cut_from(conn, &framed.held)
            framed = self._framed
        if framed is not None:
            framed.held_in = None
            if framed.framer is None:
                self._set_framed(None)
        if held and self._tls is None:
            conn_filter_hold(conn, False)
        return self._tls is tls and conn_is_reading_on(conn)

    cdef int _pass_on(self, conn_t *conn, Framed framed) except -1:
        """Deliver what a framer that was taken away has left."""
        cdef Tls tls = self._tls
        cdef bytes rest
        self._set_framed(None)
        self._feed(conn, &framed.held)
        if framed.held.size == 0:
            return 0
        # A BufferedProtocol has paused, or set a framer, or begun TLS in its midst.
        rest = framed.take()
        if self._tls is not tls:
            (<Tls>self._tls).feed_bytes(rest)
            return 0
        if self._framed is None:
            self._set_framed(framed)
        self._framed.hold(rest)
        return 0

    cdef int _cut_from(self, conn_t *conn, buf_t *source) except -1:
        """Precondition: there is a framer."""
        cdef Framed framed = self._framed
        cdef object tls = self._tls
        cdef frame_t found
        cdef frame_result result = FRAME_WHOLE
        cdef LONG64 n = 0
        cdef bint together = self._takes_messages()
        cdef bytes message
        if not together and framed.whole is not None:
            # Another thread has set another protocol meanwhile: what was cut before comes first.
            self._tell_whole(conn)
        try:
            while (source.size > 0 and self._framed is framed and self._tls is tls
                   and (together or conn_is_reading_on(conn))):
                result = frames_next(&framed.frames, source.data, source.size, &found)
                source.data += found.taken
                source.size -= found.taken
                if result == FRAME_BEGUN:
                    break
                if result != FRAME_WHOLE:
                    # What came before it is told first, and may have set another framer, or begun
                    # TLS: then this is none of ours.
                    self._tell_whole(conn)
                    if self._framed is framed and self._tls is tls:
                        # In any case: what nobody takes would be given to nobody again and again.
                        source.size = 0
                        if not conn_is_closing(conn):
                            self._refuse(conn, framed.framer, result)
                    break
                message = PyBytes_FromStringAndSize(found.start, <Py_ssize_t>found.size)
                frames_done(&framed.frames)
                n += 1
                if not together:
                    self._tell_data(conn, message)
                elif framed.whole is None:
                    framed.whole = [message]
                else:
                    framed.whole.append(message)
        finally:
            if n > 0:
                count(conn.service, NULL, N_MESSAGES_RECEIVED, n)
        return 0

    cdef int _refuse(self, conn_t *conn, Framer framer, frame_result result) except -1:
        if result == FRAME_NO_MEMORY:
            raise MemoryError
        text = (f"a message has more than max_bytes={framer.max_bytes}"
                if result == FRAME_TOO_LONG else "a message's prefix is less than its own bytes")
        peer = address_text(self.get_extra_info("peername"))
        self._unframeable(conn, os_error(WSAEMSGSIZE, "receive", peer, f"{text}, {framer!r}"), True)
        return 0

    cdef int _tell_whole(self, conn_t *conn) except -1:
        """messages_received, if there are some."""
        cdef Framed framed = self._framed
        cdef list whole
        if framed is None or framed.whole is None:
            return 0
        whole = framed.whole
        framed.whole = None
        if self._takes_messages():
            self._tell_messages(whole)
        else:
            # Another thread has set another protocol meanwhile.
            for message in whole:
                self._tell_data(conn, message)
        return 0

    cdef bint _takes_messages(self) except -1:
        return getattr(self.get_protocol(), "messages_received", None) is not None

    cdef bytes _take_undelivered(self, conn_t *conn, bint ended):
        cdef Framed framed = self._framed
        if framed is None:
            return b""
        if ended or self._tls_told_end:
            # Nothing is delivered after the end, and what has come of a message is none.
            frames_take(&framed.frames, NULL)
        if framed.held.size > 0:
            conn_filter_hold(conn, False)
        return framed.take()

    cdef void _set_framed(self, Framed framed) noexcept:
        with cython.critical_section(self):
            self._framed = framed

    cdef void _end_framed(self) noexcept:
        """What write_message() needs stays: after the end it does nothing, and does not raise."""
        if self._framed is not None:
            frames_take(&self._framed.frames, NULL)
            self._framed.held.size = 0
            self._framed.held_in = None

    def set_framer(self, framer):
        """From now on what is received is cut into messages: framer, an
        iocpx.native.LineFramer or LengthPrefixFramer; None: no longer.

        A protocol with messages_received(messages) is called with a list of bytes, all whole
        messages that there are, once in a delivery.  One without it gets each message by
        data_received(), an empty one, too.  get_buffer() is not called meanwhile.  What has come
        and was not delivered is cut by the new framer from its first byte; with None it is
        delivered as it came.  With TLS it is the plaintext that is cut.

        A message that is longer than the framer's max_bytes resets the connection, after those
        before it were delivered: connection_lost() gets an OSError, WinError 10040.  Of a message
        that is not whole at the end of the stream nothing is heard but that end.

        In a callback of this connection: RuntimeError elsewhere; of a loop's transport: on the
        loop's thread.  Without effect once the connection is closed.  TypeError for another
        object.
        """
        cdef Framed framed = None
        cdef Framed before
        cdef conn_t *conn
        cdef bytes rest
        if framer is not None and not isinstance(framer, Framer):
            raise TypeError("framer must be an iocpx.native.LineFramer, a LengthPrefixFramer or "
                            f"None, got {framer!r}")
        conn = self._enter()
        if conn == NULL:
            return
        try:
            self._may_frame(conn)
            before = self._framed
            if before is not None and before.held.size > 0 and frames_size(&before.frames) == 0:
                # As it is: a protocol that sets one for each message would copy the rest each time.
                framed = before.passed_to(framer)
                self._set_framed(framed)
                conn_filter_hold(conn, True)
                self._wants_turn()
                return
            # Without a lock: it is told on this thread.
            rest = self._take_undelivered(conn, conn.eof_told)
            if framer is not None or rest:
                framed = framed_by(framer, before)
                framed.hold(rest)
            self._set_framed(framed)
            if rest:
                conn_filter_hold(conn, True)
                self._wants_turn()
        finally:
            conn_unref(conn)

    # -- what is sent --------------------------------------------------------------------------

    cdef Framer _framer_to_write(self):
        cdef Framed framed
        with cython.critical_section(self):
            framed = self._framed
        if framed is None or framed.framer is None:
            raise RuntimeError("the connection has no framer: call set_framer() first")
        return framed.framer

    def write_message(self, data):
        """write() one message, with the framer's prefix before it or its delimiter behind it.

        data: bytes-like.  Threads, errors and copies as write(); moreover ValueError for a message
        that is longer than the framer's max_bytes, does not fit its prefix, or has its delimiter
        in it (or an end with which that would begin too early), RuntimeError without a framer.
        """
        cdef Framer framer = self._framer_to_write()
        cdef bytes message = framer._checked(data)
        if PyBytes_GET_SIZE(message) <= COPY_BYTES:
            self.write(framer._joined(message))
        else:
            self.writelines(parts_of(framer, message))

    def write_messages(self, messages):
        """write_message() of each of an iterable, as one write: all of them, or where it raises
        none."""
        cdef Framer framer = self._framer_to_write()
        cdef list parts = []
        cdef bytes message
        for data in messages:
            message = framer._checked(data)
            if PyBytes_GET_SIZE(message) <= COPY_BYTES:
                parts.append(framer._joined(message))
            else:
                parts += parts_of(framer, message)
        if parts:
            self.writelines(parts)

    # -- for a subclass ------------------------------------------------------------------------

    cdef conn_t *_enter(self) noexcept:
        return NULL

    cdef int _may_frame(self, conn_t *conn) except -1:
        return 0

    cdef void _wants_turn(self) noexcept:
        pass

    cdef void _feed(self, conn_t *conn, buf_t *buf) noexcept:
        pass

    cdef void _tell_data(self, conn_t *conn, bytes data) noexcept:
        pass

    cdef void _tell_messages(self, list messages) noexcept:
        pass

    cdef void _unframeable(self, conn_t *conn, exc, bint framing) noexcept:
        pass


cdef list parts_of(Framer framer, bytes message):
    """A long message with what is put around it; sent from where it is."""
    around = framer._prefix(PyBytes_GET_SIZE(message)), message, framer._end()
    return [part for part in around if part is not None]
