"""One server under test, and one run of the client against it, or of scheduling in it."""

import sys
import time

from . import cpu_time, memory
from .figures import Figures
from .process import Child, Failure

# The first start may unpack or compile something; afterwards half a second is usual.
START_TIMEOUT_S = 60.0
ANSWER_TIMEOUT_S = 15.0
# A client gives up by itself after 10 s without a reply, so this is never the first to act.
CLIENT_GRACE_S = 45.0
# When a connection has been quiet for so long it is idle, and its memory is looked at: servers may
# keep something ready for the next message for a while.
IDLE_S = 3.0


class Server(Child):
    """A server's process: within its `with` it is up, at the end of that it is stopped in order.

    facts: what it said at its start; "missing" among them: its package is not installed.
    """

    def __init__(self, command):
        super().__init__("the server process", command)

    def __enter__(self):
        try:
            self.facts = self.answer(START_TIMEOUT_S)
        except BaseException:
            self.discard()
            raise
        return self

    def __exit__(self, kind, error, traceback):
        # In order only where nothing has gone wrong already.
        try:
            if kind is None:
                self.stop()
        finally:
            self.discard()

    def stop(self):
        self.close_stdin()
        if "missing" not in self.facts:
            totals = self.answer(ANSWER_TIMEOUT_S)["totals"]
            gaps = ledger_gaps(totals)
            if gaps:
                raise Failure(f"the server stopped with something left over: {gaps}")
        self.end(ANSWER_TIMEOUT_S)

    def stats(self):
        self.say("stats")
        return self.answer(ANSWER_TIMEOUT_S)["stats"]

    def cpu(self):
        """What the process has used so far: seconds, and in a coarser unit how they were divided
        between user and system."""
        if sys.platform == "linux":
            try:
                return cpu_time.process_cpu_s(self.pid), *cpu_time.process_ticks(self.pid)
            except OSError:
                raise Failure(self.obituary()) from None
        self.say("cpu")
        used = self.answer(ANSWER_TIMEOUT_S)
        return used["user_s"] + used["system_s"], used["user_s"], used["system_s"]

    def private_bytes(self):
        # In a virtual environment of Windows the child is a launcher, the server is its child.
        pid = self.facts["pid"] if sys.platform == "win32" else self.pid
        try:
            return memory.private_bytes(pid)
        except OSError:
            raise Failure(self.obituary()) from None


def ledger_gaps(totals):
    """What the server's closing totals show as left over, in words; '' when even.

    Servers without such totals have none.
    """
    gaps = []
    for made, ended in (
        ("ops_posted", "ops_completed"),
        ("sockets_opened", "sockets_closed"),
        ("connections_made", "connections_retired"),
        ("file_handles_opened", "file_handles_closed"),
        ("file_ops_begun", "file_ops_done"),
    ):
        if totals.get(made) != totals.get(ended):
            gaps.append(f"{made} {totals.get(made)}, {ended} {totals.get(ended)}")
    if totals.get("buffers_out"):
        gaps.append(f"buffers_out {totals['buffers_out']}")
    return "; ".join(gaps)


def os_calls(name, before, after):
    """How often the server has called the operating system meanwhile; None: it does not count."""
    if not after:
        return None
    counters = ["waits", "ops_posted"]
    if name.startswith("iocpx"):
        counters.append("empty_waits")  # the ceiling's waits are all of its looks at the port
    return sum(after[counter] - before[counter] for counter in counters)


def measure(name, server, workload, seconds, client_cpus, helper):
    """One run of the client against a server that is up: its Figures.

    name: the server's, which says how it counts. client_cpus: a context in which the client is
    started. helper: the pid of a process that works for the server, or None.
    """
    timed_s = seconds * workload.times
    command = [
        *(sys.executable, "-m", f"{__package__}.client"),
        *("--port", str(server.facts["port"])),
        *("--kind", workload.kind),
        *("--connections", str(workload.connections)),
        *("--size", str(workload.size_bytes)),
        *("--depth", str(workload.depth)),
        *("--idle", str(workload.idle)),
        *(("--tls",) if workload.tls else ()),
        *("--seconds", str(timed_s)),
        *("--warmup", str(min(0.1, seconds))),
    ]
    idle_bytes = None
    if workload.idle:
        bytes_before = server.private_bytes()
    with client_cpus:
        client = Child("the client process", command)
    own = [pid for pid in (server.pid, client.pid, helper) if pid]

    def client_answer():
        return answer_of(client, server, timed_s + CLIENT_GRACE_S)

    try:
        if workload.idle:
            client_answer()
            time.sleep(IDLE_S)
            idle_bytes = (server.private_bytes() - bytes_before) / workload.idle
            client.say("idle ones are counted")
        client_answer()
        stats_before, cpu_before = server.stats(), server.cpu()
        others_before_s, began = cpu_time.others_s(own), time.monotonic()
        client.say("go")
        result = client_answer()
        elapsed_s = time.monotonic() - began
        others_s = cpu_time.others_s(own) - others_before_s
        cpu, stats = server.cpu(), server.stats()
        client.say("end")
        client_answer()
        client.end(ANSWER_TIMEOUT_S)
    finally:
        client.discard()
    messages = result["messages"]
    cpu_s, user, system = (after - before for before, after in zip(cpu_before, cpu))
    cpu_us = cpu_us_per(messages, cpu_s, timed_s)
    user_us = cpu_us * user / ((user + system) or 1)
    calls = os_calls(name, stats_before, stats)
    in_mb = workload.unit == "MB/s"
    return Figures(
        rate=result["rate"],
        mb_per_s=result["rate"] * (1 if in_mb else workload.size_bytes / 1e6),
        p50_us=result.get("p50_us"),
        p99_us=result.get("p99_us"),
        p999_us=result.get("p999_us"),
        fairness=result.get("fairness"),
        cpu_us=cpu_us,
        user_us=user_us,
        system_us=cpu_us - user_us,
        calls=None if calls is None else calls / messages,
        idle_bytes=idle_bytes,
        client_busy=result["client_busy"],
        others_busy=others_s / elapsed_s,
    )


def schedule(server, workload, seconds, helper):
    """What a process that is up does by itself, scheduling or reads of a file: its Figures.

    helper: as for `measure`.
    """
    own = [pid for pid in (server.pid, helper) if pid]
    cpu_before, others_before_s, began = server.cpu(), cpu_time.others_s(own), time.monotonic()
    server.say(f"run {workload.task} {seconds}")
    result = server.answer(seconds + CLIENT_GRACE_S)
    elapsed_s = time.monotonic() - began
    others_s = cpu_time.others_s(own) - others_before_s
    cpu_s, user, system = (after - before for before, after in zip(cpu_before, server.cpu()))
    cpu_us = cpu_us_per(result["operations"], cpu_s, seconds)
    user_us = cpu_us * user / ((user + system) or 1)
    return Figures(
        rate=result["rate"],
        cpu_us=cpu_us,
        user_us=user_us,
        system_us=cpu_us - user_us,
        others_busy=others_s / elapsed_s,
    )


def cpu_us_per(count, cpu_s, seconds):
    """Of the CPU time of a phase, each one's of what was done in it."""
    if count == 0:
        raise Failure(f"nothing was done in the {seconds:g} s measured: --seconds must be more")
    return cpu_s * 1e6 / count


def answer_of(client, server, timeout_s):
    """The client's next answer; Failure, with what the server has to say, when it is a bad one."""
    answer = client.answer(timeout_s)
    if "wrong" in answer:
        raise Failure(f"WRONG REPLY: {answer['wrong']}")
    if "failed" in answer:
        if server.has_ended():
            raise Failure(server.obituary())
        raise Failure(f"{answer['failed']}{server.last_words()}")
    return answer
