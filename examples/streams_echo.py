"""Lines sent back, with asyncio's streams: python streams_echo.py [PORT [CERTIFICATE.pem]]"""

import asyncio
import contextlib
import ssl
import sys

import iocpx


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := await reader.readline():
        writer.write(line)
        await writer.drain()
    writer.close()
    await writer.wait_closed()


async def main(port: str = "8000", certificate: str | None = None) -> None:
    tls = None
    if certificate:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(certificate)
    server = await asyncio.start_server(echo, "127.0.0.1", int(port), ssl=tls)
    async with server:
        print("serving on port", server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        iocpx.run(main(*sys.argv[1:]))
