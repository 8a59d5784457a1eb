"""Sockets and ports that the tests bind themselves."""

import socket


def has_ipv6():
    """Whether this machine can listen on ::1."""
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


def bound_socket(host="127.0.0.1"):
    """A TCP socket with an address, not listening."""
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    sock.bind((host, 0))
    return sock


def free_port():
    """A port that nobody listens at, for a server that has to be told one."""
    with bound_socket() as sock:
        return sock.getsockname()[1]


def listening_socket(host="127.0.0.1"):
    sock = bound_socket(host)
    sock.listen()
    return sock
