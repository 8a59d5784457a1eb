"""What the project wants of its event loop, as far as `--loops` can tell."""

from . import scheduling_table
from .loops import LOOPS, OURS
from .targets import ASYNCIO, KIB, WINLOOP, Target, ratio, tls_adds, tls_targets

OTHERS = tuple(name for name in LOOPS if name != OURS)
# asyncio is compared with apart.
OTHERS_BUT_ASYNCIO = tuple(name for name in OTHERS if name != ASYNCIO)
BODIES = ("uvicorn-in", "uvicorn-out", "aiohttp-in", "aiohttp-out")


def least_row(m):
    table = scheduling_table.of_scheduling(m.bench.rows)
    ratios = [scheduling_table.by_best_other(rates) for rates in table.values()]
    found = [value for value in ratios if value is not None]
    if not found:
        raise LookupError("scheduling")
    return min(found)


def mean_of_rows(m):
    table = scheduling_table.of_scheduling(m.bench.rows)
    value = scheduling_table.by_best_other(scheduling_table.means(table))
    if value is None or not scheduling_table.is_whole(table):
        raise LookupError("scheduling")
    return value


def least_body(m):
    """Of those measured."""
    found = []
    for name in BODIES:
        try:
            found.append(m(OURS, "rate", name) / m.best(OTHERS, "rate", name))
        except LookupError:
            continue
    if not found:
        raise LookupError(BODIES)
    return min(found)


def worst_p99(m):
    """By the best other's, over all that was measured pinned and has latencies."""
    found = []
    for name in m.names():
        try:
            found.append(m(OURS, "p99_us", name) / m.least(OTHERS, "p99_us", name))
        except LookupError:
            continue
    if not found:
        raise LookupError("p99_us")
    return max(found)


def overhead_by_least(m):
    """Of CPU time above the ceiling's."""
    return m.overhead(OURS) / min(m.overhead(name) for name in m.among(OTHERS))


LOOP_TARGETS = (
    Target("scheduling: the least row by the best other loop's", "≥", 1, least_row),
    Target("scheduling: geometric mean by the best other loop's", "≥", 1.2, mean_of_rows),
    Target("echo: CPU µs above the ceiling, pinned", "≤", 4, lambda m: m.overhead(OURS)),
    Target("echo: that by the least other loop's", "≤", 1, overhead_by_least),
    Target("echo: msg/s by asyncio's, pinned", "≥", 1.6, ratio(OURS, [ASYNCIO])),
    Target("echo: msg/s by the best other loop's, pinned", "≥", 1.15, ratio(OURS, OTHERS)),
    Target(
        "streams: msg/s by asyncio's, pinned",
        "≥",
        1.4,
        ratio(OURS, [ASYNCIO], "rate", "streams-64"),
    ),
    *tls_targets("", OURS, OTHERS),
    Target(
        "uvicorn over TLS: requests/s by the best other loop's",
        "≥",
        1.15,
        ratio(OURS, OTHERS, "rate", "uvicorn-tls"),
    ),
    Target(
        "uvicorn over TLS: CPU that TLS adds by the least that it adds to another loop's",
        "≤",
        0.7,
        tls_adds(OURS, OTHERS, "uvicorn", "uvicorn-tls"),
    ),
    Target("uvicorn: requests/s by asyncio's", "≥", 9, ratio(OURS, [ASYNCIO], "rate", "uvicorn")),
    Target(
        "uvicorn: requests/s by the best other loop's",
        "≥",
        1.05,
        ratio(OURS, OTHERS_BUT_ASYNCIO, "rate", "uvicorn"),
    ),
    Target(
        "uvicorn: CPU per request by the least other loop's",
        "≤",
        1,
        lambda m: m(OURS, "cpu_us", "uvicorn") / m.least(OTHERS, "cpu_us", "uvicorn"),
    ),
    Target(
        "aiohttp: requests/s by the best other loop's",
        "≥",
        1.1,
        ratio(OURS, OTHERS, "rate", "aiohttp"),
    ),
    Target("1 MiB bodies, in and out: the least by the best other's", "≥", 1.15, least_body),
    Target("churn by asyncio's", "≥", 2, ratio(OURS, [ASYNCIO], "rate", "churn")),
    Target("churn by winloop's", "≥", 1.2, ratio(OURS, [WINLOOP], "rate", "churn")),
    Target(
        "KiB per idle connection, 2,000 of them",
        "≤",
        3,
        lambda m: m(OURS, "idle_bytes", "idle-2k") / KIB,
    ),
    Target("p99 by the best other loop's, the most of all", "≤", 1.1, worst_p99),
)
