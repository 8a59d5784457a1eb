"""HTTP/1.1 by h11, without an event loop: python h11_server.py [PORT [CERTIFICATE.pem]]

GET / says hello, and a POST to /echo gets its body back. Python's threads serve: each connection is
in one callback at a time, and h11 knows what to do next.
"""

import asyncio
import contextlib
import ssl
import sys

import h11

import iocpx

MAX_BODY_BYTES = 8 << 20


class Http(asyncio.Protocol):
    def connection_made(self, transport: iocpx.Connection) -> None:
        self.transport = transport
        self.connection = h11.Connection(h11.SERVER)
        self.request: h11.Request | None = None
        self.body: list[bytes] = []

    def data_received(self, data: bytes) -> None:
        self.connection.receive_data(data)
        self.go_on()

    def eof_received(self) -> None:
        self.connection.receive_data(b"")
        self.go_on()

    def go_on(self) -> None:
        """All requests that have come whole, in order."""
        try:
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
                        self.respond(413, b"too much\n", close=True)
                elif isinstance(event, h11.EndOfMessage):
                    assert self.request is not None
                    self.respond(*answer(self.request, b"".join(self.body)))
                elif isinstance(event, h11.ConnectionClosed):
                    self.transport.close()
        except h11.RemoteProtocolError as error:
            if self.connection.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                self.respond(error.error_status_hint, f"{error}\n".encode(), close=True)
            else:
                self.transport.close()

    def respond(self, status: int, body: bytes, close: bool = False) -> None:
        headers = [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))]
        if close:
            headers.append(("Connection", "close"))
        if self.request is not None and self.request.method == b"HEAD":
            body = b""
        self.send(
            h11.Response(status_code=status, headers=headers),
            h11.Data(data=body),
            h11.EndOfMessage(),
        )
        if close or self.connection.our_state is h11.MUST_CLOSE:
            self.transport.close()

    def send(self, *events: h11.Event) -> None:
        # In one write, so in one record where there is TLS.
        self.transport.writelines([self.connection.send(event) for event in events])


def answer(request: h11.Request, body: bytes) -> tuple[int, bytes]:
    if request.target == b"/" and request.method in (b"GET", b"HEAD"):
        return 200, b"Hello from iocpx %s.\n" % iocpx.__version__.encode()
    if request.target == b"/echo" and request.method == b"POST":
        return 200, body
    return 404, b"There is nothing here.\n"


def main(port: str = "8000", certificate: str | None = None) -> None:
    tls = None
    if certificate:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(certificate)
    server = iocpx.Server(Http, "127.0.0.1", int(port), ssl=tls)
    server.start()
    assert server.address is not None
    print("serving on port", server.address[1], flush=True)
    server.serve_forever()  # until Ctrl+C, which stops it in order


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main(*sys.argv[1:])
