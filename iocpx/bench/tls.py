"""TLS of the benchmark: a certificate of its own, for both sides, and nothing older than TLS 1.3.

localhost.pem is self-signed, with its key (ECDSA P-256, as many sites have), and is good for
nothing but this.
"""

import ssl
from pathlib import Path

from .sockets import Failed

CERTIFICATE = Path(__file__).with_name("localhost.pem")
NAME = "localhost"
# The most that one record has: who receives less may have a rest that no poller tells of.
RECORD_BYTES = 16384


def server_context():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(CERTIFICATE)
    return context


def client_context():
    """Each connection has a whole handshake: no session is taken up again."""
    context = ssl.create_default_context(cafile=CERTIFICATE)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def secure(context, sock, index):
    """The connected socket with TLS, after the handshake."""
    try:
        return context.wrap_socket(sock, server_hostname=NAME)
    except OSError as error:
        raise Failed(f"connection {index}: TLS handshake: {error}") from None


def end(sock):
    """The socket, which blocks, without TLS: ours has ended, and so has the peer's."""
    return sock.unwrap()
