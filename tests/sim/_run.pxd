"""What a run of the simulation is made of: its parameters, the engine, the services on it, a
protocol for each client, and what each of the others asks about them.

Cimported by all of them; calls the kernel alone."""

from libc.stdint cimport uint32_t

from _kernel cimport sim_config_t
from _wakes cimport wakes_t
from iocpx._types cimport (
    conn_t, engine_config_t, engine_t, file_t, service_config_t, service_t, worker_t,
)
from iocpx._winsock cimport HANDLE, LONG64, SOCKET, SRWLOCK

cdef enum:
    MAX_CLIENTS = 24
    MAX_WORKERS = 3
    MAX_SERVICES = 3
    MAX_DISKS = 3
    LENIENT_MS = 60000      # to close in: longer than any client takes that reads
    MEDDLED_WRITE = 400     # bytes: the longest of others than the connection's own callbacks

# What the protocol of one client has seen and done.  Its callbacks come one at a time;
# what the application's thread looks at as well changes in an atomic section.
ctypedef struct protocol_t:
    SRWLOCK lock            # held while bytes of the stream are written, and for a pause
    conn_t *conn            # with a reference, from connection_made to connection_lost; atomic
    bint inside             # one of its callbacks runs
    bint made
    bint filter_opening     # its filter passes nothing yet…
    size_t hello            # … and waits for so many bytes of the client's first…
    size_t reply            # … to which it answers with so many…
    size_t reply_at         # … that stand here in our stream
    size_t own              # bytes that the filter wrote itself, so of no write
    bint notified           # its filter knows of the client's end; what comes after is nobody's
    size_t held             # bytes that its filter has and has not given yet
    bint paused             # writing, by pause_writing; atomic
    bint reading_paused     # as the engine has it; lock
    bint eof
    bint lost
    int error               # of connection_lost
    int reason              # likewise
    bint closed             # by the application, in whatever way; atomic
    bint served             # with echo: its end came before the application did anything
    size_t received         # bytes
    size_t due              # bytes that the client had sent at its end
    size_t written          # bytes, as far as the engine took them; lock
    bint tells              # it wants to be told what was sent
    size_t sent             # bytes, as far as it was told
    int files               # that it has been given and not given back; atomic
    file_t *last_file       # the last of them; lock
    size_t last_end         # where that one ends in the stream; lock
    bint cancels            # … and it is cancelled: nothing is written before it is over; lock
    size_t cancel_most      # … and so much of it may be sent; lock
    size_t turn_written     # bytes, by its own callbacks in the turn under way…
    size_t turn_most        # … and in any
    size_t turn_taken       # … of those of this turn, what was taken
    # Bytes that its turns before this one have written in spite of a pause, since when `over_since`
    # bytes had left; lock.
    size_t over
    size_t over_since
    bint over_told          # it was told of the pause before this turn; lock
    wakes_t wakes
    bint watched            # who calls the client hears of the end, be it reached or not; atomic
    # Of a loop's connections, touched by its thread alone:
    bint wanted             # the loop shall open it; atomic
    bint opened             # it has
    bint eof_written        # its protocol may write no more
    bint draining           # when connection_lost came the peer's end was awaited…
    size_t taken            # … and so many bytes of it had come

# One run, apart from its seed, and apart from its services.
ctypedef struct run_t:
    engine_config_t config
    sim_config_t sim
    int services
    int[MAX_CLIENTS] goes_to    # the service of each client
    bint[MAX_CLIENTS] called    # does that connect to it, instead of waiting for it?
    bint polled             # the port is the application's, and one thread of it steps the worker
    bint looped             # … as a loop does, whose services are like_asyncio, most of them
    bint[MAX_CLIENTS] opened    # somebody else connects to it, and the loop has its connection
    int unborn              # workers whose thread never comes to be
    bint probe              # a last client comes when faults are over, and must be served
    bint calm               # the application's threads do not meddle
    bint fatal              # callbacks abort other connections, too
    bint late               # calls fail during the stop as well
    bint files              # its protocols send files, too
    int disks               # threads of the application that read and write a file
    int datagrams           # there is a datagram endpoint, too: 1: with few of them, 2: with many
    bint together           # the first service's thread stops the others, too

# A service, which a thread of the application makes, and ends.  That thread's own, but for what
# is drawn, and where it says atomic.
ctypedef struct served_t:
    # Drawn:
    service_config_t config     # its handler's context is this struct
    bint echo                   # a native handler, instead of the protocol…
    bint discards               # … which says nothing
    int listeners
    bint shared_before          # another process has them already…
    bint shared_later           # … or gets them while it serves
    unsigned int joins_ms       # how long it waits before it begins…
    bint follows                # … and for the end of the first service, too
    unsigned int linger_ms      # how long it waits before it stops
    unsigned int stop_ms
    bint retires                # before it stops it accepts no more
    bint filtered               # its connections have a filter, as TLS is, that changes no byte
    # What becomes of it:
    SOCKET[2] sockets
    HANDLE stopped_event
    service_t *service          # NULL: it could not be made, or is freed
    bint refused                # the engine was about to end
    bint retired                # atomic
    bint started
    int start_error
    LONG64 accept_errors        # in all
    service_t *shared           # the service, for others that stop it; atomic
    int borrowers               # who have it from there; atomic
    bint stopping               # somebody stops it; atomic
    bint gone                   # its thread is done with it; atomic
    bint ended                  # the keeper has told so; atomic

# The engine, as the driver makes it.
ctypedef struct server_t:
    engine_t *engine        # NULL: it could not be made…
    int error               # … and why
    HANDLE port             # the application's; NULL: the engine has its own
    bint alone              # nobody else posts to it any more; atomic
    bint looping            # a loop polls it; atomic
    bint flushing           # … which is about to stop; the loop's thread
    int tasks               # that others have given the loop, each with a packet to wake it; atomic
    bint[MAX_SERVICES] resumes  # it shall resume reading, of a service's; atomic

cdef protocol_t[MAX_CLIENTS] protocols
cdef run_t the
cdef server_t server
cdef served_t[MAX_SERVICES] services

cdef uint32_t one_of(uint32_t a, uint32_t b, uint32_t c, uint32_t d) noexcept nogil
# A flag that two threads look at.
cdef void mark(bint *flag, bint value) noexcept nogil
cdef bint marked(const bint *flag) noexcept nogil
# The client behind a connection.
cdef int client_of(conn_t *conn) noexcept nogil
cdef served_t *served_of(int client) noexcept nogil
# The loop's, if it is one's connection, where all requests come from the loop's thread; or NULL.
cdef worker_t *worker_of(conn_t *conn) noexcept nogil
# Does its protocol just answer?
cdef bint calm(int client) noexcept nogil
# Has a call failed that was made to?
cdef bint disturbed() noexcept nogil
