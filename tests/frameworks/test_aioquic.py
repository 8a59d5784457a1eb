"""aioquic on our loop, server and client, and on a DatagramServer: QUIC is datagrams, both ways and
many of them.
"""

import asyncio
import time

import pytest
from waiting import WAIT_S

import iocpx

# Python 3.14 of the lab has no python3.dll, which its cryptography is linked with.
pytest.importorskip("aioquic.asyncio", exc_type=ImportError)
from aioquic.asyncio import connect, serve
from aioquic.buffer import Buffer
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import ConnectionIdIssued, ConnectionTerminated, StreamDataReceived
from aioquic.quic.packet import pull_quic_header
from conftest import CERTIFICATE


async def echo(reader, writer):
    writer.write(await reader.read())
    writer.write_eof()


def configured(is_client):
    configuration = QuicConfiguration(is_client=is_client, alpn_protocols=["echo"])
    if is_client:
        configuration.server_name = "localhost"
        configuration.load_verify_locations(str(CERTIFICATE))
    else:
        configuration.load_cert_chain(str(CERTIFICATE), str(CERTIFICATE))
    return configuration


async def talk(port, number):
    async with connect("127.0.0.1", port, configuration=configured(True)) as client:
        for size in (0, 5, 300_000):
            reader, writer = await client.create_stream()
            data = bytes([number]) * size
            writer.write(data)
            writer.write_eof()
            assert await reader.read() == data


def talk_together(run, port):
    async def main():
        talks = [talk(port, number) for number in range(3)]
        await asyncio.wait_for(asyncio.gather(*talks), 4 * WAIT_S)

    run(main)


def test_streams_of_several_connections_come_back(run):
    async def main():
        server = await serve(
            "127.0.0.1",
            0,
            configuration=configured(False),
            stream_handler=lambda *ends: asyncio.ensure_future(echo(*ends)),
        )
        port = server._transport.get_extra_info("sockname")[1]
        talks = [talk(port, number) for number in range(3)]
        await asyncio.wait_for(asyncio.gather(*talks), 4 * WAIT_S)
        server.close()

    run(main)


class QuicEcho(asyncio.DatagramProtocol):
    """aioquic's connections, which know no sockets, on the threads of a DatagramServer."""

    def __init__(self):
        self.known = {}  # connections by the ids that a packet may name
        self.streams = {}
        self.timers = {}
        self.terminated = 0

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, addr):
        name = pull_quic_header(Buffer(data=data), host_cid_length=8).destination_cid
        if name not in self.known:
            quic = QuicConnection(
                configuration=configured(False), original_destination_connection_id=name
            )
            self.known[name] = self.known[quic.host_cid] = quic
        quic = self.known[name]
        quic.receive_datagram(data, addr, now=time.monotonic())
        self.go_on(quic)

    def go_on(self, quic):
        while (event := quic.next_event()) is not None:
            if isinstance(event, ConnectionIdIssued):
                self.known[event.connection_id] = quic
            elif isinstance(event, ConnectionTerminated):
                self.terminated += 1
            elif isinstance(event, StreamDataReceived):
                stream = self.streams.setdefault((quic, event.stream_id), bytearray())
                stream += event.data
                if event.end_stream:
                    quic.send_stream_data(event.stream_id, bytes(stream), end_stream=True)
        for data, addr in quic.datagrams_to_send(now=time.monotonic()):
            self.transport.sendto(data, addr)
        if quic in self.timers:
            self.timers.pop(quic).cancel()
        if (when := quic.get_timer()) is not None:
            delay_s = max(when - time.monotonic(), 0)
            self.timers[quic] = self.transport.call_later(delay_s, self.time_is_up, quic)

    def time_is_up(self, quic):
        quic.handle_timer(now=time.monotonic())
        self.go_on(quic)


def test_a_datagram_server_carries_quic(run):
    protocol = QuicEcho()
    with iocpx.DatagramServer(lambda: protocol, "127.0.0.1", 0) as server:
        talk_together(run, server.address[1])
    assert len({id(quic) for quic in protocol.known.values()}) == 3
    assert len(protocol.streams) == 9
