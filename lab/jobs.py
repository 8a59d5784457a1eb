"""Programs side by side: what each prints is kept apart, and shown whole when it has ended."""

import concurrent.futures
import os
import re
import shutil
import signal
import sys
import time

from . import here
from .steps import LAB, say

# More than there are CPUs: the tests on a lane wait more than they work.
AT_ONCE = (os.cpu_count() or 1) + 3
# Who computes without end lets those go first who have one thing to do, and wait again.
BEHIND = 10
# A test that looks at Ctrl+C itself takes the first one for its own.
AGAIN_S = 30


class Job:
    """A program, and the file of what it prints. behind: the others go before it, where the system
    knows such a thing."""

    def __init__(self, name, argv, env=None, behind=False):
        self.name, self.argv, self.env, self.behind = name, argv, env, behind
        self.output = LAB / "reports" / f"{name}.txt"
        self.output.parent.mkdir(parents=True, exist_ok=True)
        self.process = None
        self.status = None

    def run(self):
        begin = time.monotonic()
        with open(self.output, "wb") as file:
            self.status = here.record(self.argv, self.env, file, self.started)
        self.seconds = time.monotonic() - begin

    def started(self, process):
        self.process = process
        if self.behind and hasattr(os, "setpriority"):
            os.setpriority(os.PRIO_PROCESS, process.pid, BEHIND)

    def progress(self):
        """How far it is, as pytest tells it; "" when it does not."""
        parts = re.findall(rb"\[ *(\d+%)\]", self.output.read_bytes())
        return f" {parts[-1].decode()}" if parts else ""


def together(jobs, tell):
    """Run the jobs, so many at once; `tell(job)` is called for each that has ended, when all that
    it has printed was shown.
    """
    # As a terminal's Ctrl+C: none of the programs is to be left alone.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        waiting = {pool.submit(job.run): job for job in jobs}
        try:
            while waiting:
                show(waiting.values())
                for future in concurrent.futures.wait(
                    waiting, timeout=1, return_when=concurrent.futures.FIRST_COMPLETED
                ).done:
                    future.result()
                    job = waiting.pop(future)
                    show([])
                    say(f"==== {job.name}")
                    say(job.output.read_text(encoding="utf-8", errors="replace").rstrip())
                    tell(job)
        except KeyboardInterrupt:
            show([])
            running = {future for future in waiting if not future.cancel()}
            while running:
                for future in running:
                    # Without a process yet, it has its turn in the next round.
                    if waiting[future].process:
                        here.interrupt(waiting[future].process)
                running = concurrent.futures.wait(running, timeout=AGAIN_S).not_done
            raise


def show(jobs):
    """On a terminal, one line that tells how far each of the jobs that run is."""
    if sys.stdout.isatty():
        running = [job.name + job.progress() for job in jobs if job.process]
        width = shutil.get_terminal_size().columns - 1
        say("\r\x1b[K" + " · ".join(running)[:width], end="")
