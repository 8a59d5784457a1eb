"""Every import of the compiled modules stands in Python code too: freezers cannot look into those.

What it is good for, a frozen application that starts, is seen in host/test_surroundings.py.
"""

import ast
import functools
import modulefinder
import sys
from pathlib import Path

import pytest
from test_layers import MODULES, ROOT, blank, imported_modules, read

import iocpx

pytestmark = pytest.mark.once("looks at what the modules import")

COMPILED = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "iocpx").glob("*.pyx"))
IMPORTS = "iocpx/_imports.py"


def needed(file, source):
    """The modules that importing a compiled module brings in, from its source text.

    A cimport from a module that is compiled imports it; one from a declaration alone does not.
    """
    declared = {name for name in MODULES if not has_code(name)}
    names = {name for _, name in imported_modules(file, blank(source), MODULES)}
    return {
        name
        for name in names - declared
        if name in MODULES or name.partition(".")[0] in sys.stdlib_module_names
    }


@functools.cache
def has_code(name):
    path = ROOT / name.replace(".", "/")
    return path.is_dir() or any(path.with_suffix(suffix).exists() for suffix in (".py", ".pyx"))


@functools.cache
def all_needed():
    """What the compiled modules import, and themselves."""
    found = {file.removesuffix(".pyx").replace("/", ".") for file in COMPILED}
    return found.union(*(needed(file, read(file)) for file in COMPILED))


@pytest.mark.slow("reads all sources")
def test_a_freezer_sees_every_import_of_the_compiled_modules():
    # The standard library's own finder, from which others descend. Its path is the package's alone,
    # so of all else it only notes the name.
    finder = modulefinder.ModuleFinder([str(Path(iocpx.__file__).parents[1])])
    finder.import_hook("iocpx")
    seen = {*finder.modules, *finder.badmodules}
    assert COMPILED
    assert sorted(all_needed() - seen) == [], f"not named in {IMPORTS}"


@pytest.mark.slow("reads all sources")
def test_nothing_is_imported_for_freezers_that_no_compiled_module_needs():
    named = set()
    for node in ast.walk(ast.parse(read(IMPORTS))):
        if isinstance(node, ast.Import):
            named |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            named |= {f"{node.module}.{alias.name}" for alias in node.names}
    assert named
    assert sorted(named - all_needed()) == []


def test_imports_within_functions_and_by_cimport_are_needed():
    source = '''
"""import json"""
cimport cython
from libc.string cimport memcpy
from iocpx._winsock cimport SOCKET
from iocpx._state cimport (
    buf_t,
)
from iocpx import native
import os.path, csv as c
cdef f():
    if 1: import glob
    from iocpx._errors import os_error
'''
    assert needed("iocpx/_core.pyx", source) == {
        "iocpx._state",
        "iocpx.native",
        "iocpx._errors",
        "os.path",
        "csv",
        "glob",
    }
