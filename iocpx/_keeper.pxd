from iocpx._types cimport engine_t

ctypedef struct keeper_news_t:
    int trouble         # 0, or the Windows code with which the system refuses, for now, to accept
    #                     or to wait
    bint ended          # one of the services has; its stopped_event is set
    void *context       # … and this is its handler's

# The body of the keeper's thread, in a loop until it returns False: the engine has ended.
# Otherwise there are news, which the caller may tell someone; deadlines wait meanwhile.
cdef bint engine_run_keeper(engine_t *engine, keeper_news_t *news) noexcept nogil
# Likewise of the keeper, where no worker runs either: the engine counts as stopped.
cdef void engine_forgo_keeper(engine_t *engine) noexcept nogil
