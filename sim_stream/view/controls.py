"""Keys held -> the next step's action: the ego motion of somebody who drives with four keys.

Up and down change the speed, left and right the yaw rate, which goes back to straight by itself.
All changes are per second of simulated time. Knows no keyboards, sessions or clocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sim_stream.config import Action
from sim_stream.spec import NumberField

ACCELERATION_MPS2 = 4.0
BRAKING_MPS2 = 8.0
# Full lock within half a second; straight again as fast.
STEERING_RADPS2 = 0.8
YAW_MAX_RADPS = 0.3


@dataclass(frozen=True, kw_only=True)
class HeldKeys:
    up: bool = False
    down: bool = False
    left: bool = False
    right: bool = False

    def __or__(self, other: HeldKeys) -> HeldKeys:
        return HeldKeys(
            up=self.up or other.up,
            down=self.down or other.down,
            left=self.left or other.left,
            right=self.right or other.right,
        )


NO_KEYS = HeldKeys()


@dataclass
class Controls:
    """``speed_mps`` is kept until a key changes it; ``lowest_mps`` and ``highest_mps`` bound it."""

    speed_mps: float
    highest_mps: float
    lowest_mps: float = 0.0
    highest_yaw_radps: float = YAW_MAX_RADPS
    yaw_rate_radps: float = 0.0
    held: HeldKeys = NO_KEYS
    # Keys that went down since the last step: a tap between two steps must count, too.
    tapped: HeldKeys = NO_KEYS

    @classmethod
    def within(cls, fields: Sequence[NumberField], *, speed_mps: float) -> Controls:
        """For a model that takes these: speed, yaw rate, or both."""
        bounds = {field.name: (field.low, field.high) for field in fields}
        slowest, fastest = bounds.get("speed_mps", (0.0, speed_mps))
        right, left = bounds.get("yaw_rate_radps", (0.0, 0.0))
        return cls(
            speed_mps=speed_mps,
            lowest_mps=slowest,
            highest_mps=fastest,
            highest_yaw_radps=max(0.0, min(YAW_MAX_RADPS, left, -right)),
        )

    def hold(self, keys: HeldKeys) -> None:
        self.held = keys
        self.tapped = self.tapped | keys

    def copy(self) -> Controls:
        """For a fork: the same motion, no keys."""
        return replace(self, held=NO_KEYS, tapped=NO_KEYS)

    def next_action(self, period_s: float) -> Action:
        """The action of the step that covers the next ``period_s``."""
        keys, self.tapped = self.held | self.tapped, NO_KEYS
        speed_mps = self.speed_mps
        if keys.up != keys.down:
            speed_mps += period_s * (ACCELERATION_MPS2 if keys.up else -BRAKING_MPS2)
        self.speed_mps = min(max(speed_mps, self.lowest_mps), self.highest_mps)
        wanted = self.highest_yaw_radps * (int(keys.left) - int(keys.right))
        most = STEERING_RADPS2 * period_s
        change = min(max(wanted - self.yaw_rate_radps, -most), most)
        self.yaw_rate_radps += change
        return Action(speed_mps=self.speed_mps, yaw_rate_radps=self.yaw_rate_radps)
