"""What this process holds: handles, memory, descriptors, garbage."""

import ctypes
import gc
import os
import re
import threading

from waiting import WAIT_S


def handle_count():
    """How many handles this process has open, as the system's list of processes tells it.

    Wine has no answer to GetProcessHandleCount, and in this list it gives the size of the handle
    table, which grows and shrinks in powers of two.
    """
    length_mismatch = 0xC0000004
    nt = ctypes.WinDLL("ntdll")
    size = ctypes.c_ulong(1 << 16)
    while True:
        table = ctypes.create_string_buffer(size.value)
        system_process_information = 5
        status = nt.NtQuerySystemInformation(
            system_process_information, table, len(table), ctypes.byref(size)
        )
        if status & 0xFFFFFFFF != length_mismatch:
            break
        # The list may have grown since it was measured.
        size.value = max(size.value, len(table)) * 2
    assert status == 0, f"NtQuerySystemInformation: {status & 0xFFFFFFFF:#x}"
    # Where the fields lie in a SYSTEM_PROCESS_INFORMATION of 64-bit Windows.
    offset = 0
    while ctypes.c_size_t.from_buffer(table, offset + 0x50).value != os.getpid():
        step = ctypes.c_uint32.from_buffer(table, offset).value
        assert step, "this process is not in the list of processes"
        offset += step
    return ctypes.c_uint32.from_buffer(table, offset + 0x60).value


def committed_bytes():
    """How much memory this process has had committed."""
    kernel32 = ctypes.WinDLL("kernel32")
    kernel32.GetCurrentProcess.restype = ctypes.c_void_p
    kernel32.K32GetProcessMemoryInfo.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_ulong]
    counters = (ctypes.c_size_t * 9)()  # a PROCESS_MEMORY_COUNTERS of 64-bit Windows
    assert kernel32.K32GetProcessMemoryInfo(
        kernel32.GetCurrentProcess(), counters, ctypes.sizeof(counters)
    )
    return counters[7]  # PagefileUsage


def run_on_a_thread_to_its_end(function):
    """Call it on a thread, and return when the system's thread has ended: Thread.join() returns
    while it is on its way out."""
    kernel32 = ctypes.WinDLL("kernel32")
    kernel32.OpenThread.restype = ctypes.c_void_p
    kernel32.WaitForSingleObject.argtypes = [ctypes.c_void_p, ctypes.c_ulong]
    kernel32.CloseHandle.argtypes = [ctypes.c_void_p]
    synchronize = 0x00100000
    handles = []

    def target():
        handles.append(kernel32.OpenThread(synchronize, False, threading.get_native_id()))
        function()

    thread = threading.Thread(target=target)
    thread.start()
    thread.join()
    assert kernel32.WaitForSingleObject(handles[0], WAIT_S * 1000) == 0, "it has not ended"
    kernel32.CloseHandle(handles[0])


def descriptor_limit():
    """The hard limit for open files, where Windows' handles are descriptors of another system;
    None where there is no such limit."""
    try:
        with open("/proc/self/limits", encoding="ascii") as limits:
            found = re.search(r"^Max open files +\S+ +(\d+)", limits.read(), re.M)
    except OSError:
        return None
    return int(found[1]) if found else None


def collect():
    """Run the garbage collector to its end: finalisers can leave new garbage behind."""
    for _ in range(3):
        gc.collect()
