"""Files: a request for N bytes is answered with so many of a file, which the system sends."""

import asyncio
import atexit
import functools
import shutil
import tempfile
from pathlib import Path

from .http_load import HEAD_END
from .http_servers import MAX_BYTES
from .pattern import body


@functools.cache
def the_file():
    """One for all connections, as long as the process lives. The workers that ask for it first at
    the same time may get two, which does no harm."""
    folder = tempfile.mkdtemp()
    path = Path(folder, "file")
    path.write_bytes(body(MAX_BYTES))
    file = path.open("rb")
    # The last comes first: Windows removes no file that is open.
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(file.close)
    return file


class Answer(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
        self.got = b""

    def data_received(self, data):
        self.got += data
        # The client has one request under way.
        if not self.got.endswith(HEAD_END):
            return
        size = int(self.got.split(b" ", 2)[1][1:])
        self.got = b""
        self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d" % size + HEAD_END)
        self.send(size)


class OnThreads(Answer):
    """By iocpx's Connection.sendfile()."""

    def send(self, size):
        self.transport.sendfile(the_file(), 0, size)


class OnLoop(Answer):
    """By loop.sendfile()."""

    def send(self, size):
        loop = asyncio.get_running_loop()
        # A task that nobody refers to may vanish.
        self.sending = loop.create_task(loop.sendfile(self.transport, the_file(), 0, size))
