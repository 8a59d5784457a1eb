"""What `dev.py sim` does with the programs that lab/sim.py builds: many runs at once, failures made
small, mutants, figures."""

import concurrent.futures
import os
import re
import runpy
import shlex
import shutil
import subprocess
import time

from . import here, sim
from .steps import ROOT, Failure, exclusive, run, say

RUNS = 20_000
CHUNK = 500  # runs of one process
SWEEP_SEEDS = 4  # schedules of each scenario in which every call is made to fail
FRAMING_EXAMPLES = 1_000  # of each property of _frames
FUZZ_RUNS = 2_000_000
THREADS_RUNS = 1_000
THREADS_CHUNK = 25
# Of one call of the program; the longest take a minute.
LONGEST_S = 600
PROFILES = ("windows", "wine")  # in the order of tests/sim/objects.c
CORPUS = ROOT / "tests" / "sim" / "corpus.txt"
MUTANTS = [
    ROOT / "tests" / "sim" / name
    for name in ("mutants.py", "embedding_mutants.py", "loop_mutants.py")
]
SCALE = (1_000, 10_000, 100_000, 1_000_000)
# The figures of docs/SCALING.md count these.
ENGINE = re.compile(r"^\s*([\d,]+) \(.*?\)\s+\S*iocpx/_\w+\.c:", re.MULTILINE)

# For making a failing run small: what is tried, in this order, the simplest value first.
SIMPLE = {
    "services": (1, 2),
    "polled": (0,),
    "looped": (0,),
    "clients": (1, 2, 3),
    "workers": (1, 2),
    "discards": (0,),
    "faults": (0,),
    "resets": (0,),
    "shorts": (0,),
    "listeners": (1,),
    "shared": (0,),
    "unborn": (0,),
    "probe": (0,),
    "late": (0,),
    "max_connections": (0,),
    "accept_receive": (0,),
    "max_accepts": (0,),
    "accepts": (1,),
    "reads": (1, 2),
    "idle": (0,),
    "limits": (0,),
    "trace": (0,),
    "files": (0,),
    "disks": (0, 1),
    "calm": (1,),
    "profile": (0,),
    "handles": (1,),
    "skips": (1,),
    "bytes": (10, 500),
    "linger": (0,),
    "stalls": (0, 1000),
    "preempt": (0, 20),
}


def program_of(variant="fibers"):
    with exclusive():
        return sim.prepare(variant)


class Wrong(Exception):
    """A run has failed; the text is its trace, its seed and the reason."""


def output(program, words):
    """What the program printed. Wrong: it found something, or a sanitizer did, or there is no end
    to it (where the program's own watch cannot tell: in C, with the GIL)."""
    try:
        done = sim.call(
            program,
            words,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            timeout=LONGEST_S,
        )
    except subprocess.TimeoutExpired as expired:
        raise Wrong(f"{' '.join(map(str, words))} does not end in {LONGEST_S} s") from expired
    if done.returncode != 0:
        # AddressSanitizer warns of swapcontext(), where fibers.c has it: machine.c tells it.
        said = [line for line in done.stderr.splitlines() if "makecontext/swapcontext" not in line]
        raise Wrong(done.stdout + "\n".join(said))
    return done.stdout


def at_once(function, cases):
    """function(case) for each, as many at a time as there are CPUs; yields the results as they
    come. The first exception ends it."""
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        futures = [pool.submit(function, case) for case in cases]
        try:
            for future in concurrent.futures.as_completed(futures):
                yield future.result()
        finally:
            for future in futures:
                future.cancel()


def knob(text):
    name, _, value = text.partition("=")
    try:
        return name, int(value)
    except ValueError:
        raise Failure(f"--set takes KNOB=N, got {text!r}") from None


def setting(knobs):
    return [word for name, value in knobs.items() for word in ("--set", f"{name}={value}")]


def random_runs(program, seed, runs, knobs):
    """So many schedules from this seed on. Returns how many there were."""

    def chunk(first):
        n = min(CHUNK, seed + runs - first)
        words = ["--seed", first, "--runs", n, *setting(knobs)]
        return int(output(program, words).split()[0])

    return sum(at_once(chunk, range(seed, seed + runs, CHUNK)))


def sweep(program, seeds=SWEEP_SEEDS):
    """Every failing call. Returns the number of runs and {function: calls that failed}."""
    parts = 8 * os.cpu_count()
    words = ["--sweep", "--seeds", seeds, "--parts", parts, "--part"]
    runs, failed = 0, {}
    for printed in at_once(lambda part: output(program, [*words, part]), range(parts)):
        first, *lines = printed.splitlines()
        runs += int(first)
        for name, count in map(str.split, lines):
            failed[name] = failed.get(name, 0) + int(count)
    missed = [name for name, count in failed.items() if count == 0]
    if missed and seeds >= SWEEP_SEEDS:
        raise Failure(f"the scenarios never call {', '.join(missed)}: no failure of it was tried")
    return runs, failed


def framing(program, examples=FRAMING_EXAMPLES):
    """`_frames` against the same in Python. Returns the number of properties."""
    return int(output(program, ["--framing", examples]))


def fuzz(runs):
    """`_frames` with inputs that libFuzzer chooses by what they cover. Returns the exit status."""
    with exclusive():
        sim.install_clang()
        program = sim.prepare("fuzz")
    words = [f"-runs={runs}", "-seed=1", "-max_len=200", f"-artifact_prefix={program.parent}/"]
    done = sim.call(program, words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        say(done.stdout.rstrip())
        return 1
    # Its last line but one says how much was reached.
    reached = re.findall(r"cov: (\d+)", done.stdout)[-1]
    say(f"{runs:,} inputs by libFuzzer, which has reached {reached} places, all good")
    return 0


def corpus(program):
    """The runs that failed once. Returns how many there are."""
    lines = [line.partition("#")[0] for line in CORPUS.read_text().splitlines()]
    cases = [shlex.split(line) for line in lines if line.strip()]
    return sum(1 for _ in at_once(lambda words: output(program, words), cases))


def failing_seed(text):
    """The seed in what a failed run printed; None: it was none of the random ones."""
    found = re.search(r"^seed (\d+) failed$", text, re.MULTILINE)
    return int(found[1]) if found else None


def shrink(program, seed, knobs):
    """(seed, knobs, what it printed) of a run that fails and is as simple as could be found."""
    text = ""
    for name, values in SIMPLE.items():
        for value in values:
            if name in knobs:
                break
            trial = {**knobs, name: value}
            words = ["--seed", seed, "--runs", 60, *setting(trial)]
            try:
                output(program, words)
            except Wrong as wrong:
                found = failing_seed(str(wrong))
                if found is not None:
                    seed, knobs, text = found, trial, str(wrong)
    return seed, knobs, text


def tell_wrong(program, text, knobs):
    """What a failed run has printed, and how to have it again."""
    seed = failing_seed(text)
    if seed is None:
        say(text.rstrip())
        return
    say(f"seed {seed} failed; looking for a simpler run that does …")
    seed, knobs, simpler = shrink(program, seed, knobs)
    say((simpler or text).rstrip())
    say(f"again: python3 dev.py sim --seed {seed} {' '.join(setting(knobs))}")


def everything(runs):
    """What `dev.py sim` does without options. Returns the exit status."""
    program = program_of()
    begin = time.monotonic()
    try:
        say(f"corpus: {corpus(program)} runs that once failed, all good")
        say(f"framing: {framing(program)} properties, all good")
        tried, failed = sweep(program)
        say(
            f"every failing call: {tried:,} runs of short scenarios,"
            f" {sum(failed.values()):,} failed calls of {len(failed)} functions, all good"
        )
        done = random_runs(program, 1, runs, {})
    except Wrong as wrong:
        tell_wrong(program, str(wrong), {})
        return 1
    passed = time.monotonic() - begin
    say(f"schedules: {done:,} runs from seed 1, all good; {passed:.0f} s in all")
    return 0


def chosen(seed, runs, knobs, trace):
    """Runs that somebody asked for."""
    program = program_of()
    try:
        if trace or runs == 1:
            words = ["--seed", seed, "--runs", runs, *setting(knobs), *["--trace"] * trace]
            say(output(program, words).rstrip())
        else:
            done = random_runs(program, seed, runs, knobs)
            say(f"{done:,} runs from seed {seed}, all good")
    except Wrong as wrong:
        if runs == 1:
            say(str(wrong).rstrip())
        else:
            tell_wrong(program, str(wrong), knobs)
        return 1
    return 0


def thread_runs(program, seed, runs, knobs):
    def chunk(first):
        n = min(THREADS_CHUNK, seed + runs - first)
        return int(output(program, ["--seed", first, "--runs", n, *setting(knobs)]).split()[0])

    return sum(at_once(chunk, range(seed, seed + runs, THREADS_CHUNK)))


def threads(seed, runs, knobs):
    """With real threads, under ThreadSanitizer. Returns the exit status."""
    try:
        done = thread_runs(program_of("threads"), seed, runs, knobs)
    except Wrong as wrong:
        say(str(wrong).rstrip())
        return 1
    say(f"{done:,} runs with real threads, all good")
    return 0


# -- mutants --------------------------------------------------------------------------------------


def catalogue():
    """(what is wrong, file, edits) of each."""
    return [mutant for path in MUTANTS for mutant in runpy.run_path(str(path))["MUTANTS"]]


def mutants():
    """Every deliberate defect, in a copy of the engine. Returns the exit status."""
    program_of()
    program_of("threads")
    every = catalogue()
    missed = 0
    for name, how in at_once(catch, enumerate(every)):
        missed += how is None
        say(f"{how or 'NOT CAUGHT'}: {name}")
    say(f"{len(every) - missed} of {len(every)} mutants caught")
    return int(missed > 0)


def catch(case):
    """(name, what found the mutant or None)."""
    number, (name, file, edits) = case
    home = sim.HOME / f"mutant-{number}"
    root = home / "copy"
    shutil.rmtree(home, ignore_errors=True)
    for path in [*(ROOT / "iocpx").glob("*.p[yx][xd]"), *sim.SIM.glob("_*.p[yx][xd]")]:
        target = root / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    # Cython translates again what is older than a source of it: that file, and who cimports it.
    shutil.copytree(sim.HOME / "c", home / "c", copy_function=shutil.copy)
    text = (root / file).read_text()
    for old, new in edits:
        if text.count(old) != 1:
            raise Failure(f"mutant {name!r}: its text stands {text.count(old)} times in {file}")
        text = text.replace(old, new)
    (root / file).write_text(text)
    later = time.time() + 10
    os.utime(root / file, (later, later))
    few = 2 * CHUNK
    try:
        fibers = sim.prepare("fibers", root, home)
        for what, function in (
            ("framing", lambda: framing(fibers, 100)),
            ("schedules", lambda: random_runs(fibers, 1, few, {})),
            ("a failing call", lambda: sweep(fibers, 1)),
            # These alone see a lock that is not taken, and take less time than all schedules.
            ("threads", lambda: race(root, home)),
            ("schedules", lambda: random_runs(fibers, few + 1, RUNS - few, {})),
        ):
            try:
                function()
            except Wrong as wrong:
                seed = failing_seed(str(wrong)) if what == "schedules" else None
                return name, f"{what}, seed {seed}" if seed else what
        return name, None
    finally:
        shutil.rmtree(home, ignore_errors=True)


def race(root, home):
    thread_runs(sim.prepare("threads", root, home), 1, THREADS_RUNS, {})


# -- scale ----------------------------------------------------------------------------------------


def scale():
    """Prints the table of docs/SCALING.md."""
    with exclusive():
        here.install_from_debian([] if shutil.which("valgrind") else ["valgrind"])
    program = program_of("count")
    say(
        "| connections | bytes per idle connection | instructions per echoed message |"
        " of a connection that was idle |\n|---:|---:|---:|---:|"
    )
    for clients in SCALE:
        nbytes, busy = counted(program, ["--clients", clients])
        _, woken = counted(program, ["--clients", clients, "--idle"])
        say(f"| {clients:,} | {nbytes} | {busy:,.0f} | {woken:,.0f} |")


def counted(program, words):
    """(bytes per idle connection, the engine's instructions per message)."""
    target = program.parent / "callgrind.out"
    argv, env = sim.command(program, ["--scale", *words])
    valgrind = [
        "valgrind",
        "--quiet",
        "--tool=callgrind",
        "--instr-atstart=no",
        f"--callgrind-out-file={target}",
    ]
    printed = subprocess.run(
        [*valgrind, *argv],
        env=env,
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        encoding="utf-8",
    ).stdout
    nbytes, messages = printed.split()
    table = run(["callgrind_annotate", "--threshold=100", target], hint="callgrind_annotate failed")
    total = sum(int(number.replace(",", "")) for number in ENGINE.findall(table))
    return round(float(nbytes)), total / int(messages)
