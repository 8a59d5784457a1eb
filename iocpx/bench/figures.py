"""What a run told: the figures of a round, the row of all rounds, and rows compared."""

import statistics
from dataclasses import dataclass, field

from .servers import CEILING


@dataclass
class Figures:
    """What one round told about one server under one workload. None: there is no such figure."""

    rate: float  # in the workload's unit
    cpu_us: float  # of the server's process, per message
    user_us: float
    system_us: float
    others_busy: float  # what programs that are no part of the benchmark used, by one CPU's time
    client_busy: float = 0.0  # likewise the client
    mb_per_s: float | None = None  # of payload, one way
    p50_us: float | None = None
    p99_us: float | None = None
    p999_us: float | None = None
    fairness: float | None = None  # messages of the least-served connection by the mean
    calls: float | None = None  # of the operating system, per message, where the server counts them
    idle_bytes: float | None = None  # private memory of the server's process, per idle connection


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
        # A rate of 0: the machine had no time for it.
        if asyncio and asyncio.median("rate"):
            row.of_asyncio = rate / asyncio.median("rate")
        if ceiling and ceiling.median("rate"):
            row.of_ceiling = rate / ceiling.median("rate")
            row.overhead_us = row.median("cpu_us") - ceiling.median("cpu_us")
