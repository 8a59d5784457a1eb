"""Handlers that run inside the engine and never enter Python.

Give one to `iocpx.Server` in the place of a protocol factory.
"""

from iocpx._core import Echo

__all__ = ["Echo"]
