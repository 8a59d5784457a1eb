"""The documents name what there is: every test, every parameter, every state."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests"
ARCHITECTURE = (ROOT / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8")
TUNING = (ROOT / "docs" / "TUNING.md").read_text(encoding="utf-8")

# `file.py::test_name`, the file seen from tests/.
NAMED = re.findall(r"`((?:host/)?test_\w+\.py)::(test_\w+)`", ARCHITECTURE)


def names_in(file):
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    return {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def section(title):
    """The text of one section of ARCHITECTURE.md."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", ARCHITECTURE, re.M | re.S)
    assert found, f"docs/ARCHITECTURE.md has no section {title!r}"
    return found[1]


def test_every_test_that_the_architecture_names_exists():
    assert len(NAMED) > 100
    missing = [f"{file}::{name}" for file, name in NAMED if name not in names_in(file)]
    assert missing == []


@pytest.mark.parametrize("file", ["test_defects.py", "test_complaints.py", "test_hard_cases.py"])
def test_every_test_of_the_lists_is_named(file):
    assert names_in(file) - {name for of, name in NAMED if of == file} == set()


def test_every_feature_has_its_row_and_a_test():
    rows = dict(re.findall(r"^\| (F\d+) \|(.*)$", section("Features and their tests"), re.M))
    assert list(rows) == [f"F{number}" for number in range(1, 22)]
    without = [name for name, row in rows.items() if "::test_" not in row]
    assert without == []


def parameters_of(name):
    stub = ast.parse((ROOT / "iocpx" / "_core.pyi").read_text(encoding="utf-8"))
    found = next(node for node in stub.body if isinstance(node, ast.ClassDef) and node.name == name)
    init = next(
        node
        for node in found.body
        if isinstance(node, ast.FunctionDef) and node.name == "__init__"
    )
    positional = init.args.args[1:]
    defaults = [None] * (len(positional) - len(init.args.defaults)) + init.args.defaults
    pairs = [*zip(positional, defaults), *zip(init.args.kwonlyargs, init.args.kw_defaults)]
    return {
        parameter.arg: None if default is None else ast.unparse(default)
        for parameter, default in pairs
    }


@pytest.mark.parametrize(
    "name, default", [*parameters_of("Server").items(), *parameters_of("Engine").items()]
)
def test_every_parameter_is_in_the_tuning_guide(name, default):
    # Its row, or the paragraph that begins with it, alone or as the second of two.
    row = rf"^\| `{name}` \|.*"
    paragraph = rf"^\*\*(?:`\w+`\*\*, \*\*)?`{name}`\*\*.*(?:\n.+)*"
    found = re.search(f"{row}|{paragraph}", TUNING, re.M)
    assert found, f"docs/TUNING.md does not tell of {name}"
    if default is not None:
        assert f"`{default}`" in found[0], f"docs/TUNING.md does not give {name}'s default"


def test_the_table_of_states_is_the_one_of_the_sources():
    declarations = (ROOT / "iocpx" / "_state.pxd").read_text(encoding="utf-8")
    states = re.findall(r"^    STATE_(\w+)", declarations, re.M)
    events = re.findall(r"^    EVENT_(\w+)", declarations, re.M)
    source = (ROOT / "iocpx" / "_state.pyx").read_text(encoding="utf-8")
    table = re.search(r"next_state = \[\n(.*?)^\]", source, re.M | re.S)[1]
    cells = re.findall(r"STATE_(\w+)|(-1)", table)
    assert len(cells) == len(states) * len(events)
    flat = iter("-" if impossible else state for state, impossible in cells)
    wanted = [[state, *(next(flat) for _ in events)] for state in states]
    rows = [
        [cell.strip(" *`") for cell in line.strip("| ").split("|")]
        for line in section("States and events").splitlines()
        if line.startswith("|")
    ]
    assert rows[0] == ["state", *events]
    assert [[re.sub(r"^stays$", row[0], cell) for cell in row] for row in rows[2:]] == wanted


def test_every_example_is_in_the_readme_and_in_a_test():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    there = {path.name for path in (ROOT / "examples").glob("*.py")}
    assert set(re.findall(r"\(examples/(\w+\.py)\)", readme)) == there
    tests = "".join(
        path.read_text(encoding="utf-8") for path in (TESTS / "frameworks").glob("test_*.py")
    )
    # An application is started by its server, which knows it by its module's name.
    named = {name for name in there if f'"{name}"' in tests or f'"{name[:-3]}:app"' in tests}
    assert named == there
