"""The front camera that the worlds here share, and where it sees the ground.

Knows geometry only: x forward, y left, from the camera's foot on the ground (ISO 8855).
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import numpy.typing as npt

from sim_stream.config import FrameSize

Floats = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Camera:
    """Of square pixels; `field_of_view_deg` is across. The defaults are those of MetaDrive as
    bridge/metadrive sets it up."""

    field_of_view_deg: float = 66.0
    up_m: float = 1.9  # measured in MetaDrive by lanes of known width: 1.5 above the car's origin
    pitch_down_deg: float = 3.5
    forward_m: float = 0.8  # ahead of the point that the car's state is about

    def project(self, ahead_m: Floats, left_m: Floats, size: FrameSize) -> tuple[Floats, Floats]:
        """(row, column) in pixels of points on the ground."""
        focal_px = 0.5 * size.width / math.tan(math.radians(self.field_of_view_deg) / 2)
        pitch_rad = math.radians(self.pitch_down_deg)
        cos, sin = math.cos(pitch_rad), math.sin(pitch_rad)
        depth_m = ahead_m * cos + self.up_m * sin
        row = 0.5 * size.height + focal_px * (self.up_m * cos - ahead_m * sin) / depth_m
        column = 0.5 * size.width - focal_px * left_m / depth_m
        return row - 0.5, column - 0.5
