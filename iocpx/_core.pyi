import socket
from asyncio import BaseProtocol
from asyncio.trsock import TransportSocket
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future
from os import PathLike
from ssl import SSLContext
from types import TracebackType
from typing import IO, Any, TypeAlias, TypedDict, TypeVar

from typing_extensions import Self, TypeVarTuple, Unpack

from iocpx.native import LengthPrefixFramer, LineFramer, NativeHandler

_Buffer: TypeAlias = bytes | bytearray | memoryview
_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

engine_api: object

class ServerStats(TypedDict):
    accepts: int
    accept_errors: int
    accepts_grown: int
    accepts_shrunk: int
    refused: int
    silent_clients_dropped: int
    receives: int
    zero_byte_receives: int
    bytes_received: int
    sends: int
    bytes_sent: int
    inline_completions: int
    write_pauses: int
    read_pauses: int
    files_opened: int
    files_closed: int
    messages_received: int
    sockets_opened: int
    sockets_closed: int
    connections_made: int
    connections_retired: int
    connections_now: int
    connections_peak: int
    connections_draining: int
    connections_outgoing: int
    connections_free: int
    connection_hits: int
    connection_misses: int
    accepts_pending: int
    aborts_by_reason: dict[str, int]
    accept_errors_by_code: dict[int, int]
    handshakes: int
    active_handshakes: int
    handshakes_waiting: int
    handshake_timeouts: int
    handshake_failures: dict[str, int]
    connects: int
    connects_made: int
    connects_failed: int

class EngineStats(TypedDict):
    packets: int
    waits: int
    empty_waits: int
    gil_acquisitions: int
    takeovers: int
    ops_posted: int
    ops_completed: int
    file_handles_opened: int
    file_handles_closed: int
    file_ops_begun: int
    file_ops_done: int
    buffers_out: int
    buffers_peak: int
    buffers_free: int
    buffer_hits: int
    buffer_misses: int

class TimerHandle:
    def cancel(self) -> None: ...
    def cancelled(self) -> bool: ...

class Connection:
    def write(self, data: _Buffer) -> None: ...
    def writelines(self, list_of_data: Iterable[_Buffer]) -> None: ...
    def sendfile(
        self, file: IO[bytes], offset: int = 0, count: int | None = None
    ) -> Future[int]: ...
    def can_write_eof(self) -> bool: ...
    def wait_writable(self, timeout: float | None = None) -> bool: ...
    def write_eof(self) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...
    def is_closing(self) -> bool: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def is_reading(self) -> bool: ...
    def set_write_buffer_limits(
        self, high: float | None = None, low: float | None = None
    ) -> None: ...
    def get_write_buffer_limits(self) -> tuple[int, int]: ...
    def get_write_buffer_size(self) -> int: ...
    def call_later(
        self, delay_s: float, callback: Callable[[Unpack[_Ts]], object], *args: Unpack[_Ts]
    ) -> TimerHandle: ...
    def call_soon(
        self, callback: Callable[[Unpack[_Ts]], object], *args: Unpack[_Ts]
    ) -> TimerHandle: ...
    def start_tls(
        self,
        context: SSLContext,
        *,
        server_side: bool = True,
        server_hostname: str | None = None,
        received: bytes = b"",
        ssl_handshake_timeout_s: float = 60.0,
        ssl_shutdown_timeout_s: float = 30.0,
    ) -> Future[None]: ...
    def set_framer(self, framer: LineFramer | LengthPrefixFramer | None) -> None: ...
    def write_message(self, data: _Buffer) -> None: ...
    def write_messages(self, messages: Iterable[_Buffer]) -> None: ...
    def get_protocol(self) -> BaseProtocol | None: ...
    def set_protocol(self, protocol: BaseProtocol) -> None: ...
    def get_extra_info(self, name: str, default: Any = None) -> Any: ...

class DatagramStats(TypedDict):
    datagrams_received: int
    bytes_received: int
    datagrams_truncated: int
    receive_errors: int
    datagrams_sent: int
    bytes_sent: int
    send_errors: int
    datagrams_dropped: int
    write_pauses: int
    read_pauses: int
    sockets_opened: int
    sockets_closed: int
    endpoints_made: int
    endpoints_retired: int
    endpoints_now: int
    aborts_by_reason: dict[str, int]

class DatagramTransport:
    def sendto(self, data: _Buffer, addr: Sequence[Any] | None = None) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...
    def is_closing(self) -> bool: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def set_write_buffer_limits(
        self, high: float | None = None, low: float | None = None
    ) -> None: ...
    def get_write_buffer_limits(self) -> tuple[int, int]: ...
    def get_write_buffer_size(self) -> int: ...
    def call_later(
        self, delay_s: float, callback: Callable[[Unpack[_Ts]], object], *args: Unpack[_Ts]
    ) -> TimerHandle: ...
    def call_soon(
        self, callback: Callable[[Unpack[_Ts]], object], *args: Unpack[_Ts]
    ) -> TimerHandle: ...
    def get_protocol(self) -> BaseProtocol | None: ...
    def set_protocol(self, protocol: BaseProtocol) -> None: ...
    def get_extra_info(self, name: str, default: Any = None) -> Any: ...

class Engine:
    def __init__(
        self,
        *,
        workers: int | None = None,
        buffer_size: int = 262144,
        max_free_buffers: int = 200,
        completion_port: int | None = None,
        on_worker_start: Callable[[], object] | None = None,
        on_worker_stop: Callable[[], object] | None = None,
    ) -> None: ...
    @property
    def workers(self) -> int: ...
    def stats(self) -> EngineStats: ...
    def attach(self, sock: socket.socket, protocol: BaseProtocol) -> Connection: ...
    def client_stats(self) -> ServerStats: ...
    def poll(
        self, timeout: float | None = None
    ) -> list[tuple[int, int, int]] | None: ...

# Of a loop's file: an asyncio.Future, which is awaited.
class _FileFuture(Future[_T]):
    def __await__(self) -> Generator[Any, None, _T]: ...

class File:
    @property
    def name(self) -> str | bytes: ...
    @property
    def mode(self) -> str: ...
    @property
    def closed(self) -> bool: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
    async def __aenter__(self) -> Self: ...
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
    def close(self) -> None: ...
    def read(self, nbytes: int, offset: int) -> _FileFuture[bytes]: ...
    def readinto(self, buffer: _Buffer, offset: int) -> _FileFuture[int]: ...
    def write(self, data: _Buffer, offset: int) -> _FileFuture[int]: ...
    def append(self, data: _Buffer) -> _FileFuture[int]: ...
    def size(self) -> int: ...
    def truncate(self, nbytes: int) -> _FileFuture[None]: ...
    def flush(self) -> _FileFuture[None]: ...

def open_file(
    path: str | bytes | PathLike[str] | PathLike[bytes],
    mode: str = "rb",
    *,
    engine: Engine | None = None,
) -> File: ...
def connect(
    protocol_factory: Callable[[], BaseProtocol],
    host: str,
    port: int,
    *,
    timeout_s: float = 60.0,
    local_addr: tuple[str, int] | None = None,
    ssl: SSLContext | bool | None = None,
    server_hostname: str | None = None,
    engine: Engine | None = None,
    server: Server | None = None,
) -> Future[Connection]: ...

class Server:
    def __init__(
        self,
        protocol_factory: Callable[[], BaseProtocol] | NativeHandler,
        host: str | Sequence[str] | None = None,
        port: int = 0,
        *,
        sock: socket.socket | Sequence[socket.socket] | None = None,
        engine: Engine | None = None,
        backlog: int = 512,
        initial_accepts: int = 10,
        max_accepts: int = 100,
        accept_receive: bool = False,
        accept_timeout_s: float = 120.0,
        max_connections: int | None = None,
        initial_reads: int = 1,
        idle_timeout_s: float | None = None,
        max_sends: int | None = None,
        max_write_buffer: int | None = 67108864,
        close_timeout_s: float = 5.0,
        keepalive_idle_s: float | None = 5.0,
        keepalive_interval_s: float = 1.0,
        max_free_connections: int = 100,
        ssl: SSLContext | None = None,
        ssl_handshake_timeout_s: float = 60.0,
        ssl_shutdown_timeout_s: float = 30.0,
        max_handshakes: int = 256,
        exception_handler: Callable[[dict[str, Any]], object] | None = None,
        trace: Callable[[str], object] | None = None,
    ) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
    def start(self) -> None: ...
    def serve_forever(self) -> None: ...
    def close(self) -> None: ...
    def wait_closed(self, timeout: float | None = None) -> bool: ...
    def close_clients(self) -> None: ...
    def abort_clients(self) -> None: ...
    def is_serving(self) -> bool: ...
    @property
    def sockets(self) -> tuple[TransportSocket, ...]: ...
    @property
    def address(self) -> tuple[Any, ...] | None: ...
    @property
    def connections(self) -> list[Connection]: ...
    @property
    def connection_count(self) -> int: ...
    @property
    def engine(self) -> Engine: ...
    def stats(self) -> ServerStats: ...

class DatagramServer:
    def __init__(
        self,
        protocol_factory: Callable[[], BaseProtocol],
        host: str | Sequence[str] | None = None,
        port: int = 0,
        *,
        sock: socket.socket | Sequence[socket.socket] | None = None,
        engine: Engine | None = None,
        receives: int = 16,
        max_datagram_bytes: int = 65535,
        max_write_buffer: int | None = 67108864,
        close_timeout_s: float = 5.0,
        exception_handler: Callable[[dict[str, Any]], object] | None = None,
        trace: Callable[[str], object] | None = None,
    ) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
    def start(self) -> None: ...
    def serve_forever(self) -> None: ...
    def close(self) -> None: ...
    def wait_closed(self, timeout: float | None = None) -> bool: ...
    def is_serving(self) -> bool: ...
    @property
    def address(self) -> tuple[Any, ...] | None: ...
    @property
    def addresses(self) -> tuple[tuple[Any, ...], ...]: ...
    @property
    def transports(self) -> list[DatagramTransport]: ...
    @property
    def engine(self) -> Engine: ...
    def stats(self) -> DatagramStats: ...
