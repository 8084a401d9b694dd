"""The toy models stand in for the real one: same calls, same names."""

from __future__ import annotations

import inspect

import pytest

from sim_stream.pipelines.tokens import world
from tests.wire import toy, toy_worlds


def shape_of(function):
    return [(p.name, p.kind) for p in inspect.signature(function).parameters.values()]


@pytest.mark.parametrize("session", [toy.ToySession, toy_worlds.ToyWorldSession])
@pytest.mark.parametrize(
    "name", ["reset", "begin", "prefill_ahead", "flush", "fork", "reseed", "close"]
)
def test_toy_session_has_the_real_ones_signature(session, name):
    assert shape_of(getattr(session, name)) == shape_of(getattr(world.TokenSession, name))


@pytest.mark.parametrize("model", [toy.ToyModel, toy_worlds.ToyWorld])
def test_toy_pending_and_model_have_the_real_ones_names(model):
    assert shape_of(toy.ToyPending.render) == shape_of(world.TokenPending.render)
    assert shape_of(toy.ToyPrediction.result) == shape_of(world.TokenPrediction.result)
    for name in ("open_session", "advance"):
        assert shape_of(getattr(model, name)) == shape_of(getattr(world.TokenModel, name))
