"""A Modbus server with 100 registers, with pymodbus: python pymodbus_server.py [PORT [CERT.pem]]"""

import contextlib
import ssl
import sys

from pymodbus.server import ModbusTcpServer, ModbusTlsServer
from pymodbus.simulator import DataType, SimData, SimDevice

import iocpx


async def main(port: str = "5020", certificate: str | None = None) -> None:
    registers = SimData(address=0, count=100, values=0, datatype=DataType.REGISTERS)
    device = SimDevice(id=1, simdata=[registers])
    address = ("127.0.0.1", int(port))
    if certificate:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(certificate)
        server = ModbusTlsServer(device, address=address, sslctx=tls)
    else:
        server = ModbusTcpServer(device, address=address)
    await server.serve_forever(background=True)
    print("serving on port", port, flush=True)
    await server.serving


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        iocpx.run(main(*sys.argv[1:]))
