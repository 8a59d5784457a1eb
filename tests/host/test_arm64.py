"""The C that Cython makes compiles for Windows on ARM too. Nothing in the lab runs it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from lab import build, here, steps  # noqa: E402 - found only now

LANE = here.default_lane()


def defines():
    """DEFINES of setup.py, which cannot be imported: it would set up."""
    for node in ast.parse((ROOT / "setup.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "DEFINES":
            return ast.literal_eval(node.value)
    raise LookupError("DEFINES")


@pytest.mark.skipif(sys.platform == "win32", reason="there the compiler is for its own machine")
@pytest.mark.parametrize("module", sorted(path.stem for path in (ROOT / "iocpx").glob("*.pyx")))
def test_without_a_warning(module, tmp_path):
    with steps.exclusive():
        build.build(LANE)
    cross = here.cross(LANE)
    macros = [*defines(), *cross["define"]]
    done = subprocess.run(
        [
            *(here.host_python(), "-m", "ziglang", "cc", "-target", "aarch64-windows-gnu"),
            # -Werror: the compiler keeps what it has made, but not what it has warned of.  Neither
            # optimized nor with what it adds for debugging: it warns of the same, in a ninth of
            # the time.
            *("-c", "-O0", "-g0", "-fno-sanitize=undefined"),
            *("-Wall", "-Wextra", "-Werror", "-fno-strict-aliasing"),
            *(f"-D{name}" if value is None else f"-D{name}={value}" for name, value in macros),
            *(f"-I{folder}" for folder in cross["include_dirs"]),
            *(build.translated() / "iocpx" / f"{module}.c", "-o", tmp_path / "module.obj"),
        ],
        env=here.build_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=100,
    )
    assert (done.returncode, done.stdout) == (0, "")
