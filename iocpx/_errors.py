"""The one table from Windows error codes to Python exceptions."""

import errno

# code: (exception class, errno, text).  The class is the one that Python's own
# socket calls raise for the same event, also where completion ports report it by
# a Win32 code that Python would turn into a bare OSError.
_TABLE: dict[int, tuple[type[OSError], int, str]] = {
    8: (OSError, errno.ENOMEM, "not enough memory"),
    59: (ConnectionResetError, errno.ECONNRESET, "an unexpected network error occurred"),
    64: (ConnectionResetError, errno.ECONNRESET, "the connection was reset by the peer"),
    121: (TimeoutError, errno.ETIMEDOUT, "the peer did not answer in time"),
    995: (ConnectionAbortedError, errno.ECONNABORTED, "the operation was cancelled"),
    1225: (ConnectionRefusedError, errno.ECONNREFUSED, "the connection was refused"),
    1231: (OSError, errno.ENETUNREACH, "the network cannot be reached"),
    1232: (OSError, errno.EHOSTUNREACH, "the host cannot be reached"),
    1236: (ConnectionAbortedError, errno.ECONNABORTED, "the connection was aborted locally"),
    1450: (OSError, errno.ENOBUFS, "the system is out of resources"),
    10013: (PermissionError, errno.EACCES, "the address is forbidden or in exclusive use"),
    10022: (OSError, errno.EINVAL, "invalid argument"),
    10024: (OSError, errno.EMFILE, "too many open sockets"),
    10038: (OSError, errno.ENOTSOCK, "not a socket"),
    10048: (OSError, errno.EADDRINUSE, "the address is already in use"),
    10049: (OSError, errno.EADDRNOTAVAIL, "the address is not one of this machine's"),
    10050: (OSError, errno.ENETDOWN, "the network is down"),
    10051: (OSError, errno.ENETUNREACH, "the network cannot be reached"),
    10052: (ConnectionResetError, errno.ENETRESET, "keep-alive found the connection dead"),
    10053: (ConnectionAbortedError, errno.ECONNABORTED, "the connection was aborted locally"),
    10054: (ConnectionResetError, errno.ECONNRESET, "the connection was reset by the peer"),
    10055: (OSError, errno.ENOBUFS, "the system is out of socket buffers"),
    10057: (OSError, errno.ENOTCONN, "the socket is not connected"),
    10058: (BrokenPipeError, errno.EPIPE, "the sending side is already shut down"),
    10060: (TimeoutError, errno.ETIMEDOUT, "the peer did not answer in time"),
    10061: (ConnectionRefusedError, errno.ECONNREFUSED, "the connection was refused"),
    10064: (OSError, errno.EHOSTDOWN, "the host is down"),
    10065: (OSError, errno.EHOSTUNREACH, "the host cannot be reached"),
}


def os_error(code: int, operation: str, peer: str | None = None) -> OSError:
    """The exception for a failed Windows call.

    code: Winsock or Win32 error code.  operation: what failed, as "send".
    peer: whom it concerned, as "127.0.0.1:5000".  Any thread.  The result has
    `.winerror` set to `code`.
    """
    kind, number, text = _TABLE.get(code, (OSError, None, "the call failed"))
    with_peer = f" ({peer})" if peer else ""
    error = kind(0, f"{operation}: {text}{with_peer}", None, code)
    if number is not None:
        error.errno = number
    return error
