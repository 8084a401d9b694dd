"""Counts on fake tensors against counts of a real run."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from sim_stream.bench.module_counts import (
    PeakMemory,
    decode_cost,
    encode_cost,
    inference_models,
    weight_bytes,
)
from sim_stream.config import OPENVIGA
from sim_stream.models.layers import fold_upsampling
from tests.small import SMALL, SMALL_VQ, random_video_decoder, random_vq


class Convolutions(TorchFunctionMode):
    """Sums 2 x outputs x taps of every convolution that really runs."""

    flop = 0

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in (torch.conv2d, nn.functional.conv2d):
            self.flop += 2 * result.numel() * args[1][0].numel()
        return result


def test_encoder_operations_are_those_of_a_real_run() -> None:
    model, frames = random_vq(), 2
    with torch.inference_mode(), Convolutions() as real:
        model.encode(torch.zeros(frames, 3, SMALL_VQ.frame.height, SMALL_VQ.frame.width))
    distances = (
        2
        * frames
        * SMALL_VQ.codes_per_frame
        * SMALL_VQ.latent_channels
        * SMALL_VQ.num_vq_embeddings
    )
    cost = encode_cost(model, frames=frames, dtype=torch.float32)
    assert real.flop > 0
    assert cost.work.flop == real.flop + distances


@pytest.mark.parametrize("emit", [1, 2])
def test_video_decoder_operations_are_those_of_a_real_run(emit: int) -> None:
    model = random_video_decoder()
    fold_upsampling(model)
    with torch.inference_mode(), Convolutions() as real:
        model(torch.zeros(1, 3, SMALL_VQ.codes_per_frame, dtype=torch.int64), emit)
    *_, shape_only = inference_models(SMALL)
    cost = decode_cost(shape_only, frames=3, emit=emit, dtype=torch.float32)
    assert cost.work.flop == real.flop


def test_counting_leaves_the_real_model_as_it_is() -> None:
    model = random_vq()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    encode_cost(model, frames=1, dtype=torch.bfloat16)
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_full_size_encoder_has_the_operations_of_the_facts_page() -> None:
    encoder, _, _ = inference_models(OPENVIGA)
    cost = encode_cost(encoder, frames=1, dtype=torch.bfloat16)
    assert cost.work.flop / 1e9 == pytest.approx(216, abs=1)  # facts: "ENC 216 GFLOP"


def test_peak_memory_counts_what_lives_at_once_and_forgets_what_died() -> None:
    given = torch.zeros(1000)  # 4,000 bytes that were there before

    def work() -> torch.Tensor:
        a = given + 1
        b = a + 1  # a and b
        del a
        c = b + 1  # b and c
        return c.view(10, 100)  # no memory of its own

    with PeakMemory() as memory:
        work()
    assert memory.peak == 2 * 4000


def test_weight_bytes_are_in_the_type_that_is_asked_for() -> None:
    assert weight_bytes(nn.Linear(3, 2), torch.bfloat16) == 2 * (3 * 2 + 2)
