from collections.abc import Callable
from typing import Any

class LoopCore:
    _debug: bool
    _closed: bool
    _stopping: bool
    _thread_id: int | None
    _own_operations: int

    def _attach(self, proactor: Any) -> None: ...
    def _look(self, timeout: float | None) -> None: ...
    def _run_until_stopped(self) -> None: ...
    def _watch(
        self,
        writing: bool,
        fd: int,
        fileobj: Any,
        callback: Callable[..., object],
        args: tuple[Any, ...],
    ) -> None: ...
    def _unwatch(self, writing: bool, fd: int) -> bool: ...
    def _watched(self, writing: bool, fileobj: Any) -> int | None: ...
    def _end_polls(self) -> None: ...
