"""open_file() on the loop: files whose operations are awaited."""

import asyncio
import concurrent.futures
import gc
from pipes import Pipe

import pytest
from iocpx._engines import stats_of
from loops import running_loop
from payload import assert_same_bytes, pattern
from waiting import WAIT_S, wait_until

import iocpx

KB = 1 << 10
DATA = pattern(300 * KB)


@pytest.fixture
def run():
    """`run(main)` runs the coroutine function on a new loop, closes the loop, and looks at the
    books of its engine."""

    def runner(main):
        with running_loop() as loop:
            result = loop.run_until_complete(asyncio.wait_for(main(), WAIT_S))
            engine = loop._engine
        assert loop.complaints == []
        stats = stats_of(engine)
        assert stats["ops_posted"] == stats["ops_completed"], stats
        assert stats["file_handles_opened"] == stats["file_handles_closed"] > 0, stats
        assert stats["file_ops_begun"] == stats["file_ops_done"], stats
        assert not any(thread.is_alive() for thread in engine.threads)
        return result

    return runner


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(DATA)
    return path


@pytest.fixture
def pipe():
    with Pipe() as pipe:
        yield pipe


def test_a_file_of_the_loop(run, path):
    async def main():
        with iocpx.open_file(path, "r+b") as file:
            future = file.read(1000, 70_000)
            assert isinstance(future, asyncio.Future)
            assert future.get_loop() is asyncio.get_running_loop()
            assert_same_bytes(await future, DATA[70_000:71_000])
            assert await file.read(100, len(DATA) - 40) == DATA[-40:]
            assert await file.read(100, len(DATA)) == b""
            assert await file.read(100, 1 << 40) == b""
            buffer = bytearray(10)
            assert await file.readinto(buffer, 5) == 10
            assert buffer == DATA[5:15]
            assert await file.write(b"written", len(DATA) + 5) == 7
            assert file.size() == len(DATA) + 12
            assert await file.flush() is None
            assert await file.truncate(3) is None
            assert file.size() == 3
        with iocpx.open_file(path, "ab") as file:
            assert await asyncio.gather(*[file.append(b"%d" % n) for n in range(10)]) == [1] * 10
        assert path.read_bytes() == DATA[:3] + b"0123456789"

    run(main)


def test_many_operations_at_once(run, path):
    async def main():
        async with iocpx.open_file(path) as file:
            offsets = range(0, len(DATA) - 500, 777)
            parts = await asyncio.gather(*[file.read(500, offset) for offset in offsets])
        for offset, part in zip(offsets, parts):
            assert_same_bytes(part, DATA[offset : offset + 500])

    run(main)


def test_an_engine_that_is_named_has_the_file(run, path):
    engine = iocpx.Engine()

    async def main():
        iocpx.open_file(path).close()
        async with iocpx.open_file(path, engine=engine) as file:
            future = file.read(5, 0)
            assert isinstance(future, concurrent.futures.Future)
            assert await future == DATA[:5]
            assert future.result(0) == DATA[:5]
        assert engine.stats()["file_handles_closed"] == 1

    run(main)


def test_whoever_awaits_lets_others_have_their_turn(run, path):
    """Also where what it reads is there at once."""

    async def main():
        turns = 0

        async def count():
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        counter = asyncio.create_task(count())
        async with iocpx.open_file(path) as file:
            for n in range(50):
                await file.read(1, n)
            # Windows refuses these at once.
            for n in range(50):
                assert await file.read(1, len(DATA) + n) == b""
        counter.cancel()
        assert turns >= 100

    run(main)


def test_what_is_done_aside_cannot_be_cancelled(run, path):
    async def main():
        async with iocpx.open_file(path, "r+b") as file:
            future = file.truncate(10)
            assert future.cancel() is False
            assert await future is None
            assert file.size() == 10

    run(main)


def test_a_file_and_a_connection_beside_each_other(run, path):
    """Both by the same look at the port."""

    async def main():
        served = asyncio.Event()

        async def answer(reader, writer):
            with iocpx.open_file(path) as file:
                while line := await reader.readline():
                    writer.write(await file.read(1000, int(line)))
            writer.close()
            await writer.wait_closed()
            served.set()

        server = await asyncio.start_server(answer, "127.0.0.1")
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        for offset in range(0, 100_000, 9973):
            writer.write(b"%d\n" % offset)
            assert_same_bytes(await reader.readexactly(1000), DATA[offset : offset + 1000])
        writer.close()
        await writer.wait_closed()
        await served.wait()
        server.close()
        await server.wait_closed()

    run(main)


def test_a_future_that_is_cancelled_is_so_when_nothing_is_lent_any_more(run, pipe):
    async def main():
        with iocpx.open_file(pipe.name, "r+b") as file:
            buffer = bytearray(4)
            future = file.readinto(buffer, 0)
            assert future.cancel() is False
            assert not future.done()
            with pytest.raises(BufferError):
                buffer.append(0)
            with pytest.raises(asyncio.CancelledError):
                await future
            assert future.cancelled()
            buffer.append(0)
            pipe.write(b"later")
            assert await file.read(10, 0) == b"later"

    run(main)


def test_a_task_that_is_cancelled_loses_nothing(run, pipe):
    async def main():
        with iocpx.open_file(pipe.name, "r+b") as file:
            buffer = bytearray(10)
            task = asyncio.create_task(_await(file.readinto(buffer, 0)))
            await asyncio.sleep(0)
            assert task.cancel() is True
            with pytest.raises(asyncio.CancelledError):
                await task
            buffer.append(0)  # it is the caller's again
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(file.read(10, 0), 0.01)
            pipe.write(b"later")
            assert await file.read(10, 0) == b"later"

    run(main)


async def _await(future):
    return await future


def test_a_cancel_that_comes_too_late_leaves_the_result(run, pipe):
    async def main():
        with iocpx.open_file(pipe.name, "r+b") as file:
            pipe.write(b"there")
            future = file.read(10, 0)
            task = asyncio.create_task(_await(future))
            await asyncio.sleep(0)
            if not task.done():
                task.cancel()
            await asyncio.wait([task])
            # The task was cancelled, perhaps; what was read is in the future, or still in the pipe.
            if future.cancelled():
                assert await file.read(10, 0) == b"there"
            else:
                assert future.result() == b"there"

    run(main)


def test_close_cancels_what_waits(run, pipe):
    async def main():
        async with iocpx.open_file(pipe.name, "r+b") as file:
            futures = [file.read(10, 0) for _ in range(3)]
        # Its handle is closed by now.
        assert pipe.is_broken()
        assert all(future.cancelled() for future in futures)
        file.close()

    run(main)


def test_close_wakes_the_tasks_that_wait(run, pipe):
    async def main():
        file = iocpx.open_file(pipe.name, "r+b")
        task = asyncio.create_task(_await(file.read(10, 0)))
        await asyncio.sleep(0)
        file.close()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(ValueError, match="closed file"):
            file.read(1, 0)
        with pytest.raises(ValueError, match="closed file"):
            async with file:
                pass

    run(main)


def test_the_loops_end_closes_files(run, pipe, path):
    files = []

    async def main():
        files.extend([iocpx.open_file(pipe.name, "r+b"), iocpx.open_file(path, "r+b")])
        files.append(files[0].read(10, 0))
        files[1].flush()

    run(main)
    piped, real, future = files
    assert piped.closed and real.closed and future.cancelled()
    assert pipe.is_broken()
    piped.close()
    with pytest.raises(ValueError, match="closed file"):
        piped.read(1, 0)
    path.unlink()


def test_a_loop_that_runs_again_goes_on(pipe):
    with running_loop() as loop:

        async def begin():
            file = iocpx.open_file(pipe.name, "r+b")
            return file, file.read(10, 0)

        file, future = loop.run_until_complete(begin())
        pipe.write(b"meanwhile")
        assert loop.run_until_complete(future) == b"meanwhile"
        file.close()
    assert loop.complaints == []


def test_a_failure_comes_as_the_awaits_exception(run, pipe):
    async def main():
        with iocpx.open_file(pipe.name, "r+b") as file:
            future = file.read(10, 0)
            pipe.close()
            assert await future == b""
            with pytest.raises(BrokenPipeError) as caught:
                await file.write(b"nobody reads", 0)
            assert caught.value.winerror in (109, 232) and caught.value.filename == file.name

    run(main)


def test_a_file_that_nobody_has_any_more(run, path, pipe):
    async def main():
        with pytest.warns(ResourceWarning, match="unclosed file <iocpx.File name="):
            iocpx.open_file(path)
        # What is under way keeps it.
        future = iocpx.open_file(pipe.name, "r+b").read(10, 0)
        gc.collect()
        pipe.write(b"whole")
        assert await future == b"whole"
        wait_until(pipe.is_broken, "its end")

    # In the loop's context, not the task's: some Pythons have filters of warnings in there.
    with pytest.warns(ResourceWarning, match="unclosed file"):
        run(main)


def test_in_debug_mode(run, path):
    async def main():
        asyncio.get_running_loop().set_debug(True)
        async with iocpx.open_file(path) as file:
            assert await file.read(5, 0) == DATA[:5]

    run(main)


@pytest.mark.once("the engine's")
def test_exit_with_what_is_pending_on_a_loop(start_script):
    from test_exit import assert_quiet_end

    script = start_script(
        """
import _winapi, os, sys, iocpx
name = r"\\\\.\\pipe\\iocpx-loop-exit-" + str(os.getpid())
pipe = _winapi.CreateNamedPipe(name, 3, 0, 1, 4096, 4096, 0, _winapi.NULL)
async def main():
    sys.kept = iocpx.open_file(name, "r+b")
    sys.future = sys.kept.read(10, 0)
loop = iocpx.new_event_loop()
loop.run_until_complete(main())
sys.loop = loop
print("end of the program")
"""
    )
    assert_quiet_end(script, "end of the program")
