"""The benchmark's orchestrator and client, against servers that do right and wrong.

Its servers run on this Python: asyncio's echo where it is to go well, and otherwise a stand-in that
speaks the servers' dialogue and commits one fault. No test looks at how fast anything was.
"""

import dataclasses
import json
import os
import re
import shlex
import subprocess
import sys
import types

import pytest

# First, as it is what finds the benchmark.
from bench_command import PACKAGE, QUICK, bench  # isort: skip
from bench import cpus, figures, measure, options, pattern, servers, targets, workloads
from bench import results as results_module
from bench import run as run_module

# Enough for ten messages of each connection, which is when a share of them is told, and for
# megabytes, also on a machine that has more to do.
LONGER = ["--seconds", "1"]

# Started as `python stand_in.py FAULT -m bench.servers NAME …`; echoes, but for the named fault.
STAND_IN = r"""
import asyncio, json, os, sys, threading

sys.path.insert(0, os.getcwd())
from bench import tls
from bench.pattern import HEADER, PATTERN, VERDICT

fault = sys.argv[1]
secured = fault != "no TLS" and any(word.endswith("-tls") for word in sys.argv)
context = tls.server_context() if secured else None
connections = []
STATS = None
if fault == "counts":
    STATS = iter([{"waits": 1, "ops_posted": 2}, {"waits": 1_000_001, "ops_posted": 2_000_002}])


class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
        self.last = b""
        connections.append(self)

    def data_received(self, data):
        reply = data
        if fault == "flipped bit" and connections.index(self) == 1 and self.last:
            reply = data[:5] + bytes([data[5] ^ 1]) + data[6:]
        elif fault == "stale":
            reply = self.last or data
        elif fault == "misdelivered" and len(connections) > 1:
            connections[self is connections[0]].transport.write(data)
            reply = b""
        elif fault == "lost byte" and self.last:
            reply = data[1:]
        elif fault == "drops":
            self.transport.close()
        elif fault == "dies":
            print("out of cheese", file=sys.stderr, flush=True)
            os._exit(3)
        elif fault == "unfair" and connections.index(self) == 1:
            asyncio.get_running_loop().call_later(2, self.transport.write, data)
            reply = b""
        elif fault == "always flipped":
            reply = data[:5] + bytes([data[5] ^ 1]) + data[6:]
        elif fault == "flipped stream":
            (start,) = HEADER.unpack(data)
            stream = bytearray(PATTERN[start : start + 65536])
            stream[70] ^= 1
            reply = bytes(stream)
        elif fault == "complains" and "sink" in sys.argv:
            reply = VERDICT.pack(-1 - 70)
        elif fault == "miscounts":
            reply = b""
        self.last = data
        self.transport.write(reply)

    def eof_received(self):
        if fault == "surplus":
            self.transport.write(b"more")
        elif fault == "miscounts":
            self.transport.write(VERDICT.pack(1))


async def serve():
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0, ssl=context)
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()

    def commands():
        port = server.sockets[0].getsockname()[1]
        facts = {"port": port, "python": "3", "system": "here", "versions": {}, "loop": "X"}
        print(json.dumps(facts), flush=True)
        for line in sys.stdin:
            if line == "stats\n":
                print(json.dumps({"stats": STATS and next(STATS)}), flush=True)
            else:
                print(json.dumps({"user_s": 1.0, "system_s": 1.0}), flush=True)
        totals = {"ops_posted": 7, "ops_completed": 6 if fault == "leaks" else 7}
        print(json.dumps({"totals": totals}), flush=True)
        loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=commands).start()
    await ended.wait()


if fault == "does not start":
    sys.exit("no bananas")
if fault == "not installed":
    print(json.dumps({"missing": "No module named 'winloop'"}))
else:
    asyncio.run(serve())
sys.exit(4 if fault == "ends badly" else 0)
"""


@pytest.fixture
def stand_in(tmp_path):
    """The command of a server's Python that commits the fault."""
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN)
    return lambda fault: (sys.executable, str(script), fault)


def test_prints_plain_lines_where_there_is_no_terminal():
    run = bench(*QUICK, *LONGER, "--connections", "3", "--depth", "2")
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    assert "\x1b" not in run.stdout
    lines = run.stdout.splitlines()
    assert any(re.fullmatch(r"machine: .+, \d+ CPUs", line) for line in lines)
    title = lines.index("3 connections, 64 B, depth 2, free")
    # Without the columns for which there is nothing to compare with or to count.
    headings = ["server", "msg/s", "spread", "ms", "ms", "ms", "fair", "µs/msg", "asyncio"]
    assert lines[title + 2].split() == headings
    row = lines[title + 3].split()
    assert row[0] == "asyncio"
    assert float(row[1].replace(",", "")) > 0
    assert row[-1] == "1.00"


def test_shows_tables_and_progress_on_a_terminal():
    pty = pytest.importorskip("pty", reason="no pseudo-terminals on this system")
    pytest.importorskip("rich", reason="the terminal output needs rich")
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "bench", *QUICK, *LONGER, "--connections", "1"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    process = subprocess.Popen(command, cwd=PACKAGE, stdout=slave, env=environment)
    os.close(slave)
    output = bytearray()
    while True:
        try:
            output += os.read(master, 65536)
        except OSError:  # how Linux says that the other side is closed
            break
    os.close(master)
    assert process.wait(60) == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output.decode())
    assert "free, round 1/1  asyncio: 1 connection, 64 B, depth 1" in text
    assert "─────" in text
    assert re.search(r"asyncio +[\d,]+ +1\.0( +[\d.]+){5} +1\.00", text)


# Every server that this Python can run without iocpx, with the real dialogue.
@pytest.mark.parametrize("name", ["asyncio", "asyncio-streams", "threads"])
def test_servers_of_the_standard_library(name):
    run = bench("--only", name, *QUICK[2:], "--connections", "3", "--size", "100000")
    assert run.returncode == 0, run.stderr


def test_pinned_and_free_have_tables_of_their_own():
    if len(cpus.own()) == 1:
        pytest.skip("there is one CPU")
    run = bench(*QUICK[:-1], "both", "--connections", "2")
    assert run.returncode == 0, run.stderr
    assert re.findall(r"\n2 connections, 64 B, depth 1, (\w+)\n", run.stdout) == ["pinned", "free"]


@pytest.mark.skipif(sys.platform == "win32", reason="Wine's server is pinned, which Windows lacks")
def test_pinned_server_client_and_helper_have_the_right_cpus_and_get_them_back():
    own = sorted(cpus.own())
    if len(own) == 1:
        pytest.skip("there is one CPU")
    show = "import os, sys; sys.stdin.read(); print(sorted(os.sched_getaffinity(0)))"
    show = [sys.executable, "-c", show]
    with subprocess.Popen(show, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as helper:
        arguments = ["--arrangement", "pinned", "--pin-too", str(helper.pid)]
        measured = run_module.Bench(options.parse(arguments), report=None)
        with measured.arranged("pinned"):
            assert os.sched_getaffinity(helper.pid) == {own[0]}
            with measured.server_cpus():
                assert cpus.own() == {own[0]}
            with measured.client_cpus():
                assert cpus.own() == {own[1]}
            assert cpus.own() == set(own)
        assert json.loads(helper.communicate()[0]) == own


@pytest.mark.skipif(sys.platform == "win32", reason="Wine's server is pinned, which Windows lacks")
def test_a_pid_that_is_nobodys_is_named():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    run = bench(*QUICK[:-1], "pinned", "--pin-too", str(process.pid))
    assert run.returncode == 1
    assert f"there is no process {process.pid} to pin" in run.stderr


def test_calls_are_those_during_the_timed_phase(stand_in):
    run = bench(*QUICK, *LONGER, "--connections", "1", server_python=stand_in("counts"))
    assert run.returncode == 0, run.stderr
    (row,) = [line for line in run.stdout.splitlines() if re.match("asyncio  ", line)]
    assert float(row.split()[8]) > 10, row  # 3,000,000 by the messages of a second


def test_the_ceiling_is_left_out_where_it_is_not_given(stand_in):
    run = bench("--rounds", "1", server_python=stand_in("not installed"))
    assert run.returncode == 0, run.stderr
    assert "left out: ceiling (a program that `dev.py bench` builds and gives, in a clone)" in (
        run.stdout
    )


def test_the_ceiling_is_compared_with(stand_in):
    ceiling = shlex.join(stand_in("counts"))
    words = [*QUICK, *LONGER, "--connections", "1", "--ceiling", ceiling]
    run = bench(*words, "--only", "asyncio", "ceiling")
    assert run.returncode == 0, run.stderr
    (row,) = [line for line in run.stdout.splitlines() if re.match("ceiling  ", line)]
    _, above, _, _, of_ceiling = map(float, row.split()[-5:])
    assert (above, of_ceiling) == (0, 1)


def test_fairness_is_the_least_served_connections_share(stand_in):
    # The second connection's replies come when the timed phase of a second is over.
    run = bench(*QUICK, *LONGER, "--connections", "2", server_python=stand_in("unfair"))
    assert run.returncode == 0, run.stderr
    (row,) = [line for line in run.stdout.splitlines() if re.match("asyncio  ", line)]
    assert float(row.split()[6]) < 0.5, row


@pytest.mark.parametrize(
    ("size", "depth"), [(1, 1), (1, 5), (4097, 3), (1_000_003, 1), (300_000, 16)]
)
def test_client_accepts_right_replies_of_any_size(size, depth):
    # The larger ones take several sends and receives for each message.
    run = bench(*QUICK, "--connections", "3", "--size", str(size), "--depth", str(depth))
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("flipped bit", r"connection 1: byte 5 of a reply of 64 bytes is 0x.. where 0x.. was sent"),
        ("stale", r"connection \d: byte \d+ of a reply of 64 bytes is 0x.. where 0x.. was sent"),
        ("misdelivered", r"connection \d: byte \d+ of a reply of 64 bytes is 0x.. where"),
        ("lost byte", r"connection \d: byte \d+ of a reply of 64 bytes is 0x.. where"),
        ("surplus", r"connection 0: 4 bytes came that nobody had asked for"),
    ],
)
def test_a_wrong_reply_makes_the_status_1(stand_in, fault, sentence):
    run = bench(*QUICK, "--connections", "2", server_python=stand_in(fault))
    assert run.returncode == 1
    assert re.search("asyncio failed: WRONG REPLY: " + sentence, run.stderr), run.stderr


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("drops", r"connection \d: the server closed it with 1 messages unanswered"),
        ("dies", r"the server process ended early with status 3; the last it wrote:\nout of chees"),
        ("does not start", r"the server process ended early with status 1; the last.*\nno bananas"),
        ("ends badly", r"the server process ended early with status 4"),
        ("leaks", r"stopped with something left over: ops_posted 7, ops_completed 6"),
        ("not installed", r"not installed for the servers' Python \(No module named 'winloop'\)"),
    ],
)
def test_a_failed_server_makes_the_status_1_and_tells_why(stand_in, fault, sentence):
    run = bench(*QUICK, "--connections", "2", server_python=stand_in(fault))
    assert run.returncode == 1
    assert re.search("asyncio failed: .*" + sentence, run.stderr), run.stderr


def test_servers_that_are_not_installed_are_left_out(stand_in):
    run = bench("--rounds", "1", server_python=stand_in("not installed"))
    assert run.returncode == 0, run.stderr
    reason = "not installed for the servers' Python: No module named 'winloop'"
    assert f"left out: winloop ({reason})" in run.stdout


def test_a_python_that_cannot_be_started_is_named():
    run = bench(*QUICK, server_python=("no such python",))
    assert run.returncode == 1
    assert "the server process could not be started ('no such python'" in run.stderr


def test_client_names_a_port_where_nobody_listens():
    command = [sys.executable, "-m", "bench.client", "--port", "1"]
    streams = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True}
    run = subprocess.run(command, cwd=PACKAGE, **streams)
    assert run.returncode == 1
    failed = json.loads(run.stdout)["failed"]
    assert failed.startswith("connection 0 of 50 to 127.0.0.1 port 1: "), failed


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--rounds", "0"), "argument --rounds: must be above 0, got 0"),
        (("--seconds", "-1"), "argument --seconds: must be above 0, got -1"),
        (("--size", "big"), "argument --size: invalid int value: 'big'"),
        (("--only", "twisted"), "argument --only: invalid choice: 'twisted'"),
        (("--arrangement", "loose"), "argument --arrangement: invalid choice: 'loose'"),
        (("--workload", "idle"), "argument --workload: invalid choice: 'idle'"),
        (("--workload", "one", "--size", "5"), "--workload or --connections, --size and --depth"),
        (("--quick", "--full"), "argument --full: not allowed with argument --quick"),
        (("--json", "no/such/folder"), "argument --json: there is no folder no/such"),
        (("--plot", "chart.jpg"), "--plot: the file's name must end in .png or .svg, got chart.j"),
        (("--markdown", __file__), "exists, and this benchmark's table is not in it"),
    ],
)
def test_bad_arguments_are_refused(arguments, sentence):
    run = bench(*arguments)
    assert run.returncode == 2
    assert sentence in run.stderr


def measured_rates(name, *words):
    """What bench() printed, and the rates of a server in the order of its tables: none is 0.

    On a machine that has more to do, nobody may be served for a while; it is given more time then.
    """
    for seconds in ("0.05", "1", "5"):
        run = bench(*QUICK[2:], "--only", name, *words, "--seconds", seconds)
        rows = re.findall(rf"^{name}  +([\d.,]+)", run.stdout, re.MULTILINE)
        rates = [float(rate.replace(",", "")) for rate in rows]
        if run.returncode == 0 and all(rates):
            break
    assert run.returncode == 0, run.stderr
    assert rates and all(rates), run.stdout
    return run.stdout, rates


# In the order of the tables, which is the benchmark's own.
UNITS = {
    "churn": "connects/s",
    "stream-in": "MB/s",
    "stream-out": "MB/s",
    "echo-tls-64": "msg/s",
    "echo-tls-1k": "msg/s",
    "churn-tls": "handshakes/s",
    "stream-tls": "MB/s",
}


# A server of each kind; the real ones, on this Python.
@pytest.mark.slow("starts a server and a client for each workload")
@pytest.mark.parametrize("name", ["asyncio", "asyncio-streams", "threads"])
def test_churn_tls_and_streams(name):
    printed, rates = measured_rates(name, "--workload", *UNITS)
    assert re.findall(r"^server +(\S+) ", printed, re.MULTILINE) == list(UNITS.values())
    assert len(rates) == len(UNITS)


@pytest.mark.parametrize("loops", [[], ["--loops"]], ids=["servers", "loops"])
def test_files_are_sent(loops):
    printed, rates = measured_rates("asyncio", *loops, "--workload", "sendfile")
    assert "\nsendfile, 8 connections, answers of 1,024 KiB, free\n" in printed
    assert re.search(r"^server +MiB/s ", printed, re.MULTILINE)
    assert len(rates) == 1


@pytest.mark.parametrize(
    ("name", "loops"), [("asyncio", []), ("threads", []), ("asyncio", ["--loops"])]
)
def test_reads_of_a_file(name, loops):
    printed, rates = measured_rates(name, *loops, "--workload", "read-4k", "read-64k")
    assert "random reads of a cached file, 64 KiB, 16 under way, free" in printed
    assert len(rates) == 2


@pytest.mark.slow("starts a server and a client for each workload")
@pytest.mark.parametrize(
    ("workload", "fault", "sentence"),
    [
        ("churn", "always flipped", r"connection \d+: its reply is not what was sent"),
        ("churn", "drops", r"connection \d+: the server closed it before its reply"),
        ("echo-tls-64", "flipped bit", r"connection 1: byte 5 of a reply of 64 bytes is 0x.. "),
        ("echo-tls-64", "drops", r"connection \d+: the server closed it with 1 messages unanswere"),
        ("echo-tls-64", "no TLS", r"connection 0: TLS handshake: "),
        ("churn-tls", "always flipped", r"connection \d+: its reply is not what was sent"),
        ("churn-tls", "drops", r"connection \d+: the server closed it before its reply"),
        ("churn-tls", "no TLS", r"connection \d+: \[SSL"),
        ("stream-out", "flipped stream", r"connection \d: byte 70 of its stream is wrong"),
        ("stream-tls", "flipped stream", r"connection \d: byte 70 of its stream is wrong"),
        ("stream-tls", "no TLS", r"connection 0: TLS handshake: "),
        ("stream-in", "complains", r"connection \d: the server got byte 70 of its stream wrong"),
        ("stream-in", "miscounts", r"connection \d: \d+ bytes were sent, the server got 1\b"),
    ],
)
def test_wrong_bytes_of_churn_tls_and_streams_are_told(stand_in, workload, fault, sentence):
    run = bench(*QUICK, "--workload", workload, server_python=stand_in(fault))
    assert run.returncode == 1
    assert re.search(r"asyncio( as [\w-]+)? failed: .*" + sentence, run.stderr), run.stderr


def test_a_server_that_fails_in_one_role_is_measured_in_the_others(stand_in):
    load = ("--workload", "one", "stream-in", "churn")
    run = bench(*QUICK, *load, "--rounds", "2", server_python=stand_in("complains"))
    assert run.returncode == 1
    assert run.stderr.startswith("asyncio as sink failed: ") and run.stderr.count("failed") == 1
    rows = re.findall(r"^asyncio +([\d,]+)  ", run.stdout, re.MULTILINE)
    assert len(rows) == 2
    assert run.stdout.count("round 2/2") == 2


@pytest.mark.parametrize("cut", [1, 4, 5, 70000])
def test_a_sink_counts_what_is_right_and_names_the_first_wrong_byte(cut):
    start = pattern.start_of(3)
    # Three periods, so that it wraps, and a piece longer than one.
    stream = pattern.PATTERN[start : start + pattern.PERIOD] * 3
    sent = pattern.HEADER.pack(start) + stream
    verdict = servers.Verdict()
    assert [verdict.feed(sent[:cut]), verdict.feed(sent[cut:])] == [None, None]
    assert verdict.at_the_end() == pattern.VERDICT.pack(len(stream))
    wrong = bytearray(sent)
    place = 2 * pattern.PERIOD + 77
    wrong[pattern.HEADER.size + place] ^= 1
    verdict = servers.Verdict()
    assert verdict.feed(bytes(wrong[:cut])) is None
    assert verdict.feed(bytes(wrong[cut:])) == pattern.VERDICT.pack(-1 - place)


def run_here(monkeypatch, *arguments):
    """The benchmark in this process, so that parts of it can be changed for a test."""
    monkeypatch.chdir(PACKAGE)
    command = shlex.join([sys.executable])
    return run_module.main(["--server-python", command, *arguments])


@pytest.mark.parametrize("name", ["idle-2k", "idle-tls"])
def test_idle_connections_are_counted_and_checked(monkeypatch, tmp_path, stand_in, capsys, name):
    idle = dataclasses.replace(workloads.WORKLOADS[name], connections=3, idle=120)
    monkeypatch.setitem(workloads.WORKLOADS, name, idle)
    monkeypatch.setattr(measure, "IDLE_S", 0)
    path = tmp_path / "figures.json"
    arguments = (*QUICK, "--workload", name)
    assert run_here(monkeypatch, *arguments, "--json", str(path)) == 0
    (table,) = json.loads(path.read_text())["tables"]
    # 120 connections of asyncio's take some kilobytes, and not all that is there.
    assert 100 < table["servers"]["asyncio"]["median"]["idle_bytes"] < 1_000_000
    wrong = shlex.join(stand_in("always flipped"))
    assert run_here(monkeypatch, *arguments, "--server-python", wrong) == 1
    assert "idle connection 0: its reply is not what was sent" in capsys.readouterr().err


@pytest.mark.slow("starts a server and a client for each workload")
def test_json_has_every_round(tmp_path):
    path = tmp_path / "figures.json"
    load = ("--workload", "one", "stream-in", *LONGER)
    run = bench(*QUICK, *load, "--rounds", "2", "--json", str(path))
    assert run.returncode == 0, run.stderr
    whole = json.loads(path.read_text())
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", whole["date"])
    assert {"machine", "servers", "client", "facts", "failures"} < whole.keys()
    assert (whole["rounds"], whole["seconds"], whole["workers"]) == (2, 1, 2)
    # Those of one server process stand together in the run, but not in here.
    echo, stream = whole["tables"]
    assert echo["title"] == "1 connection, 64 B, depth 1"
    assert (echo["arrangement"], stream["workload"]["unit"]) == ("free", "MB/s")
    for table in (echo, stream):
        asyncio = table["servers"]["asyncio"]
        assert len(asyncio["rounds"]) == 2
        rates = [figures["rate"] for figures in asyncio["rounds"]]
        assert asyncio["median"]["rate"] == pytest.approx(sum(rates) / 2)
        assert asyncio["of_asyncio"] == 1
        median = asyncio["median"]
        assert median["user_us"] >= 0 and median["system_us"] >= 0
    assert echo["servers"]["asyncio"]["median"]["p50_us"] > 0
    assert stream["servers"]["asyncio"]["median"]["p50_us"] is None


def test_a_table_for_a_readme_takes_the_place_of_the_old_one(tmp_path):
    path = tmp_path / "README.md"
    begin, end = results_module.MARKS
    path.write_text(f"# Title\n\n{begin}\nold\n{end}\n\nThe rest.\n")
    run = bench(*QUICK, "--workload", "one", "--markdown", str(path))
    assert run.returncode == 0, run.stderr
    text = path.read_text()
    assert text.startswith(f"# Title\n\n{begin}\n1 connection, 64 B, depth 1, free (")
    assert text.endswith(f".\n{end}\n\nThe rest.\n")
    assert "old" not in text
    assert re.search(r"^\| server \| msg/s \| .*\|\n\|---\|---:\|", text, re.MULTILINE)
    assert re.search(r"^\| asyncio \| [\d,]+ \| ", text, re.MULTILINE)


@pytest.mark.parametrize(("suffix", "first"), [(".png", b"\x89PNG"), (".svg", b"<?xml")])
def test_a_chart_is_made(tmp_path, suffix, first):
    pytest.importorskip("matplotlib", reason="the chart needs matplotlib")
    path = tmp_path / ("chart" + suffix)
    run = bench(*QUICK, "--workload", "one", "--plot", str(path))
    assert run.returncode == 0, run.stderr
    assert path.read_bytes().startswith(first)


def measured(rates):
    """A finished run of echo-64, pinned: msg/s by server."""
    workload = workloads.WORKLOADS["echo-64"]
    rest = dict.fromkeys((field.name for field in dataclasses.fields(figures.Figures)), 1.0)
    rows = {}
    for name, rate in rates.items():
        rows[name] = figures.Row(name, [figures.Figures(**{**rest, "rate": rate})])
    return types.SimpleNamespace(
        workloads={"echo-64": workload}, rows={(workloads.PINNED, workload): rows}
    )


def test_targets_are_met_or_not_or_not_measured():
    rates = {"iocpx-protocol": 170.0, "asyncio": 100.0, "winloop": 130.0, "blazio": 110.0}
    lines = {line[0]: line[1:] for line in targets.check(measured(rates))}
    assert len(lines) == len(targets.TARGETS)
    assert lines["protocol: msg/s by asyncio's, pinned"] == ("≥ 1.6", "1.70", "met")
    best_other = lines["protocol: msg/s by the best other loop's, pinned"]
    assert best_other == ("≥ 1.35", "1.31", "NOT MET")
    assert lines["fairness, the least of all workloads"] == ("≥ 0.9", "1.00", "met")
    assert lines["native: msg/s by the ceiling's, pinned"] == ("≥ 0.97", "", "not measured")
    assert lines["protocol: churn by asyncio's, pinned"][2] == "not measured"


@pytest.mark.parametrize("free_threaded", [False, True])
def test_computing_is_measured_without_a_gil_only(free_threaded):
    arguments = ["--full", "--only", "iocpx-protocol", "--arrangement", "free"]
    planned = run_module.Bench(options.parse(arguments), report=None)
    planned.facts = {"iocpx-protocol": {"free_threaded": free_threaded}}
    planned.plan()
    roles = {workload.role for _, workload in planned.rows}
    assert roles == {"echo", "echo-tls", "sink", "source", "source-tls", "files", "sendfile"} | (
        {"compute"} if free_threaded else set()
    )
    # Whatever the arrangement is; only where there are two are idle connections left out of one.
    assert any(workload.idle for _, workload in planned.rows)


def test_idle_connections_are_measured_in_one_arrangement():
    planned = run_module.Bench(options.parse(["--full", "--arrangement", "free"]), report=None)
    planned.arrangements = workloads.BOTH
    planned.plan()
    idle = [arrangement for arrangement, workload in planned.rows if workload.idle]
    assert idle == ["pinned"] * len(idle) and idle


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_ten_thousand_connections_are_left_out_where_descriptors_are_few(monkeypatch):
    import resource

    monkeypatch.setattr(resource, "getrlimit", lambda which: (1024, 1024))
    args = options.parse(["--workload", "one", "idle-10k"])
    assert list(args.workloads) == ["one"]
    (change,) = args.changes
    assert change.startswith("idle-10k: left out, as a process may have 1024 descriptors here")
