"""The benchmark as a command, on this Python, from the sources."""

import shlex
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "iocpx"
if str(PACKAGE) not in sys.path:
    # Where iocpx cannot be imported, its benchmark is found as `bench`.
    sys.path.insert(0, str(PACKAGE))

QUICK = ("--only", "asyncio", "--rounds", "1", "--seconds", "0.05", "--arrangement", "free")


def bench(*arguments, server_python=(sys.executable,), **more):
    """Run the benchmark to its end; output as text."""
    command = [sys.executable, "-m", "bench", "--server-python", shlex.join(server_python)]
    return subprocess.run(
        [*command, *arguments],
        cwd=PACKAGE,
        capture_output=True,
        encoding="utf-8",
        timeout=100,
        **more,
    )
