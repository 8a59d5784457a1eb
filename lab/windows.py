"""The lab on Windows itself: a virtual environment of the running Python, Microsoft's compiler.

Here is one lane only, the running Python; `py -3.14t dev.py …` makes another beside it.
"""

import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

from .steps import (
    FRAMEWORKS,
    LAB,
    LOOPS,
    REQUIREMENTS,
    ROOT,
    SUITES_PACKAGES,
    SURROUNDINGS,
    SURROUNDINGS_FOLDER,
    Failure,
    fresh_folder,
    pin,
    run,
    say,
    step,
)

# That --compiler takes: setuptools finds this one by itself.
COMPILERS = ("msvc",)

FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
LANE = f"{sys.version_info[0]}.{sys.version_info[1]}{'t' if FREE_THREADED else ''}"
VENV = LAB / f"venv-{LANE}"
PYTHON = VENV / "Scripts" / "python.exe"


def lanes():
    """The names of this machine's lanes."""
    return [LANE]


def default_lane():
    return LANE


def setup(names):
    """Set up the virtual environment, if it is missing."""
    find_compiler()
    inputs = [REQUIREMENTS.read_text(), LOOPS.read_text(), sys.version]
    step("virtual environment", inputs, make_venv, PYTHON)
    inputs = [SURROUNDINGS.read_text(), sys.version]
    step("surroundings", inputs, install_surroundings, SURROUNDINGS_FOLDER)


def find_compiler():
    """See that setuptools will find a C compiler."""
    if shutil.which("cl"):
        return
    arm = platform.machine() == "ARM64"
    component = "Microsoft.VisualStudio.Component.VC.Tools." + ("ARM64" if arm else "x86.x64")
    installer = Path(os.environ.get("PROGRAMFILES(X86)", r"C:\Program Files (x86)"))
    vswhere = installer / "Microsoft Visual Studio" / "Installer" / "vswhere.exe"
    query = f"-latest -prerelease -products * -requires {component} -property installationPath"
    if not vswhere.exists() or not run([vswhere, *query.split()]).strip():
        raise Failure(
            'there is no C compiler: install Microsoft\'s "Build Tools for Visual Studio" with the'
            f' workload "Desktop development with C++" (component {component}), then run this again'
        )


def make_venv():
    if VENV.exists():
        shutil.rmtree(VENV)
    run([sys.executable, "-m", "venv", VENV])
    hint = "pip cannot install the lab's tools; see that pip reaches its package index"
    pip = [PYTHON, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    run([*pip, pin("pip")], hint=hint)
    run([*pip, "-r", REQUIREMENTS], hint=hint)
    loops = ("winloop", "blazio", "zuvloop", "cadeloop", "rsloop")
    for package in (*loops, "uvicorn", "httptools", "aiohttp"):
        try:
            run([*pip, "--only-binary=:all:", "-c", LOOPS, pin(package)])
        except Failure:
            say(f"[no {package} for this Python: the benchmark goes without] ", end="")


def install_surroundings():
    fresh_folder(SURROUNDINGS_FOLDER)
    pip = [PYTHON, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps"]
    try:
        run([*pip, "--only-binary=:all:", "--target", SURROUNDINGS_FOLDER, "-r", SURROUNDINGS])
    except Failure:
        say("[not all of it is for this Python: its tests are left out] ", end="")


def frameworks(name):
    """The folder to import from what tests/frameworks has on the loop."""
    folder = LAB / "frameworks" / name
    inputs = [FRAMEWORKS.read_text(), sys.version]
    step(f"frameworks for {name}", inputs, lambda: install_frameworks(folder), folder)
    return folder


def install_frameworks(folder):
    fresh_folder(folder)
    pip = [PYTHON, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps"]
    lines = FRAMEWORKS.read_text().splitlines()
    for package in (line for line in lines if not line.startswith("#")):
        try:
            run([*pip, "--only-binary=:all:", "--target", folder, package])
        except Failure:
            say(f"[no {package} for this Python: its tests are left out] ", end="")


def suite(name):
    """The folder to import the lane's `test` package from, CPython's own tests."""
    folder = Path(sysconfig.get_path("stdlib"))
    if not (folder / "test" / "test_asyncio").is_dir():
        raise Failure(
            'this Python has no tests: add "Python test suite" in its installer (Modify, Optional'
            " Features), then run this again"
        )
    return folder


def install_for_suites(name, target):
    """Put into the folder `target` what the suites' tests import."""
    pip = [PYTHON, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps"]
    run([*pip, "--only-binary=:all:", "--target", target, "-r", SUITES_PACKAGES])


def suffix(name):
    """How the file names of the lane's extension modules end."""
    return sysconfig.get_config_var("EXT_SUFFIX")


def cross(name):
    """Nothing: setup.py knows the running Python."""
    return None


def compile_program(source, program):
    """Make a program of one C file, by the compiler that setuptools finds."""
    script = (
        "import sys, setuptools\n"
        "from distutils.ccompiler import new_compiler\n"
        "source, folder, name = sys.argv[1:]\n"
        "compiler = new_compiler()\n"
        "options = ['/O2', '/W4', '/utf-8']\n"
        "objects = compiler.compile([source], output_dir=folder, extra_postargs=options)\n"
        "compiler.link_executable(objects, name, folder, libraries=['ws2_32'])\n"
    )
    run([PYTHON, "-c", script, source.name, program.parent, program.stem], cwd=source.parent)


def build_environment():
    return dict(os.environ)


def extension(lane, source, library, target):
    """Make an extension module in the folder `target` of a Cython file that uses the C interface of
    the iocpx in `library`; returns what was printed.
    """
    copy = shutil.copy(source, target)
    words = ["-q", "-i", "-3", "-X", "freethreading_compatible=True", copy]
    env = {**os.environ, "PYTHONPATH": str(library)}
    return run([PYTHON, "-m", "Cython.Build.Cythonize", *words], cwd=target, env=env)


def host_python():
    """The Python that runs setup.py and the linters."""
    return str(PYTHON)


def command(name, library, alone=False):
    """How to start the lane's Python: its argv so far, and its environment.

    `library` is the folder to import iocpx from. alone: for the lab on Linux.
    """
    env = {**os.environ, "PYTHONPATH": str(library)}
    if library != ROOT:
        # Else a program started in the checkout would find the iocpx there first.
        env["PYTHONSAFEPATH"] = "1"
    return [str(PYTHON)], env


def name(path):
    """The name by which the lanes' programs know a file."""
    return str(path)


def call(argv, env, console=True):
    """Run a program with this process's streams; returns its exit status.

    console: for the lab on Linux; here a program has the console that this process has.
    """
    # The console gives Ctrl+C to both; this process leaves it to the program and waits.
    signal.signal(signal.SIGINT, lambda number, frame: None)
    return subprocess.run(argv, env=env, check=False).returncode


def record(argv, env, output, started):
    """Run any program without input, with all that it prints going to the open file; returns its
    exit status. `started` is called with its process.
    """
    streams = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": subprocess.STDOUT}
    process = subprocess.Popen(argv, env=env, **streams)
    started(process)
    return process.wait()


def interrupt(process):
    """Ctrl+C for a program that `record` runs: the console has given it to all."""


def bench(name, library, ceiling, handler, words):
    """Run the benchmark of the iocpx in `library`, with the program `ceiling` and the module in the
    folder `handler`; returns its exit status.
    """
    argv, env = command(name, library)
    env["PYTHONPATH"] += os.pathsep + str(handler)
    # As the benchmark takes a command apart, a backslash is not itself.
    options = ["--ceiling", shlex.join([str(ceiling)])]
    return call([*argv, "-m", "iocpx", "bench", *options, *words], env)


def clean():
    """Nothing of the lab runs on here."""
