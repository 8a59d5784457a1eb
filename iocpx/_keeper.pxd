from iocpx._types cimport engine_t

# The body of the keeper's thread, in a loop until it returns 0.  Anything else is the Windows
# code with which the system refuses to accept or to wait, for now; the caller may tell someone.
cdef int engine_run_keeper(engine_t *engine) noexcept nogil
# Likewise of the keeper, where no worker runs either: the engine counts as stopped.
cdef void engine_forgo_keeper(engine_t *engine) noexcept nogil
