"""The outcome of a concurrent.futures.Future.

A future's methods are Python, and on the main thread a handler of a signal may raise at any
bytecode of them: Ctrl+C, where a program reads files, or steps an engine.  Whoever waits for the
future would wait for ever.

Called by `_file_layer`, `_runtime`, `_connecting` and `_open_file`; calls nothing of iocpx.
"""

from concurrent.futures import InvalidStateError

cdef enum:
    MAX_TRIES = 10      # what raises as often is no signal


cdef object set_outcome(future, result, exc, bint begins):
    raised = None
    for _ in range(MAX_TRIES):
        try:
            if begins and not future.running() and not future.set_running_or_notify_cancel():
                break
            begins = False
            if exc is None:
                future.set_result(result)
            else:
                future.set_exception(exc)
            break
        except InvalidStateError:
            break                       # it has one
        except BaseException as one:
            if raised is None:
                raised = one
    return raised
