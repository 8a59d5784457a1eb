"""The structs of the engine, and who owns what in them; no functions.

Every room of the engine cimports this one.  Locks, always taken in this order and never held
into a callback, into the GIL or across a posted operation (but for `_datagrams`, datagram_pend):
    service_t.pass_lock → conn_t.lock → listener_t.lock → worker_t.lock → engine_t.run_lock
    → engine_t.lock → engine_t.pool_lock
disk_file_t.lock stands alone: no other is taken with it.

An engine is a port with its threads and its memory; a service is what is served on it: its
listeners, its connections, their limits and their handler.  Several services share one engine.

Needs `_state`, `_op`, `_winsock` and `engine_api`.
"""

from libc.stdint cimport uint64_t

from iocpx.engine_api cimport handler_api_t
from iocpx._op cimport op_t
from iocpx._state cimport (
    buf_t, deadline_t, deadlines_t, link_t, marks_t, pool_t, queue_t, timer_t, timers_t,
    window_t,
)
from iocpx._winsock cimport (
    CONDITION_VARIABLE, DWORD, HANDLE, LONG, LONG64, LPFN_ACCEPTEX, LPFN_CONNECTEX,
    LPFN_GETACCEPTEXSOCKADDRS, LPFN_TRANSMITFILE, OVERLAPPED_ENTRY, SOCKET, SRWLOCK, ULONG,
)

# -- counters -------------------------------------------------------------------

cdef enum counter:          # of a service
    N_SOCKETS_OPENED        # accept sockets made…
    N_SOCKETS_CLOSED        # …and closed
    N_CONNECTIONS_MADE      # conn_t made…
    N_CONNECTIONS_RETIRED   # …and freed
    N_ACCEPTS
    N_ACCEPT_ERRORS
    N_REFUSED               # clients beyond max_connections
    N_SILENT_DROPPED        # clients that sent nothing for accept_timeout_ms
    N_ACCEPTS_GROWN         # slots added to the accept pools…
    N_ACCEPTS_SHRUNK        # …and taken out again
    N_BYTES_RECEIVED
    N_BYTES_SENT
    N_RECEIVES              # receives that brought data
    N_SENDS                 # sends that took data
    N_ZERO_RECEIVES         # zero-byte receives posted
    N_INLINE_COMPLETIONS
    N_WRITE_PAUSES          # write queues that passed their high mark
    N_READ_PAUSES           # pause_reading()
    N_FILES_OPENED          # files given to be sent…
    N_FILES_CLOSED          # …and given back, sent or not
    N_MESSAGES_RECEIVED     # whole ones, cut by framers
    N_TRUNCATED             # datagrams that were longer than datagram_bytes
    N_RECEIVE_ERRORS        # receives of datagrams that have failed otherwise
    N_SEND_ERRORS           # datagrams that could not be sent
    N_DROPPED               # … and those beyond max_write_buffer
    N_ABORTS                # by abort_reason, from here on
    N_COUNTERS = N_ABORTS + 8

cdef enum engine_counter:
    E_OPS_POSTED            # operations and packets given to the kernel…
    E_OPS_COMPLETED         # …and come back: completed, failed or refused at once
    E_PACKETS               # dequeued completions
    E_WAITS                 # GetQueuedCompletionStatusEx calls that returned packets…
    E_EMPTY_WAITS           # …and that returned none
    E_TAKEOVERS             # times a worker took connections over from others
    E_GIL_ACQUISITIONS
    E_FILES_OPENED          # files put on the port…
    E_FILES_CLOSED          # …and their handles closed
    E_FILE_OPS_BEGUN        # reads and writes of these…
    E_FILE_OPS_DONE         # …of which the outcome was told
    E_COUNTERS

# One for each worker, and one for all other threads; the padding keeps two from sharing a cache
# line.
ctypedef struct tally_t:
    LONG64[N_COUNTERS] n
    char[64] padding

ctypedef struct engine_tally_t:
    LONG64[E_COUNTERS] n
    char[64] padding

cdef enum abort_reason:
    ABORT_APPLICATION       # abort(), abort_clients()
    ABORT_ERROR             # a receive or send failed
    ABORT_CALLBACK          # a callback raised
    ABORT_WRITE_LIMIT       # max_sends or max_write_buffer
    ABORT_IDLE              # idle_timeout_s
    ABORT_CLOSE_TIMEOUT     # close_timeout_s, of the connection
    ABORT_STOP              # … of the server's stop
    ABORT_FRAMING           # what the peer has sent is no message of its framer

# asyncio's marks, where nobody sets others; the low one is a quarter.
cdef enum:
    HIGH_WATER_BYTES = 65536
    TLS_HIGH_WATER_BYTES = 524288

# What is due to be told, whatever else there is: flags in one word, since each message asks for
# it several times.
cdef enum due_flags:
    DUE_MADE = 1            # connection_made
    DUE_TIMERS = 2          # the handler has asked to be woken, for now
    DUE_LOST = 4            # connection_lost
    DUE_FILES = 8           # files are over, or the handler is to read more of one

# What has to be done for each send, in one word likewise.
cdef enum sent_flags:
    SENT_TOLD = 1           # the handler wants to know of the bytes
    SENT_FILES = 2          # there are files, one of which may be next

# What packets have brought that is not a connection's, in one word, since each look at the port
# asks for it.
cdef enum also_flags:
    ALSO_HELP = 1           # it looks what the other workers have
    ALSO_FILES = 2          # there are file_ops

# -- the structs ------------------------------------------------------------------

cdef enum limits:
    PACKETS_PER_WAIT = 16   # packets that a worker takes at once
    SEND_BUFFERS = 16       # WSABUFs in one gather send
    # One send at most, so that Windows need not lock much memory…
    SEND_BYTES = 262144
    # … and on a connection whose kernel takes as much at once: a call for each quarter costs more
    # than it may. A 16th above 1 MiB, so that a body of that and the head before it leave no rest,
    # which would be a call for a few bytes.
    MOST_SEND_BYTES = 1114112
    # conn.send_bytes, which is below that otherwise: the outbox is a file.
    A_FILE_IS_NEXT = 1114113
    DATAGRAMS_ARE_NEXT = 1114114    # … or it is datagrams, always: see datagram_t
    # … and where the peer takes less in a second than that: its completions tell a slow reader
    # from a dead one.
    SLOW_SEND_BYTES = 16384
    ADDRESS_BYTES = 28      # sockaddr_in6, the longest address we handle
    IPV4_BYTES = 16         # sockaddr_in
    ACCEPT_ADDRESS_BYTES = 144  # sizeof(sockaddr_storage) + 16, as AcceptEx asks
    ACCEPT_ERROR_CODES = 16     # distinct codes that are told apart
    N_SIZES = 4                 # of buffers
    # What a datagram to be sent counts beside its bytes, as in asyncio: empty ones count, too.
    DATAGRAM_COUNTS = 8
    # Up to here bytes are copied, received ones and written ones: that costs less than to
    # keep a bytes object and to take the GIL once more only to release it.
    COPY_BYTES = 16384

# The functions of a Winsock provider; see _provider.
ctypedef struct provider_t:
    LPFN_ACCEPTEX AcceptEx
    LPFN_GETACCEPTEXSOCKADDRS GetAcceptExSockaddrs
    LPFN_CONNECTEX ConnectEx
    LPFN_TRANSMITFILE TransmitFile

ctypedef struct recv_t:
    op_t op             # first: the op of a packet is its recv_t
    buf_t *buf          # owned, lent to the kernel; NULL: a zero-byte receive
    bint cancelled      # to take the buffer back
    # The outcome, until its turn has come:
    bint done
    int error
    DWORD nbytes

# A file to be sent.  Its maker's, from conn_sendfile on the connection's, and the handler's again
# from conn_take_files on.
ctypedef struct file_t:
    # First: its place among what is to be sent.  It has no data, by which it is told from bytes;
    # its owner is the handler's, and referenced as long as there is the file_t.
    buf_t buf
    HANDLE handle               # borrowed from the owner; NULL: the handler reads it
    uint64_t offset             # in the file, of what is sent next
    uint64_t left               # bytes, at most
    uint64_t sent               # bytes
    size_t counted              # of those left, what the marks count: see files_t.nbytes
    size_t part                 # bytes of the next TransmitFile, at most
    bint looked                 # `left` is no more than there was when its turn came
    bint cancelled
    bint ended                  # all of it has been sent
    int error                   # Windows code of what has ended the connection instead; or 0

ctypedef struct files_t:
    file_t *front               # owned, and in the outbox if it has a handle; NULL: bytes are next
    queue_t later               # what follows it in order: files, and what was written after them
    queue_t over                # those that are over, for conn_take_files
    # Those left of the files before `over`, as far as they are known; outbox.nbytes has them, too.
    size_t nbytes

# In front of the bytes of each datagram, in the same buffer: of one that was received, and is in
# the inbox, and of one that is to be sent, and is in the outbox.
ctypedef struct datagram_t:
    # Lent to the kernel with the bytes that follow it:
    char[ADDRESS_BYTES] address  # a sockaddr: where it has come from, or goes to
    int address_bytes           # of it; 0: it goes to whom the socket is connected to
    int error                   # a Windows code that has come in place of a datagram; or 0
    bint sending                # … of a send

# Called for the connection whose turn it is: posts its next receive.
ctypedef void (*post_fn)(worker_t *worker, conn_t *conn) noexcept nogil

ctypedef struct conn_t:
    link_t link                 # in service.connections; engine.lock
    deadline_t closing          # in the service's list of that name; engine.lock
    deadline_t quiet            # likewise
    deadline_t idling           # likewise
    # In engine.timers, due in ms, as long as the handler is to be woken then; due 0: it is not.
    # That changes under lock and engine.lock, so that either is enough to read it.
    timer_t timer
    service_t *service          # borrowed: outlives its connections
    engine_t *engine            # the service's
    const provider_t *provider  # borrowed, from its listener or from the engine
    SOCKET sock                 # owned; lock
    LONG refs                   # one each: handle open, op pending, scheduled, Connection
    conn_t *next_ready          # in the one list that has it, under that list's lock
    bint outgoing               # constant: we have made it
    bint skips                  # constant: an inline completion yields no packet
    bint nonblocking            # calls without an OVERLAPPED do not wait; lock
    LONG64 number               # constant: counts connections, for the trace
    char[ADDRESS_BYTES] local   # constant from connection_made on
    char[ADDRESS_BYTES] remote  # constant
    # The handler's own, touched by nobody else.  Python's is the Connection, owned from
    # connection_made to connection_lost; the executor's, under the GIL.
    void *user
    SRWLOCK lock
    post_fn post_recv           # constant
    # All below: lock.
    int state                   # conn_state
    int pending                 # ops of the socket lent to the kernel or about to be
    int error                   # Windows code of the failure; 0: none
    bint error_sending          # the failed operation was a send
    int reason                  # abort_reason; -1: was not aborted
    size_t unsent_bytes         # that were queued then…
    int unsent_writes           # … in so many writes
    uint64_t progress_ms        # when a closing peer last showed life, for the close deadline
    uint64_t flushed_ms         # since when it is DRAINING
    uint64_t active_ms          # when bytes last came or left, for the idle timeout
    int inline_run              # of its turns' operations, those that completed at once in a row
    bint scheduled              # in a ready list, in a packet, or being served
    bint deliver                # scheduled because of news for the handler
    # Id of the thread that delivered last, until conn_served: what that one writes is left
    # to conn_served to send.  0: none.
    DWORD executor
    bint delivering             # … and is still at it; the executor's
    queue_t traces              # lines for the trace, each counted as a write
    LONG64 untraced             # lines that the last of them stands for
    # receive side
    recv_t *recvs               # owned with the conn_t: window.size of them
    window_t window             # which of them are posted, in order
    # Owned: for the next receive; may have an owner.  Of datagrams a chain.
    buf_t *spare
    int recv_size               # which of engine.pools the next receive's buffer is from
    int short_run               # receives that did not need that much, in a row
    queue_t inbox               # received, not yet delivered
    unsigned int receives       # that brought data
    unsigned int receives_seen  # at the last look of the quiet deadline
    bint idle                   # silent: only a zero-byte receive is posted, no buffer held
    bint read_paused
    bint deaf                   # nothing received is delivered any more
    bint eof_seen               # nothing is received any more; of datagrams perhaps for a while
    # send side
    op_t send                   # or the ConnectEx, while CONNECTING
    bint sending                # it is posted
    size_t send_lent            # bytes that it has to send
    size_t send_bytes           # of the next one, at most; or A_FILE_IS_NEXT
    uint64_t send_ms            # when it was posted, if it pends
    # Not yet sent, bytes or one file; its front is lent to the kernel while sending.  Its figures
    # count what waits for a filter or behind a file as well, its bytes also what is left of files
    # (files_t.nbytes): the marks are those of all that is queued, the limits of what is in memory.
    queue_t outbox
    files_t *files              # owned; NULL: there was none yet
    queue_t spent               # sent or dropped, with owners that the handler releases
    marks_t marks
    bint passed                 # the queue was above its high mark, which is not told yet
    size_t turn_bytes           # written by the callbacks of the turn under way…
    int turn_writes             # … in so many writes
    bint turn_told              # writing was paused already when it began
    bint limit_told             # … and also when the last one ended
    size_t over_bytes           # queued although writing was paused: what the limit counts
    int waiters                 # threads in conn_wait_writable, which sleep on…
    CONDITION_VARIABLE writable
    # A filter, a TLS layer that is, stands between the handler and the stream; it works in the
    # connection's turns, and what is received is for it.
    bint filtered
    bint filter_begun           # … and has not had its first turn yet
    bint filter_opening         # … which passes nothing yet: what is written waits
    size_t filter_own           # bytes that it has put of its own, while the outbox was not empty
    bint filter_waits           # it could not take what is written before it has received more
    queue_t plain               # written, not yet filtered
    bint filter_holds           # it has what the handler did not take, having paused reading
    bint filter_flushes         # it was open when the connection was closed
    bint filter_ended           # its last bytes are in the outbox: SD_SEND may follow them
    size_t filtered_bytes       # of `plain`, in the outbox by now, not told as sent yet
    bint write_eof              # shutdown(SD_SEND) once the outbox is empty
    bint shut                   # it is done
    # The socket may have another handle, which closesocket leaves open, and through which
    # somebody may make it block.
    bint duplicated
    int after_send              # sent_flags
    size_t sent_untold          # bytes that left, for SENT_TOLD
    int due                     # due_flags: what the handler is told next…
    # … and what it has been told
    bint pause_told
    bint eof_told
    bint lost_told
    op_t serve                  # the packet that brings it to a worker

ctypedef struct listener_t:
    service_t *service          # borrowed
    engine_t *engine            # the service's
    listener_t *next            # owned
    SRWLOCK lock
    # All below: lock.
    SOCKET sock                 # borrowed from the Python socket object until `closing`
    bint closing                # sock is not used any more
    link_t acceptors            # all of its accept pool
    int n_acceptors
    int target                  # what the pool shrinks to
    bint crowded                # FD_ACCEPT came since the last look at shrinking
    # Constant:
    int family
    bint shared                 # it is on another port; its AcceptEx tell by engine.accept_event
    provider_t provider

ctypedef struct acceptor_t:
    op_t op                     # first: the op of a packet is its acceptor_t
    listener_t *listener        # borrowed
    link_t link                 # in listener.acceptors; listener.lock
    acceptor_t *next_starved    # in engine.starved; engine.lock
    bint pending                # listener.lock
    bint told                   # of a shared listener: it is over, and its packet posted; likewise
    bint cancelled              # by us, for shrinking or…
    bint silent                 # …because its client has said nothing for too long; listener.lock
    int failures                # in a row; its completion's
    SOCKET sock                 # owned: the socket that the next client gets; listener.lock
    # Lent while pending: what AcceptEx writes to.
    buf_t *data                 # owned, with accept_receive only: first data, then the addresses
    char[2 * ACCEPT_ADDRESS_BYTES] addresses

# A file of the application's on the port.  Its maker's, which frees it when the handle is closed
# and all of its operations are told.
ctypedef struct disk_file_t:
    engine_t *engine            # borrowed; held until file_take_end has told of the end
    bint skips                  # constant: an inline completion yields no packet
    bint queues                 # constant: no operation is done at once
    SRWLOCK lock
    # All below: lock.
    HANDLE handle               # owned; NULL: closed, or being closed
    int pending                 # ops that the kernel may have, and file_borrow's
    int untold                  # ops that are begun and not told yet, and file_borrow's
    bint closing
    bint closed
    bint end_taken              # file_take_end has told of it

# Its maker's, lent from file_read or file_write on until engine_next_file_op brings it.
ctypedef struct file_op_t:
    op_t op                     # first: the op of a packet is its file_op_t; owner: its file
    file_op_t *next             # in engine.file_ops; run_lock
    void *user                  # its maker's
    bint pending                # lent to the kernel or about to be; file.lock
    bint cancelled              # file_op_cancel was called; file.lock
    bint refused                # it has never pended; its packet is one of ours
    # The outcome:
    int error                   # Windows code; 0: none
    DWORD nbytes

ctypedef struct ready_t:
    conn_t *head                # each with a reference
    conn_t *tail

ctypedef struct worker_t:
    engine_t *engine            # borrowed
    int index                   # constant: among the engine's
    LONG thread_id
    engine_tally_t tally
    OVERLAPPED_ENTRY[PACKETS_PER_WAIT] entries
    ULONG batch                 # packets that it takes next, at most
    int unlooked                # shares since its last look at the port…
    uint64_t look_due_ms        # …which it has again by then
    bint ending                 # its stop packet has come
    int also                    # also_flags: what it does beside connections
    int file_share              # operations of files that it tells in this batch, at most
    int failures                # looks at the port that failed in a row while nothing is served
    SRWLOCK lock
    # lock: the scheduled connections that this worker has, until an idle one takes them.
    ready_t news                # Python is to be told
    ready_t work                # a native handler is, or it was told all: to be served
    ready_t again               # had their share; the worker's own, for the run queue
    ready_t sent                # what they had to send has been; receives are next; its own

# Called by a worker, no lock held: takes the GIL once, tells all operations of files from
# engine_next_file_op, and all connections from worker_next, until these return NULL, and gives
# each connection back by worker_delivered.
ctypedef void (*deliver_batch_fn)(worker_t *worker) noexcept nogil
# Called by a worker, no lock held, for one connection that it has: takes all its news.
ctypedef void (*deliver_fn)(conn_t *conn) noexcept nogil

# Called by deliver_batch, GIL held, no lock held, for one connection: takes all its news.
ctypedef void (*tell_fn)(void *context, conn_t *conn) noexcept

# What a service's connections are told by.
ctypedef struct handler_t:
    deliver_fn deliver          # never enters Python; NULL: the engine's deliver_batch calls…
    tell_fn tell                # … this
    tell_fn pump                # GIL held: filters what was written, tells nothing; or NULL
    void *context               # borrowed: what it finds its way by; Python's: Runtime, Endpoint
    const handler_api_t *c_handler  # borrowed, of another module: what `deliver` tells; or NULL
    bint marks                  # `deliver` tells of the write marks, as `tell` always does

ctypedef struct engine_config_t:
    int workers
    size_t buffer_size          # bytes
    size_t max_free_buffers
    deliver_batch_fn deliver_batch  # may be NULL where all handlers are native

ctypedef struct service_config_t:
    handler_t handler
    int backlog
    int initial_accepts         # AcceptEx kept pending per listener…
    int max_accepts             # …while clients come faster than that
    bint accept_receive         # AcceptEx completes with the first data
    uint64_t accept_timeout_ms  # how long a client may be silent then
    LONG64 max_connections      # 0: unlimited
    int initial_reads           # receives kept posted per connection
    # Its connections are datagram endpoints: sockets without an end of the stream, and perhaps
    # without a peer.  Constant, as all of it.
    bint datagrams
    size_t datagram_bytes       # of the longest that is received whole
    size_t max_free_connections
    uint64_t idle_timeout_ms    # 0: none
    int max_sends               # 0: unlimited
    size_t max_write_buffer     # bytes; 0: unlimited
    bint trace
    # Receives also while what is to be sent is above its high mark; resets a peer that sends on
    # after the end of both, in place of discarding that until it ends; an abort() of the
    # application's resets nothing.
    bint like_asyncio
    size_t high_water_bytes
    size_t low_water_bytes
    uint64_t close_timeout_ms
    DWORD keepalive_idle_ms     # 0: off
    DWORD keepalive_interval_ms

ctypedef struct service_t:
    service_config_t config
    engine_t *engine            # borrowed: outlives its services
    service_t *next             # in engine.services; engine.lock, but only the keeper takes one out
    tally_t *tallies            # owned array: of threads that are no workers, then of each worker
    HANDLE stopped_event        # borrowed: set when nothing is left
    # Acceptors, clients that become connections, connections; 1 more until the stop.
    LONG live
    LONG64 connections_now
    LONG64 connections_peak
    LONG64 draining             # of those who came, those whose connection_lost has been told
    LONG64 outgoing             # of all, those that we have made
    LONG64 accepts_pending
    SRWLOCK pass_lock           # held while the connections are gone through one by one
    # All below: engine.lock.
    bint stopping               # nothing new…
    bint closing_clients        # … and connections are closing
    bint over                   # nothing is left; the keeper takes it out
    LONG64 last_number
    listener_t *listeners       # owned; only ever grows, at its head
    link_t connections          # with a handle
    deadlines_t closing         # close_timeout_ms
    deadlines_t quiet           # connections that may turn idle
    deadlines_t idling          # idle_timeout_ms
    uint64_t accept_period_ms   # constant; 0: never
    uint64_t accept_due_ms      # next look at silent clients
    uint64_t shrink_due_ms      # next look at shrinking
    int[ACCEPT_ERROR_CODES] accept_error_codes
    LONG64[ACCEPT_ERROR_CODES] accept_error_counts
    uint64_t stop_due_ms        # when connections that are still closing are aborted
    # All below: engine.pool_lock.
    conn_t *free_conns          # owned, by next_ready; each with initial_reads receives
    size_t n_free_conns
    LONG64 conn_hits
    LONG64 conn_misses

ctypedef struct engine_t:
    engine_config_t config
    HANDLE port                 # owned, unless…
    bint borrows_port           # … it is somebody else's, who steps the one worker (engine_poll)
    HANDLE keeper_event         # owned: something for the keeper, auto-reset
    # Owned, auto-reset: FD_ACCEPT on a listener, or an AcceptEx on a shared one that is over.
    HANDLE accept_event
    HANDLE stopped_event        # owned: keeper and workers are done, manual-reset
    # On a cache line of their own: the fields before them are read all the time, and never change.
    char[64] padding
    LONG workers_idle           # looking at the port, be it to wait there or not
    # Packets that are in the port, or will be when an operation of a connection completes; for
    # a moment too few.  Not AcceptEx, which is pending all the time.
    LONG packets_due
    char[64] more_padding
    worker_t *workers           # owned array
    provider_t[2] providers     # of sockets that the engine makes, by family; lock
    engine_tally_t guest_tally  # of threads that are not workers
    SRWLOCK lock
    # All below: lock.
    int holds                   # services + engine_hold's; at 0 the engine ends
    int serving                 # services that are not stopping
    service_t *services         # borrowed; joined at the head by any thread
    bint abandoned              # a service ended although the kernel still had something of it
    int workers_running
    timers_t timers             # of connections whose handler is to be woken; due in ms
    int trouble                 # Windows code of what the system refuses, not yet told
    uint64_t trouble_due_ms     # when the next may be told
    uint64_t keeper_due_ms      # when the keeper looks next by itself
    uint64_t listen_due_ms      # when it fills the accept pools that have nothing yet
    uint64_t told_due_ms        # when packets for AcceptEx that are over are posted once more
    uint64_t help_due_ms        # when to see whether a worker is stuck in a callback
    bint help_posted            # `help` is in the port
    op_t help
    bint stop_posted            # `stop` is in the port, or with a worker that ends
    op_t stop
    acceptor_t *starved         # could not be posted; tried again by the keeper
    uint64_t starved_due_ms
    conn_t *unposted            # could not be brought to a worker; tried again by the keeper
    SRWLOCK run_lock
    ready_t run_queue           # scheduled, waiting for their turn with any worker; run_lock
    # Operations of files that are over and not told yet; run_lock.
    file_op_t *file_ops
    file_op_t *last_file_op
    int n_file_ops
    SRWLOCK pool_lock
    # All below: pool_lock.
    size_t buffers_out          # taken and not given back
    size_t buffers_peak
    pool_t[N_SIZES] pools       # the smallest buffers first; the last are of config.buffer_size
