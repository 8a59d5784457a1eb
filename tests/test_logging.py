"""What an operator reads under the name "iocpx"."""

import logging

import pytest
from clients import Client
from payload import MORE_THAN_THE_KERNEL_TAKES, pattern
from protocols import Echoing, Recording
from waiting import WAIT_S

import iocpx


@pytest.fixture
def log(caplog):
    """The records of the logger "iocpx" from here on."""
    caplog.set_level(logging.DEBUG, logger="iocpx")
    return caplog


def told(log):
    """(level, text) of each record; all are the library's own."""
    assert {record.name for record in log.records} <= {"iocpx"}
    return [(record.levelname, record.getMessage()) for record in log.records]


def test_start_and_stop_are_told(serve, log):
    served = serve(Echoing)
    host, port = served.server.address
    assert len(told(log)) == 1
    level, text = told(log)[0]
    assert level == "INFO"
    assert text.startswith(f"serving on {host}:{port}")
    served.finish()
    level, text = told(log)[1]
    assert level == "INFO"
    assert text.startswith("stopped")
    assert len(told(log)) == 2


def test_every_address_is_told(serve, log):
    served = serve(Echoing, ["127.0.0.1", "127.0.0.2"])
    for sock in served.server.sockets:
        host, port = sock.getsockname()
        assert f"{host}:{port}" in told(log)[0][1]


def test_every_start_and_every_stop_is_told(serve, log):
    served = serve(Echoing)
    for _ in range(2):
        served.server.close()
        assert served.server.wait_closed(WAIT_S) is True
        served.server.start()
    served.finish()
    assert [text.split()[0] for _, text in told(log)] == ["serving", "stopped"] * 3


def test_the_stop_is_told_before_wait_closed_returns(log):
    with iocpx.Server(Echoing, "127.0.0.1"):
        pass
    assert told(log)[-1][1].startswith("stopped")


def test_what_clients_do_is_not_told(serve, log):
    """Ends, resets, refusals and timeouts are the protocols' affair."""
    served = serve(Recording, max_connections=2, idle_timeout_s=1)
    client, protocol = served.open()
    client.close()
    protocol.wait_for("connection_lost")
    client, protocol = served.open()
    protocol.transport.write(pattern(MORE_THAN_THE_KERNEL_TAKES))
    protocol.wait_for("pause_writing")
    client.reset()
    protocol.wait_for("connection_lost")
    assert protocol.lost_with is not None
    served.open()
    _, protocol = served.open()
    served.connect_in_vain()
    protocol.wait_for("connection_lost")
    served.finish()
    assert [text.split()[0] for _, text in told(log)] == ["serving", "stopped"]


def test_a_raising_callback_is_told_with_its_traceback(log):
    class Raises(Recording):
        def on_data(self, data):
            raise LookupError("on purpose")

    with (
        iocpx.Server(Raises, "127.0.0.1") as server,
        Client(server.address) as client,
    ):
        client.send(b"go")
        assert client.read_until_gone() == b""
    errors = [record for record in log.records if record.levelname == "ERROR"]
    assert len(errors) == 1
    assert "data_received() raised" in errors[0].getMessage()
    assert type(errors[0].exc_info[1]) is LookupError
    assert [text.split()[0] for level, text in told(log) if level == "INFO"] == [
        "serving",
        "stopped",
    ]


def test_a_failed_start_is_raised_and_not_told(log):
    with iocpx.Server(Echoing, "127.0.0.1") as first:
        log.clear()
        with pytest.raises(OSError, match=r"127\.0\.0\.1"):
            iocpx.Server(Echoing, *first.address).start()
        assert told(log) == []


def test_without_a_handler_of_the_programs_nothing_is_printed(start_script):
    script = start_script(
        """
import asyncio, iocpx

with iocpx.Server(asyncio.Protocol, "127.0.0.1") as server:
    print(*server.address, flush=True)
    input()
"""
    )
    script.read_address()
    script.tell()
    assert script.finish() == (0, [], "")
