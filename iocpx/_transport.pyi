from typing import Any

from iocpx._engine_loop import EngineLoop
from iocpx._tls import Tls

class Transport:
    def close(self) -> None: ...
    def _has_tls(self) -> bool: ...
    def _send_file(self, file: Any, offset: int, most: int | None, future: Any) -> Any: ...
    def _cancel_file(self, sent: Any) -> None: ...
    def _start_tls(
        self,
        protocol: Any,
        tls: Tls,
        early: bytes,
        waiter: Any,
        handshake_s: float,
        shutdown_s: float,
    ) -> None: ...

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
