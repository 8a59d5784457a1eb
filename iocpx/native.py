"""What runs inside the engine without entering Python: handlers and framers.

Echo, Discard       handlers: give one to `iocpx.Server` in the place of a protocol factory
LineFramer, LengthPrefixFramer
                    give one to set_framer() of a connection, and its protocol gets whole messages
Handler             a handler of another module, written in C

Called by the program, and by `_server`, `_runtime` and `_connecting`, which ask what they have been
given; calls `_engine_api`, which checks a handler of another module, and shows `_framers`.
"""

from iocpx._engine_api import check_handler
from iocpx._framers import LengthPrefixFramer, LineFramer

__all__ = ["Discard", "Echo", "Handler", "LengthPrefixFramer", "LineFramer"]


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


# As a protocol_factory of iocpx.Server they are in the place of a protocol, and Python is never
# called.  Sends back what comes.
Echo = NativeHandler("Echo")
# Throws away what comes, and sends nothing.
Discard = NativeHandler("Discard")

HANDLERS = {"Echo": Echo, "Discard": Discard}


class Handler(NativeHandler):
    """A handler of another extension module, written in C or Cython with iocpx/engine_api.pxd; it
    serves in the place of a protocol_factory, and its functions are called on the workers.

    capsule: a PyCapsule named "iocpx.handler" with its handler_api_t; kept as long as this.
    TypeError, or ValueError for one that was built with another version of the interface.  A server
    with ssl= or trace= takes none: ValueError.
    """

    def __init__(self, capsule: object) -> None:
        check_handler(capsule)
        super().__init__(f"Handler({capsule!r})")
        self.capsule = capsule

    def __reduce__(self) -> str:
        raise TypeError("a native Handler cannot be copied or pickled: it is of its process")


def is_handler(factory: object) -> bool:
    """Is it one of these, and no factory?"""
    # By identity: a factory may say of itself that it is equal to anything.
    return type(factory) is Handler or any(factory is handler for handler in HANDLERS.values())
