"""The engine on a simulated kernel (tests/sim): built for this machine, with sanitizers."""

import concurrent.futures
import json
import os
import shutil
import subprocess
import sys
import sysconfig

from . import build, here
from .steps import ROOT, Failure, digest, run, say

SIM = ROOT / "tests" / "sim"
HOME = build.BUILD / "sim"
PROGRAM = HOME / "sim"

FLAGS = [
    *("-O1", "-g", "-fno-omit-frame-pointer", "-fno-strict-aliasing"),
    *("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
    *("-Wall", "-Wextra", "-Werror"),
    *("-DWIN32_LEAN_AND_MEAN", "-DNOMINMAX", "-D_WIN32_WINNT=0x0a00"),
]
# The kernel fails, counts and checks the engine's allocations.
LINK = [f"-Wl,--wrap={name}" for name in ("malloc", "calloc", "free")]

# Runs in the host's Python: cythonizes into the folder argv[1], prints what the compiler needs.
TRANSLATE = """
import ast, json, re, sys, sysconfig
from Cython.Build import cythonize
from setuptools import Extension
folder, setup = sys.argv[1:]
# The directives stand in setup.py, the one place for them.
text = open(setup, encoding="utf-8").read()
directives = ast.literal_eval(re.search(r"^DIRECTIVES = (\\{.*?^\\})", text, re.M | re.S).group(1))
names = {"iocpx._state": "iocpx/_state.pyx", "iocpx._engine": "iocpx/_engine.pyx",
         "_sim": "tests/sim/_sim.pyx"}
made = cythonize([Extension(name, [path]) for name, path in names.items()], build_dir=folder,
                 include_path=["."], compiler_directives=directives, quiet=True)
print(json.dumps({
    "c": [extension.sources[0] for extension in made],
    "include": sysconfig.get_path("include", vars={
        "installed_base": sys.base_prefix, "base": sys.base_prefix}),
    "lib": sysconfig.get_config_var("LIBDIR"),
    "version": sysconfig.get_config_var("LDVERSION"),
    "home": sys.base_prefix,
}))
"""


def sources():
    files = [*(ROOT / "iocpx").glob("_*.pyx"), *(ROOT / "iocpx").glob("_*.pxd")]
    files += [*SIM.rglob("*.[ch]"), *SIM.rglob("*.pyx"), ROOT / "setup.py"]
    files.append(ROOT / "lab" / "sim.py")
    return {str(path.relative_to(ROOT)): path.read_text() for path in sorted(files)}


def prepare():
    """Build what is out of date. Call with `steps.exclusive` held."""
    if not sys.platform.startswith("linux"):
        raise Failure("the simulation is compiled on Linux only")
    # The compiler brings its sanitizers along; the program has a Python inside.
    missing = [] if shutil.which("gcc") else ["gcc", "libc6-dev"]
    if not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")):
        missing.append("python3-dev")
    here.install_from_debian(missing)
    state = digest(sources())
    if build.read(HOME / "done.txt") == state and PROGRAM.exists():
        return
    say("building the simulation …")
    HOME.mkdir(parents=True, exist_ok=True)
    (HOME / "done.txt").unlink(missing_ok=True)
    argv = [here.host_python(), "-c", TRANSLATE, HOME / "c", ROOT / "setup.py"]
    said = run(argv, cwd=ROOT, hint="Cython failed")
    facts = json.loads(said.splitlines()[-1])
    include = [f"-I{SIM / 'include'}", f"-I{SIM}", f"-I{facts['include']}"]
    files = [*facts["c"], SIM / "kernel.c", SIM / "main.c"]

    def compile_one(path):
        target = HOME / (os.path.basename(path)[:-2] + ".o")
        argv = ["gcc", *FLAGS, *include, "-c", path, "-o", target]
        said = run(argv, cwd=ROOT, hint="the compiler failed")
        if said.strip():
            say(said.rstrip())
        return target

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_one, files))
    argv = ["gcc", *FLAGS, *LINK, *objects, "-o", PROGRAM, f"-L{facts['lib']}"]
    argv += [f"-Wl,-rpath,{facts['lib']}", f"-lpython{facts['version']}"]
    run(argv, hint="the linker failed")
    (HOME / "home.txt").write_text(facts["home"])
    (HOME / "done.txt").write_text(state)


def call(words, **options):
    """Run the simulation; returns subprocess.run's result."""
    env = {
        **os.environ,
        "PYTHONHOME": (HOME / "home.txt").read_text(),
        # Python itself leaves memory behind; the simulation counts what the engine allocates.
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    return subprocess.run([PROGRAM, *words], env=env, **options)
