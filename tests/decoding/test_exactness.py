"""The drawn frames have the model's own distribution; samplers with planted faults do not pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from sim_stream.config import SamplingConfig
from sim_stream.decoding.diagonal import Diagonal
from sim_stream.decoding.jacobi import Jacobi, count_accepted
from sim_stream.decoding.noise import gumbel_noise
from sim_stream.decoding.passes import Passes, TorchPasses
from sim_stream.decoding.raster import Raster
from sim_stream.decoding.slots import decode
from sim_stream.decoding.strategy import Draw, Strategy, Task
from sim_stream.models.kv_cache import KVCache
from sim_stream.models.world_model import WorldModel
from tests.small import SMALL, random_world_model

LENGTH, CODES = 4, 3
OUTCOMES = torch.cartesian_prod(*[torch.arange(CODES)] * LENGTH)
LEAD = torch.tensor([[33, 40]])
SAMPLING = SamplingConfig(top_k=2, temperature=0.8)


@pytest.fixture(scope="module")
def model() -> WorldModel:
    return random_world_model(seed=2).fuse()


@torch.inference_mode()
def exact(model: WorldModel) -> Tensor:
    """Probabilities of all 81 frames, by enumeration."""
    hidden = model(torch.cat([LEAD.expand(len(OUTCOMES), -1), OUTCOMES[:, :-1]], 1))
    logits = model.vision_logits(hidden[:, 1:], CODES) / SAMPLING.temperature
    kept = logits >= logits.topk(SAMPLING.top_k, -1).values[..., -1:]
    log_p = logits.masked_fill(~kept, -torch.inf).log_softmax(-1)
    return log_p.gather(-1, OUTCOMES[..., None])[..., 0].sum(-1).exp().double()


def drawn(model: WorldModel, strategy: Strategy, draws: int = 1500) -> Tensor:
    """How often each frame was drawn, one seed a draw."""
    counts, place = torch.zeros(len(OUTCOMES)), CODES ** torch.arange(LENGTH - 1, -1, -1)
    cache, passes = KVCache(SMALL.world_model, 2 + LENGTH), TorchPasses(model, CODES)
    for seed in range(draws):
        cache.roll_back(0)
        noise, guess = gumbel_noise(seed, 0, LENGTH, CODES), torch.zeros(LENGTH).long()
        task = Task(cache, LEAD, noise, SAMPLING, guess)
        counts[(decode(strategy, task, passes).ids_N * place).sum()] += 1
    return counts


def deviations(counts: Tensor, p: Tensor) -> float:
    """How many standard deviations the chi-square statistic lies above its mean.

    Outcomes expected fewer than five times are counted as one.
    """
    draws, likely = counts.sum(), p * counts.sum() >= 5
    observed = torch.cat([counts[likely], counts[~likely].sum()[None]]).double()
    expected = torch.cat([p[likely], p[~likely].sum()[None]]) * draws
    keep = expected > 0
    chi2 = ((observed - expected)[keep].square() / expected[keep]).sum()
    freedom = int(keep.sum()) - 1
    return float((chi2 - freedom) / (2 * freedom) ** 0.5)


@pytest.mark.parametrize("strategy", [Raster(), Jacobi(4), Jacobi(2), Diagonal(2, 2)])
def test_the_joint_distribution_is_exact(model: WorldModel, strategy: Strategy) -> None:
    p, counts = exact(model), drawn(model, strategy)
    assert abs(p.sum() - 1) < 1e-5
    assert counts[p == 0].sum() == 0
    assert deviations(counts, p) < 5


def test_a_top_k_that_is_not_renormalised_is_caught(
    model: WorldModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unrenormalised(logits: Tensor, noise: Tensor, sampling: SamplingConfig) -> Tensor:
        """Draws from all codes; what falls on a masked one goes to the likeliest."""
        winner = (logits / sampling.temperature + noise).argmax(-1)
        kept = logits.topk(sampling.top_k, -1).indices
        return torch.where((kept == winner[:, None]).any(-1), winner, logits.argmax(-1))

    monkeypatch.setattr("sim_stream.decoding.passes.sample", unrenormalised)
    counts, p = drawn(model, Raster(), draws=1000), exact(model)
    assert counts[p == 0].sum() == 0  # the mask holds: only the statistic can tell
    assert deviations(counts, p) > 5


class CallOrderNoise:
    """Passes that take the next noise of a stream instead of the position's own."""

    def __init__(self, passes: Passes, seed: int) -> None:
        self.passes, self.stream, self.used = passes, gumbel_noise(seed, 0, 1000, CODES), 0

    def run(self, draws: Sequence[Draw]) -> list[Tensor]:
        (draw,) = draws
        start, self.used = self.used, self.used + len(draw.noise_RV)
        noise_RV = self.stream[start : self.used]
        return self.passes.run([Draw(draw.cache, draw.ids_1S, noise_RV, draw.sampling)])


def differing(model: WorldModel, make: Callable[[int], Passes], strategy: Strategy) -> int:
    """Of 50 frames, how many are others than raster's."""
    different = 0
    for seed in range(50):
        ids = []
        for how in (Raster(), strategy):
            cache, guess = KVCache(SMALL.world_model, 2 + LENGTH), torch.zeros(LENGTH).long()
            task = Task(cache, LEAD, gumbel_noise(seed, 0, LENGTH, CODES), SAMPLING, guess)
            ids.append(decode(how, task, make(seed)).ids_N.tolist())
        different += ids[0] != ids[1]
    return different


def test_noise_keyed_by_call_order_is_caught(model: WorldModel) -> None:
    passes = TorchPasses(model, CODES)
    assert differing(model, lambda seed: passes, Jacobi(3)) == 0
    assert differing(model, lambda seed: CallOrderNoise(passes, seed), Jacobi(3)) > 10


def test_accepting_one_draw_too_many_is_caught(
    model: WorldModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def one_more(drawn_W: Tensor, guesses_W: Tensor) -> int:
        return min(count_accepted(drawn_W, guesses_W) + 1, len(drawn_W))

    monkeypatch.setattr("sim_stream.decoding.jacobi.count_accepted", one_more)
    passes = TorchPasses(model, CODES)
    assert differing(model, lambda seed: passes, Jacobi(3)) > 10
    assert deviations(drawn(model, Jacobi(4), draws=1000), exact(model)) > 5
