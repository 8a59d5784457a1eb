# Call work() on a thread that may block; it raises nothing.  late() is called on another one if
# that has not returned when perf_counter() shows due_s: once, and never before; None: it takes as
# long as it takes.  first: it does not block as long as a look for a name may, and comes before
# such.  Raises what starting a thread raises, and then neither is called.  Any thread;
# a signal handler that interrupts this may call it as well.
cdef int aside(work, late, double due_s, bint first) except -1
