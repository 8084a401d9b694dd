"""The closed loop: both worlds get the same actions, and every ending leaves readable files.

The worlds are the painted one and the shipped clip, the neural simulator is the wire's toy runtime
behind a real server.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from bridge.__main__ import main
from bridge.driving.log import first_not, lane_lost_at
from bridge.driving.loop import Loop, Moment
from bridge.driving.measures import Measure, Pose, asphalt_ahead, pose_from
from bridge.motion import control_for
from bridge.painted import PaintedWorld
from bridge.policies.contract import Policy, PolicyFailed
from bridge.video_world import VideoWorld
from bridge.worlds import Control, EgoState, Observation, SceneFailed
from sim_stream.config import Action
from sim_stream.errors import InvalidInput
from sim_stream.video import SAMPLE, halve
from sim_stream.wire.client.blocking_client import StreamClient
from sim_stream.wire.server.server import StreamServer
from tests.wire.conftest import ServerProcess
from tests.wire.toy import OWN_DB, PRESET, SIZE, ToyModel, toy_spec

ROOT = Path(__file__).resolve().parents[2]
SEED = 90_001
POLICIES = """
class Sees:
    seen = []
    def __call__(self, frame, last):
        self.seen.append((frame, last))
        return 6.0, 0.05

class Varies:
    calls = 0
    def __call__(self, frame, last):
        self.calls += 1
        return 6.0 + 0.1 * self.calls, 0.02 * self.calls

class Off:
    def __call__(self, frame, last):
        return 12.0, 0.6

class Breaks:
    calls = 0
    def __call__(self, frame, last):
        self.calls += 1
        if self.calls > 6:
            raise KeyError("left")
        return 6.0, 0.0

def slow(frame, last):
    import time
    time.sleep(0.05)
    return 6.0, 0.0
"""


@pytest.fixture
def server() -> Iterator[StreamServer]:
    with StreamServer(ToyModel(), bind="tcp://127.0.0.1:0") as server:
        yield server


@pytest.fixture
def client(server: StreamServer) -> Iterator[StreamClient]:
    with StreamClient(server.endpoint) as client:
        yield client


@pytest.fixture(autouse=True)
def driven(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a user's policies in it."""
    (tmp_path / "driven.py").write_text(POLICIES)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "driven", raising=False)
    return tmp_path


def drive(client: StreamClient, policy: str = "driven:Sees", **options: Any) -> list[Moment]:
    frames, lead_in = options.pop("frames", 6), options.pop("lead_in", 3)
    with PaintedWorld(size_px=2 * SIZE) as world:
        loop = Loop(world, client, Policy(policy), frames=frames, lead_in=lead_in, **options)
        return list(loop.run(SEED))


def seen_by_policy() -> list[tuple[np.ndarray, Action]]:
    seen: list[tuple[np.ndarray, Action]] = sys.modules["driven"].Sees.seen
    return seen


# The loop.


def test_every_action_goes_to_both_worlds(client: StreamClient) -> None:
    moments = drive(client, "driven:Varies")
    assert [m.index for m in moments] == list(range(7))
    assert len({m.action.yaw_rate_radps for m in moments[1:]}) == 6
    with PaintedWorld(size_px=2 * SIZE) as alone:
        alone.reset(SEED)
        ego = moments[0].simulated.ego
        alone._x_m, alone._y_m, alone._heading_rad = ego.x_m, ego.y_m, ego.heading_rad
        alone._speed_mps = ego.speed_mps
        for moment in moments[1:]:
            control = control_for(alone.car, moment.action, ego, 0.25)
            seen = alone.step(control)
            assert (moment.control, moment.simulated.ego) == (control, seen.ego)
            np.testing.assert_array_equal(moment.frame, halve(seen.frame))
            ego = seen.ego
    # The same prompt, seed and actions in a session of our own give the same predicted frames.
    lead = drive_lead(client, "driven:Varies")
    with client.open(
        np.stack(lead.frames), seed=SEED, prompt_inputs=lead.actions, lookahead=0
    ) as own:
        for moment in moments[1:]:
            image = own.step(moment.action).image
            np.testing.assert_array_equal(moment.predicted.image, image)


def drive_lead(client: StreamClient, name: str = "driven:Sees") -> Any:
    with PaintedWorld(size_px=2 * SIZE) as world:
        policy = Policy(name)
        policy.start()
        return Loop(world, client, policy, frames=1, lead_in=3)._drive_in(SEED)


def test_policy_sees_predicted_frames_and_the_action_that_led_to_each(client: StreamClient) -> None:
    moments = drive(client)
    for (frame, last), before in zip(seen_by_policy()[-6:], moments, strict=False):
        np.testing.assert_array_equal(frame, before.predicted.image)
        assert last == before.action


def test_reference_policy_sees_the_simulators_frames(client: StreamClient) -> None:
    moments = drive(client, see="simulator")
    for (frame, _), before in zip(seen_by_policy()[-6:], moments, strict=False):
        np.testing.assert_array_equal(frame, before.frame)


def test_seed_frames_are_the_simulators_with_the_motion_that_led_to_them(
    client: StreamClient,
) -> None:
    lead = drive_lead(client)
    assert len(lead.frames) == len(lead.actions) == 4
    with PaintedWorld(size_px=2 * SIZE) as world:
        np.testing.assert_array_equal(lead.frames[0], halve(world.reset(SEED).frame))
        assert lead.actions[0].speed_mps == world._speed_mps
    # 0.05 rad/s were asked for; while it brakes, the painted car turns as at its end speed: 11 %.
    turns = [action.yaw_rate_radps for action in lead.actions[1:]]
    assert turns == pytest.approx([0.05] * 3, rel=0.12)
    assert lead.last == lead.actions[-1]


def test_context_is_no_longer_than_the_server_takes(client: StreamClient) -> None:
    moments = drive(client, lead_in=20, frames=1)
    assert moments[0].simulated.sim_time_us == 20 * 250_000


def test_neural_simulator_drives_on_when_the_simulators_drive_ends(client: StreamClient) -> None:
    moments = drive(client, "driven:Off", frames=60)
    over = [m.over for m in moments]
    assert len(moments) == 61 and moments[-1].simulated.end == "off_road"
    assert sorted(over) == over and over[-1] and not over[0]
    first = over.index(True)
    assert moments[first - 1].simulated is moments[-1].simulated
    assert not np.array_equal(moments[-2].predicted.image, moments[-1].predicted.image)


def test_reference_drive_ends_with_the_simulators(client: StreamClient) -> None:
    moments = drive(client, "driven:Off", frames=60, see="simulator")
    assert len(moments) < 60 and moments[-1].simulated.done and not moments[-1].over


def test_drive_that_ends_within_its_lead_in_is_a_failed_scene(client: StreamClient) -> None:
    with pytest.raises(SceneFailed, match=r"off_road.*lead-in"):
        drive(client, "driven:Off", lead_in=60)


def test_model_without_actions_cannot_be_driven() -> None:
    blind = ToyModel(toy_spec(replace(PRESET, actions_per_frame=0, prompt="drive")))
    with (
        StreamServer(blind, bind="tcp://127.0.0.1:0") as server,
        StreamClient(server.endpoint) as client,
        pytest.raises(InvalidInput, match="takes no actions"),
    ):
        drive(client)


def test_world_of_another_size_is_refused(client: StreamClient) -> None:
    with PaintedWorld(size_px=48) as world, pytest.raises(InvalidInput, match="32x32 or twice"):
        list(Loop(world, client, Policy("driven:Sees"), frames=1, lead_in=1).run(SEED))


# A video file as a world.


def test_video_world_plays_the_file_whatever_the_control() -> None:
    with VideoWorld(SAMPLE, size_px=256) as one, VideoWorld(SAMPLE, size_px=256) as other:
        seen, too = one.reset(1), other.reset(2)
        for _ in range(3):
            np.testing.assert_array_equal(seen.frame, too.frame)
            seen = one.step(Control(steer=1.0, throttle=1.0))
            too = other.step(Control(steer=-1.0, throttle=-1.0))
        assert one.car is None and math.isnan(seen.ego.speed_mps)
        assert seen.sim_time_us == 750_000


def test_video_world_is_done_at_its_last_frame() -> None:
    with VideoWorld(SAMPLE, size_px=256) as world:
        seen = world.reset(0)
        count = 1
        while not seen.done:
            seen = world.step(Control(steer=0.0, throttle=0.0))
            count += 1
        assert seen.end == "video_over"
        with av.open(str(SAMPLE)) as container:
            assert count == sum(1 for _ in container.decode(video=0))  # it has 4 frames a second
        with pytest.raises(InvalidInput, match="reset"):
            world.step(Control(steer=0.0, throttle=0.0))


def test_video_can_be_driven_along_though_it_does_not_listen(client: StreamClient) -> None:
    with VideoWorld(SAMPLE, size_px=SIZE) as world:
        moments = list(Loop(world, client, Policy("driven:Sees"), frames=3, lead_in=2).run(0))
    measure = Measure(0.25)
    measured = [measure(moment) for moment in moments]
    assert moments[-1].action == Action(speed_mps=6.0, yaw_rate_radps=0.05)
    assert all(math.isnan(m.gap_m) and m.on_road is None for m in measured)
    assert all(m.psnr_db > 0 for m in measured)


def test_video_world_without_a_file_is_refused(
    server: StreamServer, driven: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(server.endpoint, driven / "d.mp4", "--world", "video")) == 2
    assert "--video: got nothing" in capsys.readouterr().err


def test_video_is_driven_along_by_the_command(
    server: StreamServer, driven: Path, capsys: pytest.CaptureFixture[str], write_video: Any
) -> None:
    images = np.random.default_rng(1).integers(0, 256, (9, 2 * SIZE, 2 * SIZE, 3), np.uint8)
    video = str(write_video(images, rate=4))
    assert (
        main(command(server.endpoint, driven / "d.mp4", "--world", "video", "--video", video)) == 0
    )
    (one,) = last_line(capsys.readouterr().out)["drives"]
    assert (one["frames"], one["frames_of_both"], one["gap_m"]) == (5, 5, None)
    assert "on_road_s" not in one
    assert lines(driven / "d.jsonl")[0]["ego"]["speed_mps"] is None


# The measures.


@pytest.mark.parametrize("heading_rad", [0.0, 1.2, -2.5])
def test_pose_is_told_in_the_frame_of_the_start(heading_rad: float) -> None:
    def ego(x_m: float, y_m: float, turned_rad: float) -> EgoState:
        return EgoState(x_m=x_m, y_m=y_m, speed_mps=1.0, heading_rad=turned_rad, yaw_rate_radps=0.0)

    cos, sin = math.cos(heading_rad), math.sin(heading_rad)
    start = ego(5.0, -3.0, heading_rad)
    # 2 m ahead and 1 m to the left of the start.
    there = ego(5.0 + 2 * cos - sin, -3.0 + 2 * sin + cos, heading_rad + 0.3)
    pose = pose_from(start, there)
    assert (pose.x_m, pose.y_m, pose.heading_rad) == pytest.approx((2.0, 1.0, 0.3))
    assert pose.place(0.0, 0.0) == (pose.x_m, pose.y_m)


def test_actions_add_up_to_the_path_of_a_car_that_does_them(client: StreamClient) -> None:
    measure = Measure(0.25)
    measured = [measure(moment) for moment in drive(client, frames=12)]
    # The painted car's heading follows its end speed, not the mean: a few centimetres in 3 s.
    assert measured[-1].neural.x_m > 10.0
    assert measured[-1].gap_m < 0.15
    assert measured[0].neural == Pose(x_m=0.0, y_m=0.0, heading_rad=0.0)


def test_car_is_off_the_road_beyond_its_lanes_edge(client: StreamClient) -> None:
    measure = Measure(0.25)
    measured = [measure(moment) for moment in drive(client, "driven:Off", frames=40)]
    off = [m for m in measured if m.on_road is False]
    assert measured[0].on_road and off
    assert all(abs(m.lane_offset_m) > 1.6 for m in off)
    assert measured[-1].on_road is None and math.isnan(measured[-1].psnr_db)  # over


def test_grass_ahead_is_no_asphalt() -> None:
    with PaintedWorld(size_px=256) as world:
        on = world.reset(SEED).frame
        world._y_m = 12.0  # left of the road, which begins at 0
        off = world._observe().frame
    assert asphalt_ahead(on) > 0.9
    assert asphalt_ahead(off) < 0.1


def test_time_on_the_road_ends_at_the_first_frame_off_it() -> None:
    assert first_not([True, True, False, True]) == 2
    assert first_not([True] * 5) == 5
    assert first_not([]) == 0


@pytest.mark.parametrize(
    ("seen", "lasts"), [("######", 6), ("##..##", 6), ("##....", 2), ("....##", 0), ("#.....", 1)]
)
def test_a_lane_is_lost_when_it_is_unseen_for_long(
    client: StreamClient, seen: str, lasts: int
) -> None:
    measure = Measure(0.25)
    first = measure(drive(client, frames=1)[0])
    known, unknown = (5.0, 0.0), (math.nan, math.nan)
    frames = [replace(first, lane_neural=known if mark == "#" else unknown) for mark in seen]
    assert lane_lost_at(frames, in_a_row=4) == lasts


# The command and what it leaves.


def command(server: str, out: Path, *more: str) -> list[str]:
    base = ["drive", "--world", "painted", "--server", server, "--out", str(out)]
    return [*base, "--policy", "driven:Sees", "--lead-in", "2", "--frames", "5", *more]


def last_line(text: str) -> dict[str, Any]:
    return dict(json.loads(text.splitlines()[-1]))


def video_frames(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_drive_leaves_video_picture_lines_and_a_summary(
    server: StreamServer, driven: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(server.endpoint, driven / "d.mp4")) == 0
    assert {p.name for p in driven.glob("*d.*")} == {"d.mp4", "d.png", "d.jsonl", "d.json"}
    images = video_frames(driven / "d.mp4")
    assert len(images) == 6  # with the seed frame
    told = lines(driven / "d.jsonl")
    assert [line["index"] for line in told] == list(range(6))
    assert told[3]["action"] == {"speed_mps": 6.0, "yaw_rate_radps": 0.05}
    summary = last_line(capsys.readouterr().out)
    assert (summary["world"], summary["policy"], summary["see"]) == (
        "painted",
        "driven:Sees",
        "neural",
    )
    (one,) = summary["drives"]
    assert one == json.loads((driven / "d.json").read_text())
    assert (one["seed"], one["frames"], one["end"]) == (90_000, 5, "length")
    assert one["on_road_s"] == 1.25
    assert (one["prompt_psnr_db"], one["prompt_is_foreign"]) == (OWN_DB, False)
    assert one["psnr_db_at"]["4"] == told[4]["psnr_db"]


def test_video_shows_the_simulator_left_and_the_prediction_right(
    server: StreamServer, driven: Path
) -> None:
    assert main(command(server.endpoint, driven / "d.mp4")) == 0
    with PaintedWorld(size_px=2 * SIZE) as world:
        sky = halve(world.reset(90_000).frame)[2:10].mean((0, 1))
    image = video_frames(driven / "d.mp4")[3].astype(float)
    top = 26
    left, right = image[top + 2 : top + 10, 8:40], image[top + 2 : top + 10, 48:80]
    np.testing.assert_allclose(left.mean((0, 1)), sky, atol=12)  # chroma at half resolution
    assert left.std(axis=(0, 1)).max() < 10 < right.std(axis=(0, 1)).min()  # the toy predicts noise


def test_several_drives_are_named_after_their_seeds(
    server: StreamServer, driven: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(server.endpoint, driven / "d.mp4", "--drives", "3", "--seed", "4")) == 0
    summary = last_line(capsys.readouterr().out)
    assert [d["seed"] for d in summary["drives"]] == [90_004, 90_005, 90_006]
    assert (summary["frames"], summary["ends"]) == (15, {"length": 3})
    assert {p.name for p in driven.glob("*.mp4")} == {f"d-09000{n}.mp4" for n in (4, 5, 6)}


def test_failed_scene_is_one_of_several_drives(
    server: StreamServer,
    driven: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reset = PaintedWorld.reset

    def fails_once(world: PaintedWorld, seed: int) -> Observation:
        if seed == 90_001:
            raise SceneFailed("this scene cannot be built")
        return reset(world, seed)

    monkeypatch.setattr(PaintedWorld, "reset", fails_once)
    assert main(command(server.endpoint, driven / "d.mp4", "--drives", "3")) == 0
    summary = last_line(capsys.readouterr().out)
    assert summary["ends"] == {"length": 2, "failed": 1}
    assert "cannot be built" in summary["drives"][1]["error"]
    assert not list(driven.glob("*090001*")) and not list(driven.glob(".*"))


def test_policy_that_raises_leaves_the_drive_so_far(
    server: StreamServer, driven: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (driven / "d.json").write_text("of an earlier drive")
    assert main(command(server.endpoint, driven / "d.mp4", "--policy", "driven:Breaks")) == 2
    assert "policy driven:Breaks raised KeyError: 'left' (line" in capsys.readouterr().err
    # Two calls for the lead-in, four that worked after it, and the seed frame.
    assert len(video_frames(driven / "d.mp4")) == len(lines(driven / "d.jsonl")) == 5
    assert not (driven / "d.json").exists()


def test_policy_error_is_raised_as_itself(client: StreamClient) -> None:
    with pytest.raises(PolicyFailed):
        drive(client, "driven:Breaks", frames=9)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (("--frames", "0"), "--frames: got 0"),
        (("--lead-in", "-1"), "--lead-in: got -1"),
        (("--out", "d.avi"), "ends in .mp4"),
        (("--out", "nowhere/d.mp4"), "no such directory"),
        (("--key", "me.secret"), "server_key: got none"),
        (("--policy", "straight"), "lane-keep"),
        (("--seed", "20000"), "drive index"),
    ],
)
def test_wrong_options_are_refused_at_once(
    driven: Path, capsys: pytest.CaptureFixture[str], wrong: tuple[str, ...], said: str
) -> None:
    assert main(command("tcp://127.0.0.1:1", driven / "d.mp4", *wrong)) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_stop_leaves_a_video_that_can_be_read(driven: Path, stop: signal.Signals) -> None:
    server = ServerProcess()
    out = driven / "d.mp4"
    arguments = command(server.endpoint, out, "--policy", "driven:slow", "--frames", "2000")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(driven)])}
    process = subprocess.Popen(
        [sys.executable, "-m", "bridge", *arguments],
        cwd=ROOT,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline_s = time.monotonic() + 60
        part = driven / f".d.jsonl.{process.pid}.part"
        while not (part.exists() and part.stat().st_size) and time.monotonic() < deadline_s:
            time.sleep(0.05)  # until the first lines are written out
        process.send_signal(stop)
        _, errors = process.communicate(timeout=30)
    finally:
        server.stop(signal.SIGTERM)
    assert process.returncode == 128 + stop and "stopped" in errors
    frames, told = len(video_frames(out)), len(lines(out.with_suffix(".jsonl")))
    assert 1 < frames < 2000 and abs(frames - told) <= 1
    assert not list(driven.glob(".*"))
