"""The processes that `tests.perf.bridge` measures between: two servers, and clients of both.

One server is sim_stream's over a runtime that has its frame ready; the others are bare pyzmq
ROUTERs that answer the same bytes with the same bytes, or with nothing. Every client measures all.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
import zmq

from sim_stream.config import Action, FrameSize
from sim_stream.spec import NO_INPUTS, Inputs
from sim_stream.stream_model import Chunk
from sim_stream.wire import codec, framing
from sim_stream.wire.client.blocking_client import StreamClient
from sim_stream.wire.framing import Arrays
from sim_stream.wire.keys import ClientKeys, read_pair, write_pair
from sim_stream.wire.messages import Close, Message, Open, Opened, Step
from sim_stream.wire.server.auth import Guard
from sim_stream.wire.server.server import StreamServer
from tests.wire.toy import ToyModel, ToyPending, ToySession, named, toy_spec

# The echo of the same bytes; our server; an echo of nothing, which tells what waking up costs.
BARE, OURS, EMPTY = "bare", "sim_stream", "empty"
KINDS = (BARE, OURS, EMPTY)
TIMEOUT_S = 30.0
WARM_UP = 20
# Nobody is refused for being quick here.
NO_RATE_LIMIT = 1e9
ACTION = Action(speed_mps=8.0, yaw_rate_radps=0.1)


@dataclass(frozen=True, kw_only=True)
class Load:
    """``clients`` at once, each with a step in flight always, or ``pace_fps`` times a second."""

    clients: int
    pace_fps: float = 0.0

    @property
    def name(self) -> str:
        return f"{self.clients}, {f'{self.pace_fps:g} fps each' if self.pace_fps else 'free'}"


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the servers are, and the frames they send. ``keys``: a folder of key files, None: no
    encryption."""

    address: dict[str, str]
    frame: FrameSize
    keys: Path | None = None

    def prompt(self) -> np.ndarray:
        return np.random.default_rng(0).integers(0, 256, (1, *self.frame.shape), np.uint8)

    def client_keys(self) -> dict[str, Path | None]:
        if self.keys is None:
            return {"key": None, "server_key": None}
        return {"key": self.keys / "client.secret", "server_key": self.keys / "server.pub"}


@dataclass
class ReadyModel(ToyModel):
    """The toy, with one image [1, H, W, 3] for all frames: nothing is computed."""

    images: np.ndarray = field(default_factory=lambda: np.zeros((1, 1, 1, 3), np.uint8))

    def open_session(self, *, lookahead: int | None = None) -> ToySession:
        self.sessions_open += 1
        return ReadySession(self, 0)


class ReadySession(ToySession):
    def predict(
        self, inputs: Inputs | Action | None = NO_INPUTS, *, deadline_ms: float | None = None
    ) -> Any:
        self.committed_step += 1
        return ReadyPending(self, self.committed_step, b"", None, self.committed_step, True)


class ReadyPending(ToyPending):
    def render(self) -> Chunk:
        return Chunk(
            images=self.session.model.images,  # type: ignore[attr-defined]
            first_frame_id=self.frame_id,
            stats={"accepted": (256,)},
            timings_ns={"world_model": 0, "video_decode": 0},
        )


def make_keys(folder: Path) -> Path:
    for name in ("server", "client"):
        write_pair(folder / name)
    return folder


def serve_ours(place: Place, sessions: int, pipe: Pipe) -> None:
    """Serves until the other end of the pipe is closed."""
    images = np.random.default_rng(0).integers(0, 256, (1, *place.frame.shape), np.uint8)
    guard = None
    if place.keys is not None:
        guard = Guard.load(place.keys / "server.secret", place.keys / "client.pub")
    with StreamServer(
        ReadyModel(toy_spec(frame_shape=place.frame.shape), images=images),
        bind=place.address[OURS],
        max_sessions=sessions,
        guard=guard,
        requests_per_s=NO_RATE_LIMIT,
    ) as server:
        pipe.send(server.endpoint)
        wait_for_the_end(pipe)


def serve_bare(kind: str, place: Place, reply: list[bytes], pipe: Pipe) -> None:
    """Answers every message with that one, large parts without a copy, as we do."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        router.linger = 0
        if place.keys is not None:
            pair = read_pair("key", place.keys / "server.secret")
            router.curve_server = True
            router.curve_publickey = pair.public.encode()
            router.curve_secretkey = pair.secret.encode()
        router.bind(place.address[kind])
        pipe.send(router.last_endpoint.decode())
        poller = zmq.Poller()
        poller.register(router, zmq.POLLIN)
        poller.register(pipe.fileno(), zmq.POLLIN)
        while pipe.fileno() not in dict(poller.poll()):
            route, *_ = router.recv_multipart()
            framing.send(router, reply, route=route, flags=0)


def wait_for_the_end(pipe: Pipe) -> None:
    try:
        pipe.recv()
    except EOFError:
        return


def measure(
    index: int,
    place: Place,
    loads: list[Load],
    rounds: int,
    seconds: float,
    barrier: Barrier,
    request: bytes,
    pipe: Pipe,
) -> None:
    """One client's round trips in nanoseconds, by load and kind, sent into the pipe.

    The servers take turns, so that what disturbs the machine disturbs both.
    """
    trips_ns: dict[tuple[str, str], list[int]] = {}
    with ExitStack() as stack:
        steps = {
            BARE: connect_bare(stack, BARE, place, request),
            OURS: connect_ours(stack, place),
            EMPTY: connect_bare(stack, EMPTY, place, request),
        }
        for step in steps.values():
            for _ in range(WARM_UP):
                step()
        for _ in range(rounds):
            for load in loads:
                for kind in KINDS:
                    barrier.wait()
                    if index < load.clients:
                        mine = trips_ns.setdefault((load.name, kind), [])
                        mine += timed(steps[kind], load, index, seconds)
    pipe.send(trips_ns)


def timed(step: Callable[[], None], load: Load, index: int, seconds: float) -> list[int]:
    start_ns = time.perf_counter_ns()
    end_ns = start_ns + round(seconds * 1e9)
    period_ns = round(1e9 / load.pace_fps) if load.pace_fps else 0
    due_ns = start_ns + period_ns * index // load.clients  # they take turns
    trips_ns = []
    while due_ns < end_ns:
        now_ns = time.perf_counter_ns()
        if now_ns < due_ns:
            time.sleep((due_ns - now_ns) * 1e-9)
        sent_ns = time.perf_counter_ns()
        step()
        done_ns = time.perf_counter_ns()
        trips_ns.append(done_ns - sent_ns)
        due_ns = due_ns + period_ns if period_ns else done_ns
    return trips_ns


def connect_ours(stack: ExitStack, place: Place) -> Callable[[], None]:
    client = stack.enter_context(
        StreamClient(place.address[OURS], timeout_s=TIMEOUT_S, **place.client_keys())
    )
    session = stack.enter_context(client.open(place.prompt()))

    def step() -> None:
        session.step(ACTION)

    return step


def connect_bare(stack: ExitStack, kind: str, place: Place, request: bytes) -> Callable[[], None]:
    context = stack.enter_context(zmq.Context())
    dealer = stack.enter_context(context.socket(zmq.DEALER))
    dealer.linger = 0
    if (keys := ClientKeys.load(**place.client_keys())) is not None:
        keys.secure(dealer)
    dealer.connect(place.address[kind])

    def step() -> None:
        dealer.send(request)
        if not dealer.poll(TIMEOUT_S * 1e3):
            raise TimeoutError(f"no echo from {place.address[kind]}")
        dealer.recv_multipart(copy=False)

    return step


def exchange(place: Place) -> tuple[bytes, list[bytes]]:
    """A step's request and its reply, as they go over the wire."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.linger = 0
        if (keys := ClientKeys.load(**place.client_keys())) is not None:
            keys.secure(dealer)
        dealer.connect(place.address[OURS])

        def ask(message: Message, arrays: Arrays) -> list[bytes]:
            framing.send(dealer, framing.pack(message, arrays), flags=0)
            if not dealer.poll(TIMEOUT_S * 1e3):
                raise TimeoutError(f"no reply from {place.address[OURS]}")
            return dealer.recv_multipart()

        opened = codec.decode_reply(ask(Open(rid=1), {"frames": place.prompt()})[0])
        assert isinstance(opened, Opened), opened
        step = Step(rid=2, sid=opened.sid, step=1, inputs=named(ACTION))
        reply = ask(step, {})
        ask(Close(rid=3, sid=opened.sid), {})
        return codec.encode(step), reply
