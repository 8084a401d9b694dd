"""The straying driver: follows the road, then for a while a road that is not there, and comes back.

A model's predicted road soon differs from the true one, and a user steers wherever they like: the
car then crosses the edge, drives beside the road, looks back at it from there. Drives that keep to
the road show none of that, so a model that has only seen those does not know the place.

It knows a RoadView and an EgoState, no simulator; how a road is followed is the exploring driver's.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from bridge.policy import ExploringDriver, Style
from bridge.worlds import Control, EgoState, Observation, RoadView

# Beyond this there would be little to see: the road that it comes back to must stay in sight.
FARTHEST_M = 8.0
BACK_M = 2.0  # from the centreline: on the road again
ON_ROAD_STEPS, OFF_ROAD_STEPS = (2, 8), (12, 32)
STRAIGHT_SHARE = 0.35
RADIUS_M, PIECE_M = (15.0, 60.0), (15.0, 50.0)
POINT_M, POINTS_AHEAD, LENGTH_M = 2.0, 30, 400.0
_STREAM = 0x57A7


class ImaginedRoad:
    """Straight pieces and bends from where the car is, along its heading; metres, ISO 8855."""

    def __init__(self, draw: np.random.Generator, ego: EgoState) -> None:
        curvatures: list[float] = []
        while len(curvatures) * POINT_M < LENGTH_M:
            bend = float(draw.choice([-1.0, 1.0])) / draw.uniform(*RADIUS_M)
            curvature = 0.0 if draw.random() < STRAIGHT_SHARE else bend
            curvatures += [curvature] * round(draw.uniform(*PIECE_M) / POINT_M)
        headings = ego.heading_rad + POINT_M * np.cumsum([0.0, *curvatures[:-1]])
        steps = POINT_M * np.stack([np.cos(headings), np.sin(headings)], axis=1)
        self._points_m = np.array([ego.x_m, ego.y_m]) + np.cumsum(steps, axis=0) - steps[0]
        self._at = 0

    def ahead(self, ego: EgoState) -> np.ndarray:
        """The points from beside the car forward, in its frame (N, 2)."""
        near = slice(self._at, self._at + POINTS_AHEAD)  # never back: a road may cross itself
        offsets = self._points_m[near] - (ego.x_m, ego.y_m)
        self._at += int(np.argmin(np.hypot(*offsets.T)))
        east, north = (self._points_m[self._at : self._at + POINTS_AHEAD] - (ego.x_m, ego.y_m)).T
        cos, sin = math.cos(ego.heading_rad), math.sin(ego.heading_rad)
        return np.stack([cos * east + sin * north, cos * north - sin * east], axis=1)


class StrayingDriver:
    """One drive's driver: `act` once per observation. Everything it draws comes from the seed."""

    def __init__(self, seed: int) -> None:
        self._draw = np.random.default_rng((_STREAM, seed))
        self._driver = ExploringDriver(seed)
        self._imagined: ImaginedRoad | None = None
        self._steps = int(self._draw.integers(*ON_ROAD_STEPS))

    @property
    def style(self) -> Style:
        return self._driver.style

    def act(self, seen: Observation, road: RoadView) -> Control:
        """The control to hold until the next observation."""
        beside_m = float(np.min(np.hypot(*road.path_m.T)))
        if self._imagined is None:
            # Only what is driven on the road counts: first it must be found again.
            self._steps -= beside_m < BACK_M
            if self._steps <= 0:
                self._imagined = ImaginedRoad(self._draw, seen.ego)
                self._steps = int(self._draw.integers(*OFF_ROAD_STEPS))
        else:
            self._steps -= 1
            if self._steps <= 0 or beside_m > FARTHEST_M:
                self._imagined = None
                self._steps = int(self._draw.integers(*ON_ROAD_STEPS))
        if self._imagined is not None:
            path_m = self._imagined.ahead(seen.ego)
            road = dataclasses.replace(road, path_m=path_m, lanes_left=0, lanes_right=0)
        return self._driver.act(seen, road)
