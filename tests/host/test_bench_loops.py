"""The benchmark of event loops (`--loops`): scheduling, HTTP, and what is made of the figures.

asyncio's own loop on this Python is measured; HTTP is answered by a stand-in, right or with one
fault, as uvicorn and aiohttp are the lanes'. No test looks at how fast anything was.
"""

import asyncio
import collections
import json
import re
import sys
import types

import pytest

# First, as it is what finds the benchmark.
from bench_command import PACKAGE, QUICK, bench  # isort: skip
from bench import (
    figures,
    http_servers,
    loop_summary,
    loop_targets,
    loops,
    options,
    pattern,
    scheduling,
    scheduling_table,
    targets,
    workloads,
)
from bench import results as results_module
from bench import run as run_module

# Started as `python stand_in.py FAULT -m bench.servers NAME …`.
STAND_IN = r"""
import asyncio, json, os, sys, threading

sys.path.insert(0, os.getcwd())
from bench import tls
from bench.pattern import body

fault = sys.argv[1]
context = tls.server_context() if "uvicorn-tls" in sys.argv else None
HEAD_END = b"\r\n\r\n"


class Http(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
        self.data = bytearray()

    def data_received(self, data):
        self.data += data
        head, _, rest = bytes(self.data).partition(HEAD_END)
        if b"\r\nContent-Length: " in head:
            size = int(head.partition(b"\r\nContent-Length: ")[2].partition(b"\r\n")[0])
            if len(rest) < size:
                return
            content = b"%d" % size if rest == body(size) else b"wrong"
        else:
            content = body(int(head.split(b" ")[1][1:]))
        self.data.clear()
        length, status = len(content), b"200 OK"
        if fault == "closes":
            self.transport.close()
            return
        if fault == "flipped bit":
            content = content[:-1] + bytes([content[-1] ^ 1])
        elif fault == "short":
            length -= 1
        elif fault == "not found":
            status = b"404 Not Found"
        elif fault == "more":
            content += b"more"
        elif fault == "no head":
            self.transport.write(b"x" * 70000)
            return
        answer = b"HTTP/1.1 %s\r\nContent-Length: %d" % (status, length) + HEAD_END + content
        if fault == "in pieces":
            loop = asyncio.get_running_loop()
            for index, place in enumerate(range(0, len(answer), 7)):
                loop.call_later(index / 1000, self.transport.write, answer[place : place + 7])
        else:
            self.transport.write(answer)


async def serve():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Http, "127.0.0.1", 0, ssl=context)
    ended = asyncio.Event()

    def commands():
        port = server.sockets[0].getsockname()[1]
        versions = {"uvicorn": "0"} if "uvicorn" in sys.argv else {}
        facts = {"port": port, "python": "3", "system": "here", "versions": versions, "loop": "X"}
        print(json.dumps(facts), flush=True)
        for line in sys.stdin:
            stats = {"stats": {}} if line == "stats\n" else {"user_s": 1.0, "system_s": 1.0}
            print(json.dumps(stats), flush=True)
        print(json.dumps({"totals": {}}), flush=True)
        loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=commands).start()
    await ended.wait()


if fault == "not installed" and "uvicorn" in sys.argv:
    print(json.dumps({"missing": "No module named 'uvicorn'"}))
else:
    asyncio.run(serve())
"""


@pytest.fixture
def stand_in(tmp_path):
    """The command of a server's Python that answers HTTP with the fault."""
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN)
    return lambda fault: (sys.executable, str(script), fault)


def loops_bench(*arguments, **more):
    return bench("--loops", *QUICK, *arguments, **more)


class Counting(asyncio.SelectorEventLoop):
    """Counts what it is asked for."""

    def __init__(self):
        super().__init__()
        self.asked = collections.Counter()

    def call_soon(self, *arguments, **more):
        self.asked["call_soon"] += 1
        return super().call_soon(*arguments, **more)

    def call_soon_threadsafe(self, *arguments, **more):
        self.asked["call_soon_threadsafe"] += 1
        return super().call_soon_threadsafe(*arguments, **more)

    def call_at(self, *arguments, **more):
        self.asked["call_at"] += 1
        return super().call_at(*arguments, **more)

    def create_task(self, *arguments, **more):
        self.asked["create_task"] += 1
        return super().create_task(*arguments, **more)

    def create_future(self):
        self.asked["create_future"] += 1
        return super().create_future()


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("call-soon", "call_soon"),
        ("call-soon-many", "call_soon"),
        ("call-later", "call_at"),
        ("call-later-cancelled", "call_at"),
        ("sleep-0", "call_soon"),
        ("gather", "create_task"),
        ("future", "create_future"),
        ("queue", "create_future"),
        ("threadsafe", "call_soon_threadsafe"),
    ],
)
def test_a_row_does_as_many_operations_as_it_says(name, method):
    row = scheduling.ROWS[name]
    loop = Counting()
    try:
        for count in (row.at_a_time, 3 * row.at_a_time):
            loop.asked.clear()
            assert scheduling.elapsed(loop, row.run, count) > 0
            # What begins and ends it comes on top.
            assert count <= loop.asked[method] <= count + 5
    finally:
        loop.close()


def test_every_row_is_counted():
    source = (PACKAGE.parent / "tests" / "host" / "test_bench_loops.py").read_text("utf-8")
    assert all(f'("{name}", ' in source for name in scheduling.ROWS)


def test_scheduling_has_one_table_with_the_mean(tmp_path):
    path = tmp_path / "figures.json"
    run = loops_bench("--workload", "scheduling", "--rounds", "2", "--json", str(path))
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    title = lines.index("scheduling, free")
    assert lines[title + 1].split() == ["thousand", "operations/s", "asyncio"]
    titles = [re.split("  +", line)[0] for line in lines[title + 2 :][:10]]
    assert titles == [*(row.title for row in scheduling.ROWS.values()), "geometric mean"]
    tables = json.loads(path.read_text())["tables"]
    assert [table["workload"]["row"] for table in tables] == list(scheduling.ROWS)
    for table in tables:
        first, second = table["servers"]["asyncio"]["rounds"]
        assert first["rate"] > 0 and second["rate"] > 0


def test_loops_that_are_not_there_are_named():
    run = bench("--loops", *QUICK[2:], "--workload", "call-soon")
    assert run.returncode == 0, run.stderr
    for name in set(loops.LOOPS) - {"asyncio"}:
        assert f"left out: {name} (not installed for the servers' Python: " in run.stdout


TABLE = {
    "one": {"iocpx": 200.0, "asyncio": 100.0, "winloop": 160.0},
    "two": {"iocpx": 800.0, "asyncio": 1000.0, "winloop": 40.0},
    "three": {"iocpx": 50.0, "asyncio": 10.0},
}


def test_rows_are_compared_with_the_best_other():
    ratios = [scheduling_table.by_best_other(rates) for rates in TABLE.values()]
    assert ratios == [1.25, 0.8, 5.0]
    assert scheduling_table.by_best_other({"iocpx": 1.0}) is None
    assert scheduling_table.by_best_other({"asyncio": 1.0}) is None
    # winloop, which lacks a row, has no mean.
    assert scheduling_table.means(TABLE) == pytest.approx({"iocpx": 200.0, "asyncio": 100.0})
    heading, *rows = scheduling_table.lines(TABLE)
    assert heading[1:] == ["iocpx", "asyncio", "winloop", "iocpx by best"]
    assert rows[1] == ["two", "0.800", "1.00", "0.0400", "0.80"]
    assert rows[2] == ["three", "0.0500", "0.0100", "", "5.00"]
    assert rows[3] == ["geometric mean", "0.200", "0.100", "", "2.00"]


def test_rates_have_three_digits():
    shown = [scheduling_table.thousands(rate) for rate in (1234567.0, 99_960.0, 1000.0, 12.0)]
    assert shown == ["1,235", "100", "1.00", "0.0120"]


def measured(rates, **more):
    """A finished run, pinned: rates by workload and loop; every other figure is 1, or of `more`."""
    rows = {}
    for name, by_loop in rates.items():
        workload = workloads.LOOP_WORKLOADS[name]
        rows[workloads.PINNED, workload] = {
            loop: figures.Row(
                loop,
                [
                    figures.Figures(
                        rate=rate,
                        user_us=1.0,
                        system_us=1.0,
                        others_busy=0.0,
                        **{"p99_us": 1.0, "cpu_us": 1.0, **more.get(loop, {})},
                    )
                ],
            )
            for loop, rate in by_loop.items()
        }
    return types.SimpleNamespace(
        loops=True,
        workloads=workloads.LOOP_WORKLOADS,
        rows=rows,
        arrangements=[workloads.PINNED],
    )


def checked(bench):
    lines = targets.check(bench, loop_targets.LOOP_TARGETS)
    assert len(lines) == len(loop_targets.LOOP_TARGETS)
    return {line[0]: line[2:] for line in lines}


def test_targets_of_scheduling_need_every_row_for_the_mean():
    rates = {name: {"iocpx": 150.0, "winloop": 100.0} for name in workloads.SCHEDULING}
    found = checked(measured(rates))
    assert found["scheduling: the least row by the best other loop's"] == ("1.50", "met")
    assert found["scheduling: geometric mean by the best other loop's"] == ("1.50", "met")
    rates["queue"] = {"iocpx": 90.0, "winloop": 100.0}
    found = checked(measured(rates))
    assert found["scheduling: the least row by the best other loop's"] == ("0.90", "NOT MET")
    assert found["scheduling: geometric mean by the best other loop's"] == ("1.42", "met")
    del rates["queue"]
    found = checked(measured(rates))
    assert found["scheduling: geometric mean by the best other loop's"] == ("", "not measured")


def test_targets_of_echo_and_http():
    rates = {
        "echo-64": {"iocpx": 170, "asyncio": 100, "blazio": 150, "ceiling": 180},
        "uvicorn": {"iocpx": 1000, "asyncio": 100, "blazio": 980},
        "uvicorn-in": {"iocpx": 12, "asyncio": 8, "blazio": 10},
        "aiohttp-out": {"iocpx": 10, "asyncio": 8, "blazio": 10},
    }
    more = {
        "iocpx": {"cpu_us": 4.0, "p99_us": 6.0},
        "asyncio": {"cpu_us": 20.0, "p99_us": 9.0},
        "blazio": {"cpu_us": 5.0, "p99_us": 5.0},
    }
    bench = measured(rates, **more)
    # Better than the rest, which must not hide the worst.
    bench.rows[workloads.PINNED, workloads.LOOP_WORKLOADS["uvicorn"]]["iocpx"].rounds[0].p99_us = 1
    found = checked(bench)
    assert found["echo: CPU µs above the ceiling, pinned"] == ("3.00", "met")
    assert found["echo: that by the least other loop's"] == ("0.75", "met")
    assert found["echo: msg/s by asyncio's, pinned"] == ("1.70", "met")
    assert found["echo: msg/s by the best other loop's, pinned"] == ("1.13", "NOT MET")
    assert found["uvicorn: requests/s by asyncio's"] == ("10.00", "met")
    assert found["uvicorn: requests/s by the best other loop's"] == ("1.02", "NOT MET")
    assert found["uvicorn: CPU per request by the least other loop's"] == ("0.80", "met")
    assert found["1 MiB bodies, in and out: the least by the best other's"] == ("1.00", "NOT MET")
    assert found["p99 by the best other loop's, the most of all"] == ("1.20", "NOT MET")
    assert found["churn by asyncio's"] == ("", "not measured")


def test_targets_of_tls():
    rates = {
        "echo-64": {"iocpx": 1, "asyncio": 1},
        "echo-tls-64": {"iocpx": 220, "asyncio": 100, "winloop": 180},
        "churn-tls": {"iocpx": 130, "asyncio": 100},
        "uvicorn-tls": {"iocpx": 230, "asyncio": 100, "winloop": 200},
    }
    bench = measured(rates)
    for name, cpu_us in (("iocpx", 4.0), ("asyncio", 11.0)):
        row = bench.rows[workloads.PINNED, workloads.LOOP_WORKLOADS["echo-tls-64"]][name]
        row.rounds[0].cpu_us = cpu_us
    found = checked(bench)
    assert found["TLS echo: msg/s by asyncio's, pinned"] == ("2.20", "met")
    assert found["TLS echo: msg/s by the best other loop's, pinned"] == ("1.22", "NOT MET")
    assert found["TLS echo: CPU that TLS adds by what it adds on asyncio"] == ("0.30", "met")
    assert found["TLS handshakes/s by asyncio's, pinned"] == ("1.30", "met")
    assert found["uvicorn over TLS: requests/s by the best other loop's"] == ("1.15", "met")
    del bench.rows[workloads.PINNED, workloads.LOOP_WORKLOADS["echo-64"]]
    found = checked(bench)
    unknown = found["TLS echo: CPU that TLS adds by what it adds on asyncio"]
    assert unknown == ("", "not measured")


@pytest.mark.slow("starts servers of uvicorn and aiohttp")
@pytest.mark.parametrize(
    ("workload", "fault"),
    [
        ("uvicorn", "none"),
        ("uvicorn-tls", "none"),
        ("uvicorn-in", "none"),
        ("uvicorn-out", "none"),
        ("aiohttp", "none"),
        ("uvicorn", "in pieces"),
        ("uvicorn-tls", "in pieces"),
        ("uvicorn-in", "in pieces"),
    ],
)
def test_right_answers_are_counted(stand_in, workload, fault):
    # Long enough for an answer in pieces on a machine that has more to do.
    run = loops_bench("--workload", workload, "--seconds", "1", server_python=stand_in(fault))
    assert run.returncode == 0, run.stderr
    (row,) = [line for line in run.stdout.splitlines() if line.startswith("asyncio  ")]
    assert float(row.split()[1].replace(",", "")) > 0
    assert re.search(r"^server +requests/s ", run.stdout, re.MULTILINE)


@pytest.mark.slow("starts servers of uvicorn and aiohttp")
@pytest.mark.parametrize(
    ("workload", "fault", "sentence"),
    [
        ("uvicorn", "flipped bit", r"0 bytes of its answer's body were right, what came then "),
        ("uvicorn-tls", "flipped bit", r"0 bytes of its answer's body were right, what came then"),
        ("uvicorn-tls", "closes", r"the server closed it, its request unanswered"),
        ("uvicorn-out", "flipped bit", r"\d+ bytes of its answer's body were right, what came "),
        ("uvicorn", "short", r"its answer, of which 13 bytes were expected, begins with b'HTTP/"),
        ("uvicorn", "not found", r"its answer, of which 13 bytes .* begins with b'HTTP/1.1 404 "),
        ("uvicorn", "more", r"0 bytes of its answer's body were right, what came then is not"),
        ("uvicorn", "no head", r"its answer's head has no end"),
        ("uvicorn", "closes", r"the server closed it, its request unanswered"),
        ("uvicorn-in", "flipped bit", r"0 bytes of its answer's body were right, what came th"),
    ],
)
def test_wrong_answers_are_told(stand_in, workload, fault, sentence):
    run = loops_bench("--workload", workload, server_python=stand_in(fault))
    assert run.returncode == 1
    assert re.search(r"as uvicorn(-tls)? failed: .*connection \d+: " + sentence, run.stderr), (
        run.stderr
    )


def test_a_role_whose_package_is_not_there_is_named_and_the_others_are_measured(stand_in):
    both = ("--workload", "uvicorn", "aiohttp")
    run = loops_bench(*both, server_python=stand_in("not installed"))
    assert run.returncode == 0, run.stderr
    reason = "not installed for the servers' Python: No module named 'uvicorn'"
    assert f"left out: asyncio as uvicorn ({reason})" in run.stdout
    assert "\naiohttp, 50 connections, answers of 13 B, free\n" in run.stdout
    assert "\nuvicorn, 50 connections" not in run.stdout


def ask(method, path, parts=()):
    """What the program for uvicorn sends back."""
    sent = []
    left = list(parts)

    async def receive():
        part = left.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(left)}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path}
    asyncio.run(http_servers.application(scope, receive, send))
    start, content = sent
    assert start["status"] == 200
    assert dict(start["headers"])[b"content-length"] == b"%d" % len(content["body"])
    return content["body"]


def test_the_program_answers_and_checks():
    assert ask("GET", "/13") == pattern.body(13)
    large = pattern.body(http_servers.MAX_BYTES)
    assert ask("GET", f"/{len(large)}") == large
    assert ask("POST", "/", [large[:7], large[7:70000], large[70000:]]) == b"%d" % len(large)
    wrong = bytearray(large)
    wrong[77] ^= 1
    assert ask("POST", "/", [bytes(wrong[:70]), bytes(wrong[70:])]) == http_servers.WRONG
    assert ask("POST", "/", [large, b"more"]) == http_servers.WRONG


def test_names_of_one_kind_of_run_are_refused_in_the_other():
    for arguments, sentence in (
        (("--loops", "--only", "threads"), "argument --only: invalid choice: 'threads'"),
        (("--only", "iocpx"), "argument --only: invalid choice: 'iocpx'"),
        (("--loops", "--workload", "stream-in"), "argument --workload: invalid choice: 'stream-in"),
        (("--workload", "uvicorn"), "argument --workload: invalid choice: 'uvicorn'"),
    ):
        run = bench(*arguments)
        assert run.returncode == 2
        assert sentence in run.stderr


def test_everything_is_measured_of_loops_in_full_and_in_quick_what_is_asked_first():
    full = options.parse(["--loops", "--full", "--arrangement", "free"])
    assert full.workloads == workloads.LOOP_WORKLOADS
    assert full.servers == [*loops.LOOPS, "ceiling"]
    quick = options.parse(["--loops", "--arrangement", "free"])
    assert list(quick.workloads) == [*workloads.SCHEDULING, "echo-64", "uvicorn"]
    # As a loop has one thread, so has the ceiling.
    assert (quick.workers, options.parse([]).workers) == (1, 2)


def test_the_ceiling_echoes_and_a_loop_without_sockets_schedules_alone():
    planned = run_module.Bench(options.parse(["--loops", "--arrangement", "free"]), report=None)
    of = workloads.LOOP_WORKLOADS
    assert planned.serves("ceiling", of["echo-64"]) and planned.serves("ceiling", of["streams-64"])
    assert not planned.serves("ceiling", of["uvicorn"])
    assert not planned.serves("ceiling", of["sleep-0"])
    assert planned.serves(loops.WITHOUT_SOCKETS, of["sleep-0"])
    assert not planned.serves(loops.WITHOUT_SOCKETS, of["echo-64"])


SUMMARY = {
    **{name: {"iocpx": 3e6, "asyncio": 1e5, "rsloop": 2e6} for name in workloads.SCHEDULING},
    "echo-64": {"iocpx": 17000, "asyncio": 9000, "ceiling": 18000},
    "uvicorn": {"iocpx": 12000, "asyncio": 1100},
}


def test_the_summary_has_a_line_for_each_loop():
    columns = loop_summary.summary(measured(SUMMARY))
    shown = {column.heading: values for column, values in columns}
    assert shown["scheduling, thousand op/s"] == pytest.approx(
        {"iocpx": 3000, "asyncio": 100, "rsloop": 2000}
    )
    assert shown["echo, msg/s"] == {"iocpx": 17000, "asyncio": 9000}
    assert "aiohttp, requests/s" not in shown
    assert loop_summary.names_of(columns) == ["iocpx", "asyncio", "rsloop"]


ABOUT = {"date": "2026-01-02", "machine": "a machine", "servers": "Python"}


def test_the_table_of_loops_stands_beside_the_one_of_servers(tmp_path):
    path = tmp_path / "README.md"
    of_servers = "\n".join([results_module.MARKS[0], "kept", results_module.MARKS[1]])
    of_loops = "\n".join([results_module.LOOP_MARKS[0], "old", results_module.LOOP_MARKS[1]])
    path.write_text(f"{of_servers}\n\n{of_loops}\nThe rest.\n", encoding="utf-8")
    results_module.write_markdown(path, measured(SUMMARY), ABOUT)
    text = path.read_text(encoding="utf-8")
    assert text.startswith(of_servers) and text.endswith("\nThe rest.\n")
    assert "old" not in text
    assert re.search(r"^\| iocpx \| 3,000 \| 17,000 \| ", text, re.MULTILINE)
    assert re.search(r"^\| rsloop \| 2,000 \|  \|", text, re.MULTILINE)


def test_a_chart_of_loops_is_made(tmp_path):
    pytest.importorskip("matplotlib", reason="the chart needs matplotlib")
    from bench.chart import write_chart

    path = tmp_path / "loops.svg"
    write_chart(path, measured(SUMMARY), ABOUT)
    text = path.read_text(encoding="utf-8")
    for shown in ("asyncio event loops, pinned", ">3,000<", ">17,000<", ">12,000<", ">rsloop<"):
        assert shown in text


def test_a_chart_of_what_it_does_not_show_is_refused(tmp_path):
    pytest.importorskip("matplotlib", reason="the chart needs matplotlib")
    run = loops_bench("--workload", "call-soon", "--plot", str(tmp_path / "loops.svg"))
    assert run.returncode == 1
    assert "--plot: nothing was measured that this chart shows" in run.stderr
