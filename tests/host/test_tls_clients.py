"""The server's TLS on each lane, and the examples that have it, with clients that are not Python's:
openssl and curl; and under the load of ab and h2load.
"""

import shutil
import subprocess
from pathlib import Path

import pytest
from lanes import EVERY_LANE
from programs import PORT, START

ROOT = Path(__file__).resolve().parents[2]
CERTIFICATE = "tests/data/localhost.pem"
WAIT_S = 60

# Answers every request with its first line. Prints its port, and its figures once it is told to
# end.
SERVER = """
import asyncio, ssl, sys
import iocpx

class Answer(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
        self.got = b""
    def data_received(self, data):
        self.got += data
        if self.got.endswith(b"\\r\\n\\r\\n"):
            line = self.got.partition(b"\\r\\n")[0]
            head = b"HTTP/1.0 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(line)
            self.transport.writelines([head, line])
            self.transport.close()

context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1])
context.set_alpn_protocols(["http/1.1"])
with iocpx.Server(Answer, "127.0.0.1", ssl=context) as server:
    print(server.address[1], flush=True)
    sys.stdin.readline()
figures = server.stats()
print(figures["handshakes"], figures["handshake_failures"])
"""


@pytest.fixture(params=EVERY_LANE)
def lane(request):
    return request.param


@pytest.fixture
def server(start):
    return start(SERVER, CERTIFICATE)


def finish(server):
    output, _ = server.communicate("\n", timeout=WAIT_S)
    return output.strip()


def run(*argv, data=b""):
    done = subprocess.run(argv, input=data, capture_output=True, timeout=WAIT_S, cwd=ROOT)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl")
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_openssl_s_client(server, version):
    port = int(server.stdout.readline())
    code, output, errors = run(
        *("openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-servername", "localhost"),
        *("-CAfile", CERTIFICATE, "-verify_return_error", "-alpn", "http/1.1"),
        *("-ign_eof", "-crlf", version),
        data=b"GET /one HTTP/1.0\n\n",
    )
    assert code == 0, errors
    assert b"Verify return code: 0 (ok)" in output
    assert b"ALPN protocol: http/1.1" in output
    assert b"GET /one HTTP/1.0" in output.rpartition(b"Content-Length: 17")[2]
    assert b"unexpected eof" not in errors
    assert finish(server) == "1 {}"


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_curl(server):
    port = int(server.stdout.readline())
    url = f"https://localhost:{port}"
    resolve = ("--resolve", f"localhost:{port}:127.0.0.1", "--silent", "--show-error")
    for number in range(3):
        code, output, errors = run(
            "curl", *resolve, "--cacert", CERTIFICATE, "--http1.0", f"{url}/{number}"
        )
        assert code == 0, errors
        assert output == b"GET /%d HTTP/1.0" % number
    # One that does not trust the server, and one that knows of no TLS.
    code, _, _ = run("curl", *resolve, "--cacert", "tests/data/other.pem", url)
    assert code == 60
    code, _, _ = run("curl", *resolve, f"http://localhost:{port}/")
    assert code != 0
    figures = finish(server)
    assert figures.startswith("3 {")
    assert "'HTTP_REQUEST': 1" in figures
    # It closes with the tickets unread, which is a reset: that may come before its alert is read.
    assert "UNKNOWN_CA" in figures or "'ConnectionResetError': 1" in figures


@pytest.mark.skipif(shutil.which("ab") is None, reason="there is no ab: apache2-utils")
def test_ab(server):
    """A handshake for each request, twenty at a time."""
    port = int(server.stdout.readline())
    code, output, errors = run(
        "ab", "-q", "-f", "TLS1.3", "-n", "300", "-c", "20", f"https://127.0.0.1:{port}/"
    )
    assert code == 0, errors
    figures = dict(line.split(":", 1) for line in output.decode().splitlines() if ":" in line)
    assert figures["SSL/TLS Protocol"].strip().startswith("TLSv1.3,")
    assert figures["Complete requests"].strip() == "300"
    assert figures["Failed requests"].strip() == "0"
    # Others may have begun when the last request was answered.
    assert int(finish(server).split()[0]) >= 300


EXAMPLES = {
    "https_hello.py": ("file", "https_hello.py", "0", CERTIFICATE),
    "uvicorn": (
        # A log of every request would fill the pipe.
        *("-m", "uvicorn", "--loop", "iocpx:new_event_loop", "--port", "0", "--no-access-log"),
        *("--ssl-certfile", CERTIFICATE, "asgi_app:app"),
    ),
}


@pytest.fixture(params=EXAMPLES)
def example(request, start):
    """An example's name and port; at the end it stops in order."""
    program = start(START, "examples", *EXAMPLES[request.param])
    printed = []
    while not (found := PORT.search("".join(printed[-1:]))):
        printed.append(program.stdout.readline())
        assert printed[-1], f"it ended: {printed}"
    yield request.param, found[1]
    output, _ = program.communicate("\n", timeout=WAIT_S)  # Ctrl+C
    assert program.returncode == 0
    assert "Traceback" not in "".join(printed) + output


@pytest.mark.skipif(shutil.which("h2load") is None, reason="there is no h2load: nghttp2-client")
def test_h2load_on_an_example(example):
    """Twenty connections over TLS, each with many requests of HTTP/1.1."""
    _, port = example
    code, output, errors = run(
        *("h2load", "--h1", "-n", "1000", "-c", "20", "-t", "1"), f"https://127.0.0.1:{port}/"
    )
    assert code == 0, errors
    assert b"TLS Protocol: TLSv1.3" in output
    assert b"1000 succeeded, 0 failed, 0 errored, 0 timeout" in output
    assert b"status codes: 1000 2xx, 0 3xx, 0 4xx, 0 5xx" in output


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_curl_on_an_example(example):
    name, port = example
    url = f"https://localhost:{port}/"
    curl = ("curl", "--resolve", f"localhost:{port}:127.0.0.1", "--silent", "--show-error")
    trusting = ("--cacert", CERTIFICATE)
    # Twice on one connection.
    code, output, errors = run(*curl, *trusting, url, url)
    assert code == 0, errors
    if name == "uvicorn":
        assert output.count(b"iocpx._event_loop.EventLoop in process ") == 2
        body = bytes(range(256)) * 4000
        code, output, errors = run(*curl, *trusting, "--data-binary", "@-", url, data=body)
        assert (code, output == body) == (0, True), errors
    else:
        assert output.count(b"Hello from iocpx ") == 2
    # One that does not trust the server costs nobody else anything.
    code, _, _ = run(*curl, "--cacert", "tests/data/other.pem", url)
    assert code == 60
    code, _, errors = run(*curl, *trusting, url)
    assert code == 0, errors
