"""What one connection may take of a server, over real sockets: parts, topics, places."""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable

import msgpack
import pytest
import zmq

from sim_stream.wire.client.blocking_client import StreamClient
from sim_stream.wire.keys import ClientKeys
from sim_stream.wire.server import connections, viewers
from tests.faults.strangers import GREETING, READY
from tests.faults.taking import greeted, part, subscription
from tests.wire.conftest import TIMEOUT_S, RawClient
from tests.wire.test_security import Realm
from tests.wire.toy import prompt_frames

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="connections are watched on Linux")
PUBLISHED = {"publish": "tcp://127.0.0.1:0"}


@pytest.fixture
def realm(tmp_path):
    return Realm(tmp_path)


def wait_until(holds: Callable[[], bool]) -> None:
    give_up_s = time.monotonic() + TIMEOUT_S
    while not holds():
        assert time.monotonic() < give_up_s, "never"
        time.sleep(0.01)


def is_cut(peer: socket.socket) -> bool:
    """Sends nothing; whether the server ended it, within a time that no busy machine exceeds."""
    peer.settimeout(TIMEOUT_S)
    try:
        while peer.recv(65536):
            pass
    except ConnectionError:
        return True
    except TimeoutError:
        return False
    return True


def endless(peer: socket.socket, size: int) -> bool:
    """Whether it is cut off before it has sent far more than any message may have."""
    peer.settimeout(TIMEOUT_S)
    some = part(size) * max(1, 32_768 // (size + 2))
    try:
        for _ in range(2**28 // len(some)):
            peer.sendall(some)
    except ConnectionError:
        return True
    return False


# Messages that never end.


@pytest.mark.parametrize("size", [0, 1, 30_000])
def test_a_message_that_never_ends_costs_its_connection(server, client, size):
    with greeted(server.endpoint, b"DEALER") as peer:
        assert endless(peer, size)
    wait_until(lambda: server.counters.cut == 1 or client.status() is None)
    with client.open(prompt_frames()) as session:
        assert session.step().step == 1


def test_so_it_does_over_ipv6(serve):
    server = serve(bind="tcp://[::1]:0")
    with greeted(server.endpoint, b"DEALER") as peer:
        assert endless(peer, 0)


def test_so_it_does_at_the_viewers_socket(serve):
    server = serve(**PUBLISHED)
    with greeted(server.publish_endpoint, b"XSUB") as peer:
        assert endless(peer, 0)


def test_an_encrypted_message_beyond_the_limit_costs_its_connection(serve, realm):
    """libzmq sends nothing of a message that has no end, so this one has one, 60 MB later."""
    server = serve(guard=realm.guard())
    raw = realm.raw(server, "alice")
    with realm.client(server, "bob") as bob, bob.open(prompt_frames()) as session:
        for step in range(1, 20):
            raw.socket.send_multipart([bytes(3000)] * 20_000)
            assert session.step().step == step
            wait_until(lambda: server.counters.cut > 0 or raw.socket.poll(0) != 0)
            if server.counters.cut:
                break
            raw.receive()  # it was read at once, and refused
    assert server.counters.cut > 0
    raw.close()


@pytest.mark.parametrize("guarded", [False, True])
def test_any_number_of_whole_messages_costs_nothing(serve, realm, guarded):
    server = serve(guard=realm.guard() if guarded else None, requests_per_s=1e6)
    raw = realm.raw(server, "alice") if guarded else RawClient(server.endpoint)
    frames = prompt_frames()
    for _ in range(60):  # far beyond the limit together, many at a time
        for _ in range(10):
            raw.send({"t": "reset", "sid": "x"}, *[frames.tobytes()] * 6)
        for _ in range(10):
            assert raw.receive()["t"] == "error"
    assert server.counters.cut == 0
    raw.close()


def test_a_slow_sender_of_a_large_message_gets_its_answer(server):
    limit = server._info.limits.message_bytes
    payload: bytes = msgpack.packb({"v": 1, "t": "hello", "rid": 1})
    rest = bytes(limit - len(payload))
    message = b"\x01" + bytes([len(payload)]) + payload + b"\x02" + struct.pack(">Q", len(rest))
    with greeted(server.endpoint, b"DEALER") as peer:
        for start in range(0, limit, 4096):
            peer.sendall((message + rest)[start : start + 4096])
            time.sleep(0.005)
        peer.sendall((message + rest)[limit:])
        peer.settimeout(TIMEOUT_S)
        answer = b""
        while b"BAD_MESSAGE" not in answer:  # hello takes no arrays
            received = peer.recv(65536)
            assert received, "cut off"
            answer += received


# Topics.


class Viewer:
    """A SUB socket, by hand."""

    def __init__(self, endpoint: str, keys: ClientKeys | None = None) -> None:
        self.socket = zmq.Context.instance().socket(zmq.SUB)
        self.socket.linger = 0
        if keys is not None:
            keys.secure(self.socket)
        self.socket.connect(endpoint)

    def sees(self, step: Callable[[], None], tries: int = 200) -> bool:
        """Whether a frame comes, where steps are taken until one does."""
        for _ in range(tries):
            step()
            if self.socket.poll(20):
                self.socket.recv_multipart()
                return True
        return False

    def __enter__(self) -> Viewer:
        return self

    def __exit__(self, *error: object) -> None:
        self.socket.close()


@pytest.fixture
def published(serve):
    return serve(**PUBLISHED)


@pytest.fixture
def session(published):
    with (
        StreamClient(published.endpoint, timeout_s=TIMEOUT_S) as client,
        client.open(prompt_frames()) as session,
    ):
        yield session


def test_more_topics_than_a_viewer_may_have_are_refused_and_the_first_go_on(
    published, session, caplog
):
    with Viewer(published.publish_endpoint) as viewer:
        viewer.socket.subscribe(session.sid)
        for number in range(viewers.TOPICS_PER_VIEWER + 9):
            viewer.socket.subscribe(f"{number:016x}")
        wait_until(lambda: published.counters.refused_topics == 10)
        assert viewer.sees(session.step)
    assert "refused a topic: topics: allowed: 64 of one viewer" in caplog.text
    assert published.counters.cut == 0


def test_unsubscribing_makes_room_for_other_topics(published, session):
    with Viewer(published.publish_endpoint) as viewer:
        names = [f"{number:016x}" for number in range(viewers.TOPICS_PER_VIEWER)]
        for name in names:
            viewer.socket.subscribe(name)
        for name in names[:2]:
            viewer.socket.unsubscribe(name)
        viewer.socket.subscribe(session.sid)
        assert viewer.sees(session.step)
        viewer.socket.unsubscribe(session.sid)
        wait_until(lambda: not viewer.sees(session.step, tries=3))
    assert published.counters.refused_topics == 0


def test_a_viewer_that_leaves_frees_its_topics(published, session):
    for _ in range(3):
        with Viewer(published.publish_endpoint) as viewer:
            viewer.socket.subscribe("")
            assert viewer.sees(session.step)
            assert published._connections.topics == 1
        wait_until(lambda: published._connections.topics == 0)


def test_a_viewer_with_far_too_many_topics_is_cut_off(published, session):
    with greeted(published.publish_endpoint, b"SUB") as peer:
        peer.sendall(b"".join(subscription(b"%016x" % number) for number in range(300)))
        assert is_cut(peer)
    wait_until(lambda: published._connections.topics == 0)
    with Viewer(published.publish_endpoint) as viewer:
        viewer.socket.subscribe("")
        assert viewer.sees(session.step)


@pytest.mark.parametrize("size", [viewers.MESSAGE_BYTES, 60_000])
def test_a_topic_that_is_none_costs_its_connection(published, size):
    with greeted(published.publish_endpoint, b"SUB") as peer:
        peer.sendall(subscription(bytes(size)))
        assert is_cut(peer)


def test_a_topic_longer_than_a_sid_is_refused(published, caplog):
    with Viewer(published.publish_endpoint) as viewer:
        viewer.socket.subscribe("x" * 65)
        wait_until(lambda: published.counters.refused_topics == 1)
    assert "topic: got 65 bytes; allowed: 64 bytes" in caplog.text


def test_a_viewer_that_talks_or_never_settles_is_cut_off(published):
    for sent in (
        b"\x00\x04ping",
        (subscription(b"x") + subscription(b"x").replace(b"\1x", b"\0x")) * 1000,
    ):
        with greeted(published.publish_endpoint, b"XSUB") as peer:
            peer.sendall(sent)
            assert is_cut(peer)


def test_a_cap_over_all_viewers(published, monkeypatch):
    monkeypatch.setattr(viewers, "TOPICS", 3)
    with Viewer(published.publish_endpoint) as first, Viewer(published.publish_endpoint) as second:
        for number in range(3):
            first.socket.subscribe(str(number))
        wait_until(lambda: published._connections.topics == 3)
        second.socket.subscribe("4")
        wait_until(lambda: published.counters.refused_topics == 1)


@pytest.mark.parametrize("topic", ["", "sid"])
def test_encrypted_viewers_see_by_topic_also_after_a_restart(serve, realm, topic):
    guard = realm.guard()
    server = serve(guard=guard, **PUBLISHED)
    keys = ClientKeys.load(**realm.keys("bob"))
    with Viewer(server.publish_endpoint, keys) as viewer:
        with realm.client(server, "alice") as alice, alice.open(prompt_frames()) as session:
            viewer.socket.subscribe(session.sid if topic else "")
            assert viewer.sees(session.step)
        at = {"bind": server.endpoint, "publish": server.publish_endpoint}
        server.stop()
        server = serve(guard=guard, **at)
        with realm.client(server, "alice") as alice, alice.open(prompt_frames()) as session:
            if topic:
                viewer.socket.subscribe(session.sid)
            assert viewer.sees(session.step)


# Places.


def test_a_silent_connection_makes_room_for_a_client(serve, monkeypatch):
    monkeypatch.setattr(connections, "connections_allowed", lambda max_sessions: 3)
    server = serve()
    address = ("127.0.0.1", int(server.endpoint.rpartition(":")[2]))
    silent = [socket.create_connection(address) for _ in range(3)]
    with StreamClient(server.endpoint, timeout_s=TIMEOUT_S) as client:
        assert is_cut(silent[0])
        client.status()
        for peer in silent[1:]:
            peer.sendall(GREETING + READY)
        more = [socket.create_connection(address) for _ in range(5)]
        assert is_cut(silent[1]) and is_cut(silent[2])
        assert client.status().sessions == 0  # it has spoken, and stays
        wait_until(lambda: client.status() is not None and server.counters.connections <= 3)
        assert server.counters.evicted >= 3
        for peer in (*silent, *more):
            peer.close()


def test_what_escapes_from_the_watch_does_not_end_it(serve, monkeypatch, caplog):
    monkeypatch.setattr(connections, "BREATH_S", 0.05)
    server, look = serve(), connections.Connections._look
    failed: list[int] = []

    def failing(self: connections.Connections, descriptor: int) -> bool:
        if not failed:
            failed.append(descriptor)
            raise KeyError("planted")
        return look(self, descriptor)

    monkeypatch.setattr(connections.Connections, "_look", failing)
    with greeted(server.endpoint, b"DEALER") as peer:
        assert endless(peer, 0)
    assert failed and "planted" in caplog.text


def test_a_process_takes_as_many_descriptors_as_it_may_have_and_keeps_some_back():
    code = """
import logging, resource
from sim_stream.wire.server.descriptors import connections_allowed, raise_limit
logging.basicConfig(level=logging.INFO, format="%(message)s")
resource.setrlimit(resource.RLIMIT_NOFILE, (300, 900))
raise_limit()
print(*resource.getrlimit(resource.RLIMIT_NOFILE), connections_allowed(4))
resource.setrlimit(resource.RLIMIT_NOFILE, (20, 900))
print(connections_allowed(4))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    soft, hard, allowed, few = map(int, done.stdout.split())
    assert (soft, hard) == (900, 900)
    assert 600 < allowed <= 900 * 3 // 4 and 1 <= few <= 10
    assert "limit raised from 300 to 900" in done.stderr
