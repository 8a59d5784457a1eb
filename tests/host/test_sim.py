"""The engine on the simulated kernel of tests/sim: a short run of what `dev.py sim` does."""

import re
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from lab import sim, simulate  # noqa: E402 - found only now
from lab.steps import exclusive  # noqa: E402

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="the simulated kernel is compiled on Linux"
)
# What there is time for beside the other tests; `dev.py sim` has more of each.
RUNS = 3000
SWEEP_SEEDS = 1
THREADS_RUNS = 100


@pytest.fixture(scope="module")
def program():
    with exclusive():
        sim.install()
        return sim.prepare()


@pytest.mark.slow("many runs")
def test_nothing_goes_wrong_in_many_schedules(program):
    assert simulate.random_runs(program, 1, RUNS, {}) == RUNS


@pytest.mark.slow("many runs")
def test_nothing_goes_wrong_whatever_call_fails(program):
    runs, failed = simulate.sweep(program, SWEEP_SEEDS)
    assert runs == sum(failed.values()), "a call that was to fail did not come"
    assert [name for name, count in failed.items() if count == 0] == []


def test_what_failed_once_is_good_now(program):
    assert simulate.corpus(program) > 0


@pytest.mark.slow("many runs")
def test_streams_are_cut_into_messages_as_python_does_it(program):
    assert simulate.framing(program, 300) == 4


# `dev.py sim --fuzz` fetches it.
@pytest.mark.skipif(shutil.which("clang") is None, reason="there is no clang, which has libFuzzer")
@pytest.mark.slow("a build of its own")
def test_libfuzzer_finds_no_stream_that_is_cut_wrongly():
    assert simulate.fuzz(200_000) == 0


@pytest.mark.slow("a build of its own, with ThreadSanitizer")
def test_threads_do_not_race():
    assert simulate.threads(1, THREADS_RUNS, {}) == 0


def test_every_function_of_the_system_is_made_to_fail_or_cannot(program):
    declared = (ROOT / "iocpx" / "_winsock.pxd").read_text()
    names = set(re.findall(r"^    \w[\w ]*?[ *]+(\w+)\(", declared, re.MULTILINE))
    names |= {"AcceptEx", "GetAcceptExSockaddrs", "ConnectEx", "TransmitFile"}  # by pointer
    names |= {"malloc", "calloc"}
    # Asked for beside the engine:
    names -= {"GetTickCount64", "DeviceIoControl", "ReOpenFile", "CreateFileW", "GetFileType"}
    names -= {"FlushFileBuffers", "SetFileInformationByHandle"}
    printed = simulate.output(program, ["--functions"])
    assert {line.split()[0] for line in printed.splitlines()} == names
    assert "CreateIoCompletionPort 8 1450" in printed


def test_a_seed_gives_the_same_run_again(program):
    words = ["--seed", 7, "--runs", 20, "--trace"]
    first = simulate.output(program, words)
    assert "connection_lost" in first and "AcceptEx" in first
    assert simulate.output(program, words) == first


def test_a_run_that_does_not_end_is_stopped_and_has_failed(program):
    words = ["--seed", 7, "--runs", 10**9, "--patience", 0]
    with pytest.raises(simulate.Wrong, match="it does not end") as caught:
        simulate.output(program, words)
    assert simulate.failing_seed(str(caught.value)) >= 7


def test_another_seed_gives_another_run(program):
    words = ["--trace", "--seed"]
    assert simulate.output(program, [*words, 7]) != simulate.output(program, [*words, 8])


def test_a_knob_fixes_what_the_seed_decides(program):
    words = ["--seed", 7, "--trace", "--set", "polled=0", "--set"]
    assert "worker 1" in simulate.output(program, [*words, "workers=1"])
    assert "worker 3" in simulate.output(program, [*words, "workers=3"])
    assert "worker 2" not in simulate.output(program, [*words, "workers=1"])


def test_services_share_an_engine_and_a_worker_is_stepped(program):
    words = ["--seed", 10, "--runs", 20, "--trace", "--set", "workers=1", "--set"]
    assert "app 3" in simulate.output(program, [*words, "services=3"])
    polled = simulate.output(program, [*words, "polled=1", "--set", "looped=0"])
    assert "poller" in polled and "foreign packet" in polled


def test_a_worker_is_stepped_by_a_loop(program):
    knobs = ["workers=1", "polled=1", "looped=1", "echo=0", "faults=0"]
    words = ["--seed", 1, "--runs", 30, "--trace", *(w for k in knobs for w in ("--set", k))]
    loop = simulate.output(program, words)
    for event in (
        "client is connected by somebody else",
        "poller   write ",
        "pause_writing",
        "resume_writing",
        "retire",
        "app 1    foreign packet",
    ):
        assert event in loop, event


def test_a_profile_is_a_kernel_of_its_own(program):
    words = ["--seed", 7, "--trace", "--set"]
    windows = simulate.output(program, [*words, "profile=0"])
    assert windows != simulate.output(program, [*words, "profile=1"])


@pytest.mark.slow("builds the engine")
def test_a_mutant_is_caught(program):
    name, how = simulate.catch((0, simulate.catalogue()[0]))
    assert how is not None, name


@pytest.mark.parametrize("number", range(20))
def test_the_catalogue_fits_the_engine(number):
    """Those that `dev.py sim --mutants` makes: their text is there, once."""
    for name, file, edits in simulate.catalogue()[number::20]:
        text = (ROOT / file).read_text()
        for old, _ in edits:
            assert text.count(old) == 1, name
