"""Whether threading starts threads of the system, which the engine's have to be."""

import threading


def require_system_threads() -> None:
    """RuntimeError where threading.Thread runs its target in the thread that starts it.

    So do libraries that put greenlets in the place of threads: a worker, which waits in the
    completion port, would keep everything else of the program waiting with it, for ever. Starts
    a thread to see it; any thread may call this.
    """
    ids: list[int] = []
    thread = threading.Thread(
        target=lambda: ids.append(threading.get_native_id()), name="iocpx-probe", daemon=True
    )
    thread.start()
    thread.join()
    # This thread lives, so a thread of the system that has ended cannot have had its id.
    if ids == [threading.get_native_id()]:
        raise RuntimeError(
            "the server's workers must be threads of the system, and threading.Thread has been "
            "replaced by something that is none: leave threads out of the patching, "
            "as with gevent.monkey.patch_all(thread=False)"
        )
