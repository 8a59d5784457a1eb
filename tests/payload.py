"""The bytes that the tests send, and their comparison with what comes."""

import functools
import random

# More bytes than the kernels of both ends of a connection take in on their own: a server that wrote
# this much to a client that does not read is sure to have data left in its own queue.
MORE_THAN_THE_KERNEL_TAKES = 16 << 20


@functools.lru_cache(16)
def pattern(size, seed=0):
    """`size` bytes that depend on their place, so that lost, doubled and swapped pieces show."""
    return random.Random(seed).randbytes(size)


def pieces(data, cuts, seed=0):
    """`data` in `cuts` + 1 pieces (fewer where it is too short), cut at random places."""
    cuts = min(cuts, len(data) - 1)
    places = sorted(random.Random(seed).sample(range(1, len(data)), cuts)) if cuts > 0 else []
    return [data[start:end] for start, end in zip([0, *places], [*places, len(data)])]


def assert_same_bytes(got, wanted):
    """Like ==, but says where megabytes differ instead of printing them."""
    if got == wanted:
        return
    shorter = min(len(got), len(wanted))
    place = next((i for i in range(shorter) if got[i] != wanted[i]), shorter)
    raise AssertionError(
        f"{len(got)} bytes came, {len(wanted)} were expected; first difference at {place}: "
        f"{bytes(got[place : place + 16])!r} instead of {bytes(wanted[place : place + 16])!r}"
    )
