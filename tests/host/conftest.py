"""Fixtures of the tests that run on the host."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def start():
    """`start(program, *arguments)` starts a program of the default lane's Python; none outlives the
    test."""
    processes = []

    def starter(*arguments):
        argv = [sys.executable, ROOT / "dev.py", "run", "-c", *arguments]
        process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8", cwd=ROOT
        )
        processes.append(process)
        return process

    yield starter
    for process in processes:
        process.kill()
        process.communicate()
