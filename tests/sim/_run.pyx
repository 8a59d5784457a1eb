"""What a run is made of: see _run.pxd."""

from _kernel cimport *
from iocpx._types cimport ADDRESS_BYTES, worker_t


cdef uint32_t one_of(uint32_t a, uint32_t b, uint32_t c, uint32_t d) noexcept nogil:
    cdef uint32_t which = sim_random(4)
    return a if which == 0 else b if which == 1 else c if which == 2 else d


cdef void mark(bint *flag, bint value) noexcept nogil:
    sim_atomic(True)
    flag[0] = value
    sim_atomic(False)


cdef bint marked(const bint *flag) noexcept nogil:
    sim_atomic(True)
    cdef bint value = flag[0]
    sim_atomic(False)
    return value


cdef int client_of(conn_t *conn) noexcept nogil:
    """The kernel puts it into the address."""
    cdef int client = (<int *>(conn.remote + 4))[0]
    cdef int length = 16 if conn.remote[0] == AF_INET else 28
    if client < 0 or client >= the.sim.clients:
        sim_fail("an address is wrong")
    # One that is called has it from when it is reached.
    if (<int *>(conn.local + 4))[0] != 100 and not the.called[client]:
        sim_fail("an address is wrong")
    if conn.service.config.handler.context != served_of(client):
        sim_fail("client %d: a connection of another service", client)
    if length < <int>ADDRESS_BYTES and conn.remote[length] != 0:
        sim_fail("more of an address was copied than there is")
    return client


cdef served_t *served_of(int client) noexcept nogil:
    return &services[the.goes_to[client]]


cdef worker_t *worker_of(conn_t *conn) noexcept nogil:
    return &conn.engine.workers[0] if conn.service.config.like_asyncio else NULL


cdef bint calm(int client) noexcept nogil:
    return the.calm or (the.probe and client == the.sim.clients - 1)


cdef bint disturbed() noexcept nogil:
    return the.sim.faults != 0 or sim_fault_hit()
