"""What the tests of the server's parameters share, beside `support`."""

import socket
import threading
import time

from support import WAIT_S

# The clock for "never early": time.monotonic() has steps of 15.6 ms on Windows before Python 3.13.
clock = time.perf_counter


def wait_until(condition, what):
    """Wait until `condition()` holds; `what` completes the sentence "... did not happen".

    For what only the server's figures tell of: no callback wakes this one.
    """
    limit = time.monotonic() + WAIT_S
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < limit, f"{what} did not happen within {WAIT_S} s"
        pause.wait(0.01)


def wait_for_a_turn(connection):
    """Wait until the turn that the connection has now, callbacks and all, is over."""
    over = threading.Event()
    connection.call_soon(over.set)
    assert over.wait(WAIT_S), f"no other turn came within {WAIT_S} s"


def wait_for_figure(server, name, value):
    """Wait until `server.stats()[name]` is `value`."""
    figures = []

    def reached():
        figures.append(server.stats()[name])
        return figures[-1] == value

    try:
        wait_until(reached, f"{name} == {value}")
    except AssertionError as error:
        raise AssertionError(f"{error}; it is {figures[-1]}") from None


def wait_until_gone(served, count=0):
    """Wait until only `count` connections are left."""
    wait_until(lambda: served.server.connection_count == count, f"a count of {count} connections")


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
