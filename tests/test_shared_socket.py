"""What the application does with a connection's socket: options, copies of the handle."""

import socket

import pytest
from payload import MORE_THAN_THE_KERNEL_TAKES
from protocols import Echoing, Recording, in_turn
from waiting import run_together

pytestmark = pytest.mark.engine("the sockets are the engine's")


@pytest.mark.parametrize(
    "end",
    ["abort", "raise", pytest.param("timeout", marks=pytest.mark.slow("it is seconds"))],
)
def test_a_reset_reaches_the_client_while_the_application_has_a_copy(serve, end):
    """The copy keeps the connection open, whatever the server does with its own handle."""

    class KeepsACopy(Recording):
        def on_made(self):
            self.copy = self.transport.get_extra_info("socket").dup()

        def on_data(self, data):
            if end == "abort":
                self.transport.abort()
            elif end == "raise":
                raise ValueError("on purpose")

    served = serve(KeepsACopy, idle_timeout_s=4 if end == "timeout" else None)
    client, protocol = served.open()
    client.send_until_refused(b"go")
    assert client.read_until_gone() == b""
    protocol.wait_for("connection_lost")
    if end == "raise":
        assert str(served.take_error()["exception"]) == "on purpose"
    protocol.copy.close()


@pytest.mark.parametrize("blocking", [False, True], ids=["asked for", "made to block"])
def test_a_thread_never_blocks_in_write_because_of_a_copy(serve, blocking):
    served = serve(in_turn(Recording, Echoing))
    client, protocol = served.open()
    sock = protocol.transport.get_extra_info("socket")
    copy = sock.dup()
    if blocking:
        copy.setblocking(True)
    # Twice: the first finds the kernel's buffer empty.
    protocol.transport.write(bytes(MORE_THAN_THE_KERNEL_TAKES))
    protocol.transport.write(bytes(1000))
    assert protocol.transport.get_write_buffer_size() > 1000
    served.assert_serving()
    assert len(client.read_exactly(MORE_THAN_THE_KERNEL_TAKES + 1000))
    copy.close()


def test_six_threads_that_write_to_clients_which_do_not_read_stop_nobody(serve):
    served = serve(in_turn(*[Recording] * 6, Echoing))
    opened = [served.open() for _ in range(6)]

    def write(protocol):
        protocol.transport.get_extra_info("socket")
        for _ in range(3):
            protocol.transport.write(bytes(MORE_THAN_THE_KERNEL_TAKES // 2))

    run_together(*[lambda protocol=protocol: write(protocol) for _, protocol in opened])
    served.assert_serving()
    for client, protocol in opened:
        protocol.transport.abort()
        client.read_until_gone()


def test_what_threads_write_leaves_also_where_the_socket_was_asked_for(serve):
    client, protocol = serve(Recording).open()
    sock = protocol.transport.get_extra_info("socket")
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    for number in range(50):
        protocol.transport.write(b"%3d" % number)
        assert client.read_exactly(3) == b"%3d" % number
