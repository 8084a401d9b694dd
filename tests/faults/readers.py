"""Viewers that subscribe and clients that ask, and never read what they get."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from functools import partial

import msgpack
import zmq

from tests.faults.clients import Bystander, toy_reference
from tests.faults.processes import require, toy_server, wait_until
from tests.faults.registry import Fault, Figures, Stage
from tests.wire.conftest import RawClient, frames_spec
from tests.wire.toy import prompt_frames, toy_spec

SIZE = 256
REFERENCE = partial(toy_reference, spec=toy_spec(frame_shape=(SIZE, SIZE, 3)))
FRAME_BYTES = SIZE * SIZE * 3
VIEWERS = 3
FRAMES = 300
MIB = 2**20
# A viewer may hold back 8 frames in the server's queue and what the sockets' buffers take.
VIEWERS_GROWTH_MIB = VIEWERS * (8 * FRAME_BYTES / MIB + 4) + 24
ASKED = 5000
# A client may hold back 64 replies, and as many requests.
CLIENT_GROWTH_MIB = 64 * FRAME_BYTES / MIB + 24


class GoodViewer:
    """Reads everything; which frames it saw."""

    def __init__(self, endpoint: str, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        self._socket = subscribe(endpoint, context)
        self._stop = threading.Event()
        self.steps: list[int] = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while not self._stop.is_set():
            if self._socket.poll(50):
                _, header, _ = self._socket.recv_multipart()
                self.steps.append(msgpack.unpackb(header)["frames"][-1]["step"])
        self._socket.close()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()


def subscribe(
    endpoint: str, context: zmq.Context[zmq.Socket[bytes]], **options: int
) -> zmq.Socket[bytes]:
    viewer = context.socket(zmq.SUB)
    viewer.linger = 0
    for name, value in options.items():
        setattr(viewer, name, value)
    viewer.subscribe(b"")
    viewer.connect(endpoint)
    return viewer


def run_viewers(stage: Stage) -> Figures:
    server = stage.start(toy_server(f"--size={SIZE}", "--publish=tcp://127.0.0.1:0"))
    context = stage.enter_context(zmq.Context())
    # They hold back little themselves, so that the server must decide what becomes of the rest.
    small = {"rcvhwm": 1, "rcvbuf": 65536}
    stalled = [subscribe(server.publish_endpoint, context, **small) for _ in range(VIEWERS)]
    for viewer in stalled:
        stage.callback(viewer.close)
    good = GoodViewer(server.publish_endpoint, context)
    stage.callback(good.close)
    time.sleep(0.3)  # a subscription takes effect some time after connecting
    bystander = stage.start(Bystander(server.endpoint))
    bystander.wait_for(20)
    memory = server.memory(bound_mib=VIEWERS_GROWTH_MIB)
    bystander.wait_for(20 + FRAMES, timeout_s=60)
    figures = bystander.check_undisturbed(REFERENCE)
    end = bystander.step
    wait_until("the good viewer has the last frame", lambda: end in good.steps, timeout_s=5)
    seen = good.steps[: good.steps.index(end) + 1]  # the closing shows the last step's frame, too
    require(seen == sorted({*seen}), f"a viewer saw frames twice or out of order: {seen[-9:]}")
    return {
        "stalled viewers": str(VIEWERS),
        "unread": f"{VIEWERS * FRAMES * FRAME_BYTES / MIB:.0f} MiB",
        **memory.check(),
        "another viewer saw": f"{len(seen)} frames in order",
        **figures,
    }


def run_client(stage: Stage) -> Figures:
    """It asks for one frame again and again: each answer is a whole frame."""
    server = stage.start(toy_server(f"--size={SIZE}"))
    bystander = stage.start(Bystander(server.endpoint))
    silent, asking = RawClient(server.endpoint), RawClient(server.endpoint)
    for raw in (silent, asking):
        stage.callback(raw.close)
    silent.socket.sndtimeo = 0
    frames = prompt_frames(size=SIZE)
    reply = silent.ask({"t": "open", "arrays": [frames_spec(frames)]}, frames.tobytes())
    bystander.wait_for(5)
    memory, sent = server.memory(bound_mib=CLIENT_GROWTH_MIB), 0
    for _ in range(ASKED):
        with suppress(zmq.Again):  # the server reads no faster: what backs up is the client's own
            silent.send({"t": "step", "sid": reply["sid"], "step": 1})
            sent += 1
        time.sleep(0.0005)
    undelivered = asking.ask({"t": "heartbeat"})["undelivered"]
    require(undelivered > 0, "every reply found room")
    return {
        "asked": f"{sent} times, {sent * FRAME_BYTES / MIB:.0f} MiB of frames",
        "dropped and counted": str(undelivered),
        **memory.check(),
        **bystander.check_undisturbed(REFERENCE),
    }


FAULTS = (
    Fault(
        name="viewers that never read",
        holds="they miss frames; memory is bounded, nobody else waits",
        run=run_viewers,
    ),
    Fault(
        name="client that never reads",
        holds="replies beyond its queue are dropped and counted; memory is bounded",
        run=run_client,
    ),
)
