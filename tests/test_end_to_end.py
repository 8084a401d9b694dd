"""Real models behind a real server: what comes over ZeroMQ is what a local session gives."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest

from sim_stream.config import Action
from sim_stream.errors import InvalidInput
from sim_stream.pipelines.tokens.runtime import Runtime
from sim_stream.pipelines.tokens.world import TokenModel
from sim_stream.recording.archive import RecordedSessions
from sim_stream.recording.recorder import Recorder
from sim_stream.wire.client.blocking_client import StreamClient
from sim_stream.wire.server.server import StreamServer
from tests.small import random_runtime

PROMPT = np.random.default_rng(3).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
ACTIONS = [Action(speed_mps=4.0 + i, yaw_rate_radps=0.2 - 0.1 * i) for i in range(6)]


@pytest.fixture(scope="module")
def runtime() -> Runtime:
    return random_runtime()


@pytest.fixture(scope="module")
def client(runtime: Runtime) -> Iterator[StreamClient]:
    with (
        StreamServer(TokenModel(runtime), bind="tcp://127.0.0.1:0") as server,
        StreamClient(server.endpoint) as client,
    ):
        yield client


def local_images(runtime: Runtime, seed: int, lookahead: int) -> list[np.ndarray]:
    session = runtime.open_session(lookahead=lookahead)
    images = [session.reset(PROMPT, seed=seed).image]
    images += [session.step(action).image for action in ACTIONS]
    last = session.flush()
    return images if last is None else [*images, last.image]


@pytest.mark.parametrize("lookahead", [0, 1])
def test_frames_over_the_wire_are_bit_equal_to_a_local_session(
    runtime: Runtime, client: StreamClient, lookahead: int
) -> None:
    remote = client.open(PROMPT, seed=9, lookahead=lookahead)
    images = [remote.frame.image]
    for action in ACTIONS:  # pipelined: prediction and decoding overlap
        if remote.in_flight == 2:
            images.append(remote.receive().image)
        remote.send_step(action)
    while remote.in_flight:
        images.append(remote.receive().image)
    last = remote.close()
    images += [] if last is None else [last.image]
    expected = local_images(runtime, 9, lookahead)
    assert len(images) == len(expected)
    assert all(np.array_equal(a, b) for a, b in zip(images, expected, strict=True))


def test_two_sessions_and_a_fork_do_not_disturb_each_other(
    runtime: Runtime, client: StreamClient
) -> None:
    with client.open(PROMPT, seed=1) as a, client.open(PROMPT, seed=2) as b:
        got = {1: [a.frame.image], 2: [b.frame.image]}
        for action in ACTIONS[:3]:
            got[1].append(a.step(action).image)
            got[2].append(b.step(action).image)
        with a.fork() as twin:
            forked = [twin.step(action).image for action in ACTIONS[3:]]
        got[1] += [a.step(action).image for action in ACTIONS[3:]]
    assert all(np.array_equal(x, y) for x, y in zip(forked, got[1][4:], strict=True))
    for seed, images in got.items():
        expected = local_images(runtime, seed, 1)
        assert all(np.array_equal(x, y) for x, y in zip(images, expected, strict=False))


def test_sessions_that_share_passes_give_the_frames_they_give_alone(
    runtime: Runtime, client: StreamClient
) -> None:
    """Four at once, as fast as they go, of three ways to decode."""
    options = [None, None, {"strategy": "jacobi", "window": 7}, None]
    sessions = [client.open(PROMPT, seed=seed, options=one) for seed, one in enumerate(options)]
    got = [[session.frame.image] for session in sessions]
    for action in ACTIONS:
        for session in sessions:
            session.send_step(action)
        for images, session in zip(got, sessions, strict=True):
            images.append(session.receive().image)
    for seed, (images, session) in enumerate(zip(got, sessions, strict=True)):
        last = session.close()
        assert last is not None
        assert np.array_equal([*images, last.image], local_images(runtime, seed, 1))


def test_what_the_runtime_refuses_reaches_the_client_by_name(client: StreamClient) -> None:
    with pytest.raises(InvalidInput, match=r"top_k: got 33 \(int\); allowed: an integer, 1\.\.32"):
        client.open(PROMPT, options={"top_k": 33})
    with client.open(PROMPT, seed=1) as session:
        assert session.step(ACTIONS[0]).frame_id == 0


def test_jacobi_over_the_wire_gives_the_same_frames_and_a_deadline_marks_them(
    runtime: Runtime, client: StreamClient
) -> None:
    jacobi = {"strategy": "jacobi", "window": 16}
    with client.open(PROMPT, seed=9, lookahead=0, options=jacobi) as remote:
        frames = [remote.step(action) for action in ACTIONS]
        images = [remote.frame.image, *(frame.image for frame in frames)]
        assert np.array_equal(images, local_images(runtime, 9, 0))
        assert all(
            4 <= len(frame.stats["accepted"]) < 64 and not frame.approximated for frame in frames
        )
        remote.reset(PROMPT, seed=9, options=jacobi | {"window": 1})
        assert remote.step(deadline_ms=1).approximated
    # Without a complete guess a deadline only limits the time in the queue.
    with client.open(PROMPT, seed=9, options={"strategy": "raster"}) as remote:
        assert not remote.step(deadline_ms=10_000).approximated


def test_a_window_beyond_the_frame_is_refused_over_the_wire(client: StreamClient) -> None:
    with pytest.raises(InvalidInput, match=r"options\.window: got 65 .*1\.\.64"):
        client.open(PROMPT, options={"strategy": "jacobi", "window": 65})


@contextmanager
def recording_server(runtime: Runtime, folder: Path, bind: str) -> Iterator[str]:
    with (
        Recorder(folder, by="server") as recorder,
        StreamServer(
            TokenModel(runtime),
            bind=bind,
            observer=recorder,
            archive=RecordedSessions(folder),
        ) as server,
    ):
        yield server.endpoint


@pytest.mark.parametrize("options", [None, {"strategy": "jacobi", "window": 8}])
@pytest.mark.parametrize("lookahead", [0, 1])
def test_session_goes_on_bit_equal_after_a_restart(
    runtime: Runtime, tmp_path: Path, options: dict[str, float | str] | None, lookahead: int
) -> None:
    with ExitStack() as stack:
        with recording_server(runtime, tmp_path, "tcp://127.0.0.1:0") as endpoint:
            client = stack.enter_context(StreamClient(endpoint))
            session = client.open(PROMPT, seed=9, lookahead=lookahead, options=options)
            images = [session.frame.image, *(session.step(a).image for a in ACTIONS[:4])]
        with recording_server(runtime, tmp_path, endpoint):
            images += [session.step(action).image for action in ACTIONS[4:]]
            last = session.close()
    images += [] if last is None else [last.image]
    expected = local_images(runtime, 9, lookahead)
    assert len(images) == len(expected)
    assert all(np.array_equal(a, b) for a, b in zip(images, expected, strict=True))
