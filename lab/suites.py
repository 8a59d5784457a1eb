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
    tests: str  # a pattern of the names of those that are run
    archive: tuple = ()  # the PyPI file: project, file name, SHA-256; none: Python's own
    left_out: tuple = ()  # modules


# winloop and uvloop test asyncio's loop too, in classes of its own: those alone are run here.
SUITES = {
    "cpython": Suite("test.test_asyncio", "*"),
    "winloop": Suite(
        "tests",
        "*AIO*",
        (
            "winloop",
            "winloop-0.8.2.tar.gz",
            "41d0ae9fd4fdd86268efbfb12813f96d3141705ba96a6b413ce86972b6750d82",
        ),
        # They take asyncio's loop of a selector, or something that is not there.
        (
            *("test_aiodns", "test_aiohttp", "test_aiomultiprocess", "test_playwright"),
            *("test_sockets", "test_tcp", "test_udp", "test_unix"),
        ),
    ),
    # What is left out is for Unix; winloop has made of it what can be had on Windows.
    "uvloop": Suite(
        "tests",
        "*AIO*",
        (
            "uvloop",
            "uvloop-0.23.0.tar.gz",
            "28d160f51ab4da3b187063652e643dea6831072add4adc1e6d62afbe73b6be27",
        ),
        ("test_aiohttp", "test_pipes", "test_process", "test_signals", "test_unix"),
    ),
}


def folder(suite, lane):
    """The folder to import the suite's package from, fetched if it is not there yet."""
    if not SUITES[suite].archive:
        return here.suite(lane)
    archive = SUITES[suite].archive
    target = LAB / "suites" / suite
    step(f"{suite}'s tests", [archive, STUB], lambda: unpack(archive, target), target)
    return target


# The tests that are run need no more of the project than its base classes.
STUB = '"""In the place of the project of this name, whose tests import it."""\n'


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
    part = SUITES[suite].tests.strip("*")
    return sorted(
        file.stem
        for file in found
        if file.stem not in SUITES[suite].left_out and part in file.read_text(encoding="utf-8")
    )
