"""Peers: the addresses of datagrams, from sockaddr to tuple and back.

Either way costs more than all else that is done to a datagram between the kernel and its protocol,
and most come from few peers, to whom the answers go with the very tuple that has come.  So the last
of them are remembered.  Called by `_datagram_layer`, with the GIL; calls `_addresses` and
`_runtime`.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING
from cpython.ref cimport Py_INCREF, Py_XDECREF, PyObject
from libc.string cimport memcmp, memcpy

from iocpx._runtime cimport address_tuple
from iocpx._types cimport ADDRESS_BYTES

import socket

from iocpx._addresses import sockaddr


@cython.final
cdef class Peers:
    def __cinit__(self, int family):
        self.family = family

    def __dealloc__(self):
        cdef int i
        for i in range(<int>N_PEERS):
            Py_XDECREF(self.come[i].shown)
            Py_XDECREF(self.given[i].shown)

    cdef object shown(self, const char *address):
        cdef const unsigned char *at = <const unsigned char *>address
        # The port, and the end of an address of either family.
        cdef unsigned int place = (at[3] ^ at[2] << 3 ^ at[7] ^ at[23] << 1) % <int>N_PEERS
        cdef peer_t *peer = &self.come[place]
        if peer.shown != NULL and memcmp(peer.address, address, ADDRESS_BYTES) == 0:
            return <object>peer.shown
        made = address_tuple(at)
        remember(peer, made, address)
        return made

    cdef int take(self, addr, char *address) except -1:
        cdef peer_t *peer = &self.given[(<size_t><PyObject *>addr >> 4) % <size_t>N_PEERS]
        cdef bint known = False
        with cython.critical_section(self):
            if peer.shown == <PyObject *>addr:
                # It has a reference, so no other tuple is where this one was.
                memcpy(address, peer.address, ADDRESS_BYTES)
                known = True
        if known:
            return 0
        packed = pack(self.family, addr)
        memcpy(address, PyBytes_AS_STRING(packed), ADDRESS_BYTES)
        # What can change, or refer to what can, is looked at each time.
        if type(addr) is tuple and all(type(part) in (str, int) for part in addr):
            with cython.critical_section(self):
                remember(peer, addr, address)
        return 0


cdef void remember(peer_t *peer, shown, const char *address) noexcept:
    cdef PyObject *before = peer.shown
    Py_INCREF(shown)                    # dropped by the next one here, or by __dealloc__
    peer.shown = <PyObject *>shown
    memcpy(peer.address, address, ADDRESS_BYTES)
    Py_XDECREF(before)


cdef bytes pack(int family, addr):
    if not isinstance(addr, (tuple, list)) or not 2 <= len(addr) <= (2 if family == socket.AF_INET
                                                                     else 4):
        raise TypeError("addr must be a tuple (host, port)"
                        f"{'' if family == socket.AF_INET else ', perhaps with flowinfo and scope'}"
                        f", got {addr!r}")
    host, port = addr[:2]
    numbers = addr[1:]
    if not isinstance(host, str) or not all(isinstance(number, int) for number in numbers):
        raise TypeError(f"addr must be of a str and then of integers, got {addr!r}")
    if not 0 <= port <= 65535:
        raise ValueError(f"addr must have a port of 0 to 65535, got {addr!r}")
    if not all(0 <= number < 2**32 for number in numbers):
        raise ValueError(f"addr must have numbers of 32 bits, got {addr!r}")
    host, _, scope = host.partition("%")
    rest = tuple(numbers[1:]) + (0, int(scope) if scope.isdecimal() else 0)[len(numbers) - 1:]
    try:
        return sockaddr((host, port) if family == socket.AF_INET else (host, port, *rest))
    except (OSError, OverflowError, ValueError):
        raise ValueError(
            f"addr must have a host that is an {'IPv4' if family == socket.AF_INET else 'IPv6'} "
            f"address, not a name, got {addr!r}") from None
