"""The proxy as a program; what it does is seen in tests/test_proxy.py."""

import socket

from payload import assert_same_bytes, pattern
from waiting import WAIT_S, run_together


def test_clients_get_through_it(start):
    behind = start("streams_echo.py", 0)
    program = start("tcp_proxy.py", 0, "127.0.0.1", behind.read_port())
    port = program.read_port()

    def one():
        with socket.create_connection(("127.0.0.1", port), timeout=WAIT_S) as client:
            for size in (0, 1, 1000, 60_000):
                line = pattern(size, seed=size).replace(b"\n", b"") + b"\n"
                client.sendall(line)
                with client.makefile("rb") as answers:
                    assert_same_bytes(answers.readline(), line)

    run_together(*[one] * 4)
    program.interrupt()
    behind.interrupt()
