"""The straying driver: leaves the road, comes back, and its imagined road is a road."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from bridge.painted import OFF_ROAD_M, PaintedWorld
from bridge.straying import FARTHEST_M, LENGTH_M, POINT_M, RADIUS_M, ImaginedRoad, StrayingDriver
from bridge.worlds import Control, EgoState

HERE = EgoState(x_m=30.0, y_m=-7.0, speed_mps=8.0, heading_rad=2.0, yaw_rate_radps=0.0)


def run(seed: int, frames: int = 120) -> tuple[list[float], list[Control]]:
    """How far beside the road the car was, frame by frame, in metres; what was done."""
    driver, beside_m, controls = StrayingDriver(seed), [], []
    with PaintedWorld(size_px=16) as world:
        seen = world.reset(seed)
        for _ in range(frames):
            road = world.road()
            beside_m.append(float(np.min(np.hypot(*road.path_m.T))))
            controls.append(driver.act(seen, road))
            seen = world.step(controls[-1])
    return beside_m, controls


def test_most_drives_leave_the_road_and_come_back() -> None:
    drives = [np.array(run(seed)[0]) for seed in range(30)]
    left = [np.flatnonzero(beside > OFF_ROAD_M) for beside in drives]
    back = [
        len(away) > 0 and bool(np.any(beside[away[0] :] < 1.0))
        for beside, away in zip(drives, left, strict=True)
    ]
    assert sum(len(away) > 0 for away in left) >= 20
    assert sum(back) >= 15
    # At 17 m/s and 4 m/s2 it takes 72 m to turn round.
    assert max(beside.max() for beside in drives) < FARTHEST_M + 72.0
    share = np.mean([np.mean(beside > OFF_ROAD_M) for beside in drives])
    assert 0.1 < share < 0.6


def test_the_same_seed_strays_the_same_and_another_differently() -> None:
    assert run(3)[1] == run(3)[1] != run(4)[1]


def imagined(seed: int = 0) -> ImaginedRoad:
    return ImaginedRoad(np.random.default_rng(seed), HERE)


def test_an_imagined_road_begins_at_the_car_along_its_heading() -> None:
    for seed in range(10):
        ahead_m = imagined(seed).ahead(HERE)
        assert np.allclose(ahead_m[0], 0.0)
        assert math.isclose(ahead_m[1, 0], POINT_M, rel_tol=0.02)
        assert np.allclose(np.hypot(*np.diff(ahead_m, axis=0).T), POINT_M)


def test_its_bends_go_both_ways_and_are_no_sharper_than_said() -> None:
    bends = []
    for seed in range(20):
        points_m = imagined(seed)._points_m
        assert len(points_m) * POINT_M >= LENGTH_M
        headings = np.unwrap(np.arctan2(*np.diff(points_m, axis=0).T[::-1]))
        bends.append(np.diff(headings) / POINT_M)
    curvatures = np.concatenate(bends)
    assert np.abs(curvatures).max() <= 1.0 / RADIUS_M[0] + 1e-9
    left, right = np.mean(curvatures > 1e-3), np.mean(curvatures < -1e-3)
    assert min(left, right) > 0.2 and np.mean(np.abs(curvatures) < 1e-9) > 0.2


def test_a_car_on_an_imagined_road_sees_it_ahead_and_never_what_lies_behind() -> None:
    road = imagined()
    points_m = road._points_m.copy()
    for at in (0, 7, 20, 21):
        east, north = points_m[at + 1] - points_m[at]
        ego = dataclasses.replace(
            HERE,
            x_m=float(points_m[at, 0]),
            y_m=float(points_m[at, 1]),
            heading_rad=math.atan2(north, east),
        )
        ahead_m = road.ahead(ego)
        assert np.allclose(ahead_m[0], 0.0)
        assert np.allclose(ahead_m[1], (POINT_M, 0.0))
    behind = road.ahead(HERE)  # back at the start: the point it had reached stays the first
    assert np.hypot(*behind[0]) > POINT_M
