"""Raster decoding is the definition: each code from a full pass over all ids before it."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from sim_stream.config import SamplingConfig
from sim_stream.decoding.jacobi import Jacobi
from sim_stream.decoding.noise import gumbel_noise
from sim_stream.decoding.onnx_pass import OnnxPasses
from sim_stream.decoding.passes import Passes, TorchPasses
from sim_stream.decoding.raster import Raster
from sim_stream.decoding.sampling import sample
from sim_stream.decoding.slots import Slots, decode
from sim_stream.decoding.strategy import Draw, Task
from sim_stream.errors import InvalidInput
from sim_stream.models.kv_cache import KVCache, KVPool
from sim_stream.models.world_model import WorldModel
from tests.small import SMALL, random_world_model

CODES, LENGTH = 32, 64
MakePasses = Callable[[WorldModel, KVPool], Passes]


def torch_passes(model: WorldModel, pool: KVPool) -> TorchPasses:
    return TorchPasses(model, CODES)


def onnx_passes(model: WorldModel, pool: KVPool) -> OnnxPasses:
    return OnnxPasses(TorchPasses(model, CODES), pool)


PASSES = [torch_passes, onnx_passes]


def make(
    kind: MakePasses, capacity: int = 4 + LENGTH, model: WorldModel | None = None, rows: int = 1
) -> tuple[Passes, KVPool]:
    model = random_world_model() if model is None else model
    pool = KVPool(SMALL.world_model, capacity, rows)
    return kind(model.fuse(), pool), pool


def raster(
    passes: Passes, cache: KVCache, lead: Tensor, noise: Tensor, sampling: SamplingConfig
) -> Tensor:
    task = Task(cache, lead, noise, sampling, torch.zeros(len(noise)).long())
    decoded = decode(Raster(), task, passes)
    assert decoded.accepted == (1,) * len(noise) and not decoded.approximated
    return decoded.ids_N


@pytest.mark.parametrize("kind", PASSES)
@torch.inference_mode()
def test_it_equals_one_full_pass_a_code(kind: MakePasses) -> None:
    model, sampling = random_world_model(), SamplingConfig(top_k=8, temperature=0.7)
    noise = gumbel_noise(4, 1, LENGTH, CODES)
    lead = torch.tensor([[3, 33, 40, 60]])
    passes, pool = make(kind)
    cache = pool.take()
    codes = raster(passes, cache, lead, noise, sampling)
    ids = lead
    for position in range(LENGTH):
        logits = model.vision_logits(model(ids)[:, -1], CODES)
        drawn = sample(logits, noise[position : position + 1], sampling)
        assert drawn.item() == codes[position]
        ids = torch.cat([ids, drawn[None]], 1)
    assert cache.length == 4 + LENGTH - 1


@torch.inference_mode()
def test_onnx_draws_the_ids_that_torch_draws_and_leaves_the_same_cache() -> None:
    twins = [make(kind, 40) for kind in PASSES]
    caches = [pool.take() for _, pool in twins]
    ids = torch.randint(0, CODES, (1, 40), generator=torch.Generator().manual_seed(0))
    noise = gumbel_noise(4, 1, 40, CODES)
    one = SamplingConfig(top_k=8)
    for rows, settings in ((1, (8, 0.7)), (3, (8, 1.0)), (5, (CODES, 1.3)), (1, (1, 1.0))):
        sampling = SamplingConfig(top_k=settings[0], temperature=settings[1])
        start = caches[0].length
        drawn = []
        for (passes, _), cache in zip(twins, caches, strict=True):
            drawn += passes.run([Draw(cache, ids[:, start : start + 6], noise[:rows], sampling)])
        assert drawn[0].tolist() == drawn[1].tolist() and len(drawn[1]) == rows
    for (passes, _), cache in zip(twins, caches, strict=True):
        cache.roll_back(7)  # what was rolled back is overwritten
        passes.run([Draw(cache, ids[:, 30:37], noise[:1], one)])
    full_kv, onnx_kv = (cache.held(14) for cache in caches)
    # Kernels add in another order; keys and values are of order 1.
    torch.testing.assert_close(onnx_kv, full_kv, atol=2e-5, rtol=2e-5)
    assert caches[1].length == 14


@torch.inference_mode()
def test_the_onnx_graph_gives_the_models_logits() -> None:
    model, ids = random_world_model().fuse(), torch.arange(12)[None]
    passes, pool = make(onnx_passes, 16, model)
    assert isinstance(passes, OnnxPasses)
    feeds = {"ids": ids, "noise": torch.zeros(1, 5, CODES)}
    for index, (keys, values) in enumerate(pool.take().layers):
        feeds |= {f"keys.{index}": keys, f"values.{index}": values}
    arrays = {name: tensor.numpy() for name, tensor in feeds.items()}
    arrays |= {"last": np.array([11], np.int32), "total": np.array(12, np.int32)}
    arrays |= {"top_k": np.array([4]), "scale": np.array(1.0, np.float32)}
    (logits,) = passes.session.run(["logits"], arrays)
    draw = Draw(KVCache(SMALL.world_model, 16), ids, torch.zeros(5, CODES), SamplingConfig())
    expected = TorchPasses(model, CODES).logits(draw)
    torch.testing.assert_close(torch.from_numpy(logits[0]), expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("kind", PASSES)
@torch.no_grad()
def test_only_codes_are_drawn_even_where_specials_have_the_largest_logits(
    kind: MakePasses,
) -> None:
    model = random_world_model()
    model.vision_head.weight[CODES:] *= 1e3
    passes, pool = make(kind, model=model)
    noise = gumbel_noise(4, 1, LENGTH, CODES)
    sampling = SamplingConfig(top_k=CODES)
    codes = raster(passes, pool.take(), torch.tensor([[33]]), noise, sampling)
    assert int(codes.max()) < CODES


@pytest.mark.parametrize("kind", PASSES)
@torch.no_grad()
def test_a_full_cache_is_refused(kind: MakePasses) -> None:
    passes, pool = make(kind, capacity=4)
    cache, noise, sampling = pool.take(), torch.zeros(1, CODES), SamplingConfig(top_k=1)
    passes.run([Draw(cache, torch.tensor([[1, 2, 3, 4]]), noise, sampling)])
    with pytest.raises(InvalidInput, match="at most 4"):
        passes.run([Draw(cache, torch.tensor([[5]]), noise, sampling)])
    assert cache.length == 4


def test_a_strategy_that_fails_ends_its_own_frame_only() -> None:
    passes, pool = make(torch_passes, rows=2)
    noise, guess = gumbel_noise(4, 1, LENGTH, CODES), torch.zeros(LENGTH).long()
    sampling, lead = SamplingConfig(top_k=8), torch.tensor([[3, 33, 40, 60]])

    def broken() -> bool:
        raise ZeroDivisionError

    slots = Slots(passes)
    good = slots.begin(Raster(), Task(pool.take(), lead, noise, sampling, guess))
    bad = slots.begin(Jacobi(2), Task(pool.take(), lead, noise, sampling, guess, broken))
    while slots.active:
        slots.advance()
    assert isinstance(bad.error, ZeroDivisionError) and bad.decoded is None
    assert good.error is None and good.decoded is not None


@pytest.mark.parametrize("kind", PASSES)
@torch.inference_mode()
def test_frames_side_by_side_equal_frames_alone(kind: MakePasses) -> None:
    """They join at different passes, stand at different positions, one samples otherwise."""
    samplings = [SamplingConfig(top_k=8, temperature=0.7)] * 3 + [SamplingConfig(top_k=3)]
    leads = [torch.full((1, 2 + row), 33 + row) for row in range(4)]
    noises = [gumbel_noise(seed, 1, LENGTH, CODES) for seed in range(4)]
    guess = torch.zeros(LENGTH).long()
    alone = []
    for lead, noise, sampling in zip(leads, noises, samplings, strict=True):
        passes, pool = make(torch_passes, 8 + LENGTH)
        alone.append(raster(passes, pool.take(), lead, noise, sampling).tolist())

    passes, pool = make(kind, 8 + LENGTH, rows=4)
    slots, begun = Slots(passes), []
    for lead, noise, sampling in zip(leads, noises, samplings, strict=True):
        begun.append(slots.begin(Raster(), Task(pool.take(), lead, noise, sampling, guess)))
        for _ in range(5):
            slots.advance()
    while slots.active:
        slots.advance()
    assert [slot.decoded.ids_N.tolist() for slot in begun if slot.decoded] == alone
