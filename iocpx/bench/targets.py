"""What the project wants to be true of itself, as far as this benchmark can tell."""

from dataclasses import dataclass

from .loops import OTHER_LOOPS
from .servers import CEILING
from .workloads import FREE, PINNED

NATIVE, PROTOCOL, ASYNCIO, WINLOOP, BLAZIO = (
    "iocpx-native",
    "iocpx-protocol",
    "asyncio",
    "winloop",
    "blazio",
)
OTHERS = ("asyncio", "asyncio-streams", *OTHER_LOOPS)


@dataclass(frozen=True)
class Target:
    text: str
    relation: str  # "≤" or "≥"
    limit: float
    measure: object  # from Measured to the figure; LookupError: it was not measured


class Measured:
    """Medians by the names of workload, arrangement and server; LookupError where there is none."""

    def __init__(self, bench):
        self.bench = bench
        names = {workload: name for name, workload in bench.workloads.items()}
        self.rows = {
            (names[workload], arrangement): rows
            for (arrangement, workload), rows in bench.rows.items()
        }

    def __call__(self, server, figure="rate", workload="echo-64", arrangement=PINNED):
        value = self.rows[workload, arrangement][server].median(figure)
        if value is None:
            raise LookupError(figure)
        return value

    def names(self, arrangement=PINNED):
        """The workloads that were measured so."""
        return [name for name, its in self.rows if its == arrangement]

    def among(self, servers, *where):
        """Those that have such a figure: by name."""
        found = {}
        for server in servers:
            try:
                found[server] = self(server, *where)
            except LookupError:
                continue
        if not found:
            raise LookupError(servers)
        return found

    def best(self, servers, *where):
        return max(self.among(servers, *where).values())

    def least(self, servers, *where):
        return min(self.among(servers, *where).values())

    def overhead(self, server, arrangement=PINNED):
        where = "cpu_us", "echo-64", arrangement
        return self(server, *where) - self(CEILING, *where)

    def least_fairness(self):
        values = [
            row.median("fairness")
            for rows in self.rows.values()
            for name, row in rows.items()
            if name.startswith("iocpx")
        ]
        values = [value for value in values if value is not None]
        if not values:
            raise LookupError("fairness")
        return min(values)


def ratio(server, others, *where):
    """The server's figure by the best of the others'."""
    return lambda m: m(server, *where) / m.best(others, *where)


def tls_adds(server, others, plain, secured):
    """CPU time per message that TLS adds to a workload, by the least that it adds to another's."""

    def added(m, name):
        return m(name, "cpu_us", secured) - m(name, "cpu_us", plain)

    def measure(m):
        names = m.among(others, "cpu_us", secured)
        return added(m, server) / min(added(m, name) for name in names)

    return measure


def tls_echo_targets(what, server, others, size):
    plain, secured = f"echo-{size}", f"echo-tls-{size}"
    return (
        Target(
            f"{what}: msg/s by asyncio's, pinned",
            "≥",
            2,
            ratio(server, [ASYNCIO], "rate", secured),
        ),
        Target(
            f"{what}: msg/s by the best other loop's, pinned",
            "≥",
            1.25,
            ratio(server, others, "rate", secured),
        ),
        Target(
            f"{what}: CPU that TLS adds by what it adds on asyncio",
            "≤",
            0.5,
            tls_adds(server, [ASYNCIO], plain, secured),
        ),
    )


def tls_targets(prefix, server, others):
    return (
        *tls_echo_targets(f"{prefix}TLS echo", server, others, "64"),
        *tls_echo_targets(f"{prefix}TLS echo of 1 KiB", server, others, "1k"),
        Target(
            f"{prefix}TLS handshakes/s by asyncio's, pinned",
            "≥",
            1.3,
            ratio(server, [ASYNCIO], "rate", "churn-tls"),
        ),
        Target(
            f"{prefix}TLS: MB/s streamed from it by the best other loop's, pinned",
            "≥",
            1.15,
            ratio(server, others, "rate", "stream-tls"),
        ),
        Target(
            f"{prefix}TLS: memory per idle connection by asyncio's, 2,000 of them",
            "≤",
            0.6,
            ratio(server, [ASYNCIO], "idle_bytes", "idle-tls"),
        ),
    )


FREELY = ("rate", "echo-64", FREE)
CHURN = ("rate", "churn")
P99 = ("p99_us", "echo-64", FREE)
KIB = 1024
TARGETS = (
    Target("native: CPU µs above the ceiling, pinned", "≤", 1.5, lambda m: m.overhead(NATIVE)),
    Target("protocol: CPU µs above the ceiling, pinned", "≤", 5, lambda m: m.overhead(PROTOCOL)),
    Target(
        "protocol: that by asyncio's",
        "≤",
        1 / 5,
        lambda m: m.overhead(PROTOCOL) / m.overhead(ASYNCIO),
    ),
    Target(
        "protocol: that by blazio's",
        "≤",
        1 / 3,
        lambda m: m.overhead(PROTOCOL) / m.overhead(BLAZIO),
    ),
    Target("native: msg/s by the ceiling's, pinned", "≥", 0.97, ratio(NATIVE, [CEILING])),
    Target(
        "native: HTTP by a handler in C: requests/s by the ceiling's, pinned",
        "≥",
        0.9,
        ratio(NATIVE, [CEILING], "rate", "http"),
    ),
    Target("protocol: msg/s by the ceiling's, pinned", "≥", 0.88, ratio(PROTOCOL, [CEILING])),
    Target("protocol: msg/s by asyncio's, pinned", "≥", 1.6, ratio(PROTOCOL, [ASYNCIO])),
    Target("protocol: msg/s by asyncio's, free", "≥", 3.5, ratio(PROTOCOL, [ASYNCIO], *FREELY)),
    Target(
        "protocol: msg/s by the best other loop's, pinned",
        "≥",
        1.35,
        ratio(PROTOCOL, OTHER_LOOPS),
    ),
    Target(
        "protocol: msg/s by the best other loop's, free",
        "≥",
        3,
        ratio(PROTOCOL, OTHER_LOOPS, *FREELY),
    ),
    Target("protocol: OS calls per message, depth 1", "≤", 3, lambda m: m(PROTOCOL, "calls")),
    Target(
        "protocol: OS calls per message, depth 16",
        "≤",
        0.4,
        lambda m: m(PROTOCOL, "calls", "depth-16"),
    ),
    Target("protocol: p99 by asyncio's, free", "≤", 0.5, ratio(PROTOCOL, [ASYNCIO], *P99)),
    Target("fairness, the least of all workloads", "≥", 0.9, lambda m: m.least_fairness()),
    Target("protocol: churn by asyncio's, pinned", "≥", 2, ratio(PROTOCOL, [ASYNCIO], *CHURN)),
    Target("protocol: churn by winloop's, pinned", "≥", 1.3, ratio(PROTOCOL, [WINLOOP], *CHURN)),
    *tls_targets("protocol: ", PROTOCOL, OTHER_LOOPS),
    Target(
        "protocol: MB/s streamed to it by the best other loop's, pinned",
        "≥",
        1.2,
        ratio(PROTOCOL, OTHERS, "rate", "stream-in"),
    ),
    Target(
        "protocol: MB/s streamed from it by the best other loop's, pinned",
        "≥",
        1.2,
        ratio(PROTOCOL, OTHERS, "rate", "stream-out"),
    ),
    Target(
        "protocol: KiB per idle connection, 2,000 of them",
        "≤",
        3,
        lambda m: m(PROTOCOL, "idle_bytes", "idle-2k") / KIB,
    ),
    Target(
        "protocol: msg/s at 1,000 connections by those at 50, pinned",
        "≥",
        0.9,
        lambda m: m(PROTOCOL, "rate", "thousand") / m(PROTOCOL),
    ),
    Target(
        "protocol, no GIL, 200 µs of Python: msg/s of 2 workers by 1",
        "≥",
        1.7,
        lambda m: m(PROTOCOL, "rate", "compute-2", FREE) / m(PROTOCOL, "rate", "compute-1", FREE),
    ),
)


def check(bench, targets=TARGETS):
    """A line for each target: what it is about, what is wanted, what was measured, and whether it
    is met; the last two are empty where it was not measured."""
    measured = Measured(bench)
    lines = []
    for target in targets:
        wanted = f"{target.relation} {target.limit:.3g}"
        try:
            value = target.measure(measured)
        except (LookupError, ZeroDivisionError):
            lines.append((target.text, wanted, "", "not measured"))
            continue
        met = value <= target.limit if target.relation == "≤" else value >= target.limit
        lines.append((target.text, wanted, f"{value:.2f}", "met" if met else "NOT MET"))
    return lines
