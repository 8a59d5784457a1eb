"""Properties of `_frames`, which run inside the simulation's program, under AddressSanitizer."""

import random

import _framing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


def by_delimiter(stream, max_bytes, delimiter):
    """(messages, what is wrong or None, what is left), by Python's own means."""
    messages = []
    while True:
        at = stream.find(delimiter)
        if at > max_bytes:
            return messages, "too long", stream
        if at < 0:
            # An end that may become the delimiter is no part of a message yet.
            begun = max(n for n in range(len(delimiter)) if stream.endswith(delimiter[:n]))
            wrong = "too long" if len(stream) - begun > max_bytes else None
            return messages, wrong, stream
        messages.append(stream[:at])
        stream = stream[at + len(delimiter) :]


def by_prefix(stream, max_bytes, prefix_bytes, little, includes_prefix):
    messages = []
    while len(stream) >= prefix_bytes:
        size = int.from_bytes(stream[:prefix_bytes], "little" if little else "big")
        if includes_prefix:
            size -= prefix_bytes
        if size < 0:
            return messages, "too short", stream
        if size > max_bytes:
            return messages, "too long", stream
        if len(stream) < prefix_bytes + size:
            break
        messages.append(stream[prefix_bytes : prefix_bytes + size])
        stream = stream[prefix_bytes + size :]
    return messages, None, stream


def in_parts(stream, draw):
    """It, cut anywhere: `draw()` is the size of the next part."""
    while stream:
        size = draw()
        yield stream[:size]
        stream = stream[size:]


def check(cutter, stream, parts, expected):
    messages, wrong = [], None
    untaken = 0
    fed = 0
    for part in parts:
        whole, wrong, untaken = cutter.cut(part)
        messages += whole
        fed += len(part)
        if wrong:
            break
    assert (messages, wrong) == expected[:2], (stream, messages, wrong, expected)
    # Also where something is wrong, what is there is there as it came.
    left = cutter.take() + stream[fed - untaken :]
    assert left == expected[2], (stream, left, expected)
    assert cutter.take() == b""


# Few different bytes: delimiters, their beginnings and themselves within themselves.
texts = st.text("ab\n", max_size=60).map(str.encode) | st.binary(max_size=60)
delimiters = st.text("ab\n", min_size=1, max_size=6).map(str.encode) | st.binary(
    min_size=1, max_size=255
)
limits = st.integers(1, 30)
sizes = st.lists(st.integers(1, 9), min_size=1, max_size=20)


def parts_of(stream, sizes):
    turn = iter(sizes * (len(stream) + 1))
    return list(in_parts(stream, lambda: next(turn)))


@given(texts, limits, delimiters, sizes)
def delimited(stream, max_bytes, delimiter, sizes):
    expected = by_delimiter(stream, max_bytes, delimiter)
    cutter = _framing.Cutter(max_bytes, delimiter)
    check(cutter, stream, parts_of(stream, sizes), expected)


@given(st.lists(texts, max_size=6), delimiters, sizes)
def delimited_messages(messages, delimiter, sizes):
    """What is clean is found as it was written; what is not would not be."""
    cutter = _framing.Cutter(1000, delimiter)
    for message in messages:
        found = by_delimiter(message + delimiter, 1000, delimiter)
        assert cutter.is_clean(message) == (found == ([message], None, b""))
    clean = [message for message in messages if cutter.is_clean(message)]
    stream = b"".join(message + delimiter for message in clean)
    check(cutter, stream, parts_of(stream, sizes), (clean, None, b""))


prefixes = st.sampled_from([1, 2, 4, 8])


@given(st.lists(texts, max_size=6), texts, limits, prefixes, st.booleans(), st.booleans(), sizes)
def prefixed(messages, rest, max_bytes, prefix_bytes, little, includes_prefix, sizes):
    """Some that are good, then anything."""
    cutter = _framing.Cutter(max_bytes, b"", prefix_bytes, little, includes_prefix)
    stream = b"".join(cutter.prefix(len(message)) + message for message in messages) + rest
    expected = by_prefix(stream, max_bytes, prefix_bytes, little, includes_prefix)
    check(cutter, stream, parts_of(stream, sizes), expected)


@given(st.integers(0, 2**48), prefixes, st.booleans(), st.booleans())
def prefix(size, prefix_bytes, little, includes_prefix):
    cutter = _framing.Cutter(1, b"", prefix_bytes, little, includes_prefix)
    number = size + prefix_bytes * includes_prefix
    fits = number < 256**prefix_bytes
    expected = number.to_bytes(prefix_bytes, "little" if little else "big") if fits else None
    assert cutter.prefix(size) == expected


def big():
    """Long messages in receives of all sizes, whose memory grows step by step."""
    drawn = random.Random(1)
    for delimiter in (b"\n", b"ab" * 100, b"\0" * 255):
        cutter = _framing.Cutter(1 << 20, delimiter)
        messages = [b"\1" * drawn.randrange(1 << 20) for _ in range(5)]
        stream = b"".join(message + delimiter for message in messages)
        parts = in_parts(stream, lambda: drawn.choice([1, 255, 4096, 65536]))
        check(cutter, stream, parts, (messages, None, b""))
        # Nearly the delimiter again and again: each byte is still looked at once.
        stream = delimiter[:-1] * ((1 << 20) // len(delimiter))
        check(cutter, stream, [stream], by_delimiter(stream, 1 << 20, delimiter))
    for prefix_bytes in (4, 8):
        cutter = _framing.Cutter(1 << 20, b"", prefix_bytes)
        stream = b"".join(cutter.prefix(len(message)) + message for message in messages)
        parts = in_parts(stream, lambda: drawn.choice([1, 255, 4096, 65536]))
        check(cutter, stream, parts, (messages, None, b""))


def run(examples):
    """All of it; returns how many properties there are."""
    properties = [delimited, delimited_messages, prefixed, prefix]
    for each in properties:
        # In the same order each time, so that what fails fails again.
        settings(
            max_examples=examples,
            database=None,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )(each)()
    big()
    return len(properties)
