"""An echo as another module would write it in C: it stands where the native echo stands, and has to
do the same."""

from iocpx._c_handler cimport fill_engine_api
from iocpx.engine_api cimport (
    api_conn_t, API_NO_MEMORY, API_VERSION, engine_api_t, handler_api_t,
)

cdef engine_api_t api
cdef handler_api_t handler


cdef void take(api_conn_t conn, void *own, const char *data, size_t nbytes) noexcept nogil:
    if api.write(conn, data, nbytes) == API_NO_MEMORY:
        api.abort(conn)


cdef const handler_api_t *c_echo() noexcept nogil:
    # The same each time, whoever comes first.
    fill_engine_api(&api)
    handler.version = API_VERSION
    handler.data = take
    return &handler
