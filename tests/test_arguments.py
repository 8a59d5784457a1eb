"""Wrong arguments: refused at once, by an error that names argument, what is allowed, what came."""

import functools
import math
import queue
import re

import pytest
from support import Client, Recording, take

import iocpx


def refusal(name, value):
    """The form of every message: "port must be 0 to 65535, got 70000"."""
    return rf"^{name} must be .+, got {re.escape(repr(value))}"


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
]


@pytest.mark.parametrize(
    "name, value, kind", WRONG, ids=[f"{name}={value!r}" for name, value, _ in WRONG]
)
def test_a_wrong_parameter_of_the_server_is_refused(name, value, kind):
    parameters = {"protocol_factory": Recording, "host": "127.0.0.1", name: value}
    with pytest.raises(kind, match=refusal(name, value)):
        iocpx.Server(**parameters)


@pytest.mark.parametrize(
    "name, value, text",
    [
        ("port", 70000, "port must be 0 to 65535, got 70000"),
        ("workers", 0, "workers must be 1 to 256, got 0"),
        ("protocol_factory", 3, "protocol_factory must be callable, got 3"),
    ],
)
def test_the_message_reads_as_documented(name, value, text):
    parameters = {"protocol_factory": Recording, name: value}
    with pytest.raises((TypeError, ValueError), match=f"^{text}"):
        iocpx.Server(**parameters)


def test_a_server_needs_a_protocol_factory():
    with pytest.raises(TypeError, match="positional argument"):
        iocpx.Server()


def test_the_tuning_parameters_go_by_keyword_only():
    with pytest.raises(TypeError, match="positional"):
        iocpx.Server(Recording, "127.0.0.1", 0, 2)


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
    ],
    ids=str,
)
def test_the_limits_themselves_are_allowed(parameters):
    assert iocpx.Server(Recording, **parameters).is_serving() is False


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
        with pytest.raises(ValueError, match=refusal("workers", 0)):
            iocpx.Server(Recording, "127.0.0.1", first.address[1], workers=0)


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
    with server, Client(server.address) as client:
        client.read_until_gone()
        assert "protocol_factory" in take(heard, "a call of the exception handler")["message"]
