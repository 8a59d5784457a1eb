"""Bytes sent back, with anyio: python anyio_echo.py [PORT [CERTIFICATE.pem]]"""

import contextlib
import ssl
import sys

import anyio
from anyio.streams.tls import TLSListener

import iocpx


async def echo(stream: anyio.abc.ByteStream) -> None:
    async with stream:
        async for data in stream:
            await stream.send(data)


async def main(port: str = "8000", certificate: str | None = None) -> None:
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=int(port))
    print("serving on port", listener.extra(anyio.abc.SocketAttribute.local_port), flush=True)
    if certificate:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(certificate)
        listener = TLSListener(listener, tls, standard_compatible=False)
    await listener.serve(echo)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        options = {"loop_factory": iocpx.new_event_loop}
        anyio.run(main, *sys.argv[1:], backend_options=options)
