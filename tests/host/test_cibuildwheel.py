"""The wheels that cibuildwheel would build with [tool.cibuildwheel] of pyproject.toml."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

PYTHONS = ["cp310", "cp311", "cp312", "cp313", "cp314", "cp314t", "cp315", "cp315t"]
MACHINES = ["win_amd64", "win_arm64"]


def build_identifiers(*arguments):
    """What `cibuildwheel --print-build-identifiers` says for Windows, whatever it runs on."""
    # The CIBW_ variables of the caller would override the table under test.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("CIBW_")}
    command = [sys.executable, "-m", "cibuildwheel", "--platform", "windows"]
    done = subprocess.run(
        [*command, "--print-build-identifiers", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return sorted(done.stdout.split())


def test_every_wheel_and_no_other():
    # "all": also the architectures that no runner of ours has, which must add nothing.
    expected = sorted(f"{python}-{machine}" for python in PYTHONS for machine in MACHINES)
    assert build_identifiers("--archs", "all") == expected


def test_one_runner_builds_one_architecture():
    # The table says "native", and cibuildwheel asks the machine that it runs on: here, this one.
    built = build_identifiers()
    machines = {identifier.partition("-")[2] for identifier in built}
    assert len(machines) == 1, built
    assert machines <= set(MACHINES)
    assert built == sorted(f"{python}-{machine}" for python in PYTHONS for machine in machines)
