"""Datagrams: what the transports of datagram endpoints have in common, on threads and on a loop.

Called by `_datagram_server` and `_datagram_transport`, whose classes derive from its; calls
`_peers`, and of the engine `_sendto`, `_datagrams`, `_delivery` and `_requests`.
"""

cimport cython
from cpython.buffer cimport (
    PyBUF_SIMPLE, PyBuffer_Release, PyObject_CheckBuffer, PyObject_GetBuffer,
)
from cpython.bytes cimport PyBytes_FromStringAndSize

from iocpx._base cimport conn_ref
from iocpx._datagrams cimport (
    conn_datagrams, conn_give_datagram, datagram_bytes, datagram_of,
)
from iocpx._delivery cimport conn_take_data
from iocpx._peers cimport Peers
from iocpx._requests cimport (
    conn_abort, conn_close, conn_flush, conn_get_marks, conn_is_closing, conn_set_marks,
    conn_write_buffer_size, WRITE_FLUSH, WRITE_NO_MEMORY,
)
from iocpx._sched cimport conn_unref
from iocpx._sendto cimport conn_sendto
from iocpx._state cimport buf_t
from iocpx._types cimport *


from iocpx._addresses import address_text
from iocpx._arguments import write_marks
from iocpx._errors import os_error


cdef class Datagrams:
    cdef int _begin(self, int family, sockname, remote, bint connected) except -1:
        self._peers = Peers.__new__(Peers, family)
        self._sockname = sockname
        self._remote = remote
        self._connected = connected
        return 0

    cdef void _take_conn(self, conn_t *conn) noexcept:
        conn_ref(conn)                  # dropped by _detach
        self._conn = conn

    cdef void _detach(self) noexcept:
        cdef conn_t *conn
        with cython.critical_section(self):
            conn = self._conn
            self._conn = NULL
        if conn != NULL:
            conn_unref(conn)

    cdef conn_t *_enter(self) noexcept:
        cdef conn_t *conn
        with cython.critical_section(self):
            conn = self._conn
            if conn != NULL:
                conn_ref(conn)
        return conn

    cdef _take_protocol(self, protocol):
        cdef bint in_lists = False
        try:
            in_lists = callable(getattr(type(protocol), "datagrams_received", None))
        except Exception:
            pass        # of a metaclass that answers for every name
        before = None
        with cython.critical_section(self):
            # Not the last reference: what its end calls would come before the rest is changed.
            before = self._protocol
            self._protocol = protocol
            self._in_lists = in_lists

    cdef object _run(self, str name, tuple arguments):
        callback = getattr(self.get_protocol(), name, None)
        return None if callback is None else callback(*arguments)

    cdef void _call(self, str name, tuple arguments) noexcept:
        try:
            self._run(name, arguments)
        except BaseException as exc:
            self._failed(name, exc)

    cdef void _tell_marks(self, str name) noexcept:
        self._call(name, ())

    cdef worker_t *_by(self) noexcept:
        return NULL

    cdef void _failed(self, str name, exc) noexcept:
        pass

    cdef int _returned(self, str name, result) except -1:
        return 0

    cdef bint _later(self, data, addr, error, bint sending) except -1:
        return False

    cdef void _ending(self, bint aborted) noexcept:
        pass

    cdef void _tell_list(self, protocol, list some) noexcept:
        try:
            result = protocol.datagrams_received(some)
            if result is not None:
                self._returned("datagrams_received", result)
        except BaseException as exc:
            self._failed("datagrams_received", exc)

    cdef bint _leaves_now(self) noexcept:
        return False

    cdef void _asked(self) noexcept:
        pass

    cdef void _tell_datagrams(self, conn_t *conn) noexcept:
        cdef size_t wanted
        cdef list some = None
        cdef bint in_lists
        cdef bint sending
        listed = None                   # whose the list is: it may be another's turn from then on
        # What comes meanwhile is the next turn's: an error_received() that sends what does not fit
        # in would be called again, and again, and nothing be sent.
        cdef int left = conn_datagrams(conn)
        cdef buf_t *buf = conn_take_data(conn, &wanted) if left > 0 else NULL
        while buf != NULL:
            left -= 1
            with cython.critical_section(self):
                protocol = self._protocol
                in_lists = self._in_lists
            if some is not None and protocol is not listed:
                self._tell_list(listed, some)
                some = None
            try:
                if datagram_of(buf).error != 0:
                    sending = datagram_of(buf).sending
                    addr = self._peers.shown(datagram_of(buf).address) if (
                        sending and datagram_of(buf).address_bytes) else None
                    error = os_error(datagram_of(buf).error, "send" if sending else "receive",
                                     None if addr is None else address_text(addr))
                    conn_give_datagram(conn, buf)
                    buf = NULL
                    # After what has come before it.
                    if some is not None:
                        self._tell_list(listed, some)
                        some = None
                    if not self._later(None, None, error, sending):
                        self._call("error_received", (error,))
                else:
                    data = PyBytes_FromStringAndSize(datagram_bytes(buf), <Py_ssize_t>buf.size)
                    addr = self._peers.shown(datagram_of(buf).address)
                    conn_give_datagram(conn, buf)
                    buf = NULL
                    if self._later(data, addr, None, False):
                        pass
                    elif not in_lists:
                        result = protocol.datagram_received(data, addr)
                        if result is not None:
                            self._returned("datagram_received", result)
                    elif some is None:
                        listed = protocol
                        some = [(data, addr)]
                    else:
                        some.append((data, addr))
            except BaseException as exc:
                if buf != NULL:
                    conn_give_datagram(conn, buf)
                self._failed("datagram_received", exc)
            buf = conn_take_data(conn, &wanted) if left > 0 else NULL
        if some is not None:
            self._tell_list(listed, some)

    # -- asyncio.DatagramTransport -------------------------------------------------

    def sendto(self, data, addr=None):
        """Queue a datagram (bytes-like, may be empty); never blocks.
        asyncio.DatagramTransport.sendto(), Microsoft's WSASendTo.

        addr: where it goes, (host, port), for IPv6 perhaps with flowinfo and scope; host is an
        address and no name.  None: to the endpoint's remote address.  One that cannot be sent is
        told by error_received(), and the endpoint goes on: also one that is too long, or beyond
        max_write_buffer.  Without effect once the endpoint closes.  TypeError for anything but a
        bytes-like object; TypeError or ValueError for such an addr.
        """
        cdef Py_buffer view
        cdef char[ADDRESS_BYTES] where
        cdef const char *address = NULL
        cdef conn_t *conn
        cdef worker_t *by
        cdef int result
        cdef bint pause = False
        if not PyObject_CheckBuffer(data):
            raise TypeError(
                f"data argument must be a bytes-like object, not {type(data).__name__}")
        if self._remote is not None:
            if addr is not None and addr != self._remote:
                raise ValueError(f"Invalid address: must be None or {self._remote}")
            addr = self._remote
        elif addr is None:
            raise ValueError("addr must be given: the endpoint has no remote address")
        if not self._connected:
            self._peers.take(addr, where)
            address = where
        if type(data) is memoryview and not data.c_contiguous:
            data = bytes(data)
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        conn = self._enter()
        if conn == NULL:
            PyBuffer_Release(&view)
            return
        by = self._by()
        result = conn_sendto(by, conn, address, <char *>view.buf, <size_t>view.len)
        PyBuffer_Release(&view)
        if result & WRITE_FLUSH or self._leaves_now():
            with nogil:
                pause = conn_flush(by, conn)
            if pause:
                self._tell_marks("pause_writing")
        conn_unref(conn)
        self._asked()
        if result & WRITE_NO_MEMORY:
            raise MemoryError

    def close(self):
        """Receive nothing more, send what is queued, then connection_lost(None).
        asyncio.BaseTransport.close()."""
        cdef conn_t *conn = self._enter()
        cdef worker_t *by = self._by()
        self._ending(False)
        if conn != NULL:
            with nogil:
                conn_close(by, conn)
                conn_unref(conn)
            self._asked()

    def abort(self):
        """Close at once; what is queued is dropped.  connection_lost(None) follows.
        asyncio.DatagramTransport.abort()."""
        cdef conn_t *conn = self._enter()
        cdef worker_t *by = self._by()
        self._ending(True)
        if conn != NULL:
            with nogil:
                conn_abort(by, conn, ABORT_APPLICATION)
                conn_unref(conn)
            self._asked()

    def is_closing(self):
        """Is the endpoint closing or closed?  asyncio.BaseTransport.is_closing()."""
        cdef bint closing = True
        cdef conn_t *conn = self._enter()
        if conn != NULL:
            closing = conn_is_closing(conn)
            conn_unref(conn)
        return closing

    def set_write_buffer_limits(self, high=None, low=None):
        """Set the marks (bytes) for pause_writing() and resume_writing(), with asyncio's defaults:
        high 64 KiB or four times low, low a quarter of high.  TypeError or ValueError where they
        are no numbers, or not high >= low >= 0.
        asyncio.WriteTransport.set_write_buffer_limits()."""
        high, low = write_marks(high, low, <int>HIGH_WATER_BYTES)
        cdef size_t high_bytes = high
        cdef size_t low_bytes = low
        cdef conn_t *conn = self._enter()
        cdef worker_t *by = self._by()
        if conn != NULL:
            with nogil:
                conn_set_marks(by, conn, high_bytes, low_bytes)
                conn_unref(conn)
            self._asked()

    def get_write_buffer_limits(self):
        """(low, high) in bytes.  asyncio.WriteTransport.get_write_buffer_limits()."""
        cdef size_t high = 0
        cdef size_t low = 0
        cdef conn_t *conn = self._enter()
        if conn != NULL:
            conn_get_marks(conn, &high, &low)
            conn_unref(conn)
        return low, high

    def get_write_buffer_size(self):
        """Bytes queued and not yet sent, and 8 for each datagram.
        asyncio.WriteTransport.get_write_buffer_size()."""
        cdef size_t nbytes = 0
        cdef conn_t *conn = self._enter()
        if conn != NULL:
            nbytes = conn_write_buffer_size(conn)
            conn_unref(conn)
        return nbytes

    def get_protocol(self):
        """asyncio.BaseTransport.get_protocol()."""
        with cython.critical_section(self):
            protocol = self._protocol
        return protocol

    def set_protocol(self, protocol):
        """Hand the endpoint to another protocol.  asyncio.BaseTransport.set_protocol()."""
        self._take_protocol(protocol)
