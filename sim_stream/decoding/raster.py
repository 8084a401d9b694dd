"""Raster decoding: one code a pass, left to right, top to bottom. The slow twin of all others.

A frame's last code and its forced end-of-frame id need no pass of their own: they are left
*pending* and enter the cache together with the ids that lead to the next frame.

Legend: P leading ids, N codes of a frame, V codes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sim_stream.config import SamplingConfig
from sim_stream.decoding.passes import Pass


@torch.inference_mode()
def decode_frame(
    model: Pass, lead_1P: Tensor, noise_NV: Tensor, sampling: SamplingConfig
) -> Tensor:
    """Codes of the next frame, int64 (N,).

    `lead_1P`: what stands between the cache and the first code (pending ids, actions). On return
    the cache holds all codes but the last.
    """
    ids_1N = torch.empty(1, len(noise_NV), dtype=torch.int64, device=noise_NV.device)
    feed_1S = lead_1P
    for slot_11, noise_1V in zip(torch.split(ids_1N, 1, 1), torch.split(noise_NV, 1), strict=True):
        slot_11.copy_(model.draw(feed_1S, noise_1V, sampling))
        feed_1S = slot_11
    return ids_1N[0]
