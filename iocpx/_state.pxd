"""What the engine knows, without doing any I/O: buffers and their queues, the
pool, the connection's states, lists and deadlines.  Portable C, libc only.

Nothing here locks.  Each function says whose lock the caller holds; "exclusive"
means that no other thread can reach the structure at that moment.
"""

from libc.stdint cimport uint64_t

# -- buffers -------------------------------------------------------------------

ctypedef struct buf_t:
    buf_t *next         # in a queue_t or in the pool
    void *owner         # owned: the Python bytes object that `data` lies in; NULL: data is our own
    char *data          # first byte that still counts
    size_t size         # bytes from data on
    # The storage to be filled: behind this struct, or inside the owner.  NULL and 0: the
    # owner's bytes are only read.
    char *base
    size_t capacity
    int writes          # write() calls that end here

ctypedef struct queue_t:
    buf_t *head         # owned
    buf_t *tail         # borrowed from the chain
    size_t nbytes       # sum of the sizes
    int writes          # sum of the writes

cdef void queue_push(queue_t *queue, buf_t *buf) noexcept nogil
cdef void queue_push_front(queue_t *queue, buf_t *buf) noexcept nogil
cdef buf_t *queue_pop(queue_t *queue) noexcept nogil
# Moves all of `queue` behind what `onto` holds.
cdef void queue_move(queue_t *queue, queue_t *onto) noexcept nogil
# Takes nbytes (at most queue.nbytes) off the front; emptied buffers move to `emptied`.
cdef void queue_consume(queue_t *queue, size_t nbytes, queue_t *emptied) noexcept nogil
# Appends a copy to the last buffer if it has room for all of it; False: nothing done.
cdef bint queue_extend(queue_t *queue, const char *data, size_t nbytes) noexcept nogil

# NULL: out of memory.
cdef buf_t *buf_new(size_t capacity) noexcept nogil
cdef buf_t *buf_wrap(void *owner, char *data, size_t size) noexcept nogil
# The caller has taken care of `owner`.
cdef void buf_free(buf_t *buf) noexcept nogil

# -- pool: buffers of one capacity, the most recently used first ------------------

ctypedef struct pool_t:
    buf_t *free         # owned
    size_t n_free
    size_t max_free     # beyond this a returned buffer is freed
    size_t capacity
    uint64_t hits       # taken from the free list
    uint64_t misses     # newly allocated

cdef void pool_init(pool_t *pool, size_t capacity, size_t max_free) noexcept nogil
# An empty buffer that holds at least nbytes (0: the pool's capacity); NULL: out of memory.
cdef buf_t *pool_take(pool_t *pool, size_t nbytes) noexcept nogil
# buf has no owner (any more).
cdef void pool_give(pool_t *pool, buf_t *buf) noexcept nogil
# Frees one buffer.  Precondition: n_free > 0.
cdef void pool_trim(pool_t *pool) noexcept nogil
cdef void pool_clear(pool_t *pool) noexcept nogil

# -- reorder window: which of `size` slots are in use, first in first out -----------

ctypedef struct window_t:
    int size
    int first           # the slot whose turn it is, if n > 0
    int n               # slots in use, from `first` on, wrapping around

# The next free slot, now in use.  Precondition: n < size.
cdef int window_add(window_t *window) noexcept nogil
# The first slot, no longer in use.  Precondition: n > 0.
cdef int window_drop(window_t *window) noexcept nogil

# -- write marks -------------------------------------------------------------------

ctypedef struct marks_t:
    size_t high         # bytes
    size_t low          # bytes
    bint above          # passed high and not yet down to low again

cdef void marks_update(marks_t *marks, size_t nbytes) noexcept nogil

# -- lists and deadlines -----------------------------------------------------------

ctypedef struct link_t:
    link_t *prev        # NULL: in no list
    link_t *next
    void *owner         # borrowed: the struct that embeds the link

cdef void list_init(link_t *head) noexcept nogil
cdef void list_append(link_t *head, link_t *link) noexcept nogil
# No effect on a link that is in no list.
cdef void list_remove(link_t *link) noexcept nogil
cdef bint list_empty(const link_t *head) noexcept nogil

# Deadlines of one duration: whoever arms last is due last, so a plain list is
# sorted by itself and every operation is O(1).
ctypedef struct deadline_t:
    link_t link         # first: the link pointer is the deadline pointer
    uint64_t due_ms

ctypedef struct deadlines_t:
    link_t head
    uint64_t duration_ms

cdef void deadlines_init(deadlines_t *deadlines, uint64_t duration_ms) noexcept nogil
cdef void deadline_arm(deadlines_t *deadlines, deadline_t *deadline, uint64_t now_ms) noexcept nogil
cdef void deadline_disarm(deadline_t *deadline) noexcept nogil
# The earliest, not removed; NULL: none.
cdef deadline_t *deadlines_first(deadlines_t *deadlines) noexcept nogil

# -- timers ------------------------------------------------------------------------

# Due times of any kind, in a pairing heap whose nodes lie in what they belong to: a timer
# needs no memory of its own, and arming one cannot fail.
ctypedef struct timer_t:
    timer_t *prev       # the sibling before it, or the parent; itself: the root; NULL: in no heap
    timer_t *next       # sibling
    timer_t *child      # the first of those that are due after it
    uint64_t due        # in the unit of the heap's owner
    uint64_t number     # of those that are due at the same time the one armed first comes first
    void *owner         # borrowed: the struct that embeds the timer

ctypedef struct timers_t:
    timer_t *first      # due next; NULL: none.  All zero: an empty heap
    uint64_t number     # timers armed so far

# O(1).  Precondition: in no heap.
cdef void timer_arm(timers_t *timers, timer_t *timer, uint64_t due) noexcept nogil
# O(log n), amortised.  False: it was in no heap.
cdef bint timer_disarm(timers_t *timers, timer_t *timer) noexcept nogil

# -- the connection's states ---------------------------------------------------------

cdef enum conn_state:
    STATE_CONNECTING    # a client of ours, not connected yet
    STATE_OPEN          # in use, also when the peer has sent EOF (half-closed)
    STATE_FLUSHING      # close() was called: the send queue goes out, input is discarded
    STATE_DRAINING      # our FIN is out, the peer's is awaited, input is discarded
    STATE_ENDING        # both directions are over: handle closes when no op is pending
    STATE_ABORTING      # reset: ops are cancelled, handle closes when none is pending
    STATE_CLOSED        # the handle is gone
    N_STATES

cdef enum conn_event:
    EVENT_CONNECTED     # ConnectEx has succeeded
    EVENT_CLOSE         # close() by the application or by the server's stop
    EVENT_FLUSHED       # the send queue is empty and SD_SEND is done
    EVENT_EOF           # the peer has ended its direction
    EVENT_ABORT         # abort(), a failed operation, a raising callback
    EVENT_DEADLINE      # the close deadline has passed
    EVENT_QUIET         # no op is pending
    N_EVENTS

# The state that follows, or -1: this event cannot occur in this state.
cdef int conn_next_state(int state, int event) noexcept nogil
