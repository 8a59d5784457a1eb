from iocpx.engine_api cimport handler_api_t

# What a capsule of another module has, which lives as long as the capsule.  TypeError, ValueError:
# no handler that this version knows.
cdef const handler_api_t *handler_of(capsule) except NULL
# Before a handler in C is served with: there is a thread for its `post`.
cdef int start_posting() except -1
