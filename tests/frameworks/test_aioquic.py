"""aioquic on our loop, server and client: QUIC is datagrams, both ways and many of them."""

import asyncio

import pytest
from waiting import WAIT_S

pytest.importorskip("aioquic")
from aioquic.asyncio import connect, serve
from aioquic.quic.configuration import QuicConfiguration
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


def test_streams_of_several_connections_come_back(run):
    async def main():
        server = await serve(
            "127.0.0.1",
            0,
            configuration=configured(False),
            stream_handler=lambda *ends: asyncio.ensure_future(echo(*ends)),
        )
        port = server._transport.get_extra_info("sockname")[1]

        async def talk(number):
            async with connect("127.0.0.1", port, configuration=configured(True)) as client:
                for size in (0, 5, 300_000):
                    reader, writer = await client.create_stream()
                    data = bytes([number]) * size
                    writer.write(data)
                    writer.write_eof()
                    assert await reader.read() == data

        await asyncio.wait_for(asyncio.gather(*map(talk, range(3))), 4 * WAIT_S)
        server.close()

    run(main)
