"""One peer that takes what it can get: parts without end, topics without number, connections.

Each costs it its connection or gets it nothing; the server's memory stays, and nobody waits.
"""

from __future__ import annotations

import os
import shutil
import socket
import struct
import threading
import time
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

import zmq

from sim_stream.errors import Unavailable
from sim_stream.recording.load import load
from tests.faults.clients import Bystander, DriverProcess, toy_reference
from tests.faults.processes import Server, require, toy_server, wait_until
from tests.faults.readers import GoodViewer
from tests.faults.registry import Fault, Figures, Stage
from tests.faults.strangers import GREETING, LONG_MORE, READY
from tests.wire.conftest import RawClient, frames_spec
from tests.wire.toy import prompt_frames, toy_spec

GROWTH_MIB = 100.0
STALL_MS = 500.0
CONNECT_TIMEOUT_S = 5.0
ATTACK_S = 1.2
GOOD_OPENS = 20
LARGE_TOPICS, LARGE_BYTES = 500, 60_000
SMALL_TOPICS = 200_000
TOPIC_STEPS, TOPICS_AT_ONCE = 25, 200
SIZE = 256
REFERENCE = partial(toy_reference, spec=toy_spec(frame_shape=(SIZE, SIZE, 3)))
DESCRIPTORS, STRANGERS = 64, 100
SHORT_MORE, COMMAND = b"\x01", b"\x04"


def address_of(endpoint: str) -> tuple[str, int]:
    host, port = endpoint.removeprefix("tcp://").rsplit(":", 1)
    return host.strip("[]"), int(port)


def greeted(endpoint: str, socket_type: bytes) -> socket.socket:
    """A peer that speaks ZMTP by hand; its handshake is done."""
    peer = socket.create_connection(address_of(endpoint), timeout=CONNECT_TIMEOUT_S)
    metadata = b"\x0bSocket-Type" + struct.pack(">I", len(socket_type)) + socket_type
    ready = b"\x05READY" + metadata
    peer.sendall(GREETING + COMMAND + bytes([len(ready)]) + ready)
    theirs = read(peer, len(GREETING) + 2)
    read(peer, theirs[-1])  # before the server's READY a message would be a mistake
    return peer


def read(peer: socket.socket, size: int) -> bytes:
    """Raises ConnectionError where it ends before."""
    found = b""
    while len(found) < size:
        some = peer.recv(size - len(found))
        if not some:
            raise ConnectionResetError("the connection ended in the handshake")
        found += some
    return found


def part(size: int) -> bytes:
    if size < 256:
        return SHORT_MORE + bytes([size]) + bytes(size)
    return LONG_MORE + struct.pack(">Q", size) + bytes(size)


class Sender(threading.Thread):
    """Parts of one size, and never a last one; connects again whenever it was cut off."""

    def __init__(self, endpoint: str, socket_type: bytes, size: int) -> None:
        super().__init__(daemon=True)
        self._endpoint, self._type, self._ended = endpoint, socket_type, threading.Event()
        self._parts = part(size) * max(1, 65_536 // (size + 2))
        self.sent = 0
        self.cuts = 0

    def run(self) -> None:
        while not self._ended.is_set():
            with suppress(OSError), greeted(self._endpoint, self._type) as peer:
                while not self._ended.is_set():
                    self.sent += peer.send(self._parts)
            self.cuts += not self._ended.is_set()

    def stop(self) -> None:
        self._ended.set()
        self.join(CONNECT_TIMEOUT_S)


def run_parts(stage: Stage) -> Figures:
    server = stage.start(toy_server(f"--size={SIZE}", "--publish=tcp://127.0.0.1:0"))
    bystander = stage.start(Bystander(server.endpoint))
    bystander.wait_for(5)
    memory = server.memory(bound_mib=GROWTH_MIB)
    figures = {}
    for size in (0, 1, 200_000):
        figures[f"{size}-byte parts"] = endless(server, server.endpoint, b"DEALER", size)
    figures["at the viewers' socket"] = endless(server, server.publish_endpoint, b"XSUB", 0)
    return figures | memory.check() | bystander.check_undisturbed(REFERENCE, stall_ms=STALL_MS)


def endless(server: Server, endpoint: str, socket_type: bytes, size: int) -> str:
    """While it sends, others open sessions as if it were not there."""
    sender = Sender(endpoint, socket_type, size)
    sender.start()
    frames = prompt_frames(size=SIZE)
    try:
        start_s, opened = time.monotonic(), 0
        while time.monotonic() - start_s < ATTACK_S or opened < GOOD_OPENS:
            raw = RawClient(server.endpoint)
            reply = raw.ask({"t": "open", "arrays": [frames_spec(frames)]}, frames.tobytes())
            require(reply["t"] == "opened", f"a good open got {reply}")
            raw.ask({"t": "close", "sid": reply["sid"]})
            raw.close()
            opened += 1
    finally:
        sender.stop()
    require(sender.cuts > 0, f"{socket_type!r} sent parts of {size} bytes and was never cut off")
    return f"{sender.sent / 2**20:.0f} MiB, cut off {sender.cuts} times, {opened} opens answered"


def run_topics(stage: Stage) -> Figures:
    server = stage.start(toy_server("--publish=tcp://127.0.0.1:0"))
    context = stage.enter_context(zmq.Context())
    good = GoodViewer(server.publish_endpoint, context)
    stage.callback(good.close)
    bystander = stage.start(Bystander(server.endpoint))
    bystander.wait_for(5)
    memory = server.memory(bound_mib=GROWTH_MIB)
    large = (b"%d" % number * LARGE_BYTES for number in range(LARGE_TOPICS))
    connections = [
        subscribe_all(server, bystander, [topic[:LARGE_BYTES] for topic in large]),
        subscribe_all(server, bystander, [b"%016x" % number for number in range(SMALL_TOPICS)]),
    ]
    end = bystander.step + 10
    bystander.wait_for(end)
    figures = bystander.check_undisturbed(toy_reference, stall_ms=STALL_MS)
    wait_until("the good viewer sees the last frame", lambda: end in good.steps, timeout_s=5)
    require(server.has_said("refused a topic"), "the log does not say that a topic was refused")
    return {
        "topics": f"{LARGE_TOPICS} of {LARGE_BYTES} bytes, {SMALL_TOPICS} of 16",
        "cut off": " and ".join(f"{count} times" for count in connections),
        "another viewer saw": f"{len(good.steps)} frames",
        **memory.check(),
        **figures,
    }


def subscribe_all(server: Server, bystander: Bystander, topics: list[bytes]) -> int:
    """How often it was cut off: it comes back with what is left, and stays a while at the end."""
    cuts = 0
    while topics:
        with suppress(OSError), greeted(server.publish_endpoint, b"SUB") as peer:
            while topics:
                some, topics = topics[:TOPICS_AT_ONCE], topics[TOPICS_AT_ONCE:]
                peer.sendall(b"".join(map(subscription, some)))
            bystander.wait_for(bystander.step + TOPIC_STEPS)
            return cuts
        cuts += 1
    return cuts


def subscription(topic: bytes) -> bytes:
    size = 1 + len(topic)
    head = b"\0" + bytes([size]) if size < 256 else b"\2" + struct.pack(">Q", size)
    return head + b"\1" + topic


def run_descriptors(stage: Stage) -> Figures:
    """Silent connections beyond what the process may have; sessions begin, reset, are recorded."""
    if shutil.which("prlimit") is None:
        raise Unavailable("prlimit (util-linux) is not installed")
    folder = stage.folder / "recordings"
    prefix = ["prlimit", f"--nofile={DESCRIPTORS}"]
    server = stage.start(toy_server("--record", folder, "--max-sessions=3", prefix=prefix))
    bystander = stage.start(Bystander(server.endpoint))
    bystander.wait_for(5)
    memory = server.memory(bound_mib=GROWTH_MIB)
    before_s = processor_s(server.pid)
    with ExitStack() as strangers:
        for _ in range(STRANGERS):
            peer = socket.create_connection(address_of(server.endpoint), CONNECT_TIMEOUT_S)
            with suppress(OSError):  # cut off already
                strangers.enter_context(peer).sendall(GREETING + READY)
        late = stage.start(DriverProcess(server.endpoint, key=2, steps=20))
        late.wait_for(20)
        late.finish()
        raw = RawClient(server.endpoint)
        stage.callback(raw.close)
        sid, frames = raw.open(), prompt_frames()
        reset = {"t": "reset", "sid": sid, "arrays": [frames_spec(frames)]}
        require(raw.ask(reset, frames.tobytes())["t"] == "frames", "a reset was refused")
        start_s, used_s = time.monotonic(), processor_s(server.pid)
        bystander.wait_for(bystander.step + 40)
        busy = (processor_s(server.pid) - used_s) / (time.monotonic() - start_s)
    raw.ask({"t": "close", "sid": sid})
    late.check(toy_reference)
    figures = bystander.check_undisturbed(toy_reference, stall_ms=STALL_MS)
    for recorded in (bystander.sid, late.sid, sid):
        require_recorded(folder, recorded)
    return {
        "connections": f"{STRANGERS} at {DESCRIPTORS} descriptors",
        "sessions": "3 recorded to their end, one begun and one reset meanwhile",
        "processor": f"{100 * busy:.0f} % while they stay, {used_s - before_s:.1f} s before",
        **memory.check(),
        **figures,
    }


def processor_s(pid: int) -> float:
    """What a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def require_recorded(folder: Path, sid: str) -> None:
    """Raises Violated unless all of that session is there."""

    def complete() -> bool:
        found = [load(path).end for path in folder.glob(f"*{sid}.jsonl")]
        return bool(found) and all(end is not None and end.complete for end in found)

    wait_until(f"the recording of {sid} is complete", complete, timeout_s=5)


FAULTS = (
    Fault(
        name="messages that never end",
        holds="cut off; memory is bounded, every good open is answered",
        run=run_parts,
    ),
    Fault(
        name="topics without number",
        holds="a viewer has a few, of a sid's length; memory is bounded, other viewers see on",
        run=run_topics,
    ),
    Fault(
        name="strangers take all descriptors",
        holds="silent ones make room; sessions begin, are reset and recorded",
        run=run_descriptors,
    ),
)
