"""Positions of players on threads, by UDP: python udp_positions.py [PORT]

A player sends where it is, as often as it likes. Twenty times in a second everybody who was heard
of within the last five seconds is sent where all others are now: a line NAME POSITION for each.
Ctrl+C stops it in order.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

import iocpx

TICK_S = 0.05
GONE_S = 5.0
# More than that would be cut into several packets on its way.
MOST_BYTES = 1200


class World(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        # By address: when it was last heard of, and what it has said.
        self.players: dict[Any, tuple[float, bytes]] = {}

    def connection_made(self, transport: iocpx.DatagramTransport) -> None:
        self.transport = transport
        self.tick()

    def datagrams_received(self, datagrams: list[tuple[bytes, Any]]) -> None:
        now = time.monotonic()
        for data, addr in datagrams:
            if len(data) < 100:
                self.players[addr] = now, data

    def tick(self) -> None:
        # In the turn of the endpoint, as its callbacks are, so nothing has to be locked.
        self.transport.call_later(TICK_S, self.tick)
        heard_since = time.monotonic() - GONE_S
        for addr, (heard, _) in list(self.players.items()):
            if heard < heard_since:
                del self.players[addr]
        for addr in self.players:
            others = [line for other, (_, line) in self.players.items() if other != addr]
            for packet in packets(others):
                self.transport.sendto(packet, addr)


def packets(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Of whole lines, as many in each as may be."""
    packet: list[bytes] = []
    size = 0
    for line in lines:
        if packet and size + len(line) > MOST_BYTES:
            yield b"\n".join(packet)
            packet, size = [], 0
        packet.append(line)
        size += len(line) + 1
    if packet:
        yield b"\n".join(packet)


def main(port: str = "8000") -> None:
    server = iocpx.DatagramServer(World, "127.0.0.1", int(port), max_datagram_bytes=1500)
    server.start()
    assert server.address is not None
    print("serving on port", server.address[1], flush=True)
    server.serve_forever()  # until Ctrl+C, which stops it in order


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main(*sys.argv[1:])
