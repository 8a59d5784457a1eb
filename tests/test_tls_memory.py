"""Large writes with TLS: what was sent is let go, by the threaded server and by the loop."""

import asyncio
import sys

import pytest
import tls_loops
from iocpx._engines import stats_of
from openssl import OpenSsl
from payload import assert_same_bytes, pattern
from protocols import Recording
from tls_loops import pair
from waiting import wait_until

run = tls_loops.run
told = tls_loops.told

KB, MB = 1 << 10, 1 << 20
SIZE = 8 * MB
DATA = pattern(SIZE)


class Written:
    """8 MB in an object of the kind."""

    def __init__(self, kind):
        self.memory = bytearray(DATA)
        self.data = bytes(self.memory) if kind is bytes else kind(self.memory)
        self.references = sys.getrefcount(self.data)

    def check(self):
        """Nobody has it any more."""
        wait_until(lambda: sys.getrefcount(self.data) == self.references, "the end of its use")
        if type(self.data) is memoryview:
            self.data.release()
        self.memory.append(0)  # a BufferError if its memory were in use
        if type(self.data) is bytearray:
            self.data.append(0)


def assert_small(transport):
    """OpenSSL has not kept memory for all that it has encrypted."""
    assert OpenSsl(transport.get_extra_info("ssl_object")).write_memory() <= 256 * KB


@pytest.mark.parametrize(
    "kind, inside", [(bytes, True), (bytes, False), (bytearray, True), (memoryview, False)]
)
def test_a_large_write_of_the_server_leaves_nothing_behind(serve_tls, kind, inside):
    """inside: in a callback, else in another thread."""
    written = Written(kind)

    class Answers(Recording):
        def on_data(self, _):
            self.transport.write(written.data)

    served = serve_tls(Answers if inside else Recording)
    client, protocol = served.open()
    before = served.stats()["buffers_out"]
    if inside:
        client.send(b"go")
    else:
        protocol.transport.write(written.data)
    assert_same_bytes(client.read_exactly(SIZE), DATA)
    protocol.wait_for("resume_writing")
    wait_until(lambda: protocol.transport.get_write_buffer_size() == 0, "an empty queue")
    wait_until(lambda: served.stats()["buffers_out"] <= before, "the return of all buffers")
    written.check()
    assert_small(protocol.transport)


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_a_large_write_of_the_loop_leaves_nothing_behind(run, kind):
    written = Written(kind)

    async def main():
        async with pair() as (peer, client):
            engine = asyncio.get_running_loop()._engine
            before = stats_of(engine)["buffers_out"]
            client.transport.write(written.data)
            assert "pause" in client.told
            await peer.until(lambda: peer.kept_bytes == SIZE)
            assert_same_bytes(peer.received, DATA)
            await client.until_told("resume")
            while client.transport.get_write_buffer_size() > 0:
                await asyncio.sleep(0)
            assert stats_of(engine)["buffers_out"] <= before
            written.check()
            assert_small(client.transport)

    run(main)
