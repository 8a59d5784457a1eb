"""TCP on the asyncio loop: transports, servers, streams, on sockets.

Each test runs a loop of its own, and ends on its engine's books.
"""

import _overlapped
import asyncio
import contextvars
import gc
import socket
import ssl
import threading
import warnings
import weakref
from pathlib import Path

import loop_peers
import pytest
from clients import Client
from loop_peers import Echo, KeepsOpen, Peer, listening, pair
from tls_peers import TlsClient, server_context
from waiting import WAIT_S, clock, wait_for_event

import iocpx

BIG = bytes(range(256)) * 8192  # 2 MiB: more than a socket takes at once
CERTIFICATE = Path(__file__).parent / "data" / "localhost.pem"


run = loop_peers.run


def test_a_message_is_echoed_and_both_ends_end(run):
    async def main():
        server, client, echo = await pair(Echo)
        client.transport.write(b"hello")
        await client.until(lambda peer: peer.received == b"hello")
        client.transport.close()
        assert client.transport.is_closing()
        assert await client.lost is None
        assert await echo.lost is None
        assert client.told == ["made", "data", "lost"]
        assert echo.told == ["made", "data", "eof", "lost"]
        server.close()
        await server.wait_closed()

    run(main)


def test_streams_carry_more_than_a_socket_takes_at_once(run):
    async def main():
        async def upper(reader, writer):
            writer.write((await reader.read(-1)).swapcase())
            writer.close()
            await writer.wait_closed()

        server = await asyncio.start_server(upper, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(BIG)
        await writer.drain()
        writer.write_eof()
        assert await reader.read(-1) == BIG.swapcase()
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()

    run(main)


def test_after_write_eof_the_other_direction_goes_on(run):
    async def main():
        server, client, other = await pair(KeepsOpen)
        client.transport.write(b"last")
        client.transport.write_eof()
        with pytest.raises(RuntimeError, match="write_eof"):
            client.transport.write(b"no more")
        await other.until(lambda peer: "eof" in peer.told)
        assert other.received == b"last"
        other.transport.write(b"still there")
        await client.until(lambda peer: peer.received == b"still there")
        other.transport.close()
        assert await other.lost is None
        assert await client.lost is None
        server.close()

    run(main)


class Greets(Peer):
    def connection_made(self, transport):
        super().connection_made(transport)
        transport.write(b"welcome")


def test_who_waits_for_a_connection_may_set_its_protocol_before_data_comes(run):
    async def main():
        loop = asyncio.get_running_loop()
        greets, second = Greets(), Peer()
        server = await loop.create_server(lambda: greets, "127.0.0.1", 0)
        transport, first = await loop.create_connection(Peer, *server.sockets[0].getsockname())
        transport.set_protocol(second)
        await second.until(lambda peer: peer.received == b"welcome")
        assert first.told == ["made"]
        assert transport.get_protocol() is second
        transport.close()
        await second.lost
        await greets.lost
        server.close()
        await server.wait_closed()

    run(main)


class Buffered(asyncio.BufferedProtocol):
    def __init__(self):
        self.lost = asyncio.get_running_loop().create_future()
        self.memory = bytearray(1000)
        self.nbytes = 0

    def connection_made(self, transport):
        self.transport = transport

    def get_buffer(self, sizehint):
        return self.memory

    def buffer_updated(self, nbytes):
        self.nbytes += nbytes
        self.transport.write(self.memory[:nbytes])

    def connection_lost(self, exc):
        self.lost.set_result(exc)


def test_a_buffered_protocol_gets_its_data_in_its_own_buffer(run):
    async def main():
        loop = asyncio.get_running_loop()
        made = []

        def make():
            made.append(Buffered())
            return made[0]

        server = await loop.create_server(make, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(BIG)
        assert await reader.readexactly(len(BIG)) == BIG
        writer.close()
        await writer.wait_closed()
        assert await made[0].lost is None
        assert made[0].nbytes == len(BIG)
        server.close()

    run(main)


def test_writing_is_paused_inside_write_and_resumed_when_the_peer_reads(run):
    async def main():
        server, client, other = await pair(Peer)
        other.transport.pause_reading()
        assert not other.transport.is_reading()
        while "pause" not in client.told:
            client.transport.write(BIG)
        assert client.told[-1] == "pause"
        low, high = client.transport.get_write_buffer_limits()
        assert (low, high) == (16384, 65536)
        assert client.transport.get_write_buffer_size() > high
        other.transport.resume_reading()
        await client.until(lambda peer: peer.told[-1] == "resume")
        assert client.transport.get_write_buffer_size() <= low
        client.transport.close()
        assert await other.lost is None
        assert other.kept_bytes % len(BIG) == 0
        server.close()

    run(main)


def test_a_peer_that_sends_much_before_it_reads_does_not_stall(run):
    """Receiving goes on while what is to be sent is above its mark, as with asyncio."""

    async def main():
        server, client, other = await pair(Echo)
        client.transport.pause_reading()
        for _ in range(8):
            client.transport.write(BIG)
        await other.until(lambda peer: peer.kept_bytes == 8 * len(BIG))
        client.transport.resume_reading()
        await client.until(lambda peer: peer.kept_bytes == 8 * len(BIG))
        client.transport.close()
        await other.lost
        server.close()

    run(main)


class WritesWhenResumed(Peer):
    def resume_writing(self):
        super().resume_writing()
        self.transport.write(b"last")


def test_what_is_written_while_a_close_is_flushed_is_sent(run):
    """A TLS layer that is paused holds back its close_notify until resume_writing()."""

    async def main():
        server, client, other = await pair(Peer, WritesWhenResumed)
        other.transport.pause_reading()
        while "pause" not in client.told:
            client.transport.write(BIG)
        client.transport.close()
        other.transport.resume_reading()
        assert await client.lost is None
        assert await other.lost is None
        assert other.received.endswith(b"last")
        server.close()

    run(main)


def test_abort_calls_connection_lost_by_call_soon(run):
    async def main():
        server, client, other = await pair(Peer)
        client.transport.abort()
        assert "lost" not in client.told
        await asyncio.sleep(0)
        assert client.told == ["made", "lost"]
        assert isinstance(await other.lost, (ConnectionResetError, type(None)))
        server.close()

    run(main)


@pytest.mark.parametrize("turns", [0, 1])
def test_abort_sends_what_was_written_and_resets_nobody(run, turns):
    """As with asyncio, whose write() gives it to the kernel at once; anyio ends so."""

    async def main():
        server, client, other = await pair(Peer)
        client.transport.write(b"the answer")
        for _ in range(turns):
            await asyncio.sleep(0)
        client.transport.abort()
        assert await other.lost is None
        assert other.received == b"the answer"
        server.close()

    run(main)


def test_what_the_last_callback_wrote_leaves_also_where_the_loop_ends():
    loop = iocpx.new_event_loop()

    async def main(address):
        _, client = await loop.create_connection(Peer, *address)
        client.transport.write(b"the last")
        return client

    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = loop.run_until_complete(main(listener.getsockname()))
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.recv(100) == b"the last"
            client.transport.write(b" word")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ResourceWarning)
                loop.close()
                client.transport = client.made = None
                del client
                gc.collect()
            assert accepted.recv(100) == b" word"
            assert accepted.recv(100) == b""


def test_what_is_written_to_a_connection_that_waits_for_its_turn_leaves_too():
    """It has had its share of the last look at the port, and the loop ends before the next."""
    loop = iocpx.new_event_loop()

    class Answers(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport

        def data_received(self, data):
            # The next message is there before the answer is sent: both complete at once.
            accepted.sendall(b"again")
            self.transport.write(b"answer")
            loop.call_soon(loop.stop)
            loop.call_soon(self.transport.write, b", more")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        _, client = loop.run_until_complete(
            loop.create_connection(Answers, *listener.getsockname())
        )
        accepted, _ = listener.accept()
        with accepted, warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            accepted.settimeout(30)
            accepted.sendall(b"first")
            loop.run_forever()
            received = b""
            while len(received) < len(b"answer, more"):
                received += accepted.recv(100)
            assert received == b"answer, more"
            loop.close()
            del client
            gc.collect()


def test_a_socket_that_asyncio_has_connected_becomes_a_transport(run):
    """The proactor has brought it to the port, under a key that is not the engine's."""

    async def main():
        loop = asyncio.get_running_loop()
        server, echoes = await listening(Echo)
        for _ in range(3):
            sock = socket.socket()
            sock.setblocking(False)
            await loop.sock_connect(sock, server.sockets[0].getsockname())
            await loop.sock_sendall(sock, b"first")
            assert await loop.sock_recv(sock, 100) == b"first"
            transport, client = await loop.create_connection(Peer, sock=sock)
            transport.write(BIG)
            await client.until(lambda peer: peer.kept_bytes == len(BIG))
            assert client.received == BIG
            transport.close()
            await client.lost
            assert sock.fileno() == -1
            await (await echoes.get()).lost
        server.close()
        await server.wait_closed()

    run(main)


class OfItsAddress(socket.socket):
    """No copy can be made by its class, whose constructor takes something else."""

    def __init__(self, address):
        super().__init__()
        self.connect(address)


def test_a_socket_of_a_class_of_its_own(run):
    async def main():
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            sock = OfItsAddress(listener.getsockname())
            far, _ = listener.accept()
        with far:
            transport, peer = await loop.create_connection(Peer, sock=sock)
            far.sendall(b"hello")
            await peer.until(lambda peer: peer.received == b"hello")
            transport.close()
            await peer.lost
            assert sock.fileno() == -1

    run(main)


def test_a_socket_without_a_connection_is_told_so(run):
    async def main():
        sock = socket.socket()
        sock.setblocking(False)
        _, peer = await asyncio.get_running_loop().create_connection(Peer, sock=sock)
        assert (await peer.lost).winerror == 10057
        assert peer.told == ["made", "lost"]

    run(main)


def test_an_accepted_socket_becomes_a_transport(run):
    async def main():
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.setblocking(False)
            with socket.create_connection(listener.getsockname()) as peer:
                accepted, _ = await loop.sock_accept(listener)
                transport, echo = await loop.connect_accepted_socket(Echo, accepted)
                peer.sendall(b"hello")
                assert await asyncio.to_thread(peer.recv, 100) == b"hello"
                transport.close()
                assert await asyncio.to_thread(peer.recv, 100) == b""
            await echo.lost

    run(main)


def test_what_get_extra_info_knows(run):
    async def main():
        server, client, other = await pair(Peer)
        for end in (client, other):
            sock = end.transport.get_extra_info("socket")
            assert isinstance(sock, asyncio.trsock.TransportSocket)
            assert (sock.family, sock.type, sock.proto) == (
                socket.AF_INET,
                socket.SOCK_STREAM,
                socket.IPPROTO_TCP,
            )
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
            assert sock.getsockname() == end.transport.get_extra_info("sockname")
            assert sock.getpeername() == end.transport.get_extra_info("peername")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            assert sock.fileno() != -1
            with sock.dup() as copy:
                assert copy.getsockname() == sock.getsockname()
            end.transport._extra["found"] = "here"
            assert end.transport.get_extra_info("found") == "here"
            assert end.transport.get_extra_info("nothing", 5) == 5
        names = [client.transport.get_extra_info(name) for name in ("sockname", "peername")]
        assert names == [other.transport.get_extra_info(name) for name in ("peername", "sockname")]
        client.transport.close()
        await client.lost
        await other.lost
        assert client.transport.get_extra_info("peername") == names[1]
        server.close()
        await server.wait_closed()

    run(main)


def test_the_socket_of_a_connection_that_is_over_is_closed(run):
    async def main():
        server, client, other = await pair(Peer)
        sock = other.transport.get_extra_info("socket")
        client.transport.abort()
        await other.lost
        other.transport = None
        while sock.fileno() != -1:
            await asyncio.sleep(0)
        with pytest.raises(OSError, match="10038"):
            sock.getsockname()
        server.close()

    run(main)


def test_a_transport_is_asyncios_and_can_be_referenced_weakly(run):
    async def main():
        server, client, other = await pair(Peer)
        transport = client.transport
        assert isinstance(transport, asyncio.Transport)
        assert transport._loop is asyncio.get_running_loop()
        # What asyncio's own internals ask for, and aiohttp's.
        assert transport._start_tls_compatible is True
        assert transport._sendfile_compatible is asyncio.constants._SendfileMode.TRY_NATIVE
        assert callable(transport._force_close) and isinstance(transport._extra, dict)
        assert transport.get_extra_info("socket").proto == socket.IPPROTO_TCP
        assert repr(transport).endswith("open>")
        weak = weakref.ref(transport)
        transport.close()
        await client.lost
        await other.lost
        assert repr(transport).endswith("closed>")
        transport.close()
        transport.abort()
        transport.write(b"nobody")
        del transport
        client.transport = client.made = None
        while weak() is not None:
            await asyncio.sleep(0)
            gc.collect()
        server.close()

    run(main)


@pytest.mark.parametrize("data", [None, "text", 5, [b"x"]])
def test_what_is_no_bytes_is_refused(run, data):
    async def main():
        server, client, other = await pair(Peer)
        with pytest.raises(TypeError, match="bytes-like"):
            client.transport.write(data)
        if data != [b"x"]:
            with pytest.raises(TypeError):
                client.transport.writelines([b"a", data])
        client.transport.writelines([b"a", bytearray(b"b"), memoryview(b"cc")[::2]])
        client.transport.close()
        await other.lost
        assert other.received == b"abc"
        server.close()

    run(main)


variable = contextvars.ContextVar("variable", default=0)


class Counts(Peer):
    def connection_made(self, transport):
        super().connection_made(transport)
        variable.set(variable.get() + 1)

    def data_received(self, data):
        super().data_received(data)
        variable.set(variable.get() + 1)
        self.transport.write(b"%d" % variable.get())


def test_each_connection_has_a_context_of_its_own(run):
    async def main():
        variable.set(10)
        for _ in range(2):
            server, client, other = await pair(Counts, KeepsOpen)
            client.transport.write(b"x")
            await client.until(lambda peer: peer.received == b"12")
            client.transport.write(b"x")
            await client.until(lambda peer: peer.received == b"1213")
            client.transport.close()
            await client.lost
            await other.lost
            server.close()
        assert variable.get() == 10

    run(main)


def test_a_transport_that_is_kept_keeps_no_context(run):
    class Value:
        pass

    kept = []
    others = []

    def other():
        others.append(Peer())
        return others[-1]

    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(other, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        first, client = await loop.create_connection(Peer, *address)
        first.close()
        await client.lost
        value = Value()
        variable.set(value)
        transport, client = await loop.create_connection(Peer, *address)
        variable.set(0)
        gone = weakref.ref(value)
        del value
        kept.append(transport)
        transport.close()
        await client.lost
        server.close()
        await server.wait_closed()
        # Before Python 3.12 that waits for nobody.
        for peer in others:
            await peer.lost
        return gone

    gone = run(main)
    gc.collect()
    assert gone() is None and kept[0].is_closing()


def tls_contexts():
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(CERTIFICATE)
    client = ssl.create_default_context(cadata=CERTIFICATE.read_text())
    return server, client


def test_tls(run):
    async def main():
        async def echo(reader, writer):
            writer.write(await reader.readexactly(len(BIG)))
            await writer.drain()
            writer.close()
            await writer.wait_closed()

        server_context, client_context = tls_contexts()
        server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=server_context)
        reader, writer = await asyncio.open_connection(
            *server.sockets[0].getsockname(), ssl=client_context, server_hostname="localhost"
        )
        assert writer.get_extra_info("peercert")["subject"]
        writer.write(BIG)
        assert await reader.readexactly(len(BIG)) == BIG
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()

    run(main)


def test_start_tls(run):
    async def main():
        loop = asyncio.get_running_loop()
        server_context, client_context = tls_contexts()
        done = loop.create_future()

        async def serve(reader, writer):
            assert await reader.readline() == b"STARTTLS\n"
            writer.write(b"GO\n")
            await writer.drain()
            await writer.start_tls(server_context)
            writer.write((await reader.readline()).upper())
            await writer.drain()
            writer.close()
            await writer.wait_closed()
            done.set_result(None)

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"STARTTLS\n")
        assert await reader.readline() == b"GO\n"
        await writer.start_tls(client_context, server_hostname="localhost")
        writer.write(b"secret\n")
        assert await reader.readline() == b"SECRET\n"
        writer.close()
        await writer.wait_closed()
        await done
        server.close()

    run(main)


def test_the_port_is_looked_at_when_a_connection_has_ended(run):
    """Before whoever has waited for that goes on: he may close the server next, and whom that one
    has accepted in the meantime is in the port."""
    seen = []

    class Last(Peer):
        def connection_lost(self, exc):
            super().connection_lost(exc)
            loop = asyncio.get_running_loop()
            came = loop.create_future()
            packet = _overlapped.Overlapped(0)
            proactor = loop._proactor
            proactor._cache[packet.address] = (came, packet, None, lambda *arguments: None)
            _overlapped.PostQueuedCompletionStatus(proactor._iocp, 0, 0, packet.address)
            loop.call_soon(lambda: seen.append(came.done()))

    async def main():
        loop = asyncio.get_running_loop()
        server, served = await listening(Peer)
        for _ in range(3):
            transport, client = await loop.create_connection(
                Last, *server.sockets[0].getsockname()
            )
            # In the step in which it has begun: it has no receive yet whose end would be a packet.
            transport.write(b"all")
            transport.close()
            await client.lost
            peer = await served.get()
            await peer.lost
            assert peer.received == b"all"
        server.close()

    run(main)
    assert seen == [True] * 3


def test_a_closed_server_takes_nobody_and_keeps_whom_it_has(run):
    async def main():
        loop = asyncio.get_running_loop()
        server, client, other = await pair(Echo)
        listening = server.sockets[0]
        address = listening.getsockname()
        server.close()
        assert not server.is_serving()
        assert listening.fileno() == -1
        try:
            _, late = await loop.create_connection(Peer, *address)
        except (ConnectionRefusedError, ConnectionResetError):
            pass
        except OSError as exc:
            # A reset before ConnectEx had ended: asyncio gives that of a connect another type.
            if exc.winerror != 64:
                raise
        else:
            # Our socket is closed, so nobody should get here. Under Wine some do on a busy machine
            # (25 of 3,000), as if it listened until the cancelled AcceptEx are back; they are not
            # served: pair() would complain.
            await late.lost
            assert "data" not in late.told
        client.transport.write(b"still")
        await client.until(lambda peer: peer.received == b"still")
        waits = asyncio.ensure_future(server.wait_closed())
        client.transport.close()
        await waits
        await other.lost

    run(main)


def test_slow_callbacks_are_warned_of_in_debug_mode(run, caplog):
    async def main():
        loop = asyncio.get_running_loop()
        loop.set_debug(True)
        loop.slow_callback_duration = 0.0
        server, client, other = await pair(Echo)
        client.transport.write(b"x")
        await client.until(lambda peer: peer.received == b"x")
        client.transport.close()
        await other.lost
        server.close()

    run(main)
    assert any(
        record.getMessage().startswith("Executing the callbacks of <iocpx.Transport")
        for record in caplog.records
    )


def test_loops_come_and_go(run):
    async def main():
        server, client, other = await pair(Echo)
        client.transport.write(b"x")
        await client.until(lambda peer: peer.received == b"x")
        client.transport.close()
        await other.lost
        server.close()

    before = threading.active_count()
    for _ in range(20):
        run(main)
    assert threading.active_count() <= before


def test_a_loop_that_is_closed_calls_nobody_and_warns_of_open_transports():
    loop = iocpx.new_event_loop()
    peers = loop.run_until_complete(pair(Peer))
    peers[0].close()
    told = [list(peer.told) for peer in peers[1:]]
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", ResourceWarning)
        loop.close()
        assert [list(peer.told) for peer in peers[1:]] == told
        for peer in peers[1:]:
            peer.transport = peer.made = None
        del peers, peer
        gc.collect()
    assert sum("unclosed transport" in str(warning.message) for warning in warned) == 2


def test_loops_in_several_threads(run):
    async def main():
        server, client, other = await pair(Echo)
        for number in range(50):
            client.forget()
            client.transport.write(b"%d" % number)
            await client.until(lambda peer, number=number: peer.received == b"%d" % number)
        client.transport.close()
        await other.lost
        server.close()
        await server.wait_closed()

    raised = []

    def thread():
        try:
            run(main)
        except BaseException as exc:
            raised.append(exc)

    threads = [threading.Thread(target=thread) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert raised == []


@pytest.mark.parametrize("secured", [False, True], ids=["plain", "TLS"])
def test_who_writes_until_it_is_closing_learns_in_a_callback_that_nobody_is_there(run, secured):
    """One that is neither paused nor closing goes on, and what it writes is dropped: for ever."""
    begun, gone = threading.Event(), threading.Event()

    class Writes(Peer):
        def data_received(self, data):
            begun.set()
            wait_for_event(gone, "the client's reset")
            before = self.transport.is_closing()
            limit = clock() + WAIT_S
            while not self.transport.is_closing() and clock() < limit:
                self.transport.write(BIG)
            self.told.append((before, self.transport.is_closing()))

    def ask(address):
        client = TlsClient(address) if secured else Client(address)
        client.send(b"go on")
        wait_for_event(begun, "the callback")
        client.reset()
        gone.set()

    async def main():
        loop = asyncio.get_running_loop()
        peer = Writes()
        context = server_context() if secured else None
        server = await loop.create_server(lambda: peer, "127.0.0.1", ssl=context)
        await asyncio.to_thread(ask, server.sockets[0].getsockname())
        assert isinstance(await peer.lost, ConnectionError)
        assert (False, True) in peer.told
        server.close()
        await server.wait_closed()

    run(main)
