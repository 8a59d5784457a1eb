"""grpclib on our loop, server and client."""

import pytest
from sockets import free_port

pytest.importorskip("grpclib")
wrappers = pytest.importorskip("google.protobuf.wrappers_pb2")
from grpclib.client import Channel, StreamStreamMethod  # noqa: E402 - see above


def test_messages_are_answered(start, tls, certificate, run):
    program = start("grpclib_greeter.py", free_port(), *certificate)
    port = program.read_port()
    if tls:
        tls.set_alpn_protocols(["h2"])
    text = wrappers.StringValue

    async def main():
        async with Channel("127.0.0.1", port, ssl=tls) as channel:
            greet = StreamStreamMethod(channel, "/Greeter/Greet", text, text)
            async with greet.open() as stream:
                # The last one is larger than HTTP/2's window.
                for name in ("Ada", "", "x" * 300_000):
                    await stream.send_message(text(value=name))
                    assert (await stream.recv_message()).value == f"hello, {name}"
                await stream.end()
                assert await stream.recv_message() is None

    run(main)
    program.interrupt()
