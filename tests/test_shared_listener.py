"""One listening socket that several processes have, or several engines of one.

Windows ties a socket to one completion port for good; whoever else has it accepts without.
"""

import collections
import contextlib
import queue
import threading

import pytest
from clients import Client, connect_until_refused
from protocols import Echoing, Held
from sockets import listening_socket, own_host
from waiting import WAIT_S, run_together, take, wait_for_event, wait_for_figure, wait_until

import iocpx

pytestmark = pytest.mark.engine("the listeners are the engine's")

_overlapped = pytest.importorskip("_overlapped")
_winapi = pytest.importorskip("_winapi")

PROCESSES = 4
POOL = 10  # AcceptEx that each keeps waiting, by default

# Answers with the number of its process.
NAMES = """
import asyncio, os, socket, sys
import iocpx

class Names(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
    def data_received(self, data):
        self.transport.write(b"%8d" % os.getpid())
"""
# Does what its standard input says.
SERVER = (
    NAMES
    + """
print(os.getpid(), flush=True)
server = iocpx.Server(Names, sock=socket.fromshare(bytes.fromhex(sys.stdin.readline())))
server.start()
for line in sys.stdin:
    if line == "stop\\n":
        server.close()
        print(server.wait_closed(30), flush=True)
        stats = {**server.engine.stats(), **server.stats()}
        print(*(stats[a] == stats[b] for a, b in (
            ("ops_posted", "ops_completed"),
            ("sockets_opened", "sockets_closed"),
            ("connections_made", "connections_retired"),
        )), stats["accepts_pending"], flush=True)
    else:
        print(server.stats()[line.strip()], flush=True)
"""
)


class Process:
    """A process that serves a listener which others have, too."""

    def __init__(self, script, listener):
        self.script = script
        self.pid = int(self.script.read_line())
        self.script.tell(listener.share(self.pid).hex())
        wait_until(lambda: self.figure("accepts_pending") == POOL, "a full accept pool")

    def figure(self, name):
        self.script.tell(name)
        return int(self.script.read_line())

    def stop(self, clients=()):
        self.script.tell("stop")
        for client in clients:
            assert client.read_until_gone() == b""
            client.close()
        assert self.script.read_line() == "True"
        assert self.script.read_line() == "True True True 0"


# On a loop of ours, until its standard input has another line.
LOOP = (
    NAMES
    + """
async def main():
    loop = asyncio.get_running_loop()
    print(os.getpid(), flush=True)
    line = await loop.run_in_executor(None, sys.stdin.readline)
    server = await loop.create_server(Names, sock=socket.fromshare(bytes.fromhex(line)))
    print("serves", flush=True)
    await loop.run_in_executor(None, sys.stdin.readline)
    server.close()

iocpx.run(main())
"""
)


class LoopProcess:
    """A process whose loop serves a listener which others have, too."""

    def __init__(self, script, listener):
        self.script = script
        self.pid = int(self.script.read_line())
        self.script.tell(listener.share(self.pid).hex())
        assert self.script.read_line() == "serves"

    def stop(self):
        self.script.tell("stop")
        assert self.script.finish() == (0, [], "")


@pytest.fixture
def listener():
    with listening_socket(own_host()) as listener:
        # Else dup() tries to make it block, which nobody can while FD_ACCEPT is selected.
        listener.setblocking(False)
        yield listener


def start_processes(start_script, listener, count):
    # All interpreters start at the same time; who serves first is first in the list.
    scripts = [start_script(SERVER) for _ in range(count)]
    return [Process(script, listener) for script in scripts]


@pytest.fixture
def processes(start_script, listener):
    return start_processes(start_script, listener, PROCESSES)


def who_serves(client):
    """The number of the process; None: it has let the client go."""
    client.send_until_refused(b"who")
    answer = client.read_until_gone(8)
    return int(answer) if len(answer) == 8 else None


def ask(address, under_way=None):
    """under_way: has the client meanwhile."""
    with Client(address) as client:
        if under_way is not None:
            under_way.add(client)
        try:
            return who_serves(client)
        finally:
            if under_way is not None:
                under_way.discard(client)


class Load:
    """Clients that come, ask and leave, eight at a time, until they are told to stop."""

    def __init__(self, address):
        self.address = address
        self.answers = queue.Queue()
        self.over = threading.Event()
        self.under_way = set()
        self.threads = [threading.Thread(target=self._run, daemon=True) for _ in range(8)]
        for thread in self.threads:
            thread.start()

    def _run(self):
        while not self.over.is_set():
            try:
                self.answers.put(ask(self.address, self.under_way))
            except OSError:
                self.answers.put(None)

    def count(self, n):
        """How many of the next `n` clients each process serves."""
        return collections.Counter(take(self.answers, "the next answer") for _ in range(n))

    @contextlib.contextmanager
    def killing(self, process):
        """The process is killed; at the end nobody waits any more who did so then.

        With a process Windows closes its sockets.  Wine's server may keep one open for ever if its
        process was killed in the middle of a receive, and whoever had come to it hears nothing.
        """
        process.script.kill()
        waiting = self.under_way.copy()
        yield
        for client in waiting & self.under_way:
            client.close()  # which ends its receive

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.over.set()
        for thread in self.threads:
            thread.join(WAIT_S)


def until_all_serve(load, processes):
    """Count until each of the processes has served 20 clients; nobody else serves any."""
    counts = collections.Counter()

    def all_do():
        counts.update(load.count(20))
        return all(counts[process.pid] >= 20 for process in processes)

    wait_until(all_do, "that each process serves twenty clients")
    return counts


@pytest.mark.once("starts four processes, which accept in the engine")
@pytest.mark.timeout(300)
def test_four_processes_have_their_share_of_the_clients(processes, listener):
    with Load(listener.getsockname()) as load:
        counts = load.count(800)
    assert set(counts) == {process.pid for process in processes}
    assert min(counts.values()) >= 0.5 * 800 / PROCESSES, counts
    for process in processes:
        # Each has as many waiting as ever: nobody's pool has grown at the others' expense.
        assert process.figure("accepts_grown") == 0
        assert process.figure("accept_errors") == 0
        process.stop()


@pytest.mark.once("starts four processes, which accept in the engine")
@pytest.mark.slow("starts four processes")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("which", [0, 1], ids=["on the port", "by events"])
def test_one_is_killed_and_the_others_go_on(processes, listener, which):
    killed = processes.pop(which)
    with Load(listener.getsockname()) as load:
        until_all_serve(load, [killed, *processes])
        with load.killing(killed):
            until_all_serve(load, processes)
    # Whom it had taken by then is gone; from now on nobody comes to it.
    counts = collections.Counter(ask(listener.getsockname()) for _ in range(200))
    assert set(counts) == {process.pid for process in processes}
    for process in processes:
        assert process.figure("accept_errors") == 0
        process.stop()


@pytest.mark.once("starts four processes, which accept in the engine")
@pytest.mark.slow("starts four processes")
@pytest.mark.timeout(300)
def test_four_loops_have_their_share_and_one_may_be_killed(start_script, listener):
    scripts = [start_script(LOOP) for _ in range(PROCESSES)]
    processes = [LoopProcess(script, listener) for script in scripts]
    with Load(listener.getsockname()) as load:
        # One may say that it serves before it has told the system to accept.
        until_all_serve(load, processes)
        counts = load.count(800)
        assert set(counts) == {process.pid for process in processes}
        assert min(counts.values()) >= 0.5 * 800 / PROCESSES, counts
        with load.killing(processes.pop(0)):
            until_all_serve(load, processes)
    counts = collections.Counter(ask(listener.getsockname()) for _ in range(200))
    assert set(counts) == {process.pid for process in processes}
    for process in processes:
        process.stop()


@pytest.mark.once("starts four processes, which accept in the engine")
@pytest.mark.slow("starts four processes")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("which", [0, 1], ids=["on the port", "by events"])
def test_one_stops_while_the_others_serve(processes, listener, which):
    stopped = processes.pop(which)
    with Load(listener.getsockname()) as load:
        until_all_serve(load, [stopped, *processes])
        stopped.stop()
        until_all_serve(load, processes)
    counts = collections.Counter(ask(listener.getsockname()) for _ in range(200))
    assert set(counts) == {process.pid for process in processes}
    for process in processes:
        assert process.figure("accept_errors") == 0
        process.stop()


@pytest.mark.once("starts four processes, which accept in the engine")
@pytest.mark.timeout(300)
def test_the_last_stop_ends_the_listener(processes, listener):
    address = listener.getsockname()
    listener.close()
    for process in processes:
        assert ask(address) is not None
        process.stop()
    connect_until_refused(address)


def test_a_stop_leaves_the_connections_of_the_others_alone(start_script, listener):
    one, other = start_processes(start_script, listener, 2)
    clients = [Client(listener.getsockname()) for _ in range(2 * POOL)]
    had = collections.defaultdict(list)
    for client in clients:
        had[who_serves(client)].append(client)
    assert set(had) == {one.pid, other.pid}
    one.stop(had[one.pid])
    for client in had[other.pid]:
        assert who_serves(client) == other.pid
    other.stop(had[other.pid])


# -- in one process


@pytest.mark.parametrize("first_stops", [True, False])
def test_two_engines_serve_one_listener_and_a_stop_ends_its_own_accepts_only(
    serve, listener, first_stops
):
    pair = [serve(Echoing, None, sock=listener.dup(), workers=2) for _ in range(2)]
    for served in pair:
        wait_for_figure(served.server, "accepts_pending", POOL)
    for _ in range(2 * POOL):
        pair[0].assert_serving()
    assert all(served.stats()["accepts"] > 0 for served in pair)
    stopped, served = pair if first_stops else reversed(pair)
    stopped.server.close()
    assert stopped.server.wait_closed(WAIT_S)
    for _ in range(2 * POOL):
        served.assert_serving()
    assert served.stats()["accept_errors"] == 0
    wait_for_figure(served.server, "accepts_pending", POOL)


def test_two_servers_of_one_engine_serve_one_listener(listener):
    engine = iocpx.Engine(workers=2)
    with (
        iocpx.Server(iocpx.native.Echo, sock=listener.dup(), engine=engine) as one,
        iocpx.Server(iocpx.native.Echo, sock=listener.dup(), engine=engine) as other,
    ):
        for server in (one, other):
            wait_for_figure(server, "accepts_pending", POOL)
        for _ in range(2 * POOL):
            with Client(listener.getsockname()) as client:
                assert client.exchange([b"hello"]) == b"hello"
        assert one.stats()["accepts"] > 0
        assert other.stats()["accepts"] > 0
    stats = engine.stats()
    assert stats["ops_posted"] == stats["ops_completed"]


def test_a_socket_that_was_served_is_served_again(serve, listener):
    for _ in range(3):
        served = serve(Echoing, None, sock=listener.dup())
        served.assert_serving()
        served.server.close()
        assert served.server.wait_closed(WAIT_S)


def test_whoever_came_first_does_not_grow_at_the_others_expense(serve, listener):
    """FD_ACCEPT is the socket's: only one of them could have it, and would take ever more."""
    held = [Held(), Held()]
    pair = [
        serve(each, None, sock=listener.dup(), workers=1, initial_accepts=2, max_accepts=40)
        for each in held
    ]
    for served in pair:
        wait_for_figure(served.server, "accepts_pending", 2)
    # Four go to the AcceptEx, so that each has one and is held up; the rest have to wait.
    clients = [pair[0].connect() for _ in range(4)]
    for each in held:
        wait_for_event(each.entered, "the first connection_made of both")
    clients += [pair[0].connect() for _ in range(40)]
    for each in held:
        each.leave.set()
    for client in clients:
        assert client.exchange([b"hello"]) == b"hello"
    for served in pair:
        assert served.stats()["accepts_grown"] == 0


@pytest.fixture
def elsewhere(listener):
    """The listener is on the port of somebody who does not accept."""
    port = _overlapped.CreateIoCompletionPort(_overlapped.INVALID_HANDLE_VALUE, 0, 0, 0)
    _overlapped.CreateIoCompletionPort(listener.fileno(), port, 0, 0)
    yield listener
    # Nothing of what was accepted came here.
    assert _overlapped.GetQueuedCompletionStatus(port, 0) is None
    _winapi.CloseHandle(port)


@pytest.mark.parametrize("accept_receive", [False, True])
@pytest.mark.parametrize("handler", [Echoing, iocpx.native.Echo], ids=["protocol", "native"])
def test_nothing_goes_to_the_port_of_whoever_came_first(serve, elsewhere, handler, accept_receive):
    served = serve(handler, None, sock=elsewhere.dup(), accept_receive=accept_receive)
    for size in (1, 10, 1000, 100_000) * 10:
        served.assert_serving(size)
    assert served.stats()["accept_errors"] == 0


def test_a_burst_that_comes_before_the_pool_is_served(serve, elsewhere):
    clients = [Client(elsewhere.getsockname()) for _ in range(50)]
    served = serve(Echoing, None, sock=elsewhere.dup(), initial_accepts=1)
    run_together(*(lambda client=client: client.exchange([b"hello"]) for client in clients))
    wait_for_figure(served.server, "accepts", 50)
    for client in clients:
        client.close()


@pytest.mark.slow("the shortest timeout is seconds")
def test_silent_clients_do_not_keep_others_out(serve, elsewhere):
    """No FD_ACCEPT tells of them; the keeper looks who is silent."""
    served = serve(
        Echoing,
        None,
        sock=elsewhere.dup(),
        accept_receive=True,
        initial_accepts=2,
        max_accepts=6,
    )
    silent = [served.connect() for _ in range(5)]
    # As many as ever wait for clients that speak, as far as there is room.
    served.assert_serving()
    wait_for_figure(served.server, "accepts_pending", 6)
    assert served.stats()["accepts_grown"] == 4
    for client in silent:
        assert client.exchange([b"hello"]) == b"hello"


def test_an_engine_on_a_borrowed_port_shares_a_listener(elsewhere):
    port = _overlapped.CreateIoCompletionPort(_overlapped.INVALID_HANDLE_VALUE, 0, 0, 0)
    engine = iocpx.Engine(completion_port=port)
    server = iocpx.Server(iocpx.native.Echo, sock=elsewhere.dup(), engine=engine)
    server.start()
    done = []

    def exchange():
        for _ in range(2 * POOL):
            with Client(elsewhere.getsockname()) as client:
                assert client.exchange([b"hello"]) == b"hello"
        done.append(True)

    thread = threading.Thread(target=exchange, daemon=True)
    thread.start()

    def polled(condition):
        packets = engine.poll(0.05)
        assert not packets
        return condition()

    wait_until(lambda: polled(lambda: not thread.is_alive()), "the end of the clients")
    assert done == [True]
    server.close()
    wait_until(lambda: polled(lambda: server.wait_closed(0)), "the end of the server")
    stats = {**engine.stats(), **server.stats()}
    assert stats["accepts"] == 2 * POOL
    assert stats["ops_posted"] == stats["ops_completed"]
    assert stats["sockets_opened"] == stats["sockets_closed"]
    _winapi.CloseHandle(port)
