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
