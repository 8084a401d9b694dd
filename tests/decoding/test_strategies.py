"""jacobi is raster in fewer passes; diagonal is raster when its rows are a whole row apart."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sim_stream.config import SamplingConfig
from sim_stream.decoding.diagonal import Diagonal
from sim_stream.decoding.jacobi import Jacobi, count_accepted
from sim_stream.decoding.noise import gumbel_noise
from sim_stream.decoding.onnx_pass import OnnxPass, OnnxStep
from sim_stream.decoding.passes import FullPass, OneIdPass, Pass
from sim_stream.decoding.raster import Raster
from sim_stream.decoding.strategy import Decoded, Strategy, Task
from sim_stream.models.kv_cache import KVCache, ScatteredWrites
from sim_stream.models.world_model import WorldModel
from tests.small import SMALL, random_world_model

CODES, LENGTH, ROW = 32, 64, 8
CONTEXT = torch.randint(0, CODES, (1, 20), generator=torch.Generator().manual_seed(0))
LEAD = torch.tensor([[3, 33, 40, 60]])
CAPACITY = 20 + 4 + LENGTH
SAMPLING = SamplingConfig(top_k=8, temperature=0.7)


def onnx_pass(model: WorldModel, cache: KVCache, num_codes: int) -> OnnxPass:
    return OnnxPass(OnnxStep(model, num_codes, cache.capacity), cache)


MakePass = Callable[[WorldModel, KVCache, int], Pass]


def ready(kind: MakePass = FullPass, seed: int = 0) -> Pass:
    """A pass whose cache holds some context."""
    model = random_world_model(seed=seed).fuse()
    cache = KVCache(SMALL.world_model, CAPACITY)
    with torch.inference_mode():
        model(CONTEXT, None, cache)
    return kind(model, cache, CODES)


def decode(
    strategy: Strategy,
    seed: int = 4,
    guess: Tensor | None = None,
    sampling: SamplingConfig = SAMPLING,
    expired: Callable[[], bool] | None = None,
) -> Decoded:
    guess = torch.zeros(LENGTH).long() if guess is None else guess
    noise = gumbel_noise(seed, 1, LENGTH, CODES)
    return strategy.decode(Task(LEAD, noise, sampling, guess, expired))


def full(seed: int = 0) -> FullPass:
    model = ready(FullPass, seed)
    assert isinstance(model, FullPass)
    return model


@pytest.mark.parametrize("window", [1, 2, 7, 16, LENGTH])
@pytest.mark.parametrize("kind", [FullPass, OneIdPass, onnx_pass])
def test_jacobi_gives_rasters_codes_whatever_the_window(kind: MakePass, window: int) -> None:
    for seed in range(3):
        exact = decode(Raster(full(seed)), seed)
        model = ready(kind, seed)
        found = decode(Jacobi(model, window), seed)
        assert found.ids_N.tolist() == exact.ids_N.tolist()
        assert sum(found.accepted) == LENGTH and max(found.accepted) <= window
        assert not found.approximated
        assert model.cache.length == CAPACITY - 1


@pytest.mark.parametrize(("top_k", "temperature"), [(1, 1.0), (4, 0.3), (CODES, 1.0), (8, 2.0)])
def test_jacobi_gives_rasters_codes_whatever_the_guess_and_the_sampling(
    top_k: int, temperature: float
) -> None:
    sampling = SamplingConfig(top_k=top_k, temperature=temperature)
    exact = decode(Raster(full()), sampling=sampling).ids_N
    guesses = {
        "constant": torch.full((LENGTH,), 5),
        "random": torch.randint(0, CODES, (LENGTH,)),
        "right": exact,
    }
    for name, guess in guesses.items():
        found = decode(Jacobi(full(), 16), guess=guess, sampling=sampling)
        assert found.ids_N.tolist() == exact.tolist(), name
    assert found.accepted == (16,) * 4  # right guesses: every window at once


def test_jacobi_leaves_rasters_cache() -> None:
    raster, jacobi = full(), full()
    decode(Raster(raster))
    decode(Jacobi(jacobi, 7))
    torch.testing.assert_close(
        jacobi.cache.kv_L2BHTK[..., :-1, :], raster.cache.kv_L2BHTK[..., :-1, :], atol=1e-5, rtol=0
    )


def test_a_deadline_ships_the_guess_and_the_next_frame_starts_from_it() -> None:
    model, asked = full(), itertools.count()
    cut = decode(Jacobi(model, 8), expired=lambda: next(asked) == 1)
    assert cut.approximated and cut.passes == 2
    found, exact = sum(cut.accepted), decode(Raster(full())).ids_N
    assert cut.ids_N[:found].tolist() == exact[:found].tolist()
    # The cache ends before what is uncertain: that enters with the next pass.
    assert model.cache.length == 20 + 4 + found - 1
    assert not decode(Jacobi(full(), 8), expired=lambda: False).approximated


def test_accepting_one_draw_too_many_would_be_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def one_more(drawn_W: Tensor, guesses_W: Tensor) -> int:
        return min(count_accepted(drawn_W, guesses_W) + 1, len(drawn_W))

    exact = decode(Raster(full())).ids_N
    monkeypatch.setattr("sim_stream.decoding.jacobi.count_accepted", one_more)
    assert decode(Jacobi(full(), 16)).ids_N.tolist() != exact.tolist()


def test_diagonal_with_a_whole_row_apart_is_raster() -> None:
    for seed in range(3):
        exact = decode(Raster(full(seed)), seed)
        found = decode(Diagonal(full(seed), ROW, ROW), seed)
        assert found.ids_N.tolist() == exact.ids_N.tolist()
        assert not found.approximated and found.passes == LENGTH


@pytest.mark.parametrize("k", [1, 2, 4])
def test_diagonal_takes_a_row_and_k_passes_for_every_other_row(k: int) -> None:
    found = decode(Diagonal(full(), ROW, k))
    assert found.passes == ROW + (LENGTH // ROW - 1) * k
    assert found.approximated and sum(found.accepted) == LENGTH
    exact = decode(Raster(full())).ids_N
    assert found.ids_N[:ROW].tolist() == exact[:ROW].tolist()  # the first row misses nothing


@pytest.mark.parametrize("k", [1, 2, 4, ROW])
def test_diagonal_never_sees_a_slot_that_was_not_written(k: int) -> None:
    clean, dirty = full(), full()
    dirty.cache.kv_L2BHTK[..., 20:, :] = 1e3
    found = [decode(Diagonal(model, ROW, k)).ids_N for model in (clean, dirty)]
    assert found[0].tolist() == found[1].tolist()


@pytest.mark.parametrize("k", [1, 2, 4])
def test_diagonal_leaves_the_true_code_of_every_slot_and_sees_no_stand_in(
    k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fed: dict[int, int] = {}
    forward_at = WorldModel.forward_at

    def watch(self: WorldModel, ids_1S: Tensor, mask_ST: Tensor, writes: ScatteredWrites) -> Tensor:
        fed.update(zip(writes.slots_S.tolist(), ids_1S[0].tolist(), strict=True))
        return forward_at(self, ids_1S, mask_ST, writes)

    monkeypatch.setattr(WorldModel, "forward_at", watch)
    # Stand-ins that never are right: the guess is another code than any that can be drawn.
    one, other = (
        decode(Diagonal(full(), ROW, k), guess=torch.full((LENGTH,), guess)) for guess in (0, 31)
    )
    assert [fed[24 + code] for code in range(LENGTH - 1)] == other.ids_N[:-1].tolist()
    # Up to the first row's end no stand-in has had any effect.
    assert one.ids_N[:ROW].tolist() == other.ids_N[:ROW].tolist()


@pytest.mark.parametrize(
    "make", [Raster, lambda model: Jacobi(model, 4), lambda m: Diagonal(m, 2, 2)]
)
def test_the_joint_distribution_is_exact(make: Callable[[Pass], Strategy]) -> None:
    """Vocabulary 4, length 4, 256 outcomes: drawn frequencies against enumeration (chi-square)."""
    length, codes, draws = 4, 4, 4000
    sampling = SamplingConfig(top_k=3, temperature=0.8)
    model = random_world_model(seed=2).fuse()
    lead = torch.tensor([[33, 40]])

    outcomes = torch.cartesian_prod(*[torch.arange(codes)] * length)
    with torch.inference_mode():
        hidden = model(torch.cat([lead.expand(len(outcomes), -1), outcomes[:, :-1]], 1))
        logits = model.vision_logits(hidden[:, 1:], codes) / sampling.temperature
        kept = logits >= logits.topk(sampling.top_k, -1).values[..., -1:]
        log_p = logits.masked_fill(~kept, -torch.inf).log_softmax(-1)
    exact = log_p.gather(-1, outcomes[..., None])[..., 0].sum(-1).exp().double()
    assert abs(exact.sum() - 1) < 1e-5

    counts = torch.zeros(len(outcomes))
    place = codes ** torch.arange(length - 1, -1, -1)
    cache = KVCache(SMALL.world_model, 2 + length)
    strategy = make(FullPass(model, cache, codes))
    for seed in range(draws):
        cache.roll_back(0)
        noise = gumbel_noise(seed, 0, length, codes)
        guess = torch.zeros(length).long()
        counts[(strategy.decode(Task(lead, noise, sampling, guess)).ids_N * place).sum()] += 1

    assert counts[exact == 0].sum() == 0
    likely = exact * draws >= 5
    observed = torch.cat([counts[likely], counts[~likely].sum()[None]]).double()
    expected = torch.cat([exact[likely], exact[~likely].sum()[None]]) * draws
    keep = expected > 0
    chi2 = ((observed - expected)[keep].square() / expected[keep]).sum()
    freedom = int(keep.sum()) - 1
    assert chi2 < freedom + 5 * (2 * freedom) ** 0.5  # five standard deviations
