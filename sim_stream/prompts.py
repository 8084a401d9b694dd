"""What a drive starts from: frames of a video, or a shipped clip with the actions that led to it.

Knows videos and actions; no sessions, no models.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

from sim_stream.clips import CLIPS
from sim_stream.config import Action, FrameSize
from sim_stream.errors import InvalidInput
from sim_stream.video import Image, read_clip

PROMPT_FRAMES = 2
SPEED_MPS = 8.0  # where the prompt's own speed is not known


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What the drive starts from. ``actions`` None: unknown."""

    frames_THWC: Image
    actions: list[Action] | None
    speed_mps: float


def fitting(least: int, most: int) -> int:
    """How many frames to start from, where so many are taken."""
    return min(max(PROMPT_FRAMES, least), most)


def read_prompt(
    video: Path | None,
    *,
    size: FrameSize,
    start_s: float = 0.0,
    clip: str = "day",
    frames: int = PROMPT_FRAMES,
) -> Prompt:
    """Frames of ``video``; without one of a shipped clip. Raises InvalidInput, VideoError."""
    if clip not in CLIPS:
        raise InvalidInput("clip", clip, ", ".join(CLIPS))
    path = CLIPS[clip] if video is None else video
    frames_THWC = read_clip(path, start_s=start_s, frames=frames, size=size)
    if video is not None:
        return Prompt(frames_THWC=frames_THWC, actions=None, speed_mps=SPEED_MPS)
    recorded = json.loads(path.with_suffix(".json").read_text())
    first = math.floor(start_s * recorded["fps"] + 0.5)
    actions = [
        Action(speed_mps=speed, yaw_rate_radps=yaw)
        for speed, yaw in recorded["actions"][first : first + frames]
    ]
    return Prompt(frames_THWC=frames_THWC, actions=actions, speed_mps=actions[-1].speed_mps)
