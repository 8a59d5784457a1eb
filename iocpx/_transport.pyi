from typing import Any

from iocpx._engine_loop import EngineLoop

def open_transport(
    loop: EngineLoop,
    endpoint: Any,
    sock: Any,
    protocol: Any,
    waiter: Any,
    extra: Any,
    server: Any,
    joined: bool,
) -> Any: ...
