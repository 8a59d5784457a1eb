"""HTTP on the threaded server, against Python's own client."""

import socket

from http_client import connected
from waiting import WAIT_S, run_together


def ask(connection, method="GET", path="/", headers=None):
    connection.request(method, path, headers=headers or {})
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_pages_come(start, tls, certificate):
    program = start("https_hello.py", 0, *certificate)
    port = program.read_port()

    def one():
        with connected(port, tls) as connection:
            for _ in range(20):
                status, text = ask(connection)
                assert status == 200 and text.startswith(b"Hello from iocpx ")
            assert ask(connection, path="/elsewhere")[0] == 404
            # These end the connection, and the client makes another.
            for method in ("DELETE", "HEAD", "POST"):
                connection.request(method, "/", body=b"GET / HTTP/1.1\r\n\r\n")
                answer = connection.getresponse()
                assert answer.status == 405 and answer.will_close
                answer.read()
            assert ask(connection, headers={"Connection": "close"})[0] == 200

    run_together(*[one] * 4)
    program.interrupt()


def test_several_requests_at_once_in_pieces_are_answered_in_order(start, tls, certificate):
    program = start("https_hello.py", 0, *certificate)
    port = program.read_port()
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT_S) as client:
        if tls:
            client = tls.wrap_socket(client, server_hostname="127.0.0.1")
        requests = b"GET / HTTP/1.1\r\n\r\nGET /a HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n"
        client.sendall(requests[:30])
        client.sendall(requests[30:])
        client.sendall(b"Connection: close\r\n\r\n")
        with client.makefile("rb") as answers:
            text = answers.read()
        client.close()
    statuses = [part[:3] for part in text.split(b"HTTP/1.1 ")]
    assert statuses == [b"", b"200", b"404", b"200"]
    program.interrupt()


def test_an_old_client_gets_one_answer_and_the_end(start, tls, certificate):
    program = start("https_hello.py", 0, *certificate)
    with socket.create_connection(("127.0.0.1", program.read_port()), timeout=WAIT_S) as client:
        if tls:
            client = tls.wrap_socket(client, server_hostname="127.0.0.1")
        client.sendall(b"GET / HTTP/1.0\r\n\r\nGET / HTTP/1.0\r\n\r\n")
        with client.makefile("rb") as answers:
            text = answers.read()
        client.close()
    assert text.count(b"HTTP/1.1 200 OK\r\n") == 1
    program.interrupt()


def test_an_endless_head_ends_its_connection(start, tls, certificate):
    program = start("https_hello.py", 0, *certificate)
    port = program.read_port()
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT_S) as client:
        if tls:
            client = tls.wrap_socket(client, server_hostname="127.0.0.1")
        try:
            client.sendall(b"x" * 100_000)
            assert client.recv(1) == b""
        except OSError:
            pass  # a reset, whichever of the two calls sees it
        client.close()
    program.interrupt()
