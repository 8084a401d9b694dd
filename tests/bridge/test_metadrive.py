"""MetaDriveWorld: its errors without MetaDrive, its messages, and a short real drive."""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bridge.metadrive.framing import LENGTH, PipeClosed, read_message, write_message
from bridge.metadrive.world import ENVIRONMENT, MetaDriveWorld, WorkerFailed
from bridge.worlds import Control, Observation, RoadWorld
from sim_stream.errors import InvalidInput, SessionClosed, Unavailable

needs_metadrive = [
    pytest.mark.metadrive,
    pytest.mark.skipif(
        not (ENVIRONMENT / "bin" / "python").exists(),
        reason="MetaDrive's environment is not built: run `make metadrive`",
    ),
]


def environment_with(tmp_path: Path, script: str) -> Path:
    """An environment whose `python` runs the given lines instead of the worker."""
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    framing = Path("bridge/metadrive").resolve()
    head = f"#!{sys.executable}\nimport os, sys, time\nsys.path.insert(0, {str(framing)!r})\n"
    python.write_text(head + "from framing import read_message, write_message\n" + script)
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    return tmp_path


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            continue  # the test closed it


def test_messages_come_through_unchanged(pipe: tuple[int, int]) -> None:
    message = {"ok": True, "frame": bytes(range(256)), "path": [[0.5, -1.0]], "end": ""}
    write_message(pipe[1], message)
    assert read_message(pipe[0], timeout_s=5) == message


def test_silence_is_a_timeout(pipe: tuple[int, int]) -> None:
    os.write(pipe[1], LENGTH.pack(5) + b"abc")
    with pytest.raises(TimeoutError):
        read_message(pipe[0], timeout_s=0.1)


def test_the_end_of_the_pipe_inside_a_message_is_an_error(pipe: tuple[int, int]) -> None:
    os.write(pipe[1], LENGTH.pack(5) + b"abc")
    os.close(pipe[1])
    with pytest.raises(PipeClosed):
        read_message(pipe[0], timeout_s=5)


def test_a_huge_message_is_refused_before_it_is_read(pipe: tuple[int, int]) -> None:
    os.write(pipe[1], LENGTH.pack(2**32 - 1))
    with pytest.raises(ValueError, match="limit"):
        read_message(pipe[0], timeout_s=5)


def test_a_missing_environment_names_the_command_that_builds_it(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="make metadrive"):
        MetaDriveWorld(environment=tmp_path / "nowhere")


def test_a_bad_size_is_refused() -> None:
    with pytest.raises(InvalidInput, match="size_px"):
        MetaDriveWorld(size_px=7)


def test_a_worker_that_dies_shows_its_last_words(tmp_path: Path) -> None:
    dies = environment_with(tmp_path, "sys.exit('the engine fell off')\n")
    with pytest.raises(WorkerFailed, match=r"died \(exit code 1\)[\s\S]*the engine fell off"):
        MetaDriveWorld(environment=dies)


@pytest.mark.parametrize("words", ["No graphics pipe is available!", "Could not open window."])
def test_missing_system_libraries_are_named(tmp_path: Path, words: str) -> None:
    script = f"write_message(1, dict(ok=True))\nwrite_message(1, dict(ok=False, error={words!r}))\n"
    world = MetaDriveWorld(environment=environment_with(tmp_path, script + "read_message(0)\n"))
    with pytest.raises(WorkerFailed, match="apt-get install libegl1 libgl1 libgl1-mesa-dri"):
        world.reset(0)


def test_a_worker_that_hangs_is_timed_out_and_killed(tmp_path: Path) -> None:
    script = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    script += "write_message(1, dict(ok=True))\ntime.sleep(600)\n"
    world = MetaDriveWorld(environment=environment_with(tmp_path, script), start_timeout_s=20)
    world._start_timeout_s = 0.2
    pid, start_s = world._process.pid, time.monotonic()
    with pytest.raises(WorkerFailed, match=r"no answer within 0\.2 s"):
        world.reset(0)
    assert time.monotonic() - start_s < 10
    assert is_gone(pid)
    with pytest.raises(SessionClosed):
        world.reset(0)


def test_close_ends_the_worker_and_may_be_repeated(tmp_path: Path) -> None:
    obeys = (
        "write_message(1, dict(ok=True))\ntry:\n    read_message(0)\nexcept EOFError:\n    pass\n"
    )
    with MetaDriveWorld(environment=environment_with(tmp_path, obeys)) as world:
        pid = world._process.pid
    world.close()
    assert is_gone(pid) and world._process.returncode == 0


class TestRealMetaDrive:
    """One simulator for all of these: its start takes 10 to 20 s on two cores."""

    pytestmark = needs_metadrive

    @pytest.fixture(scope="class")
    @classmethod
    def world(cls) -> Iterator[MetaDriveWorld]:
        with MetaDriveWorld(size_px=96) as world:
            yield world

    @staticmethod
    def drive(world: MetaDriveWorld, steer: float) -> list[Observation]:
        """From a reset: straight on to 4 m/s or more, then six frames of turning."""
        seen = [world.reset(STRAIGHT_SEED)]
        while seen[-1].ego.speed_mps < 4.0 and len(seen) < 12:
            seen.append(world.step(Control(steer=0.0, throttle=0.9)))
        seen.append(world.step(Control(steer=0.0, throttle=0.3)))
        seen += [world.step(Control(steer=steer, throttle=0.2)) for _ in range(6)]
        return seen

    @pytest.mark.parametrize("sign", [1.0, -1.0])
    def test_steering_left_yaws_positive_and_moves_the_picture_right(
        self, world: MetaDriveWorld, sign: float
    ) -> None:
        assert isinstance(world, RoadWorld)
        seen = self.drive(world, 0.12 * sign)
        before, after = seen[-7], seen[-1]
        assert sign * after.ego.yaw_rate_radps > 0.05
        turned_rad = after.ego.heading_rad - before.ego.heading_rad
        assert sign * turned_rad > 0.1
        assert sign * (after.ego.y_m - before.ego.y_m) > 0.1
        assert sign * sky_shift_px(before.frame, after.frame) > 0

    def test_frames_are_what_the_interface_promises(self, world: MetaDriveWorld) -> None:
        seen = self.drive(world, 0.0)
        for index, observation in enumerate(seen):
            assert observation.frame.shape == (96, 96, 3) and observation.frame.dtype == np.uint8
            assert observation.sim_time_us == 250_000 * index
        sky, road = seen[-1].frame[:30].mean((0, 1)), seen[-1].frame[70:, 32:64].mean((0, 1))
        assert sky[2] > sky[0] + 5  # blue, so the channels are not swapped
        assert np.ptp(road) < 20  # asphalt is grey
        assert not np.array_equal(seen[-1].frame, seen[-2].frame)

    def test_every_scene_has_the_same_camera(self, world: MetaDriveWorld) -> None:
        """Each vehicle that MetaDrive creates re-aims the camera that all share."""
        for seed in CROWDED_SEEDS:
            assert 0.42 < horizon(world.reset(seed).frame) < 0.48
            control = Control(steer=0.0, throttle=0.2)
            assert 0.42 < horizon([world.step(control) for _ in range(4)][-1].frame) < 0.48

    def test_the_light_of_a_scene_is_seen_and_goes_with_it(self, world: MetaDriveWorld) -> None:
        seen = {light: world.reset(seed).frame.mean((0, 1)) for light, seed in LIT_SEEDS.items()}
        assert seen["night"].mean() < 0.5 * seen["day"].mean()
        assert seen["dusk"][0] > seen["dusk"][2]  # red over blue, by day the other way round
        assert np.ptp(seen["overcast"][:2]) < np.ptp(seen["day"])  # greyer
        again = world.reset(LIT_SEEDS["day"]).frame.mean((0, 1))
        np.testing.assert_allclose(again, seen["day"], atol=2.0)

    def test_the_same_seed_gives_the_same_drive_again(self, world: MetaDriveWorld) -> None:
        one, other = self.drive(world, 0.1), self.drive(world, 0.1)
        for a, b in zip(one, other, strict=True):
            assert a.ego.x_m == pytest.approx(b.ego.x_m, abs=1e-3)
            assert a.ego.yaw_rate_radps == pytest.approx(b.ego.yaw_rate_radps, abs=1e-3)
            # Only the sky: where two lanes' surfaces overlap, which one is drawn last differs.
            sky_error = np.abs(a.frame[:36].astype(int) - b.frame[:36])
            assert sky_error.mean() < 0.5


STRAIGHT_SEED = 2  # SSSSS, which no steering of six frames leaves
CROWDED_SEEDS = (0, 6, 3, 75)
LIT_SEEDS = {"night": 91_002, "day": 91_001, "dusk": 91_000, "overcast": 91_005}


def horizon(frame_HW3: np.ndarray) -> float:
    """The height at which the picture's sides turn from sky to grass, as a share from the top."""
    side = max(1, frame_HW3.shape[1] // 8)
    sides = np.concatenate([frame_HW3[:, :side], frame_HW3[:, -side:]], axis=1).astype(int)
    green_over_blue = sides[..., 1].mean(1) - sides[..., 2].mean(1)
    return float(np.flatnonzero(green_over_blue > 15)[0]) / len(frame_HW3)


def sky_shift_px(before_HW3: np.ndarray, after_HW3: np.ndarray) -> int:
    """How far the sky moved to the right, by the best match of its rows."""
    a_HW, b_HW = (frame[4:36].astype(float).mean(-1) for frame in (before_HW3, after_HW3))
    width = a_HW.shape[1]

    def mismatch(shift: int) -> float:
        a_part = a_HW[:, max(0, -shift) : width - max(0, shift)]
        b_part = b_HW[:, max(0, shift) : width - max(0, -shift)]
        return float(np.abs(a_part - b_part).mean())

    return min(range(-40, 41), key=mismatch)
