from iocpx._connection cimport Connection
from iocpx._runtime cimport Runtime
from iocpx._types cimport conn_t


# A service without listeners, of one engine: what connect(engine=) and attach() make.
cdef class Clients(Runtime):
    cdef int users                  # connections and calls of connect(); critical section
    cdef bint retires               # there were none, and nobody joins it any more; likewise

    # One more user.  False: it has none any more, and ends.
    cdef bint enter(self) noexcept


# The service of an engine's clients, with a use for the caller; None: there is none that goes on.
cdef Clients clients_of(engine)
# Likewise, if need be a new one.  Blocks while threads start; on a thread that no signal handler
# reaches.
cdef Clients make_clients(engine)
# Likewise, by any thread; signal handlers run while it waits.
cdef Clients wait_for_clients(engine)
# A connection to be made, which is its maker's until connection_made; remote: a sockaddr.
cdef Connection connection_new(Runtime runtime, maker, context, const char *remote)
# It has its conn_t, with a reference that is the connection's from here on.  Once is enough: by who
# has made it, or by the worker that comes to it before.  Any thread.
cdef void connection_adopt(Connection connection, conn_t *conn) noexcept
# In its first turn, when its socket is connected: from here on it has a protocol, or TLS, or it is
# reset.
cdef void connection_begins(Connection connection, conn_t *conn) noexcept
