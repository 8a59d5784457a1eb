"""The engine on a simulated kernel (tests/sim): built for this machine, with sanitizers."""

import concurrent.futures
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig

from . import build, here
from .steps import ROOT, Failure, digest, run, say

SIM = ROOT / "tests" / "sim"
HOME = build.BUILD / "sim"

FLAGS = [
    *("-g", "-fno-omit-frame-pointer", "-fno-strict-aliasing"),
    *("-Wall", "-Wextra", "-Werror"),
    *("-DWIN32_LEAN_AND_MEAN", "-DNOMINMAX", "-D_WIN32_WINNT=0x0a00"),
]
# Each is a program of its own.
VARIANTS = {
    "fibers": ["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    "threads": ["-O1", "-fsanitize=thread", "-DSIM_THREADS"],
    "count": ["-O2", "-DSIM_COUNT"],
    # Of `_frames` alone, without a kernel; by clang, which has libFuzzer.
    "fuzz": [
        *("-O1", "-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all"),
        "-DSIM_FUZZ",
    ],
}
FUZZED = {"ENGINE_MODULES": ["_frames"], "DRIVER_MODULES": ["_framing"]}
# The kernel fails, counts and checks the engine's allocations.
LINK = [f"-Wl,--wrap={name}" for name in ("malloc", "calloc", "free")]

# Runs in the host's Python: cythonizes into the folder argv[1], prints what the compiler needs.
TRANSLATE = """
import ast, json, pathlib, re, sys, sysconfig
from Cython.Build import cythonize
from setuptools import Extension
folder, setup = sys.argv[1:]
# Directives and modules stand in setup.py, the one place for them.
text = open(setup, encoding="utf-8").read()
def literal(name):
    return ast.literal_eval(re.search(rf"^{name} = (.*?^[]}}])", text, re.M | re.S).group(1))
directives, engine = literal("DIRECTIVES"), literal("ENGINE")
names = {f"iocpx.{name}": f"iocpx/{name}.pyx" for name in engine}
driver = sorted(path.stem for path in pathlib.Path("tests/sim").glob("_*.pyx"))
names |= {name: f"tests/sim/{name}.pyx" for name in driver}
made = cythonize([Extension(name, [path]) for name, path in names.items()], build_dir=folder,
                 include_path=[".", "tests/sim"], compiler_directives=directives, quiet=True)
print(json.dumps({
    "c": [extension.sources[0] for extension in made],
    "modules": {"ENGINE_MODULES": engine, "DRIVER_MODULES": driver},
    "include": sysconfig.get_path("include", vars={
        "installed_base": sys.base_prefix, "base": sys.base_prefix}),
    "lib": sysconfig.get_config_var("LIBDIR"),
    "version": sysconfig.get_config_var("LDVERSION"),
    "home": sys.base_prefix,
    "packages": sysconfig.get_path("purelib"),
}))
"""


def sources(root):
    files = [*(root / "iocpx").glob("_*.pyx"), *(root / "iocpx").glob("*.pxd")]
    files += [*SIM.rglob("*.[ch]"), *SIM.rglob("*.p[yx][xd]"), ROOT / "setup.py"]
    files.append(ROOT / "lab" / "sim.py")
    return {str(path): path.read_text() for path in sorted(files)}


def install():
    """What the system lacks. Call with `steps.exclusive` held."""
    if not sys.platform.startswith("linux"):
        raise Failure("the simulation is compiled on Linux only")
    here.setup([])
    # The compiler brings its sanitizers along; the program has a Python inside.
    missing = [] if shutil.which("gcc") else ["gcc", "libc6-dev"]
    if not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")):
        missing.append("python3-dev")
    here.install_from_debian(missing)


def install_clang():
    """With its libFuzzer; what of it the system lacks. Call with `steps.exclusive` held."""
    if not shutil.which("clang"):
        here.install_from_debian(["clang"])
    said = run(["clang", "--version"])
    version = re.search(r"version (\d+)", said)[1]
    argv = ["clang", "-print-file-name=libclang_rt.fuzzer-x86_64.a"]
    if not os.path.isabs(run(argv).strip()):
        here.install_from_debian([f"libclang-rt-{version}-dev"])


def prepare(variant="fibers", root=ROOT, home=HOME):
    """Build a program, if it is out of date, of the engine below `root`; returns its path.
    Call with `steps.exclusive` held, after `install`."""
    target = home / variant
    program = target / "sim"
    state = digest(sources(root))
    if build.read(target / "done.txt") == state and program.exists():
        return program
    if home == HOME:
        say(f"building the simulation ({variant}) …")
    target.mkdir(parents=True, exist_ok=True)
    (target / "done.txt").unlink(missing_ok=True)
    facts = translate(root, home, state)
    include = [f"-I{SIM / 'include'}", f"-I{SIM}", f"-I{facts['include']}"]
    files = [*facts["c"], *sorted(SIM.glob("*.c"))]
    modules, link, cc = facts["modules"], LINK, "gcc"
    if variant == "fuzz":
        modules, link, cc = FUZZED, [], "clang"
        wanted = {"main.c", "_frames.c", "_framing.c"}
        files = [path for path in files if os.path.basename(path) in wanted]

    def compile_one(path):
        name = os.path.basename(path)[:-2]
        made = target / f"{name}.o"
        if home != HOME and same_c(path, home):
            return HOME / variant / f"{name}.o"
        # A mutant may well leave something unused.
        flags = [*FLAGS, *VARIANTS[variant], *["-Wno-error"] * (home != HOME)]
        if name == "main":
            for macro, names in modules.items():
                flags.append(f"-D{macro}={' '.join(f'X({name})' for name in names)}")
        argv = [cc, *flags, *include, "-c", path, "-o", made]
        said = run(argv, cwd=root, hint="the compiler failed")
        if said.strip() and home == HOME:
            say(said.rstrip())
        return made

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_one, files))
    argv = [cc, *VARIANTS[variant], *link, *objects, "-o", program, f"-L{facts['lib']}"]
    argv += ["-pthread", f"-Wl,-rpath,{facts['lib']}", f"-lpython{facts['version']}"]
    run(argv, hint="the linker failed")
    (target / "done.txt").write_text(state)
    return program


def same_c(path, home):
    """Has this C become, for the engine itself, the same object that is wanted for a mutant?"""
    path = pathlib.Path(path)
    return not path.is_relative_to(home) or (
        build.read(HOME / path.relative_to(home)) == build.read(path)
    )


def translate(root, home, state):
    """The C of the engine and the driver, once for all variants."""
    known = build.read(home / "c.json")
    if known and json.loads(known)["state"] == state:
        return json.loads(known)
    argv = [here.host_python(), "-c", TRANSLATE, home / "c", ROOT / "setup.py"]
    said = run(argv, cwd=root, hint="Cython failed")
    facts = {**json.loads(said.splitlines()[-1]), "state": state}
    (home / "c.json").write_text(json.dumps(facts))
    return facts


def command(program, words):
    """(argv, environment) of a run of a program that `prepare` made."""
    facts = json.loads((program.parent.parent / "c.json").read_text())
    env = {
        **os.environ,
        "PYTHONHOME": facts["home"],
        "PYTHONPATH": os.pathsep.join([str(SIM), facts["packages"]]),
        "PYTHONDONTWRITEBYTECODE": "1",
        # Python itself leaves memory behind; the simulation counts what the engine allocates.
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "TSAN_OPTIONS": "halt_on_error=1:second_deadlock_stack=1",
    }
    return [program, *map(str, words)], env


def call(program, words, **options):
    """Run it; returns subprocess.run's result."""
    argv, env = command(program, words)
    return subprocess.run(argv, env=env, **options)
