"""What users of other servers and event loops for Windows complain about, each as a test that it is
not so here.

Complaints about event loops, datagrams and files are no server's and not in here.
"""

import base64
import logging
import queue
import socket
import threading
import time

import pytest
from clients import Client, echo_rounds, echo_until
from payload import MORE_THAN_THE_KERNEL_TAKES, assert_same_bytes, pattern
from protocols import Echoing, Plain, Recording
from served import assert_balanced
from waiting import WAIT_S, run_together, wait_for_figure, wait_until

import iocpx

KB, MB = 1 << 10, 1 << 20

ECHO = """
import asyncio, gc, sys, threading
import iocpx

class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
    def data_received(self, data):
        self.transport.write(data)
"""


def test_a_failed_accept_does_not_close_the_listener(serve):
    """Elsewhere an error of one AcceptEx (64, 121, 10054) closes the listener for good."""
    served = serve(Echoing, accept_receive=True, initial_accepts=2, max_accepts=4)
    steady = served.connect()
    echo_rounds(steady, 1)
    resets = 50
    for _ in range(resets):
        served.connect().reset()
    served.assert_serving()
    # A client that went before it said anything is a failed accept, or one that brought nothing.
    echo_until(steady, lambda: served.server.connection_count == 1, "the end of the others")
    echo_until(
        steady,
        lambda: served.stats()["accepts"] + served.stats()["accept_errors"] == 2 + resets,
        "the count of all",
    )
    stats = served.stats()
    assert stats["accepts"] >= 2
    assert served.server.is_serving() is True

    def codes():
        stats = served.stats()
        return stats["accept_errors"] - sum(stats["accept_errors_by_code"].values())

    # One is counted before its code is.
    wait_until(lambda: codes() == 0, "the code of each")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_factory_that_raises_stops_nothing_and_leaks_nothing(serve, workers):
    """Elsewhere accepting stops, and the socket leaks."""
    turn = iter(range(1000))

    def factory():
        if next(turn) % 2:
            raise LookupError("no protocol today")
        return Plain()

    served = serve(factory, workers=workers)
    for _ in range(10):
        with served.connect() as client:
            echo_rounds(client, 1)
        assert served.connect_in_vain(b"anyone?") == b""
        assert isinstance(served.take_error()["exception"], LookupError)
    served.finish()
    stats = served.stats()
    assert stats["connections_made"] == stats["connections_retired"] == 20
    assert stats["aborts_by_reason"]["callback"] == 10


def test_clients_are_accepted_as_soon_as_start_returns():
    """Elsewhere clients are refused just after the server was made."""
    for _ in range(20):
        server = iocpx.Server(Plain, "127.0.0.1", close_timeout_s=1)
        server.start()
        # In the pool by now, so that it need not even wait in the backlog.
        wait_for_figure(server, "accepts_pending", 10)
        with Client(server.address) as client:
            echo_rounds(client, 1)
        server.close()
        assert server.wait_closed(WAIT_S) is True
        assert_balanced(server)


def test_a_lost_connection_makes_no_noise(serve, caplog, capfd):
    """Elsewhere every reset (10054) is logged or printed."""
    caplog.set_level(logging.DEBUG)
    served = serve(Recording)
    for _ in range(20):
        client, protocol = served.open()
        client.send(pattern(100 * KB))
        protocol.wait_for_data(1)
        client.reset()
        protocol.wait_for("connection_lost")
    served.finish()
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("drop", ["connections", "server", "both"])
def test_finalisers_are_quiet(start_script, drop):
    """Elsewhere __del__ complains that the event loop is closed."""
    script = start_script(
        ECHO
        + """
kept = []

class Keeps(Echo):
    def connection_made(self, transport):
        super().connection_made(transport)
        kept.append(transport)
        self.cycle = [self, transport]

drop = sys.argv[1]
server = iocpx.Server(Keeps, "127.0.0.1", close_timeout_s=0.2)
server.start()
print(*server.address[:2], flush=True)
sys.stdin.readline()
if drop != "server":
    kept.clear()
if drop != "connections":
    del server
gc.collect()
print("dropped", flush=True)
""",
        drop,
    )
    with Client(script.read_address()) as client:
        echo_rounds(client, 2)
        script.tell()
        code, out, err = script.finish()
    # The ResourceWarning of a dropped server is not shown unless it is asked for.
    assert (code, out, err) == (0, ["dropped"], "")


def test_completions_of_a_closed_connection_find_their_memory(start_script):
    """Elsewhere a late completion (995) crashes the process: its OVERLAPPED is freed already."""
    script = start_script(
        ECHO
        + """
import socket

class Fills(asyncio.Protocol):
    # Leaves with a send and four receives pending, and with nobody who knows it.
    def connection_made(self, transport):
        transport.write(bytes(8 << 20))
        transport.abort()

for turn in range(5):
    engine = iocpx.Engine(workers=4, max_free_buffers=0)
    server = iocpx.Server(Fills, "127.0.0.1", engine=engine, initial_reads=4,
                          max_free_connections=0)
    server.start()
    for _ in range(40):
        try:
            with socket.create_connection(server.address) as client:
                client.sendall(b"x")
        except OSError:
            pass
    server.close()
    server.wait_closed()
    stats = {**engine.stats(), **server.stats()}
    assert stats["ops_posted"] == stats["ops_completed"], stats
    assert stats["connections_made"] == stats["connections_retired"], stats
    del server
    gc.collect()
print("alive")
"""
    )
    assert script.finish() == (0, ["alive"], "")


def test_an_error_of_a_connection_is_fatal_to_it_alone(serve):
    """Elsewhere an unexpected code (121) ends the server."""
    # A code that no list of resets has in it: the socket refuses to send.
    unexpected = 10058

    class CutsItself(Echoing):
        def on_data(self, data):
            if data == b"cut":
                self.transport.get_extra_info("socket").shutdown(socket.SHUT_WR)
            super().on_data(data)

    served = serve(CutsItself, workers=1)
    steady, _ = served.open()
    for _ in range(10):
        client, protocol = served.open()
        client.send(b"cut")
        protocol.wait_for("connection_lost")
        assert protocol.lost_with.winerror == unexpected
        assert f"127.0.0.1:{client.address[1]}" in str(protocol.lost_with)
        echo_rounds(steady, 2)
        client.close()
    assert served.stats()["aborts_by_reason"]["error"] == 10


def test_an_ended_stream_does_not_keep_a_worker_busy(serve):
    """Elsewhere the end of a stream is reported again and again, at 100 % CPU."""

    class StaysOpen(Echoing):
        def on_eof(self):
            return True

    served = serve(StaysOpen)
    steady, _ = served.open()
    for _ in range(10):
        client, protocol = served.open()
        client.half_close()
        protocol.wait_for("eof_received")
    rounds = 200
    before = served.stats()
    echo_rounds(steady, rounds)
    after = served.stats()
    # A packet for the receive and perhaps one for the send of each round, one wait for each, and
    # now and then a worker that looks once more.
    assert after["packets"] - before["packets"] <= 3 * rounds
    assert after["waits"] - before["waits"] <= 6 * rounds


@pytest.mark.parametrize("initial_reads", [1, 4])
def test_pausing_loses_no_data(serve, initial_reads):
    """Elsewhere pausing cancels a receive that has data in it already."""

    class PausesAgainAndAgain(Recording):
        def on_data(self, data):
            self.transport.pause_reading()
            paused.release()

    served = serve(PausesAgainAndAgain, initial_reads=initial_reads, buffer_size=4 * KB)
    paused = threading.Semaphore(0)
    client, protocol = served.open()
    data = pattern(1 * MB)

    def resume():
        while protocol.kept_bytes < len(data):
            assert paused.acquire(timeout=WAIT_S), "no data came after resume_reading()"
            protocol.transport.resume_reading()

    run_together(lambda: client.send(data), resume)
    assert_same_bytes(bytes(protocol.received), data)


def test_ctrl_c_ends_serve_forever(start_script):
    """Elsewhere Ctrl+C is noticed only when something else happens, or never."""
    script = start_script(
        ECHO
        + """
import signal

server = iocpx.Server(Echo, "127.0.0.1", close_timeout_s=0.2)
server.start()
print(*server.address[:2], flush=True)

def serve():
    server.serve_forever()

def interrupt():
    sys.stdin.readline()
    while sys._current_frames()[threading.main_thread().ident].f_code is not serve.__code__:
        threading.Event().wait(0.01)
    # As Windows does it: in a thread of its own.  Nothing happens on the server meanwhile.
    signal.raise_signal(signal.SIGINT)

threading.Thread(target=interrupt, daemon=True).start()
try:
    serve()
except KeyboardInterrupt:
    print("interrupted", server.is_serving(), server.wait_closed(0))
"""
    )
    with Client(script.read_address()) as client:
        echo_rounds(client, 2)
        script.tell()
        assert script.finish() == (0, ["interrupted False True"], "")


def test_a_listener_on_another_port_is_served(serve):
    """Elsewhere several processes on one listener fail with WinError 87 or 10022."""
    served = serve(Echoing)
    with served.server.sockets[0].dup() as same, iocpx.Server(iocpx.native.Echo, sock=same):
        for _ in range(30):
            served.assert_serving()
    served.assert_serving()


def test_processes_share_a_port_one_after_the_other(start_script):
    """Elsewhere a listener that another process made cannot be served: WinError 10022."""
    program = (
        ECHO
        + """
import base64, os, socket
print(os.getpid(), flush=True)
sock = socket.fromshare(base64.b64decode(sys.stdin.readline()))
server = iocpx.Server(Echo, sock=sock, engine=iocpx.Engine(workers=2), close_timeout_s=1)
server.start()
print("up", flush=True)
sys.stdin.readline()
server.close()
server.wait_closed()
"""
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        script = start_script(program)
        pid = int(script.read_line())
        script.tell(base64.b64encode(listener.share(pid)).decode("ascii"))
        assert script.read_line() == "up"
    clients = [Client(address) for _ in range(5)]
    for client in clients:
        echo_rounds(client, 3)
        client.close()
    script.tell()
    assert script.finish() == (0, [], "")


def test_the_idle_timeout_never_fires_early(serve):
    """Elsewhere timers follow a clock of 15.6 ms and fire before their time.

    No slowness can break this: it asks only that no time is missing.
    """
    seconds = 0.05
    served = serve(Recording, idle_timeout_s=seconds)
    for _ in range(10):
        begin, others = time.perf_counter(), served.stats()["connections_retired"]
        client, protocol = served.open_to_its_end()
        clients = served.stats()["connections_retired"] - others
        assert time.perf_counter() - begin >= seconds * clients
        assert isinstance(protocol.lost_with, TimeoutError)
        client.close()


def test_the_close_timeout_never_fires_early(serve):
    """Elsewhere timers follow a clock of 15.6 ms and fire before their time."""
    seconds = 0.05
    served = serve(Echoing, close_timeout_s=seconds)
    steady, _ = served.open()
    for _ in range(10):
        client, protocol = served.open()
        begin = time.perf_counter()
        protocol.transport.close()
        assert client.read_to_end() == b""
        # The client keeps its side open: only the deadline ends this connection.
        echo_until(steady, lambda: served.server.connection_count == 1, "the end at the deadline")
        assert time.perf_counter() - begin >= seconds
        client.close()


def test_writing_after_close_raises_nothing_and_keeps_nothing(serve):
    """Elsewhere write() raises after close(), and what was written before stays in memory."""
    # A free-threaded Python may end one of these in the midst of another's end: put() alone is made
    # for that, a Semaphore deadlocks there.
    freed = queue.SimpleQueue()

    class Tracked(bytes):
        def __del__(self):
            freed.put(len(self))

    client, protocol = serve(Recording).open()
    for _ in range(8):
        protocol.transport.write(Tracked(MORE_THAN_THE_KERNEL_TAKES // 4))
    protocol.wait_for("pause_writing")
    protocol.transport.abort()
    for _ in range(4):
        protocol.transport.write(Tracked(100 * KB))
        protocol.transport.writelines([b"late", bytearray(10)])
    protocol.wait_for("connection_lost")
    protocol.transport.write(Tracked(100 * KB))
    client.read_until_gone()
    client.close()
    for _ in range(8 + 4 + 1):
        freed.get(timeout=WAIT_S)  # queue.Empty: what was written is still held
    assert protocol.transport.get_write_buffer_size() == 0


@pytest.mark.slow("a connection is idle after seconds")
def test_idle_connections_hold_no_receive_buffer(serve):
    """Elsewhere every idle connection holds 64 KiB."""
    served = serve(Plain)
    busy = served.connect()
    idle = [served.connect() for _ in range(50)]
    for client in idle:
        echo_rounds(client, 1)
    echo_until(
        busy,
        lambda: (
            served.stats()["buffers_out"] <= 3
            and served.stats()["zero_byte_receives"] >= len(idle)
        ),
        "the return of the buffers of idle connections",
    )
    # They are all there, and as quick to wake as ever.
    for client in idle:
        echo_rounds(client, 2)


def test_clients_can_be_closed_and_the_server_goes_on(serve):
    """Elsewhere a server cannot close its clients (close_clients, abort_clients)."""
    served = serve(Echoing)
    for drop in (served.server.close_clients, served.server.abort_clients):
        clients = [served.connect() for _ in range(5)]
        for client in clients:
            echo_rounds(client, 1)
        drop()
        for client in clients:
            assert client.read_until_gone() == b""
            client.close()
        served.assert_serving()


def test_keep_alive_can_be_set_and_left_out(serve):
    """Elsewhere keep-alive is fixed."""
    for parameters, expected in (({}, 1), ({"keepalive_idle_s": None}, 0)):
        served = serve(Recording, **parameters)
        _client, protocol = served.open()
        sock = protocol.transport.get_extra_info("socket")
        assert bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)) is bool(expected)
