"""TLS on the asyncio loop: handshakes that fail, start_tls(), servers, files.

Each test runs a loop of its own, and ends on its engine's books.
"""

import asyncio
import contextlib
import logging
import ssl
import sys

import pytest
import tls_loops
from payload import assert_same_bytes
from tls_loops import (
    BIG,
    CERTIFICATE,
    BufferedPeer,
    ByHand,
    Echo,
    Peer,
    Silent,
    all_gone,
    connect,
    contexts,
    echoes_to_the_end,
    pair,
    serving,
)
from tls_peers import EXPIRED, GARBAGE
from waiting import WAIT_S, clock

run = tls_loops.run
told = tls_loops.told
version = tls_loops.version


# -- handshakes that fail --------------------------------------------------------------------------


class Talks(Peer):
    """Says something else than TLS."""

    def data_received(self, data):
        self.transport.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")


class Ends(Peer):
    def data_received(self, data):
        self.transport.close()


@pytest.mark.parametrize(
    "factory, kind",
    # The one that echoes sends the client its own first message.
    [(Talks, ssl.SSLError), (Echo, ssl.SSLError), (Ends, ConnectionResetError)],
)
def test_a_server_without_tls(run, factory, kind):
    async def main():
        async with serving(factory) as served:
            with pytest.raises(kind) as raised:
                await connect(Peer, served.address, contexts()[1])
            assert type(raised.value) is kind
            peer = await served.protocol()
            await peer.lost()

    run(main)


def strangers():
    """The client does not know the certificate."""
    return contexts()[0], ssl.create_default_context(), "localhost"


def other_name():
    return *contexts(), "example.org"


def versions_apart():
    server, client = contexts()
    server.minimum_version = ssl.TLSVersion.TLSv1_3
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    return server, client, "localhost"


def ciphers_apart():
    server, client = contexts(ssl.TLSVersion.TLSv1_2)
    server.set_ciphers("ECDHE-RSA-AES128-GCM-SHA256")
    client.set_ciphers("ECDHE-RSA-AES256-GCM-SHA384")
    return server, client, "localhost"


def name_refused():
    server, client = contexts()

    def refuse(ssl_object, name, context):
        return None if name == "localhost" else ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME

    server.sni_callback = refuse
    return server, client, "example.org"


def expired():
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(EXPIRED)
    return server, ssl.create_default_context(cafile=EXPIRED), "expired.test"


def no_client_certificate():
    server, client = contexts(ssl.TLSVersion.TLSv1_2)
    server.load_verify_locations(EXPIRED)
    server.verify_mode = ssl.CERT_REQUIRED
    return server, client, "localhost"


def expired_client_certificate():
    server, client, name = no_client_certificate()
    client.load_cert_chain(EXPIRED)
    return server, client, name


@pytest.mark.parametrize(
    "parties, kind",
    [
        (strangers, ssl.SSLCertVerificationError),
        (other_name, ssl.SSLCertVerificationError),
        (name_refused, ssl.SSLError),
        (expired, ssl.SSLCertVerificationError),
        (versions_apart, ssl.SSLError),
        (ciphers_apart, ssl.SSLError),
        (no_client_certificate, ssl.SSLError),
        (expired_client_certificate, ssl.SSLError),
    ],
)
def test_a_handshake_that_fails_raises_and_costs_the_server_that_client_only(run, parties, kind):
    async def main():
        server_context, client_context, name = parties()
        async with serving(Echo, ssl=server_context) as served:
            other = None
            if parties in (strangers, other_name, name_refused):
                other = await connect(Peer, served.address, contexts()[1])
            with pytest.raises(ssl.SSLError) as raised:
                await connect(Peer, served.address, client_context, server_hostname=name)
            assert type(raised.value) is kind
            assert served.protocols[-1].told == []
            if other is not None:
                await echoes_to_the_end(other)
                await served.protocols[0].lost()
            await all_gone(served.server)

    run(main)


def test_a_client_that_tls13_refuses_when_it_is_connected(run):
    """The server looks at the client's certificate when the client's handshake is done."""

    async def main():
        server_context, client_context = contexts(ssl.TLSVersion.TLSv1_3)
        server_context.load_verify_locations(CERTIFICATE)
        server_context.verify_mode = ssl.CERT_REQUIRED
        async with serving(Peer, ssl=server_context) as served:
            client = await connect(Peer, served.address, client_context)
            assert isinstance(await client.lost(), ssl.SSLError)
            assert (await served.protocol()).told == []

    run(main)


def test_a_client_without_tls_costs_itself_only(run):
    async def main():
        server_context, client_context = contexts()
        async with serving(Echo, ssl=server_context) as served:
            plain = await connect(Peer, served.address)
            plain.transport.write(b"GET / HTTP/1.1\r\n\r\n")
            await plain.lost()
            gone = await connect(Peer, served.address)
            gone.transport.close()
            await gone.lost()
            client = await connect(Peer, served.address, client_context)
            client.transport.write(b"hello")
            await client.until(lambda: client.received == b"hello")
            # Whoever was accepted last: who has gone may be so after him.
            (peer,) = [peer for peer in served.protocols if peer.told]
            client.transport.close()
            await peer.lost()
            await all_gone(served.server)
            assert [peer.told for peer in served.protocols].count([]) == len(served.protocols) - 1

    run(main)


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE)
def test_garbage_costs_itself_only(run, data):
    async def main():
        server_context, client_context = contexts()
        async with serving(Echo, ssl=server_context) as served:
            garbage = await connect(Peer, served.address)
            garbage.transport.write(data)
            await garbage.lost()
            await assert_serving(served, client_context)
            assert served.protocols[0].told == []

    run(main)


async def assert_serving(served, client_context):
    """One more client is served to the end, and nobody is left then."""
    client = await connect(Peer, served.address, client_context)
    await echoes_to_the_end(client)
    # Not always the last of all: two may be accepted in another order than they came.  The last of
    # that name: one who is gone may have had the same port.
    name = client.transport.get_extra_info("sockname")
    peers = [
        peer
        for peer in served.protocols
        if "made" in peer.told and peer.transport.get_extra_info("peername") == name
    ]
    await peers[-1].lost()
    await all_gone(served.server)  # those in their handshake, too


class StopsInItsFlight(ByHand):
    """A server that answers the client's first message with the first `nbytes` of its own."""

    def __init__(self, nbytes):
        super().__init__(contexts()[0], server_side=True)
        self.nbytes = nbytes

    def data_received(self, data):
        super().data_received(data)
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.do_handshake()
        self.transport.write(self.outgoing.read()[: self.nbytes])

    def eof_received(self):
        super().eof_received()  # which would keep it open


@pytest.mark.parametrize("flight, size", [(1, 0), (1, 1), (1, 200), (1, 9999), (2, 1), (2, 30)])
def test_a_client_that_resets_in_its_handshake_costs_itself_only(run, version, flight, size):
    async def main():
        server_context, client_context = contexts(version)
        async with serving(Echo, ssl=server_context) as served:
            hand = await connect(
                lambda: ByHand(client_context, server_hostname="localhost"), served.address
            )
            await served.protocol()
            with pytest.raises(ssl.SSLWantReadError):
                hand.tls.do_handshake()
            if flight == 2:
                hand.flush()
                while not hand.outgoing.pending:
                    hand.changed.clear()
                    await hand.changed.wait()
                    with contextlib.suppress(ssl.SSLWantReadError):
                        hand.tls.do_handshake()
            hand.transport.write(hand.outgoing.read()[:size])
            hand.transport.abort()
            await hand.lost()
            await assert_serving(served, client_context)
            assert served.protocols[0].told == []

    run(main)


@pytest.mark.engine("their number is the engine's affair")
@pytest.mark.slow("500 handshakes")
def test_five_hundred_handshakes_of_which_half_vanish(run):
    async def main():
        server_context, client_context = contexts()
        # Each one's time runs from its connect, before the first has said a word.
        async with serving(Echo, ssl=server_context, ssl_handshake_timeout=600) as served:
            hands = [
                await connect(
                    lambda: ByHand(client_context, server_hostname="localhost"), served.address
                )
                for _ in range(500)
            ]
            for number, hand in enumerate(hands[1::2]):
                # Before the first byte, in the middle of the first flight, and after it.
                with pytest.raises(ssl.SSLWantReadError):
                    hand.tls.do_handshake()
                hand.transport.write(hand.outgoing.read()[: number % 3 * 300])
                (hand.transport.close, hand.transport.abort)[number % 2]()

            async def stays(hand):
                await hand.handshake()
                await hand.send(b"hello")
                assert await hand.receive(5) == b"hello"
                hand.transport.abort()

            await asyncio.gather(*map(stays, hands[::2]))
            await asyncio.gather(*(hand.lost() for hand in hands))
            await assert_serving(served, client_context)
            assert sum("made" in peer.told for peer in served.protocols) == 251
            for peer in served.protocols:
                if peer.told:
                    await peer.lost()

    run(main, limit_s=3 * WAIT_S)


@pytest.mark.parametrize("size", [0, 1, 200, 9999])
def test_a_server_that_resets_in_its_flight(run, size):
    class Resets(StopsInItsFlight):
        def data_received(self, data):
            super().data_received(data)
            self.transport.abort()

    async def main():
        async with serving(lambda: Resets(size)) as served:
            client = Peer()
            # With all of its flight a client of TLS 1.3 is done.
            with contextlib.suppress(OSError):
                await connect(lambda: client, served.address, contexts()[1])
                await client.lost()
                assert size == 9999
            await served.protocols[0].lost()
            assert client.told in ([], ["made", "lost"], ["made", "eof", "lost"])

    run(main)


def test_a_hello_that_comes_a_byte_at_a_time_is_taken(run, version):
    async def main():
        server_context, client_context = contexts(version)
        async with serving(Echo, ssl=server_context) as served:
            hand = await connect(
                lambda: ByHand(client_context, server_hostname="localhost"), served.address
            )
            with pytest.raises(ssl.SSLWantReadError):
                hand.tls.do_handshake()
            for byte in hand.outgoing.read():
                hand.transport.write(bytes([byte]))
                await asyncio.sleep(0)  # each iteration of the loop sends
            await hand.handshake()
            await hand.send(b"hello")
            assert await hand.receive(5) == b"hello"
            hand.transport.close()
            await hand.lost()
            await served.protocols[0].lost()

    run(main)


def test_no_common_alpn_protocol_is_none(run):
    async def main():
        server_context, client_context = contexts()
        server_context.set_alpn_protocols(["h2"])
        client_context.set_alpn_protocols(["spdy"])
        async with serving(Echo, ssl=server_context) as served:
            client = await connect(Peer, served.address, client_context)
            ssl_object = client.transport.get_extra_info("ssl_object")
            assert ssl_object.selected_alpn_protocol() is None
            client.transport.close()
            await client.lost()
            await served.protocols[0].lost()

    run(main)


def test_a_context_of_the_other_side(run, told):
    """As with asyncio: the client is told, the server's exception handler at its clients."""

    async def main():
        server_context, client_context = contexts()
        async with serving(Echo, ssl=server_context) as served:
            with pytest.raises(ssl.SSLError, match=r"(?i)server"):
                await connect(Peer, served.address, server_context, server_hostname="localhost")
            await all_gone(served.server)
        async with serving(Echo, ssl=client_context) as served:
            with pytest.raises((ConnectionResetError, ConnectionAbortedError)):
                await connect(Peer, served.address, client_context)

    run(main)
    (context,) = told.complaints
    # Python 3.14 looks first whether there is a host name to be checked.
    assert isinstance(context["exception"], (ssl.SSLError, ValueError))
    told.complaints.clear()


def test_failed_handshakes_are_told_of_in_debug_mode(run, caplog):
    async def main():
        loop = asyncio.get_running_loop()
        loop.set_debug(True)
        loop.slow_callback_duration = WAIT_S  # no warning of a slow machine
        async with serving(Echo, ssl=contexts()[0]) as served:
            plain = await connect(Peer, served.address)
            plain.transport.write(b"GET / HTTP/1.1\r\n\r\n")
            await plain.lost()

    with caplog.at_level(logging.DEBUG, "asyncio"):
        run(main)
    messages = [record.getMessage() for record in caplog.records]
    assert len([message for message in messages if "SSL handshake failed" in message]) == 1


@pytest.mark.parametrize("factory", [Silent, lambda: StopsInItsFlight(100)])
def test_a_server_that_stops_is_given_up(run, factory):
    async def main():
        async with serving(factory) as served:
            began = clock()
            with pytest.raises(
                ConnectionAbortedError, match=r"handshake is taking longer than 0\.2"
            ):
                await connect(Peer, served.address, contexts()[1], ssl_handshake_timeout=0.2)
            assert clock() - began >= 0.2
            await (await served.protocol()).lost()

    run(main)


@pytest.mark.parametrize("sent", [0, 100, 9999], ids=["nothing", "a part", "all"])
def test_a_client_that_stops_is_given_up(run, sent):
    async def main():
        server_context, client_context = contexts()
        began = clock()
        async with serving(Peer, ssl=server_context, ssl_handshake_timeout=0.2) as served:
            client = await connect(
                lambda: ByHand(client_context, server_hostname="localhost"), served.address
            )
            with pytest.raises(ssl.SSLWantReadError):
                client.tls.do_handshake()
            client.transport.write(client.outgoing.read()[:sent])
            # A reset where it has not taken all yet.
            await client.until(lambda: client.told != ["made"])
            client.transport.close()
            await client.lost()
            assert clock() - began >= 0.2
            assert (await served.protocol()).told == []

    run(main)


def test_the_timeout_is_of_the_handshake_only(run):
    async def main():
        loop = asyncio.get_running_loop()
        server_context, client_context = contexts()
        async with serving(Echo, ssl=server_context, ssl_handshake_timeout=60) as served:
            client = await connect(Peer, served.address, client_context, ssl_handshake_timeout=60)
            peer = await served.protocol()
            await peer.until_told("made")
            # No timer of the two is left, and nothing waits for one.
            assert not [h for h in loop._scheduled if "handshake" in repr(h) and not h.cancelled()]
            client.transport.close()
            assert await client.lost() is None and await peer.lost() is None

    run(main)


def test_a_connection_that_is_cancelled_in_its_handshake(run):
    async def main():
        async with serving(Silent) as served:
            connecting = asyncio.ensure_future(connect(Peer, served.address, contexts()[1]))
            peer = await served.protocol()
            await peer.until(lambda: peer.received)  # the client's first message
            connecting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await connecting
            await peer.lost()

    run(main)


TIMEOUTS = ["ssl_handshake_timeout"]
if sys.version_info >= (3, 11):
    TIMEOUTS.append("ssl_shutdown_timeout")


# Of asyncio's sockets, which nobody closes then.
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
@pytest.mark.parametrize("name", TIMEOUTS)
@pytest.mark.parametrize("seconds", [0, -1])
def test_timeouts_that_are_refused(run, name, seconds):
    async def main():
        loop = asyncio.get_running_loop()
        server_context, client_context = contexts()
        options = {name: seconds}
        message = f"{name} should be a positive number, got {seconds}"
        with pytest.raises(ValueError, match=message):
            await loop.create_server(Peer, "127.0.0.1", 0, ssl=server_context, **options)
        async with serving(Peer) as served:
            with pytest.raises(ValueError, match=message):
                await connect(Peer, served.address, client_context, **options)
            client = await connect(Peer, served.address)
            with pytest.raises(ValueError, match=message):
                await loop.start_tls(client.transport, client, client_context, **options)
            client.transport.close()
            await client.lost()
            for peer in served.protocols:
                await peer.lost()

    run(main)


# -- start_tls -------------------------------------------------------------------------------------


async def both(server_side, client_side):
    return await asyncio.gather(server_side, client_side)


def test_start_tls_twice(run):
    """The second within the first."""

    async def main():
        loop = asyncio.get_running_loop()
        server_context, client_context = contexts()
        async with serving(Echo) as served:
            client = await connect(Peer, served.address)
            echo = await served.protocol()
            await echo.until_told("made")
            inner, outer = client.transport, echo.transport
            for _ in range(2):
                outer, inner = await both(
                    loop.start_tls(outer, echo, server_context, server_side=True),
                    loop.start_tls(inner, client, client_context, server_hostname="localhost"),
                )
                echo.transport, client.transport = outer, inner
                client.forget()
                inner.write(BIG)
                await client.until(lambda: client.kept_bytes == len(BIG))
                assert_same_bytes(client.received, BIG)
            inner.close()
            assert await client.lost() is None
            assert await echo.lost() is None
            # connection_made was called once, for the connection without TLS.
            assert client.told.count("made") == echo.told.count("made") == 1

    run(main)


def test_what_is_written_before_the_handshake_is_done_waits(run):
    async def main():
        loop = asyncio.get_running_loop()
        server_context, client_context = contexts()
        async with serving(lambda: ByHand(server_context, server_side=True)) as served:
            client = await connect(Peer, served.address)
            client.transport.write(b"plain")
            hand = await served.protocol()
            await hand.until(lambda: hand.received == b"plain")
            hand.incoming.read()
            starting = asyncio.ensure_future(
                loop.start_tls(
                    client.transport, client, client_context, server_hostname="localhost"
                )
            )
            await hand.until(lambda: hand.incoming.pending)
            client.transport.write(b"secret")
            await asyncio.sleep(0)
            await hand.handshake()
            await starting
            assert await hand.receive(6) == b"secret"
            assert b"secret" not in hand.received
            client.transport.write(b" too")
            assert await hand.receive(4) == b" too"
            hand.transport.abort()
            await client.lost()

    run(main)


def test_start_tls_with_the_clients_first_message_behind_its_last_words(run):
    async def main():
        async def serve(reader, writer):
            assert await reader.readline() == b"STARTTLS\n"
            await writer.start_tls(server_context)
            writer.write((await reader.readline()).upper())
            writer.close()
            await writer.wait_closed()
            done.set()

        server_context, client_context = contexts()
        done = asyncio.Event()
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        hand = await connect(
            lambda: ByHand(client_context, server_hostname="localhost"),
            server.sockets[0].getsockname(),
        )
        hand.transport.write(b"STARTTLS\n")
        await hand.handshake()
        await hand.send(b"hello\n")
        assert await hand.receive(6) == b"HELLO\n"
        await hand.receive_the_end()
        hand.transport.close()
        await done.wait()
        server.close()
        await server.wait_closed()

    if hasattr(asyncio.StreamWriter, "start_tls"):  # from Python 3.11 on
        run(main)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="asyncio has eager tasks from 3.12 on")
@pytest.mark.parametrize("kind", [Peer, BufferedPeer])
def test_start_tls_of_a_task_that_begins_at_once(run, kind):
    """Within the callback: we speak first, so nothing that comes begins the handshake."""

    class Calls(kind):
        task = None

        def data_received(self, data):
            super().data_received(data)
            if self.task is None:
                starting = loop.start_tls(
                    self.transport, self, client_context, server_hostname="localhost"
                )
                self.task = asyncio.Task(starting, loop=loop, eager_start=True)

    async def main():
        nonlocal loop
        loop = asyncio.get_running_loop()
        async with serving(lambda: ByHand(server_context, server_side=True)) as served:
            client = await connect(Calls, served.address)
            hand = await served.protocol()
            hand.transport.write(b"go")
            await client.until(lambda: client.task is not None)
            await hand.handshake()
            client.transport = await client.task
            await hand.send(b"hello")
            await client.until(lambda: client.received.endswith(b"hello"))
            client.transport.close()
            hand.transport.abort()
            await client.lost()

    loop = None
    server_context, client_context = contexts()
    run(main)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="asyncio has eager tasks from 3.12 on")
@pytest.mark.parametrize("server_side", [False, True], ids=["client", "server"])
def test_start_tls_of_a_task_that_begins_at_once_in_connection_made(run, server_side):
    server_context, client_context = contexts()

    class Calls(Peer):
        def connection_made(self, transport):
            super().connection_made(transport)
            loop = asyncio.get_running_loop()
            starting = loop.start_tls(
                transport,
                self,
                server_context if server_side else client_context,
                server_side=server_side,
                server_hostname=None if server_side else "localhost",
            )
            self.task = asyncio.Task(starting, loop=loop, eager_start=True)

    class Hand(ByHand):
        def __init__(self):
            if server_side:
                super().__init__(client_context, server_hostname="localhost")
            else:
                super().__init__(server_context, server_side=True)

    async def main():
        async with serving(Calls if server_side else Hand) as served:
            client = await connect(Hand if server_side else Calls, served.address)
            peer = await served.protocol()
            await peer.until_told("made")
            hand, calls = (client, peer) if server_side else (peer, client)
            assert not calls.task.done()
            await hand.handshake()
            transport = await calls.task
            assert transport.get_extra_info("ssl_object").version() is not None
            await hand.send(b"hello")
            await calls.until(lambda: calls.received == b"hello")
            hand.transport.abort()
            await hand.lost()
            await calls.lost()

    run(main)


def test_start_tls_that_fails_raises_and_closes(run):
    async def main():
        loop = asyncio.get_running_loop()
        async with serving(Talks) as served:
            client = await connect(Peer, served.address)
            with pytest.raises(ssl.SSLError):
                await loop.start_tls(
                    client.transport, client, contexts()[1], server_hostname="localhost"
                )
            assert client.transport.is_closing()
            assert isinstance(await client.lost(), ssl.SSLError)
            await (await served.protocol()).lost()

    run(main)


@pytest.mark.parametrize("ended", ["closed", "write_eof"])
def test_start_tls_of_a_connection_that_ends_is_refused(run, ended):
    async def main():
        loop = asyncio.get_running_loop()
        async with serving(Peer) as served:
            client = await connect(Peer, served.address)
            if ended == "closed":
                client.transport.close()
            else:
                client.transport.write_eof()
            with pytest.raises(ConnectionAbortedError):
                await loop.start_tls(
                    client.transport, client, contexts()[1], server_hostname="localhost"
                )
            client.transport.close()
            await client.lost()
            await (await served.protocol()).lost()

    run(main)


def test_start_tls_of_a_connection_whose_peer_has_ended_fails_at_once(run):
    class StaysOpen(Peer):
        def eof_received(self):
            super().eof_received()
            return True

    async def main():
        loop = asyncio.get_running_loop()
        async with serving(StaysOpen) as served:
            client = await connect(Peer, served.address)
            client.transport.write_eof()
            peer = await served.protocol()
            await peer.until_told("eof")
            with pytest.raises(ConnectionResetError):
                await loop.start_tls(peer.transport, peer, contexts()[0], server_side=True)
            assert isinstance(await peer.lost(), ConnectionResetError)
            assert peer.told.count("eof") == 1
            await client.lost()

    run(main)


# -- servers ---------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.version_info < (3, 13), reason="asyncio has these from Python 3.13 on")
@pytest.mark.parametrize("end", ["close_clients", "abort_clients"])
def test_a_servers_clients_are_ended_in_their_handshake_too(run, end):
    async def main():
        server_context, client_context = contexts()
        async with serving(Peer, ssl=server_context) as served:
            client = await connect(Peer, served.address, client_context)
            await (await served.protocol()).until_told("made")
            plain = await connect(Peer, served.address)
            while len(served.protocols) < 2:
                served.come.clear()
                await served.come.wait()
            served.server.close()
            getattr(served.server, end)()
            await client.lost()
            await plain.lost()
            await served.server.wait_closed()
            assert served.protocols[1].told == []

    run(main)


# -- files -----------------------------------------------------------------------------------------


def test_a_file_is_sent(run, tmp_path):
    async def main():
        loop = asyncio.get_running_loop()
        path = tmp_path / "file"
        path.write_bytes(BIG)
        async with pair() as (peer, client):
            with path.open("rb") as file:
                assert await loop.sendfile(client.transport, file, 1000, 300_000) == 300_000
                assert file.tell() == 301_000
                with pytest.raises(RuntimeError, match="fallback"):
                    await loop.sendfile(client.transport, file, fallback=False)
                # For asyncio's fallback that is all.
                with pytest.raises(ValueError, match=r"^count must be a positive integer"):
                    await loop.sendfile(client.transport, file, 1000, 0)
            await peer.until(lambda: peer.kept_bytes == 300_000)
            assert_same_bytes(peer.received, BIG[1000:301_000])

    run(main)
