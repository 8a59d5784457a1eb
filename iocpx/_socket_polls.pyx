"""Which sockets can be read or written: what add_reader() and add_writer() wait for.

Each callback that waits has a poll in the kernel: IOCTL_AFD_POLL, the request that Winsock's own
select() makes of the driver below all sockets, AFD.  Unlike select()'s it stays pending, and its
end comes as a packet at the loop's port.  So there is no limit to their number, and no thread.

A poll is for one event.  It is posted in the look after the one that has told its event, when the
callback has been called: what that has left unread is told again, and what it has read is not.

The requests go through a socket of the loop's own, so that the program's socket may be on any
port, or on none.  It may be closed at any time too: that ends its polls, and no callback is called,
but for what the program has given as a bare number that another socket has got.

Called by `_loop`; calls `_handles`, the loop of a handle where a poll has failed, and the operating
system.
"""

from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.string cimport memset

from iocpx._winsock cimport *

from iocpx._errors import os_error

cdef enum:
    IOCTL_AFD_POLL = 0x12024
    STATUS_CANCELLED = <int>0xC0000120

    AFD_POLL_RECEIVE = 0x1
    AFD_POLL_SEND = 0x4
    AFD_POLL_DISCONNECT = 0x8
    AFD_POLL_ABORT = 0x10
    AFD_POLL_LOCAL_CLOSE = 0x20
    AFD_POLL_ACCEPT = 0x80
    AFD_POLL_CONNECT_FAIL = 0x100

    # An error makes a socket readable and writable: the next call tells it.
    ENDS = AFD_POLL_ABORT | AFD_POLL_CONNECT_FAIL | AFD_POLL_LOCAL_CLOSE
    READABLE = AFD_POLL_RECEIVE | AFD_POLL_ACCEPT | AFD_POLL_DISCONNECT | ENDS
    WRITABLE = AFD_POLL_SEND | ENDS

cdef LONG64 FOR_EVER = 0x7FFFFFFFFFFFFFFF


cdef class Poll:
    pass


cdef class SocketPolls:
    """The polls of a loop."""

    def __cinit__(self, size_t port):
        self.poll_socket = INVALID_SOCKET
        self.readers = {}
        self.writers = {}
        self.due = []
        self.poll_socket = WSASocketW(AF_INET, SOCK_STREAM, IPPROTO_TCP, NULL, 0,
                                      WSA_FLAG_OVERLAPPED | WSA_FLAG_NO_HANDLE_INHERIT)
        if self.poll_socket == INVALID_SOCKET:
            raise os_error(WSAGetLastError(), "socket")
        self.driver = base_handle(self.poll_socket)
        # The key is what tells polls from other packets.
        if CreateIoCompletionPort(self.driver, <HANDLE>port, self.key(), 0) == NULL:
            raise os_error(GetLastError(), "CreateIoCompletionPort")

    def __dealloc__(self):
        if self.poll_socket != INVALID_SOCKET:
            closesocket(self.poll_socket)

    cdef size_t key(self) noexcept:
        return <size_t><PyObject *>self

    cdef int add(self, bint writing, size_t fd, fileobj, Handle handle) except -1:
        cdef dict polls = self.writers if writing else self.readers
        cdef Poll poll = Poll.__new__(Poll)
        poll.poll.owner = <PyObject *>poll
        poll.fd = fd
        poll.socket = base_handle(fd)
        poll.events = WRITABLE if writing else READABLE
        poll.fileobj = fileobj
        poll.handle = handle
        self.remove(writing, fd)
        polls[fd] = poll
        self.due.append(poll)
        return 0

    cdef bint remove(self, bint writing, fd) except -1:
        cdef dict polls = self.writers if writing else self.readers
        cdef Poll poll = polls.pop(fd, None)
        if poll is None:
            return False
        handle, poll.handle = poll.handle, None
        if poll.posted:
            # It may be over already: then its packet is on its way, as that of a cancelled one is.
            CancelIoEx(self.driver, &poll.poll.overlapped)
        handle.cancel()
        return True

    cdef find(self, bint writing, fileobj):
        cdef Poll poll
        for fd, poll in (self.writers if writing else self.readers).items():
            if poll.fileobj is fileobj:
                return fd
        return None

    cdef int post_due(self) except -1:
        cdef list due = self.due
        cdef Poll poll
        cdef bint wanted
        cdef Py_ssize_t n = 0
        self.due = []
        try:
            for poll in due:
                wanted = poll.handle is not None and not self.is_closed(poll)
                n += 1
                if wanted and poll.handle is not None:
                    self.post(poll)
        except BaseException:
            # There is no memory: the rest waits for the next run.
            self.due = due[n:] + self.due
            raise
        return 0

    cdef bint is_closed(self, Poll poll) except -1:
        """The program's socket, whose handle another one may have by now."""
        if isinstance(poll.fileobj, int):
            return False                # who knows
        try:
            return poll.fileobj.fileno() != poll.fd
        except Exception:
            return True                 # as a closed file's

    cdef int post(self, Poll poll) except -1:
        cdef poll_t *p = &poll.poll
        cdef HANDLE driver = self.driver
        cdef BOOL ok
        cdef DWORD error = 0
        memset(&p.overlapped, 0, sizeof(OVERLAPPED))
        p.info.Timeout = FOR_EVER
        p.info.NumberOfHandles = 1
        p.info.Exclusive = False
        p.info.Handle = poll.socket
        p.info.Events = poll.events
        p.info.Status = 0
        Py_INCREF(poll)                 # dropped in complete, or below
        poll.posted = True
        with nogil:
            ok = DeviceIoControl(driver, IOCTL_AFD_POLL, &p.info, sizeof(p.info),
                                 &p.info, sizeof(p.info), NULL, &p.overlapped)
            if not ok:
                error = GetLastError()
        if ok or error == <DWORD>ERROR_IO_PENDING:
            self.n_posted += 1          # an event that is there already sends a packet too
            return 0
        poll.posted = False
        Py_DECREF(poll)
        # Otherwise the program has closed it.
        if error != <DWORD>ERROR_INVALID_HANDLE:
            self.tell_failure(poll, error)
        return 0

    cdef Handle complete(self, size_t address):
        cdef poll_t *p = <poll_t *>address
        cdef Poll poll = <Poll>p.owner
        cdef LONG status = <LONG>p.overlapped.Internal
        cdef DWORD nbytes = 0
        cdef DWORD flags = 0
        Py_DECREF(poll)                 # of the INCREF in post
        poll.posted = False
        self.n_posted -= 1
        if poll.handle is None:
            return None
        if status < 0 and status != STATUS_CANCELLED:
            WSAGetOverlappedResult(self.poll_socket, &p.overlapped, &nbytes, False, &flags)
            self.tell_failure(poll, WSAGetLastError())
            return None
        if status < 0 or p.info.NumberOfHandles == 0:
            # Not by us: the thread that posted it has ended, for one.
            self.due.append(poll)
            return None
        if p.info.Events & AFD_POLL_LOCAL_CLOSE:
            return None
        self.due.append(poll)
        return poll.handle

    cdef int tell_failure(self, Poll poll, int error) except -1:
        loop = <object>poll.handle._loop
        # In its turn, and not here: the loop has decided already how long it waits.
        loop.call_soon(loop.call_exception_handler, {
            "message": f"add_reader() or add_writer() no longer watches {poll.fileobj!r}",
            "exception": os_error(error, "poll"),
            "handle": poll.handle,
        })
        return 0

    cdef int remove_all(self) except -1:
        for fd in list(self.readers):
            self.remove(False, fd)
        for fd in list(self.writers):
            self.remove(True, fd)
        self.due.clear()
        return 0


cdef HANDLE base_handle(SOCKET sock) except NULL:
    """The handle that the driver knows a socket by, below layered providers."""
    cdef HANDLE handle = NULL
    cdef DWORD nbytes = 0
    cdef int kind
    cdef int length = sizeof(kind)
    # Asked first, since not every provider looks at what it is to give the handle of.
    if (getsockopt(sock, SOL_SOCKET, SO_TYPE, <char *>&kind, &length) == SOCKET_ERROR
            or WSAIoctl(sock, SIO_BASE_HANDLE, NULL, 0, &handle, sizeof(HANDLE), &nbytes, NULL,
                        NULL) == SOCKET_ERROR):
        raise os_error(WSAGetLastError(), "add_reader or add_writer")
    return handle
