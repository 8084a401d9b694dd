"""The sampler: y = argmax(top-k-masked logits / temperature + Gumbel noise).

By the Gumbel-max identity y is an exact draw from softmax(masked logits / temperature). Knows
nothing about models or positions.

Legend: V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sim_stream.config import SamplingConfig


def sample(logits_xV: Tensor, noise_xV: Tensor, sampling: SamplingConfig) -> Tensor:
    """One id per row, int64 (x). Only the k kept logits are touched: the rest never wins."""
    logits, scale = logits_xV.float(), 1.0 / sampling.temperature
    if sampling.top_k >= logits.shape[-1]:
        return torch.add(noise_xV, logits, alpha=scale).argmax(-1)
    kept_xk, ids_xk = logits.topk(sampling.top_k, dim=-1, sorted=False)
    winner_x1 = torch.add(noise_xV.gather(-1, ids_xk), kept_xk, alpha=scale).argmax(-1, True)
    return ids_xk.gather(-1, winner_x1).squeeze(-1)
