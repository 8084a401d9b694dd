"""A patch discriminator and the hinge losses (OpenViCA eq. 6-7), over still frames.

First version, sized for the pocket decoder; the paper's 64-patch and 3D discriminators belong to
the full training. The generator's weight is set from gradients at the decoder's last layer, as in
taming-transformers: a small share of the reconstruction's own pull, whatever the losses' scales.

Legend: N frames, C channels, H height, W width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PatchDiscriminator(nn.Module):
    """Pixels (N 3 H W) -> a score for every patch (N 1 H/8 W/8)."""

    def __init__(self, width: int = 32, groups: int = 8) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        for c in (width, 2 * width):
            layers += [nn.Conv2d(c, 2 * c, 4, 2, 1), nn.GroupNorm(groups, 2 * c)]
            layers += [nn.LeakyReLU(0.2)]
        layers.append(nn.Conv2d(4 * width, 1, 3, 1, 1))
        self.layers = nn.Sequential(*layers)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return self.layers(x_NCHW)


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Hinge: real patches above 1, fake ones below -1."""
    return F.relu(1.0 - real).mean() + F.relu(1.0 + fake).mean()


def generator_loss(fake: Tensor) -> Tensor:
    return -fake.mean()


def balanced_weight(rec: Tensor, gan: Tensor, last: Tensor, share: float) -> Tensor:
    """The factor at which the GAN's gradient at `last` is `share` of the reconstruction's."""
    (g_rec,) = torch.autograd.grad(rec, last, retain_graph=True)
    (g_gan,) = torch.autograd.grad(gan, last, retain_graph=True)
    return (share * g_rec.norm() / (g_gan.norm() + 1e-6)).clamp(max=1e3).detach()
