"""Messages in a stream of bytes; see _frames.pxd for the types and their rules.

Each byte is looked at once, wherever the stream is cut: what is known of a delimiter that has
begun is a number (Knuth, Morris and Pratt's search), and what has come of a message is never gone
through again.

Called by `_messages` and, for what is constant of a framer, `_framers`; calls nothing of iocpx.
"""

from libc.stdint cimport uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memchr, memcpy, memset

cdef enum:
    LEAST_CAPACITY = 256


cdef void frames_delimiter(framing_t *framing, const char *delimiter, int nbytes) noexcept nogil:
    cdef int matched = 0
    cdef int i
    memcpy(framing.delimiter, delimiter, nbytes)
    framing.delimiter_bytes = nbytes
    framing.fallback[0] = 0
    for i in range(1, nbytes):
        while matched > 0 and framing.delimiter[i] != framing.delimiter[matched]:
            matched = framing.fallback[matched - 1]
        matched += framing.delimiter[i] == framing.delimiter[matched]
        framing.fallback[i] = <unsigned char>matched


cdef size_t find_delimiter(const framing_t *framing, const char *data, size_t nbytes,
                           int *matched) noexcept nogil:
    """How many bytes there are up to its end; 0: it does not end here.  *matched: bytes of it
    that the stream ends with, before data and after it."""
    cdef const unsigned char *bytes = <const unsigned char *>data
    cdef const void *first
    cdef size_t i = 0
    cdef int n = matched[0]
    while i < nbytes:
        if n == 0:
            first = memchr(bytes + i, framing.delimiter[0], nbytes - i)
            if first == NULL:
                break
            i = <size_t>(<const unsigned char *>first - bytes) + 1
            n = 1
        else:
            while n > 0 and bytes[i] != framing.delimiter[n]:
                n = framing.fallback[n - 1]
            if bytes[i] == framing.delimiter[n]:
                n += 1
            i += 1
        if n == framing.delimiter_bytes:
            matched[0] = 0
            return i
    matched[0] = n
    return 0


cdef bint keep(frames_t *frames, const char *data, size_t nbytes, size_t most) noexcept nogil:
    """Put it behind what has come of the message, which has `most` bytes in the end."""
    cdef size_t needed = frames.size + nbytes
    cdef size_t capacity
    cdef char *memory
    if needed > frames.capacity:
        # Of what has come, and never at once for all that a prefix promises.
        capacity = min(max(needed, max(2 * frames.capacity, <size_t>LEAST_CAPACITY)), most)
        memory = <char *>malloc(capacity)
        if memory == NULL:
            return False
        if frames.size > 0:
            memcpy(memory, frames.begun, frames.size)
        free(frames.begun)
        frames.begun = memory
        frames.capacity = capacity
    memcpy(frames.begun + frames.size, data, nbytes)
    frames.size = needed
    return True


cdef frame_result next_by_delimiter(frames_t *frames, const char *data, size_t nbytes,
                                    frame_t *found) noexcept nogil:
    cdef const framing_t *framing = frames.framing
    # So many bytes has the longest message with its delimiter.
    cdef size_t most = framing.max_bytes + <size_t>framing.delimiter_bytes
    cdef size_t seen = min(nbytes, most - frames.size)
    cdef int matched = frames.matched
    cdef size_t end = find_delimiter(framing, data, seen, &matched)
    if end == 0:
        # What the delimiter may begin with is no part of the message yet.
        if frames.size + seen - <size_t>matched > framing.max_bytes:
            return FRAME_TOO_LONG
        if not keep(frames, data, nbytes, most):
            return FRAME_NO_MEMORY
        frames.matched = matched
        found.taken = nbytes
        return FRAME_BEGUN
    found.start = data
    found.size = frames.size + end - <size_t>framing.delimiter_bytes
    if frames.size > 0:
        if not keep(frames, data, end, most):
            return FRAME_NO_MEMORY
        found.start = frames.begun
    found.taken = end
    frames.size = 0
    frames.matched = 0
    return FRAME_WHOLE


cdef frame_result prefix_says(frames_t *frames, size_t *nbytes) noexcept nogil:
    cdef const framing_t *framing = frames.framing
    cdef uint64_t value = 0
    cdef int i
    for i in range(framing.prefix_bytes):
        value = value << 8 | frames.prefix[framing.prefix_bytes - 1 - i if framing.little else i]
    if framing.includes_prefix:
        if value < <uint64_t>framing.prefix_bytes:
            return FRAME_TOO_SHORT
        value -= <uint64_t>framing.prefix_bytes
    if value > framing.max_bytes:
        return FRAME_TOO_LONG
    nbytes[0] = <size_t>value
    return FRAME_WHOLE


cdef frame_result next_by_prefix(frames_t *frames, const char *data, size_t nbytes,
                                 frame_t *found) noexcept nogil:
    cdef int prefix_bytes = frames.framing.prefix_bytes
    cdef size_t lacking = <size_t>(prefix_bytes - frames.prefix_bytes)
    cdef size_t whole = frames.whole
    cdef size_t part
    cdef frame_result result
    if lacking > 0:
        # Counted only where it is whole and good, or goes on: else nothing has changed.
        memcpy(frames.prefix + frames.prefix_bytes, data, min(lacking, nbytes))
        if nbytes < lacking:
            frames.prefix_bytes += <int>nbytes
            found.taken = nbytes
            return FRAME_BEGUN
        result = prefix_says(frames, &whole)
        if result != FRAME_WHOLE:
            return result
    part = min(nbytes - lacking, whole - frames.size)
    found.taken = lacking + part
    if frames.size == 0 and part == whole:
        found.start = data + lacking
    else:
        if part > 0 and not keep(frames, data + lacking, part, whole):
            return FRAME_NO_MEMORY
        frames.prefix_bytes = prefix_bytes
        frames.whole = whole
        if frames.size < whole:
            return FRAME_BEGUN
        found.start = frames.begun
    found.size = whole
    frames.size = 0
    frames.prefix_bytes = 0
    return FRAME_WHOLE


cdef frame_result frames_next(frames_t *frames, const char *data, size_t nbytes,
                              frame_t *found) noexcept nogil:
    memset(found, 0, sizeof(found[0]))
    if frames.framing.prefix_bytes > 0:
        return next_by_prefix(frames, data, nbytes, found)
    return next_by_delimiter(frames, data, nbytes, found)


cdef void frames_done(frames_t *frames) noexcept nogil:
    if frames.size == 0:
        free(frames.begun)
        frames.begun = NULL
        frames.capacity = 0


cdef size_t frames_size(const frames_t *frames) noexcept nogil:
    return <size_t>frames.prefix_bytes + frames.size


cdef void frames_take(frames_t *frames, char *into) noexcept nogil:
    if into != NULL:
        memcpy(into, frames.prefix, <size_t>frames.prefix_bytes)
        if frames.size > 0:
            memcpy(into + frames.prefix_bytes, frames.begun, frames.size)
    frames.prefix_bytes = 0
    frames.size = 0
    frames.matched = 0
    frames_done(frames)


cdef bint frames_is_clean(const framing_t *framing, const char *data, size_t nbytes) noexcept nogil:
    cdef int matched = 0
    cdef size_t end
    if find_delimiter(framing, data, nbytes, &matched) != 0:
        return False
    end = find_delimiter(framing, <const char *>framing.delimiter,
                         <size_t>framing.delimiter_bytes, &matched)
    return end == <size_t>framing.delimiter_bytes


cdef bint frames_put_prefix(const framing_t *framing, size_t nbytes,
                            unsigned char *into) noexcept nogil:
    cdef uint64_t value = nbytes
    cdef int i
    if framing.includes_prefix:
        value += <uint64_t>framing.prefix_bytes
    if framing.prefix_bytes < 8 and value >> (8 * framing.prefix_bytes) != 0:
        return False
    for i in range(framing.prefix_bytes):
        into[i if framing.little else framing.prefix_bytes - 1 - i] = <unsigned char>value
        value >>= 8
    return True
