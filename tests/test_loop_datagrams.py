"""The loop's datagram endpoints, on the engine; what asyncio's own have wrong is in
test_loop_stock_faults.py."""

import asyncio
import socket

import pytest
from loops import run
from sockets import free_port, has_ipv6

import iocpx

HOST = "127.0.0.1"


class Keeps(asyncio.DatagramProtocol):
    def __init__(self):
        self.got = asyncio.Queue()
        self.lost = asyncio.get_running_loop().create_future()

    def datagram_received(self, data, addr):
        self.got.put_nowait((data, addr))

    def error_received(self, exc):
        self.got.put_nowait(exc)

    def connection_lost(self, exc):
        self.lost.set_result(exc)


class KeepsLists(Keeps):
    def datagrams_received(self, datagrams):
        self.got.put_nowait(datagrams)


async def pair(factory=Keeps, host=HOST):
    """An endpoint, and one that is connected to it; a transport and a protocol each."""
    loop = asyncio.get_running_loop()
    bound = await loop.create_datagram_endpoint(factory, (host, 0))
    address = bound[0].get_extra_info("sockname")
    return *bound, *await loop.create_datagram_endpoint(Keeps, remote_addr=address[:2])


async def end(*protocols_and_transports):
    for item in protocols_and_transports:
        if isinstance(item, asyncio.DatagramTransport):
            item.close()
    for item in protocols_and_transports:
        if isinstance(item, Keeps):
            assert await item.lost is None


def test_attributes_may_be_set():
    """As libraries do: to remember an address, or to count what is sent."""

    async def main():
        near, keeps, far, _ = ends = await pair()
        send, sent = far.sendto, []
        far.sendto = lambda data, addr=None: (sent.append(data), send(data, addr))
        far._address = far.get_extra_info("peername")
        far.sendto(b"x")
        assert (await keeps.got.get())[0] == b"x"
        assert sent == [b"x"]
        assert far._address == near.get_extra_info("sockname")
        del far.sendto  # which holds the transport
        await end(*ends)

    run(main())


def test_what_a_callback_exits_with_leaves_a_loop_that_has_nothing_else_to_do():
    class Exits(Keeps):
        def datagram_received(self, data, addr):
            raise SystemExit(7)

    async def main():
        transport, exits = await loop.create_datagram_endpoint(Exits, (HOST, 0))
        endpoint.extend((transport, exits))
        transport.sendto(b"x", transport.get_extra_info("sockname"))
        await loop.create_future()

    endpoint = []
    loop = iocpx.new_event_loop()
    task = loop.create_task(main())
    with pytest.raises(SystemExit) as raised:
        loop.run_until_complete(task)
    assert raised.value.code == 7
    task.cancel()
    # The endpoint is none the worse for it.
    loop.run_until_complete(end(*endpoint))
    loop.close()


@pytest.mark.parametrize("host", [HOST, "::1"])
def test_both_directions(host):
    if ":" in host and not has_ipv6():
        pytest.skip("this machine has no IPv6")

    async def main():
        near, keeps, far, answers = ends = await pair(host=host)
        for data in (b"a", b"", bytes(60_000)):
            far.sendto(data)
            got, addr = await keeps.got.get()
            assert (got, addr) == (data, far.get_extra_info("sockname"))
            near.sendto(got, addr)
            assert await answers.got.get() == (data, near.get_extra_info("sockname"))
        assert far.get_extra_info("peername") == near.get_extra_info("sockname")
        assert near.get_extra_info("peername") is None
        await end(*ends)

    run(main())


def test_what_has_come_is_told_behind_what_was_to_be_called_already():
    """A task that was made before may be the one that waits for it."""

    async def main():
        loop = asyncio.get_running_loop()
        _, keeps, far, _ = ends = await pair()
        order = []
        keeps.datagram_received = lambda data, addr: (order.append("told"), keeps.got.put_nowait(0))
        for turn in range(20):
            far.sendto(b"")
            loop.call_soon(order.append, "called")
            await keeps.got.get()
            assert order == ["called", "told"], turn
            order.clear()
        await end(*ends)

    run(main())


def test_a_socket_that_cannot_be_closed_does_not_keep_the_end_from_being_told():
    class Stubborn(socket.socket):
        def close(self):
            raise RuntimeError("not now")

    async def main():
        loop = asyncio.get_running_loop()
        complaints = []
        loop.set_exception_handler(lambda _, context: complaints.append(context["exception"]))
        sock = Stubborn(type=socket.SOCK_DGRAM)
        sock.bind((HOST, 0))
        near, keeps = await loop.create_datagram_endpoint(Keeps, sock=sock)
        near.close()
        assert await keeps.lost is None
        assert [str(exc) for exc in complaints] == ["not now"]
        socket.socket.close(sock)

    run(main())


class Ends(Keeps):
    """Ends its endpoint in its first callback."""

    how = "close"

    def datagram_received(self, data, addr):
        super().datagram_received(data, addr)
        getattr(self.transport, self.how)()


async def ended_by_the_first(factory, how):
    """Three datagrams are told in one go, and the first of their callbacks ends the endpoint."""
    loop = asyncio.get_running_loop()
    near, keeps = await loop.create_datagram_endpoint(factory, (HOST, 0))
    keeps.transport, keeps.how = near, how
    with socket.socket(type=socket.SOCK_DGRAM) as far:
        for data in (b"1", b"2", b"3"):
            far.sendto(data, near.get_extra_info("sockname"))
    assert await keeps.lost is None
    return [keeps.got.get_nowait() for _ in range(keeps.got.qsize())]


@pytest.mark.parametrize("how", ["close", "abort"])
def test_nothing_that_has_come_is_told_after_the_end(how):
    async def main():
        got = await ended_by_the_first(Ends, how)
        assert [data for data, _ in got] == [b"1"]

    run(main())


@pytest.mark.parametrize("how", ["close", "abort"])
def test_what_waits_to_be_told_is_dropped_with_the_end(how):
    async def main():
        loop = asyncio.get_running_loop()
        near, keeps, far, answers = await pair()
        far.sendto(b"too late")
        # The loop looks, then calls this, and after it what tells of the datagram.
        loop.call_soon(getattr(near, how))
        assert await keeps.lost is None
        assert keeps.got.empty()
        await end(far, answers)

    run(main())


def test_many_come_in_lists_and_in_order():
    async def main():
        _, keeps, far, _ = ends = await pair(KeepsLists)
        for number in range(100):
            far.sendto(b"%d" % number)
        got = []
        calls = 0
        while len(got) < 100:
            some = await keeps.got.get()
            assert {addr for _, addr in some} == {far.get_extra_info("sockname")}
            got += [int(data) for data, _ in some]
            calls += 1
        assert got == list(range(100)) and calls < 100
        await end(*ends)

    run(main())


def test_a_socket_of_ones_own_and_its_options():
    async def main():
        loop = asyncio.get_running_loop()
        sock = socket.socket(type=socket.SOCK_DGRAM)
        sock.bind((HOST, 0))
        address = sock.getsockname()
        # The proactor has it first.
        with socket.socket(type=socket.SOCK_DGRAM) as other:
            other.sendto(b"before", address)
            sock.setblocking(False)
            assert await loop.sock_recv(sock, 10) == b"before"
            transport, protocol = await loop.create_datagram_endpoint(Keeps, sock=sock)
            view = transport.get_extra_info("socket")
            assert view.type == socket.SOCK_DGRAM and view.getsockname() == address
            view.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 3)
            assert view.getsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL) == 3
            other.sendto(b"after", address)
            assert (await protocol.got.get())[0] == b"after"
        with pytest.raises(RuntimeError, match="is used by transport"):
            loop.add_reader(sock, print)
        await end(transport, protocol)
        assert sock.fileno() == -1

    run(main())


def test_one_without_an_address_gets_a_port():
    async def main():
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.create_datagram_endpoint(Keeps, family=socket.AF_INET)
        _, port = transport.get_extra_info("sockname")
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            sock.sendto(b"found", (HOST, port))
            assert (await protocol.got.get())[0] == b"found"
        await end(transport, protocol)

    run(main())


def test_a_port_is_free_when_connection_lost_was_called():
    async def main():
        loop = asyncio.get_running_loop()
        address = (HOST, free_port())
        transport, protocol = await loop.create_datagram_endpoint(Keeps, address)
        for _ in range(10):
            transport.abort()
            assert await protocol.lost is None
            transport, protocol = await loop.create_datagram_endpoint(Keeps, address)
        await end(transport, protocol)

    run(main())


def test_writing_is_paused_and_resumed():
    class Pauses(Keeps):
        told = ()

        def pause_writing(self):
            self.told += ("pause",)

        def resume_writing(self):
            self.told += ("resume",)
            self.lost.get_loop().call_soon(self.resumed.set)

    async def main():
        loop = asyncio.get_running_loop()
        near, keeps = await loop.create_datagram_endpoint(Pauses, (HOST, 0))
        keeps.resumed = asyncio.Event()
        near.set_write_buffer_limits(high=0)
        assert near.get_write_buffer_limits() == (0, 0)
        for _ in range(3):
            near.sendto(b"x", near.get_extra_info("sockname"))
        for _ in range(3):
            assert (await keeps.got.get())[0] == b"x"
        if keeps.told:
            await keeps.resumed.wait()
        assert keeps.told == ("pause", "resume") * (len(keeps.told) // 2)
        await end(near, keeps)

    run(main())


def test_what_a_callback_raises_is_told_and_the_next_datagram_comes():
    complaints = []

    class Raises(Keeps):
        def datagram_received(self, data, addr):
            if data == b"bad":
                raise ZeroDivisionError
            super().datagram_received(data, addr)

    async def main():
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: complaints.append(context)
        )
        _, keeps, far, _ = ends = await pair(Raises)
        far.sendto(b"bad")
        far.sendto(b"good")
        assert (await keeps.got.get())[0] == b"good"
        await end(*ends)

    run(main())
    assert [type(context["exception"]) for context in complaints] == [ZeroDivisionError]


def test_wrong_arguments():
    async def main():
        near, _, far, _ = ends = await pair()
        with pytest.raises(TypeError, match="bytes-like"):
            near.sendto("text", (HOST, 1))
        with pytest.raises(ValueError, match="addr must be given"):
            near.sendto(b"x")
        with pytest.raises(ValueError, match="not a name"):
            near.sendto(b"x", ("localhost", 1))
        with pytest.raises(ValueError, match="Invalid address"):
            far.sendto(b"x", (HOST, 1))
        await end(*ends)

    run(main())


class OfItsAddress(socket.socket):
    """No copy can be made by its class, whose constructor takes something else."""

    def __init__(self, address):
        super().__init__(type=socket.SOCK_DGRAM)
        self.bind(address)


def test_a_socket_of_a_class_of_its_own():
    async def main():
        sock = OfItsAddress((HOST, 0))
        loop = asyncio.get_running_loop()
        near, keeps = await loop.create_datagram_endpoint(Keeps, sock=sock)
        near.sendto(b"to itself", sock.getsockname())
        assert await keeps.got.get() == (b"to itself", sock.getsockname())
        await end(near, keeps)

    run(main())
