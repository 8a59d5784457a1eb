"""Memory of large writes with TLS: what was sent is let go, on the threaded server and on the loop."""

import sys

import pytest
import tls_loops
from openssl import OpenSsl
from payload import assert_same_bytes, pattern
from protocols import Recording
from tls_loops import pair
from waiting import wait_for_figure, wait_until

from iocpx._engines import stats_of

run = tls_loops.run
told = tls_loops.told

KB, MB = 1 << 10, 1 << 20
SIZE = 8 * MB
DATA = pattern(SIZE)


@pytest.fixture(params=[bytes, bytearray, memoryview])
def written(request):
    """8 MB, of which each kind of write is told what is left of it: `check()` afterwards."""
    return Written(request.param)


class Written:
    def __init__(self, kind):
        self.memory = bytearray(DATA)
        self.data = bytes(self.memory) if kind is bytes else kind(self.memory)
        self.references = sys.getrefcount(self.data)

    def check(self):
        """Nobody has it any more."""
        assert sys.getrefcount(self.data) == self.references
        if type(self.data) is memoryview:
            self.data.release()
        self.memory.append(0)  # a BufferError if its memory were in use
        if type(self.data) is bytearray:
            self.data.append(0)


def assert_small(transport):
    """OpenSSL has not kept memory for all that it has encrypted."""
    assert OpenSsl(transport.get_extra_info("ssl_object")).write_memory() <= 256 * KB


@pytest.mark.parametrize("inside", [True, False], ids=["in a callback", "in a thread"])
def test_a_large_write_of_the_server_leaves_nothing_behind(serve_tls, written, inside):
    class Answers(Recording):
        def on_data(self, _):
            self.transport.write(written.data)

    client, protocol = serve_tls(Answers).open()
    served_stats = protocol.transport
    if inside:
        client.send(b"go")
    else:
        protocol.transport.write(written.data)
    assert_same_bytes(client.read_exactly(SIZE), DATA)
    wait_until(lambda: protocol.transport.get_write_buffer_size() == 0, "an empty queue")
    protocol.wait_for("resume_writing")
    written.check()
    assert_small(served_stats)


def test_a_large_write_of_the_loop_leaves_nothing_behind(run, written):
    async def main():
        async with pair() as (peer, client):
            client.transport.write(written.data)
            assert client.told == ["made", "pause"]
            await peer.until(lambda: len(peer.received) == SIZE)
            assert_same_bytes(peer.received, DATA)
            await client.until_told("resume")
            written.check()
            assert client.transport.get_write_buffer_size() == 0
            assert_small(client.transport)

    run(main)
