"""keyvalue.py, by a client of a few lines: commands whole, pipelined, cut anywhere, and wrong ones.
tests/host/test_redis_clients.py has Redis' own.
"""

import socket
from contextlib import contextmanager

import pytest
from waiting import WAIT_S


@contextmanager
def connected(port, tls):
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT_S) as client:
        if tls:
            client = tls.wrap_socket(client, server_hostname="127.0.0.1")
        yield client
        client.close()


def command(*words):
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words)


def ask(port, tls, sent, pieces=1):
    """All that comes back for it, until the end of the stream."""
    with connected(port, tls) as client:
        size = -(-len(sent) // pieces)
        for begin in range(0, len(sent), size):
            client.sendall(sent[begin : begin + size])
        with client.makefile("rb") as answers:
            return answers.read()


QUIT = command(b"QUIT")


@pytest.fixture
def port(start, certificate):
    program = start("keyvalue.py", 0, *certificate)
    yield program.read_port()
    program.interrupt()


def test_commands_are_answered(port, tls):
    value = bytes(range(256)) * 400
    sent = [
        command(b"PING"),
        b"PING\r\n",
        command(b"SET", b"key", value),
        command(b"get", b"key"),
        command(b"GET", b"other"),
        command(b"INCR", b"n") * 2,
        command(b"EXISTS", b"key", b"n", b"other"),
        command(b"DEL", b"key", b"other"),
        command(b"DBSIZE"),
        QUIT,
    ]
    got = [
        b"+PONG\r\n+PONG\r\n+OK\r\n",
        b"$%d\r\n%s\r\n" % (len(value), value),
        b"$-1\r\n:1\r\n:2\r\n:2\r\n:1\r\n:1\r\n+OK\r\n",
    ]
    assert ask(port, tls, b"".join(sent)) == b"".join(got)
    assert ask(port, tls, command(b"FLUSHALL") + b"".join(sent), 50) == b"".join([b"+OK\r\n", *got])


WRONG = [
    (command(b"NONE") + QUIT, b"-ERR unknown command 'NONE'\r\n+OK\r\n"),
    (command(b"GET") + QUIT, b"-ERR wrong number of arguments\r\n+OK\r\n"),
    (
        command(b"SET", b"k", b"x") + command(b"INCR", b"k") + QUIT,
        b"+OK\r\n-ERR value is not an integer\r\n+OK\r\n",
    ),
    (b"*1\r\n:1\r\n", b"-ERR Protocol error: expected '$'\r\n"),
    (b"*x\r\n", b"-ERR Protocol error: invalid length\r\n"),
    (b"*1\r\n$9999999\r\n", b"-ERR Protocol error: invalid bulk length\r\n"),
]


def test_what_is_wrong_is_told(port, tls):
    for sent, got in WRONG:
        assert ask(port, tls, sent) == got
