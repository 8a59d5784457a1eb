"""udp_positions.py, with players."""

import socket
from contextlib import ExitStack

from waiting import WAIT_S


def test_players_hear_where_the_others_are(start):
    program = start("udp_positions.py", 0)
    address = "127.0.0.1", program.read_port()
    last = {}
    with ExitStack() as stack:

        def player(position):
            sock = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
            sock.settimeout(WAIT_S)
            says(sock, position)
            return sock

        def says(sock, position):
            last[sock] = position
            sock.sendto(position, address)

        def hears(sock, expected):
            """Until all of them were heard, in whole lines."""
            expected = set(expected)
            while expected:
                # Who has said nothing for seconds is forgotten.
                for speaker, position in last.items():
                    speaker.sendto(position, address)
                expected -= set(sock.recv(1200).split(b"\n"))

        anna, bela = player(b"Anna 1"), player(b"Bela 1")
        hears(anna, {b"Bela 1"})
        hears(bela, {b"Anna 1"})
        cili = player(b"Cili 1")
        says(anna, b"Anna 2")
        anna.sendto(b"x" * 2000, address)  # too long: lost, and no harm done
        hears(bela, {b"Anna 2", b"Cili 1"})
        hears(cili, {b"Anna 2", b"Bela 1"})
        # More than one packet holds.
        crowd = {b"Player %d " % i + b"x" * 80 for i in range(30)}
        for position in crowd:
            player(position)
        hears(anna, {*crowd, b"Bela 1", b"Cili 1"})
    program.interrupt()
