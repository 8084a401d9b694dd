"""The divergence of a drive as plots: PSNR and mean difference over time, the roads from above.

Drawn with matplotlib (extra `drive`) into an array. The figure is made once and its lines are given
new points for every frame, which takes a third less time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from bridge.driving.measures import Divergence
from sim_stream.errors import Unavailable

Image = npt.NDArray[np.uint8]

DPI = 100
GROUND, INK = "#181818", "#d8d8d8"
SIMULATOR, NEURAL = "#58a6ff", "#ffb000"
PSNR, DIFFERENCE = ("PSNR, dB", "#d8d8d8", 40.0), ("mean |diff|", "#f2777a", 80.0)
PLACES = ((0.085, 0.59, 0.5, 0.33), (0.085, 0.17, 0.5, 0.33), (0.68, 0.17, 0.3, 0.75))
SMALLEST_M = 10.0  # what the view from above shows at least, to each side of what was driven


def new_figure(height_px: int, width_px: int) -> Any:
    """A figure without a screen. Raises Unavailable where matplotlib is not installed."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise Unavailable("the plots need matplotlib: pip install 'sim-stream[drive]'") from error
    figure = Figure(figsize=(width_px / DPI, height_px / DPI), dpi=DPI, facecolor=GROUND)
    FigureCanvasAgg(figure)
    return figure


def pixels_of(figure: Any) -> Image:
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()


class Plots:
    """Plots of one drive of at most `frames` frames; `draw` shows how it went so far."""

    def __init__(self, *, height_px: int, width_px: int, frames: int) -> None:
        self._figure = new_figure(height_px, width_px)
        psnr, difference, above = (self._figure.add_axes(place) for place in PLACES)
        self._psnr = _curve(psnr, *PSNR, frames)
        self._difference = _curve(difference, *DIFFERENCE, frames)
        self._time, self._above = difference, above
        psnr.tick_params(labelbottom=False)
        above.set_title("from above: cars and (dots) lanes", fontsize=6.5, color=INK, pad=3)
        above.set_aspect("equal", adjustable="box")
        _style(above)
        above.set_xlabel("metres")
        self._worlds = {
            name: _lines(above, colour, width)
            for name, colour, width in (("simulator", SIMULATOR, 2.4), ("neural", NEURAL, 1.1))
        }

    def draw(self, drive: Sequence[Divergence]) -> Image:
        index = [f.index for f in drive]
        self._psnr.set_data(index, [min(f.psnr_db, PSNR[2]) for f in drive])
        self._difference.set_data(index, [min(f.difference, DIFFERENCE[2]) for f in drive])
        self._time.set_xlabel(f"frame {index[-1]}")
        points = []
        for name, (lane_line, path_line, car) in self._worlds.items():
            lane = np.array([getattr(f, f"lane_{name}") for f in drive])
            path = np.array([(getattr(f, name).x_m, getattr(f, name).y_m) for f in drive])
            for line, places in ((lane_line, lane), (path_line, path), (car, path[-1:])):
                line.set_data(-places[:, 1], places[:, 0])
            points += [lane, path]
        self._frame_all(np.concatenate(points))
        return pixels_of(self._figure)

    def _frame_all(self, places: npt.NDArray[np.float64]) -> None:
        """Forward is up and left is left; one metre is as long both ways, and all is in view."""
        low, high = np.nanmin(places, axis=0), np.nanmax(places, axis=0)
        box = self._above.get_position(original=True)
        width, height = self._figure.get_size_inches()
        shape = box.width * width / (box.height * height)
        half_ahead = max(high[0] - low[0], (high[1] - low[1]) / shape, SMALLEST_M) / 2 * 1.08
        ahead, left = (low + high) / 2
        self._above.set_ylim(ahead - half_ahead, ahead + half_ahead)
        self._above.set_xlim(-left - shape * half_ahead, -left + shape * half_ahead)


def _curve(axes: Any, name: str, colour: str, most: float, frames: int) -> Any:
    axes.set_xlim(0, max(frames, 1))
    axes.set_ylim(0, most)
    axes.set_ylabel(name)
    _style(axes)
    return axes.plot([], [], color=colour, linewidth=1.2)[0]


def _lines(axes: Any, colour: str, width: float) -> tuple[Any, Any, Any]:
    """Of one world: its lane as dots, its car's path, and where its car is."""
    lane = axes.plot([], [], "o", color=colour, markersize=1.6, alpha=0.5)[0]
    path = axes.plot([], [], color=colour, linewidth=width)[0]
    return lane, path, axes.plot([], [], "o", color=colour, markersize=4)[0]


def _style(axes: Any) -> None:
    axes.set_facecolor("#202020")
    axes.grid(color="#3a3a3a", linewidth=0.5)
    axes.tick_params(colors=INK, labelsize=6, length=2, pad=1.5)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(INK)
        label.set_fontsize(6.5)
    for spine in axes.spines.values():
        spine.set_color("#505050")
