"""A server with its clients, and its books when it has stopped."""

import contextlib
import queue

from clients import Client
from payload import assert_same_bytes, pattern
from protocols import Recorder
from waiting import WAIT_S, all_stats, clock, take, wait_for_figure

# Parameters of the engine; a server that is given some has one of its own.
ENGINE = {"workers", "buffer_size", "max_free_buffers"}


class Served:
    """A started server with its clients, the protocols it made and the errors it reported."""

    # Makes a client of an address; a test may give a server another one.
    new_client = Client

    def __init__(
        self,
        protocol_factory,
        host="127.0.0.1",
        port=0,
        *,
        started=True,
        exception_handler=None,
        **parameters,
    ):
        import iocpx

        self.protocols = []
        self.errors = queue.Queue()
        self._made = queue.Queue()
        self._clients = []
        native = iocpx.native.is_handler(protocol_factory)
        engine = {name: parameters.pop(name) for name in ENGINE & set(parameters)}
        if engine:
            parameters["engine"] = iocpx.Engine(**engine)
        self.server = iocpx.Server(
            protocol_factory if native else self._recorded(protocol_factory),
            host,
            port,
            exception_handler=exception_handler or self.errors.put,
            **parameters,
        )
        if started:
            self.server.start()

    def _recorded(self, protocol_factory):
        # A function and no method: the server must not be kept alive by what it keeps alive itself.
        protocols, made = self.protocols, self._made

        def factory():
            protocol = protocol_factory()
            if issubclass(type(protocol), Recorder):  # a proxy may not like isinstance()
                protocols.append(protocol)
                made.put(protocol)
            return protocol

        return factory

    def connect(self, address=None):
        """A new client of this server."""
        client = self.new_client(address or self.server.address)
        self._clients.append(client)
        return client

    def connect_in_vain(self, ask=b"", address=None):
        """Connect to a server that drops its clients, before or after `ask` was sent.

        Return what still came from it.
        """
        try:
            client = self.connect(address)
        except (ConnectionResetError, ConnectionAbortedError):
            # Dropped already while connect() looked at the result.
            return b""
        client.send_until_refused(ask)
        return client.read_until_gone()

    def silent(self, count):
        """Clients that say nothing, which this server drops after a while: maybe while connect()
        looks at the result, so there may be fewer."""
        clients = []
        for _ in range(count):
            with contextlib.suppress(ConnectionResetError, ConnectionAbortedError):
                clients.append(self.connect())
        return clients

    def speaking(self, accept_timeout_s=1):
        """A client that spoke, and has its echo, before this server took it for a silent one; and
        how many were too late, since this thread was held up."""
        for late in range(20):
            begun = clock()
            got = b""
            with contextlib.suppress(ConnectionError):
                client = self.connect()
                client.send(b"hello")
                got = client.read_until_gone(5)
            if got == b"hello":
                return client, late
            assert clock() - begun >= accept_timeout_s, f"dropped too early, with {got!r}"
        raise AssertionError("this machine is too slow for so short a timeout")

    def open(self, address=None):
        """A new client and the recording protocol made for it, its connection_made done.

        Only for one client at a time: the next protocol made is taken for this client's.
        """
        client = self.connect(address)
        protocol = take(self._made, "the protocol of a new connection")
        protocol.wait_for("connection_made")
        return client, protocol

    def open_to_its_end(self):
        """A client that this server drops by itself soon, gone already, and its protocol.

        Of one that was over before its connection_made could be called nobody is told, and one may
        be over before it is a client: another is made then.
        """
        for _ in range(20):
            retired = self.stats()["connections_retired"]
            client = None
            with contextlib.suppress(ConnectionResetError, ConnectionAbortedError):
                client = self.connect()
                assert client.read_until_gone() == b""
            wait_for_figure(self.server, "connections_retired", retired + 1)
            if not self._made.empty():
                protocol = self._made.get()
                protocol.wait_for("connection_lost")
                if client is not None:
                    return client, protocol
        raise AssertionError("this machine is too slow for so short a timeout")

    def stats(self):
        return all_stats(self.server)

    def take_error(self):
        """The next context that the server gave to its exception handler."""
        return take(self.errors, "a call of the exception handler")

    def assert_serving(self, size=1000):
        """Ask a server that echoes for one more echo, on a new connection."""
        with self.connect() as client:
            data = pattern(size, seed=size)
            assert_same_bytes(client.exchange([data]), data)

    def hang_up(self):
        """Close all clients."""
        for client in self._clients:
            client.close()
        self._clients.clear()

    def finish(self):
        """Stop the server and assert that nothing is left behind."""
        self.hang_up()
        self.server.close()
        assert self.server.wait_closed(2 * WAIT_S) is True, (
            f"the server did not stop within {2 * WAIT_S} s: {self.stats()}"
        )
        assert_balanced(self.server)
        for protocol in self.protocols:
            protocol.check()
        assert self.errors.empty(), f"an error that no test asked for: {self.errors.get()}"


def assert_balanced(server):
    """The ledger of a stopped server, the last on its engine."""
    stats = all_stats(server)
    assert stats["ops_posted"] == stats["ops_completed"], stats
    assert stats["sockets_opened"] == stats["sockets_closed"], stats
    assert stats["files_opened"] == stats["files_closed"], stats
    assert stats["file_ops_begun"] == stats["file_ops_done"], stats
    assert stats["file_handles_opened"] == stats["file_handles_closed"], stats
    assert stats["connections_made"] == stats["connections_retired"], stats
    assert stats["connects"] == stats["connects_made"] + stats["connects_failed"], stats
    assert stats["connections_now"] == stats["connections_outgoing"] == 0, stats
    assert stats["buffers_out"] == 0, stats
    assert server.connection_count == 0
    assert server.sockets == ()
    assert server.is_serving() is False
