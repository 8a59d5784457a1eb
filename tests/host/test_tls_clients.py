"""The server's TLS on the default lane, and the examples that have it, with clients that are not
Python's: openssl and curl.
"""

import shutil
import subprocess
from pathlib import Path

import pytest
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
    assert "UNKNOWN_CA" in figures and "'HTTP_REQUEST': 1" in figures


EXAMPLES = {
    "https_hello.py": ("file", "https_hello.py", "0", CERTIFICATE),
    "uvicorn": (
        *("-m", "uvicorn", "--loop", "iocpx:new_event_loop", "--port", "0"),
        *("--ssl-certfile", CERTIFICATE, "asgi_app:app"),
    ),
}


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
@pytest.mark.parametrize("name", EXAMPLES)
def test_curl_on_an_example(start, name):
    program = start(START, "examples", *EXAMPLES[name])
    printed = []
    while not (found := PORT.search("".join(printed[-1:]))):
        printed.append(program.stdout.readline())
        assert printed[-1], f"it ended: {printed}"
    url = f"https://localhost:{found[1]}/"
    curl = ("curl", "--resolve", f"localhost:{found[1]}:127.0.0.1", "--silent", "--show-error")
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
    output, _ = program.communicate("\n", timeout=WAIT_S)  # Ctrl+C
    assert program.returncode == 0
    assert "Traceback" not in "".join(printed) + output
