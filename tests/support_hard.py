"""What the tests of defects, complaints and hard cases share, beside `support`."""

import asyncio
import ctypes
import os
import re
import select
import socket
import time

from support import WAIT_S, assert_same_bytes

# How often one connection sends one message and waits for its echo, where a test wants to see that
# something does not happen: each round makes the workers look at the port several times.
ROUNDS = 200


class Plain(asyncio.Protocol):
    """A protocol that echoes and that no test keeps: its life is the server's affair alone."""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)


def echo_rounds(client, rounds=ROUNDS, message=b"round"):
    """Send a message and wait for its echo, again and again."""
    for _ in range(rounds):
        client.send(message)
        assert_same_bytes(client.read_exactly(len(message)), message)


def echo_until(client, condition, what):
    """Echo rounds until `condition()` holds; `what` completes the sentence "... did not happen".

    For what no callback tells of. Every look at the condition is one exchange with the server, so
    nothing here depends on how long a look may take.
    """
    limit = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < limit, f"{what} did not happen within {WAIT_S} s"
        echo_rounds(client, 1)


def connect_all(address, count):
    """`count` connections to `address`, asked for before the first of them is waited for.

    Returns blocking sockets.
    """
    socks = []
    for _ in range(count):
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setblocking(False)
        sock.connect_ex(address)
        socks.append(sock)
    for start in range(0, count, 500):
        # Windows lets select() look at 512 sockets.
        waiting = socks[start : start + 500]
        limit = time.monotonic() + WAIT_S
        while waiting:
            left = limit - time.monotonic()
            assert left > 0, f"{len(waiting)} of {count} connects did not end within {WAIT_S} s"
            _, done, failed = select.select([], waiting, waiting, left)
            for sock in failed:
                error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                raise AssertionError(f"a connect failed with {error}")
            waiting = [sock for sock in waiting if sock not in set(done)]
    for sock in socks:
        sock.settimeout(WAIT_S)
    return socks


def handle_count():
    """How many handles this process has open, as the system's list of processes tells it.

    Wine has no answer to GetProcessHandleCount, and in this list it gives the size of the handle
    table, which grows and shrinks in powers of two.
    """
    length_mismatch = 0xC0000004
    nt = ctypes.WinDLL("ntdll")
    size = ctypes.c_ulong(1 << 16)
    while True:
        table = ctypes.create_string_buffer(size.value)
        system_process_information = 5
        status = nt.NtQuerySystemInformation(
            system_process_information, table, len(table), ctypes.byref(size)
        )
        if status & 0xFFFFFFFF != length_mismatch:
            break
        # The list may have grown since it was measured.
        size.value = max(size.value, len(table)) * 2
    assert status == 0, f"NtQuerySystemInformation: {status & 0xFFFFFFFF:#x}"
    # Where the fields lie in a SYSTEM_PROCESS_INFORMATION of 64-bit Windows.
    offset = 0
    while ctypes.c_size_t.from_buffer(table, offset + 0x50).value != os.getpid():
        step = ctypes.c_uint32.from_buffer(table, offset).value
        assert step, "this process is not in the list of processes"
        offset += step
    return ctypes.c_uint32.from_buffer(table, offset + 0x60).value


def descriptor_limit():
    """The hard limit for open files, where Windows' handles are descriptors of another system;
    None where there is no such limit."""
    try:
        with open("/proc/self/limits", encoding="ascii") as limits:
            found = re.search(r"^Max open files +\S+ +(\d+)", limits.read(), re.M)
    except OSError:
        return None
    return int(found[1]) if found else None
