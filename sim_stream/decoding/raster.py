"""Raster decoding: one code a pass, left to right, top to bottom: the reference of all others.

A frame's last code and its forced end-of-frame id need no pass of their own: they are left
*pending* and enter the cache together with the ids that lead to the next frame.

Legend: N codes of a frame, S ids of a pass.
"""

from __future__ import annotations

from sim_stream.decoding.kind import StrategyKind
from sim_stream.decoding.strategy import Decoded, Draw, Draws, Task


class Raster:
    """One code a pass."""

    def decode(self, task: Task) -> Draws:
        """Needs no guess and knows no deadline."""
        ids_N, feed_1S = task.guess_N.clone(), task.lead_1P
        for code in range(len(ids_N)):
            here = slice(code, code + 1)
            ids_N[here] = yield Draw(task.cache, feed_1S, task.noise_NV[here], task.sampling)
            feed_1S = ids_N[None, here]
        return Decoded(ids_N, accepted=(1,) * len(ids_N))


RASTER = StrategyKind(
    name="raster",
    about="one code a pass",
    exact=True,
    drawn=lambda how: 1,
    make=lambda how, grid: Raster(),
)
