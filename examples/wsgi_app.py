"""A WSGI application on the threaded server, with h11 and Python's own wsgiref:
python wsgi_app.py [PORT [CERTIFICATE.pem]]

Django, Flask and others are such applications. One may block: it has a worker of the engine for as
long as it takes, and there are as many as may be busy at once.
"""

import asyncio
import contextlib
import io
import ssl
import sys
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote_to_bytes
from wsgiref.handlers import SimpleHandler
from wsgiref.util import application_uri

import h11

import iocpx

WORKERS = 16  # requests that are worked on at once
MAX_BODY_BYTES = 8 << 20


def application(environ: dict[str, Any], start_response: Callable[..., object]) -> list[bytes]:
    """The application served here; any other takes its place."""
    body = environ["wsgi.input"].read()
    text = f"{environ['REQUEST_METHOD']} {application_uri(environ)}{environ['PATH_INFO'][1:]}\n"
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [text.encode(), body]


class Handler(SimpleHandler):
    """Collects an answer; h11 is what writes heads and decides when a connection ends."""

    http_version = "1.1"
    origin_server = False
    # Which SimpleHandler has.
    stdout: io.BytesIO
    status: str
    headers: Any

    def __init__(self, environ: dict[str, str], body: bytes) -> None:
        super().__init__(io.BytesIO(body), io.BytesIO(), sys.stderr, environ)

    def send_headers(self) -> None:
        self.headers_sent = True
        self.head = int(self.status[:3]), list(self.headers.items())

    def finish_content(self) -> None:
        if not self.headers_sent:
            self.send_headers()

    def answer(self) -> tuple[int, list[tuple[str, str]], bytes]:
        """(status, headers, body) of the application."""
        self.run(application)
        return *self.head, self.stdout.getvalue()


class Wsgi(asyncio.Protocol):
    def connection_made(self, transport: iocpx.Connection) -> None:
        self.transport = transport
        self.connection = h11.Connection(h11.SERVER)
        self.request: h11.Request | None = None
        self.body: list[bytes] = []

    def data_received(self, data: bytes) -> None:
        self.connection.receive_data(data)
        try:
            self.go_on()
        except h11.RemoteProtocolError as error:
            if self.connection.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                self.answer(error.error_status_hint, [("Connection", "close")], b"")
            self.transport.close()

    def go_on(self) -> None:
        """All requests that have come whole, in order."""
        while not self.transport.is_closing():
            event = self.connection.next_event()
            if event is h11.NEED_DATA:
                if self.connection.they_are_waiting_for_100_continue:
                    self.send(h11.InformationalResponse(status_code=100, headers=[]))
                return
            if event is h11.PAUSED:
                self.connection.start_next_cycle()
                self.request = None
            elif isinstance(event, h11.Request):
                self.request, self.body = event, []
            elif isinstance(event, h11.Data):
                self.body.append(bytes(event.data))
                if sum(map(len, self.body)) > MAX_BODY_BYTES:
                    self.transport.abort()
            elif isinstance(event, h11.EndOfMessage):
                self.respond(b"".join(self.body))
            elif isinstance(event, h11.ConnectionClosed):
                self.transport.close()

    def respond(self, body: bytes) -> None:
        status, headers, text = Handler(self.environ(), body).answer()
        self.answer(status, headers, text)
        if self.connection.our_state is h11.MUST_CLOSE:
            self.transport.close()

    def answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        if status not in (204, 304) and "content-length" not in [n.lower() for n, _ in headers]:
            headers.append(("Content-Length", str(len(body))))
        if self.request is not None and self.request.method == b"HEAD":
            body = b""
        response = h11.Response(status_code=status, headers=headers)
        self.send(response, h11.Data(data=body), h11.EndOfMessage())

    def environ(self) -> dict[str, str]:
        assert self.request is not None
        path, _, query = self.request.target.partition(b"?")
        host, port = self.transport.get_extra_info("sockname")[:2]
        environ = {
            "REQUEST_METHOD": self.request.method.decode(),
            "SCRIPT_NAME": "",
            "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
            "QUERY_STRING": query.decode("latin-1"),
            "SERVER_NAME": host,
            "SERVER_PORT": str(port),
            "SERVER_PROTOCOL": f"HTTP/{self.request.http_version.decode()}",
            "REMOTE_ADDR": self.transport.get_extra_info("peername")[0],
            "HTTPS": "on" if self.transport.get_extra_info("sslcontext") else "off",
        }
        for name, value in self.request.headers:
            key = name.decode().upper().replace("-", "_")
            key = key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"
            text = value.decode("latin-1")
            environ[key] = f"{environ[key]},{text}" if key in environ else text
        return environ

    def send(self, *events: h11.Event) -> None:
        # In one write, so in one record where there is TLS.
        self.transport.writelines([self.connection.send(event) for event in events])


def main(port: str = "8000", certificate: str | None = None) -> None:
    tls = None
    if certificate:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(certificate)
    engine = iocpx.Engine(workers=WORKERS)
    server = iocpx.Server(Wsgi, "127.0.0.1", int(port), ssl=tls, engine=engine)
    server.start()
    assert server.address is not None
    print("serving on port", server.address[1], flush=True)
    server.serve_forever()  # until Ctrl+C, which stops it in order


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main(*sys.argv[1:])
