"""Takes mail and prints who it is for, on threads: python smtp_sink.py [PORT]

As much of SMTP as smtplib and mail programs need to deliver. aiosmtpd_sink.py does it on an event
loop, with a library.
"""

import asyncio
import contextlib
import sys

import iocpx

LINES = iocpx.native.LineFramer(65536, b"\r\n")
MAX_BYTES = 10 << 20  # of one mail
MAX_RECIPIENTS = 100


class Smtp(asyncio.Protocol):
    def connection_made(self, transport: iocpx.Connection) -> None:
        self.transport = transport
        self.start()
        transport.set_framer(LINES)
        self.say(220, "iocpx takes mail")

    def start(self) -> None:
        self.sender: str | None = None
        self.recipients: list[str] = []
        self.lines: list[bytes] | None = None
        self.size = 0

    def say(self, code: int, text: str) -> None:
        self.transport.write_message(f"{code} {text}".encode())

    def messages_received(self, messages: list[bytes]) -> None:
        for line in messages:
            if self.transport.is_closing():
                return
            if self.lines is None:
                self.command(line)
            elif line == b".":
                self.deliver()
            else:
                self.lines.append(line.removeprefix(b"."))
                self.size += len(self.lines[-1]) + 2
                if self.size > MAX_BYTES:
                    self.say(552, "too long")
                    self.transport.close()

    def command(self, line: bytes) -> None:
        word, _, rest = line.decode("ascii", "replace").partition(" ")
        word = word.upper()
        if word in ("HELO", "EHLO"):
            self.start()
            self.say(250, "iocpx")
        elif word == "MAIL":
            self.sender = rest.partition(":")[2].strip().split(" ")[0]
            self.say(250, "OK")
        elif word == "RCPT" and len(self.recipients) == MAX_RECIPIENTS:
            self.say(452, "too many")
        elif word == "RCPT" and self.sender is not None:
            self.recipients.append(rest.partition(":")[2].strip().split(" ")[0])
            self.say(250, "OK")
        elif word == "DATA" and self.sender is not None and self.recipients:
            self.lines = []
            self.say(354, "end with a dot")
        elif word in ("RSET", "NOOP"):
            if word == "RSET":
                self.start()
            self.say(250, "OK")
        elif word == "QUIT":
            self.say(221, "bye")
            self.transport.close()
        else:
            known = word in ("RCPT", "DATA")
            self.say(503 if known else 502, "not now" if known else "what?")

    def deliver(self) -> None:
        recipients = ", ".join(self.recipients)
        print(f"mail from {self.sender} for {recipients}: {self.size} bytes", flush=True)
        self.start()
        self.say(250, "taken")


def main(port: str = "8025") -> None:
    server = iocpx.Server(Smtp, "127.0.0.1", int(port))
    server.start()
    assert server.address is not None
    print("serving on port", server.address[1], flush=True)
    server.serve_forever()  # until Ctrl+C, which stops it in order


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main(*sys.argv[1:])
