"""The rows of scheduling side by side: a column for each loop, and what they come to together."""

import math
import statistics

from .loops import OURS
from .scheduling import ROWS

HEADING = "thousand operations/s"
MEAN = "geometric mean"
BY_BEST = f"{OURS} by best"


def of_scheduling(rows_of):
    """Among all rows of a run, those of scheduling: by title, the medians of the loops' rates."""
    return {
        str(workload): {name: row.median("rate") for name, row in rows.items()}
        for (_, workload), rows in rows_of.items()
        if workload.row
    }


def title(rows_of):
    """With the arrangement: there is one only."""
    return f"scheduling, {next(arrangement for arrangement, workload in rows_of if workload.row)}"


def means(table):
    """By loop the geometric mean of its rates, for those that have them all."""
    every = set.intersection(*(set(rates) for rates in table.values())) if table else set()
    return {
        name: statistics.geometric_mean([rates[name] for rates in table.values()])
        for name in next(iter(table.values()), ())
        if name in every
    }


def is_whole(table):
    """Whether it has every row, without which a mean tells nothing of the whole."""
    return len(table) == len(ROWS)


def by_best_other(rates):
    """Our rate by that of the best other loop; None where one of them is missing."""
    others = [rate for name, rate in rates.items() if name != OURS]
    if OURS not in rates or not others:
        return None
    return rates[OURS] / max(others)


def lines(table):
    """The heading and the rows as texts, the mean as the last one."""
    shown = {**table, MEAN: means(table)} if len(table) > 1 else table
    names = list(dict.fromkeys(name for rates in table.values() for name in rates))
    ours = any(by_best_other(rates) for rates in table.values())
    found = [[HEADING, *names, *([BY_BEST] if ours else [])]]
    for title, rates in shown.items():
        cells = [thousands(rates.get(name)) for name in names]
        if ours:
            ratio = by_best_other(rates)
            cells.append("" if ratio is None else f"{ratio:.2f}")
        found.append([title, *cells])
    return found


def thousands(rate):
    """With three digits at least."""
    if rate is None:
        return ""
    rounded = float(f"{rate / 1000:.2e}")
    digits = max(0, 2 - math.floor(math.log10(rounded)))
    return f"{rate / 1000:,.{digits}f}"
