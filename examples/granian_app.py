"""asgi_app.py, served by granian: python granian_app.py [PORT [CERTIFICATE.pem]]

granian does its own input and output; the application runs on the loop that it is started on.
"""

import contextlib
import sys
from pathlib import Path

from asgi_app import app
from granian.constants import Interfaces
from granian.server.embed import Server

import iocpx


async def main(port: str = "8000", certificate: str | None = None) -> None:
    tls = {"ssl_cert": Path(certificate), "ssl_key": Path(certificate)} if certificate else {}
    server = Server(app, port=int(port), interface=Interfaces.ASGI, **tls)
    try:
        await server.serve()
    finally:
        await server.shutdown()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        iocpx.run(main(*sys.argv[1:]))
