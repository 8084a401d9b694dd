"""Raster decoding: one code a pass, left to right, top to bottom. The slow twin of all others.

A frame's last code and its forced end-of-frame id need no pass of their own: they are left
*pending* and enter the cache together with the ids that lead to the next frame.

Legend: P leading ids, N codes of a frame, V codes.
"""

from __future__ import annotations

import torch

from sim_stream.decoding.passes import Pass
from sim_stream.decoding.strategy import Decoded, Task


class Raster:
    """One code a pass."""

    def __init__(self, model: Pass) -> None:
        self.model = model

    @torch.inference_mode()
    def decode(self, task: Task) -> Decoded:
        """Needs no guess and knows no deadline."""
        noise_NV = task.noise_NV
        total = len(noise_NV)
        ids_1N = torch.empty(1, total, dtype=torch.int64, device=noise_NV.device)
        feed_1S = task.lead_1P
        for slot_11, noise_1V in zip(
            torch.split(ids_1N, 1, 1), torch.split(noise_NV, 1), strict=True
        ):
            slot_11.copy_(self.model.draw(feed_1S, noise_1V, task.sampling))
            feed_1S = slot_11
        return Decoded(ids_1N[0], accepted=(1,) * total)
