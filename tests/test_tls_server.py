"""The threaded server's TLS: data, marks, both sides' ends, and what can be asked."""

import contextlib
import ssl
import threading
import typing

import pytest
from payload import MORE_THAN_THE_KERNEL_TAKES, assert_same_bytes, pattern, pieces
from protocols import (
    CountingSent,
    Echoing,
    EchoingBuffered,
    PausesOften,
    Recording,
    RecordingBuffered,
)
from tls_peers import CERTIFICATE, OTHER, TlsClient, client_context, server_context
from waiting import (
    WAIT_S,
    clock,
    run_together,
    wait_for_event,
    wait_for_figure,
    wait_until,
    wait_until_gone,
)

MB = 1 << 20
SIZES = [0, 1, 64, 1000, 16384, 16385, 300_000, 3_000_000]


@pytest.fixture(params=["1.2", "1.3"])
def version(request):
    return request.param


def read_all(client):
    """Everything up to close_notify, and ours after it."""
    data = client.read_to_end()
    client.unwrap()
    return data


# -- data


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("protocol", [Echoing, EchoingBuffered])
def test_an_echo_comes_back(serve_tls, version, protocol, size):
    client, made = serve_tls(protocol, client=client_context(version)).open()
    data = pattern(size)
    assert_same_bytes(client.exchange([data]), data)
    assert_same_bytes(bytes(made.received), data)
    assert client.tls.version() == f"TLSv{version}"


@pytest.mark.parametrize("protocol", [Echoing, EchoingBuffered])
def test_an_echo_in_many_pieces_comes_back(serve_tls, version, protocol):
    client, _ = serve_tls(protocol, client=client_context(version)).open()
    data = pattern(400_000)
    assert_same_bytes(client.exchange(pieces(data, 300)), data)


def test_records_that_come_a_byte_at_a_time_are_taken(serve_tls, version):
    client, protocol = serve_tls(Echoing, client=client_context(version)).open()
    cipher = client.encrypt(b"first") + client.encrypt(b"second")
    for place in range(len(cipher)):
        client.send_raw(cipher[place : place + 1])
    assert client.read_exactly(11) == b"firstsecond"
    assert protocol.received == b"firstsecond"


class Pieces(Recording):
    """Keeps how many bytes each call had."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def on_data(self, data):
        self.sizes.append(len(data))


def test_records_that_came_together_are_told_in_one_call(serve_tls, version):
    client, protocol = serve_tls(Pieces, client=client_context(version)).open()
    client.send_raw(b"".join(client.encrypt(pattern(size)) for size in (1, 700, 30)))
    protocol.wait_for_data(731)
    assert protocol.sizes == [731]


def test_no_call_has_more_than_a_bounded_part_of_a_burst(serve_tls, version):
    client, protocol = serve_tls(Pieces, client=client_context(version)).open()
    client.send_raw(client.encrypt(pattern(4 * MB)))
    protocol.wait_for_data(4 * MB)
    # The record in which the bound of 256 KiB is reached is told whole.
    assert max(protocol.sizes) <= (256 + 16) * 1024
    assert_same_bytes(bytes(protocol.received), pattern(4 * MB))


def test_many_connections_at_once(serve_tls):
    served = serve_tls(Echoing)
    clients = [served.connect() for _ in range(40)]
    batches = [clients[start::4] for start in range(4)]

    def echo(batch):
        for turn in range(3):
            for number, client in enumerate(batch):
                data = pattern(5000 * number + turn, number)
                assert_same_bytes(client.exchange([data]), data)

    run_together(*(lambda batch=batch: echo(batch) for batch in batches))
    figures = served.stats()
    assert figures["handshakes"] == 40
    assert figures["active_handshakes"] == figures["handshakes_waiting"] == 0
    assert figures["handshake_failures"] == {}
    assert figures["handshake_timeouts"] == 0


def test_writes_of_several_threads_come_whole(serve_tls, version):
    client, protocol = serve_tls(Recording, client=client_context(version)).open()
    threads, writes, size = 4, 50, 3000

    def write(number):
        for _ in range(writes):
            protocol.transport.write(bytes([number]) * size)

    got = []
    run_together(
        *(lambda number=number: write(number) for number in range(threads)),
        lambda: got.append(client.read_exactly(threads * writes * size)),
    )
    blocks = [got[0][start : start + size] for start in range(0, len(got[0]), size)]
    assert all(block == block[:1] * size for block in blocks)
    assert sorted(block[0] for block in blocks) == sorted(list(range(threads)) * writes)


@pytest.mark.parametrize("inside", [True, False], ids=["in a callback", "in a thread"])
def test_writelines_sends_all_of_them_in_order(serve_tls, inside):
    data = pattern(200_000)
    parts = [b"", *pieces(data, 40), memoryview(b"end"), bytearray(b"!")]

    class Answers(Recording):
        def on_data(self, _):
            self.transport.writelines(parts)

    client, protocol = serve_tls(Answers if inside else Recording).open()
    if inside:
        client.send(b"go")
    else:
        protocol.transport.writelines(parts)
    assert_same_bytes(client.read_exactly(len(data) + 4), data + b"end!")


def test_many_small_writes_of_a_callback_leave_in_one_send_and_few_records(serve_tls):
    class Answers(Recording):
        def on_data(self, _):
            for number in range(1000):
                self.transport.write(b"%03d" % number)

    served = serve_tls(Answers)
    client, protocol = served.open()
    protocol.transport.write(b"ready")
    assert client.read_exactly(5) == b"ready"
    before = client.stream_bytes
    wait_for_figure(served.server, "bytes_sent", before)
    sends = served.stats()["sends"]
    client.send(b"go")
    assert client.read_exactly(3000) == b"".join(b"%03d" % number for number in range(1000))
    # A record has 22 bytes of its own, so 1000 of them would be more than 25,000 bytes.
    assert client.stream_bytes - before < 5000
    wait_for_figure(served.server, "bytes_sent", client.stream_bytes)
    assert served.stats()["sends"] == sends + 1


def test_data_in_both_directions_at_once(serve_tls, version):
    client, protocol = serve_tls(Recording, client=client_context(version)).open()
    up, down = pattern(2 * MB, 1), pattern(2 * MB, 2)
    got = []
    run_together(
        lambda: client.send(up),
        lambda: protocol.transport.write(down),
        lambda: got.append(client.read_exactly(len(down))),
    )
    assert_same_bytes(got[0], down)
    protocol.wait_for_data(len(up))
    assert_same_bytes(bytes(protocol.received), up)


# -- the handshake


def test_nobody_is_told_before_the_handshake_is_done(serve_tls):
    calls = []

    class Made(Echoing):
        def __init__(self):
            super().__init__()
            calls.append("factory")

    served = serve_tls(Made)
    client = TlsClient(served.server.address, shake=False)
    hello = client.hello()
    client.send_raw(hello[:50])
    wait_for_figure(served.server, "active_handshakes", 1)
    # Another client has all its callbacks meanwhile.
    served.assert_serving()
    assert calls == ["factory"] and len(served.protocols) == 1
    wait_until_gone(served, 1)
    wait_until(lambda: served.server.connections == [], "an empty list of connections")
    client.send_raw(hello[50:])
    client.receive()
    while not client.step():
        client.flush()
        client.receive()
    client.flush()
    assert_same_bytes(client.exchange([b"hello"]), b"hello")
    assert calls == ["factory"] * 2
    assert served.protocols[1].events[:2] == ["connection_made", "data_received"]
    client.close()


def test_a_hello_that_comes_a_byte_at_a_time_is_taken(serve_tls, version):
    served = serve_tls(Echoing)
    with TlsClient(served.server.address, client_context(version), shake=False) as client:
        hello = client.hello()
        for place in range(len(hello)):
            client.send_raw(hello[place : place + 1])
        client.receive()
        client.handshake()
        assert client.exchange([b"hello"]) == b"hello"


def test_what_connection_made_writes_is_the_first_to_come(serve_tls, version):
    class Greets(Recording):
        def on_made(self):
            self.transport.write(b"welcome")

    client, _ = serve_tls(Greets, client=client_context(version)).open()
    assert client.read_exactly(7) == b"welcome"


def test_data_that_comes_with_the_end_of_the_handshake_is_not_lost(serve_tls, version):
    served = serve_tls(Echoing)
    with TlsClient(served.server.address, client_context(version), shake=False) as client:
        client.send_raw(client.hello())
        client.receive()
        while not client.step():
            if version == "1.2":
                client.flush()
                client.receive()
            else:
                client.receive()
        # In one packet, in version 1.3 with the client's last flight.
        last = client.outgoing.read()
        client.send_raw(last + client.encrypt(b"early bird"))
        assert client.read_exactly(10) == b"early bird"


def test_a_protocol_that_pauses_in_connection_made_gets_nothing(serve_tls):
    class Pauses(Recording):
        def on_made(self):
            self.transport.pause_reading()

    client, protocol = serve_tls(Pauses).open()
    client.send(b"data")
    protocol.transport.write(b"go")
    assert client.read_exactly(2) == b"go"
    assert protocol.events == ["connection_made"]
    protocol.transport.resume_reading()
    protocol.wait_for_data(4)
    assert protocol.received == b"data"


def test_a_factory_that_raises_costs_its_connection(serve_tls):
    def factory():
        raise ValueError("no protocol today")

    served = serve_tls(factory)
    client = served.connect()
    client.read_until_gone()
    context = served.take_error()
    assert "protocol_factory raised" in context["message"]
    assert str(context["exception"]) == "no protocol today"


def test_a_callback_that_raises_costs_its_connection(serve_tls):
    class Raises(Echoing):
        def on_data(self, data):
            if data == b"raise":
                raise ValueError("told so")
            super().on_data(data)

    served = serve_tls(Raises)
    client, protocol = served.open()
    client.send(b"raise")
    client.read_until_gone()
    protocol.wait_for("connection_lost")
    assert str(protocol.lost_with) == "told so"
    assert "data_received() raised" in served.take_error()["message"]
    served.assert_serving()


# -- what can be asked


def test_extra_info_is_there_in_connection_made(serve_tls, version):
    asked = {}
    names = ["sslcontext", "ssl_object", "peercert", "cipher", "compression"]

    class Asks(Echoing):
        def on_made(self):
            asked.update({name: self.transport.get_extra_info(name) for name in names})

    context = server_context()
    client, protocol = serve_tls(Asks, context=context, client=client_context(version)).open()
    assert asked["sslcontext"] is context
    assert isinstance(asked["ssl_object"], ssl.SSLObject)
    assert asked["ssl_object"].version() == f"TLSv{version}"
    assert asked["peercert"] is None
    assert asked["cipher"] == client.tls.cipher()
    assert asked["compression"] is None
    transport = protocol.transport
    assert transport.get_extra_info("nonsense", 3) == 3
    assert transport.get_extra_info("peername") == client.address
    assert {name: transport.get_extra_info(name) for name in names} == asked
    client.close()
    protocol.wait_for("connection_lost")
    assert {name: transport.get_extra_info(name) for name in names} == asked


def test_a_required_client_certificate_is_told(serve_tls, version):
    served = serve_tls(
        Echoing,
        context=server_context(clients=OTHER),
        client=client_context(version, certificate=OTHER),
    )
    client, protocol = served.open()
    assert client.exchange([b"hello"]) == b"hello"
    certificate = protocol.transport.get_extra_info("peercert")
    assert certificate["subject"] == ((("commonName", "other.test"),),)


def test_alpn_is_agreed_on(serve_tls, version):
    context, client = server_context(), client_context(version)
    context.set_alpn_protocols(["h2", "http/1.1"])
    client.set_alpn_protocols(["spdy", "http/1.1"])
    client, protocol = serve_tls(Echoing, context=context, client=client).open()
    ssl_object = protocol.transport.get_extra_info("ssl_object")
    assert ssl_object.selected_alpn_protocol() == "http/1.1"
    assert client.tls.selected_alpn_protocol() == "http/1.1"


def test_no_common_alpn_protocol_is_none(serve_tls, version):
    # Python's contexts let the client decide what that means.
    context, client = server_context(), client_context(version)
    context.set_alpn_protocols(["h2"])
    client.set_alpn_protocols(["spdy"])
    client, protocol = serve_tls(Echoing, context=context, client=client).open()
    ssl_object = protocol.transport.get_extra_info("ssl_object")
    assert ssl_object.selected_alpn_protocol() is None
    assert client.exchange([b"hello"]) == b"hello"


def test_a_certificate_by_the_name_that_is_asked_for(serve_tls, version):
    other = server_context(certificate=OTHER)
    context = server_context()
    names = []

    def choose(ssl_object, name, _):
        names.append(name)
        if name == "other.test":
            ssl_object.context = other

    context.sni_callback = choose
    served = serve_tls(Echoing, context=context)
    for name, certificate in [("other.test", OTHER), ("localhost", CERTIFICATE)]:
        trusting = client_context(version, certificate)
        with TlsClient(served.server.address, trusting, name) as client:
            assert client.exchange([b"hello"]) == b"hello"
    assert names == ["other.test", "localhost"]


def test_a_name_that_the_callback_refuses_costs_that_client(serve_tls, version):
    context = server_context()

    def refuse(ssl_object, name, _):
        return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME if name == "other.test" else None

    context.sni_callback = refuse
    served = serve_tls(Echoing, context=context)
    with pytest.raises(ssl.SSLError) as refused:
        TlsClient(served.server.address, client_context(version, OTHER), "other.test")
    assert "UNRECOGNIZED_NAME" in refused.value.reason
    wait_for_figure(served.server, "handshake_failures", {"CALLBACK_FAILED": 1})
    served.assert_serving()


def test_data_sent_counts_what_was_written(serve_tls, version):
    client, protocol = serve_tls(CountingSent, client=client_context(version)).open()
    written = 0
    for size in (1, 1000, 2 * MB):
        written += size
        protocol.transport.write(pattern(size))
        client.read_exactly(size)
        protocol.wait_until(
            lambda wanted=written: protocol.finished["sent"] >= wanted, "data_sent of all bytes"
        )
        assert protocol.sent == written
    protocol.transport.close()
    assert read_all(client) == b""
    client.close()
    protocol.wait_for("connection_lost")
    assert protocol.sent == written


def test_data_sent_does_not_count_what_an_earlier_protocol_wrote(serve_tls, version):
    client, protocol = serve_tls(Recording, client=client_context(version)).open()
    data = pattern(MB)
    protocol.transport.write(data)
    assert_same_bytes(client.read_exactly(MB), data)
    wait_until(lambda: protocol.transport.get_write_buffer_size() == 0, "the end of the send")
    counts = CountingSent()
    counts.connection_made(protocol.transport)
    protocol.transport.set_protocol(counts)
    protocol.transport.write(b"hello")
    assert client.read_exactly(5) == b"hello"
    counts.wait_until(lambda: counts.finished["sent"] > 0, "data_sent")
    assert counts.sent == 5
    protocol.transport.set_protocol(protocol)
    protocol.transport.close()
    assert read_all(client) == b""
    client.close()
    protocol.wait_for("connection_lost")


class Interferes(ssl.SSLObject):
    """Within the third write() something else runs, as a signal's handler or a finaliser does."""

    count = 0
    call: typing.ClassVar[list] = []

    def write(self, data):
        self.count += 1
        if self.count == 3 and self.call:
            self.call.pop()()
        return super().write(data)


def test_what_is_written_within_openssls_write_comes_after_it(serve_tls, version):
    context = server_context()
    context.sslobject_class = Interferes
    data = pattern(2 * MB)

    class Answers(Recording):
        def on_data(self, _):
            transport = self.transport

            def interfere():
                transport.write(b"end")
                transport.close()
                transport.get_write_buffer_size()

            Interferes.call[:] = [interfere]
            transport.write(data)

    client, protocol = serve_tls(Answers, context=context, client=client_context(version)).open()
    client.send(b"go")
    assert_same_bytes(read_all(client), data + b"end")
    client.close()
    protocol.wait_for("connection_lost")
    assert protocol.lost_with is None
    assert Interferes.call == []


def test_there_is_no_end_in_one_direction(serve_tls):
    client, protocol = serve_tls(Echoing).open()
    assert protocol.transport.can_write_eof() is False
    with pytest.raises(NotImplementedError):
        protocol.transport.write_eof()
    assert client.exchange([b"hello"]) == b"hello"


# -- marks and limits


def test_the_marks_are_those_of_asyncio_for_tls(serve_tls):
    _, protocol = serve_tls(Recording).open()
    assert protocol.transport.get_write_buffer_limits() == (128 * 1024, 512 * 1024)
    protocol.transport.set_write_buffer_limits(high=1000, low=10)
    assert protocol.transport.get_write_buffer_limits() == (10, 1000)
    protocol.transport.set_write_buffer_limits()
    assert protocol.transport.get_write_buffer_limits() == (128 * 1024, 512 * 1024)


@pytest.mark.parametrize("inside", [True, False], ids=["in a callback", "in a thread"])
def test_a_client_that_does_not_read_pauses_writing(serve_tls, version, inside):
    data = pattern(MORE_THAN_THE_KERNEL_TAKES)

    class Answers(Recording):
        def on_data(self, _):
            self.transport.write(data)

    client, protocol = serve_tls(Answers, client=client_context(version)).open()
    if inside:
        client.send(b"go")
    else:
        protocol.transport.write(data)
    protocol.wait_for("pause_writing")
    assert protocol.transport.get_write_buffer_size() > 512 * 1024
    assert protocol.transport.wait_writable(0) is False
    assert_same_bytes(client.read_exactly(len(data)), data)
    protocol.wait_for("resume_writing")
    assert protocol.transport.wait_writable(WAIT_S) is True
    wait_until(lambda: protocol.transport.get_write_buffer_size() == 0, "an empty queue")
    assert protocol.events.count("pause_writing") == protocol.events.count("resume_writing")


def test_more_than_max_write_buffer_is_an_error_of_its_connection(serve_tls):
    served = serve_tls(Recording, max_write_buffer=MB)
    client, protocol = served.open()
    protocol.transport.write(bytes(MORE_THAN_THE_KERNEL_TAKES))
    protocol.wait_for("pause_writing")
    wait_until(lambda: write_once(protocol), "a write beyond the limit")
    protocol.wait_for("connection_lost")
    assert isinstance(protocol.lost_with, OSError)
    assert protocol.lost_with.winerror == 10055
    assert "max_write_buffer=1048576" in str(protocol.lost_with)
    client.read_until_gone()


def write_once(protocol):
    protocol.transport.write(bytes(MB // 2))
    return protocol.transport.is_closing()


def test_a_thread_that_waits_until_it_may_write_is_never_reset(serve_tls):
    client, protocol = serve_tls(Recording, max_write_buffer=MB).open()
    transport = protocol.transport
    block = pattern(64 * 1024)
    blocks = 20 * MB // len(block)

    def produce():
        for _ in range(blocks):
            assert transport.wait_writable(WAIT_S) is True
            transport.write(block)

    def consume():
        for _ in range(blocks):
            assert_same_bytes(client.read_exactly(len(block)), block)

    run_together(produce, consume)
    assert transport.is_closing() is False


# -- reading is paused


@pytest.mark.parametrize("size", [5000, 16384, 100_000, 1_000_000])
def test_pausing_at_every_data_loses_nothing(serve_tls, version, size):
    client, protocol = serve_tls(PausesOften, client=client_context(version)).open()
    data = pattern(size)

    def resume():
        turn = 0
        while protocol.finished["received"] < size:
            turn += 1
            protocol.wait_for("data_received", turn)
            protocol.transport.resume_reading()

    run_together(lambda: client.send(data), resume)
    assert_same_bytes(bytes(protocol.received), data)
    assert protocol.unwanted == 0


class PausesBuffered(RecordingBuffered):
    """Pauses at every data, in the middle of a record too."""

    room = 3000

    def __init__(self):
        super().__init__()
        self.unwanted = 0

    def on_data(self, data):
        self.unwanted += not self.transport.is_reading()
        self.transport.pause_reading()


@pytest.mark.parametrize("size", [2999, 3000, 3001, 16384, 100_000])
def test_pausing_within_a_record_loses_nothing(serve_tls, version, size):
    client, protocol = serve_tls(PausesBuffered, client=client_context(version)).open()
    data = pattern(size)
    client.send_raw(client.encrypt(data))
    turn = 0
    while protocol.finished["received"] < size:
        turn += 1
        protocol.wait_for("buffer_updated", turn)
        protocol.transport.resume_reading()
    assert_same_bytes(bytes(protocol.received), data)
    assert protocol.unwanted == 0
    assert protocol.events.count("buffer_updated") >= -(-size // 3000)


def test_the_end_waits_for_what_a_paused_protocol_has_not_got(serve_tls):
    client, protocol = serve_tls(PausesBuffered).open()
    data = pattern(10_000)
    client.send(data)
    client.end()
    # Not closed: it has not read what the server's TLS has sent, and its end would be a reset.
    client.half_close()
    protocol.wait_for("buffer_updated")
    assert "eof_received" not in protocol.events
    for turn in range(2, 5):
        protocol.transport.resume_reading()
        protocol.wait_for("buffer_updated", turn)
    protocol.transport.resume_reading()
    protocol.wait_for("connection_lost")
    assert_same_bytes(bytes(protocol.received), data)
    assert protocol.events[-2:] == ["eof_received", "connection_lost"]
    client.close()


def test_a_client_is_slowed_down_by_a_paused_protocol(serve_tls):
    client, protocol = serve_tls(Recording).open()
    protocol.transport.pause_reading()
    sent = threading.Event()
    data = pattern(2 * MORE_THAN_THE_KERNEL_TAKES)

    def send():
        client.send(data)
        sent.set()

    def look():
        # A delivery that had begun may still come.
        protocol.transport.write(b"paused")
        assert client.read_exactly(6) == b"paused"
        assert not sent.is_set()
        protocol.transport.resume_reading()

    run_together(send, look)
    wait_for_event(sent, "the end of the upload")
    protocol.wait_for_data(len(data))
    assert_same_bytes(bytes(protocol.received), data)


# -- the end, by the server


@pytest.mark.parametrize("size", [0, 1, 100_000, MORE_THAN_THE_KERNEL_TAKES])
def test_close_sends_everything_and_close_notify(serve_tls, version, size):
    context = client_context(version)
    client, protocol = serve_tls(Recording, client=context, close_timeout_s=30).open()
    data = pattern(size)
    protocol.transport.write(data)
    protocol.transport.close()
    assert protocol.transport.is_closing() is True
    assert_same_bytes(read_all(client), data)
    client.close()
    protocol.wait_for("connection_lost")
    assert protocol.lost_with is None
    assert "eof_received" not in protocol.events


@pytest.mark.parametrize("where", ["on_made", "on_data", "on_eof"])
def test_closing_in_a_callback_sends_what_was_written_before(serve_tls, version, where):
    answer = pattern(700_000)

    class Answers(Recording):
        pass

    def answer_and_close(self, *_):
        self.transport.write(answer)
        self.transport.close()

    setattr(Answers, where, answer_and_close)
    client, protocol = serve_tls(Answers, client=client_context(version)).open()
    if where == "on_data":
        client.send(b"question")
    if where == "on_eof":
        client.end()
    assert_same_bytes(client.read_to_end(), answer)
    client.close()
    protocol.wait_for("connection_lost")
    assert protocol.lost_with is None


def test_nothing_is_received_after_close(serve_tls):
    class ClosesAtFirstData(Recording):
        def on_data(self, data):
            self.transport.close()

    client, protocol = serve_tls(ClosesAtFirstData).open()
    # Two records that come together.
    client.send_raw(client.encrypt(b"first"))
    protocol.wait_for("data_received")
    client.send_until_refused(b"second")
    assert client.read_to_end() == b""
    client.close()
    protocol.wait_for("connection_lost")
    assert protocol.events == ["connection_made", "data_received", "connection_lost"]
    assert protocol.received == b"first"


def test_abort_tells_the_client_nothing(serve_tls, version):
    context = client_context(version)
    client, protocol = serve_tls(Recording, client=context, close_timeout_s=300).open()
    protocol.transport.write(pattern(MORE_THAN_THE_KERNEL_TAKES))
    protocol.wait_for("pause_writing")
    protocol.transport.abort()
    protocol.wait_for("connection_lost")
    assert protocol.lost_with is None
    assert protocol.transport.get_write_buffer_size() == 0
    with pytest.raises(ConnectionError):
        client.read_exactly(MORE_THAN_THE_KERNEL_TAKES)


def test_the_end_takes_no_longer_than_its_time(serve_tls):
    seconds = 0.3
    served = serve_tls(Recording, close_timeout_s=300, ssl_shutdown_timeout_s=seconds)
    client, protocol = served.open()
    protocol.transport.write(pattern(MORE_THAN_THE_KERNEL_TAKES))
    protocol.wait_for("pause_writing")
    begun = clock()
    protocol.transport.close()
    protocol.wait_for("connection_lost")
    assert clock() - begun >= seconds
    assert isinstance(protocol.lost_with, TimeoutError)
    assert "the end of TLS took longer than 0.3 s" in str(protocol.lost_with)
    assert len(client.read_until_gone()) < MORE_THAN_THE_KERNEL_TAKES


def test_the_server_closes_with_open_connections(serve_tls, version):
    served = serve_tls(Echoing, client=client_context(version), close_timeout_s=WAIT_S)
    clients = [served.connect() for _ in range(10)]
    for client in clients:
        assert client.exchange([b"hello"]) == b"hello"
    served.server.close()
    for client in clients:
        assert read_all(client) == b""
    served.finish()
    assert all(protocol.lost_with is None for protocol in served.protocols)


def test_the_server_closes_during_handshakes(serve_tls):
    served = serve_tls(Echoing, max_handshakes=3)
    clients = [TlsClient(served.server.address, shake=False) for _ in range(6)]
    for number, client in enumerate(clients):
        client.send_raw(client.hello()[: number * 40])
    wait_for_figure(served.server, "handshakes_waiting", 3)
    served.server.close()
    for client in clients:
        client.wait_for_the_end()
        client.close()
    served.finish()
    assert served.protocols == []
    figures = served.stats()
    assert figures["active_handshakes"] == figures["handshakes_waiting"] == 0
    assert figures["handshakes"] == 0
    assert sum(figures["handshake_failures"].values()) == 6


# -- the end, by the client


def test_the_end_of_the_client_is_answered(serve_tls, version):
    client, protocol = serve_tls(Echoing, client=client_context(version)).open()
    assert client.exchange([b"hello"]) == b"hello"
    client.unwrap()
    client.close()
    protocol.wait_for("connection_lost")
    assert protocol.events == [
        "connection_made",
        "data_received",
        "eof_received",
        "connection_lost",
    ]
    assert protocol.lost_with is None


def test_data_and_end_in_one_packet(serve_tls, version):
    client, protocol = serve_tls(Echoing, client=client_context(version)).open()
    data = pattern(50_000)
    cipher = client.encrypt(data)
    with pytest.raises(ssl.SSLWantReadError):
        client.tls.unwrap()
    client.send_raw(cipher + client.outgoing.read())
    got = read_all(client)
    assert_same_bytes(got, data)
    client.close()
    protocol.wait_for("connection_lost")
    assert protocol.lost_with is None
    assert protocol.events[-2:] == ["eof_received", "connection_lost"]


@pytest.mark.parametrize("how", ["close", "abort"])
def test_who_ends_it_at_the_data_before_is_not_told_of_the_end(serve_tls, version, how):
    class Ends(Recording):
        def on_data(self, data):
            getattr(self.transport, how)()

    client, protocol = serve_tls(Ends, client=client_context(version)).open()
    data = client.encrypt(b"hello")
    with contextlib.suppress(ssl.SSLWantReadError):
        client.tls.unwrap()
    client.send_raw(data + client.outgoing.read())
    protocol.wait_for("connection_lost")
    assert protocol.events == ["connection_made", "data_received", "connection_lost"]


def test_an_end_without_close_notify_is_an_end(serve_tls, version):
    client, protocol = serve_tls(Echoing, client=client_context(version)).open()
    assert client.exchange([b"hello"]) == b"hello"
    client.half_close()
    assert client.read_to_end() == b""
    client.close()
    protocol.wait_for("connection_lost")
    assert protocol.lost_with is None
    assert protocol.events[-2:] == ["eof_received", "connection_lost"]


def test_what_eof_received_returns_does_not_keep_it_open(serve_tls):
    class WouldGoOn(Recording):
        def on_eof(self):
            return True

    client, protocol = serve_tls(WouldGoOn).open()
    client.end()
    assert client.read_to_end() == b""
    client.close()
    protocol.wait_for("connection_lost")
    assert protocol.lost_with is None


@pytest.mark.parametrize("moment", ["idle", "upload", "download"])
def test_a_reset_costs_its_connection(serve_tls, version, moment):
    class Downloads(Echoing):
        def on_made(self):
            # It goes on reading while it sends: Wine does not always tell a send of a reset.
            self.transport.set_write_buffer_limits(high=float("inf"))

        def on_data(self, data):
            self.transport.write(pattern(MORE_THAN_THE_KERNEL_TAKES) if data == b"give" else data)

    served = serve_tls(Downloads, client=client_context(version), close_timeout_s=1)
    client, protocol = served.open()
    if moment == "idle":
        client.exchange([b"hello"])
    elif moment == "upload":
        client.send_raw(client.encrypt(pattern(100_000))[:90_000])
        protocol.wait_for_data(1)
    else:
        client.send(b"give")
        client.read_exactly(100_000)
    client.reset()
    protocol.wait_for("connection_lost")
    assert protocol.lost_with is None or isinstance(protocol.lost_with, OSError)
    served.assert_serving()


# -- beside other features


def test_connections_of_two_servers_on_one_engine(serve, serve_tls):
    served = serve_tls(Echoing)
    plain = serve(Echoing, engine=served.server.engine)
    client = plain.connect()
    secure = served.connect()
    for data in (b"one", b"two"):
        assert client.exchange([data]) == data
        assert secure.exchange([data]) == data
    client.close()
    # The books of an engine are looked at when its last server has stopped.
    plain.server.close()
    assert plain.server.wait_closed(WAIT_S) is True


def test_a_client_is_connected_to_at_once_with_accept_receive(serve_tls):
    served = serve_tls(Echoing, accept_receive=True)
    client, _ = served.open()
    assert client.exchange([b"hello"]) == b"hello"


def test_timers_run_beside_tls(serve_tls):
    client, protocol = serve_tls(Recording).open()
    protocol.transport.call_soon(protocol.transport.write, b"later")
    assert client.read_exactly(5) == b"later"
