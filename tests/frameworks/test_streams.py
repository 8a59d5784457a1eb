"""asyncio's streams, against a client without asyncio."""

import socket

from payload import assert_same_bytes, pattern
from waiting import WAIT_S, run_together


def test_lines_come_back(start, tls, certificate):
    program = start("streams_echo.py", 0, *certificate)
    port = program.read_port()

    def one():
        with socket.create_connection(("127.0.0.1", port), timeout=WAIT_S) as client:
            if tls:
                client = tls.wrap_socket(client, server_hostname="127.0.0.1")
            for size in (0, 1, 1000, 60_000):
                line = pattern(size, seed=size).replace(b"\n", b"") + b"\n"
                client.sendall(line)
                with client.makefile("rb") as answers:
                    assert_same_bytes(answers.readline(), line)
            client.close()

    run_together(*[one] * 4)
    program.interrupt()
