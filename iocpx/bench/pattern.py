"""The bytes that streaming and HTTP send: known to both sides, checked by the one that receives.

All connections send the same endless repetition, each from a place of its own, which the first
HEADER_BYTES that the client sends tell. It repeats after an odd number of blocks, so that a block
left over in a buffer is not taken for the next one.
"""

import random
import struct

BLOCK_BYTES = 65536
PERIOD = 5 * BLOCK_BYTES
# Twice, so that no slice of up to a period wraps.
PATTERN = random.Random(5).randbytes(PERIOD) * 2
HEADER = struct.Struct("!I")
# What the receiving server says at the end: how many bytes came, or at the first wrong one -1 minus
# the number of right ones before.
VERDICT = struct.Struct("!q")


def start_of(index):
    """Where the connection's stream starts."""
    return index * 4099 % PERIOD


def blocks(start):
    """A period of it, as the blocks that are sent in turn."""
    ends = range(start, start + PERIOD, BLOCK_BYTES)
    return [PATTERN[at : at + BLOCK_BYTES] for at in ends]


def body(size):
    """Of a request or an answer of HTTP."""
    return (PATTERN * (size // len(PATTERN) + 1))[:size]


class Different(Exception):
    """A byte was not what it should be. args[0]: how many came before it."""


class Check:
    """Compares what is received on one connection."""

    def __init__(self, start):
        self.at = start
        self.count = 0

    def take(self, data):
        size = len(data)
        if size > PERIOD:
            for begin in range(0, size, PERIOD):
                self.take(data[begin : begin + PERIOD])
            return
        # Compares in place, without a slice.
        if not PATTERN.startswith(data, self.at):
            expected = PATTERN[self.at : self.at + size]
            wrong = next(i for i, (a, b) in enumerate(zip(bytes(data), expected)) if a != b)
            raise Different(self.count + wrong)
        self.at = (self.at + size) % PERIOD
        self.count += size
