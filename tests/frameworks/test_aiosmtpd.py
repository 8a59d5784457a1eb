"""aiosmtpd on our loop, in a thread of its controller's, and smtplib."""

import contextlib
import smtplib

import pytest
from sockets import free_port
from waiting import WAIT_S

pytest.importorskip("aiosmtpd")


def test_mail_is_taken(start, tls, certificate):
    program = start("aiosmtpd_sink.py", free_port(), *certificate)
    port = program.read_port()
    for lines in (1, 10_000):
        mail = "Subject: x\r\n\r\n" + f"{'x' * 70}\r\n" * lines
        with contextlib.closing(smtplib.SMTP("127.0.0.1", port, timeout=WAIT_S)) as client:
            if tls:
                client.starttls(context=tls)
            client.sendmail("a@example.org", ["b@example.org"], mail)
            assert client.docmd("QUIT")[0] == 221
            if tls:
                client.sock.unwrap()  # else its end is a reset, of which the server may tell
        assert program.read_line() == "a@example.org to b@example.org:"
        assert program.read_line() == f"{len(mail)} bytes, TLS: {tls is not None}"
    program.interrupt()
