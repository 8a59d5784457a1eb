"""WebSocket on threads, by websockets' protocol without I/O:
python websocket_threads.py [PORT [CERTIFICATE.pem]]

Every message comes back. websockets_echo.py does the same on an event loop.
"""

import asyncio
import contextlib
import ssl
import sys

from websockets.frames import Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol

import iocpx

MAX_BYTES = 1 << 20  # of one message


class Echo(asyncio.Protocol):
    def connection_made(self, transport: iocpx.Connection) -> None:
        self.transport = transport
        self.websocket = ServerProtocol(max_size=MAX_BYTES)
        self.parts: list[bytes | bytearray | memoryview] = []

    def data_received(self, data: bytes) -> None:
        self.websocket.receive_data(data)
        self.go_on()

    def eof_received(self) -> None:
        self.websocket.receive_eof()
        self.go_on()

    def go_on(self) -> None:
        for event in self.websocket.events_received():
            if isinstance(event, Request):
                self.websocket.send_response(self.websocket.accept(event))
            elif event.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                if event.opcode is not Opcode.CONT:
                    self.is_text = event.opcode is Opcode.TEXT
                self.parts.append(event.data)
                # What came together with the peer's end cannot be answered any more.
                if event.fin and self.websocket.state is State.OPEN:
                    message, self.parts = b"".join(self.parts), []
                    send = self.websocket.send_text if self.is_text else self.websocket.send_binary
                    send(message)
        data = self.websocket.data_to_send()
        self.transport.writelines(part for part in data if part)
        # An empty part is its end of the stream.
        if b"" in data or self.websocket.close_expected():
            self.transport.close()


def main(port: str = "8000", certificate: str | None = None) -> None:
    tls = None
    if certificate:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(certificate)
    server = iocpx.Server(Echo, "127.0.0.1", int(port), ssl=tls)
    server.start()
    assert server.address is not None
    print("serving on port", server.address[1], flush=True)
    server.serve_forever()  # until Ctrl+C, which stops it in order


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main(*sys.argv[1:])
