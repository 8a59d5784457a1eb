"""What `dev.py wheel` makes: nothing is missing, nothing else is in, and pip can install it."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from lab import here  # noqa: E402 - found only now

LANE = here.default_lane()
SHIPPED = (".py", ".pyi", ".pxd", ".typed", ".pem")
BUILT_FROM = (*SHIPPED, ".pyx")


def sources(suffixes):
    """The files of the package in the checkout."""
    files = (path.relative_to(ROOT).as_posix() for path in (ROOT / "iocpx").rglob("*"))
    return {name for name in files if name.endswith(suffixes)}


@pytest.fixture(scope="module")
def made():
    """The wheel and the sdist."""
    done = subprocess.run(
        [sys.executable, ROOT / "dev.py", "wheel"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    wheel, sdist = done.stdout.splitlines()[-2:]
    return ROOT / wheel, ROOT / sdist


def test_the_wheel_has_everything_and_nothing_else(made):
    wheel, _ = made
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    modules = {name.removesuffix(".pyx") + here.suffix(LANE) for name in sources(".pyx")}
    assert modules
    assert names == sources(SHIPPED) | modules
    assert {"iocpx/py.typed", "iocpx/_core.pyi", "iocpx/_engine.pxd"} <= names


def test_the_wheels_name_and_metadata(made):
    wheel, sdist = made
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        metadata = archive.read(name).decode()
        assert any(name.endswith("/licenses/LICENSE") for name in archive.namelist())
    version = next(
        line.removeprefix("Version: ")
        for line in metadata.splitlines()
        if line.startswith("Version: ")
    )
    assert sdist.name == f"iocpx-{version}.tar.gz"
    if sys.platform != "win32":
        assert wheel.name == f"iocpx-{version}-cp313-cp313-win_amd64.whl"
    assert "Requires-Python: >=3.10" in metadata.splitlines()


def test_the_sdist_has_all_sources_and_nothing_built(made):
    _, sdist = made
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert sources(BUILT_FROM) <= names
    assert {"setup.py", "pyproject.toml", "README.md", "LICENSE", "dev.py", "lab/linux.py"} <= names
    assert {"tests/conftest.py", "tests/served.py", "benchmarks/ceiling.c"} <= names
    assert {"tests/data/localhost.pem", "tests/sim/corpus.txt"} <= names
    assert ".github/workflows/ci.yml" in names
    assert [name for name in names if name.endswith((".pyd", ".pyc"))] == []
    # Cython's; tests/sim has C of our own.
    assert [name for name in names if name.startswith("iocpx/") and name.endswith(".c")] == []


@pytest.mark.slow("runs pip")
def test_pip_installs_the_wheel_into_a_lane(made, tmp_path):
    wheel, _ = made

    def run(*words):
        argv, env = here.command(LANE, tmp_path / "target")
        done = subprocess.run(
            [*argv, *words],
            env=env,
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=100,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    target, path = here.name(tmp_path / "target"), here.name(wheel)
    run("-m", "pip", "install", "-q", "--no-index", "--no-deps", "--target", target, path)
    file, version = run("-c", "import iocpx; print(iocpx.__file__, iocpx.__version__)").split()
    assert file.lower().startswith(target.lower())
    assert wheel.name.startswith(f"iocpx-{version}-")
