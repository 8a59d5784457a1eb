"""CPython's own tests of asyncio, as they are, on Python's loop and on ours: `dev.py conformance`.

    conformance.py --python LANE --library FOLDER --suite FOLDER [--loop NAME] [MODULE…]

Runs in the lab's virtual environment, which has rich. Each module of tests is a process of the
lane's Python (run_module.py), so that whatever a test leaves behind meets no other module. A test
that hangs ends the process, and one that crashes does too; the module is then run again for those
tests that have not ended. What fails and is not in conformance_expected.py is tried once more, with
nothing beside it: many tests have time limits of their own, made for a quiet machine. It has failed
if it fails again.
"""

import argparse
import concurrent.futures
import json
import shutil
import sys
import threading
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table

from . import here
from .conformance_expected import EXPECTED
from .jobs import Job
from .steps import LAB, ROOT, say

LOOPS = {"stock": "stock", "iocpx": "iocpx:EventLoop"}
PACKAGE = "test.test_asyncio"
AT_ONCE = 2
TEST_SECONDS = 60
MODULE_SECONDS = 900  # of one process
COLUMNS = ("passed", "failed", "hung", "skipped")  # a crash counts as failed


def main(words):
    parser = argparse.ArgumentParser(prog="conformance.py")
    parser.add_argument("--python", required=True)
    parser.add_argument("--library", type=Path, required=True)
    parser.add_argument("--suite", type=Path, required=True)
    parser.add_argument("--loop", choices=LOOPS)
    parser.add_argument("modules", nargs="*")
    options = parser.parse_args(words)
    lane = Lane(options.python, options.library, options.suite)
    modules = options.modules or lane.modules()
    loops = [options.loop] if options.loop else list(LOOPS)
    found = run_all(lane, modules, loops)
    for loop in loops:
        retry(lane, loop, found)
    return report(lane.name, modules, loops, found)


class Lane:
    """A Windows Python, with the iocpx and the tests that it shall import."""

    def __init__(self, name, library, suite):
        self.name, self.suite = name, suite
        self.argv, self.env = here.command(name, library, alone=True)
        separator = ";"  # Windows'
        self.env["PYTHONPATH"] += separator + here.name(suite)

    def modules(self):
        folder = self.suite.joinpath(*PACKAGE.split("."))
        return sorted(path.stem for path in folder.glob("test_*.py"))

    def job(self, module, loop, passed_over):
        """A process that runs the module without the tests `passed_over`, and its file of events.

        An empty folder is its working folder.
        """
        home = LAB / "conformance" / self.name / loop / module
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        (home / "passed-over.txt").write_text("\n".join(passed_over), encoding="utf-8")
        events = home / "events.txt"
        argv = [
            *(*self.argv, here.name(ROOT / "lab" / "run_module.py"), f"{PACKAGE}.{module}"),
            *(LOOPS[loop], str(TEST_SECONDS)),
            *(here.name(events), here.name(home / "passed-over.txt")),
        ]
        return Job(f"conformance-{self.name}-{loop}-{module}", argv, self.env), events


class Runs:
    """The processes that run, so that all can be ended."""

    def __init__(self):
        self.jobs, self.stopped = set(), False

    def run(self, job):
        """Run the job; returns whether it has ended in time."""
        if self.stopped:
            raise KeyboardInterrupt
        late = threading.Event()

        def end():
            late.set()
            job.process.kill()

        timer = threading.Timer(MODULE_SECONDS, end)
        timer.start()
        self.jobs.add(job)
        try:
            job.run()
        finally:
            self.jobs.discard(job)
            timer.cancel()
        return not late.is_set()

    def stop(self):
        self.stopped = True
        for job in list(self.jobs):
            if job.process:
                job.process.kill()


def run_all(lane, modules, loops):
    """{loop: {module: {test: (outcome, detail)}}}."""
    runs = Runs()
    cases = [(module, loop) for module in modules for loop in loops]
    found = {loop: {} for loop in loops}
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        futures = {pool.submit(run_module, lane, runs, *case): case for case in cases}
        try:
            for future in concurrent.futures.as_completed(futures):
                module, loop = futures[future]
                found[loop][module] = future.result()
                say(f"{loop}: {module}: {told(count(found[loop][module]))}")
        except BaseException:
            runs.stop()
            for future in futures:
                future.cancel()
            raise
    return found


def run_module(lane, runs, module, loop, passed_over=()):
    """{test: (outcome, detail)} of the module, but for the tests `passed_over`."""
    results = {}
    while True:
        job, events = lane.job(module, loop, [*passed_over, *results])
        in_time = runs.run(job)
        text = events.read_text(encoding="utf-8") if events.exists() else ""
        printed = job.output.read_text(encoding="utf-8", errors="replace")
        new, running, ended = parse(text)
        results |= new
        if ended and job.status == 0:
            return results
        # faulthandler says so when a test or the interpreter's end has taken too long.
        outcome = "hung" if "Timeout (" in printed or not in_time else "crashed"
        detail = f"exit status {job.status}\n{printed[-4000:]}"
        if running is None:
            where = "end" if ended else "somewhere between its tests"
            results[f"{PACKAGE}.{module} (at its {where})"] = outcome, detail
            return results
        results[running] = outcome, detail
        if not in_time:
            return results


def parse(text):
    """What a module's events tell: its tests' outcomes; the test that had begun and has not ended,
    else None; whether the module has.
    """
    results, running, ended = {}, None, False
    for line in text.splitlines():
        event = json.loads(line)
        if "end" in event:
            ended = True
        elif "outcome" in event:
            results[event["test"]] = event["outcome"], event["detail"]
            running = None
        else:
            running = event["test"]
    return results, running, ended


def retry(lane, loop, found):
    """Run again what has failed without being expected to; what then passes has passed."""
    runs = Runs()
    for module, results in found[loop].items():
        expected = expectations(lane.name, loop)
        failed = [
            test
            for test, (outcome, _) in results.items()
            if not good(outcome) and short(test) not in expected
        ]
        if not failed:
            continue
        say(f"{loop}: {module}: once more, {len(failed)} of its tests …")
        others = [test for test in results if test not in failed]
        again = run_module(lane, runs, module, loop, others)
        for test in failed:
            if test in again and good(again[test][0]):
                say(f"{loop}: {short(test)} passes alone")
                results[test] = again[test]


def good(outcome):
    return outcome in ("passed", "skipped")


def short(test):
    """The test's name without that of the package, which all have."""
    return test.replace(PACKAGE + ".", "")


def expectations(lane, loop):
    """{test: reason} of what is expected to fail."""
    return {
        entry.test: entry.reason
        for entry in EXPECTED
        if lane in entry.lanes and loop in entry.loops
    }


def compare(results, expected):
    """Two lists of tests: failed and not expected to; expected to fail, and passed or gone."""
    failed = [short(test) for test, (outcome, _) in results.items() if not good(outcome)]
    unexplained = [test for test in failed if test not in expected]
    return unexplained, [test for test in expected if test not in failed]


def lost(stock, ours):
    """What passes on the stock loop and does not on ours, be it skipped or not there."""
    missing = "not run", ""
    return {
        short(test): ours.get(test, missing)
        for test, (outcome, _) in stock.items()
        if outcome == "passed" and ours.get(test, missing)[0] != "passed"
    }


def count(results):
    counted = Counter(outcome for outcome, _ in results.values())
    counted["failed"] += counted.pop("crashed", 0)
    return counted


def told(counted):
    return ", ".join(f"{counted[column]} {column}" for column in COLUMNS)


def report(lane, modules, loops, found):
    """Print the table and what there is to say; returns the exit status."""
    console = Console(highlight=False, markup=False)
    console.print(table(lane, modules, loops, found))
    wrong = 0
    for loop in loops:
        results = {key: value for part in found[loop].values() for key, value in part.items()}
        expected = {
            test: reason
            for test, reason in expectations(lane, loop).items()
            if test.partition(".")[0] in modules
        }
        unexplained, stale = compare(results, expected)
        details = {short(test): told for test, told in results.items()}
        for test in unexplained:
            outcome, detail = details[test]
            say(f"\n==== {loop}: {test} {outcome}\n{detail.rstrip()}")
        for test in stale:
            say(f"\n==== {loop}: {test} is expected to fail, and does not: {expected[test]}")
        wrong += len(unexplained) + len(stale)
        say(f"\n{loop}: {len(unexplained)} unexplained, {len(stale)} expected to fail and do not")
    if len(loops) > 1:
        every = [
            {key: value for part in found[loop].values() for key, value in part.items()}
            for loop in loops
        ]
        difference = lost(*every)
        expected = expectations(lane, "iocpx")
        say(f"\npassed by stock and not by iocpx: {len(difference)}")
        for test, (outcome, _) in difference.items():
            say(f"  {test}: {outcome}; {expected.get(test, 'unexplained')}")
            # What has failed was counted above.
            wrong += test not in expected and outcome in ("skipped", "not run")
    return int(wrong > 0)


def table(lane, modules, loops, found):
    made = Table(title=f"CPython's test_asyncio on {lane}")
    made.add_column("module")
    for loop in loops:
        for column in COLUMNS:
            made.add_column(f"{loop}\n{column}", justify="right")
    total = {loop: Counter() for loop in loops}
    for module in modules:
        cells = []
        for loop in loops:
            counted = count(found[loop][module])
            total[loop] += counted
            cells += [str(counted[column]) for column in COLUMNS]
        made.add_row(module, *cells)
    made.add_section()
    made.add_row("all", *[str(total[loop][column]) for loop in loops for column in COLUMNS])
    return made


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
