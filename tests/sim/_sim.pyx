"""The engine on the simulated kernel: one run, from its seed to its end, and what the program asks
of it.

A run has an engine with a keeper and one to three workers, each on the engine's own thread
function, or with a port of the application's, whose thread steps the one worker, as a loop does in
a share of them; one to three services; clients with a script; and a thread of the application for
each service, which makes it, meddles, and stops it.  Everything that differs between runs is drawn
from the seed, unless a scenario or a knob has it otherwise.

A module calls only those before it: _wakes, _run, _checks, _disk and _actions, _datagram_app,
_scripted and _loop_thread, _application and _engine_threads, _knobs, and this one.
"""

from libc.stdint cimport uint64_t
from libc.string cimport memset

from _application cimport application_main
from _checks cimport check_client, check_engine, check_idle
from _disk cimport disk_begin, disk_main
from _datagram_app cimport (
    check_datagrams, check_idle_datagrams, datagram_main, datagrams_begin,
)
from _engine_threads cimport keeper_main, poller_main, stranger_main, worker_main
from _kernel cimport *
from _knobs cimport configure, draw_probe, set_knobs
from _run cimport disturbed, protocols, served_of, served_t, server, services, the, MAX_CLIENTS
from _wakes cimport wakes_begin
from iocpx._engine cimport engine_create, engine_free
from iocpx._winsock cimport (
    CloseHandle, closesocket, CreateIoCompletionPort, INVALID_HANDLE_VALUE, WSAENOBUFS,
    WSAEOPNOTSUPP,
)


cdef void on_idle() noexcept nogil:
    check_idle()
    check_idle_datagrams()


cdef void run_seed(uint64_t seed, int expected) noexcept nogil:
    """One run.  Ends the process if something is wrong.

    expected: the code with which a start may fail; 0: any.
    """
    global sim_on_idle
    cdef int i
    sim_on_idle = on_idle
    memset(&server, 0, sizeof(server))
    sim_begin(seed)
    configure()
    memset(protocols, 0, sizeof(protocols))
    disk_begin()
    for i in range(<int>MAX_CLIENTS):
        wakes_begin(&protocols[i].wakes)
    datagrams_begin()
    for i in range(the.services):
        bind(&services[i])
    sim_configure(&the.sim)
    divide_clients()
    if the.probe:
        draw_probe()
    if the.polled:
        server.port = CreateIoCompletionPort(INVALID_HANDLE_VALUE, NULL, 0, 1)
    sim_faults(True)
    server.engine = engine_create(&the.config, server.port, &server.error)
    if server.engine != NULL:
        spawn()
    sim_run()
    sim_faults(False)
    for i in range(the.services):
        if server.engine == NULL:
            services[i].start_error = server.error
            unbind(&services[i])
        check_start(&services[i], expected)
    if server.engine != NULL:
        check_engine()
        check_datagrams()
        for i in range(the.sim.clients):
            check_client(i)
        engine_free(server.engine)
    if the.polled:
        CloseHandle(server.port)    # it is open still
    sim_end()


cdef void bind(served_t *served) noexcept nogil:
    cdef int i
    for i in range(served.listeners):
        served.sockets[i] = sim_bind(AF_INET6 if i > 0 else AF_INET)
        if served.shared_before:
            sim_share(served.sockets[i])


cdef void unbind(served_t *served) noexcept nogil:
    cdef int i
    for i in range(served.listeners):
        closesocket(served.sockets[i])


cdef void divide_clients() noexcept nogil:
    cdef served_t *served
    cdef int client
    for client in range(the.sim.clients):
        served = served_of(client)
        sim_send_to(client, served.sockets[client % served.listeners])
        if the.called[client] or the.opened[client]:
            sim_call(client)


cdef void spawn() noexcept nogil:
    cdef int i
    if the.polled:
        sim_spawn("poller", poller_main, NULL)
        sim_spawn("stranger", stranger_main, NULL)
    for i in range(0 if the.polled else the.config.workers - the.unborn):
        sim_spawn("worker 1" if i == 0 else "worker 2" if i == 1 else "worker 3",
                  worker_main, <void *><size_t>i)
    sim_spawn("keeper", keeper_main, NULL)
    for i in range(the.services):
        sim_spawn("app 1" if i == 0 else "app 2" if i == 1 else "app 3",
                  application_main, &services[i])
    for i in range(the.disks):
        sim_spawn("disk 1" if i == 0 else "disk 2" if i == 1 else "disk 3",
                  disk_main, <void *><size_t>i)
    if the.datagrams:
        sim_spawn("datagrams", datagram_main, NULL)


cdef void check_start(served_t *served, int expected) noexcept nogil:
    if served.started or served.refused:
        return
    if not disturbed() and the.unborn == 0 and the.sim.handles:
        sim_fail("the start failed: %d", served.start_error)
    if served.start_error == 0:
        sim_fail("the start failed, and nobody knows why")
    if not the.sim.handles:
        # What fails before that comes first.
        expected = 0 if disturbed() else WSAEOPNOTSUPP
    if expected != 0 and the.unborn == 0 and served.start_error != expected:
        sim_fail("the start failed with %d instead of %d", served.start_error, expected)


# -- for the program -----------------------------------------------------------------


def run(seed, knob_values, fault=None, title=""):
    """One run; returns the digest of its events.  Ends the process if something is wrong.

    fault: (function, call, code, sticky), numbers as in `functions`.
    """
    cdef uint64_t number = seed
    cdef int expected = 0
    set_knobs(knob_values)
    sim_title(title.encode())
    sim_plan_fault(0, 0, 0, False)
    if fault:
        sim_plan_fault(fault[0], fault[1], fault[2], fault[3])
        expected = sim_function_code(fault[0], fault[2])
        if sim_function(fault[0]) in (b"malloc", b"calloc"):
            expected = WSAENOBUFS
    with nogil:
        run_seed(number, expected)
    return sim_digest()


def functions():
    """Every function of the system that the engine calls: [(name, [code…])…]."""
    found = []
    for i in range(sim_n_functions()):
        codes = []
        while sim_function_code(i, len(codes)) != 0:
            codes.append(sim_function_code(i, len(codes)))
        found.append((sim_function(i).decode(), codes))
    return found


def calls(function):
    """How often the last run called it while faults were on."""
    return sim_calls(function)


def fault_hit():
    """Did the last run come to the call that should fail?"""
    return sim_fault_hit()


def print_events():
    sim_print_events()


def profiles():
    return [sim_profiles[i].name.decode() for i in range(sim_n_profiles)]
