"""The world model's large matrices in 8 or 4 bits, through PyTorch's own kernels.

fp8: weights and activations in e4m3, one scale a row of each (`torch._scaled_mm`). int4: weights
alone, one scale and one zero for `group` of them, multiplied in bf16 (tinygemm, as in gpt-fast and
torchao). Embeddings, norms and heads stay as they are. What then is lossless is so against the
quantised model; `python -m tests.perf.precision` says how far that is from bf16.

Both kernels have forms for CPUs, which the tests use; whether a machine is meant to run them is the
runtime's business.

Legend: O outputs, I inputs, M rows of activations, G groups of inputs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sim_stream.errors import InvalidInput
from sim_stream.models.world_model import Block, WorldModel

FP8 = torch.float8_e4m3fn
FP8_MAX = 448.0
INT4_GROUPS = (128, 64, 32)


class Fp8Linear(nn.Module):
    """y = x W^T in e4m3 with a scale for every row of x and of W; bf16 in and out."""

    def __init__(self, weight_OI: Tensor) -> None:
        super().__init__()
        weight_OI, scale_O1 = to_fp8(weight_OI)
        self.register_buffer("weight_OI", weight_OI)
        self.register_buffer("scale_1O", scale_O1.t().contiguous())
        self.weight_OI: Tensor
        self.scale_1O: Tensor

    def forward(self, x: Tensor) -> Tensor:
        x_MI, scale_M1 = to_fp8(x.flatten(0, -2))
        y_MO = torch._scaled_mm(
            x_MI,
            self.weight_OI.t(),
            scale_a=scale_M1,
            scale_b=self.scale_1O,
            out_dtype=torch.bfloat16,
        )
        return y_MO.view(*x.shape[:-1], -1)

    def dequantized(self) -> Tensor:
        """The weight (O I) that the kernel multiplies with, fp32."""
        return self.weight_OI.float() * self.scale_1O.t()


class Int4Linear(nn.Module):
    """y = x W^T with W in groups of 4-bit numbers; bf16 in and out."""

    def __init__(self, weight_OI: Tensor) -> None:
        super().__init__()
        inputs = weight_OI.shape[1]
        fitting = [group for group in INT4_GROUPS if inputs % group == 0]
        if not fitting:
            raise InvalidInput("inputs of an int4 layer", inputs, f"multiples of {INT4_GROUPS[-1]}")
        self.group = fitting[0]
        codes_OI, scales_zeros_GO2 = to_int4(weight_OI, self.group)
        if weight_OI.is_cuda:
            tiles = next(tiles for tiles in (8, 4, 2) if inputs % (16 * tiles) == 0)
            bytes_OI = (codes_OI[:, ::2] << 4 | codes_OI[:, 1::2]).to(torch.uint8)
            packed = torch.ops.aten._convert_weight_to_int4pack(bytes_OI, tiles)
        else:
            packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes_OI, 1)
        self.register_buffer("packed", packed)
        self.register_buffer("scales_zeros_GO2", scales_zeros_GO2)
        self.packed: Tensor
        self.scales_zeros_GO2: Tensor

    def forward(self, x: Tensor) -> Tensor:
        ops = torch.ops.aten
        multiply = ops._weight_int4pack_mm if x.is_cuda else ops._weight_int4pack_mm_for_cpu
        y_MO = multiply(x.flatten(0, -2), self.packed, self.group, self.scales_zeros_GO2)
        return y_MO.view(*x.shape[:-1], -1)


def to_fp8(x_MI: Tensor) -> tuple[Tensor, Tensor]:
    """e4m3 rows and their scales (M 1), fp32: x = rows * scales, the largest of a row at 448."""
    largest_M1 = x_MI.abs().amax(-1, keepdim=True).float()
    scale_M1 = largest_M1.clamp(min=1e-12) / FP8_MAX
    return (x_MI.float() / scale_M1).clamp(-FP8_MAX, FP8_MAX).to(FP8), scale_M1


def to_int4(weight_OI: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """Codes 0..15 (O I), int32, and scale and zero of every group, (G O 2), bf16.

    w = (code - 8) * scale + zero.
    """
    grouped_OGg = weight_OI.float().unflatten(1, (-1, group))
    low, high = grouped_OGg.amin(-1), grouped_OGg.amax(-1)
    # What the kernel reads is bf16; codes are for those very scales and zeros.
    scale_OG = ((high - low).clamp(min=1e-6) / 15).bfloat16()
    zero_OG = (low + scale_OG.float() * 8).bfloat16()
    shifted = (grouped_OGg - zero_OG.float()[..., None]) / scale_OG.float()[..., None]
    codes_OI = (shifted.round() + 8).clamp(0, 15).int().flatten(1)
    scales_zeros = torch.stack([scale_OG, zero_OG], -1).transpose(0, 1)
    return codes_OI, scales_zeros.contiguous()


def from_int4(codes_OI: Tensor, scales_zeros_GO2: Tensor) -> Tensor:
    """The weight (O I) that the kernel multiplies with, fp32."""
    scale_OG, zero_OG = scales_zeros_GO2.float().permute(2, 1, 0)
    grouped_OGg = codes_OI.unflatten(1, (scale_OG.shape[1], -1)) - 8
    return (grouped_OGg * scale_OG[..., None] + zero_OG[..., None]).flatten(1)


QUANTIZED: dict[str, Callable[[Tensor], nn.Module]] = {"fp8": Fp8Linear, "int4": Int4Linear}


def weight_of(layer: nn.Module) -> Tensor:
    assert isinstance(layer, nn.Linear), "quantised already"
    return layer.weight


@torch.no_grad()
def quantize(model: WorldModel, precision: str) -> WorldModel:
    """Replaces every matrix of the layers, in place; the model must be fused, in bf16.

    The weights as they were are gone. Raises InvalidInput.
    """
    if precision not in QUANTIZED:
        raise InvalidInput("precision", precision, ", ".join(QUANTIZED))
    make, nothing = QUANTIZED[precision], torch.empty(0)
    for block in model.layers:
        assert isinstance(block, Block)
        attention, mlp = block.self_attn, block.mlp
        assert attention.fused_qkv and mlp.fused_gate_up, "the model must be fused"
        attention.fused_qkv = (make(weight_of(attention.fused_qkv[0])),)
        attention.o_proj = make(weight_of(attention.o_proj))
        mlp.fused_gate_up = (make(weight_of(mlp.fused_gate_up[0])),)
        mlp.down_proj = make(weight_of(mlp.down_proj))
        for part in (attention.q_proj, attention.k_proj, attention.v_proj):
            part.weight.data = nothing
        for part in (mlp.gate_proj, mlp.up_proj):
            part.weight.data = nothing
    return model
