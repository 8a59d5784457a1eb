"""OpenSSL itself, for what Python's ssl has no call: key updates, handshakes anew, short records.

To be called where the connection's TLS is: in its turn, on its loop's thread, or in the test that
has it.
"""

import ctypes
import functools

import pytest

ALLOW_CLIENT_RENEGOTIATION = 0x100  # an option of contexts that Python has no name for
NONE_DUE = -1

_SET_MAX_SEND_FRAGMENT = 52
_GET_BUF_MEM_PTR = 115
_SIGNATURES = {
    "SSL_get_version": [ctypes.c_char_p],
    "SSL_key_update": [ctypes.c_int, ctypes.c_int],
    "SSL_get_key_update_type": [ctypes.c_int],
    "SSL_renegotiate": [ctypes.c_int],
    "SSL_do_handshake": [ctypes.c_int],
    "SSL_ctrl": [ctypes.c_long, ctypes.c_int, ctypes.c_long, ctypes.c_void_p],
    "SSL_get_wbio": [ctypes.c_void_p],
}


def _loaded(*names):
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    pytest.skip("OpenSSL's library has another name")


@functools.cache
def _libssl():
    library = _loaded("libssl-3.dll", "libssl-3-x64.dll", "libssl-3-arm64.dll", "libssl-1_1.dll")
    for name, (result, *arguments) in _SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, [ctypes.c_void_p, *arguments]
    return library


@functools.cache
def _libcrypto():
    library = _loaded(
        "libcrypto-3.dll", "libcrypto-3-x64.dll", "libcrypto-3-arm64.dll", "libcrypto-1_1.dll"
    )
    library.BIO_ctrl.restype = ctypes.c_long
    library.BIO_ctrl.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_long, ctypes.c_void_p]
    return library


class _BufMem(ctypes.Structure):
    _fields_ = [
        ("length", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("max", ctypes.c_size_t),
        ("flags", ctypes.c_ulong),
    ]


class OpenSsl:
    """The SSL of an ssl.SSLObject, which Python does not give away."""

    def __init__(self, ssl_object):
        self._object = ssl_object  # as long as the pointer is in use
        self._library = _libssl()
        # Behind the head of the object: the socket, and the SSL.
        place = id(ssl_object._sslobj) + object.__basicsize__ + ctypes.sizeof(ctypes.c_void_p)
        self._ssl = ctypes.c_void_p.from_address(place)
        assert self._library.SSL_get_version(self._ssl) in (b"TLSv1.2", b"TLSv1.3")

    def update_key(self, ask):
        """With the next write comes a key update; `ask`: the peer is to send one too."""
        assert self._library.SSL_key_update(self._ssl, int(ask)) == 1

    @property
    def update_due(self):
        """The kind of key update that the next write will bring, or NONE_DUE."""
        return self._library.SSL_get_key_update_type(self._ssl)

    def begin_anew(self):
        """Begin another handshake, in TLS 1.2; 1: the first message of it is written."""
        assert self._library.SSL_renegotiate(self._ssl) == 1
        return self._library.SSL_do_handshake(self._ssl)

    def limit_records(self, nbytes):
        """No record is to have more than `nbytes` of plaintext; 512 is the least."""
        assert self._library.SSL_ctrl(self._ssl, _SET_MAX_SEND_FRAGMENT, nbytes, None) == 1

    def write_memory(self):
        """The bytes of memory that are kept for what is encrypted."""
        memory = ctypes.POINTER(_BufMem)()
        _libcrypto().BIO_ctrl(
            self._library.SSL_get_wbio(self._ssl), _GET_BUF_MEM_PTR, 0, ctypes.byref(memory)
        )
        return memory.contents.max
