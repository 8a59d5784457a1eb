"""The asyncio loop at its completion port.

The port is that of the loop's proactor (asyncio.IocpProactor), which posts what no
transport of ours does: pipes, processes, sock_recv(), sock_recvfrom() and their kin.  Their packets
go to its bookkeeping, as IocpProactor._poll() has it.

Called by `_engine_loop`, whose class derives from its, and as the loop's own by `_tcp_loop` and
`_event_loop`; calls `_scheduling`, from whose class its own derives, and `_socket_polls`.
"""

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from cpython.object cimport PyObject
from libc.math cimport ceil

from iocpx._handles cimport Handle
from iocpx._scheduling cimport Scheduler
from iocpx._socket_polls cimport SocketPolls
from iocpx._winsock cimport (
    BOOL, CloseHandle, DWORD, GetLastError, GetQueuedCompletionStatusEx, HANDLE, INFINITE,
    INVALID_HANDLE_VALUE, PostQueuedCompletionStatus, ULONG, WAIT_TIMEOUT,
)


cdef extern from *:
    Py_ssize_t PyDict_Size(PyObject *items) noexcept


cdef class LoopCore(Scheduler):
    """The base of EventLoop."""

    def _attach(self, proactor):
        """Before anything is posted: whose port this is, an asyncio.IocpProactor's."""
        self.cache = proactor._cache
        self.unregistered = proactor._unregistered
        self.stopped_serving = proactor._stopped_serving
        self.port = <HANDLE><size_t>proactor._iocp

    def _look(self, timeout):
        """Look at the port once.  IocpProactor._poll(); the timeout in seconds, None: for ever."""
        cdef double timeout_ms
        if timeout is None:
            self.look(INFINITE)
            return
        if timeout < 0:
            raise ValueError("negative timeout")
        timeout_ms = ceil(timeout * 1000)
        if timeout_ms >= INFINITE:
            raise ValueError("timeout too big")
        self.look(<DWORD>timeout_ms)

    # What add_reader() and its kin do once the descriptor is known.

    def _watch(self, bint writing, fd, fileobj, callback, args):
        """Call it as long as the socket can be read, or written; in place of what was watched."""
        cdef Handle handle = self.make_handle(callback, args, None)
        if self.polls is None:
            self.polls = SocketPolls(<size_t>self.port)
        self.polls.add(writing, fd, fileobj, handle)
        self.look_due = True

    def _unwatch(self, bint writing, fd):
        """Whether there was something."""
        return self.polls is not None and self.polls.remove(writing, fd)

    def _watched(self, bint writing, fileobj):
        """The descriptor by which the object is watched, or None."""
        return None if self.polls is None else self.polls.find(writing, fileobj)

    def _end_polls(self):
        """The loop must not run, and its proactor's port is still open."""
        if self.polls is None:
            return
        self.polls.remove_all()
        while self.polls.n_posted > 0:
            self.look(INFINITE)
        self.polls = None

    cdef Py_ssize_t pending(self) noexcept:
        # Not len(), which counts a reference up and down at once.
        cdef Py_ssize_t n = PyDict_Size(<PyObject *>self.cache) - self._own_operations
        if self.polls is not None:
            n += self.polls.n_posted
        return n

    cdef void wake(self) noexcept:
        with cython.critical_section(self):
            # While it waits its port is open.
            if self.waiting and not self.woken:
                # Refused, for lack of memory most likely: the next call tries again.
                self.woken = PostQueuedCompletionStatus(self.port, 0, 0, &self.wake_op)

    cdef int look(self, DWORD timeout_ms) except -1:
        cdef int found = 0
        cdef OVERLAPPED_ENTRY *entry
        if self.next_entry == self.n_entries:
            if self.polls is not None and self.polls.due:
                self.polls.post_due()
            self.wait_at_port(timeout_ms)
        # Before any of these callbacks: there what a signal handler raises would be in the way.
        PyErr_CheckSignals()
        while self.next_entry < self.n_entries:
            entry = &self.entries[self.next_entry]
            self.next_entry += 1
            if entry.lpOverlapped != &self.wake_op:
                found += 1
                self.dispatch(entry.dwNumberOfBytesTransferred, entry.lpCompletionKey,
                              <size_t>entry.lpOverlapped)
        if self.unregistered:
            for ov in self.unregistered:
                self.cache.pop(ov.address, None)
            self.unregistered.clear()
        if self.polls is not None and self.polls.due:
            self.look_due = True
        return found

    cdef int wait_at_port(self, DWORD timeout_ms) except -1:
        cdef ULONG n = 0
        cdef BOOL ok
        cdef DWORD error = 0
        cdef HANDLE port = self.port
        timeout_ms = self.begin_wait(timeout_ms)
        with nogil:
            ok = GetQueuedCompletionStatusEx(port, self.entries, BATCH, &n, timeout_ms, False)
            if not ok:
                error = GetLastError()
        self.end_wait()
        self.next_entry = 0
        self.n_entries = <int>n if ok else 0
        if not ok and error != WAIT_TIMEOUT:
            raise OSError(None, None, None, error)
        if self.n_entries == BATCH:
            self.look_due = True
        return 0

    cdef int dispatch(self, DWORD nbytes, size_t key, size_t address) except -1:
        operation = self.cache.pop(address, None)
        if operation is None:
            return self.refuse(nbytes, key, address)
        future, overlapped, obj, callback = operation
        if obj in self.stopped_serving:
            future.cancel()
        elif not future.done():
            try:
                value = callback(nbytes, key, overlapped)
            except (SystemExit, KeyboardInterrupt):
                # A signal came right here: the packet has its turn again when the loop runs again.
                self.cache[address] = operation
                self.next_entry -= 1
                raise
            except BaseException as exc:
                if not future.done():
                    future.set_exception(exc)
            else:
                if not future.done():
                    future.set_result(value)
        return 0

    cdef int refuse(self, DWORD nbytes, size_t key, size_t address) except -1:
        """A packet that is none of the proactor's."""
        cdef Handle handle
        if self.polls is not None and key == self.polls.key():
            handle = self.polls.complete(address)
            if handle is not None:
                self.ready.push(handle)
            return 0
        if self._debug:
            self.call_exception_handler({
                "message": "GetQueuedCompletionStatus() returned an unexpected event",
                "status": f"transferred={nbytes} key={key:#x} address={address:#x}",
            })
        # The key is 0, or a handle that somebody else wanted closed.
        if key != 0 and key != <size_t>INVALID_HANDLE_VALUE:
            CloseHandle(<HANDLE>key)
        return 0
