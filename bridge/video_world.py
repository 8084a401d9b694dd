"""VideoWorld: a video file as a world. Its frames come as they are; no control changes them.

Preprocessed as everywhere (sim_stream/video.py): upright, halved, centre crop, 4 frames a second by
timestamp. The file knows no car: `car` is None, every ego value is NaN, and the seed, which decides
a scene elsewhere, decides nothing. The drive is done at the file's last frame.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from bridge.worlds import Car, Control, EgoState, Observation
from sim_stream.config import FrameSize
from sim_stream.errors import InvalidInput, SessionClosed
from sim_stream.video import FPS, iter_frames

UNKNOWN = EgoState(
    x_m=math.nan,
    y_m=math.nan,
    speed_mps=math.nan,
    heading_rad=math.nan,
    yaw_rate_radps=math.nan,
)
Samples = Iterator[tuple[float, npt.NDArray[np.uint8]]]


class VideoWorld:
    """Plays a file from second `start_s` on; `size_px`: side of its square frames.

    Raises VideoError at `reset`, and at the `step` that meets a damaged place.
    """

    fps = float(FPS)
    car: Car | None = None

    def __init__(self, path: Path, *, size_px: int, start_s: float = 0.0) -> None:
        self._path, self._size_px, self._start_s = path, size_px, start_s
        self._samples: Samples | None = None
        self._next: npt.NDArray[np.uint8] | None = None
        self._step = 0
        self._closed = False

    def reset(self, seed: int) -> Observation:
        """From the start of the file again, whatever the seed."""
        self._stop()
        self._samples = iter_frames(
            self._path, FPS, FrameSize.square(self._size_px), start_s=self._start_s
        )
        self._step = 0
        self._next = next(self._samples)[1]
        return self._observe()

    def step(self, control: Control) -> Observation:
        """The file's next frame, whatever the control."""
        self._step += 1
        return self._observe()

    def close(self) -> None:
        self._closed = True
        self._stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _observe(self) -> Observation:
        if self._closed:
            raise SessionClosed("this VideoWorld is closed; make a new one")
        if self._samples is None or self._next is None:
            raise InvalidInput("step", "a video that is not playing", "a call after reset")
        frame, sample = self._next, next(self._samples, None)
        self._next = None if sample is None else sample[1]
        return Observation(
            frame=frame,
            sim_time_us=round(self._step * 1e6 / self.fps),
            ego=UNKNOWN,
            done=sample is None,
            end="video_over" if sample is None else "",
        )

    def _stop(self) -> None:
        if self._samples is not None:
            self._samples.close()  # type: ignore[attr-defined]  # a generator: frees the file now
        self._samples = self._next = None
