"""Reads at random offsets of a file that the system has in its memory: so many under way at a time.

Each block of the file begins with its own number, by which each read is checked. iocpx reads by
iocpx.open_file(); the others have what programs have without it, threads of a pool that seek and
read, for an event loop by run_in_executor().
"""

import asyncio
import collections
import concurrent.futures
import contextlib
import os
import struct
import tempfile
import threading
import time

FILE_BYTES = 64 << 20
BLOCK_BYTES = 4096
NUMBER = struct.Struct("<Q")
# Reads between two looks at the clock.
BATCH = 64


class Wrong(Exception):
    """A read has brought something else than what is there."""


@contextlib.contextmanager
def made():
    """The path of the file."""
    handle, path = tempfile.mkstemp(prefix="iocpx-bench-")
    try:
        with open(handle, "wb") as file:
            for number in range(FILE_BYTES // BLOCK_BYTES):
                file.write(NUMBER.pack(number).ljust(BLOCK_BYTES, b"\xa5"))
        yield path
    finally:
        os.unlink(path)


def offsets(nbytes):
    """Of reads of so many bytes, for ever, in an order that looks like none."""
    number, count = 1, FILE_BYTES // nbytes
    while True:
        number = (number * 6364136223846793005 + 1442695040888963407) % (1 << 64)
        yield (number >> 33) % count * nbytes


def check(data, offset, nbytes):
    if len(data) != nbytes or NUMBER.unpack_from(data)[0] != offset // BLOCK_BYTES:
        raise Wrong(f"{nbytes} bytes from {offset} on are others, or fewer")


class PoolReader:
    """Reads on threads, each of which has the file open for itself."""

    def __init__(self, path):
        self._path = path
        self._own = threading.local()
        self._files = []

    def read(self, nbytes, offset):
        if not hasattr(self._own, "file"):
            self._own.file = open(self._path, "rb", buffering=0)  # noqa: SIM115 - until close()
            self._files.append(self._own.file)
        self._own.file.seek(offset)
        return self._own.file.read(nbytes)

    def close(self):
        for file in self._files:
            file.close()


def with_futures(begin, nbytes, depth, seconds):
    """begin(nbytes, offset) returns a concurrent.futures.Future. What is told: reads per second,
    and how many there were."""
    waiting = collections.deque()
    where = offsets(nbytes)

    def begin_next():
        offset = next(where)
        waiting.append((offset, begin(nbytes, offset)))

    for _ in range(depth):
        begin_next()
    count, began = 0, time.perf_counter()
    while (took_s := time.perf_counter() - began) < seconds:
        for _ in range(BATCH):
            offset, future = waiting.popleft()
            check(future.result(), offset, nbytes)
            begin_next()
        count += BATCH
    concurrent.futures.wait([future for _, future in waiting])
    return {"rate": count / took_s, "operations": count}


async def with_tasks(begin, nbytes, depth, seconds):
    """The same with what is awaited."""
    count, where = 0, offsets(nbytes)
    began = time.perf_counter()

    async def read_on():
        nonlocal count
        while time.perf_counter() - began < seconds:
            offset = next(where)
            check(await begin(nbytes, offset), offset, nbytes)
            count += 1

    await asyncio.gather(*[read_on() for _ in range(depth)])
    return {"rate": count / (time.perf_counter() - began), "operations": count}


def measure_engine(path, engine, nbytes, depth, seconds):
    import iocpx

    with iocpx.open_file(path, engine=engine) as file:
        return with_futures(file.read, nbytes, depth, seconds)


def measure_pool(path, nbytes, depth, seconds):
    with (
        contextlib.closing(PoolReader(path)) as reader,
        concurrent.futures.ThreadPoolExecutor() as pool,
    ):

        def begin(nbytes, offset):
            return pool.submit(reader.read, nbytes, offset)

        return with_futures(begin, nbytes, depth, seconds)


def measure_loop(path, loop, ours, nbytes, depth, seconds):
    """ours: by iocpx.open_file()."""

    async def by_file():
        import iocpx

        async with iocpx.open_file(path) as file:
            return await with_tasks(file.read, nbytes, depth, seconds)

    async def by_pool():
        def begin(nbytes, offset):
            return loop.run_in_executor(None, reader.read, nbytes, offset)

        with contextlib.closing(PoolReader(path)) as reader:
            return await with_tasks(begin, nbytes, depth, seconds)

    return loop.run_until_complete(by_file() if ours else by_pool())
