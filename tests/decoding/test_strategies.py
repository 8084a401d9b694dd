"""jacobi is raster in fewer passes; diagonal is raster when its rows are a whole row apart."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sim_stream.config import SamplingConfig
from sim_stream.decoding.diagonal import Diagonal
from sim_stream.decoding.jacobi import Jacobi
from sim_stream.decoding.noise import gumbel_noise
from sim_stream.decoding.onnx_pass import OnnxPasses
from sim_stream.decoding.passes import Passes, TorchPasses
from sim_stream.decoding.raster import Raster
from sim_stream.decoding.slots import decode
from sim_stream.decoding.strategy import Decoded, Strategy, Task
from sim_stream.models.kv_cache import KVPool, ScatteredWrites
from sim_stream.models.world_model import WorldModel
from tests.small import SMALL, random_world_model

CODES, LENGTH, ROW = 32, 64, 8
CONTEXT = torch.randint(0, CODES, (1, 20), generator=torch.Generator().manual_seed(0))
LEAD = torch.tensor([[3, 33, 40, 60]])
CAPACITY = 20 + 4 + LENGTH
SAMPLING = SamplingConfig(top_k=8, temperature=0.7)


class Ready:
    """A model behind passes, and a cache that holds some context."""

    def __init__(self, seed: int = 0, onnx: bool = False) -> None:
        model = random_world_model(seed=seed).fuse()
        pool = KVPool(SMALL.world_model, CAPACITY, 1)
        self.cache = pool.take()
        with torch.inference_mode():
            model(CONTEXT, None, self.cache)
        self.passes: Passes = TorchPasses(model, CODES)
        if onnx:
            self.passes = OnnxPasses(TorchPasses(model, CODES), pool)


def run(
    strategy: Strategy,
    ready: Ready | None = None,
    seed: int = 4,
    guess: Tensor | None = None,
    sampling: SamplingConfig = SAMPLING,
    expired: Callable[[], bool] | None = None,
) -> Decoded:
    ready = Ready() if ready is None else ready
    guess = torch.zeros(LENGTH).long() if guess is None else guess
    noise = gumbel_noise(seed, 1, LENGTH, CODES)
    return decode(strategy, Task(ready.cache, LEAD, noise, sampling, guess, expired), ready.passes)


@pytest.mark.parametrize("window", [1, 2, 7, 16, LENGTH])
@pytest.mark.parametrize("onnx", [False, True])
def test_jacobi_gives_rasters_codes_whatever_the_window(onnx: bool, window: int) -> None:
    for seed in range(3):
        exact = run(Raster(), Ready(seed), seed)
        ready = Ready(seed, onnx)
        found = run(Jacobi(window), ready, seed)
        assert found.ids_N.tolist() == exact.ids_N.tolist()
        assert sum(found.accepted) == LENGTH and max(found.accepted) <= window
        assert not found.approximated
        assert ready.cache.length == CAPACITY - 1


@pytest.mark.parametrize(("top_k", "temperature"), [(1, 1.0), (4, 0.3), (CODES, 1.0), (8, 2.0)])
def test_jacobi_gives_rasters_codes_whatever_the_guess_and_the_sampling(
    top_k: int, temperature: float
) -> None:
    sampling = SamplingConfig(top_k=top_k, temperature=temperature)
    exact = run(Raster(), sampling=sampling).ids_N
    guesses = {
        "constant": torch.full((LENGTH,), 5),
        "random": torch.randint(0, CODES, (LENGTH,)),
        "right": exact,
    }
    for name, guess in guesses.items():
        found = run(Jacobi(16), guess=guess, sampling=sampling)
        assert found.ids_N.tolist() == exact.tolist(), name
    assert found.accepted == (16,) * 4  # right guesses: every window at once


def test_jacobi_leaves_rasters_cache() -> None:
    raster, jacobi = Ready(), Ready()
    run(Raster(), raster)
    run(Jacobi(7), jacobi)
    held = CAPACITY - 1
    torch.testing.assert_close(
        jacobi.cache.held(held),
        raster.cache.held(held),
        atol=1e-5,
        rtol=0,
    )


def test_a_deadline_ships_the_guess_and_the_next_frame_starts_from_it() -> None:
    ready, asked = Ready(), itertools.count()
    cut = run(Jacobi(8), ready, expired=lambda: next(asked) == 1)
    assert cut.approximated and cut.passes == 2
    found, exact = sum(cut.accepted), run(Raster()).ids_N
    assert cut.ids_N[:found].tolist() == exact[:found].tolist()
    # The cache ends before what is uncertain: that enters with the next pass.
    assert ready.cache.length == 20 + 4 + found - 1
    assert not run(Jacobi(8), expired=lambda: False).approximated


def test_diagonal_with_a_whole_row_apart_is_raster() -> None:
    for seed in range(3):
        exact = run(Raster(), Ready(seed), seed)
        found = run(Diagonal(ROW, ROW), Ready(seed, onnx=True), seed)
        assert found.ids_N.tolist() == exact.ids_N.tolist()
        assert not found.approximated and found.passes == LENGTH


@pytest.mark.parametrize("k", [1, 2, 4])
def test_diagonal_takes_a_row_and_k_passes_for_every_other_row(k: int) -> None:
    found = run(Diagonal(ROW, k))
    assert found.passes == ROW + (LENGTH // ROW - 1) * k
    assert found.approximated and sum(found.accepted) == LENGTH
    exact = run(Raster()).ids_N
    assert found.ids_N[:ROW].tolist() == exact[:ROW].tolist()  # the first row misses nothing


@pytest.mark.parametrize("k", [1, 2, 4, ROW])
def test_diagonal_never_sees_a_slot_that_was_not_written(k: int) -> None:
    clean, dirty = Ready(), Ready()
    for keys, values in dirty.cache.layers:
        keys[..., 20:, :], values[..., 20:, :] = 1e3, 1e3
    found = [run(Diagonal(ROW, k), ready).ids_N for ready in (clean, dirty)]
    assert found[0].tolist() == found[1].tolist()


@pytest.mark.parametrize("k", [1, 2, 4])
def test_diagonal_leaves_the_true_code_of_every_slot_and_sees_no_stand_in(
    k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fed: dict[int, int] = {}
    forward_at = WorldModel.forward_at

    def watch(self: WorldModel, ids_1S: Tensor, writes: ScatteredWrites, slots: int) -> Tensor:
        fed.update(zip(writes.slots.tolist(), ids_1S[0].tolist(), strict=True))
        return forward_at(self, ids_1S, writes, slots)

    monkeypatch.setattr(WorldModel, "forward_at", watch)
    # Stand-ins that never are right: the guess is another code than any that can be drawn.
    one, other = (run(Diagonal(ROW, k), guess=torch.full((LENGTH,), guess)) for guess in (0, 31))
    assert [fed[24 + code] for code in range(LENGTH - 1)] == other.ids_N[:-1].tolist()
    # Up to the first row's end no stand-in has had any effect.
    assert one.ids_N[:ROW].tolist() == other.ids_N[:ROW].tolist()
