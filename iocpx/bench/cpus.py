"""On which CPUs a process runs."""

import contextlib
import os
import sys

if sys.platform == "win32":
    import ctypes
    from ctypes import wintypes

    _kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
    _kernel32.GetCurrentProcess.restype = wintypes.HANDLE
    _kernel32.GetProcessAffinityMask.argtypes = (
        wintypes.HANDLE,
        ctypes.POINTER(ctypes.c_size_t),
        ctypes.POINTER(ctypes.c_size_t),
    )
    _kernel32.SetProcessAffinityMask.argtypes = (wintypes.HANDLE, ctypes.c_size_t)

    def own():
        mask, system = ctypes.c_size_t(), ctypes.c_size_t()
        if not _kernel32.GetProcessAffinityMask(
            _kernel32.GetCurrentProcess(), ctypes.byref(mask), ctypes.byref(system)
        ):
            raise ctypes.WinError(ctypes.get_last_error())
        return {cpu for cpu in range(64) if mask.value >> cpu & 1}

    def _set_own(cpus):
        mask = sum(1 << cpu for cpu in cpus)
        if not _kernel32.SetProcessAffinityMask(_kernel32.GetCurrentProcess(), mask):
            raise ctypes.WinError(ctypes.get_last_error())

else:

    def own():
        return os.sched_getaffinity(0)

    def _set_own(cpus):
        os.sched_setaffinity(0, cpus)


@contextlib.contextmanager
def confined(cpus):
    """What is started within inherits these CPUs."""
    before = own()
    _set_own(cpus)
    try:
        yield
    finally:
        _set_own(before)


@contextlib.contextmanager
def moved(pid, cpus):
    """Another process, of one thread, runs on these CPUs; afterwards where it did before."""
    before = os.sched_getaffinity(pid)
    os.sched_setaffinity(pid, cpus)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(pid, before)
