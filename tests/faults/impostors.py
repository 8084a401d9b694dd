"""Peers that claim a routing id of libzmq's own making, which ends the process where one is taken.

libzmq makes up an id for a peer that brings none: a 0 and a number that counts up. If a peer has
claimed it before, libzmq aborts (``Assertion failed: ok``), whichever peer comes next.
"""

from __future__ import annotations

import socket
import struct
from contextlib import suppress

import zmq

from sim_stream.wire.keys import ClientKeys
from tests.faults.clients import Bystander, toy_reference
from tests.faults.keys import Keys
from tests.faults.processes import Server, require, toy_server
from tests.faults.registry import Fault, Figures, Stage
from tests.faults.strangers import GREETING
from tests.wire.conftest import RawClient

# Where an unseeded rand() of glibc lets the first, second and third ROUTER of a process begin.
STARTS = (0x6B8B4567, 0xE43C9869, 0xF4B0DC51)
CLAIMS = 40
NEWCOMERS = 20
HANDSHAKE_S = 5.0
LATE = 100


def automatic(number: int) -> bytes:
    """The id that libzmq makes of that number."""
    return b"\0" + struct.pack(">I", number & 0xFFFFFFFF)


class Peer:
    """ZMTP 3.0 by hand, without keys: it says who it is when it likes to."""

    def __init__(self, host: str, port: int, *, routing_id: bytes) -> None:
        self._socket = socket.create_connection((host, port), timeout=HANDSHAKE_S)
        self._routing_id = routing_id
        self._socket.sendall(GREETING)

    def finish_late(self) -> None:
        """Waits for the server's READY, then sends its own."""
        self._receive(64)
        self._command()
        body = b"\x05READY" + _property(b"Socket-Type", b"DEALER")
        body += _property(b"Identity", self._routing_id)
        self._socket.sendall(b"\x06" + struct.pack(">Q", len(body)) + body)

    def send(self, part: bytes) -> None:
        self._socket.sendall(b"\x02" + struct.pack(">Q", len(part)) + part)

    def answered(self, *, timeout_s: float) -> bool:
        self._socket.settimeout(timeout_s)
        try:
            return bool(self._socket.recv(1))
        except TimeoutError:
            return False

    def close(self) -> None:
        self._socket.close()

    def _command(self) -> bytes:
        flags = self._receive(1)[0]
        size = self._receive(1)[0] if flags == 4 else struct.unpack(">Q", self._receive(8))[0]
        return self._receive(size)

    def _receive(self, count: int) -> bytes:
        got = b""
        while len(got) < count:
            more = self._socket.recv(count - len(got))
            if not more:
                raise ConnectionError("the server hung up")
            got += more
        return got


def _property(name: bytes, value: bytes) -> bytes:
    return bytes([len(name)]) + name + struct.pack(">I", len(value)) + value


def run_open(stage: Stage) -> Figures:
    server = stage.start(toy_server())
    return claimed(stage, server, None, {})


def run_guarded(stage: Stage) -> Figures:
    """By a client that is allowed: nobody else gets so far."""
    keys = Keys(stage.folder, allowed=("bystander", "impostor"))
    server = stage.start(toy_server(*keys.server))
    impostor = keys.client("impostor")
    loaded = ClientKeys.load(impostor["secret_key"], impostor["server_key"])
    return claimed(stage, server, loaded, keys.client("bystander"))


def claimed(
    stage: Stage, server: Server, keys: ClientKeys | None, how: dict[str, object]
) -> Figures:
    bystander = stage.start(Bystander(server.endpoint, **how))
    bystander.wait_for(5)
    context = stage.start(zmq.Context())
    claims = [automatic(start + n) for start in STARTS for n in range(-CLAIMS // 2, CLAIMS)]
    claimants = [stage.start(context.socket(zmq.DEALER)) for _ in claims]
    for claimant, routing_id in zip(claimants, claims, strict=True):
        claimant.linger = 0
        claimant.routing_id = routing_id
        if keys is not None:
            keys.secure(claimant)
        claimant.connect(server.endpoint)
    late = held_back(stage, server) if keys is None else 0
    for number in range(NEWCOMERS):
        newcomer = RawClient(server.endpoint, keys)
        stage.callback(newcomer.close)
        newcomer.send({"t": "hello"})
        require(bool(newcomer.socket.poll(10_000)), f"newcomer {number} was not answered")
        require(newcomer.receive()["t"] == "hello_ok", f"newcomer {number} was refused")
        server.require_alive()
    bystander.wait_for(bystander.step + 20)
    return {
        "claimed": f"{len(claims)} ids, {late} more by handshakes held back",
        "new clients": f"{NEWCOMERS} of {NEWCOMERS} served",
        **bystander.check_undisturbed(toy_reference),
    }


def held_back(stage: Stage, server: Server) -> int:
    """Claims, and peers without an id, whose word comes after the server's answer: it counts."""
    host, port = server.endpoint.removeprefix("tcp://").split(":")
    ids = [automatic(STARTS[0] + n) if n % 2 else b"" for n in range(LATE)]
    peers = [Peer(host, int(port), routing_id=routing_id) for routing_id in ids]
    for peer in peers:
        stage.callback(peer.close)
        with suppress(ConnectionError):
            peer.finish_late()
    return len(peers)


FAULTS = (
    Fault(
        name="routing ids claimed",
        holds="nobody comes in under an id of his choice; the server lives, others are served",
        run=run_open,
    ),
    Fault(
        name="routing ids claimed by an allowed client",
        holds="the same of a guarded server",
        run=run_guarded,
    ),
)
