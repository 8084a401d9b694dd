"""Worlds that are no token models, over the wire: a map with every step, clips of five frames.

Nothing but ``toy_worlds`` knows what they are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import zmq

from sim_stream.errors import InvalidInput, RemoteError
from sim_stream.stream_model import Chunk
from sim_stream.wire.client.async_client import AsyncStreamClient
from sim_stream.wire.client.blocking_client import StreamClient
from sim_stream.wire.server.server import StreamServer
from tests.wire import toy_worlds
from tests.wire.conftest import TIMEOUT_S, RawClient
from tests.wire.test_lifecycle import receive_frame, step_until_seen, viewer_of
from tests.wire.toy import prompt_frames
from tests.wire.toy_worlds import CLASSES, CLIP, MAP, ToyWorld, clip_world, map_world, semantic

START = np.random.default_rng(0).integers(0, 256, (2, 24, 32, 3), np.uint8)


@contextmanager
def served(world: ToyWorld, **options: Any) -> Iterator[StreamServer]:
    with StreamServer(world, bind="tcp://127.0.0.1:0", **options) as server:
        yield server


@pytest.fixture
def maps() -> Iterator[StreamClient]:
    with (
        served(map_world()) as server,
        StreamClient(server.endpoint, timeout_s=TIMEOUT_S) as client,
    ):
        yield client


@pytest.fixture
def clips() -> Iterator[StreamClient]:
    with (
        served(clip_world()) as server,
        StreamClient(server.endpoint, timeout_s=TIMEOUT_S) as client,
    ):
        yield client


def test_hello_says_what_a_world_takes(maps, clips):
    assert maps.info.spec == MAP and clips.info.spec == CLIP
    assert clips.info.spec.period_ns == 500_000_000  # five frames at ten a second


def test_a_map_with_every_step_is_what_shows(maps):
    with maps.open(START) as session:
        for key in range(3):
            frame = session.step({"semantic": semantic(key), "speed_mps": key})
            assert (frame.step, frame.frame_id, len(frame)) == (key + 1, key + 1, 1)
            np.testing.assert_array_equal(frame.image[..., 0], semantic(key) * (256 // CLASSES))


def test_prompt_frames_come_with_what_led_to_them(maps):
    led_to = [{"semantic": semantic(7), "speed_mps": 1.0}, {"semantic": semantic(8)}]
    step = {"semantic": semantic(0)}
    with (
        maps.open(START, prompt_inputs=led_to) as one,
        maps.open(START, prompt_inputs=[dict(inputs) for inputs in led_to]) as two,
        maps.open(START) as other,
        maps.open(START, prompt_inputs=[{"speed_mps": 1.0}, {}]) as without_maps,
    ):
        first = one.step(step).image
        np.testing.assert_array_equal(first, two.step(step).image)
        assert (first != other.step(step).image).any()
        assert (first != without_maps.step(step).image).any()
    with pytest.raises(InvalidInput, match=r"prompt_inputs\.semantic: got 1 of them"):
        maps.open(START, prompt_inputs=[led_to[0], {}])


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        (None, "inputs.semantic: got nothing; allowed: uint8 [24, 32], values below 16"),
        ({"semantic": semantic(0)[:-1]}, "inputs.semantic: got uint8 [23, 32]"),
        ({"semantic": semantic(0).astype(np.float32)}, "inputs.semantic: got float32"),
        ({"semantic": semantic(0) + 200}, "inputs.semantic: got uint8 [24, 32], values up to 2"),
        ({"semantic": 3}, "inputs.semantic: got 3 (int)"),
        ({"semantic": semantic(0), "lidar": semantic(0)}, "inputs.lidar: got uint8 [24, 32]"),
        ({"semantic": semantic(0), "speed_mps": np.nan}, "inputs.speed_mps: got nan"),
    ],
    ids=["missing", "shape", "dtype", "values", "no array", "unknown", "not finite"],
)
def test_inputs_are_refused_by_name_before_they_are_sent(maps, inputs, said):
    with maps.open(START) as session:
        with pytest.raises(InvalidInput) as caught:
            session.step(inputs)
        assert str(caught.value).startswith(said)
        assert session.step({"semantic": semantic(0)}).step == 1


def array_spec(name: str, array: np.ndarray) -> dict[str, Any]:
    return {
        "name": name,
        "dtype": array.dtype.str,
        "shape": list(array.shape),
        "nbytes": array.nbytes,
    }


@pytest.fixture
def raw_maps() -> Iterator[tuple[RawClient, str]]:
    with served(map_world()) as server:
        raw = RawClient(server.endpoint)
        opened = raw.ask({"t": "open", "arrays": [array_spec("frames", START)]}, START.tobytes())
        yield raw, opened["sid"]
        raw.close()


def ask_step(raw: RawClient, sid: str, step: int, array: np.ndarray, **fields: Any) -> Any:
    specs = [array_spec("inputs.semantic", array)]
    header = {"t": "step", "sid": sid, "step": step, "arrays": specs} | fields
    return raw.ask(header, array.tobytes())


def test_a_step_with_arrays_is_taken_exactly_once(raw_maps):
    raw, sid = raw_maps
    first = ask_step(raw, sid, 1, semantic(0))
    again = ask_step(raw, sid, 1, semantic(0))
    assert again["parts"] == first["parts"] and again["frames"] == first["frames"]
    another = ask_step(raw, sid, 1, semantic(1))
    assert (another["code"], another["committed_step"]) == ("STEP_CONFLICT", 1)
    turned = semantic(0).reshape(32, 24)
    assert ask_step(raw, sid, 1, turned)["code"] == "STEP_CONFLICT"
    assert ask_step(raw, sid, 2, semantic(1))["committed_step"] == 2


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (semantic(0)[:, :8].copy(), "inputs.semantic: got uint8 [24, 8]"),
        (semantic(0).astype(np.float32), "inputs.semantic: got float32 [24, 32]"),
        (semantic(0) + 100, "inputs.semantic: got uint8 [24, 32], values up to 1"),
    ],
)
def test_the_server_refuses_arrays_by_name_and_nothing_changes(raw_maps, array, said):
    raw, sid = raw_maps
    reply = ask_step(raw, sid, 1, array)
    assert (reply["code"], reply["committed_step"]) == ("BAD_MESSAGE", 0)
    assert reply["message"].startswith(said)
    missing = raw.ask({"t": "step", "sid": sid, "step": 1})
    assert missing["message"].startswith("inputs.semantic: got nothing")
    assert ask_step(raw, sid, 1, semantic(0))["committed_step"] == 1


def test_clips_of_five_begin_without_a_prompt(clips):
    with clips.open(inputs={"weather": "rain"}, options={"temperature": 0.5}, seed=3) as session:
        with pytest.raises(InvalidInput, match="frame: got none yet"):
            _ = session.frame
        for step in (1, 2):
            chunk = session.step()
            assert chunk.images.shape == (5, 16, 24, 3) and chunk.step == step
            ids = [frame.frame_id for frame in chunk]
            assert ids == list(range(5 * step - 4, 5 * step + 1)) and chunk.frame_id == ids[-1]
            assert all(frame.stamps_ns["decode_end"] for frame in chunk)
            np.testing.assert_array_equal([frame.image for frame in chunk], chunk.images)
        assert session.reset(inputs={"weather": "clear"}) is None
        assert session.step().frame_id == 5
    with pytest.raises(InvalidInput, match=r"frames: got uint8 \[2, 24, 32, 3\]"):
        clips.open(START)
    with pytest.raises(InvalidInput, match=r"inputs\.weather: got 'snow'"):
        clips.open(inputs={"weather": "snow"})
    with (
        clips.open() as session,
        pytest.raises(InvalidInput, match=r"inputs\.semantic: got uint8"),
    ):
        session.step({"semantic": semantic(0)})


def test_inputs_options_and_seeds_are_of_the_session(clips):
    def first(**start: Any) -> np.ndarray:
        with clips.open(**start) as session:
            return session.step().images

    plain = first()
    np.testing.assert_array_equal(plain, first(options={"temperature": 1.0}))
    for other in ({"seed": 1}, {"inputs": {"weather": "rain"}}, {"options": {"temperature": 2.0}}):
        assert (plain != first(**other)).any(), other


def test_a_fork_has_the_same_chances_or_its_own(clips):
    with clips.open(seed=4) as session:
        session.step()
        with session.fork() as same, session.fork(seed=9) as own, session.fork(seed=9) as again:
            assert (same.seed, own.seed) == (4, 9)
            ours, theirs, other = session.step(), same.step(), own.step()
            np.testing.assert_array_equal(ours.images, theirs.images)
            assert (ours.images != other.images).any()
            np.testing.assert_array_equal(other.images, again.step().images)
            assert other.seed == 9 and ours.seed == 4


def test_a_fork_in_the_token_pipelines_toy_has_its_own_chances_too(client):
    with client.open(prompt_frames(), seed=1) as session, session.fork(seed=2) as own:
        assert (session.step().image != own.step().image).any()


def test_the_asyncio_client_does_the_same():
    async def drive(endpoint: str) -> np.ndarray:
        async with (
            AsyncStreamClient(endpoint, timeout_s=TIMEOUT_S) as client,
            client.open(START) as session,
        ):
            await session.send_step({"semantic": semantic(0)})
            chunk = await session.receive()
            with pytest.raises(InvalidInput, match=r"inputs\.semantic: got nothing"):
                await session.step()
            fork = await session.fork(seed=5)
            assert fork.seed == 5
            return chunk.images

    with served(map_world()) as server:
        images = asyncio.run(drive(server.endpoint))
        with (
            StreamClient(server.endpoint, timeout_s=TIMEOUT_S) as client,
            client.open(START) as session,
        ):
            np.testing.assert_array_equal(images, session.step({"semantic": semantic(0)}).images)


def test_sessions_of_a_world_advance_together_and_in_realtime(maps):
    with maps.open(START, mode="realtime") as quick, maps.open(START) as slow:
        for key in range(4):
            quick.send_step({"semantic": semantic(key)})
        slow.send_step({"semantic": semantic(9)})
        assert slow.receive().frame_id == 1
        while quick.in_flight:
            last = quick.receive()
        np.testing.assert_array_equal(last.image[..., 0], semantic(3) * (256 // CLASSES))


def test_viewers_see_clips_whole():
    with (
        served(clip_world(), publish="tcp://127.0.0.1:0") as server,
        zmq.Context() as context,
        viewer_of(server, context) as viewer,
        StreamClient(server.endpoint, timeout_s=TIMEOUT_S) as client,
        client.open() as session,
    ):
        step_until_seen(session, viewer)
        chunk = session.step()
        _, message, images = receive_frame(viewer, chunk.frame_id)
        assert len(message["frames"]) == 5
        shown = np.frombuffer(images, np.uint8).reshape(message["arrays"][0]["shape"])
        np.testing.assert_array_equal(shown, chunk.images)


@pytest.mark.parametrize("broken", ["shape", "count", "dtype"])
def test_a_world_that_breaks_its_word_fails_its_session_alone(monkeypatch, maps, broken):
    render = toy_worlds.Step.render

    def spoilt(step):
        images = {
            "shape": lambda images: images[:, 1:],
            "count": lambda images: np.repeat(images, 9, axis=0),
            "dtype": lambda images: images.astype(np.float32),
        }[broken](render(step).images)
        return Chunk(images=images, first_frame_id=step.first_frame_id)

    with maps.open(START) as session, maps.open(START) as bystander:
        monkeypatch.setattr(toy_worlds.Step, "render", spoilt)
        with pytest.raises(RemoteError, match="ENGINE_FAILED"):
            session.step({"semantic": semantic(0)})
        monkeypatch.undo()
        assert bystander.step({"semantic": semantic(0)}).step == 1
        with pytest.raises(RemoteError, match="reset or close it"):
            session.step({"semantic": semantic(0)})
        session.reset(START)
        assert session.step({"semantic": semantic(0)}).step == 1


def test_a_refused_start_leaves_no_session(maps):
    before = maps.status().sessions
    for wrong in ({"frames": START[:0]}, {"frames": START, "options": {"temperature": 1.0}}):
        with pytest.raises(InvalidInput):
            maps.open(**wrong)
    assert maps.status().sessions == before


def test_a_world_may_refuse_what_its_spec_cannot_say(monkeypatch, maps):
    def begin(self, inputs, *, deadline_ms=None):
        raise InvalidInput("inputs.semantic", "no road", "a map with a road")

    with maps.open(START) as session:
        monkeypatch.setattr(toy_worlds.ToyWorldSession, "begin", begin)
        with pytest.raises(RemoteError, match="no road"):
            session.step({"semantic": semantic(0)})
        monkeypatch.undo()
        assert session.step({"semantic": semantic(0)}).step == 1
