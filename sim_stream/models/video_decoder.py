"""VDEC: the image decoder inflated to three frames (OpenViCA Sec. III-A c; MAGVIT).

Central inflation puts every 3x3 kernel into the middle temporal tap of a 3x3x3 one, so a freshly
inflated decoder gives the 2D decoder's frames. GroupNorm stays per frame (facts/models.md part 5).
The look-up table is part of it: ids in, pixels out. Knows nothing about windows over a stream.

Legend: B batch, T frames, N ids of a frame, C channels, H height, W width, D latent channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sim_stream.config import VideoDecoderConfig, VQConfig
from sim_stream.errors import InvalidInput
from sim_stream.models.layers import Conv
from sim_stream.models.vq_model import Decoder, Quantizer, VQModel, look_up


class VideoDecoder(nn.Module):
    """Ids of T frames -> pixels of T frames, or of one of them."""

    def __init__(self, vq: VQConfig, config: VideoDecoderConfig) -> None:
        super().__init__()
        d, levels = vq.latent_channels, len(vq.block_out_channels)
        if config.temporal_levels > levels:
            raise InvalidInput("temporal_levels", config.temporal_levels, f"1..{levels}")
        self.config, self.grid = config, vq.grid
        self.quantize = Quantizer(vq.num_vq_embeddings, d)
        self.post_quant_conv = Conv(d, d, kernel=1)
        self.decoder = Decoder(vq, config.temporal_levels)

    def forward(self, ids_BTN: Tensor, emit: int | None = None) -> Tensor:
        """Pixels (B T 3 H W) about [-1, 1]; `emit` gives that one frame only, (B 3 H W).

        A missing neighbour is a shorter clip: the frame beyond it is zero padding.
        """
        frames = ids_BTN.shape[1]
        q = look_up(self.quantize, ids_BTN.flatten(0, 1), self.grid)
        x = self.decoder(self.post_quant_conv(q), frames, emit)
        return x.unflatten(0, (-1, frames)) if emit is None else x

    @property
    def pixel_range(self) -> str:
        """What the weights give, as in VQModel."""
        return self.decoder.pixel_range

    @pixel_range.setter
    def pixel_range(self, name: str) -> None:
        self.decoder.pixel_range = name


@torch.no_grad()
def inflate(vq: VQModel, config: VideoDecoderConfig) -> VideoDecoder:
    """A video decoder that equals the image decoder of `vq` frame by frame."""
    video = VideoDecoder(vq.config, config).to(vq.quantize.embedding.weight.device)
    video.pixel_range = vq.pixel_range
    source = vq.state_dict()
    state = {}
    for key, target in video.state_dict().items():
        value = source[key]
        if target.ndim == value.ndim + 1:
            inflated = torch.zeros_like(target)
            inflated[:, :, target.shape[2] // 2] = value
            value = inflated
        state[key] = value
    video.load_state_dict(state)
    return video
