"""Keys that change while data is under way, on the threaded server and on the loop: key updates of
TLS 1.3 and handshakes anew of TLS 1.2, of either side, also while writing is paused.
"""

import asyncio
import ssl
import threading

import pytest
import tls_loops
from clients import echo_rounds
from openssl import ALLOW_CLIENT_RENEGOTIATION, NONE_DUE, OpenSsl
from payload import MORE_THAN_THE_KERNEL_TAKES, assert_same_bytes, pattern, pieces
from protocols import Echoing, Recording
from tls_loops import BIG, ByHand, Echo, Peer, connect, contexts, echoes_to_the_end, serving
from tls_peers import TlsClient, client_context, server_context
from waiting import WAIT_S, wait_for_a_turn, wait_for_event, wait_for_figure

run = tls_loops.run
told = tls_loops.told

# With and without the wish that the other side updates its key as well. OpenSSL answers the first
# as the second comes, and the last with the next that is written.
ASKS = (True, False, True)
PARTS = [pattern(20_000, seed) for seed in range(len(ASKS))]


def server_openssl(transport):
    return OpenSsl(transport.get_extra_info("ssl_object"))


class CountsCalls(ssl.SSLObject):
    """Counts how often OpenSSL is asked to encrypt and to decrypt something."""

    writes = reads = 0

    def write(self, data):
        self.writes += 1
        if self.writes > 10_000:
            raise RuntimeError("it was asked again and again")  # which would never end
        return super().write(data)

    def read(self, len=1024, buffer=None):
        self.reads += 1
        return super().read(len, buffer)


# -- the threaded server ---------------------------------------------------------------------------


class Updates(Recording):
    """Keeps which key update was due behind each data."""

    def __init__(self):
        super().__init__()
        self.due = set()

    def on_data(self, data):
        self.due.add(server_openssl(self.transport).update_due)

    def update_and_write(self):
        """From another thread: in a turn of the connection."""
        done = threading.Event()

        def update():
            for ask, part in zip(ASKS, PARTS):
                server_openssl(self.transport).update_key(ask)
                # A write that is above the high mark is encrypted at once, with its update.
                self.transport.write(part)
                self.transport.get_write_buffer_size()
            done.set()

        self.transport.call_soon(update)
        wait_for_event(done, "the turn that updates the key")


def client_updates_and_sends(client):
    for ask, part in zip(ASKS, PARTS):
        OpenSsl(client.tls).update_key(ask)
        client.send(part)


def test_key_updates_of_a_client(serve_tls):
    client, protocol = serve_tls(Updates, client=client_context("1.3")).open()
    OpenSsl(client.tls).update_key(ask=True)
    client.send(b"new key")
    protocol.wait_for_data(7)
    # It was asked for one, which comes with the next that it has to say.
    assert protocol.due == {0}
    protocol.transport.write(b"new key too")
    assert client.read_exactly(11) == b"new key too"
    assert protocol.received == b"new key"


def test_key_updates_of_both_sides_while_writing_is_paused(serve_tls):
    client, protocol = serve_tls(Updates, client=client_context("1.3")).open()
    data = pattern(MORE_THAN_THE_KERNEL_TAKES)
    protocol.transport.write(data)
    protocol.wait_for("pause_writing")
    client_updates_and_sends(client)
    protocol.update_and_write()
    assert protocol.finished["resume_writing"] == 0
    # The old key, then the new ones.
    assert_same_bytes(client.read_exactly(len(data)), data)
    assert_same_bytes(client.read_exactly(len(b"".join(PARTS))), b"".join(PARTS))
    protocol.wait_for_data(len(b"".join(PARTS)))
    assert_same_bytes(bytes(protocol.received), b"".join(PARTS))
    # Each was asked for one.
    assert 0 in protocol.due and OpenSsl(client.tls).update_due == 0
    protocol.wait_for("resume_writing")
    for _ in range(2):
        protocol.transport.write(b"goes on")
        assert client.read_exactly(7) == b"goes on"
        client.send(b"goes on")
    protocol.wait_for_data(len(b"".join(PARTS)) + 14)
    assert OpenSsl(client.tls).update_due == NONE_DUE


def begin_anew(client):
    """The ClientHello, sent as data is, with the key of the connection."""
    assert OpenSsl(client.tls).begin_anew() != 1, "it waits for the answer"
    client.flush()


def wait_for_a_flight(client):
    """Read until the client has an answer to send."""
    while not client.outgoing.pending:
        with pytest.raises(ssl.SSLWantReadError):
            client.tls.read(1)
        if not client.outgoing.pending:
            client.receive()


def test_a_handshake_anew_that_is_refused_costs_its_client_only(serve_tls):
    """As OpenSSL has it from version 3 on: with a warning, and the connection goes on."""
    served = serve_tls(Echoing, client=client_context("1.2"))
    other, _ = served.open()
    client, protocol = served.open()
    assert client.exchange([b"hello"]) == b"hello"
    begin_anew(client)
    with pytest.raises(ssl.SSLError, match="NO_RENEGOTIATION"):
        client.read_exactly(1)
    protocol.transport.write(b"for nobody")
    client.receive()
    assert not protocol.transport.is_closing()
    client.half_close()
    protocol.wait_for("connection_lost")
    assert protocol.lost_with is None
    assert other.exchange([b"hello"]) == b"hello"


@pytest.fixture
def willing():
    """A context for servers that lets clients begin anew."""
    context = server_context("1.2")
    context.options |= ALLOW_CLIENT_RENEGOTIATION
    context.sslobject_class = CountsCalls
    return context


def test_a_handshake_anew_while_writing_is_paused(serve_tls, willing):
    served = serve_tls(Echoing, context=willing)
    other, _ = served.open()
    client, protocol = served.open()
    ssl_object = protocol.transport.get_extra_info("ssl_object")
    data = pattern(MORE_THAN_THE_KERNEL_TAKES)
    protocol.transport.write(data)
    protocol.wait_for("pause_writing")
    wait_for_a_turn(protocol.transport)  # all of it is encrypted then
    begin_anew(client)
    assert_same_bytes(client.read_exactly(len(data)), data)
    protocol.wait_for("resume_writing")
    wait_for_a_flight(client)
    # In its midst OpenSSL encrypts nothing: it has to read first, though writing is paused again.
    writes = ssl_object.writes
    protocol.transport.write(BIG)
    protocol.wait_for("pause_writing", 2)
    echo_rounds(other)
    assert ssl_object.writes <= writes + 5, "it was asked again and again"
    # One receive was pending before the pause; it takes more than one.
    for part in pieces(client.outgoing.read(), 3):
        came = served.stats()["bytes_received"]
        client.send_raw(part)
        wait_for_figure(served.server, "bytes_received", came + len(part))
    assert_same_bytes(client.read_exactly(len(BIG)), BIG)
    assert client.exchange([b"goes on"]) == b"goes on"
    assert protocol.received == b"goes on"


class BeginsAnew(Recording):
    def begin_anew(self):
        """From another thread: in a turn of the connection, which writes behind it."""
        done = threading.Event()

        def begin():
            assert server_openssl(self.transport).begin_anew() == 1
            self.transport.write(BIG)
            done.set()

        self.transport.call_soon(begin)
        wait_for_event(done, "the turn that begins anew")


class AnswersAtOnce(TlsClient):
    def receive(self, had=0):
        self.flush()
        super().receive(had)

    def send(self, data):
        while True:
            try:
                return super().send(data)
            except ssl.SSLWantReadError:
                self.receive()  # amidst a handshake OpenSSL reads first


def test_a_handshake_anew_of_the_server_while_writing_is_paused(serve_tls):
    served = serve_tls(BeginsAnew, context=server_context("1.2"))
    served.new_client = lambda address: AnswersAtOnce(address, client_context("1.2"))
    client, protocol = served.open()
    ssl_object = protocol.transport.get_extra_info("ssl_object")
    finished = ssl_object.get_channel_binding("tls-unique")
    data = pattern(MORE_THAN_THE_KERNEL_TAKES)
    protocol.transport.write(data)
    protocol.wait_for("pause_writing")
    protocol.begin_anew()
    protocol.transport.write(data)
    assert protocol.finished["resume_writing"] == 0
    assert_same_bytes(client.read_exactly(len(data)), data)
    assert_same_bytes(client.read_exactly(len(BIG)), BIG)
    assert_same_bytes(client.read_exactly(len(data)), data)
    client.send(b"goes on")
    protocol.wait_for_data(7)
    # Each handshake has its own.
    assert ssl_object.get_channel_binding("tls-unique") not in (finished, None)
    protocol.transport.write(b"so it does")
    assert client.read_exactly(10) == b"so it does"


def test_a_client_that_never_ends_its_handshake_anew_is_given_up(serve_tls, willing):
    served = serve_tls(Echoing, context=willing, ssl_shutdown_timeout_s=0.2)
    other, _ = served.open()
    client, protocol = served.open()
    ssl_object = protocol.transport.get_extra_info("ssl_object")
    begin_anew(client)
    wait_for_a_flight(client)
    protocol.transport.write(BIG)
    protocol.transport.close()
    echo_rounds(other)
    protocol.wait_for("connection_lost")
    assert isinstance(protocol.lost_with, TimeoutError)
    assert ssl_object.writes < 10, "it was asked again and again"


@pytest.mark.parametrize("paused", [False, True], ids=["reading", "paused"])
def test_what_was_written_in_a_handshake_anew_is_sent_after_close(serve_tls, willing, paused):
    served = serve_tls(Recording, context=willing, close_timeout_s=WAIT_S)
    client, protocol = served.open()
    begin_anew(client)
    wait_for_a_flight(client)
    if paused:
        protocol.transport.pause_reading()
    protocol.transport.write(BIG)
    protocol.transport.close()
    # It cannot leave before the client's answer has come.
    for part in pieces(client.outgoing.read(), 3):
        client.send_raw(part)
    assert_same_bytes(client.read_exactly(len(BIG)), BIG)
    protocol.wait_for("connection_lost")
    assert protocol.lost_with is None


# -- the loop --------------------------------------------------------------------------------------


async def a_flight(hand):
    """Read until there is an answer to send."""
    while not hand.outgoing.pending:
        hand.changed.clear()
        with pytest.raises(ssl.SSLWantReadError):
            hand.tls.read(1)
        if not hand.outgoing.pending:
            await hand.changed.wait()


def test_key_updates_of_both_sides_while_writing_is_paused_on_the_loop(run):
    whole = b"".join(PARTS)

    async def main():
        async with tls_loops.client_and_hand(version=ssl.TLSVersion.TLSv1_3) as (client, hand):
            hand.transport.pause_reading()
            written = 0
            while "pause" not in client.told:
                client.transport.write(BIG)
                written += 1
            # The loop reads on meanwhile.
            for ask, part in zip(ASKS, PARTS):
                OpenSsl(hand.tls).update_key(ask)
                await hand.send(part)
            await client.until(lambda: client.kept_bytes == len(whole))
            assert_same_bytes(client.received, whole)
            ours = server_openssl(client.transport)
            assert ours.update_due == 0
            for ask, part in zip(ASKS, PARTS):
                ours.update_key(ask)
                client.transport.write(part)
                assert ours.update_due == NONE_DUE, "above the high mark it is encrypted at once"
            assert client.told == ["made", "pause"]
            hand.transport.resume_reading()
            assert_same_bytes(await hand.receive(written * len(BIG)), BIG * written)
            assert_same_bytes(await hand.receive(len(whole)), whole)
            assert OpenSsl(hand.tls).update_due == 0
            await client.until_told("resume")
            await hand.send(b"goes on")
            await client.until(lambda: client.received.endswith(b"goes on"))
            client.transport.write(b"so it does")
            assert await hand.receive(10) == b"so it does"

    run(main)


def test_a_handshake_anew_that_is_refused_costs_its_client_only_on_the_loop(run):
    async def main():
        server, trusting = contexts(ssl.TLSVersion.TLSv1_2)
        async with serving(Echo, ssl=server) as served:
            other = await connect(Peer, served.address, trusting)
            hand = await connect(
                lambda: ByHand(trusting, server_hostname="localhost"), served.address
            )
            await hand.handshake()
            OpenSsl(hand.tls).begin_anew()
            hand.flush()
            with pytest.raises(ssl.SSLError, match="NO_RENEGOTIATION"):
                await hand.receive(1)
            echo = served.protocols[1]
            assert echo.told == ["made"] and not echo.transport.is_closing()
            hand.transport.close()
            await echo.lost()
            await echoes_to_the_end(other)
            await served.protocols[0].lost()

    run(main)


def test_a_handshake_anew_while_writing_is_paused_on_the_loop(run, willing):
    async def main():
        _, trusting = contexts(ssl.TLSVersion.TLSv1_2)
        async with serving(Echo, ssl=willing) as served:
            hand = await connect(
                lambda: ByHand(trusting, server_hostname="localhost"), served.address
            )
            await hand.handshake()
            echo = await served.protocol()
            await echo.until_told("made")
            hand.transport.pause_reading()
            written = 0
            while "pause" not in echo.told:
                echo.transport.write(BIG)
                written += 1
            OpenSsl(hand.tls).begin_anew()
            hand.flush()
            hand.transport.resume_reading()
            assert_same_bytes(await hand.receive(written * len(BIG)), BIG * written)
            await echo.until_told("resume")
            # The answer is read, and ours is kept back.
            await a_flight(hand)
            ssl_object = echo.transport.get_extra_info("ssl_object")
            writes = ssl_object.writes
            echo.transport.write(BIG)
            assert echo.told[-1] == "pause"
            other = await connect(Peer, served.address, trusting)
            for number in range(100):
                other.transport.write(b"round")
                await other.until(lambda size=5 * (number + 1): other.kept_bytes == size)
            assert ssl_object.writes <= writes + 5, "it was asked again and again"
            hand.flush()
            assert_same_bytes(await hand.receive(len(BIG)), BIG)
            await hand.send(b"goes on")
            assert await hand.receive(7) == b"goes on"
            for transport in (hand.transport, other.transport):
                transport.close()
            for protocol in (hand, other, *served.protocols):
                await protocol.lost()

    run(main)


@pytest.mark.parametrize("paused", [False, True], ids=["reading", "paused"])
def test_what_was_written_in_a_handshake_anew_is_sent_after_close_on_the_loop(run, willing, paused):
    async def main():
        _, trusting = contexts(ssl.TLSVersion.TLSv1_2)
        async with serving(Peer, ssl=willing) as served:
            hand = await connect(
                lambda: ByHand(trusting, server_hostname="localhost"), served.address
            )
            await hand.handshake()
            peer = await served.protocol()
            await peer.until_told("made")
            OpenSsl(hand.tls).begin_anew()
            hand.flush()
            await a_flight(hand)
            if paused:
                peer.transport.pause_reading()
            peer.transport.write(BIG)
            peer.transport.close()
            # It cannot leave before the client's answer has come.
            hand.flush()
            assert_same_bytes(await hand.receive(len(BIG)), BIG)
            await hand.receive_the_end()
            hand.transport.close()
            await hand.lost()
            assert await peer.lost() is None

    run(main)


def test_a_handshake_anew_of_the_server_while_writing_is_paused_on_the_loop(run):
    async def main():
        server, trusting = contexts(ssl.TLSVersion.TLSv1_2)
        async with serving(Peer, ssl=server) as served:
            hand = await connect(
                lambda: ByHand(trusting, server_hostname="localhost"), served.address
            )
            await hand.handshake()
            peer = await served.protocol()
            await peer.until_told("made")
            ssl_object = peer.transport.get_extra_info("ssl_object")
            finished = ssl_object.get_channel_binding("tls-unique")
            hand.transport.pause_reading()
            written = 0
            while "pause" not in peer.told:
                peer.transport.write(BIG)
                written += 1
            assert server_openssl(peer.transport).begin_anew() == 1
            peer.transport.write(BIG)
            assert peer.told == ["made", "pause"]
            hand.transport.resume_reading()
            assert_same_bytes(await hand.receive(written * len(BIG)), BIG * written)
            # The client answers as it comes to it.
            assert_same_bytes(await hand.receive(len(BIG)), BIG)
            await peer.until_told("resume")
            await hand.send(b"goes on")
            await peer.until(lambda: peer.received == b"goes on")
            # Each handshake has its own.
            assert ssl_object.get_channel_binding("tls-unique") not in (finished, None)
            peer.transport.write(b"so it does")
            assert await hand.receive(10) == b"so it does"
            hand.transport.close()
            await hand.lost()
            await peer.lost()

    run(main)


class PausesAtData(Peer):
    def data_received(self, data):
        self.transport.pause_reading()
        super().data_received(data)


def test_what_the_handshake_anew_waits_for_is_read_after_close_behind_data_nobody_takes(run):
    async def main():
        async with tls_loops.client_and_hand(PausesAtData, ssl.TLSVersion.TLSv1_2) as (
            client,
            hand,
        ):
            assert OpenSsl(hand.tls).begin_anew() == 1
            hand.flush()
            await hand.until(lambda: hand.incoming.pending)
            hand.tls.write(b"data")
            # … and behind it the answer to what the client begins with, in one packet.
            with pytest.raises(ssl.SSLWantReadError):
                hand.tls.read(1)
            hand.flush()
            await client.until(lambda: client.received == b"data")
            client.transport.write(BIG)
            client.transport.close()
            assert_same_bytes(await hand.receive(len(BIG)), BIG)
            await hand.receive_the_end()
            hand.transport.close()
            assert await client.lost() is None

    run(main)


def test_what_is_written_in_the_midst_of_a_message_waits_for_its_end(run):
    """A session ticket in two records, of which one has come: OpenSSL has to read first."""

    async def main():
        server, trusting = contexts(ssl.TLSVersion.TLSv1_3)
        # With the client's certificate in it a ticket is longer than records may be here.
        server.verify_mode = ssl.CERT_REQUIRED
        server.load_verify_locations(tls_loops.CERTIFICATE)
        trusting.load_cert_chain(tls_loops.CERTIFICATE)
        trusting.sslobject_class = CountsCalls
        async with serving(lambda: ByHand(server, server_side=True)) as served:
            connecting = asyncio.ensure_future(connect(Peer, served.address, trusting))
            hand = await served.protocol()
            await hand.until(lambda: hand.incoming.pending)
            while not done_by_hand(hand):
                hand.flush()
                OpenSsl(hand.tls).limit_records(512)
                await hand.changed.wait()
            client = await connecting
            ssl_object = client.transport.get_extra_info("ssl_object")
            tickets = hand.outgoing.read()
            first = 5 + int.from_bytes(tickets[3:5], "big")
            assert 500 < first < len(tickets)
            hand.transport.write(tickets[:first])
            while ssl_object.reads == 0:
                await asyncio.sleep(0)
            client.transport.write(BIG)
            assert client.told == ["made", "pause"]
            for _ in range(100):
                await asyncio.sleep(0)
            assert ssl_object.writes < 5, "it was asked again and again"
            hand.transport.write(tickets[first:])
            assert_same_bytes(await hand.receive(len(BIG)), BIG)
            hand.transport.abort()
            await client.lost()
            await hand.lost()

    run(main)


def done_by_hand(hand):
    """The handshake as far as it goes, with what it has to send kept back."""
    hand.changed.clear()
    try:
        hand.tls.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True
