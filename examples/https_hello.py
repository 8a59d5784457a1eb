"""Web pages without an event loop, on threads: python https_hello.py [PORT [CERTIFICATE.pem]]

GET / says hello, any other path is answered with 404. A client may ask several times on one
connection, also before it has the answers.
"""

import asyncio
import contextlib
import ssl
import sys

import iocpx

HEAD_END = b"\r\n\r\n"
MAX_HEAD_BYTES = 16384


class Hello(asyncio.Protocol):
    """A browser's requests have a head and no body, and that is all that is understood here."""

    def connection_made(self, transport: iocpx.Connection) -> None:
        self.transport = transport
        self.unread = b""

    def data_received(self, data: bytes) -> None:
        *heads, self.unread = (self.unread + data).split(HEAD_END)
        if len(self.unread) > MAX_HEAD_BYTES:
            self.transport.abort()
            return
        answers = []
        last = False
        for head in heads:
            # Behind anything else there may be a body, which is not read.
            last = not keeps_alive(head)
            answers.append(answer(head, last))
            if last:
                break
        # In one write, so in one record where there is TLS.
        self.transport.writelines(answers)
        if last:
            self.transport.close()


def keeps_alive(head: bytes) -> bool:
    return (
        head.startswith(b"GET ")
        and head.split(b"\r\n", 1)[0].endswith(b" HTTP/1.1")
        and b"\r\nconnection: close" not in head.lower()
    )


def answer(head: bytes, last: bool) -> bytes:
    method, path, *_ = [*head.split(b"\r\n", 1)[0].split(b" "), b"", b""]
    if method != b"GET":
        status, text = b"405 Method Not Allowed", b"GET alone is understood here.\n"
    elif path != b"/":
        status, text = b"404 Not Found", b"There is nothing here.\n"
    else:
        status, text = b"200 OK", b"Hello from iocpx %s.\n" % iocpx.__version__.encode()
    return b"HTTP/1.1 %s\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n%s\r\n%s" % (
        status,
        len(text),
        b"Connection: close\r\n" if last else b"",
        text,
    )


def main(port: str = "8000", certificate: str | None = None) -> None:
    tls = None
    if certificate:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(certificate)
    server = iocpx.Server(Hello, "127.0.0.1", int(port), ssl=tls)
    server.start()
    assert server.address is not None
    print("serving on port", server.address[1], flush=True)
    server.serve_forever()  # until Ctrl+C, which stops it in order


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main(*sys.argv[1:])
