"""aiosmtpd on our loop, in a thread of its controller's, and smtplib."""

import smtplib

import pytest
from sockets import free_port
from waiting import WAIT_S

pytest.importorskip("aiosmtpd")


def test_mail_is_taken(start, tls, certificate):
    program = start("aiosmtpd_sink.py", free_port(), *certificate)
    port = program.read_port()
    for size in (10, 1_000_000):
        with smtplib.SMTP("127.0.0.1", port, timeout=WAIT_S) as client:
            if tls:
                client.starttls(context=tls)
            client.sendmail("a@example.org", ["b@example.org"], "Subject: x\r\n\r\n" + "x" * size)
        assert program.read_line() == "a@example.org to b@example.org:"
        assert program.read_line() == f"{size + 16} bytes, TLS: {tls is not None}"
    program.interrupt()
