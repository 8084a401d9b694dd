"""The page of models that are no token models: inputs of their own, clips, maps, no prompt."""

from __future__ import annotations

import asyncio
from pathlib import Path

import av
import pytest

from sim_stream.errors import InvalidInput
from sim_stream.prompts import Prompt
from sim_stream.spec import ArrayField, ChoiceField, NumberField, TextField, no_frames
from sim_stream.view.app import read_prompts
from sim_stream.view.fields import obstacle
from sim_stream.view.options import ViewOptions
from sim_stream.view.step_inputs import StepInputs, of_prompt
from sim_stream.view.subscriber import listen
from sim_stream.wire.client.async_client import AsyncStreamClient
from tests.view.conftest import QUICK
from tests.wire.toy import SPEC, ToyModel, drive, toy_spec
from tests.wire.toy_worlds import CLIP, MAP, clip_world, map_world, semantic

FIELDS = (
    NumberField(name="throttle", low=-1.0, high=1.0, unit="of full", required=True),
    NumberField(name="gear", low=1.0, high=5.0, integer=True, default=2.0),
    ChoiceField(name="lamp", choices=("off", "on"), required=True),
    TextField(name="wish"),
)
NO_FRAMES = {"nothing": Prompt(frames_THWC=no_frames(CLIP), actions=None, speed_mps=8.0)}


def size_of(jpeg: bytes) -> tuple[int, int]:
    (image,) = av.CodecContext.create("mjpeg", "r").decode(av.Packet(jpeg))
    return image.height, image.width


def test_a_model_without_prompt_frames_is_opened_and_all_frames_of_a_step_are_shown(page):
    async def test(page):
        async with page.viewer() as viewer:
            assert viewer.welcome["prompts"] == ["nothing"]
            assert viewer.welcome["frame_shape"] == [16, 24, 3]
            assert viewer.session()["committed_step"] == 0 and not viewer.headers
            await viewer.send("run", sid=viewer.watching, running=True)
            await viewer.until(lambda: len(viewer.headers) >= 3)
            shown = [frame_id for header in viewer.headers for frame_id in header["frame_ids"]]
            assert shown == [*range(1, 1 + len(shown))] and len(shown) == len(viewer.jpegs)
            assert [header["frame_id"] for header in viewer.headers] == shown[4::5]
            assert {size_of(jpeg) for jpeg in viewer.jpegs} == {(16, 24)}
            await viewer.send("fork", sid=viewer.watching)
            await viewer.until(lambda: len(viewer.state["sessions"]) == 2)
            await viewer.send("reset", sid=viewer.watching, seed=4)
            await viewer.until(lambda: viewer.session()["seed"] == 4)

    page(test, runtime=clip_world(), prompts=NO_FRAMES)


def test_what_a_session_starts_with_is_the_viewers_choice_and_checked(page):
    async def test(page):
        async with page.viewer() as viewer:
            (weather,) = viewer.welcome["session_inputs"]
            assert (weather["kind"], weather["choices"]) == ("choice", ["clear", "rain"])
            assert [field["name"] for field in viewer.welcome["options"]] == ["temperature"]
            await viewer.send("open", seed=1, inputs={"weather": "rain"}, options={})
            await viewer.until(lambda: len(viewer.state["sessions"]) == 2)
            for start in ({"inputs": {"weather": "snow"}}, {"options": {"temperature": 0.0}}):
                viewer.notices.clear()
                await viewer.send("reset", sid=viewer.watching, seed=2, **start)
                await viewer.until(lambda: viewer.notices)
                ((kind, values),) = start.items()
                assert f"{kind}.{next(iter(values))}" in viewer.notices[0]

    page(test, runtime=clip_world(), prompts=NO_FRAMES)


def test_a_model_whose_step_needs_an_array_says_so_by_its_name_and_can_be_watched(page, tmp_path):
    publish = f"ipc://{tmp_path}/viewers"
    prompt = {"day": Prompt(frames_THWC=no_frames(MAP), actions=None, speed_mps=8.0)}

    async def test(page):
        page.hub.sessions.prompts = prompt
        page.hub.start(listen(publish, page.hub.sessions.take_published))
        async with page.viewer() as viewer:
            assert "a step of toy-map needs the array semantic" in viewer.welcome["obstacle"]
            await viewer.send("open", seed=1)
            await viewer.until(lambda: viewer.notices)
            assert "semantic (uint8 [24, 32], values below 16)" in viewer.notices[0]
            async with (
                AsyncStreamClient(page.hub.endpoint) as client,
                await client.open([semantic(1)[..., None].repeat(3, 2)]) as session,
            ):
                for key in range(3):  # the first may be sent before the subscription stands
                    await session.step({"semantic": semantic(key)})
                    await asyncio.sleep(0.2)
                await viewer.until(lambda: viewer.session(session.sid))
                await viewer.send("watch", sid=session.sid)
                await viewer.until(lambda: viewer.headers)
                assert size_of(viewer.jpegs[-1]) == (24, 32)
                assert viewer.session(session.sid)["state"] == "foreign"

    page(test, runtime=map_world(), prompts={}, publish=publish)


def test_of_another_clients_clip_all_frames_are_shown_in_order(page, tmp_path):
    publish = f"ipc://{tmp_path}/viewers"

    async def test(page):
        page.hub.start(listen(publish, page.hub.sessions.take_published))
        async with (
            page.viewer() as viewer,
            AsyncStreamClient(page.hub.endpoint) as client,
            await client.open() as session,
        ):
            await session.step()
            await asyncio.sleep(0.2)
            await session.step()
            await viewer.until(lambda: viewer.session(session.sid))
            await viewer.send("watch", sid=session.sid)
            ids = [6, 7, 8, 9, 10]
            await viewer.until(lambda: viewer.headers and viewer.headers[-1]["frame_ids"] == ids)
            assert len(viewer.jpegs) == 5 * len(viewer.headers)

    page(test, runtime=clip_world(), prompts=NO_FRAMES, publish=publish)


def test_what_no_key_steers_is_set_by_hand_and_sent_with_the_next_step(page):
    spec = toy_spec(QUICK, step_inputs=(*SPEC.step_inputs, *FIELDS))

    async def test(page):
        async with page.viewer() as viewer, page.viewer() as other:
            sid = viewer.watching
            assert viewer.welcome["keyed"] == ["speed_mps", "yaw_rate_radps"]
            await other.until(lambda: other.session(sid))
            first = {"throttle": 0.0, "gear": 2.0, "lamp": "off"}
            assert other.session(sid)["inputs"] == first
            await viewer.send("set", sid=sid, name="throttle", value=0.5)
            await viewer.send("set", sid=sid, name="lamp", value="on")
            await viewer.send("set", sid=sid, name="gear", value=None)
            await viewer.send("set", sid=sid, name="wish", value="left")
            chosen = {"throttle": 0.5, "lamp": "on", "wish": "left"}
            await other.until(lambda: other.session(sid)["inputs"] == chosen)
            assert other.session(sid)["driver"] == viewer.welcome["viewer"]
            await viewer.send("run", sid=sid, running=True)
            await viewer.until(lambda: viewer.headers and viewer.headers[-1]["step"] >= 2)
            assert viewer.headers[-1]["inputs"].items() >= chosen.items()
            assert viewer.headers[-1]["inputs"]["speed_mps"] == 8.0
            await other.send("set", sid=sid, name="throttle", value=0.0)
            await other.until(lambda: other.notices)
            assert "has the wheel" in other.notices[0]

    page(test, runtime=ToyModel(spec))


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("throttle", 2.0, "inputs.throttle: got 2.0 (float); allowed: a finite number, -1..1"),
        ("throttle", None, "inputs.throttle: got nothing"),
        ("gear", 1.5, "inputs.gear"),
        ("lamp", "green", "'off' or 'on'"),
        ("wish", 3.0, "a text of at most"),
        ("speed_mps", 3.0, "throttle, gear, lamp, wish"),
        ("map", 3.0, "throttle, gear, lamp, wish"),
    ],
)
def test_what_a_field_does_not_take_is_refused(name, value, said):
    inputs = StepInputs((*SPEC.step_inputs, *FIELDS), speed_mps=8.0)
    before = dict(inputs.set)
    with pytest.raises(InvalidInput) as refused:
        inputs.put(name, value)
    assert said in str(refused.value)
    assert inputs.set == before


def test_keys_steer_what_a_model_takes_of_speed_and_yaw_rate():
    speed = NumberField(name="speed_mps", low=2.0, high=6.0)
    inputs = StepInputs((speed,), speed_mps=8.0)
    assert inputs.next_step(0.25) == {"speed_mps": 6.0}
    assert StepInputs(FIELDS, speed_mps=8.0).keys is None
    whole = NumberField(name="speed_mps", low=0.0, high=6.0, integer=True)  # no keys' matter
    assert StepInputs((whole,), speed_mps=8.0).keys is None


def test_a_map_that_need_not_be_given_is_no_obstacle():
    free = ArrayField(name="semantic", dtype="|u1", shape=(2, 2))
    assert obstacle(toy_spec(step_inputs=(free,))) == ""
    must = ArrayField(name="start", dtype="|u1", shape=(2, 2), required=True)
    assert "a session of toy needs the array start" in obstacle(toy_spec(session_inputs=(must,)))


def test_what_led_to_a_prompt_is_given_as_far_as_the_model_takes_it():
    prompt = Prompt(frames_THWC=no_frames(MAP), actions=drive(2), speed_mps=8.0)
    assert of_prompt(MAP.step_inputs[1:], prompt) == [{"speed_mps": 6.0}, {"speed_mps": 7.0}]
    assert of_prompt((), prompt) is None
    assert of_prompt((*SPEC.step_inputs, *FIELDS), prompt) is None  # not all that must be said


def test_clips_are_offered_where_a_model_takes_prompt_frames():
    options = ViewOptions(server="tcp://127.0.0.1:1", clip="dusk")
    found = read_prompts(options, MAP)
    assert [*found] == ["dusk", "day", "overcast", "night"]
    assert found["day"].frames_THWC.shape == (2, 24, 32, 3)
    one = read_prompts(options, toy_spec(prompt_frames=(0, 1)))
    assert [*one] == ["dusk", "day", "overcast", "night", "nothing"]
    assert len(one["day"].frames_THWC) == 1 and len(one["day"].actions or ()) == 1
    assert [*read_prompts(options, CLIP)] == ["nothing"]
    mine = ViewOptions(server="tcp://127.0.0.1:1", video=Path("mine.mp4"))
    with pytest.raises(InvalidInput, match=r"video: .*toy-clip takes no prompt frames"):
        read_prompts(mine, CLIP)
