"""aiohttp's server and client on our loop."""

import asyncio
import os

import pytest
from http_client import OURS, ask, connected, exercise

import iocpx

aiohttp = pytest.importorskip("aiohttp")
from aiohttp import web  # noqa: E402 - not before it is known to be there


def test_the_server(start, tls, certificate):
    program = start("aiohttp_app.py", 0, *certificate)
    port = program.read_port()
    exercise(port, tls)
    end(program, port, tls)


def end(program, port, tls):
    """Ctrl+C when nothing is left of other clients: aiohttp's run_app() complains of who is still
    being told then that he has gone."""
    with connected(port, tls) as connection:
        assert ask(connection).decode().startswith(OURS)
        program.interrupt()


def test_the_client(start, run, tls, certificate):
    program = start("aiohttp_app.py", 0, *certificate)
    port = program.read_port()
    address = f"{'https' if tls else 'http'}://127.0.0.1:{port}/"
    data = bytes(range(256)) * 4096

    async def exchange(session):
        async with session.post(address, data=data, ssl=tls or True) as answer:
            assert await answer.read() == data

    async def main():
        async with aiohttp.ClientSession() as session:
            await asyncio.gather(*[exchange(session) for _ in range(10)])

    run(main)
    end(program, port, tls)


def test_server_and_client_on_one_loop(start):
    program = start("aiohttp_app.py", 0)
    port = program.read_port()
    with connected(port, None) as connection:
        assert ask(connection, path=f"/fetch?http://127.0.0.1:{port}/") == OURS.encode()
    end(program, port, None)


def test_named_pipes():
    """For which aiohttp wants a loop that is a ProactorEventLoop."""

    class Loop(iocpx.EventLoop, asyncio.ProactorEventLoop):
        pass

    pipe = rf"\\.\pipe\iocpx-test-{os.getpid()}"

    async def hello(request):
        return web.Response(text="hello")

    async def main():
        app = web.Application()
        app.add_routes([web.get("/", hello)])
        runner = web.AppRunner(app)
        await runner.setup()
        await web.NamedPipeSite(runner, pipe).start()
        async with (
            aiohttp.ClientSession(connector=aiohttp.NamedPipeConnector(pipe)) as session,
            session.get("http://pipe/") as answer,
        ):
            assert await answer.text() == "hello"
        await runner.cleanup()

    iocpx.run(main(), loop_factory=Loop)
