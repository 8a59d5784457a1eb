"""dev.py and lab/, from outside: what `run` passes on; what is said when something is missing."""

import hashlib
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from lab import fetch, here, jobs, steps, windows, wine  # noqa: E402 - found only now

ON_WINDOWS = sys.platform == "win32"
LIMIT_S = 100


def dev(*words, **options):
    """Run dev.py; its lane is set up and built already when `dev.py test` runs this."""
    options.setdefault("stdin", subprocess.DEVNULL)
    if "stdout" not in options:
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    argv = [sys.executable, ROOT / "dev.py", *words]
    return subprocess.run(argv, encoding="utf-8", timeout=LIMIT_S, **options)


def test_without_a_verb_all_are_listed():
    done = dev()
    assert done.returncode == 0
    listed = {line.split()[0] for line in done.stdout.splitlines() if line.startswith("    ")}
    assert {"setup", "build", "bench", "test", "run", "wheel", "lint", "clean"} <= listed


def test_unknown_lane():
    done = dev("build", "--python", "2.7")
    assert done.returncode == 2
    assert "--python: invalid choice: '2.7'" in done.stderr
    assert here.default_lane() in done.stderr


def test_fast_and_a_lane():
    done = dev("test", "--fast", "--python", here.default_lane())
    assert done.returncode == 1
    assert "dev.py: --fast is the lane of --python too: give one of them" in done.stderr


def test_setting_up_again_does_nothing():
    assert dev("setup", "--python", here.default_lane()).returncode == 0
    done = dev("setup", "--python", here.default_lane())
    # Not the whole output: another dev.py in this checkout may have been waited for.
    assert done.stdout.endswith(f"set up: {here.default_lane()}\n")
    assert "done," not in done.stdout


# -- run


@pytest.mark.parametrize("status", [0, 1, 77, 255])
def test_run_passes_the_exit_status_on(status):
    assert dev("run", "-c", f"raise SystemExit({status})").returncode == status


@pytest.mark.slow("imports all extras")
def test_run_is_a_windows_python_with_iocpx_and_the_extras(tmp_path):
    program = (
        "import sys, iocpx, pytest, hypothesis, rich, winloop\n"
        "print(sys.platform, '%d.%d' % sys.version_info[:2], iocpx.__file__)"
    )
    for folder in (ROOT, ROOT / "tests", tmp_path):
        done = dev("run", "-c", program, cwd=folder)
        assert done.stderr == ""
        platform, version, file = done.stdout.split(maxsplit=2)
        assert (platform, version) == ("win32", here.default_lane())
        assert file.strip().replace("\\", "/").endswith((ROOT / "iocpx/__init__.py").as_posix())


def test_run_has_the_random_numbers_that_rust_asks_for():
    # Windows has this DLL, Wine 8 has not.
    program = (
        "import ctypes\n"
        "data = ctypes.create_string_buffer(64)\n"
        "get = ctypes.WinDLL('bcryptprimitives').ProcessPrng\n"
        "get.argtypes = ctypes.c_char_p, ctypes.c_size_t\n"
        "print(get(data, 63), any(data.raw[:63]), data.raw[63])"
    )
    done = dev("run", "-c", program)
    assert (done.stdout, done.stderr) == ("1 True 0\n", "")


def test_run_passes_arguments_on_as_they_are():
    words = ["a b", "--python", "3.11", "--debug", "", '"', "*", "\\", "ü"]
    done = dev("run", "-c", "import sys; print(ascii(sys.argv[1:]))", *words)
    assert done.stdout.strip() == ascii(words)


def test_run_with_files_for_streams(tmp_path):
    # Under Wine, Python ends at its start when a standard stream is a regular file.
    data = "".join(f"line {number}\n" for number in range(20_000))
    (tmp_path / "in.txt").write_text(data)
    program = """
import sys
for line in sys.stdin:
    print(line, end="")
sys.stdout.flush()
print("last", file=sys.stderr)
"""
    with open(tmp_path / "in.txt") as source, open(tmp_path / "out.txt", "w") as target:
        dev("run", "-c", program, stdin=source, stdout=target, stderr=subprocess.STDOUT)
    assert (tmp_path / "out.txt").read_text() == data + "last\n"


def test_run_with_separate_files(tmp_path):
    program = "import sys; print('out'); print('err', file=sys.stderr)"
    with open(tmp_path / "out", "w") as out, open(tmp_path / "err", "w") as err:
        dev("run", "-c", program, stdout=out, stderr=err)
    assert (tmp_path / "out").read_text() == "out\n"
    assert (tmp_path / "err").read_text() == "err\n"


# The child waits for the end of a pipe that the test holds.
LEAVES_A_CHILD = """
import subprocess, sys
subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"])
print("gone")
"""


def test_run_ends_with_its_program_though_a_child_lives_on(tmp_path):
    reader, writer = os.pipe()
    try:
        with open(tmp_path / "out", "w") as out:
            dev("run", "-c", LEAVES_A_CHILD, stdin=reader, stdout=out, stderr=subprocess.STDOUT)
    finally:
        os.close(reader)
        os.close(writer)
    assert (tmp_path / "out").read_text() == "gone\n"


INTERRUPTED = """
import threading
try:
    print("started", flush=True)
    while True:
        threading.Event().wait(1)
except KeyboardInterrupt:
    print("interrupted", flush=True)
    raise SystemExit(5)
"""


@pytest.mark.skipif(ON_WINDOWS, reason="a process cannot send Ctrl+C to another one's console")
@pytest.mark.parametrize("to_a_file", [False, True], ids=["to a pipe", "to a file"])
def test_run_passes_ctrl_c_on(tmp_path, to_a_file):
    argv = [sys.executable, ROOT / "dev.py", "run", "-c", INTERRUPTED]
    with open(tmp_path / "err", "w") as err:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=err if to_a_file else subprocess.STDOUT,
            encoding="utf-8",
        )
        try:
            assert process.stdout.readline() == "started\n"
            process.send_signal(signal.SIGINT)
            rest, _ = process.communicate(timeout=LIMIT_S)
        finally:
            process.kill()
    assert rest == "interrupted\n"
    assert process.returncode == 5


# Ends the program that runs it, as Ctrl+C does, and lets the first Ctrl+C pass that it gets itself.
ENDS_AT_THE_SECOND = """
import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
os.kill(os.getppid(), signal.SIGTERM)
for _ in range(2):
    signal.sigwait({signal.SIGINT})
    print("interrupted", flush=True)
"""


@pytest.fixture
def sigterm_restored():
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.skipif(ON_WINDOWS, reason="a process cannot send Ctrl+C to another one's console")
def test_jobs_side_by_side_are_interrupted_until_they_end(monkeypatch, sigterm_restored):
    monkeypatch.setattr(jobs, "AGAIN_S", 0.1)
    job = jobs.Job("interrupted", [sys.executable, "-c", ENDS_AT_THE_SECOND])
    with pytest.raises(KeyboardInterrupt):
        jobs.together([job], lambda job: pytest.fail("it ended by itself"))
    assert job.output.read_text() == "interrupted\ninterrupted\n"


# -- what is missing


def test_neither_root_nor_sudo(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "geteuid", lambda: 1000, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(steps.Failure, match=r"^neither root nor sudo: .*`apt-get install .* wine"):
        fetch.as_root()


def test_no_compiler_on_windows(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PROGRAMFILES(X86)", str(tmp_path))
    with pytest.raises(steps.Failure, match=r'^there is no C compiler: install .*"Build Tools for'):
        windows.find_compiler()


@pytest.fixture
def index(monkeypatch, tmp_path):
    """A package index with one file, b"content", of the project "thing"; pip is set to it."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/simple/thing/":
                kind = "application/vnd.pypi.simple.v1+json"
                body = json.dumps({"files": [{"filename": "thing.whl", "url": "../../thing.whl"}]})
                body = body.encode()
            elif self.path == "/thing.whl":
                kind, body = "application/octet-stream", b"content"
            else:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(fetch, "DOWNLOADS", tmp_path / "downloads")
    yield
    server.shutdown()
    thread.join()
    server.server_close()


SHA256 = hashlib.sha256(b"content").hexdigest()


def test_a_file_from_the_index(index, monkeypatch):
    path = fetch.index_file(sys.executable, "thing", "thing.whl", SHA256)
    assert path.read_bytes() == b"content"
    # The second time nobody is asked.
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/simple")
    assert fetch.index_file(sys.executable, "thing", "thing.whl", SHA256) == path
    # A file that was damaged is fetched again.
    path.write_bytes(b"contenT")
    with pytest.raises(steps.Failure, match="see that pip reaches its package index"):
        fetch.index_file(sys.executable, "thing", "thing.whl", SHA256)


def test_another_file_than_the_pinned_one(index):
    with pytest.raises(steps.Failure, match=rf"^thing\.whl .* has SHA-256 {SHA256}, expected 00"):
        fetch.index_file(sys.executable, "thing", "thing.whl", "0" * 64)
    assert list(fetch.DOWNLOADS.iterdir()) == []


def test_a_file_that_the_index_does_not_list(index):
    with pytest.raises(steps.Failure, match=r"the package index lists no other\.whl"):
        fetch.index_file(sys.executable, "thing", "other.whl", SHA256)


def test_no_index(index, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/simple")
    sentence = r"^thing\.whl cannot be fetched; see that pip reaches its package index"
    with pytest.raises(steps.Failure, match=sentence):
        fetch.index_file(sys.executable, "thing", "thing.whl", SHA256)


def test_a_step_is_done_once_for_each_state_of_its_inputs(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(steps, "LAB", tmp_path)
    output, calls = tmp_path / "output", []

    def work():
        calls.append(1)
        output.touch()

    steps.step("a step", ["one"], work, output)
    steps.step("a step", ["one"], work, output)
    assert len(calls) == 1
    assert capsys.readouterr().out.startswith("a step … done, ")
    steps.step("a step", ["two"], work, output)
    assert len(calls) == 2
    output.unlink()
    steps.step("a step", ["two"], work, output)
    assert len(calls) == 3


def test_a_step_that_failed_is_not_done(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(steps, "LAB", tmp_path)
    calls = []

    def work():
        calls.append(1)
        if len(calls) == 1:
            raise steps.Failure("no luck")

    with pytest.raises(steps.Failure, match=r"^no luck$"):
        steps.step("a step", ["one"], work)
    assert capsys.readouterr().out == "a step … failed\n"
    steps.step("a step", ["one"], work)
    steps.step("a step", ["one"], work)
    assert len(calls) == 2


@pytest.mark.parametrize("workers", ["1", "3"])
def test_the_benchmarks_ceiling_echoes_any_size_and_ends_in_order(workers):
    load = ("--connections", "5", "--size", "200001", "--depth", "2", "--workers", workers)
    done = dev("bench", "--", "--only", "ceiling", "--rounds", "1", "--seconds", "0.05", *load)
    assert done.returncode == 0, done.stderr
    assert f"threads: {workers} in iocpx and the ceiling" in done.stdout


def test_the_benchmark_compares_the_handler_in_c_with_the_ceiling():
    load = ("--workload", "http", "--arrangement", "free", "--rounds", "1", "--seconds", "0.05")
    done = dev("bench", "--", "--only", "iocpx-native", "ceiling", *load)
    assert done.returncode == 0, done.stderr
    assert "left out" not in done.stdout
    title = "\nHTTP by a handler in C, 50 connections, answers of 13 B, free\n"
    table = done.stdout.partition(title)[2]
    servers = [line.split()[0] for line in table.splitlines()[2:4]]
    assert servers == ["iocpx-native", "ceiling"], done.stdout


def test_without_the_lab_the_benchmark_says_where_the_handler_in_c_is():
    load = ("--workload", "http", "--only", "iocpx-native", "--rounds", "1")
    done = dev("run", "-m", "iocpx", "bench", *load)
    assert done.returncode == 0, done.stderr
    assert "left out: iocpx-native as http (not installed for the servers' Python: " in done.stdout
    assert "No module named 'http_handler'; it is examples/cython_handler" in done.stdout


@pytest.mark.skipif(ON_WINDOWS, reason="Windows has no Wine")
def test_the_benchmark_puts_wines_server_back():
    own = os.sched_getaffinity(0)
    if len(own) == 1:
        pytest.skip("there is one CPU")
    wine.start_server()
    server = wine.server_pid()
    os.sched_setaffinity(server, own)
    load = ("--arrangement", "pinned", "--rounds", "1", "--seconds", "0.05")
    done = dev("bench", "--", "--only", "ceiling", *load)
    assert done.returncode == 0, done.stderr
    assert os.sched_getaffinity(server) == own
