"""dev.py conformance: what run_module.py tells of tests, and what is made of it.

On the host's Python, with tests made here; and a few modules of CPython's own as the command runs
them.
"""

import contextlib
import json
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from lab import build, conformance, here  # noqa: E402 - found only now
from lab.conformance_expected import BOTH, EVERY_LANE, EXPECTED, Expected  # noqa: E402
from lab.jobs import Job  # noqa: E402

MODULE = """
import os, time, unittest

class Tests(unittest.TestCase):
    def test_a_passes(self):
        pass
    def test_b_fails(self):
        self.assertEqual(1, 2, "what went wrong")
    def test_c_crashes(self):
        os._exit(7)
    @unittest.skip("no reason")
    def test_d_is_skipped(self):
        pass
    def test_e_hangs(self):
        time.sleep(1000)
    def test_f_fails_in_a_part(self):
        for i in range(3):
            with self.subTest(i=i):
                self.assertNotEqual(i, 1)
    @unittest.expectedFailure
    def test_g_passes_unexpectedly(self):
        pass
    @unittest.expectedFailure
    def test_h_fails_as_expected(self):
        self.fail()
    def test_i_passes_last(self):
        pass

class Unborn(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        raise OSError("no luck")
    def test_never_runs(self):
        pass
"""
OUTCOMES = {
    "Tests.test_a_passes": "passed",
    "Tests.test_b_fails": "failed",
    "Tests.test_c_crashes": "crashed",
    "Tests.test_d_is_skipped": "skipped",
    "Tests.test_e_hangs": "hung",
    "Tests.test_f_fails_in_a_part": "failed",
    "Tests.test_g_passes_unexpectedly": "failed",
    "Tests.test_h_fails_as_expected": "passed",
    "Tests.test_i_passes_last": "passed",
    "setUpClass (Unborn)": "failed",
}


class HostLane:
    """A lane that is the host's Python, with modules in a folder."""

    package = "made"

    def __init__(self, folder, tests):
        self.folder, self.tests = folder, tests
        self.started = []  # which tests each process was to pass over

    def job(self, module, loop, passed_over):
        self.started.append(list(passed_over))
        over, events = self.folder / "over.txt", self.folder / "events.txt"
        over.write_text("\n".join(f"made.{test}" for test in passed_over))
        events.unlink(missing_ok=True)
        argv = [sys.executable, ROOT / "lab" / "run_module.py", f"made.{module}", self.tests, loop]
        argv += ["10", events, over]
        env = {**here.build_environment(), "PYTHONPATH": str(self.folder)}
        return Job(f"test-{module}", argv, env), events


def run(folder, source, tests="*"):
    (folder / "made").mkdir()
    (folder / "made" / "module.py").write_text(source)
    lane = HostLane(folder, tests)
    found = conformance.run_module(lane, conformance.Runs(), "module", "stock")
    return {test.replace("module.", ""): told for test, told in found.items()}, lane


@pytest.mark.slow("waits for what hangs")
def test_every_test_of_a_module_is_told_of_whatever_hangs_or_crashes(tmp_path):
    found, lane = run(tmp_path, MODULE)
    assert {test: outcome for test, (outcome, _) in found.items()} == OUTCOMES
    assert "what went wrong" in found["Tests.test_b_fails"][1]
    assert "exit status 7" in found["Tests.test_c_crashes"][1]
    assert "test_e_hangs" in found["Tests.test_e_hangs"][1], "the stack of the test that hung"
    assert "(i=1)" in found["Tests.test_f_fails_in_a_part"][1]
    assert "no luck" in found["setUpClass (Unborn)"][1]
    # Once, once more behind the crash, once more behind the test that hung.
    assert [len(passed_over) for passed_over in lane.started] == [0, 3, 5]


def test_a_module_that_is_skipped_as_a_whole(tmp_path):
    found, _ = run(tmp_path, "import unittest\nraise unittest.SkipTest('not here')")
    assert found == {"module": ("skipped", "not here")}


def test_a_module_that_cannot_be_imported_has_failed(tmp_path):
    found, _ = run(tmp_path, "import nothing_of_this_name")
    ((outcome, detail),) = found.values()
    assert outcome == "failed"
    assert "nothing_of_this_name" in detail


def test_only_the_tests_of_the_patterns_are_run(tmp_path):
    found, _ = run(tmp_path, MODULE, "*test_a_*,*.test_b_*")
    assert list(found) == ["Tests.test_a_passes", "Tests.test_b_fails"]


@pytest.mark.slow("waits for what hangs")
def test_an_interpreter_that_does_not_end_is_told_of(tmp_path):
    source = (
        "import threading, time, unittest\n"
        "class Tests(unittest.TestCase):\n"
        "    def test(self):\n"
        "        threading.Thread(target=time.sleep, args=(1000,)).start()\n"
    )
    found, _ = run(tmp_path, source)
    assert {test: outcome for test, (outcome, _) in found.items()} == {
        "Tests.test": "passed",
        "module (at its end)": "hung",
    }


def run_on_lane(folder, module, loop):
    """What became of a module's tests on the default lane."""
    (folder / "over.txt").write_text("")
    lane = here.default_lane()
    argv, env = here.command(lane, build.library(lane))
    env["PYTHONPATH"] = here.name(folder)
    argv += [here.name(ROOT / "lab" / "run_module.py"), module, "*", loop, "60"]
    argv += [here.name(folder / "events.txt"), here.name(folder / "over.txt")]
    done = subprocess.run(
        argv,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=100,
    )
    results, running, ended = conformance.parse((folder / "events.txt").read_text(), "made")
    assert ended and running is None, done.stdout
    return results


def test_the_loop_is_replaced_wherever_asyncio_has_it(tmp_path):
    (tmp_path / "ours.py").write_text(
        "import asyncio\nclass Loop(asyncio.ProactorEventLoop):\n    pass\n"
    )
    (tmp_path / "module_under_test.py").write_text(
        "import asyncio, os, unittest, ours\n"
        "class Tests(unittest.TestCase):\n"
        "    def check(self, loop):\n"
        "        loop.close()\n"
        "        self.assertIs(type(loop), ours.Loop)\n"
        "        self.assertEqual(type(loop).__module__, 'asyncio.windows_events')\n"
        "    def test_by_name(self):\n"
        "        self.check(asyncio.ProactorEventLoop())\n"
        "    def test_new(self):\n"
        "        self.check(asyncio.new_event_loop())\n"
        "    def test_run(self):\n"
        "        async def main():\n"
        "            return asyncio.get_running_loop()\n"
        "        self.check(asyncio.run(main()))\n"
        "    def test_told_to_programs(self):\n"
        "        self.assertEqual(os.environ['LOOP_UNDER_TEST'], 'ours:Loop')\n"
        "    def test_selector(self):\n"
        "        loop = asyncio.SelectorEventLoop()\n"
        "        loop.close()\n"
        "        self.assertIsNot(type(loop), ours.Loop)\n"
    )
    results = run_on_lane(tmp_path, "module_under_test", "ours:Loop")
    assert len(results) == 5
    assert {outcome for outcome, _ in results.values()} == {"passed"}, results


def test_a_program_that_a_test_leaves_behind_ends_with_the_module(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        program = (
            "import socket, time\n"
            f"connection = socket.create_connection(('127.0.0.1', {server.getsockname()[1]}))\n"
            "print('connected', flush=True)\n"
            "time.sleep(1000)\n"
        )
        (tmp_path / "leaves.py").write_text(
            "import subprocess, sys, unittest\n"
            "class Tests(unittest.TestCase):\n"
            "    def test(self):\n"
            f"        argv = [sys.executable, '-c', {program!r}]\n"
            "        left = subprocess.Popen(argv, stdout=subprocess.PIPE)\n"
            "        self.assertIn(b'connected', left.stdout.readline())\n"
        )
        results = run_on_lane(tmp_path, "leaves", "stock")
        assert {outcome for outcome, _ in results.values()} == {"passed"}, results
        connection, _ = server.accept()
        with connection:
            connection.settimeout(60)
            with contextlib.suppress(ConnectionResetError):  # as Windows ends it
                assert connection.recv(1) == b""


# -- what is made of it

LANE = SimpleNamespace(name="3.13", suite="cpython")


def test_parse_knows_which_test_was_running():
    lines = [{"test": "p.a"}, {"test": "p.a", "outcome": "passed", "detail": ""}, {"test": "p.b"}]
    text = "\n".join(map(json.dumps, lines))
    assert conformance.parse(text, "p") == ({"a": ("passed", "")}, "b", False)
    lines += [{"test": "p.b", "outcome": "failed", "detail": "why"}, {"end": True}]
    text = "\n".join(map(json.dumps, lines))
    ended = {"a": ("passed", ""), "b": ("failed", "why")}, None, True
    assert conformance.parse(text, "p") == ended


def results(**outcomes):
    return {test: (outcome, "") for test, outcome in outcomes.items()}


def test_what_fails_must_be_expected_and_what_is_expected_must_fail():
    found = results(a="passed", b="failed", c="hung", d="crashed", e="skipped", f="failed")
    entries = [Expected(test, "a reason") for test in ("b", "a", "e", "gone")]
    expected = {entry.test: entry for entry in entries}
    unexplained, stale = conformance.compare(found, expected)
    assert unexplained == ["c", "d", "f"]
    assert sorted(stale) == ["a", "e", "gone"]


@pytest.mark.parametrize("outcome", ["passed", "failed"])
def test_what_fails_sometimes_may_pass_and_must_be_there(outcome):
    entry = Expected("a", "a reason", sometimes=True)
    assert conformance.compare(results(a=outcome), {"a": entry}) == ([], [])
    assert conformance.compare(results(b="passed"), {"a": entry}) == ([], ["a"])


def test_what_stock_passes_and_ours_does_not():
    stock = results(a="passed", b="passed", c="failed", d="passed", e="passed", f="skipped")
    ours = results(a="passed", b="failed", c="failed", d="skipped")
    lost = conformance.lost(stock, ours)
    assert {test: outcome for test, (outcome, _) in lost.items()} == {
        "b": "failed",
        "d": "skipped",
        "e": "not run",
    }


@pytest.mark.skipif(sys.platform == "win32", reason="the list is of the lab on Linux")
@pytest.mark.parametrize(
    "stock, ours, listed, status",
    [
        ("passed", "passed", (), 0),
        ("passed", "failed", (), 1),
        ("passed", "skipped", (), 1),
        ("passed", None, (), 1),
        ("failed", "failed", (), 1),
        ("failed", "failed", ("stock", "iocpx"), 0),
        ("failed", "failed", ("stock",), 1),
        ("passed", "failed", ("iocpx",), 0),
        ("passed", "passed", ("iocpx",), 1),
        ("failed", "passed", ("stock",), 0),
    ],
)
def test_the_exit_status(monkeypatch, stock, ours, listed, status):
    monkeypatch.setattr(
        conformance, "EXPECTED", [Expected("test_m.T.t", "a reason", listed)] if listed else []
    )
    found = {
        "stock": {"test_m": results(**{"test_m.T.t": stock})},
        "iocpx": {"test_m": results(**({"test_m.T.t": ours} if ours else {}))},
    }
    assert conformance.report(LANE, ["test_m"], ["stock", "iocpx"], found) == status


@pytest.mark.skipif(sys.platform == "win32", reason="the list is of the lab on Linux")
def test_what_is_printed(monkeypatch, capsys):
    entries = [Expected("test_m.T.known", "a reason"), Expected("test_m.T.cured", "another")]
    monkeypatch.setattr(conformance, "EXPECTED", entries)
    stock = results(**{"test_m.T.known": "failed", "test_m.T.cured": "hung"})
    ours = {"test_m.T.known": ("failed", "known"), "test_m.T.new": ("failed", "what happened")}
    found = {"stock": {"test_m": stock}, "iocpx": {"test_m": ours}}
    assert conformance.report(LANE, ["test_m"], ["stock", "iocpx"], found) == 1
    printed = capsys.readouterr().out
    rows = [line.split("│")[1:-1] for line in printed.splitlines() if line.startswith("│")]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["stock", "0", "1", "1", "0", "0"],
        ["iocpx", "0", "2", "0", "0", "2"],
    ]
    assert "test_m.T.new failed\nwhat happened" in printed
    assert "test_m.T.cured is expected to fail, and is not there: another" in printed
    assert "known" not in printed, "what is explained is not told"
    assert printed.endswith("2 unexplained\n")


def test_a_list_for_modules_that_were_not_run_is_left_alone(monkeypatch):
    monkeypatch.setattr(conformance, "EXPECTED", [Expected("test_n.T.t", "a reason")])
    found = {"stock": {"test_m": results(**{"test_m.T.t": "passed"})}}
    assert conformance.report(LANE, ["test_m"], ["stock"], found) == 0


@pytest.mark.parametrize(
    "entry",
    [Expected("test_m.T.t", "", suite="winloop"), Expected("test_m.T.t", "", lanes=("3.11",))],
)
def test_the_list_of_another_suite_or_lane_is_left_alone(monkeypatch, entry):
    monkeypatch.setattr(conformance, "EXPECTED", [entry])
    found = {"stock": {"test_m": results(**{"test_m.T.t": "passed"})}}
    assert conformance.report(LANE, ["test_m"], ["stock"], found) == 0


def test_the_list_is_in_order():
    keys = [
        (entry.suite, entry.test, loop, lane)
        for entry in EXPECTED
        for loop in entry.loops
        for lane in entry.lanes
    ]
    assert len(set(keys)) == len(keys), "one entry for each test, loop and lane"
    for entry in EXPECTED:
        assert entry.reason.strip(), entry
        assert set(entry.loops) <= set(BOTH) and set(entry.lanes) <= set(EVERY_LANE), entry


@pytest.mark.skipif(sys.platform == "win32", reason="fetches CPython's tests from Debian")
@pytest.mark.slow("fetches CPython's tests, and runs some of them")
def test_some_of_cpythons_own_pass_on_our_loop():
    modules = ["test_server", "test_streams", "test_buffered_proto", "test_proactor_events"]
    done = subprocess.run(
        [sys.executable, ROOT / "dev.py", "conformance", "--loop", "iocpx", *modules],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout
    assert "nothing is unexplained" in done.stdout, done.stdout
