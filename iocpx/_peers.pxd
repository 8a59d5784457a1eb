from cpython.ref cimport PyObject

from iocpx._types cimport ADDRESS_BYTES

cdef enum:
    N_PEERS = 64            # that are remembered, a power of 2

ctypedef struct peer_t:
    char[ADDRESS_BYTES] address     # a sockaddr…
    PyObject *shown                 # owned: …as the socket module shows it; NULL: nothing here


# The addresses that an endpoint has to do with, as Winsock and as Python has them.  Those that come
# again and again are not made anew each time.
cdef class Peers:
    cdef int family
    cdef peer_t[N_PEERS] come       # at a place of their address; the executor's
    cdef peer_t[N_PEERS] given      # at a place of the tuple's own address; critical section

    # Of a sockaddr.
    cdef object shown(self, const char *address)
    # Fills in a sockaddr of the family, ADDRESS_BYTES long.  Raises TypeError or ValueError.
    cdef int take(self, addr, char *address) except -1
