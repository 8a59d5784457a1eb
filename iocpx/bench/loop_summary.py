"""One line for each loop: what a README's table and chart show of `--loops`."""

from dataclasses import dataclass

from . import scheduling_table
from .loops import LOOPS
from .targets import Measured


@dataclass(frozen=True)
class Column:
    heading: str
    measure: object  # of (Measured, a loop's name, arrangement); LookupError: there is none
    form: str
    in_chart: bool = False

    def shown(self, value):
        return "" if value is None else self.form.format(value)


def median(figure, workload):
    return lambda m, name, arrangement: m(name, figure, workload, arrangement)


def overhead(m, name, arrangement):
    return m.overhead(name, arrangement)


def scheduling(m, name, arrangement):
    """Thousand operations per second, by the geometric mean of all rows."""
    table = scheduling_table.of_scheduling(m.bench.rows)
    if not scheduling_table.is_whole(table):
        raise LookupError("scheduling")
    return scheduling_table.means(table)[name] / 1000


COLUMNS = (
    Column("scheduling, thousand op/s", scheduling, "{:,.0f}", in_chart=True),
    Column("echo, msg/s", median("rate", "echo-64"), "{:,.0f}", in_chart=True),
    Column("its CPU µs above the ceiling", overhead, "{:.1f}"),
    Column("streams, msg/s", median("rate", "streams-64"), "{:,.0f}"),
    Column("TLS echo, msg/s", median("rate", "echo-tls-64"), "{:,.0f}"),
    Column("uvicorn, requests/s", median("rate", "uvicorn"), "{:,.0f}", in_chart=True),
    Column("its CPU µs", median("cpu_us", "uvicorn"), "{:.1f}"),
    Column("over TLS, requests/s", median("rate", "uvicorn-tls"), "{:,.0f}"),
    Column("aiohttp, requests/s", median("rate", "aiohttp"), "{:,.0f}"),
)
WHAT = (
    "Scheduling: the geometric mean of nine kinds of callbacks, timers and tasks. Echo: 50 "
    "connections, 64 B. uvicorn with httptools and aiohttp: 50 connections, answers of 13 B."
)


def summary(bench):
    """The columns that anything was measured of, each with its values by the loops' names."""
    measured = Measured(bench)
    arrangement = bench.arrangements[0]
    found = []
    for column in COLUMNS:
        values = {}
        for name in LOOPS:
            try:
                values[name] = column.measure(measured, name, arrangement)
            except LookupError:
                continue
        if values:
            found.append((column, values))
    return found


def names_of(columns):
    """The loops that have a value in any of them, in the order of the benchmark."""
    return [name for name in LOOPS if any(name in values for _, values in columns)]
