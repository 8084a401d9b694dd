"""The picture of a drive: both worlds side by side under their labels, and the divergence so far.

`Page.frame` is one frame of the video; `Page.sheet` is the drive at a glance, for a PNG. Knows
frames and figures; no files and no encoders.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from bridge.driving.measures import Divergence
from bridge.driving.plots import NEURAL, SIMULATOR, Plots, new_figure, pixels_of
from sim_stream.config import FrameSize
from sim_stream.video_writer import contact_sheet

Image = npt.NDArray[np.uint8]

GAP_PX, LABEL_PX, PLOT_PX = 8, 26, 190
SHEET_COLUMNS = 6


class Page:
    """Draws a drive of at most `frames` frames whose pictures are of `size`."""

    def __init__(self, *, simulator: str, neural: str, size: FrameSize, frames: int) -> None:
        self._size, self._frames = size, frames
        self.width = 2 * size.width + 3 * GAP_PX
        self.height = LABEL_PX + size.height + GAP_PX + PLOT_PX
        self._names = ((simulator, SIMULATOR), (neural, NEURAL))
        self._labels = self._draw_labels(self.width, self._lefts())
        self._plots = Plots(height_px=PLOT_PX, width_px=self.width, frames=frames)

    def frame(self, simulated: Image, predicted: Image, so_far: Sequence[Divergence]) -> Image:
        """One picture of the video."""
        canvas = np.full((self.height, self.width, 3), 24, dtype=np.uint8)
        canvas[:LABEL_PX] = self._labels
        for image, left in zip((simulated, predicted), self._lefts(), strict=True):
            bottom, right = LABEL_PX + self._size.height, left + self._size.width
            canvas[LABEL_PX:bottom, left:right] = image
        canvas[-PLOT_PX:] = self._plots.draw(so_far)
        return canvas

    def sheet(self, pairs: Sequence[tuple[Image, Image]], drive: Sequence[Divergence]) -> Image:
        """Pairs of frames in two rows, the simulator's above the predicted, over the plots."""
        images = [simulated for simulated, _ in pairs] + [predicted for _, predicted in pairs]
        frames = contact_sheet(images, columns=len(pairs))
        missing_px = max(0, self.width - frames.shape[1])  # a drive soon cut off has few pairs
        frames = np.pad(frames, ((0, 0), (0, missing_px), (0, 0)), constant_values=24)
        height_px, width_px = max(2 * PLOT_PX, frames.shape[1] // 4), frames.shape[1]
        labels = self._draw_labels(width_px, (GAP_PX, width_px // 2), ("above: ", "below: "))
        plots = Plots(height_px=height_px, width_px=width_px, frames=self._frames)
        return np.concatenate([labels, frames, plots.draw(drive)])

    def _lefts(self) -> tuple[int, int]:
        """Where the two pictures begin."""
        return GAP_PX, 2 * GAP_PX + self._size.width

    def _draw_labels(
        self, width: int, lefts: tuple[int, int], where: tuple[str, str] = ("", "")
    ) -> Image:
        figure = new_figure(LABEL_PX, width)
        for (name, colour), left, place in zip(self._names, lefts, where, strict=True):
            text = f"{place}{name}"
            figure.text(left / width, 0.5, text, color=colour, fontsize=7.5, va="center")
        return pixels_of(figure)
