"""The bytes that the tests send, and their comparison with what comes."""

import functools
import random
import threading

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


class Keeps:
    """Keeps a stream that comes in pieces, and puts it together when it is looked at.

    No bytearray: one that grows is copied with each eighth that it gets longer, which under Wine
    goes byte by byte, to memory that was never touched. And none of the objects that came: whose
    memory must be held by somebody else is then seen. Thread: one keeps, any may look.
    """

    def __init__(self):
        self.kept_bytes = 0
        self._pieces = []
        self._joining = threading.Lock()

    def keep(self, data):
        self._pieces.append(bytes(memoryview(data)))
        self.kept_bytes += len(data)

    @property
    def received(self):
        """All that was kept, as bytes."""
        with self._joining:
            count = len(self._pieces)
            if count > 1:
                # Another piece may come meanwhile, behind these.
                self._pieces[:count] = [b"".join(self._pieces[:count])]
            return self._pieces[0] if count else b""

    def forget(self):
        """Begin anew. Only while nothing comes."""
        self.kept_bytes = 0
        self._pieces.clear()


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
