"""The exploring driver: keeps to the road, explores both sides, and repeats itself per seed."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from bridge.painted import PaintedWorld
from bridge.policy import RECIPES, ExploringDriver, Style
from bridge.worlds import Control, EgoState, Observation, RoadView

STILL_FRAME = np.zeros((1, 1, 3), dtype=np.uint8)
CALM = Style(cruise_mps=8.0, boldness=1.0, lookahead_s=1.0, jitter=0.0)


def seen_at(speed_mps: float) -> Observation:
    ego = EgoState(x_m=0.0, y_m=0.0, speed_mps=speed_mps, heading_rad=0.0, yaw_rate_radps=0.0)
    return Observation(frame=STILL_FRAME, sim_time_us=0, ego=ego, done=False)


def road(
    bend_per_m: float = 0.0, beside_m: float = 0.0, actors: tuple[tuple[float, ...], ...] = ()
) -> RoadView:
    along_m = np.arange(0.0, 60.0, 2.0)
    return RoadView(
        path_m=np.stack([along_m, beside_m + 0.5 * bend_per_m * along_m**2], axis=1),
        lane_width_m=3.5,
        lanes_left=1,
        lanes_right=1,
        actors=np.array(actors).reshape(-1, 3),
    )


def calm_control(speed_mps: float, view: RoadView) -> Control:
    """The first control of a driver without jitter, which follows before it explores."""
    driver = ExploringDriver(0)
    driver.style = CALM
    driver._target_mps = CALM.cruise_mps
    return driver.act(seen_at(speed_mps), view)


def run(seed: int, frames: int = 80) -> tuple[list[Observation], list[Control]]:
    driver = ExploringDriver(seed)
    observations, controls = [], []
    with PaintedWorld(size_px=16) as world:
        observations.append(world.reset(seed))
        while len(observations) < frames and not observations[-1].done:
            controls.append(driver.act(observations[-1], world.road()))
            observations.append(world.step(controls[-1]))
    return observations, controls


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_steers_towards_the_lane_and_along_the_bend(sign: float) -> None:
    assert sign * calm_control(8.0, road(beside_m=1.0 * sign)).steer > 0.01
    assert sign * calm_control(8.0, road(bend_per_m=0.02 * sign)).steer > 0.01


def test_goes_straight_on_a_straight_road() -> None:
    assert calm_control(8.0, road()).steer == 0.0


def test_brakes_for_a_car_ahead_and_not_for_one_beside() -> None:
    assert calm_control(8.0, road(actors=((12.0, 0.0, 0.0),))).throttle < -0.3
    free = calm_control(8.0, road()).throttle
    assert calm_control(8.0, road(actors=((12.0, 3.5, 0.0),))).throttle == free


def test_slows_down_before_a_sharp_bend() -> None:
    assert calm_control(14.0, road(bend_per_m=0.05)).throttle < -0.3


def test_the_same_seed_drives_the_same_and_another_differently() -> None:
    assert run(3)[1] == run(3)[1] != run(4)[1]


def test_styles_differ_between_seeds() -> None:
    cruise = [ExploringDriver(seed).style.cruise_mps for seed in range(50)]
    assert min(cruise) < 5.0 and max(cruise) > 13.0


def test_most_drives_stay_near_the_road() -> None:
    off_road = [run(seed)[0][-1].done for seed in range(30)]
    assert sum(off_road) <= 3  # leaving the road is a rare end, not the rule


def test_left_and_right_are_covered_alike_on_a_straight_road() -> None:
    yaw = np.array([seen.ego.yaw_rate_radps for seed in range(60) for seen in run(seed)[0]])
    left, right = float(np.mean(yaw > 0.05)), float(np.mean(yaw < -0.05))
    assert min(left, right) > 0.15
    assert abs(left - right) < 0.08  # 60 drives; the difference falls as they grow in number
    assert np.mean(np.abs(yaw) > 0.2) > 0.05
    assert math.isclose(float(np.mean(yaw)), 0.0, abs_tol=0.03)


def test_some_drives_come_to_a_standstill_and_start_again() -> None:
    def restarts(seed: int) -> bool:
        speed = np.array([seen.ego.speed_mps for seen in run(seed)[0]])
        still = np.flatnonzero((speed < 0.3) & (np.arange(len(speed)) > 10))
        return len(still) > 0 and bool(np.any(speed[still[0] :] > 2.0))

    assert sum(restarts(seed) for seed in range(40)) >= 5


def test_every_manoeuvre_is_drawn() -> None:
    drawn = set()
    for seed in range(20):
        driver = ExploringDriver(seed)
        drawn |= {driver._next(road()).kind for _ in range(20)}
    assert drawn == set(RECIPES)


def test_does_not_change_into_an_occupied_lane() -> None:
    driver = ExploringDriver(1)
    view = road(actors=((3.0, 3.5, 8.0), (-3.0, -3.5, 8.0)))
    assert {driver._lane_change(view).kind for _ in range(20)} == {"follow"}
    only_left = dataclasses.replace(view, actors=np.array([[3.0, -3.5, 8.0]]))
    assert {driver._lane_change(only_left).sign for _ in range(20)} == {1.0}
