from collections.abc import Callable, Iterable
from typing import Any

from iocpx._engine_loop import EngineLoop
from iocpx._tls import Tls
from iocpx.native import LengthPrefixFramer, LineFramer

class Transport:
    def close(self) -> None: ...
    def set_framer(self, framer: LineFramer | LengthPrefixFramer | None) -> None: ...
    def write_message(self, data: bytes | bytearray | memoryview) -> None: ...
    def write_messages(self, messages: Iterable[bytes | bytearray | memoryview]) -> None: ...
    def _has_tls(self) -> bool: ...
    def _send_file(self, file: Any, offset: int, most: int | None, future: Any) -> Any: ...
    def _cancel_file(self, sent: Any) -> None: ...
    def _start_tls(
        self,
        protocol: Any,
        tls: Tls,
        take_early: Callable[[], bytes],
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
