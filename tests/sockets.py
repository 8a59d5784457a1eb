"""Sockets and ports that the tests bind themselves."""

import random
import socket

# No system gives these to a socket that asks for any port (Windows from 49152, Linux from 32768,
# old ones from 1024 to 5000): a client of a test that runs beside this one has none of them.
_GIVEN_TO_NOBODY = range(10000, 32768)


def has_ipv6():
    """Whether this machine can listen on ::1."""
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


def own_host():
    """A loopback address of IPv4 that no other process uses: each port on it is free, but for those
    that somebody has on all addresses."""
    pick = random.SystemRandom().randrange
    return f"127.{pick(3, 250)}.{pick(1, 250)}.{pick(1, 250)}"


def bound_socket(host="127.0.0.1", port=0):
    """A TCP socket with an address, not listening; by default at a port of the system's choice."""
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    return sock


def free_port():
    """A port that nobody has, on no address and of no family, for one who has to be told it."""
    hosts = ["127.0.0.1", "0.0.0.0", *(["::1", "::"] if has_ipv6() else [])]
    # The system's numbers: those of `random` begin alike in runs side by side that set its seed.
    for port in random.SystemRandom().sample(_GIVEN_TO_NOBODY, 100):
        try:
            for host in hosts:
                bound_socket(host, port).close()
        except OSError:
            continue
        return port
    raise OSError(f"of 100 ports in {_GIVEN_TO_NOBODY} none is free")


def listening_socket(host="127.0.0.1"):
    sock = bound_socket(host)
    sock.listen()
    return sock
