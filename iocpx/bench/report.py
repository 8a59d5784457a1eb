"""What the person in front sees: progress and tables on a terminal, plain lines elsewhere."""

import contextlib
import sys
import textwrap

from . import scheduling_table

# Two lines of heading, and how a row's figure is shown. A table stays within 100 columns.
COLUMNS = (
    ("", "server", lambda row: row.server),
    ("", "unit", lambda row: f"{row.median('rate'):,.0f}"),  # the workload's unit
    ("", "spread", lambda row: f"{row.spread():.1f}"),
    ("p50", "ms", lambda row: milliseconds(row.median("p50_us"))),
    ("p99", "ms", lambda row: milliseconds(row.median("p99_us"))),
    ("p99.9", "ms", lambda row: milliseconds(row.median("p999_us"))),
    ("", "fair", lambda row: number(row.median("fairness"), ".2f")),
    ("CPU", "µs/msg", lambda row: f"{row.median('cpu_us'):.1f}"),
    ("above", "ceiling", lambda row: number(row.overhead_us, ".1f")),
    ("calls", "/msg", lambda row: number(row.median("calls"), ".2f")),
    ("memory", "KiB", lambda row: kibibytes(row.median("idle_bytes"))),
    ("of", "asyncio", lambda row: number(row.of_asyncio, ".2f")),
    ("of", "ceiling", lambda row: number(row.of_ceiling, ".2f")),
)


def milliseconds(us):
    if us is None:
        return ""
    ms = us / 1000
    return f"{ms:.3f}" if ms < 1 else f"{ms:.2f}" if ms < 10 else f"{ms:.1f}"


def kibibytes(count):
    return "" if count is None else f"{count / 1024:.1f}"


def number(value, form):
    return "" if value is None else format(value, form)


# For these there is no room beside the memory; the JSON has them.
NOT_BESIDE_MEMORY = (("p99.9", "ms"), ("calls", "/msg"))


def lines(workload, rows):
    """Both lines of heading and those of the rows, without columns that are empty throughout."""
    table = []
    for upper, lower, show in COLUMNS:
        cells = [show(row) for row in rows.values()]
        if any(cells) and not (workload.idle and (upper, lower) in NOT_BESIDE_MEMORY):
            table.append([upper, workload.unit if lower == "unit" else lower, *cells])
    return [list(line) for line in zip(*table)]


def without_scheduling(rows_of):
    """The rows that have a table each."""
    return {key: rows for key, rows in rows_of.items() if not key[1].row}


TARGET_HEADING = ("target", "wanted", "measured", "")


class PlainReport:
    """Lines as they come, for files, pipes and logs."""

    def line(self, text):
        print(text, flush=True)

    def paragraph(self, text):
        self.line(textwrap.fill(text, 78, subsequent_indent="  "))

    @contextlib.contextmanager
    def progress(self, steps):
        yield

    def begin(self, label):
        pass

    def done(self, label, rate):
        self.line(f"{label}: {rate}")

    def tables(self, rows_of):
        scheduling = scheduling_table.of_scheduling(rows_of)
        if scheduling:
            self.line("")
            self.line(scheduling_table.title(rows_of))
            self._table(scheduling_table.lines(scheduling))
        for (arrangement, workload), rows in without_scheduling(rows_of).items():
            self.line("")
            self.line(f"{workload}, {arrangement}")
            self._table(lines(workload, rows))
        self.line("")

    def targets(self, checked):
        self.line("")
        self._table([TARGET_HEADING, *checked])

    def _table(self, table):
        widths = [max(map(len, column)) for column in zip(*table)]
        for line in table:
            first = line[0].ljust(widths[0])
            rest = (cell.rjust(width) for cell, width in zip(line[1:], widths[1:]))
            self.line("  ".join((first, *rest)).rstrip())


class RichReport:
    """The same with a progress bar and drawn tables, for terminals."""

    def __init__(self, console):
        self._console = console
        self._progress = None

    def line(self, text):
        self._console.print(text, markup=False, highlight=False)

    # The console wraps between words by itself.
    paragraph = line

    @contextlib.contextmanager
    def progress(self, steps):
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        columns = (
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
        )
        with Progress(*columns, console=self._console, transient=True) as self._progress:
            self._task = self._progress.add_task("", total=steps)
            yield

    def begin(self, label):
        self._progress.update(self._task, description=label)

    def done(self, label, rate):
        self._progress.advance(self._task)

    def tables(self, rows_of):
        scheduling = scheduling_table.of_scheduling(rows_of)
        if scheduling:
            heading, *shown = scheduling_table.lines(scheduling)
            self._table(scheduling_table.title(rows_of), heading, shown, None)
        for (arrangement, workload), rows in without_scheduling(rows_of).items():
            upper, lower, *shown = lines(workload, rows)
            headings = ["\n".join(heading) for heading in zip(upper, lower)]
            self._table(f"{workload}, {arrangement}", headings, shown, "iocpx")

    def targets(self, checked):
        self._table("the project's targets", TARGET_HEADING, checked, None)

    def _table(self, title, headings, shown, bold):
        from rich import box
        from rich.table import Table

        table = Table(
            title=title,
            title_justify="left",
            box=box.SIMPLE_HEAD,
            pad_edge=False,
            show_edge=False,
            padding=(0, 1, 0, 0),
        )
        for index, heading in enumerate(headings):
            table.add_column(heading, justify="right" if index else "left", no_wrap=True)
        for line in shown:
            table.add_row(*line, style="bold" if bold and line[0].startswith(bold) else None)
        self._console.print(table)
        self._console.print()


def make_report():
    """The fitting one: rich needs a terminal, and to be installed."""
    # A Windows pipe may have a code page without µ: better a question mark than an end.
    sys.stdout.reconfigure(errors="replace")
    if sys.stdout.isatty():
        try:
            from rich.console import Console
        except ImportError:
            return PlainReport()
        return RichReport(Console())
    return PlainReport()
