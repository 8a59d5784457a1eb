"""Calls that may block, such as the look for a name's addresses, aside from who wants them: on
threads that are there for nothing else, and end when there is nothing for them.

A call that blocks cannot be given up, so another thread, the watcher, sees to it that whoever waits
is told in time.

Called by `_connecting` and `_open_file`; calls what they give it, and nothing else of iocpx.
"""

import heapq
import itertools
import logging
from collections import deque
# Not queue's: see _runtime.
from _queue import Empty, SimpleQueue
from _thread import allocate_lock, start_new_thread
from time import perf_counter

cdef enum:
    MAX_THREADS = 32        # that work; what is asked for beyond that waits for its turn
    # … and more, for what comes first.  A look for a name may hang on, long after whoever waits for
    # it was told that its time is over: a flush() does not wait behind 32.
    MORE_THREADS = 8
    MAX_TELLERS = 8         # threads that tell those whose time is over together

logger = logging.getLogger("iocpx")

# Nothing under it runs Python code, so that no signal handler runs under it.
cdef object lock = allocate_lock()
# Under it:
cdef object waiting = deque()       # tasks that no thread has begun…
cdef object urgent = deque()        # … and those that come first
cdef int threads = 0                # that work, or have been asked for…
cdef int begun = 0                  # … of which so many are there
cdef list pending = []              # a heap of (due_s, number, task)
# The watcher is there.  It says so itself: one that was asked for may never begin, and the tasks of
# others would rely on it.
cdef bint watched = False
# An item: look again when the first is due.
cdef object changed = SimpleQueue()
cdef object numbers = itertools.count()


cdef class Task:
    cdef object work
    cdef object late
    cdef bint timed                 # there is a late, and the task is in `pending`
    cdef bint first                 # constant: it comes first
    cdef bint over                  # work has returned, or late was called


cdef inline object queue_of(Task task):
    return urgent if task.first else waiting


cdef int aside(work, late, double due_s, bint first) except -1:
    global threads
    cdef Task task = Task.__new__(Task)
    cdef bint grow
    cdef bint watch
    task.work = work
    task.late = late
    task.timed = late is not None
    task.first = first
    entry = (due_s, next(numbers), task)
    with lock:
        grow = threads < (MAX_THREADS + MORE_THREADS if first else MAX_THREADS)
        threads += grow
        watch = task.timed and not watched
        queue_of(task).append(task)
        if task.timed:
            heapq.heappush(pending, entry)
    if watch:
        try:
            start_new_thread(watch_all, ())
        except BaseException:
            with lock:
                threads -= grow
            if withdraw(task):
                raise
            return 0
    elif task.timed:
        changed.put(None)
    if grow:
        try:
            start_new_thread(work_all, ())
        except BaseException:
            with lock:
                threads -= 1
                grow = begun > 0        # another one comes to it
            if not grow and withdraw(task):
                raise
    return 0


cdef bint withdraw(Task task) noexcept:
    """Nobody is to hear of it.  False: somebody does already."""
    cdef bint waits = False
    with lock:
        waits = task in queue_of(task)
        if waits:
            queue_of(task).remove(task)
            task.over = True
    if waits:
        task.work = task.late = None
        if task.timed:
            changed.put(None)
    return waits


def work_all():
    global begun, threads
    cdef Task task
    with lock:
        begun += 1
    while True:
        with lock:
            task = None
            if urgent:
                task = urgent.popleft()
            elif waiting and begun <= MAX_THREADS:
                task = waiting.popleft()
            threads -= task is None
            begun -= task is None
        if task is None:
            return
        try:
            if not task.over:
                task.work()
        except BaseException as exc:
            logger.error("a call that may block raised", exc_info=exc)
        with lock:
            task.over = True
        # What they refer to goes here, and not where the heap lets go of the task, under the lock:
        # it may be anybody's, with a finaliser that comes back to this room.
        task.work = task.late = None
        if task.timed:
            changed.put(None)


def watch_all():
    global watched
    cdef Task task
    cdef double wait_s
    with lock:
        if watched:
            return      # asked for before the other one had begun
        watched = True
    while True:
        late = []
        wait_s = 0
        while not changed.empty():
            changed.get()       # what they tell of is looked at next
        with lock:
            now = perf_counter()
            while pending and (pending[0][0] <= now or (<Task>pending[0][2]).over):
                task = heapq.heappop(pending)[2]
                if not task.over:
                    task.over = True
                    late.append(task.late)
            if pending:
                wait_s = pending[0][0] - now
            elif not late:
                watched = False
        if late:
            tell(late)
        if wait_s > 0:
            try:
                changed.get(True, wait_s)
            except Empty:
                pass
        elif not late:
            return


cdef void tell(late) noexcept:
    """On threads of their own, a few for all that are due at a time: one may wait for another, and
    further ones are due soon."""
    queue = deque(late)
    for _ in range(min(len(late), MAX_TELLERS)):
        try:
            start_new_thread(tell_all, (queue,))
        except BaseException:
            tell_all(queue)


def tell_all(queue):
    while True:
        try:
            told = queue.popleft()
        except IndexError:
            return
        try:
            told()
        except BaseException as exc:
            logger.error("who waits cannot be told that it is too late", exc_info=exc)
