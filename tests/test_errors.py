"""The table of Windows codes: each that a call can return becomes Python's own exception for it."""

import errno
import re
import socket

import pytest
from payload import MORE_THAN_THE_KERNEL_TAKES, pattern
from protocols import Echoing, Recording

import iocpx
from iocpx._errors import os_error

# What Microsoft documents for each call that the engine makes. Left out are the codes that are no
# errors of a call that failed (ERROR_IO_PENDING, WAIT_IO_COMPLETION).
CODES = {
    "ERROR_TOO_MANY_OPEN_FILES": 4,
    "ERROR_ACCESS_DENIED": 5,
    "ERROR_INVALID_HANDLE": 6,
    "ERROR_NOT_ENOUGH_MEMORY": 8,
    "ERROR_OUTOFMEMORY": 14,
    "ERROR_UNEXP_NET_ERR": 59,
    "ERROR_NETNAME_DELETED": 64,
    "ERROR_INVALID_PARAMETER": 87,
    "ERROR_SEM_TIMEOUT": 121,
    "WAIT_TIMEOUT": 258,
    "ERROR_ABANDONED_WAIT_0": 735,
    "ERROR_OPERATION_ABORTED": 995,
    "ERROR_NOT_FOUND": 1168,
    "ERROR_CONNECTION_REFUSED": 1225,
    "ERROR_NETWORK_UNREACHABLE": 1231,
    "ERROR_HOST_UNREACHABLE": 1232,
    "ERROR_CONNECTION_ABORTED": 1236,
    "ERROR_NO_SYSTEM_RESOURCES": 1450,
    "ERROR_NOT_ENOUGH_QUOTA": 1816,
    "WSAEINTR": 10004,
    "WSAEACCES": 10013,
    "WSAEFAULT": 10014,
    "WSAEINVAL": 10022,
    "WSAEMFILE": 10024,
    "WSAEWOULDBLOCK": 10035,
    "WSAEINPROGRESS": 10036,
    "WSAENOTSOCK": 10038,
    "WSAEMSGSIZE": 10040,
    "WSAEPROTOTYPE": 10041,
    "WSAENOPROTOOPT": 10042,
    "WSAEPROTONOSUPPORT": 10043,
    "WSAESOCKTNOSUPPORT": 10044,
    "WSAEOPNOTSUPP": 10045,
    "WSAEAFNOSUPPORT": 10047,
    "WSAEADDRINUSE": 10048,
    "WSAEADDRNOTAVAIL": 10049,
    "WSAENETDOWN": 10050,
    "WSAENETUNREACH": 10051,
    "WSAENETRESET": 10052,
    "WSAECONNABORTED": 10053,
    "WSAECONNRESET": 10054,
    "WSAENOBUFS": 10055,
    "WSAEISCONN": 10056,
    "WSAENOTCONN": 10057,
    "WSAESHUTDOWN": 10058,
    "WSAETIMEDOUT": 10060,
    "WSAECONNREFUSED": 10061,
    "WSAEHOSTDOWN": 10064,
    "WSAEHOSTUNREACH": 10065,
    "WSAEPROCLIM": 10067,
    "WSASYSNOTREADY": 10091,
    "WSAVERNOTSUPPORTED": 10092,
    "WSANOTINITIALISED": 10093,
    "WSAEDISCON": 10101,
    "WSAEINVALIDPROCTABLE": 10104,
    "WSAEINVALIDPROVIDER": 10105,
    "WSAEPROVIDERFAILEDINIT": 10106,
}

# What an operation on a connected socket can end with, at once or, as the NTSTATUS of a packet in
# its Win32 form, later.
COMPLETIONS = """
    ERROR_UNEXP_NET_ERR ERROR_NETNAME_DELETED ERROR_SEM_TIMEOUT ERROR_OPERATION_ABORTED
    ERROR_CONNECTION_REFUSED ERROR_NETWORK_UNREACHABLE ERROR_HOST_UNREACHABLE
    ERROR_CONNECTION_ABORTED ERROR_NO_SYSTEM_RESOURCES ERROR_NOT_ENOUGH_MEMORY
    ERROR_NOT_ENOUGH_QUOTA
"""
SOCKET_CALLS = "WSAENETDOWN WSAENOTSOCK WSAEINPROGRESS WSANOTINITIALISED WSAEFAULT WSAEINVAL"

CALLS = {
    "WSARecv": f"""{COMPLETIONS} {SOCKET_CALLS}
        WSAECONNABORTED WSAECONNRESET WSAEDISCON WSAEINTR WSAEMSGSIZE WSAENETRESET WSAENOTCONN
        WSAEOPNOTSUPP WSAESHUTDOWN WSAETIMEDOUT WSAEWOULDBLOCK WSAENOBUFS""",
    "WSASend": f"""{COMPLETIONS} {SOCKET_CALLS}
        WSAECONNABORTED WSAECONNRESET WSAEINTR WSAEMSGSIZE WSAENETRESET WSAENOBUFS WSAENOTCONN
        WSAEOPNOTSUPP WSAESHUTDOWN WSAEWOULDBLOCK WSAETIMEDOUT WSAEACCES WSAEHOSTUNREACH
        WSAENETUNREACH WSAEHOSTDOWN""",
    "AcceptEx": f"""{COMPLETIONS} {SOCKET_CALLS}
        WSAECONNRESET WSAECONNABORTED WSAETIMEDOUT WSAENOBUFS WSAEMFILE WSAENOTCONN WSAEINTR
        WSAEOPNOTSUPP WSAEWOULDBLOCK""",
    "GetQueuedCompletionStatusEx": """
        WAIT_TIMEOUT ERROR_ABANDONED_WAIT_0 ERROR_INVALID_HANDLE ERROR_INVALID_PARAMETER
        ERROR_NOT_ENOUGH_MEMORY""",
    "PostQueuedCompletionStatus": """
        ERROR_INVALID_HANDLE ERROR_NOT_ENOUGH_MEMORY ERROR_NO_SYSTEM_RESOURCES
        ERROR_NOT_ENOUGH_QUOTA""",
    "CreateIoCompletionPort": """
        ERROR_INVALID_HANDLE ERROR_INVALID_PARAMETER ERROR_NOT_ENOUGH_MEMORY ERROR_ACCESS_DENIED
        ERROR_NO_SYSTEM_RESOURCES ERROR_NOT_ENOUGH_QUOTA ERROR_TOO_MANY_OPEN_FILES""",
    "CreateEventW": """
        ERROR_INVALID_HANDLE ERROR_ACCESS_DENIED ERROR_NOT_ENOUGH_MEMORY ERROR_OUTOFMEMORY
        ERROR_NO_SYSTEM_RESOURCES""",
    "WSASocketW": """
        WSANOTINITIALISED WSAENETDOWN WSAEAFNOSUPPORT WSAEFAULT WSAEINPROGRESS WSAEINVAL
        WSAEINVALIDPROVIDER WSAEINVALIDPROCTABLE WSAEMFILE WSAENOBUFS WSAEPROTONOSUPPORT
        WSAEPROTOTYPE WSAEPROVIDERFAILEDINIT WSAESOCKTNOSUPPORT WSASYSNOTREADY
        WSAVERNOTSUPPORTED WSAEPROCLIM WSAEACCES""",
    "bind": f"""{SOCKET_CALLS}
        WSAEACCES WSAEADDRINUSE WSAEADDRNOTAVAIL WSAENOBUFS""",
    "listen": f"""{SOCKET_CALLS}
        WSAEADDRINUSE WSAEISCONN WSAEMFILE WSAENOBUFS WSAEOPNOTSUPP""",
    "WSAIoctl": f"""{SOCKET_CALLS}
        WSAEOPNOTSUPP WSAEWOULDBLOCK WSAENOPROTOOPT""",
    "setsockopt": f"""{SOCKET_CALLS}
        WSAENETRESET WSAENOPROTOOPT WSAENOTCONN""",
    "shutdown": f"""{SOCKET_CALLS}
        WSAECONNABORTED WSAECONNRESET WSAENOTCONN""",
    "CancelIoEx": "ERROR_NOT_FOUND ERROR_INVALID_HANDLE ERROR_INVALID_PARAMETER",
}

# The exceptions that are not a plain OSError.
KINDS = {
    BlockingIOError: "WSAEWOULDBLOCK WSAEINPROGRESS",
    BrokenPipeError: "WSAESHUTDOWN",
    ConnectionAbortedError: "WSAECONNABORTED ERROR_CONNECTION_ABORTED",
    ConnectionRefusedError: "WSAECONNREFUSED ERROR_CONNECTION_REFUSED",
    ConnectionResetError: """
        WSAECONNRESET ERROR_NETNAME_DELETED ERROR_UNEXP_NET_ERR ERROR_OPERATION_ABORTED""",
    InterruptedError: "WSAEINTR",
    PermissionError: "WSAEACCES ERROR_ACCESS_DENIED",
    TimeoutError: "WSAETIMEDOUT ERROR_SEM_TIMEOUT WAIT_TIMEOUT",
}

KIND_OF = {name: kind for kind, names in KINDS.items() for name in names.split()}


@pytest.mark.parametrize("call", CALLS)
def test_every_documented_code_of_a_call_is_told_in_full(call):
    for name in CALLS[call].split():
        code = CODES[name]
        error = os_error(code, call, "192.0.2.1:4711")
        assert type(error) is KIND_OF.get(name, OSError), name
        assert error.winerror == code
        found = re.fullmatch(rf"\[WinError {code}\] {call}: (.+) \(192\.0\.2\.1:4711\)", str(error))
        assert found, f"{name}: {error}"
        assert found[1] != "the call failed", f"{name} has no text of its own"
        # What a logging handler or `raise ... from` shows, and what except clauses look at.
        assert error.strerror == f"{call}: {found[1]} (192.0.2.1:4711)"
        assert type(error.errno) is int and error.errno > 0


@pytest.mark.parametrize("name", [name for name in CODES if CODES[name] >= 10000])
def test_winsock_codes_are_the_exceptions_that_python_makes_of_them(name):
    code = CODES[name]
    error, own = os_error(code, "send"), OSError(0, "send", None, code)
    assert (type(error), error.errno) == (type(own), own.errno)


@pytest.mark.parametrize(
    "win32, winsock",
    [
        ("ERROR_NETNAME_DELETED", "WSAECONNRESET"),
        ("ERROR_SEM_TIMEOUT", "WSAETIMEDOUT"),
        ("ERROR_CONNECTION_REFUSED", "WSAECONNREFUSED"),
        ("ERROR_CONNECTION_ABORTED", "WSAECONNABORTED"),
        ("ERROR_NETWORK_UNREACHABLE", "WSAENETUNREACH"),
        ("ERROR_HOST_UNREACHABLE", "WSAEHOSTUNREACH"),
        ("ERROR_NO_SYSTEM_RESOURCES", "WSAENOBUFS"),
    ],
)
def test_the_two_codes_of_one_event_are_one_exception(win32, winsock):
    first, second = os_error(CODES[win32], "receive"), os_error(CODES[winsock], "receive")
    assert type(first) is type(second)
    assert first.errno == second.errno
    assert (first.winerror, second.winerror) == (CODES[win32], CODES[winsock])


def test_the_codes_are_microsofts():
    for name, code in CODES.items():
        if hasattr(errno, name):
            assert getattr(errno, name) in (code, code - 10000), name


def test_every_name_is_used():
    named = {name for call in CALLS.values() for name in call.split()} | set(KIND_OF)
    assert named == set(CODES)


def test_a_code_that_nobody_knows_is_an_oserror_with_its_number():
    error = os_error(12345, "receive", "192.0.2.1:4711")
    assert type(error) is OSError
    assert error.winerror == 12345
    assert str(error) == "[WinError 12345] receive: the call failed (192.0.2.1:4711)"


def test_without_a_peer_none_is_named():
    assert str(os_error(8, "completion port")) == (
        "[WinError 8] completion port: not enough memory"
    )


# -- as they come out of a server


def test_a_reset_names_the_operation_and_the_peer(serve):
    client, protocol = serve(Echoing).open()
    client.exchange([b"hello"])
    host, port = client.address
    client.reset()
    protocol.wait_for("connection_lost")
    # A client under Wine 8 ends the stream where Windows and a native client reset it.
    if protocol.lost_with is None:
        pytest.skip("the reset of the client came as the end of the stream")
    error = protocol.lost_with
    assert isinstance(error, ConnectionError)
    assert re.match(rf"\[WinError {error.winerror}\] receive: ", str(error)), error
    assert str(error).endswith(f"({host}:{port})"), error


def test_a_reset_while_data_is_queued_names_the_operation_and_the_peer(serve):
    client, protocol = serve(Recording).open()
    host, port = client.address
    protocol.transport.write(pattern(MORE_THAN_THE_KERNEL_TAKES))
    protocol.wait_for("pause_writing")
    client.reset()
    protocol.wait_for("connection_lost")
    error = protocol.lost_with
    assert isinstance(error, OSError)
    assert re.match(rf"\[WinError {error.winerror}\] (send|receive): ", str(error)), error
    assert str(error).endswith(f"({host}:{port})"), error


def test_a_deadline_that_passes_is_a_timeout_that_names_the_peer(serve):
    client, protocol = serve(Recording, close_timeout_s=0.1).open()
    host, port = client.address
    protocol.transport.write(pattern(MORE_THAN_THE_KERNEL_TAKES))
    protocol.wait_for("pause_writing")
    protocol.transport.close()
    protocol.wait_for("connection_lost")
    error = protocol.lost_with
    assert type(error) is TimeoutError
    assert error.winerror == CODES["WSAETIMEDOUT"]
    assert re.match(r"\[WinError 10060\] \w+: ", str(error)) and f"({host}:{port})" in str(error)


def test_a_port_in_use_names_the_operation_and_the_address():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        host, port = taken.getsockname()
        with pytest.raises(OSError, match=rf"\] \w+: .+ \({re.escape(host)}:{port}\)$") as caught:
            iocpx.Server(Echoing, host, port).start()
    assert caught.value.winerror in (CODES["WSAEADDRINUSE"], CODES["WSAEACCES"])
    assert type(caught.value) is KIND_OF.get(
        {10048: "WSAEADDRINUSE", 10013: "WSAEACCES"}[caught.value.winerror], OSError
    )
