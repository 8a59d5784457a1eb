"""h11_server.py and wsgi_app.py, against Python's own client."""

import socket

import pytest
from http_client import connected
from payload import assert_same_bytes, pattern
from waiting import WAIT_S, run_together

pytest.importorskip("h11")

SIZES = (0, 1, 100_000, 3_000_000)


def ask(connection, method, path, body=None):
    connection.request(method, path, body)
    answer = connection.getresponse()
    return answer.status, answer.read()


def serve(start, name, certificate):
    program = start(name, 0, *certificate)
    return program, program.read_port()


def test_h11_answers(start, tls, certificate):
    program, port = serve(start, "h11_server.py", certificate)

    def one():
        with connected(port, tls) as connection:
            assert ask(connection, "GET", "/")[1].startswith(b"Hello from iocpx ")
            assert ask(connection, "HEAD", "/") == (200, b"")
            for size in SIZES:
                data = pattern(size, seed=size)
                status, body = ask(connection, "POST", "/echo", data)
                assert status == 200
                assert_same_bytes(body, data)
            assert ask(connection, "GET", "/elsewhere")[0] == 404

    run_together(*[one] * 4)
    program.interrupt()


def test_an_application_answers(start, tls, certificate):
    program, port = serve(start, "wsgi_app.py", certificate)
    url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"

    def one():
        with connected(port, tls) as connection:
            assert ask(connection, "GET", "/a%20b?c=d") == (200, f"GET {url}/a b\n".encode())
            assert ask(connection, "HEAD", "/") == (200, b"")
            for size in SIZES:
                data = pattern(size, seed=size)
                status, body = ask(connection, "POST", "/", data)
                assert status == 200
                assert_same_bytes(body, f"POST {url}/\n".encode() + data)

    run_together(*[one] * 4)
    program.interrupt()


@pytest.mark.parametrize("name", ["h11_server.py", "wsgi_app.py"])
def test_requests_at_once_in_pieces_and_a_wrong_one(start, name):
    program, port = serve(start, name, [])
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT_S) as client:
        requests = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 2
        client.sendall(requests[:30])
        client.sendall(requests[30:])
        client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: what\r\n\r\n")
        with client.makefile("rb") as answers:
            text = answers.read()
    assert [part[:3] for part in text.split(b"HTTP/1.1 ")] == [b"", b"200", b"200", b"501"]
    program.interrupt()
