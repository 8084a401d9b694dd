"""How far the two worlds are apart at a moment, and whether each still shows road ahead.

Pictures: PSNR in dB and the mean absolute difference of 255. Paths: both start at (0, 0) at the
last seed frame, heading along x. The simulator's is its own; the neural simulator has no position,
so its is what the actions add up to. Roads: where the lane's middle is `LANE_AHEAD_M` ahead, in the
simulator by its map, in a predicted frame by its markings. The paths stay together, as the actions
are the same; what comes apart are the roads.

On the road, in the simulator: the car's middle is within a lane of its route, by its map. On any
frame: the ground just ahead is asphalt, which is all that pixels can tell; it is true of the
oncoming lanes, too.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import numpy.typing as npt

from bridge.camera import Camera
from bridge.driving.loop import Moment
from bridge.policies.lane_keep import ENOUGH_MARKED
from bridge.policies.lanes import LaneFinder, is_asphalt
from bridge.worlds import EgoState, RoadView
from sim_stream.config import Action, FrameSize
from sim_stream.expects import psnr_db

Frame = npt.NDArray[np.uint8]
# Equal frames have no PSNR; JSON has no infinity. 8-bit noise of one grey level is at 48 dB.
AHEAD_M, BESIDE_M = np.arange(4.5, 8.0, 0.5), np.arange(-0.9, 0.91, 0.3)
ROAD_SHARE = 0.5
LANE_AHEAD_M = 8.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pose:
    """Where a world's car is, in the frame of its own pose at the last seed frame."""

    x_m: float
    y_m: float
    heading_rad: float

    def moved(self, action: Action, before_mps: float, frame_s: float) -> Pose:
        """After one frame at the mean of both speeds, along the mean heading."""
        turned_rad = action.yaw_rate_radps * frame_s
        went_m = 0.5 * (before_mps + action.speed_mps) * frame_s
        middle_rad = self.heading_rad + 0.5 * turned_rad
        return Pose(
            x_m=self.x_m + went_m * math.cos(middle_rad),
            y_m=self.y_m + went_m * math.sin(middle_rad),
            heading_rad=self.heading_rad + turned_rad,
        )

    def place(self, ahead_m: float, left_m: float) -> tuple[float, float]:
        """(x, y) of what is there in the car's own frame."""
        cos, sin = math.cos(self.heading_rad), math.sin(self.heading_rad)
        x_m, y_m = self.x_m + cos * ahead_m - sin * left_m, self.y_m + sin * ahead_m + cos * left_m
        return x_m, y_m


UNKNOWN = Pose(x_m=math.nan, y_m=math.nan, heading_rad=math.nan)
NOWHERE = (math.nan, math.nan)


def pose_from(start: EgoState, ego: EgoState) -> Pose:
    """The simulator's car as seen from where it was at the last seed frame."""
    east_m, north_m = ego.x_m - start.x_m, ego.y_m - start.y_m
    cos, sin = math.cos(start.heading_rad), math.sin(start.heading_rad)
    return Pose(
        x_m=cos * east_m + sin * north_m,
        y_m=cos * north_m - sin * east_m,
        heading_rad=ego.heading_rad - start.heading_rad,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Divergence:
    """One moment in figures; NaN and None are what is not known, or over.

    `lane_*`: the lane's middle ahead, in the frame of the paths. `lane_offset_m`: of the
    simulator's car from the middle of the nearest lane of its route, positive = left; `on_road`:
    whether that is within the lane. `asphalt_*`: the share of asphalt just ahead.
    """

    index: int
    psnr_db: float
    difference: float
    simulator: Pose
    neural: Pose
    gap_m: float
    lane_simulator: tuple[float, float]
    lane_neural: tuple[float, float]
    lane_offset_m: float
    on_road: bool | None
    asphalt_simulator: float
    asphalt_neural: float


class Measure:
    """Measures the moments of one drive in their order."""

    def __init__(self, frame_s: float) -> None:
        self._frame_s = frame_s
        self._finder = LaneFinder()
        self._neural = Pose(x_m=0.0, y_m=0.0, heading_rad=0.0)
        self._start: EgoState | None = None
        self._speed_mps = 0.0

    def __call__(self, moment: Moment) -> Divergence:
        if self._start is None:
            self._start = moment.simulated.ego
        else:
            self._neural = self._neural.moved(moment.action, self._speed_mps, self._frame_s)
        self._speed_mps = moment.action.speed_mps
        simulator = UNKNOWN if moment.over else pose_from(self._start, moment.simulated.ego)
        image, road = moment.predicted.image, None if moment.over else moment.road
        offset_m = math.nan if road is None else lane_offset_m(road)
        return Divergence(
            index=moment.index,
            psnr_db=math.nan if moment.over else psnr_db(moment.frame, image),
            difference=math.nan if moment.over else difference(moment.frame, image),
            simulator=simulator,
            neural=self._neural,
            gap_m=math.hypot(simulator.x_m - self._neural.x_m, simulator.y_m - self._neural.y_m),
            lane_simulator=NOWHERE if road is None else simulator.place(*_ahead_on(road)),
            lane_neural=self._neural.place(LANE_AHEAD_M, self._lane_ahead_m(image)),
            lane_offset_m=offset_m,
            on_road=None if road is None else abs(offset_m) <= 0.5 * road.lane_width_m,
            asphalt_simulator=math.nan if moment.over else asphalt_ahead(moment.frame),
            asphalt_neural=asphalt_ahead(image),
        )

    def _lane_ahead_m(self, image: Frame) -> float:
        """NaN where hardly a marking is seen."""
        lane = self._finder.find(image)
        if lane.marked < ENOUGH_MARKED:
            return math.nan
        return lane.left_m(LANE_AHEAD_M - self._finder.camera.forward_m)


def _ahead_on(road: RoadView) -> tuple[float, float]:
    """The first point of the lane's middle that is so far ahead."""
    distance_m = np.hypot(road.path_m[:, 0], road.path_m[:, 1])
    beyond = np.flatnonzero(distance_m >= LANE_AHEAD_M)
    x_m, y_m = road.path_m[beyond[0] if len(beyond) else -1]
    return float(x_m), float(y_m)


def difference(one_HW3: Frame, other_HW3: Frame) -> float:
    """Mean absolute difference, of 255."""
    return float(np.abs(one_HW3.astype(np.int16) - other_HW3).mean())


def lane_offset_m(road: RoadView) -> float:
    """The car's distance from the middle of its nearest lane, positive = left."""
    x_m, y_m = road.path_m[0]
    return math.copysign(math.hypot(x_m, y_m), -y_m)


def asphalt_ahead(frame_HW3: Frame, camera: Camera | None = None) -> float:
    """The share of asphalt on the ground that the car is about to drive over."""
    left_m, ahead_m = np.meshgrid(BESIDE_M, AHEAD_M)
    height, width, _ = frame_HW3.shape
    row, column = (camera or Camera()).project(
        ahead_m, left_m, FrameSize(height=height, width=width)
    )
    places = (
        np.clip(np.rint(values), 0, side - 1).astype(np.intp)
        for values, side in ((row, height), (column, width))
    )
    return float(is_asphalt(frame_HW3[tuple(places)].astype(np.float64)).mean())
