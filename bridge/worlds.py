"""The one interface that every simulator stands behind, and what goes through it.

Conventions (ISO 8855): x forward or east, y left or north, angles counter-clockwise, so a positive
yaw rate and a positive steering both turn left. Units are in the names.

This module knows no simulator, no file format and no network.
"""

from __future__ import annotations

import dataclasses
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from sim_stream.errors import InvalidInput, SimStreamError


class SceneFailed(SimStreamError, RuntimeError):
    """A simulator could not build or continue one scene; other scenes may work in a new world."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EgoState:
    """Where the car is at the moment of the frame; the heading is that of its body.

    NaN is what a world does not know (a video file: all of it).
    """

    x_m: float
    y_m: float
    speed_mps: float
    heading_rad: float
    yaw_rate_radps: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Control:
    """Steering in [-1, 1], positive = left; throttle in [-1, 1], negative = brake."""

    steer: float
    throttle: float

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not -1.0 <= value <= 1.0:  # NaN fails too
                raise InvalidInput(f"Control.{field.name}", value, "[-1, 1]")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Car:
    """What a `Control` does to a world's car: its wheels' angle at steer 1, its accelerations at
    throttle 1 and -1, and the wheelbase that makes a curvature of the wheels' angle."""

    wheelbase_m: float
    max_wheel_rad: float
    full_throttle_mps2: float
    full_brake_mps2: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Observation:
    """One camera frame (uint8, height x width x 3, RGB) and the state of the same moment.

    `end` says why a drive is done ("crash", "off_road", "arrived"), and is empty while it is not.
    """

    frame: npt.NDArray[np.uint8]
    sim_time_us: int
    ego: EgoState
    done: bool
    end: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RoadView:
    """What a driver that is not a camera may know, in the car's frame at the last observation.

    path_m: (N, 2), the nearest lane's centreline along the route, from beside the car forward.
    actors: (K, 3), other vehicles: x_m, y_m, speed_mps along the car's own heading.
    """

    path_m: npt.NDArray[np.float64]
    lane_width_m: float
    lanes_left: int
    lanes_right: int
    actors: npt.NDArray[np.float64]


@runtime_checkable
class World(Protocol):
    """A simulator. A seed decides the whole scene; the same seed gives the same scene."""

    @property
    def fps(self) -> float:
        """Frames per second of simulation time."""
        ...

    @property
    def car(self) -> Car | None:
        """The car that controls move; None for a world that no control changes."""
        ...

    def reset(self, seed: int) -> Observation:
        """Start the seed's scene; its first frame, at sim_time_us 0."""
        ...

    def step(self, control: Control) -> Observation:
        """Hold the control for one frame; the frame it leads to."""
        ...

    def close(self) -> None:
        """Release everything; calling it again does nothing."""
        ...


@runtime_checkable
class RoadWorld(World, Protocol):
    """A world that also tells where the road is, for drivers that record or test."""

    def road(self) -> RoadView:
        """The road around the car at the last observation."""
        ...

    def describe(self, seed: int) -> dict[str, object]:
        """What the seed's scene is made of, as plain values for a log."""
        ...
