"""What zizmor does not look at in .github/workflows."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))

USES = re.compile(r"^\s*(?:- )?uses: (?P<action>\S+)@(?P<ref>\S+)(?: # (?P<version>\S+))?$", re.M)


def jobs(text):
    """The text of each job by its name; enough of YAML for files written in one style."""
    parts = re.split(r"^  ([\w-]+):\n", text.partition("\njobs:\n")[2], flags=re.M)
    return dict(zip(parts[1::2], parts[2::2]))


def test_both_workflows_are_there():
    assert [path.name for path in WORKFLOWS] == ["ci.yml", "wheels.yml"]


def test_an_action_is_pinned_once_and_says_its_version():
    pins = {}
    for path in WORKFLOWS:
        text = path.read_text(encoding="utf-8")
        found = USES.findall(text)
        assert len(found) == text.count("uses:"), f"{path.name}: a uses: is not understood"
        for action, ref, version in found:
            assert re.fullmatch("[0-9a-f]{40}", ref), f"{path.name}: {action}@{ref} is no commit"
            assert re.fullmatch(r"v\d+\.\d+\.\d+", version), f"{path.name}: {action}: a version?"
            pins.setdefault(action, set()).add((ref, version))
    assert all(len(refs) == 1 for refs in pins.values()), pins


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_every_job_has_a_time_limit_and_its_own_permissions(path):
    text = path.read_text(encoding="utf-8")
    assert "\npermissions: {}\n" in text
    assert jobs(text)
    for name, job in jobs(text).items():
        assert re.search(r"^    timeout-minutes: \d+$", job, re.M), f"{name} could hang for hours"
        assert re.search(r"^    permissions:$", job, re.M), f"{name} has no permissions of its own"


def test_ci_covers_the_oldest_and_the_newest_python():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    oldest = re.search(r'requires-python = ">=(\S+)"', project).group(1)
    newest = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', project)[-1]
    ci = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    pythons = re.findall(r'"([^"]+)"', re.search(r"python: \[(.*)\]", ci).group(1))
    assert (pythons[0], pythons[-1]) == (oldest, newest)
    assert any(python.endswith("t") for python in pythons), "no free-threaded Python"
