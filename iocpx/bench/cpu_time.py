"""How much CPU time a process and the whole machine have used, as Linux tells it."""

import contextlib
import os
import sys
import time
from pathlib import Path


def machine_busy_s():
    """CPU time that the whole machine has used so far; 0 where there is no such figure."""
    if sys.platform != "linux":
        return 0.0
    # user nice system idle iowait irq softirq
    ticks = [int(word) for word in Path("/proc/stat").read_text().split()[1:8]]
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")


def process_cpu_s(pid):
    """The process's clock, to the nanosecond, on Linux: what a program can tell of itself goes by
    hundredths of a second under Wine."""
    return time.clock_gettime(~pid << 3 | 2)


def process_ticks(pid):
    """The process's user and system time on Linux, in hundredths of a second as a rule."""
    # The name, which may have blanks, stands in brackets before these.
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(words[11]), int(words[12])


def others_s(own):
    """What all processes but those of the list have used so far, where it can be known."""
    used_s = machine_busy_s()
    for pid in own if used_s else ():
        with contextlib.suppress(OSError):  # it has ended: its Failure comes from elsewhere
            used_s -= process_cpu_s(pid)
    return used_s
