"""VQGAN: image tokenizer (ENC + VQ) and image decoder (DEC), OpenViCA Sec. III-A and Fig. 3.

State-dict keys and arithmetic are those of diffusers' ``VQModel`` (facts/models.md part 1), so its
files load unchanged. Pixels outside encoder and decoder are in [-1, 1]; ``pixel_range`` is what the
weights were trained in, a property of the checkpoint. Knows no losses but the codebook's (eq. 4).

Legend: B batch, C channels, H height, W width, D latent channels, N ids of
a frame, R x S its latent grid: rows and columns, N = R * S.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sim_stream.config import VQConfig
from sim_stream.models.layers import (
    Conv,
    Downsample,
    GroupNorm,
    MidBlock,
    ResnetBlock,
    Upsample,
    conv3x3,
    silu,
)

# What a network's own pixels are: LWM's and ours in [-1, 1], aMUSEd's in [0, 1].
PIXEL_RANGES = ("signed", "unit")


class DownBlock(nn.Module):
    def __init__(self, c_in: int, c_out: int, config: VQConfig, *, last: bool) -> None:
        super().__init__()
        groups, eps = config.norm_num_groups, config.norm_eps
        self.resnets = nn.ModuleList(
            ResnetBlock(c_in if i == 0 else c_out, c_out, groups=groups, eps=eps)
            for i in range(config.layers_per_block)
        )
        self.downsamplers = nn.ModuleList([] if last else [Downsample(c_out)])

    def forward(self, x_NCHW: Tensor) -> Tensor:
        for block in (*self.resnets, *self.downsamplers):
            x_NCHW = block(x_NCHW)
        return x_NCHW


class UpBlock(nn.Module):
    def __init__(
        self, c_in: int, c_out: int, config: VQConfig, *, last: bool, temporal: bool
    ) -> None:
        super().__init__()
        groups, eps = config.norm_num_groups, config.norm_eps
        self.resnets = nn.ModuleList(
            ResnetBlock(c_in if i == 0 else c_out, c_out, groups=groups, eps=eps, temporal=temporal)
            for i in range(config.layers_per_block + 1)
        )
        self.upsamplers = nn.ModuleList([] if last else [Upsample(c_out, temporal=temporal)])

    def forward(self, x_NCHW: Tensor, frames: int = 1, emit: int | None = None) -> Tensor:
        """`emit`: the upsampler is the last to mix frames and gives that one alone."""
        for block in self.resnets:
            x_NCHW = block(x_NCHW, frames)
        for upsample in self.upsamplers:
            x_NCHW = upsample(x_NCHW, frames, emit)
        return x_NCHW


class Encoder(nn.Module):
    """Pixels (B 3 H W) in [-1, 1] -> features (B D R S)."""

    def __init__(self, config: VQConfig) -> None:
        super().__init__()
        channels = config.block_out_channels
        groups, eps = config.norm_num_groups, config.norm_eps
        self.pixel_range = "signed"
        self.conv_in = Conv(3, channels[0])
        self.down_blocks = nn.ModuleList(
            DownBlock(channels[max(i - 1, 0)], c, config, last=i == len(channels) - 1)
            for i, c in enumerate(channels)
        )
        self.mid_block = MidBlock(channels[-1], groups=groups, eps=eps)
        self.conv_norm_out = GroupNorm(groups, channels[-1], eps)
        self.conv_out = Conv(channels[-1], config.latent_channels)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        h = self.conv_in(to_range(x_BCHW, self.pixel_range))
        for block in self.down_blocks:
            h = block(h)
        h = self.mid_block(h)
        return self.conv_out(silu(self.conv_norm_out(h)))


class Decoder(nn.Module):
    """Features (N D R S) -> pixels (N 3 H W); with ``temporal_levels`` > 0 the inflated decoder.

    Frames of one clip lie next to each other in N. Once the temporal levels are passed, frames no
    longer mix, and `forward` may go on with a chosen one of them (`emit`).
    """

    def __init__(self, config: VQConfig, temporal_levels: int = 0) -> None:
        super().__init__()
        channels = tuple(reversed(config.block_out_channels))
        groups, eps = config.norm_num_groups, config.norm_eps
        self.temporal_levels, self.pixel_range = temporal_levels, "signed"
        temporal = [i < temporal_levels for i in range(len(channels))]
        self.conv_in = conv3x3(config.latent_channels, channels[0], temporal=temporal[0])
        self.mid_block = MidBlock(channels[0], groups=groups, eps=eps, temporal=temporal[0])
        self.up_blocks = nn.ModuleList(
            UpBlock(
                channels[max(i - 1, 0)],
                c,
                config,
                last=i == len(channels) - 1,
                temporal=temporal[i],
            )
            for i, c in enumerate(channels)
        )
        self.conv_norm_out = GroupNorm(groups, channels[-1], eps)
        self.conv_out = conv3x3(channels[-1], 3, temporal=temporal[-1])

    def forward(self, h_NCHW: Tensor, frames: int = 1, emit: int | None = None) -> Tensor:
        """`emit`: index of the one frame of each clip to give out; None gives all of them."""
        h = self.mid_block(self.conv_in(h_NCHW, frames), frames)
        for level, block in enumerate(self.up_blocks):
            if emit is None or level != self.temporal_levels - 1 or not block.upsamplers:
                h = block(h, frames)
            else:
                h, frames, emit = block(h, frames, emit), 1, None
        h = silu(self.conv_norm_out(h))
        # Frames still mix here only where every level is temporal.
        x = self.conv_out(h, frames) if emit is None else self.conv_out(h, frames, emit)
        return from_range(x, self.pixel_range)


class Quantizer(nn.Module):
    """Codebook with plain L2 nearest-neighbour look-up (no normalisation)."""

    def __init__(self, num_codes: int, dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_codes, dim)
        nn.init.uniform_(self.embedding.weight, -1.0 / num_codes, 1.0 / num_codes)

    def nearest(self, z_ND: Tensor) -> Tensor:
        """Index of the nearest code vector of every row, int64 (N,), computed in fp32."""
        codes = self.embedding.weight.float()
        z = z_ND.float()
        # |z - c|^2 without the |z|^2 that is equal for all codes.
        return (codes.square().sum(1) - 2.0 * z @ codes.T).argmin(1)


class VQOutput(NamedTuple):
    x_BCHW: Tensor  # reconstruction
    codebook_loss: Tensor  # eq. 4
    ids_BN: Tensor


class VQModel(nn.Module):
    """`encode`: pixels -> ids; `decode`: ids -> pixels; `forward`: straight-through training."""

    def __init__(self, config: VQConfig) -> None:
        super().__init__()
        d = config.latent_channels
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quantize = Quantizer(config.num_vq_embeddings, d)
        self.quant_conv = Conv(d, d, kernel=1)
        self.post_quant_conv = Conv(d, d, kernel=1)

    @property
    def pixel_range(self) -> str:
        """What the weights take and give; outside it is always [-1, 1]."""
        return self.encoder.pixel_range

    @pixel_range.setter
    def pixel_range(self, name: str) -> None:
        self.encoder.pixel_range = self.decoder.pixel_range = name

    def latents(self, x_BCHW: Tensor) -> Tensor:
        """Continuous latents (B D R S) before quantisation."""
        return self.quant_conv(self.encoder(x_BCHW))

    def ids_of(self, z_BDRS: Tensor) -> Tensor:
        """Row-major ids (B N) of latents."""
        flat = z_BDRS.permute(0, 2, 3, 1).flatten(0, 2)
        return self.quantize.nearest(flat).view(z_BDRS.shape[0], -1)

    def lookup(self, ids_BN: Tensor) -> Tensor:
        """Code vectors of ids as a feature map (B D R S)."""
        return look_up(self.quantize, ids_BN, self.config.grid)

    def encode(self, x_BCHW: Tensor) -> Tensor:
        """Pixels (B 3 H W) in [-1, 1] -> ids (B N), int64."""
        return self.ids_of(self.latents(x_BCHW))

    def decode(self, ids_BN: Tensor) -> Tensor:
        """Ids (B N) -> pixels (B 3 H W), about [-1, 1], not clamped."""
        return self.decoder(self.post_quant_conv(self.lookup(ids_BN)))

    def forward(self, x_BCHW: Tensor, beta: float = 0.25) -> VQOutput:
        """Straight-through reconstruction with eq. 4: |sg(z) - q|^2 + beta |z - sg(q)|^2."""
        z = self.latents(x_BCHW).float()
        ids = self.ids_of(z.detach())
        q = self.lookup(ids)
        loss = F.mse_loss(q, z.detach()) + beta * F.mse_loss(z, q.detach())
        straight_through = z + (q - z).detach()
        return VQOutput(self.decoder(self.post_quant_conv(straight_through)), loss, ids)


def look_up(codebook: Quantizer, ids_BN: Tensor, grid: tuple[int, int]) -> Tensor:
    """Code vectors of row-major ids (B N) as a feature map (B D R S)."""
    q = codebook.embedding(ids_BN).unflatten(1, grid)
    return q.permute(0, 3, 1, 2).contiguous()


def to_range(x: Tensor, pixel_range: str) -> Tensor:
    """[-1, 1] -> a network's own range."""
    return x if pixel_range == "signed" else x * 0.5 + 0.5


def from_range(x: Tensor, pixel_range: str) -> Tensor:
    """A network's own range -> [-1, 1]."""
    return x if pixel_range == "signed" else x * 2.0 - 1.0


def to_pixels(x_CHW: Tensor) -> Tensor:
    """[-1, 1] floats (.. C H W) -> uint8 (.. H W C)."""
    scaled = x_CHW.float().add(1.0).mul(127.5).round().clamp(0, 255)
    return scaled.to(torch.uint8).movedim(-3, -1).contiguous()


def from_pixels(frames_HWC: Tensor) -> Tensor:
    """uint8 (.. H W C) -> fp32 in [-1, 1], (.. C H W)."""
    return frames_HWC.movedim(-1, -3).float().div(127.5).sub(1.0)
