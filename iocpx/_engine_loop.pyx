"""The asyncio loop as the one worker of an engine, which has its TCP connections and its datagram
endpoints.

Both share the proactor's port.  The engine comes with the first of them, or of the loop's files,
and goes with the loop's close().

Called by `_tcp_loop`, whose class derives from its, by `_loop_files` and by the transports' rooms
(`_transport`, `_transports`, `_datagram_transport`); calls `_loop`, from whose class its own
derives, `_endpoint`, `_engines`, and of the engine `_engine` and `_worker`.
"""

from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF

from iocpx._base cimport conn_ref
from iocpx._endpoint cimport Endpoint
from iocpx._engine cimport engine_count
from iocpx._engines cimport EngineRun
from iocpx._loop cimport LoopCore
from iocpx._op cimport op_t
from iocpx._sched cimport conn_unref
from iocpx._types cimport *
from iocpx._winsock cimport DWORD, InterlockedExchangeAdd, INVALID_SOCKET
from iocpx._worker cimport (
    engine_complete, engine_has_more, engine_poll, engine_send_waiting, engine_serve,
    engine_take_waiting, engine_tell,
)

import sys
from asyncio import log

cdef extern from *:
    Py_ssize_t set_size "PySet_GET_SIZE" (PyObject *items)

cdef enum:
    FEW = 32                    # operations of adopted connections that are not worth a sweep
    BUFFER_BYTES = 262144       # of the largest receive buffer
    MAX_FREE_BUFFERS = 200
    BACKLOG = 100
    END_POLL_MS = 100
    UNLOOKED = 8                # iterations in a row that tell protocols and look at no port


cdef class EngineLoop(LoopCore):
    """The base of EventLoop."""

    def __cinit__(self):
        self.endpoints = set()
        self.ended = []
        self.adopted = {}
        self.files = set()
        self.sweep_at = FEW
        self.looks = 1

    cdef Py_ssize_t pending(self) noexcept:
        cdef Py_ssize_t n = LoopCore.pending(self)
        if self._engine is not None:
            n += max(InterlockedExchangeAdd(&self._engine.engine.packets_due, 0), 0)
            # A listener's AcceptEx is not among these, and clients come at any time.
            n += set_size(<PyObject *>self.endpoints)
        return n

    cdef int look(self, DWORD timeout_ms) except -1:
        cdef engine_t *engine
        cdef LONG64 before
        cdef int found
        if self._engine is None:
            return LoopCore.look(self, timeout_ms)
        # Of a callback outside the last look: nothing need come to end the wait of another one.
        self.raise_raised()
        self.looks += 1
        engine = self._engine.engine
        before = engine_count(engine, E_PACKETS)
        found = LoopCore.look(self, timeout_ms)
        if self.completed:
            self.completed = False
            self.polling = True
            with nogil:
                engine_tell(engine)
            self.polling = False
        # After one more iteration: a task that was woken by what has come may begin another one,
        # which answers.  A receive that is posted behind the answer finds the next request there
        # already, and needs no packet.
        self.look_soon = self.look_soon or engine_has_more(engine)
        if self.ended:
            self.drop_ended()
        self.raise_raised()
        return found + <int>(engine_count(engine, E_PACKETS) - before)

    cdef int wait_at_port(self, DWORD timeout_ms) except -1:
        cdef engine_t *engine
        cdef bint told
        cdef int n
        if self._engine is None:
            return LoopCore.wait_at_port(self, timeout_ms)
        engine = self._engine.engine
        # What was asked for since the last look, by a task that has written.  What the protocols
        # are told then is all for this iteration: their peers' answers may be here already, but a
        # loop that is to stop in it shall not go on with them.  Unless one of them has ended: who
        # has waited for that may close the server next, and whom that one has accepted in the
        # meantime is in the port.
        self.polling = True
        with nogil:
            told = engine_serve(engine)
        self.polling = False
        if told and (self.one_has_ended or self.unlooked == UNLOOKED):
            timeout_ms = 0      # nor does one that writes in each iteration keep the others waiting
        elif told:
            self.unlooked += 1
            self.next_entry = 0
            self.n_entries = 0
            self.look_soon = True
            return 0
        self.one_has_ended = False
        self.unlooked = 0
        timeout_ms = self.begin_wait(timeout_ms)
        self.polling = True
        with nogil:
            n = engine_poll(engine, timeout_ms, self.entries, PACKETS_PER_WAIT)
        self.polling = False
        self.end_wait()
        self.next_entry = 0
        self.n_entries = max(n, 0)
        self.look_soon = n == PACKETS_PER_WAIT
        return 0

    def _run_until_stopped(self):
        try:
            LoopCore._run_until_stopped(self)
            # Of a callback of the last iteration.
            self.raise_raised()
        finally:
            # What the last callbacks wrote does not wait for a loop that may not run again.
            if self._engine is not None:
                self.flush()

    cdef void flush(self) noexcept:
        """Send what was written, encrypted where there is TLS, and tell nobody anything."""
        cdef engine_t *engine = self._engine.engine
        cdef handler_t *handler
        cdef ready_t waiting
        cdef conn_t *conn
        self.polling = True
        with nogil:
            engine_take_waiting(engine, &waiting)
        conn = waiting.head
        while conn != NULL:
            handler = &conn.service.config.handler
            if conn.filtered and handler.pump != NULL:
                handler.pump(handler.context, conn)
            conn = conn.next_ready
        with nogil:
            engine_send_waiting(engine, &waiting)
        self.polling = False
        self.look_due = True

    cdef int refuse(self, DWORD nbytes, size_t key, size_t address) except -1:
        if address in self.adopted:
            self.completed = True
            with nogil:
                engine_complete(self._engine.engine, <op_t *>address, nbytes)
            return 0
        return LoopCore.refuse(self, nbytes, key, address)

    cdef void wants_look(self) noexcept:
        # Inside the poll it is served anyway.
        if not self.polling:
            self.look_due = True

    cdef void one_is_ending(self) noexcept:
        self.look_due = True            # also inside the poll

    cdef int adopt(self, conn_t *conn) except -1:
        cdef int i
        if len(self.adopted) >= self.sweep_at:
            self.sweep()
            self.sweep_at = 2 * len(self.adopted) + FEW
        addresses = [<size_t>&conn.send] + [<size_t>&conn.recvs[i]
                                            for i in range(conn.window.size)]
        for address in addresses:
            conn_ref(conn)              # dropped by sweep
            self.adopted[address] = <size_t>conn
        return 0

    cdef void sweep(self) noexcept:
        """Let go of adopted connections that are over: their handle is closed, and that it only
        is when no operation is pending."""
        cdef conn_t *conn
        for address in list(self.adopted):
            conn = <conn_t *><size_t>self.adopted[address]
            if conn.sock == INVALID_SOCKET:
                del self.adopted[address]
                conn_unref(conn)

    cdef int raise_raised(self) except -1:
        if self.raised is not None:
            raised, self.raised = self.raised, None
            raise raised
        return 0

    cdef void drop_ended(self) noexcept:
        while self.ended:
            self.endpoints.discard(self.ended.pop())

    cdef void callback_raised(self, exc, message, protocol, transport) noexcept:
        if isinstance(exc, (SystemExit, KeyboardInterrupt)):
            if self.raised is None:
                self.raised = exc
            self.look_due = True
            return
        context = {"message": message, "exception": exc}
        if protocol is not None:
            context["protocol"] = protocol
        if transport is not None:
            context["transport"] = transport
        try:
            self.call_exception_handler(context)
        except BaseException as raised:
            if self.raised is None:
                self.raised = raised
            self.look_due = True

    cdef EngineRun engine_run(self):
        """The engine; made when the first of its sockets comes."""
        if self._engine is None:
            run = EngineRun({"workers": 1, "buffer_size": BUFFER_BYTES,
                             "max_free_buffers": MAX_FREE_BUFFERS}, <size_t>self.port)
            run.start()
            self._engine = run
        return self._engine

    def _endpoint(self, factory, server, sslcontext, handshake_s, shutdown_s, backlog):
        """A new Endpoint of this loop's; asyncio's loop._start_serving() asks for one."""
        return Endpoint(self, self.engine_run(), self.endpoints, self.ended, factory, server,
                        sslcontext, handshake_s, shutdown_s, backlog)

    def _clients(self):
        """The Endpoint of the connections that nobody has accepted here."""
        if self.clients is None:
            self.clients = Endpoint(self, self.engine_run(), self.endpoints, self.ended, None,
                                    None, None, 0, 0, BACKLOG)
        return self.clients

    def _datagrams(self):
        """The Endpoint of all datagram endpoints."""
        if self.datagrams is None:
            self.datagrams = Endpoint(self, self.engine_run(), self.endpoints, self.ended, None,
                                      None, None, 0, 0, BACKLOG, True)
        return self.datagrams

    def _end_engine(self):
        """Abort all connections, without a callback, close files, and wait for the engine's end.

        The loop must not run, and its proactor's port is still open."""
        cdef engine_t *engine
        cdef Endpoint endpoint
        cdef int n = 0
        if self._engine is not None and not self.is_over:
            self.flush()
        if self._engine is not None and sys.is_finalizing():
            # A loop that nobody has closed, at the end of the interpreter: its engine's own thread
            # can be told nothing by Python any more, nor join it.  The system closes all there is.
            self.is_over = True
            kept = self._engine, self.clients, self.datagrams, list(self.endpoints)
            Py_INCREF(kept)             # for ever
            self._engine = None
        # Once, although an interrupt may have left the first close() in its midst.
        begun, self.is_over = self.is_over, True
        if self._engine is None:
            return
        engine = self._engine.engine
        with nogil:
            engine_serve(engine)
        if not begun:
            for endpoint in list(self.endpoints):
                endpoint.abort()
            for file in self.files.copy():
                file.close()
            self._engine.release()
        while n >= 0:
            try:
                # First, since the end of these connections wakes nobody.
                self.sweep()
                if self.next_entry == self.n_entries:
                    with nogil:
                        n = engine_poll(engine, END_POLL_MS, self.entries, PACKETS_PER_WAIT)
                    self.next_entry = 0
                    self.n_entries = max(n, 0)
                if self.n_entries > 0:
                    LoopCore.look(self, 0)      # dispatches them
                    with nogil:
                        engine_serve(engine)
            except Exception as exc:
                log.logger.error("a packet that came while the loop was closed", exc_info=exc)
        self._engine.wait(float("inf"))
        for thread in self._engine.threads:
            thread.join()
        self.sweep()
        self.drop_ended()
        self.clients = None
        self.datagrams = None
        self._engine = None
