"""Lanes in frames: found where they were painted, seen or half seen, and doubted where none is."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bridge.camera import Camera
from bridge.painted import PaintedWorld
from bridge.policies.lanes import Lane, LaneFinder, is_asphalt
from bridge.worlds import Control
from sim_stream.config import FrameSize
from sim_stream.video import SAMPLE, read_clip

SEED = 90_007
SQUARE = FrameSize.square(256)


@pytest.fixture(scope="module")
def finder() -> LaneFinder:
    # PaintedWorld looks straight ahead, from above the car's own point; its horizon is 0.45 down.
    return LaneFinder(Camera(forward_m=0.0, pitch_down_deg=3.7))


def painted(offset_m: float = 0.0, heading_rad: float = 0.0, size_px: int = 256) -> np.ndarray:
    """A frame from a car that stands so far left of its lane's middle and points so far left."""
    with PaintedWorld(size_px=size_px) as world:
        world.reset(SEED)
        world._y_m += offset_m
        world._heading_rad = heading_rad
        return world._observe().frame


def blurred(frame_HW3: np.ndarray, times: int = 6) -> np.ndarray:
    soft = frame_HW3.astype(float)
    for _ in range(times):
        for axis in (0, 1):
            soft = (np.roll(soft, 1, axis) + 2 * soft + np.roll(soft, -1, axis)) / 4
    return soft.astype(np.uint8)


@pytest.mark.parametrize("offset_m", [-1.0, -0.3, 0.0, 0.6, 1.2])
def test_the_lane_is_found_where_it_is(finder: LaneFinder, offset_m: float) -> None:
    lane = finder.find(painted(offset_m))
    # The table's step is 0.15 m, and a stripe is seen as 0.3 m wide.
    assert lane.left_m(5.0) == pytest.approx(-offset_m, abs=0.25)
    assert lane.left_m(12.0) == pytest.approx(-offset_m, abs=0.3)
    assert lane.marked > 0.3


@pytest.mark.parametrize("heading_rad", [-0.15, 0.1])
def test_a_turned_car_sees_the_lane_turned_the_other_way(
    finder: LaneFinder, heading_rad: float
) -> None:
    lane = finder.find(painted(heading_rad=heading_rad))
    assert lane.left_m(8.0) == pytest.approx(-8.0 * math.tan(heading_rad), abs=0.35)


def test_a_blurred_frame_gives_the_same_lane(finder: LaneFinder) -> None:
    sharp, soft = (finder.find(frame) for frame in (painted(0.6), blurred(painted(0.6))))
    assert soft.left_m(8.0) == pytest.approx(sharp.left_m(8.0), abs=0.3)


def test_a_frame_of_half_the_size_gives_the_same_lane(finder: LaneFinder) -> None:
    small = finder.find(painted(0.6, size_px=128))
    assert small.left_m(8.0) == pytest.approx(-0.6, abs=0.4)


@pytest.mark.parametrize("shade", [0, 70, 255])
def test_an_empty_frame_shows_no_markings(finder: LaneFinder, shade: int) -> None:
    assert finder.find(np.full((256, 256, 3), shade, np.uint8)).marked == 0.0


def test_what_was_expected_decides_between_two_equal_lanes(finder: LaneFinder) -> None:
    between = painted(0.5 * 3.25)  # over the line that two lanes share
    left = Lane(offset_m=1.6, slope=0.0, curvature_per_m=0.0, width_m=3.25, marked=1.0)
    right = Lane(offset_m=-1.6, slope=0.0, curvature_per_m=0.0, width_m=3.25, marked=1.0)
    assert finder.find(between, left).offset_m > 1.0
    assert finder.find(between, right).offset_m < -1.0


def test_of_a_frame_that_is_not_square_the_same_lane_is_found(finder: LaneFinder) -> None:
    whole = painted(0.6)
    low = whole[64:-64]  # the same camera, which sees less of the sky and of the bonnet
    assert finder.find(low).offset_m == pytest.approx(finder.find(whole).offset_m, abs=0.16)
    row, column = Camera().project(np.array([10.0]), np.array([1.0]), SQUARE)
    cut, same = Camera().project(np.array([10.0]), np.array([1.0]), FrameSize.parse("128x256"))
    np.testing.assert_allclose((cut, same), (row - 64, column))


@pytest.mark.parametrize("turned_rad", [0.0, 0.05, -0.1])
def test_a_lane_after_driving_is_the_lane_seen_from_there(turned_rad: float) -> None:
    lane = Lane(offset_m=0.5, slope=0.05, curvature_per_m=0.02, width_m=3.5, marked=1.0)
    moved_m = 2.0
    later = lane.after(moved_m, turned_rad)
    # A point of the lane 8 m ahead, seen from a car that drove an arc of 2 m.
    x_m = 8.0 - moved_m * math.cos(turned_rad / 2)
    y_m = lane.left_m(8.0) - moved_m * math.sin(turned_rad / 2)
    ahead_m = math.cos(turned_rad) * x_m + math.sin(turned_rad) * y_m
    left_m = math.cos(turned_rad) * y_m - math.sin(turned_rad) * x_m
    assert later.left_m(ahead_m) == pytest.approx(left_m, abs=0.1)  # parabolas, small angles


def test_asphalt_is_dark_and_grey() -> None:
    ground = np.array([[70, 72, 75], [200, 195, 190], [90, 130, 50], [np.nan] * 3], dtype=float)
    np.testing.assert_array_equal(is_asphalt(ground), [1.0, 0.0, 0.0, 0.5])


def test_the_middle_of_the_lane_ahead_is_in_the_middle_of_the_frame() -> None:
    row, column = Camera().project(np.array([10.0]), np.array([0.0]), SQUARE)
    assert column[0] == pytest.approx(127.5)
    nearer, _ = Camera().project(np.array([5.0]), np.array([0.0]), SQUARE)
    assert 116 < row[0] < nearer[0] < 256
    _, left = Camera().project(np.array([10.0]), np.array([2.0]), SQUARE)
    assert left[0] < column[0]


def test_driving_on_keeps_the_painted_lane(finder: LaneFinder) -> None:
    """The same lane, frame after frame, while the stripes pass by."""
    with PaintedWorld(size_px=256) as world:
        world.reset(SEED)
        for _ in range(12):
            frame = world.step(Control(steer=0.0, throttle=0.3)).frame
            assert finder.find(frame).left_m(8.0) == pytest.approx(0.0, abs=0.3)


def test_metadrives_lane_is_found_in_the_shipped_clip() -> None:
    """Frames of MetaDrive: the car is within half a metre of its lane's middle all along."""
    finder = LaneFinder()
    for frame in read_clip(SAMPLE, frames=12):
        lane = finder.find(frame)
        assert abs(lane.left_m(4.0)) < 0.5 and abs(lane.left_m(12.0)) < 0.6
        assert lane.marked > 0.6
