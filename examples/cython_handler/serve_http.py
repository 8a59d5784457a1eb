"""Serves with http_handler: python serve_http.py [PORT]"""

from __future__ import annotations

import contextlib
import sys

import http_handler

import iocpx


def main(port: str = "8000") -> None:
    handler = iocpx.native.Handler(http_handler.capsule)
    server = iocpx.Server(handler, "127.0.0.1", int(port))
    server.start()
    assert server.address is not None
    print("serving on port", server.address[1], flush=True)
    server.serve_forever()  # until Ctrl+C, which stops it in order


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main(*sys.argv[1:])
