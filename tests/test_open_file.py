"""open_file() on the threaded side: files that are read and written at offsets, by futures."""

import _overlapped
import _winapi
import asyncio
import concurrent.futures
import contextlib
import gc
import io
import os
import pathlib
import pickle
import queue
import socket
import threading
import warnings
from pipes import Pipe

import pytest
from dialling import assert_clients_gone
from payload import assert_same_bytes, pattern
from protocols import Recording
from test_exit import assert_quiet_end
from waiting import WAIT_S, run_together, take, wait_for_event, wait_until

import iocpx

pytestmark = pytest.mark.engine("files are read and written by the engine")

KB = 1 << 10
DATA = pattern(300 * KB)


def assert_files_gone(engine):
    """Wait until an engine has ended, with its files; its books are even then."""
    assert_clients_gone(engine)
    stats = engine.stats()
    assert stats["file_handles_opened"] == stats["file_handles_closed"], stats
    assert stats["file_ops_begun"] == stats["file_ops_done"], stats


@pytest.fixture
def engine():
    engine = iocpx.Engine(workers=2)
    yield engine
    gc.collect()
    assert_files_gone(engine)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(DATA)
    return path


@pytest.fixture
def opened(engine, path):
    with iocpx.open_file(path, "r+b", engine=engine) as file:
        yield file


@pytest.fixture
def pipe():
    with Pipe() as pipe:
        yield pipe


@pytest.fixture
def piped(engine, pipe):
    with iocpx.open_file(pipe.name, "r+b", engine=engine) as file:
        yield file


# -- reading and writing ---------------------------------------------------------------------------


def test_a_file_is_read_at_offsets(opened):
    future = opened.read(1000, 70_000)
    assert isinstance(future, concurrent.futures.Future)
    assert_same_bytes(future.result(WAIT_S), DATA[70_000:71_000])
    assert_same_bytes(opened.read(len(DATA), 0).result(WAIT_S), DATA)
    assert opened.size() == len(DATA)


@pytest.mark.parametrize(
    "nbytes, offset, wanted",
    [
        (100, len(DATA) - 40, DATA[-40:]),
        (1, len(DATA) - 1, DATA[-1:]),
        (100, len(DATA), b""),
        (100, len(DATA) + 1, b""),
        (100, 1 << 40, b""),
        (0, 0, b""),
        (0, 1 << 40, b""),
    ],
)
def test_the_end_of_the_file(opened, nbytes, offset, wanted):
    assert opened.read(nbytes, offset).result(WAIT_S) == wanted
    buffer = bytearray(nbytes)
    assert opened.readinto(buffer, offset).result(WAIT_S) == len(wanted)
    assert buffer == wanted.ljust(nbytes, b"\0")


def test_a_file_that_is_empty(engine, tmp_path):
    with iocpx.open_file(tmp_path / "empty", "w+b", engine=engine) as file:
        assert file.size() == 0
        assert file.read(10, 0).result(WAIT_S) == b""
        assert file.write(b"", 0).result(WAIT_S) == 0
        assert file.size() == 0


def test_reads_into_memory_of_the_callers(opened):
    buffer = bytearray(50)
    with memoryview(buffer)[10:30] as part:
        assert opened.readinto(part, 1000).result(WAIT_S) == 20
    assert buffer == bytes(10) + DATA[1000:1020] + bytes(20)


def test_what_is_written_is_in_the_file(opened, path):
    # Beyond the end, too: what is between is zeros.
    parts = [(b"begin", 0), (memoryview(b"middle"), 5000), (bytearray(b"end"), len(DATA) + 1000)]
    futures = [opened.write(data, offset) for data, offset in parts]
    assert [future.result(WAIT_S) for future in futures] == [5, 6, 3]
    assert opened.write(memoryview(b"abcdef")[::2], 100).result(WAIT_S) == 3
    assert opened.size() == len(DATA) + 1003
    wanted = bytearray(DATA) + bytes(1003)
    for data, offset in [*parts, (b"ace", 100)]:
        wanted[offset : offset + len(data)] = data
    assert_same_bytes(opened.read(len(wanted) + 10, 0).result(WAIT_S), bytes(wanted))
    opened.flush().result(WAIT_S)
    assert_same_bytes(path.read_bytes(), bytes(wanted))


def test_a_file_is_cut_off_and_made_longer(opened):
    assert opened.truncate(10).result(WAIT_S) is None
    assert opened.size() == 10
    assert opened.truncate(20).result(WAIT_S) is None
    assert opened.read(100, 0).result(WAIT_S) == DATA[:10] + bytes(10)


def test_more_than_four_gigabytes_in(engine, tmp_path):
    far = (5 << 30) + 7
    with iocpx.open_file(tmp_path / "sparse", "w+b", engine=engine) as file:
        # No disk has to hold what is before it, if it can do without.
        file.write(b"far", far).result(WAIT_S)
        assert file.size() == far + 3
        assert file.read(10, far).result(WAIT_S) == b"far"
        assert file.read(4, far - (4 << 30)).result(WAIT_S) == bytes(4)
        file.truncate(0).result(WAIT_S)


@pytest.mark.parametrize(
    "mode, begin, reads, writes",
    [
        ("rb", DATA, True, False),
        ("r+b", DATA, True, True),
        ("wb", b"", False, True),
        ("w+b", b"", True, True),
        ("ab", DATA, False, True),
        ("a+b", DATA, True, True),
        ("rb+", DATA, True, True),
    ],
)
def test_modes(engine, path, mode, begin, reads, writes):
    with iocpx.open_file(path, mode, engine=engine) as file:
        assert file.size() == len(begin)
        if reads:
            assert_same_bytes(file.read(len(DATA), 0).result(WAIT_S), begin)
        else:
            with pytest.raises(io.UnsupportedOperation, match="not readable"):
                file.read(1, 0)
            with pytest.raises(io.UnsupportedOperation, match="not readable"):
                file.readinto(bytearray(1), 0)
        if not writes:
            for call in (
                lambda: file.write(b"", 0),
                lambda: file.append(b""),
                lambda: file.truncate(0),
                file.flush,
            ):
                with pytest.raises(io.UnsupportedOperation, match="not writable"):
                    call()
        elif "a" in mode:
            assert file.append(b"more").result(WAIT_S) == 4
            with pytest.raises(io.UnsupportedOperation, match=r"append\(\)"):
                file.write(b"", 0)
        else:
            assert file.write(b"more", len(begin)).result(WAIT_S) == 4
            with pytest.raises(io.UnsupportedOperation, match="'ab'"):
                file.append(b"")
    assert path.read_bytes() == begin + b"more" * writes


@pytest.mark.parametrize("mode", ["xb", "x+b"])
def test_a_file_that_must_not_be_there(engine, tmp_path, mode):
    path = tmp_path / "new"
    with iocpx.open_file(path, mode, engine=engine) as file:
        file.write(b"new", 0).result(WAIT_S)
    with pytest.raises(FileExistsError):
        iocpx.open_file(path, mode, engine=engine)
    assert path.read_bytes() == b"new"


def test_paths_of_all_kinds(engine, path):
    for name in (str(path), os.fsencode(path), path):
        with iocpx.open_file(name, engine=engine) as file:
            assert file.name == os.fspath(name)
            assert file.read(3, 0).result(WAIT_S) == DATA[:3]


def test_a_name_beyond_latin_1(engine, tmp_path):
    name = tmp_path / "\N{GREEK SMALL LETTER LAMDA}\N{CJK UNIFIED IDEOGRAPH-6587}"
    with iocpx.open_file(name, "xb", engine=engine) as file:
        file.write(b"x", 0).result(WAIT_S)
    assert name.read_bytes() == b"x"


# -- several at a time -----------------------------------------------------------------------------


def test_many_operations_at_once_from_several_threads(opened):
    def read(first):
        offsets = range(first, len(DATA) - 500, 1777)
        futures = [opened.read(500, offset) for offset in offsets]
        for offset, future in zip(offsets, futures):
            assert_same_bytes(future.result(WAIT_S), DATA[offset : offset + 500])

    run_together(*[lambda first=first: read(first) for first in (0, 5, 100, 3000)])


def test_writes_beside_each_other(engine, tmp_path):
    block = 4 * KB
    with iocpx.open_file(tmp_path / "blocks", "w+b", engine=engine) as file:
        futures = [file.write(bytes([n]) * block, n * block) for n in reversed(range(100))]
        assert {future.result(WAIT_S) for future in futures} == {block}
        data = file.read(200 * block, 0).result(WAIT_S)
    assert_same_bytes(data, b"".join(bytes([n]) * block for n in range(100)))


def test_appends_lose_nothing(engine, path):
    """Also of two that have the file open."""
    with (
        iocpx.open_file(path, "ab", engine=engine) as one,
        iocpx.open_file(path, "a+b", engine=engine) as other,
    ):
        lines = [f"{n:03d}\n".encode() for n in range(200)]
        futures = [(other if n % 3 else one).append(line) for n, line in enumerate(lines)]
        assert [future.result(WAIT_S) for future in futures] == [4] * 200
        data = other.read(10_000, len(DATA)).result(WAIT_S)
    assert sorted(data.splitlines(True)) == lines
    assert_same_bytes(path.read_bytes()[: len(DATA)], DATA)


# -- how it is told --------------------------------------------------------------------------------


def test_a_callback_of_a_future_may_begin_the_next(opened):
    done = threading.Event()
    read = []

    def go_on(future):
        read.append(future.result())
        if read[-1]:
            opened.read(20 * KB, sum(map(len, read))).add_done_callback(go_on)
        else:
            done.set()

    opened.read(20 * KB, 0).add_done_callback(go_on)
    wait_for_event(done, "the end of the file")
    assert_same_bytes(b"".join(read), DATA)


@pytest.mark.once("the engine's")
def test_a_callback_that_waits_for_another_operation_holds_up_nobody(engine, pipe):
    """Also where both are over in the same moment: another worker tells the rest."""
    done = threading.Event()
    with iocpx.open_file(pipe.name, "r+b", engine=engine) as file:
        futures = [file.read(1, 0) for _ in range(10)]
        futures[0].add_done_callback(lambda _: [each.result(WAIT_S) for each in futures])
        futures[0].add_done_callback(lambda _: done.set())
        pipe.write(b"0123456789")
        wait_for_event(done, "the end of all of them")
        assert sorted(each.result(0) for each in futures) == [b"%d" % n for n in range(10)]


@pytest.mark.once("the engine's")
def test_who_closes_a_file_in_a_callback_may_wait_for_what_else_there_was(engine, pipe):
    """Though nobody else has the engine then: its workers stay until all is told."""
    told = queue.Queue()
    file = iocpx.open_file(pipe.name, "r+b", engine=engine)
    futures = [file.read(1, 0) for _ in range(10)]

    def close(_):
        file.close()
        told.put(concurrent.futures.wait(futures, WAIT_S).not_done)

    futures[0].add_done_callback(close)
    pipe.write(b"0123456789")
    assert take(told, "the end of all of them") == set()


def test_a_pipe_is_not_flushed(piped):
    for call in (piped.flush, lambda: piped.truncate(1)):
        with pytest.raises(io.UnsupportedOperation, match="named pipe"):
            call()


def test_a_callback_that_raises_harms_nobody(piped, pipe, caplog):
    future = piped.read(1, 0)
    future.add_done_callback(lambda _: 1 / 0)
    pipe.write(b"ab")
    assert future.result(WAIT_S) == b"a"
    assert piped.read(1, 0).result(WAIT_S) == b"b"
    wait_until(lambda: "ZeroDivisionError" in caplog.text, "the line in the log")


@pytest.mark.python("asyncio is Python's")
def test_a_future_is_awaited_in_any_loop(engine, path):
    async def main():
        async with iocpx.open_file(path, engine=engine) as file:
            return await file.read(5, 0), await asyncio.wait_for(file.read(5, 5), WAIT_S)

    loop = asyncio.SelectorEventLoop()
    try:
        assert loop.run_until_complete(main()) == (DATA[:5], DATA[5:10])
    finally:
        loop.close()


def test_on_an_engine_that_is_polled(path):
    port = _overlapped.CreateIoCompletionPort(_overlapped.INVALID_HANDLE_VALUE, 0, 0, 1)
    engine = iocpx.Engine(completion_port=port)
    threads = []
    with iocpx.open_file(path, engine=engine) as file:
        futures = [file.read(100, n * 100) for n in range(20)]
        for future in futures:
            future.add_done_callback(lambda _: threads.append(threading.get_ident()))
        while not all(future.done() for future in futures):
            assert engine.poll(1) == []
        assert b"".join(future.result() for future in futures) == DATA[:2000]
        assert set(threads) == {threading.get_ident()}
    while engine.poll(1) is not None:
        pass
    assert_files_gone(engine)
    _winapi.CloseHandle(port)


def test_the_engine_goes_with_its_last_file(engine, path):
    one, other = (iocpx.open_file(path, engine=engine) for _ in range(2))
    threads = engine._run.threads
    one.close()
    assert other.read(1, 0).result(WAIT_S) == DATA[:1]
    assert all(thread.is_alive() for thread in threads)
    other.close()
    assert_files_gone(engine)


def test_an_engine_that_nobody_has_made(path):
    with iocpx.open_file(path) as file:
        assert file.read(10, 0).result(WAIT_S) == DATA[:10]


def test_the_end_of_a_pipe_is_the_end(piped, pipe):
    pipe.write(b"all")
    assert piped.read(10, 0).result(WAIT_S) == b"all"
    waiting = piped.read(10, 0)
    pipe.close()
    assert waiting.result(WAIT_S) == b""
    assert piped.read(10, 0).result(WAIT_S) == b""
    assert piped.readinto(bytearray(10), 0).result(WAIT_S) == 0
    error = piped.write(b"nobody reads", 0).exception(WAIT_S)
    assert isinstance(error, OSError)
    assert error.winerror in (109, 232) and error.filename == piped.name


# -- cancelling ------------------------------------------------------------------------------------


def test_a_read_that_waits_is_cancelled_and_loses_nothing(piped, pipe):
    future = piped.read(10, 0)
    assert not future.done()
    assert future.cancel() is True
    with pytest.raises(concurrent.futures.CancelledError):
        future.result(WAIT_S)
    assert future.cancelled()
    assert future.cancel() is True  # as it is cancelled
    pipe.write(b"later")
    assert piped.read(10, 0).result(WAIT_S) == b"later"


def test_who_waits_for_several_hears_of_one_that_is_cancelled(piped):
    futures = [piped.read(1, 0) for _ in range(3)]
    futures[1].cancel()
    done, waiting = concurrent.futures.wait(
        futures, WAIT_S, return_when=concurrent.futures.FIRST_COMPLETED
    )
    assert done == {futures[1]} and len(waiting) == 2


def test_who_waits_hears_of_one_that_is_cancelled_also_where_its_callback_exits(piped, caplog):
    def exits(future):
        raise SystemExit("by a callback")

    future = piped.read(1, 0)
    future.add_done_callback(exits)
    told = queue.Queue()
    waiter = threading.Thread(
        target=lambda: told.put(concurrent.futures.wait([future], WAIT_S).done)
    )
    waiter.start()
    wait_until(lambda: future._waiters, "the thread that waits")
    future.cancel()
    assert take(told, "what the thread has waited for") == {future}
    waiter.join(WAIT_S)
    wait_until(lambda: "by a callback" in caplog.text, "the report")


def test_what_is_over_is_not_cancelled(opened):
    future = opened.read(10, 0)
    # Perhaps before it was told, but not before it was done.
    asked = future.cancel()
    if asked:
        assert future.exception(WAIT_S) is None
    assert future.result(WAIT_S) == DATA[:10]
    assert future.cancel() is False


def test_a_write_that_waits_is_cancelled(piped, pipe):
    """More than the pipe takes, and nobody reads it."""
    future = piped.write(bytes(1 << 20), 0)
    assert not future.done()
    future.cancel()
    with pytest.raises(concurrent.futures.CancelledError):
        future.result(WAIT_S)


def test_a_buffer_is_lent_until_the_end(piped, pipe):
    for ends in (lambda future: future.cancel(), lambda _: pipe.write(b"four")):
        buffer = bytearray(4)
        future = piped.readinto(buffer, 0)
        with pytest.raises(BufferError):
            buffer.append(0)
        ends(future)
        concurrent.futures.wait([future], WAIT_S)
        buffer.append(0)
    assert future.result() == 4
    assert buffer == b"four\0"


def test_cancels_race_with_the_data(piped, pipe):
    """Each byte comes to somebody, cancelled or not."""
    data = pattern(200)
    got = []
    for n, byte in enumerate(data):
        future = piped.read(1, 0)
        sender = threading.Thread(target=pipe.write, args=(bytes([byte]),))
        sender.start()
        if n % 2:
            future.cancel()
        try:
            got.append(future.result(WAIT_S))
        except concurrent.futures.CancelledError:
            got.append(piped.read(1, 0).result(WAIT_S))
        sender.join()
    assert b"".join(got) == data


# -- the end ---------------------------------------------------------------------------------------


def test_close_cancels_what_waits(engine, pipe):
    file = iocpx.open_file(pipe.name, "r+b", engine=engine)
    futures = [file.read(10, 0) for _ in range(5)]
    file.close()
    assert file.closed
    for future in futures:
        with pytest.raises(concurrent.futures.CancelledError):
            future.result(WAIT_S)
    wait_until(pipe.is_broken, "the end of the handle")
    file.close()


@pytest.mark.once("the engine's")
def test_operations_race_with_close(engine, path):
    for _ in range(20):
        file = iocpx.open_file(path, engine=engine)
        begun = threading.Event()

        def read(file=file, begun=begun):
            futures = []
            with contextlib.suppress(ValueError):
                while True:
                    futures.append(file.read(100, 0))
                    begun.set()
            assert file.closed
            for future in futures:
                concurrent.futures.wait([future], WAIT_S)
                assert future.cancelled() or future.result() == DATA[:100]

        def close(file=file, begun=begun):
            wait_for_event(begun, "the first read")
            file.close()

        run_together(read, read, close)


@pytest.mark.python("the future is Python's")
def test_an_interrupt_comes_out_of_the_call_and_the_future_is_done(
    engine, piped, pipe, monkeypatch
):
    """Where Windows has it done at once, the outcome is given on the thread that has called."""
    waiting = piped.read(10, 0)
    pipe.close()
    assert waiting.result(WAIT_S) == b""
    interrupted = []
    set_result = concurrent.futures.Future.set_result

    def interrupts(future, result):
        if threading.current_thread() is threading.main_thread() and not interrupted:
            interrupted.append(future)
            raise KeyboardInterrupt
        set_result(future, result)

    ours, other = socket.socketpair()
    protocol = Recording()
    connection = engine.attach(ours, protocol)
    with other:
        monkeypatch.setattr(concurrent.futures.Future, "set_result", interrupts)
        with pytest.raises(KeyboardInterrupt):
            piped.read(10, 0)
        assert interrupted[0].result(WAIT_S) == b""
        # And nothing else was ended by it.
        assert not connection.is_closing()
        assert piped.read(10, 0).result(WAIT_S) == b""
        connection.close()
        protocol.wait_for("connection_lost")


def test_a_closed_file(opened, path):
    opened.close()
    assert repr(opened) == f"<closed iocpx.File name={os.fspath(path)!r} mode='r+b'>"
    for call in (
        lambda: opened.read(1, 0),
        lambda: opened.readinto(bytearray(1), 0),
        lambda: opened.write(b"x", 0),
        lambda: opened.append(b"x"),
        lambda: opened.truncate(0),
        opened.flush,
        opened.size,
        opened.__enter__,
    ):
        with pytest.raises(ValueError, match="closed file"):
            call()
    opened.close()
    path.unlink()


@pytest.mark.python("the collector is Python's")
def test_a_file_that_nobody_has_any_more(engine, path):
    with pytest.warns(ResourceWarning, match="unclosed file <iocpx.File name="):
        iocpx.open_file(path, engine=engine)


@pytest.mark.python("the collector is Python's")
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_what_is_under_way_keeps_the_file(engine, pipe):
    future = iocpx.open_file(pipe.name, "r+b", engine=engine).read(10, 0)
    gc.collect()
    pipe.write(b"whole")
    assert future.result(WAIT_S) == b"whole"
    wait_until(pipe.is_broken, "its end")


PENDING = """
import _winapi, sys, iocpx
name = r"\\\\.\\pipe\\iocpx-exit-" + sys.argv[1]
pipe = _winapi.CreateNamedPipe(name, 3, 0, 1, 4096, 4096, 0, _winapi.NULL)
"""


@pytest.mark.python("the exit is Python's")
@pytest.mark.parametrize("kept", [True, False])
def test_exit_with_what_is_pending(start_script, kept):
    assert_quiet_end(
        start_script(
            PENDING
            + f"""
file = iocpx.open_file(name, "r+b")
future = file.read(10, 0)
if {kept}:
    sys.kept = file
print("end of the program")
""",
            f"{os.getpid()}-{kept}",
        ),
        "end of the program",
    )


@pytest.mark.once("the exit")
def test_nothing_is_opened_at_the_exit(start_script, path):
    script = start_script(
        """
import atexit, sys
def late():
    import iocpx
    try:
        iocpx.open_file(sys.argv[1])
    except RuntimeError as error:
        print(error)
atexit.register(late)
import iocpx
""",
        str(path),
    )
    assert_quiet_end(script, "no file can be opened at the end of the interpreter")


# -- what is wrong ---------------------------------------------------------------------------------


@pytest.mark.python("open() is Python's")
@pytest.mark.parametrize(
    "name, mode",
    [
        ("missing", "rb"),
        ("missing", "r+b"),
        ("no folder/missing", "wb"),
        ("file/beneath a file", "rb"),
        ("file", "xb"),
        (".", "rb"),
        (".", "wb"),
        (".", "r+b"),
    ],
)
def test_what_cannot_be_opened_is_refused_as_python_does_it(engine, path, name, mode):
    path = path.parent / pathlib.PurePath(name)
    try:
        open(path, mode).close()
    except OSError as error:
        wanted = error
    with pytest.raises(type(wanted), match=r"\[WinError \d+\] open: ") as caught:
        iocpx.open_file(path, mode, engine=engine)
    assert caught.value.errno == wanted.errno
    assert caught.value.filename == os.fspath(path)
    assert caught.value.winerror in (2, 3, 5, 80)


@pytest.mark.once("what is refused")
@pytest.mark.parametrize("mode", ["r", "w", "rt", "b", "", "rwb", "rb++", "rbb", "U", "r+"])
def test_modes_that_there_are_not(path, mode):
    with pytest.raises(ValueError, match=r"mode must be one of rb, .*, a\+b, got"):
        iocpx.open_file(path, mode)


@pytest.mark.once("what is refused")
@pytest.mark.parametrize(
    "arguments, parameters, error, match",
    [
        ((3,), {}, TypeError, "path must be a str, bytes or os.PathLike, got 3"),
        ((None,), {}, TypeError, "path must be"),
        (("file", 3), {}, TypeError, "mode must be a str"),
        (("file",), {"engine": 3}, TypeError, "engine must be an iocpx.Engine or None"),
        (("with\0nul",), {}, ValueError, "null character"),
        (("NUL",), {}, ValueError, "path must be that of a file"),
    ],
)
def test_wrong_arguments_of_open_file(arguments, parameters, error, match):
    with pytest.raises(error, match=match):
        iocpx.open_file(*arguments, **parameters)


@pytest.mark.once("what is refused")
@pytest.mark.parametrize(
    "call, error, match",
    [
        (lambda file: file.read(-1, 0), ValueError, "nbytes must be 0 to 2147483647, got -1"),
        (lambda file: file.read(1 << 31, 0), ValueError, "nbytes must be 0 to 2147483647"),
        (lambda file: file.read("1", 0), TypeError, "nbytes must be an integer"),
        (lambda file: file.read(1, -1), ValueError, "offset must be 0 to 9223372036854775807"),
        (lambda file: file.read(1, 1 << 63), ValueError, "offset must be"),
        (lambda file: file.read(1, 0.5), TypeError, "offset must be an integer"),
        (lambda file: file.readinto(bytearray(1), -1), ValueError, "offset must be"),
        (lambda file: file.readinto(b"constant", 0), TypeError, "buffer must be"),
        (lambda file: file.readinto("text", 0), TypeError, "buffer must be a bytes-like object"),
        (
            lambda file: file.readinto(memoryview(bytearray(8))[::2], 0),
            TypeError,
            "buffer must be a contiguous one",
        ),
        (lambda file: file.write(b"x", -1), ValueError, "offset must be"),
        (lambda file: file.write("text", 0), TypeError, "bytes-like object, got str"),
        (lambda file: file.write(None, 0), TypeError, "data must be a bytes-like object"),
        (lambda file: file.truncate(-1), ValueError, "nbytes must be 0 to"),
        (lambda file: file.truncate(None), TypeError, "nbytes must be an integer"),
        (pickle.dumps, TypeError, "cannot be copied or pickled"),
    ],
)
def test_wrong_arguments_of_a_file(opened, call, error, match):
    with pytest.raises(error, match=match):
        call(opened)
    assert opened.size() == len(DATA)


def test_stats_tell_of_files(engine, path):
    with iocpx.open_file(path, engine=engine) as file:
        futures = [file.read(1, n) for n in range(7)]
        concurrent.futures.wait(futures, WAIT_S)
        stats = engine.stats()
        assert stats["file_handles_opened"] == 1 and stats["file_handles_closed"] == 0
        assert stats["file_ops_begun"] == stats["file_ops_done"] == 7
    assert engine.stats()["file_handles_closed"] == 1


def test_who_has_the_outcomes_may_close_and_remove_the_file(engine, path):
    """Within the callback of the last one, too."""
    told = queue.Queue()

    def over(_):
        file.close()
        os.remove(path)
        told.put(engine.stats()["file_handles_closed"])

    file = iocpx.open_file(path, engine=engine)
    file.read(1, 0).add_done_callback(over)
    assert take(told, "the callback") == 1
    assert not path.exists()


def test_close_in_the_callback_of_the_last_outcome_closes_the_handle(engine, piped, pipe):
    told = queue.Queue()

    def over(_):
        piped.close()
        told.put(engine.stats()["file_handles_closed"])

    future = piped.read(1, 0)
    future.add_done_callback(over)
    pipe.write(b"x")
    assert take(told, "the callback") == 1


@pytest.mark.python("the warning is Python's")
def test_nothing_is_warned_of_a_file_that_was_closed(engine, path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with iocpx.open_file(path, engine=engine) as file:
            file.read(1, 0).result(WAIT_S)
        del file
        gc.collect()


def test_a_future_is_told_once(piped, pipe):
    told = queue.Queue()
    future = piped.read(1, 0)
    future.add_done_callback(told.put)
    pipe.write(b"x")
    assert take(told, "the callback") is future
    assert told.empty()
