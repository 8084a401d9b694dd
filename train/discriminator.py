"""Patch discriminators over images and over clips of three frames, and the hinge losses (eq. 6-7).

The paper adapts Esser et al.'s: five instead of three convolutions of stride 2 and two 3x3 ones of
stride 1 give 8 x 8 patches at 256 pixels, each seeing 222 pixels (facts/models.md part 6). Over
clips every kernel is (3, k, k) with temporal stride and padding 1: 3 x 8 x 8 scores.

Legend: N images, T frames, C channels, H height, W width.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from train.config import DiscriminatorConfig
from train.loop import Player

MAX_WIDTH = 8  # times the first layer's


class PatchDiscriminator(nn.Module):
    """Pixels (N 3 H W) -> patch scores (N 1 h w); temporal: (N 3 T H W) -> (N 1 T h w)."""

    def __init__(self, config: DiscriminatorConfig, *, temporal: bool = False) -> None:
        super().__init__()
        self.config, self.temporal = config, temporal

        def conv(c_in: int, c_out: int, kernel: int, stride: int, *, bias: bool) -> nn.Module:
            if not temporal:
                return nn.Conv2d(c_in, c_out, kernel, stride, 1, bias=bias)
            size, step = (3, kernel, kernel), (1, stride, stride)
            return nn.Conv3d(c_in, c_out, size, step, 1, bias=bias)

        def block(c_in: int, c_out: int, kernel: int, stride: int) -> list[nn.Module]:
            norm = nn.GroupNorm(min(config.norm_groups, c_out), c_out)
            return [conv(c_in, c_out, kernel, stride, bias=False), norm, nn.LeakyReLU(0.2)]

        widths = [config.width * min(1 << i, MAX_WIDTH) for i in range(config.downs + 1)]
        layers = [conv(3, widths[0], 4, 2, bias=True), nn.LeakyReLU(0.2)]
        for c_in, c_out in pairwise(widths[:-1]):
            layers += block(c_in, c_out, 4, 2)
        layers += block(widths[-2], widths[-1], config.tail_kernel, 1)
        layers.append(conv(widths[-1], 1, config.tail_kernel, 1, bias=True))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def generator_loss(fake: Tensor) -> Tensor:
    """Eq. 6: -D of generated images, the mean over patches."""
    return -fake.mean()


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Eq. 7, hinge: real patches above 1, generated ones below -1."""
    return 0.5 * (F.relu(1.0 - real).mean() + F.relu(1.0 + fake).mean())


def balanced_weight(rec: Tensor, gan: Tensor, last: Tensor, share: float) -> Tensor:
    """The factor at which the GAN's gradient at `last` is `share` of the reconstruction's."""
    (g_rec,) = torch.autograd.grad(rec, last, retain_graph=True)
    (g_gan,) = torch.autograd.grad(gan, last, retain_graph=True)
    return (share * g_rec.norm() / (g_gan.norm() + 1e-6)).clamp(max=1e3).detach()


class Adversary:
    """The discriminator's side of a stage: when it plays, what it last saw, its optimiser."""

    def __init__(self, config: DiscriminatorConfig, weight: float, *, temporal: bool) -> None:
        self.config, self.weight = config, weight
        self.model = PatchDiscriminator(config, temporal=temporal)
        self.progress = 0.0
        self._seen: tuple[Tensor, Tensor] | None = None

    @property
    def players(self) -> dict[str, Player]:
        """For a stage: one, "d", with its own optimiser where it has a rate of its own."""
        optimizer = None
        if self.config.lr is not None:
            parameters = self.model.parameters()
            optimizer = torch.optim.AdamW(parameters, self.config.lr, self.config.betas)
        return {"d": Player(self.model, optimizer)}

    def generator_term(
        self, x: Tensor, y: Tensor, rec: Tensor, last: Tensor, figures: dict[str, object]
    ) -> Tensor | None:
        """The weighted eq. 6 of reconstructions `y` of `x`; None before its start."""
        if self.progress >= self.config.discriminator_from:
            self._seen = (x.detach(), y.detach())
        if self.progress < self.config.generator_from:
            return None
        self.model.requires_grad_(False)
        loss = generator_loss(self.model(y).float())
        self.model.requires_grad_(True)
        weight: Tensor | float = self.weight
        if self.config.balance:
            weight = balanced_weight(rec, loss, last, self.config.balance)
        figures |= {"g_loss": loss.detach(), "g_weight": weight}
        return weight * loss

    def loss(self, net: nn.Module) -> Tensor | None:
        """Eq. 7 on what `generator_term` saw; None before its start."""
        if self._seen is None:
            return None
        (real, fake), self._seen = self._seen, None
        scores = net(torch.cat([real, fake]))
        return discriminator_loss(*scores.float().chunk(2))
