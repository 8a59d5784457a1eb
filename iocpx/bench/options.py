"""The command line: what is to be measured, of whom, and where the figures go."""

import argparse
import importlib.util
import sys
from pathlib import Path

from . import cpus, loops, results, servers
from .workloads import (
    FREE,
    GROUPS,
    LOOP_QUICK,
    LOOP_WORKLOADS,
    PINNED,
    QUICK,
    WORKLOADS,
    Workload,
    possible,
)

LOOPS = [*loops.LOOPS, servers.CEILING]
SERVERS = [name for name in servers.SERVERS if name not in (loops.OURS, loops.WITHOUT_SOCKETS)]
SERVERS.append(servers.CEILING)
# In --quick: those of which the question is asked first.
QUICK_SERVERS = [
    name
    for name in SERVERS
    if name not in ("iocpx-buffered", "asyncio-streams", "threads")
]


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
        "winloop, blazio, zuvloop and cadeloop. Every byte is checked; the exit status is 1 if "
        "one was wrong or a server failed.",
    )
    parser.add_argument(
        "--loops",
        action="store_true",
        help="event loops instead of servers: scheduling, echo, and HTTP with uvicorn and aiohttp",
    )
    number = positive(int)
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument(
        "--quick",
        action="store_true",
        help="a few workloads, and servers, in about a minute: the default",
    )
    extent.add_argument(
        "--full",
        action="store_true",
        help="every workload, server and arrangement, and a check of the project's targets",
    )
    parser.add_argument(
        "--workload",
        nargs="+",
        metavar="NAME",
        help=f"{', '.join(WORKLOADS)}; with --loops {', '.join((*GROUPS, *LOOP_WORKLOADS))}",
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
        help="threads of iocpx and the ceiling (default 2; with --loops 1, as a loop has)",
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
        metavar="NAME",
        help=f"{', '.join(SERVERS)}; with --loops {', '.join(LOOPS)}",
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
        type=writable,
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
    if args.pin_too and sys.platform == "win32":
        parser.error("--pin-too is for Wine's server, which Windows has not")
    args.seconds = args.seconds or (0.5 if args.full else 0.3)
    args.rounds = args.rounds or (5 if args.full else 3)
    args.workers = args.workers or (1 if args.loops else servers.DEFAULT_WORKERS)
    choose_servers(args, parser)
    table = args.markdown
    if table and table.exists() and not results.has_table(table, args.loops):
        parser.error(f"--markdown: {table} exists, and this benchmark's table is not in it")
    if args.plot:
        if args.plot.suffix not in (".png", ".svg"):
            parser.error(f"--plot: the file's name must end in .png or .svg, got {args.plot.name}")
        if importlib.util.find_spec("matplotlib") is None:
            parser.error("--plot needs matplotlib: pip install iocpx[bench]")
    choose_workloads(args, parser)
    return args


def among(parser, option, names, choices):
    """Refuse a name that is none of the choices, as argparse does where these never change."""
    for name in names or ():
        if name not in choices:
            parser.error(
                f"argument {option}: invalid choice: {name!r} (choose from {', '.join(choices)})"
            )


def choose_servers(args, parser):
    """Set args.servers, the names of those to be measured, in the order in which they are shown."""
    every = LOOPS if args.loops else SERVERS
    among(parser, "--only", args.only, every)
    if args.only:
        args.servers = [name for name in every if name in args.only]
    else:
        args.servers = every if args.loops or args.full or args.workload else QUICK_SERVERS


def choose_workloads(args, parser):
    """Set args.workloads, by their names, and args.changes, which says what differs here."""
    args.changes = []
    if args.connections or args.size or args.depth:
        if args.workload:
            parser.error("--workload or --connections, --size and --depth: not both")
        own = Workload(args.connections or 50, args.size or 64, args.depth or 1)
        args.workloads = {"own": own}
        return
    if args.loops:
        found, changes, groups, quick = LOOP_WORKLOADS, [], GROUPS, LOOP_QUICK
        every = found
    else:
        found, changes = possible()
        every, groups, quick = WORKLOADS, {}, QUICK
    among(parser, "--workload", args.workload, (*groups, *every))
    names = args.workload or (every if args.full else quick)
    names = [each for name in names for each in groups.get(name, (name,))]
    args.workloads = {name: found[name] for name in names if name in found}
    args.changes = [change for change in changes if change.partition(":")[0] in names]


def writable(text):
    """A path in a folder that is there: better told before the measurements than after."""
    path = Path(text)
    if not path.absolute().parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {path.parent}")
    return path
