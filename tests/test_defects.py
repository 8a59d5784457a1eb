"""The defects of the textbook server with a completion port, each as a test that it would fail.

The docstring of a test names the defect. What cannot be seen from outside has no test here:
docs/ARCHITECTURE.md says by what design it cannot happen.
"""

import itertools
import socket
import threading

import pytest
from clients import ROUNDS, Client, connect_until_refused, echo_rounds, echo_until
from payload import MORE_THAN_THE_KERNEL_TAKES, assert_same_bytes, pattern
from protocols import CountingSent, Echoing, Plain, Recording
from served import assert_balanced
from sockets import own_host
from waiting import WAIT_S, run_together, wait_for_a_turn, wait_for_event

import iocpx

pytestmark = pytest.mark.engine("the defects are an engine's")

MB = 1 << 20
WSAESHUTDOWN = 10058
WSAENOBUFS = 10055


class Holding(Echoing):
    """Echoes, but a callback that gets b"hold" stays inside until `leave` is set."""

    def __init__(self, entered, leave):
        super().__init__()
        self.entered = entered
        self.leave = leave

    def on_data(self, data):
        if data == b"hold":
            self.entered.set()
            wait_for_event(self.leave, "the release of the callback")
            self.on_released()
        else:
            super().on_data(data)

    def on_released(self):
        pass


@pytest.fixture
def hold(serve):
    """`hold(Class, **parameters)`: a server with a connection whose callback is held.

    Returns the Served, that connection's client and protocol, and the event that releases it.
    """
    releases = []

    def make(protocol_class=Holding, **parameters):
        entered, leave = threading.Event(), threading.Event()
        releases.append(leave)
        parameters = {"workers": 2, **parameters}
        served = serve(lambda: protocol_class(entered, leave), **parameters)
        client, protocol = served.open()
        client.send(b"hold")
        wait_for_event(entered, "the callback that is held")
        return served, client, protocol, leave

    yield make
    for leave in releases:
        leave.set()


# -- lifetime


def test_lifetime_a_connection_lives_until_its_callback_returns(hold):
    """The count of pending operations falls before the completion is handled, so that another
    worker frees the connection while a callback still uses it."""
    seen = []

    class UsesItAfterwards(Holding):
        def on_released(self):
            self.transport.write(b"too late")
            seen.append(
                (
                    self.transport.is_closing(),
                    self.transport.get_write_buffer_size(),
                    self.transport.get_extra_info("peername"),
                )
            )

    served, client, protocol, leave = hold(UsesItAfterwards)
    other, _ = served.open()
    protocol.transport.abort()
    echo_until(other, lambda: served.server.connection_count == 1, "the end of the handle")
    echo_rounds(other)
    assert served.stats()["connections_retired"] == 0
    assert "connection_lost" not in protocol.events
    leave.set()
    protocol.wait_for("connection_lost")
    assert seen == [(True, 0, client.address)]


def test_lifetime_a_connection_is_freed_once(serve):
    """The test for "no operation is left" is made outside the lock, so that two workers whose
    completions come at the same time both free the connection."""
    served = serve(CountingSent, workers=4)
    data = pattern(MORE_THAN_THE_KERNEL_TAKES)
    for turn in range(6):
        opened = [served.open() for _ in range(8)]
        for _client, protocol in opened:
            # A send that stays pending beside the receive.
            protocol.transport.write(data)
        for _client, protocol in opened:
            protocol.wait_for("pause_writing")
        if turn % 2:
            run_together(*(protocol.transport.abort for _client, protocol in opened))
        else:
            served.server.abort_clients()
        for client, protocol in opened:
            protocol.wait_for("connection_lost")
            client.close()
    served.finish()
    stats = served.stats()
    assert stats["connections_made"] == stats["connections_retired"] == 48


def test_lifetime_a_send_is_counted_before_it_can_complete(serve):
    """The count of pending sends is raised after the post: a completion that is quicker lowers it
    first, and from then on the limit is wrong."""
    message, turns = pattern(100), 500

    class OneAtATime(CountingSent):
        def on_made(self):
            self.transport.write(message)

        def on_sent(self, nbytes):
            if self.sent < turns * len(message):
                self.transport.write(message)

    client, protocol = serve(OneAtATime, max_sends=1).open()
    assert_same_bytes(client.read_exactly(turns * len(message)), message * turns)
    protocol.wait_until(lambda: protocol.finished["sent"] == turns * len(message), "the last send")
    assert protocol.transport.is_closing() is False
    assert protocol.transport.get_write_buffer_size() == 0


@pytest.mark.parametrize("how", [socket.SHUT_RD, socket.SHUT_WR], ids=["receive", "send"])
def test_lifetime_a_post_that_fails_leaks_nothing(serve, how):
    """A post that the system refuses leaks its buffer or context."""

    class ShutsItself(Recording):
        def on_data(self, data):
            # From here on the system refuses this connection's posts in one direction.
            self.transport.get_extra_info("socket").shutdown(how)
            if how == socket.SHUT_WR:
                self.transport.writelines([b"a", bytes(100_000)])

    served = serve(ShutsItself)
    for _ in range(20):
        client, protocol = served.open()
        client.send(b"go")
        protocol.wait_for("connection_lost")
        assert protocol.lost_with.winerror == WSAESHUTDOWN
        client.close()
    served.finish()
    assert served.stats()["connections_retired"] == 20


# -- close


def test_close_sends_what_was_written_before(serve):
    """Closing at once throws away what is queued."""
    data = pattern(MORE_THAN_THE_KERNEL_TAKES)

    class AnswersAndCloses(Recording):
        def on_data(self, _data):
            self.transport.write(data)
            self.transport.close()

    client, protocol = serve(AnswersAndCloses, close_timeout_s=WAIT_S).open()
    client.send(b"question")
    assert_same_bytes(client.read_to_end(), data)
    client.close()
    protocol.wait_for("connection_lost")
    assert protocol.lost_with is None


@pytest.mark.parametrize("initial_reads", [1, 4])
def test_close_a_half_closed_client_gets_its_replies(serve, initial_reads):
    """A client that ends its own direction loses the replies that are still on their way."""
    client, protocol = serve(Echoing, initial_reads=initial_reads).open()
    data = pattern(2 * MB)
    got = []

    def send():
        client.send(data)
        client.half_close()

    run_together(send, lambda: got.append(client.read_to_end()))
    assert_same_bytes(got[0], data)
    protocol.wait_for("connection_lost")


def close_locally(served, protocol):
    protocol.transport.close()


def fail_a_post(served, protocol):
    protocol.transport.get_extra_info("socket").shutdown(socket.SHUT_WR)
    protocol.transport.write(b"cannot be sent")


def stop_the_server(served, protocol):
    served.server.close()


@pytest.mark.parametrize("end", [close_locally, fail_a_post, stop_the_server])
def test_close_every_end_of_a_connection_is_told(serve, end):
    """A local close, a post that fails and the shutdown notify nobody."""
    served = serve(Recording, close_timeout_s=0.1)
    client, protocol = served.open()
    end(served, protocol)
    protocol.wait_for("connection_lost")
    client.close()
    served.finish()
    assert protocol.events.count("connection_lost") == 1


def test_close_the_losses_of_two_connections_do_not_wait_for_each_other(serve):
    """All callbacks that tell of an end share one lock."""
    leave = threading.Event()
    losing = threading.Event()

    class Lingers(Recording):
        def on_lost(self, exc):
            if self.received:
                losing.set()
                wait_for_event(leave, "the release of the callback")

    served = serve(Lingers, workers=2)
    first_client, first = served.open()
    first_client.send(b"linger")
    first.wait_for_data(6)
    second_client, second = served.open()
    try:
        first_client.close()
        wait_for_event(losing, "the loss that is held")
        second_client.close()
        second.wait_for("connection_lost")
    finally:
        leave.set()


@pytest.mark.parametrize("initial_reads", [1, 4])
def test_close_the_end_is_not_told_while_data_is_being_received(hold, initial_reads):
    """The callback that tells of the end runs while the one for received data is still inside."""
    served, client, protocol, leave = hold(initial_reads=initial_reads)
    other, _ = served.open()
    client.reset()
    protocol.transport.abort()
    echo_until(other, lambda: served.server.connection_count == 1, "the end of the handle")
    echo_rounds(other)
    assert protocol.events == ["connection_made", "data_received"]
    leave.set()
    protocol.wait_for("connection_lost")


# -- receive


@pytest.mark.parametrize("protocol_class", [Echoing, iocpx.native.Echo], ids=["protocol", "native"])
def test_receive_many_workers_and_many_reads_keep_the_stream_in_order(serve, protocol_class):
    """The list of what came out of order is not locked: two workers corrupt it, and data stays in
    it for good."""
    served = serve(protocol_class, workers=8, initial_reads=16, buffer_size=1024)
    streams = [pattern(2 * MB, seed) for seed in range(3)]
    clients = [served.connect() for _ in streams]
    replies = {}

    def exchange(number):
        replies[number] = clients[number].exchange([streams[number]])

    run_together(*[lambda number=number: exchange(number) for number in range(len(streams))])
    for number, stream in enumerate(streams):
        assert_same_bytes(replies[number], stream)


@pytest.mark.parametrize("initial_reads", [1, 8])
def test_receive_the_end_of_the_stream_does_not_overtake_data(serve, initial_reads):
    """The end of the stream is told although data from before it is still waiting."""
    served = serve(Recording, workers=4, initial_reads=initial_reads, buffer_size=1024)
    data = pattern(300_000)
    for _ in range(10):
        client, protocol = served.open()
        client.send(data)
        client.close()
        protocol.wait_for("connection_lost")
        assert_same_bytes(bytes(protocol.received), data)
        assert protocol.lost_with is None
        assert protocol.events[-2:] == ["eof_received", "connection_lost"]


@pytest.mark.parametrize("initial_reads", [1, 8])
def test_receive_a_reset_does_not_overtake_data(serve, initial_reads):
    """An error is told although data from before it is still waiting."""
    served = serve(Recording, workers=4, initial_reads=initial_reads, buffer_size=1024)
    for _ in range(20):
        client, protocol = served.open()
        client.send(pattern(50_000))
        protocol.wait_for_data(1)
        client.reset()
        protocol.wait_for("connection_lost")
    # What the kernel gave to the server was told; what a reset threw away before that is no matter.
    told = sum(protocol.kept_bytes for protocol in served.protocols)
    assert told == served.stats()["bytes_received"]


def test_receive_a_slow_callback_bounds_what_is_received(hold):
    """Every receive that completes out of order is followed by a further one, without a bound."""
    reads, size = 4, 4096
    served, client, protocol, leave = hold(initial_reads=reads, buffer_size=size)
    other, _ = served.open()
    data = pattern(1 * MB)
    sender = threading.Thread(target=client.send, args=(data,))
    sender.start()
    try:
        rounds = 2 * ROUNDS
        echo_rounds(other, rounds, b"round")
        received = served.stats()["bytes_received"] - rounds * len(b"round")
        # Those that were posted, and the one whose data is in the callback.
        assert received <= (reads + 1) * size
    finally:
        leave.set()
    protocol.wait_for_data(len(b"hold") + len(data))
    sender.join(WAIT_S)
    assert_same_bytes(bytes(protocol.received), b"hold" + data)
    client.read_exactly(len(data))


# -- send


@pytest.mark.parametrize("size", [4096, 4097, 65_537, MORE_THAN_THE_KERNEL_TAKES])
def test_send_any_size_is_sent(serve, size):
    """More than 4096 bytes are refused."""
    client, protocol = serve(Recording).open()
    data = pattern(size)
    protocol.transport.write(data)
    assert_same_bytes(client.read_exactly(size), data)


def test_send_nothing_is_not_a_disconnect(serve):
    """A send of 0 bytes completes with 0 bytes, which is taken for a disconnect."""

    class SaysNothing(Recording):
        def on_data(self, data):
            self.transport.write(b"")
            self.transport.writelines([])
            self.transport.writelines([b"", bytearray(), data, b""])
            self.transport.write(memoryview(b""))

    client, protocol = serve(SaysNothing).open()
    for _ in range(20):
        assert client.exchange([b"hello"]) == b"hello"
    assert protocol.transport.is_closing() is False


@pytest.mark.parametrize("limits", [{"max_sends": 20}, {"max_write_buffer": 1 * MB}])
def test_send_at_the_limit_nothing_vanishes_silently(serve, limits):
    """At the limit of pending sends the data is dropped, and nobody is told."""
    served = serve(Recording, **limits)
    client, protocol = served.open()
    # The client does not read, and the limit counts what is written in spite of a pause.
    first = pattern(MORE_THAN_THE_KERNEL_TAKES)
    protocol.transport.write(first)
    protocol.wait_for("pause_writing")
    wait_for_a_turn(protocol.transport)
    block = pattern(MB // 4)
    written = 0
    while not protocol.transport.is_closing():
        protocol.transport.write(block)
        written += 1
        assert written <= 21, "the limit was never reached"
    protocol.wait_for("connection_lost")
    assert protocol.lost_with.winerror == WSAENOBUFS
    got = client.read_until_gone()
    # What came is the beginning of the stream: no hole in it.
    assert_same_bytes(got, (first + block * written)[: len(got)])
    assert served.stats()["aborts_by_reason"]["write_limit"] == 1


@pytest.mark.parametrize("parts", [1, 200])
def test_send_a_short_send_is_followed_by_the_rest(serve, parts):
    """A send that takes fewer bytes than it was given counts as whole."""
    client, protocol = serve(CountingSent).open()
    data = pattern(2 * MORE_THAN_THE_KERNEL_TAKES)
    step = -(-len(data) // parts)
    protocol.transport.writelines([data[i : i + step] for i in range(0, len(data), step)])
    assert_same_bytes(client.read_exactly(len(data)), data)
    protocol.wait_until(lambda: protocol.finished["sent"] == len(data), "the last send")
    assert protocol.sent == len(data)


# -- accept


@pytest.mark.slow("the shortest timeout is seconds")
def test_accept_silent_clients_do_not_end_the_listener(serve):
    """With first data received by the accept, as many silent clients as the pool may have slots
    keep every further client out for good."""
    served = serve(
        Echoing, accept_receive=True, accept_timeout_s=1, initial_accepts=2, max_accepts=4
    )
    silent = served.silent(8)
    # No slot is left: this one waits in the backlog, and so do four of the silent ones.
    served.speaking()
    served.speaking()
    for client in silent:
        assert client.read_until_gone() == b""


def test_accept_silent_clients_are_dropped_while_the_server_is_busy(serve):
    """The sweep for silent clients comes only after a minute without anything to do, and walks
    the list of accepts without its lock."""
    served = serve(Echoing, accept_receive=True, accept_timeout_s=1)
    silent = served.silent(5)
    busy, late = served.speaking()
    echo_until(
        busy,
        lambda: served.stats()["silent_clients_dropped"] == 5 + late,
        "the end of the silent clients",
    )
    for client in silent:
        assert client.read_until_gone() == b""
    echo_rounds(busy, 10)
    assert len(served.protocols) == 1


def test_accept_every_failed_accept_is_replaced(serve):
    """An accept that fails is not posted again: after as many failures as the pool has slots, no
    client is accepted any more."""
    served = serve(Echoing, accept_receive=True, initial_accepts=2, max_accepts=4)
    steady = served.connect()
    echo_rounds(steady, 1)
    for _ in range(20):
        served.connect().reset()
    served.assert_serving()
    echo_until(steady, lambda: served.stats()["accepts_pending"] >= 2, "the pool's recovery")
    assert len(served.protocols) == 2


def test_accept_accepted_sockets_know_that_they_are_connected(serve):
    """Without SO_UPDATE_ACCEPT_CONTEXT an accepted socket has no peer and cannot be shut down."""

    class Asks(Recording):
        def on_made(self):
            sock = self.transport.get_extra_info("socket")
            self.names = sock.getpeername(), sock.getsockname()
            self.transport.write_eof()

    served = serve(Asks)
    client, protocol = served.open()
    assert client.read_to_end() == b""
    assert protocol.names == (client.address, served.server.address)
    client.close()


# -- loop


def test_loop_a_failed_packet_does_not_end_the_worker(serve):
    """A packet that failed and has no key ends the worker, and with it the server."""
    served = serve(Echoing, workers=1, accept_receive=True, initial_accepts=2, max_accepts=4)
    for turn in range(30):
        client = served.connect()
        if turn % 2:
            # A failed receive instead of a failed accept.
            echo_rounds(client, 1)
        client.reset()
    served.assert_serving()
    assert served.server.is_serving() is True


# -- start and stop


def test_start_a_socket_that_cannot_listen_is_refused():
    """Of all the calls that start a server only bind() is checked."""
    with (
        socket.socket() as unbound,
        pytest.raises(ValueError, match="sock"),
        iocpx.Server(Plain, sock=unbound),
    ):
        pass
    with socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(("127.0.0.1", 0))
        with pytest.raises(ValueError, match="sock"), iocpx.Server(Plain, sock=datagrams):
            pass


def test_start_a_failure_after_bind_is_told_and_undone(serve):
    """Of all the calls that start a server only bind() is checked."""
    served = serve(Echoing)
    # It is connected, and cannot listen.
    with served.connect().sock as connected:
        second = iocpx.Server(Plain, sock=connected)
        with pytest.raises(OSError, match=r"^\[WinError 100\d\d\] listen"):
            second.start()
        assert_balanced(second)
    served.assert_serving()


@pytest.mark.parametrize("started", [0, 1, 3])
def test_start_a_thread_that_cannot_be_started_is_told_and_undone(monkeypatch, started):
    """Of all the calls that start a server only bind() is checked."""
    left = itertools.count()
    start = threading.Thread.start

    def start_some(thread):
        if thread.name.startswith("iocpx") and next(left) >= started:
            raise RuntimeError("can't start new thread")
        start(thread)

    server = iocpx.Server(Echoing, "127.0.0.1", engine=iocpx.Engine(workers=4))
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start_some)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            server.start()
    assert server.wait_closed(WAIT_S) is True
    assert_balanced(server)
    with server, Client(server.address) as client:
        echo_rounds(client, 1)
    assert_balanced(server)


def test_stop_frees_nothing_under_a_worker_that_is_busy(hold):
    """After 5 seconds the stop frees what workers still use."""
    served, _client, protocol, leave = hold(close_timeout_s=0)
    server = served.server
    # The deadline has passed already.
    server.close()
    assert server.wait_closed(0) is False
    assert server.stats()["connections_retired"] == 0
    assert protocol.transport.get_extra_info("peername") == _client.address
    leave.set()
    assert server.wait_closed(WAIT_S) is True
    assert_balanced(server)
    assert protocol.events[-1] == "connection_lost"


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("where", ["on_made", "on_data", "on_lost"])
def test_stop_from_a_callback_ends_the_server(serve, where, workers):
    """A stop from a callback waits for its own thread."""

    class Stops(Recording):
        pass

    setattr(Stops, where, lambda self, *_: served.server.close())
    served = serve(Stops, own_host(), workers=workers, close_timeout_s=1)
    address = served.server.address
    client = served.connect()
    client.send_until_refused(b"stop")
    if where == "on_lost":
        client.half_close()
    client.read_until_gone()
    client.close()
    assert served.server.wait_closed(WAIT_S) is True
    connect_until_refused(address)


# -- pool


def test_pool_a_buffer_that_is_used_again_shows_nothing_of_its_last_user(serve):
    """Buffers are cleared under a lock that all workers share: ours are not cleared at all, so
    what one client sent must not reach another one."""
    served = serve(Echoing, buffer_size=65536, workers=2)
    first, _ = served.open()
    secret = b"\xaa" * 65536
    assert_same_bytes(first.exchange([secret]), secret)
    first.close()
    for size in (1, 100, 5000):
        with served.connect() as client:
            data = bytes(size)
            assert_same_bytes(client.exchange([data]), data)


def test_pool_thousands_of_connections_end_in_any_order(serve):
    """An entry is taken out of the list of connections by walking it, which for thousands of
    connections takes thousands of steps each."""
    served = serve(Plain)
    clients = [served.connect() for _ in range(300)]
    for client in clients:
        echo_rounds(client, 1)
    steady = clients.pop(150)
    # From the middle, from the front, from the back.
    for client in clients[100:200] + clients[:100] + clients[:199:-1]:
        client.close()
    echo_until(steady, lambda: served.server.connection_count == 1, "the end of the others")
