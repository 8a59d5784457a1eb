"""The connection as an object: what it says of itself, its protocol, and its use after the end.

Reading, writing and closing have files of their own.
"""

import asyncio
import os
import socket
import sys
import threading
import weakref

import pytest
from payload import assert_same_bytes, pattern
from process import collect
from protocols import Echoing, Plain, Recording
from waiting import run_together

import iocpx


def test_a_connection_has_every_method_of_an_asyncio_transport(serve):
    _, protocol = serve(Recording).open()
    assert isinstance(protocol.transport, iocpx.Connection)
    methods = {name for name in dir(asyncio.Transport) if not name.startswith("_")}
    assert {"write", "close", "pause_reading", "get_extra_info"} <= methods
    missing = [name for name in methods if not callable(getattr(protocol.transport, name, None))]
    assert missing == []


def test_a_connection_is_no_instance_of_asyncios_class_and_says_so():
    assert not issubclass(iocpx.Connection, asyncio.BaseTransport)
    assert "is no instance" in iocpx.Connection.__doc__


def test_connections_can_be_kept_in_a_weak_set(serve):
    served = serve(Plain)
    known = weakref.WeakSet()
    with served.connect() as client:
        client.exchange([b"echo"])
        known.add(served.server.connections[0])
        collect()
        assert len(known) == 1, "the server refers to an open connection"
        assert next(iter(known)).get_extra_info("peername") == client.address
    served.finish()
    collect()
    assert len(known) == 0


def test_weak_references_are_asked_while_connections_end(serve):
    """On a free-threaded Python one thread may ask while another one drops the last reference."""
    served = serve(Plain, workers=4)
    known, done = [], threading.Event()

    def ask():
        while not done.is_set():
            for ref in known[-4:]:
                connection = ref()
                if connection is not None:
                    connection.write(b"")
                    connection.is_closing()

    def come_and_go():
        try:
            for _ in range(50):
                with served.connect() as client:
                    client.exchange([b"echo"])
                    known.extend(map(weakref.ref, served.server.connections))
        finally:
            done.set()

    # With a GIL, the threads change as often as can be.
    interval = sys.getswitchinterval()
    sys.setswitchinterval(0.0001)
    try:
        run_together(ask, ask, come_and_go)
    finally:
        sys.setswitchinterval(interval)
    served.finish()
    collect()
    assert len(known) >= 50
    assert [ref for ref in known if ref() is not None] == []


def test_a_connection_cannot_be_made_by_hand():
    with pytest.raises(TypeError, match="Server"):
        iocpx.Connection()


def test_peername_and_sockname_are_the_ends_of_the_connection(serve):
    client, protocol = serve(Recording).open()
    assert protocol.transport.get_extra_info("peername") == client.sock.getsockname()
    assert protocol.transport.get_extra_info("sockname") == client.sock.getpeername()


def test_unknown_extra_info_is_the_default(serve):
    _, protocol = serve(Recording).open()
    assert protocol.transport.get_extra_info("sslcontext") is None
    assert protocol.transport.get_extra_info("sslcontext", "nothing") == "nothing"
    assert protocol.transport.get_extra_info("peername", "nothing") != "nothing"


def test_the_socket_of_a_connection_can_be_asked(serve):
    client, protocol = serve(Recording).open()
    sock = protocol.transport.get_extra_info("socket")
    assert sock.family == socket.AF_INET
    assert sock.type == socket.SOCK_STREAM
    assert sock.getsockname() == client.sock.getpeername()
    assert sock.getpeername() == client.sock.getsockname()


def test_the_socket_of_a_connection_can_be_set(serve):
    _, protocol = serve(Recording).open()
    sock = protocol.transport.get_extra_info("socket")
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0, (
        "small answers must not wait for an ACK"
    )
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 0


@pytest.mark.skipif(sys.platform != "win32", reason="handles are inherited on Windows alone")
def test_the_socket_of_a_connection_is_not_inherited_by_children(serve):
    _, protocol = serve(Recording).open()
    assert os.get_handle_inheritable(protocol.transport.get_extra_info("socket").fileno()) is False


def test_a_connection_knows_its_protocol(serve):
    _, protocol = serve(Recording).open()
    assert protocol.transport.get_protocol() is protocol


class Second(Recording):
    told_of_connection = False


class ReplacedAtFirstData(Recording):
    def __init__(self):
        super().__init__()
        self.second = Second()

    def on_data(self, data):
        self.transport.set_protocol(self.second)
        self.transport.write(b"replaced")

    def check(self):
        # Its life ends with set_protocol(); the second one's must be in order instead.
        assert self.events == ["connection_made", "data_received"], self.events
        self.second.check()


def test_a_new_protocol_gets_everything_from_then_on(serve):
    client, protocol = serve(ReplacedAtFirstData).open()
    client.send(b"for the first")
    assert client.read_exactly(8) == b"replaced"
    assert protocol.transport.get_protocol() is protocol.second
    client.send(b"for the second")
    protocol.second.wait_for_data(14)
    client.half_close()
    protocol.second.wait_for("connection_lost")
    assert protocol.received == b"for the first"
    assert protocol.second.received == b"for the second"
    assert protocol.second.events[-2:] == ["eof_received", "connection_lost"]


def test_a_new_protocol_can_be_set_from_another_thread(serve):
    served = serve(Replaceable)
    client, protocol = served.open()
    client.exchange([b"first"])
    protocol.transport.set_protocol(protocol.second)
    client.send(b"second")
    protocol.second.wait_for_data(6)
    client.close()
    protocol.second.wait_for("connection_lost")
    assert protocol.second.received == b"second"


class Replaceable(Echoing):
    def __init__(self):
        super().__init__()
        self.second = Second()

    def check(self):
        assert self.events == ["connection_made", "data_received"], self.events
        self.second.check()


class WithoutTheRest:
    """Has what every protocol needs and none of the callbacks that may be absent."""

    def __init__(self):
        self.received = b""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.received += data
        self.transport.write(data)

    def eof_received(self):
        pass

    def connection_lost(self, exc):
        pass


def test_a_protocol_need_not_derive_from_asyncio(serve):
    served = serve(WithoutTheRest)
    data = pattern(300_000)
    client = served.connect()
    assert_same_bytes(client.exchange([data]), data)
    client.half_close()
    assert client.read_to_end() == b""


def test_a_connection_that_is_gone_bears_every_call(serve):
    client, protocol = serve(Recording).open()
    peer = client.address
    client.close()
    protocol.wait_for("connection_lost")
    gone = protocol.transport
    assert gone.is_closing() is True
    assert gone.is_reading() is False
    for _ in range(10):
        gone.write(b"too late")
        gone.writelines([b"too", b"late"])
    gone.pause_reading()
    gone.resume_reading()
    gone.close()
    gone.abort()
    gone.set_write_buffer_limits(high=10)
    assert gone.get_write_buffer_size() == 0
    assert gone.get_extra_info("peername") == peer
    assert gone.get_protocol() is protocol


def test_a_connection_outlives_its_server_object(serve):
    served = serve(Recording)
    client, protocol = served.open()
    client.close()
    protocol.wait_for("connection_lost")
    served.finish()
    served.server = iocpx.Server(Recording)
    collect()
    protocol.transport.write(b"too late")
    protocol.transport.close()
    assert protocol.transport.get_write_buffer_size() == 0
    assert repr(protocol.transport)


def test_a_finished_connection_keeps_its_protocol_no_longer_alive(serve):
    alive = []

    def factory():
        protocol = Plain()
        alive.append(weakref.ref(protocol))
        return protocol

    served = serve(factory)
    for _turn in range(20):
        with served.connect() as client:
            client.exchange([b"echo"])
            client.half_close()
            client.read_to_end()
    served.finish()
    collect()
    assert len(alive) == 20
    assert [ref for ref in alive if ref() is not None] == []


def test_a_connection_says_what_it_is(serve):
    _, protocol = serve(Recording).open()
    assert "Connection" in repr(protocol.transport)


def test_calls_from_many_threads_at_once_do_no_harm(serve):
    served = serve(Echoing)
    client, protocol = served.open()
    transport = protocol.transport

    def read_everything():
        for _ in range(200):
            transport.get_write_buffer_size()
            transport.get_write_buffer_limits()
            transport.get_extra_info("peername")
            transport.is_closing()
            transport.is_reading()
            transport.get_protocol()
            assert served.server.connection_count == 1
            served.stats()

    def pause_and_resume():
        for _ in range(200):
            transport.pause_reading()
            transport.resume_reading()

    data = pattern(400_000)
    replies = []
    run_together(
        read_everything,
        read_everything,
        pause_and_resume,
        lambda: replies.append(client.exchange(pieces_of(data))),
    )
    assert_same_bytes(replies[0], data)


def pieces_of(data):
    return [data[i : i + 1000] for i in range(0, len(data), 1000)]
