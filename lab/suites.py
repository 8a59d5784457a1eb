"""Tests of asyncio that others have written: where they come from, and which of them are run."""

import re
import shutil
import tarfile
from dataclasses import dataclass

from . import fetch, here
from .steps import LAB, SUITES_PACKAGES, fresh_folder, step


@dataclass(frozen=True)
class Suite:
    package: str  # that its modules are in
    tests: str  # patterns of the names of those that are run, with commas between
    archive: tuple = ()  # the PyPI file: project, file name, SHA-256; none: Python's own
    left_out: tuple = ()  # modules
    packages: bool = False  # its tests import those of requirements-suites.txt
    more: str = ""  # what the stub of the project does beside


SUITES = {
    "cpython": Suite("test.test_asyncio", "*"),
    # uvloop's, as winloop's authors have made them run on Windows. These classes take the project's
    # own loop; the others, which test asyncio's, take one of a selector in every second module.
    "winloop": Suite(
        "tests",
        "*UV*,*.TestDealloc.*",
        (
            "winloop",
            "winloop-0.8.2.tar.gz",
            "41d0ae9fd4fdd86268efbfb12813f96d3141705ba96a6b413ce86972b6750d82",
        ),
        # About libuv, fork(), or libraries that this Python has not; aiohttp is tested in
        # tests/frameworks.
        (
            *("test_cython", "test_fs_event", "test_libuv_api", "test_regr1", "test_unix"),
            *("test_aiodns", "test_aiohttp", "test_aiomultiprocess", "test_playwright"),
        ),
    ),
    # uvloop's own of TLS: of these winloop leaves some out on Windows. Of the others many are about
    # what Windows has not.
    "uvloop": Suite(
        "tests",
        "*Test_UV_TCPSSL*",
        (
            "uvloop",
            "uvloop-0.22.1.tar.gz",
            "6c84bae345b9147082b17371e3dd5d42775bddce91f885499017f4607fdaf39f",
        ),
        packages=True,
        # Its base class compares with it, and Windows' Python has none.
        more="import socket\n\nsocket.AF_UNIX = object()\n",
    ),
}

# In the place of the project: its tests shall find the loop under test there, and so shall the
# programs that they start.
STUB = """\
import asyncio
import importlib
import os

_module, _, _name = os.environ["LOOP_UNDER_TEST"].partition(":")
Loop = getattr(importlib.import_module(_module), _name) if _name else asyncio.ProactorEventLoop
new_event_loop = Loop
EventLoopPolicy = asyncio.DefaultEventLoopPolicy


def run(main):
    with asyncio.Runner(loop_factory=Loop) as runner:
        return runner.run(main)
"""


def folder(suite, lane):
    """The folder to import the suite's package from, fetched if it is not there yet."""
    if not SUITES[suite].archive:
        return here.suite(lane)
    archive, packages = SUITES[suite].archive, SUITES[suite].packages
    stub = STUB + SUITES[suite].more
    name = f"{suite}-{lane}" if packages else suite
    target = LAB / "suites" / name

    def work():
        fresh_folder(target)
        if packages:
            here.install_for_suites(lane, target)
        unpack(archive, stub, target)

    inputs = [archive, stub, *([SUITES_PACKAGES.read_text()] if packages else [])]
    step(f"{name}'s tests", inputs, work, target)
    return target


def unpack(archive, stub, target):
    """The tests of a source distribution, and the project's base classes for them."""
    project = archive[0]
    path = fetch.index_file(here.host_python(), *archive)
    wanted = re.compile(rf"[^/]+/(tests/.+|{project}/_testbase\.py)")
    with tarfile.open(path) as tar:
        for member in tar:
            found = wanted.fullmatch(member.name)
            if found and member.isfile():
                place = target / found[1]
                place.parent.mkdir(parents=True, exist_ok=True)
                with tar.extractfile(member) as source, open(place, "wb") as copy:
                    shutil.copyfileobj(source, copy)
    (target / project / "__init__.py").write_text(stub)


def modules(suite, path):
    """The names of the suite's modules, in its folder `path`."""
    found = path.joinpath(*SUITES[suite].package.split(".")).glob("test_*.py")
    # A part of a name that no test of a module can do without.
    part = SUITES[suite].tests.partition(",")[0].strip("*")
    return sorted(
        file.stem
        for file in found
        if file.stem not in SUITES[suite].left_out and part in file.read_text(encoding="utf-8")
    )
