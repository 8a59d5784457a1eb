"""The TLS of one connection: two of them in memory, and what is fed is cut at will."""

import itertools
import ssl
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openssl import OpenSsl
from payload import assert_same_bytes, pattern, pieces

from iocpx._tls import Tls

CERTIFICATE = Path(__file__).parent / "data" / "localhost.pem"
VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
SIZES = [0, 1, 64, 1000, 16384, 16385, 100_000, 1_000_000]
ALL = 1 << 30


@pytest.fixture(params=VERSIONS)
def version(request):
    return request.param


def contexts(version):
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(CERTIFICATE)
    client = ssl.create_default_context(cafile=CERTIFICATE)
    client.minimum_version = client.maximum_version = VERSIONS[version]
    return client, server


def peers(version):
    client, server = contexts(version)
    return Tls(client, False, "localhost"), Tls(server, True, None)


def taken(tls):
    return tls.take_cipher() or b""


def everything(tls, max_bytes=ALL):
    """All that can be read now."""
    data = b"".join(iter(lambda: tls.read(max_bytes), None))
    assert not tls.has_more()
    return data


def shake(client, server):
    """The handshake, a flight at a time, and what comes behind it."""
    done = False
    while not done:
        done = client.handshake()
        server.feed_bytes(taken(client))
        done &= server.handshake()
        client.feed_bytes(taken(server))
    assert everything(client) == everything(server) == b""


def opened(version):
    client, server = peers(version)
    shake(client, server)
    assert client.opened and server.opened
    return client, server


def encrypted(tls, data):
    assert tls.write_bytes(data) == len(data)
    return taken(tls)


def records_of(cipher):
    """The records of a stream, whole."""
    found = []
    while cipher:
        end = 5 + int.from_bytes(cipher[3:5], "big")
        found.append(cipher[:end])
        cipher = cipher[end:]
    return found


# -- data ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_data_comes_as_it_was_written(version, size):
    client, server = opened(version)
    for sender, receiver in [(client, server), (server, client)]:
        data = pattern(size)
        cipher = encrypted(sender, data)
        assert size < 64 or data[:64] not in cipher
        receiver.feed_bytes(cipher)
        assert receiver.has_more() == (size > 0)
        got = receiver.read(ALL)
        assert_same_bytes(got or b"", data)
        assert got is None or type(got) is bytes
        assert not receiver.has_more() and receiver.read(ALL) is None
        assert not receiver.ended and receiver.take_cipher() is None


def test_nothing_more_than_what_was_written_is_sent(version):
    client, _ = opened(version)
    assert client.write_bytes(b"") == 0 and client.take_cipher() is None
    cipher = encrypted(client, pattern(3 * 16384))
    assert len(records_of(cipher)) == 3
    assert client.take_cipher() is None


@pytest.mark.parametrize("size", [1, 64, 1000, 20_000])
def test_byte_by_byte(version, size):
    client, server = opened(version)
    data = pattern(size)
    cipher = encrypted(client, data)
    got = b""
    ends = set(itertools.accumulate(map(len, records_of(cipher))))
    for place in range(len(cipher)):
        server.feed_bytes(cipher[place : place + 1])
        # With the last byte of a record its data is there, and never before.
        assert server.has_more() == (place + 1 in ends)
        got += server.read(ALL) or b""
        assert not server.has_more()
    assert_same_bytes(got, data)


def test_cut_at_every_place_of_the_first_records(version):
    client, server = opened(version)
    for cut in range(3 * 60):
        cipher = b"".join(encrypted(client, part) for part in (b"one", b"two", b"three"))
        assert len(records_of(cipher)) == 3
        got = []
        for part in (cipher[:cut], cipher[cut:]):
            server.feed_bytes(part)
            got.append(server.read(ALL) or b"")
            assert not server.has_more()
        assert b"".join(got) == b"onetwothree"
        whole = sum(end <= cut for end in itertools.accumulate(map(len, records_of(cipher))))
        assert got[0] == b"".join([b"one", b"two", b"three"][:whole])


def test_the_next_record_has_begun_when_the_first_is_read(version):
    client, server = opened(version)
    for seen in range(1, 22):
        first, second = encrypted(client, pattern(3000)), encrypted(client, b"x")
        server.feed_bytes(first + second[:seen])
        assert server.has_more()
        assert_same_bytes(server.read(ALL), pattern(3000))
        assert server.read(ALL) is None and not server.has_more()
        server.feed_bytes(second[seen:])
        assert server.read(ALL) == b"x"


def test_several_records_are_one_bytes_object(version):
    client, server = opened(version)
    server.feed_bytes(b"".join(encrypted(client, pattern(size, size)) for size in (1, 5000, 70)))
    data = pattern(1, 1) + pattern(5000, 5000) + pattern(70, 70)
    assert_same_bytes(server.read(ALL), data)
    assert sys.getsizeof(data) == sys.getsizeof(b"") + 5071


def test_max_bytes_ends_behind_a_record(version):
    client, server = opened(version)
    data = pattern(5 * 1000)
    parts = pieces_of(data, 1000)
    for max_bytes, together in [(0, 1), (1, 1), (999, 1), (1000, 1), (1001, 2), (3000, 3)]:
        server.feed_bytes(b"".join(encrypted(client, part) for part in parts))
        got = []
        while server.has_more():
            got.append(server.read(max_bytes))
        assert got == pieces_of(data, 1000 * together)
    server.feed_bytes(b"".join(encrypted(client, part) for part in parts))
    assert_same_bytes(server.read((1 << 64) - 1 if sys.maxsize > 1 << 32 else ALL), data)


def pieces_of(data, size):
    return [data[start : start + size] for start in range(0, len(data), size)]


# -- into the caller's memory -------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 5, 1000, 20_000])
def test_read_into(version, size):
    client, server = opened(version)
    data = pattern(36_000)
    cipher = encrypted(client, data)
    small = encrypted(client, pattern(7, 7))
    server.feed_bytes(cipher + small)
    got = bytearray()
    memory = bytearray(size)
    while server.has_more():
        taken = server.read_into_bytearray(memory)
        got += memory[:taken]
        # As much as has room, and more only if there is more.
        assert taken == size or len(got) == 36_007
        assert server.has_more() == (len(got) < 36_007)
    assert_same_bytes(bytes(got), data + pattern(7, 7))
    assert server.read_into_bytearray(memory) == 0


def test_read_takes_what_had_no_room(version):
    client, server = opened(version)
    data = pattern(3000)
    memory = bytearray(10)
    for tail in (b"", pattern(500)):
        server.feed_bytes(encrypted(client, data) + (encrypted(client, tail) if tail else b""))
        assert server.read_into_bytearray(memory) == 10
        assert_same_bytes(bytes(memory) + server.read(ALL), data + tail)
        assert not server.has_more()
    server.feed_bytes(encrypted(client, data) + encrypted(client, b"tail"))
    assert server.read_into_bytearray(memory) == 10
    assert_same_bytes(server.read(1), data[10:])
    assert server.has_more() and server.read(1) == b"tail" and not server.has_more()


def test_bytes_that_had_no_room_are_there_while_the_next_record_comes(version):
    client, server = opened(version)
    server.feed_bytes(encrypted(client, b"0123456789"))
    memory = bytearray(4)
    assert server.read_into_bytearray(memory) == 4
    for byte in encrypted(client, b"abc"):
        assert server.has_more()
        server.feed_bytes(bytes([byte]))
    assert server.read(ALL) == b"456789abc"


# -- the handshake ------------------------------------------------------------------------------


def test_the_handshake_byte_by_byte(version):
    client, server = peers(version)
    for _ in range(4):
        for sender, receiver in [(client, server), (server, client)]:
            sender.handshake()
            for byte in taken(sender):
                receiver.feed_bytes(bytes([byte]))
                receiver.handshake()
    assert client.opened and server.opened
    for sender, receiver in [(client, server), (server, client)]:
        assert everything(receiver) == b""
        receiver.feed_bytes(encrypted(sender, b"data"))
        assert everything(receiver) == b"data"


def test_nothing_is_read_or_written_before_the_handshake_is_done(version):
    client, server = peers(version)
    assert client.write_bytes(b"data") == 0 and client.take_cipher() is None
    assert client.handshake() is False and not client.opened
    assert client.write_bytes(b"data") == 0
    server.feed_bytes(taken(client))
    assert server.read(ALL) is None and server.read_into_bytearray(bytearray(9)) == 0
    assert server.shutdown() == 0 and not server.shut
    assert server.take_cipher() is None
    shake(client, server)
    assert client.handshake() is server.handshake() is True


def until_it_is_done(first, last):
    """The handshake, as far as the one that has it done first."""
    last.handshake()
    first.feed_bytes(taken(last))
    while not first.handshake():
        last.feed_bytes(taken(first))
        last.handshake()
        first.feed_bytes(taken(last))


@pytest.mark.parametrize("sizes", [(5,), (5, 6), (16384, 1), (0, 40_000)])
@pytest.mark.parametrize("whole", [True, False])
def test_data_behind_the_handshake_in_the_same_feed(version, sizes, whole):
    client, server = peers(version)
    data = b"".join(pattern(size, size) for size in sizes)
    # The one that ends first writes at once: the client of 1.3, the server of 1.2.
    first, last = (client, server) if version == "1.3" else (server, client)
    until_it_is_done(first, last)
    flight = taken(first) + b"".join(encrypted(first, pattern(size, size)) for size in sizes)
    # The last byte perhaps later: an incomplete record behind the handshake.
    last.feed_bytes(flight if whole else flight[:-1])
    assert last.handshake() is True
    got = last.read(ALL) or b""
    assert not last.has_more()
    if not whole:
        assert len(got) == len(data) - ((sizes[-1] - 1) % 16384 + 1), "all but the last record"
        last.feed_bytes(flight[-1:])
        got += last.read(ALL)
    assert_same_bytes(got, data)
    first.feed_bytes(taken(last))
    assert everything(first) == b""


def test_data_right_behind_the_handshake_cut_everywhere(version):
    client, server = peers(version)
    first, last = (client, server) if version == "1.3" else (server, client)
    until_it_is_done(first, last)
    flight = taken(first) + encrypted(first, b"data")
    got = b""
    for byte in flight:
        last.feed_bytes(bytes([byte]))
        if last.handshake():
            got += last.read(ALL) or b""
    assert got == b"data"


def test_tickets_are_no_data():
    client, server = peers("1.3")
    assert not client.handshake()
    server.feed_bytes(taken(client))
    assert not server.handshake()
    client.feed_bytes(taken(server))
    assert client.handshake()
    server.feed_bytes(taken(client))
    assert server.handshake()
    tickets = taken(server)
    assert len(records_of(tickets)) == 2
    for part in (tickets[:-1], tickets[-1:] + encrypted(server, b"one")):
        client.feed_bytes(part)
        assert client.has_more()
        got = client.read(ALL)
        assert not client.has_more()
    assert got == b"one"
    assert client.ssl_object.session is not None and client.ssl_object.session.has_ticket


def test_a_record_that_openssl_has_in_part_is_read_with_the_next():
    """Behind the tickets, which are counted like data: a read finds none of it, and takes it in."""
    client, server = peers("1.3")
    until_it_is_done(client, server)
    server.feed_bytes(taken(client))
    assert server.handshake()
    tickets = taken(server)
    first, second = encrypted(server, pattern(5000)), encrypted(server, b"x")
    client.feed_bytes(tickets + first[:4000])
    assert client.read(ALL) is None and not client.has_more()
    client.feed_bytes(first[4000:] + second)
    assert_same_bytes(client.read(ALL), pattern(5000) + b"x")


def test_a_session_is_used_again():
    client, server = opened("1.2")
    second = Tls(client.context, False, "localhost")
    second.ssl_object.session = client.ssl_object.session
    other = Tls(server.context, True, None)
    shake(second, other)
    assert second.ssl_object.session_reused and other.ssl_object.session_reused
    other.feed_bytes(encrypted(second, b"data"))
    assert everything(other) == b"data"


# -- the end ------------------------------------------------------------------------------------


def test_close_notify_in_both_directions_and_data_before_it(version):
    client, server = opened(version)
    cipher = encrypted(client, b"last words")
    assert client.shutdown() == 0 and client.shut and not client.ended
    cipher += taken(client)
    assert len(records_of(cipher)) == 2
    server.feed_bytes(cipher)
    assert server.read(ALL) == b"last words"
    assert server.ended and not server.has_more() and not server.shut
    assert server.read(ALL) is None and server.ended
    # The other direction is still open.
    client.feed_bytes(encrypted(server, b"answer"))
    assert client.read(ALL) == b"answer" and not client.ended
    server.shutdown()
    client.feed_bytes(taken(server))
    assert client.has_more() and client.read(ALL) is None
    assert client.ended and client.shut and server.shut
    assert client.take_cipher() is server.take_cipher() is None


def test_shutdown_loses_nothing_that_was_not_read(version):
    client, server = opened(version)
    cipher = encrypted(client, b"one") + encrypted(client, b"two")
    server.feed_bytes(cipher[:-1])
    server.shutdown()
    assert server.shut
    assert server.read(ALL) == b"one"
    server.feed_bytes(cipher[-1:])
    assert server.read(ALL) == b"two"


def test_shutdown_says_it_once(version):
    client, _ = opened(version)
    client.shutdown()
    assert len(records_of(taken(client))) == 1
    client.shutdown()
    assert client.take_cipher() is None
    with pytest.raises(ssl.SSLError, match=r"(?i)shutdown"):
        client.write_bytes(b"more")


@pytest.mark.parametrize("size", [4, 100])
def test_the_end_is_found_by_read_into(version, size):
    client, server = opened(version)
    cipher = encrypted(client, b"word")
    client.shutdown()
    server.feed_bytes(cipher + taken(client))
    memory = bytearray(size)
    assert server.read_into_bytearray(memory) == 4
    if size == 4:
        assert not server.ended and server.has_more()
        assert server.read_into_bytearray(memory) == 0
    assert server.ended and not server.has_more()


def test_what_comes_after_the_end_is_dropped(version):
    client, server = opened(version)
    later = encrypted(client, b"later")
    client, server = opened(version)
    client.shutdown()
    server.feed_bytes(taken(client))
    assert server.read(ALL) is None and server.ended
    server.feed_bytes(later)
    assert not server.has_more() and server.read(ALL) is None


# -- errors -------------------------------------------------------------------------------------


def refused(tls, match, alerts=True):
    """The handshake fails; what is sent then."""
    with pytest.raises(ssl.SSLError, match=match) as caught:
        tls.handshake()
    assert not tls.opened and not tls.has_more() and tls.read(ALL) is None
    alert = taken(tls)
    assert bool(alert) == alerts
    if alerts:
        # As it is, or in what 1.3 encrypts.
        assert alert[0] in {21, 23}, "an alert"
    tls.feed_bytes(b"more")
    assert not tls.has_more()
    return caught.value, alert


GARBAGE = {
    "http": (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "HTTP_REQUEST"),
    "proxy": (b"CONNECT localhost:443 HTTP/1.1\r\n\r\n", "HTTPS_PROXY_REQUEST"),
    "zeros": (bytes(100), "WRONG_VERSION_NUMBER|RECORD"),
    "ones": (b"\xff" * 100, "WRONG_VERSION_NUMBER|RECORD"),
    "too long": (b"\x16\x03\x01\xff\xff" + bytes(100), "LENGTH_TOO_LONG|LENGTH_TOO_SHORT|RECORD"),
    "empty": (b"\x16\x03\x01\x00\x00" * 40, "."),
}


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_instead_of_a_handshake(name):
    data, match = GARBAGE[name]
    client, server = peers("1.3")
    server.feed_bytes(data)
    refused(server, match, alerts=name not in {"http", "proxy", "zeros", "ones"})
    client.handshake()
    taken(client)
    client.feed_bytes(data)
    with pytest.raises(ssl.SSLError):
        client.handshake()


@pytest.mark.parametrize("bytewise", [False, True])
@pytest.mark.parametrize(
    "data",
    [b"GET / HTTP/1.1\r\n\r\n", bytes(9), b"\x17\x03\x03\xff\xff" + bytes(60), b"\x17\x03\x03\0\0"],
    ids=["http", "zeros", "too long", "empty"],
)
def test_garbage_instead_of_data(version, bytewise, data):
    client, server = opened(version)
    good = encrypted(client, b"good")
    got = b""
    error = None
    for part in pieces_of(good + data, 1 if bytewise else ALL):
        server.feed_bytes(part)
        while server.has_more():
            try:
                got += server.read(ALL) or b""
            except ssl.SSLError as exc:
                assert error is None, "an error comes once"
                error = exc
    assert got == b"good" and error is not None
    assert not server.has_more() and server.read(ALL) is None
    assert taken(server)[:1] in {b"\x15", b"\x17"}


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_tampered_record(version, place):
    client, server = opened(version)
    records = [bytearray(encrypted(client, pattern(100, seed))) for seed in range(3)]
    records[place][-1] ^= 1
    server.feed_bytes(b"".join(records))
    # What came before it is not lost.
    if place > 0:
        assert server.read(ALL) == b"".join(pattern(100, seed) for seed in range(place))
        assert server.has_more()
    with pytest.raises(ssl.SSLError, match=r"BAD_RECORD_MAC|DECRYPTION_FAILED"):
        server.read(ALL)
    assert not server.has_more() and server.read(ALL) is None
    client.feed_bytes(taken(server))
    with pytest.raises(ssl.SSLError, match="ALERT_BAD_RECORD_MAC"):
        client.read(ALL)
    server.shutdown()
    assert not server.shut


def test_a_wrong_host_name(version):
    client_context, server_context = contexts(version)
    client = Tls(client_context, False, "example.org")
    server = Tls(server_context, True, None)
    client.handshake()
    server.feed_bytes(taken(client))
    server.handshake()
    client.feed_bytes(taken(server))
    error, alert = refused(client, "Hostname mismatch")
    assert isinstance(error, ssl.SSLCertVerificationError)
    server.feed_bytes(alert)
    with pytest.raises(ssl.SSLError, match="ALERT"):
        server.handshake()


def test_no_common_version():
    client_context, server_context = contexts("1.2")
    server_context.minimum_version = ssl.TLSVersion.TLSv1_3
    client = Tls(client_context, False, "localhost")
    server = Tls(server_context, True, None)
    client.handshake()
    server.feed_bytes(taken(client))
    error, alert = refused(server, "UNSUPPORTED_PROTOCOL")
    assert error.reason == "UNSUPPORTED_PROTOCOL"
    client.feed_bytes(alert)
    refused(client, "ALERT_PROTOCOL_VERSION", alerts=False)


def test_a_client_without_the_certificate_that_is_wanted(version):
    client_context, server_context = contexts(version)
    server_context.verify_mode = ssl.CERT_REQUIRED
    server_context.load_verify_locations(CERTIFICATE)
    client = Tls(client_context, False, "localhost")
    server = Tls(server_context, True, None)
    client.handshake()
    server.feed_bytes(taken(client))
    server.handshake()
    client.feed_bytes(taken(server))
    client.handshake()
    server.feed_bytes(taken(client))
    _, alert = refused(server, "PEER_DID_NOT_RETURN_A_CERTIFICATE")
    client.feed_bytes(alert)
    # The client of 1.3 believes that all is done.
    assert client.opened == (version == "1.3")
    with pytest.raises(ssl.SSLError, match=r"CERTIFICATE_REQUIRED|HANDSHAKE_FAILURE"):
        client.read(ALL) if client.opened else client.handshake()


@pytest.mark.parametrize("wrong", [None, True, "context", object()])
def test_what_is_no_context(wrong):
    with pytest.raises(TypeError, match=r"must be an ssl\.SSLContext, got "):
        Tls(wrong, False, None)


def test_errors_of_the_context_are_pythons():
    client, server = contexts("1.3")
    for nothing in (None, ""):
        with pytest.raises(ValueError, match="check_hostname requires server_hostname"):
            Tls(client, False, nothing)
    with pytest.raises(UnicodeError, match="idna"):
        Tls(client, False, ".org")
    with pytest.raises(ssl.SSLError, match=r"CLIENT|client"):
        Tls(server, False, "localhost")


# -- what Python's ssl has ----------------------------------------------------------------------


def test_what_can_be_asked_of_the_connection(version):
    client_context, server_context = contexts(version)
    names = []
    server_context.sni_callback = lambda ssl_object, name, context: names.append(name)
    client_context.set_alpn_protocols(["h2", "http/1.1"])
    server_context.set_alpn_protocols(["http/1.1"])
    client = Tls(client_context, False, "localhost")
    server = Tls(server_context, True, None)
    shake(client, server)
    assert names == ["localhost"]
    assert client.ssl_object.selected_alpn_protocol() == "http/1.1"
    assert server.ssl_object.selected_alpn_protocol() == "http/1.1"
    assert client.ssl_object.version() == server.ssl_object.version() == f"TLSv{version}"
    assert client.ssl_object.cipher() == server.ssl_object.cipher()
    assert ("DNS", "localhost") in client.ssl_object.getpeercert()["subjectAltName"]
    assert server.ssl_object.getpeercert() is None
    assert type(client.ssl_object) is ssl.SSLObject
    assert client.context is client_context and server.context is server_context
    assert server.server_side and not client.server_side


def test_methods_that_a_class_of_the_context_replaces_are_called(version):
    calls = []

    class Watched(ssl.SSLObject):
        def do_handshake(self):
            calls.append("do_handshake")
            super().do_handshake()

        def read(self, len=1024, buffer=None):
            calls.append("read")
            return super().read(len, buffer)

        def write(self, data):
            calls.append("write")
            return super().write(data)

        def unwrap(self):
            calls.append("unwrap")
            super().unwrap()

    client_context, server_context = contexts(version)
    client_context.sslobject_class = Watched
    client = Tls(client_context, False, "localhost")
    server = Tls(server_context, True, None)
    shake(client, server)
    assert type(client.ssl_object) is Watched and "do_handshake" in calls
    server.feed_bytes(encrypted(client, pattern(20_000)))
    assert_same_bytes(everything(server), pattern(20_000))
    client.feed_bytes(encrypted(server, pattern(20_000)))
    assert_same_bytes(everything(client), pattern(20_000))
    client.shutdown()
    assert {"read", "write", "unwrap"} <= set(calls)


def test_openssl_is_asked_as_often_as_there_are_records(version):
    reads = []

    class Counted(ssl.SSLObject):
        def read(self, len=1024, buffer=None):
            reads.append(len)
            return super().read(len, buffer)

    client_context, server_context = contexts(version)
    server_context.sslobject_class = Counted
    client = Tls(client_context, False, "localhost")
    server = Tls(server_context, True, None)
    shake(client, server)
    for count, into in itertools.product((1, 2, 5), (False, True)):
        cipher = b"".join(encrypted(client, pattern(1000)) for _ in range(count))
        memory = bytearray(1000 * count)
        reads.clear()
        for part in (cipher[:30], cipher[30:]):
            server.feed_bytes(part)
            got = server.read_into_bytearray(memory) if into else server.read(ALL)
            assert bool(got) == (part != cipher[:30]) and not server.has_more()
        assert not server.read_into_bytearray(memory) and server.read(ALL) is None
        assert len(reads) == count
        # Room for what is there, and little more.
        assert max(reads) <= 1100 * count


# -- what the peer may do meanwhile -------------------------------------------------------------


@pytest.mark.parametrize("ours", [False, True])
def test_a_key_update_is_answered(ours):
    client, server = opened("1.3")
    sender, receiver = (client, server) if ours else (server, client)
    openssl = OpenSsl(sender.ssl_object)
    openssl.update_key(ask=True)
    # The update goes out with the next write, in a record of its own.
    cipher = encrypted(sender, b"new key")
    assert len(records_of(cipher)) == 2
    receiver.feed_bytes(cipher)
    # OpenSSL takes both in one call, of which has_more() knows.
    assert receiver.read(1) == b"new key"
    assert not receiver.has_more() and receiver.read(ALL) is None
    answer = encrypted(receiver, b"new key too")
    assert len(records_of(answer)) == 2
    sender.feed_bytes(answer)
    assert everything(sender) == b"new key too"
    # Alone, cut in two, it is answered with nothing to read.
    openssl.update_key(ask=True)
    cipher = encrypted(sender, b"!")
    update, rest = records_of(cipher)
    for part in (update[:7], update[7:]):
        receiver.feed_bytes(part)
        assert receiver.read(ALL) is None and not receiver.has_more()
    receiver.feed_bytes(rest)
    assert everything(receiver) == b"!"


def test_a_handshake_anew_is_no_obstacle():
    """The server of TLS 1.2 asks for it: the client answers in a read, and both write later."""
    client, server = opened("1.2")
    assert OpenSsl(server.ssl_object).begin_anew() == 1
    request = taken(server)
    assert request
    client.feed_bytes(request + encrypted(server, b"data meanwhile"))
    assert everything(client) == b"data meanwhile"
    hello = taken(client)
    assert hello, "the read has answered"
    server.feed_bytes(hello)
    assert everything(server) == b""
    assert client.write_bytes(b"later") == 0, "OpenSSL has to read first"
    for _ in range(3):
        client.feed_bytes(taken(server))
        assert everything(client) == b""
        server.feed_bytes(taken(client))
        assert everything(server) == b""
    server.feed_bytes(encrypted(client, b"later"))
    assert everything(server) == b"later"
    client.feed_bytes(encrypted(server, b"later"))
    assert everything(client) == b"later"


# -- any cutting --------------------------------------------------------------------------------

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.booleans(), st.sampled_from([1, 2, 100, 16384, 17000])),
        st.tuples(st.just("move"), st.booleans(), st.sampled_from([1, 4, 5, 6, 60, 3000, ALL])),
        st.tuples(st.just("read"), st.booleans(), st.sampled_from([0, 1, 1000, 50_000, ALL])),
        st.tuples(st.just("into"), st.booleans(), st.sampled_from([1, 90, 5000, 40_000])),
        st.tuples(st.just("shut"), st.booleans(), st.just(0)),
    ),
    max_size=60,
)


class Side:
    """One of two peers: what it has written, what it has read, what is under way to it."""

    def __init__(self, tls):
        self.tls = tls
        self.wrote = b""
        self.got = b""
        self.coming = b""
        self.writes = 0

    def do(self, what, size, other):
        if what == "write" and self.tls.opened and not self.tls.shut:
            self.writes += 1
            data = pattern(size, self.writes)
            assert self.tls.write_bytes(data) == size
            self.wrote += data
        elif what == "move":
            self.tls.feed_bytes(self.coming[:size])
            self.coming = self.coming[size:]
            self.tls.handshake()
        elif what == "read":
            self.got += self.tls.read(size) or b""
        elif what == "into":
            # It leaves decrypted bytes behind, and those a shutdown would lose.
            memory = bytearray(size)
            self.got += memory[: self.tls.read_into_bytearray(memory)]
        elif what == "shut" and not (self.tls.has_more() and self.tls.opened):
            self.tls.shutdown()
        other.coming += taken(self.tls)

    def finish(self, other):
        """All that is under way comes; nothing must be left that has_more() does not know of."""
        self.do("move", ALL, other)
        while self.tls.has_more():
            self.do("read", 1000, other)


@pytest.mark.engine("how the stream is cut is nothing to Python")
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=STEPS)
def test_any_cutting_gives_the_same_plaintext(version, steps):
    one, two = map(Side, peers(version))
    one.do("move", 0, two)
    for what, is_one, size in steps:
        side, other = (one, two) if is_one else (two, one)
        side.do(what, size, other)
    for _ in range(5):
        one.finish(two)
        two.finish(one)
    assert one.tls.opened and two.tls.opened
    for side, other in [(one, two), (two, one)]:
        assert side.coming == b""
        assert_same_bytes(side.got, other.wrote)
        assert side.tls.ended == other.tls.shut


@pytest.mark.parametrize("seed", range(3))
def test_a_long_stream_in_random_pieces(version, seed):
    client, server = opened(version)
    data = pattern(300_000, seed)
    cipher = b"".join(encrypted(client, part) for part in pieces(data, 60, seed))
    got = b""
    for part in pieces(cipher, 200, seed):
        server.feed_bytes(part)
        while server.has_more():
            got += server.read(5000)
    assert_same_bytes(got, data)
