"""PaintedWorld: a straight road painted with numpy, for tests and for trying tools anywhere.

A real World (camera, kinematic bicycle, road view) that needs nothing installed and answers in a
millisecond. It has no traffic, no curves and no look to speak of: nothing worth training on, and
nothing that a trained model knows: a drive that it seeds is warned of, and collapses.
"""

from __future__ import annotations

import math
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from bridge.scenarios import Scenario, scenario_of
from bridge.worlds import Car, Control, EgoState, Observation, RoadView
from sim_stream.errors import InvalidInput, SessionClosed

STEP_US = 250_000
CAR = Car(
    wheelbase_m=2.5,
    max_wheel_rad=math.radians(40.0),
    full_throttle_mps2=3.0,
    full_brake_mps2=6.0,
)
CAMERA_UP_M, HORIZON, FOCAL = 1.9, 0.45, 0.77  # the last two as shares of the frame's side
OFF_ROAD_M = 6.0
SKY, GRASS, ASPHALT, PAINT = (130, 170, 210), (90, 120, 50), (70, 72, 75), (230, 230, 225)


class PaintedWorld:
    """A straight road along +x, as many lanes wide as the seed's scenario says."""

    fps = 4.0
    car = CAR

    def __init__(self, *, size_px: int = 64) -> None:
        if size_px < 16:
            raise InvalidInput("size_px", size_px, "16 or more")
        self._size_px = size_px
        self._scene: Scenario | None = None
        self._closed = False
        rows = (np.arange(size_px) + 0.5) / size_px - HORIZON
        columns = 0.5 - (np.arange(size_px) + 0.5) / size_px
        self._ground = rows > 0.02
        ahead_m = FOCAL * CAMERA_UP_M / np.maximum(rows, 0.02)
        self._ahead_m = np.broadcast_to(ahead_m[:, None], (size_px, size_px))
        self._left_m = ahead_m[:, None] * columns[None, :] / FOCAL

    def reset(self, seed: int) -> Observation:
        self._scene = scenario_of(seed)
        self._step = 0
        self._lane = seed % self._scene.lanes
        self._x_m, self._heading_rad, self._yaw_rate_radps = 0.0, 0.0, 0.0
        self._y_m = self._centre_m(self._lane)
        self._speed_mps = self._scene.start_speed_mps
        return self._observe()

    def step(self, control: Control) -> Observation:
        if self._scene is None:
            raise InvalidInput("step", "a world without a scene", "a call after reset")
        seconds = STEP_US / 1e6
        full = CAR.full_throttle_mps2 if control.throttle > 0 else CAR.full_brake_mps2
        self._speed_mps = max(0.0, self._speed_mps + full * control.throttle * seconds)
        curvature = math.tan(control.steer * CAR.max_wheel_rad) / CAR.wheelbase_m
        self._yaw_rate_radps = curvature * self._speed_mps
        middle_rad = self._heading_rad + 0.5 * self._yaw_rate_radps * seconds
        self._x_m += self._speed_mps * seconds * math.cos(middle_rad)
        self._y_m += self._speed_mps * seconds * math.sin(middle_rad)
        self._heading_rad += self._yaw_rate_radps * seconds
        self._step += 1
        return self._observe()

    def road(self) -> RoadView:
        assert self._scene is not None, "road before reset"
        ahead_m = np.arange(0.0, 60.0, 2.0)
        north_m = self._centre_m(self._lane) - self._y_m
        cos, sin = math.cos(self._heading_rad), math.sin(self._heading_rad)
        path = np.stack([cos * ahead_m + sin * north_m, cos * north_m - sin * ahead_m], axis=1)
        return RoadView(
            path_m=path,
            lane_width_m=self._scene.lane_width_m,
            lanes_left=self._lane,
            lanes_right=self._scene.lanes - 1 - self._lane,
            actors=np.zeros((0, 3)),
        )

    def describe(self, seed: int) -> dict[str, object]:
        scene = scenario_of(seed)
        return {"world": "painted", "seed": seed, "lanes": scene.lanes}

    def close(self) -> None:
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _centre_m(self, lane: int) -> float:
        """Lane 0 is the leftmost; the road's left edge is y = 0."""
        assert self._scene is not None
        return -(lane + 0.5) * self._scene.lane_width_m

    def _observe(self) -> Observation:
        if self._closed:
            raise SessionClosed("this PaintedWorld is closed; make a new one")
        assert self._scene is not None
        centres = [self._centre_m(lane) for lane in range(self._scene.lanes)]
        self._lane = int(np.argmin(np.abs(np.array(centres) - self._y_m)))
        off_road = abs(centres[self._lane] - self._y_m) > OFF_ROAD_M
        return Observation(
            frame=self._paint(self._scene),
            sim_time_us=self._step * STEP_US,
            ego=EgoState(
                x_m=self._x_m,
                y_m=self._y_m,
                speed_mps=self._speed_mps,
                heading_rad=self._heading_rad,
                yaw_rate_radps=self._yaw_rate_radps,
            ),
            done=off_road,
            end="off_road" if off_road else "",
        )

    def _paint(self, scene: Scenario) -> npt.NDArray[np.uint8]:
        cos, sin = math.cos(self._heading_rad), math.sin(self._heading_rad)
        east_m = self._x_m + cos * self._ahead_m - sin * self._left_m
        lanes = -(self._y_m + sin * self._ahead_m + cos * self._left_m) / scene.lane_width_m
        on_road = (lanes >= 0.0) & (lanes <= scene.lanes)
        edge = np.abs(lanes - np.round(lanes)) < 0.04
        outer = (np.round(lanes) == 0) | (np.round(lanes) == scene.lanes)
        frame = np.full((self._size_px, self._size_px, 3), SKY, dtype=np.uint8)
        frame[self._ground] = GRASS
        frame[on_road & self._ground[:, None]] = ASPHALT
        frame[on_road & edge & (outer | (east_m % 9.0 < 3.0)) & self._ground[:, None]] = PAINT
        return frame
