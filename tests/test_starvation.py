"""A client that never stops sending has its turns and no more.

Each flood ends only when the others have been served, so what a server makes wait for its end is
found by the limits of the clients' waits; the deadline for closing is too far off to help.
"""

import asyncio
import contextlib
import socket
import threading

import pytest
from clients import echo_rounds
from protocols import Echoing
from waiting import WAIT_S, wait_for_event, wait_until

pytestmark = [
    pytest.mark.once("the turns are the engine's"),
    pytest.mark.slow("keeps the workers busy for seconds"),
]

# When the server gives up on a closed connection, in seconds: later than a client on its answer.
CLOSE_TIMEOUT_S = 2 * WAIT_S

# Some rounds, since a server may look at another client a few times before it is caught.
ROUNDS = 20


class ClosesAtFlood(Echoing):
    def on_data(self, data):
        if b"f" in data:
            self.transport.close()
        else:
            self.transport.write(data)


class SmallBuffer(asyncio.BufferedProtocol):
    """Echoes all but the flood; its buffer is too small for the server ever to catch up."""

    def __init__(self):
        self.buffer = bytearray(64)

    def connection_made(self, transport):
        self.transport = transport

    def get_buffer(self, sizehint):
        return self.buffer

    def buffer_updated(self, nbytes):
        if self.buffer[0] != ord("f"):
            self.transport.write(self.buffer[:nbytes])


@contextlib.contextmanager
def flooding(client):
    """The client sends without a pause for as long as the body runs; then it is closed."""
    data = b"f" * (1 << 20)
    begun, enough = threading.Event(), threading.Event()

    def flood():
        # A server may reset what it has closed.
        with contextlib.suppress(OSError):
            client.sock.sendall(b"f")
            begun.set()
            while not enough.is_set():
                client.sock.sendall(data)
        client.close()

    thread = threading.Thread(target=flood, daemon=True)
    thread.start()
    try:
        wait_for_event(begun, "the first byte of the flood")
        yield
    finally:
        enough.set()
        thread.join()


def test_a_closed_connection_whose_client_keeps_sending_leaves_its_worker_to_the_others(serve):
    served = serve(ClosesAtFlood, workers=1, buffer_size=1024, close_timeout_s=CLOSE_TIMEOUT_S)
    client, protocol = served.open()
    other = served.connect()
    echo_rounds(other, 1)
    with flooding(client):
        protocol.wait_for("data_received")
        echo_rounds(other, ROUNDS)


def test_a_closed_connection_whose_client_keeps_sending_leaves_the_keeper_to_the_others(serve):
    """The worker is in a callback, so the closed connection is the keeper's affair."""
    held, stuck = threading.Event(), threading.Event()
    send_on, leave = threading.Event(), threading.Event()

    class Holds(ClosesAtFlood):
        def on_data(self, data):
            if data == b"hold":
                held.set()
                wait_for_event(send_on, "the sending of the others")
            elif data == b"stick":
                stuck.set()
                leave.wait(2 * WAIT_S)  # longer than the test waits for the keeper
            else:
                super().on_data(data)

    # The timeout is the keeper's to see, and nobody's to meet before the second callback.
    served = serve(
        Holds, workers=1, buffer_size=1024, close_timeout_s=CLOSE_TIMEOUT_S, idle_timeout_s=5
    )
    holding, client, sticking = (served.open()[0] for _ in range(3))
    holding.send(b"hold")
    wait_for_event(held, "the first callback")
    with flooding(client):
        # The worker finds both at once: it serves the flood first, and must leave it half done.
        sticking.send(b"stick")
        send_on.set()
        try:
            wait_for_event(stuck, "the second callback")
            # Not at the client: the end of an aborted connection is the worker's affair.
            wait_until(
                lambda: served.stats()["aborts_by_reason"]["idle_timeout"] > 0,
                "the abort of a silent connection",
            )
        finally:
            leave.set()


def test_a_buffer_that_is_always_filled_leaves_its_worker_to_the_others(serve):
    served = serve(SmallBuffer, workers=1, close_timeout_s=CLOSE_TIMEOUT_S)
    other = served.connect()
    echo_rounds(other, 1)
    with flooding(served.connect()):
        # The client is far ahead by now: the buffer will be filled every time.
        wait_until(lambda: served.stats()["bytes_received"] > 1 << 18, "the flood")
        echo_rounds(other, ROUNDS)


class Source(asyncio.Protocol):
    """Writes whenever it may, so that its queue is always full."""

    block = bytes(65536)

    def __init__(self):
        self.paused = False
        self.received = b""
        self.got_data = threading.Event()
        self.got_eof = threading.Event()

    def connection_made(self, transport):
        self.transport = transport
        self.fill()

    def fill(self):
        while not self.paused and not self.transport.is_closing():
            self.transport.write(self.block)

    def pause_writing(self):
        self.paused = True

    def resume_writing(self):
        self.paused = False
        self.fill()

    def data_received(self, data):
        self.received += data
        self.got_data.set()

    def eof_received(self):
        self.got_eof.set()


@contextlib.contextmanager
def draining(client):
    """The client takes what comes, without a pause, as long as the body runs; then it goes."""
    enough = threading.Event()

    def drain():
        with contextlib.suppress(OSError):
            while not enough.is_set() and client.sock.recv(1 << 20):
                pass

    thread = threading.Thread(target=drain, daemon=True)
    thread.start()
    try:
        yield
    finally:
        enough.set()
        thread.join()
        client.reset()


def test_a_protocol_that_writes_whenever_it_may_hears_its_client(serve):
    protocol = Source()
    served = serve(lambda: protocol)
    client = served.connect()
    with draining(client):
        client.sock.sendall(b"stop")
        wait_for_event(protocol.got_data, "what the client says while it is sent to")
        client.sock.shutdown(socket.SHUT_WR)
        wait_for_event(protocol.got_eof, "the end of the client's stream")
    assert protocol.received == b"stop"


def test_a_protocol_that_writes_until_it_is_paused_leaves_its_worker_to_the_others(serve):
    classes = iter((Source, Echoing))

    def factory():
        return next(classes)()

    served = serve(factory, workers=1)
    client = served.connect()
    with draining(client):
        other = served.connect()
        echo_rounds(other, ROUNDS)


class Pushing(asyncio.Protocol):
    """Whoever comes first is answered; every message of the others is echoed, and pushed to it."""

    first = None

    def connection_made(self, transport):
        self.transport = transport
        if Pushing.first is None:
            Pushing.first = self

    def data_received(self, data):
        if self is Pushing.first:
            self.transport.write(b"R" * len(data))
        else:
            self.transport.write(data)
            for _ in range(4):
                Pushing.first.transport.write(b".")


@contextlib.contextmanager
def talking(clients):
    """The clients exchange messages without a pause for as long as the body runs."""
    enough = threading.Event()

    def talk(client):
        while not enough.is_set():
            echo_rounds(client, 1)

    threads = [threading.Thread(target=talk, args=(client,), daemon=True) for client in clients]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        enough.set()
        for thread in threads:
            thread.join()


def test_a_connection_that_others_write_to_all_the_time_is_read(serve):
    Pushing.first = None
    served = serve(Pushing, workers=1)
    client = served.connect()
    client.sock.sendall(b"q")
    assert client.sock.recv(1) == b"R"
    others = [served.connect() for _ in range(8)]
    with talking(others):
        for _ in range(ROUNDS):
            client.sock.sendall(b"q")
            while b"R" not in client.sock.recv(1 << 16):
                pass
