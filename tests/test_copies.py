"""Copying and pickling, which is also how an object travels to another process."""

import copy
import multiprocessing
import pickle

import pytest
from clients import Client
from payload import assert_same_bytes, pattern
from process import collect
from protocols import Echoing
from script import ERROR_INTERNAL_ERROR
from served import assert_balanced

import iocpx


def pickled(protocol):
    return lambda value: pickle.loads(pickle.dumps(value, protocol))


COPIES = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "deepcopy of a holder": lambda value: copy.deepcopy({"handler": [value]})["handler"][0],
    **{f"pickle {n}": pickled(n) for n in range(pickle.HIGHEST_PROTOCOL + 1)},
}
every_copy = pytest.mark.parametrize("make_copy", COPIES.values(), ids=COPIES)


@every_copy
def test_a_copied_native_handler_is_the_same_one(make_copy):
    assert make_copy(iocpx.native.Echo) is iocpx.native.Echo


def serve_once(handler):
    """Whether a server with this handler echoes, and enters Python for it."""
    with iocpx.Server(handler, "127.0.0.1") as server, Client(server.address) as client:
        data = pattern(10_000)
        assert_same_bytes(client.exchange([data]), data)
    assert_balanced(server)
    return server.engine.stats()["gil_acquisitions"]


def pool_of_one():
    try:
        return multiprocessing.get_context("spawn").Pool(1)
    except OSError as error:
        if error.winerror != ERROR_INTERNAL_ERROR:
            raise
    return multiprocessing.get_context("spawn").Pool(1)


def test_a_native_handler_can_be_sent_to_a_spawned_process():
    with pool_of_one() as pool:
        assert pool.apply(serve_once, (iocpx.native.Echo,)) == 0


@every_copy
def test_a_server_cannot_be_copied_and_the_attempt_does_not_stop_it(make_copy, serve):
    served = serve(Echoing)
    with pytest.raises(TypeError, match="a Server cannot be copied or pickled"):
        make_copy(served.server)
    collect()
    assert served.server.is_serving()
    served.assert_serving()


@every_copy
def test_a_connection_cannot_be_copied_and_the_attempt_does_not_end_it(make_copy, serve):
    client, protocol = serve(Echoing).open()
    with pytest.raises(TypeError, match="a Connection cannot be copied or pickled"):
        make_copy(protocol.transport)
    collect()
    assert client.exchange([b"still there"]) == b"still there"
