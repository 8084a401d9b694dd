"""What leaves a session: a frame with its pixels, or the job that makes them.

Knows no sessions; `Pending.render` may run on another thread than the session's.

Legend: T frames, N codes of a frame, H height, W width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from sim_stream.runtime.engine import EngineSet
from sim_stream.runtime.timing import StageClock, Streams


class Renderer(Protocol):
    """What makes pixels of ids. `inflated`: by a decoder that was never trained in time."""

    streams: Streams
    engines: EngineSet
    inflated: bool


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One frame that leaves: pixels (H W 3) uint8 and what is known about them.

    `final` is false where a later reply brings the same frame with its right neighbour known.
    `approximated`: codes of it or of its neighbours may be others than raster decoding's.
    `inflated`: drawn by a video decoder that was never trained in time.
    `accepted`: codes that each pass of the world model added, in the step that this frame answers.
    """

    image: np.ndarray
    step: int
    frame_id: int
    lag_frames: int
    final: bool
    approximated: bool
    inflated: bool
    accepted: tuple[int, ...]
    timings_ns: dict[str, int]


class Pending:
    """A predicted step whose pixels are still to be made; `render` makes them, on any thread."""

    def __init__(
        self, runtime: Renderer, ids_TN: Tensor, emit: int, frame_id: int, step: int, *,
        final: bool, approximated: bool, accepted: tuple[int, ...], clock: StageClock,
    ) -> None:  # fmt: skip
        self._runtime, self._ids_TN, self._emit = runtime, ids_TN, emit
        self._frame_id, self._step, self._final, self._clock = frame_id, step, final, clock
        self._approximated, self.accepted = approximated, accepted

    @torch.inference_mode()
    def render(self) -> Frame:
        with self._runtime.streams.video(), self._clock.stage("video_decode"):
            frames_1HWC = self._runtime.engines.decode_frame(self._ids_TN[None], self._emit)
            image = frames_1HWC[0].cpu().numpy()
        return Frame(
            image=image,
            step=self._step,
            frame_id=self._frame_id,
            lag_frames=self._step - self._frame_id,
            final=self._final,
            approximated=self._approximated,
            inflated=self._runtime.inflated,
            accepted=self.accepted,
            timings_ns=self._clock.timings_ns,
        )
