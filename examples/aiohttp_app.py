"""A web application with aiohttp: python aiohttp_app.py [PORT [CERTIFICATE.pem]]

GET / says which loop answers, POST / sends the body back, and GET /fetch?URL is what aiohttp's
client gets from there, on the same loop.
"""

import asyncio
import ssl
import sys
from collections.abc import AsyncIterator

from aiohttp import ClientSession, web

import iocpx

session = web.AppKey("session", ClientSession)


async def hello(request: web.Request) -> web.Response:
    loop = type(asyncio.get_running_loop())
    return web.Response(text=f"{loop.__module__}.{loop.__name__}")


async def echo(request: web.Request) -> web.Response:
    return web.Response(body=await request.read())


async def fetch(request: web.Request) -> web.Response:
    async with request.app[session].get(request.query_string) as answer:
        return web.Response(body=await answer.read())


async def client(app: web.Application) -> AsyncIterator[None]:
    app[session] = ClientSession()
    yield
    await app[session].close()


def main(port: str = "8000", certificate: str | None = None) -> None:
    tls = None
    if certificate:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(certificate)
    app = web.Application(client_max_size=1 << 24)
    app.cleanup_ctx.append(client)
    app.add_routes([web.get("/", hello), web.post("/", echo), web.get("/fetch", fetch)])
    # It prints where it serves, and ends in order at Ctrl+C.
    loop = iocpx.new_event_loop()
    web.run_app(app, host="127.0.0.1", port=int(port), ssl_context=tls, loop=loop)


if __name__ == "__main__":
    main(*sys.argv[1:])
