"""Run one module of unittest tests, on an event loop that is given by name, and tell of each test.

    run_module.py MODULE TESTS LOOP SECONDS EVENTS PASSED_OVER

Runs on the lane's Python, in the folder of EVENTS, and imports the standard library alone. TESTS
are patterns of the tests' names, with commas between. LOOP is "stock" or MODULE:CLASS; the class
takes the place of asyncio.ProactorEventLoop before a test is imported, so the tests stay as they
are. Programs that they start find it in the environment, as LOOP_UNDER_TEST. EVENTS gets a line of
JSON when a test begins and when it has ended. The file PASSED_OVER has the ids of the tests not to
run, one a line. A test that takes more than SECONDS ends the process, with the stacks of all
threads on stderr.
"""

import asyncio
import ctypes
import faulthandler
import importlib
import json
import os
import sys
import traceback
import unittest
from pathlib import Path


def main(module, tests, loop, seconds, events, passed_over):
    # The folder of this file, whose modules are no business of the tests.
    sys.path.remove(str(Path(__file__).parent))
    os.chdir(Path(events).parent)  # where tests leave their files
    faulthandler.enable()
    end_programs_too()
    watch = Watch(float(seconds))
    watch.start()
    os.environ["LOOP_UNDER_TEST"] = loop
    if loop != "stock":
        replace_loop(loop)
    with open(events, "a", encoding="utf-8") as file:
        result = Result(file, watch)
        loader = unittest.TestLoader()
        loader.testNamePatterns = tests.split(",")
        try:
            suite = loader.loadTestsFromName(module)
        except unittest.SkipTest as reason:
            result.tell(module, "skipped", str(reason))
        else:
            leave_out(suite, set(Path(passed_over).read_text(encoding="utf-8").splitlines()))
            suite.run(result)
        result.write(end=True)
    # What is left, an interpreter's end with its threads, has a time limit too.
    watch.start()


def end_programs_too():
    """Let Windows end what the tests start together with this process, whatever ends it."""
    if sys.platform != "win32":
        return
    kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
    kernel32.CreateJobObjectW.restype = ctypes.c_void_p
    kernel32.GetCurrentProcess.restype = ctypes.c_void_p
    limits = (ctypes.c_uint32 * 36)()  # JOBOBJECT_EXTENDED_LIMIT_INFORMATION
    limits[4] = 0x2000  # LimitFlags: JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE
    extended = 9  # JobObjectExtendedLimitInformation
    # Its handle is never closed: the process's end does that.
    job = ctypes.c_void_p(kernel32.CreateJobObjectW(None, None))
    process = ctypes.c_void_p(kernel32.GetCurrentProcess())
    if not (
        kernel32.SetInformationJobObject(job, extended, limits, ctypes.sizeof(limits))
        and kernel32.AssignProcessToJobObject(job, process)
    ):
        raise ctypes.WinError(ctypes.get_last_error())


class Watch:
    """Ends the process when what was started last takes too long."""

    def __init__(self, seconds):
        self.seconds = seconds
        # A test may put something else in the place of sys.stderr.
        self.output = sys.stderr

    def start(self):
        faulthandler.dump_traceback_later(self.seconds, exit=True, file=self.output)


def replace_loop(name):
    """Make asyncio's default loop on Windows, and whoever asks for ProactorEventLoop, have it."""
    module, _, attribute = name.partition(":")
    ours = getattr(importlib.import_module(module), attribute)
    stock = asyncio.ProactorEventLoop
    # By which some tests know what asyncio's can do.
    ours.__module__ = stock.__module__
    for place in (asyncio, asyncio.windows_events):
        for attribute in [key for key, value in vars(place).items() if value is stock]:
            setattr(place, attribute, ours)
        for value in list(vars(place).values()):
            # The policy that makes it; its name has an underscore from 3.14 on.
            if isinstance(value, type) and vars(value).get("_loop_factory") is stock:
                value._loop_factory = ours


def leave_out(suite, ids):
    """Remove the tests from the suite and what it consists of."""
    for part in suite:
        if isinstance(part, unittest.TestSuite):
            leave_out(part, ids)
    suite._tests = [
        part for part in suite if isinstance(part, unittest.TestSuite) or part.id() not in ids
    ]


class Result(unittest.TestResult):
    """Writes what becomes of each test as soon as it is known."""

    def __init__(self, file, watch):
        super().__init__()
        self.file, self.watch = file, watch
        self.outcome = None  # of the running test, with what there is to say

    def write(self, **event):
        self.file.write(json.dumps(event) + "\n")
        self.file.flush()

    def tell(self, test, outcome, detail=""):
        self.write(test=test, outcome=outcome, detail=detail)

    def startTest(self, test):
        super().startTest(test)
        self.watch.start()
        self.outcome = "passed", ""
        self.write(test=test.id())

    def stopTest(self, test):
        super().stopTest(test)
        self.tell(test.id(), *self.outcome)
        self.outcome = None
        self.watch.start()

    def becomes(self, test, outcome, detail):
        if self.outcome is None:
            # Of a class or module that could not be set up: its tests do not begin.
            self.tell(test.id(), outcome, detail)
        elif self.outcome[0] != "failed":
            self.outcome = outcome, detail

    def addError(self, test, error):
        self.becomes(test, "failed", "".join(traceback.format_exception(*error)))

    addFailure = addError

    def addSubTest(self, test, subtest, error):
        if error:
            text = "".join(traceback.format_exception(*error))
            self.becomes(test, "failed", f"{subtest.id()}\n{text}")

    def addSkip(self, test, reason):
        self.becomes(test, "skipped", reason)

    def addUnexpectedSuccess(self, test):
        self.becomes(test, "failed", "a test that is expected to fail has passed")


if __name__ == "__main__":
    main(*sys.argv[1:])
