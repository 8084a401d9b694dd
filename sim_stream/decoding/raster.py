"""Raster decoding: one code a pass, left to right, top to bottom. The slow twin of all others.

A frame's last code and its forced end-of-frame id need no pass of their own: they are left
*pending* and enter the cache together with the ids that lead to the next frame.

Legend: P leading ids, N codes of a frame, V codes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sim_stream.config import SamplingConfig
from sim_stream.decoding.decoded import Decoded
from sim_stream.decoding.passes import Pass


class Raster:
    """One code a pass."""

    def __init__(self, model: Pass) -> None:
        self.model = model

    @torch.inference_mode()
    def decode(
        self,
        lead_1P: Tensor,
        noise_NV: Tensor,
        sampling: SamplingConfig,
        guess_N: Tensor,
        expired: Callable[[], bool] | None = None,
    ) -> Decoded:
        """Codes of the next frame; needs no guess and knows no deadline.

        `lead_1P`: what stands between the cache and the first code (pending ids, actions). On
        return the cache holds all codes but the last.
        """
        total = len(noise_NV)
        ids_1N = torch.empty(1, total, dtype=torch.int64, device=noise_NV.device)
        feed_1S = lead_1P
        for slot_11, noise_1V in zip(
            torch.split(ids_1N, 1, 1), torch.split(noise_NV, 1), strict=True
        ):
            slot_11.copy_(self.model.draw(feed_1S, noise_1V, sampling))
            feed_1S = slot_11
        return Decoded(ids_1N[0], accepted=(1,) * total)
