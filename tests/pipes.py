"""Named pipes: what is read from one waits until somebody writes, which no file on a disk does."""

import _winapi
import itertools
import os

_numbers = itertools.count()

PIPE_ACCESS_DUPLEX = 3


class Pipe:
    """The server's end of a named pipe; `name` is what its one client opens."""

    def __init__(self):
        self.name = rf"\\.\pipe\iocpx-test-{os.getpid()}-{next(_numbers)}"
        self._handle = _winapi.CreateNamedPipe(
            self.name, PIPE_ACCESS_DUPLEX, 0, 1, 65536, 65536, 0, _winapi.NULL
        )

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()

    def write(self, data):
        assert _winapi.WriteFile(self._handle, data)[0] == len(data)

    def read(self, size):
        return _winapi.ReadFile(self._handle, size)[0]

    def is_broken(self):
        """Has its client closed it?"""
        try:
            _winapi.PeekNamedPipe(self._handle, 0)
        except BrokenPipeError:
            return True
        return False

    def close(self):
        if self._handle is not None:
            _winapi.CloseHandle(self._handle)
            self._handle = None
