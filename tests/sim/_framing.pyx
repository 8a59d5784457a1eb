"""`_frames` alone, for a test in Python: streams are cut by it as a connection does it.

In this program it runs under AddressSanitizer; what it is given lies in memory of exactly its size.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport abort, free, malloc
from libc.string cimport memcmp, memcpy, memset

from iocpx._frames cimport (
    FRAME_BEGUN, frame_result, frame_t, FRAME_TOO_LONG, FRAME_TOO_SHORT, FRAME_WHOLE,
    frames_delimiter, frames_done, frames_is_clean, frames_next, frames_put_prefix, frames_size,
    frames_t, frames_take, framing_t,
)


cdef class Cutter:
    """One stream."""

    cdef framing_t framing
    cdef frames_t frames

    def __cinit__(self, max_bytes, delimiter=b"", prefix_bytes=0, little=False,
                  includes_prefix=False):
        self.framing.max_bytes = max_bytes
        self.framing.prefix_bytes = prefix_bytes
        self.framing.little = little
        self.framing.includes_prefix = includes_prefix
        if delimiter:
            frames_delimiter(&self.framing, delimiter, len(delimiter))
        self.frames.framing = &self.framing

    def __dealloc__(self):
        frames_take(&self.frames, NULL)

    def cut(self, bytes data):
        """(messages, what is wrong or None, bytes that were not taken)"""
        cdef size_t nbytes = len(data)
        cdef char *own = <char *>malloc(nbytes if nbytes > 0 else 1)
        cdef size_t at = 0
        cdef frame_t found
        cdef frame_result result = FRAME_WHOLE
        memset(&found, 0, sizeof(found))
        memcpy(own, PyBytes_AS_STRING(data), nbytes)
        messages = []
        try:
            while at < nbytes and result == FRAME_WHOLE:
                result = frames_next(&self.frames, own + at, nbytes - at, &found)
                at += found.taken
                assert at <= nbytes
                if result == FRAME_WHOLE:
                    messages.append(PyBytes_FromStringAndSize(found.start, found.size))
                    frames_done(&self.frames)
                # Nobody makes it keep more.
                most = self.framing.max_bytes + self.framing.delimiter_bytes
                assert self.frames.capacity <= most
        finally:
            free(own)
        wrong = {FRAME_TOO_LONG: "too long", FRAME_TOO_SHORT: "too short"}.get(result)
        assert wrong or at == nbytes and result in (FRAME_BEGUN, FRAME_WHOLE)
        return messages, wrong, nbytes - at

    def take(self):
        """What is there of the message under way, as it came."""
        cdef bytes data = PyBytes_FromStringAndSize(NULL, frames_size(&self.frames))
        frames_take(&self.frames, PyBytes_AS_STRING(data))
        return data

    def is_clean(self, bytes data):
        return frames_is_clean(&self.framing, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))

    def prefix(self, size_t nbytes):
        """None: it does not fit."""
        cdef unsigned char[8] prefix
        if not frames_put_prefix(&self.framing, nbytes, prefix):
            return None
        return PyBytes_FromStringAndSize(<char *>prefix, self.framing.prefix_bytes)


# -- for libFuzzer: the same stream at once and in parts, without Python ---------------------------

ctypedef struct outcome_t:
    uint64_t digest             # of the messages
    size_t messages
    size_t nbytes               # of them, with what is around them
    frame_result result
    size_t left                 # of the stream; what has come of a message included


cdef void note(outcome_t *outcome, const framing_t *framing, const frame_t *found) noexcept nogil:
    cdef size_t i
    cdef int wrong = 0
    outcome.messages += 1
    outcome.nbytes += found.size + <size_t>(framing.prefix_bytes + framing.delimiter_bytes)
    outcome.digest = (outcome.digest ^ found.size) * 1099511628211u
    for i in range(found.size):
        outcome.digest = (outcome.digest ^ <unsigned char>found.start[i]) * 1099511628211u
        if (framing.prefix_bytes == 0 and i + framing.delimiter_bytes <= found.size
                and memcmp(found.start + i, framing.delimiter, framing.delimiter_bytes) == 0):
            wrong = 1
    if wrong or found.size > framing.max_bytes:
        abort()


cdef void read_all(outcome_t *outcome, const framing_t *framing, const char *stream, size_t nbytes,
                   uint32_t seed) noexcept nogil:
    """seed: of the cuts; 0: none."""
    cdef frames_t frames
    cdef frame_t found
    cdef size_t at = 0
    cdef size_t end = 0
    cdef char *rest
    memset(&frames, 0, sizeof(frames))
    memset(outcome, 0, sizeof(outcome[0]))
    frames.framing = framing
    outcome.result = FRAME_WHOLE
    while at < nbytes and outcome.result <= FRAME_BEGUN:
        if at == end:
            seed = seed * 1664525u + 1013904223u if seed != 0 else 0
            end = nbytes if seed == 0 else min(nbytes, at + 1 + (seed >> 16) % 9)
        outcome.result = frames_next(&frames, stream + at, end - at, &found)
        at += found.taken
        if outcome.result == FRAME_WHOLE:
            note(outcome, framing, &found)
            frames_done(&frames)
        if at > end or frames.capacity > framing.max_bytes + <size_t>framing.delimiter_bytes:
            abort()
    outcome.left = frames_size(&frames) + nbytes - at
    # What is left is the end of the stream, as it came.
    rest = <char *>malloc(frames_size(&frames) + 1)
    end = frames_size(&frames)
    frames_take(&frames, rest)
    if end > at or memcmp(rest, stream + at - end, end) != 0:
        abort()
    free(rest)


cdef public int framing_fuzz(const unsigned char *data, size_t nbytes) noexcept nogil:
    cdef framing_t framing
    cdef outcome_t whole
    cdef outcome_t cut
    cdef size_t around = 3
    memset(&framing, 0, sizeof(framing))
    if nbytes < around:
        return 0
    framing.max_bytes = 1 + <size_t>data[1]
    if data[0] & 1:
        framing.prefix_bytes = 1 << (data[0] >> 3 & 3)
        framing.little = data[0] >> 1 & 1
        framing.includes_prefix = data[0] >> 2 & 1
    else:
        around += 1 + (data[0] >> 1 & 7)
        if nbytes < around:
            return 0
        frames_delimiter(&framing, <const char *>data + 3, <int>around - 3)
    read_all(&whole, &framing, <const char *>data + around, nbytes - around, 0)
    read_all(&cut, &framing, <const char *>data + around, nbytes - around, 1 + <uint32_t>data[2])
    if (whole.digest != cut.digest or whole.messages != cut.messages or whole.left != cut.left
            or (whole.result > FRAME_BEGUN) != (cut.result > FRAME_BEGUN)
            or whole.nbytes + whole.left != nbytes - around):
        abort()
    return 0
