"""HTTP on an event loop: uvicorn with httptools, and aiohttp, each with the same small program.

GET /N answers with N bytes of a pattern that both sides know; POST takes a body of them, checks
every byte, and answers how many came.
"""

import asyncio
import contextlib
import functools
import importlib

from . import tls
from .pattern import body

# What each needs beside the loop.
PACKAGES = {
    "uvicorn": ("uvicorn", "httptools"),
    "uvicorn_tls": ("uvicorn", "httptools"),
    "aiohttp": ("aiohttp",),
}
MAX_BYTES = 1 << 20
WRONG = b"wrong"
# Between two looks whether uvicorn, which tells nobody, is up.
LOOK_S = 0.01


def versions(name):
    """Of what it needs; ImportError where that is not there."""
    found = {}
    for package in PACKAGES[name]:
        found[package] = importlib.import_module(package).__version__
    return found


@functools.cache
def answer(path):
    return body(int(path[1:]))


class Check:
    """Compares the body of a request with what it should be, part by part."""

    def __init__(self):
        self.expected = body(MAX_BYTES)
        self.count = 0
        self.right = True

    def take(self, part):
        # In place, without a slice.
        self.right = self.right and self.expected.startswith(part, self.count)
        self.count += len(part)

    def verdict(self):
        return b"%d" % self.count if self.right else WRONG


async def application(scope, receive, send):
    """The program for uvicorn."""
    if scope["method"] == "POST":
        check, more = Check(), True
        while more:
            message = await receive()
            check.take(message.get("body", b""))
            more = message.get("more_body", False)
        content = check.verdict()
    else:
        content = answer(scope["path"])
    headers = [
        (b"content-type", b"application/octet-stream"),
        (b"content-length", b"%d" % len(content)),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": content})


@contextlib.asynccontextmanager
async def uvicorn(host, backlog, **more):
    """Gives the port. more: of uvicorn.Config."""
    import uvicorn

    config = uvicorn.Config(
        application,
        host=host,
        port=0,
        backlog=backlog,
        http="httptools",
        ws="none",
        lifespan="off",
        access_log=False,
        log_level="warning",
        **more,
    )
    server = uvicorn.Server(config)
    serving = asyncio.ensure_future(server.serve())
    while not (server.started or serving.done()):
        await asyncio.sleep(LOOK_S)
    if server.started:
        yield server.servers[0].sockets[0].getsockname()[1]
        server.should_exit = True
    await serving


def uvicorn_tls(host, backlog):
    return uvicorn(host, backlog, ssl_certfile=tls.CERTIFICATE)


@contextlib.asynccontextmanager
async def aiohttp(host, backlog):
    """Gives the port."""
    from aiohttp import web

    async def get(request):
        return web.Response(body=answer(request.path))

    async def post(request):
        check = Check()
        async for part in request.content.iter_any():
            check.take(part)
        return web.Response(body=check.verdict())

    program = web.Application()
    program.router.add_get("/{size}", get)
    program.router.add_post("/", post)
    runner = web.AppRunner(program, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, host, 0, backlog=backlog).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
