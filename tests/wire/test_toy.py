"""The toy runtime stands in for the real one: same calls, same names."""

from __future__ import annotations

import inspect

import pytest

from tests.wire import toy


def shape_of(function):
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


@pytest.mark.parametrize(
    "name", ["reset", "begin", "predict", "step", "settle", "flush", "fork", "close"]
)
def test_toy_session_has_the_real_ones_signature(name):
    from sim_stream.runtime.session import Session

    assert shape_of(getattr(toy.ToySession, name)) == shape_of(getattr(Session, name))


def test_toy_frame_and_runtime_have_the_real_ones_names():
    from sim_stream.runtime.frame import Frame, Pending
    from sim_stream.runtime.runtime import Runtime
    from sim_stream.runtime.session import Prediction

    assert list(toy.ToyFrame.__dataclass_fields__) == list(Frame.__dataclass_fields__)
    assert shape_of(toy.ToyPending.render) == shape_of(Pending.render)
    assert shape_of(toy.ToyPrediction.result) == shape_of(Prediction.result)
    for name in ("open_session", "advance"):
        assert shape_of(getattr(toy.ToyModel, name)) == shape_of(getattr(Runtime, name))
