"""The lanes, for tests on the host that go through all of them."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from lab import here

EVERY_LANE = [
    pytest.param(
        lane, marks=[pytest.mark.slow("another lane")] * (lane != here.default_lane())
    )
    for lane in here.lanes()
]
