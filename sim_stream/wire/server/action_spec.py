"""What ``hello_ok`` says of a model's actions: ranges, bins, how they were taken in training."""

from __future__ import annotations

from sim_stream.config import Preset
from sim_stream.expects import Expects
from sim_stream.wire.messages import ActionSpec


def action_spec(preset: Preset, expects: Expects) -> list[ActionSpec]:
    """Empty for a model that takes no actions."""
    if not preset.actions_per_frame:
        return []
    bins = preset.action_bins
    speed = ActionSpec(
        name="speed_mps",
        unit="m/s",
        low=0.0,
        high=bins.speed_max_mps,
        bins=bins.speed_bins,
        taken=expects.actions.get("speed_mps", ""),
    )
    yaw_rate = ActionSpec(
        name="yaw_rate_radps",
        unit="rad/s",
        low=-bins.yaw_max_radps,
        high=bins.yaw_max_radps,
        bins=bins.yaw_bins - bins.straight_bins + 1,  # those around straight on are one
        taken=expects.actions.get("yaw_rate_radps", ""),
    )
    return [speed, yaw_rate]
