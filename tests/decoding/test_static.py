"""The static loop gives its references' codes, waits for nothing, and compiles whole."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sim_stream.config import SamplingConfig
from sim_stream.decoding.jacobi import Jacobi
from sim_stream.decoding.noise import gumbel_noise
from sim_stream.decoding.passes import TorchPasses
from sim_stream.decoding.raster import Raster
from sim_stream.decoding.slots import decode
from sim_stream.decoding.static_slots import StaticSlot, StaticSlots
from sim_stream.decoding.strategy import Strategy, Task
from sim_stream.models.attention import sdpa
from sim_stream.models.kv_cache import KVCache, KVPool
from sim_stream.models.world_model import WorldModel
from tests.small import SMALL, random_world_model

CODES, LENGTH, LEAD = 32, 64, 4
SAMPLING = SamplingConfig(top_k=8, temperature=0.7)
GUESS = torch.randint(0, CODES, (LENGTH,), generator=torch.Generator().manual_seed(9))


def model(seed: int = 0) -> WorldModel:
    return random_world_model(seed=seed).fuse()


def context(row: int, model: WorldModel, cache: KVCache) -> None:
    """Rows stand at different positions."""
    ids = torch.randint(0, CODES, (1, 11 + 3 * row), generator=torch.Generator().manual_seed(row))
    with torch.inference_mode():
        model(ids, None, cache)


def task(cache: KVCache, row: int = 0, sampling: SamplingConfig = SAMPLING, lead: int = 4) -> Task:
    lead_1P = 33 + torch.arange(lead)[None]
    return Task(cache, lead_1P, gumbel_noise(row, 1, LENGTH, CODES), sampling, GUESS)


def twin(strategy: Strategy, row: int = 0, **options: Any) -> list[int]:
    weights = model()
    cache = KVCache(SMALL.world_model, 100)
    context(row, weights, cache)
    return decode(strategy, task(cache, row, **options), TorchPasses(weights, CODES)).ids_N.tolist()


def slots(weights: WorldModel, rows: int = 1) -> StaticSlots:
    pool = KVPool(SMALL.world_model, 100, rows, spare=LENGTH)
    return StaticSlots(weights, pool, sdpa, lead=LEAD, codes=LENGTH, vocabulary=CODES)


def started(decoder: StaticSlots, row: int = 0) -> KVCache:
    cache = decoder.state.pool.take()
    context(row, decoder._model, cache)
    return cache


def finish(decoder: StaticSlots, slot: StaticSlot) -> list[int]:
    while not slot.done:
        decoder.advance()
    if slot.error:
        raise slot.error
    assert slot.decoded is not None
    return slot.decoded.ids_N.tolist()


@pytest.mark.parametrize("window", [1, 2, 7, 16, LENGTH])
@pytest.mark.parametrize(("top_k", "temperature"), [(8, 0.7), (CODES, 1.3)])
def test_it_gives_rasters_codes_and_leaves_rasters_cache(
    window: int, top_k: int, temperature: float
) -> None:
    sampling, weights = SamplingConfig(top_k=top_k, temperature=temperature), model()
    decoder = slots(weights)
    cache = started(decoder)
    slot = decoder.begin(window, task(cache, sampling=sampling))
    assert finish(decoder, slot) == twin(Raster(), sampling=sampling)
    assert slot.decoded is not None and not slot.decoded.approximated
    assert sum(slot.decoded.accepted) == LENGTH and max(slot.decoded.accepted) <= window
    slow = KVCache(SMALL.world_model, 100)
    context(0, weights, slow)
    decode(Raster(), task(slow, sampling=sampling), TorchPasses(weights, CODES))
    assert cache.length == slow.length
    held = (cache.held(cache.length), slow.held(cache.length))
    torch.testing.assert_close(*held, atol=2e-5, rtol=2e-5)


def test_it_takes_as_many_passes_as_jacobi_where_the_lead_has_entered() -> None:
    weights = model()
    decoder = slots(weights)
    slot = decoder.begin(16, task(started(decoder)))
    finish(decoder, slot)
    slow = KVCache(SMALL.world_model, 100)
    context(0, weights, slow)
    jacobi = decode(Jacobi(16), task(slow), TorchPasses(weights, CODES))
    assert slot.decoded is not None
    # The ids that lead to the frame share its first windows here; there they have a pass.
    assert jacobi.passes <= slot.decoded.passes <= jacobi.passes + 2


@pytest.mark.parametrize("windows", [(1, 1, 1, 1), (16, 16, 16, 16), (1, 7, 16, 7)])
def test_frames_side_by_side_equal_frames_alone(windows: Sequence[int]) -> None:
    """They join at different passes, stand at different positions, one samples otherwise."""
    samplings = [SAMPLING, SAMPLING, SamplingConfig(top_k=3), SAMPLING]
    decoder = slots(model(), rows=4)
    caches = [started(decoder, row) for row in range(4)]
    for _ in range(2):  # the second time with used rows
        begun = []
        for row, cache in enumerate(caches):
            cache.roll_back(11 + 3 * row)
            begun.append(decoder.begin(windows[row], task(cache, row, samplings[row])))
            for _ in range(3):
                decoder.advance()
        found = [finish(decoder, slot) for slot in begun]
        assert found == [twin(Raster(), row, sampling=samplings[row]) for row in range(4)]


def test_more_leading_ids_than_columns_enter_the_cache_first() -> None:
    decoder = slots(model())
    assert finish(decoder, decoder.begin(7, task(started(decoder), lead=9))) == twin(
        Raster(), lead=9
    )


def test_a_deadline_ships_the_guess_and_the_cache_ends_before_what_is_uncertain() -> None:
    decoder, asked = slots(model()), itertools.count()
    cache = started(decoder)
    begun = task(cache)
    cut = Task(*(begun.cache, begun.lead_1P, begun.noise_NV, SAMPLING, GUESS), lambda: True)
    slot = decoder.begin(8, cut)
    decoder.advance()
    assert slot.decoded is not None and slot.decoded.approximated and next(asked) == 0
    found = sum(slot.decoded.accepted)
    assert 0 < found < LENGTH
    assert slot.decoded.ids_N[:found].tolist() == twin(Raster())[:found]
    assert cache.length == 11 + LEAD + found - 1


def test_an_idle_row_keeps_its_cache_while_others_decode() -> None:
    decoder = slots(model(), rows=2)
    idle, busy = started(decoder, 0), started(decoder, 1)
    finish(decoder, decoder.begin(16, task(idle)))
    idle.roll_back(5)  # its state on the device still points behind that
    before = idle.held(100)
    finish(decoder, decoder.begin(16, task(busy, 1)))
    assert torch.equal(idle.held(100), before)


class NothingWaits(TorchDispatchMode):
    """Refuses every operation that brings a value from the device to the host.

    But `tolist`, which leaves no trace here; tests/test_gpu.py asks CUDA itself.
    """

    WAITS = (
        "item",
        "_local_scalar_dense",
        "nonzero",
        "equal",
        "is_nonzero",
        "masked_select",
        "unique",
    )

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if name.startswith(self.WAITS):
            raise AssertionError(f"{name} waits for the device")
        return func(*args, **(kwargs or {}))


def test_nothing_in_a_frame_waits_for_the_device() -> None:
    decoder = slots(model())
    cache = started(decoder)
    begun = task(cache)
    with NothingWaits():
        found = finish_without_reading(decoder, decoder.begin(16, begun))
    assert found.tolist() == twin(Raster())


def finish_without_reading(decoder: StaticSlots, slot: StaticSlot) -> Tensor:
    while not slot.done:
        decoder.advance()
    assert slot.decoded is not None
    return slot.decoded.ids_N


def test_a_loop_that_waits_would_be_caught() -> None:
    weights, cache = model(), KVCache(SMALL.world_model, 100)
    context(0, weights, cache)
    with NothingWaits(), pytest.raises(AssertionError, match="waits for the device"):
        decode(Jacobi(16), task(cache), TorchPasses(weights, CODES))


def test_the_pass_compiles_whole_and_gives_the_same_codes() -> None:
    """fullgraph: a graph break would raise. The compiler's own backend is measured, not tested."""
    torch._dynamo.reset()
    decoder = slots(model())
    decoder._pass = torch.compile(decoder._pass, fullgraph=True, dynamic=False, backend="aot_eager")
    cache = started(decoder)
    for window in (1, 16):
        cache.roll_back(11)
        assert finish(decoder, decoder.begin(window, task(cache))) == twin(Raster())
