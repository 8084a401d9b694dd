"""Connections' routing ids are the server's: not guessed, not claimed, and none of libzmq's own."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import msgpack
import pytest
import zmq

from sim_stream.errors import Unavailable
from sim_stream.wire.keys import ClientKeys
from sim_stream.wire.server.doorkeeper import ID_BYTES, Doorkeeper, guard_door
from tests.faults.impostors import Peer
from tests.wire.conftest import ROOT, TIMEOUT_S, RawClient
from tests.wire.test_security import Realm

HELLO = msgpack.packb({"v": 1, "rid": 1, "t": "hello"})


class Door:
    """A ROUTER behind a doorkeeper, which shows under which ids its peers come."""

    def __init__(self, realm: Realm | None, admits: Any = None) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.keys = None if realm is None else realm.keys("alice")
        guard = None if realm is None else realm.guard()
        self.keeper = Doorkeeper(self.context, admits or (guard and guard.admits))
        self.keeper.start()
        self.router = self.context.socket(zmq.ROUTER)
        if guard is None:
            guard_door(self.router)
        else:
            guard.protect(self.router)
        self.router.linger = 0
        self.router.bind("tcp://127.0.0.1:0")
        self.endpoint = self.router.getsockopt_string(zmq.LAST_ENDPOINT)

    def ids(self, count: int) -> list[bytes]:
        found = []
        for _ in range(count):
            assert self.router.poll(TIMEOUT_S * 1e3), "nobody came in"
            found.append(self.router.recv_multipart()[0])
        return found

    def close(self) -> None:
        self.router.close()
        self.keeper.stop()
        self.context.term()


@pytest.fixture(params=["open", "guarded"])
def door(request: pytest.FixtureRequest, tmp_path) -> Iterator[Door]:
    door = Door(Realm(tmp_path) if request.param == "guarded" else None)
    yield door
    door.close()


@pytest.fixture
def peers(door: Door, tmp_path) -> Iterator[Any]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    there: list[zmq.Socket[bytes]] = []

    def come(routing_id: bytes | None) -> zmq.Socket[bytes]:
        peer = context.socket(zmq.DEALER)
        peer.linger = 0
        if routing_id is not None:
            peer.routing_id = routing_id
        if door.keys is not None:
            keys = ClientKeys.load(**door.keys)
            assert keys is not None
            keys.secure(peer)
        peer.connect(door.endpoint)
        peer.send(b"")
        there.append(peer)
        return peer

    yield come
    context.destroy(linger=0)


def test_no_peer_chooses_its_id_and_libzmq_makes_up_none(door, peers):
    claimed = [b"\0" + struct.pack(">I", 0x6B8B4567 + n) for n in range(40)]
    claimed += [b"x", b"\0", b"\1" * ID_BYTES, b"y" * 255]
    for routing_id in claimed:
        peers(routing_id)
    for _ in range(20):
        peers(None)
    ids = door.ids(len(claimed) + 20)
    assert len(set(ids)) == len(ids)
    assert not set(ids) & set(claimed)
    assert all(len(one) == ID_BYTES and one[0] == 1 for one in ids)


def test_a_taken_id_claimed_again_is_another_peers(door, peers):
    first = peers(None)
    (taken,) = door.ids(1)
    peers(taken)
    (other,) = door.ids(1)
    assert other != taken
    door.router.send_multipart([taken, b"for the first"])
    assert first.recv() == b"for the first"


def test_one_context_has_one_doorkeeper():
    door = Door(None)
    with pytest.raises(Unavailable, match="doorkeeper"):
        Doorkeeper(door.context, None)
    door.close()


def test_a_stopped_doorkeeper_lets_nobody_in():
    door = Door(None)
    door.keeper.stop()
    raw = RawClient(door.endpoint)
    raw.send({"t": "hello"})
    assert not door.router.poll(300)
    raw.close()
    door.close()


def test_a_list_that_fails_for_once_keeps_nobody_out_for_good(tmp_path):
    """The peer is not told that it is not listed; its next attempt finds the list well."""
    realm, failures = Realm(tmp_path), [OSError("no descriptor left")]

    def admits(key: str) -> bool:
        if failures:
            raise failures.pop()
        return True

    door = Door(realm, admits)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    keys = ClientKeys.load(**realm.keys("alice"))
    assert keys is not None
    peers = [context.socket(zmq.DEALER) for _ in range(2)]
    for peer in peers:
        peer.linger = 0
        keys.secure(peer)
        peer.connect(door.endpoint)
        peer.send(b"")
    assert len(door.ids(1)) == 1 and not failures
    context.destroy(linger=0)
    door.close()


FIRST_ID = """
import zmq
from sim_stream.wire.server.doorkeeper import seed_routing_ids
seed_routing_ids()
context = zmq.Context()
router, dealer = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
router.bind("tcp://127.0.0.1:0")
dealer.connect(router.getsockopt_string(zmq.LAST_ENDPOINT))
dealer.send(b"")
print(router.recv_multipart()[0].hex())
context.destroy(linger=0)
"""


def test_ids_that_libzmq_makes_up_start_elsewhere_in_every_process():
    def first() -> str:
        return subprocess.run(
            [sys.executable, "-c", FIRST_ID], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()

    ids = {first() for _ in range(3)}
    assert len(ids) == 3 and all(len(one) == 10 and one.startswith("00") for one in ids)
    assert "006b8b4567" not in ids


def test_a_peer_that_holds_its_handshake_back_gets_in_and_claims_nothing_that_is_taken(server):
    """It may still choose an id; what it cannot know is one that is in use or will be."""
    host, port = server.endpoint.removeprefix("tcp://").split(":")
    peers = [Peer(host, int(port), routing_id=b"\0" + struct.pack(">I", 7)) for _ in range(2)]
    for peer in peers:
        peer.finish_late()
        peer.send(HELLO)
    answered = [peer.answered(timeout_s=0.5) for peer in peers]
    assert sum(answered) == 1  # the second one's id is taken, and it is left alone
    raw = RawClient(server.endpoint)
    assert raw.ask({"t": "hello"})["t"] == "hello_ok"
    raw.close()
    for peer in peers:
        peer.close()
