"""asgi_app.py, served by hypercorn: python hypercorn_app.py [PORT [CERTIFICATE.pem]]"""

import sys

from asgi_app import app
from hypercorn.asyncio import serve
from hypercorn.config import Config

import iocpx


def main(port: str = "8000", certificate: str | None = None) -> None:
    config = Config()
    config.bind = [f"127.0.0.1:{port}"]
    config.certfile = config.keyfile = certificate
    iocpx.run(serve(app, config))  # hypercorn itself ends in order at Ctrl+C


if __name__ == "__main__":
    main(*sys.argv[1:])
