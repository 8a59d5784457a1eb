"""The engine on the simulated kernel: what a run is made of, and what must be true of it.

A run has a server with one to three workers and a keeper, each on the engine's own thread
function; clients with a script; and one thread of the application that meddles.  Everything
that differs between runs is drawn from the seed.
"""

import sys
import time

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from iocpx._engine cimport *
from iocpx._state cimport buf_free, buf_t
from iocpx._winsock cimport (
    INFINITE, INVALID_SOCKET, LONG64, SOCKET, SRWLOCK, AcquireSRWLockExclusive,
    ReleaseSRWLockExclusive, closesocket,
)

cdef extern from "kernel.h" nogil:
    const int SIM_CLIENTS

    ctypedef struct sim_config_t:
        int clients
        int preempt
        int faults
        int resets
        int shorts
        int skips
        size_t send_room
        size_t bytes

    ctypedef struct sim_client_t:
        int connected
        size_t sent
        size_t received
        int ended
        int saw_end
        int reset
        int unreset

    void sim_begin(uint64_t seed)
    void sim_configure(const sim_config_t *config)
    void sim_spawn(const char *name, void (*body)(void *) noexcept nogil, void *argument)
    void sim_run()
    void sim_end()
    void sim_faults(int on)
    SOCKET sim_listen()
    void sim_client(int client, sim_client_t *out)
    unsigned char sim_byte(int client, size_t at)
    void sim_point()
    void sim_sleep(unsigned int ms)
    void sim_atomic(int on)
    int sim_locks()
    uint32_t sim_random(uint32_t n)
    void sim_note(const char *what, long long a, long long b)
    void sim_fail(const char *format, ...)
    uint64_t sim_digest()
    void sim_print_events()

cdef enum:
    MAX_CLIENTS = 24
    MAX_WORKERS = 3
    LONG_WRITE = 20000      # bytes: longer than what the engine copies

# What the protocol of one client has seen and done.
ctypedef struct protocol_t:
    SRWLOCK lock            # held while the next bytes of the stream are written
    conn_t *conn            # with a reference, from connection_made to connection_lost
    bint inside             # one of its callbacks runs
    bint made
    bint paused             # writing, by pause_writing
    bint reading_paused
    bint eof
    bint lost
    int error               # of connection_lost
    bint direct
    bint meddled            # the application has closed or aborted it
    bint served             # with echo: its end came before the application did anything
    size_t received         # bytes
    size_t due              # bytes that the client had sent at its end
    size_t written          # bytes, as far as the engine took them
    size_t sent             # bytes, as far as it was told

cdef protocol_t[MAX_CLIENTS] protocols
cdef engine_t *the_engine
cdef bint echoing
cdef bint faulty            # calls fail for lack of resources


cdef uint32_t one_of(uint32_t a, uint32_t b, uint32_t c, uint32_t d) noexcept nogil:
    cdef uint32_t which = sim_random(4)
    return a if which == 0 else b if which == 1 else c if which == 2 else d


# -- the protocol --------------------------------------------------------------------


cdef int client_of(conn_t *conn) noexcept nogil:
    """The kernel puts it into the address."""
    cdef int client = <unsigned char>conn.remote[4] - 1
    if conn.local[4] != 101 or conn.remote[16] != 0 or client < 0 or client >= MAX_CLIENTS:
        sim_fail("an address is wrong")
    return client


cdef void check_bytes(int client, const char *data, size_t nbytes) noexcept nogil:
    cdef protocol_t *protocol = &protocols[client]
    cdef size_t i
    for i in range(nbytes):
        if <unsigned char>data[i] != sim_byte(client, protocol.received + i):
            sim_fail("client %d: a wrong byte was received at %zu", client,
                     protocol.received + i)
    protocol.received += nbytes


cdef void write(int client, size_t nbytes) noexcept nogil:
    """The next bytes of the stream.  The caller has a reference."""
    cdef protocol_t *protocol = &protocols[client]
    cdef conn_t *conn = protocol.conn
    cdef char *data
    cdef size_t i
    cdef int result
    if nbytes == 0:
        return
    data = <char *>malloc(nbytes)
    if data == NULL:
        return
    # Where it stands in the stream is known only if no other write comes between.
    AcquireSRWLockExclusive(&protocol.lock)
    for i in range(nbytes):
        data[i] = <char>sim_byte(client, protocol.written + i)
    result = conn_write(conn, data, nbytes, data)
    if not result & (WRITE_CLOSED | WRITE_NO_MEMORY):
        protocol.written += nbytes
    ReleaseSRWLockExclusive(&protocol.lock)
    sim_note("write", client, <long long>nbytes)
    if not result & WRITE_KEPT:
        free(data)
    if result & WRITE_FLUSH and conn_flush(conn):
        if protocol.paused:
            sim_fail("client %d: pause_writing twice", client)
        protocol.paused = True


cdef void react(int client) noexcept nogil:
    """What a callback does of its own."""
    cdef protocol_t *protocol = &protocols[client]
    cdef conn_t *conn = protocol.conn
    cdef uint32_t what = sim_random(100)
    if what < 50:
        write(client, 1 + sim_random(900))
    elif what < 56:
        write(client, LONG_WRITE + sim_random(3000))
    elif what < 60:
        sim_note("pause_reading", client, 0)
        protocol.reading_paused = True
        conn_pause_reading(conn, True)
    elif what < 62:
        sim_note("close", client, 0)
        protocol.meddled = True
        conn_close(conn)
    elif what < 63:
        sim_note("abort", client, 0)
        protocol.meddled = True
        conn_abort(conn, ABORT_APPLICATION)
    elif what < 65:
        sim_note("write_eof", client, 0)
        conn_write_eof(conn)
    elif what < 67:
        conn_set_marks(conn, sim_random(2000), 0)


cdef void deliver_scripted(worker_t *worker) noexcept nogil:
    cdef conn_t *conn = worker_next(worker)
    while conn != NULL:
        deliver(worker, conn)
        worker_delivered(worker, conn)
        conn = worker_next(worker)


cdef void deliver(worker_t *worker, conn_t *conn) noexcept nogil:
    cdef int client = client_of(conn)
    cdef protocol_t *protocol = &protocols[client]
    cdef sim_client_t facts
    cdef news_t news
    cdef buf_t *buf
    cdef size_t n
    cdef char[700] own
    cdef int error = 0
    cdef bint error_sending = False
    if protocol.inside:
        sim_fail("client %d: two callbacks at once", client)
    protocol.inside = True
    if sim_locks() != 0:
        sim_fail("a callback is called with a lock")
    conn_take_news(conn, &news)
    while news.spent != NULL:
        buf = news.spent
        news.spent = buf.next
        free(buf.owner)
        buf_free(buf)
    while news.traces != NULL:
        buf = news.traces
        news.traces = buf.next
        buf_free(buf)
    if news.made:
        if protocol.made:
            sim_fail("client %d: connection_made twice", client)
        sim_note("connection_made", client, 0)
        protocol.made = True
        conn_ref(conn)
        protocol.conn = conn
        conn_tell_sent(conn, sim_random(2))
        if sim_random(4) == 0:
            protocol.direct = True
            conn_set_direct(conn, True)
        if sim_random(3) == 0:
            react(client)
    if protocol.lost and (news.resume or news.pause or news.sent > 0):
        sim_fail("client %d: a callback after connection_lost", client)
    if protocol.conn == NULL:
        # It was over before it began, or all is told.
        buf = conn_take_data(conn)
        if buf != NULL:
            sim_fail("client %d: data for nobody", client)
        if conn_take_lost(conn, &error, &error_sending):
            sim_fail("client %d: connection_lost for nobody", client)
        protocol.inside = False
        return
    if news.resume:
        sim_note("resume_writing", client, 0)
        if not protocol.paused:
            sim_fail("client %d: resume_writing without pause_writing", client)
        protocol.paused = False
    if news.pause:
        sim_note("pause_writing", client, 0)
        if protocol.paused:
            sim_fail("client %d: pause_writing twice", client)
        protocol.paused = True
    protocol.sent += news.sent
    sim_point()
    buf = conn_take_data(conn)
    while buf != NULL:
        if protocol.eof:
            sim_fail("client %d: data after the end", client)
        # A part may be left for later.
        n = buf.size if sim_random(8) != 0 else 1 + sim_random(<uint32_t>buf.size)
        sim_note("data_received", client, <long long>n)
        check_bytes(client, buf.data, n)
        buf.data += n
        buf.size -= n
        react(client)
        sim_point()
        conn_give_buffer(conn, buf)
        buf = conn_take_data(conn)
    if conn_take_readable(conn):
        if protocol.eof:
            sim_fail("client %d: readable after the end", client)
        n = conn_receive(worker, conn, own, sizeof(own))
        if n > 0:
            sim_note("data_received", client, <long long>n)
            check_bytes(client, own, n)
            react(client)
    if conn_take_eof(conn):
        sim_note("eof_received", client, 0)
        if protocol.eof:
            sim_fail("client %d: eof_received twice", client)
        protocol.eof = True
        sim_client(client, &facts)
        protocol.due = facts.sent
        if sim_random(8) != 0:
            conn_close(conn)
        else:
            write(client, sim_random(500))
    if conn_take_lost(conn, &error, &error_sending):
        sim_note("connection_lost", client, error)
        if protocol.lost:
            sim_fail("client %d: connection_lost twice", client)
        protocol.lost = True
        protocol.error = error
        protocol.conn = NULL
        conn_unref(conn)
    protocol.inside = False


# -- threads -------------------------------------------------------------------------


cdef void worker_main(void *argument) noexcept nogil:
    engine_run_worker(the_engine, <int><size_t>argument)


cdef void keeper_main(void *argument) noexcept nogil:
    while engine_run_keeper(the_engine) != 0:
        sim_note("trouble with a listener", 0, 0)


cdef conn_t *borrow(int client) noexcept nogil:
    """Its connection with a reference; NULL: there is none (any more)."""
    cdef conn_t *conn
    sim_atomic(True)
    conn = protocols[client].conn
    if conn != NULL:
        conn_ref(conn)
    sim_atomic(False)
    return conn


cdef void resume(int client) noexcept nogil:
    cdef conn_t *conn = borrow(client)
    if conn == NULL:
        return
    if protocols[client].reading_paused:
        sim_note("resume_reading", client, 0)
        protocols[client].reading_paused = False
        conn_pause_reading(conn, False)
    conn_unref(conn)


cdef void meddle(int client) noexcept nogil:
    """A thread of the application does something to a connection."""
    cdef protocol_t *protocol = &protocols[client]
    cdef conn_t *conn = borrow(client)
    cdef uint32_t what = sim_random(16)
    if conn == NULL:
        return
    if what < 4 and not protocol.paused:
        meddle_write(client, conn)
    elif what < 9:
        resume(client)
    elif what == 9:
        sim_note("abort", client, 0)
        protocol.meddled = True
        conn_abort(conn, ABORT_APPLICATION)
    elif what == 10:
        sim_note("close", client, 0)
        protocol.meddled = True
        conn_close(conn)
    elif what == 11 and conn_borrow_handle(conn) != INVALID_SOCKET:
        sim_point()
        conn_return_handle(conn)
    conn_unref(conn)


cdef void meddle_write(int client, conn_t *conn) noexcept nogil:
    cdef protocol_t *protocol = &protocols[client]
    cdef size_t nbytes = 1 + sim_random(400)
    cdef size_t i
    cdef char[400] data
    cdef int result
    AcquireSRWLockExclusive(&protocol.lock)
    for i in range(nbytes):
        data[i] = <char>sim_byte(client, protocol.written + i)
    result = conn_write(conn, data, nbytes, NULL)
    if not result & (WRITE_CLOSED | WRITE_NO_MEMORY):
        protocol.written += nbytes
    ReleaseSRWLockExclusive(&protocol.lock)
    sim_note("write", client, <long long>nbytes)
    if result & WRITE_FLUSH:
        conn_flush(conn)


cdef void served_before(int clients) noexcept nogil:
    """From here on the server ends connections of its own accord; note who had all before."""
    cdef sim_client_t facts
    cdef int client
    for client in range(clients):
        sim_client(client, &facts)
        # A client that could not be taken for lack of resources sees an end as well.
        protocols[client].served = (
            not faulty and facts.saw_end and not facts.reset and not protocols[client].meddled)
        protocols[client].meddled = True


cdef void close_all(int clients) noexcept nogil:
    sim_note("close or abort all", 0, 0)
    served_before(clients)
    engine_close_clients(the_engine, sim_random(2))


cdef void application_main(void *argument) noexcept nogil:
    cdef int clients = <int><size_t>argument
    cdef uint32_t rounds = sim_random(12)
    cdef uint32_t _round
    cdef int client
    for _round in range(rounds):
        sim_sleep(one_of(0, 0, 1, sim_random(30)))
        if sim_random(24) == 0:
            close_all(clients)
        elif not echoing:
            meddle(<int>sim_random(<uint32_t>clients))
    # Often all there is to do is done by then.
    sim_sleep(one_of(0, 50, 3000, 20000))
    if not echoing:
        for client in range(clients):
            resume(client)
        sim_sleep(one_of(0, 50, 3000, 20000))
    sim_faults(False)
    sim_note("stop", 0, 0)
    served_before(clients)
    engine_stop(the_engine, one_of(0, 10, 500, 5000))
    if sim_random(4) == 0:
        engine_stop(the_engine, 0)
    if not engine_wait_stopped(the_engine, INFINITE):
        sim_fail("the wait for the stop has failed")


# -- a run ---------------------------------------------------------------------------


cdef void configure(config_t *config, sim_config_t *sim, int *workers) noexcept nogil:
    memset(config, 0, sizeof(config_t))
    memset(sim, 0, sizeof(sim_config_t))
    sim.clients = <int>(1 + sim_random(one_of(1, 3, 8, MAX_CLIENTS)))
    sim.preempt = <int>one_of(0, 2, 5, 20)
    sim.faults = <int>one_of(0, 0, 40, 200)
    sim.resets = <int>one_of(0, 0, 10, 50)
    sim.shorts = <int>one_of(0, 0, 3, 10)
    sim.skips = sim_random(4) != 0
    sim.send_room = one_of(64, 1000, 8000, 70000)
    sim.bytes = one_of(10, 500, 3000, 12000)
    workers[0] = <int>(1 + sim_random(MAX_WORKERS))
    config.workers = workers[0]
    config.initial_accepts = <int>(1 + sim_random(4))
    config.max_accepts = config.initial_accepts + <int>one_of(0, 0, 3, 30)
    config.accept_receive = sim_random(3) == 0
    config.accept_timeout_ms = one_of(0, 500, 3000, 10000)
    config.max_connections = one_of(0, 0, 3, 10)
    config.initial_reads = <int>one_of(1, 1, 2, 5)
    config.buffer_size = one_of(512, 512, 1024, 4096)
    config.max_free_buffers = one_of(0, 2, 10, 100)
    config.max_free_connections = one_of(0, 1, 3, 100)
    config.idle_timeout_ms = one_of(0, 0, 0, 5000)
    config.max_sends = <int>one_of(0, 0, 0, 4)
    config.max_write_buffer = one_of(0, 0, 0, 5000)
    config.native = echoing
    config.deliver = deliver_echo if echoing else deliver_scripted
    # The layer above refuses a trace of a native handler, which would not take its lines.
    config.trace = sim_random(8) == 0 and not echoing
    config.high_water_bytes = one_of(0, 100, 4000, 65536)
    config.low_water_bytes = config.high_water_bytes // 4
    config.close_timeout_ms = one_of(1, 100, 2000, 10000)
    config.keepalive_idle_ms = one_of(0, 5000, 5000, 5000)


cdef void check_client(int client) noexcept nogil:
    cdef sim_client_t facts
    cdef protocol_t *protocol = &protocols[client]
    sim_client(client, &facts)
    if protocol.conn != NULL:
        sim_fail("client %d: connection_lost never came", client)
    if facts.received > facts.sent and echoing:
        sim_fail("client %d was sent more than it sent", client)
    if echoing:
        if protocol.served and facts.received != facts.sent:
            sim_fail("client %d got %zu of %zu bytes back", client, facts.received, facts.sent)
        return
    if protocol.made and not protocol.lost:
        sim_fail("client %d: connection_lost never came", client)
    # What a closing connection still receives is discarded; until then nothing is lost.
    if protocol.eof and protocol.received != protocol.due:
        sim_fail("client %d: the end came after %zu of %zu bytes", client, protocol.received,
                 protocol.due)
    if (facts.saw_end and not facts.reset and not facts.unreset
            and facts.received != protocol.written):
        sim_fail("client %d got %zu of %zu bytes", client, facts.received, protocol.written)


cdef void same(const char *what, LONG64 a, LONG64 b) noexcept nogil:
    if a != b:
        sim_fail("%s: %lld and %lld", what, a, b)


cdef uint64_t run_seed(uint64_t seed) noexcept nogil:
    """The digest of the run.  Ends the process if something is wrong."""
    global the_engine, echoing, faulty
    cdef config_t config
    cdef sim_config_t sim
    cdef pools_t pools
    cdef SOCKET listener
    cdef uint64_t digest
    cdef int workers = 0
    cdef int error = 0
    cdef int i
    sim_begin(seed)
    echoing = sim_random(2) == 0
    configure(&config, &sim, &workers)
    memset(protocols, 0, sizeof(protocols))
    faulty = sim.faults != 0
    sim_configure(&sim)
    the_engine = engine_create(&config, &error)
    if the_engine == NULL:
        sim_fail("the engine was not made: %d", error)
    listener = sim_listen()
    error = engine_listen(the_engine, listener, 2)
    if error != 0:
        sim_fail("engine_listen: %d", error)
    for i in range(workers):
        sim_spawn("worker 1" if i == 0 else "worker 2" if i == 1 else "worker 3", worker_main,
                  <void *><size_t>i)
    sim_spawn("keeper", keeper_main, NULL)
    sim_spawn("app", application_main, <void *><size_t>sim.clients)
    sim_faults(True)
    sim_run()
    closesocket(listener)
    sim_run()

    engine_pools(the_engine, &pools)
    same("operations posted, completed", engine_count(the_engine, N_OPS_POSTED),
         engine_count(the_engine, N_OPS_COMPLETED))
    same("sockets opened, closed", engine_count(the_engine, N_SOCKETS_OPENED),
         engine_count(the_engine, N_SOCKETS_CLOSED))
    same("connections made, retired", engine_count(the_engine, N_CONNECTIONS_MADE),
         engine_count(the_engine, N_CONNECTIONS_RETIRED))
    same("connections now", engine_connections(the_engine), 0)
    same("accepts pending", pools.accepts_pending, 0)
    same("buffers out", <LONG64>pools.buffers_out, 0)
    for i in range(sim.clients):
        check_client(i)
    engine_free(the_engine)
    sim_end()
    digest = sim_digest()
    return digest


def main(words):
    """`--seed N --runs N`: so many runs, from this seed on.  `--seconds N`: none begins after
    that.  `--trace`: print the last events of good runs too."""
    options = {"--seed": 1, "--runs": 1, "--seconds": 0, "--trace": 0}
    words = list(words)
    while words:
        word = words.pop(0)
        options[word] = 1 if word == "--trace" else int(words.pop(0))
    seed = options["--seed"]
    start = time.monotonic()
    events = 0
    done = 0
    while done < options["--runs"]:
        if options["--seconds"] and time.monotonic() - start > options["--seconds"]:
            break
        events = (events * 31 + run_seed(seed + done)) % (1 << 64)
        if options["--trace"]:
            sim_print_events()
        done += 1
    print(f"{done} runs from seed {seed}, all good; digest of their events {events:016x}")
    print(f"{done / (time.monotonic() - start):.0f} runs/s", file=sys.stderr)
