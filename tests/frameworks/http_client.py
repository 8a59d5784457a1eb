"""Python's own HTTP client, which knows nothing of any loop, and what every server is asked."""

import contextlib
import http.client

from payload import assert_same_bytes, pattern
from waiting import WAIT_S, run_together

OURS = "iocpx._event_loop.EventLoop"


@contextlib.contextmanager
def connected(port, tls):
    kind, options = http.client.HTTPConnection, {}
    if tls:
        kind, options = http.client.HTTPSConnection, {"context": tls}
    with contextlib.closing(kind("127.0.0.1", port, timeout=WAIT_S, **options)) as connection:
        yield connection


def ask(connection, method="GET", path="/", body=None):
    connection.request(method, path, body)
    answer = connection.getresponse()
    body = answer.read()
    assert answer.status == 200, body
    return body


def exercise(port, tls=None):
    """Ask for this and that, on four connections at once; each is used several times."""

    def one():
        with connected(port, tls) as connection:
            assert ask(connection).decode().startswith(OURS)
            for size in (1, 100_000, 3_000_000):
                data = pattern(size, seed=size)
                assert_same_bytes(ask(connection, "POST", body=data), data)
            assert ask(connection).decode().startswith(OURS)

    run_together(*[one] * 4)
