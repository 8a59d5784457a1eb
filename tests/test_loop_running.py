"""Loops are made, run, interrupted, run again and closed; and what is CPython's works on them."""

import _overlapped
import _winapi
import asyncio
import contextlib
import gc
import os
import signal
import socket
import subprocess
import sys
import threading
import warnings

import pytest
from loops import run, run_once, run_until, running_loop
from process import collect, committed_bytes, handle_count
from script import begun
from waiting import WAIT_S, forget_interrupts, wait_for_event

import iocpx
from iocpx import _event_loop


@pytest.fixture
def loop():
    with running_loop() as loop:
        yield loop


def nothing(*arguments):
    pass


def run_in_thread(function):
    """Run it in a thread of its own; its result."""
    results = []

    def guarded():
        try:
            results.append((function(), None))
        except BaseException as error:
            results.append((None, error))

    thread = threading.Thread(target=guarded, daemon=True)
    thread.start()
    thread.join(WAIT_S)
    assert not thread.is_alive(), "the thread did not end"
    result, error = results[0]
    if error is not None:
        raise error
    return result


# -- run, stop, close ------------------------------------------------------------------------------


def test_a_loop_is_run_again_after_stop(loop):
    for number in range(20):
        assert loop.run_until_complete(asyncio.sleep(0, number)) == number
        assert not loop.is_running()
        run_once(loop)


def test_stop_before_run_forever_runs_one_iteration(loop):
    ran = []
    loop.call_soon(ran.append, 1)
    loop.stop()
    loop.run_forever()
    assert ran == [1]


def test_a_loop_runs_in_another_thread_than_its_makers(loop):
    async def main():
        await asyncio.sleep(0.001)
        return threading.get_ident(), await asyncio.to_thread(threading.get_ident)

    for _ in range(3):
        here, elsewhere = run_in_thread(lambda: loop.run_until_complete(main()))
        assert len({here, elsewhere, threading.get_ident()}) == 3
        assert loop.run_until_complete(main())[0] == threading.get_ident()


def test_a_loop_of_another_thread_has_no_socket_pair():
    def use():
        with running_loop() as loop:
            assert loop._csock is None
            return loop.run_until_complete(asyncio.sleep(0.001, "ran"))

    assert run_in_thread(use) == "ran"


def test_a_running_loop_is_neither_run_nor_closed(loop):
    async def main():
        with pytest.raises(RuntimeError, match="already running"):
            loop.run_forever()
        with pytest.raises(RuntimeError, match="Cannot close a running event loop"):
            loop.close()
        other = iocpx.new_event_loop()
        with pytest.raises(RuntimeError, match="while another loop is running"):
            other.run_forever()
        other.close()
        return asyncio.get_running_loop() is loop

    assert loop.run_until_complete(main())


def test_a_closed_loop_refuses_as_asyncio_does():
    ran = []
    loop = iocpx.new_event_loop()
    loop.call_soon(ran.append, 1)
    timer = loop.call_later(0, ran.append, 1)
    for _ in range(2):
        loop.close()
        assert loop.is_closed()
    timer.cancel()
    for call in (
        lambda: loop.call_soon(nothing),
        lambda: loop.call_soon_threadsafe(nothing),
        lambda: loop.call_later(1, nothing),
        lambda: loop.call_at(1, nothing),
        loop.run_forever,
        lambda: loop.run_in_executor(None, nothing),
    ):
        with pytest.raises(RuntimeError, match="Event loop is closed"):
            call()
    assert ran == []
    assert repr(loop) == "<EventLoop running=False closed=True debug=False>"


def test_close_leaves_the_wakeup_of_another_loop_alone(loop):
    async def main():
        before = signal.set_wakeup_fd(-1)
        signal.set_wakeup_fd(before)
        iocpx.new_event_loop().close()
        after = signal.set_wakeup_fd(before)
        return before, after

    before, after = loop.run_until_complete(main())
    assert before == after == loop._csock.fileno()
    assert signal.set_wakeup_fd(-1) == -1


def test_loops_in_several_threads_at_once():
    def work(number):
        async def main():
            for _ in range(100):
                await asyncio.sleep(0)
            return await asyncio.to_thread(lambda: number)

        return run(main())

    threads = 4
    results = [None] * threads

    def collect_result(number):
        results[number] = work(number)

    made = [threading.Thread(target=collect_result, args=(n,)) for n in range(threads)]
    for thread in made:
        thread.start()
    for thread in made:
        thread.join(WAIT_S)
    assert results == list(range(threads))


@pytest.mark.slow("makes 1,000 loops")
def test_a_thousand_loops_leave_everything_where_it_was():
    async def main():
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_later(60, nothing)

    def make(count):
        for _ in range(count):
            loop = iocpx.new_event_loop()
            loop.run_until_complete(main())
            loop.close()
        del loop
        collect()
        return (
            handle_count(),
            threading.active_count(),
            len(gc.get_objects()),
            committed_bytes(),
        )

    make(10)
    handles, threads, objects, nbytes = make(10)
    again = make(1000)
    assert again[0] <= handles and again[1] <= threads
    assert again[2] < objects + 500
    # A page of each loop would be more.
    assert again[3] < nbytes + (2 << 20)


# -- signals ---------------------------------------------------------------------------------------

WAITS = """
import asyncio, iocpx, signal, sys, threading

def interrupt():
    sys.stdin.readline()
    signal.raise_signal(signal.SIGINT)

async def wait():
    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    try:
        print("waits", flush=True)
        await asyncio.get_running_loop().create_future()
    finally:
        thread.join()       # it may still have to wake the loop, which is closed then
"""


@pytest.mark.parametrize(
    "program",
    [
        "iocpx.run(wait())",
        "asyncio.Runner(loop_factory=iocpx.EventLoop).run(wait())"
        if sys.version_info >= (3, 11)
        else "iocpx.run(wait())",
        """loop = iocpx.new_event_loop()
    task = loop.create_task(wait())
    try:
        loop.run_forever()
    finally:
        task.cancel()
        iocpx.new_event_loop().close()
        # It is done if Ctrl+C came within it.
        if task.done():
            task.exception()
        else:
            try:
                loop.run_until_complete(task)
            except asyncio.CancelledError:
                pass
        loop.close()""",
    ],
    ids=["run", "Runner", "run_forever"],
)
def test_ctrl_c_wakes_a_loop_that_only_waits(start_script, program):
    script = start_script(
        f"{WAITS}\ntry:\n    {program}\nexcept KeyboardInterrupt:\n    print('interrupted')\n"
    )
    assert script.read_line() == "waits"
    script.tell()
    assert script.finish() == (0, ["interrupted"], "")


def test_ctrl_c_ends_a_loop_whose_callbacks_never_run_python(start_script):
    script = start_script(
        """
import functools, iocpx, signal, sys, threading

loop = iocpx.new_event_loop()

def interrupt():
    sys.stdin.readline()
    signal.raise_signal(signal.SIGINT)

# Calls call_soon(itself), and nothing of that is Python's.
chain = functools.partial(loop.call_soon)
chain.__setstate__((loop.call_soon, (chain,), {}, {}))
loop.call_soon(chain)
thread = threading.Thread(target=interrupt, daemon=True)
thread.start()
try:
    print("runs", flush=True)
    loop.run_forever()
except KeyboardInterrupt:
    print("interrupted")
# It tells the loop's socket of the signal after the signal is known here.
thread.join()
loop.close()
"""
    )
    assert script.read_line() == "runs"
    script.tell()
    assert script.finish() == (0, ["interrupted"], "")


def test_a_self_pipe_that_ends_is_renewed_and_not_read_again_and_again_cpython_156333(
    loop, monkeypatch
):
    monkeypatch.setattr(_event_loop, "_PIPE_PAUSE_S", 0.01)
    reads = []
    recv = loop._proactor.recv
    monkeypatch.setattr(loop._proactor, "recv", lambda *a: reads.append(a) or recv(*a))
    run_once(loop)
    old = loop._csock
    old.shutdown(socket.SHUT_WR)
    run_until(loop, lambda: loop._csock is not old, "another socket pair")
    assert len(reads) == 2
    (complaint,) = loop.complaints
    assert complaint["message"] == "Error on reading from the event loop self pipe"
    # And it does what it is there for.
    running = threading.Lock()
    running.acquire()

    def interrupt():
        with running:
            signal.raise_signal(signal.SIGINT)

    # A lock alone: an interrupt in the middle of Thread.start() or Event.set() becomes another
    # exception there.
    interrupting = threading.Thread(target=interrupt)
    interrupting.start()
    loop.call_soon(running.release)
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    forget_interrupts()
    interrupting.join()
    assert len(loop.complaints) == 1


# -- what is CPython's -----------------------------------------------------------------------------


def test_a_client_may_come_to_a_pipe_again_after_two_iterations():
    """As on asyncio's loop, which looks at the port in each."""

    async def come(address):
        # Refused as long as the pipe has no other instance.
        handle = _overlapped.ConnectPipe(address)
        with contextlib.suppress(OSError):
            _winapi.CloseHandle(_overlapped.ConnectPipe(address))
        _winapi.CloseHandle(handle)

    async def main():
        loop = asyncio.get_running_loop()
        for number in range(20):
            address = rf"\\.\pipe\iocpx-{os.getpid()}-{number}"
            [server] = await loop.start_serving_pipe(asyncio.Protocol, address)
            for _ in range(5):
                await loop.create_task(come(address))
            server.close()
            await asyncio.sleep(0)

    run(main())


def test_sockets_by_sock_functions():
    async def main():
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
            listener.setblocking(False)
            client.setblocking(False)
            accepting = asyncio.ensure_future(loop.sock_accept(listener))
            await loop.sock_connect(client, listener.getsockname())
            server, address = await accepting
            with server:
                assert address == client.getsockname()
                await loop.sock_sendall(client, b"hello")
                assert await loop.sock_recv(server, 100) == b"hello"
                buffer = bytearray(10)
                await loop.sock_sendall(server, b"back")
                assert await loop.sock_recv_into(client, buffer) == 4
                assert buffer[:4] == b"back"

    run(main())


def test_datagrams():
    class Receives(asyncio.DatagramProtocol):
        def __init__(self):
            self.received = asyncio.get_running_loop().create_future()
            self.lost = asyncio.get_running_loop().create_future()

        def datagram_received(self, data, address):
            self.received.set_result((data, address))

        def connection_lost(self, exc):
            self.lost.set_result(exc)

    async def main():
        loop = asyncio.get_running_loop()
        server, receives = await loop.create_datagram_endpoint(Receives, ("127.0.0.1", 0))
        client, sends = await loop.create_datagram_endpoint(
            Receives, remote_addr=server.get_extra_info("sockname")
        )
        client.sendto(b"hello")
        data, address = await receives.received
        assert data == b"hello" and address == client.get_extra_info("sockname")
        client.close()
        server.close()
        assert await sends.lost is None
        assert await receives.lost is None

    run(main())


def test_subprocesses():
    async def main():
        def start():
            return asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                "print(input()[::-1]); raise SystemExit(3)",
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )

        process = await begun(start)
        out, _ = await process.communicate(b"hello\n")
        assert out.strip() == b"olleh"
        assert await process.wait() == 3

    run(main(), 3 * WAIT_S)


def test_named_pipes():
    address = rf"\\.\pipe\iocpx-test-{id(object())}"

    class Echo(asyncio.Protocol):
        def __init__(self, lost):
            self.lost = lost

        def connection_made(self, transport):
            self.transport = transport

        def data_received(self, data):
            self.transport.write(data[::-1])

        def connection_lost(self, exc):
            self.lost.set_result(exc)

    async def main():
        loop = asyncio.get_running_loop()
        lost = loop.create_future()
        (server,) = await loop.start_serving_pipe(lambda: Echo(lost), address)
        reader = asyncio.StreamReader()
        transport, _ = await loop.create_pipe_connection(
            lambda: asyncio.StreamReaderProtocol(reader), address
        )
        transport.write(b"hello")
        assert await reader.readexactly(5) == b"olleh"
        transport.close()
        assert await lost is None
        server.close()

    run(main())


def test_streams():
    async def echo(reader, writer):
        writer.write(await reader.readline())
        writer.close()

    async def main():
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"hello\n")
        assert await reader.read() == b"hello\n"
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()

    run(main())


def test_a_completion_that_comes_after_the_cancel_is_let_go_cpython_149123_116773(loop):
    async def main():
        near, far = socket.socketpair()
        with near, far:
            near.setblocking(False)
            for number in range(50):
                reading = asyncio.ensure_future(loop.sock_recv(near, 10))
                await asyncio.sleep(0)
                far.send(b"x")
                if number % 2:
                    await asyncio.sleep(0.001)
                reading.cancel()
                await asyncio.wait([reading])
                assert reading.cancelled() or reading.result() == b"x"

    loop.run_until_complete(main())
    assert loop.complaints == []
    loop.close()
    assert loop.complaints == []


def test_a_packet_that_nobody_expects_is_told_in_debug_mode_and_its_handle_closed(loop):
    import _overlapped
    import _winapi

    event = _overlapped.CreateEvent(None, True, False, None)
    loop.set_debug(True)
    _overlapped.PostQueuedCompletionStatus(loop._proactor._iocp, 5, 0, 0x1000)
    _overlapped.PostQueuedCompletionStatus(loop._proactor._iocp, 6, event, 0x2000)
    run_until(loop, lambda: len(loop.complaints) == 2, "two complaints")
    assert "unexpected event" in loop.complaints[0]["message"]
    assert "transferred=5 key=0x0 address=0x1000" in loop.complaints[0]["status"]
    with pytest.raises(OSError, match="6"):
        _winapi.WaitForSingleObject(event, 0)


def test_what_a_packets_callback_raises_is_the_operations_outcome(loop):
    proactor = loop._proactor
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        far.setblocking(False)
        good = proactor.recv(near, 10)
        bad = proactor.recv(far, 10)
        for address, (future, overlapped, obj, _) in list(proactor._cache.items()):
            if future is bad:

                def fails(*arguments):
                    raise ZeroDivisionError

                proactor._cache[address] = (future, overlapped, obj, fails)
        near.send(b"x")
        far.send(b"y")
        good.add_done_callback(lambda _: loop.stop())
        loop.run_forever()
        assert good.result() == b"y"
        run_until(loop, bad.done, "the other operation")
        assert isinstance(bad.exception(), ZeroDivisionError)


def test_ctrl_c_within_a_packets_callback_does_not_lose_the_packet(loop):
    proactor = loop._proactor
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        future = proactor.recv(near, 10)
        ((address, (_, overlapped, obj, finish)),) = proactor._cache.items()
        interrupts = [KeyboardInterrupt("in the midst")]

        def interrupted(*arguments):
            if interrupts:
                raise interrupts.pop()
            return finish(*arguments)

        proactor._cache[address] = (future, overlapped, obj, interrupted)
        far.send(b"x")
        with pytest.raises(KeyboardInterrupt, match="in the midst"):
            loop.run_forever()
        assert loop.run_until_complete(future) == b"x"


def test_ctrl_c_before_a_loop_runs_for_the_first_time_is_a_keyboardinterrupt():
    class Loop(iocpx.EventLoop):
        def _set_coroutine_origin_tracking(self, on):
            if interrupts:
                raise interrupts.pop()
            super()._set_coroutine_origin_tracking(on)

    interrupts = [KeyboardInterrupt("at once")]
    with contextlib.closing(Loop()) as loop:
        with pytest.raises(KeyboardInterrupt, match="at once"):
            loop.run_forever()
        assert loop.run_until_complete(asyncio.sleep(0, "goes on")) == "goes on"


# -- run(), the policy -----------------------------------------------------------------------------


def test_run():
    async def main():
        loop = asyncio.get_running_loop()
        return type(loop), loop.get_debug()

    assert iocpx.run(main()) == (iocpx.EventLoop, False)
    assert iocpx.run(main(), debug=True) == (iocpx.EventLoop, True)
    assert iocpx.run(main(), loop_factory=asyncio.ProactorEventLoop)[0] is asyncio.ProactorEventLoop

    async def fails():
        with pytest.raises(RuntimeError, match="cannot be called from a running event loop"):
            iocpx.run(unused)
        unused.close()

    unused = main()
    iocpx.run(fails())


def test_a_program_that_only_serves_does_not_load_the_loop(start_script):
    script = start_script(
        """
import sys, iocpx
server = iocpx.Server(iocpx.native.Echo, "127.0.0.1")
server.start()
server.close()
server.wait_closed()
print(sorted(name for name in sys.modules if name in {"iocpx._event_loop", "iocpx._loop"}))
print(iocpx.EventLoop.__name__, "iocpx._loop" in sys.modules)
"""
    )
    assert script.finish() == (0, ["[]", "EventLoop True"], "")


@pytest.mark.skipif(sys.version_info >= (3, 16), reason="asyncio has no policies any more")
def test_the_policy_and_install():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        before = asyncio.get_event_loop_policy()
    try:
        if sys.version_info >= (3, 12):
            with pytest.warns(DeprecationWarning, match=r"use iocpx\.run\(\)"):
                iocpx.install()
        else:
            iocpx.install()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            assert isinstance(asyncio.get_event_loop_policy(), iocpx.EventLoopPolicy)
        loop = asyncio.new_event_loop()
        assert type(loop) is iocpx.EventLoop
        loop.close()
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            asyncio.set_event_loop_policy(before)


def test_names_that_do_not_exist():
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        iocpx.nothing  # noqa: B018


def test_an_event_that_a_thread_waits_for(loop):
    begun = threading.Event()
    loop.call_soon(begun.set)
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    wait_for_event(begun, "the first callback")
    loop.call_soon_threadsafe(loop.stop)
    thread.join(WAIT_S)
    assert not thread.is_alive()
