"""iocpx.connect(): connections that we make ourselves, on the threaded engine."""

import asyncio
import concurrent.futures
import contextvars
import queue
import socket
import ssl
import threading

import pytest
from clients import Client
from dialling import Names, assert_clients_gone, error_of, refusing_address, silent_address
from payload import MORE_THAN_THE_KERNEL_TAKES, assert_same_bytes, pattern
from protocols import Plain, Recording
from sockets import free_port, has_ipv6
from test_exit import assert_quiet_end
from tls_peers import OTHER, TlsPeer, client_context, server_context
from waiting import (
    WAIT_S,
    clock,
    run_together,
    take,
    wait_for_event,
    wait_for_figure,
    wait_until,
)

import iocpx

NOWHERE = "name.of.nobody"


@pytest.fixture
def engine():
    """An engine without a server; at the end it has gone with its clients, its books balanced."""
    engine = iocpx.Engine(workers=2)
    yield engine
    assert_clients_gone(engine)


@pytest.fixture
def names(monkeypatch):
    return Names(monkeypatch)


@pytest.fixture
def echo(serve):
    """The (host, port) of a server that echoes."""
    return serve(Plain).server.address[:2]


def assert_echo(connection, size=1000):
    protocol = connection.get_protocol()
    before = protocol.kept_bytes
    data = pattern(size, seed=size)
    connection.write(data)
    protocol.wait_for_data(before + size)
    assert_same_bytes(bytes(protocol.received[before:]), data)


def closed(connection):
    """Close it and see that its protocol was told all in order."""
    connection.close()
    protocol = connection.get_protocol()
    protocol.wait_for("connection_lost")
    protocol.check()
    return protocol


class Never:
    """A factory that must not be called."""

    def __init__(self):
        self.called = False

    def __call__(self):
        self.called = True
        return Recording()


# -- where a connection belongs -----------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_connection_of_an_engine(engine, serve, host):
    # At a port that nobody listens at on ::1, which the name stands for as well.
    echo = serve(Plain, "127.0.0.1", free_port()).server.address
    future = iocpx.connect(Recording, host, echo[1], engine=engine)
    assert type(future) is concurrent.futures.Future
    connection = future.result(WAIT_S)
    assert type(connection) is iocpx.Connection
    protocol = connection.get_protocol()
    # Before the future is done.
    assert protocol.events[:1] == ["connection_made"]
    assert protocol.transport is connection
    assert connection.get_extra_info("peername")[1] == echo[1]
    assert_echo(connection, 300_000)
    assert closed(connection).lost_with is None


def test_a_connection_of_a_server(serve, echo):
    ours = serve(Recording)
    future = iocpx.connect(Recording, *echo, server=ours.server)
    connection = future.result(WAIT_S)
    assert connection in ours.server.connections
    assert ours.server.stats()["connections_outgoing"] == 1
    assert_echo(connection)
    ours.server.close()
    assert ours.server.wait_closed(WAIT_S) is True
    protocol = connection.get_protocol()
    protocol.wait_for("connection_lost")
    protocol.check()
    stats = ours.server.stats()
    assert (stats["connects"], stats["connects_made"], stats["connects_failed"]) == (1, 1, 0)


def test_a_connection_of_nobody_is_of_an_engine_of_the_process(echo):
    one, other = (iocpx.connect(Recording, *echo) for _ in range(2))
    assert_echo(one.result(WAIT_S))
    assert_echo(other.result(WAIT_S))

    def first_workers():
        return sum(thread.name == "iocpx-worker-0" for thread in threading.enumerate())

    # The server's, and one engine for both; one of the test before may be on its way out.
    wait_until(lambda: first_workers() == 2, "the end of others")
    closed(one.result())
    closed(other.result())
    wait_until(
        lambda: [t.name for t in threading.enumerate()].count("iocpx-worker-0") == 1,
        "the end of the engine of the process",
    )


def test_an_engine_comes_with_its_first_client_and_goes_with_the_last(engine, echo):
    for _ in range(3):
        one = iocpx.connect(Recording, *echo, engine=engine).result(WAIT_S)
        other = iocpx.connect(Recording, *echo, engine=engine).result(WAIT_S)
        assert engine.client_stats()["connections_outgoing"] == 2
        closed(one)
        assert_echo(other)
        closed(other)
        wait_until(lambda: engine.client_stats()["connections_now"] == 0, "the end of both")
    stats = engine.client_stats()
    assert stats["sockets_opened"] == stats["sockets_closed"]


def test_clients_beside_a_server_of_the_engine(serve):
    peer = serve(Plain)
    connection = iocpx.connect(
        Recording, *peer.server.address[:2], engine=peer.server.engine
    ).result(WAIT_S)
    assert_echo(connection)
    assert peer.server.stats()["connections_outgoing"] == 0
    assert peer.server.engine.client_stats()["connects"] == 1
    # Neither's end is the other's.
    closed(connection)
    peer.assert_serving()
    wait_until(peer.server.engine._clients.over, "the end of the clients")


def test_of_a_server_it_has_the_limits(serve, echo):
    ours = serve(Recording, idle_timeout_s=0.1)
    connection = iocpx.connect(Recording, *echo, server=ours.server).result(WAIT_S)
    protocol = connection.get_protocol()
    protocol.wait_for("connection_lost")
    assert protocol.lost_with.winerror == 10060


def test_the_context_of_the_callbacks(serve, engine, echo):
    place = contextvars.ContextVar("place", default="nowhere")
    seen = queue.Queue()

    class Sees(Recording):
        def on_made(self):
            seen.put(place.get())
            place.set("in the connection")

    contextvars.copy_context().run(place.set, "elsewhere")
    ours = serve(Recording)
    place.set("at the call")
    for where in ({"engine": engine}, {"server": ours.server}):
        closed(iocpx.connect(Sees, *echo, **where).result(WAIT_S))
    assert take(seen, "the caller's") == "at the call"
    assert take(seen, "the server's") == "nowhere"
    assert place.get() == "at the call"
    place.set("nowhere")


def test_from_callbacks(serve, engine, echo):
    """A worker may connect, and wait for nothing."""
    ours = serve(Recording)

    class Asks(Recording):
        def on_data(self, data):
            where = {"server": ours.server} if data == b"server" else {"engine": engine}
            futures.put(iocpx.connect(Recording, *echo, **where))

    futures = queue.Queue()
    front = serve(Asks)
    with front.connect() as client:
        for how in (b"server", b"engine"):
            client.send(how)
            connection = take(futures, "a future").result(WAIT_S)
            assert_echo(connection)
            closed(connection)


def test_on_an_engine_that_is_polled(echo):
    overlapped = pytest.importorskip("_overlapped")
    port = overlapped.CreateIoCompletionPort(overlapped.INVALID_HANDLE_VALUE, 0, 0, 0)
    engine = iocpx.Engine(completion_port=port)
    future = iocpx.connect(Plain, *echo, engine=engine)

    def polled(condition):
        engine.poll(0.01)
        return condition()

    wait_until(lambda: polled(future.done), "the connection")
    connection = future.result()
    connection.close()
    wait_until(lambda: engine.poll(0.01) is None, "the end of the engine")
    assert connection.is_closing()
    pytest.importorskip("_winapi").CloseHandle(port)


# -- addresses ----------------------------------------------------------------------------------


def test_nobody_there(engine):
    factory = Never()
    with refusing_address() as address:
        error = error_of(iocpx.connect(factory, *address, engine=engine))
    assert type(error) is ConnectionRefusedError
    assert error.winerror == 10061
    assert f"127.0.0.1:{address[1]}" in str(error)
    assert not factory.called


def test_a_refusal_may_be_faster_than_who_asked(engine):
    """The worker that hears of it, and the thread that has begun it, in whatever order."""
    with refusing_address() as address:
        for _ in range(10):
            futures = [iocpx.connect(Recording, *address, engine=engine) for _ in range(40)]
            for future in futures:
                assert error_of(future).winerror == 10061


def test_the_next_address_is_tried_when_one_refuses(engine, echo, names):
    with refusing_address() as nobody:
        names.add("two", nobody, echo)
        connection = iocpx.connect(Recording, "two", 1, engine=engine).result(WAIT_S)
        assert connection.get_extra_info("peername") == echo
        assert_echo(connection)
        closed(connection)
    wait_until(lambda: engine.client_stats()["connections_retired"] == 2, "the end of both")


def test_the_next_address_is_tried_when_one_is_silent(engine, echo, names):
    protocols = []

    def factory():
        protocols.append(Recording())
        return protocols[-1]

    with silent_address() as silent:
        names.add("two", silent, echo)
        connection = iocpx.connect(factory, "two", 1, engine=engine).result(WAIT_S)
        assert connection.get_extra_info("peername") == echo
        # The other was given up, and nobody has heard of it.
        wait_until(lambda: engine.client_stats()["connections_now"] == 1, "the end of the other")
        assert protocols == [connection.get_protocol()]
        closed(connection)


@pytest.mark.slow("the system asks a silent address again after seconds")
def test_from_a_port_of_the_callers_one_address_is_tried_after_the_other(engine, echo, names):
    with silent_address() as silent:
        names.add("two", silent, echo)
        port = free_port()
        one = iocpx.connect(Recording, "two", 1, local_addr=("127.0.0.1", port), engine=engine)
        # When this one has gone on to the second address, that one would have, too.
        closed(iocpx.connect(Recording, "two", 1, engine=engine).result(WAIT_S))
    connection = one.result(WAIT_S)
    assert connection.get_extra_info("peername") == echo
    assert connection.get_extra_info("sockname") == ("127.0.0.1", port)
    assert_echo(connection)
    closed(connection)


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")
def test_families_take_turns(engine, names):
    with refusing_address() as one, refusing_address() as two:
        port = free_port()
        names.add("many", one, two, ("::1", port, 0, 0))
        text = str(error_of(iocpx.connect(Recording, "many", 1, engine=engine)))
    ways = [f"127.0.0.1:{one[1]}", f"[::1]:{port}", f"127.0.0.1:{two[1]}"]
    # Those that begin while another one is under way may fail before it.
    assert all(one_way in text for one_way in ways)
    found = [(socket.AF_INET, one), (socket.AF_INET, two), (socket.AF_INET6, ("::1", port, 0, 0))]
    attempts = iocpx._connecting.way(found, None)
    assert [attempt[3] for attempt in reversed(attempts)] == ways


def test_the_error_names_all_addresses(engine, names):
    with refusing_address() as one, refusing_address() as two:
        names.add("two", one, two)
        error = error_of(iocpx.connect(Recording, "two", 1, engine=engine))
    assert type(error) is ConnectionRefusedError
    assert error.winerror == 10061
    for address in (one, two):
        assert f"127.0.0.1:{address[1]}" in str(error)


def test_a_name_without_an_address(engine, names):
    def fail():
        raise socket.gaierror(11001, "getaddrinfo failed")

    names.add(NOWHERE, before=fail)
    error = error_of(iocpx.connect(Recording, NOWHERE, 1, engine=engine))
    assert type(error) is socket.gaierror
    assert NOWHERE in str(error)


def test_names_are_looked_up_on_threads_of_their_own(engine, echo, names):
    """And many that hang do not keep the others from being told that it is too late."""
    release = threading.Event()
    names.add("hangs", before=lambda: release.wait(WAIT_S))
    names.add("known", echo)
    try:
        hanging = [
            iocpx.connect(Recording, "hangs", 1, engine=engine, timeout_s=0.2) for _ in range(5)
        ]
        connection = iocpx.connect(Recording, "known", 1, engine=engine).result(WAIT_S)
        for future in hanging:
            assert isinstance(error_of(future), TimeoutError)
        assert threading.main_thread() not in names.asked
        closed(connection)
    finally:
        release.set()


def test_those_whose_time_is_over_together_do_not_wait_for_each_other(engine, names):
    release = threading.Event()
    names.add("hangs", before=lambda: release.wait(WAIT_S))
    waited = queue.Queue()
    try:
        futures = [
            iocpx.connect(Recording, "hangs", 1, engine=engine, timeout_s=0.3) for _ in range(5)
        ]
        futures[0].add_done_callback(
            lambda _: waited.put(concurrent.futures.wait(futures[1:], WAIT_S).not_done)
        )
        for future in futures:
            assert isinstance(error_of(future), TimeoutError)
        assert waited.get(timeout=WAIT_S) == set()
    finally:
        release.set()


def test_a_file_is_flushed_while_all_threads_hang_in_looks_for_names(engine, names, echo, tmp_path):
    release = threading.Event()
    looking = queue.Queue()

    def hang():
        looking.put(None)
        release.wait(WAIT_S)

    names.add("hangs", before=hang)
    try:
        futures = [iocpx.connect(Recording, "hangs", 1, engine=engine) for _ in range(50)]
        for _ in range(32):
            take(looking, "a look for a name")
        with iocpx.open_file(tmp_path / "file", "wb") as file:
            file.write(b"data", 0).result(WAIT_S)
            assert file.flush().result(WAIT_S) is None
            assert file.truncate(2).result(WAIT_S) is None
        # What is free again is for names no more than before.
        assert looking.empty()
        for future in futures:
            assert future.cancel()
    finally:
        release.set()
    # Nobody waits for the other names any more, so nobody asks for their addresses.
    names.add("known", echo)
    closed(iocpx.connect(Recording, "known", 1, engine=engine).result(WAIT_S))
    assert len(names.asked) == 33


def test_an_address_is_connected_to_while_all_threads_hang_in_looks_for_names(engine, names, echo):
    """There is no engine yet, so it is begun aside."""
    release = threading.Event()
    looking = queue.Queue()

    def hang():
        looking.put(None)
        release.wait(WAIT_S)

    names.add("hangs", before=hang)
    try:
        futures = [iocpx.connect(Recording, "hangs", 1, engine=engine) for _ in range(40)]
        for _ in range(32):
            take(looking, "a look for a name")
        connection = iocpx.connect(Recording, *echo, engine=engine).result(WAIT_S)
        assert_echo(connection)
        closed(connection)
        assert looking.empty()
        for future in futures:
            assert future.cancel()
    finally:
        release.set()


@pytest.mark.parametrize("what", ["bytes", "a file"])
def test_two_ends_that_both_write_more_than_the_system_takes(serve, engine, tmp_path, what):
    data = pattern(1 << 20) * (MORE_THAN_THE_KERNEL_TAKES >> 20)
    path = tmp_path / "file"
    path.write_bytes(data)

    class Writes(Recording):
        def on_made(self):
            if what == "bytes":
                self.transport.write(data)
            else:
                with path.open("rb") as file:
                    self.transport.sendfile(file)

    served = serve(Writes)
    connection = iocpx.connect(Writes, *served.server.address, engine=engine).result(WAIT_S)
    wait_until(lambda: served.server.connections, "the server's protocol")
    for protocol in (connection.get_protocol(), served.server.connections[0].get_protocol()):
        protocol.wait_for_data(len(data))
        assert_same_bytes(bytes(protocol.received), data)
    closed(connection)


REFUSED = """
import socket, sys
import iocpx, iocpx._aside, threading

release = threading.Event()
socket.getaddrinfo = lambda *arguments, **keywords: release.wait(60) and []
real = iocpx._aside.start_new_thread
others = []

def connect():
    try:
        return iocpx.connect(object, "hangs", 1, timeout_s=0.2)
    except RuntimeError:
        return None

def start(function, arguments):
    if function.__name__ == sys.argv[1] and (not others or sys.argv[2] == "all"):
        if not others:
            others.append(None)
            others[0] = connect()
        raise RuntimeError("can't start new thread")
    return real(lambda: (go.wait(60), function(*arguments)), ())

# Nothing is worked at before the first call has returned.
go = threading.Event()
iocpx._aside.start_new_thread = start
print(connect())
go.set()
other = others[0]
print(type(other.exception(30)).__name__ if other else other)
release.set()
"""


@pytest.mark.once("counts threads")
@pytest.mark.parametrize(
    "which, other", [("watch_all first", "TimeoutError"), ("work_all all", "None")]
)
def test_nobody_relies_on_a_thread_that_does_not_start(start_script, which, other):
    """Two are called at a time, and the thread that the first one starts for both is refused: the
    second is told of its time, or that there is no thread for it."""
    script = start_script(REFUSED, *which.split())
    assert [script.read_line() for _ in range(2)] == ["None", other]
    assert_quiet_end(script)


def test_the_local_address(engine, echo):
    port = free_port()
    connection = iocpx.connect(
        Recording, *echo, local_addr=("127.0.0.1", port), engine=engine
    ).result(WAIT_S)
    assert connection.get_extra_info("sockname") == ("127.0.0.1", port)
    closed(connection)
    error = error_of(iocpx.connect(Recording, *echo, local_addr=("192.0.2.1", 0), engine=engine))
    assert error.winerror == 10049
    error = error_of(iocpx.connect(Recording, *echo, local_addr=("::1", 0), engine=engine))
    assert error.winerror == 10049
    assert "local_addr" in str(error)


# -- time, and giving up ------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["name", "address", "several"])
def test_the_time_is_never_too_short(engine, names, where):
    factory = Never()
    release = threading.Event()
    with silent_address() as one, silent_address() as two:
        names.add("hangs", one, before=lambda: release.wait(WAIT_S))
        names.add("several", one, two)
        host = {"name": "hangs", "address": one[0], "several": "several"}[where]
        began = clock()
        future = iocpx.connect(factory, host, one[1], engine=engine, timeout_s=0.3)
        error = error_of(future)
        assert clock() - began >= 0.3
        assert isinstance(error, TimeoutError)
        assert error.winerror == 10060
        assert f"{host}:{one[1]}" in str(error)
        release.set()
    assert not factory.called


def test_cancelled_while_the_name_is_looked_up(engine, names):
    factory = Never()
    release, asked = threading.Event(), threading.Event()

    def hang():
        asked.set()
        release.wait(WAIT_S)

    names.add("hangs", ("127.0.0.1", free_port()), before=hang)
    future = iocpx.connect(factory, "hangs", 1, engine=engine)
    wait_for_event(asked, "the look")
    assert future.cancel() is True
    assert concurrent.futures.wait([future], WAIT_S).done == {future}
    release.set()
    assert not factory.called


def test_cancelled_while_it_connects(serve, echo, names):
    ours = serve(Recording)
    factory = Never()
    with silent_address() as one, silent_address() as two:
        names.add("several", one, two)
        future = iocpx.connect(factory, "several", 1, server=ours.server)
        wait_until(lambda: ours.server.stats()["connections_made"] == 2, "the second attempt")
        assert future.cancel() is True
        wait_for_figure(ours.server, "connections_retired", 2)
    assert future.cancelled()
    assert concurrent.futures.wait([future], WAIT_S).done == {future}
    assert ours.server.stats()["connects_failed"] == 1
    assert not factory.called


def test_cancelled_in_the_handshake(engine):
    factory = Never()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        future = iocpx.connect(
            factory, *listener.getsockname(), ssl=client_context(), engine=engine
        )
        peer = listener.accept()[0]
        assert peer.recv(1)  # of the ClientHello
        assert future.cancel() is True
        wait_until(lambda: engine.client_stats()["connections_now"] == 0, "the end")
        peer.close()
    assert not factory.called


def test_too_late_to_be_cancelled(engine, echo):
    futures, results = queue.Queue(), queue.Queue()

    def factory():
        results.put(take(futures, "the future").cancel())
        return Recording()

    future = iocpx.connect(factory, *echo, engine=engine)
    futures.put(future)
    connection = future.result(WAIT_S)
    assert take(results, "what cancel() returned") is False
    assert future.cancel() is False
    closed(connection)


def test_a_stop_of_the_server_ends_what_is_under_way(serve):
    ours = serve(Recording, close_timeout_s=0.1)
    with silent_address() as address:
        futures = [iocpx.connect(Never(), *address, server=ours.server) for _ in range(5)]
        ours.server.close()
        assert ours.server.wait_closed(WAIT_S) is True
        for future in futures:
            error = error_of(future)
            assert isinstance(error, OSError) and error.winerror == 995, error


EXIT = """
import asyncio, socket, sys, threading, iocpx

def hang(*arguments, **keywords):
    threading.Event().wait()

silent = (sys.argv[1], int(sys.argv[2]))
engine = iocpx.Engine(workers=1)
futures = [iocpx.connect(asyncio.Protocol, *silent, engine=engine) for _ in range(3)]
futures.append(iocpx.connect(asyncio.Protocol, *silent))
futures.append(iocpx.connect(asyncio.Protocol, *map(eval, sys.argv[3:]), engine=engine))
futures[-1].result(30)
socket.getaddrinfo = hang
futures.append(iocpx.connect(asyncio.Protocol, "name", 1, engine=engine))
print([future.done() for future in futures])
"""


def test_exit_of_the_interpreter_with_attempts_under_way(start_script, echo):
    with silent_address() as address:
        script = start_script(EXIT, *map(str, address), *map(repr, echo))
        code, out, err = script.finish()
    assert err == ""
    assert out == [str([False] * 4 + [True, False])]
    assert code == 0


# -- many ---------------------------------------------------------------------------------------


def test_200_at_once(engine, echo):
    connections = queue.Queue()

    def some():
        futures = [iocpx.connect(Recording, *echo, engine=engine) for _ in range(50)]
        for future in futures:
            connections.put(future.result(WAIT_S))

    run_together(*[some] * 4)
    made = [connections.get_nowait() for _ in range(200)]
    for connection in made:
        connection.write(b"hello")
    for connection in made:
        connection.get_protocol().wait_for_data(5)
    for connection in made:
        closed(connection)


def test_some_are_cancelled_among_many(engine, echo):
    """Whoever comes first of the connection and the cancel(), nothing is left behind."""
    made = 0
    for _ in range(100):
        future = iocpx.connect(Recording, *echo, engine=engine)
        if not future.cancel():
            made += 1
            closed(future.result(WAIT_S))
    wait_until(lambda: engine.client_stats()["connections_now"] == 0, "the end of all")
    assert made <= 100


# -- what is raised -----------------------------------------------------------------------------


def test_what_the_factory_raises_the_future_has(serve, echo):
    ours = serve(Recording)

    def factory():
        raise LookupError("no protocol today")

    error = error_of(iocpx.connect(factory, *echo, server=ours.server))
    assert type(error) is LookupError
    error = error_of(iocpx.connect(lambda: 5, *echo, server=ours.server))
    assert type(error) is TypeError
    wait_for_figure(ours.server, "connections_retired", 2)


def test_what_connection_made_raises_the_future_has(serve, echo):
    ours = serve(Recording)
    protocols = []

    class Fails(Recording):
        def on_made(self):
            protocols.append(self)
            raise LookupError("not today")

    error = error_of(iocpx.connect(Fails, *echo, server=ours.server))
    assert type(error) is LookupError
    assert ours.take_error()["exception"] is error
    (protocol,) = protocols
    assert protocol.lost_with is error
    protocol.check()


@pytest.mark.once("the way of what is raised is that of a server's")
@pytest.mark.parametrize("exc", [SystemExit(3), KeyboardInterrupt()], ids=["exit", "interrupt"])
def test_what_ends_a_program_ends_the_clients_of_the_engine(engine, echo, caplog, exc):
    """As it ends a server: in order, and what is connected later is another matter."""

    class Leaves(Recording):
        def on_data(self, data):
            raise exc

    # Gone are they only after the first: so the others are of the same service.
    other = iocpx.connect(Recording, *echo, engine=engine).result(WAIT_S)
    leaves = iocpx.connect(Leaves, *echo, engine=engine).result(WAIT_S)
    leaves.write(b"leave")
    leaves.get_protocol().wait_for("connection_lost")
    other.get_protocol().wait_for("connection_lost")
    assert other.get_protocol().lost_with is None
    assert [record.exc_info[1] for record in caplog.records] == [exc]
    later = iocpx.connect(Recording, *echo, engine=engine).result(WAIT_S)
    assert_echo(later)
    closed(later)


def test_what_a_callback_of_the_future_raises_costs_nothing(engine, echo):
    def fail(future):
        raise LookupError("not today")

    future = iocpx.connect(Recording, *echo, engine=engine)
    future.add_done_callback(fail)
    connection = future.result(WAIT_S)
    assert_echo(connection)
    closed(connection)


# -- TLS ----------------------------------------------------------------------------------------


def test_tls(serve, engine):
    peer = serve(Plain, ssl=server_context())
    port = peer.server.address[1]
    connection = iocpx.connect(
        Recording, "127.0.0.1", port, ssl=client_context(), engine=engine
    ).result(WAIT_S)
    assert connection.get_extra_info("ssl_object").server_hostname == "127.0.0.1"
    assert connection.get_extra_info("peercert")
    assert_echo(connection, 100_000)
    assert closed(connection).lost_with is None
    connection = iocpx.connect(
        Recording, "127.0.0.1", port, ssl=client_context(), server_hostname="localhost",
        engine=engine,
    ).result(WAIT_S)
    assert connection.get_extra_info("ssl_object").server_hostname == "localhost"
    assert_echo(connection)
    closed(connection)


@pytest.mark.parametrize("fault", ["authority", "name"])
def test_a_certificate_that_is_not_taken(serve, engine, fault):
    peer = serve(Plain, ssl=server_context())
    factory = Never()
    parameters = {
        "authority": {"ssl": client_context(trusted=OTHER)},
        "name": {"ssl": client_context(), "server_hostname": "other.test"},
    }[fault]
    future = iocpx.connect(
        factory, "127.0.0.1", peer.server.address[1], engine=engine, **parameters
    )
    assert isinstance(error_of(future), ssl.SSLCertVerificationError)
    assert not factory.called


def test_the_system_trusts_no_certificate_of_a_test(serve, engine):
    peer = serve(Plain, ssl=server_context())
    error = error_of(
        iocpx.connect(Never(), "127.0.0.1", peer.server.address[1], ssl=True, engine=engine)
    )
    assert isinstance(error, ssl.SSLCertVerificationError)


def test_a_handshake_that_takes_too_long(engine):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        began = clock()
        future = iocpx.connect(
            Never(), *listener.getsockname(), ssl=client_context(), timeout_s=1, engine=engine
        )
        # Nobody accepts: the system connects the two, or the time is over before it is asked to.
        assert isinstance(error_of(future), TimeoutError)
        assert clock() - began >= 1


def test_a_peer_that_ends_the_handshake(engine):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        future = iocpx.connect(
            Never(), *listener.getsockname(), ssl=client_context(), engine=engine
        )
        listener.accept()[0].close()
        assert isinstance(error_of(future), ConnectionError)


def test_a_protocol_may_begin_tls_itself(engine):
    class Starts(Recording):
        def on_made(self):
            self.handshake = self.transport.start_tls(
                client_context(), server_side=False, server_hostname="localhost"
            )

    with socket.create_server(("127.0.0.1", 0)) as listener:
        connection = iocpx.connect(Starts, *listener.getsockname(), engine=engine).result(WAIT_S)
        peer = TlsPeer(listener.accept()[0], server_context())
        connection.get_protocol().handshake.result(WAIT_S)
        peer.send(b"hello")
        connection.get_protocol().wait_for_data(5)
        connection.abort()
        connection.get_protocol().wait_for("connection_lost")
        peer.close()


# -- arguments ----------------------------------------------------------------------------------


async def coroutine():
    pass


@pytest.mark.once("what is refused")
@pytest.mark.parametrize(
    "name, value, kind",
    [
        ("protocol_factory", 5, TypeError),
        ("protocol_factory", coroutine, TypeError),
        ("host", None, TypeError),
        ("host", b"localhost", TypeError),
        ("host", "", ValueError),
        ("port", "http", TypeError),
        ("port", 0, ValueError),
        ("port", 65536, ValueError),
        ("timeout_s", None, TypeError),
        ("timeout_s", 0, ValueError),
        ("timeout_s", 86401, ValueError),
        ("local_addr", "127.0.0.1", TypeError),
        ("local_addr", 5, TypeError),
        ("local_addr", ("127.0.0.1", "80"), TypeError),
        ("local_addr", ("127.0.0.1", -1), ValueError),
        ("local_addr", (None, 0), TypeError),
        ("ssl", "yes", TypeError),
        ("ssl", ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ValueError),
        ("server_hostname", "localhost", ValueError),
        ("server_hostname", 5, TypeError),
        ("engine", 5, TypeError),
        ("server", 5, TypeError),
    ],
)
def test_a_wrong_argument_is_named(name, value, kind):
    arguments = {"protocol_factory": asyncio.Protocol, "host": "127.0.0.1", "port": 1, name: value}
    with pytest.raises(kind, match=rf"^{name}('s \w+)? must be "):
        iocpx.connect(**arguments)


@pytest.mark.once("what is refused")
def test_only_one_of_engine_and_server(serve, engine):
    ours = serve(Recording)
    with pytest.raises(ValueError, match=r"^engine must be None with server"):
        iocpx.connect(Recording, "127.0.0.1", 1, engine=engine, server=ours.server)


@pytest.mark.once("what is refused")
def test_a_server_that_does_not_serve(serve, echo):
    ours = serve(Recording, started=False)
    with pytest.raises(RuntimeError, match="server must be serving"):
        iocpx.connect(Recording, *echo, server=ours.server)
    ours.server.start()
    with Client(ours.server.address):
        ours.server.close()
        with pytest.raises(RuntimeError, match="server must be serving"):
            iocpx.connect(Recording, *echo, server=ours.server)
    native = serve(iocpx.native.Echo)
    with pytest.raises(ValueError, match="native handler"):
        iocpx.connect(Recording, *echo, server=native.server)
