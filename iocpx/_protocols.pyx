"""What a protocol of the threaded server is, as an object: asked when it is bound to a connection,
and of what its callbacks return.

Called by `_connection` and `_datagram_server`, with the GIL; calls nothing of iocpx.
"""

import asyncio
import collections.abc


cdef int refuse_coroutine(str name, result) except -1:
    try:
        # Asked of its type: what a callback returns has no say in this.
        is_async = issubclass(type(result), (collections.abc.Coroutine,
                                             collections.abc.AsyncGenerator))
    except Exception:
        return 0    # a metaclass that cannot even be asked
    if not is_async:
        return 0
    if hasattr(result, "close"):
        result.close()      # or "was never awaited" would be told as well
    raise TypeError(f"{name}() must not be async def: the server's workers have no event loop "
                    "that would run it")


cdef object method_of(protocol, str name):
    """Its method, or None.  An object that stands for another one may raise whatever it likes
    when it is asked, which means no."""
    try:
        method = getattr(protocol, name, None)
    except Exception:
        return None
    return method if callable(method) else None


cdef bint is_buffered(protocol) except -1:
    """Does it take its data as a BufferedProtocol?  TypeError: in no way."""
    cdef bint derived = False
    try:
        derived = isinstance(protocol, asyncio.BufferedProtocol)
    except Exception:
        pass        # of its __class__, likewise
    if not derived and method_of(protocol, "data_received") is not None:
        return False
    if (method_of(protocol, "get_buffer") is not None
            and method_of(protocol, "buffer_updated") is not None):
        return True
    try:
        got = repr(protocol)
    except Exception:
        got = f"an object of type {type(protocol).__name__}"
    raise TypeError("protocol must be an object with a method data_received(), or with "
                    f"get_buffer() and buffer_updated(), got {got}")


cdef bint defines_data_sent(protocol) noexcept:
    """Is data_sent() a method of its class?

    Of the class, and not of what the object or a metaclass answers: asyncio knows no such
    callback, so a protocol may have a counter of that name, or answer for every name.
    """
    try:
        return callable(type.__getattribute__(type(protocol), "data_sent"))
    except Exception:
        return False
