from typing import Any

from iocpx._engine_loop import EngineLoop
from iocpx._tls import Tls

def open_transport(
    loop: EngineLoop,
    endpoint: Any,
    sock: Any,
    protocol: Any,
    waiter: Any,
    extra: Any,
    server: Any,
    joined: bool,
    tls: Tls | None = ...,
    handshake_s: float = ...,
    shutdown_s: float = ...,
) -> Any: ...
