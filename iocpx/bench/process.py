"""A process that speaks JSON lines: started, asked, and ended in order or not."""

import contextlib
import json
import queue
import shlex
import subprocess
import threading
from collections import deque


class Failure(Exception):
    """A sentence that says what went wrong, mostly with one server."""


class Child:
    """A process that speaks JSON lines, and whose last words are kept.

    what: how its failures call it, for example "the server process".
    """

    def __init__(self, what, command):
        self.what = what
        self._lines = queue.SimpleQueue()
        self._stderr = deque(maxlen=20)
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                errors="replace",
            )
        except OSError as error:
            raise Failure(f"{what} could not be started ({shlex.join(command)}): {error}") from None
        threading.Thread(target=self._read_stdout, daemon=True).start()
        self._stderr_reader = threading.Thread(target=self._read_stderr, daemon=True)
        self._stderr_reader.start()

    # The readers close their pipes themselves. Nobody waits for them after an orderly end: Wine
    # keeps the pipes of a program open for 2 s after its process is gone.
    def _read_stdout(self):
        with self._process.stdout as stdout:
            for line in stdout:
                try:
                    self._lines.put(json.loads(line))
                except ValueError:
                    # Not ours: a program on the way to the Windows Python said something.
                    self._stderr.append(line)
        self._lines.put(None)

    def _read_stderr(self):
        with self._process.stderr as stderr:
            self._stderr.extend(stderr)

    @property
    def pid(self):
        return self._process.pid

    def say(self, line):
        # A process that died is reported by the answer that does not come.
        with contextlib.suppress(OSError):
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()

    def answer(self, timeout_s):
        """The next JSON object. Failure when there is none in time or the process ended."""
        try:
            found = self._lines.get(timeout=timeout_s)
        except queue.Empty:
            raise Failure(
                f"{self.what} did not answer within {timeout_s:g} s{self.last_words()}"
            ) from None
        if found is None:
            raise Failure(self.obituary())
        return found

    def obituary(self):
        try:
            status = self._process.wait(5)
        except subprocess.TimeoutExpired:
            return f"{self.what} closed its output{self.last_words()}"
        self._stderr_reader.join(5)
        # Windows ends a crashed process with a status like 0xC0000005.
        shown = f"0x{status & 0xFFFFFFFF:08X}" if status > 255 else str(status)
        return f"{self.what} ended early with status {shown}{self.last_words()}"

    def last_words(self):
        text = "".join(self._stderr).strip()
        return f"; the last it wrote:\n{text}" if text else ""

    def has_ended(self):
        """Whether it is gone; waits a moment for one that is going."""
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            return False
        return True

    def end(self, timeout_s):
        """Close its stdin and wait for the end. Failure when it was not an orderly one."""
        self.close_stdin()
        try:
            status = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise Failure(
                f"{self.what} did not end within {timeout_s:g} s of being asked to"
                f"{self.last_words()}"
            ) from None
        if status != 0:
            raise Failure(self.obituary())

    def close_stdin(self):
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def discard(self):
        """Leave nothing of it behind, whatever its state."""
        self.close_stdin()
        if self._process.poll() is None:
            try:
                self._process.wait(0.5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
