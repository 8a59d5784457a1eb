"""The bound sockets of a server: from host and port, or those that the caller made.

Called by `_server` and `_datagram_server`; calls `_names`, `_addresses` and `_errors`.
"""

import socket
from collections.abc import Sequence
from typing import Any

from iocpx._addresses import address_text
from iocpx._errors import os_error
from iocpx._names import look_up

_NAMES: dict[int, str] = {socket.SOCK_STREAM: "TCP", socket.SOCK_DGRAM: "UDP"}


def given_sockets(sock: Any, kind: int = socket.SOCK_STREAM) -> tuple[socket.socket, ...] | None:
    if sock is None:
        return None
    try:
        sockets = (sock,) if isinstance(sock, socket.socket) else tuple(sock)
    except TypeError:
        sockets = (sock,)
    if not sockets or not all(isinstance(item, socket.socket) for item in sockets):
        raise TypeError(f"sock must be a socket.socket or a sequence of them, got {sock!r}")
    for item in sockets:
        if item.type != kind or item.family not in (socket.AF_INET, socket.AF_INET6):
            raise ValueError(f"sock must be a {_NAMES[kind]} socket, got {item!r}")
        try:
            item.getsockname()
        except OSError:
            raise ValueError(f"sock must be a bound socket, got {item!r}") from None
    return sockets


def host_names(host: Any) -> tuple[str | None, ...]:
    if host is None or host == "":
        return (None,)
    if isinstance(host, str):
        return (host,)
    try:
        hosts = tuple(host)
    except TypeError:
        hosts = (host,)
    if not all(isinstance(h, str) for h in hosts):
        raise TypeError(f"host must be None, a str or a sequence of str, got {host!r}")
    if not hosts:
        raise ValueError(
            f"host must be None, a str or a sequence of at least one str, got {host!r}"
        )
    return hosts


# Windows codes of an address that this machine does not have, or of a family that it lacks.
_NOT_HERE = {10043, 10047, 10049}
# A port that somebody else has.  Windows says 10013 where that is exclusively so.
_TAKEN = {10013, 10048}
# How many ports the system may propose until one is free on every address.
PORT_ATTEMPTS = 20


def bind(
    hosts: Sequence[str | None], port: int, kind: int = socket.SOCK_STREAM
) -> tuple[tuple[socket.socket, ...], tuple[OSError, ...]]:
    """Sockets for every address that the hosts stand for (which the engine makes listen, but for
    those of datagrams), and the errors of those that are left out: a name stands for others as
    well, and this machine lacks this one."""
    named = [look_up(host, port, socket.AI_PASSIVE) for host in hosts]
    refused: list[socket.socket] = []
    try:
        for _ in range(PORT_ATTEMPTS - 1):
            try:
                return _bind_all(named, port, kind, refused)
            except OSError as exc:
                # The system chose a port for the first address, which another one cannot have.
                if port != 0 or not refused or exc.winerror not in _TAKEN:
                    raise
        return _bind_all(named, port, kind, refused)
    finally:
        # Open until now, so that the system proposes each port once only.
        for sock in refused:
            sock.close()


def _bind_all(
    named: list[list[tuple[int, Any]]], port: int, kind: int, refused: list[socket.socket]
) -> tuple[tuple[socket.socket, ...], tuple[OSError, ...]]:
    """One port for all addresses.  Where that fails the sockets are added to `refused`."""
    bound: dict[tuple[int, Any], socket.socket] = {}
    skipped: list[OSError] = []
    try:
        for addresses in named:
            failed: list[OSError] = []
            for family, address in addresses:
                if (family, address) in bound:
                    continue  # two names may stand for one address
                if port == 0 and bound:
                    chosen = next(iter(bound.values())).getsockname()[1]
                else:
                    chosen = port
                try:
                    sock = _bind(family, kind, (address[0], chosen, *address[2:]))
                except OSError as exc:
                    failed.append(exc)
                    if exc.winerror not in _NOT_HERE or len(failed) == len(addresses):
                        raise
                    continue
                bound[family, address] = sock
            skipped += failed
    except BaseException:
        refused += bound.values()
        raise
    return tuple(bound.values()), tuple(skipped)


def _bind(family: int, kind: int, address: Any) -> socket.socket:
    try:
        sock = socket.socket(family, kind)
    except OSError as exc:
        raise os_error(exc.winerror, "socket", address_text(address)) from None
    try:
        # Without it any other process could bind the same port and take clients away.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        if family == socket.AF_INET6:
            # Both families on one port: the IPv4 socket has it for IPv4.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
    except OSError as exc:
        sock.close()
        doing = "listen" if kind == socket.SOCK_STREAM else "bind"
        raise os_error(exc.winerror, doing, address_text(address)) from None
    except BaseException:
        sock.close()
        raise
    return sock
