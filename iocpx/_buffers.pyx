"""How bytes objects become what the engine sends, and what it has received becomes bytes objects.

Called by the rooms that tell a protocol or write for it (`_connection`, `_transport`,
`_transports`, `_tls_layer`, `_core`), with the GIL; calls `_requests` and `_delivery`.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport (
    _PyBytes_Resize, PyBytes_AS_STRING, PyBytes_Check, PyBytes_FromStringAndSize, PyBytes_GET_SIZE,
)
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject

from iocpx._delivery cimport conn_offer
from iocpx._requests cimport conn_gather, conn_write, WRITE_KEPT, WRITE_NO_MEMORY
from iocpx._state cimport buf_free, buf_t, queue_t
from iocpx._types cimport conn_t, worker_t

import sysconfig

# Of the build, whether the GIL is on or not: an object that one thread has made and another
# one lets go of keeps its memory until the first runs Python again.
cdef bint frees_late = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


cdef bytes take_bytes(buf_t *buf):
    """What was received, as bytes: the object that it was received into, or a copy, so that
    a little data does not keep much memory."""
    cdef size_t nbytes = buf.size
    cdef PyObject *owner = <PyObject *>buf.owner
    if owner == NULL or buf.data != buf.base or 2 * nbytes < buf.capacity:
        data = PyBytes_FromStringAndSize(buf.data, <Py_ssize_t>nbytes)
        buf.size = 0
        return data
    buf.owner = NULL
    buf.base = NULL
    buf.size = 0
    if nbytes < buf.capacity:
        _PyBytes_Resize(&owner, <Py_ssize_t>nbytes)
    data = <bytes>owner
    Py_DECREF(data)                     # of the INCREF in offer_bytes
    return data


cdef void release_spent(buf_t *spent) noexcept:
    """Let go of what has been sent: an owned chain."""
    cdef buf_t *buf
    while spent != NULL:
        buf = spent
        spent = buf.next
        Py_DECREF(<object>buf.owner)    # of the INCREF in queue_data or offer_bytes
        buf_free(buf)


cdef void offer_bytes(conn_t *conn, size_t nbytes) noexcept:
    """Have the next receive fill a bytes object, for data_received as it is.

    Only now that the one before has been delivered: if the protocol has let go of it, its
    memory, still in the processor's cache, is used again.
    """
    if frees_late:
        return
    try:
        data = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>nbytes)
    except MemoryError:
        return      # the receive takes a buffer of the engine's
    Py_INCREF(data)                     # dropped by take_bytes or deliver
    if not conn_offer(conn, <void *>data, PyBytes_AS_STRING(data), nbytes):
        Py_DECREF(data)


cdef int queue_data(worker_t *worker, conn_t *conn, queue_t *parts, data) except -1:
    cdef Py_buffer view
    cdef int result = 0
    if not PyBytes_Check(data):
        if type(data) is memoryview and not data.c_contiguous:
            data = bytes(data)
        else:
            # What the caller may change behind our back is copied at once.
            PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
            if view.len > 0:
                result = queue_bytes(worker, conn, parts, <char *>view.buf, view.len, NULL)
            PyBuffer_Release(&view)
            if result & WRITE_NO_MEMORY:
                raise MemoryError
            return result
    if PyBytes_GET_SIZE(data) == 0:
        return 0
    Py_INCREF(data)                     # dropped here, or by release_spent once it is sent
    result = queue_bytes(worker, conn, parts, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data),
                         <PyObject *>data)
    if not result & WRITE_KEPT:
        Py_DECREF(data)
    if result & WRITE_NO_MEMORY:
        raise MemoryError
    return result


cdef int queue_bytes(worker_t *worker, conn_t *conn, queue_t *parts, const char *data,
                     size_t nbytes, void *owner) noexcept nogil:
    if parts == NULL:
        return conn_write(worker, conn, data, nbytes, owner)
    return conn_gather(conn, parts, data, nbytes, owner)
