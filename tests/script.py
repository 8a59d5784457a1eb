"""A Python program in a process of its own."""

import contextlib
import queue
import subprocess
import sys
import threading

from waiting import WAIT_S

ERROR_INTERNAL_ERROR = 1359
# How long a program may take for a line: several interpreters may start at once for that.
LINE_S = 3 * WAIT_S


def start(argv, **options):
    """A process with a pipe for each of its streams: an interpreter under Wine does not start with
    a regular file as one."""
    options |= dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    try:
        return subprocess.Popen(argv, text=True, **options)
    except OSError as error:
        # One in a thousand ends under Wine before it has begun.
        if getattr(error, "winerror", None) != ERROR_INTERNAL_ERROR:
            raise
    return subprocess.Popen(argv, text=True, **options)


async def begun(start, *arguments):
    """What the coroutine function that starts a process returns; once more as above."""
    try:
        return await start(*arguments)
    except OSError as error:
        if getattr(error, "winerror", None) != ERROR_INTERNAL_ERROR:
            raise
    return await start(*arguments)


def run(argv, limit_s=2 * WAIT_S):
    """subprocess.run() without input, and with text."""
    with start(argv) as process:
        try:
            output, errors = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    return subprocess.CompletedProcess(argv, process.returncode, output, errors)


class Script:
    """A Python program in a process of its own, fed and read through pipes."""

    def __init__(self, program, *arguments):
        self.process = start([sys.executable, "-c", program, *arguments])
        self._lines = queue.Queue()
        self._errors = []
        self._readers = [
            threading.Thread(target=self._read_lines, daemon=True),
            threading.Thread(target=self._read_errors, daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def _read_lines(self):
        for line in self.process.stdout:
            self._lines.put(line.rstrip("\r\n"))
        self._lines.put(None)  # the end of the output

    def _read_errors(self):
        self._errors.append(self.process.stderr.read())

    def read_line(self):
        """The next line of the program's output."""
        with contextlib.suppress(queue.Empty):
            line = self._lines.get(timeout=LINE_S)
            if line is not None:
                return line
        self.kill()
        self._readers[1].join(WAIT_S)
        raise AssertionError(
            f"the program ended, or printed no line for {LINE_S} s; on stderr: {self._errors}"
        )

    def read_address(self):
        """The (host, port) that the program prints as one line."""
        host, port = self.read_line().split()
        return host, int(port)

    def tell(self, line=""):
        """Give the program one line on its standard input."""
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def finish(self):
        """Wait for the end; return the exit code, the rest of stdout as lines, and stderr."""
        try:
            self.process.wait(2 * WAIT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"the program did not end within {2 * WAIT_S} s") from None
        for reader in self._readers:
            reader.join(WAIT_S)
        self.process.stdin.close()
        rest = list(iter(self._lines.get_nowait, None))
        return self.process.returncode, rest, "".join(self._errors)

    def kill(self):
        """End the program, if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(WAIT_S)

    def discard(self):
        """End the program and close its pipes."""
        self.kill()
        for reader in self._readers:
            reader.join(WAIT_S)
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            with contextlib.suppress(OSError, ValueError):
                pipe.close()
