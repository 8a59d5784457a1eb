"""WebSocket messages sent back, with websockets: python websockets_echo.py [PORT [CERT.pem]]"""

import contextlib
import ssl
import sys

from websockets.asyncio.server import ServerConnection, serve

import iocpx


async def echo(websocket: ServerConnection) -> None:
    async for message in websocket:
        await websocket.send(message)


async def main(port: str = "8000", certificate: str | None = None) -> None:
    tls = None
    if certificate:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(certificate)
    async with serve(echo, "127.0.0.1", int(port), ssl=tls) as server:
        print("serving on port", server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        iocpx.run(main(*sys.argv[1:]))
