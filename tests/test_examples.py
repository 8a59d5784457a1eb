"""The programs in docs/PROTOCOLS.md run as they stand and print what the page says; README's two
doors serve.
"""

import re
import socket
import sys
from pathlib import Path

import pytest
from script import run
from sockets import free_port
from waiting import WAIT_S, wait_until

pytestmark = [
    pytest.mark.once("the programs of a page"),
    pytest.mark.slow("starts a Python for each program"),
]

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "PROTOCOLS.md").read_text(encoding="utf-8")

FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)


def programs():
    """(title of the section, program, what it prints) of every program of the page."""
    for part in re.split(r"^## ", PAGE, flags=re.M)[1:]:
        title = part.partition("\n")[0]
        blocks = FENCED.findall(part)
        assert [kind for kind, _ in blocks] == ["python", "text"] * (len(blocks) // 2), title
        for (_, program), (_, printed) in zip(blocks[::2], blocks[1::2]):
            yield title, program, printed


PROGRAMS = list(programs())


def test_there_are_programs():
    assert len(PROGRAMS) > 5
    assert len(PROGRAMS) == PAGE.count("```python") == PAGE.count("```") // 4


@pytest.mark.parametrize(
    "program, printed",
    [
        pytest.param(
            *case[1:],
            id=re.sub(r"\W+", "-", case[0]),
        )
        for case in PROGRAMS
    ],
)
def test_a_program_prints_what_the_page_says(tmp_path, program, printed):
    # Of a file, as a user has it: a spawned process imports its main module.
    (tmp_path / "program.py").write_text(program, encoding="utf-8")
    done = run([sys.executable, "-X", "dev", "-W", "error", str(tmp_path / "program.py")])
    # A machine that stands still is none of the page's.
    complaints = re.sub(r"^Executing .* took \d+\.\d+ seconds\n", "", done.stderr, flags=re.M)
    assert (done.stdout, complaints, done.returncode) == (printed, "", 0)


README = (ROOT / "README.md").read_text(encoding="utf-8")
DOORS = [program for kind, program in FENCED.findall(README) if "7000" in program]


@pytest.mark.parametrize("program", DOORS, ids=["threads", "loop"])
def test_a_door_of_readme_is_short_and_serves(start_script, program):
    assert len(list(filter(None, program.splitlines()))) <= 15
    address = ("127.0.0.1", free_port())
    start_script(program.replace("7000", str(address[1])))
    clients = []

    def serves():
        try:
            clients.append(socket.create_connection(address, timeout=WAIT_S))
        except ConnectionRefusedError:
            return False
        return True

    wait_until(serves, "that it serves")
    with clients[0] as client, client.makefile("rwb") as stream:
        stream.write(b"hello\n")
        stream.flush()
        assert stream.readline() == b"hello\n"


def test_every_link_of_the_page_leads_somewhere():
    headings = re.findall(r"^## (.*)$", PAGE, re.M)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    links = re.findall(r"\]\(#(.*?)\)", PAGE)
    assert set(links) == anchors
    for file in re.findall(r"\]\(([\w./]+)\)", PAGE):
        assert (ROOT / "docs" / file).exists(), file
