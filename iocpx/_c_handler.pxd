from iocpx.engine_api cimport engine_api_t
from iocpx._types cimport conn_t

# Tells a handler in C what is new: handler_t.deliver, with handler_t.c_handler.
cdef void deliver_to_c(conn_t *conn) noexcept nogil
# All of the table but `post`, which needs Python.
cdef void fill_engine_api(engine_api_t *api) noexcept nogil
