"""Where the lane is, found in one frame by its markings: classical vision, numpy alone.

The ground ahead is sampled from above on a grid (the camera's height and pitch are known). A
marking is a thin stripe whose red channel is brighter than the ground on both its sides: true of
white and of yellow on asphalt, false of grass, of a pavement's edge and of a shadow. A lane is a
parabola (offset, heading, curvature) between two such stripes; every lane of a fine table is scored
by the markings under its two edges and by the asphalt under its middle, and the best one is the
answer. So half a marking, a broken line or a blurred, predicted frame still gives the lane it fits
best.

Frame: x forward, y left, metres from the camera's foot on the ground (ISO 8855). Shapes: X
distances ahead, Y places across, L lanes of the table. Knows no policy and no simulator, only its
camera.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import numpy.typing as npt

from bridge.camera import Camera
from sim_stream.config import FrameSize

Floats = npt.NDArray[np.float64]

AHEAD_M = np.arange(3.5, 24.1, 1.0)
ACROSS_M = np.arange(-9.0, 9.05, 0.1)
STRIPE_M = 0.3  # a marking's neighbours are this far from its middle
BRIGHT = 40.0  # of 255: a marking this much brighter than its ground counts in full
MAX_ASPHALT, MAX_COLOUR = 125.0, 28.0  # asphalt is dark and grey; pavement is brighter
WIDTHS_M = (3.25, 3.5, 3.75)
OFFSETS_M = np.arange(-2.4, 2.41, 0.15)
HEADINGS = np.tan(np.arange(-0.36, 0.361, 0.03))
CURVATURES_PER_M = np.array([0.0, 0.006, 0.013, 0.021, 0.03, 0.04, 0.052, 0.066])
ASPHALT_WEIGHT = 0.35  # of a marking: the road's middle is much more often seen than its paint
CHANGE = (0.6, 0.12, 0.02)  # how far offset, heading, curvature may be from what was expected
EXPECTED_WEIGHT = 0.6


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lane:
    """The lane's middle: left_m(x) = offset_m + slope x + curvature_per_m x^2 / 2.

    `marked`: the share of its two edges, 0 to 1, that markings were seen on.
    """

    offset_m: float
    slope: float
    curvature_per_m: float
    width_m: float
    marked: float

    def left_m(self, ahead_m: float) -> float:
        return self.offset_m + self.slope * ahead_m + 0.5 * self.curvature_per_m * ahead_m**2

    def after(self, moved_m: float, turned_rad: float) -> Lane:
        """The same lane as seen after driving on."""
        slope = self.slope + self.curvature_per_m * moved_m - math.tan(turned_rad)
        offset_m = self.left_m(moved_m) - math.tan(turned_rad) * moved_m / 2
        return dataclasses.replace(self, offset_m=offset_m, slope=slope)


class LaneFinder:
    """Finds the lane in frames of one camera; holds tables only, nothing of the last frame."""

    def __init__(self, camera: Camera | None = None) -> None:
        self.camera = camera or Camera()
        curvatures = np.concatenate([-CURVATURES_PER_M[:0:-1], CURVATURES_PER_M])
        grid = np.meshgrid(OFFSETS_M, HEADINGS, curvatures, indexing="ij")
        self._table_L3 = np.stack([axis.ravel() for axis in grid], axis=1)
        self._places_LX = {
            aside_m: self._places(aside_m)
            for aside_m in (0.0, *(side * w for w in WIDTHS_M for side in (-0.5, 0.5)))
        }
        # Far stripes are a pixel wide and close together: near ones say more.
        weight_X = 1.0 / (1.0 + AHEAD_M / 12.0)
        self._weight_X = weight_X / weight_X.sum()
        self._pixels: dict[FrameSize, tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]] = {}

    def find(self, frame_HW3: npt.NDArray[np.uint8], expected: Lane | None = None) -> Lane:
        """The lane that fits best; `expected` is where it should be, from the frame before."""
        ground_XY3 = self._from_above(frame_HW3)
        stripes_XY, asphalt_XY = markings(ground_XY3), is_asphalt(ground_XY3)
        road_L = self._under(asphalt_XY, 0.0)
        score_L = ASPHALT_WEIGHT * road_L - self._unlikely(expected)
        best = (-math.inf, 0, WIDTHS_M[0], 0.0)
        for width_m in WIDTHS_M:
            left_L = self._under(stripes_XY, 0.5 * width_m)
            right_L = self._under(stripes_XY, -0.5 * width_m)
            # The root lets two half-seen edges win over one whole one: lanes have two.
            total_L = score_L + np.sqrt(left_L) + np.sqrt(right_L)
            index = int(np.argmax(total_L))
            if total_L[index] > best[0]:
                marked = 0.5 * float(left_L[index] + right_L[index])
                best = (float(total_L[index]), index, width_m, marked)
        _, index, width_m, marked = best
        offset_m, slope, curvature = map(float, self._table_L3[index])
        return Lane(
            offset_m=offset_m,
            slope=slope,
            curvature_per_m=curvature,
            width_m=width_m,
            marked=marked,
        )

    def _places(self, aside_m: float) -> npt.NDArray[np.int32]:
        """Where the middle of every lane of the table, moved sideways, lies in the flat grid."""
        offset, slope, curvature = self._table_L3.T[:, :, None]
        left_LX = offset + slope * AHEAD_M + 0.5 * curvature * AHEAD_M**2 + aside_m
        across_LX = np.rint((left_LX - ACROSS_M[0]) / (ACROSS_M[1] - ACROSS_M[0]))
        # No marking is seen in the grid's outermost columns, so a lane gains nothing out there.
        across_LX = np.clip(across_LX, 0, len(ACROSS_M) - 1)
        flat_LX = across_LX + np.arange(len(AHEAD_M)) * len(ACROSS_M)
        return np.asarray(flat_LX, np.int32)

    def _under(self, seen_XY: Floats, aside_m: float) -> Floats:
        """The weighted mean of what is seen along every lane of the table, moved sideways."""
        weighted_XY = seen_XY * self._weight_X[:, None]
        return np.asarray(weighted_XY.ravel()[self._places_LX[aside_m]].sum(axis=1))

    def _unlikely(self, expected: Lane | None) -> Floats:
        """A penalty that grows with the distance from what was expected: at first, straight on."""
        middle = np.zeros(3)
        if expected is not None:
            middle = np.array([expected.offset_m, expected.slope, expected.curvature_per_m])
        distance_L = (((self._table_L3 - middle) / CHANGE) ** 2).sum(axis=1)
        return np.asarray(EXPECTED_WEIGHT * distance_L / (4.0 + distance_L))

    def _from_above(self, frame_HW3: npt.NDArray[np.uint8]) -> Floats:
        height, width = frame_HW3.shape[:2]
        size = FrameSize(height=height, width=width)
        if size not in self._pixels:
            left, ahead = np.meshgrid(ACROSS_M, AHEAD_M)
            row, column = self.camera.project(ahead, left, size)
            self._pixels[size] = (np.rint(row).astype(np.intp), np.rint(column).astype(np.intp))
        row_XY, column_XY = self._pixels[size]
        inside_XY = (column_XY >= 0) & (column_XY < width) & (row_XY >= 0) & (row_XY < height)
        ground = frame_HW3[np.clip(row_XY, 0, height - 1), np.clip(column_XY, 0, width - 1)]
        return np.where(inside_XY[..., None], ground.astype(np.float64), np.nan)


def markings(ground_XY3: Floats) -> Floats:
    """How much each place is a bright stripe along the road, 0 to 1; 0 outside the picture."""
    red_XY = ground_XY3[..., 0]
    steps = round(STRIPE_M / (ACROSS_M[1] - ACROSS_M[0]))
    stripe_XY = np.zeros_like(red_XY)
    beside = np.maximum(red_XY[:, 2 * steps :], red_XY[:, : -2 * steps])
    stripe_XY[:, steps:-steps] = (red_XY[:, steps:-steps] - beside) / BRIGHT
    stripe_XY = np.clip(np.nan_to_num(stripe_XY), 0.0, 1.0)
    wide_XY = stripe_XY.copy()  # a step to either side: the table is no finer
    wide_XY[:, 1:] = np.maximum(wide_XY[:, 1:], stripe_XY[:, :-1])
    wide_XY[:, :-1] = np.maximum(wide_XY[:, :-1], stripe_XY[:, 1:])
    return wide_XY


def is_asphalt(ground_XY3: Floats) -> Floats:
    """1 where the ground is dark and grey, 0 where not, a half outside the picture."""
    colour_XY = ground_XY3.max(axis=-1) - ground_XY3.min(axis=-1)
    asphalt_XY = (ground_XY3.max(axis=-1) < MAX_ASPHALT) & (colour_XY < MAX_COLOUR)
    return np.where(np.isnan(colour_XY), 0.5, asphalt_XY.astype(np.float64))
