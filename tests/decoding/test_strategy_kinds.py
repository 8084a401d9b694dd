"""A strategy is one object: what is declared here decodes, and is refused, as those that ship."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from sim_stream.bench.counting import PassSize, frame_passes
from sim_stream.cli.options import add_model_options
from sim_stream.config import DecodingConfig
from sim_stream.console import Parser
from sim_stream.decoding.kind import CountOption, StrategyKind
from sim_stream.decoding.strategies import DEFAULTS, STRATEGIES
from sim_stream.decoding.strategy import Decoded, Draw, Draws, Task
from sim_stream.errors import InvalidInput
from sim_stream.pipelines.tokens.frame import Frame
from tests.small import SMALL, random_runtime

PROMPT = np.random.default_rng(3).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)


class Blind:
    """`apart` tokens per pass, each drawn after guesses that nobody checks."""

    def __init__(self, apart: int) -> None:
        self.apart = apart

    def decode(self, task: Task) -> Draws:
        ids_N, feed_1S, total = task.guess_N.clone(), task.lead_1P, len(task.guess_N)
        accepted = []
        for start in range(0, total, self.apart):
            here = slice(start, min(start + self.apart, total))
            line_1S = feed_1S.new_empty(1, feed_1S.shape[1] + here.stop - start - 1)
            line_1S[:, : feed_1S.shape[1]] = feed_1S
            line_1S[:, feed_1S.shape[1] :] = ids_N[None, start : here.stop - 1]
            ids_N[here] = yield Draw(task.cache, line_1S, task.noise_NV[here], task.sampling)
            feed_1S = ids_N[None, here.stop - 1 : here.stop]
            accepted.append(here.stop - start)
        return Decoded(ids_N, accepted=tuple(accepted), approximated=self.apart > 1)


BLIND = StrategyKind(
    name="blind",
    about="guesses that nobody checks",
    option=CountOption(name="k", default=DEFAULTS["k"], most=lambda grid: grid[0]),
    exact=False,
    make=lambda how, grid: Blind(how.k),
)


@pytest.fixture
def blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one line of the collection."""
    monkeypatch.setitem(STRATEGIES, BLIND.name, BLIND)


def frames(decoding: str, step_engine: str = "auto") -> list[Frame]:
    session = random_runtime(step_engine=step_engine).open_session(lookahead=0)
    session.reset(PROMPT, seed=5, decoding=DecodingConfig.parse(decoding))
    return [session.step() for _ in range(3)]


@pytest.mark.usefixtures("blind")
@pytest.mark.parametrize("step_engine", ["torch", "static"])
def test_a_strategy_of_ones_own_decodes(step_engine: str) -> None:
    found = frames("blind:4", step_engine)
    assert [frame.accepted for frame in found] == [(4,) * 16] * 3
    assert all(frame.approximated for frame in found)
    alone, raster = frames("blind", step_engine), frames("raster", step_engine)
    assert not alone[-1].approximated
    assert np.array_equal(alone[-1].image, raster[-1].image)


@pytest.mark.usefixtures("blind")
def test_a_strategy_of_ones_own_is_offered_checked_and_counted() -> None:
    for refused, said in (
        ("blind:0", "decoding.k: got 0; allowed: an integer, 1 or more codes"),
        ("blind:x", r"decoding: got blind:x; allowed: .*diagonal\[:K\], blind\[:K\]"),
        ("sighted", "decoding.strategy: got sighted; allowed: raster, jacobi, diagonal, blind"),
    ):
        with pytest.raises(InvalidInput, match=said):
            DecodingConfig.parse(refused)
    session = random_runtime().open_session()
    with pytest.raises(InvalidInput, match=r"decoding.k: got 9; allowed: 1\.\.8"):
        session.reset(PROMPT, seed=5, decoding=DecodingConfig.parse("blind:9"))
    session.reset(PROMPT, seed=5, decoding=DecodingConfig.parse("blind:2"))
    with pytest.raises(InvalidInput, match=r"deadline_ms.*unless the strategy is jacobi"):
        session.step(deadline_ms=100.0)

    passes = frame_passes(DecodingConfig.parse("blind:3"), [3, 1], lead=4, start=10, codes=4)
    assert list(passes) == [PassSize(ids=6, rows=3, end=16), PassSize(ids=1, rows=1, end=17)]

    parser = Parser()
    add_model_options(parser)
    offered = " ".join(parser.format_help().split())
    assert "blind[:K] (guesses that nobody checks; an approximation" in offered


@pytest.mark.parametrize("kind", STRATEGIES.values(), ids=lambda kind: kind.name)
def test_what_ships_is_as_it_says(kind: StrategyKind) -> None:
    found, raster = frames(kind.name), frames("raster")
    equal = [np.array_equal(*(f.image for f in pair)) for pair in zip(found, raster, strict=True)]
    assert all(equal) == kind.exact
    assert any(frame.approximated for frame in found) == (not kind.exact)
    if kind.option is not None:
        assert kind.option.name in {field.name for field in fields(DecodingConfig)}
        assert kind.option.default == DEFAULTS[kind.option.name]
        assert kind.option.most(SMALL.vq.grid) <= SMALL.vq.codes_per_frame
