"""What a connection costs the engine when there are many: bytes, and instructions per message."""

from libc.string cimport memset

from _kernel cimport *
from iocpx._accept cimport service_listen
from iocpx._base cimport engine_release, service_connections
from iocpx._engine cimport engine_create, engine_free, engine_wait_stopped
from iocpx._keeper cimport engine_run_keeper, keeper_news_t
from iocpx._native cimport deliver_echo
from iocpx._service cimport service_create, service_free, service_stop
from iocpx._types cimport *
from iocpx._worker cimport engine_run_worker
from iocpx._state cimport buf_t
from iocpx._winsock cimport CloseHandle, CreateEventW, HANDLE, INFINITE, SOCKET, closesocket

cdef enum:
    MESSAGE = 64            # bytes
    BUFFER = 262144
    AT_ONCE = 50            # messages under way
    BUSY = 500              # connections that talk while the others are idle
    ROUNDS = 40             # messages of each of them
    QUIET_MS = 3000         # after so long all are idle

cdef engine_t *the_engine
cdef service_t *service
cdef SOCKET listener
cdef int n_clients
cdef int n_woken
cdef long empty_bytes, idle_bytes


cdef void worker_main(void *argument) noexcept nogil:
    engine_run_worker(the_engine, 0)


cdef void keeper_main(void *argument) noexcept nogil:
    cdef keeper_news_t news
    while engine_run_keeper(the_engine, &news):
        pass


cdef void application_main(void *argument) noexcept nogil:
    """argument: not NULL: measure connections that are idle before each message."""
    global idle_bytes, empty_bytes, n_woken
    cdef sim_client_t facts
    cdef int i
    cdef int client
    cdef int busy = min(n_clients, <int>BUSY)
    cdef int rounds = 1 if argument != NULL else ROUNDS
    sim_passing()
    if service_listen(service, listener, AF_INET) != 0:
        sim_fail("service_listen")
    sim_sleep(1)    # the keeper fills the accept pool
    empty_bytes = sim_bytes_allocated()
    for client in range(n_clients):
        sim_let_in(client)
        if client % AT_ONCE == AT_ONCE - 1:
            sim_sleep(1)
    sim_sleep(QUIET_MS)
    # Without the buffers that the pool keeps for reuse, which do not grow with the connections.
    idle_bytes = sim_bytes_allocated()
    for i in range(<int>N_SIZES):
        idle_bytes -= <long>(the_engine.pools[i].n_free
                             * (sizeof(buf_t) + the_engine.pools[i].capacity))
    if service_connections(service) != n_clients:
        sim_fail("%lld connections", service_connections(service))
    # Spread over all that there are.
    if argument == NULL:
        talk(busy, 1)       # no longer idle
    sim_measure(True)
    talk(busy, rounds)
    if argument != NULL:
        sim_sleep(QUIET_MS)
    sim_measure(False)
    n_woken = busy * rounds
    for i in range(busy):
        client = <int>(<long long>i * n_clients // busy)
        sim_client(client, &facts)
        if facts.received != facts.sent or facts.sent < <size_t>(MESSAGE * (1 + rounds)):
            sim_fail("client %d got %zu of %zu bytes back", client, facts.received, facts.sent)
    service_stop(service, 0)
    closesocket(listener)
    engine_wait_stopped(the_engine, INFINITE)


cdef void talk(int busy, int rounds) noexcept nogil:
    cdef int i
    for i in range(busy * rounds):
        sim_feed(<int>(<long long>(i % busy) * n_clients // busy), MESSAGE)
        if i % AT_ONCE == AT_ONCE - 1:
            sim_sleep(1)
    sim_sleep(1)


def run(int clients, bint idle):
    """(bytes per idle connection, messages while sim_measure was on)."""
    global the_engine, service, listener, n_clients
    cdef engine_config_t config
    cdef service_config_t limits
    cdef HANDLE stopped
    cdef sim_config_t sim
    cdef sim_script_t script
    cdef int error = 0
    cdef int i
    n_clients = clients
    memset(&config, 0, sizeof(config))
    memset(&limits, 0, sizeof(limits))
    memset(&sim, 0, sizeof(sim))
    sim.profile = sim_profiles + 1  # packets first in, first out
    sim.clients = clients
    sim.handles = True
    sim.skips = True
    sim.transmits = True
    sim.plain = True
    sim.send_room = 65536
    config.workers = 1
    limits.backlog = 200
    limits.initial_accepts = 10
    limits.max_accepts = 10
    limits.initial_reads = 1
    config.buffer_size = BUFFER
    config.max_free_buffers = 200
    limits.max_free_connections = 100
    limits.high_water_bytes = 65536
    limits.low_water_bytes = 16384
    limits.close_timeout_ms = 5000
    limits.keepalive_idle_ms = 5000
    limits.handler.deliver = deliver_echo
    with nogil:
        sim_begin(1)
        listener = sim_bind(AF_INET)
        sim_configure(&sim)
        script.to_send = MESSAGE
        script.end = ENDS_NEVER
        script.reads = READS
        script.waits = True
        for i in range(n_clients):
            sim_script(i, &script)
        the_engine = engine_create(&config, NULL, &error)
        if the_engine == NULL:
            sim_fail("engine_create: %d", error)
        stopped = CreateEventW(NULL, True, False, NULL)
        service = service_create(the_engine, &limits, stopped)
        if service == NULL:
            sim_fail("service_create")
        engine_release(the_engine)
        sim_spawn("worker", worker_main, NULL)
        sim_spawn("keeper", keeper_main, NULL)
        sim_spawn("app", application_main, <void *><size_t>idle)
        sim_run()
        service_free(service)
        CloseHandle(stopped)
        engine_free(the_engine)
        sim_end()
    return (idle_bytes - empty_bytes) / n_clients, n_woken
