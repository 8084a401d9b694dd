"""The sampler draws exactly from softmax(top-k(logits) / temperature)."""

import pytest
import torch

from sim_stream.config import SamplingConfig
from sim_stream.decoding.noise import gumbel_noise
from sim_stream.decoding.sampling import sample
from sim_stream.errors import InvalidInput

LOGITS = torch.tensor([1.5, -0.3, 0.8, 2.0, 0.1, -1.0])
DRAWS = 40_000


def chi_square(counts: torch.Tensor, p: torch.Tensor) -> float:
    kept = p > 0
    expected = p[kept] * counts.sum()
    return float(((counts[kept] - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("top_k", [1, 3, 6, 100])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_distribution_is_the_exact_softmax_over_the_top_k(top_k: int, temperature: float) -> None:
    noise = gumbel_noise(3, 0, DRAWS, len(LOGITS))
    config = SamplingConfig(top_k=top_k, temperature=temperature)
    drawn = sample(LOGITS.expand(DRAWS, -1), noise, config)
    counts = torch.bincount(drawn, minlength=len(LOGITS)).double()
    kept = LOGITS.topk(min(top_k, len(LOGITS))).indices
    masked = torch.full_like(LOGITS, -torch.inf).index_copy(0, kept, LOGITS[kept])
    p = (masked / temperature).softmax(0).double()
    assert counts[p == 0].sum() == 0
    # 5 degrees of freedom at most: beyond 25.7 lies a share of 1e-4.
    assert chi_square(counts, p) < 25.7


def test_the_same_key_gives_the_same_token_whatever_came_before() -> None:
    config, noise = SamplingConfig(top_k=6), gumbel_noise(11, 2, 16, 6)
    together = sample(LOGITS.expand(16, -1), noise, config)
    one_by_one = [sample(LOGITS, noise[i], config) for i in reversed(range(16))]
    assert torch.equal(together, torch.stack(one_by_one[::-1]))


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"top_k": 0}, "top_k"),
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": float("inf")}, "temperature"),
    ],
)
def test_impossible_settings_are_refused_by_name(values: dict[str, float], field: str) -> None:
    with pytest.raises(InvalidInput, match=rf"sampling\.{field}: got"):
        SamplingConfig(**values)  # type: ignore[arg-type]
