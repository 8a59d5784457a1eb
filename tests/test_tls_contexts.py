"""What a program has set in its SSLContext does what it does with an ssl.SSLSocket: on the threaded
server and on the loop.
"""

import asyncio
import ssl

import pytest
import tls_loops
from protocols import Echoing
from tls_loops import Echo, serving
from tls_peers import TlsClient, client_context, server_context

run = tls_loops.run
told = tls_loops.told

KEY = bytes(range(32))


@pytest.fixture(params=["threaded server", "loop"])
def served(request, serve, run):
    """`served(context, use)` calls `use(address)` while an echo is served with the context."""

    def by_threads(context, use):
        use(serve(Echoing, ssl=context).server.address)

    def by_a_loop(context, use):
        async def main():
            loop = asyncio.get_running_loop()
            async with serving(Echo, ssl=context) as server:
                await loop.run_in_executor(None, use, server.address)
                for protocol in server.protocols:
                    # Not made: its handshake has failed, which it is not told of.
                    if "made" in protocol.told:
                        await protocol.lost()

        run(main)

    return by_threads if request.param == "threaded server" else by_a_loop


@pytest.fixture(params=["1.2", "1.3"])
def version(request):
    return request.param


def test_keys_are_logged(served, version, tmp_path):
    context, log = server_context(version), tmp_path / "keys.txt"
    context.keylog_filename = str(log)

    def use(address):
        with TlsClient(address) as client:
            assert client.exchange([b"hello"]) == b"hello"

    served(context, use)
    names = {line.split()[0] for line in log.read_text().splitlines() if not line.startswith("#")}
    wanted = "CLIENT_RANDOM" if version == "1.2" else "SERVER_TRAFFIC_SECRET_0"
    assert wanted in names


def test_a_session_is_used_again(served, version):
    context, trusting = server_context(version), client_context(version)

    def use(address):
        with TlsClient(address, trusting) as first:
            assert first.exchange([b"one"]) == b"one"
            assert not first.tls.session_reused
            session = first.tls.session
            first.unwrap()
        assert session.has_ticket
        with TlsClient(address, trusting, shake=False) as second:
            second.tls.session = session
            second.handshake()
            assert second.exchange([b"two"]) == b"two"
            assert second.tls.session_reused

    served(context, use)


@pytest.mark.skipif(
    not hasattr(ssl.SSLContext, "set_psk_server_callback"), reason="Python 3.13 and later have it"
)
@pytest.mark.parametrize("key", [KEY, b"another key"], ids=["known", "unknown"])
def test_a_key_that_both_have_takes_the_place_of_a_certificate(served, version, key):
    names = []

    def key_of(identity):
        names.append(identity)
        return KEY

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    for one in (context, client):
        one.minimum_version = one.maximum_version = getattr(
            ssl.TLSVersion, "TLSv" + version.replace(".", "_")
        )
        if version == "1.2":
            one.set_ciphers("PSK")
    context.set_psk_server_callback(key_of)
    client.set_psk_client_callback(lambda hint: ("me", key))

    def use(address):
        if key != KEY:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                TlsClient(address, client)
            return
        with TlsClient(address, client) as peer:
            assert peer.exchange([b"hello"]) == b"hello"

    served(context, use)
    assert names == ["me"]
