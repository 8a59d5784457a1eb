"""The programs of examples/ and clients for them.

Each test is of one framework, and is left out where that is not installed: `dev.py frameworks` has
them all (lab/requirements-frameworks.txt).
"""

import ssl
from pathlib import Path

import pytest
from programs import EXAMPLES, START, Program

import iocpx

CERTIFICATE = Path(__file__).parents[1] / "data" / "localhost.pem"


@pytest.fixture
def start(start_script):
    """`start("NAME.py", *arguments)` and `start("-m", MODULE, *arguments)` return a `Program`."""

    def starter(name, *arguments):
        kind = () if name == "-m" else ("file",)
        return Program(start_script(START, str(EXAMPLES), *kind, name, *map(str, arguments)))

    return starter


@pytest.fixture
def trusting():
    """A client's TLS, which trusts the certificate of the tests."""
    return ssl.create_default_context(cafile=CERTIFICATE)


@pytest.fixture(params=["plain", "TLS"])
def tls(request, trusting):
    """None, and in another test the client's TLS."""
    return trusting if request.param == "TLS" else None


@pytest.fixture
def certificate(tls):
    """What a program that serves with or without TLS takes for it: its last argument, or none."""
    return [CERTIFICATE] if tls else []


@pytest.fixture
def run():
    """`run(main)` runs the coroutine function, a client, on a new loop of ours."""
    return lambda main: iocpx.run(main())
