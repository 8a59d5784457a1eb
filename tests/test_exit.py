"""The end of the interpreter: what still runs is stopped in order, with nothing on stderr."""

import pytest
from clients import Client
from payload import MORE_THAN_THE_KERNEL_TAKES

# Every program prints its address, then waits for a line before it goes on to its end. Its servers
# are stopped by the exit of the interpreter alone.
ECHO = """
import asyncio, sys, iocpx

class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
    def data_received(self, data):
        self.transport.write(data)

def wait(server):
    print(*server.address[:2], flush=True)
    sys.stdin.readline()
"""


def assert_quiet_end(script, *lines):
    code, out, err = script.finish()
    assert err == ""
    assert out == list(lines)
    assert code == 0


@pytest.mark.parametrize("factory, workers", [("Echo", 1), ("Echo", 8), ("iocpx.native.Echo", 2)])
def test_exit_with_a_running_server_and_idle_clients(start_script, factory, workers):
    script = start_script(
        ECHO
        + f"""
engine = iocpx.Engine(workers={workers})
server = iocpx.Server({factory}, "127.0.0.1", engine=engine, close_timeout_s=0.2)
server.start()
wait(server)
print("end of the program")
"""
    )
    address = script.read_address()
    clients = [Client(address) for _ in range(10)]
    for client in clients:
        assert client.exchange([b"hello"]) == b"hello"
    script.tell()
    assert_quiet_end(script, "end of the program")
    for client in clients:
        assert client.read_until_gone() == b""
        client.close()


def test_exit_with_a_server_that_nobody_ever_called(start_script):
    script = start_script(
        ECHO
        + """
server = iocpx.Server(Echo, "127.0.0.1")
server.start()
wait(server)
"""
    )
    script.read_address()
    script.tell()
    assert_quiet_end(script)


def test_exit_with_a_server_that_was_never_started(start_script):
    assert_quiet_end(start_script(ECHO + 'server = iocpx.Server(Echo, "127.0.0.1")'))


def test_exit_after_the_import_alone(start_script):
    assert_quiet_end(start_script("import iocpx"))


def test_exit_with_a_stopped_server(start_script):
    script = start_script(
        ECHO
        + """
with iocpx.Server(Echo, "127.0.0.1") as server:
    wait(server)
"""
    )
    with Client(script.read_address()) as client:
        assert client.exchange([b"hello"]) == b"hello"
    script.tell()
    assert_quiet_end(script)


# More than the kernels take, and little enough to be read in the second that the exit may take.
QUEUED = MORE_THAN_THE_KERNEL_TAKES // 2


GIVES = (
    ECHO
    + f"""
import threading, time
written = threading.Event()

class Gives(Echo):
    def data_received(self, data):
        global begun
        begun = time.perf_counter()
        self.transport.write(bytes({QUEUED}))
        written.set()
    def connection_lost(self, exc):
        print("late" if exc and time.perf_counter() - begun >= 1 else exc, flush=True)

server = iocpx.Server(Gives, "127.0.0.1", close_timeout_s=60)
server.start()
print(*server.address[:2], flush=True)
written.wait()
"""
)


def test_exit_with_data_queued_sends_it_first(start_script):
    out = ["late"]
    for _ in range(5):
        script = start_script(GIVES)
        with Client(script.read_address()) as client:
            client.send(b"give")
            got = client.read_until_gone()
        code, out, err = script.finish()
        assert (code, err) == (0, "")
        # Late: a busy machine has held somebody up for the second, and that proves nothing.
        if out != ["late"]:
            break
    assert out == ["None"]
    assert len(got) == QUEUED


def test_exit_with_a_client_that_never_reads(start_script):
    script = start_script(
        ECHO
        + f"""
class Gives(Echo):
    def connection_made(self, transport):
        transport.write(bytes({MORE_THAN_THE_KERNEL_TAKES}))

server = iocpx.Server(Gives, "127.0.0.1", close_timeout_s=0.2)
server.start()
wait(server)
"""
    )
    with Client(script.read_address()) as client:
        client.read_exactly(1)
        script.tell()
        assert_quiet_end(script)


def test_exit_while_messages_are_going_to_and_fro(start_script):
    script = start_script(
        ECHO
        + """
server = iocpx.Server(Echo, "127.0.0.1", engine=iocpx.Engine(workers=4), close_timeout_s=0.2)
server.start()
wait(server)
"""
    )
    address = script.read_address()
    clients = [Client(address) for _ in range(4)]
    for client in clients:
        assert client.exchange([b"hello"]) == b"hello"
    script.tell()
    for client in clients:
        # Until the server lets go: the exit falls somewhere in between.
        client.send_until_refused(bytes(100_000))
    for client in clients:
        client.read_until_gone()
        client.close()
    assert_quiet_end(script)


def test_exit_with_several_servers(start_script):
    script = start_script(
        ECHO
        + """
servers = [iocpx.Server(Echo, "127.0.0.1") for _ in range(3)]
for server in servers:
    server.start()
wait(servers[1])
"""
    )
    with Client(script.read_address()) as client:
        assert client.exchange([b"hello"]) == b"hello"
    script.tell()
    assert_quiet_end(script)


def test_exit_with_a_server_in_a_reference_cycle(start_script):
    script = start_script(
        ECHO
        + """
class Owner:
    pass

owner = Owner()
owner.owner = owner
owner.server = iocpx.Server(lambda: owner and Echo(), "127.0.0.1", close_timeout_s=0.2)
owner.server.start()
wait(owner.server)
"""
    )
    with Client(script.read_address()) as client:
        assert client.exchange([b"hello"]) == b"hello"
        script.tell()
        assert_quiet_end(script)


def test_exit_while_another_thread_serves_forever(start_script):
    script = start_script(
        ECHO
        + """
import threading
server = iocpx.Server(Echo, "127.0.0.1", close_timeout_s=0.2)
server.start()
threading.Thread(target=server.serve_forever, daemon=True).start()
wait(server)
"""
    )
    with Client(script.read_address()) as client:
        assert client.exchange([b"hello"]) == b"hello"
        script.tell()
        assert_quiet_end(script)


def test_callbacks_at_exit_still_run(start_script):
    script = start_script(
        ECHO
        + """
class Says(Echo):
    def connection_lost(self, exc):
        print("lost", exc, flush=True)

server = iocpx.Server(Says, "127.0.0.1")
server.start()
wait(server)
"""
    )
    with Client(script.read_address()) as client:
        assert client.exchange([b"hello"]) == b"hello"
        script.tell()
        assert client.read_to_end() == b""
    assert_quiet_end(script, "lost None")


def test_an_exception_in_the_program_still_ends_it_in_order(start_script):
    script = start_script(
        ECHO
        + """
server = iocpx.Server(Echo, "127.0.0.1", close_timeout_s=0.2)
server.start()
wait(server)
sys.exit(7)
"""
    )
    with Client(script.read_address()) as client:
        assert client.exchange([b"hello"]) == b"hello"
        script.tell()
        code, out, err = script.finish()
    assert (code, out, err) == (7, [], "")


def test_ctrl_c_in_serve_forever_stops_in_order_and_goes_on_as_keyboardinterrupt(start_script):
    script = start_script(
        ECHO
        + """
import _thread, threading

inside = threading.Event()

class Interrupts(Echo):
    def data_received(self, data):
        super().data_received(data)
        if data == b"interrupt":
            inside.wait()
            _thread.interrupt_main()
    def connection_lost(self, exc):
        print("lost", exc, flush=True)

class Server(iocpx.Server):
    def wait_closed(self, timeout=None):
        inside.set()            # the main thread is within serve_forever()
        return super().wait_closed(timeout)

server = Server(Interrupts, "127.0.0.1")
server.start()
print(*server.address[:2], flush=True)
try:
    server.serve_forever()
except KeyboardInterrupt:
    print("KeyboardInterrupt", server.is_serving(), server.wait_closed(0), server.connection_count)
"""
    )
    with Client(script.read_address()) as client:
        assert client.exchange([b"hello"]) == b"hello"
        assert client.exchange([b"interrupt"]) == b"interrupt"
        assert client.read_until_gone() == b""
    assert_quiet_end(script, "lost None", "KeyboardInterrupt False True 0")


def test_a_dropped_server_is_named_on_stderr_where_warnings_are_shown(start_script):
    script = start_script(
        ECHO
        + """
import gc, warnings
warnings.simplefilter("always")
server = iocpx.Server(Echo, "127.0.0.1")
server.start()
wait(server)
del server
gc.collect()
"""
    )
    script.read_address()
    script.tell()
    code, _out, err = script.finish()
    assert code == 0
    assert "ResourceWarning" in err


@pytest.mark.parametrize("left", ["nothing", "a listener", "a connection", "datagrams"])
def test_exit_with_a_loop_that_nobody_has_closed(start_script, left):
    """It is collected when Python can run on no other thread any more."""
    script = start_script(
        """
import asyncio, gc, sys, iocpx
gc.disable()

async def serve(reader, writer):
    writer.write(await reader.readline())
    writer.close()
    await writer.wait_closed()

async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"hello\\n")
    assert await reader.read() == b"hello\\n"
    if "connection" not in sys.argv[1]:
        writer.close()
        await writer.wait_closed()
    if "listener" not in sys.argv[1]:
        server.close()
        await server.wait_closed()
    if "datagrams" in sys.argv[1]:
        await asyncio.get_running_loop().create_datagram_endpoint(
            asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0))

def run():
    loop = iocpx.new_event_loop()
    loop.run_until_complete(main())

run()
print("end of the program")
""",
        left,
    )
    assert_quiet_end(script, "end of the program")
