from cpython.object cimport PyObject

from iocpx._handles cimport Handle
from iocpx._winsock cimport HANDLE, LONG, LONG64, OVERLAPPED, SOCKET, ULONG


# What IOCTL_AFD_POLL takes and fills: AFD_POLL_INFO, with one AFD_POLL_HANDLE_INFO.
cdef struct afd_poll_info_t:
    LONG64 Timeout
    ULONG NumberOfHandles
    ULONG Exclusive
    HANDLE Handle
    ULONG Events
    LONG Status


cdef struct poll_t:
    OVERLAPPED overlapped               # first: its address is the poll's
    afd_poll_info_t info                # lent, as the OVERLAPPED is, to the kernel until the packet
    PyObject *owner                     # the Poll, with a reference from the post to the packet


# One callback that waits for one socket.
cdef class Poll:
    cdef poll_t poll
    cdef readonly object fileobj        # what the program named the socket by
    cdef readonly Handle handle         # None: removed
    cdef size_t fd                      # what it was then
    cdef HANDLE socket                  # borrowed: the base handle of the program's socket
    cdef ULONG events                   # that it waits for
    cdef bint posted


# All of a loop's.  The loop's thread.
cdef class SocketPolls:
    cdef SOCKET poll_socket             # owned: polls are posted on it, whichever socket is polled
    cdef HANDLE driver                  # its base handle
    cdef dict readers                   # Poll by file descriptor
    cdef dict writers
    cdef list due                       # to be posted in the next look
    cdef Py_ssize_t n_posted

    # The key of their packets.
    cdef size_t key(self) noexcept
    cdef int add(self, bint writing, size_t fd, fileobj, Handle handle) except -1
    # False: there was none.
    cdef bint remove(self, bint writing, fd) except -1
    # The descriptor that an object was added with, which may be closed since; or None.
    cdef find(self, bint writing, fileobj)
    # Post what is due, right before the loop waits at the port.
    cdef int post_due(self) except -1
    # A packet has come: the handle that is to be called, or None.
    cdef Handle complete(self, size_t address)
    # Cancel them; packets are to come until n_posted is 0.
    cdef int remove_all(self) except -1
    cdef int post(self, Poll poll) except -1
    cdef bint is_closed(self, Poll poll) except -1
    cdef int tell_failure(self, Poll poll, int error) except -1
