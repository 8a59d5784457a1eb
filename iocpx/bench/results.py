"""What is kept of a run: all figures as JSON, and the table that a README shows."""

import datetime
import json
import os
import sys
from dataclasses import asdict, fields
from pathlib import Path

from . import loop_summary, servers
from .report import COLUMNS
from .workloads import FREE, PINNED

ARRANGEMENTS = {
    PINNED: "the server on one CPU, the client on another",
    FREE: "the processes are where the system puts them",
}
# Between these two lines stands the table in a file that has them.
MARKS = ("<!-- made by `iocpx bench --markdown`: begin -->", "<!-- end -->")
# And the one of the loops.
LOOP_MARKS = ("<!-- made by `iocpx bench --loops --markdown`: begin -->", "<!-- end -->")
# Of a README's table, by their headings; and the rate, whose heading is its unit.
README_COLUMNS = ("server", "p50 ms", "p99 ms", "CPU µs/msg", "above ceiling", "of asyncio")


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


def about(bench):
    """On what it was run, in words; the servers' facts are known."""
    here = servers.platform_facts()
    versions = {}
    for name, facts in bench.facts.items():
        versions.update(facts["versions"])
        if name == "asyncio":
            versions["asyncio"] = facts["loop"]
    # Not the ceiling, which is no Python.
    python = next((facts for facts in bench.facts.values() if "python" in facts), None)
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    return {
        "date": datetime.datetime.now().astimezone().date().isoformat(),
        "machine": f"{processor_name()}, {os.cpu_count()} CPUs",
        "servers": python and f"Python {python['python']} on {python['system']}, {named}",
        "client": f"Python {here['python']} on {here['system']}",
        "rounds": bench.rounds,
        "seconds": bench.seconds,
        "workers": bench.workers,
    }


def write_json(path, bench, about):
    tables = []
    for (arrangement, workload), rows in bench.rows.items():
        tables.append(
            {
                "arrangement": arrangement,
                "title": str(workload),
                "workload": asdict(workload),
                "servers": {name: row_as_json(row) for name, row in rows.items()},
            }
        )
    whole = {**about, "facts": bench.facts, "failures": bench.failures, "tables": tables}
    path.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")


def row_as_json(row):
    rounds = [asdict(figures) for figures in row.rounds]
    return {
        "median": {figure.name: row.median(figure.name) for figure in fields(row.rounds[0])},
        "spread": row.spread(),
        "of_asyncio": row.of_asyncio,
        "of_ceiling": row.of_ceiling,
        "overhead_us": row.overhead_us,
        "rounds": rounds,
    }


def headline(bench):
    """The table to show where there is room for one: (arrangement, workload), rows. The first that
    has rows: the workloads and arrangements come in the order of their weight."""
    return next(item for item in bench.rows.items() if item[1])


def foot(about):
    return f"{about['date']}. {about['machine']}. {about['servers']}."


def marks(loops):
    return LOOP_MARKS if loops else MARKS


def write_markdown(path, bench, about):
    begin, end = marks(bench.loops)
    lines = loop_lines(bench) if bench.loops else server_lines(bench)
    table = "\n".join([begin, *lines, "", foot(about), end])
    before, after = around_table(path, bench.loops) if path.exists() else ("", "\n")
    path.write_text(before + table + after, encoding="utf-8")


def server_lines(bench):
    (arrangement, workload), rows = headline(bench)
    columns = [
        (f"{upper} {lower}".strip() if lower != "unit" else workload.unit, show)
        for upper, lower, show in COLUMNS
    ]
    columns = [column for column in columns if column[0] in (*README_COLUMNS, workload.unit)]
    return [
        f"{workload}, {arrangement} ({ARRANGEMENTS[arrangement]}):",
        "",
        *markdown_table(
            [heading for heading, _ in columns],
            [[show(row) for _, show in columns] for row in rows.values()],
        ),
    ]


def loop_lines(bench):
    columns = loop_summary.summary(bench)
    arrangement = bench.arrangements[0]
    return [
        f"{loop_summary.WHAT} Here {arrangement} ({ARRANGEMENTS[arrangement]}):",
        "",
        *markdown_table(
            ["loop", *(column.heading for column, _ in columns)],
            [
                [name, *(column.shown(values.get(name)) for column, values in columns)]
                for name in loop_summary.names_of(columns)
            ],
        ),
    ]


def markdown_table(headings, rows):
    return [
        "| " + " | ".join(headings) + " |",
        "|---|" + "---:|" * (len(headings) - 1),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]


def has_table(path, loops):
    begin, end = marks(loops)
    text = path.read_text(encoding="utf-8")
    return begin in text and end in text.partition(begin)[2]


def around_table(path, loops):
    begin, end = marks(loops)
    before, _, rest = path.read_text(encoding="utf-8").partition(begin)
    return before, rest.partition(end)[2]
