from iocpx.engine_api cimport handler_api_t

# An echo in C whose connections answer for each other; any thread.
cdef const handler_api_t *c_relay() noexcept nogil
