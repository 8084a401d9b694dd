"""Whoever connects to a server's port and is no client: bytes of any kind, too many connections,
and peers without the right key.
"""

from __future__ import annotations

import shutil
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from random import Random

from sim_stream.errors import Unavailable
from tests.faults.clients import VICTIM, Bystander, DriverProcess, toy_reference
from tests.faults.keys import Keys
from tests.faults.processes import Server, require, toy_server, wait_until
from tests.faults.registry import Fault, Figures, Stage
from tests.wire.conftest import RawClient

GROWTH_MIB = 48.0
CONNECT_TIMEOUT_S = 5.0
DESCRIPTORS = 64
STRANGER_TIMEOUT_S = 1.5
BYSTANDER_STEPS = 50  # after all that

# ZMTP 3.0 by hand: signature, version, mechanism, as-server, filler; then READY.
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
SOCKET_TYPE = b"\x0bSocket-Type" + struct.pack(">I", 6) + b"DEALER"
READY = b"\x04" + bytes([6 + len(SOCKET_TYPE)]) + b"\x05READY" + SOCKET_TYPE
LONG, LONG_MORE, LONG_COMMAND = b"\x02", b"\x03", b"\x06"


def streams(random: Random) -> Iterator[tuple[str, bytes]]:
    """What a peer may write to the TCP port itself."""
    noise = random.randbytes
    yield "HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 50
    yield "TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + noise(500)
    yield "nothing", b""
    yield "half a greeting", GREETING[:11]
    yield "another mechanism", GREETING.replace(b"NULL", b"EVIL")
    yield "from the future", GREETING.replace(b"\x7f\x03", b"\x7f\xff")
    yield "READY cut off", GREETING + READY[:9]
    metadata = b"\x0bSocket-Type" + struct.pack(">I", 2**31 - 1) + b"D"
    yield (
        "metadata of 2 GiB",
        GREETING + b"\x04" + bytes([6 + len(metadata)]) + b"\x05READY" + metadata,
    )
    for size in (2**31, 2**40, 2**63 - 1, 2**63, 2**64 - 1):
        for name, flags in (("part", LONG), ("first part", LONG_MORE), ("command", LONG_COMMAND)):
            yield f"{name} of {size} bytes", GREETING + READY + flags + struct.pack(">Q", size)
    for flags in range(8, 256, 31):
        yield f"flags {flags}", GREETING + READY + bytes([flags, 1, 0])
    curve = GREETING.replace(b"NULL\0", b"CURVE")
    for command in (
        b"",
        b"\x05HELLO",
        b"\x05HELLO\x01\0" + bytes(192),
        b"\x08INITIATE" + bytes(99),
    ):
        yield "handshake of CURVE", curve + b"\x04" + bytes([len(command)]) + command
    for _ in range(60):
        yield "noise", noise(random.randrange(1, 4096))
        yield "noise after READY", GREETING + READY + noise(random.randrange(1, 4096))


def run_streams(stage: Stage) -> Figures:
    server = stage.start(toy_server())
    bystander = stage.start(Bystander(server.endpoint))
    bystander.wait_for(5)
    memory = server.memory(bound_mib=GROWTH_MIB)
    peers = write_streams(stage, server)
    raw = RawClient(server.endpoint)
    stage.callback(raw.close)
    require(raw.ask({"t": "hello"})["t"] == "hello_ok", "a good client was not answered")
    bystander.wait_for(bystander.step + BYSTANDER_STEPS)
    return {
        "connections": str(peers),
        "sizes up to": "2^64 - 1 bytes",
        **memory.check(),
        **bystander.check_undisturbed(toy_reference),
    }


def write_streams(stage: Stage, server: Server) -> int:
    """How many connections; they stay open to the end, so that nothing is given back before."""
    host, port = server.endpoint.removeprefix("tcp://").split(":")
    peers = 0
    for _, written in streams(stage.random):
        peer = stage.start(socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S))
        with suppress(ConnectionError):  # cut off before it was done
            peer.sendall(written)
        peers += 1
    return peers


def run_guarded(stage: Stage) -> Figures:
    """The same bytes, and clients without the right keys, against a server that asks for them."""
    keys = Keys(stage.folder, allowed=("bystander",))
    server = stage.start(toy_server(*keys.server))
    bystander = stage.start(Bystander(server.endpoint, **keys.client("bystander")))
    bystander.wait_for(5)
    memory = server.memory(bound_mib=GROWTH_MIB)
    peers = write_streams(stage, server)
    how = {"no key": {}, "unlisted": keys.unlisted, "wrong server": keys.mistaken("bystander")}
    strangers = {
        name: stage.start(
            DriverProcess(server.endpoint, key=VICTIM, timeout_s=STRANGER_TIMEOUT_S, **options)
        )
        for name, options in how.items()
    }
    told = {name: refusal(stranger, name) for name, stranger in strangers.items()}
    bystander.wait_for(bystander.step + BYSTANDER_STEPS)
    return {
        "connections": str(peers),
        "told": ", ".join(f"{name} {code}" for name, code in told.items()),
        **memory.check(),
        **bystander.check_undisturbed(toy_reference),
    }


def refusal(stranger: DriverProcess, name: str) -> str:
    """The code of the error that it ended with. Raises Violated where it got a session."""
    wait_until(f"{name} gives up", lambda: bool(stranger.error or stranger.sid), timeout_s=30)
    require(stranger.error is not None, f"a stranger ({name}) has a session")
    assert stranger.error is not None
    return stranger.error["code"]


def run_descriptors(stage: Stage) -> Figures:
    """More connections than the process may have files; more wait in the kernel's queue."""
    if shutil.which("prlimit") is None:
        raise Unavailable("prlimit (util-linux) is not installed")
    server = stage.start(toy_server(prefix=["prlimit", f"--nofile={DESCRIPTORS}"]))
    bystander = stage.start(Bystander(server.endpoint))
    bystander.wait_for(5)
    memory = server.memory(bound_mib=GROWTH_MIB)
    host, port = server.endpoint.removeprefix("tcp://").split(":")
    with ExitStack() as peers:
        for _ in range(2 * DESCRIPTORS):
            address = (host, int(port))
            peer = socket.create_connection(address, timeout=CONNECT_TIMEOUT_S)
            peers.enter_context(peer).sendall(GREETING + READY)
        bystander.wait_for(bystander.step + BYSTANDER_STEPS)
    raw = RawClient(server.endpoint)
    stage.callback(raw.close)
    require(raw.ask({"t": "hello"})["t"] == "hello_ok", "no new client was answered afterwards")
    return {
        "connections": f"{2 * DESCRIPTORS} at {DESCRIPTORS} descriptors",
        "a new client": "served once they were gone",
        **memory.check(),
        **bystander.check_undisturbed(toy_reference),
    }


FAULTS = (
    Fault(
        name="hostile bytes below the protocol",
        holds="their connections go nowhere, others are served, memory is bounded",
        run=run_streams,
    ),
    Fault(
        name="strangers at a guarded server",
        holds="without the right key nobody gets a session",
        run=run_guarded,
    ),
    Fault(
        name="out of file descriptors",
        holds="who is connected is served; others are once there is room",
        run=run_descriptors,
    ),
)
