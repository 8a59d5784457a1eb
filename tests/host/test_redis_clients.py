"""keyvalue.py on the default lane, with the clients of Redis."""

import shutil
import subprocess
from pathlib import Path

import pytest
from programs import PORT, START

ROOT = Path(__file__).resolve().parents[2]
WAIT_S = 60

pytestmark = pytest.mark.skipif(
    shutil.which("redis-benchmark") is None, reason="there is no redis-tools"
)


@pytest.fixture
def port(start):
    program = start(START, "examples", "file", "keyvalue.py", "0")
    yield PORT.search(program.stdout.readline())[1]
    output, _ = program.communicate("\n", timeout=WAIT_S)  # Ctrl+C
    assert program.returncode == 0
    assert "Traceback" not in output


def run(*argv, text=None):
    done = subprocess.run(
        argv, input=text, capture_output=True, encoding="utf-8", timeout=WAIT_S, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_redis_cli(port):
    cli = ("redis-cli", "-p", port)
    assert run(*cli, "SET", "key", "a value") == "OK\n"
    assert run(*cli, "GET", "key") == "a value\n"
    commands = "INCR n\n" * 10 + "GET key\nDEL key n\nDBSIZE\n"
    numbers = "".join(f"{n}\n" for n in range(1, 11))
    assert run(*cli, text=commands) == numbers + "a value\n2\n0\n"
    assert "unknown command" in run(*cli, "LPUSH", "list", "1")
    # Ten thousand commands in one stream, whose answers it counts.
    pipe = "".join(f"*3\r\n$3\r\nSET\r\n$4\r\n{n:04}\r\n$1\r\nx\r\n" for n in range(10_000))
    assert "errors: 0, replies: 10000" in run(*cli, "--pipe", text=pipe)
    assert run(*cli, "DBSIZE") == "10000\n"


@pytest.mark.slow("sends for seconds")
def test_redis_benchmark(port):
    """50 connections, also with 16 commands under way on each; it checks that each is answered."""
    words = ("-p", port, "-n", "3000", "-t", "ping,set,get,incr", "-r", "100", "--csv")
    for more in ((), ("-P", "16", "-d", "3000")):
        rows = run("redis-benchmark", *words, *more).splitlines()[1:]
        assert [row.split(",")[0] for row in rows] == [
            '"PING_INLINE"',
            '"PING_MBULK"',
            '"SET"',
            '"GET"',
            '"INCR"',
        ]
