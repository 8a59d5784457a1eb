"""The way from the engine into Python, and the public face of the compiled modules.

`deliver_batch` is the one place that takes the GIL: once for all connections that a worker found
ready, whatever the number of their events, and for all operations of files that are over.

Called by the package's face, and by the workers through what it gives to `_engines` (`set_deliver`)
and `_runtime` (`set_tell`); calls `_connection`, `_clients`, `_open_file`, `_runtime`, `_buffers`,
and of the engine `_delivery`, `_requests`, `_sched` and `_file_ops`; shows what else is public.
"""

from cpython.contextvars cimport PyContext_Copy, PyContext_Enter, PyContext_Exit
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject

# Under another name: a cimported one is none that Python could import from here.
from iocpx._clients cimport connection_begins
from iocpx._connection cimport Connection as ConnectionObject
from iocpx._buffers cimport offer_bytes, release_spent
from iocpx._delivery cimport (
    conn_give_buffer, conn_take_data, conn_take_eof, conn_take_lost, conn_take_news,
    lost_t, news_t,
)
from iocpx._file_ops cimport engine_next_file_op
from iocpx._open_file cimport operation_over
from iocpx._requests cimport conn_abort, conn_close
from iocpx._sched cimport worker_delivered, worker_next
from iocpx._types cimport *
from iocpx._engines cimport set_deliver
from iocpx._runtime cimport Runtime, set_tell
from iocpx._state cimport buf_free, buf_t

from iocpx._connecting import connect
from iocpx._connection import Connection
from iocpx._datagram_server import DatagramServer, DatagramTransport
from iocpx._engine_api import engine_api
from iocpx._engines import Engine
from iocpx._open_file import File, open_file
from iocpx._server import Server
from iocpx._timers import TimerHandle

# engine_api: for other modules in C (engine_api.pxd).
__all__ = [
    "Connection", "DatagramServer", "DatagramTransport", "Engine", "File", "Server", "TimerHandle",
    "connect", "engine_api", "open_file",
]


cdef void deliver_batch(worker_t *worker) noexcept nogil:
    cdef conn_t *conn
    cdef file_op_t *op
    with gil:
        op = engine_next_file_op(worker)
        while op != NULL:
            operation_over(op)
            op = engine_next_file_op(worker)
        conn = worker_next(worker)
        while conn != NULL:
            conn.service.config.handler.tell(conn.service.config.handler.context, conn)
            worker_delivered(worker, conn)
            conn = worker_next(worker)


cdef void tell_server(void *context, conn_t *conn) noexcept:
    deliver(<Runtime>context, conn)


cdef void deliver(Runtime runtime, conn_t *conn) noexcept:
    """Tell one connection's protocol all its news, in the context that its callbacks share."""
    cdef bint entered = False
    context = None
    try:
        # A copy becomes the new connection's own, or serves for what the trace has to say of
        # one that is over.
        context = (PyContext_Copy(runtime.context) if conn.user == NULL
                   else (<ConnectionObject>conn.user)._context)
        PyContext_Enter(context)
        entered = True
    except BaseException as exc:
        runtime.report("a connection is served outside of its context", exc, None, None)
    tell(runtime, conn, context)
    if entered:
        try:
            PyContext_Exit(context)
        except BaseException as exc:
            # C code among the callbacks has entered one of its own and stayed there.
            runtime.report("a callback returned in another context", exc, None, None)


cdef void tell(Runtime runtime, conn_t *conn, context) noexcept:
    """Tell one connection's protocol all its news, in order."""
    cdef news_t news
    cdef buf_t *buf
    cdef size_t wanted
    cdef lost_t lost
    cdef ConnectionObject connection
    conn_take_news(conn, &news)
    release_spent(news.spent)
    while news.traces != NULL:
        buf = news.traces
        news.traces = buf.next
        runtime.tell_trace(conn, buf.data)
        buf_free(buf)
    if news.made:
        if conn.user == NULL:
            make_connection(runtime, conn, context)
        else:
            connection_begins(<ConnectionObject>conn.user, conn)
    if conn.user == NULL:
        # There is no protocol: the factory raised, or all is told.
        buf = conn_take_data(conn, &wanted)
        while buf != NULL:
            buf.size = 0
            conn_give_buffer(conn, buf)
            buf = conn_take_data(conn, &wanted)
        conn_take_lost(conn, &lost)
        return
    connection = <ConnectionObject>conn.user
    if news.made and connection._tls is None and connection._protocol is not None:
        connection._made()
    # Both: the queue was above its high mark and is below the low one by now.
    if news.pause:
        connection._tell_marks("pause_writing")
    if news.resume:
        connection._tell_marks("resume_writing")
    if news.sent > 0:
        connection._call("data_sent", (news.sent,))
    if connection._tls is None:
        buf = conn_take_data(conn, &wanted)
        # After start_tls() the rest is that one's; without a GIL another thread may just have begun
        # the handshake of one that waited for it.
        while buf != NULL and connection._tls is None:
            connection._feed(conn, buf)
            conn_give_buffer(conn, buf)
            buf = NULL if connection._tls is not None else conn_take_data(conn, &wanted)
        if buf != NULL:
            conn_give_buffer(conn, buf)
        if connection._framed is not None:
            connection._tell_framed(conn)
        elif wanted > COPY_BYTES and connection._takes_bytes():
            offer_bytes(conn, wanted)
    if connection._tls is not None:
        connection._tls_deliver(conn)
    if news.timers:
        connection._run_timers(conn)
    if news.files:
        connection._serve_files(conn)
    if conn_take_eof(conn):
        if connection._tls is not None:
            connection._tls_end_of_stream(conn)
        elif not connection._keeps_open():
            conn_close(NULL, conn)
    if connection._tls is not None:
        connection._tls_pump(conn)
    if conn_take_lost(conn, &lost):
        connection._lost(conn, &lost)
        conn.user = NULL
        Py_DECREF(connection)           # of the INCREF in make_connection, or in _clients


cdef void make_connection(Runtime runtime, conn_t *conn, context) noexcept:
    """Ask the factory for a protocol; conn.user becomes the Connection, or stays NULL."""
    cdef ConnectionObject connection = None
    try:
        connection = ConnectionObject.__new__(ConnectionObject)
        connection._attach(runtime, conn, context)
        if runtime.sslcontext is None and not connection._take_protocol_of_factory(conn):
            connection._detach()
            return
    except BaseException as exc:
        runtime.report("the connection is reset", exc, None, None)
        conn_abort(NULL, conn, ABORT_CALLBACK)
        return
    Py_INCREF(connection)               # for conn.user
    conn.user = <PyObject *>connection
    if runtime.sslcontext is not None:
        connection._handshaking = True
        if runtime.handshake_wanted(connection, conn):
            connection._begin_tls(conn)


set_deliver(deliver_batch)
set_tell(tell_server)
