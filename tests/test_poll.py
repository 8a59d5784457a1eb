"""An engine on a completion port of somebody else's, whose worker is whoever calls poll()."""

import queue
import re
import socket
import threading

import pytest
from clients import Client
from payload import assert_same_bytes, pattern
from protocols import Plain
from waiting import all_stats, wait_until

import iocpx

pytestmark = pytest.mark.engine("the port is the engine's")

_overlapped = pytest.importorskip("_overlapped")
_winapi = pytest.importorskip("_winapi")

NULL = 0


@pytest.fixture
def port():
    port = _overlapped.CreateIoCompletionPort(_overlapped.INVALID_HANDLE_VALUE, NULL, 0, 0)
    yield port
    # It is still open: the engine has left it alone.
    packet = _overlapped.Overlapped(NULL)
    _overlapped.PostQueuedCompletionStatus(port, 5, 6, packet.address)
    assert _overlapped.GetQueuedCompletionStatus(port, 0) == (0, 5, 6, packet.address)
    _winapi.CloseHandle(port)


class Polled:
    """A server on an engine that this thread polls, and its clients on threads of their own."""

    def __init__(self, port, protocol_factory=Plain, **parameters):
        self.engine = iocpx.Engine(completion_port=port)
        self.server = iocpx.Server(protocol_factory, "127.0.0.1", engine=self.engine, **parameters)
        self.server.start()
        self.foreign = []
        self.clients = []

    def poll(self, timeout=0.05):
        packets = self.engine.poll(timeout)
        self.foreign += packets or []
        return packets

    def poll_until(self, condition, what):
        def polled():
            self.poll()
            return condition()

        wait_until(polled, what)

    def poll_while(self, function):
        """Poll while another thread calls the function; its result."""
        results = queue.Queue()

        def run():
            try:
                results.put(function())
            except BaseException as error:
                results.put(error)

        threading.Thread(target=run, daemon=True).start()
        self.poll_until(lambda: not results.empty(), "the end of the other thread")
        result = results.get()
        if isinstance(result, BaseException):
            raise result
        return result

    def connect(self):
        self.clients.append(self.poll_while(lambda: Client(self.server.address)))
        return self.clients[-1]

    def finish(self):
        for client in self.clients:
            client.close()
        self.server.close()
        self.poll_until(lambda: self.server.wait_closed(0), "the end of the server")
        assert self.engine.poll(0) is None
        stats = all_stats(self.server)
        for one, other in (
            ("ops_posted", "ops_completed"),
            ("sockets_opened", "sockets_closed"),
            ("connections_made", "connections_retired"),
        ):
            assert stats[one] == stats[other], stats
        assert stats["buffers_out"] == 0, stats


@pytest.fixture
def polled(port):
    made = []

    def make(*arguments, **parameters):
        made.append(Polled(port, *arguments, **parameters))
        return made[-1]

    yield make
    for each in made:
        each.finish()


def test_callbacks_run_in_poll(polled):
    seen = set()

    class Sees(Plain):
        def data_received(self, data):
            seen.add(threading.get_ident())
            super().data_received(data)

    before = set(threading.enumerate())
    served = polled(Sees)
    new = set(threading.enumerate()) - before
    assert not any(thread.name.startswith("iocpx-worker") for thread in new)
    client = served.connect()
    data = pattern(300_000, seed=1)
    assert_same_bytes(served.poll_while(lambda: client.exchange([data])), data)
    assert seen == {threading.get_ident()}


def test_nothing_is_served_without_a_poll(polled):
    served = polled()
    client = served.connect()
    client.send(b"hello")
    wait_until(lambda: served.engine.stats()["ops_posted"] > 0, "the first operation")
    assert served.server.stats()["bytes_received"] == 0
    served.poll_until(lambda: served.server.stats()["bytes_sent"] == 5, "the echo")
    assert client.read_exactly(5) == b"hello"


def test_packets_of_others_are_handed_back(polled, port):
    served = polled()
    client = served.connect()
    data = pattern(1000, seed=2)
    for number in range(1, 101):
        _overlapped.PostQueuedCompletionStatus(port, number, 3 * number, NULL)
        if number % 10 == 0:
            assert_same_bytes(served.poll_while(lambda: client.exchange([data])), data)
    served.poll_until(lambda: len(served.foreign) >= 100, "the last packet")
    assert served.foreign == [(3 * number, number, 0) for number in range(1, 101)]


def test_a_loop_of_asyncio_has_its_operations_on_the_same_port(polled, port):
    served = polled()
    client = served.connect()
    near, far = socket.socketpair()
    with near, far:
        _overlapped.CreateIoCompletionPort(near.fileno(), port, 0, 0)
        reading = _overlapped.Overlapped(NULL)
        reading.WSARecv(near.fileno(), 100, 0)
        far.sendall(b"not ours")
        served.poll_until(lambda: served.foreign, "the packet of the receive")
        assert served.foreign == [(0, 8, reading.address)]
        assert reading.getresult() == b"not ours"
        assert served.poll_while(lambda: client.exchange([b"ours"])) == b"ours"
        reading = _overlapped.Overlapped(NULL)
        reading.WSARecv(near.fileno(), 100, 0)
        reading.cancel()
        served.foreign.clear()
        served.poll_until(lambda: served.foreign, "the packet of the cancelled receive")
        assert served.foreign == [(0, 0, reading.address)]
        with pytest.raises(OSError, match="995"):
            reading.getresult()


def test_two_servers_on_a_polled_engine(port):
    engine = iocpx.Engine(completion_port=port)
    servers = [iocpx.Server(Plain, "127.0.0.1", engine=engine) for _ in range(2)]
    for server in servers:
        server.start()
    done = threading.Event()

    def talk():
        for server in servers:
            with Client(server.address) as client:
                assert client.exchange([b"hello"]) == b"hello"
        done.set()

    threading.Thread(target=talk, daemon=True).start()

    def polled(condition):
        engine.poll(0.05)
        return condition()

    wait_until(lambda: polled(done.is_set), "the end of the client")
    for server in servers:
        server.close()
        wait_until(lambda server=server: polled(lambda: server.wait_closed(0)), "its end")
    assert engine.poll(0) is None


def test_an_engine_is_polled_again_after_its_last_server(polled):
    served = polled()
    served.finish()
    served.server.start()
    client = served.connect()
    assert served.poll_while(lambda: client.exchange([b"again"])) == b"again"


def test_a_server_that_comes_before_the_last_poll_is_served(polled):
    """The engine has nothing left, and nobody has polled since."""
    served = polled()
    served.server.close()
    served.poll_until(lambda: served.server.stats()["accepts_pending"] == 0, "the last AcceptEx")
    wait_until(lambda: served.server.is_serving() is False, "the end")
    other = iocpx.Server(Plain, "127.0.0.1", engine=served.engine)
    other.start()

    def talk():
        with Client(other.address) as client:
            return client.exchange([b"hello"])

    assert served.poll_while(talk) == b"hello"
    served.poll_until(lambda: served.server.wait_closed(0), "the end of the first server")
    other.close()
    served.poll_until(lambda: other.wait_closed(0), "the end of the other")


def test_two_engines_share_a_port(port):
    """Each hands back what is the other's, and whoever has the port can give it on."""
    first, second = iocpx.Engine(completion_port=port), iocpx.Engine(completion_port=port)
    server = iocpx.Server(Plain, "127.0.0.1", engine=first)
    other = iocpx.Server(Plain, "127.0.0.1", engine=second)
    server.start()
    other.start()
    wait_until(lambda: server.stats()["accepts_pending"] == 10, "the accept pool")
    handed = []

    def came(engine, condition):
        handed.extend(engine.poll(0.05) or [])
        return condition()

    with Client(server.address):
        wait_until(lambda: came(second, lambda: handed), "the packet of the client")
        ((key, nbytes, overlapped),) = handed
        assert server.connection_count == 0
        handed.clear()
        _overlapped.PostQueuedCompletionStatus(port, nbytes, key, overlapped)
        wait_until(lambda: came(first, lambda: server.connection_count == 1), "the connection")
    server.close()
    wait_until(lambda: came(first, lambda: server.wait_closed(0)), "the end of the first server")
    assert handed == []
    other.close()
    wait_until(lambda: came(second, lambda: other.wait_closed(0)), "the end of the other")
    assert handed == []


def test_what_is_no_overlapped_is_handed_back_unseen(polled, port):
    served = polled()
    _overlapped.PostQueuedCompletionStatus(port, 1, 2, 4)
    served.poll_until(lambda: served.foreign, "the packet")
    assert served.foreign == [(2, 1, 4)]


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_what_ends_a_program_comes_out_of_poll(polled, port, error):
    class Leaves(Plain):
        def data_received(self, data):
            raise error("on purpose")

    served = polled(Leaves, exception_handler=lambda context: None)
    client = served.connect()
    client.send(b"leave")
    _overlapped.PostQueuedCompletionStatus(port, 1, 2, NULL)
    with pytest.raises(error, match="on purpose"):
        served.poll_until(lambda: False, "the exception")
    served.poll_until(lambda: served.foreign == [(2, 1, 0)], "the packet")
    assert served.server.is_serving() is False


def test_with_and_serve_forever_are_refused(port):
    server = iocpx.Server(Plain, "127.0.0.1", engine=iocpx.Engine(completion_port=port))
    with pytest.raises(RuntimeError, match="poll"), server:
        pass
    with pytest.raises(RuntimeError, match="poll"):
        server.serve_forever()


def test_at_exit_a_polled_server_is_polled_to_its_end(start_script):
    script = start_script(
        """
import _overlapped, asyncio
import iocpx

class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
        transport.write(b"hello")
    def connection_lost(self, exc):
        print("lost", exc, flush=True)

port = _overlapped.CreateIoCompletionPort(_overlapped.INVALID_HANDLE_VALUE, 0, 0, 0)
engine = iocpx.Engine(completion_port=port)
server = iocpx.Server(Echo, "127.0.0.1", engine=engine)
server.start()
print(server.address[1], flush=True)
while server.stats()["bytes_sent"] == 0:
    engine.poll()
"""
    )
    with Client(("127.0.0.1", int(script.read_line()))) as client:
        assert client.read_to_end() == b"hello"
    assert script.finish() == (0, ["lost None"], "")


def test_poll_waits_no_longer_than_it_is_told(polled):
    served = polled()
    served.poll_until(lambda: served.server.stats()["accepts_pending"] == 10, "the accept pool")
    for timeout in (0, 0.001, 0.05):
        assert served.engine.poll(timeout) == []


def test_poll_is_one_threads_at_a_time_and_no_callbacks(polled):
    raised = []

    class Polls(Plain):
        def data_received(self, data):
            try:
                served.engine.poll(0)
            except RuntimeError as error:
                raised.append(str(error))
            super().data_received(data)

    served = polled(Polls)
    client = served.connect()
    assert served.poll_while(lambda: client.exchange([b"x"])) == b"x"
    assert len(raised) == 1 and "callback" in raised[0]


def test_the_end_is_not_waited_for_in_a_callback(polled):
    raised = []

    class Waits(Plain):
        def data_received(self, data):
            try:
                served.server.wait_closed()
            except RuntimeError as error:
                raised.append(str(error))
            super().data_received(data)

    served = polled(Waits)
    client = served.connect()
    assert served.poll_while(lambda: client.exchange([b"x"])) == b"x"
    assert len(raised) == 1


@pytest.mark.parametrize(
    "parameters, kind, text",
    [
        ({"completion_port": 0}, ValueError, "completion_port must be the handle of one, got 0"),
        ({"completion_port": -1}, ValueError, "completion_port must be the handle of one, got -1"),
        ({"completion_port": "7"}, TypeError, "completion_port must be an integer, got '7'"),
        (
            {"completion_port": 7, "workers": 2},
            ValueError,
            "workers must be left out with completion_port, got 2",
        ),
    ],
    ids=str,
)
def test_wrong_parameters_are_refused(parameters, kind, text):
    with pytest.raises(kind, match=re.escape(text)):
        iocpx.Engine(**parameters)


def test_poll_is_for_an_engine_with_a_port():
    with pytest.raises(RuntimeError, match="has worker threads"):
        iocpx.Engine().poll(0)


@pytest.mark.parametrize("value, kind", [(-1, ValueError), ("1", TypeError)], ids=str)
def test_a_wrong_timeout_is_refused(port, value, kind):
    with pytest.raises(kind, match=r"^timeout must be"):
        iocpx.Engine(completion_port=port).poll(value)


def test_a_port_that_is_none_fails_the_start_of_the_server():
    engine = iocpx.Engine(completion_port=0x7FFFFFF0)
    server = iocpx.Server(Plain, "127.0.0.1", engine=engine)
    with pytest.raises(OSError, match="listen: the handle is not valid") as raised:
        server.start()
    assert raised.value.winerror == 6
    wait_until(lambda: engine.poll(0) is None, "the end of the engine")
    wait_until(lambda: server.wait_closed(0), "the end of the server")


@pytest.mark.parametrize("accepting", [0, 1], ids=["at once", "after a listener"])
def test_a_start_that_fails_ends_by_polls(port, accepting):
    engine = iocpx.Engine(completion_port=port)
    with iocpx.Server(Plain, "127.0.0.1") as other:
        sockets = [socket.socket() for _ in range(accepting)]
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        # It is connected, and cannot listen.
        sockets.append(socket.create_connection(other.address))
        server = iocpx.Server(Plain, sock=sockets, engine=engine)
        with pytest.raises(OSError, match="listen"):
            server.start()
        wait_until(lambda: engine.poll(0) is None, "the end of the engine")
        wait_until(lambda: server.wait_closed(0), "the end of the server")
        for sock in sockets:
            sock.close()
