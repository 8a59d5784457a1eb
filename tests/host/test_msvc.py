"""The choice of the compiler, and what lab/msvc.py makes of what Microsoft's tools say.

Nothing here fetches the compiler or runs it: `dev.py test --compiler msvc` does.
"""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import dev  # noqa: E402 - found only now
from lab import build, here, msvc, steps  # noqa: E402

ON_WINDOWS = sys.platform == "win32"
LINUX_ONLY = pytest.mark.skipif(ON_WINDOWS, reason="on Windows there is one compiler")


def run_dev(*words):
    return subprocess.run(
        [sys.executable, ROOT / "dev.py", *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=100,
    )


# -- the option


@pytest.mark.parametrize("verb", ["build", "test", "wheel", "bench"])
def test_without_the_option_the_lab_builds_as_ever(verb):
    assert dev.builder(dev.make_parser().parse_args([verb])) is build


@LINUX_ONLY
@pytest.mark.parametrize("verb", ["build", "test", "wheel", "bench"])
def test_microsofts_compiler_is_chosen(verb):
    assert dev.builder(dev.make_parser().parse_args([verb, "--compiler", "msvc"])) is msvc


@pytest.mark.skipif(not ON_WINDOWS, reason="Windows' own compiler is nothing special there")
def test_microsofts_compiler_is_the_only_one_on_windows():
    assert dev.builder(dev.make_parser().parse_args(["build", "--compiler", "msvc"])) is build
    done = run_dev("build", "--compiler", "zig")
    assert done.returncode == 2
    assert "--compiler: invalid choice: 'zig'" in done.stderr


def test_unknown_compiler():
    done = run_dev("build", "--compiler", "gcc")
    assert done.returncode == 2
    assert "--compiler: invalid choice: 'gcc'" in done.stderr
    assert here.COMPILERS[0] in done.stderr


@LINUX_ONLY
def test_no_debug_build_by_microsofts_compiler():
    done = run_dev("build", "--debug", "--compiler", "msvc")
    assert done.returncode == 1
    assert done.stderr == "dev.py: --debug is for zig alone: leave it or --compiler out\n"


def test_the_option_is_devs_own_where_the_verb_has_it():
    for words in (["--compiler", "msvc"], ["--compiler=msvc"]):
        for verb in ("test", "bench"):
            assert dev.split([verb, *words, "x"]) == ([verb, *words], ["x"])
        assert dev.split(["run", *words]) == (["run"], words)


@LINUX_ONLY
def test_each_build_has_a_folder_of_its_own():
    lane = here.default_lane()
    folders = [build.folder(lane), build.folder(lane, debug=True), msvc.folder(lane)]
    assert len(set(folders)) == 3
    # The build of the checkout itself is in nobody's way.
    assert build.library(lane) == ROOT
    assert msvc.library(lane).parent == msvc.folder(lane)


# -- what setuptools needs to find the compiler


@LINUX_ONLY
def test_the_environment_has_windows_paths_of_the_compiler():
    env = msvc.environment()
    for key, count in (("INCLUDE", 4), ("LIB", 3), ("WINEPATH", 2)):
        paths = env[key].split(";")
        assert len(paths) == count
        assert all(path.startswith("Z:\\") and "/" not in path for path in paths), env[key]
    assert env["_CL_"].startswith("/W4 ")


DUMPBIN = """\
Dump of file Z:\\lane\\python313.dll

    00000000 characteristics
           1 ordinal base
           4 number of functions

    ordinal hint RVA      name

          1    0 004A4FF8 PY_TIMEOUT_MAX
          2    1 00265234 PyAIter_Check
       1648  66F 001C2AF0 _Py_strhex

  Summary

       54000 .data
"""


def test_the_exports_of_a_dll():
    assert msvc.exports(DUMPBIN) == ["PY_TIMEOUT_MAX", "PyAIter_Check", "_Py_strhex"]


def test_a_dll_without_exports():
    with pytest.raises(steps.Failure, match=r"^dumpbin lists no exports:\nLINK : warning"):
        msvc.exports("LINK : warning LNK4044: unrecognized option")


# -- whose warnings

GENERATED = """\
/* #### Code section: module_code ### */

/* "iocpx/_thing.pyx":12
 *     cdef int error
*/
static int thing(void) {
  narrow = wide;
}

/* "(tree fragment)":3
 * def __reduce_cython__(self):
*/
  narrow = wide;

/* "iocpx/_thing.pxd":40
 *     cdef readonly long size
*/
  narrow = wide;
/* #### Code section: utility_code_def ### */
  narrow = wide;
/* "iocpx/_thing.pyx":12
*/
  narrow = wide;
"""


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "build" / "temp" / "c" / "iocpx"
    folder.mkdir(parents=True)
    (folder / "_thing.c").write_text(GENERATED)
    return tmp_path


def numbers(text):
    """The lines of the generated file that say so."""
    return [n for n, line in enumerate(GENERATED.splitlines(), 1) if text in line]


def test_our_warnings_come_with_the_line_of_the_source(source):
    say = "warning C4244: '=': conversion from '__int64' to 'int', possible loss of data"
    output = "".join(
        f"  build\\temp\\c\\iocpx/_thing.c({number}): {say}\r\n" for number in numbers("narrow")
    )
    assert msvc.own_warnings(output, source) == [
        f"iocpx/_thing.pyx:12: {say}",
        f"iocpx/_thing.pxd:40: {say}",
    ]


def test_the_linkers_warnings_are_seen_too(source):
    (first, *_) = numbers("narrow")
    # Those of the code generator, which runs when it links, have a blank more.
    output = f"  Z:\\build\\temp\\c\\iocpx\\_thing.c({first}) : warning C4701: 'x' used\n"
    assert msvc.own_warnings(output, source) == ["iocpx/_thing.pyx:12: warning C4701: 'x' used"]


def test_warnings_about_others_code_are_left_out(source):
    output = (
        "  Z:\\lane\\include\\object.h(361) : warning C4702: unreachable code\n"
        "  cl : Command line warning D9025 : overriding '/W3' with '/W4'\n"
        "  warning: no files found matching '*.c' under directory 'lab'\n"
    )
    assert msvc.own_warnings(output, source) == []


# -- a step that is remade with what it rests on


@LINUX_ONLY
def test_the_library_that_pyconfig_names_is_the_lanes_own():
    # Debian has no pyconfig.h for Windows' 3.14; Microsoft's linker would look for python313.lib.
    for version in ("3.13", "3.14"):
        path = steps.LAB / "headers" / version / "pyconfig.h"
        if not path.exists():
            continue  # no lane of it is set up
        name = version.replace(".", "")
        text = path.read_text(encoding="utf-8")
        assert f'pragma comment(lib,"python{name}.lib")' in text
        assert f'pragma comment(lib,"python{name}t.lib")' in text
