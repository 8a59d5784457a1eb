"""The layers, asserted on the source text: who may import whom, where the GIL is taken, and what
stands nowhere in the code.

Every check is a function from the text of one file to the list of its violations, so that the
second half of this file can show each of them a wrong text. Nothing here imports iocpx.
"""

import os
import re
import sys
from bisect import bisect_right
from pathlib import Path
from typing import NamedTuple

import pytest

pytestmark = pytest.mark.once("reads the sources")

ROOT = Path(__file__).resolve().parents[1]


class Room(NamedTuple):
    files: str  # glob below the root
    may_import: str  # rooms and groups of GROUPS, beside the room itself


# What every room of the engine stands on.
BELOW = "_types _state _op _winsock engine_api libc"
# The engine's rooms, from the bottom up; above them stands Python.
ENGINE = (
    *("_types", "_wants", "_base", "_sched", "_life"),
    *("_provider", "_connect", "_recv", "_files", "_datagrams", "_send", "_conn", "_requests"),
    *("_filter", "_sendfile", "_sendto", "_open", "_delivery", "_accept", "_service", "_file_ops"),
    *("_worker", "_keeper", "_engine"),
    *("_native", "_c_handler"),
)

# Who may import whom. `iocpx` and `native` are what the public sees.
ROOMS = {
    "_winsock": Room("iocpx/_winsock.*", ""),
    "_op": Room("iocpx/_op.*", "_winsock"),
    "_state": Room("iocpx/_state.*", "libc"),
    "engine_api": Room("iocpx/engine_api.*", "libc cpython"),
    "_frames": Room("iocpx/_frames.*", "libc"),
    "_types": Room("iocpx/_types.*", "_state _op _winsock engine_api libc"),
    "_wants": Room("iocpx/_wants.*", "_types _state"),
    "_base": Room("iocpx/_base.*", BELOW),
    "_sched": Room("iocpx/_sched.*", f"{BELOW} _wants _base"),
    "_life": Room("iocpx/_life.*", f"{BELOW} _wants _base _sched"),
    "_provider": Room("iocpx/_provider.*", BELOW),
    "_connect": Room("iocpx/_connect.*", f"{BELOW} _base _sched _life"),
    "_recv": Room("iocpx/_recv.*", f"{BELOW} _wants _base _sched _life"),
    "_files": Room("iocpx/_files.*", f"{BELOW} _base _sched _life"),
    "_datagrams": Room("iocpx/_datagrams.*", f"{BELOW} _base _sched _life"),
    "_send": Room("iocpx/_send.*", f"{BELOW} _wants _base _sched _life _files _datagrams"),
    "_conn": Room(
        "iocpx/_conn.*",
        f"{BELOW} _wants _base _sched _life _connect _recv _files _datagrams _send",
    ),
    "_requests": Room(
        "iocpx/_requests.*", f"{BELOW} _wants _base _sched _life _datagrams _send _conn"
    ),
    "_filter": Room("iocpx/_filter.*", f"{BELOW} _wants _base _sched _life _conn _requests"),
    "_sendfile": Room(
        "iocpx/_sendfile.*", f"{BELOW} _wants _base _sched _files _conn _requests"
    ),
    "_sendto": Room("iocpx/_sendto.*", f"{BELOW} _base _sched _datagrams _requests"),
    "_delivery": Room("iocpx/_delivery.*", f"{BELOW} _wants _base _life"),
    "_open": Room("iocpx/_open.*", f"{BELOW} _base _sched _provider _recv _datagrams _conn"),
    "_accept": Room("iocpx/_accept.*", f"{BELOW} _base _provider _open"),
    "_service": Room("iocpx/_service.*", f"{BELOW} _base _requests _accept"),
    "_file_ops": Room("iocpx/_file_ops.*", f"{BELOW} _base"),
    "_worker": Room("iocpx/_worker.*", f"{BELOW} _base _sched _conn _file_ops"),
    "_keeper": Room(
        "iocpx/_keeper.*",
        f"{BELOW} _base _sched _life _conn _requests _accept _file_ops _worker",
    ),
    "_engine": Room("iocpx/_engine.*", f"{BELOW} _base _worker"),
    "_native": Room("iocpx/_native.*", f"{BELOW} _wants _base _requests _delivery"),
    "_c_handler": Room("iocpx/_c_handler.*", f"{BELOW} _base _sched _requests _delivery"),
    "_errors": Room("iocpx/_errors.*", "stdlib"),
    "_addresses": Room("iocpx/_addresses.*", "stdlib"),
    "_arguments": Room("iocpx/_arguments.*", "stdlib"),
    "_names": Room("iocpx/_names.*", "stdlib"),
    "_listening": Room("iocpx/_listening.*", "_addresses _names _errors stdlib"),
    "_threads": Room("iocpx/_threads.*", "stdlib"),
    "_engine_api": Room(
        "iocpx/_engine_api.*", "_c_handler engine_api _winsock _errors libc cpython stdlib"
    ),
    "_framers": Room("iocpx/_framers.*", "_frames _arguments libc cpython stdlib"),
    "native": Room("iocpx/native.*", "_engine_api _framers stdlib"),
    "_tls": Room("iocpx/_tls.*", "cpython stdlib"),
    "_buffers": Room("iocpx/_buffers.*", "_delivery _requests _types _state cpython stdlib"),
    "_tls_layer": Room(
        "iocpx/_tls_layer.*",
        "_tls _buffers _filter _delivery _requests _types _state libc cpython",
    ),
    "_messages": Room(
        "iocpx/_messages.*",
        "_tls _tls_layer _framers _frames _filter _delivery _requests _sched _base _types _state"
        " _addresses _errors libc cpython",
    ),
    "_futures": Room("iocpx/_futures.*", "stdlib"),
    "_file_layer": Room(
        "iocpx/_file_layer.*",
        "_messages _futures _sendfile _requests _sched _types _winsock"
        " _arguments _errors libc cpython stdlib",
    ),
    "_engines": Room(
        "iocpx/_engines.*",
        "_engine _keeper _worker _base _types _winsock"
        " _arguments _errors _threads libc cpython stdlib",
    ),
    "_runtime": Room(
        "iocpx/_runtime.*",
        "_engines _engine_api _futures _c_handler _native _service _accept _open _delivery"
        " _requests _base _types _winsock"
        " _addresses _errors _threads native libc cpython stdlib",
    ),
    "_timers": Room(
        "iocpx/_timers.*",
        "_runtime _requests _base _types _state _arguments libc cpython stdlib",
    ),
    "_protocols": Room("iocpx/_protocols.*", "cpython stdlib"),
    "_connection": Room(
        "iocpx/_connection.*",
        "_protocols _tls _file_layer _timers _runtime _engines _engine _filter _buffers _delivery"
        " _sendfile _requests _sched _base _types _state _winsock _addresses _arguments _errors"
        " libc cpython stdlib",
    ),
    "_serving": Room("iocpx/_serving.*", "_addresses _arguments _threads stdlib"),
    "_server": Room(
        "iocpx/_server.*", "_serving _runtime _engines _listening _arguments native cpython stdlib"
    ),
    "_peers": Room("iocpx/_peers.*", "_runtime _types _addresses libc cpython stdlib"),
    "_datagram_layer": Room(
        "iocpx/_datagram_layer.*",
        "_peers _sendto _delivery _datagrams _requests _sched _base _types _state"
        " _addresses _arguments _errors cpython stdlib",
    ),
    "_datagram_server": Room(
        "iocpx/_datagram_server.*",
        "_datagram_layer _serving _timers _protocols _runtime _engines _listening _open _delivery"
        " _datagrams _service _requests _sched _base _types _state _addresses _arguments _errors"
        " libc cpython stdlib",
    ),
    "_aside": Room("iocpx/_aside.*", "stdlib"),
    "_clients": Room(
        "iocpx/_clients.*",
        "_connection _runtime _engines _tls _open _provider _requests _service _sched _base _types"
        " _state _addresses _errors _threads libc cpython stdlib",
    ),
    "_connecting": Room(
        "iocpx/_connecting.*",
        "_clients _connection _server _runtime _futures _engines _aside _tls _open _base _types"
        " _names _addresses _arguments _errors _threads native libc cpython stdlib",
    ),
    "_open_file": Room(
        "iocpx/_open_file.*",
        "_file_ops _clients _runtime _futures _engines _aside _types _winsock _arguments _errors"
        " libc cpython stdlib",
    ),
    "_core": Room(
        "iocpx/_core.*",
        "_open_file _file_ops _connecting _clients _server _datagram_server _connection _timers"
        " _runtime _engine_api _engines _buffers _delivery _requests _sched _types _state"
        " native libc cpython stdlib",
    ),
    "_handles": Room("iocpx/_handles.*", "cpython stdlib"),
    "_scheduling": Room("iocpx/_scheduling.*", "_handles _winsock libc cpython stdlib"),
    "_socket_polls": Room("iocpx/_socket_polls.*", "_handles _winsock _errors libc cpython"),
    "_loop": Room(
        "iocpx/_loop.*", "_scheduling _handles _socket_polls _winsock libc cpython stdlib"
    ),
    "_endpoint": Room(
        "iocpx/_endpoint.*",
        "_engines _service _accept _types _addresses _errors libc cpython stdlib",
    ),
    "_engine_loop": Room(
        "iocpx/_engine_loop.*",
        "_loop _scheduling _endpoint _engines _engine _worker _sched _base _op _types _winsock"
        " libc cpython stdlib",
    ),
    "_transport_socket": Room("iocpx/_transport_socket.*", "_runtime _errors stdlib"),
    "_transport": Room(
        "iocpx/_transport.*",
        "_engine_loop _scheduling _endpoint _transport_socket _runtime _tls _file_layer native"
        " _filter _sendfile _buffers _delivery _requests _sched _base _types _state _addresses"
        " _errors libc cpython stdlib",
    ),
    "_transports": Room(
        "iocpx/_transports.*",
        "_transport _engine_loop _scheduling _endpoint _open _tls _file_layer _filter _buffers"
        " _delivery _provider _requests _sched _base _types _state _addresses _errors"
        " cpython stdlib",
    ),
    "_loop_files": Room(
        "iocpx/_loop_files.*", "_engine_loop _engines _open_file _winsock cpython stdlib"
    ),
    "_tcp_loop": Room("iocpx/_tcp_loop.*", "_engine_loop _tls _transport _transports stdlib"),
    "_datagram_transport": Room(
        "iocpx/_datagram_transport.*",
        "_datagram_layer _engine_loop _scheduling _endpoint _transport_socket _open _delivery"
        " _datagrams"
        " _requests _sched _base _types _state _addresses _errors libc cpython stdlib",
    ),
    "_socket_loop": Room(
        "iocpx/_socket_loop.*", "_tcp_loop _transport _datagram_transport stdlib"
    ),
    "_event_loop": Room(
        "iocpx/_event_loop.*",
        "_socket_loop _endpoint _transport_socket _loop_files _loop _scheduling _handles stdlib",
    ),
    "_policy": Room("iocpx/_policy.*", "_event_loop stdlib"),
    "iocpx": Room(
        "iocpx/__init__.*", "_core _errors _event_loop _imports _policy native stdlib"
    ),
    "bench": Room("iocpx/bench/*", "iocpx native stdlib other"),
    "__main__": Room("iocpx/__main__.*", "iocpx native bench stdlib"),
    "lab": Room("lab/*", "conformance stdlib pip"),
    # Of the lab, but runs in the lab's own environment, which has what draws tables.
    "conformance": Room("lab/conformance.py", "lab stdlib other"),
    "dev": Room("dev.py", "lab stdlib"),
}
# Names for freezers all that lies below the package's face.
ABOVE_IMPORTS = {"iocpx", "_event_loop", "_socket_loop", "_tcp_loop", "_policy"}
ABOVE_IMPORTS |= {"bench", "__main__"}
ABOVE_IMPORTS |= {"lab", "conformance", "dev"}
ROOMS["_imports"] = Room("iocpx/_imports.*", " ".join([*(set(ROOMS) - ABOVE_IMPORTS), "stdlib"]))

# What does not lie in a room: "other" is whatever has to be installed.
GROUPS = {
    "libc": {"libc"},
    "cpython": {"cpython", "cython"},
    "pip": {"pip"},  # comes with Python
    "stdlib": set(sys.stdlib_module_names),
    "stub": {"typing_extensions"},  # type checkers bring it along; for .pyi files alone
}

# The one place that takes the GIL.
GIL_FILE, GIL_FUNCTION = "iocpx/_core.pyx", "deliver_batch"
# Rooms without Python: every function is nogil.
NOGIL_ROOMS = {"_state", "_frames", *ENGINE}
# The only room that includes headers: the boundary to the operating system.
HEADER_ROOMS = {"_winsock"}
# The only room that may say that it runs under Wine: a benchmark tells where it ran.
WINE_ROOMS = {"bench"}

SUFFIXES = {".py", ".pyi", ".pyx", ".pxd", ".pxi"}
CYTHON = {".pyx", ".pxd", ".pxi"}


# -- reading -----------------------------------------------------------------------------------


STRING_OR_COMMENT = re.compile(
    r'''"""(?:\\.|[^\\])*?"""|\'\'\'(?:\\.|[^\\])*?\'\'\''''
    r"""|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|\#[^\n]*""",
    re.S,
)


def blank(source, keep_strings=False):
    """The source with comments and strings blanked, every character left in its place.

    `keep_strings`: only comments and triple-quoted strings, which are docstrings or C, go.
    """

    def blanked(match):
        text = match.group()
        if keep_strings and text[0] != "#" and text[:3] not in ('"""', "'''"):
            return text
        return re.sub(r"[^\n]", " ", text)

    return STRING_OR_COMMENT.sub(blanked, source)


class Found:
    """Collects violations of one file, each as `file:line: what`."""

    def __init__(self, file, text):
        self.file = file
        self.starts = [0, *(match.end() for match in re.finditer("\n", text))]
        self.violations = []

    def add(self, position, what):
        line = bisect_right(self.starts, position)
        self.violations.append(f"{self.file}:{line}: {what}")


def module_of(file):
    """`iocpx/bench/run.py` → `iocpx.bench.run`; a package's `__init__` is the package."""
    parts = list(Path(file).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def sources():
    """The files of every room: {path from the root, with slashes: room}."""
    return {
        path.relative_to(ROOT).as_posix(): name
        for name, room in ROOMS.items()
        for path in sorted(ROOT.glob(room.files))
        if path.suffix in SUFFIXES
    }


SOURCES = sources()
MODULES = {module_of(file): name for file, name in SOURCES.items()}


def read(file):
    return (ROOT / file).read_text(encoding="utf-8")


# -- the checks --------------------------------------------------------------------------------

IMPORT = re.compile(
    r"^[ \t]*(?:from[ \t]+(?P<base>[.\w]+)[ \t]+c?import[ \t]*(?P<names>\([^)]*\)|[^\n]*)"
    r"|c?import[ \t]+(?P<modules>[^\n]+))",
    re.M,
)


def imported_modules(file, code, modules):
    """(position, absolute name of a module) of every import and cimport in blanked code."""
    # A statement that goes on with a backslash, or follows a semicolon or a colon, becomes a line.
    code = re.sub(r"\\\n", "  ", code)
    code = re.sub(r"[;:](?=[ \t]*(?:from|c?import)\b)", "\n", code)
    package = module_of(file).split(".")
    if Path(file).stem != "__init__":
        package.pop()
    for match in IMPORT.finditer(code):
        if match["modules"]:
            for item in match["modules"].split(","):
                yield match.start(), item.split()[0]
            continue
        base = match["base"]
        dots = len(base) - len(base.lstrip("."))
        if dots:
            above = package[: len(package) - dots + 1]
            base = ".".join([*above, *filter(None, [base[dots:]])])
        for item in match["names"].strip("()").split(","):
            if item.strip():
                name = f"{base}.{item.split()[0]}"
                yield match.start(), name if name in modules else base


def import_violations(file, room, source, modules=MODULES):
    code = blank(source)
    found = Found(file, source)
    allowed = {room, *ROOMS[room].may_import.split()}
    if Path(file).suffix == ".pyi":
        allowed.add("stub")
    for position, module in imported_modules(file, code, modules):
        top = module.partition(".")[0]
        if module in modules:
            target = modules[module]
        elif any(top == known.partition(".")[0] for known in modules):
            found.add(position, f"imports {module}, which is in no room")
            continue
        else:
            groups = [name for name, members in GROUPS.items() if top in members]
            target = groups[0] if groups else "other"
        if target not in allowed:
            found.add(position, f"{room} may not import {module}")
    for match in re.finditer(r"^[ \t]*include\b(?=[ \t]*$)", code, re.M):
        if Path(file).suffix in CYTHON:
            found.add(match.start(), "includes a file: layers are modules")
    if room in {"bench", "__main__"}:
        for match in re.finditer(r"\biocpx\s*\.\s*_(?!_)\w+", code):
            found.add(match.start(), f"{room} uses public names only")
    return found.violations


FUNCTION = re.compile(
    r"^(?P<indent>[ \t]*)(?:async[ \t]+def|cdef|cpdef|def)\b(?![ \t]+class\b)[^(=\n]*?"
    r"(?P<name>\w+)[ \t]*\((?:[^()]|\([^()]*\))*\)(?P<tail>[^\n:]*)",
    re.M,
)


def gil_sites(source):
    """(position, name of the function around it) of everything that takes the GIL."""
    code = blank(source)
    taking = r"\bwith\s+gil\b|\bPyGILState_Ensure\b|\bPyEval_(?:Restore|Acquire)Thread\b"
    for match in re.finditer(taking, code):
        before = code[: match.end()]
        line = before[before.rfind("\n") + 1 :]
        indent = len(line) - len(line.lstrip())
        name = None
        for function in FUNCTION.finditer(code):
            if function.start() > match.start():
                break
            if match.start() < function.end() or len(function["indent"]) < indent:
                name = function["name"]
        yield match.start(), name


def nogil_violations(file, source):
    found = Found(file, source)
    for match in FUNCTION.finditer(blank(source)):
        if not re.search(r"\bnogil\b", match["tail"]):
            found.add(match.start(), f"{match['name']}() is not nogil")
    return found.violations


def header_violations(file, source):
    found = Found(file, source)
    # In the source as it is: headers stand in strings.
    for match in re.finditer(r"^[ \t]*cdef\b[^#\n]*\bextern[ \t]+from[ \t]+['\"]", source, re.M):
        found.add(match.start(), "declares a header's contents: only _winsock does")
    for match in re.finditer(r"^[ \t]*#[ \t]*include\b", source, re.M):
        found.add(match.start(), "includes a header: only _winsock does")
    return found.violations


def wine_violations(file, source):
    found = Found(file, source)
    code = blank(source, keep_strings=True)
    # Not in any case and not in the middle of a word: WinError is something else.
    for match in re.finditer("(?<![A-Za-z])wine(?!rror)|Wine|WINE(?!RROR)", code):
        found.add(match.start(), "names Wine in code: what differs there is never branched on")
    return found.violations


# Put together here, so that this file passes its own check.
HOSTS = [".".join(parts) for parts in [("pypi", "org"), ("pythonhosted", "org"), ("debian", "org")]]


def host_violations(file, source):
    found = Found(file, source)
    for host in HOSTS:
        for match in re.finditer(re.escape(host), source):
            found.add(match.start(), f"names the host of a registry, {host}")
    return found.violations


def text_files():
    """Every text file that may be committed, without what tools leave behind, or are about to
    take away again: other tests may run at the same time.
    """
    leavings = {".git", ".lab", "build", "dist", "venv", ".venv", "wheelhouse"}
    leavings |= {"__pycache__", ".hypothesis"}
    text = SUFFIXES | {".c", ".cfg", ".h", ".in", ".md", ".sh", ".toml", ".txt", ".yml", ""}
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [
            name
            for name in folders
            if name not in leavings
            and not name.endswith(("_cache", ".egg-info"))
            and not name.startswith("iocpx-")  # what becomes a source distribution
        ]
        for name in files:
            path = Path(folder, name)
            # Beside the sources of iocpx, C is what Cython has written.
            if path.suffix in text and (path.suffix != ".c" or path.parent != ROOT / "iocpx"):
                yield path.relative_to(ROOT).as_posix()


# -- the checks on the sources -------------------------------------------------------------------


def test_every_source_lies_in_a_room_and_every_room_has_one():
    package = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "iocpx").rglob("*")
        if path.suffix in SUFFIXES
    }
    assert package - set(SOURCES) == set(), "files that ROOMS does not name"
    assert set(ROOMS) - set(SOURCES.values()) == set(), "rooms without a file"


@pytest.mark.parametrize("room", ROOMS)
def test_imports(room):
    files = [file for file, name in SOURCES.items() if name == room]
    assert files
    violations = [line for file in files for line in import_violations(file, room, read(file))]
    assert violations == []


def test_the_gil_is_taken_in_one_place():
    sites = [
        (file, function)
        for file in SOURCES
        if Path(file).suffix in CYTHON
        for _, function in gil_sites(read(file))
    ]
    assert sites == [(GIL_FILE, GIL_FUNCTION)]


@pytest.mark.parametrize(
    ("check", "rooms"),
    [
        (nogil_violations, NOGIL_ROOMS),
        (header_violations, set(ROOMS) - HEADER_ROOMS),
        (wine_violations, set(ROOMS) - WINE_ROOMS - {"lab", "dev"}),
    ],
)
def test_code(check, rooms):
    files = [file for file, room in SOURCES.items() if room in rooms]
    assert files
    violations = [line for file in files for line in check(file, read(file))]
    assert violations == []


def test_no_file_names_the_host_of_a_registry():
    files = list(text_files())
    assert "pyproject.toml" in files
    assert "tests/test_layers.py" in files
    violations = [line for file in files for line in host_violations(file, read(file))]
    assert violations == []


# -- the checks on wrong texts -------------------------------------------------------------------

# A package that does not depend on which files exist.
PRETENDED = {"iocpx": "iocpx", "iocpx.native": "native", "iocpx.bench": "bench", "lab": "lab"} | {
    f"iocpx.{room}": room for room in ["_winsock", "_op", "_state", "_engine", "_errors", "_core"]
}


@pytest.mark.parametrize(
    ("file", "room", "source", "module"),
    [
        ("iocpx/_state.pyx", "_state", "from cpython.object cimport PyObject", "cpython.object"),
        ("iocpx/_state.pxd", "_state", "from ._winsock cimport SOCKET", "iocpx._winsock"),
        ("iocpx/_state.pyx", "_state", "import os.path as path", "os.path"),
        ("iocpx/_op.pxd", "_op", "from libc.stdint cimport uint64_t", "libc.stdint"),
        ("iocpx/_winsock.pxd", "_winsock", "from iocpx cimport _op", "iocpx._op"),
        ("iocpx/_engine.pyx", "_engine", "cimport iocpx._op, iocpx._core", "iocpx._core"),
        ("iocpx/_engine.pyx", "_engine", "x = 1; import socket", "socket"),
        ("iocpx/_core.pyx", "_core", "from iocpx._op cimport (\n    op_t,\n)", "iocpx._op"),
        ("iocpx/_core.pyx", "_core", "from . cimport \\\n    _winsock as w", "iocpx._winsock"),
        ("iocpx/_core.pyx", "_core", "from . import Server", "iocpx"),
        ("iocpx/_core.pyi", "_core", "def f():\n    import rich", "rich"),
        ("iocpx/_core.pyx", "_core", "from typing_extensions import Self", "typing_extensions"),
        ("iocpx/_errors.py", "_errors", "from iocpx import _core", "iocpx._core"),
        ("iocpx/bench/run.py", "bench", "from .._core import Server", "iocpx._core"),
        ("iocpx/bench/run.py", "bench", "if 1: from iocpx import _state", "iocpx._state"),
        ("lab/wine.py", "lab", "import requests", "requests"),
        ("lab/wine.py", "lab", "import iocpx", "iocpx"),
    ],
)
def test_a_forbidden_import_is_found(file, room, source, module):
    line = 3 if source.startswith("def") else 2
    expected = f"{file}:{line}: {room} may not import {module}"
    assert import_violations(file, room, "\n" + source, PRETENDED) == [expected]


def test_an_allowed_import_passes():
    source = """
from libc.string cimport memcpy
from ._state cimport buf_t, queue_t
from iocpx cimport _op
cimport iocpx._winsock as ws
"""
    assert import_violations("iocpx/_engine.pyx", "_engine", source, PRETENDED) == []
    assert import_violations("iocpx/bench/run.py", "bench", "import rich, iocpx", PRETENDED) == []


def test_text_that_only_looks_like_an_import_passes():
    source = '''
"""Docstring:
import os
"""
# from iocpx import _core
text = "x"; more = 'import os'
def cimport_count(): pass
'''
    assert import_violations("iocpx/_state.pyx", "_state", source, PRETENDED) == []


@pytest.mark.parametrize(
    ("file", "room", "source", "what"),
    [
        ("iocpx/_core.pyx", "_core", "from ._gone cimport x", "imports iocpx._gone, which"),
        ("iocpx/_engine.pyx", "_engine", "include 'send.pxi'", "includes a file"),
        ("iocpx/bench/a.py", "bench", "s = iocpx._core.Server", "bench uses public names only"),
        ("iocpx/__main__.py", "__main__", "f(iocpx . _core)", "__main__ uses public names only"),
    ],
)
def test_a_way_around_the_table_is_found(file, room, source, what):
    (found,) = import_violations(file, room, "\n" + source, PRETENDED)
    assert found.startswith(f"{file}:2: {what}")


@pytest.mark.parametrize(
    ("source", "function"),
    [
        ("cdef void f() nogil:\n    cdef int n = g()\n    if n:\n        with gil: pass\n", "f"),
        ("cdef void f(int a,\n            int b) noexcept with gil:\n    pass\n", "f"),
        ("cdef int f(int (*cb)(int)) except -1 with  gil:\n    pass\n", "f"),
        ("cdef void f() nogil: pass\ncdef void g() nogil:\n    with gil(x): pass\n", "g"),
        ("cdef class C:\n    cdef void f(self) nogil:\n        with gil: pass\n", "f"),
        ("cdef void f() nogil:\n    PyGILState_Ensure()\n", "f"),
        ("cdef void f() nogil:\n    PyEval_RestoreThread(s)\n", "f"),
        ("with gil: pass\n", None),
    ],
)
def test_a_place_that_takes_the_gil_is_found(source, function):
    assert [name for _, name in gil_sites(source)] == [function]


def test_two_places_in_one_function_are_two():
    source = "cdef void f() nogil:\n    with gil:\n        pass\n    with gil:\n        pass\n"
    assert [name for _, name in gil_sites(source)] == ["f", "f"]


def test_text_about_the_gil_passes():
    source = '''
"""with gil"""
# with gil:
x = "with gil"  # with gil
with nogil: pass
with_gil = 1
'''
    assert list(gil_sites(source)) == []


def test_a_function_with_the_gil_is_found():
    source = "cdef int f(int a,\n    int b) noexcept nogil:\n    pass\ndef g():\n    pass\n"
    assert nogil_violations("x.pyx", source) == ["x.pyx:4: g() is not nogil"]
    source = "cdef int x = f()\ncdef int h(int (*cb)(int) noexcept nogil) noexcept:\n    pass\n"
    assert nogil_violations("x.pyx", source) == ["x.pyx:2: h() is not nogil"]


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ('cdef extern from "winsock2.h":\n    int f()', "declares a header's contents"),
        ("cdef public extern from '<x.h>' nogil: pass", "declares a header's contents"),
        ('cdef extern from *:\n    """\n    #include <windows.h>\n    """', "includes a header"),
    ],
)
def test_a_header_is_found(source, what):
    (found,) = header_violations("x.pyx", "\n" + source)
    assert found.startswith(("x.pyx:2: " + what, "x.pyx:4: " + what))


def test_verbatim_c_without_a_header_passes():
    source = 'cdef extern from *:\n    """\n    static int one = 1;\n    """\n    int one\n'
    assert header_violations("x.pyx", source) == []


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("x = 1\nif is_wine():\n    pass", [2]),
        ("if name == 'Wine': pass", [1]),
        ("x = WinError(5) or entwined or exc.winerror", []),
        ('"""Under Wine too."""\n# Wine 8 does otherwise.\nx = 1  # wine', []),
    ],
)
def test_the_name_of_wine_is_found_in_code_alone(source, lines):
    found = wine_violations("x.py", source)
    assert [int(text.split(":")[1]) for text in found] == lines


@pytest.mark.parametrize("host", HOSTS)
def test_the_host_of_a_registry_is_found(host):
    found = host_violations("x.md", f"first\nhttps://files.{host}/x\n")
    assert found == [f"x.md:2: names the host of a registry, {host}"]
