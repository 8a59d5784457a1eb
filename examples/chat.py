"""A chat room: python chat.py [PORT [CERTIFICATE.pem]]

Connect with any client of lines (telnet, nc): the first line is your name, each further one goes to
all who are there.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import sys
import threading

import iocpx

# Of what is said.  The line that goes out has a name before it, and what is no UTF-8 has become
# three bytes for each.
MAX_TEXT_BYTES = 1000
LINES = iocpx.native.LineFramer(7 * MAX_TEXT_BYTES)

members: set[Member] = set()
lock = threading.Lock()  # the callbacks of different connections run on several threads


def tell_all(text: str) -> None:
    with lock:
        everyone = list(members)
    for member in everyone:
        member.tell(text)


class Member(asyncio.Protocol):
    def connection_made(self, transport: iocpx.Connection) -> None:
        self.transport = transport
        self.name: str | None = None
        self.slow = False
        transport.set_framer(LINES)
        transport.write_message(b"What is your name?")

    def messages_received(self, messages: list[bytes]) -> None:
        for message in messages:
            text = message.decode(errors="replace").strip()
            if len(message) > MAX_TEXT_BYTES:
                self.transport.write_message(b"That is too long.")
            elif self.name is not None:
                tell_all(f"{self.name}: {text}")
            elif text:
                self.name = text
                with lock:
                    members.add(self)
                tell_all(f"{text} has come")

    def tell(self, text: str) -> None:
        # Any thread may write.  Who does not read misses what is said meanwhile, and costs nobody
        # any memory.
        if not self.slow:
            self.transport.write_message(text.encode())

    def pause_writing(self) -> None:
        self.slow = True

    def resume_writing(self) -> None:
        self.slow = False

    def connection_lost(self, exc: Exception | None) -> None:
        with lock:
            members.discard(self)
        if self.name is not None:
            tell_all(f"{self.name} has gone")


def main(port: str = "8000", certificate: str | None = None) -> None:
    tls = None
    if certificate:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(certificate)
    server = iocpx.Server(Member, "127.0.0.1", int(port), ssl=tls)
    server.start()
    assert server.address is not None
    print("serving on port", server.address[1], flush=True)
    server.serve_forever()  # until Ctrl+C, which stops it in order


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main(*sys.argv[1:])
