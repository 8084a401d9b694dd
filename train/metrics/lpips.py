"""LPIPS (Zhang et al., v0.1) on the user's AlexNet or VGG16; its linear layers lie in torchmetrics.

The `lpips` package and torchmetrics' class import torchvision, which cannot stand beside CPU
PyTorch; the arithmetic here is theirs.

Legend: N images.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from sim_stream.errors import Unavailable
from train.convnets import ALEXNET_TAPS, VGG16_TAPS, Taps, alexnet, vgg16
from train.external import read_state

# LPIPS' own scaling of pixels in [-1, 1].
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
NETWORKS = {"alex": ("alexnet", ALEXNET_TAPS), "vgg": ("vgg16", VGG16_TAPS)}


def linear_weights(network: str) -> list[Tensor]:
    """The weights (C,) of each layer's 1x1 convolution, v0.1."""
    spec = find_spec("torchmetrics")
    if spec is None or spec.origin is None:
        raise Unavailable("LPIPS needs torchmetrics: pip install 'sim-stream[train]'")
    folder = Path(spec.origin).parent / "functional" / "image" / "lpips_models"
    state = torch.load(folder / f"{network}.pth", map_location="cpu", weights_only=True)
    return [state[f"lin{i}.model.1.weight"].flatten() for i in range(5)]


class Lpips(nn.Module):
    """Pixels (N 3 H W) in [-1, 1], twice -> distances (N,)."""

    def __init__(self, network: Taps, weights: list[Tensor]) -> None:
        super().__init__()
        self.network = network
        self.weights = weights

    @classmethod
    def load(cls, network: str, folder: Path | None) -> Lpips:
        key, taps = NETWORKS[network]
        build = alexnet if key == "alexnet" else vgg16
        return cls(build(taps).load(read_state(key, folder), key), linear_weights(network))

    @torch.no_grad()
    def forward(self, y_NCHW: Tensor, x_NCHW: Tensor) -> Tensor:
        shift, scale = (torch.tensor(v, device=x_NCHW.device).view(3, 1, 1) for v in (SHIFT, SCALE))
        pairs = zip(
            self.network((y_NCHW - shift) / scale),
            self.network((x_NCHW - shift) / scale),
            self.weights,
            strict=True,
        )
        total = torch.zeros(len(x_NCHW), device=x_NCHW.device)
        for a, b, weight in pairs:
            difference = (unit(a) - unit(b)).square()
            total += (difference * weight.to(a.device).view(-1, 1, 1)).sum(1).mean((1, 2))
        return total


def unit(x_NCHW: Tensor, eps: float = 1e-10) -> Tensor:
    """Each place's channel vector divided by its length."""
    return x_NCHW / (x_NCHW.square().sum(1, keepdim=True).sqrt() + eps)
