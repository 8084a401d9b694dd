"""Encoder and video decoder as modules for graph compilers: 2D operations, batch, nothing else.

Same weights and arithmetic as the models (tests hold them together), in forms that export well:

- a temporal convolution at T frames is one Conv2d per output frame over its neighbours' channels,
  with kernels cut out beforehand (exact; `TemporalConv` does the same at every call);
- folded upsampling interleaves its four phases by a reshape instead of four strided writes;
- a GroupNorm is in fp32 whatever the type around it, with the casts written out;
- pixels are cast right at the border, as TensorRT allows uint8 nowhere else.

Legend: B batch, T frames of a window, N ids of a frame, F = B * T, C channels, H height, W width.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sim_stream.config import Preset
from sim_stream.errors import InvalidInput
from sim_stream.models.layers import GroupNorm, TemporalConv, Upsample, fold_upsampling
from sim_stream.models.video_decoder import VideoDecoder
from sim_stream.models.vq_model import VQModel
from sim_stream.runtime.engine import ENCODER, Form

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class ChannelConcatConv(nn.Module):
    """A TemporalConv at a fixed number of frames: Conv2d over channel-concatenated frames."""

    def __init__(self, conv: TemporalConv, frames: int) -> None:
        super().__init__()
        self.bias, self.channels = conv.bias, conv.weight.shape[1]
        kernels = []
        for t in range(frames):
            first, last = max(t - 1, 0), min(t + 1, frames - 1)
            taps = conv.weight[:, :, first - t + 1 : last - t + 2]
            kernels.append(nn.Parameter(taps.transpose(1, 2).flatten(1, 2).contiguous()))
        self.kernels = nn.ParameterList(kernels)

    def forward(self, x_FCHW: Tensor, frames: int, emit: int | None = None) -> Tensor:
        channels, size = self.channels, x_FCHW.shape[2:]
        x_BCHW = x_FCHW.reshape(-1, frames * channels, *size)
        outputs = []
        for t in range(frames) if emit is None else (emit,):
            first, last = max(t - 1, 0), min(t + 1, frames - 1)
            window = x_BCHW[:, first * channels : (last + 1) * channels]
            outputs.append(F.conv2d(window, self.kernels[t], self.bias, padding=1))
        y = torch.cat(outputs, 1) if len(outputs) > 1 else outputs[0]
        return y.reshape(-1, outputs[0].shape[1], *outputs[0].shape[2:])


class InterleavedUpsample(nn.Module):
    """A folded `Upsample`; see there for what its phases are."""

    def __init__(self, upsample: Upsample) -> None:
        super().__init__()
        assert upsample.folded
        self.conv = upsample.conv
        self.temporal = isinstance(upsample.conv, TemporalConv)

    def forward(self, x_FCHW: Tensor, frames: int = 1, emit: int | None = None) -> Tensor:
        height, width = x_FCHW.shape[2:]
        wide = self.conv(x_FCHW, frames, emit) if self.temporal else self.conv(x_FCHW)
        phases = [
            phase[:, :, index // 2 : index // 2 + height, index % 2 : index % 2 + width]
            for index, phase in enumerate(wide.chunk(4, 1))
        ]
        channels = phases[0].shape[1]
        y = torch.cat(phases, 1).reshape(-1, 2, 2, channels, height, width)
        return y.permute(0, 3, 4, 1, 5, 2).reshape(-1, channels, 2 * height, 2 * width)


class Fp32GroupNorm(nn.Module):
    def __init__(self, norm: GroupNorm) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(norm.num_groups, norm.num_channels, norm.eps)
        self.norm.load_state_dict({k: v.float() for k, v in norm.state_dict().items()})

    def forward(self, x_FCHW: Tensor) -> Tensor:
        normed: Tensor = self.norm(x_FCHW.float())
        return normed.to(x_FCHW.dtype)


class EncoderGraph(nn.Module):
    """uint8 pixels (B H W 3) -> ids (B N), int64; the codebook search is in fp32."""

    def __init__(self, model: VQModel, dtype: torch.dtype) -> None:
        super().__init__()
        self.model, self.dtype = model, dtype

    def forward(self, frames: Tensor) -> Tensor:
        x_BCHW = frames.float().div(127.5).sub(1.0).movedim(-1, -3)
        ids_BN: Tensor = self.model.encode(x_BCHW.to(self.dtype))
        return ids_BN


class VideoDecoderGraph(nn.Module):
    """Ids (B T N), int64 -> uint8 pixels (B H W 3) of frame `emit`."""

    def __init__(self, model: VideoDecoder, emit: int) -> None:
        super().__init__()
        self.model, self.emit = model, emit

    def forward(self, ids: Tensor) -> Tensor:
        x_BCHW: Tensor = self.model(ids, self.emit).float()
        scaled = x_BCHW.movedim(-3, -1).add(1.0).mul(127.5).round().clamp(0, 255)
        return scaled.to(torch.uint8)


def graph_module(
    form: Form, encoder: VQModel, video_decoder: VideoDecoder, precision: str
) -> nn.Module:
    """That form over copies of the models' weights. Raises InvalidInput (precision)."""
    if precision not in DTYPES:
        raise InvalidInput("precision", precision, ", ".join(DTYPES))
    dtype = DTYPES[precision]
    if form.part == ENCODER:
        vq = copy.deepcopy(encoder)
        del vq.decoder, vq.post_quant_conv
        _rewrite(vq, 1, dtype)
        return EncoderGraph(vq, dtype).eval().requires_grad_(False)
    video = copy.deepcopy(video_decoder)
    fold_upsampling(video)
    _rewrite(video, form.frames, dtype)
    return VideoDecoderGraph(video, form.emit).eval().requires_grad_(False)


def _rewrite(model: nn.Module, frames: int, dtype: torch.dtype) -> None:
    """Every module that has a form for graphs is replaced by it, in place."""
    model.to(dtype)
    for name, module in list(model.named_modules()):
        parent = model.get_submodule(name.rpartition(".")[0])
        key = name.rpartition(".")[2]
        if isinstance(module, Upsample):
            setattr(parent, key, InterleavedUpsample(module))
        elif isinstance(module, GroupNorm):
            setattr(parent, key, Fp32GroupNorm(module))
    for name, module in list(model.named_modules()):
        if isinstance(module, TemporalConv):
            parent = model.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], ChannelConcatConv(module, frames))


def example_input(form: Form, preset: Preset, batch: int) -> Tensor:
    """A tensor of that form's input shape, for tracing."""
    if form.part == ENCODER:
        return torch.zeros(batch, *preset.vq.frame.shape, dtype=torch.uint8)
    return torch.zeros(batch, form.frames, preset.vq.codes_per_frame, dtype=torch.int64)
