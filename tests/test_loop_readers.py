"""add_reader(), add_writer() and their counterparts on the asyncio loop, on sockets."""

import asyncio
import contextvars
import errno
import gc
import select
import socket
import struct
import threading
import weakref

import pytest
from process import collect, handle_count, run_on_a_thread_to_its_end

import iocpx

MANY = 600  # more than select() takes, and more than a look at the port


@pytest.fixture
def loop():
    loop = iocpx.new_event_loop()
    told = []
    loop.set_exception_handler(lambda loop, context: told.append(context))
    yield loop
    if not loop.is_closed():
        loop.close()
    assert told == []


@pytest.fixture
def pair():
    a, b = socket.socketpair()
    a.setblocking(False)
    b.setblocking(False)
    with a, b:
        yield a, b


def run(loop, coroutine):
    return loop.run_until_complete(asyncio.wait_for(coroutine, 60))


async def turns(n=5):
    """So many looks at the port: whatever is there has been dispatched, and was called."""
    for _ in range(n):
        # Nothing is ready while a timer is waited for, so the loop looks.
        await asyncio.sleep(1e-6)


def watch(loop, sock, add="add_reader"):
    """A future that the socket's next event ends, and which removes the callback."""
    future = loop.create_future()

    def ready():
        getattr(loop, add.replace("add", "remove"))(sock)
        future.set_result(sock)

    getattr(loop, add)(sock, ready)
    return future


def fill(sock):
    """Send until there is no room; how much."""
    sent = 0
    try:
        while True:
            sent += sock.send(bytes(65536))
    except BlockingIOError:
        return sent


# -- what they are told ------------------------------------------------------------


def test_a_reader_is_called_when_data_is_there(loop, pair):
    a, b = pair

    async def main():
        readable = watch(loop, a)
        await turns()
        assert not readable.done()
        b.send(b"one")
        assert await readable is a
        assert a.recv(10) == b"one"

    run(loop, main())


def test_data_that_was_there_before_is_told(loop, pair):
    a, b = pair
    b.send(b"one")

    async def main():
        await watch(loop, a)

    run(loop, main())
    assert a.recv(10) == b"one"


def test_what_is_left_unread_is_told_again_and_what_was_read_is_not(loop, pair):
    a, b = pair
    data = bytes(range(200))

    async def main():
        got = []
        all_there = loop.create_future()

        def ready():
            # Raises where there is nothing: every call must have been due.
            got.append(a.recv(1))
            if len(got) == len(data):
                all_there.set_result(None)

        loop.add_reader(a, ready)
        b.send(data)
        await all_there
        await turns()
        assert b"".join(got) == data
        b.send(b"x")
        while len(got) == len(data):
            await asyncio.sleep(0)
        assert loop.remove_reader(a) is True

    run(loop, main())


def test_a_callback_that_leaves_everything_lets_others_run(loop, pair):
    a, b = pair
    b.send(b"x")

    async def main():
        calls = []
        loop.add_reader(a, calls.append, 1)
        for n in range(1, 50):
            while len(calls) < n:
                await asyncio.sleep(0)
        await asyncio.sleep(0.001)
        loop.remove_reader(a)
        before = len(calls)
        await turns()
        assert len(calls) == before

    run(loop, main())


def test_a_writer_is_called_while_there_is_room(loop, pair):
    a, b = pair

    async def main():
        await watch(loop, a, "add_writer")
        fill(a)
        writable = watch(loop, a, "add_writer")
        await turns()
        while writable.done():
            # The system has made room meanwhile.
            assert fill(a) > 0
            writable = watch(loop, a, "add_writer")
            await turns()
        while not writable.done():
            await watch(loop, b)
            b.recv(1 << 20)
        assert a.send(b"more") == 4

    run(loop, main())


def test_reader_and_writer_at_once(loop, pair):
    a, b = pair

    async def main():
        readable = watch(loop, a)
        writable = watch(loop, a, "add_writer")
        await writable
        assert not readable.done()
        writable = watch(loop, a, "add_writer")
        b.send(b"x")
        await asyncio.gather(readable, writable)

    run(loop, main())


def test_the_end_of_the_peer_is_told(loop, pair):
    a, b = pair

    async def main():
        readable = watch(loop, a)
        await turns()
        b.close()
        await readable
        assert a.recv(1) == b""

    run(loop, main())


def connected():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    client.setblocking(False)
    server.setblocking(False)
    return client, server


def test_a_reset_makes_readable_and_writable(loop):
    client, server = connected()

    async def main():
        with server:
            fill(server)
            readable, writable = watch(loop, server), watch(loop, server, "add_writer")
            await turns()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("hh", 1, 0))
            client.close()
            await asyncio.gather(readable, writable)

    run(loop, main())


def test_a_listener_is_readable_when_somebody_connects(loop):
    async def main():
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.setblocking(False)
            readable = watch(loop, listener)
            await turns()
            assert not readable.done()
            with socket.create_connection(listener.getsockname()):
                await readable
                listener.accept()[0].close()

    run(loop, main())


def test_a_connection_that_is_made_is_writable(loop):
    async def main():
        with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
            client.setblocking(False)
            assert client.connect_ex(listener.getsockname()) in (
                errno.WSAEWOULDBLOCK,
                errno.EINPROGRESS,
            )
            await watch(loop, client, "add_writer")
            assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
            assert client.getpeername() == listener.getsockname()

    run(loop, main())


@pytest.mark.parametrize("add", ["add_reader", "add_writer"])
def test_a_connection_that_fails_is_told(loop, add):
    async def main():
        with socket.socket() as nobody, socket.socket() as client:
            nobody.bind(("127.0.0.1", 0))
            client.setblocking(False)
            client.connect_ex(nobody.getsockname())
            await watch(loop, client, add)
            error = client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            assert error == errno.WSAECONNREFUSED

    run(loop, main())


@pytest.mark.parametrize("family, host", [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_a_datagram_is_told(loop, family, host):
    async def main():
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.bind((host, 0))
            readable = watch(loop, sock)
            await turns()
            sock.sendto(b"hello", sock.getsockname())
            await readable
            assert sock.recv(10) == b"hello"

    run(loop, main())


def test_another_thread_sends_while_the_loop_waits(loop, pair):
    a, b = pair

    async def main():
        readable = watch(loop, a)
        await turns()
        thread = threading.Thread(target=b.send, args=(b"x",))
        # Nothing is ready from here on, but for what the thread does.
        loop.call_soon(thread.start)
        await readable
        thread.join()

    run(loop, main())


# -- what is registered ----------------------------------------------------------


def test_arguments_and_context(loop, pair):
    a, b = pair
    variable = contextvars.ContextVar("variable", default="outside")

    async def main():
        called = loop.create_future()

        def ready(*args):
            loop.remove_reader(a)
            called.set_result((args, variable.get()))
            variable.set("of the callback")

        variable.set("at the adding")
        assert loop.add_reader(a, ready, 1, "two") is None
        variable.set("later")
        b.send(b"x")
        assert await called == ((1, "two"), "at the adding")
        assert variable.get() == "later"

    run(loop, main())


def test_what_a_callback_raises_is_told_and_the_watch_goes_on(pair):
    a, b = pair
    loop = iocpx.new_event_loop()
    told = []
    loop.set_exception_handler(lambda loop, context: told.append(context))

    async def main():
        done = loop.create_future()

        def ready():
            if not told:
                raise ZeroDivisionError
            loop.remove_reader(a)
            done.set_result(None)

        loop.add_reader(a, ready)
        b.send(b"x")
        await done

    run(loop, main())
    loop.close()
    (context,) = told
    assert isinstance(context["exception"], ZeroDivisionError)
    assert isinstance(context["handle"], asyncio.Handle)


def test_interrupts_come_out_of_the_loop(loop, pair):
    a, b = pair

    def ready():
        loop.remove_reader(a)
        raise KeyboardInterrupt

    loop.add_reader(a, ready)
    b.send(b"x")
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()


def test_a_second_add_replaces_the_first(loop, pair):
    a, b = pair

    async def main():
        first = []
        kept = weakref.WeakSet()

        class Callback:
            def __call__(self):
                first.append(1)

        callback = Callback()
        kept.add(callback)
        loop.add_reader(a, callback)
        del callback
        await turns()
        second = watch(loop, a)
        gc.collect()
        await turns()
        assert not kept
        b.send(b"x")
        await second
        await turns()
        assert first == []
        assert loop.remove_reader(a) is False

    run(loop, main())


def test_removing_tells_whether_there_was_one(loop, pair):
    a, _b = pair
    assert loop.remove_reader(a) is False
    loop.add_reader(a, print)
    assert loop.remove_writer(a) is False
    assert loop.remove_reader(a.fileno()) is True
    assert loop.remove_reader(a) is False
    loop.add_writer(a.fileno(), print)
    assert loop.remove_reader(a) is False
    assert loop.remove_writer(a) is True
    assert loop.remove_writer(a) is False


def test_removed_while_its_event_is_on_the_way(loop, pair):
    a, b = pair

    async def main():
        calls = []
        loop.add_reader(a, calls.append, 1)
        await turns()
        b.send(b"x")
        # The packet is at the port: nobody has looked since.
        select.select([a], [], [], 60)
        assert loop.remove_reader(a) is True
        await turns()
        assert calls == []

    run(loop, main())


def test_one_callback_removes_the_other(loop, pair):
    a, b = pair
    calls = []

    async def main():
        done = loop.create_future()

        def ready(own, other):
            calls.append(own)
            loop.remove_reader(a)
            loop.remove_reader(b)
            done.set_result(None)

        a.send(b"x")
        b.send(b"x")
        loop.add_reader(a, ready, a, b)
        loop.add_reader(b, ready, b, a)
        await done
        await turns()
        assert len(calls) == 1

    run(loop, main())


def test_removed_and_added_again_in_the_callback(loop, pair):
    a, b = pair

    async def main():
        got = []
        done = loop.create_future()

        def ready(n):
            got.append(a.recv(1))
            loop.remove_reader(a)
            if n == 100:
                done.set_result(None)
            else:
                loop.add_reader(a, ready, n + 1)

        b.send(bytes(range(100)))
        loop.add_reader(a, ready, 1)
        await done
        assert b"".join(got) == bytes(range(100))

    run(loop, main())


def test_an_event_from_before_the_adding_is_not_told(loop, pair):
    a, b = pair

    async def main():
        loop.add_reader(a, lambda: None)
        await turns()
        b.send(b"x")
        select.select([a], [], [], 60)
        assert a.recv(1) == b"x"
        second = watch(loop, a)
        await turns()
        assert not second.done()
        b.send(b"y")
        await second

    run(loop, main())


# -- many, and often -------------------------------------------------------------


@pytest.mark.engine("their number is the engine's affair")
def test_many_sockets_at_once(loop):
    pairs = [socket.socketpair() for _ in range(MANY)]

    async def main():
        for _ in range(3):
            futures = [watch(loop, a) for a, _ in pairs]
            await turns()
            assert not any(future.done() for future in futures)
            for _, b in pairs:
                b.send(b"x")
            await asyncio.gather(*futures)
            for a, _ in pairs:
                assert a.recv(10) == b"x"

    run(loop, main())
    for a, b in pairs:
        a.close()
        b.close()


def test_beside_connections_and_operations_of_the_loop(loop, pair):
    """All of them on one port."""
    a, b = pair

    async def main():
        async def echo(reader, writer):
            writer.write(await reader.readline())
            writer.close()

        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        c, d = socket.socketpair()
        with c, d:
            c.setblocking(False)
            d.setblocking(False)
            for _ in range(20):
                readable = watch(loop, a)
                # The proactor's own receive, on the same socket as a poll of ours.
                received = asyncio.ensure_future(loop.sock_recv(c, 10))
                reader, writer = await asyncio.open_connection(*address)
                writer.write(b"line\n")
                assert await reader.readline() == b"line\n"
                writable = watch(loop, c, "add_writer")
                b.send(b"x")
                d.send(b"y")
                await asyncio.gather(readable, writable)
                assert a.recv(10) == b"x"
                assert await received == b"y"
                writer.close()
                await writer.wait_closed()
        server.close()
        await server.wait_closed()

    run(loop, main())


def test_a_socket_that_belongs_to_another_loop_can_be_watched(loop, pair):
    """A handle is on one port for good, and a poll needs none of it."""
    a, b = pair
    other = iocpx.new_event_loop()

    async def receive():
        b.send(b"x")
        assert await other.sock_recv(a, 1) == b"x"

    run(other, receive())

    async def main():
        readable = watch(loop, a)
        await turns()
        b.send(b"y")
        await readable

    run(loop, main())
    other.close()


def test_several_loops_in_threads():
    failures = []

    def serve():
        loop = iocpx.new_event_loop()
        a, b = socket.socketpair()

        async def main():
            got = []
            done = loop.create_future()

            def ready():
                got.append(a.recv(1))
                if len(got) == 200:
                    loop.remove_reader(a)
                    done.set_result(None)

            def room():
                b.send(b"x")
                if room_left.pop() == 0:
                    loop.remove_writer(b)

            room_left = list(range(200))
            loop.add_reader(a, ready)
            loop.add_writer(b, room)
            await done

        try:
            with a, b:
                run(loop, main())
                loop.close()
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=serve) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_poll_goes_on_when_the_thread_that_posted_it_has_ended(loop, pair):
    a, b = pair
    futures = []

    async def begin():
        futures.append(watch(loop, a))
        await turns()

    # What happens while it ends may be lost under Wine.
    run_on_a_thread_to_its_end(lambda: run(loop, begin()))

    async def main():
        await turns()
        assert not futures[0].done()
        b.send(b"x")
        await futures[0]

    run(loop, main())


# -- ends ------------------------------------------------------------------------


def test_a_socket_closed_while_it_is_watched(loop, pair):
    a, _b = pair

    async def main():
        calls = []
        loop.add_reader(a, calls.append, 1)
        await turns()
        fd = a.fileno()
        a.close()
        await turns()
        assert calls == []
        assert loop.remove_reader(fd) is True
        assert loop.remove_reader(fd) is False

    run(loop, main())


def test_a_closed_socket_is_removed_by_itself(loop, pair):
    a, _b = pair
    loop.add_reader(a, print)
    a.close()
    assert loop.remove_reader(a) is True
    with pytest.raises(ValueError, match="-1"):
        loop.remove_reader(a)


def test_a_socket_closed_before_the_first_look(loop, pair):
    a, _b = pair

    async def main():
        calls = []
        loop.add_reader(a, calls.append, 1)
        a.close()
        await turns()
        assert calls == []

    run(loop, main())


def test_closed_in_its_callback(loop, pair):
    a, b = pair

    async def main():
        calls = []
        done = loop.create_future()

        def ready():
            calls.append(1)
            a.close()
            done.set_result(None)

        loop.add_reader(a, ready)
        b.send(b"x")
        await done
        await turns()
        assert calls == [1]

    run(loop, main())


def udp_socket_of_number(fd):
    """It, bound, and what else was made until some socket got the number."""
    made = []
    while not made or made[-1].fileno() != fd:
        made.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        assert len(made) < 1000
    made[-1].bind(("127.0.0.1", 0))
    return made.pop(), made


def test_closed_in_its_callback_which_makes_another_of_its_number(loop, pair):
    a, b = pair

    async def main():
        calls, made = [], []
        done = loop.create_future()

        def ready():
            calls.append(1)
            fd = a.fileno()
            a.close()
            new, others = udp_socket_of_number(fd)
            new.sendto(b"x", new.getsockname())
            made.extend((new, *others))
            done.set_result(None)

        loop.add_reader(a, ready)
        b.send(b"x")
        await done
        await turns()
        assert calls == [1]
        for sock in made:
            sock.close()

    run(loop, main())


def test_a_descriptor_that_is_used_again(loop):
    """The kernel gives the number of a closed socket to the next one."""

    async def main():
        old, old_peer = socket.socketpair()
        stale = []
        loop.add_reader(old, stale.append, 1)
        await turns()
        fd = old.fileno()
        old.close()
        old_peer.close()
        new, made = udp_socket_of_number(fd)
        readable = watch(loop, new)
        await turns()
        assert not readable.done()
        new.sendto(b"x", new.getsockname())
        await readable
        assert stale == []
        for sock in (new, *made):
            sock.close()

    run(loop, main())


def test_the_loops_close_ends_pending_polls(loop):
    pairs = [socket.socketpair() for _ in range(MANY)]
    kept = weakref.WeakSet()

    class Callback:
        def __call__(self):
            raise AssertionError("called")

    for a, b in pairs:
        callback = Callback()
        kept.add(callback)
        loop.add_reader(a, callback)
        loop.add_reader(b.fileno(), callback)
    del callback

    async def main():
        await turns()

    run(loop, main())
    # Some of them come to an event that nobody looks for any more.
    for _, b in pairs[::3]:
        b.send(b"x")
    loop.close()
    assert loop.remove_reader(pairs[0][0]) is False
    gc.collect()
    assert not kept
    for a, b in pairs:
        # They are as they were.
        b.send(b"y")
        assert a.recv(10) in (b"y", b"xy", b"x")
        a.close()
        b.close()


def test_a_loop_that_is_closed_before_it_ran(loop, pair):
    a, b = pair
    loop.add_reader(a, print)
    loop.add_writer(b, print)
    loop.close()


def test_a_closed_loop_refuses(loop, pair):
    a, _b = pair
    loop.close()
    with pytest.raises(RuntimeError, match="closed"):
        loop.add_reader(a, print)
    with pytest.raises(RuntimeError, match="closed"):
        loop.add_writer(a, print)
    assert loop.remove_reader(a) is False
    assert loop.remove_writer(a) is False


@pytest.mark.slow("makes many loops")
def test_loops_leave_no_handles(pair):
    a, b = pair

    def once():
        loop = iocpx.new_event_loop()

        async def main():
            loop.add_reader(a, print)
            await watch(loop, b, "add_writer")

        run(loop, main())
        loop.close()

    once()
    collect()
    before = handle_count()
    for _ in range(300):
        once()
    collect()
    # The count may be that of a table that doubles: 300 handles would show in either.
    assert handle_count() < before + 200


# -- what is refused -------------------------------------------------------------


@pytest.mark.parametrize("method", ["add_reader", "add_writer"])
def test_what_is_no_socket_is_refused(loop, method, tmp_path):
    add = getattr(loop, method)
    for wrong in (None, "socket", object(), 1.5):
        with pytest.raises(ValueError, match="Invalid file object"):
            add(wrong, print)
    with pytest.raises(ValueError, match="-1"):
        add(-1, print)
    closed = socket.socket()
    closed.close()
    with pytest.raises(ValueError, match="-1"):
        add(closed, print)
    with pytest.raises(TypeError):
        add()
    with open(tmp_path / "file", "w") as file, pytest.raises(OSError, match="add_reader"):
        add(file, print)


@pytest.mark.parametrize("method", ["remove_reader", "remove_writer"])
def test_removing_what_is_no_socket(loop, method):
    remove = getattr(loop, method)
    for wrong in (None, "socket", -1):
        with pytest.raises(ValueError, match="Invalid file"):
            remove(wrong)
    assert remove(123456) is False


def test_the_socket_of_a_transport_is_refused(loop):
    async def main():
        server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
        with socket.create_connection(server.sockets[0].getsockname()) as sock:
            transport, _ = await loop.create_connection(asyncio.Protocol, sock=sock)
            view = transport.get_extra_info("socket")
            for fd in (sock, sock.fileno(), view, view.fileno()):
                for call in (
                    lambda fd: loop.add_reader(fd, print),
                    lambda fd: loop.add_writer(fd, print),
                    loop.remove_reader,
                    loop.remove_writer,
                ):
                    with pytest.raises(RuntimeError, match="is used by transport"):
                        call(fd)
            number = sock.fileno()
            transport.close()
            # Where the socket is free to be used, so is its number.
            assert loop.remove_reader(number) is False
        server.close()

    run(loop, main())
