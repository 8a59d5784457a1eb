"""The addresses that a host stands for.

Called by `_listening` and `_connecting`; calls nothing of iocpx.
"""

import itertools
import socket
from typing import Any

# A family, and an address as socket.getsockname() shows it.
Address = tuple[int, tuple[Any, ...]]


def literal(host: str, port: int) -> list[Address] | None:
    """Of a host that is an address, which nobody has to be asked for; None: it is a name."""
    families: list[tuple[int, tuple[int, ...]]] = [(socket.AF_INET, ()), (socket.AF_INET6, (0, 0))]
    for family, rest in families:
        try:
            socket.inet_pton(family, host)
        except (OSError, ValueError):
            continue
        return [(family, (host, port, *rest))]
    return None


def look_up(host: str | None, port: int, flags: int = 0) -> list[Address]:
    """All of them, in the system's order; blocks.  socket.gaierror names the host."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    except socket.gaierror as exc:
        raise _name_error(host, exc.errno or 0, exc.strerror) from None
    addresses = dict.fromkeys(
        (int(family), address)
        for family, _, _, _, address in found
        if family in (socket.AF_INET, socket.AF_INET6)
    )
    if not addresses:
        no_data = 11004  # WSANO_DATA
        raise _name_error(host, no_data, "no IPv4 or IPv6 address")
    return list(addresses)


def interleaved(addresses: list[Address]) -> list[Address]:
    """The families in turns, the first one's first: where one of them leads nowhere, the second
    address is of the other.  RFC 8305, section 4."""
    families = dict.fromkeys(family for family, _ in addresses)
    rows = [[item for item in addresses if item[0] == family] for family in families]
    return [item for turn in itertools.zip_longest(*rows) for item in turn if item is not None]


def _name_error(host: str | None, code: int, text: str | None) -> OSError:
    # The last argument becomes .winerror, and from it .errno.
    return socket.gaierror(0, f"{text} (host {host!r})", None, code)
