"""What all servers have in common: start, stop, and waiting for either.

Called by `_server` and `_datagram_server`, which derive theirs from it and tell it what a run is
(Runtime); calls that run, and `_threads`.
"""

import threading
import warnings

from iocpx._addresses import address_text
from iocpx._arguments import milliseconds
from iocpx._threads import require_system_threads


class Serving:
    """The base of Server and DatagramServer.

    A subclass sets, before anything can fail, _runtime (None), _address (None) and _closes (0),
    then _engine, _numbers (with close_timeout_s), _sock and _start_lock; and it has
    _make_runtime() and _make_sockets()."""

    _kind = "Server"

    def __repr__(self):
        state = "serving" if self.is_serving() else "not serving"
        where = f" on {address_text(self._address)}" if self._address else ""
        return f"<iocpx.{self._kind} {state}{where}>"

    def __del__(self):
        runtime = getattr(self, "_runtime", None)
        if runtime is not None and runtime.serving():
            text = f"unclosed server {self!r}"
            self.close()    # first: where warnings are errors, the next line raises
            warnings.warn(text, ResourceWarning, source=self, stacklevel=1)

    def __reduce__(self):
        # A copy would share the engine, and stop it when it goes.
        raise TypeError(f"a {self._kind} cannot be copied or pickled: make it where it is to "
                        "run")

    def __enter__(self):
        self._refuse_polled("with")
        self.start()
        return self

    def __exit__(self, *exc_info):
        self.close()
        self.wait_closed()

    def start(self):
        """Bind, listen, start the workers, and return; clients can connect, or send, by then.

        Whatever is raised, by a signal handler too, nothing runs then, no socket of ours
        is open, and the server may be started again; a second interrupt leaves it ending:
        wait_closed().  A close() that comes meanwhile, from another thread, a callback or
        a signal handler, counts: start() returns and nothing is served.  One that came
        before has no effect.

        An address that a name stands for beside others and that this machine lacks is
        left out, with a WARNING under "iocpx".  With port 0 and several addresses all
        get the same port.

        OSError with .winerror when an address cannot be bound; socket.gaierror when a
        host has none.  RuntimeError when the server runs already, or is being started,
        or when threading has been replaced by something that starts no threads of the
        system.  After close() and wait_closed() it may be started again.
        """
        # Without waiting: a signal handler may start what this very thread is starting.
        closes = self._closes
        if not self._start_lock.acquire(False):
            raise RuntimeError("the server is already running")
        try:
            if self._runtime is not None and not self._runtime.over():
                raise RuntimeError("the server is already running" if self.is_serving()
                                   else "the server is still closing: call wait_closed() first")
            require_system_threads()
            runtime = self._make_runtime()
            self._runtime = runtime     # from here on close() finds it
            if self._closes != closes:
                runtime.close(0)        # one came while the threads were looked at
            try:
                runtime.start(self._make_sockets, self._sock is None)
            except BaseException:
                if runtime.over():
                    self._runtime = None
                raise
        finally:
            self._start_lock.release()

    def _refuse_polled(self, what):
        if self._engine._is_polled():
            raise RuntimeError(f"{what} would wait for what only poll() does: start() the server, "
                               "poll() its engine, close() it and poll until wait_closed(0)")

    def serve_forever(self):
        """Start if that has not been done, and wait until the server is closed.

        Ctrl+C (any exception from a signal handler) closes it in order and is then
        raised; a second one aborts the connections that are still open.  SystemExit and
        KeyboardInterrupt of a callback are raised likewise.  A server that
        was closed is not started again by this, but by start().  Not from a callback.
        Main thread only, if Ctrl+C is to be noticed.
        """
        self._refuse_polled("serve_forever()")
        runtime = self._runtime
        if runtime is not None and runtime.on_worker():
            raise RuntimeError("serve_forever() must not be called from a callback")
        if runtime is None or runtime.failed:
            self.start()
            runtime = self._runtime
        try:
            self.wait_closed()
        except BaseException:
            self.close()
            try:
                self.wait_closed()
            except BaseException:
                runtime.close_clients(True)
                self.wait_closed()
            raise
        if runtime.exit is not None:
            raise runtime.exit

    def close(self):
        """Stop: no new clients, every connection is closed gracefully, within
        close_timeout_s.  Returns at once, see wait_closed(); any number of times.
        While start() runs it ends that; a start() that begins later is not affected."""
        self._closes += 1
        runtime = self._runtime     # read once: a failing start() takes it back
        if runtime is not None:
            runtime.close(self._numbers["close_timeout_s"])

    def wait_closed(self, timeout=None):
        """Wait until a close() has taken full effect: True, or False after `timeout`
        seconds, 0 or more, whatever holds the server up.  None: without limit.

        The line "stopped" in the log is no part of it: a log handler that blocks does not
        make this wait.  Not from a callback (RuntimeError): it would wait for itself.
        """
        timeout_ms = -1
        if timeout is not None:
            timeout_ms = milliseconds("timeout", timeout, 0, threading.TIMEOUT_MAX)
        runtime = self._runtime
        if runtime is None:
            return True
        if runtime.on_worker():
            raise RuntimeError("wait_closed() must not be called from a callback: "
                               "the server cannot end before the callback returns")
        return runtime.wait(timeout_ms)

    def is_serving(self):
        """Does the server accept connections, or has it datagram endpoints that are open?
        asyncio.Server.is_serving()."""
        runtime = self._runtime
        return runtime is not None and runtime.serving()

    @property
    def address(self):
        """Where the first listening socket is (or was last) bound, as socket.getsockname()."""
        return self._address

    @property
    def engine(self):
        """The iocpx.Engine that serves it: the one given, or its own."""
        return self._engine

    def stats(self):
        """Counters since start(), readable also after the stop; docs/TUNING.md tells them.
        Those of the threads, the operations and the buffers are the engine's: engine.stats().
        Any thread."""
        runtime = self._runtime
        if runtime is None:
            require_system_threads()
            runtime = self._make_runtime()
        return runtime.stats()
