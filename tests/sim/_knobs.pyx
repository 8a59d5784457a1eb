"""The parameters of a run: see _knobs.pxd."""

from libc.string cimport memset

from _kernel cimport *
from _run cimport (
    one_of, served_of, served_t, services, the, LENIENT_MS, MAX_CLIENTS, MAX_DISKS, MAX_SERVICES,
    MAX_WORKERS,
)
from _c_echo cimport c_echo
from _c_relay cimport c_relay
from _scripted cimport deliver_scripted
from iocpx._c_handler cimport deliver_to_c
from iocpx._native cimport deliver_discard, deliver_echo
from iocpx._types cimport *

cdef enum:
    # Inline completions of one connection between two looks at the port: the engine's
    # budget, the sends of one more round, and as many receives as are posted at once.
    INLINE_LIMIT = 16

# What a knob fixes, whatever the seed says; -1: nothing.
cdef enum knob:
    K_SERVICES
    K_ECHO
    K_PROFILE
    K_CLIENTS
    K_WORKERS
    K_POLLED
    K_PREEMPT
    K_STALLS
    K_FAULTS
    K_RESETS
    K_SHORTS
    K_HANDLES
    K_SKIPS
    K_ROOM
    K_BYTES
    K_LISTENERS
    K_BACKLOG
    K_UNBORN
    K_PROBE
    K_CALM
    K_LATE
    K_ACCEPTS
    K_MAX_ACCEPTS
    K_ACCEPT_RECEIVE
    K_MAX_CONNECTIONS
    K_READS
    K_BUFFER
    K_IDLE
    K_LIMITS
    K_TRACE
    K_CALLED
    K_LINGER
    K_STOP
    K_SHARED
    K_LOOPED
    K_FILTERED
    K_FILES
    K_TRANSMITS
    K_DISCARDS
    K_DISKS
    K_DATAGRAMS
    N_KNOBS

KNOBS = ["services", "echo", "profile", "clients", "workers", "polled", "preempt", "stalls",
         "faults", "resets", "shorts", "handles", "skips", "room", "bytes", "listeners", "backlog",
         "unborn", "probe", "calm", "late", "accepts", "max_accepts", "accept_receive",
         "max_connections", "reads", "buffer", "idle", "limits", "trace", "called", "linger",
         "stop", "shared", "looped", "filtered", "files", "transmits", "discards",
         "disks", "datagrams"]
cdef long[N_KNOBS] knobs


cdef set_knobs(values):
    """values: {name: what it is fixed to}."""
    for i, name in enumerate(KNOBS):
        knobs[i] = values.get(name, -1)


cdef long turned(int which, long drawn) noexcept nogil:
    """Drawn in any case, so that a knob leaves the other draws as they are."""
    return drawn if knobs[which] < 0 else knobs[which]


cdef void configure() noexcept nogil:
    cdef engine_config_t *config = &the.config
    cdef sim_config_t *sim = &the.sim
    cdef served_t *probed
    cdef uint32_t called
    cdef long files
    cdef long transmits
    cdef long disks
    cdef long datagrams
    cdef int i
    memset(&the, 0, sizeof(the))
    memset(services, 0, sizeof(services))
    the.services = <int>turned(K_SERVICES, one_of(1, 1, 2, MAX_SERVICES))
    sim.profile = &sim_profiles[turned(K_PROFILE, sim_random(<uint32_t>sim_n_profiles))]
    sim.clients = <int>turned(K_CLIENTS, 1 + sim_random(one_of(1, 3, 8, MAX_CLIENTS)))
    sim.preempt = <int>turned(K_PREEMPT, one_of(0, 2, 5, 20))
    sim.stalls = <int>turned(K_STALLS, one_of(0, 1000, 200, 50))
    sim.faults = <int>turned(K_FAULTS, one_of(0, 0, 40, 200))
    sim.resets = <int>turned(K_RESETS, one_of(0, 0, 10, 50))
    sim.shorts = <int>turned(K_SHORTS, one_of(0, 0, 1, 5))
    sim.handles = <int>turned(K_HANDLES, sim_random(100) != 0)
    sim.skips = <int>turned(K_SKIPS, sim_random(4) != 0)
    sim.send_room = <size_t>turned(K_ROOM, one_of(64, 1000, 8000, 70000))
    sim.bytes = <size_t>turned(K_BYTES, one_of(10, 500, 3000, 12000))
    config.workers = <int>turned(K_WORKERS, 1 + sim_random(MAX_WORKERS))
    the.polled = turned(K_POLLED, sim_random(2)) and config.workers == 1
    the.unborn = <int>turned(K_UNBORN, 1 if config.workers > 1 and sim_random(100) == 0 else 0)
    if the.unborn > 0:
        the.services = 1    # nobody else hears of an engine that does not begin
    config.buffer_size = <size_t>turned(K_BUFFER, one_of(512, 1024, 4096, 20000))
    config.max_free_buffers = one_of(0, 2, 10, 100)
    config.deliver_batch = deliver_scripted
    the.calm = turned(K_CALM, 0)
    the.fatal = sim_random(4) == 0
    for i in range(the.services):
        draw_service(&services[i], i)
        sim.inline_limit = max(sim.inline_limit,
                               INLINE_LIMIT + services[i].config.initial_reads)
    # The third may never come to be.
    probed = &services[sim_random(2 if the.services > 1 else 1)]
    # A client that the limit turns away, or one that is silent in every slot, hides nothing.
    the.probe = turned(K_PROBE, sim_random(4) == 0 and probed.config.max_connections == 0
                       and probed.config.idle_timeout_ms == 0)
    the.late = turned(K_LATE, sim_random(4) == 0) and not the.probe
    the.together = sim_random(3) == 0 and not the.probe
    if the.probe:
        sim.clients = min(sim.clients + 1, <int>MAX_CLIENTS)
        probed.config.accept_timeout_ms = 500
        probed.config.close_timeout_ms = 300000
    called = <uint32_t>turned(K_CALLED, one_of(0, 0, 3, 2))
    for i in range(sim.clients):
        the.goes_to[i] = <int>sim_random(<uint32_t>the.services)
        the.called[i] = called != 0 and sim_random(called) == 0
    if the.probe:
        the.goes_to[sim.clients - 1] = <int>(probed - services)
        the.called[sim.clients - 1] = False
    # Last, so that without it all is drawn as ever.
    if the.polled and turned(K_LOOPED, sim_random(2)):
        draw_loop()
    for i in range(the.services):
        services[i].filtered = turned(K_FILTERED, sim_random(3) == 0) and not services[i].echo
    for i in range(the.services):
        services[i].discards = turned(K_DISCARDS, sim_random(4) == 0) and services[i].echo
        if services[i].discards:
            services[i].config.handler.deliver = deliver_discard
        elif services[i].echo:
            draw_handler(&services[i].config)
    # Not drawn where it is fixed: without files all is drawn as it was before there were any.
    files = turned(K_FILES, -1)
    transmits = turned(K_TRANSMITS, -1)
    the.files = sim_random(3) == 0 if files < 0 else files != 0
    sim.transmits = not the.files or (sim_random(8) != 0 if transmits < 0 else transmits != 0)
    # Likewise.
    disks = turned(K_DISKS, -1)
    the.disks = <int>((one_of(0, 0, 1, MAX_DISKS) if disks < 0 else disks))
    datagrams = turned(K_DATAGRAMS, -1)
    if datagrams < 0:
        datagrams = 2 if sim_random(4) == 0 else 0
    the.datagrams = <int>datagrams if the.unborn == 0 and sim.handles else 0


cdef void draw_handler(service_config_t *config) noexcept nogil:
    """Half of the echoes are written in C, by the backlog, so that nothing is drawn for it.  What
    one of these writes counts against the limits, and the native echo's does not."""
    if config.backlog > 200 and config.max_sends == 0 and config.max_write_buffer == 0:
        config.handler.deliver = deliver_to_c
        config.handler.c_handler = c_relay() if config.backlog > 512 else c_echo()
        config.handler.marks = True


cdef void draw_loop() noexcept nogil:
    """The worker is a loop's; most services are of the kind that a loop has."""
    cdef int client
    cdef int i
    the.looped = True
    # What is queued goes out as far as the kernel takes it, while the loop does other things.
    the.sim.inline_limit = 0
    for i in range(the.services):
        if services[i].echo and not turned(K_ECHO, sim_random(2)):
            services[i].echo = False
            services[i].config.handler.deliver = NULL
        if not services[i].echo and sim_random(4) != 0:
            draw_endpoint(&services[i])
    for client in range(the.sim.clients - the.probe):
        the.opened[client] = served_of(client).config.like_asyncio and sim_random(3) == 0
        the.called[client] = the.called[client] and not the.opened[client]


cdef void draw_endpoint(served_t *served) noexcept nogil:
    served.config.like_asyncio = True
    served.config.initial_reads = 1
    served.config.accept_receive = False
    served.config.trace = False
    # asyncio's transports have no limit but their marks.
    served.config.max_sends = 0
    served.config.max_write_buffer = 0
    served.retires = sim_random(2)


cdef void draw_service(served_t *served, int number) noexcept nogil:
    cdef int shared
    cdef service_config_t *config = &served.config
    if number == 0:
        served.echo = turned(K_ECHO, sim_random(2))
    else:
        # Mostly the two kinds of handlers beside each other.
        served.echo = services[number - 1].echo == (sim_random(4) == 0)
    served.listeners = <int>turned(K_LISTENERS, 1 + (sim_random(4) == 0))
    if served.echo:
        config.handler.deliver = deliver_echo
    config.handler.context = served
    config.backlog = <int>turned(K_BACKLOG, one_of(1, 200, 512, 65535))
    config.initial_accepts = <int>turned(K_ACCEPTS, 1 + sim_random(4))
    config.max_accepts = config.initial_accepts + <int>turned(K_MAX_ACCEPTS, one_of(0, 0, 3, 30))
    config.accept_receive = turned(K_ACCEPT_RECEIVE, sim_random(3) == 0)
    config.accept_timeout_ms = one_of(0, 500, 3000, 10000)
    config.max_connections = turned(K_MAX_CONNECTIONS, one_of(0, 0, 3, 10))
    config.initial_reads = <int>turned(K_READS, one_of(1, 1, 2, 5))
    config.max_free_connections = one_of(0, 1, 3, 100)
    config.idle_timeout_ms = turned(K_IDLE, one_of(0, 0, 0, 5000))
    config.max_sends = <int>turned(K_LIMITS, one_of(0, 0, 0, 4))
    config.max_write_buffer = <size_t>turned(K_LIMITS, one_of(0, 0, 0, 5000))
    # The layer above refuses a trace of a native handler, which would not take its lines.
    config.trace = turned(K_TRACE, sim_random(8) == 0) and not served.echo
    config.high_water_bytes = one_of(0, 100, 4000, 65536)
    config.low_water_bytes = config.high_water_bytes // 4
    config.close_timeout_ms = one_of(1, 100, 2000, LENIENT_MS)
    config.keepalive_idle_ms = one_of(0, 5000, 5000, 5000)
    if number == 1 and sim_random(2) == 0:
        # It ends no connection: what befalls its clients comes from another one's end.
        config.max_connections = 0
        config.idle_timeout_ms = 0
        config.max_sends = 0
        config.max_write_buffer = 0
        config.close_timeout_ms = LENIENT_MS
    served.joins_ms = 0 if number == 0 else one_of(0, 1, 50, 3000)
    served.follows = number == 2 and sim_random(4) != 0
    served.linger_ms = <unsigned int>turned(K_LINGER, one_of(0, 50, 3000, 20000))
    served.stop_ms = <unsigned int>turned(K_STOP, one_of(0, 10, 500, 5000))
    shared = <int>turned(K_SHARED, one_of(0, 0, 1, 2))
    served.shared_before = shared == 1
    served.shared_later = shared == 2


cdef void draw_probe() noexcept nogil:
    cdef sim_script_t script
    memset(&script, 0, sizeof(script))
    script.to_send = 3
    script.end = ENDS_FIN
    script.reads = READS
    script.waits = True
    sim_script(the.sim.clients - 1, &script)
