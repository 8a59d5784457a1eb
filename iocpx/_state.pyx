"""Portable state of the engine; see _state.pxd for the types and their rules.

Called by the engine's rooms and, for queues, buffers and timers, by some above; calls nothing of
iocpx.
"""

from libc.stdint cimport uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

# -- buffers -------------------------------------------------------------------


cdef void queue_push(queue_t *queue, buf_t *buf) noexcept nogil:
    buf.next = NULL
    if queue.tail == NULL:
        queue.head = buf
    else:
        queue.tail.next = buf
    queue.tail = buf
    queue.nbytes += buf.size
    queue.writes += buf.writes


cdef void queue_push_front(queue_t *queue, buf_t *buf) noexcept nogil:
    buf.next = queue.head
    queue.head = buf
    if queue.tail == NULL:
        queue.tail = buf
    queue.nbytes += buf.size
    queue.writes += buf.writes


cdef buf_t *queue_pop(queue_t *queue) noexcept nogil:
    cdef buf_t *buf = queue.head
    if buf != NULL:
        queue.head = buf.next
        if queue.head == NULL:
            queue.tail = NULL
        queue.nbytes -= buf.size
        queue.writes -= buf.writes
        buf.next = NULL
    return buf


cdef void queue_move(queue_t *queue, queue_t *onto) noexcept nogil:
    if queue.head == NULL:
        return
    if onto.tail == NULL:
        onto.head = queue.head
    else:
        onto.tail.next = queue.head
    onto.tail = queue.tail
    onto.nbytes += queue.nbytes
    onto.writes += queue.writes
    queue.head = NULL
    queue.tail = NULL
    queue.nbytes = 0
    queue.writes = 0


cdef void queue_consume(queue_t *queue, size_t nbytes, queue_t *emptied) noexcept nogil:
    cdef buf_t *buf
    cdef size_t part
    while nbytes > 0:
        buf = queue.head
        part = nbytes if nbytes < buf.size else buf.size
        buf.data += part
        buf.size -= part
        queue.nbytes -= part
        nbytes -= part
        if buf.size == 0:
            queue_push(emptied, queue_pop(queue))


cdef bint queue_extend(queue_t *queue, const char *data, size_t nbytes) noexcept nogil:
    cdef buf_t *buf = queue.tail
    cdef size_t used
    if buf == NULL or buf.base == NULL:
        return False
    used = <size_t>(buf.data - buf.base) + buf.size
    if buf.capacity - used < nbytes:
        return False
    # The kernel may be reading this buffer's earlier bytes; those stay as they
    # are, and a send covers only the length that it was given.
    memcpy(buf.data + buf.size, data, nbytes)
    buf.size += nbytes
    queue.nbytes += nbytes
    return True


cdef buf_t *buf_new(size_t capacity) noexcept nogil:
    cdef buf_t *buf = <buf_t *>malloc(sizeof(buf_t) + capacity)
    if buf != NULL:
        buf.next = NULL
        buf.owner = NULL
        buf.base = <char *>(buf + 1)
        buf.capacity = capacity
        buf.data = buf.base
        buf.size = 0
        buf.writes = 0
    return buf


cdef buf_t *buf_wrap(void *owner, char *data, size_t size) noexcept nogil:
    cdef buf_t *buf = <buf_t *>malloc(sizeof(buf_t))
    if buf != NULL:
        buf.next = NULL
        buf.owner = owner
        buf.base = NULL
        buf.capacity = 0
        buf.data = data
        buf.size = size
        buf.writes = 0
    return buf


cdef void buf_free(buf_t *buf) noexcept nogil:
    free(buf)


# -- pool ----------------------------------------------------------------------


cdef void pool_init(pool_t *pool, size_t capacity, size_t max_free) noexcept nogil:
    pool.free = NULL
    pool.n_free = 0
    pool.max_free = max_free
    pool.capacity = capacity
    pool.hits = 0
    pool.misses = 0


cdef buf_t *pool_take(pool_t *pool, size_t nbytes) noexcept nogil:
    cdef buf_t *buf
    if nbytes <= pool.capacity and pool.free != NULL:
        buf = pool.free
        pool.free = buf.next
        pool.n_free -= 1
        pool.hits += 1
        buf.next = NULL
        buf.data = buf.base
        buf.size = 0
        buf.writes = 0
    else:
        buf = buf_new(nbytes if nbytes > pool.capacity else pool.capacity)
        pool.misses += 1
    return buf


cdef void pool_give(pool_t *pool, buf_t *buf) noexcept nogil:
    if buf.capacity == pool.capacity and pool.n_free < pool.max_free:
        buf.next = pool.free
        pool.free = buf
        pool.n_free += 1
    else:
        buf_free(buf)


cdef void pool_trim(pool_t *pool) noexcept nogil:
    cdef buf_t *buf = pool.free
    pool.free = buf.next
    pool.n_free -= 1
    buf_free(buf)


cdef void pool_clear(pool_t *pool) noexcept nogil:
    while pool.free != NULL:
        pool_trim(pool)


# -- reorder window ------------------------------------------------------------


cdef int window_add(window_t *window) noexcept nogil:
    cdef int slot = (window.first + window.n) % window.size
    window.n += 1
    return slot


cdef int window_drop(window_t *window) noexcept nogil:
    cdef int slot = window.first
    window.first = (window.first + 1) % window.size
    window.n -= 1
    return slot


# -- write marks ---------------------------------------------------------------


cdef void marks_update(marks_t *marks, size_t nbytes) noexcept nogil:
    if nbytes > marks.high:
        marks.above = True
    elif nbytes <= marks.low:
        marks.above = False


# -- lists and deadlines -------------------------------------------------------


cdef void list_init(link_t *head) noexcept nogil:
    head.prev = head
    head.next = head
    head.owner = NULL


cdef void list_append(link_t *head, link_t *link) noexcept nogil:
    link.prev = head.prev
    link.next = head
    head.prev.next = link
    head.prev = link


cdef void list_remove(link_t *link) noexcept nogil:
    if link.prev != NULL:
        link.prev.next = link.next
        link.next.prev = link.prev
        link.prev = NULL
        link.next = NULL


cdef bint list_empty(const link_t *head) noexcept nogil:
    return head.next == head


cdef void deadlines_init(deadlines_t *deadlines, uint64_t duration_ms) noexcept nogil:
    list_init(&deadlines.head)
    deadlines.duration_ms = duration_ms


cdef void deadline_arm(deadlines_t *deadlines, deadline_t *deadline,
                       uint64_t now_ms) noexcept nogil:
    list_remove(&deadline.link)
    # now_ms is rounded down: without the added 1 it could come that much early.
    deadline.due_ms = now_ms + deadlines.duration_ms + 1
    list_append(&deadlines.head, &deadline.link)


cdef void deadline_disarm(deadline_t *deadline) noexcept nogil:
    list_remove(&deadline.link)


cdef deadline_t *deadlines_first(deadlines_t *deadlines) noexcept nogil:
    if list_empty(&deadlines.head):
        return NULL
    return <deadline_t *>deadlines.head.next


# -- timers --------------------------------------------------------------------


cdef timer_t *timer_meld(timer_t *a, timer_t *b) noexcept nogil:
    """One heap of two: the root that is due later becomes the first child of the other.  Either
    may be NULL; the result's own `prev` and `next` are the caller's to set."""
    cdef timer_t *first = a
    if b == NULL:
        return a
    if a == NULL:
        return b
    if b.due < a.due or (b.due == a.due and b.number < a.number):
        first = b
        b = a
    b.prev = first
    b.next = first.child
    if b.next != NULL:
        b.next.prev = b
    first.child = b
    return first


cdef timer_t *timer_meld_children(timer_t *child) noexcept nogil:
    """One heap of a list of siblings: in pairs from the front, then the pairs from the back.  The
    pairs are what bounds the cost of the times to come."""
    cdef timer_t *pairs = NULL
    cdef timer_t *pair
    cdef timer_t *rest
    while child != NULL:
        rest = NULL if child.next == NULL else child.next.next
        pair = timer_meld(child, child.next)
        pair.next = pairs
        pairs = pair
        child = rest
    cdef timer_t *root = NULL
    while pairs != NULL:
        rest = pairs.next
        root = timer_meld(root, pairs)
        pairs = rest
    return root


cdef void timers_set_first(timers_t *timers, timer_t *root) noexcept nogil:
    timers.first = root
    if root != NULL:
        root.prev = root
        root.next = NULL


cdef void timer_arm(timers_t *timers, timer_t *timer, uint64_t due) noexcept nogil:
    timers.number += 1
    timer.child = NULL
    timer.due = due
    timer.number = timers.number
    timers_set_first(timers, timer_meld(timers.first, timer))


cdef bint timer_disarm(timers_t *timers, timer_t *timer) noexcept nogil:
    cdef timer_t *root
    if timer.prev == NULL:
        return False
    root = timer_meld_children(timer.child)
    if timers.first != timer:
        if timer.prev.child == timer:
            timer.prev.child = timer.next
        else:
            timer.prev.next = timer.next
        if timer.next != NULL:
            timer.next.prev = timer.prev
        root = timer_meld(timers.first, root)
    timers_set_first(timers, root)
    timer.prev = NULL
    timer.next = NULL
    timer.child = NULL
    return True


# -- the connection's states ---------------------------------------------------

# Row: state, in the order of conn_state.  Column: event, in the order of conn_event.
cdef int[7][7] next_state = [
    # CONNECTED, CLOSE, FLUSHED, EOF, ABORT, DEADLINE, QUIET
    [STATE_OPEN, STATE_ABORTING, -1, -1, STATE_ABORTING, -1, STATE_CONNECTING],     # CONNECTING
    [-1, STATE_FLUSHING, -1, STATE_OPEN, STATE_ABORTING, -1, STATE_OPEN],           # OPEN
    [-1, STATE_FLUSHING, STATE_DRAINING, STATE_FLUSHING, STATE_ABORTING,
     STATE_ABORTING, STATE_FLUSHING],                                               # FLUSHING
    [-1, STATE_DRAINING, -1, STATE_ENDING, STATE_ABORTING,
     STATE_ENDING, STATE_DRAINING],                                                 # DRAINING
    [-1, STATE_ENDING, -1, STATE_ENDING, STATE_ENDING,
     STATE_ENDING, STATE_CLOSED],                                                   # ENDING
    [-1, STATE_ABORTING, -1, STATE_ABORTING, STATE_ABORTING,
     STATE_ABORTING, STATE_CLOSED],                                                 # ABORTING
    [-1, STATE_CLOSED, -1, -1, STATE_CLOSED, STATE_CLOSED, STATE_CLOSED],           # CLOSED
]


cdef int conn_next_state(int state, int event) noexcept nogil:
    return next_state[state][event]
