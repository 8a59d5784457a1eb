"""Threads beside the engine's own: whether Python starts threads of the system here, which the
engine's have to be, and one for what nobody has to wait for.

Called by `_engines`, `_runtime`, `_serving`, `_clients` and `_connecting`; calls nothing of iocpx.
"""

import _thread
import threading
from collections.abc import Callable


def log_apart(function: Callable[..., object], *args: object) -> threading.Thread | None:
    """Call a logger's method on a thread of its own, which it returns; None: there is no thread to
    be had, and nothing is logged.

    A log handler may take its time, and its lock may be held by whoever waits for the caller.
    """
    try:
        thread = threading.Thread(target=function, args=args, name="iocpx-log", daemon=True)
        thread.start()
    except (RuntimeError, MemoryError):
        return None
    return thread


def require_system_threads() -> None:
    """RuntimeError where a new thread runs in the thread that starts it.

    Libraries do so that put greenlets in the place of threads: a worker, which waits in the
    completion port, would keep all the rest of the program waiting with it, for ever. Starts a
    thread to see it; any thread may call this.
    """
    ids: list[int] = []
    # What such a library has replaced, looked up now: its lock lets the greenlet run.
    ran = _thread.allocate_lock()
    ran.acquire()

    def run() -> None:
        ids.append(_thread.get_native_id())
        ran.release()

    _thread.start_new_thread(run, ())
    ran.acquire()
    # This thread lives, so no other one of the system can have had its id.
    if ids == [_thread.get_native_id()]:
        raise RuntimeError(
            "the server's workers must be threads of the system, and Python's threads have been "
            "replaced by something else: leave them out of the patching, as with "
            "gevent.monkey.patch_all(thread=False)"
        )
