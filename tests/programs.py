"""The programs of examples/, started as their reader starts them."""

import re
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples"

# Starts a program as `python FILE …` or `python -m MODULE …` would. A byte on its standard input is
# Ctrl+C: a test has no console to press it at.
START = """
import os, runpy, signal, sys, threading

def interrupt():
    if os.read(0, 1):
        signal.raise_signal(signal.SIGINT)

os.dup2(1, 2)
threading.Thread(target=interrupt, daemon=True).start()
examples, kind, name, *sys.argv[1:] = sys.argv[1:]
sys.path.insert(0, examples)
if kind == "-m":
    runpy.run_module(name, run_name="__main__", alter_sys=True)
else:
    runpy.run_path(os.path.join(examples, name), run_name="__main__")
"""

# As the servers say where they serve.
PORT = re.compile(r"(?:port |://127\.0\.0\.1:)(\d+)")


class Program:
    """A program that serves; `lines` is what it has printed so far."""

    def __init__(self, script):
        self.script = script
        self.lines = []

    def read_port(self):
        """The port that it says it serves on."""
        while True:
            if found := PORT.search(self.read_line()):
                return int(found[1])

    def read_line(self):
        try:
            line = self.script.read_line()
        except AssertionError:
            print(*self.lines, sep="\n")
            raise
        self.lines.append(line)
        return line

    def interrupt(self):
        """Press Ctrl+C: it ends in order, without a complaint."""
        self.script.tell()
        status, rest, _ = self.script.finish()
        text = "\n".join(self.lines + rest)
        print(text)
        assert status == 0
        for word in ("Traceback", "Exception", "Warning", "rror:", "never awaited"):
            assert word not in text
