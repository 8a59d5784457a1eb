"""`python -m iocpx`: each command as a user runs it, in a process of its own."""

import ctypes
import importlib.util
import os
import re
import socket
import sys

import pytest
from clients import Client
from payload import assert_same_bytes, pattern
from script import run
from waiting import WAIT_S

import iocpx

# `python -c CLI arguments` is `python -m iocpx arguments`.
CLI = "import runpy; runpy.run_module('iocpx', run_name='__main__')"

# The same, but each line on stdin is a Ctrl+C: Windows, too, calls the signal handler in another
# thread. The time limit of an orderly close is out of the way: only a second Ctrl+C can be quick.
CLI_WITH_INTERRUPTS = """
import functools, os, runpy, signal, threading
import iocpx

def interrupt():
    while os.read(0, 100):
        signal.raise_signal(signal.SIGINT)

iocpx.Server = functools.partial(iocpx.Server, close_timeout_s=86_400)
threading.Thread(target=interrupt, daemon=True).start()
runpy.run_module("iocpx", run_name="__main__")
"""


def command(*arguments, limit_s=2 * WAIT_S):
    """Run one command to its end."""
    return run([sys.executable, "-m", "iocpx", *arguments], limit_s)


def listening_address(script):
    line = script.read_line()
    found = re.fullmatch(r"listening on (\S+) port (\d+); Ctrl\+C stops", line)
    assert found, line
    return found[1], int(found[2])


def assert_totals(lines, size):
    """The totals of one connection that echoed `size` bytes."""
    assert lines[0] == "stopped"
    assert lines[1] == "connections  1 made, 1 retired"
    assert re.fullmatch(rf"received     {size:,} bytes in [\d,]+ receives", lines[2]), lines
    assert re.fullmatch(rf"sent         {size:,} bytes in [\d,]+ sends", lines[3]), lines
    operations = re.match(r"operations   ([\d,]+) posted, ([\d,]+) completed, [\d,]+ of", lines[4])
    assert operations and operations[1] == operations[2], lines
    assert re.match(r"packets      [\d,]+ in [\d,]+ waits, the GIL taken [\d,]+ times", lines[5])
    assert len(lines) == 6


def set_event(name):
    """Set a named event that another process made."""
    kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
    kernel32.OpenEventW.restype = ctypes.c_void_p
    kernel32.OpenEventW.argtypes = [ctypes.c_uint32, ctypes.c_int, ctypes.c_wchar_p]
    kernel32.SetEvent.argtypes = [ctypes.c_void_p]
    kernel32.CloseHandle.argtypes = [ctypes.c_void_p]
    event_modify_state = 2
    handle = kernel32.OpenEventW(event_modify_state, False, name)
    assert handle, ctypes.WinError(ctypes.get_last_error())
    assert kernel32.SetEvent(handle)
    kernel32.CloseHandle(handle)


def test_version():
    done = command("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"iocpx {iocpx.__version__}\n", "")


@pytest.mark.once("the command line")
def test_the_benchmark_is_imported_by_its_command_alone():
    script = (
        "import atexit, runpy, sys\n"
        "atexit.register(lambda: print([n for n in sys.modules if n.startswith('iocpx.bench')]))\n"
        "runpy.run_module('iocpx', run_name='__main__')\n"
    )
    for arguments in (["--version"], ["--help"]):
        done = run([sys.executable, "-c", script, *arguments])
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == "[]"


def test_info_tells_what_is_installed():
    done = command("info")
    assert done.returncode == 0, done.stderr
    told = dict(re.split(r" +", line, maxsplit=1) for line in done.stdout.splitlines())
    assert told["iocpx"] == iocpx.__version__
    assert told["Python"] == sys.version.replace("\n", " ")
    assert told["build"].startswith("win-")
    gil_off = hasattr(sys, "_is_gil_enabled") and not sys._is_gil_enabled()
    assert told["GIL"] == ("off" if gil_off else "on")
    assert told["system"].startswith("Windows 10.")
    assert "native: Echo" in told["handlers"]
    assert os.path.samefile(told["extension"], sys.modules[iocpx.Server.__module__].__file__)


@pytest.mark.once("the command line")
@pytest.mark.parametrize("native", [(), ("--native",)], ids=["protocol", "native"])
def test_f21_echo_stops_when_another_process_sets_the_named_event(start_script, native):
    name = f"iocpx-test-{os.getpid()}-{len(native)}"
    script = start_script(CLI, "echo", "--workers", "1", "--stop-event", name, *native)
    address = listening_address(script)
    data = pattern(100_000)
    with Client(address) as client:
        assert_same_bytes(client.exchange([data]), data)
    set_event(name)
    status, lines, errors = script.finish()
    assert (status, errors) == (0, "")
    assert lines[0] == f"stopping: the event {name!r} was set"
    assert_totals(lines[1:], len(data))


@pytest.mark.once("the command line")
def test_echo_stops_on_ctrl_c(start_script):
    script = start_script(
        CLI_WITH_INTERRUPTS, "echo", "--stop-event", f"iocpx-test-{os.getpid()}-c"
    )
    address = listening_address(script)
    data = pattern(1000)
    with Client(address) as client:
        assert_same_bytes(client.exchange([data]), data)
    script.tell()
    status, lines, errors = script.finish()
    assert (status, errors) == (0, "")
    assert lines[0] == "stopping: open connections are closed in order; Ctrl+C again resets them"
    assert_totals(lines[1:], len(data))


@pytest.mark.once("the command line")
def test_echo_resets_its_clients_on_a_second_ctrl_c(start_script):
    script = start_script(CLI_WITH_INTERRUPTS, "echo")
    address = listening_address(script)
    data = pattern(1000)
    # A client that never closes: the orderly stop alone would wait for it.
    with Client(address) as client:
        assert_same_bytes(client.exchange([data]), data)
        script.tell()
        assert script.read_line().startswith("stopping: open connections are closed in order;")
        script.tell()
        assert script.read_line() == "resetting the connections"
        status, lines, errors = script.finish()
    assert (status, errors) == (0, "")
    assert_totals(lines, len(data))


CLI_CLOSED_WHILE_RESOLVING = """
import runpy, signal, socket, threading
import iocpx

closed = threading.Event()
resolve = socket.getaddrinfo

class Server(iocpx.Server):
    def close(self):
        super().close()
        closed.set()

def interrupted(*arguments, **parameters):
    signal.raise_signal(signal.SIGINT)
    assert closed.wait(30)
    return resolve(*arguments, **parameters)

iocpx.Server = Server
socket.getaddrinfo = interrupted
runpy.run_module("iocpx", run_name="__main__")
"""


@pytest.mark.once("the command line")
def test_echo_that_is_interrupted_while_it_resolves_a_name_does_not_serve(start_script):
    script = start_script(CLI_CLOSED_WHILE_RESOLVING, "echo")
    status, lines, errors = script.finish()
    assert (status, errors) == (0, "")
    assert lines[0].startswith("stopping: ")
    assert lines[1:3] == ["stopped", "connections  0 made, 0 retired"]


CLI_WITH_A_SET_EVENT = """
import ctypes, runpy, sys
kernel32 = ctypes.WinDLL("kernel32")
kernel32.CreateEventW.restype = ctypes.c_void_p
assert kernel32.CreateEventW(None, True, True, ctypes.c_wchar_p(sys.argv[-1]))
runpy.run_module("iocpx", run_name="__main__")
"""


@pytest.mark.once("the command line")
def test_echo_stops_at_once_when_its_stop_event_is_set_already(start_script):
    name = f"iocpx-test-set-{os.getpid()}"
    script = start_script(CLI_WITH_A_SET_EVENT, "echo", "--stop-event", name)
    status, lines, errors = script.finish()
    assert (status, errors) == (0, "")
    assert lines[0] == f"stopping: the event {name!r} was set"
    assert lines[1:3] == ["stopped", "connections  0 made, 0 retired"]


CLI_INTERRUPTED_BEFORE_THE_START = """
import runpy, signal
import iocpx

class Server(iocpx.Server):
    def start(self):
        assert not hasattr(self, "again"), "started twice"
        self.again = True
        signal.raise_signal(signal.SIGINT)      # before start() has begun
        super().start()

iocpx.Server = Server
runpy.run_module("iocpx", run_name="__main__")
"""


@pytest.mark.once("the command line")
def test_echo_that_is_interrupted_right_before_its_start_stops(start_script):
    script = start_script(CLI_INTERRUPTED_BEFORE_THE_START, "echo")
    status, lines, errors = script.finish()
    assert (status, errors) == (0, "")
    assert lines[0].startswith("stopping: ")
    assert lines[1:3] == ["stopped", "connections  0 made, 0 retired"]


@pytest.mark.once("the command line")
def test_echo_says_that_the_port_is_taken():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = command("echo", "--port", str(taken.getsockname()[1]))
    assert done.returncode == 1
    assert done.stderr.startswith("iocpx echo: [WinError 10048]"), done.stderr


@pytest.mark.once("the command line")
def test_echo_says_that_the_event_is_no_event():
    name = f"iocpx-test-mutex-{os.getpid()}"
    kernel32 = ctypes.WinDLL("kernel32")
    kernel32.CreateMutexW.restype = ctypes.c_void_p
    kernel32.CloseHandle.argtypes = [ctypes.c_void_p]
    mutex = kernel32.CreateMutexW(None, False, ctypes.c_wchar_p(name))
    try:
        done = command("echo", "--stop-event", name)
    finally:
        kernel32.CloseHandle(mutex)
    assert done.returncode == 1
    wanted = f"iocpx echo: the event {name!r} cannot be made: [WinError 6]"
    assert done.stderr.startswith(wanted), done.stderr


@pytest.mark.once("the command line")
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--port", "70000"), "port must be 0 to 65535, got 70000"),
        (("--workers", "0"), "workers must be 1 to 256, got 0"),
        (("--port", "http"), "argument --port: invalid int value: 'http'"),
    ],
)
def test_echo_refuses_bad_arguments(arguments, sentence):
    done = command("echo", *arguments)
    assert done.returncode == 2
    assert sentence in done.stderr


@pytest.mark.once("the command line")
def test_without_a_command_the_help_is_printed():
    done = command()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == command("--help").stdout
    listed = {line.split()[0] for line in done.stdout.splitlines() if line.startswith("    ")}
    assert listed == {"echo", "bench", "info"}


@pytest.mark.once("the command line")
def test_an_unknown_command_is_refused():
    done = command("serve")
    assert (done.returncode, done.stdout) == (2, "")
    assert "invalid choice: 'serve'" in done.stderr


@pytest.mark.once("starts eight processes")
@pytest.mark.slow("starts eight processes, one after the other")
@pytest.mark.timeout(600)
def test_bench_measures_iocpx_and_asyncio():
    # Short, as nothing here is about speed; the client checks every byte.
    few = ("--rounds", "1", "--seconds", "0.05", "--connections", "3", "--workers", "2")
    names = ("iocpx-native", "iocpx-protocol", "iocpx-buffered", "asyncio")
    done = command("bench", *few, "--arrangement", "free", "--only", *names, limit_s=500)
    assert done.returncode == 0, done.stderr
    assert "3 connections, 64 B, depth 1, free" in done.stdout.splitlines()
    for name in names:
        (row,) = re.findall(rf"^{name} +[\d,]+ .*", done.stdout, re.MULTILINE)
        if name != "asyncio":
            calls_per_message = float(row.split()[-2])
            assert calls_per_message > 1, row  # a receive and a send, about


@pytest.mark.once("starts eight processes")
@pytest.mark.slow("starts eight processes, one after the other")
@pytest.mark.timeout(600)
def test_bench_measures_loops():
    few = ("--rounds", "1", "--seconds", "0.05", "--arrangement", "free")
    load = ("scheduling", "echo-64", "uvicorn", "aiohttp-out")
    words = ("bench", "--loops", *few, "--only", "iocpx", "--workload", *load)
    done = command(*words, limit_s=500)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "scheduling, free" in lines
    for title in (
        "call_soon, one after the other",
        "call_soon, many at once",
        "call_later, fired",
        "call_later, cancelled",
        "sleep(0)",
        "gather of empty tasks",
        "future set by call_soon, awaited",
        "asyncio.Queue(1) hand-over",
        "call_soon_threadsafe",
        "geometric mean",
    ):
        (rate,) = re.findall(rf"^{re.escape(title)} +([\d.,]+)$", done.stdout, re.MULTILINE)
        assert float(rate.replace(",", "")) > 0
    tables = ["50 connections, 64 B, depth 1, free"]
    # Where these are not installed, it says so.
    if importlib.util.find_spec("uvicorn") and importlib.util.find_spec("httptools"):
        tables.append("uvicorn, 50 connections, answers")
    if importlib.util.find_spec("aiohttp"):
        tables.append("aiohttp, 8 connections, answers")
    for table in tables:
        assert any(line.startswith(table) for line in lines), done.stdout
