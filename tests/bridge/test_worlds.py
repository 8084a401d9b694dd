"""The World interface: its values, its conventions, and that PaintedWorld keeps them."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from bridge.painted import PaintedWorld
from bridge.worlds import Control, Observation, RoadWorld, World
from sim_stream.errors import InvalidInput, SessionClosed

CRUISE = Control(steer=0.0, throttle=0.5)


def drive(world: World, control: Control, steps: int) -> Observation:
    for _ in range(steps):
        seen = world.step(control)
    return seen


def test_painted_world_is_a_road_world() -> None:
    assert isinstance(PaintedWorld(), RoadWorld)


@pytest.mark.parametrize("value", [1.01, -1.01, math.nan, math.inf])
@pytest.mark.parametrize("name", ["steer", "throttle"])
def test_a_control_out_of_range_names_its_field(name: str, value: float) -> None:
    with pytest.raises(InvalidInput, match=f"Control.{name}"):
        Control(**{"steer": 0.0, "throttle": 0.0, name: value})


def test_values_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        CRUISE.steer = 1.0  # type: ignore[misc]


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_steering_left_is_a_positive_yaw_rate_and_a_growing_heading_and_y(sign: float) -> None:
    with PaintedWorld() as world:
        first = world.reset(5)
        drive(world, CRUISE, 4)
        seen = drive(world, Control(steer=0.1 * sign, throttle=0.5), 4)
    assert sign * seen.ego.yaw_rate_radps > 0.05
    assert sign * (seen.ego.heading_rad - first.ego.heading_rad) > 0.05
    assert sign * (seen.ego.y_m - first.ego.y_m) > 0.05


def test_turning_left_moves_the_picture_right() -> None:
    with PaintedWorld(size_px=128) as world:
        world.reset(5)
        straight = drive(world, CRUISE, 6).frame
        left = drive(world, Control(steer=0.2, throttle=0.0), 2).frame
    row = 62  # about 30 m ahead, where the whole road is in the picture
    assert asphalt_middle(left[row]) > asphalt_middle(straight[row]) + 10


def asphalt_middle(row_W3: np.ndarray) -> float:
    grey = np.ptp(row_W3.astype(int), axis=-1) < 12
    return float(np.mean(np.flatnonzero(grey)))


def test_time_goes_on_by_a_frame_a_step_and_starts_anew_at_reset() -> None:
    with PaintedWorld() as world:
        assert world.reset(1).sim_time_us == 0
        assert drive(world, CRUISE, 3).sim_time_us == 3 * round(1e6 / world.fps)
        assert world.reset(1).sim_time_us == 0


def test_the_same_seed_gives_the_same_drive() -> None:
    with PaintedWorld() as one, PaintedWorld() as other:
        other.reset(8)
        a, b = one.reset(7), other.reset(7)
        assert (a.ego, a.sim_time_us) == (b.ego, b.sim_time_us)
        assert np.array_equal(drive(one, CRUISE, 5).frame, drive(other, CRUISE, 5).frame)


def test_leaving_the_road_ends_the_drive_and_says_so() -> None:
    with PaintedWorld() as world:
        world.reset(5)
        seen = drive(world, Control(steer=0.3, throttle=1.0), 40)
    assert seen.done and seen.end == "off_road"


def test_a_closed_world_refuses_and_closes_again() -> None:
    world = PaintedWorld()
    world.reset(5)
    world.close()
    world.close()
    with pytest.raises(SessionClosed):
        world.step(CRUISE)
