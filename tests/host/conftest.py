"""Fixtures of the tests that run on the host."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Seconds. These build, and compute, behind the tests of the lanes: this only ends what hangs.
LIMIT_S = 1500


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(LIMIT_S))


@pytest.fixture
def lane():
    """Whose Python `start` starts; None: the default lane's.  A file of tests may have its own."""
    return None


@pytest.fixture
def start(lane):
    """`start(program, *arguments)` starts a program of the lane's Python; none outlives the
    test."""
    processes = []

    def starter(*arguments):
        chosen = ["--python", lane] if lane else []
        argv = [sys.executable, ROOT / "dev.py", "run", *chosen, "-c", *arguments]
        process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8", cwd=ROOT
        )
        processes.append(process)
        return process

    yield starter
    for process in processes:
        process.kill()
        process.communicate()
