"""Which server is how fast: one process for each server, one for the load.

Round by round every server is started, put under each workload, and stopped, one
after the other, so that a slow spell of the machine does not fall on one of them
alone. The figures shown are medians of the rounds.

That is done in one or two arrangements. Free: the system places the processes, and
several workers may overlap. Pinned: the server has one CPU and the client another,
so that what is compared is the work per message, without wake-ups between CPUs.
"""

import contextlib
import shlex
import sys

from . import cpus, results, servers, targets
from .figures import Row, compare
from .loop_targets import LOOP_TARGETS
from .measure import Server, measure, schedule
from .notes import closing_notes, introduction
from .options import parse
from .process import Failure
from .report import make_report
from .servers import CEILING, CEILING_ROLES
from .workloads import BOTH, FREE_THREADED, PINNED

# A thread for each of thousands of connections is no contest.
NOT_IDLE = "threads"


class Bench:
    """One whole run.

    Figures in self.rows[arrangement, workload][server]; failures in self.failures, by the server's
    name, or name and role.
    """

    def __init__(self, args, report):
        self.report = report
        self.wanted = args.only
        self.loops = args.loops
        self.names = list(args.servers)
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
        self.rows = {}
        self.failures = {}
        self.given_up = set()  # (name, role): it has failed in that
        self.facts = {}
        # How `arranged` has it; for the probe, free.
        self.server_cpus = self.client_cpus = contextlib.nullcontext

    def server(self, name, role="echo", workers=None):
        """The server's process, for a `with`."""
        if name == CEILING:
            command = [*self.ceiling, *CEILING_ROLES[role]]
        else:
            command = [*self.server_python, "-m", f"{__package__}.servers", name, "--role", role]
        with self.server_cpus():
            return Server([*command, "--workers", str(workers or self.workers)])

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
                # In any role that it has.
                role = "echo" if name == CEILING else next(iter(servers.SERVERS[name][1]))
                with self.server(name, role) as server:
                    facts = server.facts
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
                    self.leave_out(name, facts)
                continue
            self.facts[name] = facts

    def leave_out(self, title, facts):
        self.report.line(
            f"left out: {title} (not installed for the servers' Python: {facts['missing']})"
        )

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
        roles = CEILING_ROLES if name == CEILING else servers.SERVERS[name][1]
        return (
            workload.role in roles
            and (name, workload.role) not in self.given_up
            and not (workload.idle and name == NOT_IDLE)
        )

    def steps(self):
        """How many measurements there are in all."""
        pairs = [(name, workload) for _, workload in self.rows for name in self.names]
        return self.rounds * sum(self.serves(*pair) for pair in pairs)

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
        self.rows = {key: rows for key, rows in self.rows.items() if rows}
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
                with self.server(name, role, workers) as server:
                    if "missing" in server.facts:
                        # Of the role, as the server has been started in another.
                        self.given_up.add((name, role))
                        self.leave_out(f"{name} as {role}", server.facts)
                        continue
                    self.facts[name]["versions"].update(server.facts["versions"])
                    for workload in workloads:
                        label = f"{arrangement}, round {number}/{self.rounds}  {name}: {workload}"
                        self.report.begin(label)
                        if workload.task:
                            figures = schedule(server, workload, self.seconds, self.pin_too)
                        else:
                            figures = measure(
                                *(name, server, workload, self.seconds),
                                *(self.client_cpus(), self.pin_too),
                            )
                        row = self.rows[arrangement, workload].setdefault(name, Row(name))
                        row.rounds.append(figures)
                        self.report.done(label, f"{figures.rate:,.0f} {workload.unit}")
            except Failure as failure:
                # It is told at the end, too; all other figures are still of use.
                self.given_up.add((name, role))
                title = name if role == "echo" else f"{name} as {role}"
                self.failures[title] = str(failure)
                self.report.line(f"{title}: {failure}")


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
            # Now all versions are known.
            about = results.about(bench)
            report.tables(bench.rows)
            for note in closing_notes(bench):
                report.paragraph(note)
            # Of workloads that were chosen, those that they tell about.
            wanted = LOOP_TARGETS if args.loops else targets.TARGETS
            checked = [line for line in targets.check(bench, wanted) if args.full or line[2]]
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
