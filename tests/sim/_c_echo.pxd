from iocpx.engine_api cimport handler_api_t

# An echo by the engine's table for handlers in C; any thread.
cdef const handler_api_t *c_echo() noexcept nogil
