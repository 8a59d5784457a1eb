"""What an object needs to be a protocol, and how the server finds its callbacks.

They are looked up on each call, as asyncio does it; nothing that an object says of itself makes
more trouble than to its own connection.
"""

import asyncio
import contextlib
import warnings

import pytest
from payload import MORE_THAN_THE_KERNEL_TAKES, assert_same_bytes, pattern
from process import collect
from protocols import CountingSent, Echoing, Recording, RecordingBuffered, in_turn

REPLY = pattern(MORE_THAN_THE_KERNEL_TAKES)


class Broken(Exception):
    pass


# -- looked up on each call


class Relays(Echoing):
    """Replaces its own callback after a greeting, as some public protocols do."""

    def on_data(self, data):
        self.data_received = self.relay
        self.transport.write(b"hello")

    def relay(self, data):
        self.transport.write(b"relayed " + data)


def test_a_protocol_may_replace_its_own_data_received(serve):
    client, _ = serve(Relays).open()
    assert client.exchange([b"greeting"], size=5) == b"hello"
    client.send(b"this")
    assert client.read_exactly(12) == b"relayed this"


def test_a_replaced_method_of_a_class_is_noticed(serve, monkeypatch):
    class Patched(Echoing):
        def reply(self, data):
            self.transport.write(b"patched")

    client, _ = serve(Patched).open()
    assert client.exchange([b"before"]) == b"before"
    monkeypatch.setattr(Patched, "data_received", Patched.reply)
    client.send(b"after")
    assert client.read_exactly(7) == b"patched"


class RelaysBuffered(RecordingBuffered):
    """Replaces both of its callbacks between the parts of what came in one piece."""

    room = 10

    def on_data(self, data):
        self.small = bytearray(3)
        self.parts = []
        self.get_buffer = lambda sizehint: self.small
        self.buffer_updated = lambda nbytes: self.take(bytes(self.small[:nbytes]))

    def take(self, part):
        self.parts.append(part)
        self.transport.write(part)


def test_a_buffered_protocol_may_replace_its_own_callbacks(serve):
    client, protocol = serve(RelaysBuffered).open()
    client.send(pattern(21))
    assert client.read_exactly(11) == pattern(21)[10:]
    assert all(len(part) <= 3 for part in protocol.parts)


def test_a_callback_that_is_taken_away_is_a_failure_of_its_connection(serve):
    class Loses(Echoing):
        def on_data(self, data):
            self.data_received = None

    served = serve(in_turn(Loses, Echoing))
    client, protocol = served.open()
    client.send(b"first")
    protocol.wait_for("data_received")
    client.send(b"second")
    protocol.wait_for("connection_lost")
    context = served.take_error()
    assert "data_received" in context["message"]
    assert isinstance(context["exception"], TypeError)
    served.assert_serving()


# -- data_sent is asked for by a method of that name


class CountsOnItself(Echoing):
    """Has a counter of that name, and never heard of the callback."""

    def __init__(self):
        super().__init__()
        self.data_sent = 0

    def on_data(self, data):
        self.data_sent += len(data)
        self.transport.write(data)


class CountsOnClass(Echoing):
    data_sent = 0


class Asked(Echoing):
    @property
    def data_sent(self):
        raise Broken("nobody should ask")


class Descriptor:
    def __get__(self, instance, owner):
        raise Broken("nobody should ask")


class AskedOnClass(Echoing):
    data_sent = Descriptor()


class Meta(type):
    def __getattr__(cls, name):
        raise Broken(f"nobody should ask for {name}")


class AskedOnMetaclass(Echoing, metaclass=Meta):
    pass


@pytest.mark.parametrize(
    "protocol_class", [CountsOnItself, CountsOnClass, Asked, AskedOnClass, AskedOnMetaclass]
)
def test_what_is_no_method_data_sent_is_left_alone(serve, protocol_class):
    client, _ = serve(protocol_class).open()
    assert client.exchange([b"one", b"two"]) == b"onetwo"
    client.half_close()
    assert client.read_to_end() == b""


class Inherits(CountingSent):
    pass


def test_an_inherited_data_sent_is_called(serve):
    client, protocol = serve(Inherits).open()
    protocol.transport.write(b"data")
    assert client.read_exactly(4) == b"data"
    protocol.wait_until(lambda: protocol.finished["sent"] == 4, "data_sent for 4 bytes")


# -- objects that are asked and raise


class Proxy:
    """Stands for another protocol, and raises Broken for what that one does not have."""

    def __init__(self, protocol):
        self.__dict__["protocol"] = protocol

    def __getattr__(self, name):
        try:
            return getattr(self.__dict__["protocol"], name)
        except AttributeError:
            raise Broken(f"no {name}") from None

    def __repr__(self):
        raise Broken("repr")

    def __eq__(self, other):
        raise Broken("eq")

    def __bool__(self):
        raise Broken("bool")

    __hash__ = None


class ProxyWithoutClass(Proxy):
    @property
    def __class__(self):
        raise Broken("__class__")


@pytest.mark.parametrize("proxy_class", [Proxy, ProxyWithoutClass])
def test_a_proxy_that_raises_for_what_it_lacks_is_a_protocol(serve, proxy_class):
    protocols = []

    def factory():
        protocols.append(Echoing())
        return proxy_class(protocols[-1])

    served = serve(factory)
    with served.connect() as client:
        data = pattern(300_000)
        assert_same_bytes(client.exchange([data]), data)
        client.half_close()
        assert client.read_to_end() == b""
    protocols[0].wait_for("connection_lost")
    protocols[0].check()


def test_a_proxy_of_a_buffered_protocol_is_one(serve):
    """isinstance() believes __class__, as asyncio does."""

    class Claims(Proxy):
        @property
        def __class__(self):
            return RecordingBuffered

    protocols = []

    def factory():
        protocols.append(RecordingBuffered())
        return Claims(protocols[-1])

    with serve(factory).connect() as client:
        client.send(b"data")
        client.half_close()
        assert client.read_to_end() == b""
    protocols[0].wait_for("connection_lost")
    assert protocols[0].received == b"data"
    assert "buffer_updated" in protocols[0].events


class RaisesForAll:
    def __getattr__(self, name):
        raise Broken(name)

    def __repr__(self):
        raise Broken("repr")


@pytest.mark.parametrize(
    "made", [lambda: None, lambda: 3, object, RaisesForAll, asyncio.BaseProtocol]
)
def test_what_is_no_protocol_is_refused_and_said_so(serve, made):
    served = serve(in_turn(made, Echoing))
    assert served.connect_in_vain() == b""
    context = served.take_error()
    with pytest.raises(TypeError, match=r"data_received\(\).*get_buffer\(\).*buffer_updated\(\)"):
        raise context["exception"]
    assert "raised" not in context["message"], "the factory has raised nothing"
    assert "protocol_factory" in context["message"] and "returned no protocol" in context["message"]
    served.assert_serving()


def test_set_protocol_refuses_what_is_none_and_changes_nothing(serve):
    client, protocol = serve(Echoing).open()
    for wrong in (None, object(), RaisesForAll(), asyncio.BaseProtocol()):
        with pytest.raises(TypeError, match="data_received"):
            protocol.transport.set_protocol(wrong)
    assert protocol.transport.get_protocol() is protocol
    assert client.exchange([b"still the first"]) == b"still the first"


# -- what may be absent


class DataAlone:
    """The least that a protocol may have."""

    def __init__(self, heard):
        self.heard = heard

    def data_received(self, data):
        self.heard(data)


def test_a_protocol_without_the_other_callbacks_is_served(serve):
    heard = bytearray()
    served = serve(lambda: DataAlone(heard.extend))
    with served.connect() as client:
        client.send(b"data")
        client.half_close()
        assert client.read_to_end() == b"", "without eof_received the end is answered by the end"
    assert heard == b"data"


class BufferAlone:
    def __init__(self):
        self.buffer = bytearray(100)

    def connection_made(self, transport):
        self.transport = transport

    def get_buffer(self, sizehint):
        return self.buffer

    def buffer_updated(self, nbytes):
        self.transport.write(self.buffer[:nbytes])


class BufferWithBase(BufferAlone, asyncio.BaseProtocol):
    pass


@pytest.mark.parametrize("protocol_class", [BufferAlone, BufferWithBase])
def test_the_two_methods_of_a_buffered_protocol_are_enough(serve, protocol_class):
    with serve(protocol_class).connect() as client:
        data = pattern(10_000)
        assert_same_bytes(client.exchange([data]), data)


def test_with_data_received_and_no_base_class_it_is_no_buffered_protocol(serve):
    class Both(Echoing):
        def get_buffer(self, sizehint):
            raise Broken("not asked for")

        def buffer_updated(self, nbytes):
            raise Broken("not asked for")

    client, _ = serve(Both).open()
    assert client.exchange([b"data"]) == b"data"


# -- async def


class Plain:
    """Every callback that asyncio has, and data_sent; says hello."""

    def __init__(self):
        self.heard = []

    def connection_made(self, transport):
        self.transport = transport
        transport.write(b"hello")

    def data_received(self, data):
        self.heard.append(data)

    def eof_received(self):
        return False

    def data_sent(self, nbytes):
        pass

    def connection_lost(self, exc):
        pass


class PlainBuffered(asyncio.BufferedProtocol):
    def get_buffer(self, sizehint):
        return bytearray(100)


async def coroutine(*_):
    raise AssertionError("nobody awaits this")


async def generator(*_):
    yield
    raise AssertionError("nobody iterates over this")


@pytest.mark.parametrize("kind", [coroutine, generator])
@pytest.mark.parametrize(
    "name, base",
    [
        ("connection_made", Plain),
        ("data_received", Plain),
        ("eof_received", Plain),
        ("data_sent", Plain),
        ("connection_lost", Plain),
        ("get_buffer", PlainBuffered),
        ("buffer_updated", PlainBuffered),
    ],
)
def test_an_async_callback_is_refused(serve, name, base, kind):
    served = serve(in_turn(type("Async", (base,), {name: kind}), Echoing))
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        # OSError: Windows may have no connection any more that could be half-closed.
        with contextlib.suppress(OSError), served.connect() as client:
            client.send_until_refused(b"data")
            client.half_close()
            client.read_until_gone()
        context = served.take_error()
        collect()
    assert [str(warning.message) for warning in warned] == [], "it was never awaited: said already"
    with pytest.raises(TypeError, match=rf"{name}\(\).*async def"):
        raise context["exception"]
    assert name in context["message"]
    served.assert_serving()


@pytest.mark.parametrize("name", ["pause_writing", "resume_writing"])
def test_an_async_flow_control_callback_is_told_of(serve, name):
    class Fills(Recording):
        def on_data(self, data):
            self.transport.write(REPLY)

        def check(self):
            pass

    served = serve(type("Async", (Fills,), {name: coroutine}))
    client = served.connect()
    client.send(b"go")
    assert_same_bytes(client.read_exactly(len(REPLY)), REPLY)
    with pytest.raises(TypeError, match=rf"{name}\(\).*async def"):
        raise served.take_error()["exception"]


def test_an_async_factory_is_refused(serve):
    # By a function that is none itself: an async def is refused as an argument.
    served = serve(in_turn(lambda: coroutine(None), Echoing))
    assert served.connect_in_vain() == b""
    with pytest.raises(TypeError, match=r"protocol_factory\(\).*async def"):
        raise served.take_error()["exception"]
    served.assert_serving()


class Odd(type):
    def __getattribute__(cls, name):
        raise Broken(name)


class NoTruth(metaclass=Odd):
    """What a callback returned; nothing may be asked of it."""

    def __bool__(self):
        raise Broken("bool")

    def __getattribute__(self, name):
        raise Broken(name)


class ReturnsOddThings(Recording):
    """Every callback returns what cannot be asked for anything."""

    def connection_made(self, transport):
        super().connection_made(transport)
        return NoTruth()

    def data_received(self, data):
        super().data_received(data)
        self.transport.write(REPLY)
        return NoTruth()

    def data_sent(self, nbytes):
        return NoTruth()

    def pause_writing(self):
        super().pause_writing()
        return NoTruth()

    def resume_writing(self):
        super().resume_writing()
        return NoTruth()

    def connection_lost(self, exc):
        super().connection_lost(exc)
        return NoTruth()


def test_what_a_callback_returns_does_not_matter(serve):
    client, protocol = serve(ReturnsOddThings).open()
    client.send(b"go")
    protocol.wait_for("pause_writing")
    assert_same_bytes(client.read_exactly(len(REPLY)), REPLY)
    protocol.wait_for("resume_writing")
    client.half_close()
    assert client.read_to_end() == b""
    protocol.wait_for("connection_lost")
    assert protocol.lost_with is None


def test_what_buffer_updated_returns_does_not_matter(serve):
    class Returns(RecordingBuffered):
        def buffer_updated(self, nbytes):
            super().buffer_updated(nbytes)
            return NoTruth()

    client, protocol = serve(Returns).open()
    client.send(b"data")
    protocol.wait_for_data(4)
    client.half_close()
    assert client.read_to_end() == b""


def test_a_truth_of_eof_received_that_raises_is_a_failure_of_it(serve):
    class Undecided(Recording):
        def on_eof(self):
            return NoTruth()

    served = serve(Undecided)
    client, protocol = served.open()
    client.half_close()
    protocol.wait_for("connection_lost")
    context = served.take_error()
    assert isinstance(context["exception"], Broken)
    assert "eof_received" in context["message"]
    assert protocol.lost_with is context["exception"]
