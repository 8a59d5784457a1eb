"""anyio on our loop, server and client."""

import pytest
from payload import assert_same_bytes, pattern
from script import begun

import iocpx

anyio = pytest.importorskip("anyio")


def test_bytes_come_back(start, tls, certificate):
    program = start("anyio_echo.py", 0, *certificate)
    port = program.read_port()

    async def one():
        more = {"ssl_context": tls, "tls_standard_compatible": False} if tls else {}
        async with await anyio.connect_tcp("127.0.0.1", port, **more) as stream:
            data = pattern(1_000_000)
            got = bytearray()

            async def send():
                await stream.send(data)

            async with anyio.create_task_group() as group:
                group.start_soon(send)
                while len(got) < len(data):
                    got += await stream.receive()
            assert_same_bytes(bytes(got), data)

    async def main():
        async with anyio.create_task_group() as group:
            for _ in range(10):
                group.start_soon(one)

    anyio.run(main, backend_options={"loop_factory": iocpx.new_event_loop})
    program.interrupt()


def test_threads_subprocesses_and_cancellation():
    async def main():
        assert await anyio.to_thread.run_sync(lambda: anyio.from_thread.run(anyio.sleep, 0)) is None
        with anyio.move_on_after(0.01) as scope:
            await anyio.sleep_forever()
        assert scope.cancelled_caught
        done = await begun(anyio.run_process, "cmd /c echo hello")
        assert done.stdout == b"hello\r\n"

    anyio.run(main, backend_options={"loop_factory": iocpx.new_event_loop})
