"""A mail server that prints what it gets, with aiosmtpd: python aiosmtpd_sink.py [PORT [CERT.pem]]

With a certificate it offers STARTTLS.
"""

import ssl
import sys
import time
from typing import Any

from aiosmtpd.controller import Controller

import iocpx


class Sink:
    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        print(f"{envelope.mail_from} to {', '.join(envelope.rcpt_tos)}:", flush=True)
        print(f"{len(envelope.content)} bytes, TLS: {session.ssl is not None}", flush=True)
        return "250 Message accepted for delivery"


def main(port: str = "8025", certificate: str | None = None) -> None:
    tls = None
    if certificate:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(certificate)
    # The controller runs the loop in a thread of its own.
    controller = Controller(
        Sink(),
        hostname="127.0.0.1",
        port=int(port),
        loop=iocpx.new_event_loop(),
        tls_context=tls,
    )
    controller.start()
    print("serving on port", controller.port, flush=True)
    try:
        while True:
            time.sleep(60)
    except KeyboardInterrupt:
        controller.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
