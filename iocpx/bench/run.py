"""Which server is how fast: one process for each server, one for the load.

Round by round every server is started, put under each workload, and stopped, one
after the other, so that a slow spell of the machine does not fall on one of them
alone. The figures shown are medians of the rounds.

That is done in one or two arrangements. Free: the system places the processes, and
several workers may overlap. Pinned: the server has one CPU and the client another,
so that what is compared is the work per message, without wake-ups between CPUs.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import queue
import shlex
import statistics
import subprocess
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from . import cpus, memory, results, servers, targets
from .report import make_report
from .workloads import (
    BOTH,
    FREE,
    FREE_THREADED,
    PINNED,
    QUICK,
    WORKLOADS,
    Workload,
    possible,
)

# The first start may unpack or compile something; afterwards half a second is usual.
START_TIMEOUT_S = 60.0
ANSWER_TIMEOUT_S = 15.0
# A client gives up by itself after 10 s without a reply, so this is never the first to act.
CLIENT_GRACE_S = 45.0
# When a connection has been quiet for so long it is idle, and its memory is looked at: servers may
# keep something ready for the next message for a while.
IDLE_S = 3.0

CEILING = "ceiling"
SERVERS = [*servers.SERVERS, CEILING]
# In --quick: those of which the question is asked first.
QUICK_SERVERS = [
    name
    for name in SERVERS
    if name not in ("iocpx-buffered", "asyncio-streams", "threads")
]
# A thread for each of thousands of connections is no contest.
NOT_IDLE = "threads"


class Failure(Exception):
    """A sentence that says what went wrong, mostly with one server."""


class Child:
    """A process that speaks JSON lines, and whose last words are kept.

    what: how its failures call it, for example "the server process".
    """

    def __init__(self, what, command):
        self.what = what
        self._lines = queue.SimpleQueue()
        self._stderr = deque(maxlen=20)
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                errors="replace",
            )
        except OSError as error:
            raise Failure(f"{what} could not be started ({shlex.join(command)}): {error}") from None
        threading.Thread(target=self._read_stdout, daemon=True).start()
        self._stderr_reader = threading.Thread(target=self._read_stderr, daemon=True)
        self._stderr_reader.start()

    # The readers close their pipes themselves. Nobody waits for them after an orderly end: Wine
    # keeps the pipes of a program open for 2 s after its process is gone.
    def _read_stdout(self):
        with self._process.stdout as stdout:
            for line in stdout:
                try:
                    self._lines.put(json.loads(line))
                except ValueError:
                    # Not ours: a program on the way to the Windows Python said something.
                    self._stderr.append(line)
        self._lines.put(None)

    def _read_stderr(self):
        with self._process.stderr as stderr:
            self._stderr.extend(stderr)

    @property
    def pid(self):
        return self._process.pid

    def say(self, line):
        # A process that died is reported by the answer that does not come.
        with contextlib.suppress(OSError):
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()

    def answer(self, timeout_s):
        """The next JSON object. Failure when there is none in time or the process ended."""
        try:
            found = self._lines.get(timeout=timeout_s)
        except queue.Empty:
            raise Failure(
                f"{self.what} did not answer within {timeout_s:g} s{self.last_words()}"
            ) from None
        if found is None:
            raise Failure(self.obituary())
        return found

    def obituary(self):
        try:
            status = self._process.wait(5)
        except subprocess.TimeoutExpired:
            return f"{self.what} closed its output{self.last_words()}"
        self._stderr_reader.join(5)
        # Windows ends a crashed process with a status like 0xC0000005.
        shown = f"0x{status & 0xFFFFFFFF:08X}" if status > 255 else str(status)
        return f"{self.what} ended early with status {shown}{self.last_words()}"

    def last_words(self):
        text = "".join(self._stderr).strip()
        return f"; the last it wrote:\n{text}" if text else ""

    def has_ended(self):
        """Whether it is gone; waits a moment for one that is going."""
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            return False
        return True

    def end(self, timeout_s):
        """Close its stdin and wait for the end. Failure when it was not an orderly one."""
        self.close_stdin()
        try:
            status = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise Failure(
                f"{self.what} did not end within {timeout_s:g} s of being asked to"
                f"{self.last_words()}"
            ) from None
        if status != 0:
            raise Failure(self.obituary())

    def close_stdin(self):
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def discard(self):
        """Leave nothing of it behind, whatever its state."""
        self.close_stdin()
        if self._process.poll() is None:
            try:
                self._process.wait(0.5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


@dataclass
class Figures:
    """What one round told about one server under one workload. None: there is no such figure."""

    rate: float  # in the workload's unit
    mb_per_s: float  # of payload, one way
    p50_us: float | None
    p99_us: float | None
    p999_us: float | None
    fairness: float | None  # messages of the least-served connection by the mean
    cpu_us: float  # of the server's process, per message
    user_us: float
    system_us: float
    calls: float | None  # of the operating system, per message, where the server counts them
    idle_bytes: float | None  # private memory of the server's process, per idle connection
    client_busy: float  # share of one CPU
    others_busy: float  # what programs that are no part of the benchmark used, likewise


@dataclass
class Row:
    """One line of a table: a server under one workload.

    of_asyncio, of_ceiling: its rate by those servers'; overhead_us: CPU time above the ceiling's;
    all None where there is nothing to compare with.
    """

    server: str
    rounds: list = field(default_factory=list)
    of_asyncio: float | None = None
    of_ceiling: float | None = None
    overhead_us: float | None = None

    def median(self, figure):
        values = [getattr(r, figure) for r in self.rounds]
        return None if None in values else statistics.median(values)

    def spread(self):
        """How many times the slowest round's rate the fastest's is."""
        rates = [r.rate for r in self.rounds]
        return max(rates) / min(rates) if min(rates) else float("inf")


def compare(rows):
    """Set each row against those of asyncio and the ceiling, where they are."""
    asyncio, ceiling = rows.get("asyncio"), rows.get(CEILING)
    for row in rows.values():
        rate = row.median("rate")
        if asyncio:
            row.of_asyncio = rate / asyncio.median("rate")
        if ceiling:
            row.of_ceiling = rate / ceiling.median("rate")
            row.overhead_us = row.median("cpu_us") - ceiling.median("cpu_us")


def os_calls(name, before, after):
    """How often the server has called the operating system meanwhile; None: it does not count."""
    if not after:
        return None
    counters = ["waits", "ops_posted"]
    if name.startswith("iocpx"):
        counters.append("empty_waits")  # the ceiling's waits are all of its looks at the port
    return sum(after[counter] - before[counter] for counter in counters)


def machine_busy_s():
    """CPU time that the whole machine has used so far; 0 where there is no such figure."""
    if sys.platform != "linux":
        return 0.0
    # user nice system idle iowait irq softirq
    ticks = [int(word) for word in Path("/proc/stat").read_text().split()[1:8]]
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")


def process_cpu_s(pid):
    """The process's clock, to the nanosecond, on Linux: what a program can tell of itself goes by
    hundredths of a second under Wine."""
    return time.clock_gettime(~pid << 3 | 2)


def process_ticks(pid):
    """The process's user and system time on Linux, in hundredths of a second as a rule."""
    # The name, which may have blanks, stands in brackets before these.
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(words[11]), int(words[12])


def ledger_gaps(totals):
    """What the server's closing totals show as left over, in words; '' when even.

    Servers without such totals have none.
    """
    gaps = []
    for made, ended in (
        ("ops_posted", "ops_completed"),
        ("sockets_opened", "sockets_closed"),
        ("connections_made", "connections_retired"),
    ):
        if totals.get(made) != totals.get(ended):
            gaps.append(f"{made} {totals.get(made)}, {ended} {totals.get(ended)}")
    if totals.get("buffers_out"):
        gaps.append(f"buffers_out {totals['buffers_out']}")
    return "; ".join(gaps)


class Bench:
    """One whole run.

    Figures in self.rows[arrangement, workload][server]; failures in self.failures, by the server's
    name, or name and role.
    """

    def __init__(self, args, report):
        self.report = report
        self.wanted = args.only
        self.names = [name for name in SERVERS if name in (args.only or args.servers)]
        self.workers = args.workers
        self.rounds = args.rounds
        self.seconds = args.seconds
        self.server_python = (
            shlex.split(args.server_python) if args.server_python else [sys.executable]
        )
        self.ceiling = shlex.split(args.ceiling) if args.ceiling else None
        self.arrangements = BOTH if args.arrangement == "both" else (args.arrangement,)
        self.pin_too = args.pin_too
        self.workloads, self.changes = args.workloads, args.changes
        self.longest_s = self.seconds * max((w.times for w in self.workloads.values()), default=1)
        self.rows = {}
        self.failures = {}
        self.given_up = set()  # (name, role): it has failed in that
        self.facts = {}
        # How `arranged` has it; for the probe, free.
        self.server_cpus = self.client_cpus = contextlib.nullcontext

    @contextlib.contextmanager
    def server(self, name, role="echo", workers=None):
        """A started server: (child, what it said at its start), stopped in order at the end."""
        if name == CEILING:
            command = self.ceiling
        else:
            command = [*self.server_python, "-m", f"{__package__}.servers", name, "--role", role]
        with self.server_cpus():
            command = [*command, "--workers", str(workers or self.workers)]
            child = Child("the server process", command)
        try:
            facts = child.answer(START_TIMEOUT_S)
            yield child, facts
            child.close_stdin()
            if "missing" not in facts:
                totals = child.answer(ANSWER_TIMEOUT_S)["totals"]
                gaps = ledger_gaps(totals)
                if gaps:
                    raise Failure(f"the server stopped with something left over: {gaps}")
            child.end(ANSWER_TIMEOUT_S)
        finally:
            child.discard()

    def probe(self):
        """Start each server once: what it is, and whether it is there at all."""
        for name in list(self.names):
            if name == CEILING and self.ceiling is None:
                self.names.remove(name)
                reason = "a program that `dev.py bench` builds and gives, in a clone"
                if self.wanted:
                    self.failures[name] = reason
                else:
                    self.report.line(f"left out: {name} ({reason})")
                continue
            try:
                with self.server(name) as (_, facts):
                    pass
            except Failure as failure:
                self.failures[name] = str(failure)
                self.names.remove(name)
                continue
            if "missing" in facts:
                self.names.remove(name)
                if self.wanted:
                    self.failures[name] = (
                        f"not installed for the servers' Python ({facts['missing']})"
                    )
                else:
                    self.report.line(f"left out: {name} (not installed for the servers' Python)")
                continue
            self.facts[name] = facts

    def plan(self):
        """Make self.rows for what there is to measure."""
        free_threaded = any(facts.get("free_threaded") for facts in self.facts.values())
        for arrangement in self.arrangements:
            for name, workload in self.workloads.items():
                if name in FREE_THREADED and not free_threaded:
                    continue
                if workload.once and arrangement != self.arrangements[0]:
                    continue
                if arrangement in workload.arrangements and any(
                    self.serves(server, workload) for server in self.names
                ):
                    self.rows[arrangement, workload] = {}

    def serves(self, name, workload):
        """Whether the server takes part in the workload."""
        roles = ("echo",) if name == CEILING else servers.SERVERS[name][1]
        return (
            workload.role in roles
            and (name, workload.role) not in self.given_up
            and not (workload.idle and name == NOT_IDLE)
        )

    def steps(self):
        """How many measurements there are in all."""
        pairs = [(name, workload) for _, workload in self.rows for name in self.names]
        return self.rounds * sum(self.serves(*pair) for pair in pairs)

    def measure(self, name, server, facts, workload):
        """One run of the client against a server that is up."""
        port = facts["port"]
        command = [
            *(sys.executable, "-m", f"{__package__}.client"),
            *("--port", str(port)),
            *("--kind", workload.kind),
            *("--connections", str(workload.connections)),
            *("--size", str(workload.size_bytes)),
            *("--depth", str(workload.depth)),
            *("--idle", str(workload.idle)),
            *("--seconds", str(self.seconds * workload.times)),
            *("--warmup", str(min(0.1, self.seconds))),
        ]
        idle_bytes = None
        if workload.idle:
            bytes_before = self.private_bytes(server, facts)
        with self.client_cpus():
            client = Child("the client process", command)
        try:
            if workload.idle:
                self.client_answer(server, client)
                time.sleep(IDLE_S)
                idle_bytes = (self.private_bytes(server, facts) - bytes_before) / workload.idle
                client.say("idle ones are counted")
            self.client_answer(server, client)
            stats_before, cpu_before = self.stats(server), self.cpu(server)
            others_before_s, began = self.others_s(server, client), time.monotonic()
            client.say("go")
            result = self.client_answer(server, client)
            seconds = time.monotonic() - began
            others_s = self.others_s(server, client) - others_before_s
            cpu, stats = self.cpu(server), self.stats(server)
            client.say("end")
            self.client_answer(server, client)
            client.end(ANSWER_TIMEOUT_S)
        finally:
            client.discard()
        messages = result["messages"]
        cpu_s, user, system = (after - before for before, after in zip(cpu_before, cpu))
        cpu_us = cpu_s * 1e6 / messages
        user_us = cpu_us * user / ((user + system) or 1)
        calls = os_calls(name, stats_before, stats)
        in_mb = workload.unit == "MB/s"
        return Figures(
            rate=result["rate"],
            mb_per_s=result["rate"] * (1 if in_mb else workload.size_bytes / 1e6),
            p50_us=result.get("p50_us"),
            p99_us=result.get("p99_us"),
            p999_us=result.get("p999_us"),
            fairness=result.get("fairness"),
            cpu_us=cpu_us,
            user_us=user_us,
            system_us=cpu_us - user_us,
            calls=None if calls is None else calls / messages,
            idle_bytes=idle_bytes,
            client_busy=result["client_busy"],
            others_busy=others_s / seconds,
        )

    def client_answer(self, server, client):
        answer = client.answer(self.longest_s + CLIENT_GRACE_S)
        if "wrong" in answer:
            raise Failure(f"WRONG REPLY: {answer['wrong']}")
        if "failed" in answer:
            if server.has_ended():
                raise Failure(server.obituary())
            raise Failure(f"{answer['failed']}{server.last_words()}")
        return answer

    def stats(self, server):
        server.say("stats")
        return server.answer(ANSWER_TIMEOUT_S)["stats"]

    def cpu(self, server):
        """What the server's process has used so far: seconds, and in a coarser unit how they were
        divided between user and system."""
        if sys.platform == "linux":
            try:
                return process_cpu_s(server.pid), *process_ticks(server.pid)
            except OSError:
                raise Failure(server.obituary()) from None
        server.say("cpu")
        used = server.answer(ANSWER_TIMEOUT_S)
        return used["user_s"] + used["system_s"], used["user_s"], used["system_s"]

    def private_bytes(self, server, facts):
        # In a virtual environment of Windows the child is a launcher, the server is its child.
        pid = facts["pid"] if sys.platform == "win32" else server.pid
        try:
            return memory.private_bytes(pid)
        except OSError:
            raise Failure(server.obituary()) from None

    def others_s(self, *children):
        """CPU time used so far by all programs but the benchmark's own, where it can be known."""
        own = [child.pid for child in children] + [self.pin_too] * bool(self.pin_too)
        used_s = machine_busy_s()
        for pid in own if used_s else ():
            with contextlib.suppress(OSError):  # it has ended: its Failure comes from elsewhere
                used_s -= process_cpu_s(pid)
        return used_s

    @contextlib.contextmanager
    def arranged(self, arrangement):
        """The CPUs for what is started within, and for the process that is pinned, too."""
        if arrangement == PINNED:
            first, second = sorted(cpus.own())[:2]
            self.server_cpus = lambda: cpus.confined({first})
            self.client_cpus = lambda: cpus.confined({second})
            with contextlib.ExitStack() as stack:
                if self.pin_too:
                    try:
                        stack.enter_context(cpus.moved(self.pin_too, {first}))
                    except ProcessLookupError:
                        raise Failure(f"there is no process {self.pin_too} to pin") from None
                yield
        else:
            self.server_cpus = self.client_cpus = contextlib.nullcontext
            yield

    def run(self):
        for arrangement in self.arrangements:
            with self.arranged(arrangement):
                for number in range(1, self.rounds + 1):
                    for name in list(self.names):
                        self.run_server(arrangement, number, name)
        for rows in self.rows.values():
            compare(rows)

    def run_server(self, arrangement, number, name):
        """One round of one server, which is started anew for each role, and where its memory is
        looked at."""
        groups = {}
        for its_arrangement, workload in self.rows:
            if its_arrangement == arrangement and self.serves(name, workload):
                key = workload.role, workload.workers, workload.idle
                groups.setdefault(key, []).append(workload)
        for (role, workers, _), workloads in groups.items():
            if (name, role) in self.given_up:
                continue
            try:
                with self.server(name, role, workers) as (server, facts):
                    for workload in workloads:
                        label = f"{arrangement}, round {number}/{self.rounds}  {name}: {workload}"
                        self.report.begin(label)
                        figures = self.measure(name, server, facts, workload)
                        row = self.rows[arrangement, workload].setdefault(name, Row(name))
                        row.rounds.append(figures)
                        self.report.done(label, f"{figures.rate:,.0f} {workload.unit}")
            except Failure as failure:
                # It is told at the end, too; all other figures are still of use.
                self.given_up.add((name, role))
                title = name if role == "echo" else f"{name} as {role}"
                self.failures[title] = str(failure)
                self.report.line(f"{title}: {failure}")


def introduction(bench, about):
    """The lines above the first measurement: what is run on what."""
    rounds = "1 round" if bench.rounds == 1 else f"{bench.rounds} rounds"
    return [
        f"machine: {about['machine']}",
        *([f"servers: {about['servers']}"] if about["servers"] else []),
        f"client: {about['client']}, checks every byte of every reply",
        f"{rounds} of {bench.seconds:g} s for each server and workload, medians shown",
        f"threads: {bench.workers} in iocpx and the ceiling, 1 in the asyncio loops, one per "
        "connection in threads",
        *bench.changes,
        *(f"{name}: {results.ARRANGEMENTS[name]}" for name in bench.arrangements),
    ]


def closing_notes(bench):
    notes = [
        "spread: the rate of the fastest round by that of the slowest. p50, p99, p99.9: from "
        "the send of a message to its complete reply; of a connection, from its start to its end. "
        "fair: messages of the least-served connection by the mean. CPU: user and system time of "
        "the server's process, per message (connection, block of 64 KiB); above: that minus the "
        "ceiling's. calls: of the operating system, per message, as the server counts them: looks "
        "at the port and operations on sockets. memory: private memory of the server's process, "
        "per idle connection. of asyncio, of ceiling: the rate by theirs. docs/BENCHMARK.md tells "
        "more."
    ]
    if CEILING in bench.facts:
        notes.append(
            "ceiling: an echo in C on a completion port, with the same bound as iocpx on what a "
            "connection gets in a row, and with nothing in it that an echo does not need "
            "(benchmarks/ceiling.c)."
        )
    if any("Wine" in facts.get("system", "") for facts in bench.facts.values()):
        notes.append(
            "Under Wine a system call costs several times what it does on Windows, and Wine's own "
            "server process does part of the work; its CPU time is not in these figures."
        )
    rows = [(*key, row) for key, rows in bench.rows.items() for row in rows.values()]
    if any(row.spread() > 2 for _, _, row in rows):
        notes.append(
            "Where the spread is above 2, the machine was not quiet, or it mattered too much which "
            "CPU wakes which, as it does in a small virtual machine; more --rounds give steadier "
            "medians."
        )
    busiest = max(row.median("client_busy") for _, _, row in rows) if rows else 0
    notes.append(f"The client used at most {busiest:.0%} of one CPU.")
    shares = [row.median("others_busy") for _, _, row in rows]
    disturbed = sum(share > 0.15 for share in shares)
    if disturbed:
        notes.append(
            f"Other programs took part of a CPU, up to {max(shares):.0%}, during {disturbed} of "
            f"{len(rows)} measurements, which changes everything here, even for the better, as a "
            "CPU that never sleeps is woken fast. The JSON tells which (others_busy)."
        )
    for arrangement, workload, row in rows:
        if row.median("client_busy") > 0.9:
            notes.append(
                f"{row.server}, {workload}, {arrangement}: the client was the limit, the server "
                "may be faster."
            )
    return notes


def positive(kind):
    def convert(text):
        value = kind(text)
        if value <= 0:
            raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
        return value

    convert.__name__ = kind.__name__  # argparse names it in its own message
    return convert


def parse(argv):
    parser = argparse.ArgumentParser(
        prog="iocpx bench",
        description="Benchmark: the same load on iocpx, asyncio, threads and, where installed, "
        "winloop, blazio and zuvloop. Every byte is checked; the exit status is 1 if one was "
        "wrong or a server failed.",
    )
    number = positive(int)
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument(
        "--quick",
        action="store_true",
        help="a few workloads and servers, in about a minute: the default",
    )
    extent.add_argument(
        "--full",
        action="store_true",
        help="every workload, server and arrangement, and a check of the project's targets",
    )
    parser.add_argument(
        "--workload", nargs="+", choices=WORKLOADS, metavar="NAME", help=", ".join(WORKLOADS)
    )
    parser.add_argument(
        "--seconds",
        type=positive(float),
        help="per measurement (default 0.3, with --full 0.5)",
    )
    parser.add_argument(
        "--rounds",
        type=number,
        help="measurements per server and workload (default 3, with --full 5)",
    )
    parser.add_argument(
        "--connections", type=number, help="with one of these three: that echo alone"
    )
    parser.add_argument("--size", type=number, help="bytes per message (default 64)")
    parser.add_argument(
        "--depth", type=number, help="messages under way per connection (default 1)"
    )
    parser.add_argument(
        "--workers",
        type=number,
        default=servers.DEFAULT_WORKERS,
        help="threads of iocpx and the ceiling (default 2)",
    )
    parser.add_argument(
        "--arrangement",
        choices=[PINNED, FREE, "both"],
        help="pinned: server and client have one CPU each; free: as the system places them; "
        "default: pinned, with --full both; on Windows and with one CPU free",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=SERVERS,
        metavar="NAME",
        help=", ".join(SERVERS),
    )
    parser.add_argument(
        "--server-python",
        metavar="CMD",
        help="command that runs the servers' Python, quoted as in a shell (default: this one)",
    )
    parser.add_argument(
        "--ceiling", metavar="CMD", help="command that runs the ceiling, quoted likewise"
    )
    parser.add_argument(
        "--pin-too",
        type=number,
        metavar="PID",
        help="a process of one thread that works for the servers and is pinned with them: Wine's "
        "server",
    )
    parser.add_argument("--json", type=writable, metavar="FILE", help="all figures of all rounds")
    parser.add_argument(
        "--plot", type=writable, metavar="FILE", help="a chart, .png or .svg: needs matplotlib"
    )
    parser.add_argument(
        "--markdown",
        type=markdown_file,
        metavar="FILE",
        help="the chart's table: a new file, or one with a table made so, which it replaces",
    )
    args = parser.parse_args(argv)
    one_cpu = len(cpus.own()) == 1
    if args.arrangement is None:
        free = one_cpu or sys.platform == "win32"
        args.arrangement = FREE if free else "both" if args.full else PINNED
    elif args.arrangement != FREE and one_cpu:
        parser.error(f"--arrangement {args.arrangement} needs two CPUs, and there is one here")
    args.seconds = args.seconds or (0.5 if args.full else 0.3)
    args.rounds = args.rounds or (5 if args.full else 3)
    args.servers = SERVERS if args.full or args.workload else QUICK_SERVERS
    if args.plot:
        if args.plot.suffix not in (".png", ".svg"):
            parser.error(f"--plot: the file's name must end in .png or .svg, got {args.plot.name}")
        if importlib.util.find_spec("matplotlib") is None:
            parser.error("--plot needs matplotlib: pip install iocpx[bench]")
    choose_workloads(args, parser)
    return args


def choose_workloads(args, parser):
    """Set args.workloads, by their names, and args.changes, which says what differs here."""
    args.changes = []
    if args.connections or args.size or args.depth:
        if args.workload:
            parser.error("--workload or --connections, --size and --depth: not both")
        own = Workload(args.connections or 50, args.size or 64, args.depth or 1)
        args.workloads = {"own": own}
        return
    found, changes = possible()
    names = args.workload or (WORKLOADS if args.full else QUICK)
    args.workloads = {name: found[name] for name in names if name in found}
    args.changes = [change for change in changes if change.partition(":")[0] in names]


def writable(text):
    """A path in a folder that is there: better told before the measurements than after."""
    path = Path(text)
    if not path.absolute().parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {path.parent}")
    return path


def markdown_file(text):
    path = writable(text)
    if path.exists() and not results.has_table(path):
        raise argparse.ArgumentTypeError(f"{path} exists, and this benchmark's table is not in it")
    return path


def main(argv=None):
    """Run the benchmark; returns the exit status."""
    args = parse(argv)
    report = make_report()
    bench = Bench(args, report)
    report.line("iocpx bench: looking which servers are there")
    try:
        bench.probe()
        bench.plan()
        if bench.rows:
            about = results.about(bench)
            for paragraph in introduction(bench, about):
                report.paragraph(paragraph)
            with report.progress(bench.steps()):
                bench.run()
            report.tables(bench.rows)
            for note in closing_notes(bench):
                report.paragraph(note)
            # Of workloads that were chosen, those that they tell about.
            checked = [line for line in targets.check(bench) if args.full or line[2]]
            if checked and (args.full or args.workload):
                report.targets(checked)
            write_files(args, bench, about)
        elif bench.facts:
            report.line("nothing to measure: none of these servers takes part in these workloads")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Failure as failure:
        print(failure, file=sys.stderr)
        return 1
    for name, failure in bench.failures.items():
        print(f"{name} failed: {failure}", file=sys.stderr)
    return 1 if bench.failures else 0


def write_files(args, bench, about):
    if args.json:
        results.write_json(args.json, bench, about)
    if args.markdown:
        results.write_markdown(args.markdown, bench, about)
    if args.plot:
        from .chart import write_chart

        write_chart(args.plot, bench, about)
