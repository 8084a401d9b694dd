"""Feature extractors of FID, CMMD and FVD, on the user's network files.

Legend: N images or clips, T frames, C channels, H height, W width, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from sim_stream.errors import InvalidInput
from sim_stream.models import checkpoints
from train.external import read_script, read_state
from train.metrics.inception import FidInception

Extractor = Callable[[Tensor], Tensor]
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
CLIP_SIZE, FVD_FRAMES = 336, 10


def inception(folder: Path | None, device: torch.device) -> Extractor:
    """Pixels (N 3 H W) in [-1, 1] -> pool3 features (N 2048)."""
    network = FidInception()
    state = read_state("inception", folder)
    # Counters of batches are in newer files and in none of the arithmetic.
    own = network.state_dict()
    counters = {k: v for k, v in own.items() if k.endswith("num_batches_tracked")}
    checkpoints.load_strict(network, {**counters, **state}, "inception")
    return network.requires_grad_(False).to(device).eval()


def clip(folder: Path | None, device: torch.device) -> Extractor:
    """Pixels (N 3 H W) in [-1, 1] -> normalised image embeddings (N 768)."""
    network = read_script("clip", folder).to(device).float()

    @torch.no_grad()
    def extract(x_NCHW: Tensor) -> Tensor:
        return F.normalize(network.encode_image(clip_pixels(x_NCHW)).float(), dim=-1)

    return extract


def clip_pixels(x_NCHW: Tensor) -> Tensor:
    """CLIP's preprocessing of square pixels in [-1, 1]: bicubic to 336, its normalisation."""
    x = F.interpolate(
        (x_NCHW + 1.0) / 2.0, (CLIP_SIZE, CLIP_SIZE), mode="bicubic", antialias=True
    ).clamp(0, 1)
    mean, std = (torch.tensor(v, device=x.device).view(3, 1, 1) for v in (CLIP_MEAN, CLIP_STD))
    return (x - mean) / std


def i3d(folder: Path | None, device: torch.device) -> Extractor:
    """Clips (N T 3 H W) in [-1, 1] -> I3D features (N 400); resized inside, as StyleGAN-V does."""
    network = read_script("i3d", folder).to(device)

    @torch.no_grad()
    def extract(x_NTCHW: Tensor) -> Tensor:
        check_clip(x_NTCHW)
        pixels = (x_NTCHW.clamp(-1, 1) + 1.0) * 127.5
        return network(pixels.transpose(1, 2), rescale=True, resize=True, return_features=True)

    return extract


def check_clip(x_NTCHW: Tensor) -> None:
    if x_NTCHW.shape[1] < FVD_FRAMES:
        raise InvalidInput("frames", x_NTCHW.shape[1], f"{FVD_FRAMES} or more for FVD")


EXTRACTORS: Mapping[str, Callable[[Path | None, torch.device], Extractor]] = {
    "FID": inception,
    "CMMD": clip,
    "FVD": i3d,
}
