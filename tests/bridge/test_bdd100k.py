"""The writer: BDD100K's layout, keys and units, signs, and nothing half-written."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest

from bridge.painted import PaintedWorld
from bridge.recording.bdd100k import (
    EARTH_RADIUS_M,
    DriveWriter,
    course_deg,
    info,
    info_path,
    latitude_longitude_deg,
    video_path,
)
from bridge.worlds import Control, EgoState, Observation
from sim_stream.errors import InvalidInput

FRAMES = 9
TURN = Control(steer=0.05, throttle=0.4)


def write(root: Path, *, commit: bool = True) -> list[Observation]:
    with PaintedWorld() as world, DriveWriter(root, "val", "d1", seed=90_003, fps=4) as writer:
        seen = [world.reset(90_003)]
        writer.add(seen[0])
        for _ in range(FRAMES - 1):
            seen.append(world.step(TURN))
            writer.add(seen[-1])
        if commit:
            writer.commit()
    return seen


def test_files_lie_where_bdd100k_has_them(tmp_path: Path) -> None:
    write(tmp_path)
    files = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert files == {"videos/val/d1.mov", "info/100k/val/d1.json"}


def test_the_video_has_every_frame_at_4_fps_in_colour(tmp_path: Path) -> None:
    seen = write(tmp_path)
    with av.open(str(video_path(tmp_path, "val", "d1"))) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
    assert [frame.time for frame in frames] == [i / 4 for i in range(FRAMES)]
    for frame, observation in zip(frames, seen, strict=True):
        error = frame.to_ndarray(format="rgb24").astype(int) - observation.frame
        # Chroma at half resolution blurs painted edges; swapped channels would be 40 and more off.
        assert np.abs(error).mean() < 6.0


def test_a_folder_with_a_time_in_its_name_is_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("drives-12:00"))
    assert video_path(Path("drives-12:00"), "val", "d1").stat().st_size > 1000


def test_the_info_file_has_bdd100ks_keys_and_units(tmp_path: Path) -> None:
    seen = write(tmp_path)
    content = json.loads(info_path(tmp_path, "val", "d1").read_text())
    assert set(content) == {
        "rideID", "id", "filename", "startTime", "endTime", "locations", "gyro", "accelerometer",
    }  # fmt: skip
    assert (content["id"], content["filename"]) == ("d1", "d1.mov")
    stamps = [place["timestamp"] for place in content["locations"]]
    assert stamps == [content["startTime"] + 250 * i for i in range(FRAMES)]
    assert content["endTime"] == stamps[-1]
    for place, observation in zip(content["locations"], seen, strict=True):
        assert set(place) == {
            "timestamp", "latitude", "longitude", "speed", "course", "accuracy",
        }  # fmt: skip
        assert place["speed"] == observation.ego.speed_mps
        assert 0.0 <= place["course"] < 360.0
    for name in ("gyro", "accelerometer"):
        assert [set(entry) for entry in content[name]] == [{"x", "y", "z", "timestamp"}] * FRAMES
        assert [entry["timestamp"] for entry in content[name]] == stamps


@pytest.mark.parametrize(
    ("heading_rad", "course"),
    [(0.0, 90.0), (np.pi / 2, 0.0), (np.pi, 270.0), (-np.pi / 2, 180.0), (2 * np.pi, 90.0)],
)
def test_course_is_clockwise_from_north(heading_rad: float, course: float) -> None:
    assert course_deg(heading_rad) == pytest.approx(course)


def test_a_left_turn_lowers_the_course_and_has_a_positive_gyro_and_acceleration(
    tmp_path: Path,
) -> None:
    write(tmp_path)
    content = json.loads(info_path(tmp_path, "val", "d1").read_text())
    course = np.unwrap(np.radians([place["course"] for place in content["locations"]]))
    gyro = np.array([entry["z"] for entry in content["gyro"]])
    assert np.all(gyro[1:] > 0)
    # Constant over a step in this world, so the course falls by exactly the gyro's rate.
    np.testing.assert_allclose(-np.diff(course) / 0.25, gyro[1:], atol=1e-9)
    assert all(entry["y"] > 0 for entry in content["accelerometer"][1:])
    # 0.4 of 3 m/s2 in multiples of g; the speed grows linearly, so the gradient is exact.
    ahead = [entry["x"] for entry in content["accelerometer"]]
    np.testing.assert_allclose(ahead, 0.4 * 3.0 / 9.80665, rtol=1e-9)


def test_places_are_as_far_apart_as_the_car_drove() -> None:
    (lat0, lon0), (lat1, lon1) = latitude_longitude_deg(0, 0), latitude_longitude_deg(30.0, 40.0)
    north_m = np.radians(lat1 - lat0) * EARTH_RADIUS_M
    east_m = np.radians(lon1 - lon0) * EARTH_RADIUS_M * np.cos(np.radians(lat0))
    assert (east_m, north_m) == (pytest.approx(30.0, abs=1e-3), pytest.approx(40.0, abs=1e-3))


def test_an_uncommitted_drive_leaves_no_file(tmp_path: Path) -> None:
    write(tmp_path, commit=False)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_an_error_in_a_drive_leaves_no_file(tmp_path: Path) -> None:
    with (
        pytest.raises(ZeroDivisionError),
        PaintedWorld() as world,
        DriveWriter(tmp_path, "val", "d1", seed=90_003, fps=4) as writer,
    ):
        world.reset(90_003)
        for _ in range(80):  # more than the encoder looks ahead, so that it has written some
            writer.add(world.step(Control(steer=0.0, throttle=0.1)))
        assert [p.name for p in tmp_path.rglob("*") if p.is_file()] != []
        assert not video_path(tmp_path, "val", "d1").exists()
        raise ZeroDivisionError
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_times_and_states_must_match() -> None:
    ego = EgoState(x_m=0.0, y_m=0.0, speed_mps=0.0, heading_rad=0.0, yaw_rate_radps=0.0)
    with pytest.raises(InvalidInput, match="egos"):
        info("d", 0, [0, 250], [ego])
