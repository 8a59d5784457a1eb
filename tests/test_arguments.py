"""The server's arguments: at their limits, and beyond, where an error names argument, what is
allowed and what came."""

import contextlib
import functools
import math
import queue
import re
import socket

import pytest
from clients import Client
from protocols import Echoing, Recording
from served import ENGINE
from waiting import take, wait_for_figure

import iocpx


def refusal(name, value):
    """The form of every message: "port must be 0 to 65535, got 70000"."""
    return rf"^{name} must be .+, got {re.escape(repr(value))}"


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


def make(**parameters):
    """A server, or an engine where the parameters are an engine's."""
    if ENGINE.issuperset(parameters):
        return iocpx.Engine(**parameters)
    return iocpx.Server(**{"protocol_factory": Recording, **parameters})


WRONG = [
    ("protocol_factory", 3, TypeError),
    ("protocol_factory", None, TypeError),
    ("protocol_factory", "Echo", TypeError),
    ("host", 3, TypeError),
    ("host", b"127.0.0.1", TypeError),
    ("host", [b"127.0.0.1"], TypeError),
    ("host", ["127.0.0.1", None], TypeError),
    ("host", [], ValueError),
    ("port", -1, ValueError),
    ("port", 65536, ValueError),
    ("port", 70000, ValueError),
    ("port", 2**70, ValueError),
    ("port", "80", TypeError),
    ("port", 80.0, TypeError),
    ("port", None, TypeError),
    ("workers", 0, ValueError),
    ("workers", -1, ValueError),
    ("workers", 257, ValueError),
    ("workers", 2**70, ValueError),
    ("workers", "2", TypeError),
    ("workers", 1.5, TypeError),
    ("backlog", 0, ValueError),
    ("backlog", -1, ValueError),
    ("backlog", 2**70, ValueError),
    ("backlog", "many", TypeError),
    ("backlog", None, TypeError),
    ("buffer_size", 0, ValueError),
    ("buffer_size", -1, ValueError),
    ("buffer_size", 2**70, ValueError),
    ("buffer_size", "64k", TypeError),
    ("buffer_size", 4096.0, TypeError),
    ("buffer_size", None, TypeError),
    ("close_timeout_s", -0.1, ValueError),
    ("close_timeout_s", math.nan, ValueError),
    ("close_timeout_s", "5", TypeError),
    ("close_timeout_s", None, TypeError),
    ("exception_handler", 3, TypeError),
    ("exception_handler", "print", TypeError),
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
    *seconds("ssl_handshake_timeout_s", 0.001, DAY),
    *seconds("ssl_shutdown_timeout_s", 0.001, DAY),
    *counts("max_handshakes", 1, 10**6),
    ("ssl", True, TypeError),
    ("ssl", "localhost.pem", TypeError),
    ("accept_receive", 1, TypeError),
    ("accept_receive", None, TypeError),
    ("accept_receive", "yes", TypeError),
    ("trace", 3, TypeError),
    ("trace", "print", TypeError),
    ("engine", 3, TypeError),
    ("engine", iocpx.Engine, TypeError),
    ("sock", 3, TypeError),
    ("sock", "127.0.0.1", TypeError),
]


@pytest.mark.parametrize(
    "name, value, kind", WRONG, ids=[f"{name}={value!r}" for name, value, _ in WRONG]
)
def test_a_wrong_parameter_is_refused(name, value, kind):
    with pytest.raises(kind, match=refusal(name, value)):
        make(**{name: value})


@pytest.mark.parametrize(
    "parameters, text",
    [
        ({"port": 70000}, "port must be 0 to 65535, got 70000"),
        ({"workers": 0}, "workers must be 1 to 256, got 0"),
        ({"protocol_factory": 3}, "protocol_factory must be callable, got 3"),
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
    with pytest.raises((TypeError, ValueError), match=f"^{re.escape(text)}$"):
        make(**parameters)


def test_a_server_needs_a_protocol_factory():
    with pytest.raises(TypeError, match="positional argument"):
        iocpx.Server()


def test_the_tuning_parameters_go_by_keyword_only():
    with pytest.raises(TypeError, match="positional"):
        iocpx.Server(Recording, "127.0.0.1", 0, 2)
    with pytest.raises(TypeError, match="positional"):
        iocpx.Engine(2)


def test_an_unknown_parameter_is_refused_by_name():
    with pytest.raises(TypeError, match="wrokers"):
        iocpx.Server(Recording, wrokers=2)


@pytest.mark.parametrize(
    "parameters",
    [
        {"workers": None},
        {"workers": 1},
        {"workers": 256},
        {"host": None},
        {"host": ("127.0.0.1",)},
        {"port": 65535},
        {"close_timeout_s": 0},
        {"close_timeout_s": 1},
        {"exception_handler": None},
        {"exception_handler": print},
        {"backlog": 1},
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
        {"engine": None},
        {"engine": iocpx.Engine()},
        {"buffer_size": 1},
    ],
    ids=str,
)
def test_the_limits_themselves_are_allowed(parameters):
    made = make(**parameters)
    assert isinstance(made, iocpx.Engine) or made.is_serving() is False


def test_a_native_handler_has_no_trace():
    with pytest.raises(ValueError, match=r"^trace must be None with a native handler"):
        iocpx.Server(iocpx.native.Echo, trace=print)


def test_a_whole_number_may_be_anything_that_is_one(serve):
    class Whole:
        def __index__(self):
            return 3

    served = serve(Recording, initial_accepts=Whole(), max_accepts=Whole())
    wait_for_figure(served.server, "accepts_pending", 3)


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
        with pytest.raises(ValueError, match=refusal("backlog", 0)):
            iocpx.Server(Recording, sock=sock, backlog=0)
        assert sock.fileno() != -1


@pytest.mark.parametrize(
    "value, kind",
    [(-1, ValueError), (math.nan, ValueError), ("1", TypeError)],
    ids=["negative", "nan", "str"],
)
def test_a_wrong_timeout_of_wait_closed_is_refused(serve, value, kind):
    served = serve(Recording)
    with pytest.raises(kind, match=refusal("timeout", value)):
        served.server.wait_closed(value)


def test_arguments_are_checked_before_anything_is_opened():
    # An address that is in use is no matter for the constructor: it only looks at its arguments.
    with iocpx.Server(Recording, "127.0.0.1") as first:
        second = iocpx.Server(Recording, "127.0.0.1", first.address[1])
        assert second.stats()["sockets_opened"] == second.stats()["sockets_closed"] == 0
        with pytest.raises(ValueError, match=refusal("backlog", 0)):
            iocpx.Server(Recording, "127.0.0.1", first.address[1], backlog=0)


def test_something_else_than_a_protocol_is_refused(serve):
    _, protocol = serve(Recording).open()
    with pytest.raises(TypeError, match=refusal("protocol", 3)):
        protocol.transport.set_protocol(3)
    assert protocol.transport.get_protocol() is protocol


async def coroutine(*_):
    raise AssertionError("nobody awaits this")


class AsyncCallable:
    async def __call__(self, *_):
        raise AssertionError("nobody awaits this")


@pytest.mark.parametrize("name", ["protocol_factory", "exception_handler", "trace"])
@pytest.mark.parametrize("function", [coroutine, functools.partial(coroutine), AsyncCallable()])
def test_an_async_function_is_refused_as_an_argument(name, function):
    arguments = {"protocol_factory": Recording, name: function}
    with pytest.raises(TypeError, match=refusal(name, function)):
        iocpx.Server(**arguments)


class Answers:
    """A callable that is no function, and raises when it is asked for anything else."""

    def __init__(self, function):
        self.__dict__["function"] = function

    def __call__(self, *arguments):
        return self.__dict__["function"](*arguments)

    def __getattr__(self, name):
        raise LookupError(name)


def test_a_callable_that_raises_when_it_is_asked_is_used(serve):
    heard = queue.Queue()
    server = iocpx.Server(
        Answers(lambda: None), "127.0.0.1", exception_handler=Answers(heard.put), trace=Answers(str)
    )
    with server:
        # It may be reset before it has seen that it is connected.
        with contextlib.suppress(ConnectionError), Client(server.address) as client:
            client.read_until_gone()
        assert "protocol_factory" in take(heard, "a call of the exception handler")["message"]
