"""What is measured: the workloads by their names."""

import sys
from dataclasses import dataclass, replace

from . import scheduling
from .sockets import SELECT_LIMIT

PINNED, FREE = "pinned", "free"
BOTH = (PINNED, FREE)
# Descriptors that 10,000 connections take, of the client and of Wine's server.
DESCRIPTORS = 20_000


@dataclass(frozen=True)
class Workload:
    connections: int
    size_bytes: int
    depth: int = 1
    kind: str = "echo"  # of the client's load
    role: str = "echo"  # of the server
    idle: int = 0  # connections beside, which have echoed one message each
    workers: int | None = None  # of iocpx and the ceiling, where it is the point
    arrangements: tuple = BOTH  # in which it tells something
    once: bool = False  # in the first arrangement only, where it tells all that it can
    unit: str = "msg/s"
    times: int = 1  # so many times as long as others, for each connection to have its share
    row: str | None = None  # of scheduling
    tls: bool = False

    @property
    def task(self):
        """What the server does by itself, where nobody connects; None: there is a client."""
        if self.kind == "reads":
            return f"{self.size_bytes} {self.depth}"
        return self.row

    def __str__(self):
        if self.row:
            return scheduling.ROWS[self.row].title
        busy = f"{self.connections:,} connection{'' if self.connections == 1 else 's'}"
        kib, rest = divmod(self.size_bytes, 1024)
        size = f"{self.size_bytes} B" if rest else f"{kib:,} KiB"
        if self.kind == "reads":
            return f"random reads of a cached file, {size}, {self.depth} under way"
        if self.kind == "churn":
            shake = "TLS handshake, " if self.tls else ""
            return f"connect, {shake}echo {size}, close: {self.connections} at a time"
        if self.kind in ("in", "out"):
            way = "to" if self.kind == "in" else "from"
            over = " over TLS" if self.tls else ""
            return f"streaming{over} {way} the server, {busy}, {size} writes"
        if self.kind == "hello":
            return f"HTTP by a handler in C, {busy}, answers of {size}"
        if self.kind in ("get", "post"):
            way = "answers" if self.kind == "get" else "bodies to it"
            over = " over TLS" if self.tls else ""
            return f"{self.role.removesuffix('-tls')}{over}, {busy}, {way} of {size}"
        text = f"{busy}, {size}, depth {self.depth}"
        if self.tls and not self.idle:
            text = f"TLS, {text}"
        if self.role == "streams":
            text = f"asyncio's streams, {text}"
        if self.idle:
            over = " over TLS" if self.tls else ""
            text = f"{self.idle:,} idle connections and {text}{over}"
        if self.role == "compute":
            text += f", computing, {self.workers} worker{'' if self.workers == 1 else 's'}"
        return text


IDLE = Workload(50, 64, idle=2000, once=True)
LARGE_BYTES = 1 << 20
# So a message is a MiB.
SENDFILE = Workload(
    8, LARGE_BYTES, kind="get", role="sendfile", once=True, unit="MiB/s", times=5
)
STREAM_OUT = Workload(8, 65536, kind="out", role="source", once=True, unit="MB/s")
OVER_TLS = {
    "echo-tls-64": Workload(50, 64, role="echo-tls", tls=True, once=True),
    "echo-tls-1k": Workload(50, 1024, role="echo-tls", tls=True, once=True),
    "churn-tls": Workload(
        50, 64, kind="churn", role="echo-tls", tls=True, once=True, unit="handshakes/s"
    ),
    "stream-tls": replace(STREAM_OUT, role="source-tls", tls=True),
    "idle-tls": replace(IDLE, role="echo-tls", tls=True),
}
FILES = {
    "read-4k": Workload(0, 4096, 16, kind="reads", role="files", once=True, unit="reads/s"),
    "read-64k": Workload(0, 65536, 16, kind="reads", role="files", once=True, unit="reads/s"),
}
WORKLOADS = {
    "echo-64": Workload(50, 64),
    "echo-1k": Workload(50, 1024, once=True),
    "echo-4k": Workload(50, 4096, once=True),
    "echo-64k": Workload(50, 65536, once=True),
    "depth-16": Workload(50, 64, 16),
    "one": Workload(1, 64),
    "thousand": Workload(1000, 64, once=True, times=5),
    "churn": Workload(50, 64, kind="churn", once=True, unit="connects/s"),
    **OVER_TLS,
    "stream-in": Workload(8, 65536, kind="in", role="sink", once=True, unit="MB/s"),
    "stream-out": STREAM_OUT,
    "sendfile": SENDFILE,
    "http": Workload(50, 13, kind="hello", role="http", once=True, unit="requests/s"),
    "idle-2k": IDLE,
    "idle-10k": replace(IDLE, idle=10_000),
    **FILES,
    "compute-1": Workload(50, 64, role="compute", workers=1, arrangements=(FREE,), times=5),
    "compute-2": Workload(50, 64, role="compute", workers=2, arrangements=(FREE,), times=5),
}
QUICK = ("echo-64", "depth-16", "churn", "stream-out")
# For these the servers' Python must have no GIL.
FREE_THREADED = ("compute-1", "compute-2")


HTTP = {"unit": "requests/s"}
# Of event loops, by --loops.
SCHEDULING = {
    name: Workload(0, 0, role="scheduling", once=True, unit="op/s", row=name)
    for name in scheduling.ROWS
}
LOOP_WORKLOADS = {
    **SCHEDULING,
    "echo-64": WORKLOADS["echo-64"],
    "echo-1k": WORKLOADS["echo-1k"],
    "streams-64": Workload(50, 64, role="streams"),
    "echo-1m": Workload(8, LARGE_BYTES, once=True),
    "churn": WORKLOADS["churn"],
    **OVER_TLS,
    "idle-2k": IDLE,
    **FILES,
    "uvicorn": Workload(50, 13, kind="get", role="uvicorn", **HTTP),
    "uvicorn-tls": Workload(50, 13, kind="get", role="uvicorn-tls", tls=True, once=True, **HTTP),
    "uvicorn-in": Workload(8, LARGE_BYTES, kind="post", role="uvicorn", once=True, **HTTP),
    "uvicorn-out": Workload(8, LARGE_BYTES, kind="get", role="uvicorn", once=True, **HTTP),
    "aiohttp": Workload(50, 13, kind="get", role="aiohttp", **HTTP),
    "aiohttp-in": Workload(8, LARGE_BYTES, kind="post", role="aiohttp", once=True, **HTTP),
    "aiohttp-out": Workload(8, LARGE_BYTES, kind="get", role="aiohttp", once=True, **HTTP),
    "sendfile": SENDFILE,
}
LOOP_QUICK = (*SCHEDULING, "echo-64", "uvicorn")
# One name for several.
GROUPS = {"scheduling": tuple(SCHEDULING)}


def possible():
    """The workloads as this system can run them, and what had to be changed, as sentences."""
    found, changes = dict(WORKLOADS), []
    if sys.platform == "win32":
        found["thousand"] = replace(found["thousand"], connections=SELECT_LIMIT)
        changes.append(
            f"thousand: with {SELECT_LIMIT} connections only, all that select() takes on Windows"
        )
    else:
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if hard != resource.RLIM_INFINITY and hard < DESCRIPTORS:
            del found["idle-10k"]
            changes.append(
                f"idle-10k: left out, as a process may have {hard} descriptors here and "
                f"{DESCRIPTORS:,} are needed"
            )
    return found, changes
