"""Contexts of both sides, and a TLS client that can be stopped at every byte.

The certificates in data/ are self-signed. Beside localhost.pem, as commands of OpenSSL 3:

    openssl req -x509 -newkey rsa:2048 -nodes -days 36500 -subj /CN=other.test \
        -addext subjectAltName=DNS:other.test -keyout key.pem -out certificate.pem
    cat key.pem certificate.pem > other.pem

    openssl req -new -newkey rsa:2048 -nodes -subj /CN=expired.test -keyout key.pem -out request.pem
    openssl ca -batch -selfsign -notext -config ca.cnf -keyfile key.pem \
        -startdate 20200101000000Z -enddate 20200102000000Z -in request.pem -out certificate.pem
    cat key.pem certificate.pem > expired.pem
"""

import contextlib
import select
import ssl
import threading
import time
from pathlib import Path

from clients import AT_ONCE, Client
from payload import pattern
from waiting import WAIT_S

DATA = Path(__file__).parent / "data"
CERTIFICATE = DATA / "localhost.pem"
OTHER = DATA / "other.pem"
EXPIRED = DATA / "expired.pem"
VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
# What a TLS port gets from those who speak something else.
GARBAGE = {
    "zeros": bytes(1000),
    "ones": b"\xff" * 1000,
    "SSH": b"SSH-2.0-OpenSSH_9.2\r\n",
    "random": pattern(100_000, 5),
    "empty records": b"\x16\x03\x01\x00\x00" * 100,
    "an alert": b"\x15\x03\x01\x00\x02\x02\x28",
    "data before the handshake": b"\x17\x03\x03\x00\x20" + bytes(32),
    "an oversized record": b"\x16\x03\x01\xff\xff" + bytes(66_000),
}


def limit_version(context, version):
    if version is not None:
        context.minimum_version = context.maximum_version = VERSIONS[version]
    return context


def server_context(version=None, certificate=CERTIFICATE, clients=None):
    """A server's context; `clients`: the only client certificate that it takes, and requires."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    if clients is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(clients)
    return limit_version(context, version)


def client_context(version=None, trusted=CERTIFICATE, certificate=None):
    context = ssl.create_default_context(cadata=trusted.read_text())
    if certificate is not None:
        context.load_cert_chain(certificate)
    return limit_version(context, version)


class Truncated(ConnectionError):
    """The stream has ended without close_notify."""


class TlsClient(Client):
    """A blocking TLS client. Thread: one for sending and one for reading at a time.

    The TLS is in memory: a test can have every byte of it, and both threads may be at work where
    an ssl.SSLSocket would be in use by two.
    """

    def __init__(self, address, context=None, name="localhost", sock=None, shake=True):
        if sock is None:
            super().__init__(address)
        else:
            self.sock = sock
        self._begin(context or client_context(), name)
        if shake:
            try:
                self.handshake()
            except BaseException:
                self.sock.close()
                raise

    def _begin(self, context, name):
        self.incoming = ssl.MemoryBIO()
        self.outgoing = ssl.MemoryBIO()
        self.tls = context.wrap_bio(
            self.incoming, self.outgoing, server_side=name is None, server_hostname=name
        )
        self.stream_bytes = 0  # encrypted, that have come
        self._lock = threading.Lock()
        self._sending = threading.Lock()

    def handshake(self):
        while not self.step():
            self.flush()
            self.receive()
        self.flush()

    def step(self):
        """Go on with the handshake as far as what was received allows it; True: it is done."""
        try:
            with self._lock:
                self.tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError:
            self.flush()  # the alert
            raise
        return True

    def hello(self):
        """The ClientHello, for the test to send."""
        assert not self.step()
        return self.outgoing.read()

    def flush(self):
        """Send what TLS has to send."""
        with self._sending:
            if data := self.outgoing.read():
                super().send(data)

    def receive(self, had=0):
        """Wait for more bytes of the stream."""
        data = super()._read(AT_ONCE, had)
        if not data:
            raise Truncated("the server ended the stream without close_notify")
        self.stream_bytes += len(data)
        with self._lock:
            self.incoming.write(data)

    def wait_for_the_end(self):
        """Wait until the server has ended the stream, with whatever comes before that."""
        with contextlib.suppress(ConnectionError):
            while True:
                self.receive()

    def encrypt(self, data):
        """The records of `data`, for the test to send."""
        with self._lock:
            assert self.tls.write(data) == len(data)
        return self.outgoing.read()

    def send_raw(self, data):
        super().send(data)

    def send(self, data):
        view = memoryview(data)
        while len(view) > 0:
            with self._lock:
                written = self.tls.write(view[: 1 << 16])
            view = view[written:]
            self.flush()

    def _read(self, most, had):
        while True:
            try:
                with self._lock:
                    return self.tls.read(most)
            except ssl.SSLZeroReturnError:
                return b""
            except ssl.SSLWantReadError:
                self.receive(had)

    def end(self):
        """Send close_notify."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.unwrap()
        self.flush()

    def unwrap(self):
        """Exchange close_notify with the server."""
        while True:
            try:
                self.tls.unwrap()
            except ssl.SSLWantReadError:
                self.flush()
                self.receive()
            else:
                self.flush()
                return


class TlsPeer(TlsClient):
    """The TLS server of a connection that it has made itself."""

    def __init__(self, sock, context):
        super().__init__(None, context, None, sock)


def shake_all(clients):
    """The handshakes of many clients at once, in whatever order the server takes them."""
    waiting = {}
    for client in clients:
        assert not client.step()
        client.flush()
        waiting[client.sock] = client
    limit = time.monotonic() + 3 * WAIT_S
    while waiting:
        left = limit - time.monotonic()
        assert left > 0, f"{len(waiting)} of {len(clients)} handshakes did not end"
        for sock in select.select(list(waiting), [], [], left)[0]:
            client = waiting[sock]
            client.receive()
            done = client.step()
            client.flush()
            if done:
                del waiting[sock]
