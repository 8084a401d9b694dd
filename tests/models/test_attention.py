"""Attention backends over a static cache: equal to the plain reference, chosen once."""

from __future__ import annotations

import pytest
import torch

from sim_stream.errors import InvalidInput, Unavailable
from sim_stream.models.attention import Attend, flash, flex, pick_attention, plain, sdpa

CPU = torch.device("cpu")
# Fused only inside torch.compile; here its unfused form shows that the mask is right.
pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
# Rows of different lengths; windows of consecutive positions, as the decode loop has them.
POSITIONS = torch.tensor([[3], [40], [17]]) + torch.arange(5)


def inputs(
    device: str = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    q = torch.randn(3, 2, 5, 16, device=device, dtype=dtype)
    k, v = torch.randn(2, 3, 2, 48, 16, device=device, dtype=dtype)
    return q, k, v, POSITIONS.to(device)


def test_the_reference_sees_the_slots_up_to_a_querys_position_and_no_other() -> None:
    q, k, v, positions = inputs()
    for row in range(3):
        for query in range(5):
            end = int(positions[row, query]) + 1
            scores = torch.einsum("hk,htk->ht", q[row, :, query], k[row, :, :end]) / 4.0
            expected = torch.einsum("ht,htk->hk", scores.softmax(-1), v[row, :, :end])
            torch.testing.assert_close(plain(q, k, v, positions)[row, :, query], expected)


@pytest.mark.parametrize("backend", [sdpa, flex])
def test_a_backend_equals_the_reference(backend: Attend) -> None:
    q, k, v, positions = inputs()
    # Sums in another order, values of order 1.
    torch.testing.assert_close(
        backend(q, k, v, positions), plain(q, k, v, positions), atol=2e-6, rtol=1e-5
    )


@pytest.mark.parametrize("backend", [sdpa, flex])
def test_a_backend_never_looks_at_a_slot_behind_a_querys_position(backend: Attend) -> None:
    q, k, v, positions = inputs()
    before = backend(q, k, v, positions)
    for row, last in enumerate(positions[:, -1]):
        k[row, :, last + 1 :], v[row, :, last + 1 :] = 1e4, 1e30
    torch.testing.assert_close(backend(q, k, v, positions), before)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_flash_attention_equals_the_reference(dtype: torch.dtype) -> None:
    pytest.importorskip("flash_attn")
    q, k, v, positions = inputs("cuda", dtype)
    expected = plain(q.float(), k.float(), v.float(), positions)
    # A handful of roundings of 2^-8 (bf16) on values of order 1.
    torch.testing.assert_close(flash(q, k, v, positions).float(), expected, atol=3e-2, rtol=3e-2)


def test_what_is_not_there_is_refused_and_auto_takes_what_is() -> None:
    assert pick_attention("auto", CPU, torch.float32, compiled=True) == ("sdpa", sdpa)
    cuda = torch.device("cuda")
    assert pick_attention("flex", cuda, torch.float32, compiled=True) == ("flex", flex)
    assert pick_attention("plain", CPU, torch.float32, compiled=False) == ("plain", plain)
    with pytest.raises(InvalidInput, match="attention: got fast; allowed: auto, sdpa, flex, flash"):
        pick_attention("fast", CPU, torch.float32, compiled=False)
    with pytest.raises(Unavailable, match=r"flash-attn, a CUDA device .* torch.float32 on cpu"):
        pick_attention("flash", CPU, torch.float32, compiled=False)
    for device, compiled in ((CPU, True), (cuda, False)):
        with pytest.raises(Unavailable, match="needs the step engine compiled and a CUDA device"):
            pick_attention("flex", device, torch.float32, compiled)
