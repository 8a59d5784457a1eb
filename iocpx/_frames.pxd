"""Messages in a stream of bytes: where one ends, by a delimiter behind it or by a length before it.

Portable C, libc only; nothing here locks, and nothing knows of connections.
"""

from libc.stdint cimport uint64_t

cdef enum:
    MAX_DELIMITER = 255     # bytes
    MAX_PREFIX = 8

# How messages stand in a stream.  Constant once it is made, so that any thread may read it.
ctypedef struct framing_t:
    size_t max_bytes        # of a message, without its prefix or delimiter
    int prefix_bytes        # 1 to MAX_PREFIX; 0: messages end with the delimiter
    bint little             # the prefix's first byte is its lowest
    bint includes_prefix    # it counts its own bytes, too
    int delimiter_bytes     # 1 to MAX_DELIMITER
    unsigned char[MAX_DELIMITER] delimiter
    # By frames_delimiter.  The search for the delimiter has n bytes of it and the next one is
    # another: so many of them, fallback[n - 1], may still be its beginning.
    unsigned char[MAX_DELIMITER] fallback

# One stream, as far as it has come.  All zero but for `framing`: nothing has.
ctypedef struct frames_t:
    const framing_t *framing    # borrowed
    unsigned char[MAX_PREFIX] prefix
    int prefix_bytes        # of the message under way, that have come
    size_t whole            # bytes that it shall have; once all of its prefix has come
    char *begun             # owned: what has come of it, its prefix not; NULL: none
    size_t size
    size_t capacity
    int matched             # bytes at its end that may be the delimiter's first

# A message, and what has been read for it.
ctypedef struct frame_t:
    const char *start       # in the caller's data, or the stream's own: until frames_done
    size_t size
    size_t taken            # bytes of the caller's data

cdef enum frame_result:
    FRAME_WHOLE             # there is one
    FRAME_BEGUN             # all was taken, and what there is of a message is kept
    # Nothing was taken, and nothing changed:
    FRAME_TOO_LONG          # it has more than max_bytes, or will have
    FRAME_TOO_SHORT         # its prefix counts itself, and is less than that
    FRAME_NO_MEMORY

# The caller has an exclusive use of `frames`.

# Prepares the search for the delimiter.  Precondition: 1 <= nbytes <= MAX_DELIMITER.
cdef void frames_delimiter(framing_t *framing, const char *delimiter, int nbytes) noexcept nogil
# Reads on.  As long as this is not FRAME_BEGUN there may be more in the rest of data.
# Precondition: nbytes > 0.
cdef frame_result frames_next(frames_t *frames, const char *data, size_t nbytes,
                              frame_t *found) noexcept nogil
# The message that was found is not needed any more: frees its memory if it had some.
cdef void frames_done(frames_t *frames) noexcept nogil
# How many bytes were read of the message under way, its prefix included…
cdef size_t frames_size(const frames_t *frames) noexcept nogil
# … which are put at `into`, as they came; nothing has come then.  NULL: they are thrown away.
cdef void frames_take(frames_t *frames, char *into) noexcept nogil
# Is a message of these bytes found again, as it is, by who reads the stream?  Not so if it has the
# delimiter in it, or has an end with which the delimiter that follows begins too early.
cdef bint frames_is_clean(const framing_t *framing, const char *data, size_t nbytes) noexcept nogil
# What stands before a message of so many bytes: prefix_bytes are put at `into`.  False: it does
# not fit.
cdef bint frames_put_prefix(const framing_t *framing, size_t nbytes,
                            unsigned char *into) noexcept nogil
