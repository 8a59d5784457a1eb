"""Fixtures of the tests on real sockets.

Nothing here imports iocpx before a test asks for a server: the tests in `host/` share this file and
run where iocpx cannot be imported.
"""

import functools
import gc

import pytest
from script import Script
from served import Served
from tls_peers import TlsClient, client_context, server_context

# Those that no test changes. To make one reads files, which takes longer than a handshake.
server_default = functools.cache(server_context)
client_default = functools.cache(client_context)


@pytest.fixture(autouse=True, scope="module")
def collector_looks_at_the_module_alone():
    """What was there before stays: gc.collect(), which hundreds of tests call three times, would
    take most of their time for it."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def serve():
    """Make servers: `serve(protocol_factory, **parameters)` returns a started `Served`.

    At the end of the test each is stopped and must have balanced books and well-behaved protocols.
    """
    made = []

    def make(protocol_factory, *arguments, **parameters):
        served = Served(protocol_factory, *arguments, **parameters)
        made.append(served)
        return served

    yield make
    errors = []
    for served in made:
        # All of them are stopped, also when the books of the first are wrong.
        try:
            served.finish()
        except Exception as error:
            errors.append(error)
    if errors:
        raise errors[0]


@pytest.fixture
def serve_tls(serve):
    """`serve()` with TLS, whose clients have it as well.

    `context`: the server's. `client`: the clients'.
    """

    def make(protocol_factory, *, context=None, client=None, **parameters):
        served = serve(protocol_factory, ssl=context or server_default(), **parameters)
        trusting = client or client_default()
        served.new_client = lambda address: TlsClient(address, trusting)
        return served

    return make


@pytest.fixture
def start_script():
    """Start Python programs: `start_script(program, *arguments)` returns a `Script`.

    None outlives the test.
    """
    scripts = []

    def start(program, *arguments):
        script = Script(program, *arguments)
        scripts.append(script)
        return script

    yield start
    for script in scripts:
        script.discard()
