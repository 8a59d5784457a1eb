"""What iocpx meets in programs of others, on the default lane: a freezer, and greenlets.

The packages lie in a folder of their own (lab/requirements-surroundings.txt).
"""

import contextlib
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from lab import here, steps  # noqa: E402 - found only now

LANE = here.default_lane()
LIMIT_S = 300


def command(package):
    """As here.command, with the folder that has `package`."""
    if not (steps.SURROUNDINGS_FOLDER / package).exists():
        pytest.skip(f"there is no {package} for this Python")
    argv, env = here.command(LANE, ROOT)
    env["PYTHONPATH"] += ";" + here.name(steps.SURROUNDINGS_FOLDER)
    return argv, env


def run(argv, **options):
    """The process, which has ended well."""
    done = subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=LIMIT_S,
        **options,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


# Imports nothing else: whatever iocpx needs, the freezer has to find through it.
APPLICATION = """
import iocpx


class Echo:
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)

    def eof_received(self):
        pass

    def connection_lost(self, exc):
        pass


with iocpx.Server(Echo, "127.0.0.1") as server:
    print(server.address[1], flush=True)
    input()
print("stopped")
"""


@pytest.mark.slow("PyInstaller looks at the whole standard library")
def test_an_application_frozen_by_pyinstaller_serves(tmp_path):
    (tmp_path / "application.py").write_text(APPLICATION)
    argv, env = command("PyInstaller")
    env["PYINSTALLER_CONFIG_DIR"] = here.name(tmp_path / "cache")
    # No option that helps it to find anything.
    run([*argv, "-m", "PyInstaller", "application.py"], env=env, cwd=tmp_path)
    program = tmp_path / "dist" / "application" / "application.exe"
    del env["PYTHONPATH"]
    process = subprocess.Popen(
        [*argv[:-1], str(program)],
        env=env,
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    try:
        port = process.stdout.readline()
        if port:
            with socket.create_connection(("127.0.0.1", int(port)), timeout=LIMIT_S) as client:
                client.sendall(b"hello")
                assert client.recv(5, socket.MSG_WAITALL) == b"hello"
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write("\n")
        out, err = process.communicate(timeout=LIMIT_S)
    finally:
        process.kill()
    assert (out, err, process.returncode) == ("stopped\n", "", 0)


PATCHED = """
import socket, sys
if sys.argv[1] == "imported before":
    import iocpx
from gevent import monkey
monkey.patch_all(**eval(sys.argv[2]))
import iocpx

server = iocpx.Server(iocpx.native.Echo, "127.0.0.1")
try:
    server.start()
except RuntimeError as error:
    print(error)
else:
    with socket.create_connection(server.address) as client:
        client.sendall(b"hello")
        print(client.recv(5))
    server.close()
    print(server.wait_closed())
"""


@pytest.mark.slow("imports gevent and all that it changes")
@pytest.mark.parametrize("order", ["imported before", "imported after"])
@pytest.mark.parametrize(
    "patches, printed",
    [
        ("{}", ["gevent.monkey.patch_all(thread=False)"]),
        ("dict(thread=False)", ["b'hello'", "True"]),
    ],
)
def test_with_gevent_threads_must_be_left_alone_and_sockets_and_queues_need_not(
    patches, printed, order
):
    argv, env = command("gevent")
    # gevent itself warns, of import orders for instance.
    done = run([*argv, "-W", "ignore", "-c", PATCHED, order, patches], env=env)
    lines = done.stdout.splitlines()
    assert len(lines) == len(printed)
    assert all(line.endswith(end) for line, end in zip(lines, printed)), lines
