"""VGG16 and AlexNet feature layers as torchvision lays them out, so that its files load.

torchvision itself is not used: beside CPU PyTorch it cannot be imported. Classifier layers are left
out.

Legend: B batch, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sim_stream.models import checkpoints

# ImageNet's mean and deviation on [0, 1], for pixels in [-1, 1].
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
VGG16_WIDTHS = ((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3)
# Activations after these layers: relu1_2, relu2_2, relu3_3, relu4_3 (Johnson et al.), relu5_3.
VGG16_TAPS = (3, 8, 15, 22, 29)
ALEXNET_TAPS = (1, 4, 7, 9, 11)


def normalise(x_BCHW: Tensor) -> Tensor:
    """Pixels in [-1, 1] -> ImageNet's normalisation."""
    mean, std = (torch.tensor(v, device=x_BCHW.device).view(3, 1, 1) for v in (MEAN, STD))
    return ((x_BCHW + 1.0) / 2.0 - mean) / std


class Taps(nn.Module):
    """A sequence of layers whose activations after some of them are given out. Frozen."""

    def __init__(self, layers: list[nn.Module], taps: tuple[int, ...]) -> None:
        super().__init__()
        self.features = nn.Sequential(*layers[: max(taps) + 1])
        self.taps = taps
        self.eval().requires_grad_(False)

    def load(self, state: Mapping[str, Tensor], name: str) -> Taps:
        """Takes the feature layers of torchvision's state."""
        own = self.state_dict()
        checkpoints.load_strict(self, {k: v for k, v in state.items() if k in own}, name)
        return self.requires_grad_(False)

    def forward(self, x_BCHW: Tensor) -> list[Tensor]:
        """Activations for pixels already normalised."""
        found = []
        for index, layer in enumerate(self.features):
            x_BCHW = layer(x_BCHW)
            if index in self.taps:
                found.append(x_BCHW)
        return found


def vgg16(taps: tuple[int, ...] = VGG16_TAPS[:4]) -> Taps:
    layers: list[nn.Module] = []
    c_in = 3
    for stage in VGG16_WIDTHS:
        for c_out in stage:
            layers += [nn.Conv2d(c_in, c_out, 3, padding=1), nn.ReLU()]
            c_in = c_out
        layers.append(nn.MaxPool2d(2))
    return Taps(layers, taps)


def alexnet(taps: tuple[int, ...] = ALEXNET_TAPS) -> Taps:
    return Taps(
        [
            nn.Conv2d(3, 64, 11, 4, 2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(64, 192, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(192, 384, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(),
        ],
        taps,
    )


class Perceptual(nn.Module):
    """VGG16's activations of pixels in [-1, 1], for eq. 3."""

    def __init__(self, network: Taps) -> None:
        super().__init__()
        self.network = network

    def forward(self, x_BCHW: Tensor) -> list[Tensor]:
        return self.network(normalise(x_BCHW))
