from typing import Any

from iocpx._engine_loop import EngineLoop

def open_datagrams(
    loop: EngineLoop,
    endpoint: Any,
    sock: Any,
    protocol: Any,
    address: Any,
    waiter: Any,
    extra: Any,
    joined: bool,
) -> Any: ...
