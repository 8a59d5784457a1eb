"""iocpx: servers on a Windows I/O completion port.

Server      a threaded server for any Python program; speaks asyncio's protocol
            and transport interface, with the callbacks on the engine's workers
Engine      its completion port and worker threads, which servers may share
Connection  the transport that a protocol gets in connection_made
DatagramServer  the same for UDP, with its DatagramTransport
TimerHandle what its call_later() and call_soon() return
connect     a connection that we make, with the same interface
open_file   a File, whose reads and writes go through the port
native      handlers that never enter Python
EventLoop   asyncio's loop on the same engine; new_event_loop() and run() make one

From the bottom up: `_winsock` declares the operating system, `_op` is the struct
of one operation, `_state` the portable data structures, `_engine` the completion
port and its workers (no GIL), `_errors` the table of Windows codes, `_engines` the
engine with its threads, `_runtime` one run of a server on it, `_timers`,
`_connection` and `_server` the classes above, `_clients` and `_connecting` the
connections that we make, `_open_file` files, and `_core` the one place that takes the
GIL. Beside it the asyncio loop, loaded when it is asked for: `_handles` is what its
calls return, `_scheduling` what is called when, `_loop` the completion port,
`_loop_files` the loop's own files, and `_event_loop` the public class.
"""

import sys
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if sys.platform != "win32":
    raise ImportError(
        f"iocpx needs Windows (this is {sys.platform}): it is built on I/O completion ports, "
        "which exist nowhere else. Use asyncio here, or uvloop for speed."
    )

# After the check, which says better what is wrong than the missing extension would.
from iocpx import _imports, native  # noqa: F401 - _imports is for freezers
from iocpx._core import (
    Connection,
    DatagramServer,
    DatagramTransport,
    Engine,
    File,
    Server,
    TimerHandle,
    connect,
    open_file,
)

if TYPE_CHECKING:
    from iocpx._event_loop import EventLoop, new_event_loop, run

__all__ = [
    "Connection",
    "DatagramServer",
    "DatagramTransport",
    "Engine",
    "EventLoop",
    "File",
    "Server",
    "TimerHandle",
    "__version__",
    "connect",
    "native",
    "new_event_loop",
    "open_file",
    "run",
]


def __getattr__(name: str) -> Any:
    # What a program does not use that only serves.
    if name in {"EventLoop", "new_event_loop", "run"}:
        from iocpx import _event_loop

        return getattr(_event_loop, name)
    if name in {"EventLoopPolicy", "install"}:
        from iocpx import _policy

        if hasattr(_policy, name):
            return getattr(_policy, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
