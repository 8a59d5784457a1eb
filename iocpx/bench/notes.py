"""What is said about a run in words: above the first measurement, and below the tables."""

from . import results
from .loops import OURS
from .servers import CEILING


def introduction(bench, about):
    """The lines above the first measurement: what is run on what."""
    rounds = "1 round" if bench.rounds == 1 else f"{bench.rounds} rounds"
    return [
        f"machine: {about['machine']}",
        *([f"servers: {about['servers']}"] if about["servers"] else []),
        f"client: {about['client']}, checks every byte of every reply",
        f"{rounds} of {bench.seconds:g} s for each server and workload, medians shown",
        threads(bench),
        *bench.changes,
        *(f"{name}: {results.ARRANGEMENTS[name]}" for name in bench.arrangements),
    ]


def threads(bench):
    if bench.loops:
        return f"threads: 1 in each loop, {bench.workers} in the ceiling"
    return (
        f"threads: {bench.workers} in iocpx and the ceiling, 1 in the asyncio loops, one per "
        "connection in threads"
    )


def closing_notes(bench):
    notes = [
        "spread: the rate of the fastest round by that of the slowest. p50, p99, p99.9: from "
        "the send of a message to its complete reply; of a connection, from its start to its end. "
        "fair: messages of the least-served connection by the mean. CPU: user and system time of "
        "the server's process, per message (connection, request, block of 64 KiB); above: that "
        "minus the ceiling's. calls: of the operating system, per message, as the server counts "
        "them: looks at the port and operations on sockets. memory: private memory of the server's "
        "process, per idle connection. of asyncio, of ceiling: the rate by theirs. "
        "docs/BENCHMARK.md tells more."
    ]
    if CEILING in bench.facts:
        notes.append(
            "ceiling: an echo in C on a completion port, with the same bound as iocpx on what a "
            "connection gets in a row, and with nothing in it that an echo does not need; of HTTP "
            "it looks for the ends of heads alone (benchmarks/ceiling.c)."
        )
    if any("Wine" in facts.get("system", "") for facts in bench.facts.values()):
        notes.append(
            "Under Wine a system call costs several times what it does on Windows, and Wine's own "
            "server process does part of the work; its CPU time is not in these figures."
        )
    if any(workload.row for _, workload in bench.rows):
        notes.append(
            f"{OURS} by best: the rate of {OURS}'s loop by that of the best other in the row; of "
            "the geometric mean, by the best other's mean."
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
