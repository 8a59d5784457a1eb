"""Building iocpx for a lane, what the benchmark has beside it, the wheels and the source
distribution.

A lane's build has a folder of its own, .lab/build/LANE (LANE-debug), with the package as
setuptools makes it in `stage`. The extension modules are then put beside their sources, where
lanes do not collide: each has its suffix. So the checkout itself is what programs import, also
those started in it, where Python looks first. A debug build stays in its folder.
"""

import json
import os
import shutil

from . import here
from .steps import LAB, REQUIREMENTS, ROOT, Failure, digest, fresh_folder, run, say

BUILD = LAB / "build"
DIST = ROOT / "dist"


def folder(lane, debug=False):
    return BUILD / (lane + "-debug" if debug else lane)


def library(lane, debug=False):
    """The folder to import the lane's iocpx from."""
    return folder(lane, debug=True) / "stage" if debug else ROOT


def sources():
    """Every file that a build depends on, with what tells one state of it from another."""
    files = [ROOT / "setup.py", ROOT / "pyproject.toml"]
    for path in sorted((ROOT / "iocpx").rglob("*")):
        if path.suffix in (".py", ".pyi", ".pyx", ".pxd", ".h", ".typed"):
            files.append(path)
    return [[str(path), path.stat().st_mtime_ns, path.stat().st_size] for path in files]


def translated():
    """The folder of the C that Cython makes, which all lanes share; anew when how it translates
    changes.
    """
    recipe = [(ROOT / "setup.py").read_text(encoding="utf-8"), REQUIREMENTS.read_text()]
    return BUILD / f"c-{digest(recipe)}"


def build(lane, debug=False):
    """Build what is out of date for the lane; says nothing when nothing is.

    Call with `steps.exclusive` held.
    """
    home = folder(lane, debug)
    config = {"cython_dir": str(translated()), "debug": debug, "cross": here.cross(lane)}
    config = json.dumps(config, indent=1)
    state = json.dumps([config, sources()])
    done = home / "done.json"
    if read(done) == state and (debug or all(path.exists() for path in modules(lane))):
        return
    say(f"building iocpx for {lane}{' (debug)' if debug else ''} …")
    for old in BUILD.glob("c-*"):
        if old != translated():
            shutil.rmtree(old)
    if read(home / "config.json") != config:
        fresh_folder(home)
        (home / "config.json").write_text(config)
    done.unlink(missing_ok=True)
    remove_stale(home / "stage")
    output = setup_py(
        home,
        *["build", "--build-base", home / "temp", "--build-lib", home / "stage"],
        *["build_py", "--no-compile", "build_ext", f"-j{os.cpu_count()}"],
    )
    if output.strip():
        say(output.rstrip())
    if not debug:
        publish(home / "stage" / "iocpx")
    done.write_text(state)


def ceiling():
    """Build benchmarks/ceiling.c where it is out of date; returns the program's path.

    Call with `steps.exclusive` held.
    """
    source, home = ROOT / "benchmarks" / "ceiling.c", BUILD / "ceiling"
    program, done = home / "ceiling.exe", home / "done.txt"
    state = digest([source.read_text(encoding="utf-8"), REQUIREMENTS.read_text()])
    if read(done) != state or not program.exists():
        say("building the benchmark's ceiling …")
        fresh_folder(home)
        here.compile_program(source, program)
        done.write_text(state)
    return program


def handler(lane, library):
    """Build examples/cython_handler for the lane against the iocpx in `library`, where it is out of
    date; returns the folder to import it from.

    Call with `steps.exclusive` held.
    """
    source = ROOT / "examples" / "cython_handler" / "http_handler.pyx"
    home = BUILD / "handler" / lane
    done = home / "done.txt"
    interface = library / "iocpx" / "engine_api.pxd"
    texts = [path.read_text(encoding="utf-8") for path in (source, interface, REQUIREMENTS)]
    state = digest([texts, here.cross(lane)])
    if read(done) != state or not list(home.glob(f"*{here.suffix(lane)}")):
        say("building examples/cython_handler …")
        fresh_folder(home)
        here.extension(lane, source, library, home)
        done.write_text(state)
    return home


def read(path):
    return path.read_text() if path.exists() else None


def setup_py(home, *words):
    """Run setup.py with the lane's configuration; returns what it printed."""
    env = {**here.build_environment(), "IOCPX_BUILD_CONFIG": str(home / "config.json")}
    # With it set, setuptools warns that it does not write bytecode, which it is not to do here
    # anyway.
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    argv = [here.host_python(), ROOT / "setup.py", "-q", *words]
    try:
        return run(argv, cwd=ROOT, env=env)
    except Failure as problem:
        raise Failure("the build failed:" + str(problem).partition(":")[2]) from None


def remove_stale(stage):
    """Remove from the stage what has no source any more: setuptools only adds."""
    for path in sorted(stage.rglob("*"), reverse=True):
        origin = ROOT / path.relative_to(stage)
        if path.suffix == ".pyd":
            origin = origin.with_name(path.name.partition(".")[0] + ".pyx")
        if path.is_file() and not origin.exists():
            path.unlink()


def modules(lane):
    """The lane's extension modules, in the checkout."""
    return [path.with_suffix(here.suffix(lane)) for path in (ROOT / "iocpx").glob("*.pyx")]


def publish(stage):
    """Put the stage's extension modules beside their sources; remove those without a source."""
    for path in stage.glob("*.pyd"):
        # Replaced as a whole: a program that runs keeps the module it has loaded.
        partial = ROOT / "iocpx" / (path.name + ".new")
        shutil.copy2(path, partial)
        try:
            partial.replace(ROOT / "iocpx" / path.name)
        except PermissionError:
            # Windows keeps the file of a loaded module.
            raise Failure(f"{path.name} is in use: end the program, then run this again") from None
    for path in (ROOT / "iocpx").glob("*.pyd"):
        if not (ROOT / "iocpx" / (path.name.partition(".")[0] + ".pyx")).exists():
            path.unlink()


def wheel(lane):
    """Make the lane's wheel in dist/ and return its path. Call with `steps.exclusive` held."""
    build(lane)
    home = folder(lane)
    made = home / "wheel"
    shutil.rmtree(made, ignore_errors=True)
    setup_py(
        home,
        *["egg_info", "--egg-base", home / "temp"],
        *["build", "--build-base", home / "temp", "--build-lib", home / "stage"],
        *["bdist_wheel", "--bdist-dir", home / "temp" / "wheel", "--dist-dir", made],
    )
    (path,) = made.iterdir()
    return deliver(path)


def sdist():
    """Make the source distribution in dist/ and return its path.

    Call with `steps.exclusive` held.
    """
    return deliver(make_sdist())


def make_sdist():
    """Make the source distribution and return its path, which the next one is made at too."""
    home = BUILD / "sdist"
    home.mkdir(parents=True, exist_ok=True)
    (home / "config.json").write_text("{}")
    made = home / "made"
    shutil.rmtree(made, ignore_errors=True)
    setup_py(
        home, "egg_info", "--egg-base", home, "sdist", "--formats", "gztar", "--dist-dir", made
    )
    (path,) = made.iterdir()
    return path


def deliver(path):
    """Move what was made into dist/."""
    DIST.mkdir(exist_ok=True)
    return path.replace(DIST / path.name)
