"""Convolutional blocks of the VQGAN, over still frames (B C H W) and over clips (B C T H W).

One set of classes serves the 2D encoder and decoder and the inflated 3D decoder: a `Conv` with
``temporal=True`` has a 3x3x3 kernel, otherwise 3x3 applied to every frame. Frames of a clip lie in
the batch axis (x_NCHW, N = B * T), so normalisation is per frame by construction (facts/models.md
part 5) and no 5-D tensor exists outside the temporal convolution.

Legend: B batch, T frames, N = B * T, C channels, H height, W width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Conv(nn.Conv2d):
    """A 3x3 (or 1x1) convolution of still frames; `frames` is ignored."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__(c_in, c_out, kernel, stride, padding=kernel // 2 if stride == 1 else 0)

    def forward(self, x_NCHW: Tensor, frames: int = 1) -> Tensor:
        return super().forward(x_NCHW)


class TemporalConv(nn.Module):
    """A 3x3x3 convolution, zero padding 1 in time, written as 2D convolutions per temporal tap.

    weight: (C_out, C_in, 3, 3, 3), as in ``nn.Conv3d``; bias: (C_out,). `kernel` is that in space.
    """

    def __init__(self, c_in: int, c_out: int, kernel: int = 3) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(c_out, c_in, 3, kernel, kernel))
        self.bias = nn.Parameter(torch.empty(c_out))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)
        nn.init.zeros_(self.bias)

    def forward(self, x_NCHW: Tensor, frames: int, emit: int | None = None) -> Tensor:
        """Each output frame is one 2D convolution over its neighbours' concatenated channels.

        Only neighbours that exist enter: zero-padding taps cost nothing and change nothing. `emit`
        computes that frame of each clip alone.
        """
        x_BTCHW = x_NCHW.view(-1, frames, *x_NCHW.shape[1:])
        outputs = []
        for t in range(frames) if emit is None else (emit,):
            first, last = max(t - 1, 0), min(t + 1, frames - 1)
            window = x_BTCHW[:, first : last + 1].flatten(1, 2)
            taps = self.weight[:, :, first - t + 1 : last - t + 2]
            kernel = taps.transpose(1, 2).flatten(1, 2)
            outputs.append(F.conv2d(window, kernel, self.bias, padding=1))
        return torch.stack(outputs, 1).flatten(0, 1)


def conv3x3(c_in: int, c_out: int, *, temporal: bool) -> Conv | TemporalConv:
    return TemporalConv(c_in, c_out) if temporal else Conv(c_in, c_out)


class GroupNorm(nn.GroupNorm):
    """GroupNorm in fp32 whatever the autocast type (fp16 NaNs: facts/models.md part 1)."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        if x_NCHW.dtype == self.weight.dtype and not torch.is_autocast_enabled(x_NCHW.device.type):
            return super().forward(x_NCHW)
        with torch.autocast(x_NCHW.device.type, enabled=False):
            y = F.group_norm(
                x_NCHW.float(), self.num_groups, self.weight.float(), self.bias.float(), self.eps
            )
        return y.to(x_NCHW.dtype)


def silu(normed: Tensor) -> Tensor:
    """SiLU of a norm's output: in place where no gradient will need it."""
    return F.silu(normed, inplace=not torch.is_grad_enabled())


class ResnetBlock(nn.Module):
    """norm, SiLU, conv, norm, SiLU, conv, plus a (1x1) shortcut."""

    def __init__(
        self, c_in: int, c_out: int, *, groups: int, eps: float, temporal: bool = False
    ) -> None:
        super().__init__()
        self.norm1 = GroupNorm(groups, c_in, eps)
        self.conv1 = conv3x3(c_in, c_out, temporal=temporal)
        self.norm2 = GroupNorm(groups, c_out, eps)
        self.conv2 = conv3x3(c_out, c_out, temporal=temporal)
        self.conv_shortcut = Conv(c_in, c_out, kernel=1) if c_in != c_out else None

    def forward(self, x_NCHW: Tensor, frames: int = 1) -> Tensor:
        h = self.conv1(silu(self.norm1(x_NCHW)), frames)
        h = self.conv2(silu(self.norm2(h)), frames)
        return h + (x_NCHW if self.conv_shortcut is None else self.conv_shortcut(x_NCHW))


class Downsample(nn.Module):
    """Zero-pad right and bottom by 1, then 3x3 with stride 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv(channels, channels, stride=2)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return self.conv(F.pad(x_NCHW, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Nearest x2 in space (never in time), then a 3x3 convolution.

    After `fold`, for inference: the same map without the repeated pixels. An output pixel's 3x3
    window meets only 2x2 input pixels, so each of the four output phases is a 2x2 convolution whose
    taps are sums of the 3x3 kernel's: 4/9 of the multiplications.
    """

    def __init__(self, channels: int, *, temporal: bool = False) -> None:
        super().__init__()
        self.conv = conv3x3(channels, channels, temporal=temporal)
        self.folded = False

    def forward(self, x_NCHW: Tensor, frames: int = 1, emit: int | None = None) -> Tensor:
        """`emit` (temporal only) gives that frame of each clip alone."""
        temporal = (frames, emit) if isinstance(self.conv, TemporalConv) else (frames,)
        if not self.folded:
            return self.conv(F.interpolate(x_NCHW, scale_factor=2.0, mode="nearest"), *temporal)
        height, width = x_NCHW.shape[2:]
        # (H+1)(W+1) windows with zero padding 1; phase (a, b) takes those from (a, b) on.
        phases_NPCHW = self.conv(x_NCHW, *temporal).unflatten(1, (4, -1))
        n, _, channels = phases_NPCHW.shape[:3]
        y_NCHW = x_NCHW.new_empty(n, 2 * height, 2 * width, channels).permute(0, 3, 1, 2)
        for phase in range(4):
            a, b = divmod(phase, 2)
            y_NCHW[:, :, a::2, b::2] = phases_NPCHW[:, phase, :, a : a + height, b : b + width]
        return y_NCHW

    @torch.no_grad()
    def fold(self) -> None:
        """From here on for inference only. Idempotent."""
        if self.folded:
            return
        wide, c_in = self.conv.weight, self.conv.weight.shape[1]
        c_out = len(self.conv.bias) if self.conv.bias is not None else len(wide)
        phases = [fold_taps(wide, a, b) for a in (0, 1) for b in (0, 1)]
        kind = TemporalConv if isinstance(self.conv, TemporalConv) else Conv
        folded = kind(c_in, 4 * c_out, kernel=2).to(wide)
        folded.weight.copy_(torch.cat(phases))
        assert self.conv.bias is not None and folded.bias is not None
        folded.bias.copy_(self.conv.bias.repeat(4))
        self.conv, self.folded = folded, True


def fold_taps(weight: Tensor, a: int, b: int) -> Tensor:
    """(.. 3 3) taps over doubled pixels -> (.. 2 2) taps over the pixels, of output phase (a, b).

    Rows 2i-1, 2i, 2i+1 of the doubled image are rows i-1, i, i (a = 0); 2i .. 2i+2 are i, i, i+1.
    """

    def fold(w: Tensor, phase: int) -> Tensor:
        first, middle, last = w.unbind(-1)
        pair = (first, middle + last) if phase == 0 else (first + middle, last)
        return torch.stack(pair, -1)

    rows = fold(weight.transpose(-1, -2), a).transpose(-1, -2)
    return fold(rows, b)


class MidBlock(nn.Module):
    """Two residual blocks at the latent's resolution; no attention."""

    def __init__(self, channels: int, *, groups: int, eps: float, temporal: bool = False) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(
            ResnetBlock(channels, channels, groups=groups, eps=eps, temporal=temporal)
            for _ in range(2)
        )

    def forward(self, x_NCHW: Tensor, frames: int = 1) -> Tensor:
        for block in self.resnets:
            x_NCHW = block(x_NCHW, frames)
        return x_NCHW


@torch.no_grad()
def channels_last(module: nn.Module) -> None:
    """Lays all kernels out with channels innermost: same values and shapes, faster convolutions.

    A temporal kernel gets (taps, C_in) innermost, so that its 2D form is a view of it.
    """
    for weight in module.parameters():
        if weight.ndim == 4:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)
        elif weight.ndim == 5:
            weight.data = weight.data.permute(0, 3, 4, 2, 1).contiguous().permute(0, 4, 3, 1, 2)


def fold_upsampling(module: nn.Module) -> None:
    """Folds every `Upsample`; the module is for inference from here on."""
    for child in module.modules():
        if isinstance(child, Upsample):
            child.fold()
