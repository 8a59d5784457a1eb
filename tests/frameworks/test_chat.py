"""chat.py, with clients of lines."""

import socket
from contextlib import ExitStack

from waiting import WAIT_S


def test_all_hear_what_is_said(start, tls, certificate):
    program = start("chat.py", 0, *certificate)
    port = program.read_port()
    with ExitStack() as stack:

        def come(name):
            client = stack.enter_context(
                socket.create_connection(("127.0.0.1", port), timeout=WAIT_S)
            )
            if tls:
                client = stack.enter_context(
                    tls.wrap_socket(client, server_hostname="127.0.0.1")
                )
            lines = stack.enter_context(client.makefile("r", encoding="utf-8"))
            assert lines.readline() == "What is your name?\n"
            client.sendall(f"{name}\n".encode())
            return client, lines

        anna, anna_hears = come("Anna")
        assert anna_hears.readline() == "Anna has come\n"
        bela, bela_hears = come("Béla")
        for hears in (anna_hears, bela_hears):
            assert hears.readline() == "Béla has come\n"
        bela.sendall(b"szia\nsokan")
        bela.sendall(b" vagyunk\n")
        for hears in (anna_hears, bela_hears):
            assert hears.readline() == "Béla: szia\n"
            assert hears.readline() == "Béla: sokan vagyunk\n"
        anna.sendall(b"\xff" * 1000 + b"\n")
        for hears in (anna_hears, bela_hears):
            assert hears.readline() == f"Anna: {1000 * chr(0xFFFD)}\n"
        anna.sendall(b"x" * 1001 + b"\n")
        assert anna_hears.readline() == "That is too long.\n"
        # The longest line: a name and a text of what is no UTF-8.
        nobody, _ = come("")
        nobody.sendall(b"\xff" * 1000 + b"\n" + b"\xff" * 1000 + b"\n")
        strange = 1000 * chr(0xFFFD)
        for hears in (anna_hears, bela_hears):
            assert hears.readline() == f"{strange} has come\n"
            assert hears.readline() == f"{strange}: {strange}\n"
        anna.sendall(b"x" * 7001 + b"\n")  # this ends her connection, and no other
        assert bela_hears.readline() == "Anna has gone\n"
    program.interrupt()
