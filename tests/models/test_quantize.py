"""Quantised world models: the kernels compute what the numbers say, and stay near bf16."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from sim_stream.errors import InvalidInput
from sim_stream.models.kv_cache import KVCache
from sim_stream.models.quantize import (
    Fp8Linear,
    Int4Linear,
    from_int4,
    quantize,
    to_fp8,
    to_int4,
)
from sim_stream.models.world_model import WorldModel
from tests.small import SMALL, random_world_model


def weight(outputs: int = 48, inputs: int = 192) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(outputs, inputs).bfloat16() * torch.rand(outputs, 1).bfloat16()


def test_fp8_multiplies_the_rounded_numbers() -> None:
    layer, x = Fp8Linear(weight()), torch.randn(5, 192).bfloat16()
    rounded, scale = to_fp8(x)
    expected = (rounded.float() * scale) @ layer.dequantized().t()
    # Two bf16 roundings (2^-8) of sums of order 10.
    torch.testing.assert_close(layer(x).float(), expected, atol=0.1, rtol=1e-2)


def test_fp8_rows_keep_three_bits_of_every_number_and_their_largest_exactly() -> None:
    x = weight().float()
    rounded, scale = to_fp8(x)
    back = rounded.float() * scale
    largest = x.abs().amax(-1, keepdim=True)
    # e4m3: half a step of 2^-3, down to subnormals of 2^-9 / 448 of a row's largest.
    assert ((back - x).abs() <= x.abs() * 2**-4 + largest * 2**-10 / 448).all()
    torch.testing.assert_close(back.abs().amax(-1, keepdim=True), largest)
    assert torch.isfinite(to_fp8(torch.zeros(2, 4))[0].float()).all()


@pytest.mark.parametrize("inputs", [192, 512, 32])
def test_int4_multiplies_the_rounded_numbers(inputs: int) -> None:
    layer, x = Int4Linear(weight(inputs=inputs)), torch.randn(5, inputs).bfloat16()
    codes, scales_zeros = to_int4(weight(inputs=inputs), layer.group)
    expected = x.float() @ from_int4(codes, scales_zeros).t()
    torch.testing.assert_close(layer(x).float(), expected, atol=0.15, rtol=1e-2)


def test_int4_is_within_half_a_step_of_every_weight() -> None:
    w = weight()
    codes, scales_zeros = to_int4(w, 64)
    assert codes.min() == 0 and codes.max() == 15
    step = scales_zeros[..., 0].float().t().repeat_interleave(64, 1)
    # bf16 scales and zeros move the outer steps a little.
    assert ((from_int4(codes, scales_zeros) - w.float()).abs() <= 0.62 * step).all()


@pytest.mark.parametrize(("precision", "least"), [("fp8", 0.98), ("int4", 0.9)])
@torch.inference_mode()
def test_a_quantised_model_stays_near_bf16(precision: str, least: float) -> None:
    ids = torch.randint(0, 32, (1, 40), generator=torch.Generator().manual_seed(0))

    def logits(model: WorldModel) -> torch.Tensor:
        return model.vision_logits(model(ids)).float()[0]

    exact = logits(random_world_model().bfloat16().fuse())
    model = quantize(random_world_model().bfloat16().fuse(), precision)
    assert F.cosine_similarity(logits(model), exact).mean() > least
    assert not torch.equal(logits(model), exact)
    # With a cache it gives the same.
    cache = KVCache(SMALL.world_model, 40, dtype=torch.bfloat16)
    parts = torch.cat([model(part, None, cache) for part in ids.split([7, 1, 32], 1)], 1)
    again = model.vision_logits(parts).float()[0]
    assert F.cosine_similarity(again, logits(model)).mean() > least


@torch.inference_mode()
def test_an_fp8_cache_stays_near_a_full_one() -> None:
    ids = torch.randint(0, 32, (1, 40), generator=torch.Generator().manual_seed(0))
    model, hidden = random_world_model(), []
    for dtype in (torch.float32, torch.float8_e4m3fn):
        cache = KVCache(SMALL.world_model, 40, dtype=dtype)
        hidden.append(
            torch.cat([model(part, None, cache) for part in ids.split([20, 1, 19], 1)], 1)
        )
    assert 0.98 < F.cosine_similarity(*hidden, dim=-1).min() < 1.0


def test_what_cannot_be_quantised_is_refused() -> None:
    with pytest.raises(InvalidInput, match="precision: got int3; allowed: fp8, int4"):
        quantize(random_world_model().fuse(), "int3")
    with pytest.raises(InvalidInput, match="inputs of an int4 layer: got 40; allowed: multiples"):
        Int4Linear(torch.zeros(8, 40).bfloat16())
