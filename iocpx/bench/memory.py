"""How much memory a process has to itself."""

import sys
from pathlib import Path

if sys.platform == "win32":
    import ctypes
    from ctypes import wintypes

    class _Counters(ctypes.Structure):
        _fields_ = (
            ("cb", wintypes.DWORD),
            ("PageFaultCount", wintypes.DWORD),
            *(
                (name, ctypes.c_size_t)
                for name in (
                    "PeakWorkingSetSize",
                    "WorkingSetSize",
                    "QuotaPeakPagedPoolUsage",
                    "QuotaPagedPoolUsage",
                    "QuotaPeakNonPagedPoolUsage",
                    "QuotaNonPagedPoolUsage",
                    "PagefileUsage",
                    "PeakPagefileUsage",
                    "PrivateUsage",
                )
            ),
        )

    _PROCESS_QUERY_LIMITED_INFORMATION = 0x1000
    _kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
    _kernel32.OpenProcess.restype = wintypes.HANDLE
    _kernel32.K32GetProcessMemoryInfo.argtypes = (
        wintypes.HANDLE,
        ctypes.POINTER(_Counters),
        wintypes.DWORD,
    )
    _kernel32.CloseHandle.argtypes = (wintypes.HANDLE,)

    def private_bytes(pid):
        process = _kernel32.OpenProcess(_PROCESS_QUERY_LIMITED_INFORMATION, False, pid)
        if not process:
            raise ctypes.WinError(ctypes.get_last_error())
        try:
            counters = _Counters(cb=ctypes.sizeof(_Counters))
            if not _kernel32.K32GetProcessMemoryInfo(
                process, ctypes.byref(counters), counters.cb
            ):
                raise ctypes.WinError(ctypes.get_last_error())
        finally:
            _kernel32.CloseHandle(process)
        return counters.PrivateUsage

else:

    def private_bytes(pid):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        parts = [line.split() for line in lines if line.startswith("Private_")]
        return sum(int(part[1]) for part in parts) * 1024
