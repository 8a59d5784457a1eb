"""What an operator reads under the name "iocpx"."""

import logging
import threading

import pytest
from clients import Client
from payload import MORE_THAN_THE_KERNEL_TAKES, pattern
from protocols import Echoing, Recording
from waiting import WAIT_S, clock, wait_until

import iocpx


@pytest.fixture
def log(caplog):
    """The records of the logger "iocpx" from here on."""
    wait_until(
        lambda: all(thread.name != "iocpx-log" for thread in threading.enumerate()),
        "what others had to tell",
    )
    caplog.set_level(logging.DEBUG, logger="iocpx")
    return caplog


def told(log):
    """(level, text) of each record; all are the library's own."""
    assert {record.name for record in log.records} <= {"iocpx"}
    return [(record.levelname, record.getMessage()) for record in log.records]


def wait_for_stops(log, count):
    """wait_closed() waits a second for the line, which a busy machine may exceed."""
    wait_until(
        lambda: sum(text.startswith("stopped") for _, text in told(log)) == count, "the last line"
    )


def test_start_and_stop_are_told(serve, log):
    served = serve(Echoing)
    host, port = served.server.address
    assert len(told(log)) == 1
    level, text = told(log)[0]
    assert level == "INFO"
    assert text.startswith(f"serving on {host}:{port}")
    served.finish()
    wait_for_stops(log, 1)
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
    for turn in range(2):
        served.server.close()
        assert served.server.wait_closed(WAIT_S) is True
        wait_for_stops(log, turn + 1)
        served.server.start()
    served.finish()
    wait_for_stops(log, 3)
    assert [text.split()[0] for _, text in told(log)] == ["serving", "stopped"] * 3


def test_the_stop_is_told_before_wait_closed_returns(log):
    server = iocpx.Server(Echoing, "127.0.0.1")
    server.start()
    server.close()
    begin = clock()
    server.wait_closed()
    # Or it has waited a second for it: there may be a handler that blocks.
    assert told(log)[-1][1].startswith("stopped") or clock() - begin >= 1


def test_what_clients_do_is_not_told(serve, log):
    """Ends, resets, refusals and timeouts are the protocols' affair."""
    served, hasty = serve(Recording, max_connections=2), serve(Recording, idle_timeout_s=1)
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
    served.open()
    served.connect_in_vain()
    hasty.open_to_its_end()
    served.finish()
    hasty.finish()
    wait_for_stops(log, 2)
    assert [text.split()[0] for _, text in told(log)] == ["serving"] * 2 + ["stopped"] * 2


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
    wait_for_stops(log, 1)
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
