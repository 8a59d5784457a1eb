"""The developer's verbs. `python3 dev.py` lists them; on Windows say `py dev.py`."""

import argparse
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

if sys.version_info < (3, 10):  # noqa: UP036 - whoever has an older one shall read this
    sys.exit("dev.py: Python 3.10 or later is needed: start dev.py with one")

from lab import build, here, jobs, msvc, sim, steps, suites
from lab import simulate as simulate_
from lab.jobs import Job
from lab.steps import LAB, ROOT, Failure, exclusive, say


def main(words):
    for stream in (sys.stdout, sys.stderr):
        # Not every code page of Windows has every character of a compiler's message.
        stream.reconfigure(errors="replace")
    # Told in advance, since argparse would take the Windows Python's own options for ours.
    words, arguments = split(words)
    options = make_parser().parse_args(words)
    options.arguments = arguments
    try:
        return options.verb(options) or 0
    except Failure as problem:
        print(f"dev.py: {problem}", file=sys.stderr)
    except KeyboardInterrupt:
        print("dev.py: stopped", file=sys.stderr)
    return 1


def make_parser():
    parser = argparse.ArgumentParser(
        prog="dev.py",
        description="The developer's verbs. Each sets up and builds what it needs and is missing.",
    )
    parser.set_defaults(verb=lambda options: parser.print_help())
    verbs = parser.add_subparsers(title="verbs", metavar="VERB")

    def add(name, function, usage, help, lane=None, debug=False, compiler=False):
        verb = verbs.add_parser(
            name, help=help, description=help, usage=f"dev.py {name} {usage}", allow_abbrev=False
        )
        verb.set_defaults(verb=function)
        if lane:
            verb.add_argument("--python", metavar="LANE", choices=here.lanes(), help=lane)
        if debug:
            verb.add_argument("--debug", action="store_true", help="the build for a debugger")
        if compiler:
            default, *others = here.COMPILERS
            verb.add_argument(
                "--compiler",
                choices=here.COMPILERS,
                default=default,
                help=f"else {default}" if others else f"{default}, the only one here",
            )
        return verb

    names = ", ".join(here.lanes())
    all_lanes = f"one of {names}; else all of them"
    one_lane = f"one of {names}; else {here.default_lane()}"
    add("setup", setup, "[--python LANE]", "set up the lab, whatever of it is missing", all_lanes)
    usage = "[--python LANE] [--debug | --compiler NAME]"
    add("build", build_, usage, "build iocpx", all_lanes, debug=True, compiler=True)
    add("run", run, "[--python LANE] [--debug] ARG…", "run the Windows Python", one_lane, True)
    verb = add(
        *("test", test, "[--python LANE | --fast] [--compiler NAME] [PYTEST ARGUMENT…]"),
        "run the linters, the tests of the host and those on each Windows Python; with pytest"
        " arguments, these tests alone; with another compiler, those on Windows Pythons alone",
        all_lanes,
        compiler=True,
    )
    verb.add_argument(
        "--fast",
        action="store_true",
        help=f"{here.default_lane()} alone, and without the tests that are marked slow",
    )
    add(
        *("frameworks", frameworks, "[--python LANE] [PYTEST ARGUMENT…]"),
        "run the programs of examples/ with the frameworks and clients that they are for",
        one_lane,
    )
    verb = add(
        *(
            "sim",
            simulate,
            "[--seed N] [--runs N] [--profile NAME] [--set KNOB=N] | --threads | --mutants"
            " | --fuzz [--runs N] | --scale",
        ),
        "run the engine on a simulated kernel: every failing call of short scenarios, and many"
        " schedules, each a function of its seed",
    )
    verb.add_argument("--seed", type=int, metavar="N", help="of the first run; else 1")
    verb.add_argument("--runs", type=int, metavar="N", help="else 1 with a seed, or 20,000")
    verb.add_argument("--profile", choices=simulate_.PROFILES, help="else both, as the seed has it")
    verb.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KNOB=N",
        help="fix what else the seed decides; a wrong KNOB lists them all",
    )
    verb.add_argument("--trace", action="store_true", help="print the last events of good runs")
    verb.add_argument("--threads", action="store_true", help="real threads, ThreadSanitizer")
    verb.add_argument(
        "--mutants", action="store_true", help="break the engine; each must be caught"
    )
    verb.add_argument(
        "--fuzz", action="store_true", help="libFuzzer on what cuts streams into messages"
    )
    verb.add_argument("--scale", action="store_true", help="the figures of docs/SCALING.md")
    verb = add(
        *("conformance", conformance, "[--python LANE] [--suite NAME] [--loop NAME] [MODULE…]"),
        "run other people's tests of asyncio on Python's loop and on ours: all modules, or these",
        one_lane,
    )
    default = next(iter(suites.SUITES))
    help = f"whose: else {default}"
    verb.add_argument("--suite", choices=suites.SUITES, default=default, help=help)
    verb.add_argument("--loop", choices=("stock", "iocpx"), help="else both, side by side")
    verb.add_argument("modules", nargs="*", metavar="MODULE", help="as test_events")
    usage = "[--python LANE] [--compiler NAME] [ARG…]"
    add("bench", bench, usage, "run the echo benchmark", one_lane, compiler=True)
    usage = "[--python LANE | --all] [--compiler NAME]"
    verb = add("wheel", wheel, usage, "make wheel and sdist", one_lane, compiler=True)
    verb.add_argument("--all", action="store_true", help="a wheel for every lane")
    add("lint", lint, "", "run the linters")
    verb = add("clean", clean, "[--all]", "remove what was built")
    verb.add_argument("--all", action="store_true", help="and the lab with all it downloaded")
    return parser


def split(words):
    """dev.py's own words, and those after them that go as they are to the program that it runs.

    `run` and `bench`: from the first word that is no option of the verb. `test` and `frameworks`:
    every word that is none. A -- ends the verb's own in any case.
    """
    verb, rest = words[:1], words[1:]
    if verb not in (["run"], ["bench"], ["test"], ["frameworks"]):
        return words, []
    valued = ("--python",) if verb in (["run"], ["frameworks"]) else ("--python", "--compiler")
    own, passed = verb, []
    while rest:
        if rest[0] in valued:
            own, rest = own + rest[:2], rest[2:]
        elif (
            rest[0] in ("--debug", "--fast", "-h", "--help") or rest[0].partition("=")[0] in valued
        ):
            own, rest = own + rest[:1], rest[1:]
        elif rest[0] == "--":
            return own, passed + rest[1:]
        elif verb in (["test"], ["frameworks"]):
            passed, rest = passed + rest[:1], rest[1:]
        else:
            return own, rest
    return own, passed


def builder(options):
    """The module that builds with the compiler of the options."""
    return build if options.compiler == here.COMPILERS[0] else msvc


def prepare(lanes, builder=build, **how):
    """Set up and build for the lanes, whatever of it is missing."""
    with exclusive():
        here.setup(lanes)
        for lane in lanes:
            builder.build(lane, **how)


def chosen(options):
    return [options.python] if options.python else here.lanes()


def setup(options):
    with exclusive():
        here.setup(chosen(options))
    say(f"set up: {', '.join(chosen(options))}")


def build_(options):
    if options.debug and builder(options) is not build:
        raise Failure(f"--debug is for {here.COMPILERS[0]} alone: leave it or --compiler out")
    how = {"debug": True} if options.debug else {}
    prepare(chosen(options), builder(options), **how)
    say(f"built for {', '.join(chosen(options))}")


def run(options):
    steps.SAY_TO = sys.stderr
    lane = options.python or here.default_lane()
    prepare([lane], debug=options.debug)
    argv, env = here.command(lane, build.library(lane, options.debug))
    return here.call(argv + options.arguments, env)


def bench(options):
    lane = options.python or here.default_lane()
    prepare([lane], builder(options))
    library = builder(options).library(lane)
    with exclusive():
        ceiling, handler = build.ceiling(), build.handler(lane, library)
    return here.bench(lane, library, ceiling, handler, options.arguments)


def conformance(options):
    lane = options.python or here.default_lane()
    with exclusive():
        here.setup([lane])
        if options.loop != "stock":
            build.build(lane)
        tests = suites.folder(options.suite, lane)
    words = ["--python", lane, "--library", build.library(lane)]
    words += ["--suite", options.suite, "--tests", tests]
    words += ["--loop", options.loop] if options.loop else []
    # rich is there.
    argv = [here.host_python(), "-m", "lab.conformance", *words, *options.modules]
    return subprocess.run(argv, cwd=ROOT).returncode


def simulate(options):
    if options.seed is not None and options.seed < 0:
        raise Failure(f"--seed must be 0 or more, got {options.seed}")
    if options.runs is not None and options.runs < 1:
        raise Failure(f"--runs must be 1 or more, got {options.runs}")
    knobs = dict(simulate_.knob(text) for text in options.set)
    if options.profile:
        knobs["profile"] = simulate_.PROFILES.index(options.profile)
    seed = 1 if options.seed is None else options.seed
    with exclusive():
        sim.install()
    if options.scale:
        return simulate_.scale()
    if options.fuzz:
        return simulate_.fuzz(options.runs or simulate_.FUZZ_RUNS)
    if options.mutants:
        return simulate_.mutants()
    if options.threads:
        return simulate_.threads(seed, options.runs or simulate_.THREADS_RUNS, knobs)
    if options.seed is None and not knobs and not options.trace:
        return simulate_.everything(options.runs or simulate_.RUNS)
    runs = options.runs or (simulate_.RUNS if options.seed is None else 1)
    return simulate_.chosen(seed, runs, knobs, options.trace)


def test(options):
    if options.python and options.fast:
        raise Failure("--fast is the lane of --python too: give one of them")
    lanes = [here.default_lane()] if options.fast else chosen(options)
    prepare(lanes, builder(options))
    # pytest's own settings and its idea of the folder must be the checkout's.
    os.chdir(ROOT)
    # What is the same on every Python is tested once.
    once = here.default_lane() if here.default_lane() in lanes else lanes[0]
    todo = []
    if not options.arguments and builder(options) is build:
        todo += host_jobs(options.fast)
    # The longest first: the lane that has everything, then those that have the engine's tests, and
    # their smaller parts behind all lanes.
    small = []
    for lane in sorted(lanes, key=lambda lane: (lane != once, not lane.endswith("t"))):
        name = builder(options).folder(lane).name
        argv, env = here.command(lane, builder(options).library(lane), alone=True)
        argv += ["-m", "pytest"]
        if options.arguments:
            parts = {name: ["--ignore=tests/host", *options.arguments]}
        else:
            parts = lane_parts(name, lane == once, lane.endswith("t"), options.fast)
        for part, words in parts.items():
            job = Job(part, [*argv, *pytest_options(part), *words], env)
            (todo if part == name else small).append(job)
    todo += small
    if not options.arguments and builder(options) is build:
        todo.append(Job("lint", [sys.executable, ROOT / "dev.py", "lint"], behind=True))
        if not options.fast and here.default_lane() in lanes:
            todo.append(frameworks_job(here.default_lane()))
    results = {}
    if len(todo) > 1:
        jobs.together(todo, lambda job: results.update({job.name: result(job)}))
    else:
        (job,) = todo
        alone(job)
        results[job.name] = result(job)
    say("====")
    for job in todo:
        say(f"{job.name}: {results[job.name][1]}")
    return not all(passed for passed, _ in results.values())


def alone(job):
    """Run a job with this process's streams."""
    # Without a console, as in continuous integration: tests that behave otherwise with one would
    # fail there only.
    job.status = here.call(job.argv, job.env, console=False)


def frameworks(options):
    lane = options.python or here.default_lane()
    prepare([lane])
    os.chdir(ROOT)
    job = frameworks_job(lane)
    job.argv += options.arguments
    alone(job)
    passed, text = result(job)
    say(f"==== {job.name}: {text}")
    return not passed


def frameworks_job(lane):
    """pytest on tests/frameworks, for which their packages are fetched when first asked for."""
    with exclusive():
        folder = here.frameworks(lane)
    name = f"frameworks-{lane}"
    argv, env = here.command(lane, build.library(lane), alone=True)
    env["PYTHONPATH"] += ";" + here.name(folder)
    # anyio's plug-in of pytest would take part in every test.
    argv += ["-m", "pytest", "-p", "no:anyio", *pytest_options(name)]
    return Job(name, [*argv, "-o", "testpaths=tests/frameworks"], env)


def result(job):
    """Whether a job has passed, and what there is to say."""
    if job.name == "lint":
        return job.status == 0, "failed" if job.status else "passed"
    return pytest_result(job.name, job.status)


def test_files(folder, first):
    """Two lists, of the test files of the folder whose names begin with one of `first`, and of the
    others."""
    paths = sorted((ROOT / folder).glob("test_*.py"))
    files = [path.relative_to(ROOT).as_posix() for path in paths]
    those = [file for file in files if file.rpartition("/")[2].startswith(first)]
    return those, [file for file in files if file not in those]


def lane_parts(name, once, free_threaded, fast):
    """{name: pytest's words} of a lane's tests: in parts where they take long, which end at about
    the same time.

    once: it has what is tested on one lane only.
    """
    loop, others = test_files("tests", ("test_loop_", "test_tls_"))
    marks = ["not slow"] if fast else []
    # Where callbacks run at once, the engine's tests are there too.
    if not once and not free_threaded:
        marks += ["not once", "(not engine or python)"]
        return {name: [*loop, *others, "-m", " and ".join(marks)]}
    words = ["-m", " and ".join([*marks, "not once"])]
    parts = {name: [*others, *words], f"{name}-loop": [*loop, *words]}
    if once:
        parts[f"{name}-once"] = [*loop, *others, "-m", " and ".join([*marks, "once"])]
    return parts


def host_jobs(fast):
    """pytest on tests/host, on this machine's own Python: the benchmark's tests, which neither
    build nor need Wine, beside the others."""
    bench, others = test_files("tests/host", "test_bench")
    made = []
    for name, files in {"host": others, "host-bench": bench}.items():
        argv = [here.host_python(), "-m", "pytest", *pytest_options(name), *files]
        argv += ["-m", "not slow"] if fast else []
        made.append(Job(name, argv, host_environment(), behind=True))
    return made


def host_environment():
    """This process's, with compiled files in the lab, where the lanes have theirs, and UTF-8, which
    the tests read what programs print as."""
    pycache = str(LAB / "pycache" / "host")
    env = {**os.environ, "PYTHONPYCACHEPREFIX": pycache, "PYTHONUTF8": "1"}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    return env


def pytest_options(name):
    """Where pytest leaves its cache and its report; each lane has its own."""
    report = LAB / "reports" / f"{name}.xml"
    report.parent.mkdir(parents=True, exist_ok=True)
    report.unlink(missing_ok=True)
    report = report.relative_to(ROOT).as_posix()
    colour = ["--color=yes"] if sys.stdout.isatty() else []
    return [f"--junitxml={report}", "-o", f"cache_dir=.lab/pytest-cache/{name}", *colour]


def pytest_result(name, status):
    """Whether a run of pytest, which ended with `status`, passed, and what there is to say."""
    report = LAB / "reports" / f"{name}.xml"
    if not report.exists():
        return False, f"no result, pytest ended with exit status {status}"
    suites = list(ElementTree.parse(report).getroot().iter("testsuite"))
    count = {
        key: sum(int(suite.get(key)) for suite in suites)
        for key in ("tests", "failures", "errors", "skipped")
    }
    failed = count["failures"] + count["errors"]
    passed = count["tests"] - failed - count["skipped"]
    if status != 0 and failed == 0:
        return False, f"{passed} passed, and pytest ended with exit status {status}"
    return status == 0, f"{passed} passed, {failed} failed, {count['skipped']} skipped"


def lint(options):
    with exclusive():
        here.setup([])
    if sys.version_info < (3, 11):
        say("the linters need Python 3.11 or later: left out")
        return False
    # The tools call one another by name too.
    tools_folder = os.path.dirname(here.host_python())
    env = {**os.environ, "PATH": tools_folder + os.pathsep + os.environ.get("PATH", os.defpath)}
    cython_files = sorted(
        str(path.relative_to(ROOT))
        for folder in ("iocpx", "tests")
        for path in (ROOT / folder).rglob("*.p[yx][xd]")
    )
    commands = [
        ["ruff", "check", "--quiet", "--output-format", "concise", "."],
        ["cython-lint", *cython_files],
        ["mypy", "--no-error-summary"],
        ["zizmor", "--offline", "--quiet", "--no-progress", ".github/workflows"],
    ]
    failed = []
    for name, *words in commands:
        say(f"{name} …")
        program = shutil.which(name, path=tools_folder)
        if subprocess.run([program, *words], cwd=ROOT, env=env).returncode != 0:
            failed.append(name)
    say(f"not content: {', '.join(failed)}" if failed else "all content")
    return bool(failed)


def wheel(options):
    lanes = here.lanes() if options.all else [options.python or here.default_lane()]
    with exclusive():
        here.setup(lanes)
        made = [builder(options).wheel(lane) for lane in lanes]
        made.append(build.sdist())
    for path in made:
        say(path.relative_to(ROOT))


def clean(options):
    with exclusive():
        here.clean()
        folders = [ROOT / "dist", build.BUILD, LAB / "pycache", LAB / "pytest-cache"]
        folders += [LAB] if options.all else []
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
        for pattern in ("*.pyd", "*.pyd.new"):
            for path in (ROOT / "iocpx").glob(pattern):
                path.unlink()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
