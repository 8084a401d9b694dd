"""Where every id of the world model's sequence stands: the one place that counts positions.

    [prompt text ids] ( [action ids] codes, end-of-frame )*

Vision ids (LWM's, facts/models.md part 2): 0..K-1 codes, K end of frame, K+1 end of video, then the
action bins from K+2 up. Knows nothing about tensors or models.
"""

from __future__ import annotations

from dataclasses import dataclass

from sim_stream.config import Action, ActionBins, Preset
from sim_stream.errors import InvalidInput


@dataclass(frozen=True, kw_only=True)
class FrameLayout:
    """Positions and ids of one preset's sequence."""

    prompt_length: int
    actions_per_frame: int
    codes_per_frame: int
    num_codes: int
    bins: ActionBins

    @classmethod
    def of(cls, preset: Preset, prompt_length: int) -> FrameLayout:
        return cls(
            prompt_length=prompt_length,
            actions_per_frame=preset.actions_per_frame,
            codes_per_frame=preset.vq.codes_per_frame,
            num_codes=preset.vq.num_vq_embeddings,
            bins=preset.action_bins,
        )

    @property
    def end_of_frame(self) -> int:
        return self.num_codes

    @property
    def end_of_video(self) -> int:
        return self.num_codes + 1

    @property
    def frame_length(self) -> int:
        """Positions of one frame: actions, codes, end of frame."""
        return self.actions_per_frame + self.codes_per_frame + 1

    @property
    def lead_length(self) -> int:
        """Ids between the codes that a cache holds and a frame's first code: the last frame's last
        code and end, which are left pending, and the actions."""
        return 2 + self.actions_per_frame

    def frame_start(self, index: int) -> int:
        """First position of the frame with that index in the context (its first action id)."""
        return self.prompt_length + index * self.frame_length

    def code_start(self, index: int) -> int:
        """Position of the first code of the frame with that index."""
        return self.frame_start(index) + self.actions_per_frame

    def context_length(self, frames: int) -> int:
        """Positions that a prompt and that many frames take."""
        return self.frame_start(frames)

    def action_ids(self, action: Action | None) -> tuple[int, ...]:
        """Vision ids of an action; None gives the `unknown` bins. Raises InvalidInput."""
        if not self.actions_per_frame:
            if action is not None:
                raise InvalidInput("action", action, "null: this model takes no actions")
            return ()
        first_speed = self.num_codes + 2
        first_yaw = first_speed + self.bins.speed_bins + 1
        if action is None:
            return first_speed + self.bins.speed_bins, first_yaw + self.bins.yaw_bins
        return (
            first_speed + self.bins.speed_bin(action.speed_mps),
            first_yaw + self.bins.yaw_bin(action.yaw_rate_radps),
        )
