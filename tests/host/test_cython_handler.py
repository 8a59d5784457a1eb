"""examples/cython_handler, built against the wheel as it would be installed and served on the
default lane; and a handler that uses all of the C interface, on each lane.
"""

import http.client
import re
import shutil
import socket
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from lanes import EVERY_LANE
from programs import PORT, START

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from lab import build, here  # noqa: E402 - found only now
from lab.steps import exclusive  # noqa: E402 - likewise

WAIT_S = 60
EXAMPLE = ROOT / "examples" / "cython_handler"
PROBE = ROOT / "tests" / "data" / "probe_handler.pyx"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="builds with the lab's compiler")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with iocpx as its wheel has it, and the example built against that."""
    folder = tmp_path_factory.mktemp("installed")
    with exclusive():
        with zipfile.ZipFile(build.wheel(here.default_lane())) as wheel:
            wheel.extractall(folder)
        extension(here.default_lane(), EXAMPLE / "http_handler.pyx", folder, folder)
    return folder


def extension(lane, source, library, folder):
    said = here.extension(lane, source, library, folder)
    assert "warning" not in said, said


@pytest.fixture
def start(installed):
    """`start(*arguments)` starts the lane's Python where the wheel is installed."""
    processes = []

    def starter(*arguments):
        argv, env = here.command(here.default_lane(), installed)
        process = subprocess.Popen(
            [*argv, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            env=env,
            cwd=installed,
        )
        processes.append(process)
        return process

    yield starter
    for process in processes:
        process.kill()
        process.communicate()


# Serves with the example until its standard input ends, then prints whether the books balance.
SERVE = """
import sys
import http_handler, iocpx
with iocpx.Server(iocpx.native.Handler(http_handler.capsule), "127.0.0.1") as server:
    print("port", server.address[1], flush=True)
    sys.stdin.read()
stats = {**server.stats(), **server._engine.stats()}
for one, other in (("ops_posted", "ops_completed"), ("sockets_opened", "sockets_closed"),
                   ("connections_made", "connections_retired")):
    assert stats[one] == stats[other], stats
assert stats["buffers_out"] == 0 and stats["gil_acquisitions"] == 0, stats
print("balanced")
"""


@pytest.fixture
def port(start):
    program = start("-c", SERVE)
    yield int(PORT.search(program.stdout.readline())[1])
    assert program.communicate(timeout=WAIT_S)[0].strip() == "balanced"


def ask(port, sent, pieces=1):
    """The statuses of all that comes back, until the end of the stream."""
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT_S) as client:
        size = -(-len(sent) // pieces)
        for begin in range(0, len(sent), size):
            client.sendall(sent[begin : begin + size])
        with client.makefile("rb") as answers:
            text = answers.read()
    return [int(part[:3]) for part in text.split(b"HTTP/1.1 ")[1:]], text


ROOT_REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


def test_pythons_own_client(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
    for _ in range(100):
        connection.request("GET", "/")
        assert connection.getresponse().read() == b"Hello, world!"
    connection.request("HEAD", "/")
    assert connection.getresponse().read() == b""
    connection.request("POST", "/", body=b"x" * 100_000)
    assert connection.getresponse().read() == b"Hello, world!"
    connection.request("GET", "/elsewhere")
    answer = connection.getresponse()
    assert (answer.status, answer.read()) == (404, b"")
    connection.close()


@pytest.mark.parametrize("pieces", [1, 2, 7, 1000])
def test_requests_at_once_and_in_pieces(port, pieces):
    body = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\nGET / HTTP/1.1\r\n\r\n.."
    statuses, text = ask(port, (ROOT_REQUEST + body) * 20 + LAST, pieces)
    assert statuses == [200] * 41
    assert text.count(b"Hello, world!") == 41


@pytest.mark.parametrize("request_line", ["GET / HTTP/1.0", "HEAD / HTTP/1.0", "GET /a HTTP/1.0"])
def test_an_old_client_gets_one_answer(port, request_line):
    statuses, text = ask(port, request_line.encode() + b"\r\n\r\n")
    assert statuses == [404 if "/a" in request_line else 200]
    assert b"\r\nConnection: close\r\n" in text


def test_the_last_answer_says_that_it_is(port):
    for method, path in ((b"GET", b"/"), (b"HEAD", b"/"), (b"GET", b"/a")):
        statuses, text = ask(port, LAST.replace(b"GET /", method + b" " + path))
        assert statuses == [404 if path == b"/a" else 200]
        assert b"\r\nConnection: close\r\n" in text


@pytest.mark.slow("the shortest timeout is seconds")
def test_a_head_that_stops_is_given_up_but_not_early(port):
    begun = time.monotonic()
    assert ask(port, ROOT_REQUEST + b"GET / HTTP/1.1\r\nHo")[0] == [200, 408]
    assert time.monotonic() - begun >= 10


def test_the_program_that_serves_with_it(installed, start):
    shutil.copy(EXAMPLE / "serve_http.py", installed)
    program = start("-c", START, ".", "file", "serve_http.py", "0")
    port = int(PORT.search(program.stdout.readline())[1])
    assert ask(port, ROOT_REQUEST + LAST)[0] == [200, 200]
    output, _ = program.communicate("\n", timeout=WAIT_S)  # Ctrl+C
    assert (program.returncode, output) == (0, "")


WRONG = {
    b"\r\n\r\n": 400,
    b"GET\r\n\r\n": 400,
    b"GET / HTTP/1.1\r\n\r\n": 400,
    b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n": 400,
    b"GET / HTTP/1.1\r\nHost : x\r\n\r\n": 400,
    b"GET / HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n": 400,
    b"GET / HTTP/1.1\r\nHost: x\rsmuggled: y\r\n\r\n": 400,
    b"GET / HTTP/1.1\rZHost: x\r\n\r\n": 400,
    b"GET / HTTP/2.0\r\nHost: x\r\n\r\n": 505,
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n": 400,
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n": 400,
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n": 400,
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\n\r\n": 413,
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n": 501,
    b"GET / HTTP/1.1\r\nx: " + b"y" * 8192: 431,
    b"GET / HTTP/1.1\r\nHost: x\r\nx: " + b"y" * 8192 + b"\r\n\r\n": 431,
}


def test_what_is_wrong_ends_its_connection(port):
    for sent, status in WRONG.items():
        for pieces in (1, 3):
            assert ask(port, ROOT_REQUEST + sent, pieces)[0] == [200, status], sent


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_curl(port):
    url = f"http://127.0.0.1:{port}/"
    done = subprocess.run(
        ["curl", "--silent", "--show-error", "--data-binary", "@-", url, url],
        input=b"x" * 50_000,
        capture_output=True,
        timeout=WAIT_S,
    )
    assert (done.returncode, done.stdout) == (0, b"Hello, world!" * 2), done.stderr


@pytest.mark.skipif(shutil.which("ab") is None, reason="there is no ab: apache2-utils")
def test_ab(port):
    words = ["-q", "-k", "-n", "3000", "-c", "50", f"http://127.0.0.1:{port}/"]
    done = subprocess.run(["ab", *words], capture_output=True, encoding="utf-8", timeout=WAIT_S)
    assert done.returncode == 0, done.stderr
    figures = dict(line.split(":", 1) for line in done.stdout.splitlines() if ":" in line)
    assert figures["Complete requests"].strip() == "3000"
    assert figures["Failed requests"].strip() == "0"
    assert figures["Keep-Alive requests"].strip() == "0"  # it asks as HTTP/1.0 does


@pytest.mark.skipif(shutil.which("wrk") is None, reason="there is no wrk")
def test_wrk(port):
    # A busy machine may serve nobody for a second.
    words = ["-t", "1", "-c", "20", "-d", "3s", "--timeout", "30s", f"http://127.0.0.1:{port}/"]
    done = subprocess.run(["wrk", *words], capture_output=True, encoding="utf-8", timeout=WAIT_S)
    assert done.returncode == 0, done.stderr
    requests, size = re.search(r"(\d+) requests in [\d.]+s, ([\d.]+\wB) read", done.stdout).groups()
    assert int(requests) > 0 and size != "0.00B", done.stdout
    # It says so where an answer is an error or does not come.
    assert "Socket errors" not in done.stdout and "Non-2xx" not in done.stdout, done.stdout


# -- the whole interface ----------------------------------------------------------------------

USE_ALL = """
import socket, sys
import iocpx, probe_handler

def served(what, size=0):
    with iocpx.Server(iocpx.native.Handler(probe_handler.capsule), "127.0.0.1") as server:
        with socket.create_connection(server.address, timeout=60) as client:
            client.sendall(what)
            client.shutdown(socket.SHUT_WR)
            with client.makefile("rb") as file:
                got = file.read()
            name = client.getsockname()
    stats = {**server.stats(), **server._engine.stats()}
    assert stats["ops_posted"] == stats["ops_completed"], stats
    assert stats["connections_made"] == stats["connections_retired"], stats
    assert stats["sockets_opened"] == stats["sockets_closed"], stats
    return got, name

# An echo by write_owned, of what is long and what is short.
for size in (1, 16384, 16385, 3_000_000):
    data = bytes(range(256)) * (size // 256) + b"e" * (size % 256)
    got, _ = served(b"e" + data)
    assert got == data, (size, len(got))
print("echo", probe_handler.owned() == probe_handler.released() > 0)
got, name = served(b"a")
print("address", got == b"%d" % name[1])
got, _ = served(b"t")
print("timer", got == b"timer")
print("timer early", probe_handler.early())
got, _ = served(b"m")
print("marks", got == b"x" * 4_000_000, probe_handler.marks())
got, _ = served(b"p")
print("post", got == b"posted")
with iocpx.Server(iocpx.native.Handler(probe_handler.capsule), "127.0.0.1") as server:
    with socket.create_connection(server.address, timeout=60) as client:
        client.sendall(b"f")
        file = client.makefile("rb")
        held = file.read(4)
        client.sendall(b"what comes while it pauses")
        print("flow", held, file.read(), *probe_handler.flow())
        file.close()
print("lost", probe_handler.made() == probe_handler.lost())
print("sent", probe_handler.sent() > 4_000_000)
for wrong in (None, probe_handler.other_version, probe_handler.other_name):
    try:
        iocpx.native.Handler(wrong)
    except (TypeError, ValueError) as error:
        print(type(error).__name__, error)
"""


@pytest.fixture(scope="module", params=EVERY_LANE)
def run(request, tmp_path_factory):
    """`run(program)` runs it with the probe on a lane; returns what it printed."""
    lane, folder = request.param, tmp_path_factory.mktemp("probe")
    with exclusive():
        here.setup([lane])
        build.build(lane)
        extension(lane, PROBE, build.library(lane), folder)
    argv, env = here.command(lane, build.library(lane))

    def runner(program):
        done = subprocess.run(
            [*argv, "-c", program],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            env=env,
            cwd=folder,
            timeout=WAIT_S,
        )
        return done.stdout

    return runner


def test_all_of_the_interface(run):
    output = run(USE_ALL)
    lines = output.splitlines()
    assert lines[:9] == [
        "echo True",
        "address True",
        "timer True",
        "timer early False",
        "marks True True",
        "post True",
        "flow b'held' b'more' True 4 True",
        "lost True",
        "sent True",
    ], output
    wrong = lines[9:]
    assert wrong[0].startswith("TypeError capsule must be a PyCapsule named 'iocpx.handler'")
    assert wrong[1].startswith("ValueError the handler was built with version 999")
    assert wrong[2].startswith("TypeError capsule must be a PyCapsule")


OTHER_VERSION = """
import ctypes
import iocpx._core

class Api(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32)]

api = Api(999)
make = ctypes.pythonapi.PyCapsule_New
make.restype, make.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
name = b"iocpx._core.engine_api"     # the capsule keeps no copy
iocpx._core.engine_api = make(ctypes.addressof(api), name, None)
try:
    import probe_handler
except ImportError as error:
    print(error)
"""


def test_a_module_refuses_an_engine_of_another_version(run):
    assert run(OTHER_VERSION) == (
        "this module was built with version 1 of iocpx's C interface, and the installed iocpx has"
        " version 999: build it anew\n"
    )


ENDS = """
import socket, threading
import iocpx, probe_handler

def server_of(capsule=probe_handler.capsule):
    return iocpx.Server(iocpx.native.Handler(capsule), "127.0.0.1")

def check(server, what):
    stats = {**server.stats(), **server._engine.stats()}
    assert stats["ops_posted"] == stats["ops_completed"], stats
    assert stats["connections_made"] == stats["connections_retired"], stats
    assert stats["buffers_out"] == 0, stats
    print(what, probe_handler.owned(), probe_handler.released())

def connect(server):
    return socket.create_connection(server.address, timeout=60)

# The client reads no more than it needs to know that the data is under way.
with server_of() as server, connect(server) as client:
    client.sendall(b"b")
    client.recv(1)
    client.sendall(b"now")
    for _ in range(6000):       # a minute
        if probe_handler.lost() == 1 and probe_handler.released() == 1:
            break
        threading.Event().wait(0.01)
    print("abort", probe_handler.owned(), probe_handler.released())
check(server, "abort")
with server_of() as server, connect(server) as client:
    client.sendall(b"k")
    client.recv(1)
    server.close()
    server.abort_clients()
    assert server.wait_closed(60)
    check(server, "stop")
with server_of() as server, connect(server) as client:
    client.sendall(b"r")
    assert client.recv(1) == b""
check(server, "refusal")
print(probe_handler.refused())

with server_of(probe_handler.eager) as server, connect(server) as client:
    size = 0
    while data := client.recv(1 << 20):
        size += len(data)
print("made", size, probe_handler.eager_told())
"""


def test_what_is_lent_comes_back_and_marks_are_told_after_made(run):
    assert run(ENDS).splitlines() == [
        "abort 1 1",
        "abort 1 1",
        "stop 2 2",
        "refusal 4 4",
        "True",
        "made 20000000 (1, 1, 0)",
    ]
