# Give a concurrent.futures.Future its outcome: exc, or where that is None the result; what a signal
# raises meanwhile does not leave it without one.  begins: nobody has yet asked whether it was
# cancelled, and then it stays so.  Returns what was raised first, which the caller hands on: a
# signal's, or a SystemExit of what is called when the future is done.  None: nothing was.
cdef object set_outcome(future, result, exc, bint begins)
