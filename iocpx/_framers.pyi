from typing import Literal, final

class Framer:
    @property
    def max_bytes(self) -> int: ...

@final
class LineFramer(Framer):
    def __init__(self, max_bytes: int, delimiter: bytes = b"\n") -> None: ...
    @property
    def delimiter(self) -> bytes: ...

@final
class LengthPrefixFramer(Framer):
    def __init__(
        self,
        prefix_bytes: Literal[1, 2, 4, 8],
        *,
        max_bytes: int,
        endian: Literal["big", "little"] = "big",
        includes_prefix: bool = False,
    ) -> None: ...
    @property
    def prefix_bytes(self) -> int: ...
    @property
    def endian(self) -> str: ...
    @property
    def includes_prefix(self) -> bool: ...
