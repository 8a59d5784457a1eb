"""TLS in several threads at once: two connections of one server, loops in threads of their own, and
many threads that write to one connection. On a Python without a GIL none may come back.
"""

import asyncio
import concurrent.futures
import ssl
import sys
import sysconfig
import threading
import typing

import pytest
import tls_loops
from payload import assert_same_bytes, pattern, pieces
from protocols import Echoing, Recording
from tls_loops import Echo, Peer, pair
from tls_peers import client_context, server_context
from waiting import WAIT_S, run_together

import iocpx

told = tls_loops.told

FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


class Meeting:
    """Where two threads are inside of their calls at the same moment, or it fails."""

    def __init__(self):
        self._barrier = threading.Barrier(2, timeout=WAIT_S)

    def meet(self):
        self._barrier.wait()
        # Where there is no GIL both run Python from here on.
        assert not (FREE_THREADED and sys._is_gil_enabled())


@pytest.fixture
def meeting():
    return Meeting()


def test_two_connections_are_in_their_callbacks_at_once(serve_tls, meeting):
    class Meets(Echoing):
        def on_data(self, data):
            meeting.meet()
            super().on_data(data)

    served = serve_tls(Meets, workers=2)
    clients = [served.connect() for _ in range(2)]
    for _ in range(10):
        for number, client in enumerate(clients):
            client.send(b"%d" % number)
        assert [client.read_exactly(1) for client in clients] == [b"0", b"1"]


@pytest.mark.parametrize("method", ["read", "write"])
def test_two_connections_are_in_their_tls_at_once(serve_tls, meeting, method):
    class Meets(ssl.SSLObject):
        """Each meets the other in its first call of the method."""

        met = False

    def meets(self, *args):
        result = getattr(ssl.SSLObject, method)(self, *args)
        if not self.met:
            self.met = True
            meeting.meet()
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


class OneAtATime(ssl.SSLObject):
    """Keeps in `broken` where a thread came in while another one was inside."""

    broken: typing.ClassVar[list] = []


def alone(name):
    method = getattr(ssl.SSLObject, name)

    def call(self, *args):
        inside = self.__dict__.setdefault("inside", threading.Lock())
        if not inside.acquire(blocking=False):
            self.broken.append(name)
            return method(self, *args)
        try:
            return method(self, *args)
        finally:
            inside.release()

    return call


for name in ("do_handshake", "read", "write", "unwrap"):
    setattr(OneAtATime, name, alone(name))


def test_many_threads_write_to_one_connection_while_it_echoes(serve_tls):
    """Each thread's writes come in its order, each whole, among those of the others."""
    threads, writes, size = 4, 60, 2000
    context = server_context()
    context.sslobject_class = OneAtATime
    served = serve_tls(Recording, context=context, client=client_context("1.3"), workers=2)
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
    assert isinstance(protocol.transport.get_extra_info("ssl_object"), OneAtATime)
    assert OneAtATime.broken == []


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
                await client.until(lambda data=data: client.kept_bytes == len(data))
                assert_same_bytes(client.received, data)
                client.forget()

    run_each(*(lambda seed=seed: main(seed) for seed in (10, 20, 30)))


def test_two_loops_are_in_callbacks_of_tls_at_once(told, meeting):
    class Meets(Echo):
        def data_received(self, data):
            if data != b"ready":
                meeting.meet()
            super().data_received(data)

    start = threading.Barrier(2, timeout=WAIT_S)

    async def main(number):
        async with pair(Meets, Peer) as (_, client):
            client.transport.write(b"ready")
            await client.until(lambda: client.received == b"ready")
            start.wait()
            for turn in range(10):
                client.transport.write(b"%d" % number)
                await client.until(lambda turn=turn: client.kept_bytes == 6 + turn)
            start.wait()

    run_each(lambda: main(0), lambda: main(1))
