"""Handlers that run inside the engine and never enter Python.

Give one to `iocpx.Server` in the place of a protocol factory.
"""

__all__ = ["Echo"]


class NativeHandler:
    """A handler inside the engine, given to Server in the place of a factory."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return f"iocpx.native.{self._name}"

    def __reduce__(self) -> str:
        # By name: the engine knows a handler by its identity, and a copy, also one in another
        # process, must be the handler itself.
        return self._name


Echo = NativeHandler("Echo")
