"""Which of CPython's own tests of asyncio fail in the lab, on which loop and lane, and why.

`dev.py conformance` fails when another one does, and when one of these passes.
"""

from dataclasses import dataclass

EVERY_LANE = ("3.11", "3.13", "3.14", "3.14t")
BOTH = ("stock", "iocpx")


@dataclass(frozen=True)
class Expected:
    test: str  # MODULE.CLASS.METHOD
    reason: str
    loops: tuple = BOTH
    lanes: tuple = EVERY_LANE


EXPECTED = []
