"""What create_server() and create_connection() of the loop are asked for: hosts, families, options.

asyncio reads the arguments, and the sockets that it makes of them are served by the engine.
"""

import asyncio
import inspect
import socket
import sys
import threading

import loop_peers
import pytest
from loop_peers import Echo, Peer
from sockets import bound_socket, free_port, has_ipv6

run = loop_peers.run


async def echoes(*address, **options):
    """Connect, have something echoed, and hang up; the protocol."""
    loop = asyncio.get_running_loop()
    _, peer = await loop.create_connection(Peer, *address, **options)
    peer.transport.write(b"hello")
    await peer.until(lambda peer: peer.received == b"hello")
    peer.transport.close()
    await peer.lost
    return peer


async def ended(server, protocols):
    server.close()
    await server.wait_closed()
    for protocol in protocols:
        await protocol.lost


@pytest.fixture
def made():
    """(a factory of protocols that echo, those that it has made)"""
    protocols = []

    def make():
        protocols.append(Echo())
        return protocols[-1]

    return make, protocols


@pytest.mark.skipif(not has_ipv6(), reason="there is no IPv6 here")
@pytest.mark.parametrize("hosts", [["127.0.0.1", "::1"], "::1", None], ids=["list", "v6", "all"])
def test_a_server_of_several_hosts_and_families(run, made, hosts):
    async def main():
        make, protocols = made
        port = free_port()
        server = await asyncio.get_running_loop().create_server(make, hosts, port)
        names = {sock.getsockname()[0] for sock in server.sockets}
        assert (
            names
            == {"list": {"127.0.0.1", "::1"}, "v6": {"::1"}, "all": {"0.0.0.0", "::"}}[
                "all" if hosts is None else "v6" if hosts == "::1" else "list"
            ]
        )
        if hosts != "::1":
            assert (await echoes("127.0.0.1", port)).transport.get_extra_info("peername") == (
                "127.0.0.1",
                port,
            )
        peer = await echoes("::1", port)
        assert peer.transport.get_extra_info("peername") == ("::1", port, 0, 0)
        assert protocols[-1].transport.get_extra_info("sockname") == ("::1", port, 0, 0)
        await ended(server, protocols)

    run(main)


def test_a_server_that_does_not_start_at_once(run, made):
    async def main():
        make, protocols = made
        loop = asyncio.get_running_loop()
        server = await loop.create_server(make, "127.0.0.1", 0, start_serving=False)
        assert not server.is_serving()
        address = server.sockets[0].getsockname()
        with pytest.raises(ConnectionRefusedError):
            await loop.create_connection(Peer, *address)
        await server.start_serving()
        assert server.is_serving()
        await echoes(*address)
        await ended(server, protocols)

    run(main)


def test_a_server_on_a_socket_of_ones_own(run, made):
    async def main():
        make, protocols = made
        loop = asyncio.get_running_loop()
        with bound_socket() as sock:
            address = sock.getsockname()
            server = await loop.create_server(make, sock=sock, backlog=1)
            await echoes(*address)
            with pytest.raises(OSError, match=str(address[1])):
                await loop.create_server(make, *address)
            await ended(server, protocols)

    run(main)


@pytest.mark.parametrize("option", ["keep_alive", "reuse_address"])
def test_options_of_the_listener(run, made, option):
    if option not in inspect.signature(asyncio.BaseEventLoop.create_server).parameters:
        pytest.skip(f"this Python's create_server() has no {option}")
    number = {"keep_alive": socket.SO_KEEPALIVE, "reuse_address": socket.SO_REUSEADDR}[option]

    async def main():
        make, protocols = made
        loop = asyncio.get_running_loop()
        server = await loop.create_server(make, "127.0.0.1", 0, **{option: True})
        listener = server.sockets[0]
        assert listener.getsockopt(socket.SOL_SOCKET, number) != 0
        _, peer = await loop.create_connection(Peer, *listener.getsockname())
        peer.transport.write(b"hello")
        await peer.until(lambda peer: peer.received == b"hello")
        accepted = protocols[0].transport.get_extra_info("socket")
        if option == "keep_alive":
            # As SO_UPDATE_ACCEPT_CONTEXT has it, an accepted socket has its listener's options.
            assert accepted.getsockopt(socket.SOL_SOCKET, number) != 0
        peer.transport.close()
        await ended(server, protocols)

    run(main)


def test_a_connection_goes_out_from_its_local_address(run, made):
    async def main():
        make, protocols = made
        loop = asyncio.get_running_loop()
        server = await loop.create_server(make, "127.0.0.1", 0)
        port = free_port()
        address = server.sockets[0].getsockname()
        peer = await echoes(*address, local_addr=("127.0.0.1", port))
        assert peer.transport.get_extra_info("sockname") == ("127.0.0.1", port)
        assert protocols[0].transport.get_extra_info("peername") == ("127.0.0.1", port)
        await ended(server, protocols)

    run(main)


@pytest.mark.parametrize("delay", [None, 30.0], ids=["one by one", "happy eyeballs"])
def test_the_next_address_is_tried_when_one_refuses(run, made, monkeypatch, delay):
    async def main():
        make, protocols = made
        loop = asyncio.get_running_loop()
        server = await loop.create_server(make, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        with bound_socket() as refuses:

            async def look_up(host, port, **options):
                stream = socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, ""
                return [(*stream, refuses.getsockname()), (*stream, address)]

            monkeypatch.setattr(loop, "getaddrinfo", look_up)
            peer = await echoes("name.of.two", 1, happy_eyeballs_delay=delay)
            assert peer.transport.get_extra_info("peername") == address
        await ended(server, protocols)

    run(main)


@pytest.mark.skipif(sys.version_info < (3, 13), reason="asyncio has these from Python 3.13 on")
@pytest.mark.parametrize("end", ["close_clients", "abort_clients"])
def test_a_server_ends_its_clients(run, made, end):
    async def main():
        make, protocols = made
        loop = asyncio.get_running_loop()
        server = await loop.create_server(make, "127.0.0.1", 0)
        peers = []
        for _ in range(3):
            _, peer = await loop.create_connection(Peer, *server.sockets[0].getsockname())
            peer.transport.write(b"hello")
            await peer.until(lambda peer: peer.received == b"hello")
            peers.append(peer)
        protocols[0].transport.write(b" and this")
        getattr(server, end)()
        assert server.is_serving()
        for protocol in protocols:
            assert await protocol.lost is None
        for peer in peers:
            await peer.lost
        if end == "close_clients":
            assert peers[0].received == b"hello and this"
        # It serves on, whoever comes next.
        await echoes(*server.sockets[0].getsockname())
        await ended(server, protocols)

    run(main)


def test_a_busy_loop_without_connections_takes_a_client_soon(run):
    """Callbacks that take longer than a tick of the system's clock, and always a next one."""

    async def main():
        loop = asyncio.get_running_loop()
        came = loop.create_future()

        class Comes(asyncio.Protocol):
            def connection_made(self, transport):
                came.set_result(turns)
                transport.abort()

        server = await loop.create_server(Comes, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        turns = 0
        with socket.socket() as client:
            while not came.done():
                turns += 1
                if turns == 3:
                    client.connect(address)
                    # The system has to tell of him, which it may come to only now.
                    threading.Event().wait(0.5)
                spend_a_tick()
                await asyncio.sleep(0)
        server.close()
        await server.wait_closed()
        return came.result()

    # Else 64 are without a look, always.  The engine's own thread, which told the system to accept,
    # may have had no CPU for so long once.
    assert any(run(main) < 20 for _ in range(5))


def spend_a_tick():
    from ctypes import windll

    before = windll.kernel32.GetTickCount64()
    while windll.kernel32.GetTickCount64() == before:
        pass
