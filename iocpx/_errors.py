"""The one table from Windows error codes to Python exceptions.

Called by most rooms above the engine; calls nothing of iocpx.
"""

import errno

# code: (exception class, errno, text).
#
# The class is the one that Python's own sockets raise for the same event. For Winsock codes (10000
# and above) that is what OSError makes of the code by itself. Some of these events are also known
# by a Win32 code, of which OSError would make nothing but an OSError: 64 (10054), 121 (10060), 1225
# (10061), 1231 (10051), 1232 (10065), 1234 (10054), 1236 (10053) and 1450 (10055) are told like
# their Winsock code, and 995 as asyncio tells it.
_TABLE: dict[int, tuple[type[OSError], int, str]] = {
    4: (OSError, errno.EMFILE, "too many open handles"),
    5: (PermissionError, errno.EACCES, "access is denied"),
    6: (OSError, errno.EBADF, "the handle is not valid"),
    8: (OSError, errno.ENOMEM, "not enough memory"),
    14: (OSError, errno.ENOMEM, "not enough memory"),
    59: (ConnectionResetError, errno.ECONNRESET, "an unexpected network error occurred"),
    64: (ConnectionResetError, errno.ECONNRESET, "the connection was reset by the peer"),
    87: (OSError, errno.EINVAL, "invalid parameter"),
    121: (TimeoutError, errno.ETIMEDOUT, "the peer did not answer in time"),
    258: (TimeoutError, errno.ETIMEDOUT, "the wait timed out"),
    735: (OSError, errno.EBADF, "the completion port was closed"),
    995: (ConnectionResetError, errno.ECONNRESET, "the operation was cancelled"),
    1168: (OSError, errno.ENOENT, "no such operation is pending"),
    1225: (ConnectionRefusedError, errno.ECONNREFUSED, "the connection was refused"),
    1231: (OSError, errno.ENETUNREACH, "the network cannot be reached"),
    1232: (OSError, errno.EHOSTUNREACH, "the host cannot be reached"),
    1234: (ConnectionResetError, errno.ECONNRESET, "nobody listens where a datagram went"),
    1236: (ConnectionAbortedError, errno.ECONNABORTED, "the connection was aborted locally"),
    1450: (OSError, errno.ENOBUFS, "the system is out of resources"),
    1816: (OSError, errno.ENOMEM, "the process has used up its quota"),
    10004: (InterruptedError, errno.EINTR, "the call was interrupted"),
    10009: (OSError, errno.EBADF, "the socket handle is not valid"),
    10013: (PermissionError, errno.EACCES, "the address is forbidden or in exclusive use"),
    10014: (OSError, errno.EFAULT, "a bad memory address was given"),
    10022: (OSError, errno.EINVAL, "invalid argument"),
    10024: (OSError, errno.EMFILE, "too many open sockets"),
    10035: (BlockingIOError, errno.EWOULDBLOCK, "too many operations are pending"),
    10036: (BlockingIOError, errno.EINPROGRESS, "another call is in progress"),
    10037: (BlockingIOError, errno.EALREADY, "the operation is already in progress"),
    10038: (OSError, errno.ENOTSOCK, "not a socket"),
    10040: (OSError, errno.EMSGSIZE, "the message is too long, or has too many parts"),
    10041: (OSError, errno.EPROTOTYPE, "the protocol does not fit the type of the socket"),
    10042: (OSError, errno.ENOPROTOOPT, "the option is not supported"),
    10043: (OSError, errno.EPROTONOSUPPORT, "the protocol is not supported"),
    10044: (OSError, 10044, "the type of socket is not supported"),
    10045: (OSError, errno.EOPNOTSUPP, "the operation is not supported"),
    10047: (OSError, errno.EAFNOSUPPORT, "the address family is not supported"),
    10048: (OSError, errno.EADDRINUSE, "the address is already in use"),
    10049: (OSError, errno.EADDRNOTAVAIL, "the address is not one of this machine's"),
    10050: (OSError, errno.ENETDOWN, "the network is down"),
    10051: (OSError, errno.ENETUNREACH, "the network cannot be reached"),
    10052: (OSError, errno.ENETRESET, "keep-alive found the connection dead"),
    10053: (ConnectionAbortedError, errno.ECONNABORTED, "the connection was aborted locally"),
    10054: (ConnectionResetError, errno.ECONNRESET, "the connection was reset by the peer"),
    10055: (OSError, errno.ENOBUFS, "the system is out of socket buffers"),
    10056: (OSError, errno.EISCONN, "the socket is already connected"),
    10057: (OSError, errno.ENOTCONN, "the socket is not connected"),
    10058: (BrokenPipeError, 10058, "this direction is already shut down"),
    10060: (TimeoutError, errno.ETIMEDOUT, "the peer did not answer in time"),
    10061: (ConnectionRefusedError, errno.ECONNREFUSED, "the connection was refused"),
    10064: (OSError, 10064, "the host is down"),
    10065: (OSError, errno.EHOSTUNREACH, "the host cannot be reached"),
    10067: (OSError, 10067, "too many processes use Winsock"),
    10091: (OSError, 10091, "the network is not ready"),
    10092: (OSError, 10092, "this version of Winsock is not available"),
    10093: (OSError, 10093, "Winsock is not initialised"),
    10101: (OSError, 10101, "the peer has closed the connection"),
    10104: (OSError, 10104, "the Winsock provider is incomplete"),
    10105: (OSError, 10105, "the Winsock provider has the wrong version"),
    10106: (OSError, 10106, "the Winsock provider did not start"),
}

# What is told of files otherwise than of sockets, or only of files. The class is the one that
# OSError makes of the code, as for Python's own files.
_FILE_TEXTS = {
    2: "there is no such file",
    3: "there is no such folder",
    5: "access is denied; a folder cannot be opened",
    32: "somebody else has it open, and does not share it",
    33: "somebody else has locked this part of it",
    64: "the machine that has it is no longer there",
    80: "it is there already",
    87: "invalid parameter",
    112: "the disk is full",
    123: "this can be no name of a file",
    206: "the name is too long",
    267: "one of its folders is a file",
    995: "the operation was cancelled",
    1224: "a part of it is mapped into memory",
}


def file_error(code: int, operation: str, path: object) -> OSError:
    """The exception for a failed Windows call about a file: OSError with .winerror and .filename,
    of the class that builtin open() would raise.  operation: what failed, as "read".
    Any thread."""
    text = _FILE_TEXTS.get(code) or _TABLE.get(code, (None, None, "the call failed"))[2]
    return OSError(0, f"{operation}: {text}", path, code)


def joined(errors: list[BaseException]) -> BaseException:
    """One exception for several that belong together, at least one: of the first one's class and
    code, and its text has all."""
    first = errors[0]
    if len(errors) == 1 or not all(isinstance(error, OSError) for error in errors):
        return first
    text = "; ".join(dict.fromkeys(str(error.strerror) for error in errors))  # type: ignore[attr-defined]
    error = type(first)(0, text, None, getattr(first, "winerror", None))
    error.errno = first.errno  # type: ignore[attr-defined]
    return error


def os_error(
    code: int, operation: str, peer: str | None = None, text: str | None = None
) -> OSError:
    """The exception for a failed Windows call.

    code: Winsock or Win32 error code.  operation: what failed, as "send".
    peer: whom it concerned, as "127.0.0.1:5000".  text: what to say in place of the
    table's.  Any thread.  The result has `.winerror` set to `code`.
    """
    kind, number, known = _TABLE.get(code, (OSError, None, "the call failed"))
    with_peer = f" ({peer})" if peer else ""
    error = kind(0, f"{operation}: {text or known}{with_peer}", None, code)
    if number is not None:
        error.errno = number
    return error
