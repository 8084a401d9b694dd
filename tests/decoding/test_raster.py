"""Raster decoding is the definition: each code from a full pass over all ids before it."""

import pytest
import torch

from sim_stream.config import SamplingConfig
from sim_stream.decoding.noise import gumbel_noise
from sim_stream.decoding.passes import FullPass, OneIdPass
from sim_stream.decoding.raster import decode_frame
from sim_stream.decoding.sampling import sample
from sim_stream.errors import InvalidInput
from sim_stream.models.kv_cache import KVCache
from tests.small import SMALL, random_world_model

CODES, LENGTH = 32, 64
PASSES = [FullPass, OneIdPass]


def make(kind: type[FullPass], capacity: int = 4 + LENGTH) -> FullPass:
    model = random_world_model().fuse()
    return kind(model, KVCache(SMALL.world_model, capacity), CODES)


@pytest.mark.parametrize("kind", PASSES)
@torch.inference_mode()
def test_it_equals_one_full_pass_a_code(kind: type[FullPass]) -> None:
    model, sampling = random_world_model(), SamplingConfig(top_k=8, temperature=0.7)
    noise = gumbel_noise(4, 1, LENGTH, CODES)
    lead = torch.tensor([[3, 33, 40, 60]])
    passes = make(kind)
    codes = decode_frame(passes, lead, noise, sampling)
    ids = lead
    for position in range(LENGTH):
        logits = model.vision_logits(model(ids)[:, -1], CODES)
        drawn = sample(logits, noise[position : position + 1], sampling)
        assert drawn.item() == codes[position]
        ids = torch.cat([ids, drawn[None]], 1)
    assert passes.cache.length == 4 + LENGTH - 1


@torch.inference_mode()
def test_the_lean_pass_equals_the_full_one_in_logits_and_cache() -> None:
    full, lean = make(FullPass), make(OneIdPass)
    ids = torch.randint(0, CODES, (1, 40), generator=torch.Generator().manual_seed(0))
    for part in ids.split([5, *[1] * 20, 3, *[1] * 12], 1):
        # Additions are fused differently; logits here are of order 1.
        torch.testing.assert_close(lean(part), full(part), atol=2e-5, rtol=2e-5)
    torch.testing.assert_close(lean.cache.kv_L2BHTK, full.cache.kv_L2BHTK, atol=2e-5, rtol=2e-5)
    assert lean.cache.length == full.cache.length == 40


@torch.inference_mode()
def test_the_lean_pass_follows_the_full_one_in_bf16() -> None:
    full, lean = (
        kind(random_world_model().bfloat16().fuse(), bf16_cache(), CODES) for kind in PASSES
    )
    ids = torch.randint(0, CODES, (1, 12), generator=torch.Generator().manual_seed(0))
    for part in ids.split([4, *[1] * 8], 1):
        # Logits of order 1, two layers: a handful of roundings of 2^-8.
        torch.testing.assert_close(lean(part), full(part), atol=0.1, rtol=0.0)
    assert lean(ids[:, :1]).dtype == torch.bfloat16


def bf16_cache() -> KVCache:
    return KVCache(SMALL.world_model, 16, dtype=torch.bfloat16)


@pytest.mark.parametrize("kind", PASSES)
@torch.no_grad()
def test_only_codes_are_drawn_even_where_specials_have_the_largest_logits(
    kind: type[FullPass],
) -> None:
    passes = make(kind)
    passes.model.vision_head.weight[CODES:] *= 1e3
    noise = gumbel_noise(4, 1, LENGTH, CODES)
    codes = decode_frame(passes, torch.tensor([[33]]), noise, SamplingConfig(top_k=CODES))
    assert int(codes.max()) < CODES


@pytest.mark.parametrize("kind", PASSES)
@torch.no_grad()
def test_a_full_cache_is_refused(kind: type[FullPass]) -> None:
    passes = make(kind, capacity=4)
    passes(torch.tensor([[1, 2, 3, 4]]))
    with pytest.raises(InvalidInput, match="at most 4"):
        passes(torch.tensor([[5]]))
