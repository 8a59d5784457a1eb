"""For programs that set asyncio's policy: `EventLoopPolicy` and `install()`.

Loaded when one of them is asked for, since asyncio deprecates policies from Python 3.14 on and has
none any more in 3.16; then there is neither of them here.

Called by the program, to which the package shows it; calls `_event_loop`.
"""

import asyncio
import sys
import warnings
from asyncio import events
from typing import Any

from iocpx._event_loop import EventLoop, new_event_loop

_Base: Any = getattr(events, "_BaseDefaultEventLoopPolicy", None) or getattr(
    events, "BaseDefaultEventLoopPolicy", None
)

if _Base is not None:

    class EventLoopPolicy(_Base):  # type: ignore[misc, valid-type, unused-ignore]
        """A policy of asyncio's whose loops are iocpx's."""

        def _loop_factory(self) -> EventLoop:
            return new_event_loop()

    def install() -> None:
        """Have asyncio make iocpx's loops from now on: set its policy.  Prefer iocpx.run()."""
        if sys.version_info >= (3, 12):
            warnings.warn(
                "iocpx.install() is deprecated from Python 3.12 on: use iocpx.run()",
                DeprecationWarning,
                stacklevel=2,
            )
        with warnings.catch_warnings():
            # That of set_event_loop_policy(), which says the same.
            warnings.simplefilter("ignore", DeprecationWarning)
            asyncio.set_event_loop_policy(EventLoopPolicy())
