"""The engine on the simulated kernel of tests/sim: a short run of many seeds."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from lab import sim  # noqa: E402 - found only now
from lab.steps import exclusive  # noqa: E402

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="the simulated kernel is compiled on Linux"
)
BUDGET_S = 15


@pytest.fixture(scope="module", autouse=True)
def program():
    with exclusive():
        sim.prepare()


def simulate(*words):
    done = sim.call(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8")
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
    return done.stdout


def test_nothing_goes_wrong_in_many_schedules():
    printed = simulate("--seed", "1", "--runs", "5000", "--seconds", str(BUDGET_S))
    assert "runs from seed 1, all good" in printed


def test_a_seed_gives_the_same_run_again():
    first = simulate("--seed", "7", "--runs", "20", "--trace")
    assert "connection_lost" in first and "AcceptEx" in first
    assert simulate("--seed", "7", "--runs", "20", "--trace") == first


def test_another_seed_gives_another_run():
    assert simulate("--seed", "7", "--trace") != simulate("--seed", "8", "--trace")
