"""The sampler: y = argmax(top-k-masked logits / temperature + Gumbel noise).

By the Gumbel-max identity y is an exact draw from softmax(masked logits / temperature). Knows
nothing about models or positions.

Legend: V vocabulary.
"""

from __future__ import annotations

from torch import Tensor

from sim_stream.config import SamplingConfig


def sample(logits_xV: Tensor, noise_xV: Tensor, sampling: SamplingConfig) -> Tensor:
    """One id per row, int64 (x)."""
    return draw(logits_xV, noise_xV, sampling.top_k, 1.0 / sampling.temperature)


def draw(logits_xV: Tensor, noise_xV: Tensor, top_k: int, scale: float | Tensor) -> Tensor:
    """`scale`: 1 / temperature. Only the k kept logits are touched: the rest never wins."""
    logits = logits_xV.float()
    if top_k >= logits.shape[-1]:
        return (logits * scale + noise_xV).argmax(-1)
    kept_xk, ids_xk = logits.topk(top_k, dim=-1, sorted=False)
    winner_x1 = (kept_xk * scale + noise_xV.gather(-1, ids_xk)).argmax(-1, True)
    return ids_xk.gather(-1, winner_x1).squeeze(-1)
