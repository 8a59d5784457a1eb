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

The modules from the bottom up. The head of each says what it is for, who calls it and what it
calls, but for what all stand on (`_types`, `_state`, `_op`, `_winsock`), and above the engine for
errors, addresses, checks (`_errors`, `_addresses`, `_arguments`), references, counters and the
clock (`_sched`, `_base`):

_winsock             the operating system, declared
_op                  the struct of one operation
_state, _frames      portable data structures; where a message ends
_types … _c_handler  the engine, without the GIL: `_engine` has the map of its rooms
engine_api           its interface for handlers in C
_errors, _addresses, _arguments, _names, _threads, _aside, _protocols, _buffers
                     codes to exceptions; addresses; checks; look-ups; threads beside the engine's;
                     what blocks; what a protocol is; bytes objects
_engines             Engine: a completion port with its threads
_engine_api, _framers, native
                     handlers in C, framers, and how both are shown
_runtime             one run of a server on an engine
_tls, _tls_layer     TLS from bytes to bytes, and in a connection's turn
_messages            what a framer makes of a stream
_file_layer          files that are sent
_timers, _connection Connection
_serving, _listening, _server
                     Server
_peers, _datagram_layer, _datagram_server
                     DatagramServer
_clients, _connecting
                     connections that we make: connect(), Engine.attach()
_open_file           files that are read and written
_core                the one place that takes the GIL, and all of this as the package shows it

Beside it the asyncio loop, loaded when it is asked for:

_handles, _scheduling
                     what its calls return; what is called when
_socket_polls, _loop its completion port, and readiness of sockets there
_endpoint, _engine_loop
                     a service of it, and its engine
_transport, _transport_socket, _transports
                     its TCP connections
_datagram_transport  its datagram endpoints
_loop_files          its files
_tcp_loop, _socket_loop, _event_loop, _policy
                     what asyncio asks it for, and the public class

`_imports` names modules for freezers; `__main__` and `bench` are the command line.
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
