"""What the compiled modules import, said once more where a freezer can read it.

PyInstaller, cx_Freeze and Nuitka follow the imports of Python code and cannot look into
compiled modules: what only those import would be missing from a frozen application. The
package imports this module first; it loads nothing that the others would not load anyway.
tests/test_freezing.py compares it with the sources.

Imported by the package's face alone; calls nothing.
"""

# Nothing is used here, and of the compiled modules only _core has a stub.
# ruff: noqa: F401
# mypy: disable-error-code="attr-defined"

import _queue
import _socket
import _thread
import asyncio
import asyncio.trsock
import atexit
import collections
import collections.abc
import concurrent.futures
import contextvars
import functools
import heapq
import io
import itertools
import logging
import msvcrt
import os
import socket
import ssl
import stat
import sys
import sysconfig
import threading
import time
import types
import warnings

from iocpx import (
    _accept,
    _addresses,
    _arguments,
    _aside,
    _base,
    _buffers,
    _c_handler,
    _clients,
    _conn,
    _connect,
    _connecting,
    _connection,
    _core,
    _datagram_layer,
    _datagram_server,
    _datagrams,
    _delivery,
    _engine,
    _engine_api,
    _engines,
    _errors,
    _file_layer,
    _file_ops,
    _files,
    _filter,
    _framers,
    _frames,
    _futures,
    _keeper,
    _life,
    _listening,
    _messages,
    _names,
    _native,
    _open,
    _open_file,
    _peers,
    _protocols,
    _provider,
    _recv,
    _requests,
    _runtime,
    _sched,
    _send,
    _sendfile,
    _sendto,
    _server,
    _service,
    _serving,
    _socket_polls,
    _state,
    _threads,
    _timers,
    _tls,
    _tls_layer,
    _worker,
    native,
)
