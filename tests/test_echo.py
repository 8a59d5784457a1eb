"""What goes in comes out: the echo, in Python and native, of all sizes, cuts and client numbers."""

import asyncio
import random

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from payload import assert_same_bytes, pattern, pieces
from protocols import Echoing
from sockets import has_ipv6
from waiting import WAIT_S, run_together

import iocpx

pytestmark = pytest.mark.engine("the stream is the engine's")

MB = 1 << 20


@pytest.fixture(params=["protocol", "native"])
def echo(request):
    """A protocol factory that echoes: a Python protocol, then the handler built into the engine."""
    return Echoing if request.param == "protocol" else iocpx.native.Echo


sizes = st.one_of(st.integers(1, 300), st.integers(1, 200_000), st.integers(1, 8 * MB))


# One server for all examples of a run, hence the suppressed checks; the same examples in each run,
# hence `derandomize`.
@settings(
    max_examples=25,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
)
@given(size=sizes, cuts=st.integers(0, 40), seed=st.integers(0, 2**32))
@example(size=1, cuts=0, seed=0)
@example(size=40, cuts=39, seed=1)
@example(size=65536, cuts=0, seed=2)
@example(size=65537, cuts=1, seed=3)
@example(size=8 * MB, cuts=0, seed=4)
@example(size=8 * MB, cuts=40, seed=5)
def echo_comes_back_whole(served, size, cuts, seed):
    data = pattern(size, seed)
    with served.connect() as client:
        assert_same_bytes(client.exchange(pieces(data, cuts, seed)), data)


def test_any_size_in_any_pieces_comes_back_whole(serve, echo):
    echo_comes_back_whole(serve(echo))


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_every_number_of_workers_echoes_many_clients(serve, echo, workers):
    served = serve(echo, workers=workers)
    clients = [served.connect() for _ in range(20)]
    for turn in range(5):
        messages = [pattern(random.Random(turn * 100 + i).randint(1, 5000), i) for i in range(20)]
        for client, message in zip(clients, messages):
            client.send(message)
        for client, message in zip(clients, messages):
            assert_same_bytes(client.read_exactly(len(message)), message)


@pytest.mark.parametrize("workers", [1, 2])
def test_big_messages_of_several_clients_go_at_once(serve, echo, workers):
    served = serve(echo, workers=workers)

    def talk(seed):
        data = pattern(2 * MB, seed)
        with served.connect() as client:
            assert_same_bytes(client.exchange(pieces(data, 20, seed)), data)

    run_together(*(lambda seed=seed: talk(seed) for seed in range(4)))


@pytest.mark.parametrize("buffer_size", [1024, 4096, 1 << 20])
def test_the_buffer_size_does_not_show_in_the_stream(serve, echo, buffer_size):
    served = serve(echo, buffer_size=buffer_size)
    data = pattern(300_000)
    with served.connect() as client:
        assert_same_bytes(client.exchange(pieces(data, 10)), data)


def test_200_connections_are_served_at_once(serve, echo):
    served = serve(echo)
    clients = [served.connect() for _ in range(200)]
    for turn in range(3):
        messages = [pattern(100 + i, seed=1000 * turn + i) for i in range(200)]
        for client, message in zip(clients, messages):
            client.send(message)
        # The last first: whoever served one connection after the other would not answer it before
        # the others end.
        for client, message in reversed(list(zip(clients, messages))):
            assert_same_bytes(client.read_exactly(len(message)), message)
        assert served.server.connection_count == 200
    assert served.stats()["connections_now"] == 200


def test_200_connections_opened_in_the_same_moment_are_all_served(serve, echo):
    served = serve(echo)
    host, port = served.server.address

    async def talk(number):
        reader, writer = await asyncio.open_connection(host, port)
        data = pattern(2000, number)
        for piece in pieces(data, 3, number):
            writer.write(piece)
            await writer.drain()
        writer.write_eof()
        got = await reader.read(-1)
        writer.close()
        return number, got, data

    async def talk_all():
        return await asyncio.wait_for(
            asyncio.gather(*(talk(number) for number in range(200))), 2 * WAIT_S
        )

    for _, got, data in asyncio.run(talk_all()):
        assert_same_bytes(got, data)


@pytest.mark.parametrize("size", [1, 100, 70_000, 4 * MB])
def test_half_close_is_answered_in_full(serve, echo, size):
    served = serve(echo)
    data = pattern(size)
    client = served.connect()
    got = []

    def send():
        client.send(data)
        client.half_close()

    run_together(send, lambda: got.append(client.read_to_end()))
    assert_same_bytes(got[0], data)


def test_half_close_without_any_data_is_answered_by_the_end_of_the_stream(serve, echo):
    client = serve(echo).connect()
    client.half_close()
    assert client.read_to_end() == b""


def test_one_connection_does_not_hold_up_the_others(serve, echo):
    served = serve(echo, workers=1)
    greedy, modest = served.connect(), served.connect()
    greedy_done = []

    def flood():
        data = pattern(8 * MB)
        assert_same_bytes(greedy.exchange(pieces(data, 7)), data)
        greedy_done.append(True)

    def ask():
        for turn in range(50):
            data = pattern(64, turn)
            assert_same_bytes(modest.exchange([data]), data)

    run_together(flood, ask)
    assert greedy_done == [True]


def test_the_books_count_every_byte_of_an_echo(serve, echo):
    served = serve(echo)
    with served.connect() as client:
        client.exchange(pieces(pattern(200_000), 10))
        client.half_close()
        assert client.read_to_end() == b""
    served.finish()
    stats = served.stats()
    assert stats["bytes_received"] == 200_000, stats
    assert stats["bytes_sent"] == 200_000, stats
    assert stats["connections_made"] == 1, stats
    assert stats["receives"] >= 1 and stats["sends"] >= 1, stats


def test_the_native_echo_never_enters_python(serve):
    served = serve(iocpx.native.Echo)
    client = served.connect()
    client.exchange([b"first"])
    before = served.stats()["gil_acquisitions"]
    for turn in range(50):
        client.exchange([pattern(500, turn)])
    assert served.stats()["gil_acquisitions"] == before


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")
def test_echo_over_ipv6(serve, echo):
    served = serve(echo, "::1")
    assert served.server.address[0] == "::1"
    data = pattern(100_000)
    with served.connect() as client:
        assert_same_bytes(client.exchange(pieces(data, 5)), data)
