"""Keys and values for redis-cli and redis-benchmark: python keyvalue.py [PORT [CERTIFICATE.pem]]

The commands PING, ECHO, SET, GET, DEL, EXISTS, INCR, DBSIZE, FLUSHALL and QUIT, in RESP2, pipelined
or one by one. All is in memory, and is forgotten at the end.
"""

import asyncio
import contextlib
import ssl
import sys
import threading
from collections.abc import Callable, Iterator

import iocpx

MAX_BYTES = 1 << 20  # of one value; a command may have twice as many
END = b"\r\n"

values: dict[bytes, bytes] = {}
lock = threading.Lock()  # the callbacks of different connections run on several threads


class Refused(Exception):
    """A command that cannot be done; the text is for the client."""


class Malformed(Exception):
    """What comes is no RESP: there is no telling where the next command begins."""


def bulk(value: bytes | None) -> bytes:
    return b"$-1\r\n" if value is None else b"$%d\r\n%s\r\n" % (len(value), value)


def number(value: int) -> bytes:
    return b":%d\r\n" % value


def ping(text: bytes | None = None) -> bytes:
    return b"+PONG\r\n" if text is None else bulk(text)


def set_value(key: bytes, value: bytes) -> bytes:
    with lock:
        values[key] = value
    return b"+OK\r\n"


def get(key: bytes) -> bytes:
    return bulk(values.get(key))


def delete(*keys: bytes) -> bytes:
    with lock:
        return number(sum(values.pop(key, None) is not None for key in keys))


def exists(*keys: bytes) -> bytes:
    return number(sum(key in values for key in keys))


def increment(key: bytes) -> bytes:
    with lock:
        try:
            value = int(values.get(key, b"0")) + 1
        except ValueError:
            raise Refused("value is not an integer") from None
        values[key] = b"%d" % value
    return number(value)


def flush() -> bytes:
    with lock:
        values.clear()
    return b"+OK\r\n"


COMMANDS: dict[bytes, Callable[..., bytes]] = {
    b"PING": ping,
    b"ECHO": bulk,
    b"SET": set_value,
    b"GET": get,
    b"DEL": delete,
    b"EXISTS": exists,
    b"INCR": increment,
    b"DBSIZE": lambda: number(len(values)),
    b"FLUSHALL": flush,
    b"QUIT": lambda: b"+OK\r\n",
}


def answer(command: list[bytes]) -> bytes:
    name, *arguments = command
    try:
        function = COMMANDS.get(name.upper())
        if function is None:
            raise Refused(f"unknown command '{name.decode(errors='replace')}'")
        return function(*arguments)
    except TypeError:
        return b"-ERR wrong number of arguments\r\n"
    except Refused as refused:
        return b"-ERR %s\r\n" % str(refused).encode()


def commands(unread: bytearray) -> Iterator[list[bytes]]:
    """Take the commands that have come whole out of `unread`, one after the other."""
    begin = 0
    try:
        while True:
            end = unread.find(END, begin)
            if end < 0:
                return
            line = bytes(unread[begin:end])
            position = end + 2
            if not line.startswith(b"*"):
                words = line.split()  # as typed by hand
            else:
                words = []
                for _ in range(int(line[1:])):
                    end = unread.find(END, position)
                    if end < 0:
                        return
                    if unread[position] != ord("$"):
                        raise Malformed("expected '$'")
                    size = int(unread[position + 1 : end])
                    position = end + 2 + size + 2
                    if not 0 <= size <= MAX_BYTES:
                        raise Malformed("invalid bulk length")
                    if position > len(unread):
                        return
                    words.append(bytes(unread[end + 2 : position - 2]))
            begin = position
            if words:
                yield words
    except ValueError:
        raise Malformed("invalid length") from None
    finally:
        del unread[:begin]


class KeyValue(asyncio.Protocol):
    def connection_made(self, transport: iocpx.Connection) -> None:
        self.transport = transport
        self.unread = bytearray()

    def data_received(self, data: bytes) -> None:
        self.unread += data
        answers = []
        ends = False
        try:
            for command in commands(self.unread):
                answers.append(answer(command))
                ends = command[0].upper() == b"QUIT"
                if ends:
                    break
            if len(self.unread) > 2 * MAX_BYTES:
                raise Malformed("too big a command")
        except Malformed as malformed:
            answers.append(b"-ERR Protocol error: %s\r\n" % str(malformed).encode())
            ends = True
        # In one write: a pipeline's answers leave together.
        self.transport.writelines(answers)
        if ends:
            self.transport.close()


def main(port: str = "6380", certificate: str | None = None) -> None:
    tls = None
    if certificate:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(certificate)
    server = iocpx.Server(KeyValue, "127.0.0.1", int(port), ssl=tls)
    server.start()
    assert server.address is not None
    print("serving on port", server.address[1], flush=True)
    server.serve_forever()  # until Ctrl+C, which stops it in order


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main(*sys.argv[1:])
