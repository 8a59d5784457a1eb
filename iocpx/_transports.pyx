"""The loop's transports: how one is made, of a client or a socket, and what it is told in a turn.

All runs on the loop's thread: `tell` in the loop's look at the port, `pump` at its end.

Called by the engine's side through `_endpoint`, and by `_tcp_loop`; calls `_transport`, whose
methods do what is to be done for each piece of news, `_endpoint`, `_engine_loop`, `_scheduling`,
`_tls`, `_buffers`, `_file_layer`, and of the engine `_open`, `_provider`, `_delivery`, `_requests`
and `_filter`.
"""

from cpython.bytes cimport PyBytes_AS_STRING
from cpython.contextvars cimport (
    PyContext_Copy, PyContext_CopyCurrent, PyContext_Enter, PyContext_Exit,
)
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject

from iocpx._base cimport count, drop_socket
from iocpx._buffers cimport offer_bytes, release_spent
from iocpx._delivery cimport (
    conn_give_buffer, conn_take_data, conn_take_eof, conn_take_lost, conn_take_news, lost_t,
    news_t,
)
from iocpx._endpoint cimport Endpoint, set_tell_of_transports
from iocpx._engine_loop cimport EngineLoop
from iocpx._file_layer cimport drop_files
from iocpx._filter cimport conn_filter_end, conn_filter_hold
from iocpx._open cimport conn_open
from iocpx._provider cimport provider_of_family
from iocpx._requests cimport conn_abort
from iocpx._sched cimport conn_unref
from iocpx._scheduling cimport now
from iocpx._state cimport buf_t, STATE_OPEN
from iocpx._tls cimport Tls
from iocpx._transport cimport Transport
from iocpx._types cimport *

import _socket
from asyncio import log

from iocpx._addresses import sockaddr
from iocpx._errors import os_error

logger = log.logger


cdef void drop_news(conn_t *conn) noexcept:
    """Nobody is told."""
    cdef size_t wanted
    cdef lost_t lost
    cdef buf_t *buf
    if conn.filtered:
        conn_filter_end(conn)
    conn_filter_hold(conn, False)       # also without TLS: a framer holds, too
    drop_files(conn)
    buf = conn_take_data(conn, &wanted)
    while buf != NULL:
        buf.size = 0
        conn_give_buffer(conn, buf)
        buf = conn_take_data(conn, &wanted)
    if conn_take_lost(conn, &lost) and conn.user != NULL:
        transport = <Transport>conn.user
        conn.user = NULL
        (<Transport>transport)._detach()
        Py_DECREF(transport)


cdef void make_transport(Endpoint endpoint, conn_t *conn, context) noexcept:
    """Of a client that has come; conn.user becomes the Transport, or stays NULL."""
    cdef Transport transport
    cdef EngineLoop loop = <EngineLoop>endpoint.loop
    server = endpoint.server
    tls = None
    try:
        if server is not None and server._sockets is None:
            # Closed meanwhile; as with every client that is not taken, it sees a reset.
            conn_abort(NULL, conn, ABORT_STOP)
            return
        protocol = endpoint.factory()
        if endpoint.sslcontext is not None:
            tls = Tls.__new__(Tls, endpoint.sslcontext, True, None)
        transport = Transport.__new__(Transport)
        transport._take_protocol(protocol)
        transport._context = context
        transport._join(server)
    except BaseException as exc:
        loop.callback_raised(exc, "Error on making the protocol of a new connection", None, None)
        conn_abort(NULL, conn, ABORT_CALLBACK)
        return
    transport._attach(endpoint, conn)
    Py_INCREF(transport)                # for conn.user
    conn.user = <PyObject *>transport
    if tls is not None:
        try:
            transport._take_tls(tls, endpoint.handshake_s, endpoint.shutdown_s)
        except BaseException as exc:
            transport._fail(exc, "SSL handshake failed")


cdef void tell(void *context, conn_t *conn) noexcept:
    """Tell one connection's protocol all its news, in the context that its callbacks share."""
    cdef Endpoint endpoint = <Endpoint>context
    cdef EngineLoop loop = <EngineLoop>endpoint.loop
    cdef bint entered = False
    cdef news_t news
    conn_take_news(conn, &news)
    release_spent(news.spent)
    if loop.is_over or (conn.user == NULL and not news.made):
        drop_news(conn)
        return
    try:
        own = (PyContext_Copy(endpoint.context) if conn.user == NULL
               else (<Transport>conn.user)._context)
        PyContext_Enter(own)
        entered = True
    except BaseException as exc:
        loop.callback_raised(exc, "a connection is served outside of its context", None, None)
    if conn.user == NULL and news.made:
        make_transport(endpoint, conn, own)
    if conn.user == NULL:
        drop_news(conn)
    else:
        if loop._debug:
            tell_watched(<Transport>conn.user, conn, &news)
        else:
            tell_transport(<Transport>conn.user, conn, &news)
    if entered:
        try:
            PyContext_Exit(own)
        except BaseException as exc:
            loop.callback_raised(exc, "a callback returned in another context", None, None)


cdef void tell_watched(Transport transport, conn_t *conn, news_t *news) noexcept:
    """… and warn of what took long, as asyncio does in debug mode."""
    cdef double started_s = now()
    cdef double took_s
    text = None
    try:
        text = repr(transport)
    except BaseException as exc:
        transport._loop.callback_raised(exc, "a connection cannot be named", None, None)
    tell_transport(transport, conn, news)
    took_s = now() - started_s
    if took_s >= transport._loop.slow_callback_duration:
        logger.warning("Executing the callbacks of %s took %.3f seconds", text, took_s)


cdef void tell_transport(Transport transport, conn_t *conn, news_t *news) noexcept:
    cdef buf_t *buf
    cdef size_t wanted
    cdef lost_t lost
    if news.made and transport._tls is None:
        transport._made()
    if news.pause:
        transport._tell_marks("pause_writing")
    if news.resume:
        transport._tell_marks("resume_writing")
    if transport._tls is not None:
        transport._tls_deliver(conn)
    else:
        buf = conn_take_data(conn, &wanted)
        while buf != NULL:
            transport._feed(conn, buf)
            conn_give_buffer(conn, buf)
            buf = NULL if transport._tls is not None else conn_take_data(conn, &wanted)
        if transport._framed is not None:
            transport._tell_framed(conn)
        elif wanted > COPY_BYTES and not transport._buffered:
            offer_bytes(conn, wanted)
    if news.files:
        transport._serve_files(conn)
    if conn_take_eof(conn):
        if transport._tls is not None:
            transport._tls_end_of_stream(conn)
        else:
            transport._end_of_stream(conn)
    if transport._tls is not None:
        transport._tls_pump(conn)
    if conn_take_lost(conn, &lost):
        transport._lost(conn, &lost)
        conn.user = NULL
        Py_DECREF(transport)            # of the INCREF in make_transport or open_transport


cdef void pump(void *context, conn_t *conn) noexcept:
    """Encrypt what was written, for a loop that may not come to its next turn."""
    if conn.user != NULL and (<Transport>conn.user)._tls is not None:
        (<Transport>conn.user)._tls_pump(conn)


cdef name_of(ask):
    try:
        return ask()
    except OSError:
        return None     # its peer has gone already


def open_transport(EngineLoop loop, Endpoint endpoint, sock, protocol, waiter, extra, server,
                   bint joined, Tls tls=None, double handshake_s=0, double shutdown_s=0):
    """A Transport of a connected socket, which closes it in the end.

    joined: asyncio's proactor has brought the socket to the port.
    tls: what it is to begin with; then how long the handshake and the end may take.
    """
    cdef Transport transport = Transport.__new__(Transport)
    cdef const provider_t *provider = NULL
    cdef conn_t *conn = NULL
    cdef int family = sock.family
    cdef size_t handle
    cdef int error
    sock.setblocking(False)
    transport._take_protocol(protocol)
    transport._context = PyContext_CopyCurrent()
    transport._waiter = waiter
    transport._gated = waiter is not None
    local = sockaddr(name_of(sock.getsockname))
    remote = sockaddr(name_of(sock.getpeername))
    # A handle of the engine's own: the caller's socket stays the caller's to look at.  In C from
    # here on, or nobody would have it where the handler of a signal raised.
    handle = _socket.dup(sock.fileno())
    count(endpoint.service, NULL, N_SOCKETS_OPENED, 1)
    Py_INCREF(transport)                # for conn.user, dropped when connection_lost was told
    error = provider_of_family(endpoint.run.engine, family, handle, &provider)
    if error == 0:
        error = conn_open(endpoint.service, &endpoint.run.engine.workers[0], provider, handle,
                          STATE_OPEN, PyBytes_AS_STRING(local), PyBytes_AS_STRING(remote), NULL,
                          <PyObject *>transport, &conn, joined)
    if error != 0:
        Py_DECREF(transport)
        drop_socket(endpoint.service, NULL, handle)
        raise os_error(error, "connection")
    transport._attach(endpoint, conn)
    if joined:
        loop.adopt(conn)
    conn_unref(conn)                    # _attach has its own
    transport._given = sock
    if tls is not None:
        transport._take_tls(tls, handshake_s, shutdown_s)
    (<object>loop)._transports[sock.fileno()] = transport
    if extra:
        transport._extra.update(extra)
    if transport._gated:
        transport._gate()
    transport._join(server)
    loop.wants_look()
    return transport


set_tell_of_transports(tell, pump)
