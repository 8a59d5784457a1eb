"""pymodbus on our loop, server and client, and its client without a loop."""

import pytest
from sockets import free_port
from waiting import WAIT_S

pytest.importorskip("pymodbus")
from pymodbus import client


def options(port, tls):
    return {"port": port, "timeout": WAIT_S, **({"sslctx": tls} if tls else {})}


def test_registers_from_a_client_on_our_loop(start, tls, certificate, run):
    program = start("pymodbus_server.py", free_port(), *certificate)
    port = program.read_port()

    async def main():
        kind = client.AsyncModbusTlsClient if tls else client.AsyncModbusTcpClient
        modbus = kind("127.0.0.1", **options(port, tls))
        assert await modbus.connect()
        await modbus.write_registers(10, [1, 2, 3], device_id=1)
        answer = await modbus.read_holding_registers(9, count=5, device_id=1)
        assert answer.registers == [0, 1, 2, 3, 0]
        modbus.close()

    run(main)
    program.interrupt()


def test_registers_from_a_client_without_a_loop(start, tls, certificate):
    program = start("pymodbus_server.py", free_port(), *certificate)
    kind = client.ModbusTlsClient if tls else client.ModbusTcpClient
    modbus = kind("127.0.0.1", **options(program.read_port(), tls))
    assert modbus.connect()
    modbus.write_register(0, 7, device_id=1)
    assert modbus.read_holding_registers(0, count=1, device_id=1).registers == [7]
    modbus.close()
    program.interrupt()
