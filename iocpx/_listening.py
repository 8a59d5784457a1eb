"""The listening sockets of a server: from host and port, or those that the caller made."""

import socket
from collections.abc import Sequence
from typing import Any

from iocpx._addresses import address_text
from iocpx._errors import os_error


def given_sockets(sock: Any) -> tuple[socket.socket, ...] | None:
    if sock is None:
        return None
    try:
        sockets = (sock,) if isinstance(sock, socket.socket) else tuple(sock)
    except TypeError:
        sockets = (sock,)
    if not sockets or not all(isinstance(item, socket.socket) for item in sockets):
        raise TypeError(f"sock must be a socket.socket or a sequence of them, got {sock!r}")
    for item in sockets:
        if item.type != socket.SOCK_STREAM or item.family not in (socket.AF_INET, socket.AF_INET6):
            raise ValueError(f"sock must be a TCP socket, got {item!r}")
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


def bind(hosts: Sequence[str | None], port: int) -> tuple[socket.socket, ...]:
    """Sockets for every address that the hosts stand for; the engine makes them listen."""
    addresses = dict.fromkeys(
        (family, address)
        for host in hosts
        for family, _, _, _, address in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        if family in (socket.AF_INET, socket.AF_INET6)
    )
    sockets = []
    try:
        for family, address in addresses:
            try:
                sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
            except OSError:
                if len(addresses) > 1:
                    continue  # this machine lacks the family
                raise
            sockets.append(sock)
            if sockets and port == 0 and len(sockets) > 1:
                # One ephemeral port for all addresses, not one for each.
                address = (address[0], sockets[0].getsockname()[1], *address[2:])
            # Without it any other process could bind the same port and take clients away.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
            if family == socket.AF_INET6:
                # Both families on one port: the IPv4 socket has it for IPv4.
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                sock.bind(address)
            except OSError as exc:
                raise os_error(exc.winerror, "listen", address_text(address)) from None
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return tuple(sockets)
