"""Whatever a server answers, a client raises a SimStreamError or returns; it never hangs."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgpack
import numpy as np
import pytest
import zmq

from sim_stream.config import Action
from sim_stream.errors import ProtocolError, RemoteError, SimStreamError
from sim_stream.wire import framing
from sim_stream.wire.client.async_client import AsyncStreamClient
from sim_stream.wire.client.blocking_client import StreamClient
from sim_stream.wire.client.pending_replies import PendingReplies
from sim_stream.wire.client.resume import MOST_BYTES, MOST_STEPS, StepLog
from sim_stream.wire.messages import Step
from tests.faults.fuzz import BAD_VALUES
from tests.wire.vectors import broken, valid
from tests.wire.vectors.valid import SIZE

TIMEOUT_S = 0.25
HANG_S = 60.0
FRAMES = np.zeros((1, SIZE, SIZE, 3), np.uint8)
ACTION = Action(speed_mps=5.0, yaw_rate_radps=0.0)
Parts = list[bytes]
# The reply to a request; None: a proper greeting.
Answer = Callable[[dict[str, Any]], list[Parts] | None]


def greeting(**changes: Any) -> Parts:
    info = valid.fields(valid.hello_ok()) | {"resume_steps": 4}
    return [msgpack.packb(info | changes)]


def greeting_spec() -> dict[str, Any]:
    spec: dict[str, Any] = valid.fields(valid.hello_ok())["spec"]
    return spec


def addressed(parts: Parts, rid: int) -> Parts:
    """The message as the reply to that request, if it can be read at all."""
    try:
        header = msgpack.unpackb(parts[0], strict_map_key=False)
    except (ValueError, TypeError, msgpack.UnpackException):
        return parts
    if not isinstance(header, dict):
        return parts
    with suppress(ValueError, TypeError, OverflowError):
        return [msgpack.packb(header | {"rid": rid}), *parts[1:]]
    return parts


class HostileServer:
    """A ROUTER that answers as it is told."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._router = self._context.socket(zmq.ROUTER)
        self._router.linger = 0
        self._router.bind("tcp://127.0.0.1:0")
        self.endpoint = self._router.getsockopt_string(zmq.LAST_ENDPOINT)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> HostileServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._router.close()
        self._context.term()

    def _serve(self) -> None:
        while not self._over.is_set():
            if not self._router.poll(20):
                continue
            route, header, *_ = self._router.recv_multipart()
            request = msgpack.unpackb(header)
            replies = self._answer(request)
            if replies is None:
                replies = [addressed(greeting(), request["rid"])]
            for parts in replies:
                with suppress(zmq.ZMQError):
                    self._router.send_multipart([route, *parts], zmq.NOBLOCK)


def use(endpoint: str) -> list[str]:
    """All that a client does; what each call raised."""
    raised: list[str] = []

    def attempt(call: Callable[[], Any]) -> Any:
        try:
            return call()
        except SimStreamError as error:
            raised.append(type(error).__name__)
            return None

    client = attempt(lambda: StreamClient(endpoint, timeout_s=TIMEOUT_S, resume_s=TIMEOUT_S))
    if client is None:
        return raised
    session = attempt(lambda: client.open(FRAMES))
    attempt(client.status)
    if session is not None:
        attempt(lambda: session.step(ACTION))
        attempt(session.fork)
        attempt(lambda: session.reset(FRAMES))
        attempt(session.status)
        attempt(session.close)
    client.close()
    return raised


async def use_async(endpoint: str) -> list[str]:
    raised: list[str] = []

    async def attempt(call: Callable[[], Any]) -> Any:
        try:
            return await call()
        except SimStreamError as error:
            raised.append(type(error).__name__)
            return None

    client = AsyncStreamClient(endpoint, timeout_s=TIMEOUT_S, resume_s=TIMEOUT_S)
    if await attempt(client.__aenter__) is None:
        return raised
    session = await attempt(lambda: client.open(FRAMES))
    await attempt(client.status)
    if session is not None:
        await attempt(lambda: session.step(ACTION))
        await attempt(session.fork)
        await attempt(lambda: session.reset(FRAMES))
        await attempt(session.status)
        await attempt(session.close)
    await client.close()
    return raised


USERS = {"blocking": use, "asyncio": lambda endpoint: asyncio.run(use_async(endpoint))}


def survive(user: Callable[[str], list[str]], endpoint: str) -> list[str]:
    """What the user raised, all of it of our own; fails where it hangs."""
    result: list[Any] = []

    def run() -> None:
        try:
            result.append(user(endpoint))
        except BaseException as error:
            result.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(HANG_S)
    assert result, "the client hangs"
    if isinstance(result[0], BaseException):
        raise result[0]
    found: list[str] = result[0]
    return found


def sound(request: dict[str, Any]) -> Parts:
    """What a server would say that keeps its word."""
    rid, step = request["rid"], request.get("step", 0)
    image = bytes(SIZE * SIZE * 3)
    frame = {
        **{"step": step, "frame_id": step, "lag_frames": 0, "final": True},
        **{"marks": [], "stats": {"accepted": [1.0]}},
    }
    shape = [1, SIZE, SIZE, 3]
    spec = {"name": "images", "dtype": "|u1", "shape": shape, "nbytes": len(image)}
    about = {"v": 2, "rid": rid, "sid": "s", "committed_step": step}
    match request["t"]:
        case "hello":
            return addressed(greeting(), rid)
        case "open":
            header = about | {"t": "opened", "frames": [frame], "arrays": [spec]}
            return [msgpack.packb(header | {"resume_token": "t"}), image]
        case "fork" | "resume":
            return [msgpack.packb(about | {"t": "opened", "resume_token": "t"})]
        case "step" | "reset":
            header = about | {"t": "frames", "frames": [frame], "arrays": [spec]}
            return [msgpack.packb(header), image]
        case "close":
            return [msgpack.packb(about | {"t": "closed"})]
    counts = ("progress", "queued", "sessions", "undelivered", "client_send_ns", "srv_recv_ns")
    epoch = valid.fields(valid.hello_ok())["server_epoch"]
    status = dict.fromkeys(counts, 1) | {"srv_send_ns": 1, "server_epoch": epoch}
    return [msgpack.packb(about | status | {"t": "status"})]


@pytest.fixture(params=USERS)
def user(request: pytest.FixtureRequest) -> Callable[[str], list[str]]:
    return USERS[request.param]


def test_a_sound_server_is_served_without_an_error(user):
    with HostileServer(lambda request: [sound(request)]) as server:
        assert survive(user, server.endpoint) == []


KINDS = ("hello", "open", "step", "fork", "reset", "heartbeat", "close")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_reply_where_another_belongs_is_a_typed_error_or_taken(user, kind):
    """A request of that kind is answered with what others get, and an error."""
    for other in KINDS:
        alike = {("step", "reset"), ("reset", "step"), ("fork", "open")}
        if kind == other or (kind, other) in alike:
            continue

        def answer(request: dict[str, Any], other: str = other) -> list[Parts]:
            if request["t"] != kind:
                return [sound(request)]
            return [sound(request | {"t": other, "step": request.get("step", 0)})]

        with HostileServer(answer) as server:
            assert survive(user, server.endpoint), (kind, other)


def test_every_refused_reply_is_a_typed_error(user):
    """As the answer to a greeting, and to an opening."""
    for vector in broken.replies():
        for kind in ("hello", "open"):

            def answer(request: dict[str, Any], kind: str = kind, vector: Any = vector) -> Any:
                if request["t"] != kind:
                    return [sound(request)]
                broken_rid = vector.name == "rid as a string"
                return [vector.parts if broken_rid else addressed(vector.parts, request["rid"])]

            with HostileServer(answer) as server:
                assert survive(user, server.endpoint), (kind, vector.name)


class Mutated:
    """Sound replies with another value somewhere, from a seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def __call__(self, request: dict[str, Any]) -> list[Parts]:
        header, *arrays = sound(request)
        if self._random.random() < 0.4:
            return [[header, *arrays]]
        fields = msgpack.unpackb(header)
        for _ in range(self._random.choice((1, 1, 3))):
            self._change(fields)
        if self._random.random() < 0.8:
            fields["rid"] = request["rid"]
        arrays = arrays if self._random.random() < 0.9 else [*arrays, b"x"][:1]
        return [[msgpack.packb(fields), *arrays]]

    def _change(self, node: dict[str, Any]) -> None:
        key = self._random.choice([*node])
        inner = node[key]
        if isinstance(inner, list) and inner:
            inner = self._random.choice(inner)
        if isinstance(inner, dict) and inner and self._random.random() < 0.7:
            self._change(inner)
        else:
            node[key] = self._random.choice(BAD_VALUES)


@pytest.mark.parametrize("seed", range(12))
def test_mutated_replies_end_in_results_or_typed_errors(user, seed):
    with HostileServer(Mutated(seed)) as server:
        survive(user, server.endpoint)


def noise(request: dict[str, Any]) -> list[Parts]:
    return [[random.Random(n).randbytes(n)] * (n % 20 + 1) for n in range(40)]


def flood(request: dict[str, Any]) -> list[Parts]:
    """Sound messages that nobody asked for, as many as the queue takes."""
    return [sound(request | {"rid": 10**6 + n}) for n in range(5000)]


def shutdown_notices(request: dict[str, Any]) -> list[Parts]:
    error = {
        "t": "error",
        "v": 1,
        "rid": 0,
        "code": "BUSY",
        "message": "\x1b[2J",
        "retryable": True,
    }
    return [[msgpack.packb(error)]] * 50


@pytest.mark.parametrize("answer", [noise, flood, shutdown_notices])
def test_noise_floods_and_shutdown_notices_end_in_typed_errors(user, answer):
    with HostileServer(answer) as server:
        assert survive(user, server.endpoint)
    greeted: Answer = lambda request: None if request["t"] == "hello" else answer(request)  # noqa: E731
    with HostileServer(greeted) as server:
        assert survive(user, server.endpoint)


def test_image_of_another_size_than_was_greeted_is_refused(user):
    def answer(request: dict[str, Any]) -> list[Parts]:
        header, *arrays = sound(request)
        fields = msgpack.unpackb(header)
        for array in fields.get("arrays", []):
            array |= {"shape": [2, 1, 3], "nbytes": 6}
            arrays = [bytes(6)]
        return [[msgpack.packb(fields), *arrays]]

    with HostileServer(answer) as server:
        assert "ProtocolError" in survive(user, server.endpoint)


@pytest.mark.parametrize("milliseconds", [1, 2**63 - 1])
def test_no_server_makes_a_client_spin_or_never_ask(milliseconds):
    mail = PendingReplies()
    mail.put(greeting(heartbeat_ms=milliseconds), 0)
    assert 0.005 <= mail.heartbeat_s <= 60


def test_no_server_makes_a_client_remember_without_bound():
    log = StepLog(2**63 - 1, since=0)
    for number in range(1, MOST_STEPS + 3):
        log.add(Step(sid="s", step=number), {})
    assert len(log.after(2)) == MOST_STEPS


def test_no_steps_arrays_make_a_client_remember_without_bound():
    log, part = StepLog(10, since=0), np.zeros(MOST_BYTES // 4 + 1, np.uint8)
    for number in range(1, 9):
        log.add(Step(sid="s", step=number), {"inputs.semantic": part})
    assert [step.step for step, _ in log.after(5)] == [6, 7, 8]
    with pytest.raises(RemoteError, match="remembers the steps after 5"):
        log.after(4)


def test_greeting_that_nothing_can_be_computed_with_changes_nothing():
    mail = PendingReplies()
    mail.put(greeting(), 0)
    known = mail.info
    spec = greeting_spec()
    with pytest.raises(ProtocolError, match=r"hello_ok\.spec\.frame_shape"):
        mail.put(greeting(spec=spec | {"frame_shape": [2**31 - 1, 2**31 - 1, 3]}), 0)
    with pytest.raises(ProtocolError, match=r"hello_ok\.spec\.frame_shape"):
        mail.put(greeting(spec=spec | {"frame_shape": [512, 512, 3], "frames_per_step": 256}), 0)
    for wrong in (
        {"frame_shape": [0, 16, 3]},
        {"prompt_frames": [3, 1]},
        {"lookaheads": []},
        {"options": [spec["options"][0], spec["options"][0]]},
        {"step_inputs": [{"kind": "number", "name": "x", "low": 2.0, "high": 1.0}]},
        {"step_inputs": [{"kind": "number", "name": "x", "low": 0.0, "high": float("inf")}]},
        {"step_inputs": [{"kind": "array", "name": "x", "dtype": "|u1", "shape": [2**31 - 1] * 8}]},
        {"step_inputs": [{"kind": "array", "name": "x", "dtype": "|O", "shape": [1]}]},
        {"step_inputs": [{"kind": "sound", "name": "x"}]},
        {"prompt_psnr_min_db": float("nan")},
    ):
        with pytest.raises(ProtocolError):
            mail.put(greeting(spec=spec | wrong), 0)
    assert mail.info is known


def test_array_that_memory_does_not_hold_is_a_protocol_error(monkeypatch):
    class Huge:
        def copy(self) -> None:
            raise MemoryError

    monkeypatch.setattr(framing, "_view", lambda spec, part: Huge())
    reply = sound({"t": "step", "rid": 1, "step": 1})
    with pytest.raises(ProtocolError, match="memory"):
        PendingReplies().put(reply, 0)
