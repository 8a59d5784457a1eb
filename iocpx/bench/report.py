"""What the person in front sees: progress and tables on a terminal, plain lines elsewhere."""

import contextlib
import sys
import textwrap

COLUMNS = ("server", "messages/s", "spread", "p50 µs", "p99 µs", "CPU µs/msg", "ratio")


def cells(row):
    return (
        row.server,
        f"{row.median('messages_per_s'):,.0f}",
        f"{row.spread():.1f}",
        f"{row.median('p50_us'):,.0f}",
        f"{row.median('p99_us'):,.0f}",
        f"{row.median('cpu_us'):,.1f}",
        "" if row.ratio is None else f"{row.ratio:.2f}",
    )


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

    def done(self, label, figures):
        self.line(f"{label}: {figures.messages_per_s:,.0f} messages/s")

    def tables(self, rows_of):
        for workload, rows in rows_of.items():
            self.line("")
            self.line(str(workload))
            lines = [COLUMNS, *(cells(row) for row in rows.values())]
            widths = [max(map(len, column)) for column in zip(*lines)]
            for line in lines:
                first = line[0].ljust(widths[0])
                rest = (cell.rjust(width) for cell, width in zip(line[1:], widths[1:]))
                self.line("  ".join((first, *rest)).rstrip())
        self.line("")


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

    def done(self, label, figures):
        self._progress.advance(self._task)

    def tables(self, rows_of):
        from rich import box
        from rich.table import Table

        for workload, rows in rows_of.items():
            table = Table(
                title=str(workload), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False
            )
            for index, name in enumerate(COLUMNS):
                table.add_column(name, justify="right" if index else "left", no_wrap=True)
            for row in rows.values():
                style = "bold" if row.server.startswith("iocpx") else None
                table.add_row(*cells(row), style=style)
            self._console.print(table)


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
