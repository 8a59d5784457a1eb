"""Tests of asyncio that others have written: where they come from, and which of them are run."""

import re
import shutil
import tarfile
from dataclasses import dataclass

from . import fetch, here
from .steps import LAB, fresh_folder, step


@dataclass(frozen=True)
class Suite:
    package: str  # that its modules are in
    tests: str  # patterns of the names of those that are run, with commas between
    archive: tuple = ()  # the PyPI file: project, file name, SHA-256; none: Python's own
    left_out: tuple = ()  # modules


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
        # About libuv, fork(), or what is not there.
        (
            *("test_cython", "test_fs_event", "test_libuv_api", "test_regr1", "test_unix"),
            *("test_aiodns", "test_aiohttp", "test_aiomultiprocess", "test_playwright"),
        ),
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
    archive = SUITES[suite].archive
    target = LAB / "suites" / suite
    step(f"{suite}'s tests", [archive, STUB], lambda: unpack(archive, target), target)
    return target


def unpack(archive, target):
    """The tests of a source distribution, and the project's base classes for them."""
    project = archive[0]
    path = fetch.index_file(here.host_python(), *archive)
    wanted = re.compile(rf"[^/]+/(tests/.+|{project}/_testbase\.py)")
    fresh_folder(target)
    with tarfile.open(path) as tar:
        for member in tar:
            found = wanted.fullmatch(member.name)
            if found and member.isfile():
                place = target / found[1]
                place.parent.mkdir(parents=True, exist_ok=True)
                with tar.extractfile(member) as source, open(place, "wb") as copy:
                    shutil.copyfileobj(source, copy)
    (target / project / "__init__.py").write_text(STUB)


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
