"""Which server echoes how fast: one process for each server, one for the load.

Round by round every server is started, put under each workload, and stopped, one
after the other, so that a slow spell of the machine does not fall on one of them
alone. The figures shown are medians of the rounds.

That is done in one or two arrangements. Free: the system places the processes, and
several workers may overlap. Pinned: the server has one CPU and the client another,
so that what is compared is the work per message, without wake-ups between CPUs.
"""

import argparse
import contextlib
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

from . import cpus, servers
from .report import make_report

# The first start may unpack or compile something; afterwards half a second is usual.
START_TIMEOUT_S = 60.0
ANSWER_TIMEOUT_S = 15.0
# A client gives up by itself after 10 s without a reply, so this is never the first to act.
CLIENT_GRACE_S = 45.0

CEILING = "ceiling"
SERVERS = [*servers.SERVERS, CEILING]
PINNED, FREE = "pinned", "free"


@dataclass(frozen=True)
class Workload:
    connections: int
    size_bytes: int
    depth: int

    def __str__(self):
        plural = "" if self.connections == 1 else "s"
        return f"{self.connections} connection{plural}, {self.size_bytes} B, depth {self.depth}"


DEFAULT_WORKLOADS = [
    Workload(50, 64, 1),
    Workload(50, 4096, 1),
    Workload(50, 64, 16),
    Workload(1, 64, 1),
]


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
    """What one round told about one server under one workload."""

    messages_per_s: float
    p50_us: float
    p99_us: float
    p999_us: float
    fairness: float  # messages of the least-served connection by the mean
    cpu_us: float  # of the server's process, user and system, per message
    calls: float | None  # of the operating system, per message, where the server counts them
    client_busy: float  # share of one CPU
    others_busy: float  # what programs that are no part of the benchmark used, likewise


@dataclass
class Row:
    """One line of a table: a server under one workload.

    of_asyncio, of_ceiling: messages/s by those servers'; overhead_us: CPU time above the
    ceiling's; all None where there is nothing to compare with.
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
        rates = [r.messages_per_s for r in self.rounds]
        return max(rates) / min(rates) if min(rates) else float("inf")


def compare(rows):
    """Set each row against those of asyncio and the ceiling, where they are."""
    asyncio, ceiling = rows.get("asyncio"), rows.get(CEILING)
    for row in rows.values():
        rate = row.median("messages_per_s")
        if asyncio:
            row.of_asyncio = rate / asyncio.median("messages_per_s")
        if ceiling:
            row.of_ceiling = rate / ceiling.median("messages_per_s")
            row.overhead_us = row.median("cpu_us") - ceiling.median("cpu_us")


def os_calls(name, before, after):
    """How often the server has called the operating system meanwhile; None: it does not count."""
    if not after:
        return None
    counters = ["waits", "ops_posted"]
    if name == "iocpx-buffered":
        counters.append("receives")  # into the protocol's own buffer: nothing is posted for it
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

    Figures in self.rows[arrangement, workload][server], failures in self.failures[server].
    """

    def __init__(self, args, report):
        self.report = report
        self.names = [name for name in SERVERS if not args.only or name in args.only]
        self.wanted = args.only
        self.workers = args.workers
        self.rounds = args.rounds
        self.seconds = args.seconds
        self.server_python = (
            shlex.split(args.server_python) if args.server_python else [sys.executable]
        )
        self.ceiling = shlex.split(args.ceiling) if args.ceiling else None
        self.arrangements = [PINNED, FREE] if args.arrangement == "both" else [args.arrangement]
        self.pin_too = args.pin_too
        self.workloads = DEFAULT_WORKLOADS
        if args.connections or args.size or args.depth:
            self.workloads = [Workload(args.connections or 50, args.size or 64, args.depth or 1)]
        self.rows = {
            (arrangement, workload): {}
            for arrangement in self.arrangements
            for workload in self.workloads
        }
        self.failures = {}
        self.facts = {}
        # How `arranged` has it; for the probe, free.
        self.server_cpus = self.client_cpus = contextlib.nullcontext

    @contextlib.contextmanager
    def server(self, name):
        """A started server: (child, what it said at its start), stopped in order at the end."""
        if name == CEILING:
            command = self.ceiling
        else:
            command = [*self.server_python, "-m", f"{__package__}.servers", name]
        with self.server_cpus():
            child = Child("the server process", [*command, "--workers", str(self.workers)])
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

    def measure(self, name, server, port, workload):
        """One run of the client against a server that is up."""
        command = [
            sys.executable,
            str(Path(__file__).with_name("client.py")),
            *("--port", str(port)),
            *("--connections", str(workload.connections)),
            *("--size", str(workload.size_bytes)),
            *("--depth", str(workload.depth)),
            *("--seconds", str(self.seconds)),
            *("--warmup", str(min(0.1, self.seconds))),
        ]
        with self.client_cpus():
            client = Child("the client process", command)
        try:
            self.client_answer(server, client)
            stats_before, cpu_before_s = self.stats(server), self.cpu_s(server)
            others_before_s, began = self.others_s(server, client), time.monotonic()
            client.say("go")
            result = self.client_answer(server, client)
            seconds = time.monotonic() - began
            others_s = self.others_s(server, client) - others_before_s
            cpu_s, stats = self.cpu_s(server) - cpu_before_s, self.stats(server)
            client.say("end")
            self.client_answer(server, client)
            client.end(ANSWER_TIMEOUT_S)
        finally:
            client.discard()
        messages = result["messages"]
        calls = os_calls(name, stats_before, stats)
        return Figures(
            result["messages_per_s"],
            result["p50_us"],
            result["p99_us"],
            result["p999_us"],
            result["fairness"],
            cpu_s * 1e6 / messages,
            None if calls is None else calls / messages,
            result["client_busy"],
            others_s / seconds,
        )

    def client_answer(self, server, client):
        answer = client.answer(self.seconds + CLIENT_GRACE_S)
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

    def cpu_s(self, server):
        if sys.platform == "linux":
            with contextlib.suppress(OSError):
                return process_cpu_s(server.pid)
            raise Failure(server.obituary())
        server.say("cpu")
        used = server.answer(ANSWER_TIMEOUT_S)
        return used["user_s"] + used["system_s"]

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
        try:
            with self.server(name) as (server, facts):
                for workload in self.workloads:
                    label = f"{arrangement}, round {number}/{self.rounds}  {name}: {workload}"
                    self.report.begin(label)
                    figures = self.measure(name, server, facts["port"], workload)
                    row = self.rows[arrangement, workload].setdefault(name, Row(name))
                    row.rounds.append(figures)
                    self.report.done(label, figures)
        except Failure as failure:
            # It is told at the end, too; the other servers' figures are still of use.
            self.failures[name] = str(failure)
            self.names.remove(name)
            self.report.line(f"{name}: {failure}")


def processor_name():
    try:
        if sys.platform == "win32":
            import winreg

            path = r"HARDWARE\DESCRIPTION\System\CentralProcessor\0"
            with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, path) as key:
                return winreg.QueryValueEx(key, "ProcessorNameString")[0].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return "unknown processor"


def introduction(bench):
    """The lines above the first measurement: what is run on what."""
    here = servers.platform_facts()
    versions = {}
    for name, facts in bench.facts.items():
        versions.update(facts["versions"])
        if name == "asyncio":
            versions["asyncio"] = facts["loop"]
    # Not the ceiling, which is no Python.
    python = next((facts for facts in bench.facts.values() if "python" in facts), None)
    servers_line = []
    if python:
        named = ", ".join(f"{name} {version}" for name, version in versions.items())
        servers_line = [f"servers: Python {python['python']} on {python['system']}, {named}"]
    rounds = "1 round" if bench.rounds == 1 else f"{bench.rounds} rounds"
    lines = [
        f"machine: {processor_name()}, {os.cpu_count()} CPUs",
        *servers_line,
        f"client: Python {here['python']} on {here['system']}, checks every byte of every reply",
        f"{rounds} of {bench.seconds:g} s for each server and workload, medians shown",
        f"threads: {bench.workers} in iocpx and the ceiling, 1 in the asyncio loops, one per "
        "connection in threads",
    ]
    if PINNED in bench.arrangements:
        lines.append("pinned: the server on one CPU, the client on another")
    if FREE in bench.arrangements:
        lines.append("free: the processes are where the system puts them")
    return lines


def closing_notes(bench):
    notes = [
        "spread: messages/s of the fastest round by those of the slowest. p50, p99, p99.9: from "
        "the send of a message to its complete reply. fair: messages of the least-served "
        "connection by the mean. CPU: user and system time of the server's process, per message; "
        "above: that minus the ceiling's. calls: of the operating system, per message, as the "
        "server counts them: waits for packets and operations on sockets. of asyncio, of ceiling: "
        "messages/s by theirs."
    ]
    if CEILING in bench.facts:
        notes.append(
            "ceiling: an echo in C on a completion port, as fair as iocpx and with nothing in it "
            "that an echo does not need (benchmarks/ceiling.c)."
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
    disturbed = [
        f"{row.server}, {workload}, {arrangement} ({row.median('others_busy'):.0%})"
        for arrangement, workload, row in rows
        if row.median("others_busy") > 0.15
    ]
    if disturbed:
        notes.append(
            "Other programs took part of a CPU meanwhile, which changes everything here, even for "
            f"the better, as a CPU that never sleeps is woken fast: {'; '.join(disturbed)}."
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
        description="Echo benchmark: the same load on iocpx, asyncio, threads and, where "
        "installed, winloop, blazio and zuvloop. Every byte of every reply is checked; the exit "
        "status is 1 if one was wrong or a server failed.",
    )
    number = positive(int)
    parser.add_argument(
        "--seconds", type=positive(float), default=0.3, help="per measurement (default 0.3)"
    )
    parser.add_argument(
        "--rounds", type=number, default=5, help="measurements per server and workload (default 5)"
    )
    parser.add_argument(
        "--connections", type=number, help="with one of these three: that one workload"
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
        default=FREE if sys.platform == "win32" or len(cpus.own()) == 1 else "both",
        help="pinned: server and client have one CPU each; free: as the system places them; "
        "default here: %(default)s",
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
    args = parser.parse_args(argv)
    if args.arrangement != FREE and len(cpus.own()) == 1:
        parser.error(f"--arrangement {args.arrangement} needs two CPUs, and there is one here")
    return args


def main(argv=None):
    """Run the benchmark; returns the exit status."""
    args = parse(argv)
    report = make_report()
    bench = Bench(args, report)
    report.line("iocpx bench: looking which servers are there")
    try:
        bench.probe()
        if bench.facts:
            for paragraph in introduction(bench):
                report.paragraph(paragraph)
            with report.progress(len(bench.names) * len(bench.rows) * bench.rounds):
                bench.run()
            report.tables(bench.rows)
            for note in closing_notes(bench):
                report.paragraph(note)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Failure as failure:
        print(failure, file=sys.stderr)
        return 1
    for name, failure in bench.failures.items():
        print(f"{name} failed: {failure}", file=sys.stderr)
    return 1 if bench.failures else 0
