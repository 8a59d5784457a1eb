"""Hosts to connect to: some that answer, some that do not, and names that stand for them."""

import contextlib
import socket
import threading

from waiting import WAIT_S, wait_until


@contextlib.contextmanager
def silent_address(host="127.0.0.1"):
    """An address whose listener's backlog is full: who comes next hears nothing for a while."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind((host, 0))
        listener.listen(0)
        # The first get in, the others wait likewise.
        for _ in range(10):
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(listener.getsockname())
        yield listener.getsockname()


@contextlib.contextmanager
def refusing_address(host="127.0.0.1"):
    """An address that nobody listens at, and nobody else can."""
    with socket.socket() as sock:
        sock.bind((host, 0))
        yield sock.getsockname()


class Names:
    """What socket.getaddrinfo() knows in a test: names of addresses, or of what is to be called
    first. A port in an address stands in the place of the one that is asked for."""

    def __init__(self, monkeypatch):
        self._known = {}
        self._real = socket.getaddrinfo
        self.asked = []
        monkeypatch.setattr(socket, "getaddrinfo", self._ask)

    def add(self, name, *addresses, before=None):
        self._known[name] = (before, addresses)

    def _ask(self, host, port, *arguments, **keywords):
        if host not in self._known:
            return self._real(host, port, *arguments, **keywords)
        self.asked.append(threading.current_thread())
        before, addresses = self._known[host]
        if before is not None:
            before()
        return [
            (
                socket.AF_INET6 if len(address) == 4 else socket.AF_INET,
                socket.SOCK_STREAM,
                socket.IPPROTO_TCP,
                "",
                address,
            )
            for address in addresses
        ]


def assert_clients_gone(engine):
    """Wait until an engine has ended, with its clients; its books are even then."""
    stats = {}

    def ended():
        run = engine._run  # None: nothing ever had a thread of it
        if run is not None and any(thread.is_alive() for thread in run.threads):
            return False
        stats.update(engine.stats(), **engine.client_stats())
        # Another one if a connect() that was cancelled has come so far only now: these may be its
        # figures, and it has not ended.
        return engine._run is run

    wait_until(ended, "the end of its threads")
    assert stats["ops_posted"] == stats["ops_completed"], stats
    assert stats["sockets_opened"] == stats["sockets_closed"], stats
    assert stats["connections_made"] == stats["connections_retired"], stats
    assert stats["connects"] == stats["connects_made"] + stats["connects_failed"], stats
    assert stats["connections_now"] == stats["buffers_out"] == 0, stats


def error_of(future):
    """What a future of connect() fails with."""
    error = future.exception(WAIT_S)
    assert error is not None, f"the future has a result: {future.result()}"
    return error
