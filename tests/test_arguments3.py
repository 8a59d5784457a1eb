"""Wrong values of the tuning parameters: refused at once, each by an error that names it."""

import math
import re
import socket

import pytest
from support import Echoing, Recording
from test_arguments import refusal

import iocpx


def counts(name, low, high, none=False):
    """Wrong values of a whole number from `low` to `high`."""
    wrong = [low - 1, -1, high + 1, 2**70]
    yield from ((name, value, ValueError) for value in wrong)
    yield from ((name, value, TypeError) for value in ("1", 1.5, [1]))
    if not none:
        yield name, None, TypeError


def seconds(name, low, high, none=False):
    """Wrong values of a number of seconds from `low` to `high`."""
    wrong = [-1, -0.001, high + 1, math.nan, math.inf, -math.inf]
    if low > 0:
        wrong.append(0)
    yield from ((name, value, ValueError) for value in wrong)
    yield from ((name, value, TypeError) for value in ("1", True, [1]))
    if not none:
        yield name, None, TypeError


DAY = 86400

WRONG = [
    *counts("initial_accepts", 1, 10_000),
    *counts("max_accepts", 1, 10_000),
    *counts("max_connections", 1, 10**9, none=True),
    *counts("initial_reads", 1, 64),
    *counts("max_sends", 1, 10**9, none=True),
    *counts("max_write_buffer", 1, 2**48, none=True),
    *counts("max_free_buffers", 0, 10**6),
    *counts("max_free_connections", 0, 10**6),
    *seconds("accept_timeout_s", 1, DAY),
    *seconds("idle_timeout_s", 0.001, DAY, none=True),
    *seconds("keepalive_idle_s", 0.001, DAY, none=True),
    *seconds("keepalive_interval_s", 0.001, DAY),
    ("accept_receive", 1, TypeError),
    ("accept_receive", None, TypeError),
    ("accept_receive", "yes", TypeError),
    ("trace", 3, TypeError),
    ("trace", "print", TypeError),
    ("sock", 3, TypeError),
    ("sock", "127.0.0.1", TypeError),
]


@pytest.mark.parametrize(
    "name, value, kind", WRONG, ids=[f"{name}={value!r}" for name, value, _ in WRONG]
)
def test_a_wrong_tuning_parameter_is_refused(name, value, kind):
    with pytest.raises(kind, match=refusal(name, value)):
        iocpx.Server(Recording, **{name: value})


@pytest.mark.parametrize(
    "parameters, text",
    [
        ({"initial_accepts": 0}, "initial_accepts must be 1 to 10000, got 0"),
        ({"initial_reads": 65}, "initial_reads must be 1 to 64, got 65"),
        (
            {"initial_accepts": 20, "max_accepts": 19},
            "max_accepts must be initial_accepts (20) or more, got 19",
        ),
        # The default of the one is a limit for the other.
        (
            {"initial_accepts": 101},
            "max_accepts must be initial_accepts (101) or more, got 100",
        ),
    ],
    ids=str,
)
def test_the_message_reads_as_documented(parameters, text):
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        iocpx.Server(Recording, **parameters)


def test_a_native_handler_has_no_trace():
    with pytest.raises(ValueError, match=r"^trace must be None with a native handler"):
        iocpx.Server(iocpx.native.Echo, trace=print)


@pytest.mark.parametrize(
    "parameters",
    [
        {"initial_accepts": 1, "max_accepts": 1},
        {"initial_accepts": 10_000, "max_accepts": 10_000},
        {"accept_receive": True},
        {"accept_timeout_s": 1},
        {"accept_timeout_s": 1.5},
        {"accept_timeout_s": DAY},
        {"max_connections": 1},
        {"max_connections": None},
        {"initial_reads": 1},
        {"initial_reads": 64},
        {"idle_timeout_s": 0.001},
        {"idle_timeout_s": DAY},
        {"idle_timeout_s": None},
        {"max_sends": 1},
        {"max_sends": None},
        {"max_write_buffer": 1},
        {"max_write_buffer": None},
        {"keepalive_idle_s": None},
        {"keepalive_idle_s": 0.5},
        {"keepalive_interval_s": DAY},
        {"max_free_buffers": 0},
        {"max_free_connections": 0},
        {"trace": None},
        {"trace": print},
        {"sock": None},
    ],
    ids=str,
)
def test_the_limits_themselves_are_allowed(parameters):
    assert iocpx.Server(Recording, **parameters).is_serving() is False


def test_a_whole_number_may_be_anything_that_is_one(serve):
    class Whole:
        def __index__(self):
            return 3

    served = serve(Recording, initial_accepts=Whole(), max_accepts=Whole())
    assert served.server.stats()["accepts_pending"] == 3


@pytest.mark.parametrize(
    "parameters",
    [
        {"initial_accepts": 1, "max_accepts": 1, "backlog": 1, "workers": 1},
        {"initial_reads": 64, "buffer_size": 1, "max_sends": 1, "max_write_buffer": 1},
        {"max_free_buffers": 0, "max_free_connections": 0},
        {"keepalive_idle_s": 0.001, "keepalive_interval_s": 0.001},
        {"accept_receive": True, "buffer_size": 1, "initial_reads": 64},
        {"max_connections": 1, "idle_timeout_s": DAY, "close_timeout_s": DAY},
    ],
    ids=str,
)
@pytest.mark.parametrize("native", [False, True], ids=["protocol", "native"])
def test_a_server_with_extreme_values_serves(serve, native, parameters):
    served = serve(iocpx.native.Echo if native else Echoing, **parameters)
    client = served.connect()
    for number in range(20):
        # One byte: more could be several writes, where one is allowed.
        assert client.exchange([bytes([number])]) == bytes([number])


def test_sockets_are_checked_with_the_other_arguments():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        with pytest.raises(ValueError, match=refusal("workers", 0)):
            iocpx.Server(Recording, sock=sock, workers=0)
        assert sock.fileno() != -1
