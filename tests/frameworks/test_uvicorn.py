"""uvicorn --loop iocpx:new_event_loop, with one process and with two."""

import asyncio
import collections
import os
import re
import signal

import pytest
from http_client import OURS, ask, connected, exercise
from waiting import wait_until

import iocpx

uvicorn = pytest.importorskip("uvicorn")

COMMAND = ("-m", "uvicorn", "--loop", "iocpx:new_event_loop", "--port", "0")


def test_it_serves_on_our_loop(start, tls, certificate):
    files = ["--ssl-certfile", *certificate] if certificate else []
    program = start(*COMMAND, *files, "asgi_app:app")
    exercise(program.read_port(), tls)
    program.interrupt()


@pytest.mark.parametrize("http", ["h11", "httptools"])
def test_with_either_of_its_parsers(start, http):
    pytest.importorskip(http)
    program = start(*COMMAND, "--http", http, "asgi_app:app")
    exercise(program.read_port())
    program.interrupt()


def test_websockets(start, run):
    websockets = pytest.importorskip("websockets")
    program = start(*COMMAND, "asgi_app:app")
    port = program.read_port()

    async def main():
        async with websockets.connect(f"ws://127.0.0.1:{port}") as websocket:
            for message in ("hello", b"\0" * 100_000):
                await websocket.send(message)
                assert await websocket.recv() == message

    run(main)
    program.interrupt()


def test_an_open_connection_does_not_hold_ctrl_c_up(start):
    program = start(*COMMAND, "asgi_app:app")
    with connected(program.read_port(), None) as connection:
        ask(connection)
        program.interrupt()


def test_two_processes_share_the_listener(start):
    # No process is to be taken for dead only because it is slow to start.
    options = ("--workers", "2", "--timeout-worker-healthcheck", "100")
    program = start(*COMMAND, *options, "asgi_app:app")
    port = program.read_port()
    started = set()
    served = collections.Counter()

    def both_serve():
        try:
            with connected(port, None) as connection:
                found = re.fullmatch(rf"{OURS} in process (\d+)", ask(connection).decode())
        except ConnectionRefusedError:
            return False  # they say that they have started before they listen
        served[int(found[1])] += 1
        return len(served) == 2 and min(served.values()) >= 10

    try:
        while len(started) < 2:
            if found := re.search(r"Started server process \[(\d+)\]", program.read_line()):
                started.add(int(found[1]))
        wait_until(both_serve, "that both processes serve ten clients")
    finally:
        # Without a console its parent cannot end them, which does it by Ctrl+Break.
        program.script.kill()
        for pid in started:
            os.kill(pid, signal.SIGTERM)


def test_asyncio_run_takes_our_loop_too(start):
    """As a program does that starts uvicorn itself."""

    async def app(scope, receive, send):
        raise AssertionError("nobody asks")

    async def main():
        config = uvicorn.Config(app, port=0, lifespan="off", log_level="error")
        server = uvicorn.Server(config)
        serving = asyncio.ensure_future(server.serve())
        while not server.started:
            await asyncio.sleep(0)
        (listening,) = server.servers
        assert listening.sockets[0].getsockname()[1] > 0
        server.should_exit = True
        await serving

    iocpx.run(main())
