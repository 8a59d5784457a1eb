"""Socket addresses as text."""


def address_text(address: object) -> str:
    """What socket.getsockname() returns, as 127.0.0.1:80 or [::1]:80; None: a question mark."""
    if address is None:
        return "?"
    host, port = address[:2]  # type: ignore[index]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
