"""Other people's tests of asyncio, as they are, on Python's loop and on ours: `dev.py conformance`.

    conformance.py --python LANE --library FOLDER --suite NAME --tests FOLDER
        [--loop NAME] [MODULE…]

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
import time
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table

from . import here, suites
from .conformance_expected import EXPECTED
from .jobs import Job
from .steps import LAB, ROOT, say

LOOPS = {"stock": "stock", "iocpx": "iocpx:EventLoop"}
AT_ONCE = 2
TEST_SECONDS = 60
MODULE_SECONDS = 900  # of one process
WIDTH = 110
DETAIL = 4000  # characters of what a process has printed
COLUMNS = ("passed", "failed", "hung", "skipped")  # a crash counts as failed


def main(words):
    parser = argparse.ArgumentParser(prog="conformance.py")
    parser.add_argument("--python", required=True)
    parser.add_argument("--library", type=Path, required=True)
    parser.add_argument("--suite", choices=suites.SUITES, required=True)
    parser.add_argument("--tests", type=Path, required=True)
    parser.add_argument("--loop", choices=LOOPS)
    parser.add_argument("modules", nargs="*")
    options = parser.parse_args(words)
    lane = Lane(options.python, options.library, options.suite, options.tests)
    begin = time.monotonic()
    modules = options.modules or suites.modules(options.suite, options.tests)
    loops = [options.loop] if options.loop else list(LOOPS)
    found = run_all(lane, modules, loops)
    for loop in loops:
        retry(lane, loop, found)
    progress("")
    say(f"{len(modules)} modules, {time.monotonic() - begin:.0f} s\n")
    return report(lane, modules, loops, found)


class Lane:
    """A Windows Python, with the iocpx and the tests that it shall import."""

    def __init__(self, name, library, suite, tests):
        self.name, self.suite = name, suite
        self.package = suites.SUITES[suite].package
        self.argv, self.env = here.command(name, library, alone=True)
        windows_separator = ";"
        self.env["PYTHONPATH"] = windows_separator.join([here.name(tests), self.env["PYTHONPATH"]])

    def job(self, module, loop, passed_over):
        """A process that runs the module without the tests `passed_over`, and its file of events.

        An empty folder is its working folder.
        """
        home = LAB / "conformance" / self.name / self.suite / loop / module
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        ids = [f"{self.package}.{test}" for test in passed_over]
        (home / "passed-over.txt").write_text("\n".join(ids), encoding="utf-8")
        events = home / "events.txt"
        argv = [
            *(*self.argv, here.name(ROOT / "lab" / "run_module.py")),
            *(f"{self.package}.{module}", suites.SUITES[self.suite].tests),
            *(LOOPS[loop], str(TEST_SECONDS)),
            *(here.name(events), here.name(home / "passed-over.txt")),
        ]
        name = f"conformance-{self.name}-{self.suite}-{loop}-{module}"
        return Job(name, argv, self.env), events


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
            for done, future in enumerate(concurrent.futures.as_completed(futures), 1):
                module, loop = futures[future]
                found[loop][module] = future.result()
                so_far = f"{done:{len(str(len(cases)))}}/{len(cases)}"
                progress(f"{so_far} {module} on {loop}: {told(count(found[loop][module]))}")
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
        new, running, ended = parse(text, lane.package)
        results |= new
        if ended and job.status == 0:
            return results
        # faulthandler says so when a test or the interpreter's end has taken too long.
        outcome = "hung" if "Timeout (" in printed or not in_time else "crashed"
        # Where faulthandler begins, else the end.
        start = max(printed.rfind("Timeout ("), printed.rfind("Windows fatal exception"))
        detail = f"exit status {job.status}\n"
        detail += printed[start:][:DETAIL] if start >= 0 else printed[-DETAIL:]
        if running is None:
            where = "end" if ended else "somewhere between its tests"
            results[f"{module} (at its {where})"] = outcome, detail
            return results
        results[running] = outcome, detail
        if not in_time:
            return results


def parse(text, package):
    """What a module's events tell: its tests' outcomes; the test that had begun and has not ended,
    else None; whether the module has.  The tests' names are without the package's.
    """
    results, running, ended = {}, None, False
    for line in text.splitlines():
        event = json.loads(line)
        if "end" in event:
            ended = True
        elif "outcome" in event:
            results[short(event["test"], package)] = event["outcome"], event["detail"]
            running = None
        else:
            running = short(event["test"], package)
    return results, running, ended


def retry(lane, loop, found):
    """Run again what has failed without being expected to; what then passes has passed."""
    runs = Runs()
    expected = expectations(lane, loop)
    # Twice: two that both need a quiet machine may meet.
    for module, results in [*found[loop].items()] * 2:
        failed = [
            test
            for test, (outcome, _) in results.items()
            if not good(outcome) and test not in expected
        ]
        if not failed:
            continue
        progress(f"{module} on {loop}: once more, alone, {len(failed)} of its tests …")
        others = [test for test in results if test not in failed]
        again = run_module(lane, runs, module, loop, others)
        for test in failed:
            if test in again and good(again[test][0]):
                progress(f"{test} on {loop}: passes alone")
                results[test] = again[test]


def good(outcome):
    return outcome in ("passed", "skipped")


def short(test, package):
    return test.replace(package + ".", "", 1)


def expectations(lane, loop):
    """{test: its entry} of what is expected to fail.  The list is of the lab on Linux: it begins
    with what Wine does otherwise."""
    if sys.platform == "win32":
        return {}
    return {
        entry.test: entry
        for entry in EXPECTED
        if lane.suite == entry.suite and lane.name in entry.lanes and loop in entry.loops
    }


def compare(results, expected):
    """Two lists of tests: failed and not expected to; expected to fail, and passed or gone."""
    failed = {test: not good(outcome) for test, (outcome, _) in results.items()}
    unexplained = [test for test, bad in failed.items() if bad and test not in expected]
    stale = [
        test
        for test, entry in expected.items()
        if test not in failed or not (failed[test] or entry.sometimes)
    ]
    return unexplained, stale


def lost(stock, ours):
    """What passes on the stock loop and does not on ours, be it skipped or not there."""
    missing = "not run", ""
    return {
        test: ours.get(test, missing)
        for test, (outcome, _) in stock.items()
        if outcome == "passed" and ours.get(test, missing)[0] != "passed"
    }


def count(results):
    counted = Counter(outcome for outcome, _ in results.values())
    counted["failed"] += counted.pop("crashed", 0)
    return counted


def told(counted):
    return ", ".join(f"{counted[column]} {column}" for column in COLUMNS if counted[column])


def progress(text):
    """Say how far it is: on a terminal in a line that the next takes the place of."""
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns - 1
        say("\r\x1b[K" + text[:width], end="")
    elif text:
        say(text)


def report(lane, modules, loops, found):
    """Print the table, and of what is unexplained all there is to say; returns the exit status."""
    results, expected, unexplained, stale = {}, {}, {}, {}
    for loop in loops:
        results[loop] = {
            test: told_of for part in found[loop].values() for test, told_of in part.items()
        }
        expected[loop] = {
            test: entry
            for test, entry in expectations(lane, loop).items()
            if test.partition(".")[0] in modules
        }
        unexplained[loop], stale[loop] = compare(results[loop], expected[loop])
    # What has failed is among the unexplained of the loop already.
    less = lost(results["stock"], results["iocpx"]) if len(loops) > 1 else {}
    missing = [
        test
        for test, (outcome, _) in less.items()
        if outcome in ("skipped", "not run") and test not in expected["iocpx"]
    ]
    wrong = {loop: len(unexplained[loop]) + len(stale[loop]) for loop in loops}
    wrong[loops[-1]] += len(missing)

    # Elsewhere than on a terminal rich would take 80 columns.
    console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else WIDTH)
    console.print(table(lane, loops, results, wrong))
    for loop in loops:
        for test in unexplained[loop]:
            outcome, detail = results[loop][test]
            say(f"\n==== {loop}: {test} {outcome}\n{detail.rstrip()}")
        for test in stale[loop]:
            does = "does not" if test in results[loop] else "is not there"
            reason = expected[loop][test].reason
            say(f"\n==== {loop}: {test} is expected to fail, and {does}: {reason}")
    for test in missing:
        outcome, detail = less[test]
        say(f"\n==== iocpx: {test} passes on stock, {outcome} here\n{detail.rstrip()}")
    if len(loops) > 1:
        say(told_of_lost(less, expected["iocpx"]))
    every = sum(wrong.values())
    say(f"{every} unexplained" if every else "nothing is unexplained")
    return int(every > 0)


def told_of_lost(less, expected):
    """What stock passes and iocpx does not, with the reasons."""
    if not less:
        return "iocpx passes all that stock passes"
    lines = [f"stock passes and iocpx does not: {len(less)}"]
    for test, (outcome, _) in less.items():
        reason = expected[test].reason if test in expected else "unexplained"
        lines.append(f"  {test}: {outcome}; {reason}")
    return "\n".join(lines)


def table(lane, loops, results, wrong):
    made = Table(title=f"{lane.suite}'s tests of asyncio on {lane.name}", title_justify="left")
    made.add_column("loop")
    for column in (*COLUMNS, "unexplained"):
        made.add_column(column, justify="right")
    for loop in loops:
        counted = count(results[loop])
        made.add_row(loop, *[str(counted[column]) for column in COLUMNS], str(wrong[loop]))
    return made


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
