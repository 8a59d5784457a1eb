"""Socket addresses as text, and as Winsock has them.

Called by most rooms above the engine; calls nothing of iocpx.
"""

import socket
from typing import Any


def address_text(address: object) -> str:
    """What socket.getsockname() returns, as 127.0.0.1:80 or [::1]:80; None: a question mark."""
    if address is None:
        return "?"
    host, port = address[:2]  # type: ignore[index]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def sockaddr(address: tuple[Any, ...] | None) -> bytes:
    """What socket.getsockname() returns, as 28 bytes of a sockaddr_in or sockaddr_in6; None, or
    what is neither: zeros."""
    if not isinstance(address, tuple):
        return bytes(28)
    host: str = address[0]
    port: int = address[1]
    family = socket.AF_INET6 if len(address) == 4 else socket.AF_INET
    head = family.to_bytes(2, "little") + port.to_bytes(2, "big")
    if family == socket.AF_INET:
        return (head + socket.inet_pton(family, host)).ljust(28, b"\0")
    flowinfo: int = address[2]
    scope: int = address[3]
    packed = socket.inet_pton(family, host.partition("%")[0])
    return head + flowinfo.to_bytes(4, "big") + packed + scope.to_bytes(4, "little")
