"""Calls of other threads to what is a loop's: asyncio promises nothing, and here nothing breaks."""

import asyncio
import threading

import loop_peers
import pytest
import tls_loops
from iocpx._engines import stats_of
from loop_peers import Echo, Peer, listening, pair
from payload import assert_same_bytes, pattern
from waiting import WAIT_S, run_together

run = loop_peers.run

BLOCK = pattern(100_000)


def on_a_thread(*calls):
    """Do the calls on another thread, while the loop goes on; a future."""
    return asyncio.get_running_loop().run_in_executor(None, run_together, *calls)


@pytest.mark.parametrize("size", [1, len(BLOCK), 20 * len(BLOCK)])
@pytest.mark.parametrize("call", ["write", "writelines"])
def test_what_another_thread_writes_leaves_though_the_loop_sleeps(run, call, size):
    data = (BLOCK * 20)[:size]

    async def main():
        server, client, echo = await pair(Echo)
        argument = data if call == "write" else [data[:7], data[7:]]

        def write():
            # The loop is at the port by then: nothing tells when, and nothing else wakes it.
            threading.Event().wait(0.05)
            getattr(client.transport, call)(argument)

        thread = threading.Thread(target=write)
        thread.start()
        await client.until(lambda peer: peer.kept_bytes >= len(data))
        assert_same_bytes(client.received, data)
        thread.join(WAIT_S)
        # The thread's packet, which says that all has left, may come now.
        await client.until(lambda peer: peer.told.count("pause") == peer.told.count("resume"))
        client.transport.close()
        await client.lost
        await echo.lost
        server.close()
        await server.wait_closed()

    run(main)


@pytest.mark.parametrize("call", ["write", "writelines"])
def test_what_another_thread_writes_leaves_on_a_connection_that_is_idle(run, call):
    async def main():
        server, client, echo = await pair(Echo)
        # Until its buffers are taken back for want of data: nothing more of it is due then.
        while stats_of(asyncio.get_running_loop()._engine)["buffers_out"] != 0:
            await asyncio.sleep(0.02)
        argument = b"hello" if call == "write" else [b"hel", b"lo"]
        await on_a_thread(lambda: getattr(client.transport, call)(argument))
        await client.until(lambda peer: peer.received == b"hello")
        client.transport.close()
        await client.lost
        await echo.lost
        server.close()
        await server.wait_closed()

    run(main)


@pytest.mark.parametrize("call", ["close", "abort", "write_eof"])
def test_another_thread_may_end_it(run, call):
    async def main():
        server, client, echo = await pair(Echo)
        thread = threading.Thread(target=getattr(client.transport, call))
        thread.start()
        await client.lost
        await echo.lost
        thread.join(WAIT_S)
        server.close()
        await server.wait_closed()

    run(main)


def test_calls_of_other_threads_while_it_ends(run):
    """Whoever comes last finds a connection that is over, and no memory that is another's."""
    rounds = 30

    async def main():
        loop = asyncio.get_running_loop()
        server, echoes = await listening(Echo)
        for number in range(rounds):
            _, client = await loop.create_connection(Peer, *server.sockets[0].getsockname())
            transport = client.transport
            over = threading.Event()

            def write(transport=transport, over=over):
                while not over.is_set():
                    transport.write(BLOCK)
                    transport.get_write_buffer_size()
                    transport.is_closing()
                    if transport.is_closing():
                        break

            def meddle(transport=transport, over=over):
                while not over.is_set():
                    transport.set_write_buffer_limits(1000)
                    transport.get_write_buffer_limits()
                    transport.pause_reading()
                    transport.resume_reading()
                    if transport.is_closing():
                        break

            threads = on_a_thread(write, meddle)
            await client.until(lambda peer: peer.kept_bytes > 0)
            end = [transport.abort, transport.close, lambda: None][number % 3]
            if number % 3 == 2:
                over.set()
                await threads
            end()
            over.set()
            await threads
            transport.abort()
            await client.lost
            await (await echoes.get()).lost
            transport.write(b"over")
            assert transport.get_write_buffer_size() == 0
        server.close()
        await server.wait_closed()

    run(main)


def test_tls_is_the_loops_threads(run):
    server_context, client_context = tls_loops.contexts()

    async def main():
        loop = asyncio.get_running_loop()
        accepted = loop.create_future()

        def make():
            accepted.set_result(Echo())
            return accepted.result()

        server = await loop.create_server(make, "127.0.0.1", 0, ssl=server_context)
        _, client = await loop.create_connection(
            Peer, *server.sockets[0].getsockname(), ssl=client_context, server_hostname="localhost"
        )
        here = threading.get_ident()
        where = []
        client.pause_writing = lambda: where.append(threading.get_ident())

        def write():
            for _ in range(20):
                client.transport.write(BLOCK)

        threads = on_a_thread(write)
        await client.until(lambda peer: peer.kept_bytes >= 20 * len(BLOCK))
        assert_same_bytes(client.received, BLOCK * 20)
        await threads
        assert set(where) <= {here}
        client.transport.close()
        await client.lost
        await accepted.result().lost
        server.close()
        await server.wait_closed()

    run(main)
