"""Hard cases: masses of clients, clients that do not read, resets, and what races with them."""

import base64
import collections
import ctypes
import gc
import socket
import sys
import threading
import weakref

import pytest
from clients import Client, connect_all, echo_rounds, echo_until
from payload import MORE_THAN_THE_KERNEL_TAKES, assert_same_bytes, pattern, pieces
from process import collect, descriptor_limit, handle_count
from protocols import CountingSent, Echoing, Plain, Recording
from served import assert_balanced
from waiting import WAIT_S, run_together, wait_for_a_turn, wait_for_event, wait_for_figure

import iocpx

KB, MB = 1 << 10, 1 << 20

# Whatever else the machine has open, in descriptors.
ROOM_FOR_OTHERS = 2000


# -- clients that do not read


@pytest.mark.slow("64 MB")
@pytest.mark.once("the sockets are the engine's")
@pytest.mark.parametrize("factory", [Echoing, iocpx.native.Echo], ids=["protocol", "native"])
def test_a_client_that_sends_64_mb_and_never_reads(serve, factory):
    high = 256 * KB
    largest = collections.Counter()

    class Watched(factory if factory is Echoing else object):
        def on_made(self):
            self.transport.set_write_buffer_limits(high=high)

        def on_data(self, data):
            super().on_data(data)
            largest["size"] = max(largest["size"], self.transport.get_write_buffer_size())

    native = factory is iocpx.native.Echo
    served = serve(factory if native else Watched, buffer_size=64 * KB)
    greedy = served.connect()
    other = served.connect()
    data = pattern(64 * MB)
    sender = threading.Thread(target=greedy.send_until_refused, args=(data,))
    sender.start()
    # The server does not read from a client that takes nothing.
    echo_until(
        other,
        lambda: served.stats()["write_pauses"] > 0,
        "the pause for the client that does not read",
    )
    rounds = 100
    before = served.stats()
    echo_rounds(other, rounds)
    after = served.stats()
    # Everything in buffers, the other client's included: far from 64 MB.
    assert after["buffers_peak"] * 64 * KB <= 2 * MB
    assert after["bytes_received"] < len(data)
    # By now it is quiet: what was received meanwhile is the other client's.
    assert after["bytes_received"] - before["bytes_received"] >= rounds * len(b"round")
    # Once it reads it gets everything.
    assert_same_bytes(greedy.read_exactly(len(data)), data)
    sender.join(WAIT_S)
    assert not sender.is_alive()
    if not native:
        assert largest["size"] <= high + 2 * 64 * KB


@pytest.mark.engine("the sockets are the engine's")
def test_a_server_that_writes_64_mb_to_a_client_that_never_reads(serve):
    cap = 8 * MB
    served = serve(Echoing, max_write_buffer=cap)
    other, _ = served.open()
    client, protocol = served.open()
    block = pattern(256 * KB)
    protocol.transport.write(pattern(MORE_THAN_THE_KERNEL_TAKES))
    protocol.wait_for("pause_writing")
    wait_for_a_turn(protocol.transport)
    # What was queued before the pause was told is not held against it.
    queued = protocol.transport.get_write_buffer_size()
    sizes = []
    for _ in range(64 * MB // len(block)):
        protocol.transport.write(block)
        sizes.append(protocol.transport.get_write_buffer_size())
    protocol.wait_for("connection_lost")
    assert protocol.lost_with.winerror == 10055
    assert max(sizes) <= queued + cap
    echo_rounds(other)
    client.read_until_gone()


@pytest.mark.engine("the sockets are the engine's")
def test_a_slow_reader_beside_fast_ones(serve):
    """The slow one reads 1 KB for every round of the fast ones, and holds nobody up."""
    reply = pattern(MORE_THAN_THE_KERNEL_TAKES)

    class Replies(Echoing):
        def on_data(self, data):
            self.transport.write(reply if data == b"everything" else data)

    served = serve(Replies)
    slow, protocol = served.open()
    fast = [served.connect() for _ in range(4)]
    slow.send(b"everything")
    protocol.wait_for("pause_writing")
    got = bytearray()
    for _ in range(100):
        for client in fast:
            echo_rounds(client, 1)
        got += slow.read_exactly(KB)
    assert protocol.finished["resume_writing"] == 0
    got += slow.read_exactly(len(reply) - len(got))
    assert_same_bytes(bytes(got), reply)


# -- masses


@pytest.mark.slow("2,000 connections")
@pytest.mark.once("the sockets are the engine's")
@pytest.mark.parametrize("factory", [Plain, iocpx.native.Echo], ids=["protocol", "native"])
def test_2000_connections_opened_at_once(serve, factory):
    assert_all_served(serve(factory, backlog=2048), 2000)


def test_10000_connections_open_at_the_same_time(serve):
    needed = 2 * 10_000 + ROOM_FOR_OTHERS
    limit = descriptor_limit()
    if limit is not None and limit < needed:
        pytest.skip(
            f"this machine lets Windows' handles have {limit} descriptors; 10,000 connections with"
            f" both of their ends on it need {needed}"
        )
    assert_all_served(serve(Plain, backlog=2048), 10_000)


def assert_all_served(served, count):
    server = served.server
    step = 2000
    socks = []
    try:
        for start in range(0, count, step):
            socks += connect_all(server.address, min(step, count - start))
        for number, sock in enumerate(socks):
            sock.sendall(b"%06d" % number)
        for number, sock in enumerate(socks):
            assert sock.recv(6, socket.MSG_WAITALL) == b"%06d" % number
        # Each has got an answer, so each is there, all of them at once.
        assert server.connection_count == count
        assert server.stats()["connections_peak"] == count
    finally:
        for sock in socks:
            sock.close()
    last = served.connect()
    echo_until(last, lambda: server.connection_count == 1, "the end of all connections")


@pytest.mark.once("the sockets are the engine's")
@pytest.mark.slow("10,000 connections")
def test_10000_connections_one_after_the_other_leave_no_handle(serve):
    served = serve(Plain)
    server = served.server

    def cycle(times):
        for _ in range(times):
            with Client(server.address) as client:
                client.send(b"x")
                assert client.read_exactly(1) == b"x"

    steady = served.connect()

    extra = []

    def even():
        # The accept pool may have grown meanwhile, and grow just now.
        stats = server.stats()
        extra.append(stats["sockets_opened"] - stats["sockets_closed"])
        return server.connection_count == 1 and extra[-1] == stats["accepts_pending"] + 1

    def settled():
        echo_until(steady, even, "the end of all but one")
        return handle_count() - extra[-1]

    cycle(50)
    before = settled()
    run_together(*[lambda: cycle(2500)] * 4)
    # Wine counts the places of the handle table, in powers of two: a handle left behind by every
    # tenth connection would show.
    assert settled() < before + 1000
    wait_for_figure(server, "accepts", 10_051)


# -- the kill chain: silent clients in front of one that speaks


@pytest.mark.engine("the sockets are the engine's")
def test_100_silent_clients_and_one_that_speaks(serve):
    served = serve(Echoing, accept_receive=True, accept_timeout_s=1)
    silent = served.silent(100)
    # The pool can be full of silent clients; they are dropped, and this one's turn comes.
    speaking, late = served.speaking()
    echo_rounds(speaking)
    for client in silent:
        assert client.read_until_gone() == b""
    echo_rounds(speaking)
    echo_until(
        speaking,
        lambda: served.stats()["silent_clients_dropped"] == 100 + late,
        "the end of the silent clients",
    )
    served.speaking()
    assert len(served.protocols) == 2


# -- resets at every stage


@pytest.mark.engine("the sockets are the engine's")
def test_resets_in_the_backlog(serve):
    listener = socket.create_server(("127.0.0.1", 0), backlog=100)
    address = listener.getsockname()
    # Nobody accepts yet.
    clients = [Client(address) for _ in range(20)]
    for client in clients[:10] + clients[11:]:
        client.reset()
    served = serve(Echoing, None, sock=listener)
    survivor = clients[10]
    echo_rounds(survivor, 10)
    served.assert_serving()
    echo_until(survivor, lambda: served.server.connection_count == 1, "the end of the others")
    survivor.close()


@pytest.mark.engine("the sockets are the engine's")
@pytest.mark.parametrize("accept_receive", [False, True])
def test_resets_at_accept(serve, accept_receive):
    served = serve(
        Echoing, accept_receive=accept_receive, initial_accepts=2, max_accepts=4, workers=2
    )
    steady = served.connect()
    echo_rounds(steady, 1)
    for _ in range(200):
        served.connect().reset()
    echo_until(steady, lambda: served.server.connection_count == 1, "the end of the others")
    served.assert_serving()


@pytest.mark.engine("the sockets are the engine's")
@pytest.mark.parametrize("initial_reads", [1, 4])
@pytest.mark.parametrize("stage", ["receiving", "sending", "closing"])
def test_resets_in_the_middle_of(serve, stage, initial_reads):
    download = pattern(MORE_THAN_THE_KERNEL_TAKES)

    class Downloads(Echoing):
        def on_data(self, data):
            self.transport.write(download if data[:4] == b"give" else data)

    # What is queued for a client that is gone has no taker, and a reset may look like the end of
    # the stream: then the close timeout counts.
    served = serve(Downloads, close_timeout_s=0.2, initial_reads=initial_reads)
    steady, _ = served.open()
    for _ in range(10):
        client, protocol = served.open()
        if stage == "receiving":
            client.send(pattern(200 * KB))
            protocol.wait_for_data(1)
        else:
            client.send(b"give")
            protocol.wait_for("pause_writing")
            client.read_exactly(10_000)
            if stage == "closing":
                protocol.transport.close()
        client.reset()
        protocol.wait_for("connection_lost")
        error = protocol.lost_with
        assert error is None or isinstance(error, OSError), error
        echo_rounds(steady, 1)
    served.assert_serving()


# -- half-close


@pytest.mark.engine("the sockets are the engine's")
def test_half_close_by_the_client_then_by_the_server(serve):
    class StaysOpen(Recording):
        def on_eof(self):
            return True

    client, protocol = serve(StaysOpen).open()
    upload, download = pattern(3 * MB, 1), pattern(3 * MB, 2)
    client.send(upload)
    client.half_close()
    protocol.wait_for("eof_received")
    assert_same_bytes(bytes(protocol.received), upload)
    # The other direction is open as long as the server wants.
    protocol.transport.write(download)
    assert_same_bytes(client.read_exactly(len(download)), download)
    protocol.transport.write(b"last words")
    protocol.transport.write_eof()
    assert client.read_to_end() == b"last words"
    protocol.transport.close()
    protocol.wait_for("connection_lost")
    assert protocol.lost_with is None
    client.close()


@pytest.mark.engine("the sockets are the engine's")
def test_half_close_by_the_server_then_by_the_client(serve):
    client, protocol = serve(Recording).open()
    upload, download = pattern(3 * MB, 1), pattern(3 * MB, 2)
    protocol.transport.write(download)
    protocol.transport.write_eof()
    assert_same_bytes(client.read_to_end(), download)
    client.send(upload)
    protocol.wait_for_data(len(upload))
    assert_same_bytes(bytes(protocol.received), upload)
    assert protocol.transport.is_closing() is False
    client.half_close()
    protocol.wait_for("connection_lost")
    assert protocol.events[-2:] == ["eof_received", "connection_lost"]
    assert protocol.lost_with is None


# -- threads


@pytest.mark.engine("the sockets are the engine's")
def test_8_threads_write_to_one_connection(serve):
    """What one write() or writelines() takes stays whole, in the order of each thread."""
    client, protocol = serve(Recording, max_write_buffer=None).open()
    threads, records = 8, 150
    sizes = [1, 50, 3000, 20_000]

    def record(thread, number):
        size = sizes[(thread + number) % len(sizes)]
        body = pattern(size, thread * records + number)
        return b"%02d%06d%06d" % (thread, number, size) + body

    def write(thread):
        for number in range(records):
            data = record(thread, number)
            if number % 3:
                protocol.transport.write(data if number % 2 else bytearray(data))
            else:
                protocol.transport.write(data)

    expected = sum(len(record(t, n)) for t in range(threads) for n in range(records))
    got = []
    run_together(
        *[lambda thread=thread: write(thread) for thread in range(threads)],
        lambda: got.append(client.read_exactly(expected)),
    )
    stream, place = got[0], 0
    next_of = [0] * threads
    while place < len(stream):
        thread = int(stream[place : place + 2])
        size = int(stream[place + 8 : place + 14])
        wanted = record(thread, next_of[thread])
        assert_same_bytes(stream[place : place + 14 + size], wanted)
        next_of[thread] += 1
        place += len(wanted)
    assert next_of == [records] * threads


@pytest.mark.engine("the sockets are the engine's")
@pytest.mark.slow("300 threads, each with a send that nobody takes at once")
def test_threads_that_end_before_their_data_has_left(serve):
    """What a thread has written goes out although the thread is gone by then."""

    class Narrow(Recording):
        def on_made(self):
            # The kernel takes little, so that a send is under way when its thread ends.
            sock = self.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32 * KB)

    served = serve(Narrow, max_write_buffer=None)
    block = pattern(65536)
    got = []
    for _ in range(15):
        client, protocol = served.open()
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * KB)
        left_behind, n_blocks = [], 0

        def write(transport=protocol.transport, left_behind=left_behind):
            nonlocal n_blocks
            for _ in range(100):
                transport.write(block)
                n_blocks += 1
                if (size := transport.get_write_buffer_size()) > 0:
                    left_behind.append(size)
                    return

        def write_in_a_thread(write=write):
            thread = threading.Thread(target=write)
            thread.start()
            thread.join()

        # Nobody reads yet, so the first leaves something behind in any case.
        write_in_a_thread()
        assert left_behind

        def write_in_threads(write=write_in_a_thread, transport=protocol.transport):
            for _ in range(19):
                write()
            transport.close()

        def read(client=client):
            got.append(client.read_to_end())

        got.clear()
        run_together(write_in_threads, read)
        assert_same_bytes(got[0], block * n_blocks)
        protocol.wait_for("connection_lost")
        assert protocol.lost_with is None
        client.close()


def test_what_a_thread_writes_leaves_while_a_callback_waits_for_that(serve):
    data = pattern(MORE_THAN_THE_KERNEL_TAKES)
    inside, arrived = threading.Event(), threading.Event()

    class Waiting(Recording):
        def on_data(self, data):
            inside.set()
            wait_for_event(arrived, "the arrival of what the other thread writes")

    client, protocol = serve(Waiting, workers=2).open()
    client.send(b"go")
    wait_for_event(inside, "the callback")
    protocol.transport.write(data)
    assert_same_bytes(client.read_exactly(len(data)), data)
    arrived.set()


@pytest.mark.slow("a thousand connections")
@pytest.mark.engine("the sockets are the engine's")
def test_close_and_write_and_reset_race_a_thousand_times(serve):
    """Three threads, one turn after the other: what each does meets the others at any moment."""
    served = serve(CountingSent, close_timeout_s=0.2, workers=2)
    turns = 1000
    meet = threading.Barrier(3, timeout=WAIT_S)
    current = {}

    def open_and_reset():
        for _ in range(turns):
            current["client"], current["protocol"] = served.open()
            meet.wait()
            current["client"].reset()
            meet.wait()
            current["protocol"].wait_for("connection_lost")

    def write():
        for turn in range(turns):
            meet.wait()
            transport = current["protocol"].transport
            for _ in range(turn % 8):
                transport.write(bytes(3000))
            meet.wait()

    def close():
        for turn in range(turns):
            meet.wait()
            transport = current["protocol"].transport
            (transport.abort if turn % 5 == 0 else transport.close)()
            meet.wait()

    run_together(open_and_reset, write, close)
    served.finish()
    stats = served.stats()
    assert stats["connections_made"] == stats["connections_retired"] == turns
    assert len(served.protocols) == turns


@pytest.mark.engine("the sockets are the engine's")
@pytest.mark.parametrize("workers", [1, 2, 8])
def test_every_number_of_workers_serves_everyone(serve, workers):
    before = set(threading.enumerate())
    served = serve(Echoing, workers=workers, initial_reads=2)
    streams = [pattern(300 * KB, seed) for seed in range(12)]
    clients = [served.connect() for _ in streams]
    replies = {}

    def exchange(number):
        replies[number] = clients[number].exchange(pieces(streams[number], 30, number))

    run_together(*[lambda number=number: exchange(number) for number in range(len(streams))])
    for number, stream in enumerate(streams):
        assert_same_bytes(replies[number], stream)
    new = set(threading.enumerate()) - before
    assert sum(thread.name.startswith("iocpx-worker") for thread in new) == workers


def test_two_connections_are_in_their_callbacks_at_once(serve):
    inside = threading.Barrier(2, timeout=WAIT_S)

    class Meets(Echoing):
        def on_data(self, data):
            # Opens only when a second callback comes to it too.
            inside.wait()
            super().on_data(data)

    served = serve(Meets, workers=2)
    first, _ = served.open()
    second, _ = served.open()
    for _ in range(20):
        first.send(b"a")
        second.send(b"b")
        assert (first.read_exactly(1), second.read_exactly(1)) == (b"a", b"b")


@pytest.mark.skipif(
    getattr(sys, "_is_gil_enabled", lambda: True)(),
    reason="this Python has a GIL: one callback runs Python at a time",
)
def test_two_connections_run_python_at_once_without_a_gil(serve):
    # These calls keep the GIL, where there is one, until they return.
    kernel32 = ctypes.PyDLL("kernel32")
    kernel32.CreateEventW.restype = ctypes.c_void_p
    for function in (kernel32.WaitForSingleObject, kernel32.SetEvent, kernel32.CloseHandle):
        function.argtypes = [ctypes.c_void_p, ctypes.c_ulong][: len(function.argtypes or [0])]
    kernel32.WaitForSingleObject.argtypes = [ctypes.c_void_p, ctypes.c_ulong]
    mine, others = (kernel32.CreateEventW(None, False, False, None) for _ in range(2))
    results = {}

    class Meets(Recording):
        def on_data(self, data):
            own, other = (mine, others) if data == b"1" else (others, mine)
            kernel32.SetEvent(own)
            results[data] = kernel32.WaitForSingleObject(other, WAIT_S * 1000)
            self.transport.write(data)

    served = serve(Meets, workers=2)
    first, _ = served.open()
    second, _ = served.open()
    gc.disable()  # a collection would stop the world, and wait for who waits in its call
    try:
        first.send(b"1")
        second.send(b"2")
        assert (first.read_exactly(1), second.read_exactly(1)) == (b"1", b"2")
    finally:
        gc.enable()
    assert results == {b"1": 0, b"2": 0}, "each waited for the other to be inside as well"
    assert sys._is_gil_enabled() is False
    for event in (mine, others):
        kernel32.CloseHandle(event)


# -- garbage collection


class Kept(Plain):
    """Echoes, tells when it ends, and lies in a cycle with its connection."""

    def __init__(self, lost):
        self.lost = lost

    def connection_lost(self, exc):
        self.lost.set()


@pytest.mark.parametrize("when", ["open", "lost", "stopped"])
@pytest.mark.parametrize("first", ["protocol", "connection", "both"])
def test_protocol_and_connection_are_collected_in_any_order(serve, first, when):
    made, lost = [], threading.Event()

    def factory():
        made.append(Kept(lost))
        return made[-1]

    served = serve(factory)
    client = served.connect()
    echo_rounds(client, 1)
    protocol = made.pop()
    gone = weakref.ref(protocol)
    connection = protocol.transport

    def end():
        if when == "stopped":
            served.finish()
        else:
            client.close()
        wait_for_event(lost, "the loss of the connection")
        if when == "lost":
            # The turn that has told of it has references, too.
            wait_for_figure(served.server, "connections_retired", 1)

    if when != "open":
        end()
    if first == "both":
        del protocol, connection
    elif first == "protocol":
        # The connection is the one that still knows the other.
        del protocol
        collect()
        connection.write(b"")
        connection.get_extra_info("peername")
        del connection
    else:
        del connection
        collect()
        protocol.transport.write(b"")
        assert protocol.transport.get_protocol() is protocol
        del protocol
    collect()
    if when == "open":
        # The server has both: the connection goes on.
        echo_rounds(client, 5)
        assert gone() is not None
        end()
        served.finish()
        collect()
    assert gone() is None


@pytest.mark.slow("hundreds of connections")
def test_connections_are_collected_while_they_are_served(serve):
    """The collector runs again and again, in threads of its own, while cycles come and go."""
    served = serve(Plain, workers=4)
    over = threading.Event()

    def collect_on_and_on():
        # It looks at what is made from here on, so that it runs many times in each round. Not
        # unfrozen: what was there before the module would not be frozen either then.
        gc.freeze()
        while not over.is_set():
            gc.collect()

    def come_and_go():
        try:
            for turn in range(30):
                with Client(served.server.address) as client:
                    echo_rounds(client, 2)
                    if turn % 3 == 0:
                        client.reset()
        finally:
            over.set()

    run_together(collect_on_and_on, come_and_go)
    assert served.stats()["connections_made"] == 30


# -- processes

ECHO = """
import asyncio, base64, os, socket, sys, threading
import iocpx

class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
    def data_received(self, data):
        self.transport.write(data)
"""


def test_a_server_in_a_thread_of_a_process_that_exits(start_script):
    script = start_script(
        ECHO
        + """
def serve():
    with iocpx.Server(Echo, "127.0.0.1", close_timeout_s=0.2) as server:
        print(*server.address[:2], flush=True)
        server.serve_forever()

threading.Thread(target=serve, daemon=True).start()
sys.stdin.readline()
"""
    )
    with Client(script.read_address()) as client:
        echo_rounds(client, 5)
        client.send(bytes(100_000))
        script.tell()
        assert script.finish() == (0, [], "")
        client.read_until_gone()


def test_a_listener_is_handed_to_a_second_process(start_script):
    script = start_script(
        ECHO
        + """
print(os.getpid(), flush=True)
sock = socket.fromshare(base64.b64decode(sys.stdin.readline()))
with iocpx.Server(Echo, sock=sock, close_timeout_s=1) as server:
    print(*server.address[:2], flush=True)
    sys.stdin.readline()
stats = {**server.engine.stats(), **server.stats()}
print(stats["connections_made"], stats["ops_posted"] == stats["ops_completed"],
      stats["sockets_opened"] == stats["sockets_closed"])
"""
    )
    pid = int(script.read_line())
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    # It waits in the backlog while the listener changes hands.
    early = Client(address)
    script.tell(base64.b64encode(listener.share(pid)).decode("ascii"))
    assert script.read_address() == address
    listener.close()
    echo_rounds(early, 5)
    with Client(address) as late:
        echo_rounds(late, 5)
    early.close()
    script.tell()
    assert script.finish() == (0, ["2 True True"], "")


def test_a_listener_handed_over_by_descriptor(serve):
    listener = socket.create_server(("127.0.0.1", 0))
    served = serve(Plain, None, sock=socket.socket(fileno=listener.detach()))
    echo_rounds(served.connect(), 5)
    served.finish()
    assert_balanced(served.server)
