"""A number of a configuration is refused by name, with its type where its text would mislead."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sim_stream.config import Action, DecodingConfig, SamplingConfig
from sim_stream.errors import InvalidInput


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (np.array(8.0), "8.0 (numpy.ndarray)"),
        (torch.tensor(8.0), "tensor(8.)"),
        ("8", "'8'"),
        (None, "None"),
        (float("inf"), "inf"),
        (1j, "1j"),
        pytest.param(10**400, "an integer of 1329 bits", id="long"),
    ],
)
def test_an_action_takes_finite_numbers_alone(value, shown):
    for name, other in (("speed_mps", "yaw_rate_radps"), ("yaw_rate_radps", "speed_mps")):
        with pytest.raises(InvalidInput) as caught:
            Action(**{name: value, other: 0.0})
        assert str(caught.value) == f"action.{name}: got {shown}; allowed: a finite number"


@pytest.mark.parametrize("value", ["3", None, 3.0, 0, -1, True, 2**31, 10**400], ids=str)
def test_counts_are_integers_that_a_message_can_hold(value):
    for make, field in (
        (lambda: SamplingConfig(top_k=value), "sampling.top_k"),
        (lambda: DecodingConfig(window=value), "decoding.window"),
        (lambda: DecodingConfig(k=value), "decoding.k"),
    ):
        with pytest.raises(InvalidInput) as caught:
            make()
        assert caught.value.field == field


@pytest.mark.parametrize("value", ["1", None, 0.0, 10.5, float("nan"), 10**400], ids=str)
def test_a_temperature_is_a_finite_number_within_its_bounds(value):
    with pytest.raises(InvalidInput, match=r"sampling\.temperature"):
        SamplingConfig(temperature=value)


@pytest.mark.parametrize("text", ["jacobi:" + "9" * 20, "jacobi:9999999999", "jacobi:0", "8", ""])
def test_a_decoding_that_no_message_can_hold_is_refused(text):
    with pytest.raises(InvalidInput, match="decoding"):
        DecodingConfig.parse(text)
