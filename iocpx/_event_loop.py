"""The asyncio loop: what is public of it, and what needs no speed.

`EventLoop` does what asyncio.ProactorEventLoop does, with another scheduling below (`_scheduling`),
another look at the completion port (`_loop`), TCP and UDP of its own (`_tcp_loop`, `_socket_loop`),
which is also without some faults, and readiness of sockets (`_socket_polls`).

Called by the program, to which the package shows it, and by `_policy`; calls `_socket_loop`, from
whose class its own derives, and so `_loop` and `_scheduling`.
"""

import asyncio
import signal
import sys
import threading
import weakref
from asyncio import events
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

# What only compiled modules import, for freezers, which cannot look into them: see _imports.
# _loop_files besides makes files that are opened while a loop runs the loop's own.
from iocpx import (  # noqa: F401
    _endpoint,
    _handles,
    _loop,
    _loop_files,
    _scheduling,
    _transport_socket,
)
from iocpx._socket_loop import SocketLoop

_T = TypeVar("_T")

# How long a loop whose self-pipe has broken does without, in seconds.
_PIPE_PAUSE_S = 1.0


class _Proactor(asyncio.IocpProactor):
    """asyncio's, whose looks at the port are the loop's: also those of its close()."""

    _loop: "EventLoop"
    _iocp: int | None  # None: closed

    def _poll(self, timeout: float | None = None) -> None:
        self._loop._look(timeout)

    def __del__(self) -> None:
        # Without a GIL the collector may come to it before a loop that nobody has closed, whose
        # engine ends by packets of the port.
        loop = getattr(self, "_loop", None)
        if loop is not None and self._iocp is not None:
            loop.__del__()
        super().__del__()


class EventLoop(SocketLoop):
    """asyncio.ProactorEventLoop on iocpx: what the loop of a Windows program can do, and
    add_reader() and its kin too.

    No subclass of ProactorEventLoop, since psycopg, pyzmq, Tornado and others refuse each of
    these, for want of an add_reader().  Whoever asks for one (aiohttp, before it opens a named
    pipe) takes `class Loop(iocpx.EventLoop, asyncio.ProactorEventLoop)`.

    Methods and errors are those of asyncio.AbstractEventLoop, and may be called by the loop's
    thread, which is the one that runs it; call_soon_threadsafe() and time() by any.
    """

    def __init__(self) -> None:
        self._old_wakeup_fd: int | None = None
        # What wakes Ctrl+C is set while the loop runs, and no other loop is deprived of it.
        wakeup_fd = _swap_wakeup_fd(-1)
        proactor = _Proactor()
        self._attach(proactor)
        self._listening = {}
        # By the descriptors of theirs that the program knows.
        self._transports: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
        super().__init__(proactor)
        self._old_agen_hooks: Any = None  # asyncio sets it from Python 3.13 on
        _swap_wakeup_fd(wakeup_fd)

    # What ProactorEventLoop has beyond its base.
    create_pipe_connection = asyncio.ProactorEventLoop.create_pipe_connection
    start_serving_pipe = asyncio.ProactorEventLoop.start_serving_pipe
    _make_subprocess_transport = asyncio.ProactorEventLoop._make_subprocess_transport  # type: ignore[attr-defined]

    def run_forever(self) -> None:
        """Run until stop() is called.  asyncio.AbstractEventLoop.run_forever().

        SystemExit and KeyboardInterrupt come out of it as they are, and it may be run again.
        """
        self._check_closed()
        self._check_running()
        try:
            # Here, since Ctrl+C may come in the midst of it.
            self._run_forever_setup()
            self._run_until_stopped()
        finally:
            self._run_forever_cleanup()

    def _run_forever_setup(self) -> None:
        # asyncio's of the same name, which Python 3.13 has brought, but for the self-pipe.
        self._check_closed()
        self._check_running()
        self._set_coroutine_origin_tracking(self._debug)
        self._old_agen_hooks = sys.get_asyncgen_hooks()
        self._thread_id = threading.get_ident()
        sys.set_asyncgen_hooks(
            firstiter=self._asyncgen_firstiter_hook, finalizer=self._asyncgen_finalizer_hook
        )
        events._set_running_loop(self)
        if _in_main_thread():
            if self._csock is None:
                self._make_self_pipe()
            assert self._csock is not None
            self._old_wakeup_fd = _swap_wakeup_fd(self._csock.fileno())
            if self._self_reading_future is None:
                self._loop_self_reading()

    def _run_forever_cleanup(self) -> None:
        self._stopping = False
        self._thread_id = None
        events._set_running_loop(None)
        self._set_coroutine_origin_tracking(False)
        if self._old_agen_hooks is not None:
            sys.set_asyncgen_hooks(*self._old_agen_hooks)
            self._old_agen_hooks = None
        if self._old_wakeup_fd is not None:
            _swap_wakeup_fd(self._old_wakeup_fd)
            self._old_wakeup_fd = None

    def close(self) -> None:
        """Close the loop, which must not run.  asyncio.AbstractEventLoop.close().

        Waits for the operations that are pending, which are cancelled.
        """
        if self.is_closed() or self.is_running():
            super().close()
            return
        wakeup_fd = _swap_wakeup_fd(-1)
        try:
            super().close()
        finally:
            _swap_wakeup_fd(wakeup_fd)

    # What no ProactorEventLoop has.

    def add_reader(  # type: ignore[override]
        self, fd: Any, callback: Callable[..., object], *args: Any
    ) -> None:
        """Call callback(*args) in each iteration in which the socket can be read: data, a
        connection to accept, an end or an error is there.  asyncio.AbstractEventLoop.add_reader().

        fd is a socket, its descriptor (an int), or whatever has a fileno(); any kind of socket,
        and as many as there are.  What was added for it before is replaced.  Remove it before the
        socket is closed or detached; if not, nothing more is called, but for a descriptor that
        another socket gets.  Raises ValueError for what has no descriptor, OSError for what is no
        socket, RuntimeError for the socket of an open transport and on a closed loop.
        """
        self._add_watch(False, fd, callback, args)

    def remove_reader(self, fd: Any) -> bool:
        """No longer call what add_reader() was given for it; False: nothing was.
        asyncio.AbstractEventLoop.remove_reader()."""
        return self._remove_watch(False, fd)

    def add_writer(  # type: ignore[override]
        self, fd: Any, callback: Callable[..., object], *args: Any
    ) -> None:
        """Call callback(*args) in each iteration in which the socket can be written: there is room,
        it has just been connected, or an error is there.  asyncio.AbstractEventLoop.add_writer();
        otherwise as add_reader()."""
        self._add_watch(True, fd, callback, args)

    def remove_writer(self, fd: Any) -> bool:
        """No longer call what add_writer() was given for it; False: nothing was.
        asyncio.AbstractEventLoop.remove_writer()."""
        return self._remove_watch(True, fd)

    def _add_watch(
        self, writing: bool, fileobj: Any, callback: Callable[..., object], args: tuple[Any, ...]
    ) -> None:
        fd = self._descriptor(fileobj)
        self._check_closed()
        if fd < 0:
            raise ValueError(f"Invalid file descriptor: {fd}")
        self._watch(writing, fd, fileobj, callback, args)

    def _remove_watch(self, writing: bool, fileobj: Any) -> bool:
        fd = self._descriptor(fileobj)
        if self.is_closed():
            return False
        if fd < 0:
            # A socket that was closed first is known by itself.
            known = self._watched(writing, fileobj)
            if known is None:
                raise ValueError(f"Invalid file descriptor: {fd}")
            fd = known
        return self._unwatch(writing, fd)

    def _descriptor(self, fileobj: Any) -> int:
        fd = fileobj
        if not isinstance(fd, int):
            try:
                fd = int(fd.fileno())
            except (AttributeError, TypeError, ValueError):
                raise ValueError(f"Invalid file object: {fileobj!r}") from None
        transport = self._transports.get(fd)
        if transport is not None and not transport.is_closing():
            raise RuntimeError(f"File descriptor {fileobj!r} is used by transport {transport!r}")
        return fd

    # The socket pair is there for signals alone: Python writes into it when one comes, and the
    # loop's wait ends.  A call of another thread posts a packet instead.

    def _make_self_pipe(self) -> None:
        self._ssock = self._csock = None
        if _in_main_thread():
            super()._make_self_pipe()

    def _close_self_pipe(self) -> None:
        if self._csock is not None:
            super()._close_self_pipe()

    def _loop_self_reading(self, future: "asyncio.Future[bytes] | None" = None) -> None:
        if self._self_reading_future is not future:
            return
        self._self_reading_future = None
        self._own_operations = 0
        try:
            if future is not None and not future.result():
                raise ConnectionResetError("the self-pipe's other end was closed")
            self._self_reading_future = self._proactor.recv(self._ssock, 4096)
        except asyncio.CancelledError:
            return
        except OSError as exc:
            # Not read again at once: that would fail again, and again.
            self.call_exception_handler(
                {
                    "message": "Error on reading from the event loop self pipe",
                    "exception": exc,
                    "loop": self,
                }
            )
            self.call_later(_PIPE_PAUSE_S, self._renew_self_pipe)
        else:
            self._own_operations = 1
            self._self_reading_future.add_done_callback(self._loop_self_reading)

    def _renew_self_pipe(self) -> None:
        if self._self_reading_future is not None or not _in_main_thread():
            return
        self._close_self_pipe()
        self._make_self_pipe()
        assert self._csock is not None
        _swap_wakeup_fd(self._csock.fileno())
        self._loop_self_reading()


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _swap_wakeup_fd(fd: int) -> int:
    """Set what signals wake; what it was, -1: nothing."""
    if not _in_main_thread():
        return -1
    try:
        return signal.set_wakeup_fd(fd)
    except (OSError, ValueError):
        # It was another's, who has closed it since.
        return signal.set_wakeup_fd(-1)


def new_event_loop() -> EventLoop:
    """A new loop, neither running nor set: asyncio.new_event_loop(), what is called a loop
    factory elsewhere."""
    return EventLoop()


def run(
    main: Coroutine[Any, Any, _T],
    *,
    debug: bool | None = None,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] = new_event_loop,
) -> _T:
    """Run a coroutine on a new loop, to its end; its result.  asyncio.run(): from Python 3.11 on
    Ctrl+C cancels the coroutine, and comes out as KeyboardInterrupt."""
    if events._get_running_loop() is not None:
        raise RuntimeError("iocpx.run() cannot be called from a running event loop")
    if sys.version_info >= (3, 11):
        with asyncio.Runner(debug=debug, loop_factory=loop_factory) as runner:
            return runner.run(main)
    if not asyncio.iscoroutine(main):
        raise ValueError(f"a coroutine was expected, got {main!r}")
    loop = loop_factory()
    try:
        asyncio.set_event_loop(loop)
        if debug is not None:
            loop.set_debug(debug)
        return loop.run_until_complete(main)
    finally:
        try:
            asyncio.runners._cancel_all_tasks(loop)  # type: ignore[attr-defined, unused-ignore]
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
        finally:
            asyncio.set_event_loop(None)
            loop.close()
