"""A gRPC service with grpclib: python grpclib_greeter.py [PORT [CERTIFICATE.pem]]

Its one method takes and returns a StringValue, which protobuf has: nothing is to be compiled.
"""

import contextlib
import ssl
import sys

from google.protobuf.wrappers_pb2 import StringValue
from grpclib.const import Cardinality, Handler
from grpclib.server import Server, Stream

import iocpx


class Greeter:
    """What protoc makes of a .proto file is a base class with such a __mapping__."""

    async def greet(self, stream: Stream[StringValue, StringValue]) -> None:
        async for name in stream:
            await stream.send_message(StringValue(value=f"hello, {name.value}"))

    def __mapping__(self) -> dict[str, Handler]:
        kinds = (Cardinality.STREAM_STREAM, StringValue, StringValue)
        return {"/Greeter/Greet": Handler(self.greet, *kinds)}


async def main(port: str = "50051", certificate: str | None = None) -> None:
    tls = None
    if certificate:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(certificate)
        tls.set_alpn_protocols(["h2"])
    server = Server([Greeter()])
    await server.start("127.0.0.1", int(port), ssl=tls)
    print("serving on port", port, flush=True)
    try:
        await server.wait_closed()
    finally:
        server.close()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        iocpx.run(main(*sys.argv[1:]))
