"""smtp_sink.py and smtplib."""

import smtplib

import pytest
from waiting import WAIT_S


def test_mail_is_taken(start):
    program = start("smtp_sink.py", 0)
    port = program.read_port()
    with smtplib.SMTP("127.0.0.1", port, timeout=WAIT_S) as client:
        for lines in (1, 10_000):
            mail = "Subject: x\r\n\r\n.\r\n" + f"{'x' * 70}\r\n" * lines
            client.sendmail("a@example.org", ["b@example.org", "c@example.org"], mail)
            assert program.read_line() == (
                "mail from <a@example.org> for <b@example.org>, <c@example.org>: "
                f"{len(mail)} bytes"
            )
        assert client.docmd("DATA")[0] == 503
        assert client.rcpt("b@example.org")[0] == 503
        assert client.mail("a@example.org")[0] == 250
        assert [client.rcpt("b@example.org")[0] for _ in range(101)] == [250] * 100 + [452]
        assert client.docmd("WHAT")[0] == 502
        client.rset()
        # What it has still to send meets a closed connection, whose reset may overtake the answer.
        with pytest.raises((smtplib.SMTPDataError, smtplib.SMTPServerDisconnected)) as refused:
            client.sendmail("a@example.org", "b@example.org", f"{'x' * 70}\r\n" * 150_000)
        assert getattr(refused.value, "smtp_code", 552) == 552
    program.interrupt()
