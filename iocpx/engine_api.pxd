"""The engine's interface for extension modules: handlers of connections that never enter Python.

A module cimports this, calls import_engine_api() once, fills in a handler_api_t and wraps it in a
PyCapsule named "iocpx.handler"; `iocpx.Server(iocpx.native.Handler(capsule), …)` serves with it.
docs/EMBEDDING.md tells more, examples/cython_handler/ is one.

The wheel has this file, so a module is built against the installed package.  What it was built
with is in it as API_VERSION, and both sides refuse another one.

Cimported by handlers of other modules, which find the table in `_core`, and by `_types`,
`_c_handler` and `_engine_api`; cimports nothing of iocpx.
"""

from cpython.pycapsule cimport PyCapsule_Import
from libc.stdint cimport uint32_t, uint64_t

cdef enum:
    API_VERSION = 1
    API_ADDRESS_BYTES = 28      # of a sockaddr_in6; a sockaddr_in has 16 of them

cdef enum api_result:
    API_TAKEN                   # it will be sent, or the connection end
    API_CLOSED                  # the connection is closing, or its writing has ended: it is not
    API_NO_MEMORY               # nothing was taken

# A connection.  Valid in the handler's callbacks, from `made` until `lost` returns; elsewhere as
# long as somebody holds it (`hold`).
ctypedef void *api_conn_t

# The callbacks of a connection, none of which must block: a worker waits for it, and all that it
# has.  They are called on the engine's workers without the GIL, one at a time for each connection,
# those of several connections at the same time.  Any may be NULL: it is not wanted.
# own: what `made` has returned.
ctypedef struct handler_api_t:
    uint32_t version            # API_VERSION; before anything else, in all versions
    void *user                  # for `made`
    # A client is there.  Returns what the handler wants to know it by.
    void *(*made)(api_conn_t conn, void *user) noexcept nogil
    # So many bytes have come, nbytes > 0; data is valid until it returns.
    void (*data)(api_conn_t conn, void *own, const char *data, size_t nbytes) noexcept nogil
    # The peer has ended its side.  Returns 0 (as NULL does): close; else more may be written.
    int (*eof)(api_conn_t conn, void *own) noexcept nogil
    # So many bytes have left since the last time.
    void (*sent)(api_conn_t conn, void *own, size_t nbytes) noexcept nogil
    # paused 1: more is queued than the high mark allows; 0: it is down to the low mark.  Meanwhile
    # nothing is received, and whoever goes on writing is reset at the server's max_write_buffer.
    void (*marks)(api_conn_t conn, void *own, int paused) noexcept nogil
    # The time that `wake` was told has come.
    void (*timer)(api_conn_t conn, void *own) noexcept nogil
    # It is over, error: the Windows code of what has ended it, or 0.  Once, last; not where `made`
    # was not called.
    void (*lost)(api_conn_t conn, void *own, int error) noexcept nogil

# What a handler asks for.  With or without the GIL; from any thread that holds the connection.
# In a callback of the connection what is written leaves when that returns, all of it at once, or
# earlier where it is much; `marks` may then be called within the write, but for one in `made`,
# after which it is.
# Precondition of all but `post`: the connection is held, as in its callbacks until `lost` returns
# it is (api_conn_t); no lock of the handler's is held that one of its callbacks takes.
ctypedef struct engine_api_t:
    uint32_t version            # API_VERSION; before anything else, in all versions
    # Copies the data.  Precondition: data has nbytes; 0 of them are taken without effect.
    api_result (*write)(api_conn_t conn, const void *data, size_t nbytes) noexcept nogil
    # Sends it from where it is (up to 16 KiB are copied).  release(argument) is called once, on
    # any thread, when it is not needed any more: maybe within the call, and also where it was not
    # taken.  Precondition: data stays as it is until then, release is not NULL and does not block.
    api_result (*write_owned)(api_conn_t conn, const void *data, size_t nbytes,
                              void (*release)(void *argument) noexcept nogil,
                              void *argument) noexcept nogil
    # Ends our direction when all is sent: shutdown(SD_SEND).  What is written afterwards is
    # API_CLOSED.  Once or more often, also while it closes.
    void (*write_eof)(api_conn_t conn) noexcept nogil
    # Sends what is queued, then closes; no more data is told.  Once or more often.
    void (*close)(api_conn_t conn) noexcept nogil
    # Resets; what is queued is dropped.  Once or more often, also after close.
    void (*abort)(api_conn_t conn) noexcept nogil
    # 1: close, abort or a failure has come, and `lost` will be called, or was.
    int (*is_closing)(api_conn_t conn) noexcept nogil
    # 1: no data is told until 0, but for what is being told; what has come waits, and slows the
    # peer down.  Not counted: one 0 ends any number of 1.
    void (*pause)(api_conn_t conn, int paused) noexcept nogil
    size_t (*queued)(api_conn_t conn) noexcept nogil        # bytes not sent yet
    # Precondition: low <= high.
    void (*set_marks)(api_conn_t conn, size_t high, size_t low) noexcept nogil
    # Calls `timer` in so many milliseconds, 24 days at most, never early.  A connection has one
    # such time: of several that are asked for before it comes the earliest counts.
    void (*wake)(api_conn_t conn, uint64_t delay_ms) noexcept nogil
    # Puts the sockaddr_in or sockaddr_in6 of the peer, or our own, at `into`, API_ADDRESS_BYTES.
    void (*address)(api_conn_t conn, int of_peer, void *into) noexcept nogil
    # The connection's memory stays until let_go, also after `lost`; then all of the above does
    # nothing.  From a callback, or whoever holds it already.  The server's stop waits for let_go.
    void (*hold)(api_conn_t conn) noexcept nogil
    void (*let_go)(api_conn_t conn) noexcept nogil
    # Has call(argument) called soon, with the GIL, on a thread of Python's that is no worker: there
    # it may block.  In the order of the calls.  What is left at the interpreter's exit is not
    # called any more, and nothing before a server with a handler in C has been started.  API_TAKEN
    # or API_NO_MEMORY.
    api_result (*post)(void (*call)(void *argument) noexcept, void *argument) noexcept nogil


# What every module that uses the interface calls first, with the GIL.  ImportError: iocpx is not
# there, or not of this version.  The table is valid for as long as Python runs.
cdef inline const engine_api_t *import_engine_api() except NULL:
    cdef const engine_api_t *api = <const engine_api_t *>PyCapsule_Import(
        "iocpx._core.engine_api", 0)
    if api.version != API_VERSION:
        raise ImportError(f"this module was built with version {<int>API_VERSION} of iocpx's C "
                          f"interface, and the installed iocpx has version {api.version}: "
                          "build it anew")
    return api
