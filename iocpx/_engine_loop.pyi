from typing import Any

from iocpx._loop import LoopCore

class EngineLoop(LoopCore):
    def _endpoint(
        self,
        factory: Any,
        server: Any,
        sslcontext: Any,
        handshake_s: float,
        shutdown_s: float,
        backlog: int,
    ) -> Any: ...
    def _clients(self) -> Any: ...
    def _datagrams(self) -> Any: ...
    def _end_engine(self) -> None: ...
