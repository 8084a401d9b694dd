"""`lane-keep`: stays in its lane at a constant speed, on the frames it is shown and nothing else.

The lane comes from lanes.py, expected where the last one would be after the motion since; the
motion to the lane's middle is pure pursuit (Coulter 1992). Where hardly a marking is seen, it goes
on along the lane it saw last. It does not see other cars, and has no opinion about junctions.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from bridge.policies.lanes import Lane, LaneFinder
from sim_stream.config import Action

TARGET_MPS = 8.0
FRAME_S = 0.25  # 4 frames a second
LOOKAHEAD_S, LOOKAHEAD_M = 1.0, (5.0, 14.0)
ENOUGH_MARKED = 0.25  # of the two edges; a lane on whole frames has 0.4 and more


class LaneKeep:
    """One drive's lane keeper; `lane` is what it last saw."""

    def __init__(self) -> None:
        self._finder = LaneFinder()
        self.lane: Lane | None = None

    def __call__(self, frame_HW3: npt.NDArray[np.uint8], last: Action) -> Action:
        expected = self.lane
        if expected is not None:
            expected = expected.after(last.speed_mps * FRAME_S, last.yaw_rate_radps * FRAME_S)
        seen = self._finder.find(frame_HW3, expected)
        if expected is not None and seen.marked < ENOUGH_MARKED:
            seen = dataclasses.replace(expected, marked=seen.marked)
        self.lane = seen
        return Action(speed_mps=TARGET_MPS, yaw_rate_radps=self._yaw_rate_radps(seen, last))

    def _yaw_rate_radps(self, lane: Lane, last: Action) -> float:
        speed_mps = max(last.speed_mps, 1.0)
        ahead_m = float(np.clip(LOOKAHEAD_S * speed_mps, *LOOKAHEAD_M))
        left_m = lane.left_m(ahead_m)
        from_car_m = ahead_m + self._finder.camera.forward_m
        return speed_mps * 2.0 * left_m / (from_car_m**2 + left_m**2)
