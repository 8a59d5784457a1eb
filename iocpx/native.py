"""Handlers that run inside the engine and never enter Python.

Give one to `iocpx.Server` in the place of a protocol factory.
"""

__all__ = ["Echo", "Handler"]


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


class Handler(NativeHandler):
    """A handler of another extension module, written in C or Cython with iocpx/engine_api.pxd.

    capsule: a PyCapsule named "iocpx.handler" with its handler_api_t; kept as long as this.
    TypeError, or ValueError for one that was built with another version of the interface.
    """

    def __init__(self, capsule: object) -> None:
        # Not above: the compiled modules import this one.
        from iocpx._engine_api import check_handler

        check_handler(capsule)
        super().__init__(f"Handler({capsule!r})")
        self.capsule = capsule

    def __reduce__(self) -> str:
        raise TypeError("a native Handler cannot be copied or pickled: it is of its process")
