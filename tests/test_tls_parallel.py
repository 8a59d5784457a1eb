"""TLS in several threads at once: two connections of one server, loops in threads of their own, and
many threads that write to one connection. Where there is no GIL it is shown that they run Python at
the same moment.
"""

import asyncio
import concurrent.futures
import contextlib
import ctypes
import gc
import ssl
import sys
import sysconfig
import threading

import pytest
import tls_loops
from payload import assert_same_bytes, pattern, pieces
from protocols import Echoing, Recording
from tls_loops import Echo, Peer, pair
from tls_peers import client_context, server_context
from waiting import WAIT_S, run_together

import iocpx

told = tls_loops.told

without_gil = pytest.mark.skipif(
    not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this Python has a GIL always"
)


class Meeting:
    """Where two threads wait for each other in calls that keep the GIL, where there is one, until
    they return."""

    def __init__(self):
        self.kernel32 = ctypes.PyDLL("kernel32")
        self.kernel32.CreateEventW.restype = ctypes.c_void_p
        self.kernel32.SetEvent.argtypes = self.kernel32.CloseHandle.argtypes = [ctypes.c_void_p]
        self.kernel32.WaitForSingleObject.argtypes = [ctypes.c_void_p, ctypes.c_ulong]
        self.events = [self.kernel32.CreateEventW(None, False, False, None) for _ in range(2)]

    def meet(self, mine):
        """Number 0 and number 1 come here; the other one is here as well."""
        self.kernel32.SetEvent(self.events[mine])
        assert self.kernel32.WaitForSingleObject(self.events[1 - mine], WAIT_S * 1000) == 0
        assert sys._is_gil_enabled() is False

    def close(self):
        for event in self.events:
            self.kernel32.CloseHandle(event)


@pytest.fixture
def meeting():
    # The collector would stop all threads, and wait for one that waits for another.
    gc.disable()
    try:
        with contextlib.closing(Meeting()) as meeting:
            yield meeting
    finally:
        gc.enable()


@without_gil
def test_two_connections_are_in_their_callbacks_at_once_without_a_gil(serve_tls, meeting):
    class Meets(Echoing):
        def on_data(self, data):
            meeting.meet(int(data))
            super().on_data(data)

    served = serve_tls(Meets, workers=2)
    clients = [served.connect() for _ in range(2)]
    for _ in range(10):
        for number, client in enumerate(clients):
            client.send(b"%d" % number)
        assert [client.read_exactly(1) for client in clients] == [b"0", b"1"]


@without_gil
@pytest.mark.parametrize("method", ["read", "write"])
def test_two_connections_are_in_their_tls_at_once_without_a_gil(serve_tls, meeting, method):
    numbers = iter(range(2))
    numbering = threading.Lock()

    class Meets(ssl.SSLObject):
        """Each meets the other in its first call of the method."""

        met = False

    def meets(self, *args):
        result = getattr(ssl.SSLObject, method)(self, *args)
        if not self.met:
            self.met = True
            with numbering:
                number = next(numbers)
            meeting.meet(number)
        return result

    setattr(Meets, method, meets)
    context = server_context()
    context.sslobject_class = Meets
    served = serve_tls(Echoing, context=context, workers=2)

    def exchange(seed):
        data = pattern(200_000, seed)
        with served.new_client(served.server.address) as client:
            assert_same_bytes(client.exchange(pieces(data, 20, seed)), data)

    run_together(lambda: exchange(1), lambda: exchange(2))


def test_many_threads_write_to_one_connection_while_it_echoes(serve_tls):
    """Each thread's writes come in its order, each whole, among those of the others."""
    threads, writes, size = 4, 60, 2000
    served = serve_tls(Recording, client=client_context("1.3"), workers=2)
    client, protocol = served.open()
    start = threading.Barrier(threads + 1, timeout=WAIT_S)
    up = pattern(500_000)
    got = []

    def block(thread, number):
        return bytes([thread]) + number.to_bytes(2, "big") + pattern(size - 3, thread)

    def write(thread):
        blocks = [block(thread, number) for number in range(writes)]
        start.wait()
        for number, data in enumerate(blocks):
            if number % 3:
                protocol.transport.write(data)
            else:
                protocol.transport.writelines([data[:700], data[700:]])

    def send():
        start.wait()
        client.send(up)

    run_together(
        *(lambda thread=thread: write(thread) for thread in range(threads)),
        send,
        lambda: got.append(client.read_exactly(threads * writes * size)),
    )
    came = [got[0][at : at + size] for at in range(0, len(got[0]), size)]
    for thread in range(threads):
        wanted = [block(thread, number) for number in range(writes)]
        assert [data for data in came if data[0] == thread] == wanted
    protocol.wait_for_data(len(up))
    assert_same_bytes(bytes(protocol.received), up)


def run_each(*mains):
    """Run each on a loop of its own, in a thread of its own, all at once."""
    complaints = []

    def run(main):
        loop = iocpx.new_event_loop()
        loop.set_exception_handler(lambda _, context: complaints.append(context))
        try:
            loop.run_until_complete(asyncio.wait_for(main(), WAIT_S))
        finally:
            loop.close()

    with concurrent.futures.ThreadPoolExecutor(len(mains)) as pool:
        for future in [pool.submit(run, main) for main in mains]:
            future.result(2 * WAIT_S)
    assert complaints == []


def test_a_loop_per_thread_with_tls(told):
    start = threading.Barrier(3, timeout=WAIT_S)

    async def main(seed):
        async with pair(Echo) as (_, client):
            start.wait()
            for turn in range(5):
                data = pattern(100_000, seed + turn)
                for part in pieces(data, 10, seed):
                    client.transport.write(part)
                await client.until(lambda data=data: len(client.received) == len(data))
                assert_same_bytes(client.received, data)
                client.received.clear()

    run_each(*(lambda seed=seed: main(seed) for seed in (10, 20, 30)))


@without_gil
def test_two_loops_are_in_callbacks_of_tls_at_once_without_a_gil(told, meeting):
    class Meets(Echo):
        def data_received(self, data):
            if data != b"ready":
                meeting.meet(int(data))
            super().data_received(data)

    start = threading.Barrier(2, timeout=WAIT_S)

    async def main(number):
        async with pair(Meets, Peer) as (_, client):
            client.transport.write(b"ready")
            await client.until(lambda: client.received == b"ready")
            # What is done for the first time may stop all threads, as the collector does.
            start.wait()
            for turn in range(10):
                client.transport.write(b"%d" % number)
                await client.until(lambda turn=turn: len(client.received) == 6 + turn)
            start.wait()

    run_each(lambda: main(0), lambda: main(1))
