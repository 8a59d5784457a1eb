"""Libraries that wait for sockets by the loop's add_reader() and add_writer(), on the default lane:
pyzmq's zmq.asyncio, and psycopg's AsyncConnection with a PostgreSQL server of this machine.

The packages lie in a folder of their own (lab/requirements-surroundings.txt).
"""

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "tests"))

from sockets import free_port  # noqa: E402

from lab import here, steps  # noqa: E402 - found only now

LIMIT_S = 100

# Both libraries refuse every asyncio.ProactorEventLoop, which has no add_reader().
BEFORE = """
import asyncio
import sys
import iocpx
"""


def run(package, program, *arguments):
    """What the program prints, which has ended well."""
    if not (steps.SURROUNDINGS_FOLDER / package).exists():
        pytest.skip(f"there is no {package} for this Python")
    argv, env = here.command(here.default_lane(), ROOT)
    env["PYTHONPATH"] += ";" + here.name(steps.SURROUNDINGS_FOLDER)
    done = subprocess.run(
        [*argv, "-c", BEFORE + program, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=LIMIT_S,
        env=env,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.split()


ZMQ = """
import zmq.asyncio

async def main():
    context = zmq.asyncio.Context()
    with context.socket(zmq.REP) as server, context.socket(zmq.REQ) as client:
        port = server.bind_to_random_port("tcp://127.0.0.1")
        client.connect(f"tcp://127.0.0.1:{port}")

        async def serve():
            for _ in range(200):
                await server.send(b"re: " + await server.recv())

        serving = asyncio.create_task(serve())
        for n in range(200):
            await client.send(b"%d" % n)
            assert await client.recv() == b"re: %d" % n
        await serving
    with context.socket(zmq.PUSH) as push, context.socket(zmq.PULL) as pull:
        push.connect(f"tcp://127.0.0.1:{pull.bind_to_random_port('tcp://127.0.0.1')}")

        async def send():
            for n in range(2000):
                await push.send(b"%d" % n)

        sending = asyncio.create_task(send())
        for n in range(2000):
            assert await pull.recv() == b"%d" % n
        await sending
    context.term()
    print("served")

iocpx.run(main())
"""


@pytest.mark.slow("starts a Windows Python, which loads a library of its own")
def test_zmq_asyncio():
    assert run("zmq", ZMQ) == ["served"]


PSYCOPG = """
import psycopg

CONNECT = sys.argv[1]

async def ask(n):
    async with await psycopg.AsyncConnection.connect(CONNECT) as connection:
        cursor = await connection.execute("select %s::int, pg_sleep(0.01)", (n,))
        return (await cursor.fetchone())[0]

async def main():
    async with await psycopg.AsyncConnection.connect(CONNECT) as connection:
        await connection.execute(
            "create temporary table t as"
            " select n, repeat('x', 1000) as text from generate_series(1, 5000) n"
        )
        # More than the sockets hold, in both directions.
        cursor = await connection.execute("select * from t order by n")
        rows = await cursor.fetchall()
        assert [row[0] for row in rows] == list(range(1, 5001))
        assert {row[1] for row in rows} == {"x" * 1000}
        async with connection.cursor() as cursor:
            async with cursor.copy("copy t from stdin") as copy:
                for n in range(5000):
                    await copy.write_row((n, "y" * 1000))
        cursor = await connection.execute("select count(*) from t")
        print((await cursor.fetchone())[0])
    print(sum(await asyncio.gather(*(ask(n) for n in range(20)))))
    try:
        await psycopg.AsyncConnection.connect(sys.argv[2])
    except psycopg.OperationalError:
        print("refused")

iocpx.run(main())
"""


def postgresql():
    """The folder of the newest PostgreSQL's programs, as Debian has them, or None."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    return found[-1].parent if found else None


def unprivileged():
    """What to put before a command: PostgreSQL does not serve root."""
    if os.geteuid() != 0:
        return []
    return ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]


@pytest.fixture
def database():
    """The port of a PostgreSQL server on loopback, with a user `test` who needs no password."""
    programs = postgresql() if sys.platform == "linux" else None
    if programs is None:
        pytest.skip("there is no PostgreSQL: apt-get install --no-install-recommends postgresql")
    # Not below pytest's folder, which no other user may enter.
    folder = Path("/tmp") / f"iocpx-postgresql-{getpass.getuser()}-{os.getpid()}"
    folder.mkdir()
    try:
        if os.geteuid() == 0:
            shutil.chown(folder, "nobody", "nogroup")
        data = folder / "data"
        initdb = [programs / "initdb", "-D", data, "-U", "test", "-A", "trust", "--no-sync"]
        subprocess.run([*unprivileged(), *initdb], check=True, capture_output=True, cwd=folder)
        port = free_port()
        words = ["-D", data, "-h", "127.0.0.1", "-p", str(port), "-k", "", "-F"]
        server = subprocess.Popen(
            [*unprivileged(), programs / "postgres", *words],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
        try:
            lines = []
            for line in server.stderr:
                lines.append(line)
                if "ready to accept connections" in line:
                    break
            else:
                pytest.fail("PostgreSQL did not start:\n" + "".join(lines))
            yield port
        finally:
            server.send_signal(signal.SIGINT)
            server.communicate(timeout=LIMIT_S)
    finally:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(folder)


@pytest.mark.slow("starts a database server")
def test_psycopg(database):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        closed = nobody.getsockname()[1]
        where = "host=127.0.0.1 user=test dbname=postgres port={}".format
        assert run("psycopg", PSYCOPG, where(database), where(closed)) == [
            "10000",
            "190",
            "refused",
        ]
