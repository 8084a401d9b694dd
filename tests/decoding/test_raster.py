"""Raster decoding is the definition: each code from a full pass over all ids before it."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from sim_stream.config import SamplingConfig
from sim_stream.decoding.noise import gumbel_noise
from sim_stream.decoding.onnx_pass import OnnxPass, OnnxStep
from sim_stream.decoding.passes import FullPass, OneIdPass, Pass
from sim_stream.decoding.raster import Raster
from sim_stream.decoding.sampling import sample
from sim_stream.decoding.strategy import Task
from sim_stream.errors import InvalidInput
from sim_stream.models.kv_cache import KVCache
from sim_stream.models.world_model import WorldModel
from tests.small import SMALL, random_world_model

CODES, LENGTH = 32, 64
TORCH_PASSES = [FullPass, OneIdPass]


def onnx_pass(model: WorldModel, cache: KVCache, num_codes: int) -> OnnxPass:
    return OnnxPass(OnnxStep(model, num_codes, cache.capacity), cache)


MakePass = Callable[[WorldModel, KVCache, int], Pass]
PASSES = [*TORCH_PASSES, onnx_pass]


def make(kind: MakePass, capacity: int = 4 + LENGTH, model: WorldModel | None = None) -> Pass:
    model = random_world_model() if model is None else model
    return kind(model.fuse(), KVCache(SMALL.world_model, capacity), CODES)


def decode(model: Pass, lead: Tensor, noise: Tensor, sampling: SamplingConfig) -> Tensor:
    decoded = Raster(model).decode(Task(lead, noise, sampling, torch.zeros(len(noise)).long()))
    assert decoded.accepted == (1,) * len(noise) and not decoded.approximated
    return decoded.ids_N


@pytest.mark.parametrize("kind", PASSES)
@torch.inference_mode()
def test_it_equals_one_full_pass_a_code(kind: MakePass) -> None:
    model, sampling = random_world_model(), SamplingConfig(top_k=8, temperature=0.7)
    noise = gumbel_noise(4, 1, LENGTH, CODES)
    lead = torch.tensor([[3, 33, 40, 60]])
    passes = make(kind)
    codes = decode(passes, lead, noise, sampling)
    ids = lead
    for position in range(LENGTH):
        logits = model.vision_logits(model(ids)[:, -1], CODES)
        drawn = sample(logits, noise[position : position + 1], sampling)
        assert drawn.item() == codes[position]
        ids = torch.cat([ids, drawn[None]], 1)
    assert passes.cache.length == 4 + LENGTH - 1


@torch.inference_mode()
def test_the_lean_pass_equals_the_full_one_in_logits_and_cache() -> None:
    full = FullPass(random_world_model().fuse(), small_cache(40), CODES)
    lean = OneIdPass(random_world_model().fuse(), small_cache(40), CODES)
    ids = torch.randint(0, CODES, (1, 40), generator=torch.Generator().manual_seed(0))
    for part in ids.split([5, *[1] * 20, 3, *[1] * 12], 1):
        # Additions are fused differently; logits here are of order 1.
        torch.testing.assert_close(lean.logits(part), full.logits(part), atol=2e-5, rtol=2e-5)
    torch.testing.assert_close(lean.cache.kv_L2BHTK, full.cache.kv_L2BHTK, atol=2e-5, rtol=2e-5)
    assert lean.cache.length == full.cache.length == 40


@torch.inference_mode()
def test_the_lean_pass_follows_the_full_one_in_bf16() -> None:
    full, lean = (
        kind(random_world_model().bfloat16().fuse(), small_cache(16, torch.bfloat16), CODES)
        for kind in TORCH_PASSES
    )
    ids = torch.randint(0, CODES, (1, 12), generator=torch.Generator().manual_seed(0))
    for part in ids.split([4, *[1] * 8], 1):
        # Logits of order 1, two layers: a handful of roundings of 2^-8.
        torch.testing.assert_close(lean.logits(part), full.logits(part), atol=0.1, rtol=0.0)
    assert lean.logits(ids[:, :1]).dtype == torch.bfloat16


def small_cache(capacity: int, dtype: torch.dtype = torch.float32) -> KVCache:
    return KVCache(SMALL.world_model, capacity, dtype=dtype)


@torch.inference_mode()
def test_onnx_draws_the_ids_that_torch_draws_and_leaves_the_same_cache() -> None:
    twins = [make(kind, 40) for kind in (FullPass, onnx_pass)]
    ids = torch.randint(0, CODES, (1, 40), generator=torch.Generator().manual_seed(0))
    noise = gumbel_noise(4, 1, 40, CODES)
    for rows, settings in ((1, (8, 0.7)), (3, (8, 1.0)), (5, (CODES, 1.3)), (1, (1, 1.0))):
        sampling = SamplingConfig(top_k=settings[0], temperature=settings[1])
        start = twins[0].cache.length
        part = ids[:, start : start + 6]
        full, onnx = (twin.draw(part, noise[:rows], sampling) for twin in twins)
        assert full.tolist() == onnx.tolist() and len(onnx) == rows
    # What was rolled back is overwritten.
    for twin in twins:
        twin.cache.roll_back(7)
        twin.draw(ids[:, 30:37], noise[:1], sampling)
    full_kv, onnx_kv = (twin.cache.kv_L2BHTK[:, :, :, :, :14] for twin in twins)
    torch.testing.assert_close(onnx_kv, full_kv, atol=2e-5, rtol=2e-5)
    assert twins[1].cache.length == 14


@torch.inference_mode()
def test_the_onnx_graph_gives_the_models_logits() -> None:
    model, ids = random_world_model().fuse(), torch.arange(12)[None]
    step, cache = OnnxStep(model, CODES, 16), small_cache(16)
    feeds = {"ids": ids, "noise": torch.zeros(1, 5, CODES)}
    for index, (_, keys, values) in enumerate(cache.layers):
        feeds |= {f"keys.{index}": keys, f"values.{index}": values}
    arrays = {name: tensor.numpy() for name, tensor in feeds.items()}
    arrays |= {"last": np.array([11], np.int32), "total": np.array(12, np.int32)}
    arrays |= {"top_k": np.array([4]), "scale": np.array(1.0, np.float32)}
    (logits,) = step.session.run(["logits"], arrays)
    expected = FullPass(model, small_cache(16), CODES).logits(ids, 5)
    torch.testing.assert_close(torch.from_numpy(logits[0]), expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("kind", PASSES)
@torch.no_grad()
def test_only_codes_are_drawn_even_where_specials_have_the_largest_logits(
    kind: MakePass,
) -> None:
    model = random_world_model()
    model.vision_head.weight[CODES:] *= 1e3
    passes = make(kind, model=model)
    noise = gumbel_noise(4, 1, LENGTH, CODES)
    codes = decode(passes, torch.tensor([[33]]), noise, SamplingConfig(top_k=CODES))
    assert int(codes.max()) < CODES


@pytest.mark.parametrize("kind", PASSES)
@torch.no_grad()
def test_a_full_cache_is_refused(kind: MakePass) -> None:
    passes = make(kind, capacity=4)
    noise, sampling = torch.zeros(1, CODES), SamplingConfig(top_k=1)
    passes.draw(torch.tensor([[1, 2, 3, 4]]), noise, sampling)
    with pytest.raises(InvalidInput, match="at most 4"):
        passes.draw(torch.tensor([[5]]), noise, sampling)
    assert passes.cache.length == 4
